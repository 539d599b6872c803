"""Serving the simulated gateware: it fetches from the segment's windows and completes there by itself.

The server is the owner of page 0. It gives each slot its window, passes doorbells on, lets simulated time pass while
anything is undecided, and wakes clients whose completions have come. Slots that have transactions in flight use the
gateware's slot pages instead: the server does for them what it does with any device.
"""

from __future__ import annotations

import time
from typing import Any

from bloomgate.device import Device
from bloomgate.errors import DeviceTimeout
from bloomgate.registers import (
    CONTROL_PAGE,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    slot_page_offset,
)
from bloomgate.serve import SLICE_SECONDS, Server
from bloomgate.shm.commands import Command
from bloomgate.shm.layout import SLOT_CONTROL

__all__ = ["GatewareServer"]

#: Bus address of the first window.
WINDOWS_BASE = 0x1000_0000
#: Clocks that pass between two looks at the completions.
STEP_CLOCKS = 64
#: Seconds in which the gateware must decide whatever is in one slot's ring.
DRAIN_SECONDS = 60.0

_CONTROL = QUEUE_RECORD.register("QUEUE_CONTROL")
_DRAINING = QUEUE_RECORD.register("QUEUE_STATUS")["DRAINING"].mask


class GatewareServer(Server):
    """A server whose device is the gateware, with a ``bus`` that has a simulated memory."""

    def __init__(self, device: Device, name: str) -> None:
        self._bus: Any = device.bus  # type: ignore[attr-defined]
        super().__init__(device, name)
        layout = self.segment.layout
        slots = self.device.parameters.slots
        windows = memoryview(self.segment.map)[layout.windows : layout.windows + slots * layout.window_bytes]
        self._bus.memory.attach(windows, WINDOWS_BASE)
        #: The doorbells that each slot page was told last.
        self._told = [(0, 0)] * slots
        self._words = self._module.ffi.new("uint32_t[9]")
        self._busy = False
        # The server does for these what it does for a device without queues. Owners that an earlier server had are
        # among them until they end: the gateware begins with index 0, and they do not.
        self._by_hand = {slot for slot in range(slots) if self._status(slot) & 1}

    def close(self, unlink: bool = True) -> None:
        if self.segment.file >= 0:
            self._bus.memory.detach(WINDOWS_BASE)
        super().close(unlink)

    def _step(self) -> None:
        patience = 0 if self._busy else int(SLICE_SECONDS * 1e9)
        found = self._module.lib.bg_serve_take(self._handle, patience, self._words)
        if found < -1:
            self._obey(-2 - found)
        self._busy = self._advance() > 0

    def _advance(self) -> int:
        """Pass on what has been rung, and let some clocks pass; how many requests are undecided then."""
        lib = self._module.lib
        undecided = 0
        for slot in range(self.device.parameters.slots):
            if slot in self._by_hand:
                super()._drain(slot)
                continue
            submitted = lib.bg_serve_doorbells(self._handle, slot, self._words)
            undecided += submitted
            doorbells = (self._words[0], self._words[1])
            if doorbells != self._told[slot]:
                self._told[slot] = doorbells
                page = slot_page_offset(slot) + SLOT_PAGE.register("COMPLETION_HEAD").offset
                if submitted:
                    self.slots.warn()
                self._bus.write(page, list(doorbells))
        if undecided:
            self._bus.step(STEP_CLOCKS)
            for slot in range(self.device.parameters.slots):
                lib.bg_serve_collect(self._handle, slot)
            self.slots.tell(certain=self._undecided() == 0)
        return undecided

    def _undecided(self) -> int:
        """How many requests the gateware has been told of and has not completed, or more."""
        slots = set(range(self.device.parameters.slots)) - self._by_hand
        return sum(self._module.lib.bg_serve_doorbells(self._handle, slot, self._words) for slot in slots)

    def _obey_in_flight(self, slot: int, kind: int, first: int, second: int) -> int:
        if kind == Command.OPERATE and slot not in self._by_hand:
            self._drain(slot)
            self._control(slot, 0, enable=False)
            self._by_hand.add(slot)
        return super()._obey_in_flight(slot, kind, first, second)

    def _enable(self, slot: int, generation: int) -> None:
        self._control(slot, 0, enable=False)
        # Between the two: it clears the completion ring.
        super()._enable(slot, generation)
        self._by_hand.discard(slot)
        self._told[slot] = (generation << 16, generation << 16)
        self._control(slot, generation, enable=True)

    def _status(self, slot: int) -> int:
        return self.segment.read(SLOT_CONTROL["status"], base=self.segment.layout.slot_control(slot))

    def _control(self, slot: int, generation: int, *, enable: bool) -> None:
        """Write QUEUE_CONTROL, with the window if the queue is enabled, and wait until it has come into effect."""
        record = CONTROL_PAGE.window("QUEUE_RECORDS").offset + slot * QUEUE_RECORD_BYTES
        if enable:
            window = self.segment.layout.window_bytes
            self._bus.write(record, [WINDOWS_BASE + slot * window, window])
        word = _CONTROL["ENABLE"].insert(int(enable)) | _CONTROL["GENERATION"].insert(generation)
        self._bus.write(record + _CONTROL.offset, [word])
        status = record + QUEUE_RECORD.register("QUEUE_STATUS").offset
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._bus.read(status, 1)[0] & _DRAINING:
            self._bus.step(STEP_CLOCKS)
            if time.monotonic() > deadline:
                raise DeviceTimeout(f"slot {slot} of the gateware does not finish what it has fetched")

    def _drain(self, slot: int) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            self._advance()
            if self._module.lib.bg_serve_doorbells(self._handle, slot, self._words) == 0:
                return
            if time.monotonic() > deadline:
                raise DeviceTimeout(f"the gateware does not decide what slot {slot} has submitted")

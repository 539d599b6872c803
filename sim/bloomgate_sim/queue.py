"""The queue pairs of ``sim:``: memory of this process at the simulated gateware's master port."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

from bloomgate.errors import DeviceTimeout
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import (
    COMPLETION,
    ENTRY_BYTES,
    INDEX_BITS,
    SEQUENCE,
    SUBMISSION,
    announced_log_offset,
    completion_ring_offset,
    sequence_of,
    submission_ring_offset,
)
from bloomgate.queue_pair import window_bytes
from bloomgate.queue_port import QueuePort
from bloomgate.registers import (
    CONTROL_PAGE,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    WORD_BYTES,
    slot_page_offset,
)

if TYPE_CHECKING:
    from bloomgate_sim.device import SimulatedBus

__all__ = ["SimulatedQueue"]

#: Bus address of the first window.
WINDOWS_BASE = 0x4000_0000
#: Clocks that pass between two looks at a completion.
STEP_CLOCKS = 64
#: Seconds after which gateware that does not decide, or does not come to rest, is reported.
PATIENCE = 60.0

_INDICES = 1 << INDEX_BITS
_GENERATION = QUEUE_RECORD.register("QUEUE_STATUS")["GENERATION"]
_ENABLED = QUEUE_RECORD.register("QUEUE_STATUS")["ENABLED"].mask
_DRAINING = QUEUE_RECORD.register("QUEUE_STATUS")["DRAINING"].mask


class SimulatedQueue(QueuePort):
    """The queue of one slot, given by the owner of page 0 to itself. Simulated time passes while it is waited for."""

    def __init__(self, bus: SimulatedBus, parameters: Parameters, slot: int) -> None:
        size = window_bytes(parameters)
        self._memory = mmap.mmap(-1, size)
        super().__init__(parameters, memoryview(self._memory))
        self._bus = bus
        self._page = slot_page_offset(slot) + SLOT_PAGE.register("COMPLETION_HEAD").offset
        self._tail = slot_page_offset(slot) + SLOT_PAGE.register("ANNOUNCED_TAIL").offset
        self._record = CONTROL_PAGE.window("QUEUE_RECORDS").offset + slot * QUEUE_RECORD_BYTES
        self._base = WINDOWS_BASE + slot * size
        #: Indices of the next submission and of the oldest that is not released; which are.
        self._next = self._oldest = 0
        self._released: set[int] = set()
        self._control(0, enable=False)
        (status,) = bus.read(self._offset("QUEUE_STATUS"), 1)
        self._owner = _GENERATION.extract(status) % (_INDICES - 1) + 1
        bus.memory.attach(self._memory, self._base)
        bus.write(self._offset("WINDOW_BASE"), [self._base, size])
        self._control(self._owner, enable=True)

    def next_index(self) -> Optional[int]:
        return self._next if (self._next - self._oldest) % _INDICES < self.parameters.queue_entries else None

    def submit(self, words: Sequence[int]) -> None:
        self.require_open()
        place = self._next % self.parameters.queue_entries * ENTRY_BYTES
        struct.pack_into(f"<{len(SUBMISSION)}I", self.window, submission_ring_offset() + place, *words)
        self._next = (self._next + 1) % _INDICES
        # SUBMISSION_TAIL is the register behind COMPLETION_HEAD.
        owner = SEQUENCE["GENERATION"].insert(self._owner)
        self._bus.write(self._page, [owner | self._oldest, owner | self._next])

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        self.require_open()
        place = completion_ring_offset(self.parameters) + index % self.parameters.queue_entries * ENTRY_BYTES
        sequence = sequence_of(self._owner, index)
        deadline = time.monotonic() + seconds
        while True:
            words = struct.unpack_from(f"<{2 * len(COMPLETION)}I", self.window, place)
            if all(word == sequence for word in words[1::2]):
                return words[::2]
            # Also for who only looks: no time passes else.
            self._bus.step(STEP_CLOCKS)
            if time.monotonic() >= deadline:
                return None

    def release(self, index: int) -> None:
        self._released.add(index)
        while self._oldest in self._released:
            self._released.remove(self._oldest)
            self._oldest = (self._oldest + 1) % _INDICES

    def waited(self, seconds: float) -> None:
        if seconds >= PATIENCE:
            raise DeviceTimeout(f"the simulated device has not decided a request for {seconds:.0f} s; open it again")

    def announce(self, position: int, keys: Sequence[int]) -> None:
        self.require_open()
        self.put(announced_log_offset(self.parameters) + position * WORD_BYTES, keys)
        self._bus.write(self._tail, [position + len(keys)])

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._control(0, enable=False)
            self._bus.memory.detach(self._base)

    def abandon(self) -> None:
        self.closed = True

    def _control(self, generation: int, *, enable: bool) -> None:
        """Write QUEUE_CONTROL, and wait until it is in effect: then nothing of the owner before is on the bus."""
        register = QUEUE_RECORD.register("QUEUE_CONTROL")
        word = register["ENABLE"].insert(int(enable)) | register["GENERATION"].insert(generation)
        self._bus.write(self._offset("QUEUE_CONTROL"), [word])
        deadline = time.monotonic() + PATIENCE
        while self._bus.read(self._offset("QUEUE_STATUS"), 1)[0] & (_ENABLED | _DRAINING) != _ENABLED * enable:
            self._bus.step(STEP_CLOCKS)
            if time.monotonic() > deadline:
                raise DeviceTimeout("a queue of the simulated device does not come to rest; open it again")

    def _offset(self, name: str) -> int:
        """Of a register of the slot's queue record."""
        return self._record + QUEUE_RECORD.register(name).offset

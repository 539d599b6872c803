"""Owning a slot of a segment: the lock, the handover from an earlier owner, the rings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from bloomgate.backends.soft import load_native
from bloomgate.backends.soft_queue import CPort
from bloomgate.errors import DeviceClosed, DeviceInUse, DeviceTimeout, DeviceUnavailable
from bloomgate.shm import locks
from bloomgate.shm.commands import UNAVAILABLE, Command
from bloomgate.shm.exchange import Exchange
from bloomgate.shm.layout import HEADER, SERVER_LOCK, SLOT_CONTROL
from bloomgate.shm.publication import SharedPublication
from bloomgate.shm.segment import Segment

__all__ = ["SlotPort"]

#: Seconds in one call to C, so that Python sees signals.
SLICE_SECONDS = 0.05
#: Seconds that anything may take that others could hold up.
PATIENCE = 30.0
_GENERATIONS = (1 << 16) - 1
_NANOSECONDS = 1_000_000_000


class SlotPort(CPort):
    """A slot of a segment, owned by this object until it is closed or the process ends."""

    def __init__(self, segment: Segment, patience: float = PATIENCE, number: Optional[int] = None) -> None:
        """``segment`` belongs to the port from now on. ``patience``: seconds to wait for others before giving up.
        ``number``: the slot; by default any.

        Raises :class:`~bloomgate.errors.DeviceInUse` when it, or all slots, are in use, and
        :class:`~bloomgate.errors.DeviceTimeout` when there is no server, or others do not let it begin.
        """
        self.segment = segment
        self.patience = patience
        #: Since when the server has been found missing.
        self._missing_since: Optional[float] = None
        self._where = f"the segment {segment.name}" if segment.name else "the segment"
        module = load_native()
        lib, ffi = module.lib, module.ffi
        try:
            memory = ffi.from_buffer("unsigned char[]", segment.map, require_writable=True)
            #: The ``bg_segment`` of C.
            self.handle = ffi.gc(_allocated(ffi, lib.bg_segment_open(memory)), lib.bg_segment_close)
            self._memory = memory
            self._result = ffi.new("uint64_t *")
            #: Held while the server carries out a command, and as long as its answer is needed.
            self.calling = threading.RLock()
            #: A command was begun, and an exception came before its end.
            self._unfinished = False
            #: ``published`` of the segment, seen from this slot.
            self.publication = SharedPublication(segment.parameters, segment, self.handle, self.last_timestamp)
            self.slot = -1
            super().__init__(segment.parameters, memoryview(b""), module, None)
            self._claim(number)
        except BaseException:
            self.close()
            raise

    # Ownership.

    def _claim(self, number: Optional[int]) -> None:
        """Own a slot, if possible one in which no commit of an earlier owner waits for others to be published."""
        slots = self.segment.parameters.slots
        if number is not None and not 0 <= number < slots:
            raise DeviceInUse(f"slot {number} of {self._where} is not one of its {slots} slots")
        locked = False
        for patience in (0.0, self.patience):
            for slot in range(slots) if number is None else (number,):
                if not locks.try_lock(self.segment.file, slot):
                    continue
                locked = True
                self._use(slot)
                try:
                    self._settle(patience)
                except TimeoutError as error:
                    locks.unlock(self.segment.file, slot)
                    why = error
                    continue
                self._begin()
                return
        if locked:
            raise DeviceTimeout(f"no free slot of {self._where} can be taken over: {why}") from why
        which = f"all {slots} slots of {self._where} are" if number is None else f"slot {number} of {self._where} is"
        raise DeviceInUse(f"{which} in use; end a client, or use more slots")

    def _use(self, slot: int) -> None:
        lib, ffi = self.module.lib, self.module.ffi
        self.slot = slot
        begin = self.segment.layout.window(slot)
        self.window = memoryview(self.segment.map)[begin : begin + self.segment.layout.window_bytes]
        self.client = ffi.gc(_allocated(ffi, lib.bg_client_of(self.handle, slot)), lib.bg_client_free)
        self.exchange = Exchange(self.segment, slot)
        lib.bg_segment_own(self.handle, self.segment.file, slot)

    def _settle(self, patience: float) -> None:
        """See that nothing of the earlier owner is undecided or unpublished."""
        control = self.segment.layout.slot_control(self.slot)
        self.segment.write(SLOT_CONTROL["owner_pid"], os.getpid(), base=control)
        if self.segment.has_server:
            self.call(Command.DRAIN)
            self.call(Command.CLEAR)
        else:
            self.patiently(lambda ns: self.module.lib.bg_segment_drain(self.handle, self.slot, ns))
            self.patiently(lambda ns: self.module.lib.bg_segment_clear(self.handle, self.slot, ns))
        self.publication.settle_slot(self.slot, patience)

    def _begin(self) -> None:
        control = self.segment.layout.slot_control(self.slot)
        generation = self.segment.read(SLOT_CONTROL["generation"], base=control) % _GENERATIONS + 1
        self.segment.write(SLOT_CONTROL["generation"], generation, base=control)
        if self.segment.has_server:
            self.call(Command.ENABLE, generation)
        else:
            self.patiently(lambda ns: self.module.lib.bg_segment_enable(self.handle, self.slot, generation, ns))
        self.module.lib.bg_client_begin(self.client, generation)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.segment.close()

    def require_open(self) -> None:
        if self.closed:
            raise DeviceClosed("the device is closed; open it again with bloomgate.open_device()")

    # The port.

    def submit(self, words: Sequence[int]) -> None:
        self.require_open()
        super().submit(words)

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        self.require_open()
        return super().collect(index, seconds)

    def reserve(self, offset: int, size: int) -> None:
        os.posix_fallocate(self.segment.file, self.segment.layout.window(self.slot) + offset, size)

    def waited(self, seconds: float) -> None:
        if seconds >= self.patience:
            raise self.timeout(seconds)

    def require_alive(self) -> None:
        """Raises :class:`~bloomgate.errors.DeviceTimeout` if there has been no server for longer than patience."""
        if not self.segment.has_server or locks.is_locked(self.segment.file, SERVER_LOCK):
            self._missing_since = None
            return
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        self.waited(now - self._missing_since)

    # What is not a request.

    def last_timestamp(self) -> int:
        """The newest timestamp assigned."""
        self.require_open()
        timestamp: int = self.module.lib.bg_segment_last(self.handle)
        return timestamp

    def patiently(self, step: Callable[[int], object]) -> object:
        """Call a C function, that takes nanoseconds to wait and returns success, until it succeeds. Returns that."""
        begin = time.monotonic()
        while True:
            self.require_open()
            if done := step(int(SLICE_SECONDS * _NANOSECONDS)):
                return done
            self.waited(time.monotonic() - begin)

    def call(self, command: Command, *arguments: int, words: Sequence[int] = ()) -> int:
        """Have the server do something, with ``words`` in the exchange; the result.

        Raises :class:`~bloomgate.errors.DeviceUnavailable` if the server's device cannot do it.
        """
        with self.calling:
            if self._unfinished:
                self._await_server(0, ())
            self.exchange.put(words)
            self._unfinished = True
            self._await_server(command, arguments)
            self._unfinished = False
            result: int = self._result[0]
        if result == UNAVAILABLE:
            raise DeviceUnavailable("the server's device has no in-flight filters")
        return result

    def _await_server(self, command: int, arguments: Sequence[int]) -> None:
        """Begin a command, unless it is 0, and wait until the one that was begun is done."""
        kind = [int(command)]
        words = [*arguments, 0, 0, 0][:3]

        def step(ns: int) -> object:
            done = self.module.lib.bg_call(self.client, kind[0], words, ns, self._result)
            kind[0] = 0
            return done

        self.patiently(step)

    def timeout(self, seconds: float) -> DeviceTimeout:
        """Why nothing has happened for so long, as far as it can be known."""
        if self.segment.has_server:
            if locks.is_locked(self.segment.file, SERVER_LOCK):
                pid = self.segment.read(HEADER["server_pid"])
                why = f"its server, process {pid}, does not answer"
            else:
                why = f"no server runs; start one: bloomgate serve --name {self.segment.name}"
        else:
            pid = self.segment.read(HEADER["decider_pid"])
            why = f"process {pid} holds its mutex{_state_of(pid)}; continue or end that process"
        return DeviceTimeout(f"{self._where} did not answer within {seconds:.0f} s: {why}")


def _allocated(ffi: Any, pointer: Any) -> Any:
    if pointer == ffi.NULL:
        raise MemoryError("no memory for a client of the segment")
    return pointer


def _state_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return " and is stopped" if state in "Tt" else ""

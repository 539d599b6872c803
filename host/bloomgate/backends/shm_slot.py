"""The slots of ``shm:``: what is in flight in one process, seen by all others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Optional

from bloomgate.backends.soft_slot import CSlot
from bloomgate.backends.soft_source import SLOT_OPERATIONS
from bloomgate.in_flight import Doom, Token
from bloomgate.queue_layout import FORMAT_IN_FLIGHT
from bloomgate.queue_pair import QueuePair
from bloomgate.shm.commands import Command
from bloomgate.shm.layout import FLIGHT
from bloomgate.shm.slot import SLICE_SECONDS, SlotPort
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.backends.shm import ShmDevice

__all__ = ["ShmSlot"]

_FLIGHT = {field.name: field.mask for field in FLIGHT}


class ShmSlot(CSlot):
    """A slot of a segment. Its number is that of the segment's slot, which it owns; if it dies, the kernel says so."""

    device: ShmDevice

    def __init__(self, device: ShmDevice, port: SlotPort) -> None:
        """``port`` belongs to the slot from now on.

        Raises :class:`~bloomgate.errors.DeviceUnavailable` if the server's device has no in-flight filters.
        """
        super().__init__(device, port.slot)
        self.port = port
        self._queue = QueuePair(port, device._require_sets, FORMAT_IN_FLIGHT)
        self._snapshot = 0
        try:
            self._operate("state")
        except BaseException:
            port.close()
            raise

    def begin(self, snapshot: int) -> None:
        super().begin(snapshot)
        self._snapshot = index(snapshot)

    @property
    def doomed(self) -> Optional[Doom]:
        # One load, as long as there is nothing to tell. While an epoch ends that is all that the word says.
        return super().doomed if self._flight() & _FLIGHT["DOOMED"] else None

    @property
    def parked(self) -> bool:
        return super().parked if self._flight() & _FLIGHT["PARKED"] else False

    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        state = self._operate("state").state
        self._require_committable(bool(state.in_flight), Token(state.token), state.logged, reads, writes, commutes)
        self._queue.settle(self.port.publication.publish)
        verdict = self._queue.commit(snapshot=self._snapshot, reads=reads, writes=writes, commutes=commutes)
        if verdict.timestamp is not None:
            self.device._publication.assigned(verdict.timestamp)
        return verdict

    def close(self) -> None:
        if self._closed:
            return
        try:
            if not self.device._closed:
                self._operate("cancel")
        finally:
            self._closed = True
            self._queue.close()

    def _wait_until(self, done: Any, timeout: Optional[float]) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Before the look, so that what happens between the two is not lost.
            seen = self._flight()
            # It takes the mutex, or calls the server: so a dead holder of the token is found.
            if done(self._operate("state").state):
                return True
            left = SLICE_SECONDS if deadline is None else min(SLICE_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return False
            self.port.module.lib.bg_flight_sleep(self.port.client, seen, int(left * 1e9))

    def _flight(self) -> int:
        """FLIGHT of the slot control."""
        self._require_slot_open()
        self.device._require_open()
        word: int = self.port.module.lib.bg_flight_word(self.port.client)
        return word

    def _operate(self, operation: str, words: Sequence[int] = ()) -> Any:
        self._require_slot_open()
        self.device._require_open()
        port = self.port
        ffi, lib = port.module.ffi, port.module.lib
        number = SLOT_OPERATIONS.index(operation)
        answer = ffi.new("bg_slot_answer *")
        if port.segment.has_server:
            port.call(Command.OPERATE, number, len(words), words=words)
            ffi.memmove(answer, port.exchange.answer, ffi.sizeof("bg_slot_answer"))
        else:
            keys = list(words)
            port.patiently(
                lambda ns: lib.bg_segment_operate(port.handle, port.slot, number, keys, len(keys), answer, ns)
            )
        return answer

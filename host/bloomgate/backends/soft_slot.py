"""The slots of ``soft:``; backends/in_flight.c does the work. Those of ``shm:`` have most of it in common."""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, Optional

from bloomgate.backends.soft_source import COMMIT, READ_ONLY, SLOT_OPERATIONS
from bloomgate.in_flight import SLOT_COUNTERS, Doom, Token, Wake
from bloomgate.slots import Slot
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

if TYPE_CHECKING:
    from bloomgate.backends.soft import SoftDevice

__all__ = ["CSlot", "SoftSlot"]

#: Nanoseconds that a thread sleeps before it looks again, whatever happens.
_SLEEP_NS = 10**9


class CSlot(Slot):
    """A slot whose state is C's, a ``bg_slot_state``. What its state does not allow C refuses, and Python says why."""

    @abc.abstractmethod
    def _operate(self, operation: str, words: Sequence[int] = ()) -> Any:
        """One of SLOT_OPERATIONS; the ``bg_slot_answer``."""

    @abc.abstractmethod
    def _wait_until(self, done: Any, timeout: Optional[float]) -> bool:
        """Block until ``done`` is true of the ``bg_slot_state``; false after ``timeout`` seconds."""

    def begin(self, snapshot: int) -> None:
        self._require_slot_open()
        self.device._require_request(snapshot, (), (), ())
        self._operate("begin", self.device.parameters.epoch_and_count(index(snapshot)))
        self._keys.clear()

    def announce(self, keys: Sequence[int]) -> None:
        self._require_slot_open()
        self._require_keys(0, keys)
        answer = self._operate("announce", [index(key) for key in keys])
        if answer.refused:
            state = answer.state
            self._require_announceable(bool(state.in_flight), Token(state.token), state.logged, keys)
        self._keys.update(keys)

    @property
    def announced(self) -> Optional[int]:
        state = self._operate("state").state
        return state.logged if state.in_flight else None

    @property
    def doomed(self) -> Optional[Doom]:
        state = self._operate("state").state
        if not state.doomed:
            return None
        key = state.doom_key if state.doom_key_known else None
        return Doom(key, self._timestamp(state.doom_epoch, state.doom_count))

    def cancel(self) -> None:
        self._operate("cancel")

    @property
    def refused(self) -> bool:
        return bool(self._operate("state").state.refused)

    def park(self) -> None:
        answer = self._operate("park")
        if answer.refused:
            self._require_parkable(bool(answer.state.in_flight or answer.state.refused), Token(answer.state.token))

    @property
    def parked(self) -> bool:
        return bool(self._operate("state").state.parked)

    @property
    def last_wake(self) -> Wake:
        state = self._operate("state").state
        return Wake(state.wake_sequence, self._timestamp(state.wake_epoch, state.wake_count))

    def request_token(self) -> None:
        answer = self._operate("token")
        if answer.refused:
            self._require_no_token(bool(answer.state.in_flight), Token(answer.state.token))

    @property
    def token(self) -> Token:
        return Token(self._operate("state").state.token)

    @property
    def token_refusal(self) -> Optional[Verdict]:
        refusal = self._operate("state").state.refusal
        return None if refusal.code in (COMMIT, READ_ONLY) else self._verdict(refusal)

    def guard(self, keys: Sequence[int]) -> int:
        self._require_slot_open()
        self.device._require_request(0, keys, (), ())
        answer = self._operate("guard", [index(key) for key in keys])
        if answer.refused:
            self._require_holder(Token(answer.state.token))
        return self._timestamp(answer.epoch, answer.last)

    def stats(self) -> Mapping[str, int]:
        return dict(zip(SLOT_COUNTERS, self._operate("state").state.statistics))

    def _count_spurious_wake(self) -> None:
        self._operate("count_spurious_wake")

    def _unpark(self) -> None:
        self._operate("unpark")

    def _wait_until_woken(self, timeout: Optional[float]) -> bool:
        return self._wait_until(lambda state: not state.parked, timeout)

    def _wait_until_answered(self, timeout: Optional[float]) -> bool:
        return self._wait_until(lambda state: Token(state.token) is not Token.WAITING, timeout)

    def _timestamp(self, epoch: int, count: int) -> int:
        return self.device.parameters.timestamp(epoch, count)

    def _verdict(self, verdict: Any) -> Verdict:
        if verdict.code == COMMIT:
            return Verdict(True, self._timestamp(verdict.epoch, verdict.count), None, None)
        if verdict.code == READ_ONLY:
            return Verdict(True, None, None, None)
        reason = Reason(verdict.code)
        return Verdict(False, None, reason, verdict.key if reason in KEY_REASONS else None)


class SoftSlot(CSlot):
    """A slot of the device in this process."""

    device: SoftDevice

    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        self._require_slot_open()
        self._require_keys(0, reads, writes, commutes)
        sets = [[index(key) for key in keys] for keys in (reads, writes, commutes)]
        answer = self._operate("commit", [*map(len, sets), *sets[0], *sets[1], *sets[2]])
        if answer.refused:
            state = answer.state
            self._require_committable(bool(state.in_flight), Token(state.token), state.logged, *sets)
        verdict = self._verdict(answer.verdict)
        if verdict.timestamp is not None:
            self.device._publication.assigned(verdict.timestamp)
        return verdict

    def close(self) -> None:
        if not self._closed:
            if not self.device._closed:
                self._operate("cancel")
                self.device._slot_numbers.give_back(self.number)
            self._closed = True

    def _wait_until(self, done: Any, timeout: Optional[float]) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            answer = self._operate("state")
            if done(answer.state):
                return True
            nanoseconds = _SLEEP_NS
            if deadline is not None:
                nanoseconds = min(nanoseconds, int((deadline - time.monotonic()) * 1e9))
                if nanoseconds <= 0:
                    return False
            # The number is of before the look, so that a wake between the two is not lost.
            self.device._sleep(answer.news, nanoseconds)

    def _operate(self, operation: str, words: Sequence[int] = ()) -> Any:
        self._require_slot_open()
        return self.device._operate_slot(self.number, SLOT_OPERATIONS.index(operation), words)

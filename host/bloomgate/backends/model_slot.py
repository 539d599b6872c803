"""The slots of ``model:``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Optional

from bloomgate.in_flight import Doom, InFlight, Token, Wake
from bloomgate.slots import Slot
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.backends.model import ModelDevice

__all__ = ["ModelSlot"]


class ModelSlot(Slot):
    """A slot whose state is the device's :class:`~bloomgate.in_flight.InFlight`, used under the device's lock."""

    device: ModelDevice

    def begin(self, snapshot: int) -> None:
        flight = self._flight()
        self.device._require_request(snapshot, (), (), ())
        epoch, count = self.device.parameters.epoch_and_count(index(snapshot))
        with self.device._lock:
            flight.cancel(self.number)
            self.device._settle()
            flight.begin(self.number, epoch, count)
        self._keys.clear()

    def announce(self, keys: Sequence[int]) -> None:
        flight = self._flight()
        with self.device._lock:
            self._require_announceable(*self._state(flight), len(flight.log(self.number)), keys)
            flight.announce(self.number, [index(key) for key in keys])
        self._keys.update(keys)

    @property
    def announced(self) -> Optional[int]:
        flight = self._flight()
        with self.device._lock:
            return len(flight.log(self.number)) if flight.is_in_flight(self.number) else None

    @property
    def doomed(self) -> Optional[Doom]:
        flight = self._flight()
        with self.device._lock:
            return flight.doomed(self.number)

    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        flight = self._flight()
        with self.device._lock:
            announced = len(flight.log(self.number))
            self._require_committable(*self._state(flight), announced, reads, writes, commutes)
            return self.device._decide_slot(
                self.number, [index(key) for key in reads], [index(key) for key in (*writes, *commutes)]
            )

    def cancel(self) -> None:
        flight = self._flight()
        with self.device._lock:
            flight.cancel(self.number)
            self.device._settle()

    @property
    def refused(self) -> bool:
        flight = self._flight()
        with self.device._lock:
            return flight.is_refused(self.number)

    def park(self) -> None:
        flight = self._flight()
        with self.device._lock:
            in_flight, token = self._state(flight)
            self._require_parkable(in_flight or flight.is_refused(self.number), token)
            flight.park(self.number)

    @property
    def parked(self) -> bool:
        flight = self._flight()
        with self.device._lock:
            return flight.is_parked(self.number)

    @property
    def last_wake(self) -> Wake:
        flight = self._flight()
        with self.device._lock:
            return flight.last_wake(self.number)

    def request_token(self) -> None:
        flight = self._flight()
        with self.device._lock:
            self._require_no_token(*self._state(flight))
            flight.request_token(self.number)
            self.device._settle()

    @property
    def token(self) -> Token:
        flight = self._flight()
        with self.device._lock:
            return flight.token(self.number)

    @property
    def token_refusal(self) -> Optional[Verdict]:
        flight = self._flight()
        with self.device._lock:
            return flight.token_refusal(self.number)

    def guard(self, keys: Sequence[int]) -> int:
        flight = self._flight()
        self.device._require_request(0, keys, (), ())
        with self.device._lock:
            self._require_holder(flight.token(self.number))
            return flight.guard(self.number, [index(key) for key in keys])

    def stats(self) -> Mapping[str, int]:
        flight = self._flight()
        with self.device._lock:
            return flight.statistics(self.number)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with self.device._lock:
                self.device._in_flight.cancel(self.number)
                self.device._settle()
            self.device._slot_numbers.give_back(self.number)

    def _count_spurious_wake(self) -> None:
        flight = self._flight()
        with self.device._lock:
            flight.count(self.number, "spurious_wakes", 1)

    def _unpark(self) -> None:
        flight = self._flight()
        with self.device._lock:
            flight.unpark(self.number)

    def _wait_until_woken(self, timeout: Optional[float]) -> bool:
        flight = self._flight()
        with self.device._lock:
            return self.device._news.wait_for(lambda: not flight.is_parked(self.number), timeout)

    def _wait_until_answered(self, timeout: Optional[float]) -> bool:
        flight = self._flight()
        with self.device._lock:
            return self.device._news.wait_for(lambda: flight.token(self.number) is not Token.WAITING, timeout)

    def _state(self, flight: InFlight) -> tuple[bool, Token]:
        return flight.is_in_flight(self.number), flight.token(self.number)

    def _flight(self) -> InFlight:
        self.device._require_open()
        self._require_slot_open()
        return self.device._in_flight

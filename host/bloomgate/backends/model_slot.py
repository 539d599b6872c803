"""The slots of ``model:``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Optional

from bloomgate.errors import DeviceClosed, RequestError
from bloomgate.in_flight import Doom, InFlight, Token, Wake
from bloomgate.slots import Slot
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.backends.model import ModelDevice

__all__ = ["ModelSlot"]


class ModelSlot(Slot):
    """A slot whose state is the device's :class:`~bloomgate.in_flight.InFlight`, used under the device's lock."""

    device: ModelDevice

    def __init__(self, device: ModelDevice, number: int) -> None:
        super().__init__(device, number)
        self._closed = False

    def begin(self, snapshot: int) -> None:
        flight = self._flight()
        self.device._require_request(snapshot, (), (), ())
        epoch, count = self.device.parameters.epoch_and_count(index(snapshot))
        with self.device._lock:
            flight.cancel(self.number)
            flight.begin(self.number, epoch, count)
            self.device._news.notify_all()

    def announce(self, keys: Sequence[int]) -> None:
        flight = self._flight()
        with self.device._lock:
            self._require_in_flight(flight)
            if flight.token(self.number) is Token.HOLDER:
                raise RequestError("the holder of the token guards its keys, it does not announce them")
            log = flight.log(self.number)
            self.device._require_request(0, [*log, *keys], (), ())
            flight.announce(self.number, [index(key) for key in keys])

    @property
    def doomed(self) -> Optional[Doom]:
        flight = self._flight()
        with self.device._lock:
            return flight.doomed(self.number)

    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        flight = self._flight()
        with self.device._lock:
            self._require_in_flight(flight)
            self.device._require_request(0, [*flight.log(self.number), *reads], writes, commutes)
            return self.device._decide_slot(
                self.number, [index(key) for key in reads], [index(key) for key in (*writes, *commutes)]
            )

    def cancel(self) -> None:
        flight = self._flight()
        with self.device._lock:
            flight.cancel(self.number)
            self.device._news.notify_all()

    def park(self) -> None:
        flight = self._flight()
        with self.device._lock:
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
            self._require_in_flight(flight)
            if flight.token(self.number) is not Token.NONE:
                raise RequestError("the slot has asked for the token already")
            flight.request_token(self.number)
            self.device._news.notify_all()

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
            if flight.token(self.number) is not Token.HOLDER:
                raise RequestError("only the holder of the token can guard keys: see Slot.irrevocable")
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
                self.device._open_slots.discard(self.number)
                self.device._news.notify_all()

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

    def _flight(self) -> InFlight:
        self.device._require_open()
        if self._closed:
            raise DeviceClosed(f"slot {self.number} is closed; open another with device.open_slot()")
        return self.device._in_flight

    def _require_in_flight(self, flight: InFlight) -> None:
        if not flight.is_in_flight(self.number):
            raise RequestError("no transaction has begun: call begin() with a snapshot first")

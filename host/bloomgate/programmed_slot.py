"""A slot of a device behind a register bus: its page in the hands of one client."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import index
from typing import Optional

from bloomgate.driver import EMPTY, FILLING, LOGS_SINCE, SUBMITTED, ProgrammedIODevice, RegisterBus, SlotPage
from bloomgate.errors import BloomgateError, DeviceInUse, DeviceTimeout, DeviceUnavailable, RequestError
from bloomgate.in_flight import SLOT_COUNTERS, Doom, Token, Wake
from bloomgate.queue_port import QueuePort
from bloomgate.registers import SLOT_PAGE, RequestKind
from bloomgate.slots import Slot
from bloomgate.verdict import Reason, Verdict
from bloomgate.verdict_words import verdict_of

__all__ = ["ProgrammedSlot"]

_STATUS = SLOT_PAGE.register("STATUS")
_VERDICT = SLOT_PAGE.register("VERDICT")
_VERDICT_WORDS = 4
_FLIGHT = SLOT_PAGE.register("FLIGHT")
_SEQUENCES = 1 << _FLIGHT["WAKE_SEQUENCE"].width
_COUNTERS = 1 << 32
#: Seconds between two looks at what a slot waits for: doubled with every look.
_FIRST_NAP = 1e-6


class ProgrammedSlot(Slot):
    """The page says what is doomed, parked and held; what the client has done is known here.

    An exception that cuts a call short ends the transaction: it has not happened. A timestamp that a commit had been
    assigned by then is published as that of an empty commit, see :mod:`bloomgate.driver`.
    """

    device: ProgrammedIODevice

    def __init__(self, device: ProgrammedIODevice, page: SlotPage) -> None:
        super().__init__(device, page.number)
        self._page = page
        self._in_flight = False
        #: It has parked, and so it may have been woken.
        self._has_parked = False
        #: The last transaction was refused with IRREVOCABLE.
        self._refused = False
        self._announced = 0
        #: The slot's queue pair, if it announces by a log in memory, and the keys that the transaction has there.
        self._log: Optional[QueuePort] = None
        self._logged = 0
        #: The token was asked for in this transaction, and granted; and what became of it if that was an ABORT.
        self._asked = self._granted = False
        self._refusal: Optional[Verdict] = None
        #: The page's statistics when it was opened.
        self._before = device._flight.statistics(self.number)
        page.client = self

    def begin(self, snapshot: int) -> None:
        self._require_usable()
        self.device._require_request(snapshot, (), (), ())
        self._end()
        self._in_flight = True
        self._page.state = FILLING
        self._write("SNAPSHOT_EPOCH", *self.device.parameters.epoch_and_count(index(snapshot)))
        self._write("ANNOUNCE", 1)
        self.device._flight.settle()
        self._keys.clear()

    def announce(self, keys: Sequence[int]) -> None:
        self._require_announceable(*self._state(), self._announced, keys)
        with self._announcing(keys):
            self.device._fill(self._page, (keys,))

    def announce_log(self, keys: Sequence[int]) -> None:
        self._require_announceable(*self._state(), self._announced, keys)
        log = self._announced_log()
        # The log goes on behind a verdict on the token, which empties the page.
        if log is None or self._logged + len(keys) > self.device.parameters.aperture_depth:
            self.announce(keys)
            return
        with self._announcing(keys):
            log.announce(self._logged, keys)
        self._logged += len(keys)

    @contextlib.contextmanager
    def _announcing(self, keys: Sequence[int]) -> Iterator[None]:
        """What is done in it announces these keys: wait until they are announced."""
        with self._whole():
            yield
            done = _FLIGHT["ANNOUNCING_DONE"].mask
            self.device._await(self._offset("FLIGHT"), 1, done, done, "the keys were not announced")
            self.device._flight.settle()
        self._announced += len(keys)
        self._page.counted["keys_announced"] += len(keys)
        self._keys.update(keys)

    def _announced_log(self) -> Optional[QueuePort]:
        """The slot's queue pair; None where there is none."""
        if self._log is None and self.device._version >= LOGS_SINCE:
            try:
                self._log = self.device._queues.open_on(self.number)
            except DeviceInUse:
                raise
            except DeviceUnavailable:
                pass
        return self._log

    @property
    def announced(self) -> Optional[int]:
        in_flight, _ = self._state()
        return self._announced if in_flight else None

    @property
    def doomed(self) -> Optional[Doom]:
        if not self._in_flight:
            self._require_usable()
            return None
        flight, key, epoch, count = self._flight()
        if not flight & _FLIGHT["DOOMED"].mask:
            return None
        known = flight & _FLIGHT["KEY_KNOWN"].mask
        return Doom(key if known else None, self.device.parameters.timestamp(epoch, count))

    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        in_flight, token = self._state()
        self._require_committable(in_flight, token, self._announced, reads, writes, commutes)
        verdict: Optional[Verdict] = None
        try:
            if len(reads):
                self._write("ANNOUNCE", 0)
            self.device._fill(self._page, (reads, writes, commutes))
            if self._has_parked:
                self.last_wake  # noqa: B018 - IRREVOCABLE would overwrite it
            self.device._submit(self._page, RequestKind.COMMIT)
            verdict = self.device._verdict(self.device._answer(self._page))
            self._over(verdict)
            if token is Token.NONE:
                self.device._flight.settle()
            else:
                self.device._flight.token_moved()
            return verdict
        except BaseException as error:
            self._cut_short(error)
            if verdict is not None:
                self.device.publish(verdict.timestamp)
            raise

    def cancel(self) -> None:
        self._require_usable()
        self._end()
        self.device._flight.settle()

    @property
    def refused(self) -> bool:
        self._require_usable()
        return self._refused

    def park(self) -> None:
        in_flight, token = self._state()
        self._require_parkable(in_flight or self._refused, token)
        self._has_parked = True
        self._write("PARK", 1)
        self.device._flight.settle()

    @property
    def parked(self) -> bool:
        self._require_usable()
        return (self._in_flight or self._refused) and bool(self._flight()[0] & _FLIGHT["PARKED"].mask)

    @property
    def last_wake(self) -> Wake:
        with self.device._lock:
            flight, _, epoch, count = self._flight()
            sequence = _FLIGHT["WAKE_SEQUENCE"].extract(flight)
            # The two words are the wake's until the next doom, which is in a later transaction if it was not this one,
            # or until the transaction is refused.
            if sequence != self._page.wake.sequence:
                self._page.counted["wakes"] += (sequence - self._page.wake.sequence) % _SEQUENCES
                self._page.wake = Wake(sequence, self.device.parameters.timestamp(epoch, count))
            return self._page.wake

    def request_token(self) -> None:
        self._require_no_token(*self._state())
        self._refusal = None
        self._asked = True
        with self._whole():
            with self.device._lock:
                self.device._submit(self._page, RequestKind.TOKEN)
                self.device._flight.token_moved()

    @property
    def token(self) -> Token:
        self._require_usable()
        deadline = self.device._bus.now() + self.device._bus.patience
        while self._asked:
            flight = self._flight()[0]
            for field, token in (
                ("HOLDER", Token.HOLDER),
                ("REVOKED", Token.REVOKED),
                ("TOKEN_WAITING", Token.WAITING),
            ):
                if flight & _FLIGHT[field].mask:
                    if token is not Token.WAITING and not self._granted:
                        self._granted = True
                        self._announced = 0  # the verdict on the token emptied the page
                    return token
            # The answer came between the two reads, or is an ABORT.
            verdict = verdict_of(self.device.parameters, self._read("VERDICT", _VERDICT_WORDS))
            if not verdict.committed:
                self.device._note_epoch()
                self._refusal = verdict
                self._over(verdict)
            elif self.device._bus.now() > deadline:
                raise self.device._timeout("the token was granted, and nobody has it")
        return Token.NONE

    @property
    def token_refusal(self) -> Optional[Verdict]:
        if self.token is Token.WAITING:
            return None
        return self._refusal

    def guard(self, keys: Sequence[int]) -> int:
        self._require_usable()
        self.device._require_request(0, keys, (), ())
        self._require_holder(self.token)
        with self._whole():
            self.device._fill(self._page, (keys,))
            self.device._submit(self._page, RequestKind.GUARD)
            verdict = verdict_of(self.device.parameters, self.device._answer(self._page))
            self.device._flight.settle()
        if verdict.timestamp is None:
            self._over(verdict)
            raise RequestError("the token was taken away from the slot")
        self._page.counted["keys_announced"] += len(keys)
        return verdict.timestamp

    def stats(self) -> Mapping[str, int]:
        counters = self.counters()
        return {name: counters[name] for name in (*SLOT_COUNTERS, "validation_clocks")}

    def counters(self) -> Counter[str]:
        """What the slot has counted since the device was opened; any thread may ask."""
        with self.device._lock:
            if self._closed:
                return self._page.counted
            self.last_wake  # noqa: B018 - counts the wakes
            return self._page.counted + self._since_opened()

    def close(self) -> None:
        if self._closed:
            return
        if not self.device._closed:
            self._end()
            self.device._flight.settle()
            with self.device._lock:
                self._page.counted += self._since_opened()
                self._closed = True
        self._closed = True
        if self._log is not None:
            self._log.close()
        self.device._give_back(self._page)

    def _count_spurious_wake(self) -> None:
        self._page.counted["spurious_wakes"] += 1

    def _unpark(self) -> None:
        self._write("PARK", 0)

    def _wait_until_woken(self, timeout: Optional[float]) -> bool:
        return self._wait_until("PARKED", timeout)

    def _wait_until_answered(self, timeout: Optional[float]) -> bool:
        return self._wait_until("TOKEN_WAITING", timeout)

    def _wait_until(self, name: str, timeout: Optional[float]) -> bool:
        """Block until the field of FLIGHT is 0; false after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        bus = self.device._bus
        # An answer on the token raises no interrupt.
        nap, longest = _FIRST_NAP, bus.longest_nap if name == "PARKED" else RegisterBus.longest_nap
        while True:
            self._require_usable()
            with self.device._lock:
                bus.arm(self.number)
                (flight,) = bus.poll(self._offset("FLIGHT"), 1, _FLIGHT[name].mask, 0)
            if not flight & _FLIGHT[name].mask:
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            bus.nap(self.number, nap)
            nap = min(2 * nap, longest)

    # What became of the transaction.

    def _state(self) -> tuple[bool, Token]:
        token = self.token
        return self._in_flight, token

    def _over(self, verdict: Verdict) -> None:
        """It has its verdict."""
        self._forget()
        self._refused = verdict.reason is Reason.IRREVOCABLE
        self._page.state = EMPTY

    def _forget(self) -> None:
        self._in_flight = self._has_parked = self._refused = self._asked = self._granted = False
        self._announced = self._logged = 0

    def _end(self) -> None:
        """End it without a verdict, if it has not ended."""
        self.last_wake  # noqa: B018 - the next transaction may overwrite it
        if self._page.state == SUBMITTED:
            self.device._settle_slot(self._page, patient=True)
            if self._page.state == SUBMITTED:
                raise self.device._timeout("the slot's last request was not decided")
        self._discard()
        self._flight()  # a doom that is on its way must not come upon the next transaction
        if self._asked:
            self.device._flight.token_moved()
        self._forget()
        self._refusal = None
        self._page.state = EMPTY

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """What is done in it is done completely, or the transaction ends."""
        try:
            yield
        except BaseException as error:
            self._cut_short(error)
            raise

    def _cut_short(self, error: BaseException) -> None:
        """An exception passes through a request."""
        self._forget()
        try:
            self.device._settle_slot(self._page, patient=not isinstance(error, DeviceTimeout))
            self._discard()
        except BloomgateError:
            pass  # the exception that led here says more; the next transaction begins with another attempt

    def _discard(self) -> None:
        """Empty the page. A request for the token that is being validated is waited for."""
        while True:
            self._write("DISCARD", 0)
            if not self._read("STATUS", 1)[0] & _STATUS["BUSY"].mask:
                return
            busy = _STATUS["BUSY"].mask
            self.device._await(self._offset("STATUS"), 1, busy, 0, f"slot {self.number} did not decide its request")

    # The page.

    def _flight(self) -> list[int]:
        """FLIGHT, and DOOM_KEY, DOOM_EPOCH and DOOM_COUNT, which belong to it."""
        self._require_usable()
        self.device._flight.settle()
        told = _FLIGHT["TOLD"].mask
        return self.device._await(self._offset("FLIGHT"), 4, told, told, f"slot {self.number} was not told of its doom")

    def _since_opened(self) -> Counter[str]:
        now = self.device._flight.statistics(self.number)
        return Counter({name: (value - self._before[name]) % _COUNTERS for name, value in now.items()})

    def _offset(self, name: str) -> int:
        return self._page.offset + SLOT_PAGE.register(name).offset

    def _read(self, name: str, words: int) -> list[int]:
        self._require_usable()
        with self.device._lock:
            return self.device._bus.read(self._offset(name), words)

    def _write(self, name: str, *words: int) -> None:
        with self.device._lock:
            self.device._require_open()
            self.device._bus.write(self._offset(name), words)

    def _require_usable(self) -> None:
        self.device._require_open()
        self._require_slot_open()

"""A client of a device with a transaction in flight: announced reads, doom, waiting, the irrevocable token.

``device.open_slot()`` gives a :class:`Slot`. Everything a slot does between :meth:`Slot.begin` and its verdict is
described in :mod:`bloomgate.in_flight`, which is what every device does.
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Optional

from bloomgate.closing import Closing
from bloomgate.errors import DeviceClosed, DeviceInUse, RequestError
from bloomgate.in_flight import Doom, Token, Wake
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.device import Device

__all__ = ["Slot", "SlotNumbers"]


class SlotNumbers:
    """Which slots of a device are open."""

    def __init__(self, slots: int) -> None:
        self._lock = threading.Lock()
        self._slots = slots
        self._open: set[int] = set()

    def take(self, wanted: Optional[int] = None) -> int:
        """That number, or the lowest free one. Raises :class:`~bloomgate.errors.DeviceInUse` when it is not free."""
        with self._lock:
            number = next((n for n in range(self._slots) if n not in self._open and wanted in (None, n)), None)
            if number is None and wanted is None:
                raise DeviceInUse(f"all {self._slots} slots of the device are open: close one")
            if number is None:
                raise DeviceInUse(f"slot {wanted} is open, or not one of the {self._slots} of the device")
            self._open.add(number)
            return number

    def give_back(self, number: int) -> None:
        """Make a number free."""
        with self._lock:
            self._open.discard(number)


class Slot(Closing):
    """One slot of a device, held by one client until :meth:`close`.

    One thread at a time may use it, but another one may :meth:`cancel` a :meth:`wait` or :meth:`irrevocable`, which
    then raises :class:`~bloomgate.errors.RequestError`.

    ::

        with device.open_slot() as slot:
            slot.begin(device.published)
            slot.announce([1, 2])
            if slot.doomed is None:
                verdict = slot.commit(writes=[2])

    All methods raise :class:`~bloomgate.errors.DeviceClosed` behind the end of slot or device, and
    :class:`~bloomgate.errors.RequestError` for what the transaction's state does not allow; then nothing has happened.
    """

    def __init__(self, device: Device, number: int) -> None:
        self.device = device
        #: Which one it is, from 0.
        self.number = number
        self._closed = False
        #: What was announced, for :meth:`wait`.
        self._keys: set[int] = set()

    # What backends implement, each an atomic step.

    @abc.abstractmethod
    def begin(self, snapshot: int) -> None:
        """Start a transaction with this snapshot; one that has not ended is cancelled."""

    @abc.abstractmethod
    def announce(self, keys: Sequence[int]) -> None:
        """Add keys to the read set, so that a commit that changes one of them dooms or wakes this slot.

        Raises :class:`~bloomgate.errors.RequestTooLarge` for more keys than a request can have. The holder of the
        token uses :meth:`guard`.
        """

    def announce_log(self, keys: Sequence[int]) -> None:
        """As :meth:`announce`, by way of memory: the keys go to a log in the slot's queue pair, and one store says so.

        Where the device reads a caller's keys anyway, or reaches no memory, this is :meth:`announce`. Raises
        :class:`~bloomgate.errors.DeviceInUse` if somebody else has the slot's queue pair.
        """
        self.announce(keys)

    @property
    @abc.abstractmethod
    def announced(self) -> Optional[int]:
        """How many keys the transaction has announced; None when no transaction is in flight."""

    @property
    @abc.abstractmethod
    def doomed(self) -> Optional[Doom]:
        """Why the transaction will probably not commit; None as long as nothing is known against it."""

    @abc.abstractmethod
    def commit(self, *, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()) -> Verdict:
        """Decide the transaction; its read set is what was announced and then ``reads``. It is over then."""

    @abc.abstractmethod
    def cancel(self) -> None:
        """End the transaction without a verdict. The token, if the slot has it, is given back."""

    @property
    @abc.abstractmethod
    def refused(self) -> bool:
        """The last transaction ended with IRREVOCABLE, and no other one has begun."""

    @abc.abstractmethod
    def park(self) -> None:
        """Ask to be woken by the first commit that may have changed an announced key, also one in the past.

        A slot that is :attr:`refused`: by the end of the token's time. Not for one that has the token, or asked for it.
        """

    @property
    @abc.abstractmethod
    def parked(self) -> bool:
        """Nothing has woken the slot since :meth:`park`."""

    @property
    @abc.abstractmethod
    def last_wake(self) -> Wake:
        """The newest wake of the slot; sequence 0 before the first one."""

    @abc.abstractmethod
    def request_token(self) -> None:
        """Ask for the irrevocable token. See :attr:`token` and :attr:`token_refusal` for what comes of it.

        Until there is an answer the transaction can only be cancelled.
        """

    @property
    @abc.abstractmethod
    def token(self) -> Token:
        """Where the slot is with the token."""

    @property
    @abc.abstractmethod
    def token_refusal(self) -> Optional[Verdict]:
        """The ABORT that the request for the token ended with, until another transaction begins or :meth:`cancel`."""

    @abc.abstractmethod
    def guard(self, keys: Sequence[int]) -> int:
        """The holder of the token is going to read these keys. Nobody can commit a change of them from now on.

        Returns the guard timestamp: when it is published, the newest values are final. Raises
        :class:`~bloomgate.errors.RequestError` for who does not hold the token.
        """

    @abc.abstractmethod
    def stats(self) -> Mapping[str, int]:
        """Counters of this slot since the device was opened, by :data:`bloomgate.in_flight.SLOT_COUNTERS`.

        Where there is a clock also validation_clocks. ``device.stats()`` has the totals.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Cancel, and give the slot back to the device. Idempotent."""

    # What is made of these.

    def wait(self, timeout: Optional[float] = None) -> Wake:
        """Park until woken, and until what woke the slot is published. ``timeout`` in seconds.

        The transaction is over then: begin the next one with ``device.published``. Raises TimeoutError. If that is
        because nothing woke the slot, it is not parked any more and the transaction goes on, as after any other
        exception; if what woke it was not published in time, the transaction is over (``announced`` is None).

        A wake counts in ``spurious_wakes`` if nothing that the slot had announced is known to have changed. Its doom
        names the first key of the commit that hit the slot's filter. If that was announced, it has changed. If not, one
        behind it may have: then the transaction is not cancelled, but ends with a commit that writes nothing, which
        validates it, and the wake is spurious if that is a COMMIT. If the doom names no key, because the epoch ended,
        the floor was raised or a process died while it decided, the wake is spurious. One by the end of the token's
        time is not.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        before = self.last_wake
        self.park()
        woken = False
        try:
            woken = self._wait_until_woken(timeout)
        finally:
            if not woken and not self._closed:
                self._unpark()
        if not woken:
            raise TimeoutError(f"nothing woke the slot within {timeout} s")
        wake = self.last_wake
        if wake.sequence == before.sequence:
            raise RequestError("the transaction was cancelled while it waited")
        if self._is_spurious(self.doomed):
            self._count_spurious_wake()
        self.cancel()
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        self.device.wait_published(wake.timestamp, left)
        return wake

    def irrevocable(self, timeout: Optional[float] = None) -> Verdict:
        """Become irrevocable: blocks until the token is granted, or refused with an ABORT. ``timeout`` in seconds.

        Raises TimeoutError, and then the request is withdrawn and the transaction cancelled.
        """
        self.request_token()
        try:
            if not self._wait_until_answered(timeout):
                raise TimeoutError(f"the token was not granted within {timeout} s")
        except BaseException:
            self.cancel()
            raise
        refusal = self.token_refusal
        if refusal is None and self.token is Token.NONE:
            raise RequestError("the transaction was cancelled while it waited for the token")
        return Verdict(True, None, None, None) if refusal is None else refusal

    def read_guarded(self, keys: Sequence[int], timeout: Optional[float] = None) -> int:
        """:meth:`guard`, and wait until the guard timestamp is published. ``timeout`` in seconds; TimeoutError."""
        timestamp = self.guard(keys)
        self.device.wait_published(timestamp, timeout)
        return timestamp

    def _is_spurious(self, doom: Optional[Doom]) -> bool:
        """Whether the doom that woke the slot is none. It may end the transaction."""
        if doom is None or doom.key in self._keys:
            return False
        return doom.key is None or self.commit().committed

    @abc.abstractmethod
    def _count_spurious_wake(self) -> None:
        """Add 1 to the slot's ``spurious_wakes``."""

    @abc.abstractmethod
    def _unpark(self) -> None:
        """Do not be woken any more."""

    @abc.abstractmethod
    def _wait_until_woken(self, timeout: Optional[float]) -> bool:
        """Block until the slot is not parked; false after ``timeout`` seconds."""

    @abc.abstractmethod
    def _wait_until_answered(self, timeout: Optional[float]) -> bool:
        """Block until the slot does not wait for the token; false after ``timeout`` seconds."""

    # What is allowed. The keys are looked at first, then the state of the transaction, then whether there is room for
    # them: so whoever does several things wrong at once gets the same exception on every device.

    def _require_slot_open(self) -> None:
        if self._closed:
            raise DeviceClosed(f"slot {self.number} is closed; open another with device.open_slot()")

    @staticmethod
    def _require_in_flight(in_flight: bool) -> None:
        if not in_flight:
            raise RequestError("no transaction has begun: call begin() with a snapshot first")

    @staticmethod
    def _require_not_waiting(token: Token) -> None:
        if token is Token.WAITING:
            raise RequestError("the slot has asked for the token: wait for the answer, or cancel()")

    def _require_announceable(self, in_flight: bool, token: Token, announced: int, keys: Sequence[int]) -> None:
        self._require_keys(0, keys)
        self._require_in_flight(in_flight)
        self._require_not_waiting(token)
        if token is Token.HOLDER:
            raise RequestError("the holder of the token guards its keys, it does not announce them")
        self._require_keys(announced, keys)

    def _require_committable(
        self,
        in_flight: bool,
        token: Token,
        announced: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
    ) -> None:
        self._require_keys(0, reads, writes, commutes)
        self._require_in_flight(in_flight)
        self._require_not_waiting(token)
        self._require_keys(announced, reads, writes, commutes)

    def _require_no_token(self, in_flight: bool, token: Token) -> None:
        self._require_in_flight(in_flight)
        if token is not Token.NONE:
            raise RequestError("the slot has asked for the token already")

    @classmethod
    def _require_parkable(cls, wakeable: bool, token: Token) -> None:
        if not wakeable:
            raise RequestError("no transaction has begun, or was refused with IRREVOCABLE: nothing would wake the slot")
        if token is Token.HOLDER:
            raise RequestError("nobody can change what the holder of the token has read: nothing would wake the slot")
        cls._require_not_waiting(token)

    @staticmethod
    def _require_holder(token: Token) -> None:
        if token is not Token.HOLDER:
            raise RequestError("only the holder of the token can guard keys: see Slot.irrevocable")

    def _require_keys(
        self, announced: int, reads: Sequence[int], writes: Sequence[int] = (), commutes: Sequence[int] = ()
    ) -> None:
        """Together with so many announced keys these make a request."""
        self.device._require_request(0, [*([0] * announced), *reads], writes, commutes)

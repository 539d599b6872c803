"""The contract of every backend: a device that decides whether a transaction may commit."""

from __future__ import annotations

import abc
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Callable, Optional

from bloomgate.closing import Closing
from bloomgate.errors import (
    DeviceClosed,
    DeviceUnavailable,
    KeyRangeError,
    ParameterError,
    RequestError,
    RequestTooLarge,
    SnapshotRangeError,
)
from bloomgate.in_flight import Conflict
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.publication import Publication
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.queue_pair import QueuePair
    from bloomgate.slots import Slot

__all__ = ["Device", "DeviceInfo"]


#: Ticks of the watchdog that a call can be about.
MAX_TICKS = (1 << 32) - 1


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is."""

    #: Scheme of the URL that opened it.
    backend: str
    #: Version of the register interface: (major, minor, patch).
    version: tuple[int, int, int]
    #: Geometry.
    parameters: Parameters
    #: Keys that one request can have, all sets together.
    max_request_keys: int
    #: One line on what decides: which model, compiler or hardware.
    description: str


def _within(value: object, limit: int) -> bool:
    """Whether ``value`` is an integer, of Python or e.g. of NumPy, from 0 to ``limit``."""
    try:
        return 0 <= index(value) <= limit  # type: ignore[arg-type]
    except TypeError:
        return False


class Device(Closing):
    """Decides commits. Safe to use from any number of threads; a context manager that closes itself.

    All timestamps are integers, ``epoch * 2**timestamp_bits + count``. Backends implement the abstract methods;
    publication is common to all that serve one process. In a forked process it is closed: a copy that decides on its
    own would miss the conflicts with the other process.
    """

    def __init__(self, parameters: Parameters, origin: int) -> None:
        """``origin``: the device's newest timestamp when it is opened."""
        self.parameters = parameters
        self._publication = Publication(parameters, origin, self.last_timestamp)
        self._closed = False
        self._forked = False
        _open_devices.add(self)

    @abc.abstractmethod
    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """Decide one request; blocks until the verdict is there.

        ``reads`` conflict with every commit newer than ``snapshot`` that wrote or commuted one of them. ``writes``
        and ``commutes`` are inserted under the new timestamp and never conflict. Keys may repeat and may be in
        several sets. Raises :class:`~bloomgate.errors.KeyRangeError`,
        :class:`~bloomgate.errors.SnapshotRangeError`, :class:`~bloomgate.errors.RequestTooLarge` or
        :class:`~bloomgate.errors.DeviceClosed`, and then nothing was submitted.
        """

    @abc.abstractmethod
    def last_timestamp(self) -> int:
        """The newest timestamp assigned, or (epoch, 0) when the epoch has none yet."""

    @abc.abstractmethod
    def info(self) -> DeviceInfo:
        """What the device is."""

    @abc.abstractmethod
    def stats(self) -> Mapping[str, int]:
        """Counters since the device was opened, by the names in :data:`bloomgate.registers.STATISTICS`.

        And of transactions in flight, of all slots together, by those in
        :data:`bloomgate.in_flight.FLIGHT_STATISTICS`. The clock counters, validation_clocks among them, are there only
        where there is a clock.
        """

    @abc.abstractmethod
    def reset(self, initial_epoch: int = 0) -> None:
        """Soft reset: end the epoch and forget every commit in it.

        The epoch becomes ``initial_epoch`` if that is greater than the current epoch, else it grows by 1. Requests
        in flight get ABORT(RESET). When the last epoch has been used up, every later request gets ABORT(ROLLOVER).
        """

    @abc.abstractmethod
    def raise_floor(self) -> None:
        """Make every snapshot older than the last timestamp conflict with every read."""

    @abc.abstractmethod
    def inject_parity_error(self, table: int, row: int) -> None:
        """Overwrite a word of the recency filter with 0 and bad parity. It can only cause aborts."""

    def queue_pair(self) -> QueuePair:
        """Rings of a slot, for requests that are submitted now and collected later. It belongs to the caller.

        Raises :class:`~bloomgate.errors.DeviceUnavailable` where the device has none, and
        :class:`~bloomgate.errors.DeviceInUse` or another :class:`~bloomgate.errors.BloomgateError` if no slot is free.
        """
        self._require_open()
        raise DeviceUnavailable(f"the {self.info().backend}: device has no queue pairs")

    #: Whether :meth:`recall` is implemented.
    recalls = False

    def recall(self, thread: int) -> Optional[Verdict]:
        """The verdict of the newest ``commit`` of a thread (``threading.get_ident()``), also one cut short.

        Then the caller has to publish its timestamp. None: nothing was submitted, or the device has published it as an
        empty commit. For devices that others use too, so that nobody can tell from the newest timestamp.
        """
        raise NotImplementedError

    def open_slot(self, number: Optional[int] = None) -> Slot:
        """A slot of the device for a client that announces what it reads, waits, or becomes irrevocable.

        The one with that number, or any. Raises :class:`~bloomgate.errors.DeviceInUse` when it is in use, or all are.
        """
        raise DeviceUnavailable(f"{self.info().backend}: has no in-flight filters")

    def conflicts(self) -> Sequence[Conflict]:
        """Take what has been written to the conflict log since the last call, by timestamp and loser.

        The winner is a slot with a transaction in flight; for a commit without one, by :meth:`commit` or a queue pair,
        it is None, but on ``shm:`` the slot of the segment that it came from.
        """
        raise DeviceUnavailable(f"{self.info().backend}: has no in-flight filters")

    def revoke_token(self) -> Optional[int]:
        """Take the irrevocable token from the slot that holds it, and return its number; None if none does."""
        raise DeviceUnavailable(f"{self.info().backend}: has no in-flight filters")

    def set_token_watchdog(self, ticks: int) -> None:
        """Revoke a token that has been held for so many ticks; 0, as when the device is opened: never.

        Raises :class:`~bloomgate.errors.ParameterError` for what is no number of ticks.
        """
        raise DeviceUnavailable(f"{self.info().backend}: has no in-flight filters")

    def tick(self, ticks: int = 1) -> None:
        """Let time pass for the watchdog: on every device only this does. Raises
        :class:`~bloomgate.errors.ParameterError` for what is no number of ticks.
        """
        raise DeviceUnavailable(f"{self.info().backend}: has no in-flight filters")

    @property
    def clock_cycles(self) -> Optional[int]:
        """Clock cycles since power-up; None where there is no clock."""
        return None

    @property
    def published(self) -> int:
        """The newest timestamp such that every commit up to it has been written back: a new snapshot."""
        return self._publication.published

    def publish(self, timestamp: Optional[int]) -> None:
        """Mark a commit as written back; never blocks. ``publish(None)`` does nothing.

        Raises :class:`~bloomgate.errors.PublicationError` for a timestamp that was never assigned.
        """
        self._publication.publish(timestamp)

    def wait_published(self, timestamp: Optional[int], timeout: Optional[float] = None) -> None:
        """Block until ``published >= timestamp``; helps with the registered helper. ``timeout`` in seconds.

        Raises TimeoutError, or :class:`~bloomgate.errors.PublicationError` for a timestamp never assigned.
        """
        self._publication.wait(timestamp, timeout)

    def set_helper(self, helper: Optional[Callable[[int], bool]]) -> None:
        """Register what ``wait_published`` calls with a timestamp whose committer makes no progress.

        The helper writes that commit back, idempotently, and returns whether it could.
        """
        self._publication.helper = helper

    def publication_interrupted(self) -> bool:
        """Whether the caller is a signal handler that has interrupted a publication of its own thread.

        Then nothing is published before it has returned, so that it must not wait for that.
        """
        return self._publication.interrupted()

    def release_leaked_locks(self) -> None:
        """Release what an asynchronous exception has left locked by the calling thread, which is in no method here."""
        self._publication.release_leaked()

    def close(self) -> None:
        """Release everything. Later operations raise :class:`~bloomgate.errors.DeviceClosed`, but for reading
        :attr:`published`. Idempotent."""
        self._closed = True

    # What backends share: the checks that make a request impossible to put on the wire.

    def _require_open(self) -> None:
        if self._closed:
            cause = "was opened before a fork" if self._forked else "is closed"
            raise DeviceClosed(f"the device {cause}; open it again with bloomgate.open_device()")

    def _after_fork(self) -> None:
        """Close, in a process that was forked while the device was open."""
        self._forked = self._closed = True

    @staticmethod
    def _require_epoch(initial_epoch: int) -> None:
        if not isinstance(initial_epoch, int) or not 0 <= initial_epoch < 1 << EPOCH_BITS:
            raise ParameterError(
                f"initial_epoch must be an integer from 0 to {(1 << EPOCH_BITS) - 1}, not {initial_epoch!r}"
            )

    @staticmethod
    def _require_ticks(ticks: int) -> None:
        if not _within(ticks, MAX_TICKS):
            raise ParameterError(f"ticks must be an integer from 0 to {MAX_TICKS}, not {ticks!r}")

    def _require_word(self, table: int, row: int) -> None:
        for name, value, size in (("table", table, self.parameters.K), ("row", row, self.parameters.D)):
            if not isinstance(value, int) or not 0 <= value < size:
                raise ParameterError(f"{name} must be an integer from 0 to {size - 1}, not {value!r}")

    def _require_request(
        self,
        snapshot: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
    ) -> None:
        """Raise the error that a request deserves, if it deserves one."""
        size = self._require_sets(snapshot, reads, writes, commutes)
        if size > self.parameters.aperture_depth:
            raise RequestTooLarge(
                f"a request can have {self.parameters.aperture_depth} keys in all its sets together,"
                f" not {size}; split the transaction or open the device with a larger aperture_depth"
            )

    def _require_sets(
        self,
        snapshot: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
    ) -> int:
        """The same for a request of any size; returns how many keys it has."""
        self._require_open()
        limit = self.parameters.max_timestamp
        if not _within(snapshot, limit):
            raise SnapshotRangeError(f"snapshot must be an integer from 0 to {limit}, not {snapshot!r}")
        size = 0
        for name, keys in (("reads", reads), ("writes", writes), ("commutes", commutes)):
            try:
                size += len(keys)
                iter(keys)
            except TypeError:
                raise RequestError(f"{name} must be a sequence of keys, not {keys!r}") from None
            for key in keys:
                if not _within(key, self.parameters.max_key):
                    raise KeyRangeError(
                        f"a key in {name} must be an integer from 0 to {self.parameters.max_key}, not {key!r}"
                    )
        return size


_open_devices: weakref.WeakSet[Device] = weakref.WeakSet()


def _after_fork() -> None:
    for device in list(_open_devices):
        device._after_fork()


os.register_at_fork(after_in_child=_after_fork)

"""Which commits have been written back: the ``published`` timestamp of a device used within one process."""

from __future__ import annotations

import threading
import time
from typing import Callable, Optional

from bloomgate.errors import PublicationError
from bloomgate.leaked import release_leaked
from bloomgate.parameters import Parameters

__all__ = ["Publication"]

#: Seconds that ``wait`` leaves a committer alone before it asks the helper to finish its work.
HELP_AFTER = 0.01


class Publication:
    """Advances ``published`` over the contiguous prefix of timestamps that have been written back.

    A timestamp (epoch, 0) is an empty commit that the device makes when an epoch begins; it counts as written back
    as soon as everything before it is. All methods can be called from any thread; none but :meth:`wait` blocks, not
    even on a lock: a thread that waits for a lock gets it before it gets the GIL, and then all others wait for both.
    """

    def __init__(self, parameters: Parameters, origin: int, last_timestamp: Callable[[], int]) -> None:
        """``origin``: the device's newest timestamp at the start. ``last_timestamp``: reads its newest one now."""
        self._parameters = parameters
        self._max_count = parameters.max_count
        self._published = origin
        self._last_timestamp = last_timestamp
        #: A timestamp that is known to have been assigned, so that not every `publish` has to ask the device.
        self._assigned = origin
        self._written_back: set[int] = set()
        #: Timestamp -> what comes after it where that is not the next integer: the first timestamp of an epoch after
        #: the last of one that ended before its last count.
        self._skips: dict[int, int] = {}
        #: Held by who moves ``published``. Reentrant only because such a lock knows its owner, see release_leaked().
        self._moving = threading.RLock()
        # Not "with self._advanced": its __enter__ is Python, and an asynchronous exception at its end leaves the lock
        # held.
        self._lock = threading.RLock()
        self._advanced = threading.Condition(self._lock)
        #: Threads in :meth:`wait`; changed under ``_lock``.
        self._waiting = 0
        #: Called with an unpublished timestamp that made no progress; true means: it is written back now.
        self.helper: Optional[Callable[[int], bool]] = None
        #: Called as :meth:`epoch_stepped` is, after it.
        self.listener: Optional[Callable[[int, int], None]] = None

    @property
    def published(self) -> int:
        """The newest timestamp such that every commit up to it has been written back."""
        return self._published

    def publish(self, timestamp: Optional[int]) -> None:
        """Mark ``timestamp`` as written back; None and a published timestamp do nothing.

        Raises :class:`PublicationError` for a timestamp that was never assigned.
        """
        if timestamp is None or timestamp <= self._published:
            return
        if timestamp > self._assigned:
            self._require_assigned(timestamp)
        self._written_back.add(timestamp)
        if timestamp <= self._published:
            # A helper was faster, and nobody will take it out.
            self._written_back.discard(timestamp)
        self._advance()

    def epoch_stepped(self, last: int, origin: int) -> None:
        """An epoch ended early, with ``last`` as its newest timestamp; the next epoch begins at ``origin``."""
        self.skip(last, origin)
        if self.listener is not None:
            self.listener(last, origin)

    def skip(self, timestamp: int, following: int) -> None:
        """What is after ``timestamp`` up to ``following`` needs nobody here to write it back."""
        self._skips[timestamp] = following
        self._advance()

    def wait(self, timestamp: Optional[int], timeout: Optional[float] = None) -> None:
        """Block until ``published >= timestamp``, finishing the work of committers that make no progress.

        Raises TimeoutError after ``timeout`` seconds, :class:`PublicationError` for a timestamp never assigned.
        """
        if timestamp is None or timestamp <= self._published:
            return
        self._require_assigned(timestamp)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # In case who should have done it was interrupted.
            self._advance()
            with self._lock:
                # First registered, then looked; who moves does it the other way round.
                self._waiting += 1
                try:
                    seen = self._published
                    if seen >= timestamp:
                        return
                    patience = HELP_AFTER if self.helper is not None else None
                    if deadline is not None:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            raise TimeoutError(
                                f"timestamp {timestamp} was not published within {timeout} s;"
                                f" the oldest commit not written back is {seen + 1}"
                            )
                        patience = left if patience is None else min(left, patience)
                    self._advanced.wait(patience)
                finally:
                    self._waiting -= 1
                stuck = self._published if self._published == seen else None
            helper = self.helper
            # Outside the lock: writing back may take long, and ends in publish().
            if stuck is not None and stuck < timestamp and helper is not None and helper(stuck + 1):
                self.publish(stuck + 1)

    def assigned(self, timestamp: int) -> None:
        """A verdict has brought ``timestamp``: spares a later ``publish`` the question to the device."""
        if timestamp > self._assigned:
            self._assigned = timestamp

    def interrupted(self) -> bool:
        """Whether the caller is a signal handler that has interrupted its thread while that was moving ``published``.

        Then nothing is published before it has returned.
        """
        return self._moving._is_owned()  # type: ignore[attr-defined,no-any-return]

    def release_leaked(self) -> None:
        """Release what an asynchronous exception has left locked by the calling thread, which is in no method here."""
        release_leaked(self._moving, self._lock)

    def _require_assigned(self, timestamp: int) -> None:
        if timestamp > self._assigned:
            self.assigned(self._last_timestamp())
        if timestamp > self._assigned:
            raise PublicationError(f"timestamp {timestamp} was never assigned; the last one is {self._assigned}")

    def _advance(self) -> None:
        """Move over everything contiguous, or leave it to who is doing that: they look again when they have ended."""
        # A signal handler that publishes leaves it to the thread that it has interrupted.
        while not self.interrupted() and self._moving.acquire(False):
            moved = False
            try:
                here = self._published
                following = self._following(here)
                while following is not None:
                    self._published = following
                    # In this order: see publish().
                    self._written_back.discard(following)
                    self._skips.pop(here, None)
                    here = following
                    following = self._following(here)
                    moved = True
            finally:
                self._moving.release()
            if moved and self._waiting:
                with self._lock:
                    self._advanced.notify_all()
            if self._following(self._published) is None:
                return

    def _following(self, here: int) -> Optional[int]:
        """What ``published`` can become after ``here``."""
        if here in self._skips:
            return self._skips.get(here)
        if here + 1 in self._written_back:
            return here + 1
        if here & self._max_count == self._max_count and here != self._parameters.max_timestamp:
            # Assigning the last count ends the epoch, so (epoch + 1, 0) is the next integer. Not so in the last epoch
            # of all.
            return here + 1
        return None

"""Sleeping until something that was read has changed, without losing a wake-up.

A sleeper first registers and then looks whether what it read is still the newest; a committer first installs and
publishes its writes and then looks who is registered. Whichever comes second sees the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Optional

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.errors import Cancelled
from bloomgate.stm.version import Location

__all__ = ["Cancellation", "Waiting"]


class _Sleeper:
    def __init__(self) -> None:
        self.woken = threading.Event()
        #: Of the commit that woke it; None when it was cancelled.
        self.timestamp: Optional[int] = None

    def wake(self, timestamp: Optional[int]) -> None:
        self.timestamp = timestamp
        self.woken.set()


class Cancellation:
    """Ends the waiting of transactions that were given it: ``atomic(cancel=...)``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sleepers: set[_Sleeper] = set()
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Make every wait under this token raise :class:`~bloomgate.stm.Cancelled`, now and from now on."""
        with self._lock:
            self._cancelled = True
            sleepers = list(self._sleepers)
        for sleeper in sleepers:
            sleeper.wake(None)

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled("the transaction was cancelled while it waited")


class Waiting:
    """Who sleeps on which location."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Empty when nobody sleeps: committers look at no more than that.
        self.sleepers: dict[Location, set[_Sleeper]] = {}

    def sleep(self, attempt: Attempt, deadline: Optional[float], cancel: Optional[Cancellation]) -> Optional[int]:
        """Wait until a commit has written something that ``attempt`` read; returns its timestamp.

        None at ``deadline`` (time.monotonic(), seconds). Raises :class:`~bloomgate.stm.Cancelled`.
        """
        sleeper = _Sleeper()
        locations = list(attempt.reads)
        try:
            with self._lock:
                for location in locations:
                    self.sleepers.setdefault(location, set()).add(sleeper)
            if cancel is not None:
                with cancel._lock:
                    cancel._sleepers.add(sleeper)
                cancel._check()
            timestamp = attempt.changed_since()
            if timestamp is not None:
                return timestamp
            if not sleeper.woken.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return None
            if cancel is not None:
                cancel._check()
            return sleeper.timestamp
        finally:
            if cancel is not None:
                with cancel._lock:
                    cancel._sleepers.discard(sleeper)
            with self._lock:
                for location in locations:
                    others = self.sleepers.get(location)
                    if others is not None:
                        others.discard(sleeper)
                        if not others:
                            del self.sleepers[location]

    def wake(self, locations: Iterable[Location], timestamp: int) -> None:
        """Wake who sleeps on one of ``locations``; all of the commit is published."""
        with self._lock:
            sleepers = {sleeper for location in locations for sleeper in self.sleepers.get(location, ())}
        for sleeper in sleepers:
            sleeper.wake(timestamp)

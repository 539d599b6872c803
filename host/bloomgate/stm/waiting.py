"""Waiting until something that was read has changed, without losing a wake-up.

A sleeper first registers and then looks whether what it read is still the newest; a committer first installs and
publishes its writes and then looks who is registered. Whichever comes second sees the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.limits import Allowance
from bloomgate.stm.version import Location

__all__ = ["Parking", "Waiting"]


class Parking:
    """One who waits."""

    def __init__(self, waiting: Waiting, attempt: Attempt, woken: Callable[[], object]) -> None:
        self._waiting = waiting
        self._locations = list(attempt.reads)
        self._woken = woken
        #: Of the commit that woke it.
        self.timestamp: Optional[int] = None

    def wake(self, timestamp: int) -> None:
        """Call ``woken``. A commit that was interrupted may do so again."""
        self.timestamp = timestamp
        self._woken()

    def enter(self) -> None:
        """Begin to wait."""
        with self._waiting._lock:
            for location in self._locations:
                self._waiting.sleepers.setdefault(location, set()).add(self)

    def leave(self) -> None:
        """Wait no more. Idempotent."""
        sleepers = self._waiting.sleepers
        with self._waiting._lock:
            for location in self._locations:
                others = sleepers.get(location)
                if others is not None:
                    others.discard(self)
                    if not others:
                        del sleepers[location]


class Waiting:
    """Who waits for which location."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Empty when nobody waits: committers look at no more than that.
        self.sleepers: dict[Location, set[Parking]] = {}

    def park(self, attempt: Attempt, woken: Callable[[], object]) -> Parking:
        """Have ``woken`` called, in any thread, when a commit has written something that ``attempt`` read.

        That may happen before this returns, and more than once, until the caller leaves.
        """
        parking = Parking(self, attempt, woken)
        try:
            parking.enter()
            timestamp = attempt.changed_since()
            if timestamp is not None:
                parking.wake(timestamp)
        except BaseException:
            parking.leave()
            raise
        return parking

    def sleep(self, attempt: Attempt, allowance: Optional[Allowance]) -> Optional[int]:
        """Wait until a commit has written something that ``attempt`` read; returns its timestamp.

        None when the allowance is used up. Raises :class:`~bloomgate.stm.Cancelled`.
        """
        woken = threading.Event()
        parking = self.park(attempt, woken.set)
        try:
            if allowance is None:
                woken.wait()
            else:
                deadline = allowance.deadline()
                with allowance.waking(woken.set):
                    woken.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                    allowance.check()
            return parking.timestamp
        finally:
            parking.leave()

    def wake(self, locations: Iterable[Location], timestamp: int) -> None:
        """Wake who waits for one of ``locations``; all of the commit is published."""
        with self._lock:
            sleepers = {sleeper for location in locations for sleeper in self.sleepers.get(location, ())}
        for sleeper in sleepers:
            sleeper.wake(timestamp)

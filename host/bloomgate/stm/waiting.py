"""Waiting until something that was read has changed, without losing a wake-up.

A sleeper first registers and then looks whether what it read is still the newest; a committer first installs and
publishes its writes and then looks who is registered. Whichever comes second sees the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Callable, Optional

from bloomgate.stm.alone import alone
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.limits import Allowance
from bloomgate.stm.version import Location

__all__ = ["Parking", "Waiting"]


class Parking:
    """One who waits until a commit has written something that an attempt, which has ended, had read."""

    def __init__(self, waiting: Waiting, attempt: Attempt, woken: Callable[[], object]) -> None:
        """``woken`` is called in any thread: possibly before :meth:`enter` returns, and possibly more than once."""
        self._waiting = waiting
        self._attempt = attempt
        self._woken = woken
        self._left = False
        #: Of the commit that woke it.
        self.timestamp: Optional[int] = None

    def enter(self) -> None:
        """Begin to wait, unless :meth:`leave` was called before."""
        try:
            with self._waiting._lock:
                if self._left:
                    return
                for location in self._attempt.reads:
                    self._waiting.sleepers.setdefault(location, set()).add(self)
            if alone.active is not None:
                alone.end(alone.active)
            # What was changed in place has no timestamp. Nobody is alone any more while somebody waits.
            in_place = alone.count != self._attempt.eras
            timestamp = self._attempt.snapshot if in_place else self._attempt.changed_since()
            if timestamp is not None:
                self.wake(timestamp)
        except BaseException:
            self.leave()
            raise

    def wake(self, timestamp: int) -> None:
        """Something has changed. A commit that was interrupted may say so again."""
        self.timestamp = timestamp
        self._woken()

    def leave(self) -> None:
        """Wait no more. Idempotent."""
        sleepers = self._waiting.sleepers
        with self._waiting._lock:
            self._left = True
            for location in self._attempt.reads:
                others = sleepers.get(location)
                if others is not None:
                    others.discard(self)
                    if not others:
                        del sleepers[location]


def _wait(attempt: Attempt, parking: Parking, woken: threading.Event, deadline: Optional[float]) -> None:
    if attempt.shared is not None:
        timestamp = attempt.shared.wait(attempt, woken, deadline)
        if timestamp is not None:
            parking.wake(timestamp)
    else:
        woken.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))


class Waiting:
    """Who waits for which location."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Empty when nobody waits: committers look at no more than that.
        self.sleepers: dict[Location, set[Parking]] = {}

    def sleep(self, attempt: Attempt, allowance: Optional[Allowance]) -> Optional[int]:
        """Wait until a commit has written something that ``attempt`` read; returns its timestamp.

        None when the allowance is used up. Raises :class:`~bloomgate.stm.Cancelled`.
        """
        woken = threading.Event()
        parking = Parking(self, attempt, woken.set)
        try:
            parking.enter()
            if allowance is None:
                _wait(attempt, parking, woken, None)
            else:
                deadline = allowance.deadline()
                with allowance.waking(woken.set):
                    _wait(attempt, parking, woken, deadline)
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

    def wake_all(self) -> None:
        """Have everybody look again: the device is another one now."""
        with self._lock:
            sleepers = set().union(*self.sleepers.values())
        for sleeper in sleepers:
            # Everything is published as far as 0.
            sleeper.wake(0)

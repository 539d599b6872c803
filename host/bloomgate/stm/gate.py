"""A lock for sections that every thread passes all the time."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Gate"]

#: Seconds after which a waiter looks by itself: an exception may have taken away the one who had been woken.
_LOOK_AGAIN = 0.01
#: Times that a waiter is overtaken before it waits in the lock itself, where nobody overtakes it.
_PATIENCE = 16


class _Waiter:
    __slots__ = ("waits", "woken")

    def __init__(self) -> None:
        self.waits = True
        self.woken = threading.Lock()
        self.woken.acquire()


class Gate:
    """A lock that is never handed to a thread which is not running.

    Python's own locks are: who waits for one has it as soon as it is free, but still needs the GIL, which the thread
    that freed it keeps. That one comes back before the switch, finds the lock taken, and from then on every passage
    costs two switches between threads. Here a waiter sleeps beside the lock, is woken when it is free, and takes it if
    it is still free when it runs.
    """

    def __init__(self) -> None:
        #: For rare passages, which may wait in it. Reentrant only because such a lock knows its owner.
        self.lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()

    def enter(self) -> None:
        """Pass into the section; to be followed by :meth:`leave`."""
        if not self.lock.acquire(False):
            self._wait()

    def leave(self) -> None:
        """Leave the section."""
        self.lock.release()
        while self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return
            if waiter.waits:
                waiter.woken.release()
                return

    def _wait(self) -> None:
        for _ in range(_PATIENCE):
            waiter = _Waiter()
            # First in the queue, then a look; who leaves does it the other way round.
            self._waiters.append(waiter)
            try:
                if self.lock.acquire(False):
                    return
                waiter.woken.acquire(True, _LOOK_AGAIN)
            finally:
                waiter.waits = False
            if self.lock.acquire(False):
                return
        self.lock.acquire()

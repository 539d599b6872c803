"""The irrevocable token: at most one transaction holds it, and those who want it get it in the order they asked."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable, Optional

from bloomgate.stm.limits import Allowance

__all__ = ["Token"]


class Token:
    """A fair lock, owned by objects rather than threads."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        # Not "with self._changed": its __enter__ is Python, and an asynchronous exception at its end leaks the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def acquire(self, owner: object, allowance: Optional[Allowance] = None) -> bool:
        """Wait for one's turn; false when the allowance is used up. Whatever happens, ``release`` it.

        Raises :class:`~bloomgate.stm.Cancelled`.
        """
        with self._lock:
            self._queue.append(owner)
            if self._queue[0] is owner:
                return True
        return self._wait_until(lambda: self._queue[0] is owner, allowance)

    def release(self, owner: object) -> None:
        """Give it back, or leave the queue; does nothing for one that is not in it."""
        with self._lock:
            if owner in self._queue:
                self._queue.remove(owner)
                self._changed.notify_all()

    def wait_for_release(self, owner: object, allowance: Optional[Allowance] = None) -> bool:
        """Wait until ``owner`` does not hold it any more; false when the allowance is used up.

        Raises :class:`~bloomgate.stm.Cancelled`.
        """
        return self._wait_until(lambda: not self._queue or self._queue[0] is not owner, allowance)

    def _wait_until(self, condition: Callable[[], bool], allowance: Optional[Allowance]) -> bool:
        if allowance is None:
            with self._lock:
                while not condition():
                    self._changed.wait()
            return True
        deadline = allowance.deadline()
        # A cancellation takes its own lock first and this one second, so that it is registered outside of this one.
        with allowance.waking(self._look_again):
            with self._lock:
                while not condition():
                    allowance.check()
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._changed.wait(left)
        return True

    def _look_again(self) -> None:
        with self._lock:
            self._changed.notify_all()

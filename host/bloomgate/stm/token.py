"""The irrevocable token: at most one transaction holds it, and those who want it get it in the order they asked."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Optional

__all__ = ["Token"]


class Token:
    """A fair lock, owned by objects rather than threads."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        # Not "with self._changed": its __enter__ is Python, and an asynchronous exception at its end leaks the lock.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def acquire(self, owner: object, deadline: Optional[float] = None) -> bool:
        """Wait for one's turn, until ``deadline`` (time.monotonic(), seconds). Whatever happens, ``release`` it."""
        with self._lock:
            self._queue.append(owner)
            while self._queue[0] is not owner:
                if not self._wait(deadline):
                    return False
        return True

    def release(self, owner: object) -> None:
        """Give it back, or leave the queue; does nothing for one that is not in it."""
        with self._lock:
            if owner in self._queue:
                self._queue.remove(owner)
                self._changed.notify_all()

    def wait_for_release(self, owner: object, deadline: Optional[float] = None) -> bool:
        """Wait until ``owner`` does not hold it any more; false when it still does at ``deadline``."""
        with self._lock:
            while self._queue and self._queue[0] is owner:
                if not self._wait(deadline):
                    return False
        return True

    def _wait(self, deadline: Optional[float]) -> bool:
        if deadline is None:
            self._changed.wait()
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        self._changed.wait(left)
        return True

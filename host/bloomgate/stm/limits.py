"""For how long a transaction may wait, and who can end its waiting."""

from __future__ import annotations

import numbers
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple, Optional

from bloomgate.stm.errors import Cancelled

__all__ = ["NO_LIMITS", "Allowance", "Cancellation", "Limits", "limits_of", "require_seconds"]


class Cancellation:
    """Ends the waiting of transactions that were given it: ``atomic(cancel=...)``."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may cancel what its own thread has begun to wait for.
        self._lock = threading.RLock()
        self._wakers: list[Callable[[], object]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Make every wait under this token raise :class:`~bloomgate.stm.Cancelled`, now and from now on."""
        with self._lock:
            self._cancelled = True
            wakers = list(self._wakers)
        for wake in wakers:
            wake()

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled("the transaction was cancelled while it waited")

    def _watch(self, wake: Callable[[], object]) -> None:
        with self._lock:
            self._wakers.append(wake)

    def _forget(self, wake: Callable[[], object]) -> None:
        """Idempotent."""
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)


class Limits(NamedTuple):
    """What ``atomic`` was given."""

    #: Seconds for a whole call, as far as it waits.
    timeout: Optional[float] = None
    cancel: Optional[Cancellation] = None


NO_LIMITS = Limits()


def require_seconds(timeout: object) -> None:
    """Raises TypeError for what is no number of seconds, nor None."""
    if timeout is not None and not isinstance(timeout, numbers.Real):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")


def limits_of(timeout: Optional[float], cancel: Optional[Cancellation]) -> Limits:
    """What ``atomic`` is given, checked. Raises TypeError."""
    require_seconds(timeout)
    if cancel is not None and not isinstance(cancel, Cancellation):
        raise TypeError(f"cancel must be a Cancellation, not {cancel!r}")
    return Limits(timeout, cancel)


class Allowance:
    """What is left of its limits to one call of a transaction, in all its attempts."""

    __slots__ = ("_cancels", "_deadline", "_timeout", "parks", "serialises")

    def __init__(
        self,
        limits: Limits = NO_LIMITS,
        stop: Optional[Cancellation] = None,
        *,
        parks: bool = False,
        serialises: bool = False,
    ) -> None:
        """``stop``: ends its waiting as well as the cancellation among the limits."""
        self._timeout = limits.timeout
        #: None among them: nobody.
        self._cancels = (limits.cancel, stop)
        self._deadline: Optional[float] = None
        #: Whether ``retry`` shall raise :class:`~bloomgate.stm.errors.Parked` instead of keeping the thread.
        self.parks = parks
        #: Whether :class:`~bloomgate.stm.errors.Serialise` may be raised.
        self.serialises = serialises

    def deadline(self, timeout: Optional[float] = None) -> Optional[float]:
        """Until when to wait (time.monotonic(), seconds), counted from the first wait of the call; None: for ever.

        ``timeout`` in seconds counts if the call has none.
        """
        if self._deadline is None:
            timeout = timeout if self._timeout is None else self._timeout
            if timeout is not None:
                self._deadline = time.monotonic() + timeout
        return self._deadline

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Have a cancellation call ``wake`` during a wait. Raises :class:`~bloomgate.stm.Cancelled` before it."""
        forget = self.watch(wake)
        try:
            self.check()
            yield
        finally:
            forget()

    def watch(self, wake: Callable[[], object]) -> Callable[[], object]:
        """Have a cancellation call ``wake`` from now on, until what is returned is called."""
        for cancel in self._cancels:
            if cancel is not None:
                cancel._watch(wake)
        return lambda: self._forget(wake)

    def _forget(self, wake: Callable[[], object]) -> None:
        for cancel in self._cancels:
            if cancel is not None:
                cancel._forget(wake)

    @property
    def cancelled(self) -> bool:
        """Whether waiting has been cancelled."""
        return any(cancel is not None and cancel.cancelled for cancel in self._cancels)

    def check(self) -> None:
        """Raise :class:`~bloomgate.stm.Cancelled` if that has happened."""
        for cancel in self._cancels:
            if cancel is not None:
                cancel._check()

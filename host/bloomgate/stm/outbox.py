"""What transactions ask of an event loop: it happens when they have committed, in the order of their commits."""

from __future__ import annotations

import functools
from typing import Any, Callable

from bloomgate.stm.atomic import run
from bloomgate.stm.commute import commute
from bloomgate.stm.context import here
from bloomgate.stm.errors import Serialise, TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.runtime import runtime
from bloomgate.stm.turn import Turn
from bloomgate.stm.tvar import TVar
from bloomgate.stm.version import IN_PLACE

__all__ = ["Outbox", "Outlet", "needs_loop", "serial", "transacting"]


def transacting() -> bool:
    """Whether the caller is in a transaction other than a turn, which may run in parallel with the loop."""
    tx = here.tx
    return tx is not None and not isinstance(tx, Turn)


class _Request:
    """A call that the loop shall make once."""

    __slots__ = ("call", "made")

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.made = False


class Outbox:
    """Requests of committed transactions. Appending commutes, so that transactions do not conflict by it."""

    def __init__(self, wake: Callable[[], object]) -> None:
        """``wake()``: there are requests; called in any thread, possibly more often than necessary."""
        self._wake = wake
        self._requests: TVar[tuple[_Request, ...]] = TVar((), "outbox of an event loop")

    def put(self, call: Callable[[], object]) -> None:
        """Have the loop make a call when the transaction of the caller commits."""
        commute(self._requests, "append", _Request(call))
        on_commit(self._wake)

    def deliver(self) -> None:
        """Make the calls of what is visible by now. On the loop's thread, at any time."""
        for request in runtime.peek(self._requests):
            self._make(request)

    def empty(self) -> None:
        """The same, and forget them. Outside of transactions."""
        for request in run(self._take):
            self._make(request)

    @property
    def waiting(self) -> bool:
        """Whether there may be something to deliver."""
        head = self._requests._head
        return bool(runtime.peek(self._requests) if head is IN_PLACE else head.value)

    def _take(self) -> tuple[_Request, ...]:
        requests, self._requests.value = self._requests.value, ()
        return requests

    @staticmethod
    def _make(request: _Request) -> None:
        if not request.made:
            request.made = True
            request.call()


def serial() -> None:
    """From here on the callback needs the loop's thread: there it is run again, irrevocably, from its beginning.

    For a callback that is about to use what is not transactional. Does nothing in a callback that runs there already.
    Raises :class:`~bloomgate.stm.TransactionError` in a transaction that no event loop runs, and outside of one.
    """
    tx = here.tx
    if isinstance(tx, Turn):
        return
    if tx is None or here.allowance is None or not here.allowance.serialises:
        raise TransactionError("serial() must be called in a transaction that an event loop runs")
    if tx.irrevocable:
        raise TransactionError("serial() must come before irrevocable(), which promises that nothing is run again")
    raise Serialise


def needs_loop(owner: type, *names: str) -> None:
    """Have methods of a class call :func:`serial` when a transaction calls them."""
    for name in names:
        setattr(owner, name, _needing_loop(getattr(owner, name)))


def _needing_loop(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if transacting():
            serial()
        return original(self, *args, **kwargs)

    return method


class Outlet:
    """Stands for an object of an event loop, such as a transport, in callbacks that run as transactions.

    Commands happen on the loop's thread when the transaction commits, in the order in which it gave them, and return
    None. Queries are answered at once. Any other method has the callback run again on the loop's thread.
    """

    def __init__(
        self, target: Any, later: Callable[..., object], commands: frozenset[str], queries: frozenset[str]
    ) -> None:
        """``later(function)``: has the loop call a function, at commit within a transaction."""
        self._target = target
        self._later = later
        self._commands = commands
        self._queries = queries

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not transacting() or name in self._queries or not callable(value):
            return value
        if name not in self._commands:
            return _needing_loop(lambda self, *args, **kwargs: value(*args, **kwargs)).__get__(self)

        def command(*args: Any, **kwargs: Any) -> None:
            self._later(functools.partial(value, *args, **kwargs))

        return command

    def __repr__(self) -> str:
        return f"<outlet of {self._target!r}>"

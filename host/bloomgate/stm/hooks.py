"""What to call when a transaction has ended: ``on_commit`` and ``on_abort``."""

from __future__ import annotations

import functools
import operator
from typing import Any, Callable, Optional

from bloomgate.stm.attempt import Attempt, Hooks
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError

__all__ = ["finish", "on_abort", "on_commit"]

#: Not Python, so that no asynchronous exception comes between taking a hook and calling it.
_CALL = operator.methodcaller("__call__")


def _hooks() -> Hooks:
    tx = here.tx
    if tx is None:
        raise TransactionError("on_commit() and on_abort() must be called within a transaction")
    hooks = tx.hooks
    if hooks is None:
        hooks = tx.hooks = Hooks()
    return hooks


def on_commit(function: Callable[..., object], *args: Any) -> None:
    """Call ``function(*args)`` once, outside of any transaction, after this one has been committed and is visible.

    Functions are called in the order in which they were given. An exception of one goes to the caller of the
    transaction, which stays committed, after the others have been called. Within a part that is undone (a nested call
    that raises, an alternative that retries) it is as if it had not been called.
    """
    _hooks().on_commit.append(_call_of("on_commit()", function, args))


def on_abort(function: Callable[..., object], *args: Any) -> None:
    """Call ``function(*args)``, outside of any transaction, when this attempt is not committed: once for each attempt.

    The newest is called first, as one undoes things. If only the part is undone in which it was given, it is called
    when the rest has been committed, before the functions for that which were given later.
    """
    _hooks().on_abort.append(_call_of("on_abort()", function, args))


def _call_of(caller: str, function: Callable[..., object], args: tuple[Any, ...]) -> Callable[[], object]:
    if not callable(function):
        raise TypeError(f"{caller} needs a function and its arguments, not {function!r}")
    return functools.partial(function, *args)


def finish(attempt: Attempt, committed: bool) -> None:
    """Call the hooks of an attempt that has ended: those that have not been, if an exception cut that short before."""
    hooks = attempt.hooks
    if hooks is None:
        return
    if hooks.calls is None:
        hooks.calls = map(_CALL, hooks.on_commit if committed else reversed(hooks.on_abort))
    first: Optional[BaseException] = None
    while True:
        try:
            for _ in hooks.calls:
                pass
            break
        except BaseException as error:
            first = first or error
    attempt.hooks = None
    if first is not None:
        raise first

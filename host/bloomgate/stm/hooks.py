"""What to call when a transaction has ended: ``on_commit`` and ``on_abort``."""

from __future__ import annotations

from typing import Any, Callable, Optional

from bloomgate.stm.attempt import Attempt, Hooks
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError

__all__ = ["finish", "on_abort", "on_commit"]


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
    transaction, which stays committed, after the others have been called.
    """
    _hooks().on_commit.append(lambda: function(*args))


def on_abort(function: Callable[..., object], *args: Any) -> None:
    """Call ``function(*args)``, outside of any transaction, when this attempt is not committed: once for each attempt.

    The newest is called first, as one undoes things.
    """
    _hooks().on_abort.append(lambda: function(*args))


def finish(attempt: Attempt, committed: bool) -> None:
    """Call the hooks of an attempt that has ended."""
    hooks = attempt.hooks
    if hooks is None:
        return
    attempt.hooks = None
    first: Optional[BaseException] = None
    for function in hooks.on_commit if committed else reversed(hooks.on_abort):
        try:
            function()
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first

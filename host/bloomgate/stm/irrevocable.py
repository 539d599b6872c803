"""Transactions that cannot be run again, and what makes that rarely necessary: output that waits for the commit."""

from __future__ import annotations

from typing import Any, TextIO

from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.runtime import runtime

__all__ = ["DeferredOutput", "irrevocable"]


def irrevocable() -> None:
    """From here on the transaction runs once: it may do input and output, and cannot be aborted by others.

    One transaction at a time is irrevocable; others that ask wait for their turn, in the order in which they asked.
    Transactions that change what it has read wait for its end, all others commit meanwhile. What was read before the
    call is validated by it; if that fails, the transaction is run again from its beginning, so that nothing that cannot
    be undone should come before the call. ``retry()`` is an error afterwards. An exception that leaves the transaction
    still takes back what it has written to transactional variables.

    The turn is waited for within the limits of the outermost atomic function: raises
    :class:`~bloomgate.stm.TransactionTimeout` or :class:`~bloomgate.stm.Cancelled`, and nothing has happened.
    """
    tx = here.tx
    if tx is None:
        raise TransactionError("irrevocable() must be called within a transaction")
    if tx.irrevocable:
        return
    if not tx.token:
        runtime.escalate(tx, here.allowance)
    tx.irrevocable = True


class DeferredOutput:
    """A text stream whose output within a transaction is written when that commits, and not at all otherwise.

    >>> out = DeferredOutput(sys.stdout)
    >>> print("transferred", file=out)

    Outside of a transaction it writes at once. Transactions write in the order of their commits as far as that can be
    seen: the output of one that begins after another has ended comes after it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Queue ``text``, or write it outside of a transaction; returns its length in characters."""
        tx = here.tx
        if tx is None or tx.irrevocable:
            return self._stream.write(text)
        on_commit(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, at commit within a transaction."""
        tx = here.tx
        if tx is None or tx.irrevocable:
            self._stream.flush()
        else:
            on_commit(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

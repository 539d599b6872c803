"""Transactions that cannot be run again, and what makes that rarely necessary: output that waits for the commit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, TextIO

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
    be undone should come before the call. ``retry()`` is an error afterwards, but for an ``or_else()`` that begins
    after the call and has another alternative. An exception that leaves the transaction still takes back what it has
    written to transactional variables.

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
    # What comes now cannot be undone, so that no other alternative can be taken.
    tx.alternatives = 0


def _at_once() -> bool:
    """Whether output need not wait: an irrevocable transaction goes on, and has left nothing to its commit before."""
    tx = here.tx
    if tx is None:
        return True
    return tx.irrevocable and not tx.alternatives and not (tx.hooks is not None and tx.hooks.on_commit)


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
        if _at_once():
            return self._stream.write(text)
        on_commit(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, at commit within a transaction."""
        self._call(self._stream.flush)

    def writelines(self, lines: Iterable[str]) -> None:
        """As :meth:`write`, for each of ``lines``."""
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Close the stream, at commit within a transaction."""
        self._call(self._stream.close)

    def _call(self, function: Callable[[], object]) -> None:
        if _at_once():
            function()
        else:
            on_commit(function)

    def __enter__(self) -> DeferredOutput:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

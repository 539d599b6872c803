"""``Transaction``: a transaction with a beginning and an end of its own, for libraries that cannot pass a function."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Callable, Optional

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.errors import ConflictError, TransactionError
from bloomgate.stm.hooks import finish
from bloomgate.stm.runtime import runtime

__all__ = ["Transaction"]


class Transaction:
    """One attempt of the calling thread, as an object.

    >>> for transaction in Transaction.attempts():
    ...     with transaction:
    ...         account.value += 1

    ``attempts()`` yields until one has committed; after some conflicts the attempts hold the irrevocable token, so that
    the loop ends. Without the loop, a conflict raises :class:`~bloomgate.stm.ConflictError` at the end of the ``with``
    block (or from :meth:`commit`), and then the caller has to run all of it again. An exception in the block
    rolls back and goes on. ``retry()`` needs a function that can be run again: here it raises TransactionError.
    """

    #: Conflicts after which ``attempts`` asks for the token.
    _PATIENCE = 8

    def __init__(self) -> None:
        self._attempt: Optional[Attempt] = None
        self._escalate = False
        #: Set by ``attempts``: a conflict is no exception there.
        self._quiet = False
        self._committed = False

    @property
    def committed(self) -> bool:
        """Whether it has been committed."""
        return self._committed

    @classmethod
    def attempts(cls) -> Iterator[Transaction]:
        """Transactions to run the same block in, until one of them has committed."""
        failures = 0
        while True:
            transaction = cls()
            transaction._quiet = True
            transaction._escalate = failures >= cls._PATIENCE
            yield transaction
            if transaction._committed:
                return
            failures += 1

    def begin(self) -> None:
        """Begin on the newest snapshot. Raises TransactionError within another transaction."""
        if here.tx is not None:
            raise TransactionError("an explicit Transaction must not begin within another; use atomic functions there")
        if self._attempt is not None or self._committed:
            raise TransactionError("a Transaction is used only once")
        attempt = runtime.begin()
        try:
            here.tx = attempt
            while not attempt.registered():
                here.tx = attempt = runtime.begin()
            if self._escalate:
                runtime.escalate(attempt)
            attempt.repeatable = False
            self._attempt = attempt
        except BaseException:
            here.tx = None
            runtime.end(attempt)
            raise

    def commit(self) -> None:
        """Make everything visible. Raises :class:`~bloomgate.stm.ConflictError`, and then nothing is."""
        attempt = self._leave()
        committed = False
        try:
            try:
                committed = not (attempt.writes or attempt.commutes) or runtime.commit(attempt)
            finally:
                runtime.end(attempt)
            self._committed = committed
            finish(attempt, committed)
        except BaseException:
            self._committed = committed or (attempt.verdict is not None and attempt.verdict.committed)
            finish(attempt, self._committed)
            raise
        if not committed:
            if runtime.published() <= attempt.snapshot:
                # As in atomic: until then another attempt would lose again.
                runtime.catch_up()
            if not self._quiet:
                raise ConflictError("another transaction has changed what this one has read; run it again")

    def abort(self) -> None:
        """Take everything back."""
        attempt = self._leave()
        runtime.end(attempt)
        finish(attempt, False)

    def run(self, function: Callable[[], object]) -> object:
        """Call ``function`` within this transaction, which goes on afterwards."""
        if self._attempt is None or here.tx is not self._attempt:
            raise TransactionError("the Transaction is not running in this thread")
        return function()

    def _leave(self) -> Attempt:
        attempt = self._attempt
        if attempt is None or here.tx is not attempt:
            raise TransactionError("the Transaction is not running in this thread")
        here.tx = None
        self._attempt = None
        return attempt

    def __enter__(self) -> Transaction:
        self.begin()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if kind is None:
            self.commit()
        elif self._attempt is not None:
            self.abort()

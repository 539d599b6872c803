"""What the STM raises on purpose, and the signals that it uses between its own parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from bloomgate.errors import BloomgateError

if TYPE_CHECKING:
    from bloomgate.stm.attempt import Attempt

__all__ = [
    "Cancelled",
    "CommitFailed",
    "ConflictError",
    "ForbiddenIO",
    "Parked",
    "Reentered",
    "Restart",
    "RetrySignal",
    "Serialise",
    "TransactionError",
    "TransactionTimeout",
]


class TransactionError(BloomgateError):
    """A transaction was used in a way it cannot work."""


class ConflictError(TransactionError):
    """An explicit :class:`~bloomgate.stm.Transaction` met a conflict: run the whole of it again."""


class CommitFailed(TransactionError):
    """The device refused a commit again and again, for reasons other than conflicts."""


class TransactionTimeout(TransactionError, TimeoutError):
    """A transaction waited longer than it was allowed to (seconds)."""


class Cancelled(TransactionError):
    """A waiting transaction was cancelled by its :class:`~bloomgate.stm.Cancellation`."""


class ForbiddenIO(TransactionError):
    """Checking mode: input or output in a transaction that may be run again."""


class Reentered(TransactionError):
    """A signal handler or finaliser began a transaction in the middle of a commit of its own thread."""


# Not Exceptions, so that ``except Exception`` in a transaction does not catch them.


class RetrySignal(BaseException):
    """``retry()``: run the transaction again when something that it read has changed."""

    def __init__(self, timeout: Optional[float]) -> None:
        super().__init__("bloomgate.retry() must be called within bloomgate.atomic")
        #: Seconds.
        self.timeout = timeout


class Restart(BaseException):
    """The transaction cannot go on from its snapshot; run it again on a new one."""


class Parked(BaseException):
    """The transaction waits for a change of what ``attempt`` has read, but not in this thread."""

    def __init__(self, attempt: Attempt, deadline: Optional[float]) -> None:
        super().__init__("an atomic function has to be called by who can park it")
        self.attempt = attempt
        #: time.monotonic(), seconds.
        self.deadline = deadline


class Serialise(BaseException):
    """The call cannot go on as a transaction on a worker; run it on the thread of its event loop."""

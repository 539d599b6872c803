"""Software transactional memory for threads: blocks of code that run in parallel as if one after the other."""

from bloomgate.stm.atomic import atomic, check, in_transaction, or_else, retry
from bloomgate.stm.commute import commute
from bloomgate.stm.containers import TArray, TCounter, TDeque, TDict, TList, TQueue, TSet
from bloomgate.stm.errors import (
    Cancelled,
    CommitFailed,
    ConflictError,
    ForbiddenIO,
    TransactionError,
    TransactionTimeout,
)
from bloomgate.stm.explicit import Transaction
from bloomgate.stm.guards import forbid_io, watch
from bloomgate.stm.hooks import on_abort, on_commit
from bloomgate.stm.irrevocable import DeferredOutput, irrevocable
from bloomgate.stm.limits import Cancellation
from bloomgate.stm.queue import TransactionQueue
from bloomgate.stm.report import Conflict, Profile, Report, profile, profile_script, stats
from bloomgate.stm.runtime import use_device
from bloomgate.stm.shared import SharedArray, SharedTVar, Versioned
from bloomgate.stm.tvar import TVar

__all__ = [
    "Cancellation",
    "Cancelled",
    "CommitFailed",
    "Conflict",
    "ConflictError",
    "DeferredOutput",
    "ForbiddenIO",
    "Profile",
    "Report",
    "SharedArray",
    "SharedTVar",
    "TArray",
    "TCounter",
    "TDeque",
    "TDict",
    "TList",
    "TQueue",
    "TSet",
    "TVar",
    "Transaction",
    "TransactionError",
    "TransactionQueue",
    "TransactionTimeout",
    "Versioned",
    "atomic",
    "check",
    "commute",
    "forbid_io",
    "in_transaction",
    "irrevocable",
    "on_abort",
    "on_commit",
    "or_else",
    "profile",
    "profile_script",
    "retry",
    "stats",
    "use_device",
]

watch()

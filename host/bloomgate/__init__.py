"""bloomgate: software transactions whose commits are decided by an FPGA, or by a model of one.

>>> import bloomgate
>>> with bloomgate.open_device("model:") as device:
...     verdict = device.commit(snapshot=device.published, reads=[1, 2], writes=[2])
...     device.publish(verdict.timestamp)
>>> verdict.committed, verdict.timestamp
(True, 1)
"""

from typing import TYPE_CHECKING, Any

from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import (
    BloomgateError,
    BusError,
    CompilerMissing,
    DeviceClosed,
    DeviceInUse,
    DeviceTimeout,
    DeviceUnavailable,
    DeviceURLError,
    KeyRangeError,
    ParameterError,
    PublicationError,
    QueueFull,
    RequestError,
    RequestTooLarge,
    SnapshotRangeError,
    TraceError,
    VersionMismatch,
)
from bloomgate.parameters import Parameters
from bloomgate.reference import ReferenceSTM
from bloomgate.urls import open_device
from bloomgate.verdict import Reason, Verdict

if TYPE_CHECKING:
    from bloomgate.stm import (
        Cancellation,
        Cancelled,
        CommitFailed,
        Conflict,
        ConflictError,
        DeferredOutput,
        ForbiddenIO,
        Profile,
        Report,
        SharedArray,
        SharedTVar,
        TArray,
        TCounter,
        TDeque,
        TDict,
        TList,
        TQueue,
        Transaction,
        TransactionError,
        TransactionQueue,
        TransactionTimeout,
        TSet,
        TVar,
        Versioned,
        atomic,
        check,
        commute,
        forbid_io,
        in_transaction,
        irrevocable,
        on_abort,
        on_commit,
        or_else,
        profile,
        profile_script,
        retry,
        stats,
        use_device,
    )

__all__ = [
    "BloomgateError",
    "BusError",
    "CompilerMissing",
    "Device",
    "DeviceClosed",
    "DeviceInUse",
    "DeviceInfo",
    "DeviceTimeout",
    "DeviceURLError",
    "DeviceUnavailable",
    "KeyRangeError",
    "ParameterError",
    "Parameters",
    "PublicationError",
    "QueueFull",
    "Reason",
    "ReferenceSTM",
    "RequestError",
    "RequestTooLarge",
    "SnapshotRangeError",
    "TraceError",
    "Verdict",
    "VersionMismatch",
    "__version__",
    "open_device",
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

#: The same as in pyproject.toml; a test compares them.
__version__ = "0.1.0"

_STM = frozenset(name for name in __all__ if name not in globals())


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """The names of :mod:`bloomgate.stm`, imported when the first of them is used: many programs need none."""
    if name in _STM:
        from bloomgate import stm

        return getattr(stm, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

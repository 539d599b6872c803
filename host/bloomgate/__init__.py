"""bloomgate: software transactions whose commits are decided by an FPGA, or by a model of one.

>>> import bloomgate
>>> with bloomgate.open_device("model:") as device:
...     verdict = device.commit(snapshot=device.published, reads=[1, 2], writes=[2])
...     device.publish(verdict.timestamp)
>>> verdict.committed, verdict.timestamp
(True, 1)
"""

from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import (
    BloomgateError,
    CompilerMissing,
    DeviceClosed,
    DeviceTimeout,
    DeviceURLError,
    KeyRangeError,
    ParameterError,
    PublicationError,
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

__all__ = [
    "BloomgateError",
    "CompilerMissing",
    "Device",
    "DeviceClosed",
    "DeviceInfo",
    "DeviceTimeout",
    "DeviceURLError",
    "KeyRangeError",
    "ParameterError",
    "Parameters",
    "PublicationError",
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
]

#: The same as in pyproject.toml; a test compares them.
__version__ = "0.1.0"

"""Every exception that bloomgate raises on purpose. Each message says what was wrong and what is allowed."""

__all__ = [
    "BloomgateError",
    "BusError",
    "CompilerMissing",
    "DeviceClosed",
    "DeviceInUse",
    "DeviceTimeout",
    "DeviceURLError",
    "DeviceUnavailable",
    "KeyRangeError",
    "ParameterError",
    "PublicationError",
    "QueueFull",
    "RequestError",
    "RequestTooLarge",
    "SnapshotRangeError",
    "TraceError",
    "VersionMismatch",
]


class BloomgateError(Exception):
    """Base class of all errors below."""


class ParameterError(BloomgateError, ValueError):
    """A geometry parameter is outside its range."""


class DeviceURLError(BloomgateError, ValueError):
    """A device URL has an unknown scheme or query parameter, or a value that does not parse."""


class DeviceClosed(BloomgateError):
    """An operation on a device after ``close()``."""


class BusError(BloomgateError):
    """A register access was answered SLVERR or DECERR."""


class DeviceTimeout(BloomgateError):
    """A device did not answer within its bound (seconds, or clock cycles where it has a clock)."""


class DeviceUnavailable(BloomgateError):
    """There is no such device here, or this user may not use it."""


class DeviceInUse(DeviceUnavailable):
    """A page of the device belongs to another process."""


class VersionMismatch(BloomgateError):
    """The gateware is not bloomgate, or its version or geometry is not the one this host speaks."""


class CompilerMissing(BloomgateError):
    """A compiler that a backend needs is not installed, or failed."""


class RequestError(BloomgateError, ValueError):
    """A commit request that cannot be put on the wire. Nothing was submitted; nothing is lost."""


class KeyRangeError(RequestError):
    """A key is not an integer from 0 to 2**key_bits - 1."""


class SnapshotRangeError(RequestError):
    """A snapshot is not an integer from 0 to the largest timestamp the wire can carry."""


class RequestTooLarge(RequestError):
    """A request has more keys, in all its sets together, than the device can buffer."""


class QueueFull(BloomgateError):
    """All entries of a submission ring, or its room for long logs, are in use: collect a request first."""


class PublicationError(BloomgateError, ValueError):
    """``publish`` or ``wait_published`` of a timestamp that was never assigned."""


class TraceError(BloomgateError, ValueError):
    """A transaction trace file is corrupt, truncated or not a trace."""

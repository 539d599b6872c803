"""What a queue pair needs of its device: a slot's rings as the slot's owner reaches them."""

from __future__ import annotations

import abc
import struct
from collections.abc import Sequence
from typing import Optional

from bloomgate.errors import DeviceClosed, DeviceUnavailable
from bloomgate.parameters import Parameters

__all__ = ["QueuePort"]


class QueuePort(abc.ABC):
    """The rings of one slot. Any thread may collect; one at a time submits or releases."""

    #: Whether :meth:`close` was called, where closing gives something back.
    closed = False

    def __init__(self, parameters: Parameters, window: memoryview) -> None:
        self.parameters = parameters
        #: All of the slot's window, writable.
        self.window = window

    @abc.abstractmethod
    def next_index(self) -> Optional[int]:
        """The ring index of the next submission; None while all entries are in use."""

    @abc.abstractmethod
    def submit(self, words: Sequence[int]) -> None:
        """Put an entry, whose logs are complete, into the ring, and ring the doorbell. Only with a free entry."""

    @abc.abstractmethod
    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        """The payload of a completion, waited for; None if it is not there within ``seconds``."""

    @abc.abstractmethod
    def release(self, index: int) -> None:
        """The completion has been read: its entry and its logs may be used again."""

    def put(self, offset: int, keys: Sequence[int]) -> None:
        """Write a log there. Raises struct.error for what is no 32-bit key."""
        struct.pack_into(f"={len(keys)}I", self.window, offset, *keys)

    def announce(self, position: int, keys: Sequence[int]) -> None:
        """Write keys behind the first ``position`` of the slot's announced log, and move its tail behind them."""
        raise DeviceUnavailable("this way to the device has no announced log")

    def reserve(self, offset: int, size: int) -> None:  # noqa: B027 - memory that is there needs nothing
        """Make sure that a part of the window can be written. Raises OSError if there is no memory."""

    def waited(self, seconds: float) -> None:  # noqa: B027 - a device in this process always answers
        """Called now and then while somebody waits; raises :class:`~bloomgate.errors.DeviceTimeout` after too long."""

    def require_open(self) -> None:
        """Raises :class:`~bloomgate.errors.DeviceClosed` after :meth:`close`, or when its device is closed."""
        if self.closed:
            raise DeviceClosed("the queue pair is closed; open another with device.queue_pair()")

    def close(self) -> None:  # noqa: B027 - not every port has something to give back
        """Give the slot back. Idempotent."""

    def abandon(self) -> None:  # noqa: B027 - as close()
        """In a forked child: as :meth:`close`, but the slot stays the parent's."""

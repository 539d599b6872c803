"""What a queue pair needs of its device: a slot's rings as the slot's owner reaches them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Optional

from bloomgate.parameters import Parameters
from bloomgate.registers import SLOT_PAGE
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

__all__ = ["QueuePort", "payload_of", "verdict_of"]

_VERDICT = SLOT_PAGE.register("VERDICT")
_DONE = _VERDICT["DONE"].mask
_COMMITTED = _VERDICT["COMMITTED"].mask
_TIMESTAMPED = _VERDICT["TIMESTAMPED"].mask
_REASON = _VERDICT["REASON"]
_REQUEST = _VERDICT["REQUEST"]


def payload_of(parameters: Parameters, request: int, verdict: Verdict) -> tuple[int, int, int, int]:
    """The payload of a completion's four beats."""
    word = _DONE | _REQUEST.insert(request)
    epoch = count = 0
    if verdict.committed:
        word |= _COMMITTED
    if verdict.timestamp is not None:
        word |= _TIMESTAMPED
        epoch, count = parameters.epoch_and_count(verdict.timestamp)
    if verdict.reason is not None:
        word |= _REASON.insert(verdict.reason)
    return word, epoch, count, verdict.conflict_key or 0


def verdict_of(parameters: Parameters, payload: Sequence[int]) -> Verdict:
    """The verdict that a completion brings."""
    word, epoch, count, key = payload
    if word & _COMMITTED:
        timestamp = parameters.timestamp(epoch, count) if word & _TIMESTAMPED else None
        return Verdict(True, timestamp, None, None)
    reason = Reason(_REASON.extract(word))
    return Verdict(False, None, reason, key if reason in KEY_REASONS else None)


class QueuePort(abc.ABC):
    """The rings of one slot. Any thread may collect; one at a time submits or releases."""

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

    def reserve(self, offset: int, size: int) -> None:  # noqa: B027 - memory that is there needs nothing
        """Make sure that a part of the window can be written. Raises OSError if there is no memory."""

    def waited(self, seconds: float) -> None:  # noqa: B027 - a device in this process always answers
        """Called now and then while somebody waits; raises :class:`~bloomgate.errors.DeviceTimeout` after too long."""

    def close(self) -> None:  # noqa: B027 - not every port has something to give back
        """Give the slot back. Idempotent."""

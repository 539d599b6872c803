"""A verdict as the four words in which it travels: the first registers of a slot page, the payload of a completion."""

from __future__ import annotations

from collections.abc import Sequence

from bloomgate.parameters import Parameters
from bloomgate.registers import SLOT_PAGE
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

__all__ = ["verdict_of", "words_of"]

_VERDICT = SLOT_PAGE.register("VERDICT")
_DONE = _VERDICT["DONE"].mask
_COMMITTED = _VERDICT["COMMITTED"].mask
_TIMESTAMPED = _VERDICT["TIMESTAMPED"].mask
_REASON = _VERDICT["REASON"]
_REQUEST = _VERDICT["REQUEST"]


def words_of(parameters: Parameters, request: int, verdict: Verdict) -> tuple[int, int, int, int]:
    """The words with which request number ``request`` is answered."""
    flags = _DONE | _REQUEST.insert(request)
    epoch = count = 0
    if verdict.committed:
        flags |= _COMMITTED
    if verdict.timestamp is not None:
        flags |= _TIMESTAMPED
        epoch, count = parameters.epoch_and_count(verdict.timestamp)
    if verdict.reason is not None:
        flags |= _REASON.insert(verdict.reason)
    return flags, epoch, count, verdict.conflict_key or 0


def verdict_of(parameters: Parameters, words: Sequence[int]) -> Verdict:
    """What these words say of a request that is decided."""
    flags, epoch, count, key = words
    if flags & _COMMITTED:
        timestamp = parameters.timestamp(epoch, count) if flags & _TIMESTAMPED else None
        return Verdict(True, timestamp, None, None)
    reason = Reason(_REASON.extract(flags))
    return Verdict(False, None, reason, key if reason in KEY_REASONS else None)

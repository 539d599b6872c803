"""What a device answers to a commit request."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Optional

__all__ = ["KEY_REASONS", "Reason", "Verdict"]


class Reason(IntEnum):
    """Why a request was aborted. The values are the codes of the REASON field on the wire.

    Where several apply, the request gets the first in this order: RESET, REVOKED, BAD_REQUEST, BUS_ERROR, OVERFLOW,
    BUSY, ROLLOVER, then CONFLICT, PARITY or IRREVOCABLE, whichever the first failing key (reads in their order, then
    writes and commutes) has.
    """

    #: A key of the read set may have been committed after the snapshot.
    CONFLICT = 1
    #: The snapshot is from an older epoch.
    ROLLOVER = 2
    #: More keys were written to the slot's apertures than it can buffer.
    OVERFLOW = 3
    #: A memory word with bad parity stood between the request and a certain answer.
    PARITY = 4
    #: The snapshot is newer than the last timestamp, a register write was not a whole word, or a queue entry was not
    #: what it must be.
    BAD_REQUEST = 5
    #: The slot's page was written while its previous request was undecided; that access was dropped.
    BUSY = 6
    #: The device was reset while the request was filled or undecided.
    RESET = 7
    #: The memory answered SLVERR or DECERR where the co-processor fetched the request. It may be submitted again.
    BUS_ERROR = 8
    #: A key of the write or commute set may be in the read set of the slot that holds the irrevocable token.
    IRREVOCABLE = 9
    #: The slot held the irrevocable token, and it was taken away.
    REVOKED = 10


#: Reasons that name a key.
KEY_REASONS = (Reason.CONFLICT, Reason.PARITY, Reason.IRREVOCABLE)


class Verdict(NamedTuple):
    """COMMIT(timestamp) or ABORT(reason, detail)."""

    #: Whether the transaction may make its writes visible.
    committed: bool
    #: The commit timestamp; None for an abort and for a request that writes and commutes nothing.
    timestamp: Optional[int]
    #: Why the request was aborted; None when it was committed.
    reason: Optional[Reason]
    #: On CONFLICT, PARITY and IRREVOCABLE the first failing key in the order of the request, else None.
    conflict_key: Optional[int]

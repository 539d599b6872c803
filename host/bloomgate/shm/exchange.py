"""What goes with a command that a few words do not hold: keys on the way to the server, and what it answers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from bloomgate.shm.layout import EXCHANGE_ANSWER_BYTES
from bloomgate.shm.segment import Segment

__all__ = ["Exchange"]


class Exchange:
    """The exchange of one slot. The slot's owner and the server use it in turns, as commands come and are done."""

    def __init__(self, segment: Segment, slot: int) -> None:
        begin = segment.layout.exchange(slot)
        view = memoryview(segment.map)[begin : begin + segment.layout.exchange_bytes]
        #: For a ``bg_slot_answer``.
        self.answer = view[:EXCHANGE_ANSWER_BYTES]
        #: Operands of a command; or entries of the conflict log.
        self.words = view[EXCHANGE_ANSWER_BYTES:].cast("I")

    def put(self, words: Sequence[int]) -> None:
        """Store so many words."""
        self.words[: len(words)] = memoryview(array("I", words))

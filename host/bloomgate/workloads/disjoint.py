"""Transactions that share nothing: every one has a block of words to itself.

There is no conflict by construction, whatever the number of clients, so every abort is a false one; and as no word
comes twice, nothing is ever overwritten in a filter either. That is the case that a filter finds hardest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from bloomgate.trace import Record
from bloomgate.workloads.memory import Memory, Transaction, executed

__all__ = ["generate"]


def generate(rng: random.Random, transactions: int, size: int, contention: float, read_mix: float) -> Iterator[Record]:
    """``size`` words in each block, all read; a share of ``1 - read_mix`` of them written. ``contention`` must be 0."""
    memory = Memory()
    segment = memory.segment()

    def bodies() -> Iterator[Callable[[Transaction], None]]:
        return (body for _ in range(transactions))

    def body(tx: Transaction) -> None:
        for word in islice(segment, size):
            value = tx.read(word)
            if rng.random() >= read_mix:
                tx.write(word, value + 1)

    return executed(memory, bodies())

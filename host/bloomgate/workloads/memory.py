"""The memory of a modelled program, and the transactions that record what they touch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from bloomgate.trace import Record

__all__ = ["Chooser", "Memory", "Transaction", "executed"]

_Item = TypeVar("_Item")

#: Share of the items that is hot.
HOT_SHARE = 0.01


class Memory:
    """Words with values. Every allocation is a segment of its own, as the objects of a real heap lie apart."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self._segments = 0

    def segment(self) -> Iterator[int]:
        """A new segment: an endless supply of word addresses, one after the other."""
        self._segments += 1
        base = self._segments << 32
        offset = 0
        while True:
            yield base + offset
            offset += 1

    def __getitem__(self, word: int) -> int:
        """The value of a word; 0 when none was stored."""
        return self._values.get(word, 0)

    def __setitem__(self, word: int, value: int) -> None:
        self._values[word] = value


class Transaction:
    """A transaction in progress. A word that it has written is its own: reading it again is no read of others."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        # Dicts, because they keep the order of first use.
        self._reads: dict[int, None] = {}
        self._writes: dict[int, int] = {}

    def read(self, word: int) -> int:
        """The value of a word as this transaction sees it."""
        if word in self._writes:
            return self._writes[word]
        self._reads[word] = None
        return self._memory[word]

    def write(self, word: int, value: int) -> None:
        """Set a word when the transaction commits."""
        self._writes[word] = value

    def add(self, word: int, amount: int) -> None:
        """Read a word and write it, greater by ``amount``."""
        self.write(word, self.read(word) + amount)

    def commit(self) -> Record:
        """Make the writes visible; the record of what was touched."""
        for word, value in self._writes.items():
            self._memory[word] = value
        return Record(tuple(self._reads), tuple(self._writes))


def executed(memory: Memory, bodies: Iterable[Callable[[Transaction], None]]) -> Iterator[Record]:
    """Run transactions one after the other, as a recording of a single thread does."""
    for body in bodies:
        transaction = Transaction(memory)
        body(transaction)
        yield transaction.commit()


class Chooser:
    """Chooses items by chance: with the probability ``contention`` a hot one, else any.

    The hot items are the first hundredth, at least one.
    """

    def __init__(self, rng: random.Random, contention: float) -> None:
        self._rng = rng
        self._contention = contention

    def index(self, count: int) -> int:
        """A number from 0 to ``count - 1``."""
        if self._rng.random() < self._contention:
            count = max(1, int(count * HOT_SHARE))
        return self._rng.randrange(count)

    def distinct(self, count: int, wanted: int) -> list[int]:
        """``wanted`` different numbers from 0 to ``count - 1``, each hot with the same probability."""
        chosen: dict[int, None] = {}
        while len(chosen) < wanted:
            index = self.index(count)
            # When the hot ones are used up, the next one that is left.
            while index in chosen:
                index = (index + 1) % count
            chosen[index] = None
        return list(chosen)

"""Producers and consumers on bounded queues.

A queue is a head and a tail, numbers that only grow, and a ring of cells. A producer reads both ends, and writes the
tail and one to four cells; a consumer reads both ends and the cells, and writes the head. Who meets a full queue
consumes, who meets an empty one produces. A reader looks at the ends and the oldest cell. There are 16 queues.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from bloomgate.trace import Record
from bloomgate.workloads.memory import Chooser, Memory, Transaction, executed

__all__ = ["BATCH", "QUEUES", "Queue", "generate"]

QUEUES = 16
#: Largest number of cells that one transaction fills or empties.
BATCH = 4


class Queue:
    """A ring of ``cells`` cells in memory."""

    def __init__(self, memory: Memory, cells: int) -> None:
        words = list(islice(memory.segment(), 2 + cells))
        self.head, self.tail, self._cells = words[0], words[1], words[2:]

    def _cell(self, position: int) -> int:
        return self._cells[position % len(self._cells)]

    def put(self, tx: Transaction, values: list[int]) -> bool:
        """Append the values; false when there is no room for them."""
        head, tail = tx.read(self.head), tx.read(self.tail)
        if tail - head + len(values) > len(self._cells):
            return False
        for position, value in enumerate(values, tail):
            tx.write(self._cell(position), value)
        tx.write(self.tail, tail + len(values))
        return True

    def take(self, tx: Transaction, count: int) -> list[int]:
        """Remove up to ``count`` values, oldest first."""
        head, tail = tx.read(self.head), tx.read(self.tail)
        end = min(head + count, tail)
        values = [tx.read(self._cell(position)) for position in range(head, end)]
        if values:
            tx.write(self.head, end)
        return values

    def peek(self, tx: Transaction) -> int:
        """The oldest value, or 0 in an empty queue."""
        head, tail = tx.read(self.head), tx.read(self.tail)
        return tx.read(self._cell(head)) if head < tail else 0


def generate(rng: random.Random, transactions: int, size: int, contention: float, read_mix: float) -> Iterator[Record]:
    """``size`` cells in each queue. ``contention`` chooses the queue, ``read_mix`` is the share of readers."""
    memory = Memory()
    queues = [Queue(memory, size) for _ in range(QUEUES)]
    chooser = Chooser(rng, contention)
    numbers = iter(range(1, transactions * BATCH + 1))

    def bodies() -> Iterator[Callable[[Transaction], None]]:
        for _ in range(transactions):
            yield peek if rng.random() < read_mix else change

    def peek(tx: Transaction) -> None:
        queues[chooser.index(QUEUES)].peek(tx)

    def change(tx: Transaction) -> None:
        queue, count = queues[chooser.index(QUEUES)], rng.randint(1, BATCH)
        if rng.random() < 0.5 and queue.take(tx, count):
            return
        if not queue.put(tx, list(islice(numbers, count))):
            queue.take(tx, count)

    return executed(memory, bodies())

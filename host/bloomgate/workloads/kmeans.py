"""K-means clustering: every point is added to the accumulators of the centre nearest to it.

As in STAMP's kmeans (Cao Minh et al., IISWC 2008), the means of the last round are constants, outside of transactions,
and a transaction adds a point of 8 coordinates to the sums and the count of its centre: it reads the point, and reads
and writes 9 accumulators. A reader asks for a mean: it reads the 9 accumulators of a centre. There are few centres, so
these are the conflicts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from bloomgate.trace import Record
from bloomgate.workloads.memory import Chooser, Memory, Transaction, executed

__all__ = ["DIMENSIONS", "Clustering", "generate"]

DIMENSIONS = 8
#: Points are made when they are needed, and used again after this many.
POINTS = 4096
#: Coordinates are integers from 0 to this.
EXTENT = 10_000
#: How far a point lies from the centre of its cluster, at most, in each coordinate.
SPREAD = 1500


class Clustering:
    """The accumulators of some centres in memory: the count of each, then its sums."""

    def __init__(self, memory: Memory, means: list[list[int]]) -> None:
        segment = memory.segment()
        self._means = means
        self.accumulators = [list(islice(segment, 1 + DIMENSIONS)) for _ in means]

    def nearest(self, point: list[int]) -> int:
        """The centre nearest to a point, by the means of the last round."""
        distances = [sum((a - b) ** 2 for a, b in zip(mean, point)) for mean in self._means]
        return distances.index(min(distances))

    def add(self, tx: Transaction, words: list[int]) -> None:
        """Add the point that lies in ``words`` to its centre."""
        point = [tx.read(word) for word in words]
        count, *sums = self.accumulators[self.nearest(point)]
        tx.add(count, 1)
        for word, coordinate in zip(sums, point):
            tx.add(word, coordinate)

    def mean(self, tx: Transaction, centre: int) -> list[int]:
        """The mean of what was added to a centre so far."""
        count, *sums = self.accumulators[centre]
        members = max(1, tx.read(count))
        return [tx.read(word) // members for word in sums]


def generate(rng: random.Random, transactions: int, size: int, contention: float, read_mix: float) -> Iterator[Record]:
    """``size`` centres. ``contention`` chooses a point's cluster, ``read_mix`` is the share of readers."""
    memory = Memory()
    means = [[rng.randint(0, EXTENT) for _ in range(DIMENSIONS)] for _ in range(size)]
    clustering = Clustering(memory, means)
    chooser = Chooser(rng, contention)
    segment = memory.segment()
    points: list[list[int]] = []

    def bodies() -> Iterator[Callable[[Transaction], None]]:
        number = 0
        for _ in range(transactions):
            if rng.random() < read_mix:
                yield mean
                continue
            if len(points) < POINTS:
                points.append(new_point())
            words = points[number % POINTS]
            number += 1
            yield partial(clustering.add, words=words)

    def new_point() -> list[int]:
        words = list(islice(segment, DIMENSIONS))
        for word, coordinate in zip(words, means[chooser.index(size)]):
            memory[word] = coordinate + rng.randint(-SPREAD, SPREAD)
        return words

    def mean(tx: Transaction) -> None:
        clustering.mean(tx, chooser.index(size))

    return executed(memory, bodies())

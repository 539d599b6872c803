"""False dooms: transactions in flight that the slot filters warn of a conflict that exact sets do not know.

The traces are those of ``bench replay``, with 16 clients, each a slot. A transaction begins with the newest published
timestamp, announces all that it reads, and commits after the 15 others have each decided one; so it is looked up by as
many commits as any. An attempt counts as falsely doomed if the device has doomed it and no word that it has read was
written by a commit after its snapshot. The retry of an aborted transaction is another attempt.

Two figures stand beside the one that is measured on ``soft:``:

* *formula*: what is expected of a Bloom filter of K banks of m rows with one hash function each, K m bits in all: a
  key that is not among its n keys hits with probability ``(1 - (1 - 1/m)**n)**K``, and one of l such keys with
  ``1 - (1 - that)**l`` (Bloom, CACM 1970, for a filter in banks). n and l are those of each attempt. It does not know
  of the recency filter, in which a key is queried when it is announced, and takes keys for independent of each other.
* other geometries, with the same hash functions in plain Python: those that need the same block RAM, and a smaller one.

The figures are counts: they do not depend on the machine.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bloomgate import Device, Parameters, open_device
from bloomgate.h3 import H3
from bloomgate.in_flight import SLOT_FILTER_ROWS
from bloomgate.plot import bars
from bloomgate.replay import derive_keys
from bloomgate.slots import Slot
from bloomgate.trace import Record

from bench.replay import sources
from bench.report import Figure, at_most

CLIENTS = 16
GOAL = 0.005

#: Banks and rows: the default, two with as many words, and one with a quarter.
DEFAULT = (Parameters().K, SLOT_FILTER_ROWS)
GEOMETRIES = (DEFAULT, (2, 2048), (8, 512), (4, 256))


class Filter:
    """The slot filter of one transaction, of some geometry."""

    def __init__(self, banks: int, rows: int, keys: Iterable[int]) -> None:
        self._rows_of = _rows_of(banks, rows)
        self._banks: list[set[int]] = [set() for _ in range(banks)]
        for key in keys:
            for bank, row in zip(self._banks, self._rows_of(key), strict=True):
                bank.add(row)

    def hits(self, key: int) -> bool:
        return all(row in bank for bank, row in zip(self._banks, self._rows_of(key), strict=True))


@cache
def _rows_of(banks: int, rows: int) -> Callable[[int], tuple[int, ...]]:
    """Key -> its rows, as in the gateware: the low bits of those of the recency filter."""
    h3 = H3(Parameters(K=banks, D=max(rows, Parameters().D)))

    @cache
    def rows_of(key: int) -> tuple[int, ...]:
        return tuple(row % rows for row in h3.rows(key))

    return rows_of


class Attempt:
    """A transaction in flight."""

    def __init__(self, slot: Slot, device: Device, record: Record) -> None:
        self.slot, self.record = slot, record
        self.reads = derive_keys(record.reads)
        self.writes = derive_keys(record.writes)
        self.filters = {geometry: Filter(*geometry, self.reads) for geometry in GEOMETRIES}
        self.begin(device)

    def begin(self, device: Device) -> None:
        self.snapshot = device.published
        self.slot.begin(self.snapshot)
        self.slot.announce(self.reads)
        #: Keys that others have committed meanwhile.
        self.looked_up: list[int] = []

    def expected(self, banks: int, rows: int) -> float:
        """By the formula, the probability of a false hit."""
        keys = set(self.reads)
        once = (1 - (1 - 1 / rows) ** len(keys)) ** banks
        return 1 - (1 - once) ** sum(key not in keys for key in self.looked_up)


@dataclass
class Count:
    """What came of a trace."""

    attempts: int = 0
    #: Doomed, and an exact set says so too.
    true: int = 0
    #: Doomed, and no exact set does.
    false: int = 0
    #: Exactly in conflict and not doomed: there must be none.
    missed: int = 0
    #: Sum of the probabilities of a false doom of those attempts that have no true conflict.
    expected: float = 0.0
    #: Geometry -> false dooms by its slot filters alone.
    by_geometry: dict[tuple[int, int], int] = field(default_factory=lambda: dict.fromkeys(GEOMETRIES, 0))


def measure(device: Device, records: Iterable[Record]) -> Count:
    """Replay a trace with a slot for each client."""
    count = Count()
    last_writer: dict[int, int] = {}
    source = iter(records)
    slots = [device.open_slot() for _ in range(CLIENTS)]
    in_flight = deque(Attempt(slot, device, record) for slot, record in zip(slots, source, strict=False))
    while in_flight:
        attempt = in_flight.popleft()
        judge(count, attempt, any(last_writer.get(word, 0) > attempt.snapshot for word in attempt.record.reads))
        verdict = attempt.slot.commit(writes=attempt.writes)
        if verdict.timestamp is not None:
            device.publish(verdict.timestamp)
            last_writer.update(dict.fromkeys(attempt.record.writes, verdict.timestamp))
            for other in in_flight:
                other.looked_up += attempt.writes
        if verdict.committed:
            record = next(source, None)
            if record is not None:
                in_flight.append(Attempt(attempt.slot, device, record))
        else:
            attempt.begin(device)
            in_flight.append(attempt)
    for slot in slots:
        slot.close()
    return count


def judge(count: Count, attempt: Attempt, conflicts: bool) -> None:
    """Compare what the device says of an attempt with exact sets."""
    doomed = attempt.slot.doomed is not None
    count.attempts += 1
    if conflicts:
        count.true += doomed
        count.missed += not doomed
        return
    count.false += doomed
    count.expected += attempt.expected(*DEFAULT)
    for geometry, hits in attempt.filters.items():
        count.by_geometry[geometry] += any(hits.hits(key) for key in attempt.looked_up)


def run() -> list[Figure]:
    """Replay everything."""
    return list(_figures())


def _figures() -> Iterator[Figure]:
    kind, traces = sources()
    if kind != "STAMP":
        print("bench: no STAMP traces beside the repository: in_flight uses generated workloads", file=sys.stderr)
    parameters = {"device": "soft:", "clients": CLIENTS, "traces": kind}
    for name, opened in traces.items():
        with open_device("soft:") as device:
            count = measure(device, opened())
        start = f"in_flight.{name}"
        yield Figure(f"{start}.attempts", count.attempts, "attempts", None, parameters)
        yield Figure(f"{start}.missed", count.missed, "attempts", at_most(0), parameters)
        yield Figure(f"{start}.true_dooms", count.true / count.attempts, "1", None, parameters)
        yield Figure(f"{start}.false_dooms", count.false / count.attempts, "1", at_most(GOAL), parameters)
        yield Figure(f"{start}.formula", count.expected / count.attempts, "1", None, parameters)
        for (banks, rows), false in count.by_geometry.items():
            geometry = {"banks": banks, "rows": rows, **parameters}
            yield Figure(f"{start}.filter_{banks}x{rows}", false / count.attempts, "1", None, geometry)


def plot(figures: list[Figure], path: Path) -> None:
    """Draw what was measured beside the formula and the goal, in percent of the attempts."""
    of = {figure.name: 100 * figure.value for figure in figures}
    names = [name.split(".")[1] for name in of if name.endswith(".false_dooms")]
    rates = {
        f"measured, {DEFAULT[0]} banks x {DEFAULT[1]} rows": [of[f"in_flight.{name}.false_dooms"] for name in names],
        "formula for Bloom filters": [of[f"in_flight.{name}.formula"] for name in names],
    }
    title = f"False dooms of {CLIENTS} transactions in flight"
    bars(names, rates, path, title=title, label="% of the attempts", bound=100 * GOAL)

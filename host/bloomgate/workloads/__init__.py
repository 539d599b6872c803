"""Generated traces: small programs whose transactions are recorded word by word.

Every workload takes the same parameters:

* ``transactions``: how many, from 1;
* ``size``: how large the data structure is; what it counts and its range depend on the workload;
* ``contention``, 0 to 1: the probability that a choice falls on a hot item; the hot items are the first hundredth of
  all, at least one; every other choice is uniform;
* ``read_mix``, 0 to 1: the share of transactions that only read (in disjoint: of words that are only read);
* ``seed``, any integer: the same parameters give the same trace, everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Callable, Optional

from bloomgate.errors import ParameterError
from bloomgate.trace import Record
from bloomgate.workloads import bank, disjoint, kmeans, queue, vacation

__all__ = ["DEFAULT_TRANSACTIONS", "MAX_TRANSACTIONS", "WORKLOADS", "Workload", "generate"]

DEFAULT_TRANSACTIONS = 1000
#: A limit so that a typing error does not fill a disk.
MAX_TRANSACTIONS = 10_000_000


@dataclass(frozen=True)
class Workload:
    """A program that makes transactions."""

    name: str
    #: One line.
    summary: str
    #: What ``size`` counts.
    size_of: str
    size: int
    smallest: int
    largest: int
    contention: float
    read_mix: float
    #: Called with random numbers, transactions, size, contention and read_mix.
    records: Callable[[random.Random, int, int, float, float], Iterator[Record]]
    #: The largest contention there can be.
    max_contention: float = 1.0


_ALL = (
    Workload(
        name="bank",
        summary="transfers between accounts, and audits of a branch of 32",
        size_of="accounts",
        size=1024,
        smallest=2,
        largest=1_000_000,
        contention=0.2,
        read_mix=0.2,
        records=bank.generate,
    ),
    Workload(
        name="vacation",
        summary="reservations in tables that are search trees; many words read, few written",
        size_of="items of each of three kinds, and customers",
        size=1024,
        smallest=1,
        largest=100_000,
        contention=0.1,
        read_mix=0.2,
        records=vacation.generate,
    ),
    Workload(
        name="queue",
        summary="producers and consumers on the heads, tails and cells of 16 queues",
        size_of="cells of each queue",
        size=64,
        smallest=queue.BATCH,
        largest=1_000_000,
        contention=0.2,
        read_mix=0.1,
        records=queue.generate,
    ),
    Workload(
        name="kmeans",
        summary="points added to the accumulators of few centres",
        size_of="centres",
        size=40,
        smallest=1,
        largest=1_000,
        contention=0.0,
        read_mix=0.1,
        records=kmeans.generate,
    ),
    Workload(
        name="disjoint",
        summary="no word in two transactions: no conflicts by construction",
        size_of="words of each transaction",
        size=12,
        smallest=1,
        largest=100_000,
        contention=0.0,
        read_mix=0.5,
        records=disjoint.generate,
        max_contention=0.0,
    ),
)

#: All workloads, by name.
WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in _ALL}


def generate(
    name: str,
    *,
    transactions: int = DEFAULT_TRANSACTIONS,
    size: Optional[int] = None,
    contention: Optional[float] = None,
    read_mix: Optional[float] = None,
    seed: int = 1,
) -> Iterator[Record]:
    """The transactions of a workload, made while they are asked for. None: the workload's own default.

    Raises :class:`~bloomgate.errors.ParameterError`, with what is allowed, before anything is made.
    """
    if name not in WORKLOADS:
        raise ParameterError(f"a workload must be one of {', '.join(WORKLOADS)}, not {name!r}")
    workload = WORKLOADS[name]
    size = workload.size if size is None else size
    contention = workload.contention if contention is None else contention
    read_mix = workload.read_mix if read_mix is None else read_mix
    _require(name, "transactions", transactions, 1, MAX_TRANSACTIONS)
    _require(name, f"size ({workload.size_of})", size, workload.smallest, workload.largest)
    if not 0 <= contention <= workload.max_contention:
        if workload.max_contention == 0:
            raise ParameterError(f"{name}: contention must be 0, not {contention}: its transactions share nothing")
        raise ParameterError(f"{name}: contention must be between 0 and 1, not {contention}")
    _require(name, "read_mix", read_mix, 0, 1)
    return workload.records(random.Random(seed), transactions, size, contention, read_mix)


def _require(name: str, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ParameterError(f"{name}: {what} must be between {low} and {high}, not {value}")

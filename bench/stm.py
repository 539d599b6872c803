"""Speed of the STM on ``soft:``: transactions a second, against the PyPI package atomix-stm and between threads.

The rival runs in the same process, in turns with ours; of all repetitions the fastest counts. It is no dependency:
unpack its wheel anywhere and set BLOOMGATE_ATOMIX to that folder (pip download --no-deps --python-version 3.13
--only-binary=:all: atomix-stm). Without it its figures are left out, and a line on standard error says so.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from bloomgate.stm import TVar, atomic, stats, use_device

from bench.report import Figure, at_least

REPETITIONS = 9
READS = (1, 9)
OURS, THEIRS = 2000, 2000
THREADS = 4
#: Transactions of all threads together, with which one thread is compared with several.
CONTENDED = 40_000


def ours(reads: int) -> Callable[[], None]:
    """A transaction that reads so many variables, and reads and writes one more."""
    variables = [TVar(1) for _ in range(reads)]
    target = TVar(0)
    if reads == 1:
        (variable,) = variables

        @atomic
        def transaction() -> None:
            variable.value  # noqa: B018
            target.value += 1

    else:

        @atomic
        def transaction() -> None:
            for variable in variables:
                variable.value  # noqa: B018
            target.value += 1

    return transaction  # type: ignore[no-any-return]


def theirs(atomix: Any, reads: int) -> Callable[[], None]:
    """The same with atomix-stm."""
    references = [atomix.Ref(1) for _ in range(reads)]
    target = atomix.Ref(0)
    read, alter = atomix.read, atomix.alter

    def transaction() -> None:
        for reference in references:
            read(reference)
        alter(target, lambda value: value + 1)

    return atomix.atomically(transaction)  # type: ignore[no-any-return]


def rival() -> Any:
    """The module of atomix-stm, or None."""
    folder = os.environ.get("BLOOMGATE_ATOMIX")
    if folder:
        sys.path.append(folder)
    try:
        return importlib.import_module("atomix_stm")
    except ImportError:
        print("bench: stm: atomix-stm is not here, so nothing is compared with it; see bench/stm.py", file=sys.stderr)
        return None


def seconds(transaction: Callable[[], None], count: int) -> float:
    """For each transaction."""
    begin = time.perf_counter()
    for _ in range(count):
        transaction()
    return (time.perf_counter() - begin) / count


def contended(threads: int) -> float:
    """Transactions a second when all threads count the same variable up."""
    variable = TVar(0)
    start = threading.Barrier(threads + 1)
    each = CONTENDED // threads

    @atomic
    def increment() -> None:
        variable.value += 1

    def work() -> None:
        start.wait()
        for _ in range(each):
            increment()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    rate = each * threads / (time.perf_counter() - begin)
    if variable.value != each * threads:
        raise AssertionError(f"{each * threads} increments made {variable.value}")
    return rate


def run() -> list[Figure]:
    use_device("soft:")
    logging.getLogger("atomix_stm").setLevel(logging.ERROR)
    atomix = rival()
    tools = {} if atomix is None else {"atomix-stm": getattr(atomix, "__version__", None) or _version()}
    figures = []
    for reads, factor in zip(READS, (10, 5), strict=True):
        mine = ours(reads)
        other = None if atomix is None else theirs(atomix, reads)
        best, best_of_other = float("inf"), float("inf")
        for _ in range(REPETITIONS):
            best = min(best, seconds(mine, OURS))
            if other is not None:
                best_of_other = min(best_of_other, seconds(other, THEIRS))
        sizes = {"reads": reads, "read-modify-writes": 1, "threads": 1}
        name = f"stm.transactions_{reads}_read{'s' if reads > 1 else ''}"
        figures.append(Figure(name, 1 / best, "1/s", None, sizes))
        if other is not None:
            figures.append(Figure(f"{name}.atomix", 1 / best_of_other, "1/s", None, sizes, tools))
            figures.append(Figure(f"{name}.ratio", best_of_other / best, "1", at_least(factor), sizes, tools))
    conflicts = stats()["conflicts"]
    single = several = 0.0
    for _ in range(3):
        single = max(single, contended(1))
        several = max(several, contended(THREADS))
    sizes = {"threads": THREADS, "variables": 1, "conflicts": stats()["conflicts"] - conflicts}
    figures.append(Figure("stm.contended_1_thread", single, "1/s"))
    figures.append(Figure(f"stm.contended_{THREADS}_threads", several, "1/s", None, sizes))
    figures.append(Figure("stm.contended.ratio", several / single, "1", at_least(0.7), sizes))
    use_device(None)
    return figures


def _version() -> str:
    try:
        return metadata.version("atomix-stm")
    except metadata.PackageNotFoundError:
        return "unknown"

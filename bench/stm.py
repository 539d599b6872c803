"""What several threads that contend for one variable get done on ``soft:``, against one thread with the same work.

Once as it is, where a thread that has run some transactions without another one in between works in place, and once
with ordinary attempts only, each of which the device decides (``ordinary``).
"""

from __future__ import annotations

import threading
import time

from bloomgate.stm import TVar, atomic, in_place, stats, use_device

from bench.report import Figure, at_least

THREADS = 4
#: Transactions of all threads together.
TRANSACTIONS = 200_000
ORDINARY_TRANSACTIONS = 40_000
#: Of one thread and of several in turns; the best of each counts.
REPETITIONS = 5


def contended(threads: int, transactions: int) -> float:
    """Transactions a second when all threads count the same variable up."""
    variable = TVar(0)
    start = threading.Barrier(threads + 1)
    each = transactions // threads

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


def measure(name: str, transactions: int) -> list[Figure]:
    before = stats()
    single = several = 0.0
    for _ in range(REPETITIONS):
        single = max(single, contended(1, transactions))
        several = max(several, contended(THREADS, transactions))
    after = stats()
    sizes = {
        "threads": THREADS,
        "variables": 1,
        "transactions": transactions,
        # In place, one that was lost to a thread that came counts as another abort.
        "lost": sum(after[kind] - before[kind] for kind in ("conflicts", "other_aborts")) // REPETITIONS,
    }
    return [
        Figure(f"{name}_1_thread", single, "1/s"),
        Figure(f"{name}_{THREADS}_threads", several, "1/s", None, sizes),
        Figure(f"{name}.ratio", several / single, "1", at_least(0.7), sizes),
    ]


def run() -> list[Figure]:
    use_device("soft:")
    figures = measure("stm.contended", TRANSACTIONS)
    in_place.ENABLED = False
    figures += measure("stm.contended_ordinary", ORDINARY_TRANSACTIONS)
    in_place.ENABLED = True
    use_device(None)
    return figures

"""What several threads that contend for one variable get done on ``soft:``, against one thread with the same work."""

from __future__ import annotations

import threading
import time

from bloomgate.stm import TVar, atomic, stats, use_device

from bench.report import Figure, at_least

THREADS = 4
#: Transactions of all threads together.
TRANSACTIONS = 40_000
#: Of one thread and of several in turns; the best of each counts.
REPETITIONS = 5


def contended(threads: int) -> float:
    """Transactions a second when all threads count the same variable up."""
    variable = TVar(0)
    start = threading.Barrier(threads + 1)
    each = TRANSACTIONS // threads

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
    conflicts = stats()["conflicts"]
    single = several = 0.0
    for _ in range(REPETITIONS):
        single = max(single, contended(1))
        several = max(several, contended(THREADS))
    use_device(None)
    sizes = {
        "threads": THREADS,
        "variables": 1,
        "transactions": TRANSACTIONS,
        "conflicts": (stats()["conflicts"] - conflicts) // REPETITIONS,
    }
    return [
        Figure("stm.contended_1_thread", single, "1/s"),
        Figure(f"stm.contended_{THREADS}_threads", several, "1/s", None, sizes),
        Figure("stm.contended.ratio", several / single, "1", at_least(0.7), sizes),
    ]

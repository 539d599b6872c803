"""Transactions on shared arrays: two processes on disjoint data against one, on the same ``shm:`` device.

Both cores have to be free for it: the figures of a busy machine say little. What runs in one process and what runs in
two alternate; of all repetitions the fastest of each counts. Every run is verified: each element has been counted up
exactly as often as it should be.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bloomgate import SharedArray, atomic, use_device
from bloomgate.shm.segment import remove

from bench.report import Figure, at_least

TRANSACTIONS = 500
REPETITIONS = 80
#: Elements of each process, far enough from those of the others.
STRIDE = 64


def member(name: str, number: int) -> None:
    """A process: says that it is ready, then for each line that it reads does its transactions, and says so."""
    use_device(f"shm:{name}")
    array = SharedArray("counters")
    source, target = number * STRIDE, number * STRIDE + 1

    @atomic
    def transaction() -> None:
        array[source]
        array[target] += 1

    print("ready", flush=True)
    for _ in sys.stdin:
        begin = time.monotonic()
        for _ in range(TRANSACTIONS):
            transaction()
        print(begin, time.monotonic(), flush=True)


def rate(members: list[subprocess.Popen[str]]) -> float:
    """Transactions a second of so many members together."""
    for process in members:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    times = []
    for process in members:
        assert process.stdout is not None
        times.append([float(number) for number in process.stdout.readline().split()])
    return len(members) * TRANSACTIONS / (max(end for _, end in times) - min(begin for begin, _ in times))


def run() -> list[Figure]:
    name = f"bench-{os.getpid()}"
    members: list[subprocess.Popen[str]] = []
    use_device(f"shm:{name}")
    try:
        array = SharedArray("counters", 2 * STRIDE)
        for number in range(2):
            command = [sys.executable, "-c", f"from bench.shm_array import member; member({name!r}, {number})"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            members.append(process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise AssertionError("a member did not begin")
        one = two = 0.0
        for _ in range(REPETITIONS):
            one = max(one, rate(members[:1]))
            two = max(two, rate(members))
        for process in members:
            process.communicate(timeout=60)
        counts = array[1], array[STRIDE + 1]
        if counts != (2 * REPETITIONS * TRANSACTIONS, REPETITIONS * TRANSACTIONS):
            raise AssertionError(f"the members have counted to {counts}")
    finally:
        for process in members:
            process.kill()
            process.wait()
        use_device(None)
        remove(name)
    parameters = {"transaction": "2 reads, 1 write", "transactions": TRANSACTIONS, "best of": REPETITIONS}
    return [
        Figure("shm_array.one_process", one, "transactions/s", parameters=parameters),
        Figure("shm_array.two_processes", two, "transactions/s", parameters=parameters),
        Figure("shm_array.two_to_one", two / one, "1", at_least(1.8), {**parameters, "processors": os.cpu_count()}),
    ]

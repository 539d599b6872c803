"""Transactions on shared arrays: two processes on disjoint data against one, on the same ``shm:`` device.

Both cores have to be free for it, which nobody can promise. So repetitions are short, those of one process and of two
alternate, their members begin at the same moment, and only those count in which no member was taken off its processor
or came late to it (as the kernel counts involuntary switches; waiting for each other is no such thing), and in which a
loop without memory, right behind the transactions, took each of them as long as it takes one alone: the processors of a
virtual machine may be threads of one core, or be shared with other machines, unknown to the kernel. The figures are
medians of these repetitions, in time that passes. ``cpu_per_transaction`` is what a transaction costs a processor; it
hardly depends on others, and shows caches that the processes fight for, but no waiting. Every run is verified: each
element has been counted up exactly as often as it should be. On a busy machine, ``chrt -f 5`` before the command helps.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from bloomgate import SharedArray, atomic, use_device
from bloomgate.shm.segment import remove

from bench.report import Figure, at_least

TRANSACTIONS = 200
#: Undisturbed repetitions of each kind that are enough; seconds after which fewer have to do; and how many those are.
ENOUGH = 60
PATIENCE = 60.0
FEWEST = 5
#: Seconds from the order to begin until the moment to begin, and what is too late.
NOTICE = 0.002
LATE = 0.0002
#: Rounds of the loop that tells how fast the processor is, and how much longer than the fastest one is too slow.
ROUNDS = 50_000
SLOW = 1.1
#: Elements of each process, far enough from those of the others.
STRIDE = 64

#: Begin, end, processor time (seconds), involuntary switches, seconds of the loop.
Report = tuple[float, float, float, float, float]


@dataclass
class Runs:
    """Repetitions with so many members."""

    members: int
    #: Of those that were not disturbed: transactions a second, and processor seconds of each transaction.
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    disturbed: int = 0

    def note(self, start: float, reports: list[Report], fastest: float) -> None:
        """What the members say; seconds of the fastest loop of all so far."""
        begins, ends, costs, switches, loops = zip(*reports, strict=True)
        if any(switches) or max(begins) > start + LATE or max(loops) > SLOW * fastest:
            self.disturbed += 1
            return
        self.rates.append(self.members * TRANSACTIONS / (max(ends) - start))
        self.costs.append(sum(costs) / self.members / TRANSACTIONS)

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "transaction": "2 reads, 1 write",
            "median of": f"{len(self.rates)} undisturbed of {len(self.rates) + self.disturbed}",
            "transactions": TRANSACTIONS,
        }


def member(name: str, number: int) -> None:
    """A process: says that it is ready, then for each moment that it reads does its transactions, and says when."""
    use_device(f"shm:{name}")
    array = SharedArray("counters")
    source, target = number * STRIDE, number * STRIDE + 1

    @atomic
    def transaction() -> None:
        array[source]
        array[target] += 1

    print("ready", flush=True)
    for line in sys.stdin:
        start = float(line)
        while time.monotonic() < start:
            pass
        begin = time.monotonic()
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        cost = time.process_time()
        for _ in range(TRANSACTIONS):
            transaction()
        cost = time.process_time() - cost
        end = time.monotonic()
        for _ in range(ROUNDS):
            pass
        loop = time.monotonic() - end
        print(begin, end, cost, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches, loop, flush=True)


def repeat(runs: Runs, members: list[subprocess.Popen[str]], fastest: float) -> float:
    """Once with the first of the members. Seconds of the fastest loop of all so far, and with this one."""
    start = time.monotonic() + NOTICE
    for process in members[: runs.members]:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    reports = []
    for process in members[: runs.members]:
        assert process.stdout is not None
        begin, end, cost, switches, loop = (float(number) for number in process.stdout.readline().split())
        reports.append((begin, end, cost, switches, loop))
        fastest = min(fastest, loop)
    runs.note(start, reports, fastest)
    return fastest


def run() -> list[Figure]:
    name = f"bench-{os.getpid()}"
    members: list[subprocess.Popen[str]] = []
    one, two = Runs(1), Runs(2)
    repetitions = 0
    fastest = float("inf")
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
        deadline = time.monotonic() + PATIENCE
        while min(len(one.rates), len(two.rates)) < ENOUGH and time.monotonic() < deadline:
            fastest = repeat(one, members, fastest)
            fastest = repeat(two, members, fastest)
            repetitions += 1
        for process in members:
            process.communicate(timeout=60)
        counts = array[1], array[STRIDE + 1]
        if counts != (2 * repetitions * TRANSACTIONS, repetitions * TRANSACTIONS):
            raise AssertionError(f"the members have counted to {counts}")
    finally:
        for process in members:
            process.kill()
            process.wait()
        use_device(None)
        remove(name)
    if min(len(one.rates), len(two.rates)) < FEWEST:
        raise AssertionError(f"both processors were free in {len(two.rates)} of {repetitions} repetitions: too few")
    rates = [statistics.median(runs.rates) for runs in (one, two)]
    costs = [statistics.median(runs.costs) * 1e6 for runs in (one, two)]
    processors = {"processors": os.cpu_count()}
    return [
        Figure("shm_array.one_process", rates[0], "transactions/s", parameters=one.parameters),
        Figure("shm_array.two_processes", rates[1], "transactions/s", parameters=two.parameters),
        Figure("shm_array.two_to_one", rates[1] / rates[0], "1", at_least(1.8), {**two.parameters, **processors}),
        Figure("shm_array.cpu_per_transaction.one_process", costs[0], "us", parameters=one.parameters),
        Figure("shm_array.cpu_per_transaction.two_processes", costs[1], "us", parameters=two.parameters),
    ]

"""A process of the tests of shared transactions: ``python -m tests.shm.member SEGMENT WHAT ARGUMENT...``."""

import json
import os
import random
import sys
import time
from typing import Any

import bloomgate
from bloomgate.stm.context import here

#: Locations of the array "x" of random programs, and variables that each process has for itself.
LOCATIONS = 3
PRIVATE = 2


class PartFailed(Exception):
    pass


class Program:
    """Transactions of one process, recorded: each a list of steps (kind, place, value)."""

    def __init__(self, array: str, owner: str) -> None:
        x = bloomgate.SharedArray(array, LOCATIONS)
        # By the names that a checker of all processes knows them by.
        self.variables: dict[str, Any] = {f"x{place}": x.variable(place) for place in range(LOCATIONS)}
        self.private = {f"private {number} of {owner}": bloomgate.TVar(0) for number in range(PRIVATE)}
        self.variables.update(self.private)
        self._names = list(self.variables)
        self._owner = owner
        self._attempts: list[tuple[dict[str, Any], Any]] = []
        #: Not later than the snapshot of the attempt that begins next.
        self._moment = 0.0
        self._run = bloomgate.atomic(self._attempt)
        self._fail = bloomgate.atomic(self._part)

    def transaction(self, steps: list[tuple[str, int, int]]) -> None:
        """Run one, and note what each attempt has seen."""
        begin = len(self._attempts)
        self._moment = time.monotonic()
        self._run(steps)
        ended = time.monotonic()
        for place, (seen, tx) in enumerate(self._attempts[begin:], begin):
            last = place == len(self._attempts) - 1
            # The next attempt has noted there when it was sure that this one had ended.
            seen["ended"] = ended if last else self._attempts[place + 1][0]["ended"]
            seen["committed"] = last
            timestamp = tx.verdict.timestamp if last and tx.verdict is not None else None
            # Of an attempt that did not even begin to read there is nothing to check.
            seen["place"] = tx.snapshot if timestamp is None else timestamp

    def report(self) -> dict[str, Any]:
        """All attempts, and what the private variables are now."""
        private = {name: variable.value for name, variable in self.private.items()}
        return {"private": private, "attempts": [seen for seen, _ in self._attempts]}

    def _attempt(self, steps: list[tuple[str, int, int]]) -> None:
        name = f"{len(self._attempts)} of {self._owner}"
        seen: dict[str, Any] = {"name": name, "began": self._moment, "ended": time.monotonic(), "committed": False}
        seen.update(reads={}, writes={}, adds={})
        self._attempts.append((seen, here.tx))
        try:
            for kind, place, value in steps:
                self._step(kind, self._names[place], value, seen["reads"], seen["writes"], seen["adds"])
        finally:
            self._moment = time.monotonic()

    def _step(
        self, kind: str, place: str, value: int, reads: dict[str, int], writes: dict[str, int], adds: dict[str, int]
    ) -> None:
        variable = self.variables[place]
        if kind == "read":
            got = int(variable.value)
            if place in writes:
                assert got == writes[place] + adds.get(place, 0), "does not read its own writes"
            else:
                before = got - adds.get(place, 0)
                assert reads.setdefault(place, before) == before, "an unrepeatable read"
        elif kind == "write":
            variable.value = writes[place] = value
            adds.pop(place, None)
        elif kind == "add":
            bloomgate.commute(variable, "add", 1)
            adds[place] = adds.get(place, 0) + 1
        elif kind == "irrevocable":
            bloomgate.irrevocable()
        elif kind == "fail part":
            try:
                self._fail(variable)
            except PartFailed:
                pass
        else:
            time.sleep(0)

    @staticmethod
    def _part(variable: Any) -> None:
        bloomgate.commute(variable, "add", 7)
        variable.value = -1
        raise PartFailed


def programs(segment: str, owner: str) -> None:
    """For each line with an array, a moment and transactions: run them from then on; answer with what they saw."""
    for line in sys.stdin:
        array, start, transactions = json.loads(line)
        program = Program(array, owner)
        while time.monotonic() < start:
            pass
        for steps in transactions:
            program.transaction(steps)
        print(json.dumps(program.report()), flush=True)


def add(segment: str, count: int) -> None:
    """Count the first element of "x" up."""
    x = bloomgate.SharedArray("x")

    def increment() -> None:
        x[0] += 1

    run = bloomgate.atomic(increment)
    for _ in range(count):
        run()


def hammer(segment: str, first: int = 0) -> None:
    """Change elements of "x", from the first on, for ever."""
    x = bloomgate.SharedArray("x")
    while True:
        x[random.randrange(first, len(x))] = random.getrandbits(40)


def log(segment: str, count: int, path: str) -> None:
    """Write to a file in irrevocable transactions, which count in "x"[0]."""
    x = bloomgate.SharedArray("x")
    with open(path, "a", buffering=1) as file:

        def entry() -> None:
            bloomgate.irrevocable()
            print(os.getpid(), x[0], file=file)
            time.sleep(0)
            x[0] += 1
            print(os.getpid(), "done", file=file)

        run = bloomgate.atomic(entry)
        for _ in range(count):
            run()


def echo(segment: str, count: int) -> None:
    """Answer each number in "ball"[0] by the same one in [1]."""
    ball = bloomgate.SharedArray("ball")
    for number in range(1, count + 1):

        @bloomgate.atomic(timeout=30)
        def answer(number: int = number) -> None:
            bloomgate.check(ball[0] == number)
            ball[1] = number

        answer()


if __name__ == "__main__":
    segment, what, *arguments = sys.argv[1:]
    bloomgate.use_device(f"shm:{segment}")
    globals()[what](segment, *[int(argument) if argument.isdigit() else argument for argument in arguments])

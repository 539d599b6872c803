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


def programs(segment: str, seed: int, count: int) -> None:
    """Random transactions; prints what every attempt saw, one JSON object a line."""
    dice = random.Random(seed)
    x = bloomgate.SharedArray("x", LOCATIONS)
    # By the names that a checker of all processes knows them by.
    variables: dict[str, Any] = {f"x{place}": x.variable(place) for place in range(LOCATIONS)}
    variables.update({f"private {number} of {seed}": bloomgate.TVar(0) for number in range(PRIVATE)})
    attempts: list[tuple[dict[str, object], object]] = []
    moment = [0.0]

    def perform(steps: list[tuple[str, str, int]], name: str) -> None:
        reads: dict[str, int] = {}
        writes: dict[str, int] = {}
        adds: dict[str, int] = {}
        # Its snapshot was taken after the call, or after the attempt before had ended.
        seen = {"name": name, "began": moment[0], "ended": time.monotonic(), "committed": False}
        seen.update(reads=reads, writes=writes, adds=adds)
        attempts.append((seen, here.tx))
        try:
            take(steps, reads, writes, adds)
        finally:
            moment[0] = time.monotonic()

    def take(
        steps: list[tuple[str, str, int]], reads: dict[str, int], writes: dict[str, int], adds: dict[str, int]
    ) -> None:
        for kind, place, value in steps:
            if kind == "read":
                got = int(variables[place].value)
                if place in writes:
                    assert got == writes[place] + adds.get(place, 0), "does not read its own writes"
                else:
                    before = got - adds.get(place, 0)
                    assert reads.setdefault(place, before) == before, "an unrepeatable read"
            elif kind == "write":
                variables[place].value = writes[place] = value
                adds.pop(place, None)
            elif kind == "add":
                bloomgate.commute(variables[place], "add", 1)
                adds[place] = adds.get(place, 0) + 1
            else:
                time.sleep(0)

    run = bloomgate.atomic(perform)
    for number in range(count):
        steps = [
            (dice.choice(("read", "read", "write", "add", "yield")), dice.choice(list(variables)), dice.getrandbits(40))
            for _ in range(dice.randint(1, 6))
        ]
        begin = len(attempts)
        moment[0] = time.monotonic()
        run(steps, f"{seed}.{number}")
        ended = time.monotonic()
        for place, (seen, tx) in enumerate(attempts[begin:], begin):
            last = place == len(attempts) - 1
            # The next attempt has noted there when it was sure that this one had ended.
            seen["ended"] = ended if last else attempts[place + 1][0]["ended"]
            seen["committed"] = last
            timestamp = tx.verdict.timestamp if last and tx.verdict is not None else None
            # Of an attempt that did not even begin to read there is nothing to check.
            seen["place"] = tx.snapshot if timestamp is None else timestamp
    # Also who has written nothing knows what its own variables are in the end.
    last = {name: variable.value for name, variable in variables.items() if name.startswith("private")}
    print(json.dumps(last))
    for seen, _ in attempts:
        print(json.dumps(seen))


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

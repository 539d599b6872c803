"""Programs in several processes: what they saw is strictly serialisable and opaque, by an independent checker.

The transactions read, write and commute variables that all share and some that are each process's own; parts of them
fail, and some are irrevocable.
"""

import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bloomgate import SharedArray
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shm.member import LOCATIONS, PRIVATE
from tests.shm.test_array_transactions import segment
from tests.stm.history_checker import Attempted, NotSerialisable, check_opacity

__all__ = ["segment"]

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = 3
#: Seconds from the order to begin until the beginning.
NOTICE = 0.003
KINDS = ("read", "read", "write", "add", "yield", "fail part", "irrevocable")

Steps = list[tuple[str, int]]

STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, LOCATIONS + PRIVATE - 1))
#: For each process its transactions, which it runs several times over, so that they meet.
PROGRAM = st.lists(
    st.lists(st.lists(STEP, min_size=1, max_size=6), min_size=1, max_size=4), min_size=2, max_size=MEMBERS
)


class Members:
    """Processes that run programs."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "tests.shm.member", name, "programs"]
        self._processes = [
            subprocess.Popen(
                [*command, f"process {number}"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for number in range(MEMBERS)
        ]
        self._numbers = itertools.count()
        self._unique = itertools.count(1000)

    def run(self, program: list[list[Steps]]) -> tuple[list[Attempted], dict[str, int]]:
        """All attempts, and what is in the variables in the end."""
        array = f"x{next(self._numbers)}"
        start = time.monotonic() + NOTICE
        for process, transactions in zip(self._processes, program, strict=False):
            steps = [[(kind, place, next(self._unique)) for kind, place in steps] for steps in transactions]
            assert process.stdin is not None
            process.stdin.write(json.dumps([array, start, steps]) + "\n")
            process.stdin.flush()
        attempts, final = [], {}
        for process, _ in zip(self._processes, program, strict=False):
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            final.update(report["private"])
            attempts += [Attempted(**seen) for seen in report["attempts"]]
        final.update({f"x{place}": value for place, value in enumerate(SharedArray(array))})
        return attempts, final

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def members(segment) -> Iterator[Members]:
    processes = Members(segment)
    yield processes
    processes.close()


def test_any_programs(members) -> None:
    @settings(max_examples=60)
    @given(PROGRAM)
    def these(program: list[list[Steps]]) -> None:
        attempts, final = members.run([transactions * 4 for transactions in program])
        assert check_opacity(attempts, dict.fromkeys(final, 0)) == final

    these()


def test_long_programs(members, seed: int) -> None:
    """Every attempt that fails, and some do, has seen one state; and the checker would find one that has not."""
    dice = random.Random(seed)

    def steps() -> Steps:
        # Few are irrevocable, which never fail.
        kinds = KINDS if dice.random() < 0.1 else KINDS[:-1]
        return [(dice.choice(kinds), dice.randrange(LOCATIONS + PRIVATE)) for _ in range(dice.randint(1, 6))]

    failed = 0
    while not failed:
        attempts, final = members.run([[steps() for _ in range(150)] for _ in range(MEMBERS)])
        assert check_opacity(attempts, dict.fromkeys(final, 0)) == final
        failed += sum(not attempt.committed for attempt in attempts)
    reader = next(attempt for attempt in attempts if attempt.committed and attempt.reads)
    reader.reads[next(iter(reader.reads))] += 1
    with pytest.raises(NotSerialisable):
        check_opacity(attempts, dict.fromkeys(final, 0))

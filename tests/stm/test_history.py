"""Random programs on real threads: what they saw is strictly serialisable and opaque, by an independent checker."""

import itertools
import math
import sys
import threading
import time

import pytest
from bloomgate import stm
from bloomgate.stm import TVar, atomic, commute, irrevocable
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.runtime import runtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stm.core_cases import LIMIT, together
from tests.stm.history_checker import Attempted, NotSerialisable, check_opacity

LOCATIONS = 3
STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(0, LOCATIONS - 1)),
    st.tuples(st.just("write"), st.integers(0, LOCATIONS - 1)),
    st.tuples(st.just("add"), st.integers(0, LOCATIONS - 1)),
    st.tuples(st.sampled_from(["yield", "fail part", "irrevocable", "yield"]), st.just(0)),
)
PROGRAM = st.lists(st.lists(st.lists(STEP, min_size=1, max_size=6), min_size=1, max_size=5), min_size=2, max_size=3)


@pytest.fixture
def often(device):
    """Threads take turns as often as Python can, so that there is something to check."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class PartFailed(Exception):
    pass


class Run:
    """One execution of a program, recorded."""

    def __init__(self) -> None:
        self.variables = [TVar(0, f"x{number}") for number in range(LOCATIONS)]
        #: What was seen, the attempt, and how many others of its thread were committed in place before it.
        self.attempts: list[tuple[Attempted, Attempt, int]] = []
        self.unique = itertools.count(1000, 1000).__next__

    def transaction(self, name: str, steps) -> None:
        mine: list[tuple[Attempted, Attempt, int]] = []
        x = self.variables
        # An attempt begins, for the checker, when nothing of it can have happened yet: its snapshot is older than its
        # first step.
        before = time.perf_counter()

        @atomic
        def body() -> None:
            nonlocal before
            if mine:
                mine[-1][0].ended = time.perf_counter()
            seen = Attempted(f"{name}.{len(mine)}", before)
            mine.append((seen, here.tx, here.tx.era.commits if here.tx.in_place else 0))
            try:
                perform(seen, steps)
            finally:
                before = time.perf_counter()

        def perform(seen: Attempted, steps) -> None:
            for number, (kind, place) in enumerate(steps):
                if kind == "read":
                    value = x[place].value
                    if place in seen.writes:
                        assert value == seen.writes[place] + seen.adds.get(place, 0), "does not read its own writes"
                    else:
                        before = value - seen.adds.get(place, 0)
                        assert seen.reads.setdefault(place, before) == before, "an unrepeatable read"
                elif kind == "write":
                    seen.writes[place] = x[place].value = self.unique()
                    seen.adds.pop(place, None)
                elif kind == "add":
                    commute(x[place], "add", 1)
                    seen.adds[place] = seen.adds.get(place, 0) + 1
                elif kind == "yield":
                    time.sleep(0)
                elif kind == "irrevocable":
                    irrevocable()
                elif kind == "fail part":
                    with pytest.raises(PartFailed):
                        fail(x[(number + 1) % LOCATIONS])

        @atomic
        def fail(variable) -> None:
            commute(variable, "add", 7)
            variable.value = -1
            raise PartFailed

        body()
        returned = time.perf_counter()
        mine[-1][0].ended = returned
        mine[-1][0].committed = True
        self.attempts += mine

    def history(self) -> list[Attempted]:
        for seen, attempt, earlier in self.attempts:
            verdict = attempt.verdict
            if attempt.in_place:
                # Such commits have no timestamp: they come behind that of the state they began with, one by one.
                seen.place = (attempt.snapshot, attempt.eras, earlier + seen.committed)
            elif seen.committed and verdict is not None:
                seen.place = (verdict.timestamp, 0, 0)
            else:
                seen.place = (attempt.snapshot, attempt.eras, math.inf)
        return [seen for seen, _, _ in self.attempts]

    def execute(self, program) -> None:
        start = threading.Barrier(len(program))

        def thread(number: int, transactions):
            def work() -> None:
                start.wait(LIMIT)
                for index, steps in enumerate(transactions):
                    self.transaction(f"{number}.{index}", steps)

            return work

        together(*[thread(number, transactions) for number, transactions in enumerate(program)])

    def check(self) -> None:
        final = check_opacity(self.history(), dict.fromkeys(range(LOCATIONS), 0))
        assert final == {number: variable.value for number, variable in enumerate(self.variables)}


def test_random_programs(often, backend) -> None:
    @settings(max_examples=100 // backend.slowness)
    @given(PROGRAM)
    def on_this_device(program) -> None:
        run = Run()
        run.execute(program)
        run.check()

    on_this_device()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("url", ["soft:?K=2&D=16&timestamp_bits=4&key_bits=6&aperture_depth=16", "soft:"])
def test_contended_programs(url: str, monkeypatch) -> None:
    """Long ones, where every transaction touches everything; also where epochs end and keys collide all the time."""
    stm.use_device(None)
    # The variables of earlier tests are gone, and 4-bit timestamps could not go on where theirs ended.
    monkeypatch.setattr(runtime, "_inherited", 0)
    stm.use_device(url)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        steps = [("read", 0), ("yield", 0), ("write", 1), ("read", 1), ("add", 2), ("read", 2), ("write", 0)]
        for _ in range(20):
            run = Run()
            run.execute([[steps] * 40, [steps[::-1]] * 40, [steps[:2] + [("add", 2)]] * 60])
            run.check()
            if any(not seen.committed for seen, _, _ in run.attempts):
                break
        else:
            raise AssertionError("no attempt failed, so nothing was tested")
    finally:
        sys.setswitchinterval(before)
        stm.use_device(None)


def test_the_checker_can_fail(soft, monkeypatch) -> None:
    """Without validation there are lost updates, and the checker finds them."""
    real = runtime.device.commit
    monkeypatch.setattr(runtime.device, "commit", lambda *, reads, **request: real(reads=(), **request))
    run = Run()
    barrier = threading.Barrier(2)
    x = run.variables[0]

    def lose() -> None:
        seen: list[Attempted] = []

        @atomic
        def update() -> None:
            attempt = Attempted("update", time.perf_counter())
            attempt.reads[0] = x.value
            barrier.wait(LIMIT)
            attempt.writes[0] = x.value = run.unique()
            run.attempts.append((attempt, here.tx, 0))
            seen.append(attempt)

        update()
        seen[-1].ended, seen[-1].committed = time.perf_counter(), True

    together(lose, lose)
    with pytest.raises(NotSerialisable):
        run.check()


def test_timestamps_that_are_too_narrow_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_inherited", 1 << 40)
    with pytest.raises(stm.TransactionError, match="cannot go on after"):
        stm.use_device("soft:?timestamp_bits=4")
    stm.use_device(None)

"""Transactions that change variables of their own process together with shared ones: both change at the same moment."""

import os
import random
import signal
import sys
import threading
import time
from typing import Any

import bloomgate
import pytest
from bloomgate import SharedArray, TDict, TList, TVar, atomic, commute, irrevocable, retry
from bloomgate.shm.array import Commit
from bloomgate.stm.runtime import Runtime, runtime
from bloomgate.stm.shared_part import SharedPart

from tests.shm.test_array_transactions import LIMIT, segment
from tests.stm.core_cases import together
from tests.stm.test_fork import in_child

__all__ = ["segment"]


class Both:
    """A number that is in shared memory and twice in variables of this process, which also have its history."""

    def __init__(self, start: int = 0) -> None:
        self.array = SharedArray(f"both-{time.monotonic_ns()}", 2, initial=[start, start])
        self.written, self.added = TVar(start, "written"), TVar(start, "added")
        self.history: TList[int] = TList(range(1, start + 1))

    @atomic
    def step(self) -> None:
        number = self.array[0] + 1
        self.array[0] = number
        self.array.commute(1, "add", 1)
        self.written.value = number
        commute(self.added, "add", 1)
        self.history.append(number)

    @atomic
    def state(self) -> int:
        states = {self.array[0], self.array[1], self.written.value, self.added.value, len(self.history)}
        assert len(states) == 1, states
        assert list(self.history) == list(range(1, self.array[0] + 1))
        return int(states.pop())


class Stopped:
    """A thread whose step is stopped behind the verdict, which it does not know yet if ``early``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, both: Both, early: bool) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        original = Commit.decide if early else Commit.run

        def stop(request: Commit) -> Any:
            if threading.current_thread() is not self._thread:
                return original(request)
            if early:
                original(request)
            self.reached.set()
            assert self._go.wait(LIMIT)
            return original(request)

        monkeypatch.setattr(Commit, original.__name__, stop)
        self._thread = threading.Thread(target=both.step)

    def __enter__(self) -> None:
        self._thread.start()
        assert self.reached.wait(LIMIT)

    def __exit__(self, *error: object) -> None:
        self._go.set()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def publish_elsewhere(segment: str) -> int:
    """Have another client publish all that was decided; the newest timestamp."""
    with bloomgate.open_device(f"shm:{segment}") as other:
        last = other.last_timestamp()
        other.wait_published(last, LIMIT)
        return last


@pytest.mark.parametrize("early", [True, False], ids=["undelivered", "decided"])
def test_another_process_publishes_first(segment, monkeypatch, early: bool) -> None:
    """From then on everybody here sees the private part too, although its thread has not come to it."""
    both = Both()
    both.step()
    states, running, go = [], threading.Event(), threading.Event()

    @atomic
    def reader() -> int:
        """On a snapshot of before."""
        first = both.state()
        running.set()
        assert go.wait(LIMIT)
        assert both.state() == first
        return first

    old = threading.Thread(target=lambda: states.append(reader()))
    old.start()
    assert running.wait(LIMIT)
    with Stopped(monkeypatch, both, early):
        assert both.state() == 1
        publish_elsewhere(segment)
        assert both.written.value == 2
        assert both.state() == 2
        together(lambda: states.append(both.state()))
        go.set()
        old.join(LIMIT)
    assert states == [2, 1]
    assert both.state() == 2
    both.step()
    assert both.state() == 3
    assert not runtime.device._publication.private_parts


def test_what_comes_before_is_not_what_comes_after(segment, monkeypatch) -> None:
    """Commits of private variables alone, before and behind a stopped one that adds to them."""
    both = Both()
    log: TVar[tuple[int, ...]] = TVar(())

    def append(number: int) -> None:
        commute(log, "append", number)

    step = both.step.__wrapped__  # type: ignore[attr-defined]

    @atomic
    def mixed(self: Both) -> None:
        append(2)
        step(self)

    monkeypatch.setattr(Both, "step", mixed)
    atomic(append)(1)
    with Stopped(monkeypatch, both, early=False):
        atomic(append)(3)
        assert log.value == (1, 2, 3)
        atomic(append)(4)
        assert both.state() == 1
    assert log.value == (1, 2, 3, 4)


def test_who_waits_for_a_private_variable_is_woken(segment, monkeypatch) -> None:
    both = Both()
    woken, sleeping = [], threading.Event()

    @atomic(timeout=LIMIT)
    def wait() -> None:
        if both.written.value == 0:
            sleeping.set()
            retry()
        woken.append(both.state())

    def waker() -> None:
        assert sleeping.wait(LIMIT)
        while not runtime.waiting.sleepers:
            time.sleep(0)
        both.step()

    together(wait, waker)
    assert woken == [1]


def test_whoever_sees_it_wakes_who_waits(segment, monkeypatch) -> None:
    both = Both()
    woken, done = [], threading.Event()

    @atomic(timeout=LIMIT)
    def wait() -> None:
        if both.written.value == 0:
            retry()
        woken.append(both.state())

    sleeper = threading.Thread(target=lambda: (wait(), done.set()))
    sleeper.start()
    while not runtime.waiting.sleepers:
        time.sleep(0)
    with Stopped(monkeypatch, both, early=True):
        publish_elsewhere(segment)
        assert both.state() == 1
        assert done.wait(LIMIT)
    sleeper.join(LIMIT)
    assert woken == [1]


def test_a_thread_dies_between_submission_and_verdict(segment, monkeypatch) -> None:
    """Whoever may not be disturbed has that decided first."""
    both = Both()
    victim = 0

    class Killed(BaseException):
        pass

    def dying(original: Any) -> Any:
        def die(request: Commit) -> Any:
            if threading.get_ident() != victim:
                return original(request)
            assert request.submitted
            raise Killed

        return die

    def thread() -> None:
        nonlocal victim
        victim = threading.get_ident()
        with pytest.raises(Killed):
            both.step()

    monkeypatch.setattr(Commit, "decide", dying(Commit.decide))
    monkeypatch.setattr(Commit, "run", dying(Commit.run))
    monkeypatch.setattr(SharedPart, "_complete", lambda *arguments: None)
    monkeypatch.setattr(Runtime, "_complete", lambda *arguments: None)
    together(thread)
    victim = 0
    seen = []

    @atomic
    def holder() -> None:
        irrevocable()
        seen.append(both.written.value)
        # Another client decides whatever it finds.
        with bloomgate.open_device(f"shm:{segment}") as other:
            other.publish(other.commit(snapshot=other.published, writes=[1]).timestamp)
        publish_elsewhere(segment)
        seen.append(both.added.value)

    holder()
    assert seen == [1, 1]
    assert both.state() == 1


def test_it_waits_for_who_may_not_be_disturbed(segment) -> None:
    both = Both()
    events = []
    begun = threading.Event()

    @atomic
    def holder() -> None:
        irrevocable()
        assert both.written.value == 0
        begun.set()
        together(lambda: atomic(lambda: both.array.commute(1, "add", 0))())  # not disturbed by that
        time.sleep(0.02)
        events.append("holder")

    def disturber() -> None:
        assert begun.wait(LIMIT)
        both.step()
        events.append("step")

    together(holder, disturber)
    assert events == ["holder", "step"]
    assert both.state() == 1


def test_private_writes_with_shared_reads(segment) -> None:
    """It changes nothing that is shared, but depends on it."""
    array, private = SharedArray("a", 1, initial=[1]), TVar(0)
    runs = []

    @atomic
    def copy() -> None:
        runs.append(array[0])
        if len(runs) == 1:
            together(lambda: array.__setitem__(0, 2))
        private.value = array[0]

    copy()
    assert runs == [1, 2]
    assert private.value == 2


def test_parts_are_taken_back_together(segment) -> None:
    both = Both()
    table = TDict(a=1)

    @atomic
    def fail() -> None:
        both.step()
        table["b"] = 2
        del table["a"]
        raise RuntimeError

    @atomic
    def outer() -> None:
        with pytest.raises(RuntimeError):
            fail()
        assert dict(table) == {"a": 1}
        assert both.state() == 0
        both.step()
        table["c"] = both.array[0]

    outer()
    assert both.state() == 1
    assert dict(table) == {"a": 1, "c": 1}


def test_many_threads(segment) -> None:
    both = Both()
    running = [0]

    def steps() -> None:
        for _ in range(60):
            both.step()
        running[0] -= 1

    def watch() -> None:
        while running[0]:
            both.state()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running[0] = 3
        together(steps, steps, steps, watch)
    finally:
        sys.setswitchinterval(before)
    assert both.state() == 180


def test_a_fork_in_the_middle(segment, monkeypatch) -> None:
    """What others can see of a commit, the child has too; it goes on with a state that there was."""
    both = Both()
    both.step()

    def goes_on() -> None:
        assert both.state() == 2
        both.step()
        assert both.state() == 3

    with Stopped(monkeypatch, both, early=True):
        publish_elsewhere(segment)
        in_child(goes_on)
    # The child's variables are its own.
    assert (both.array[0], both.written.value) == (3, 2)


def test_processes_are_killed_and_stopped(segment, seed: int) -> None:
    """Each counts its commits in a private variable, in a shared one of its own and in one that all share."""
    children, transfers = 3, 25
    counts = SharedArray("x", children + 1)
    dice = random.Random(seed)

    def child(number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            # Its predecessor may have died in the middle, and then this waits for the end of that.
            mine: TVar[int] = atomic(lambda: TVar(counts[number]))()

            @atomic
            def count() -> None:
                counts[number] += 1
                counts.commute(children, "add", 1)
                mine.value += 1

            while True:
                count()
                private, shared = atomic(lambda: (mine.value, counts[number]))()
                if private != shared:
                    print(f"{private} != {shared}", file=sys.stderr)
                    os._exit(1)
        finally:
            os._exit(2)

    pids = [child(number) for number in range(children)]
    for _ in range(transfers):
        time.sleep(dice.random() * 0.02)
        *each, total = counts.snapshot()
        assert sum(each) == total
        number = dice.randrange(children)
        if dice.random() < 0.5:
            os.kill(pids[number], signal.SIGSTOP)
            *each, total = counts.snapshot()
            assert sum(each) == total
            os.kill(pids[number], signal.SIGCONT)
        else:
            os.kill(pids[number], signal.SIGKILL)
            assert os.waitstatus_to_exitcode(os.waitpid(pids[number], 0)[1]) == -signal.SIGKILL
            pids[number] = child(number)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for _ in range(3):
        counts.commute(0, "add", 0)
    *each, total = counts.snapshot()
    assert sum(each) == total > 0

"""Irrevocable transactions on shared data: they run once, whatever other processes do, and these go on meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bloomgate
import pytest
from bloomgate import SharedArray, SharedTVar, TransactionTimeout, TVar, aio, atomic, commute, irrevocable
from bloomgate.shm.array import Commit
from bloomgate.stm.runtime import runtime

from tests.shm.served import ServerProcess, new_name, removed
from tests.shm.test_array_transactions import LIMIT, member, output, segment
from tests.stm.core_cases import together

__all__ = ["segment"]


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.0005)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """They are gone in the end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_it_runs_once_while_others_go_on(segment, processes) -> None:
    """One changes the elements that it does not read all the time, another one those that it does until it has."""
    x, rounds = SharedArray("x", 4), 10
    processes += [member(segment, "hammer"), member(segment, "hammer", 2)]
    soon(lambda: all(x))
    runs = []

    @atomic
    def once(first_of_all: bool) -> None:
        if not first_of_all:
            irrevocable()
        seen = x[0], x[1]
        if first_of_all:
            irrevocable()
        runs.append(seen)
        others = x.versioned(2).version, x.versioned(3).version
        soon(lambda: x.versioned(2).version > others[0] and x.versioned(3).version > others[1])
        assert (x.versioned(0).value, x.versioned(1).value) == seen == (x[0], x[1])
        x[1] = -1
        # What nobody has read anybody may change.
        x.commute(3, "max", 1 << 41)

    for number in range(rounds):
        once(False)
        assert len(runs) == number + 1
        assert all(process.poll() is None for process in processes)
    # What was read before the call may have been changed until then, once or more often.
    once(True)
    assert len(runs) == rounds + 1


def test_it_is_validated_by_the_call(segment) -> None:
    x = SharedArray("x", 1, initial=[1])
    before, after = [], []

    @atomic
    def copy() -> None:
        before.append(x[0])
        if len(before) == 1:
            together(lambda: x.__setitem__(0, 2))
        irrevocable()
        after.append(x[0])

    copy()
    assert (before, after) == ([1, 2], [2])


def test_members_take_turns(segment, processes, tmp_path: Path) -> None:
    """What they write into a file is not mixed, and each has read what the one before has written."""
    SharedArray("x", 2)
    log = tmp_path / "log"
    log.touch()
    processes += [member(segment, "log", 30, log) for _ in range(3)]
    for process in processes:
        output(process)
    lines = log.read_text().splitlines()
    assert len(lines) == 2 * 90
    for number, (begin, end) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        process, _, count = begin.partition(" ")
        assert int(count) == number
        assert end == f"{process} done"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=lambda end: end.name)
def test_its_process_dies_or_stops(segment, end: signal.Signals) -> None:
    """Dead, it is in nobody's way. Stopped, it is in the way of those who want to change what it has read."""
    x, private = SharedArray("x", 2), TVar(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:

        @atomic
        def hold() -> None:
            irrevocable()
            x[0] += 1
            os.write(writer, b"x")
            time.sleep(LIMIT if end == signal.SIGKILL else 0.1)

        hold()
        os._exit(0)

    @atomic(timeout=0.02)
    def change() -> None:
        x[0] += 10

    @atomic(timeout=0.02)
    def change_both() -> None:
        x[0] += 10
        private.value += 1

    @atomic(timeout=0.02)
    def also_irrevocable() -> None:
        x[1]
        irrevocable()

    try:
        assert os.read(reader, 1) == b"x"
        os.kill(child, end)
        if end == signal.SIGSTOP:
            os.waitpid(child, os.WUNTRACED)
            x[1] = 1
            for blocked in (change, change_both, also_irrevocable):
                with pytest.raises(TransactionTimeout, match="of another process was in the way"):
                    blocked()
            assert (x[0], private.value) == (0, 0)
            os.kill(child, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-end if end == signal.SIGKILL else 0)
    finally:
        os.close(reader)
        os.close(writer)
    change()
    change_both()
    also_irrevocable()
    assert (x[0], private.value) == (21 if end == signal.SIGSTOP else 20, 1)


def test_it_dies_before_its_commit_is_decided(segment, monkeypatch) -> None:
    """That commit is decided before anybody may change what it has read."""
    x = SharedArray("x", 1)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Commit, "run", lambda request: os.kill(os.getpid(), signal.SIGKILL))

        @atomic
        def increment() -> None:
            irrevocable()
            x[0] += 1

        increment()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert x[0] == 0

    @atomic(timeout=LIMIT)
    def change() -> None:
        x[0] += 10

    change()
    with bloomgate.open_device(f"shm:{segment}") as other:
        # The slot of the dead one: what is left there is decided now.
        assert other.slot != runtime.device.slot
    assert x[0] == 11


def test_an_exception_takes_it_back(segment) -> None:
    x = SharedArray("x", 1)

    @atomic
    def fail() -> None:
        irrevocable()
        x[0] = 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert x[0] == 0
    x[0] = 2
    assert x[0] == 2


def test_nothing_makes_it_fail(segment) -> None:
    """The device would abort any other transaction for these."""
    x, private = SharedArray("x", 1), TVar(0)

    @atomic
    def increment(disturb: Callable[[], None]) -> None:
        irrevocable()
        x[0] += 1
        private.value += 1
        disturb()

    for disturb in (runtime.device.reset, runtime.device.raise_floor):
        increment(disturb)
    assert x[0] == private.value == 2


def test_with_private_variables_on_both_sides(segment) -> None:
    """Threads of this process count in both kinds, irrevocably and not."""
    x, private = SharedArray("x", 1), TVar(0)

    def count() -> None:
        x[0] += 1
        commute(private, "add", 1)

    def irrevocably() -> None:
        irrevocable()
        count()

    def repeat(function: Callable[[], None]) -> Callable[[], None]:
        return lambda: [atomic(function)() for _ in range(50)] and None

    together(*map(repeat, (count, count, irrevocably, irrevocably)))
    assert x[0] == private.value == 200


def test_steps_of_generators_and_tasks(segment) -> None:
    """They cannot be run again, and use shared data all the same."""
    variable, private = SharedTVar(0), TVar(0)

    @atomic
    def steps() -> Iterator[float]:
        for _ in range(2):
            variable.value += 1
            yield variable.value

    async def task() -> None:
        for number in range(3, 6):
            variable.value += 1
            private.value += 1
            assert variable.value == number
            await asyncio.sleep(0)
        private.value += 1
        variable.commute("add", 1)

    assert list(steps()) == [1, 2]
    aio.run(task())
    assert (variable.value, private.value) == (6, 4)


def test_a_child_knows_nothing_of_it(segment) -> None:
    """The token belongs to the parent alone, although another of its threads has it during the fork."""
    x = SharedArray("x", 1)

    @atomic
    def hold() -> None:
        irrevocable()
        x[0] += 1
        together(fork)

    def fork() -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with pytest.raises(TransactionTimeout):
                    atomic(timeout=0.02)(lambda: x.__setitem__(0, x[0] + 1))()
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    hold()
    assert x[0] == 1


def test_a_segment_with_a_server(processes) -> None:
    """The same, where another process decides with another device."""
    with removed(new_name()) as name:
        server = ServerProcess(name, "model:?D=64")
        try:
            bloomgate.use_device(f"shm:{name}")
            x = SharedArray("x", 3)
            processes += [member(name, "hammer"), member(name, "hammer", 2)]
            soon(lambda: all(x))
            runs: list[float] = []

            @atomic
            def once() -> None:
                irrevocable()
                runs.append(x[0])
                before = x.versioned(2).version
                soon(lambda: x.versioned(2).version > before)
                assert x.versioned(0).value == runs[-1]
                x[0] = 0

            for _ in range(3):
                once()
            assert len(runs) == 3
        finally:
            bloomgate.use_device(None)
            server.kill()

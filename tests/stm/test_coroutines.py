"""Atomic coroutine functions and ``transact``: on an event loop that knows of transactions, and on asyncio's own."""

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bloomgate import aio, stm
from bloomgate.stm import Cancellation, TQueue, TVar, atomic, check, irrevocable, or_else, retry
from bloomgate.stm.runtime import runtime
from bloomgate.stm.workers import Workers

from tests.stm.core_cases import LIMIT, together


@pytest.fixture(params=["aio", "asyncio"])
def run(request, soft):
    """Runs a coroutine on one of the loops."""
    runner = {"aio": aio.run, "asyncio": asyncio.run}[request.param]
    return lambda main: runner(asyncio.wait_for(main, LIMIT))


async def parked(count: int = 1) -> None:
    """Wait until so many transactions wait for a change."""
    while len(set().union(*runtime.waiting.sleepers.copy().values())) < count:
        await asyncio.sleep(0)


def test_it_runs_on_a_worker_while_the_loop_goes_on(run) -> None:
    inside, go, threads = threading.Event(), threading.Event(), []

    @atomic
    async def slow() -> int:
        threads.append(threading.current_thread())
        inside.set()
        assert go.wait(LIMIT)
        return 5

    async def main() -> int:
        task = asyncio.create_task(slow())
        while not inside.is_set():
            await asyncio.sleep(0)
        go.set()
        return await task

    assert run(main()) == 5
    assert threads[0] is not threading.current_thread()


def test_a_conflict_runs_it_again(run) -> None:
    x, y, attempts = TVar(0), TVar(0), []

    @atomic
    async def disturbed() -> int:
        attempts.append(1)
        value = x.value
        if len(attempts) == 1:
            together(lambda: setattr(x, "value", value + 10))
        y.value = value
        return x.value

    async def main() -> int:
        return await disturbed()

    assert run(main()) == 10
    assert (len(attempts), y.value) == (2, 10)


def test_retry_waits_while_the_loop_goes_on(run) -> None:
    queue: TQueue[int] = TQueue()

    @atomic
    async def get() -> int:
        return queue.get()

    async def main() -> list[int]:
        takers = [asyncio.create_task(get()) for _ in range(20)]
        await parked(20)
        for number in range(20):
            await aio.transact(queue.put, number)
        return sorted(await asyncio.gather(*takers))

    assert run(main()) == list(range(20))


def test_or_else(run) -> None:
    x = TVar(0)

    @atomic
    def first() -> str:
        x.value = 5
        retry()

    @atomic
    async def alternatives() -> str:
        return or_else(first, lambda: f"second {x.value}")

    async def main() -> str:
        return await alternatives()

    assert run(main()) == "second 0"


@pytest.mark.parametrize("how", ["atomic", "retry"])
def test_timeouts(how, run) -> None:
    x = TVar(0)

    @atomic
    async def with_retry() -> None:
        x.value or retry(timeout=0.01)

    @atomic(timeout=0.01)
    async def with_atomic() -> None:
        check(x.value)

    async def main() -> None:
        with pytest.raises(stm.TransactionTimeout):
            await {"atomic": with_atomic, "retry": with_retry}[how]()

    run(main())
    assert not runtime.waiting.sleepers


def test_a_timeout_counts_all_waits_of_a_call(run) -> None:
    """Being woken in between does not start it again."""
    x, woken = TVar(0), []

    @atomic(timeout=0.05)
    async def wait_for_ever() -> None:
        woken.append(x.value)
        check(x.value < 0)

    async def disturb() -> None:
        while True:
            await aio.transact(lambda: setattr(x, "value", x.value + 1))

    async def main() -> None:
        disturber = asyncio.create_task(disturb())
        with pytest.raises(stm.TransactionTimeout):
            await wait_for_ever()
        disturber.cancel()

    run(main())
    assert len(woken) > 1


def test_a_cancellation_ends_it(run) -> None:
    x, cancel = TVar(0), Cancellation()

    @atomic(cancel=cancel)
    async def wait_for_x() -> None:
        check(x.value)

    async def main() -> None:
        task = asyncio.create_task(wait_for_x())
        await parked()
        cancel.cancel()
        with pytest.raises(stm.Cancelled):
            await task

    run(main())


def test_a_cancelled_task_has_no_effect_while_it_waits(run) -> None:
    x, y = TVar(0), TVar(0)

    @atomic
    async def move() -> None:
        y.value += 1
        check(x.value)

    async def main() -> None:
        task = asyncio.create_task(move())
        await parked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not runtime.waiting.sleepers
        x.value = 1

    run(main())
    assert y.value == 0


def test_a_cancelled_task_ends_after_its_transaction(run) -> None:
    """Which is taken back, if it has not reached its commit."""
    x, inside, go = TVar(0), threading.Event(), threading.Event()
    ended = []

    @atomic
    async def slow() -> None:
        x.value += 1
        inside.set()
        assert go.wait(LIMIT)
        ended.append("transaction")

    async def task() -> None:
        try:
            await slow()
        finally:
            ended.append("task")

    async def main() -> None:
        running = asyncio.create_task(task())
        while not inside.is_set():
            await asyncio.sleep(0)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        assert not ended
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(main())
    assert ended == ["transaction", "task"]
    assert x.value == 0


def test_exceptions(run) -> None:
    x = TVar(0)

    @atomic
    async def fail(error: BaseException) -> None:
        x.value += 1
        raise error

    async def main() -> None:
        with pytest.raises(KeyError):
            await fail(KeyError())
        with pytest.raises(RuntimeError, match="StopIteration"):
            await aio.transact(next, iter(()))
        with pytest.raises(asyncio.CancelledError):
            await fail(asyncio.CancelledError())

    run(main())
    assert x.value == 0


def test_suspending_is_refused(run) -> None:
    x = TVar(0)

    @atomic
    async def sleeper() -> None:
        x.value += 1
        await asyncio.sleep(0)

    async def main() -> None:
        with pytest.raises(stm.TransactionError, match=r"sleeper was suspended.*before or after"):
            await sleeper()

    run(main())
    assert x.value == 0


def test_suspending_is_refused_also_where_it_needs_the_loop(run) -> None:
    x = TVar(0)

    @atomic
    async def sleeper(sleep) -> None:
        x.value += 1
        await sleep()

    @atomic
    async def broken(message: str) -> None:
        raise RuntimeError(message)

    async def main() -> None:
        sleeps = (lambda: asyncio.sleep(1), lambda: asyncio.Event().wait(), lambda: asyncio.Queue().get())
        for sleep in sleeps:
            with pytest.raises(stm.TransactionError, match=r"sleeper was suspended.*before or after"):
                await sleeper(sleep)
        for message in ("of the program", "no running event loop, says the program"):
            with pytest.raises(RuntimeError, match=f"^{message}$"):
                await broken(message)
        assert x.value == 0

    run(main())


def test_it_is_a_part_of_the_transaction_that_awaits_it(run) -> None:
    x = TVar(0)

    @atomic
    async def part(error: bool) -> None:
        x.value += 1
        if error:
            raise KeyError

    @atomic
    async def whole() -> None:
        await part(False)
        try:
            await part(True)
        except KeyError:
            x.value += 10
        await aio.transact(lambda: setattr(x, "value", x.value + 100))

    async def main() -> None:
        await whole()

    run(main())
    assert x.value == 111


def test_methods_context_and_irrevocability(run) -> None:
    variable = contextvars.ContextVar("variable", default=0)

    class Account:
        def __init__(self) -> None:
            self.balance = TVar(0)

        @atomic
        async def deposit(self, amount: int) -> int:
            irrevocable()
            self.balance.value += amount
            seen = variable.get()
            variable.set(seen + 1)
            return seen

    async def main() -> None:
        variable.set(5)
        account = Account()
        assert await account.deposit(amount=3) == 5
        assert account.balance.value == 3
        # A transaction may run several times, and so do changes of context variables: they are left behind.
        assert variable.get() == 5

    run(main())


def test_transact_takes_functions_and_keeps_their_limits(run) -> None:
    x = TVar(0)

    @atomic(timeout=0.01)
    def impatient(least: int) -> int:
        check(x.value >= least)
        return x.value

    async def main() -> None:
        with pytest.raises(stm.TransactionTimeout):
            await aio.transact(impatient, least=1)
        assert await aio.transact(impatient, 0) == 0
        assert await aio.transact(lambda: stm.in_transaction())

    run(main())


def test_serial_runs_it_on_the_loops_thread(run) -> None:
    x, threads = TVar(0), []

    @atomic
    async def touch(error: bool) -> int:
        x.value += 1
        aio.serial()
        threads.append(threading.current_thread())
        if error:
            raise KeyError
        return x.value

    async def main() -> None:
        assert await touch(False) == 1
        with pytest.raises(KeyError):
            await touch(True)

    run(main())
    assert set(threads) == {threading.current_thread()}
    assert x.value == 1


def test_it_begins_when_the_step_that_awaits_it_has_ended(run, monkeypatch) -> None:
    """Else it would wait for the step, or not see what the step has done."""
    x, within = TVar(0), []
    submit = Workers.submit
    monkeypatch.setattr(Workers, "submit", lambda *args: (within.append(stm.in_transaction()), submit(*args)))

    @atomic
    async def double() -> int:
        x.value *= 2
        return x.value

    async def main() -> None:
        x.value = 21
        assert await double() == 42
        assert x.value == 42

    run(main())
    assert within == [False]


def test_there_is_no_loop() -> None:
    @atomic
    async def nothing() -> None:
        pass

    coroutine = nothing()
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


def test_waiting_survives_a_change_of_the_device(soft) -> None:
    x, woken = TVar(0), []

    def wait() -> None:
        @atomic
        def wait_for_x() -> int:
            woken.append(x.value)
            check(x.value)
            return x.value

        assert wait_for_x() == 5

    def change() -> None:
        limit = threading.Event()
        while not runtime.waiting.sleepers:
            limit.wait(0.001)
        stm.use_device("model:")
        x.value = 5

    together(wait, change)
    assert woken[-1] == 5


OTHER = """
import sys, bloomgate
bloomgate.use_device(sys.argv[1])
array = bloomgate.SharedArray("array", 2)
print("ready", flush=True)
sys.stdin.read()
array[0] = 7
"""


def test_waiting_for_another_process_needs_no_thread(soft) -> None:
    name = f"test-coroutines-{os.getpid()}"
    stm.use_device(f"shm:{name}")
    array = stm.SharedArray("array", 2)
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, f"shm:{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(stm.__file__).parents[2])},
    )

    @atomic
    async def wait() -> float:
        check(array[0])
        return array[0]

    @atomic(timeout=0.03)
    async def impatient() -> None:
        check(array[1])

    async def main() -> list[float]:
        waiting = [asyncio.create_task(wait()) for _ in range(5)]
        with pytest.raises(stm.TransactionTimeout):
            await impatient()
        other.stdin.close()
        return await asyncio.gather(*waiting)

    try:
        assert other.stdout.readline() == b"ready\n"
        # More transactions than threads.
        assert aio.run(asyncio.wait_for(main(), LIMIT), workers=1) == [7] * 5
        assert other.wait(LIMIT) == 0
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        stm.use_device(None)
        Path(f"/dev/shm/bloomgate-{name}").unlink(missing_ok=True)

"""The asyncio integration: programs that know nothing of it, and callbacks that are transactions on workers."""

import asyncio
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from bloomgate import aio, stm
from bloomgate.stm import TVar, atomic, check, irrevocable, on_commit
from bloomgate.stm.runtime import runtime

from tests.stm import asyncio_programs
from tests.stm.core_cases import LIMIT, together

HERE = Path(__file__).resolve().parent


async def until(condition) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), LIMIT)


def raised(program) -> list[object]:
    """What the callbacks of a coroutine function raise."""
    errors: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        await program()

    aio.run(main())
    return errors


# Programs that were not written for it.


@pytest.mark.parametrize("program", asyncio_programs.PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_a_program_does_what_it_does_elsewhere(program, debug: bool, soft) -> None:
    assert aio.run(program(), debug=debug) == asyncio.run(program(), debug=debug)


def test_programs_on_pypy() -> None:
    pypy = shutil.which("pypy3")
    if pypy is None:
        pytest.skip("no pypy3, so the asyncio integration has not been tried on PyPy: apt-get install pypy3")
    result = subprocess.run(
        [pypy, "-B", "-W", "error", str(HERE / "asyncio_programs.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


# Callbacks that are not atomic: one after the other, once, each a transaction.


def test_a_step_of_a_task_is_a_transaction(device) -> None:
    """Another thread never sees half of a step, and a step never sees half of what another thread does."""
    x, y, stop = TVar(0), TVar(0), threading.Event()
    sums = set()

    async def move() -> None:
        try:
            for _ in range(50):
                x.value += 1
                assert stm.in_transaction()
                y.value -= 1
                await asyncio.sleep(0)
        finally:
            stop.set()

    @atomic
    def transfer() -> None:
        x.value -= 10
        y.value += 10

    def others() -> None:
        while not stop.is_set():
            transfer()
            sums.add(atomic(lambda: x.value + y.value)())

    async def watch() -> None:
        while not stop.is_set():
            before = x.value
            sums.add(before + y.value)
            assert x.value == before
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(move(), watch())

    together(others, lambda: aio.run(main()))
    assert sums == {0}


def test_steps_that_touch_no_variable_are_no_transactions(soft) -> None:
    before = stm.stats()

    async def main() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(20)))

    aio.run(main())
    assert stm.stats() == before


def test_an_exception_leaves_the_effects_of_a_callback(soft) -> None:
    """Those on variables like those on everything else."""
    x, plain = TVar(0), []

    def callback() -> None:
        x.value = 1
        plain.append(1)
        raise KeyError("mine")

    async def program() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)

    (error,) = raised(program)
    assert "callback" in error["message"]
    assert (x.value, plain) == (1, [1])


def test_an_atomic_function_within_a_step_is_undone_by_its_exception(soft) -> None:
    x = TVar(0)

    @atomic
    def fail() -> None:
        x.value = 5
        raise KeyError("mine")

    async def main() -> None:
        x.value = 1
        with pytest.raises(KeyError):
            fail()
        assert x.value == 1

    aio.run(main())
    assert x.value == 1


def test_hooks_run_at_the_end_of_the_step(soft) -> None:
    log = []

    async def main() -> None:
        on_commit(log.append, "hook")
        log.append("step")
        await asyncio.sleep(0)
        log.append("next")

    aio.run(main())
    assert log == ["step", "hook", "next"]


def test_a_fork_before_a_step_touches_a_variable(soft) -> None:
    x = TVar(1)

    async def main() -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert not stm.in_transaction()
                x.value += 1
                status = x.value + 40
            finally:
                os._exit(status)
        await asyncio.sleep(0)
        x.value += 10
        with pytest.raises(stm.TransactionError, match="cannot fork"):
            os.fork()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert aio.run(main()) == 42
    assert x.value == 11


def test_retry_in_a_step_says_what_to_do(soft) -> None:
    async def main() -> None:
        with pytest.raises(stm.TransactionError, match="await"):
            check(False)

    aio.run(main())


# Atomic callbacks: in parallel, on workers.


def test_atomic_callbacks_run_in_parallel(device) -> None:
    x, y = TVar(0), TVar(0)
    barrier = threading.Barrier(2)
    threads = set()

    @atomic
    def callback(variable) -> None:
        barrier.wait(LIMIT)
        threads.add(threading.current_thread().name)
        variable.value += 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(callback, x)
        loop.call_soon(callback, y)
        await until(lambda: x.value + y.value == 2)

    aio.run(main(), workers=2)
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


def test_what_a_transaction_schedules_comes_in_the_order_of_commits(device) -> None:
    """However often the transactions are run, and whichever thread is faster."""
    count, turns = 60, TVar(0)
    log: list[int] = []

    @atomic
    def callback(threadsafe: bool) -> None:
        turns.value += 1
        loop = asyncio.get_running_loop()
        (loop.call_soon_threadsafe if threadsafe else loop.call_soon)(log.append, turns.value)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(count):
            loop.call_soon(callback, number % 2)
        await until(lambda: len(log) == count)

    aio.run(main(), workers=4)
    assert log == list(range(1, count + 1))


def test_what_a_transaction_schedules_comes_before_what_its_reader_schedules(soft, monkeypatch) -> None:
    """Also if the committing thread never comes to waking the loop."""
    x, log = TVar(0), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop._outbox, "_wake", lambda: None)

        @atomic
        def callback() -> None:
            x.value += 1
            loop.call_soon(log.append, ("commit", x.value))

        for number in (1, 2, 3):
            await aio.transact(callback)
            assert x.value == number
            loop.call_soon(log.append, ("reader", number))
        await until(lambda: len(log) == 6)

    aio.run(main())
    assert log == [(who, number) for number in (1, 2, 3) for who in ("commit", "reader")]


def lose_once(x: TVar[int], variable_of_others: TVar[int]):
    """A function for a transaction that is run twice: the first time another thread disturbs it."""
    attempts = []

    def read() -> int:
        attempts.append(1)
        value = variable_of_others.value
        if len(attempts) == 1:
            together(lambda: setattr(variable_of_others, "value", value + 1))
        x.value += 1
        return len(attempts)

    return read


def test_what_an_aborted_attempt_schedules_never_happens(soft) -> None:
    x, other, log = TVar(0), TVar(0), []
    read = lose_once(x, other)

    @atomic
    def callback(end) -> None:
        attempt = read()
        loop = asyncio.get_running_loop()
        loop.call_soon(log.append, ("soon", attempt))
        loop.call_later(0, log.append, ("later", attempt))
        loop.call_at(loop.time(), log.append, ("at", attempt))
        loop.call_soon(log.append, "cancelled").cancel()
        loop.call_later(0, log.append, "cancelled").cancel()
        end.set_result(attempt)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        loop.call_soon(callback, end)
        assert await asyncio.wait_for(end, LIMIT) == 2
        await until(lambda: len(log) == 3)

    aio.run(main())
    assert sorted(log) == [("at", 2), ("later", 2), ("soon", 2)]
    assert (x.value, other.value) == (1, 1)


def test_what_an_undone_part_schedules_never_happens(soft) -> None:
    log = []

    @atomic
    def part() -> None:
        asyncio.get_running_loop().call_soon(log.append, "part")
        raise KeyError

    @atomic
    def callback(end) -> None:
        try:
            part()
        except KeyError:
            asyncio.get_running_loop().call_soon(log.append, "rest")
        end.set_exception(ValueError("set"))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        loop.call_later(0, callback, end)
        with pytest.raises(ValueError, match="set"):
            await asyncio.wait_for(end, LIMIT)

    aio.run(main())
    assert log == ["rest"]


def test_an_exception_of_an_atomic_callback(soft) -> None:
    x = TVar(0)

    @atomic
    def callback() -> None:
        x.value = 1
        asyncio.get_running_loop().call_soon(pytest.fail)
        raise KeyError("mine")

    errors: list[object] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        handle = loop.call_soon(callback)
        await until(lambda: errors)
        assert errors[0]["handle"] is handle

    aio.run(main())
    assert "callback" in errors[0]["message"]
    assert repr(errors[0]["exception"]) == "KeyError('mine')"
    assert x.value == 0


def test_system_exit_in_an_atomic_callback_ends_the_loop(soft) -> None:
    @atomic
    def callback() -> None:
        raise SystemExit(3)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(LIMIT)

    with pytest.raises(SystemExit):
        aio.run(main())


def test_callbacks_that_wait_need_no_worker(device) -> None:
    """More of them than there are threads, and the one that they wait for comes last."""
    turn, log = TVar(0), []

    @atomic
    def callback(number) -> None:
        check(turn.value == number)
        turn.value += 1
        asyncio.get_running_loop().call_soon(log.append, number)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in reversed(range(10)):
            loop.call_soon(callback, number)
        await until(lambda: len(log) == 10)

    aio.run(main(), workers=1)
    assert log == list(range(10))


def test_a_callback_that_waits_can_be_cancelled(soft) -> None:
    go, log, parked = TVar(False), [], threading.Event()

    @atomic
    def callback(name) -> None:
        parked.set()
        check(go.value)
        asyncio.get_running_loop().call_soon(log.append, name)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        handles = [loop.call_soon(callback, name) for name in ("cancelled", "kept")]
        await until(parked.is_set)
        handles[0].cancel()
        go.value = True
        await until(lambda: log)
        await loop.run_in_executor(None, loop.workers.close)

    aio.run(main(), workers=1)
    assert log == ["kept"]


def test_what_is_not_transactional_runs_on_the_loops_thread(soft) -> None:
    """From its beginning, once more, and as a whole."""
    x, log = TVar(0), []

    @atomic
    def callback(use) -> None:
        x.value += 1
        use()
        log.append((use.__name__, threading.current_thread() is threading.main_thread()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def task() -> None:
            log.append("task")

        def serial() -> None:
            aio.serial()

        def create_task() -> None:
            asyncio.get_running_loop().create_task(task())

        def done() -> None:
            future.done()

        def run_in_executor() -> None:
            asyncio.get_running_loop().run_in_executor(None, log.append, "executor")

        for use in (serial, create_task, done, run_in_executor):
            loop.call_soon(callback, use)
        await until(lambda: len(log) == 6)

    aio.run(main())
    assert {"task", "executor"} < set(log)
    assert {entry for entry in log if isinstance(entry, tuple)} == {
        (name, True) for name in ("serial", "create_task", "done", "run_in_executor")
    }
    assert x.value == 4


def test_an_irrevocable_callback(soft) -> None:
    x, log = TVar(0), []

    @atomic
    def callback(end) -> None:
        irrevocable()
        x.value += 1
        log.append(threading.current_thread() is threading.main_thread())
        end.set_result(x.value)
        with pytest.raises(stm.TransactionError, match="before irrevocable"):
            aio.serial()

    async def main() -> int:
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        loop.call_soon(callback, end)
        return await asyncio.wait_for(end, LIMIT)

    assert aio.run(main()) == 1
    assert log == [False]


def test_closing_lets_the_running_end_and_drops_the_rest(soft) -> None:
    x, never, log, inside, go = TVar(0), TVar(0), [], threading.Event(), threading.Event()

    @atomic
    def waiting() -> None:
        check(never.value)

    @atomic
    def running() -> None:
        inside.set()
        assert go.wait(LIMIT)
        x.value += 1

    @atomic
    def queued() -> None:
        log.append("queued")

    loop = aio.EventLoop(workers=1)
    for callback in (waiting, running, queued):
        loop.call_soon(callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert inside.wait(LIMIT)
    threading.Timer(0.01, go.set).start()
    loop.close()
    assert x.value == 1
    assert not log
    assert not runtime.waiting.sleepers
    never.value = 1
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(running)


def test_misuse(soft) -> None:
    with pytest.raises(stm.TransactionError, match="an event loop runs"):
        aio.serial()
    with pytest.raises(stm.TransactionError, match="an event loop runs"):
        atomic(aio.serial)()
    with pytest.raises(ValueError, match="at least 1, not 0"):
        aio.EventLoop(workers=0)

    loop = aio.EventLoop()
    with pytest.raises(stm.TransactionError, match="in the middle of a transaction"):
        atomic(loop.run_forever)()
    loop.close()

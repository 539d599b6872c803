"""Real forks: between transactions, in the middle of those of other threads, and where they are refused."""

import asyncio
import multiprocessing
import os
import pickle
import pty
import random
import signal
import threading
import traceback

import pytest
from bloomgate import aio, stm
from bloomgate.stm import TransactionQueue, TVar, atomic, commute, profile
from bloomgate.stm.context import snapshots
from bloomgate.stm.runtime import runtime

from tests.stm.core_cases import LIMIT, together

# Python 3.12 and newer warn of every fork of a process with threads. That it works here is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def in_child(function) -> None:
    """Fork, call ``function`` in the child, and fail when it does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # Nobody else ends a child that hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2 * LIMIT)
            os.close(reading)
            try:
                function()
                message = ""
            except BaseException:
                message = traceback.format_exc()
            os.write(writing, message.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        message = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not message, message
    assert status == 0, f"the child ended with {status}: it hung"


@pytest.mark.parametrize("url", ["soft:?K=2&D=128", "model:?K=2&D=64", "shm:"])
def test_the_child_opens_a_device_of_its_own_when_it_needs_one(url) -> None:
    if url == "shm:":
        url = f"shm:test-fork-{os.getpid()}"
    stm.use_device(url)
    try:
        x, y = TVar(0), TVar(0)
        for _ in range(5):
            x.value += 1
        before = runtime.device
        backend = before.info().backend

        def child() -> None:
            assert runtime._device is None
            assert len(snapshots) == 1
            assert x.value == 5
            atomic(lambda: (setattr(x, "value", x.value + 1), setattr(y, "value", 1)))()
            assert runtime.device is not before
            assert runtime.device.info().backend == backend
            assert runtime.device.parameters == before.parameters
            together(lambda: setattr(x, "value", x.value + 1))
            assert (x.value, y.value) == (7, 1)
            # And its children theirs.
            in_child(lambda: together(lambda: setattr(x, "value", 0)))
            assert x.value == 7

        in_child(child)
        assert runtime.device is before
        x.value += 1
        assert (x.value, y.value) == (6, 0)
    finally:
        stm.use_device(None)
        if url.startswith("shm:"):
            os.unlink(f"/dev/shm/bloomgate-{url[4:]}")


def test_forks_while_threads_commit(soft, seed) -> None:
    """Whatever they hold or have half done at that moment: the child sees whole transactions and can go on."""
    variables = [TVar(100) for _ in range(4)]
    counter, stop = TVar(0), threading.Event()

    def work(number: int) -> None:
        rng = random.Random(seed + number)

        @atomic
        def move() -> None:
            source, target = rng.sample(variables, 2)
            source.value -= 1
            target.value += 1
            commute(counter, "add", 1)

        while not stop.is_set():
            move()

    def child() -> None:
        assert sum(atomic(lambda: [v.value for v in variables])()) == 400
        before = counter.value
        stopped = stop
        rng = random.Random(1)

        @atomic
        def move() -> None:
            source, target = rng.sample(variables, 2)
            source.value -= 1
            target.value += 1
            commute(counter, "add", 1)

        together(move, move)
        assert counter.value == before + 2
        assert sum(v.value for v in variables) == 400
        assert not stopped.is_set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            in_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
    assert sum(v.value for v in variables) == 400


def test_a_fork_in_a_transaction_is_refused(soft) -> None:
    x = TVar(0)

    def set_and(fork) -> None:
        x.value = 1
        fork()

    context = multiprocessing.get_context("fork")
    process = context.Process(target=print)
    for fork in (os.fork, os.forkpty, pty.fork, process.start):
        with pytest.raises(stm.TransactionError, match="cannot fork in the middle of a transaction"):
            atomic(set_and)(fork)
    for transaction in stm.Transaction.attempts():
        with transaction:
            with pytest.raises(stm.TransactionError, match="cannot fork"):
                os.fork()
    assert x.value == 0


def test_a_fork_in_a_hook(soft) -> None:
    """The transaction has ended then."""
    x = TVar(0)

    def check_child() -> None:
        assert not stm.in_transaction()
        x.value += 1
        assert x.value == 2

    @atomic
    def work() -> None:
        x.value = 1
        stm.on_commit(in_child, check_child)

    work()
    assert x.value == 1


def test_another_threads_transaction_does_not_happen_in_the_child(soft) -> None:
    x, inside, go = TVar(0), threading.Event(), threading.Event()

    @atomic
    def stay() -> None:
        x.value = 5
        inside.set()
        assert go.wait(LIMIT)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(LIMIT)

    def child() -> None:
        assert not stm.in_transaction()
        assert x.value == 0
        x.value += 1
        assert x.value == 1

    in_child(child)
    go.set()
    thread.join(LIMIT)
    assert x.value == 5


def test_an_irrevocable_transaction_of_another_thread_holds_nobody_up(soft) -> None:
    x, inside, go = TVar(0), threading.Event(), threading.Event()

    @atomic
    def stay() -> None:
        stm.irrevocable()
        assert x.value == 0
        inside.set()
        assert go.wait(LIMIT)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(LIMIT)

    @atomic(timeout=LIMIT)
    def change() -> None:
        stm.irrevocable()
        x.value += 1

    in_child(lambda: (change(), together(change)))
    go.set()
    thread.join(LIMIT)


def test_queues_and_loops_in_the_child(soft) -> None:
    """They were in use by threads that the child does not have."""
    queue, x, inside, go = TransactionQueue(threads=2), TVar(0), threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert go.wait(LIMIT)

    def add() -> None:
        x.value += 1

    @atomic
    async def add_in_loop() -> None:
        x.value += 1

    async def main() -> None:
        await add_in_loop()
        await add_in_loop()

    asyncio.run(main())
    queue.add(block)
    running = threading.Thread(target=queue.run)
    running.start()
    assert inside.wait(LIMIT)

    def child() -> None:
        for _ in range(3):
            queue.add(add)
        queue.run()
        assert x.value == 5
        asyncio.run(main())
        aio.run(main())
        assert x.value == 9

    in_child(child)
    go.set()
    running.join(LIMIT)
    assert x.value == 2


def test_a_profile_stays_with_the_parent(soft) -> None:
    x = TVar(0)
    with profile() as recorder:
        in_child(lambda: pytest.fail("somebody records") if runtime.profile else None)
        x.value = 1
    assert recorder.report().commits == 1


def test_what_is_private_does_not_go_to_another_process(soft) -> None:
    """Not by pickling; a child that forks has a copy."""
    x = TVar(1, "balance")
    with pytest.raises(stm.TransactionError, match="balance is private to this process and cannot be pickled"):
        pickle.dumps(x)
    spawned = multiprocessing.get_context("spawn").Process(target=print, args=(x,))
    with pytest.raises(stm.TransactionError, match="send its value instead"):
        spawned.start()
    forked = multiprocessing.get_context("fork").Process(target=setattr, args=(x, "value", 2))
    forked.start()
    forked.join(LIMIT)
    assert forked.exitcode == 0
    assert x.value == 1

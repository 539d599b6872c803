"""TransactionQueue: all calls, once each, as if one after the other."""

import functools
import threading

import pytest
from bloomgate import stm
from bloomgate.stm import TransactionQueue, TVar, atomic
from bloomgate.stm.runtime import runtime

from tests.stm.core_cases import LIMIT, raises, together


def test_every_call_runs_once(device, backend) -> None:
    calls = 10 if backend.slowness > 1 else 200
    queue, total, seen = TransactionQueue(threads=4), TVar(0), []

    def call(number: int) -> None:
        total.value += number
        stm.on_commit(seen.append, number)

    for number in range(calls):
        queue.add(call, number)
    assert len(queue) == calls
    queue.run()
    assert sorted(seen) == list(range(calls))
    assert total.value == sum(range(calls))
    assert queue.executed() == calls
    queue.run()
    assert queue.executed() == calls


def test_calls_put_in_by_calls(soft) -> None:
    queue, leaves = TransactionQueue(threads=3), TVar(0)

    def node(depth: int) -> None:
        if depth:
            queue.add(node, depth - 1)
            queue.add(node, depth - 1)
        else:
            leaves.value += 1

    queue.add(node, 6)
    queue.run()
    assert leaves.value == 64
    assert queue.executed() == 127


def test_what_an_aborted_transaction_puts_in_is_not_there(soft) -> None:
    queue = TransactionQueue(threads=2)

    @atomic
    def fail() -> None:
        queue.add(print)
        assert len(queue) == 0
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(queue) == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_exception_stops_it(soft, threads: int) -> None:
    queue, x = TransactionQueue(threads=threads), TVar(0)

    def good() -> None:
        x.value += 1

    def bad() -> None:
        x.value += 1000
        raise KeyError("bad")

    for _ in range(5):
        queue.add(good)
    queue.add(bad)
    for _ in range(5):
        queue.add(good)
    with pytest.raises(KeyError, match="bad"):
        queue.run()
    assert x.value == queue.executed()
    assert queue.executed() + len(queue) == 10
    queue.run()
    assert x.value == queue.executed() == 10


def test_a_second_exception_loses_no_call(soft) -> None:
    queue, both = TransactionQueue(threads=2), threading.Barrier(2)

    def bad(name: str) -> None:
        if not both.broken:
            both.wait(LIMIT)
        raise KeyError(name)

    queue.add(bad, "one")
    queue.add(bad, "two")
    raised = []
    for left in (1, 0):
        with pytest.raises(KeyError) as caught:
            queue.run()
        raised.append(caught.value.args[0])
        assert len(queue) == left
        both.abort()
    assert sorted(raised) == ["one", "two"]
    assert queue.executed() == 0


@pytest.mark.parametrize("cancel", [None, stm.Cancellation()], ids=["no limits", "with limits"])
@pytest.mark.parametrize("turn", [False, True], ids=["retry", "irrevocable"])
def test_an_exception_ends_waiting(soft, cancel, turn: bool) -> None:
    queue, x, waits, go = TransactionQueue(threads=2), TVar(0), threading.Event(), threading.Event()
    held, release = threading.Event(), threading.Event()

    @atomic
    def hold() -> None:
        if turn:
            stm.irrevocable()
        held.set()
        assert release.wait(LIMIT)

    @atomic(cancel=cancel)
    def wait() -> None:
        waits.set()
        if turn:
            stm.irrevocable()
        else:
            stm.check(x.value)
        x.value += 10

    def bad() -> None:
        assert go.wait(LIMIT)
        raise KeyError("bad")

    def stop() -> None:
        try:
            assert waits.wait(LIMIT)
            sleeping = threading.Event()
            for _ in range(1000 * LIMIT):
                if runtime._token._queue if turn else runtime.waiting.sleepers:
                    break
                sleeping.wait(0.001)
        finally:
            go.set()

    queue.add(wait)
    queue.add(bad)
    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        assert held.wait(LIMIT)
        together(lambda: raises(KeyError, queue.run), stop)
    finally:
        release.set()
        holder.join(LIMIT)
    assert (len(queue), queue.executed(), x.value) == (1, 0, 0)
    x.value = 1
    together(queue.run)
    assert (len(queue), queue.executed(), x.value) == (0, 1, 11)
    assert cancel is None or not cancel._wakers


def test_a_cancellation_of_its_own_ends_a_call(soft) -> None:
    queue, x, cancel, waits = TransactionQueue(threads=2), TVar(0), stm.Cancellation(), threading.Event()

    @atomic(cancel=cancel)
    def wait() -> None:
        waits.set()
        stm.check(x.value)

    def end() -> None:
        assert waits.wait(LIMIT)
        cancel.cancel()

    queue.add(wait)
    together(lambda: raises(stm.Cancelled, queue.run), end)
    assert len(queue) == 0


def test_a_hook_that_raises_does_not_undo_the_call(soft) -> None:
    queue, x = TransactionQueue(threads=1), TVar(0)

    def hook() -> None:
        raise KeyError("hook")

    def call() -> None:
        x.value += 1
        stm.on_commit(hook)

    queue.add(call)
    with pytest.raises(KeyError, match="hook"):
        queue.run()
    assert (x.value, queue.executed(), len(queue)) == (1, 1, 0)


def test_limits_of_atomic_functions(soft) -> None:
    queue, x, cancelled = TransactionQueue(threads=1), TVar(0), stm.Cancellation()
    cancelled.cancel()

    class Waiter:
        @atomic(cancel=cancelled)
        def wait(self) -> None:
            x.value or stm.retry(1)

    queue.add(atomic(cancel=cancelled)(lambda: x.value or stm.retry(1)))
    queue.add(Waiter().wait)
    queue.add(functools.partial(Waiter.wait, Waiter()))
    for _ in range(3):
        with pytest.raises(stm.Cancelled):
            queue.run()
    queue.add(atomic(timeout=0.01)(lambda: x.value or stm.retry()))
    with pytest.raises(stm.TransactionTimeout):
        queue.run()


def test_ordered(soft) -> None:
    queue, log = TransactionQueue(ordered=True), []

    def call(number: int) -> None:
        stm.on_commit(log.append, number)
        if number < 3:
            queue.add(call, number + 10)

    for number in range(5):
        queue.add(call, number)
    queue.run()
    assert log == [0, 1, 2, 3, 4, 10, 11, 12]


def test_calls_really_run_at_the_same_time(soft) -> None:
    queue, both = TransactionQueue(threads=2), threading.Barrier(2)
    queue.add(both.wait, LIMIT)
    queue.add(both.wait, LIMIT)
    queue.run()
    assert queue.executed() == 2


def test_misuse(soft) -> None:
    queue = TransactionQueue()
    with pytest.raises(stm.TransactionError, match="outside of transactions"):
        atomic(queue.run)()
    with pytest.raises(TypeError):
        queue.add(3)
    with pytest.raises(ValueError, match="at least 1"):
        TransactionQueue(0)
    queue.add(queue.run)
    with pytest.raises(stm.TransactionError):
        queue.run()

"""TransactionQueue: all calls, once each, as if one after the other."""

import contextlib
import functools
import itertools
import signal
import threading

import pytest
from bloomgate import stm
from bloomgate.stm import TQueue, TransactionQueue, TVar, atomic, in_place
from bloomgate.stm.context import here
from bloomgate.stm.runtime import runtime
from bloomgate.stm.workers import Workers

from tests.stm.core_cases import LIMIT, raises, together
from tests.stm.test_interruption import Injector, Killed, lines_of


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


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_wait_for_calls_behind_them(soft, threads: int) -> None:
    """More than there are threads: by retry, with and without a timeout, and in a container."""
    queue, x, jobs = TransactionQueue(threads=threads), TVar(0), TQueue()
    for _ in range(3):
        queue.add(lambda: stm.check(x.value))
        queue.add(atomic(timeout=LIMIT)(lambda: stm.check(x.value)))
        queue.add(jobs.get)
    queue.add(lambda: [jobs.put(number) for number in range(3)])
    queue.add(lambda: queue.add(setattr, x, "value", 1))
    together(queue.run)
    assert (len(queue), queue.executed(), len(jobs)) == (0, 12, 0)
    assert not runtime.waiting.sleepers


@pytest.mark.parametrize("ordered", [False, True])
def test_what_no_call_changes_another_thread_may_change(soft, ordered: bool) -> None:
    queue, x, log = TransactionQueue(threads=2, ordered=ordered), TVar(0), []

    def wait() -> None:
        stm.check(x.value)
        stm.on_commit(log.append, "waited")

    def change() -> None:
        sleeping = threading.Event()
        for _ in range(1000 * LIMIT):
            if runtime.waiting.sleepers:
                break
            sleeping.wait(0.001)
        x.value = 1

    queue.add(wait)
    queue.add(atomic(lambda: stm.on_commit(log.append, "behind")))
    together(queue.run, change)
    assert sorted(log) == ["behind", "waited"]
    assert not ordered or log == ["waited", "behind"]


def test_an_exception_ends_what_waits_without_a_thread(soft) -> None:
    queue, x = TransactionQueue(threads=1), TVar(0)

    def fail() -> None:
        raise KeyError

    queue.add(lambda: stm.check(x.value))
    queue.add(fail)
    queue.add(print)
    together(lambda: raises(KeyError, queue.run))
    assert (len(queue), queue.executed()) == (2, 0)
    assert not runtime.waiting.sleepers


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
    queue.add(lambda: stm.on_commit(queue.run))
    with pytest.raises(stm.TransactionError, match="running already"):
        queue.run()


def test_what_does_nothing_when_it_is_called_is_refused(soft) -> None:
    queue = TransactionQueue()

    async def coroutine() -> None:
        """Would never be awaited."""

    async def asynchronous_generator():
        yield

    def generator():
        yield

    class Steps:
        def plain(self):
            yield

        @atomic
        def atomic(self):
            yield

    lazy = [coroutine, atomic(coroutine), asynchronous_generator, generator, atomic(generator)]
    lazy += [Steps().plain, Steps().atomic, atomic(timeout=1)(generator)]
    for function in lazy + [functools.partial(function) for function in lazy]:
        with pytest.raises(TypeError, match="add\\(\\) needs a function that does its work when it is called"):
            queue.add(function)
    assert len(queue) == 0


# Interruptions.


class Tree:
    """Calls that put in calls, and leave their names with what they change."""

    NAMES = ("a", "b", "c", "aa", "ba", "ca")

    def __init__(self, threads: int) -> None:
        self.queue = TransactionQueue(threads=threads)
        self.done = TVar(())
        for name in self.NAMES[:3]:
            self.queue.add(self.call, name)

    def call(self, name: str) -> None:
        if len(name) == 1:
            self.queue.add(self.call, name + "a")
        stm.commute(self.done, "append", name)

    def check(self) -> None:
        """Each call has been executed once, or is in the queue."""
        names = self.done.value
        assert len(set(names)) == len(names) == self.queue.executed()
        assert {name for _, (name,) in self.queue._calls.values()} == (
            {*"abc"} | {name + "a" for name in names if len(name) == 1}
        ).difference(names)


@pytest.mark.parametrize(("threads", "patience"), [(1, 0), (2, 1000)], ids=["in place", "ordinary"])
def test_an_interruption_at_every_line_loses_no_call(soft, monkeypatch, threads: int, patience: int) -> None:
    """In the thread that calls run()."""
    monkeypatch.setattr(in_place, "PATIENCE", patience)
    interrupted = 0

    def interrupt() -> None:
        nonlocal interrupted
        for at in range(1, lines_of(Tree(threads).queue.run) + 1):
            tree, injector = Tree(threads), Injector(at)
            try:
                with injector:
                    tree.queue.run()
            except Killed:
                interrupted += 1
            try:
                tree.check()
                tree.queue.run()
                tree.check()
            except AssertionError as error:
                raise AssertionError(injector.where) from error
            assert len(tree.queue) == 0
            here.context().patience = 0

    # In a thread that is as patient as the others afterwards.
    together(interrupt)
    assert interrupted > 100


# A thread that is killed while it has no call says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_thread_loses_no_call(soft) -> None:
    """An exception at a line that another thread than that of run() comes to."""
    killed, runner = set(), threading.current_thread()

    def leave_it_to_the_other(tree: Tree, injector: Injector) -> None:
        sleeping = threading.Event()
        for _ in range(100):
            if threading.current_thread() is not runner or injector.where or len(tree.queue) == 1:
                break
            sleeping.wait(0.001)

    for at in itertools.islice(itertools.cycle(range(1, 300, 7)), 1000):
        tree, injector = Tree(2), Injector(at)
        threading.settrace(injector)
        try:
            with contextlib.suppress(Killed):
                tree.queue.add(leave_it_to_the_other, tree, injector)
                tree.queue.run()
        finally:
            threading.settrace(None)
        tree.queue.run()
        names = tree.done.value
        assert sorted(names) == sorted(tree.NAMES), injector.where
        assert (tree.queue.executed(), len(tree.queue)) == (len(names) + 1, 0), injector.where
        killed.add(injector.where)
        if len(killed) > 20:
            break
    assert len(killed) > 20
    assert stm.stats()["commits"] > 0, "its counters are whole"


def test_a_call_that_is_interrupted_stays(soft) -> None:
    queue, x, interrupted = TransactionQueue(threads=1), TVar(0), []

    def call() -> None:
        x.value += 1
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    queue.add(call)
    with pytest.raises(KeyboardInterrupt):
        queue.run()
    assert (x.value, len(queue), queue.executed()) == (0, 1, 0)
    queue.run()
    assert (x.value, len(queue), queue.executed()) == (1, 0, 1)


def test_an_impatient_user(soft) -> None:
    """Ctrl-C while a call in another thread comes to its end; then run() again."""
    queue, x, both, go = TransactionQueue(threads=2), TVar(0), threading.Barrier(2), threading.Event()
    entered, interrupted = [], threading.Event()

    def call() -> None:
        both.wait(LIMIT)
        if threading.current_thread() is threading.main_thread():
            raise KeyError
        entered.append(True)
        for _ in range(1000 * LIMIT):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            if interrupted.wait(0.001):
                break
        assert go.wait(LIMIT)
        x.value += 1

    def handler(number, frame) -> None:
        while frame is not None and not interrupted.is_set():
            if frame.f_code is Workers.close.__code__:
                interrupted.set()
                raise KeyboardInterrupt
            frame = frame.f_back

    queue.add(call)
    queue.add(call)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            queue.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    together(queue.run, go.set)
    assert (x.value, len(entered), len(queue), queue.executed()) == (1, 1, 0, 1)

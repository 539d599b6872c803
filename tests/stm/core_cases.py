"""What the core of the STM promises, each promise a function, on the device that is in use.

Needs nothing but the standard library, so that PyPy runs it too: ``pypy3 tests/stm/core_cases.py soft:``. Under pytest
test_core.py runs every function on every backend. Threads meet at barriers and events, all of them with a limit.
"""

import asyncio
import pathlib
import pickle
import sys
import threading
import traceback

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "host"), str(root)]

from bloomgate import stm
from bloomgate.stm import TVar, atomic, check, commute, irrevocable, or_else, retry
from bloomgate.stm.runtime import runtime

#: Seconds that nothing here takes.
LIMIT = 20


def together(*functions):
    """Run functions in threads of their own, and raise what they raise."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        frames = sys._current_frames()
        for thread in threads:
            if thread.ident in frames:
                traceback.print_stack(frames[thread.ident])
        raise AssertionError(f"threads were still running after {LIMIT} s")


def raises(kind, function, *args):
    try:
        function(*args)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def wait(event):
    assert event.wait(LIMIT), "nobody came"


def during_a_transaction(first, others):
    """Call ``others`` in another thread while ``first`` is in the middle of its first attempt."""
    there, done = threading.Event(), threading.Event()

    def interlude():
        if not done.is_set():
            there.set()
            wait(done)

    def second():
        wait(there)
        try:
            others()
        finally:
            done.set()

    together(lambda: first(interlude), second)


# Reading and writing.


def case_a_variable_keeps_its_value():
    x = TVar(1)
    assert x.value == 1
    x.value = 2
    assert x.value == 2


def case_reads_own_writes():
    x = TVar(1)

    @atomic
    def twice():
        x.value += 1
        x.value += 1
        return x.value

    assert twice() == 3
    assert x.value == 3


def case_arguments_results_and_methods():
    class Account:
        def __init__(self):
            self.balance = TVar(0)

        @atomic
        def pay(self, amount, *, times=1):
            self.balance.value += amount * times
            return self.balance.value

    account = Account()
    assert account.pay(3, times=2) == 6
    assert Account.pay.__name__ == "pay"


def case_exception_rolls_back():
    x = TVar([1][0])

    @atomic
    def fail():
        x.value = 5
        raise KeyError("no")

    raises(KeyError, fail)
    assert x.value == 1


def case_many_threads_count():
    x = TVar(0)
    start = threading.Barrier(4)
    rounds = 100 if runtime.device.info().backend != "sim" else 10

    @atomic
    def increment():
        x.value += 1

    def work():
        start.wait(LIMIT)
        for _ in range(rounds):
            increment()

    together(*[work] * 4)
    assert x.value == 4 * rounds


# The anomalies, by name.


def case_anomaly_lost_update():
    x = TVar(0)
    attempts = []

    def first(interlude):
        @atomic
        def add():
            attempts.append(1)
            value = x.value
            interlude()
            x.value = value + 1

        add()

    def other():
        x.value = 10

    during_a_transaction(first, other)
    assert x.value == 11
    assert len(attempts) == 2


def case_anomaly_write_skew():
    x, y = TVar(1), TVar(1)
    attempts = []

    def first(interlude):
        @atomic
        def leave():
            attempts.append(1)
            if x.value + y.value == 2:
                interlude()
                x.value = 0

        leave()

    @atomic
    def other():
        if x.value + y.value == 2:
            y.value = 0

    during_a_transaction(first, other)
    assert (x.value, y.value) == (1, 0)
    assert len(attempts) == 2


def case_anomaly_dirty_read():
    x = TVar(0)
    seen = []

    def first(interlude):
        @atomic
        def write_and_fail():
            x.value = 1
            interlude()
            raise KeyError

        raises(KeyError, write_and_fail)

    during_a_transaction(first, lambda: seen.append(x.value))
    assert seen == [0]
    assert x.value == 0


def case_anomaly_unrepeatable_and_phantom_read():
    x, y = TVar(0), TVar(0)
    seen = []

    def first(interlude):
        @atomic
        def look():
            before = x.value
            interlude()
            seen.append((before, x.value, y.value))

        look()

    @atomic
    def other():
        x.value = y.value = 1

    during_a_transaction(first, other)
    assert seen == [(0, 0, 0)], "a read-only transaction must see its snapshot, and is never run again"


def case_anomaly_zombie_loop():
    x, y = TVar(0), TVar(0)

    def first(interlude):
        @atomic
        def loop():
            # x == y always; a zombie that saw them differ would never leave the loop.
            a = x.value
            interlude()
            steps = 0
            while a != y.value:
                steps += 1
                assert steps < 1000, "a zombie"
            x.value = a

        loop()

    @atomic
    def other():
        x.value += 1
        y.value += 1

    during_a_transaction(first, other)
    assert (x.value, y.value) == (1, 1)


def case_anomaly_aba():
    x, copy = TVar("A"), TVar(None)
    attempts = []

    def first(interlude):
        @atomic
        def read():
            attempts.append(1)
            value = x.value
            interlude()
            copy.value = value

        read()

    def other():
        x.value = "B"
        x.value = "A"

    during_a_transaction(first, other)
    # The value is the same, but the transaction before it was another.
    assert len(attempts) == 2
    assert copy.value == "A"


def case_anomaly_lost_wake_up():
    rounds = 30 if runtime.device.info().backend != "sim" else 5
    ball = TVar(0)

    def player(mine):
        @atomic
        def turn():
            check(ball.value % 2 == mine)
            ball.value += 1

        for _ in range(rounds):
            turn()

    together(lambda: player(0), lambda: player(1))
    assert ball.value == 2 * rounds


def case_anomaly_lost_wake_up_before_the_sleep():
    """The change comes between the decision to wait and the registration of the sleeper."""
    x = TVar(0)
    attempts = []

    @atomic
    def waiter():
        attempts.append(1)
        if not x.value:
            # Called when the attempt is over, and before its thread sleeps.
            stm.on_abort(together, lambda: setattr(x, "value", 1))
            retry(timeout=LIMIT)

    waiter()
    assert len(attempts) == 2


def case_anomaly_nested_abort():
    x, y = TVar(0), TVar(0)

    @atomic
    def inner():
        x.value = 1
        commute(y, "add", 1)
        raise KeyError

    @atomic
    def outer():
        x.value = 5
        raises(KeyError, inner)
        assert x.value == 5
        y.value += 2

    outer()
    assert (x.value, y.value) == (5, 2)


# Nesting.


def case_nested_calls_are_one_transaction():
    x = TVar(0)

    @atomic
    def inner():
        x.value += 1

    @atomic
    def outer():
        inner()
        inner()
        raise KeyError

    raises(KeyError, outer)
    assert x.value == 0


def case_nested_undo_keeps_the_outer_writes_and_the_reads():
    x, y = TVar(0), TVar(0)
    attempts = []

    def first(interlude):
        @atomic
        def inner():
            y.value = x.value
            raise KeyError

        @atomic
        def outer():
            attempts.append(1)
            try:
                inner()
            except KeyError:
                interlude()
                y.value = 7

        outer()

    def other():
        x.value = 1

    during_a_transaction(first, other)
    # That inner failed may have been due to what it read.
    assert len(attempts) == 2
    assert y.value == 7


# retry, or_else, check.


def case_nested_undo_keeps_the_operations_that_it_has_promoted():
    """A part that has read what was commuted before it is undone: the operations count, once, for who reads later."""
    x = TVar(0)

    def failing():
        assert x.value == 1
        commute(x, "add", 10)
        x.value = 5
        raise KeyError

    @atomic
    def part():
        raises(KeyError, atomic(failing))
        assert x.value == 1
        commute(x, "add", 1)
        assert x.value == 2

    @atomic
    def undone():
        part()
        raise KeyError

    @atomic
    def whole(inner):
        commute(x, "add", 1)
        inner()
        commute(x, "add", 1)
        return x.value

    assert whole(part) == x.value == 3
    x.value = 0
    assert whole(lambda: raises(KeyError, undone)) == x.value == 2


def case_retry_waits_for_what_was_read():
    flag, other = TVar(False), TVar(0)
    there = threading.Event()

    @atomic
    def wait_for_flag():
        there.set()
        if not flag.value:
            retry()
        return "seen"

    results = []

    def writer():
        wait(there)
        other.value = 1
        flag.value = True

    together(lambda: results.append(wait_for_flag()), writer)
    assert results == ["seen"]


def case_retry_without_reads_is_an_error():
    for timeout in (None, 0.01):
        error = raises(stm.TransactionError, atomic(lambda timeout=timeout: retry(timeout)))
        assert "the transaction has read nothing" in str(error)
    raises(stm.TransactionError, retry)


def case_retry_times_out():
    x = TVar(0)
    raises(stm.TransactionTimeout, atomic(lambda: x.value or retry(timeout=0.01)))
    raises(TimeoutError, atomic(timeout=0.01)(lambda: x.value or retry()))


def case_retry_can_be_cancelled():
    x = TVar(0)
    cancel = stm.Cancellation()
    there = threading.Event()

    @atomic(cancel=cancel)
    def wait_for_x():
        there.set()
        check(x.value)

    def canceller():
        wait(there)
        cancel.cancel()

    together(lambda: raises(stm.Cancelled, wait_for_x), canceller)
    raises(stm.Cancelled, wait_for_x)


def case_retry_is_not_caught_by_except_exception():
    x = TVar(0)

    @atomic
    def careless():
        try:
            check(x.value)
        except Exception:
            return "caught"

    raises(stm.TransactionTimeout, atomic(timeout=0.01)(careless))


def case_or_else_takes_the_first_that_can():
    x, y = TVar(0), TVar(3)

    def left():
        x.value = 9
        retry()

    def right():
        return y.value

    assert or_else(left, right) == 3
    assert x.value == 0


def case_or_else_waits_for_any():
    x, y = TVar(0), TVar(0)
    there = threading.Event()
    results = []

    def take(variable):
        check(variable.value)
        variable.value = 0
        return variable

    @atomic
    def either():
        there.set()
        return or_else(lambda: take(x), lambda: take(y))

    def writer():
        wait(there)
        y.value = 1

    together(lambda: results.append(either()), writer)
    assert results == [y]
    assert y.value == 0


# Commuting updates.


def case_commute_does_not_conflict():
    counter, log = TVar(0), TVar(())
    attempts = []

    def first(interlude):
        @atomic
        def add():
            attempts.append(1)
            commute(counter, "add", 1)
            commute(log, "append", "first")
            interlude()

        add()

    @atomic
    def other():
        commute(counter, "add", 10)
        commute(log, "append", "other")

    during_a_transaction(first, other)
    assert counter.value == 11
    assert log.value == ("other", "first"), "the order of items is the order of commits"
    assert len(attempts) == 1


def case_commute_conflicts_with_readers():
    counter, copy = TVar(0), TVar(0)
    attempts = []

    def first(interlude):
        @atomic
        def read():
            attempts.append(1)
            value = counter.value
            interlude()
            copy.value = value

        read()

    during_a_transaction(first, lambda: commute(counter, "add", 5))
    assert copy.value == 5
    assert len(attempts) == 2


def case_commute_refuses_what_is_no_variable():
    for other in (stm.TCounter(), stm.TList(), 3):
        error = raises(stm.TransactionError, commute, other, "add", 1)
        assert "needs a TVar or a SharedTVar" in str(error)


def case_commute_is_promoted_by_a_read():
    counter = TVar(5)
    attempts = []

    def first(interlude):
        @atomic
        def add():
            attempts.append(1)
            commute(counter, "add", 1)
            commute(counter, "max", 6)
            seen = counter.value
            interlude()
            commute(counter, "add", 1)
            assert counter.value == seen + 1
            return seen

        results.append(add())

    results = []
    during_a_transaction(first, lambda: commute(counter, "add", 10))
    assert results == [16]
    assert counter.value == 17
    assert len(attempts) == 2


def case_commute_after_a_write_and_before_one():
    x, y = TVar(0), TVar(0)

    @atomic
    def both():
        x.value = 10
        commute(x, "add", 1)
        commute(y, "add", 1)
        y.value = 20

    both()
    assert (x.value, y.value) == (11, 20)


def case_commute_minimum_and_maximum():
    low, high = TVar(5), TVar(5)
    for value in (7, 3, 9, 4):
        commute(low, "min", value)
        commute(high, "max", value)
    assert (low.value, high.value) == (3, 9)


def case_commute_refuses_what_does_not_fit():
    text, number = TVar("a"), TVar(1)
    raises(stm.TransactionError, commute, number, "multiply", 2)
    raises(stm.TransactionError, commute, number, "add", "1")
    raises(stm.TransactionError, commute, number, "add", float("nan"))
    raises(stm.TransactionError, commute, text, "add", 1)
    raises(stm.TransactionError, commute, number, "append", 1)
    assert number.value == 1


# Irrevocable.


def case_irrevocable_runs_once():
    x, y, z = TVar(0), TVar(0), TVar(0)
    attempts = []
    committed = threading.Event()

    def first(interlude):
        @atomic
        def io():
            irrevocable()
            attempts.append(1)
            value = x.value
            interlude()
            assert x.value == value
            y.value = value + 1

        io()

    refused = []

    def others():
        # What it has not read can be changed ...
        z.value = 1
        # ... and what it has read cannot, until it has ended.

        @atomic(timeout=0.05)
        def disturb():
            x.value += 10

        refused.append(raises(stm.TransactionTimeout, disturb))
        committed.set()

    during_a_transaction(first, others)
    assert len(attempts) == 1
    assert refused
    assert (x.value, y.value, z.value) == (0, 1, 1)
    x.value = 5
    assert x.value == 5


def case_irrevocable_lets_the_disturber_go_on_afterwards():
    x, y = TVar(0), TVar(0)
    inside, go = threading.Event(), threading.Event()

    @atomic
    def io():
        irrevocable()
        y.value = x.value
        inside.set()
        wait(go)

    def disturber():
        wait(inside)
        waiting = threading.Thread(target=lambda: atomic(lambda: setattr(x, "value", 7))(), daemon=True)
        waiting.start()
        go.set()
        waiting.join(LIMIT)
        assert not waiting.is_alive()

    together(io, disturber)
    assert (x.value, y.value) == (7, 0)


def case_irrevocable_validates_what_was_read_before():
    x, y = TVar(0), TVar(0)
    effects = []

    def first(interlude):
        @atomic
        def io():
            value = x.value
            interlude()
            irrevocable()
            effects.append(value)
            y.value = value

        io()

    def other():
        x.value = 3

    during_a_transaction(first, other)
    assert effects == [3]
    assert y.value == 3


def case_irrevocable_takes_turns():
    x = TVar(0)
    start = threading.Barrier(3)

    @atomic
    def io():
        irrevocable()
        x.value += 1

    def work():
        start.wait(LIMIT)
        for _ in range(5):
            io()

    together(*[work] * 3)
    assert x.value == 15


def case_irrevocable_cannot_retry():
    x = TVar(0)

    @atomic
    def io():
        irrevocable()
        check(x.value)

    raises(stm.TransactionError, io)
    raises(stm.TransactionError, irrevocable)
    # The token was given back.
    atomic(irrevocable)()


def case_or_else_chooses_where_nothing_can_run_again():
    x, y = TVar(0), TVar(0)

    def take():
        y.value += 1
        check(x.value)

    def either():
        return or_else(take, lambda: "nothing")

    def irrevocably():
        irrevocable()
        return either()

    def explicitly():
        with stm.Transaction():
            return either()

    for where in (atomic(irrevocably), explicitly):
        assert where() == "nothing"
        assert y.value == 0

    @atomic
    def none_can():
        irrevocable()
        or_else(take, take)

    raises(stm.TransactionError, none_can)


def case_or_else_leaves_what_is_irrevocable():
    x = TVar(0)

    def promise():
        irrevocable()
        check(x.value)

    def promise_within():
        or_else(irrevocable, lambda: None)
        check(x.value)

    for alternative in (promise, promise_within):
        raises(stm.TransactionError, lambda first=alternative: or_else(first, lambda: "another"))


def case_irrevocable_rolls_back_by_exception():
    x = TVar(0)

    @atomic
    def io():
        irrevocable()
        x.value = 1
        raise KeyError

    raises(KeyError, io)
    assert x.value == 0
    x.value = 2


def case_starvation_is_impossible():
    """A long transaction commits although others change what it reads all the time."""
    variables = [TVar(0) for _ in range(5)]
    stop = threading.Event()
    started = threading.Event()
    attempts = []

    def disturb():
        while not stop.is_set():
            for variable in variables:
                variable.value += 1
            started.set()

    @atomic
    def long():
        attempts.append(1)
        total = 0
        for variable in variables:
            total += variable.value
            if len(attempts) < 4:
                # Surely disturbed, without depending on the scheduler.
                started.clear()
                wait(started)
        variables[0].value = total

    def work():
        wait(started)
        try:
            long()
        finally:
            stop.set()

    together(disturb, work)
    assert 4 <= len(attempts) <= 12


# Hooks and deferred output.


def case_hooks():
    x = TVar(0)
    calls = []

    @atomic
    def work(fail):
        stm.on_commit(calls.append, "commit 1")
        stm.on_commit(lambda: calls.append((stm.in_transaction(), x.value)))
        stm.on_abort(calls.append, "abort 1")
        stm.on_abort(calls.append, "abort 2")
        x.value += 1
        if fail:
            raise KeyError

    work(False)
    assert calls == ["commit 1", (False, 1)]
    calls.clear()
    raises(KeyError, work, True)
    assert calls == ["abort 2", "abort 1"]
    raises(stm.TransactionError, stm.on_commit, print)


def case_hooks_of_an_undone_part_are_not_called():
    calls = []

    @atomic
    def inner():
        stm.on_commit(calls.append, "inner")
        raise KeyError

    @atomic
    def outer():
        stm.on_commit(calls.append, "outer")
        raises(KeyError, inner)

    outer()
    assert calls == ["outer"]


def case_what_an_undone_part_leaves_for_an_abort_is_called():
    """Although the rest is committed: once, when that has ended, the newest first as long as it is one part."""
    x = TVar(0)
    calls = []

    @atomic
    def inner(name):
        stm.on_commit(calls.append, "no")
        stm.on_abort(lambda: calls.append((stm.in_transaction(), x.value)))
        stm.on_abort(calls.append, name)
        raise KeyError

    @atomic
    def middle():
        stm.on_abort(calls.append, "middle")
        raises(KeyError, inner, "innermost")
        raise KeyError

    @atomic
    def outer(fail):
        calls.clear()
        stm.on_commit(calls.append, "begin")
        stm.on_abort(calls.append, "abort")
        raises(KeyError, inner, "inner")
        raises(KeyError, middle)
        or_else(lambda: (stm.on_abort(calls.append, "alternative"), retry()), lambda: stm.on_abort(calls.append, "no"))
        x.value = 1
        stm.on_commit(calls.append, "end")
        assert not calls
        if fail:
            raise KeyError

    for _ in range(40):
        # Alone in the end.
        x.value = 0
        outer(False)
        seen = (False, 1)
        assert calls == ["begin", "inner", seen, "innermost", seen, "middle", "alternative", "end"]
    x.value = 0
    raises(KeyError, outer, True)
    seen = (False, 0)
    assert calls == ["no", "alternative", "innermost", seen, "middle", "inner", seen, "abort"]


def case_deferred_output_is_written_once():
    import io

    stream = io.StringIO()
    out = stm.DeferredOutput(stream)
    x = TVar(0)

    def first(interlude):
        @atomic
        def say():
            print("x is", x.value, file=out)
            interlude()
            assert stream.getvalue() == ""
            x.value += 1

        say()

    def other():
        x.value = 5

    during_a_transaction(first, other)
    assert stream.getvalue() == "x is 5\n"
    print("outside", file=out)
    assert stream.getvalue().endswith("outside\n")


# Generators, limits, misuse.


def case_generator_steps_are_transactions():
    x = TVar(0)
    inside = []

    @atomic
    def steps():
        x.value += 1
        inside.append(stm.in_transaction())
        received = yield x.value
        x.value += received
        yield x.value

    generator = steps()
    assert next(generator) == 1
    assert not stm.in_transaction()
    assert x.value == 1
    assert generator.send(5) == 6
    assert list(generator) == []
    assert inside == [True]


def case_coroutine_functions_are_transactions():
    from bloomgate import aio

    x, y = TVar(0), TVar(0)

    @atomic
    async def inner(n):
        y.value -= n
        if n > 10:
            raise KeyError(n)

    @atomic
    async def outer(n):
        """A transaction."""
        x.value += n
        await inner(n)
        return x.value

    async def main():
        assert outer.__doc__ == "A transaction."
        assert await outer(3) == 3
        try:
            await outer(20)
        except KeyError:
            pass
        assert (x.value, y.value) == (3, -3)
        for _ in range(20):
            await asyncio.gather(*(outer(1) for _ in range(5)))
        assert (x.value, y.value) == (103, -103)

    asyncio.run(main())
    x.value = y.value = 0
    aio.run(main())


def case_asynchronous_generators_are_refused():
    async def steps():
        yield 1

    raises(TypeError, atomic, steps)
    raises(TypeError, atomic, 3)


def case_pickling_a_private_variable_refuses():
    error = raises(stm.TransactionError, pickle.dumps, TVar(1, "balance"))
    assert "balance" in str(error)


def case_requests_larger_than_the_device():
    limit = runtime.device.info().max_request_keys
    variables = [TVar(0) for _ in range(limit + 5)]
    total = TVar(0)

    @atomic
    def all_of_them():
        for variable in variables:
            variable.value += 1
        return sum(variable.value for variable in variables)

    assert all_of_them() == limit + 5

    @atomic
    def read_many():
        total.value = sum(variable.value for variable in variables)

    read_many()
    assert total.value == limit + 5
    attempts = []

    def first(interlude):
        @atomic
        def many():
            attempts.append(1)
            total.value = sum(variable.value for variable in variables)
            interlude()

        many()

    def other():
        variables[-1].value += 1

    during_a_transaction(first, other)
    assert total.value == limit + 6
    assert len(attempts) == 2


def case_a_large_write_conflicts_with_its_readers():
    limit = runtime.device.info().max_request_keys
    variables = [TVar(0) for _ in range(limit + 5)]
    seen = TVar(None)
    attempts = []

    def first(interlude):
        @atomic
        def read():
            attempts.append(1)
            value = variables[-1].value
            interlude()
            seen.value = value

        read()

    @atomic
    def other():
        for variable in variables:
            variable.value = 1

    during_a_transaction(first, other)
    assert seen.value == 1
    assert len(attempts) == 2


def case_old_versions_are_dropped():
    x = TVar(0)
    rounds = 50 if runtime.device.info().backend != "sim" else 20
    for number in range(rounds):
        x.value = number
    length, version = 0, x._head
    while version is not None:
        length, version = length + 1, version.older
    assert length <= 20, f"{length} versions of one variable, and nobody can see them"


def case_a_reader_keeps_its_versions():
    x = TVar(0)
    seen = []

    def first(interlude):
        @atomic
        def read():
            stm_snapshot = TVar(1).value
            interlude()
            seen.append((stm_snapshot, x.value))

        read()

    def other():
        for number in range(1, 40):
            x.value = number

    during_a_transaction(first, other)
    assert seen == [(1, 0)]


def case_reset_and_rollover_are_survived():
    x = TVar(0)
    attempts = []

    def first(interlude):
        @atomic
        def add():
            attempts.append(1)
            value = x.value
            interlude()
            x.value = value + 1

        add()

    during_a_transaction(first, lambda: runtime.device.reset())
    assert x.value == 1
    assert len(attempts) == 2


def case_changing_the_device_keeps_the_values():
    x = TVar(0)
    for number in range(5):
        x.value = number
    url = f"{runtime.device.info().backend}:"

    @atomic
    def within():
        raises(stm.TransactionError, stm.use_device, url)

    within()
    if url != "sim:":
        stm.use_device(url)
        assert x.value == 4
        x.value += 1
        assert x.value == 5


def case_a_device_that_cannot_be_opened_changes_nothing():
    x, tried = TVar(0), []
    x.value = 1
    backend = runtime.device.info().backend

    @atomic
    def wait_for_x():
        tried.append(x.value)
        check(x.value == 2)

    def change():
        limit = threading.Event()
        for _ in range(1000 * LIMIT):
            if runtime.waiting.sleepers:
                break
            limit.wait(0.001)
        raises(ValueError, stm.use_device, "nonsense:")
        assert x.value == 1
        assert runtime.device.info().backend == backend
        x.value = 2

    together(wait_for_x, change)
    assert x.value == 2


# Containers, in short; test_containers.py has more.


def case_containers_work():
    letters, elements, items = stm.TDict(a=1), stm.TSet([1]), stm.TList([1])
    ends, queue, counter, numbers = stm.TDeque([1]), stm.TQueue(), stm.TCounter(), stm.TArray("q", [1, 2])

    @atomic
    def change():
        letters["b"] = letters.pop("a") + 1
        elements.update([2, 3])
        items.append(len(items))
        ends.appendleft(0)
        queue.put("job")
        counter.add(5)
        numbers[1] = numbers[0] + 10
        return len(letters), len(items), counter.value

    assert change() == (1, 2, 5)
    assert dict(letters) == {"b": 2}
    assert set(elements) == {1, 2, 3}
    assert (list(items), list(ends), queue.get()) == ([1, 1], [0, 1], "job")
    assert (counter.value, numbers.tolist()) == (5, [1, 11])


def case_containers_take_commuting_threads():
    items, letters, start = stm.TList(), stm.TDict(), threading.Barrier(3)
    rounds = 30 if runtime.device.info().backend != "sim" else 3

    def work(name):
        start.wait(LIMIT)
        for number in range(rounds):
            atomic(lambda number=number: (items.append((name, number)), letters.update({(name, number): 1})))()

    together(*[lambda name=name: work(name) for name in "abc"])
    assert len(items) == len(letters) == 3 * rounds
    assert list(items) == list(letters), "both are in commit order"
    for name in "abc":
        assert [item for item in items if item[0] == name] == [(name, number) for number in range(rounds)]


def case_a_queue_of_transactions():
    queue, total = stm.TransactionQueue(threads=2), TVar(0)

    def call(number):
        total.value += number
        if number > 1:
            queue.add(call, number - 1)

    queue.add(call, 5)
    queue.run()
    assert (total.value, queue.executed()) == (15, 5)


CASES = [function for name, function in list(globals().items()) if name.startswith("case_")]


def main(urls):
    """Run everything on each device; the number of failures."""
    failures = 0
    for url in urls:
        stm.use_device(url)
        for case in CASES:
            try:
                case()
            except Exception:
                failures += 1
                print(f"FAILED {case.__name__} on {url}")
                traceback.print_exc(file=sys.stdout)
        print(f"{len(CASES)} cases on {url}, {failures} failures so far")
    return failures


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:] or ["model:", "soft:"])))

"""A thread that is alone changes variables in place; what others see must not depend on when they come."""

import contextlib
import itertools
import random
import signal
import sys
import threading

import pytest
from bloomgate import stm
from bloomgate.stm import (
    TDict,
    TList,
    TVar,
    accelerator,
    atomic,
    check,
    commute,
    in_place,
    irrevocable,
    or_else,
    retry,
    tvar,
    version,
)
from bloomgate.stm.alone import alone
from bloomgate.stm.atomic import _run_ordinary
from bloomgate.stm.context import here
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import IN_PLACE, install

from tests.stm.core_cases import LIMIT, during_a_transaction, together, wait
from tests.stm.test_fork import in_child
from tests.stm.test_history import Run
from tests.stm.test_interruption import PACKAGE, Bank, Injector, lines_of, survives


@pytest.fixture(autouse=True, params=["python", "c"])
def at_once(request, soft, monkeypatch):
    """Every thread is alone with its first transaction, unless another one is in the middle of something."""
    monkeypatch.setattr(in_place, "PATIENCE", 0)
    if request.param == "python":
        monkeypatch.setattr(TVar, "value", accelerator.PLAIN)
    elif TVar.__dict__["value"] is accelerator.PLAIN:
        pytest.skip("TVar.value is not there in C: this is not CPython with a GIL, or BLOOMGATE_PURE_PYTHON is set")
    yield
    # The patience of this thread has grown.
    here.context().patience = 0


def is_in_place() -> bool:
    return here.tx is not None and here.tx.in_place


def ordinary(function):
    """``atomic``, but never in place."""
    return lambda: _run_ordinary(function, (), {}, None)


class Halt:
    """A transaction stands in its middle until another thread lets it go on, and waits for its end."""

    def __init__(self) -> None:
        self.there, self._go, self._ended = threading.Event(), threading.Event(), threading.Event()

    def here(self) -> None:
        """In the middle of the transaction."""
        self.there.set()
        wait(self._go)

    def run(self, transaction) -> None:
        transaction()
        self._ended.set()

    def over(self) -> None:
        """It goes on; returns when it has ended."""
        self._go.set()
        wait(self._ended)

    def release(self) -> None:
        """It goes on, whatever has become of the other thread."""
        self._go.set()


def test_how_long_it_takes_to_be_alone(monkeypatch) -> None:
    monkeypatch.setattr(in_place, "PATIENCE", 32)
    x = TVar(0)
    together(lambda: setattr(x, "value", -1))

    @atomic
    def count() -> bool:
        x.value += 1
        return is_in_place()

    assert not count(), "somebody else has just been here"
    here.context().patience = 0
    assert [count() for _ in range(40)] == [False] * 32 + [True] * 8
    assert x.value == 40
    assert x._head is IN_PLACE
    together(count)
    assert x._head is not IN_PLACE
    assert x.value == 41
    assert not count()
    # It was soon over, so that it takes twice as long the next time.
    assert [count() for _ in range(80)] == [False] * 64 + [True] * 16


@pytest.mark.parametrize("how", ["reads", "writes", "begins", "only begins"])
def test_another_thread_comes_in_the_middle(how) -> None:
    x, y = TVar(0), TVar(0)
    seen, attempts = [], []

    def first(interlude) -> None:
        @atomic
        def change() -> None:
            attempts.append(is_in_place())
            x.value += 1
            x.value += 1
            interlude()
            y.value = x.value

        change()

    def other() -> None:
        if how == "reads":
            seen.append((x.value, y.value))
        elif how == "writes":
            x.value = 10
        elif how == "begins":
            seen.append(atomic(lambda: (x.value, y.value))())
        else:
            atomic(lambda: None)()

    during_a_transaction(first, other)
    assert seen in ([], [(0, 0)])
    assert attempts == [True, False]
    assert (x.value, y.value) == ((12, 12) if how == "writes" else (2, 2))


def test_who_has_only_read_goes_on() -> None:
    x, y, names = TVar(0), TVar(0), TDict(a=1)
    x.value = 1
    seen = []

    def first(interlude) -> None:
        @atomic
        def read() -> None:
            before = x.value
            interlude()
            seen.append((before, x.value, y.value, names["a"], is_in_place()))

        read()

    def other() -> None:
        for _ in range(40):
            atomic(lambda: (setattr(x, "value", 2), setattr(y, "value", 2), names.update(a=2)))()

    during_a_transaction(first, other)
    assert seen == [(1, 1, 0, 1, True)]


def test_the_loser_sees_nothing_of_the_winner() -> None:
    """Opacity: it has written, so it cannot go on; what it read first and what it would read next do not fit."""
    x, y, z = TVar(0), TVar(0), TVar(0)
    pairs = []

    def first(interlude) -> None:
        @atomic
        def work() -> None:
            z.value = 1
            before = x.value
            interlude()
            pairs.append((before, y.value))

        work()

    during_a_transaction(first, atomic(lambda: (setattr(x, "value", 1), setattr(y, "value", 1))))
    assert pairs == [(1, 1)]
    assert (x.value, y.value, z.value) == (1, 1, 1)


def test_a_snapshot_of_variables_in_place_and_others() -> None:
    """A transaction that begins ends the era, also if it does not look at what is in place."""
    x, y = TVar(0), TVar(0)
    alone_now, begun, done = threading.Event(), threading.Event(), threading.Event()
    seen = []
    together(lambda: y.value)

    def owner() -> None:
        x.value = 0
        assert alone.active is not None
        assert x._head is IN_PLACE is not y._head
        alone_now.set()
        wait(begun)
        atomic(lambda: (setattr(x, "value", 1), setattr(y, "value", 1)))()
        done.set()

    @ordinary
    def read() -> None:
        before = y.value
        begun.set()
        wait(done)
        seen.append((before, x.value))

    together(owner, lambda: (wait(alone_now), read()))
    assert seen == [(0, 0)]


def test_a_late_helper_does_no_harm(monkeypatch) -> None:
    """It writes a commit back once more, after the variable has been in place."""
    x = TVar(0)
    monkeypatch.setattr(in_place, "PATIENCE", 1000)
    x.value = 1
    version = x._head
    monkeypatch.setattr(in_place, "PATIENCE", 0)
    here.context().patience = 0
    x.value = 2
    assert x._head is IN_PLACE
    together(lambda: x.value)
    assert x._head is not IN_PLACE
    install({x: version}, version.timestamp, runtime.horizon)
    assert x.value == 2


def test_who_catches_everything_is_not_committed() -> None:
    x, y = TVar(0), TVar(0)

    def first(interlude) -> None:
        @atomic
        def work() -> None:
            before = x.value
            interlude()
            try:
                y.value = before + 1
            except BaseException:
                assert before == 0

        work()

    during_a_transaction(first, lambda: setattr(x, "value", 1))
    assert y.value == 2

    items = TList()

    @atomic
    def append() -> None:
        try:
            items.append(1)
        except BaseException:
            assert is_in_place()

    append()
    assert list(items) == [1]


def test_exceptions_and_nested_calls() -> None:
    x, y, z = TVar(1), TVar(1), TVar(1)

    @atomic
    def fail(depth: int) -> None:
        y.value += 10
        y.value += 10
        x.value += 10
        mine = x.value, y.value
        if depth:
            with pytest.raises(ZeroDivisionError):
                fail(depth - 1)
            assert (x.value, y.value) == mine
        1 / 0  # noqa: B018

    @atomic
    def inner() -> None:
        z.value += 1

    @atomic
    def work(error: bool) -> bool:
        x.value = 1
        before = y.value
        with pytest.raises(ZeroDivisionError):
            fail(2)
        assert (x.value, y.value) == (1, before)
        y.value += 1
        inner()
        inner()
        z.value *= 2
        if error:
            1 / 0  # noqa: B018
        return is_in_place()

    assert work(False)
    assert (x.value, y.value, z.value) == (1, 2, 6)
    with pytest.raises(ZeroDivisionError):
        work(True)
    assert (x.value, y.value, z.value) == (1, 2, 6)
    assert work(False)
    together(lambda: setattr(y, "value", y.value + 1))
    assert (x.value, y.value, z.value) == (1, 4, 16)


def test_another_thread_sees_what_was_before_a_nested_call() -> None:
    x, seen = TVar(0), []

    def first(interlude) -> None:
        @atomic
        def part() -> None:
            x.value += 1
            interlude()
            1 / 0  # noqa: B018

        @atomic
        def work() -> None:
            x.value = 5
            with pytest.raises(ZeroDivisionError):
                part()
            assert x.value == 5

        work()

    during_a_transaction(first, lambda: seen.append(x.value))
    assert seen == [0]
    assert x.value == 5


def test_everything_else_that_a_transaction_can_do() -> None:
    x, log, names, items, done = TVar(1), TVar(()), TDict(), TList(), []

    @atomic
    def work() -> bool:
        stm.on_commit(done.append, "committed")
        commute(x, "add", 1)
        commute(log, "append", "a")
        assert x.value == 2
        return is_in_place()

    assert work()
    assert (x.value, log.value, done) == (2, ("a",), ["committed"])

    @atomic
    def fails() -> None:
        stm.on_abort(done.append, "aborted")
        x.value = 0
        1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (x.value, done) == (2, ["committed", "aborted"])
    assert or_else(lambda: (setattr(x, "value", 7), retry()), lambda: x.value) == 2
    atomic(lambda: (irrevocable(), setattr(x, "value", 3)))()
    atomic(lambda: (setattr(x, "value", x.value + 1), names.update(a=x.value), items.append(x.value)))()
    assert (x.value, dict(names), list(items)) == (4, {"a": 4}, [4])
    with pytest.raises(stm.TransactionTimeout):
        atomic(lambda: retry(0.01) if x.value else None)()


def test_a_thread_that_waits_is_woken() -> None:
    x = TVar(0)

    def wait_for(number: int):
        def wait() -> None:
            atomic(lambda: check(x.value >= number))()

        return wait

    def produce() -> None:
        for _ in range(200):
            x.value += 1

    together(*[wait_for(number) for number in (1, 50, 200)], produce)


def test_a_change_between_the_attempt_and_the_sleep_is_seen(monkeypatch) -> None:
    """In place, without a timestamp, while nobody is registered and nobody sleeps yet."""
    x = TVar(0)
    x.value = 1
    sleep = runtime.waiting.sleep
    changed = []

    def late(attempt, allowance):
        if not changed:
            together(lambda: changed.append(atomic(lambda: (setattr(x, "value", 2), is_in_place()))()))
        return sleep(attempt, allowance)

    monkeypatch.setattr(runtime.waiting, "sleep", late)
    together(atomic(lambda: check(x.value == 2)))
    assert changed == [(None, True)]


@pytest.mark.timeout(100)
@pytest.mark.parametrize("kind", ["write", "commute", "irrevocable", "nested"])
@pytest.mark.parametrize("era", ["new", "running"])
def test_an_exception_at_every_line(kind, era) -> None:
    bank = Bank()
    action = getattr(bank, kind)

    def prepare() -> None:
        here.context().patience = 0
        if era == "new":
            together(bank.check)
        else:
            bank.write()
            assert alone.era.commits

    prepare()
    action()
    prepare()
    lines = lines_of(action)
    assert lines > 15
    for every in (False, True):
        outcomes = []
        for at in range(1, lines + 1):
            prepare()
            outcomes.append(survives(bank, action, Injector(at, every)))
        if not every:
            assert not outcomes[0]
            assert outcomes[-1]


def test_a_signal_handler_in_every_place() -> None:
    """It runs a transaction of its own, or as a part of the one that it interrupts; either way nothing is lost."""
    x, y = TVar(0), TVar(0)
    handled = 0

    def handle(number, frame) -> None:
        nonlocal handled
        # In the middle of a commit of its own thread it may not.
        try:
            atomic(lambda: setattr(y, "value", y.value + 1))()
        except stm.TransactionError:
            return
        handled += 1 if not stm.in_transaction() else 0

    @atomic
    def count() -> None:
        x.value += 1

    before = signal.signal(signal.SIGVTALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
        for number in itertools.count(1):
            count()
            if number % 100 == 0:
                together(count)
                x.value -= 1
            if handled > 50:
                break
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert x.value == number
    assert y.value >= handled


class Interlude:
    """Calls a function at the n-th line of bloomgate and at all later ones up to ``last``, as a signal handler may."""

    def __init__(self, function, first: int, last: int) -> None:
        self.function = function
        self.first, self.last = first, last
        self.lines = 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.lines += 1
            if self.first <= self.lines <= self.last:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.function()
        return self


@pytest.mark.timeout(200)
@pytest.mark.parametrize("era", ["new", "running"])
@pytest.mark.parametrize("times", [1, 2, 20])
def test_a_handler_wherever_bloomgate_is(era, times) -> None:
    """The same with nothing left to chance: also between becoming alone and having become so."""
    x, y = TVar(0), TVar(0)
    handled = 0

    def note() -> None:
        nonlocal handled
        handled += 1

    @atomic
    def handle() -> None:
        y.value += 1
        # It may be a part of what it interrupts, and be lost with that.
        stm.on_commit(note)

    def in_handler() -> None:
        # In the middle of a commit of its own thread it may not.
        with contextlib.suppress(stm.TransactionError):
            handle()

    @atomic
    def count(variable) -> None:
        variable.value += 1

    seen = []

    def look() -> None:
        seen.append((x.value, y.value))

    done, before = 0, sys.gettrace()
    for at in itertools.count(1):
        here.context().patience = 0
        if era == "new":
            together(lambda: count(x))
            done += 1
        else:
            count(x), count(x)
            done += 2
        interlude = Interlude(in_handler, at, at + times - 1)
        sys.settrace(interlude)
        try:
            count(x)
        finally:
            sys.settrace(before)
        done += 1
        # Nobody is alone but who others know of.
        assert alone.active is not None or alone.era.thread == 0
        together(look)
        assert seen.pop() == (done, handled), interlude.where
        if interlude.lines < at:
            break
    assert handled > 20


@pytest.fixture(params=[False, True], ids=["branch", "no branch"])
def no_branch(request, monkeypatch) -> None:
    """How TVar.value keeps what was before: PyPy's way, and that of others."""
    monkeypatch.setattr(tvar, "_NO_BRANCH", request.param)


@pytest.mark.parametrize(
    "values",
    [(1, 2, 3), (1 << 80, -5, -(1 << 90)), (None, 7, 8), (7, 8, None), (False, 1, 2), (0, True, 2), ((1,), (2,), (3,))],
    ids=repr,
)
def test_what_was_before_the_first_of_two_writes(no_branch, values) -> None:
    """Written in place by one transaction, and twice by the next one, which is lost."""
    before, first, second = values
    x = TVar(first)
    x.value = second
    x.value = before

    @atomic
    def lost() -> None:
        assert is_in_place()
        x.value = first
        x.value = second
        assert x.value is second
        1 / 0  # noqa: B018

    with pytest.raises(ZeroDivisionError):
        lost()
    assert x.value == before
    assert type(x.value) is type(before)


@pytest.mark.parametrize("handler", ["committed", "undone", "assignment"])
@pytest.mark.parametrize("kind", ["first", "second", "nested", "nested in an ordinary one"])
def test_a_handler_that_writes_the_same_wherever_bloomgate_is(no_branch, kind, handler) -> None:
    """As a part of the transaction it is lost with it; one of its own stays."""
    transaction = ordinary if kind == "nested in an ordinary one" else atomic
    x, committed = TVar(0), []

    @atomic
    def handle() -> None:
        x.value += 1000
        stm.on_commit(committed.append, x.value)
        if handler == "undone":
            raise KeyError

    def assign() -> None:
        inside = stm.in_transaction()
        x.value = 1000
        if not inside:
            committed.append(1000)

    def in_handler() -> None:
        with contextlib.suppress(stm.TransactionError, KeyError):
            assign() if handler == "assignment" else handle()

    def write() -> None:
        if kind == "second":
            x.value = -1
        x.value = -2

    @transaction
    def lost() -> None:
        atomic(write)() if kind.startswith("nested") else write()
        1 / 0  # noqa: B018

    times, before = 0, sys.gettrace()
    for at in itertools.count(1):
        here.context().patience = 0
        x.value = at
        interlude = Interlude(in_handler, at, at)
        sys.settrace(interlude)
        try:
            with pytest.raises(ZeroDivisionError):
                lost()
        finally:
            sys.settrace(before)
        assert x.value == (committed.pop() if committed else at), interlude.where
        times += 1
        if interlude.lines < at:
            break
    assert times > 20


@pytest.mark.parametrize("handled", ["committed", "undone"])
@pytest.mark.parametrize("part", ["committed", "undone"])
@pytest.mark.parametrize("transaction", [atomic, ordinary])
def test_a_part_with_a_handler_wherever_bloomgate_is(transaction, part, handled) -> None:
    """The transaction reads a value that somebody has written, and that is what it commits."""
    x = TVar(0)

    @atomic
    def handle() -> None:
        x.value += 1000
        if handled == "undone":
            raise KeyError

    def in_handler() -> None:
        with contextlib.suppress(stm.TransactionError, KeyError):
            handle()

    @atomic
    def write() -> None:
        x.value = -1
        if part == "undone":
            raise LookupError

    @transaction
    def whole() -> int:
        with contextlib.suppress(LookupError):
            write()
        return x.value

    before = sys.gettrace()
    for at in itertools.count(1):
        here.context().patience = 0
        x.value = at
        interlude = Interlude(in_handler, at, at)
        sys.settrace(interlude)
        try:
            seen = whole()
        finally:
            sys.settrace(before)
        counted = (0, 1000) if handled == "committed" else (0,)
        # Before or after the transaction the handler has one of its own.
        assert x.value - seen in counted, interlude.where
        assert seen - (-1 if part == "committed" else at) in counted, interlude.where
        if interlude.lines < at:
            break
    assert at > 20


@pytest.mark.parametrize("kind", ["settle", "commit", "retry"])
def test_a_handler_whose_transaction_fails_wherever_bloomgate_is(kind) -> None:
    """It releases what its own exceptions leave locked, and nothing that its thread holds where it was interrupted."""
    x, held = TVar(0), 0

    @atomic
    def fail() -> None:
        raise KeyError

    def handler() -> None:
        nonlocal held
        held += any(lock._is_owned() for lock in (alone.lock, *version._locks))
        with contextlib.suppress(stm.TransactionError, KeyError):
            fail()

    @ordinary
    def commit() -> None:
        x.value += 1

    @atomic
    def waits() -> None:
        x.value += 1
        or_else(lambda: retry(0.001), lambda: None)

    action = {"settle": lambda: setattr(x, "value", x.value + 1), "commit": commit, "retry": waits}[kind]
    before = sys.gettrace()
    for at in itertools.count(1):
        if kind == "settle":
            # Another thread's era, which this one ends.
            together(lambda: setattr(x, "value", x.value))
        interlude = Interlude(handler, at, at)
        sys.settrace(interlude)
        try:
            action()
        finally:
            sys.settrace(before)
        # Nothing is left locked, either.
        together(lambda: x.value)
        assert x.value == at, interlude.where
        if interlude.lines < at:
            break
    assert held


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["conflict", "irrevocable"])
@pytest.mark.parametrize("other", ["until versions are gone", "alone"])
def test_a_handler_and_another_thread_wherever_bloomgate_is(kind, other) -> None:
    """The handler's transaction ends, and with it what its thread has registered; then another thread goes on."""
    x, y = TVar(0), TVar(0)
    expected = threads = 0

    @ordinary
    def count() -> None:
        if kind == "irrevocable":
            irrevocable()
        x.value += 1

    @ordinary
    def disturb() -> None:
        x.value += 1

    def handler() -> None:
        nonlocal expected, threads
        with contextlib.suppress(stm.TransactionError):
            atomic(lambda: setattr(y, "value", y.value + 1))()
        if runtime._holder is not None or runtime._decided.unpublished:
            # Nobody would get past it.
            return
        if not any(lock._is_owned() for lock in (runtime._submission, alone.lock, *version._locks)):
            if other == "alone":
                together(atomic(lambda: setattr(x, "value", x.value + 1)))
                expected += 1
            else:
                together(lambda: [disturb() for _ in range(40)])
                expected += 40
            threads += 1

    before = sys.gettrace()
    for at in itertools.count(1):
        interlude = Interlude(handler, at, at)
        sys.settrace(interlude)
        try:
            count()
        finally:
            sys.settrace(before)
        expected += 1
        assert x.value == expected, interlude.where
        if interlude.lines < at:
            break
    assert threads > 20


def test_a_handler_that_waits_for_what_it_has_interrupted(monkeypatch) -> None:
    """It comes when the transaction has ended but not been committed, and nobody but its thread can end that."""
    x = TVar(0)
    commit, refused = runtime.commit, []

    @atomic
    def hold() -> None:
        irrevocable()
        x.value += 1

    def interrupted(attempt, allowance=None) -> bool:
        if attempt.token:
            assert runtime.quiet() is None, "somebody could be alone, whom no guard keeps off"
            with pytest.raises(stm.TransactionError):
                x.value = 100
            refused.append(True)
        return commit(attempt, allowance)

    monkeypatch.setattr(runtime, "commit", interrupted)
    hold()
    assert refused
    assert x.value == 1


def test_fork() -> None:
    x, y = TVar(0), TVar(0)
    x.value = 1

    def child(expected: int) -> None:
        # The child has no such thread, but one of its own can get the same number.
        assert alone.active is None
        assert (x.value, y.value) == (expected, 0)
        x.value += 1
        together(lambda: setattr(x, "value", x.value + 1))
        assert (x.value, y.value) == (expected + 2, 0)

    assert x._head is IN_PLACE
    in_child(lambda: child(1))
    x.value += 1
    assert x.value == 2

    def first(interlude) -> None:
        @atomic
        def work() -> None:
            x.value = 100
            interlude()
            y.value = 1

        work()

    during_a_transaction(first, lambda: in_child(lambda: child(2)))
    assert (x.value, y.value) == (100, 1)


def test_a_profile_ends_it() -> None:
    x = TVar(0)
    x.value = 1
    assert alone.active is not None
    with stm.profile() as recorder:
        assert not atomic(lambda: (setattr(x, "value", 2), is_in_place()))()[1]
    assert recorder.report().commits == 1


@pytest.mark.timeout(200)
def test_threads_that_are_alone_in_turn() -> None:
    """Histories: strictly serialisable and opaque, with threads that come in the middle of another one's era."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    steps = [("read", 0), ("write", 1), ("read", 1), ("add", 2), ("yield", 0), ("read", 2), ("write", 0), ("read", 1)]
    part = [("read", 2), ("write", 0), ("fail part", 0), ("yield", 0), ("read", 0), ("read", 1), ("add", 1)]
    won = lost = 0
    try:
        for _ in range(50):
            run = Run()
            run.execute([[steps, part] * 15, [part] * 30, [steps[:1] + steps[3:5] + steps[:2]] * 30])
            run.check()
            won += sum(seen.committed for seen, attempt, _ in run.attempts if attempt.in_place)
            lost += sum(not seen.committed for seen, attempt, _ in run.attempts if attempt.in_place)
            if won > 20 and lost > 20:
                break
    finally:
        sys.setswitchinterval(before)
    assert won > 20
    assert lost > 20


def test_a_commit_just_before_a_thread_is_alone(monkeypatch) -> None:
    """Its timestamp is not newer than those of the versions that are made of values in place."""
    x = TVar(0)
    quiet, ran = runtime.quiet, []
    halt = Halt()

    @ordinary
    def other() -> None:
        x.value += 1
        halt.here()

    def late():
        published = quiet()
        if not ran:
            ran.append(True)
            halt.over()
        return published

    def become_alone() -> None:
        wait(halt.there)
        monkeypatch.setattr(runtime, "quiet", late)
        try:
            x.value += 1
            x.value += 1
        finally:
            halt.release()

    together(lambda: halt.run(other), become_alone)
    together(lambda: x.value)
    assert x._head.timestamp >= runtime.published()
    assert x.value == 3


needs_turns = pytest.mark.skipif(not in_place._TURNS, reason="without a GIL, threads do not run in turn")


@needs_turns
def test_others_pause_so_that_a_thread_can_be_alone(monkeypatch) -> None:
    """It is kept from that by one that was stopped in the middle of an ordinary attempt."""
    x, y = TVar(0), TVar(0)
    halt = Halt()
    wanted = []

    def pause() -> None:
        wanted.append(alone.wanted)
        halt.over()

    monkeypatch.setattr(in_place, "_pause", pause)

    @ordinary
    def stopped() -> None:
        y.value += 1
        halt.here()

    def become_alone() -> None:
        wait(halt.there)
        assert atomic(lambda: (setattr(x, "value", 1), is_in_place()))()[1]
        assert wanted == [threading.get_ident()]

    together(lambda: halt.run(stopped), become_alone)
    assert alone.wanted == 0
    assert (x.value, y.value) == (1, 1)


@needs_turns
def test_who_comes_pauses_so_that_a_transaction_in_place_can_end(monkeypatch) -> None:
    x = TVar(0)
    halt = Halt()
    attempts = []

    monkeypatch.setattr(in_place, "_pause", halt.over)

    @atomic
    def stopped() -> None:
        attempts.append(is_in_place())
        x.value += 1
        halt.here()

    def come() -> None:
        wait(halt.there)
        try:
            atomic(lambda: setattr(x, "value", x.value + 1))()
        finally:
            halt.release()

    together(lambda: halt.run(stopped), come)
    assert attempts == [True]
    assert x.value == 2


def test_invariants_of_a_bank(seed) -> None:
    """Long eras and short ones, with readers outside of transactions, that come at any time."""
    accounts = [TVar(100) for _ in range(5)]
    total = atomic(lambda: sum(account.value for account in accounts))
    stop = threading.Event()

    @atomic
    def move(source: int, target: int) -> None:
        accounts[source].value -= 1
        accounts[target].value += 1

    def mover(number: int):
        def work() -> None:
            rng = random.Random(seed + number)
            for _ in range(1500):
                move(rng.randrange(5), rng.randrange(5))
                if rng.random() < 0.01:
                    threading.Event().wait(0.0005)

        return work

    def reader() -> None:
        while not stop.wait(0.001):
            assert total() == 500
            assert abs(accounts[0].value) < 5000

    watcher = threading.Thread(target=reader)
    watcher.start()
    try:
        together(mover(0), mover(1))
    finally:
        stop.set()
        watcher.join(LIMIT)
    assert total() == 500

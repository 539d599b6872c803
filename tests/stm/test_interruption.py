"""An exception at every point of a transaction leaves memory as before it, or as after the whole of it.

The points are all lines of bloomgate that run during the transaction, found by a trace function, which raises at one of
them in each run. That is stricter than CPython, which delivers asynchronous exceptions between fewer of its steps. Left
out are the lines "with lock:" outside of the commit protocol itself: a trace function is called there between the end
of the block and the release, where no asynchronous exception arrives, and nobody could release the lock any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import linecache
import signal
import sys
import threading
from pathlib import Path

import bloomgate
import pytest
from bloomgate import stm
from bloomgate.backends.soft import SoftDevice
from bloomgate.stm import TVar, atomic, commute, in_place, irrevocable
from bloomgate.stm.context import here
from bloomgate.stm.decided import Decided

from tests.stm.core_cases import LIMIT, together

PACKAGE = str(Path(bloomgate.__file__).parent)


#: Where even the ends of "with" blocks are tried.
PROTOCOL = ("runtime.py", "decided.py", "version.py", "atomic.py")


def unreal(frame) -> bool:
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
    return line.startswith("with ") and Path(frame.f_code.co_filename).name not in PROTOCOL


class Killed(BaseException):
    """What is thrown into transactions."""


class Injector:
    """Raises at the n-th line of bloomgate, or counts them."""

    def __init__(self, at: int | None = None, every: bool = False) -> None:
        self.at = at
        self.every = every
        self.lines = 0
        self.where = ""
        self._times: dict[tuple[str, int], int] = {}

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and not unreal(frame) and self._is_new(frame):
            self.lines += 1
            if self.at is not None and (self.lines == self.at or (self.every and self.lines > self.at)):
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                if not self.every or self.lines <= self.at + 4:
                    raise Killed(self.where)
        return self

    def _is_new(self, frame) -> bool:
        """Loops (the hash of model: is made of them) are tried a few times only."""
        line = (frame.f_code.co_filename, frame.f_lineno)
        self._times[line] = times = self._times.get(line, 0) + 1
        return times <= 3

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error):
        sys.settrace(self._before)


def lines_of(action) -> int:
    """How many lines an injector can interrupt."""
    counter = Injector()
    with counter:
        action()
    return counter.lines


class Bank:
    """Values that only ever change together."""

    def __init__(self) -> None:
        self.x, self.y, self.total, self.log = TVar(0), TVar(0), TVar(0), TVar(())

    @atomic
    def write(self) -> None:
        n = self.x.value
        self.x.value = n + 1
        self.y.value -= 1
        self.total.value = n + 1
        self.log.value += (n + 1,)

    @atomic
    def commute(self) -> None:
        commute(self.x, "add", 1)
        commute(self.y, "add", -1)
        commute(self.total, "max", self.log.value[-1] + 1 if self.log.value else 1)
        self.log.value = (*self.log.value, (self.log.value[-1] if self.log.value else 0) + 1)

    @atomic
    def irrevocable(self) -> None:
        irrevocable()
        self.write()

    @atomic
    def nested(self) -> None:
        try:
            self.fail()
        except KeyError:
            self.write()

    @atomic
    def fail(self) -> None:
        self.x.value = 1000
        commute(self.total, "add", 1000)
        raise KeyError

    @atomic
    def state(self):
        return self.x.value, self.y.value, self.total.value, self.log.value

    def check(self) -> int:
        """The number of transactions that have taken place."""
        x, y, total, log = self.state()
        assert y == -x, (x, y)
        assert total == x, (x, total)
        assert log == tuple(range(1, x + 1)), (x, log)
        return x


def survives(bank: Bank, action, injector: Injector) -> bool:
    """Run ``action`` under the injector; whether it took place."""
    before = bank.check()
    raised = False
    with injector:
        try:
            action()
        except Killed:
            raised = True
    assert not stm.in_transaction(), injector.where
    after = bank.check()
    assert after in (before, before + 1), (before, after, injector.where)
    if not raised and not injector.every:
        assert after == before + 1, f"swallowed at {injector.where}"
    # Nothing is held up: neither this thread nor another one.
    bank.write()
    together(bank.write)
    assert bank.check() == after + 2, injector.where
    return after > before


@pytest.mark.timeout(100)
@pytest.mark.parametrize("kind", ["write", "commute", "irrevocable", "nested"])
@pytest.mark.parametrize("url", ["soft:", "model:"])
def test_an_exception_at_every_line(kind: str, url: str) -> None:
    stm.use_device(url)
    try:
        bank = Bank()
        action = getattr(bank, kind)
        action()
        action()
        lines = lines_of(action)
        assert lines > 30
        outcomes = [survives(bank, action, Injector(at)) for at in range(1, lines + 1)]
        # Early ones did not take place and late ones did, or the injector has tested nothing.
        assert not outcomes[0]
        assert outcomes[-1]
    finally:
        stm.use_device(None)


@pytest.mark.parametrize("patience", [0, 1000], ids=["in place", "ordinary"])
def test_hooks_are_called_whatever_line_is_interrupted(soft, monkeypatch, patience: int) -> None:
    monkeypatch.setattr(in_place, "PATIENCE", patience)
    x, calls = TVar(0), []

    @atomic
    def inner() -> None:
        stm.on_abort(calls.append, "undone")
        raise KeyError

    @atomic
    def work() -> None:
        stm.on_abort(calls.append, "aborted")
        with contextlib.suppress(KeyError):
            inner()
        stm.on_commit(calls.append, "committed")
        x.value += 1

    def interrupt() -> None:
        aborted = []
        for at in range(1, lines_of(work) + 1):
            before = x.value
            calls.clear()
            injector = Injector(at)
            with injector, contextlib.suppress(Killed):
                work()
            if x.value > before:
                assert calls == ["undone", "committed"], injector.where
            else:
                assert calls in ([], ["aborted"], ["undone", "aborted"]), injector.where
                aborted.append(len(calls))
            here.context().patience = 0
        assert set(aborted) == {0, 1, 2}, "the injector has tested nothing"

    # In a thread that is as patient as the others afterwards.
    together(interrupt)


@pytest.mark.timeout(100)
def test_several_exceptions_in_a_row(soft) -> None:
    bank = Bank()
    bank.write()
    for at in range(1, lines_of(bank.write) + 1, 2):
        survives(bank, bank.write, Injector(at, every=True))


class LostVerdict(SoftDevice):
    """Decides, and then is interrupted before anybody can know what."""

    armed = False

    def commit(self, **request):
        verdict = super().commit(**request)
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
        return verdict


def lost_verdict_device():
    device = LostVerdict()
    stm.use_device(device)
    return device


def test_a_commit_whose_verdict_was_lost_took_place() -> None:
    device = lost_verdict_device()
    try:
        bank = Bank()
        device.armed = True
        with pytest.raises(KeyboardInterrupt):
            bank.write()
        assert bank.check() == 1
        device.armed = True
        with pytest.raises(KeyboardInterrupt):
            bank.commute()
        assert bank.check() == 2
    finally:
        stm.use_device(None)
        device.close()


def test_an_abort_whose_verdict_was_lost_did_not() -> None:
    device = lost_verdict_device()
    try:
        x, y = TVar(0), TVar(0)

        @atomic
        def doomed() -> None:
            value = x.value
            if not device.armed:
                together(lambda: setattr(x, "value", 7))
                device.armed = True
            y.value = value + 1

        with pytest.raises(KeyboardInterrupt):
            doomed()
        assert (x.value, y.value) == (7, 0)
        y.value = 1
        assert y.value == 1
    finally:
        stm.use_device(None)
        device.close()


def test_a_dead_committer_is_helped(soft, monkeypatch) -> None:
    """Its thread ends between the verdict and the publication, and never finishes anything itself."""
    bank = Bank()
    bank.write()
    original = Decided.write_back
    dead = threading.get_ident

    def die(self, attempt, timestamp, timeout=None):
        if threading.get_ident() == victim:
            raise Killed
        original(self, attempt, timestamp, timeout)

    victim = 0

    def committer() -> None:
        nonlocal victim
        victim = dead()
        with pytest.raises(Killed):
            bank.write()

    monkeypatch.setattr(Decided, "write_back", die)
    together(committer)
    victim = 0
    # Decided, but nobody has written it back. A commit of another thread cannot be visible before it.
    bank.write()
    assert bank.check() == 3


def test_a_stuck_committer_is_helped(soft, monkeypatch) -> None:
    """It stands still between the verdict and the publication; others go on, and see its commit."""
    bank = Bank()
    bank.write()
    original = Decided.write_back
    stuck, go = threading.Event(), threading.Event()
    victim = None

    def stop(self, attempt, timestamp, timeout=None):
        if threading.get_ident() == victim and not stuck.is_set():
            stuck.set()
            assert go.wait(LIMIT)
        original(self, attempt, timestamp, timeout)

    def committer() -> None:
        nonlocal victim
        victim = threading.get_ident()
        bank.commute()

    def other() -> None:
        assert stuck.wait(LIMIT)
        try:
            bank.write()
            assert bank.check() == 3
        finally:
            go.set()

    monkeypatch.setattr(Decided, "write_back", stop)
    together(committer, other)
    assert bank.check() == 3
    assert stm.stats()["helps"] > 0


def test_an_interrupted_commit_does_not_wait_for_others_for_ever(soft, monkeypatch) -> None:
    """Ctrl-C while an earlier commit, which nobody can finish, holds this one up."""
    bank = Bank()
    bank.write()
    # Decided behind the back of the STM, and never published.
    foreign = soft.commit(snapshot=soft.published, writes=[4_000_000_000]).timestamp
    signalled = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            bank.write()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signalled)
    assert bank.check() == 1
    soft.publish(foreign)
    assert bank.check() == 2, "decided, so it becomes visible with what held it up"


# An exception can also arrive in a weak reference's callback, of the threads that end meanwhile.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(60)
def test_asynchronous_exceptions_in_threads(soft) -> None:
    """PyThreadState_SetAsyncExc, as fast as one thread can throw, into another one that only commits."""
    bank = Bank()
    stop = threading.Event()
    ready = threading.Event()
    ident = 0
    completed = interrupted = 0

    def worker() -> None:
        nonlocal completed, interrupted
        while not stop.is_set():
            try:
                bank.write()
                completed += 1
            except Killed:
                interrupted += 1

    def robust() -> None:
        while not stop.is_set():
            try:
                worker()
            except Killed:
                pass

    def thrower() -> None:
        assert ready.wait(LIMIT)
        try:
            for _ in range(40):
                before = interrupted
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Killed))
                bank.check()
                # It arrives when the other thread runs, or is ignored somewhere in the standard library.
                for _ in range(20):
                    together(bank.write)
                    if interrupted > before:
                        break
        finally:
            stop.set()

    def last() -> None:
        nonlocal ident
        ident = threading.get_ident()
        # Not again later: an exception in Event.set() can leave its lock locked.
        ready.set()
        try:
            robust()
        except Killed:
            pass

    together(last, thrower)
    assert interrupted > 5
    assert bank.check() >= completed + 40


@pytest.mark.timeout(60)
def test_keyboard_interrupt_by_signal(soft) -> None:
    """A real signal, at a random place each time, with the handler that Python has for Ctrl-C."""
    bank = Bank()
    # Not SIGALRM, which pytest-timeout uses.
    before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    try:
        interrupted = 0
        for number in range(150):
            try:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0002 + number * 5e-6)
                while True:
                    bank.write()
            except KeyboardInterrupt:
                interrupted += 1
            bank.check()
            together(bank.write)
        assert interrupted == 150
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

"""The gate: one at a time, nobody forgotten."""

import threading

import pytest
from bloomgate.stm import gate
from bloomgate.stm.gate import Gate

from tests.stm.core_cases import LIMIT, together, wait


def test_one_at_a_time() -> None:
    subject, start = Gate(), threading.Barrier(4)
    inside = 0
    total = 0

    def work() -> None:
        nonlocal inside, total
        start.wait(LIMIT)
        for _ in range(2000):
            subject.enter()
            inside += 1
            assert inside == 1
            # Calls, where CPython switches threads.
            total = max(total, total) + min(inside, inside)
            inside -= 1
            subject.leave()

    together(*[work] * 4)
    assert total == 8000


def blocked(subject: Gate) -> tuple[threading.Thread, list[bool]]:
    """A thread that waits at the closed gate, and what says that it has passed."""
    passed: list[bool] = []

    def work() -> None:
        subject.enter()
        passed.append(True)
        subject.leave()

    waiting = threading.Event()
    real = subject._waiters

    class Announced(type(real)):
        def append(self, waiter) -> None:
            super().append(waiter)
            waiting.set()

    subject._waiters = Announced(real)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait(waiting)
    return thread, passed


def test_who_waits_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that nobody looks by themselves.
    monkeypatch.setattr(gate, "_LOOK_AGAIN", -1)
    subject = Gate()
    subject.enter()
    thread, passed = blocked(subject)
    assert not passed
    subject.leave()
    thread.join(LIMIT)
    assert passed


def test_a_waiter_that_is_gone_takes_nobody_s_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_LOOK_AGAIN", -1)
    subject = Gate()
    subject.enter()
    gone = gate._Waiter()
    gone.waits = False
    subject._waiters.append(gone)
    thread, passed = blocked(subject)
    subject.leave()
    thread.join(LIMIT)
    assert passed


def test_a_lost_wake_up_is_made_good() -> None:
    """An exception took away the one who was woken."""
    subject = Gate()
    subject.enter()
    subject._waiters.append(gate._Waiter())
    thread, passed = blocked(subject)
    subject.leave()
    thread.join(LIMIT)
    assert passed


def test_who_is_overtaken_too_often_waits_in_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_PATIENCE", 0)
    subject = Gate()
    subject.enter()
    passed: list[bool] = []

    def work() -> None:
        subject.enter()
        passed.append(True)
        subject.leave()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    subject.leave()
    thread.join(LIMIT)
    assert passed

"""Transaction objects."""

import threading

import pytest
from bloomgate import stm
from bloomgate.stm import Transaction, TVar, atomic, irrevocable, retry

from tests.stm.core_cases import LIMIT, together


def test_commit_and_rollback(device) -> None:
    x = TVar(0)
    with Transaction() as transaction:
        x.value = 1
        assert transaction.run(lambda: x.value) == 1
    assert transaction.committed
    assert x.value == 1
    transaction = Transaction()

    def fail() -> None:
        with transaction:
            x.value = 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not transaction.committed
    transaction = Transaction()
    transaction.begin()
    x.value = 3
    transaction.abort()
    assert x.value == 1


def test_a_conflict_is_an_exception(soft) -> None:
    x = TVar(0)

    def lose() -> None:
        with Transaction():
            x.value += 1
            together(lambda: setattr(x, "value", 10))

    with pytest.raises(stm.ConflictError):
        lose()
    assert x.value == 10


def test_a_conflict_is_another_attempt(soft) -> None:
    x, attempts = TVar(0), []
    for transaction in Transaction.attempts():
        with transaction:
            attempts.append(1)
            x.value += 1
            if len(attempts) == 1:
                together(lambda: setattr(x, "value", 10))
    assert x.value == 11
    assert len(attempts) == 2


def test_attempts_come_to_an_end(soft) -> None:
    x, attempts, stop, changed = TVar(0), [], threading.Event(), threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            x.value += 1
            changed.set()

    def work() -> None:
        for transaction in Transaction.attempts():
            with transaction:
                attempts.append(1)
                before = x.value
                if len(attempts) < 9:
                    # The first may tell of a change before this attempt.
                    for _ in range(2):
                        changed.clear()
                        assert changed.wait(LIMIT)
                x.value = before + 1
        stop.set()

    together(disturb, work)
    assert len(attempts) == 9


def test_misuse(soft) -> None:
    x = TVar(0)
    with pytest.raises(stm.TransactionError, match="must not begin within another"):
        atomic(lambda: Transaction().begin())()
    with pytest.raises(stm.TransactionError, match="cannot retry"), Transaction():
        retry()
    with pytest.raises(stm.TransactionError, match="not running"):
        Transaction().commit()
    with Transaction() as transaction:
        pass
    with pytest.raises(stm.TransactionError, match="only once"):
        transaction.begin()
    with Transaction():
        irrevocable()
        x.value = 1
    assert x.value == 1

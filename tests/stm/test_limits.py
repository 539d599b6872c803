"""Timeouts and cancellation of every wait: also of the wait for the irrevocable token, and for its holder."""

import threading

import pytest
from bloomgate import stm
from bloomgate.stm import Cancellation, TVar, atomic, irrevocable
from bloomgate.stm.runtime import runtime

from tests.stm.core_cases import LIMIT


@pytest.fixture
def holder(soft):
    """Another thread is irrevocable, and has read the variable, until the test ends."""
    x, inside, go = TVar(0), threading.Event(), threading.Event()

    @atomic
    def hold() -> None:
        irrevocable()
        assert x.value == 0
        inside.set()
        assert go.wait(LIMIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(LIMIT)
    yield x
    go.set()
    thread.join(LIMIT)
    assert not thread.is_alive()


@pytest.fixture
def followers(soft):
    """Threads that go on when the holder has ended: name this fixture before `holder`."""
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def queued() -> int:
    return len(runtime._token._queue)


def cancel_when(condition, cancel) -> threading.Thread:
    """Cancel as soon as the condition holds."""

    def wait() -> None:
        limit = threading.Event()
        while not condition() and not limit.wait(0.001):
            pass
        cancel.cancel()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_waiting_for_the_token_has_a_timeout(holder) -> None:
    reached = []

    @atomic(timeout=0.01)
    def impatient() -> None:
        irrevocable()
        reached.append(1)

    with pytest.raises(stm.TransactionTimeout, match="other irrevocable transactions"):
        impatient()
    assert not reached
    # It has left the queue.
    assert queued() == 1
    assert not stm.in_transaction()


def test_waiting_for_the_token_has_the_timeout_of_the_outermost_call(holder) -> None:
    inner = atomic(timeout=LIMIT)(irrevocable)
    with pytest.raises(stm.TransactionTimeout):
        atomic(timeout=0.01)(lambda: inner())()


def test_waiting_for_the_token_can_be_cancelled(holder) -> None:
    cancel = Cancellation()
    canceller = cancel_when(lambda: queued() == 2, cancel)
    with pytest.raises(stm.Cancelled):
        atomic(cancel=cancel)(irrevocable)()
    canceller.join(LIMIT)
    assert queued() == 1
    # And from now on before it waits.
    with pytest.raises(stm.Cancelled):
        atomic(cancel=cancel)(irrevocable)()


def test_waiting_for_the_holder_can_be_cancelled(holder) -> None:
    cancel, running = Cancellation(), threading.Event()

    @atomic(cancel=cancel)
    def disturb() -> None:
        holder.value += 1
        running.set()

    canceller = cancel_when(running.is_set, cancel)
    with pytest.raises(stm.Cancelled):
        disturb()
    canceller.join(LIMIT)
    assert holder.value == 0


def test_a_limit_does_not_outlive_its_call(followers, holder) -> None:
    x = TVar(0)
    atomic(timeout=0.01)(lambda: setattr(x, "value", 1))()
    reached, waiting = [], threading.Event()

    @atomic
    def patient() -> None:
        waiting.set()
        irrevocable()
        reached.append(1)

    def without() -> None:
        # The same thread had a limit before.
        atomic(timeout=0.01)(lambda: x.value)()
        patient()

    thread = threading.Thread(target=without, daemon=True)
    thread.start()
    followers.append(thread)
    assert waiting.wait(LIMIT)
    with pytest.raises(stm.TransactionTimeout):
        atomic(timeout=0.05)(irrevocable)()
    assert thread.is_alive()
    assert not reached


def test_the_clock_starts_with_the_first_wait(soft) -> None:
    x = TVar(0)

    @atomic(timeout=0.001)
    def slow() -> int:
        # Longer than the timeout, but not by waiting.
        deadline = threading.Event()
        deadline.wait(0.01)
        irrevocable()
        x.value += 1
        return x.value

    assert slow() == 1

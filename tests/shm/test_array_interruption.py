"""An exception at every line of a transaction on shared data: it has happened wholly, or not at all."""

import sys
import threading

import pytest
from bloomgate import SharedArray, SharedTVar, TVar, atomic, commute

from tests.shm.test_array_transactions import LIMIT, segment
from tests.stm.test_interruption import Bank, Injector, lines_of, survives

__all__ = ["segment"]


class SharedBank(Bank):
    """Values that only ever change together, in shared memory."""

    def __init__(self) -> None:
        self.x, self.y, self.total = SharedTVar(0), SharedTVar(0), SharedTVar(0)

    @atomic
    def write(self) -> None:
        n = self.x.value
        self.x.value = n + 1
        self.y.value -= 1
        self.total.value = n + 1

    @atomic
    def commute(self) -> None:
        commute(self.x, "add", 1)
        commute(self.y, "add", -1)
        commute(self.total, "add", 1)

    @atomic
    def state(self):
        return self.x.value, self.y.value, self.total.value

    def check(self) -> int:
        x, y, total = self.state()
        assert y == -x, (x, y)
        assert total == x, (x, total)
        return x


class MixedBank(SharedBank):
    """Half of the values are this process's own."""

    def __init__(self) -> None:
        self.x, self.y, self.total = SharedTVar(0), TVar(0), TVar(0)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("kind", ["write", "commute", "nested", "irrevocable"])
@pytest.mark.parametrize("make", [SharedBank, MixedBank])
def test_an_exception_at_every_line(segment, make: type[SharedBank], kind: str) -> None:
    bank = make()
    action = getattr(bank, kind)
    action()
    action()
    outcomes = [survives(bank, action, Injector(at)) for at in range(1, lines_of(action) + 1)]
    assert not outcomes[0]
    assert outcomes[-1]


@pytest.mark.timeout(100)
@pytest.mark.parametrize("make", [SharedBank, MixedBank])
def test_several_exceptions_in_a_row(segment, make: type[SharedBank]) -> None:
    bank = make()
    bank.write()
    for at in range(1, lines_of(bank.write) + 1, 3):
        survives(bank, bank.write, Injector(at, every=True))


def test_private_transactions_beside_shared_ones(segment) -> None:
    """Each waits for the commits of the other, in the same process, in the order of timestamps."""
    array, private = SharedArray("a", 1), TVar(0)

    @atomic
    def count_shared() -> None:
        array[0] += 1

    @atomic
    def count_private() -> None:
        private.value += 1

    def repeat(action) -> None:
        for _ in range(200):
            action()

    threads = [threading.Thread(target=repeat, args=(action,)) for action in (count_shared, count_private) * 2]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "they wait for each other"
    finally:
        sys.setswitchinterval(before)
    assert (array[0], private.value) == (400, 400)

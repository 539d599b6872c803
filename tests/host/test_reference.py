"""The oracle itself: cases that are checked by reading them, and the definition over whole histories."""

import ast
import random
from pathlib import Path

import bloomgate.reference
import pytest
from bloomgate import Reason, ReferenceSTM, Verdict


def commit(timestamp):
    return Verdict(True, timestamp, None, None)


def abort(reason, key=None):
    return Verdict(False, None, reason, key)


def test_it_imports_nothing_of_the_devices() -> None:
    tree = ast.parse(Path(bloomgate.reference.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert {name for name in imported if name.startswith("bloomgate")} == {"bloomgate.verdict"}


def test_by_hand() -> None:
    stm = ReferenceSTM()
    assert stm.commit(snapshot=0, reads=[1], writes=[1], commutes=[2]) == commit(1)
    assert stm.commit(snapshot=0, reads=[3, 2, 1]) == abort(Reason.CONFLICT, 2)
    assert stm.commit(snapshot=1, reads=[1, 2]) == commit(None)
    assert stm.commit(snapshot=0, writes=[1], commutes=[2]) == commit(2)
    assert stm.commit(snapshot=3, reads=[9]) == abort(Reason.BAD_REQUEST)
    assert stm.commit(snapshot=1, reads=[1], writes=[7]) == abort(Reason.CONFLICT, 1)
    assert stm.commit(snapshot=0, reads=[7]) == commit(None)
    assert stm.last_timestamp() == 2


def test_epochs() -> None:
    stm = ReferenceSTM(timestamp_bits=2)
    assert [stm.commit(snapshot=0, writes=[1]).timestamp for _ in range(3)] == [1, 2, 3]
    assert stm.last_timestamp() == 4
    assert stm.commit(snapshot=3) == abort(Reason.ROLLOVER)
    assert stm.commit(snapshot=4, reads=[1], writes=[2]) == commit(5)
    stm.reset(7)
    assert stm.last_timestamp() == 28
    stm.reset(3)
    assert stm.last_timestamp() == 32
    stm.reset(2**32 - 1)
    assert stm.commit(snapshot=stm.last_timestamp(), writes=[1]) == commit(2**34 - 3)
    stm.reset()
    assert stm.commit(snapshot=2**34 - 3) == abort(Reason.ROLLOVER)
    assert stm.commit(snapshot=2**34 - 2) == abort(Reason.BAD_REQUEST)


@pytest.mark.parametrize("timestamp_bits", [2, 4, 32])
def test_the_definition(timestamp_bits: int, seed: int) -> None:
    """A request conflicts if and only if a commit after its snapshot touched a key that it read."""
    rng = random.Random(seed)
    stm = ReferenceSTM(timestamp_bits)
    history: list[tuple[int, set[int]]] = []
    for _ in range(1500):
        last = stm.last_timestamp()
        snapshot = max(0, last - rng.choice((0, 0, 1, 2, 6)))
        reads, writes, commutes = ([rng.randrange(12) for _ in range(rng.randrange(3))] for _ in range(3))
        verdict = stm.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        if snapshot >> timestamp_bits < last >> timestamp_bits:
            assert verdict == abort(Reason.ROLLOVER)
            continue
        conflicts = [key for key in reads if any(key in keys for ts, keys in history if ts > snapshot)]
        if conflicts:
            assert verdict == abort(Reason.CONFLICT, conflicts[0])
        elif not writes and not commutes:
            assert verdict == commit(None)
        else:
            assert verdict == commit(last + 1)
            history.append((last + 1, {*writes, *commutes}))


def test_transactions() -> None:
    stm = ReferenceSTM()
    with stm.begin() as transaction:
        assert transaction.read(1) is None
        transaction.write(1, "a")
        assert transaction.read(1) == "a"
    assert transaction.verdict == commit(1)
    # An exception undoes it; and the lock is free again.
    failing = stm.begin()
    failing.__enter__()
    failing.write(1, "b")
    failing.__exit__(KeyError, KeyError("no"), None)
    with stm.begin() as transaction:
        assert transaction.read(1) == "a"
    assert transaction.verdict == commit(None)

"""The checker accepts what is right and finds what is wrong."""

import pytest

from tests.serialisability import NotSerialisable, Transaction, check


def test_accepts_a_serial_history() -> None:
    history = [
        Transaction("b", 2, 3, (2,), reads={"x": 1}, writes={"x": 2}),
        Transaction("a", 0, 1, (1,), reads={"x": 0}, writes={"x": 1}, adds={"y": 5}),
        Transaction("c", 2, 9, (2, 1), reads={"x": 2, "y": 5}, adds={"x": 1}),
        Transaction("d", 2, 9, (2, 2), reads={"x": 3}),
        Transaction("e", 2, 9, (2, 2), reads={"y": 5}),
    ]
    assert check(history, {"x": 0, "y": 0}) == {"x": 3, "y": 5}


def test_overlapping_calls_may_take_either_order() -> None:
    history = [
        Transaction("a", 0, 5, (2,), reads={"x": 1}, writes={"x": 2}),
        Transaction("b", 1, 2, (1,), reads={"x": 0}, writes={"x": 1}),
    ]
    assert check(history, {"x": 0}) == {"x": 2}


def test_finds_a_lost_update() -> None:
    history = [
        Transaction("a", 0, 5, (1,), reads={"x": 0}, writes={"x": 1}),
        Transaction("b", 0, 5, (2,), reads={"x": 0}, writes={"x": 1}),
    ]
    with pytest.raises(NotSerialisable, match=r"^b at \(2,\) read 0 from 'x', which was 1 then$"):
        check(history, {"x": 0})


def test_finds_write_skew() -> None:
    history = [
        Transaction("a", 0, 5, (1,), reads={"x": 0, "y": 0}, writes={"x": 1}),
        Transaction("b", 0, 5, (2,), reads={"x": 0, "y": 0}, writes={"y": 1}),
    ]
    with pytest.raises(NotSerialisable, match="b at"):
        check(history, {"x": 0, "y": 0})


def test_finds_a_torn_snapshot() -> None:
    history = [
        Transaction("a", 0, 1, (1,), writes={"x": 1, "y": 1}),
        Transaction("b", 0, 5, (1, 1), reads={"x": 1, "y": 0}),
    ]
    with pytest.raises(NotSerialisable, match="read 0 from 'y', which was 1 then"):
        check(history, {"x": 0, "y": 0})


def test_finds_the_past() -> None:
    """Serialisable, but not strictly: b was called when a had returned, and did not see it."""
    history = [
        Transaction("a", 0, 1, (2,), writes={"x": 1}),
        Transaction("c", 0, 9, (3,), reads={"x": 1}),
        Transaction("b", 2, 3, (1,), reads={"x": 0}),
    ]
    with pytest.raises(NotSerialisable, match=r"^a at \(2,\) returned before b at \(1,\) was called"):
        check(history, {"x": 0})


def test_finds_a_place_taken_twice() -> None:
    history = [
        Transaction("a", 0, 1, (1,), writes={"x": 1}),
        Transaction("b", 0, 1, (1,), writes={"y": 1}),
    ]
    with pytest.raises(NotSerialisable, match="both claim the place"):
        check(history, {"x": 0, "y": 0})

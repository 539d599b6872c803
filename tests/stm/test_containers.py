"""Containers: as their builtin counterparts for one thread, and conflicts only where contents are shared."""

import pickle
import threading
from array import array
from collections import deque

import numpy
import pytest
from bloomgate import stm
from bloomgate.stm import TArray, TCounter, TDeque, TDict, TList, TQueue, TSet, TVar, atomic, irrevocable
from bloomgate.stm.runtime import runtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stm.core_cases import LIMIT, during_a_transaction, together

KEYS = st.sampled_from([0, 1, 1.0, True, "a", "b", (1, 2), None])
VALUES = st.integers(0, 3)
PLACES = st.integers(-5, 5)


def outcome(function, *arguments):
    """The result, or the kind of exception."""
    try:
        result = function(*arguments)
    except Exception as error:
        return type(error)
    if isinstance(result, TDict):
        return dict(result)
    if isinstance(result, TSet):
        return set(result)
    return list(result) if isinstance(result, TList) else result


def run_both(operations, ours, builtin, same) -> None:
    for name, *arguments in operations:
        expected = outcome(getattr(builtin, name), *arguments)
        found = outcome(getattr(ours, name), *arguments)
        if builtin is not expected and not (expected is None and name == "__iadd__"):
            assert same(found, expected), (name, arguments)


def both_ways(operations, make_ours, make_builtin, contents, same=lambda a, b: a == b) -> None:
    """Each operation as a transaction of its own, and then all of them in one."""
    ours, builtin = make_ours(), make_builtin()
    run_both(operations, ours, builtin, same)
    assert contents(ours) == contents(builtin)
    again, builtin = make_ours(), make_builtin()

    @atomic
    def at_once():
        run_both(operations, again, make_builtin(), same)

    at_once()
    assert contents(again) == contents(ours)


DICT = st.one_of(
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "__contains__", "get", "pop"]), KEYS),
    st.tuples(st.sampled_from(["__setitem__", "setdefault", "get", "pop"]), KEYS, VALUES),
    st.tuples(st.sampled_from(["__len__", "popitem", "clear"])),
    st.tuples(st.just("update"), st.dictionaries(KEYS, VALUES)),
)


@settings(max_examples=60)
@given(st.lists(DICT, max_size=15))
def test_dict_as_the_builtin(operations) -> None:
    # repr, because the order counts, and which of two equal keys it is.
    both_ways(operations, lambda: TDict(a=1), lambda: {"a": 1}, lambda d: repr(list(d.items())))


SET = st.one_of(
    st.tuples(st.sampled_from(["add", "discard", "remove", "__contains__"]), KEYS),
    st.tuples(st.sampled_from(["__len__", "clear"])),
    st.tuples(
        st.sampled_from(
            ["update", "difference_update", "intersection_update", "symmetric_difference_update", "union"]
            + ["intersection", "difference", "symmetric_difference", "issubset", "issuperset"]
        ),
        st.sets(KEYS),
    ),
    st.tuples(
        st.sampled_from(["__or__", "__and__", "__sub__", "__xor__", "__le__", "__gt__", "__eq__"]), st.sets(KEYS)
    ),
)


@settings(max_examples=60)
@given(st.lists(SET, max_size=15))
def test_set_as_the_builtin(operations) -> None:
    both_ways(operations, lambda: TSet([1, "a"]), lambda: {1, "a"}, set)


SLICES = st.builds(slice, st.none() | PLACES, st.none() | PLACES, st.sampled_from([None, 1, 2, -1]))
LIST = st.one_of(
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "pop"]), PLACES),
    st.tuples(st.sampled_from(["append", "remove", "count", "index", "__contains__"]), VALUES),
    st.tuples(st.sampled_from(["__setitem__", "insert"]), PLACES, VALUES),
    st.tuples(st.sampled_from(["__len__", "pop", "clear", "reverse", "sort", "copy"])),
    st.tuples(st.sampled_from(["extend", "__add__"]), st.lists(VALUES, max_size=3)),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__"]), SLICES),
    st.tuples(st.just("__setitem__"), SLICES, st.lists(VALUES, max_size=3)),
)


@settings(max_examples=100)
@given(st.lists(LIST, max_size=15))
def test_list_as_the_builtin(operations) -> None:
    def same(ours, builtin) -> bool:
        return ours == builtin

    both_ways(operations, lambda: TList([1, 2, 3]), lambda: [1, 2, 3], list, same)


DEQUE = st.one_of(
    st.tuples(st.sampled_from(["append", "appendleft", "__contains__"]), VALUES),
    st.tuples(st.sampled_from(["pop", "popleft", "__len__", "clear"])),
    st.tuples(st.sampled_from(["extend", "extendleft"]), st.lists(VALUES, max_size=3)),
    st.tuples(st.sampled_from(["__getitem__", "rotate"]), PLACES),
    st.tuples(st.just("__setitem__"), PLACES, VALUES),
)


@settings(max_examples=60)
@given(st.lists(DEQUE, max_size=15))
def test_deque_as_the_builtin(operations) -> None:
    both_ways(operations, lambda: TDeque([1, 2]), lambda: deque([1, 2]), list)


def test_reprs_equality_and_pickling(soft) -> None:
    assert repr(TDict({1: 2})) == "TDict({1: 2})"
    assert repr(TSet([1])) == "TSet([1])"
    assert repr(TList([1])) == "TList([1])"
    assert repr(TDeque([1])) == "TDeque([1])"
    assert TDict({1: 2}) == {1: 2} == TDict({1: 2})
    assert TDict({1: 2}) | {3: 4} == {1: 2, 3: 4}
    assert TList([1]) == [1] == TList([1])
    assert TSet([1]) == {1}
    for container in (TDict(), TSet(), TList(), TDeque(), TQueue(), TCounter(), TArray("d", [])):
        with pytest.raises(stm.TransactionError, match="private to this process"):
            pickle.dumps(container)


def test_array(soft) -> None:
    values = TArray("d", [1, 2, 3])
    values[0] = 7
    values[1:] = [8, 9]
    assert values.tolist() == [7.0, 8.0, 9.0]
    assert values[-1] == 9.0
    assert values[::2] == array("d", [7, 9])
    assert memoryview(values.snapshot()).nbytes == 24
    assert numpy.asarray(values).sum() == 24
    with pytest.raises(IndexError):
        values[3]
    with pytest.raises(ValueError, match="keeps its length"):
        values[:] = [1]
    with pytest.raises(TypeError):
        values[0] = "x"
    with pytest.raises(OverflowError):
        TArray("b", [1])[0] = 300


# Conflicts. Each pair: what one transaction does while another one does something else, and whether they conflict.

PAIRS = {
    "dict other keys": (lambda: TDict(a=1, b=2), lambda d: d.update(a=d["a"] + 1), lambda d: d.update(b=0), False),
    "dict same key": (lambda: TDict(a=1), lambda d: d.update(a=d["a"] + 1), lambda d: d.update(a=5), True),
    "dict equal keys": (lambda: TDict({1: 1}), lambda d: d.update({2: d[1]}), lambda d: d.update({True: 5}), True),
    "dict inserts": (TDict, lambda d: d.update(a=1), lambda d: d.update(b=0), False),
    "dict absent key": (TDict, lambda d: d.update(b="a" in d), lambda d: d.update(a=0), True),
    "dict length": (TDict, lambda d: d.update(n=len(d)), lambda d: d.update(a=0), True),
    "dict loop": (lambda: TDict(a=1), lambda d: d.update(n=list(d)), lambda d: d.pop("a"), True),
    "dict loop and value": (lambda: TDict(a=1), lambda d: d.update(a=list(d)), lambda d: d.update(b=1), True),
    "set elements": (TSet, lambda s: s.add(1), lambda s: s.add(2), False),
    "set same element": (TSet, lambda s: s.add(1), lambda s: s.add(1.0), True),
    "list appends": (TList, lambda x: x.append(1), lambda x: x.append(2), False),
    "list append and index": (lambda: TList([1]), lambda x: x.__setitem__(0, x[0] + 1), lambda x: x.append(2), False),
    "list other indices": (lambda: TList([1, 2]), lambda x: x.__setitem__(0, 5), lambda x: x.__setitem__(1, 6), False),
    "list same index": (lambda: TList([1]), lambda x: x.__setitem__(0, x[0] + 1), lambda x: x.__setitem__(0, 6), True),
    "list append and length": (TList, lambda x: x.append(len(x)), lambda x: x.append(2), True),
    "list append and last": (lambda: TList([1]), lambda x: x.append(x[-1]), lambda x: x.append(2), True),
    "deque both ends": (lambda: TDeque([1, 2]), lambda x: x.popleft(), lambda x: x.append(3), False),
    "deque same item": (lambda: TDeque([1]), lambda x: x.popleft(), lambda x: x.pop(), True),
    "counter": (TCounter, lambda x: x.add(1), lambda x: x.add(2), False),
    "array elements": (
        lambda: TArray("q", [1, 2]),
        lambda x: x.__setitem__(0, 3),
        lambda x: x.__setitem__(1, 4),
        False,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_conflicts_are_by_content(name: str, device) -> None:
    make, first, second, conflict = PAIRS[name]
    container = make()
    attempts = []

    def one(interlude) -> None:
        @atomic
        def transaction() -> None:
            attempts.append(1)
            try:
                first(container)
            except IndexError:
                pass
            interlude()

        transaction()

    during_a_transaction(one, lambda: atomic(second)(container))
    assert len(attempts) == 1 + conflict


def test_order_is_the_order_of_commits(soft) -> None:
    items, inserted = TList(), TDict()

    def first(interlude) -> None:
        @atomic
        def add() -> None:
            items.append("first")
            inserted["first"] = 1
            interlude()

        add()

    @atomic
    def other() -> None:
        items.append("other")
        inserted["other"] = 1

    during_a_transaction(first, other)
    assert list(items) == ["other", "first"] == list(inserted)


def test_a_reader_sees_the_container_at_its_snapshot(soft) -> None:
    numbers, letters = TList([1, 2, 3]), TDict(a=1)
    seen = []

    def first(interlude) -> None:
        @atomic
        def read() -> None:
            assert len(numbers) == 3
            interlude()
            seen.append((list(numbers), dict(letters)))

        read()

    @atomic
    def other() -> None:
        numbers.clear()
        numbers.extend("xy")
        del letters["a"]
        letters["b"] = 2

    during_a_transaction(first, other)
    assert seen == [([1, 2, 3], {"a": 1})]


def test_queue_hands_everything_over_once(device, backend) -> None:
    count = 5 if backend.slowness > 1 else 100
    queue: TQueue = TQueue(maxsize=3)
    got: list[int] = []

    def producer(base: int):
        return lambda: [queue.put(base + number) for number in range(count)]

    def consumer() -> None:
        for _ in range(count):
            got.append(queue.get())

    together(producer(0), producer(1000), consumer, consumer)
    assert sorted(got) == sorted([*range(count), *range(1000, 1000 + count)])
    assert queue.empty()
    with pytest.raises(stm.TransactionTimeout):
        queue.get(timeout=0.01)
    with pytest.raises(IndexError):
        queue.get_nowait()


def test_queue_cells_are_given_back(soft) -> None:
    queue: TQueue = TQueue()
    for number in range(500):
        queue.put(number)
        assert queue.get() == number
    assert len(queue._items._cells._cells) < 200


def test_counting_and_appending_threads_never_conflict(soft) -> None:
    counter, items, start = TCounter(), TList(), threading.Barrier(4)
    before = stm.stats()["conflicts"]

    def work() -> None:
        start.wait(LIMIT)
        for number in range(200):
            counter.add(2)
            items.append(number)

    together(*[work] * 4)
    assert counter.value == 1600
    assert sorted(items) == sorted([*range(200)] * 4)
    assert stm.stats()["conflicts"] == before


def test_an_undone_part_leaves_the_container_alone(soft) -> None:
    items, letters, x = TList([1]), TDict(a=1), TVar(0)

    @atomic
    def part() -> None:
        items.append(2)
        assert len(items) == 2
        items.append(3)
        letters["b"] = 2
        del letters["a"]
        raise KeyError

    @atomic
    def whole() -> None:
        with pytest.raises(KeyError):
            part()
        items.append(4)
        letters["c"] = len(letters)
        x.value = 1

    whole()
    assert list(items) == [1, 4]
    assert dict(letters) == {"a": 1, "c": 1}


@pytest.mark.parametrize("make", [TList, TDeque])
def test_an_irrevocable_reader_never_sees_half_an_append(make, soft) -> None:
    """It sees the newest state, so that an append can come between its looks at the item and at the length."""
    items = make()
    real = runtime.read_guarded
    looked, threads = [], []

    def read_guarded(attempt, location):
        value = real(attempt, location)
        if not looked:
            looked.append(location)
            appended = threading.Thread(target=items.append, args=("new",), daemon=True)
            threads.append(appended)
            appended.start()
            # Refused while the length is guarded, else committed at once.
            appended.join(0.2)
        return value

    @atomic
    def look() -> object:
        irrevocable()
        try:
            return items[0] if make is TList else items.popleft()
        except IndexError:
            return "empty"

    runtime.read_guarded = read_guarded
    items._cells.at(0)
    try:
        assert look() in ("empty", "new")
    finally:
        del runtime.read_guarded
        threads[0].join(LIMIT)
    assert len(items) in (0, 1)

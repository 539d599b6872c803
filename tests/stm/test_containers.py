"""Containers: as their builtin counterparts for one thread, and conflicts only where contents are shared."""

import copy
import gc
import pickle
import random
import sys
import threading
from array import array
from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from queue import Empty, Full, Queue

import pytest
from bloomgate import stm
from bloomgate.stm import (
    TArray,
    TCounter,
    TDeque,
    TDict,
    TList,
    TQueue,
    TSet,
    TVar,
    atomic,
    in_place,
    irrevocable,
    retry,
)
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.runtime import runtime
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stm.core_cases import LIMIT, during_a_transaction, together

KEYS = st.sampled_from([0, 1, 1.0, True, "a", "b", (1, 2), None])
VALUES = st.integers(0, 3)
PLACES = st.integers(-5, 5)


def plain(result):
    """What a method returned, in a form that is the same for ours and for the builtin."""
    if isinstance(result, TDict):
        return dict(result)
    if isinstance(result, TSet):
        return set(result)
    if isinstance(result, (TDeque, deque)):
        return list(result), result.maxlen
    if isinstance(result, TArray):
        return result.snapshot()
    if isinstance(result, (TList, Iterator, KeysView, ItemsView, ValuesView)):
        return list(result)
    return result


def outcome(container, name, arguments):
    """The result, or the kind of exception."""
    try:
        result = getattr(container, name)(*arguments)
    except Exception as error:
        return type(error)
    return "itself" if result is container else plain(result)


def run_both(operations, ours, builtin) -> None:
    for name, *arguments in operations:
        if not hasattr(builtin, name):
            # PyPy's dict of Python 3.9 has no __ror__.
            continue
        expected = outcome(builtin, name, arguments)
        found = outcome(ours, name, arguments)
        assert found == expected, (name, arguments)


def both_ways(operations, make_ours, make_builtin, contents) -> None:
    """Each operation as a transaction of its own, and then all of them in one."""
    ours, builtin = make_ours(), make_builtin()
    run_both(operations, ours, builtin)
    assert contents(ours) == contents(builtin)
    again, builtin = make_ours(), make_builtin()

    @atomic
    def at_once():
        run_both(operations, again, make_builtin())

    at_once()
    assert contents(again) == contents(ours)


def call(names: str, *arguments):
    """Names of methods, and calls of one of them."""
    return names.split(), st.tuples(st.sampled_from(names.split()), *arguments)


def calls(kinds):
    return st.lists(st.one_of([calls for _, calls in kinds]), max_size=15)


KEYED = st.dictionaries(KEYS, VALUES, max_size=3)
DICT = [
    call("__getitem__ __delitem__ __contains__ get pop", KEYS),
    call("__setitem__ setdefault get pop", KEYS, VALUES),
    call("__len__ popitem clear copy keys values items __iter__ __reversed__"),
    call("update __or__ __ror__ __ior__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__", KEYED),
    call("fromkeys", st.lists(KEYS, max_size=3)),
]
SET = [
    call("add discard remove __contains__", KEYS),
    call("__len__ clear copy"),
    call(
        "update difference_update intersection_update symmetric_difference_update union intersection difference"
        " symmetric_difference issubset issuperset isdisjoint __or__ __and__ __sub__ __xor__ __ror__ __rand__ __rsub__"
        " __rxor__ __ior__ __iand__ __isub__ __ixor__ __le__ __lt__ __ge__ __gt__ __eq__ __ne__",
        st.sets(KEYS, max_size=4),
    ),
]
SLICES = st.builds(slice, st.none() | PLACES, st.none() | PLACES, st.sampled_from([None, 1, 2, -1]))
SOME = st.lists(VALUES, max_size=3)
LIST = [
    call("__getitem__ __delitem__ pop", PLACES),
    call("append remove count index __contains__", VALUES),
    call("index", VALUES, PLACES, PLACES),
    call("__setitem__ insert", PLACES, VALUES),
    call("__len__ pop clear reverse sort copy __iter__ __reversed__"),
    call("extend __add__ __iadd__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__", SOME),
    call("__mul__ __rmul__ __imul__", st.integers(-1, 2)),
    call("__getitem__ __delitem__", SLICES),
    call("__setitem__", SLICES, SOME),
]
SOME_DEQUE = st.builds(deque, SOME)
DEQUE = [
    call("append appendleft count remove index __contains__", VALUES),
    call("index", VALUES, PLACES, PLACES),
    call("pop popleft __len__ clear reverse copy __iter__ __reversed__"),
    call("extend extendleft __iadd__", SOME),
    call("__getitem__ __delitem__ rotate", PLACES),
    call("__setitem__ insert", PLACES, VALUES),
    call("__add__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__", SOME_DEQUE),
    call("__mul__ __rmul__ __imul__", st.integers(-1, 2)),
]
SOME_ARRAY = st.builds(array, st.just("h"), SOME)
ARRAY = [
    call("__getitem__", PLACES | SLICES),
    call("__setitem__", PLACES, VALUES | st.sampled_from([1.5, 1 << 20, "x"])),
    call("count index __contains__", VALUES),
    call("index", VALUES, PLACES, PLACES),
    call("reverse byteswap tobytes tolist __len__ __iter__"),
    call("__add__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__", SOME_ARRAY),
    call("__mul__ __rmul__", st.integers(-1, 2)),
]


@settings(max_examples=60)
@given(calls(DICT))
def test_dict_as_the_builtin(operations) -> None:
    # repr, because the order counts, and which of two equal keys it is.
    both_ways(operations, lambda: TDict(a=1), lambda: {"a": 1}, lambda d: repr(list(d.items())))


@settings(max_examples=60)
@given(calls(SET))
def test_set_as_the_builtin(operations) -> None:
    both_ways(operations, lambda: TSet([1, "a"]), lambda: {1, "a"}, set)


@settings(max_examples=100)
@given(calls(LIST))
def test_list_as_the_builtin(operations) -> None:
    both_ways(operations, lambda: TList([1, 2, 3]), lambda: [1, 2, 3], list)


@settings(max_examples=100)
@given(calls(DEQUE), st.none() | st.integers(0, 4))
def test_deque_as_the_builtin(operations, maxlen) -> None:
    both_ways(operations, lambda: TDeque([1, 2, 3], maxlen), lambda: deque([1, 2, 3], maxlen), list)


@settings(max_examples=60)
@given(calls(ARRAY))
def test_array_as_the_builtin(operations) -> None:
    both_ways(operations, lambda: TArray("h", [1, 2, 3]), lambda: array("h", [1, 2, 3]), list)


#: What containers do not have of their counterparts, or have in another way.
OTHERWISE = {
    # Python's own, not part of the behaviour.
    "": "__class_getitem__ __getattribute__ __getstate__ __hash__ __init__ __new__ __sizeof__ __repr__"
    " __doc__ __init_subclass__ __module__ __subclasshook__ __weakref__",
    # Refused: they are private to the process.
    "copy and pickle": "__copy__ __deepcopy__ __reduce__ __reduce_ex__",
    # Which element is not said.
    "set": "__iter__ pop",
    "deque": "maxlen",
    # A TArray keeps its length, and has no address.
    "array": "append extend frombytes fromfile fromlist fromunicode insert pop remove __delitem__ __iadd__ __imul__"
    " buffer_info tounicode tofile typecode itemsize __radd__ __buffer__ __release_buffer__",
}


@pytest.mark.parametrize(
    ("ours", "builtin", "tried"),
    [(TDict, dict, DICT), (TSet, set, SET), (TList, list, LIST), (TDeque, deque, DEQUE), (TArray, array, ARRAY)],
    ids=["dict", "set", "list", "deque", "array"],
)
def test_every_method_of_the_builtin_is_tried(ours, builtin, tried) -> None:
    methods = {name for name in dir(builtin) if getattr(builtin, name) is not getattr(object, name, None)}
    names = {name for kind in ("", "copy and pickle", builtin.__name__) for name in OTHERWISE.get(kind, "").split()}
    exercised = {name for names, _ in tried for name in names}
    assert methods - names <= exercised
    for name in exercised:
        assert getattr(ours, name)


@pytest.mark.parametrize(
    ("container", "change"),
    [
        (TList(), TList.extend),
        (TList(), TList.__iadd__),
        (TList(), lambda ours, items: ours.__setitem__(slice(0, 0), items)),
        (TDict(), lambda ours, items: ours.update((item, None) for item in items)),
        (TDict(), lambda ours, items: ours.__ior__((item, None) for item in items)),
        (TSet(), TSet.update),
        (TSet(), TSet.symmetric_difference_update),
        (TSet(range(5)), TSet.intersection_update),
        (TSet(range(-2, 3)), lambda ours, items: ours.difference_update(item - 3 for item in items)),
        (TDeque(), TDeque.extend),
        (TDeque(), lambda ours, items: ours.extendleft(2 - item for item in items)),
        (TDeque(), TDeque.__iadd__),
        (TArray("q", [0, 0, 0]), lambda ours, items: ours.__setitem__(slice(0, 3), items)),
    ],
)
def test_an_iterator_is_read_once_although_the_operation_runs_again(container, change, soft, monkeypatch) -> None:
    """In place first, where it finds out that it needs an ordinary attempt."""
    monkeypatch.setattr(in_place, "PATIENCE", 0)
    monkeypatch.setattr(here.context(), "patience", 0)
    aborts = stm.stats()["other_aborts"]
    change(container, (item for item in range(3)))
    assert sorted(container) == [0, 1, 2]
    assert stm.stats()["other_aborts"] > aborts


def test_operators_are_of_one_moment(soft) -> None:
    """An element is always in one of two sets; what is made of both has it whoever moves it meanwhile."""
    left, right, there = TSet([1]), TSet(), TVar(True)
    stop = threading.Event()

    @atomic
    def move() -> None:
        source, target = (left, right) if there.value else (right, left)
        source.remove(1)
        target.add(1)
        there.value = not there.value

    def mover() -> None:
        while not stop.is_set():
            move()

    def look() -> None:
        try:
            for _ in range(300):
                assert left | right == {1} == left ^ right == left.union(right)
                assert not left & right
                assert left.isdisjoint(right)
                assert left != right
        finally:
            stop.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        together(mover, look)
    finally:
        sys.setswitchinterval(before)


def test_an_array_keeps_its_length(soft) -> None:
    values = TArray("h", [1, 2])
    for name in ("append", "extend", "frombytes", "fromfile", "fromlist", "fromunicode", "insert", "pop", "remove"):
        with pytest.raises(AttributeError, match=f"^a TArray has no {name}: a TArray keeps its length$"):
            getattr(values, name)
    with pytest.raises(AttributeError, match="take that of a snapshot"):
        values.buffer_info()
    with pytest.raises(AttributeError, match=r"^a TArray has no attribute 'nonsense'$"):
        values.nonsense  # noqa: B018
    for change in (lambda: values.__delitem__(0), lambda: values.__iadd__([1]), lambda: values.__imul__(2)):
        with pytest.raises(TypeError, match="keeps its length"):
            change()
    with pytest.raises(ValueError, match="holds numbers"):
        TArray("u", "ab")
    assert values.itemsize == 2
    assert values.typecode == "h"


def test_a_full_deque_takes_no_more(soft) -> None:
    assert TDeque(maxlen=2).maxlen == 2
    assert repr(TDeque([1, 2, 3], maxlen=2)) == "TDeque([2, 3], maxlen=2)"
    with pytest.raises(ValueError, match="non-negative"):
        TDeque(maxlen=-1)


def test_rotating_moves_no_more_than_it_has_to(soft, monkeypatch) -> None:
    moved = []
    for name in ("append", "appendleft"):
        original = getattr(TDeque, name)
        monkeypatch.setattr(TDeque, name, lambda self, item, do=original: (moved.append(item), do(self, item))[1])
    for steps in (1, -1, 2, -2, 4, 10, -11):
        ours, builtin = TDeque(range(10)), deque(range(10))
        ours.rotate(steps)
        builtin.rotate(steps)
        assert list(ours) == list(builtin)
        assert len(moved) <= 5, steps
        moved.clear()


def test_any_key_can_be_a_keyword(soft) -> None:
    assert TDict(initial=3, self=4) == {"initial": 3, "self": 4}
    assert TDict({"initial": 1}, initial=3) == {"initial": 3}


def test_a_set_finds_a_set_among_its_elements(soft) -> None:
    for kind in (set, TSet):
        elements = TSet([frozenset({1}), frozenset({2}), frozenset({3})])
        assert kind({1}) in elements
        assert kind({4}) not in elements
        elements.remove(kind({1}))
        elements.discard(kind({2}))
        elements.discard(kind({4}))
        assert elements == {frozenset({3})}
        with pytest.raises(KeyError):
            elements.remove(kind({1}))


def test_a_copy_is_of_one_moment(soft, monkeypatch) -> None:
    source = TDict(a=0, b=0)
    original = TDict.__getitem__

    def disturbed(self, key):
        value = original(self, key)
        if here.tx is None:
            # What dict() would do: between its look-ups others commit.
            source.update(a=value + 1, b=value + 1)
        return value

    monkeypatch.setattr(TDict, "__getitem__", disturbed)
    copied = dict(TDict(source).items())
    assert copied["a"] == copied["b"]


def test_reprs_of_what_contains_itself(soft) -> None:
    numbers, deck, table, jobs, x = TList(), TDeque(), TDict(), TQueue(), TVar(None, "x")
    numbers.append(numbers)
    deck.append(deck)
    table[1] = table
    jobs.put(jobs)
    x.value = (x,)
    assert repr(numbers) == "TList([[...]])"
    assert repr(deck) == "TDeque([[...]])"
    assert repr(table) == "TDict({1: {...}})"
    assert repr(jobs) == "TQueue([[...]])"
    assert repr(x) == "<x: (<...>,)>"


def test_the_builtin_on_the_left(soft) -> None:
    if sys.implementation.name != "pypy":
        # Whose deque does not leave it to the other operand.
        joined = deque([1, 2], 3) + TDeque([3, 4])
        assert (joined, joined.maxlen) == (TDeque([2, 3, 4], 3), 3)
        assert isinstance(joined, TDeque)
    assert [1] + TList([2]) == TList([1, 2])
    assert array("h", [1]) + TArray("h", [2]) == TArray("h", [1, 2])
    for left, right in ([1], TDeque()), ((1,), TDeque()), ([1], TArray("h", [])), (deque(), TList()):
        with pytest.raises(TypeError):
            left + right


def test_popitem_takes_the_last_first(soft, monkeypatch) -> None:
    table = TDict(dict.fromkeys(range(20_000)))
    table[5] = "still the sixth"
    del table[7]
    table[7] = "last"
    assert table.popitem() == (7, "last")
    table["new"] = 1
    assert atomic(lambda: [table.popitem()[0] for _ in range(3)])() == ["new", 19_999, 19_998]
    looked, look = [], Attempt.at_snapshot
    monkeypatch.setattr(Attempt, "at_snapshot", lambda *args: (looked.append(1), look(*args))[1])
    assert table.popitem() == (19_997, None)
    assert len(looked) < 20, "it need not look at everything"
    table[19_998] = "again"
    assert list(table)[-2:] == [19_996, 19_998]
    assert table.popitem() == (19_998, "again")
    small = TDict(a=1, b=2, c=3)
    del small["c"]
    assert [small.popitem(), small.popitem()] == [("b", 2), ("a", 1)]
    with pytest.raises(KeyError, match="dictionary is empty"):
        small.popitem()


def test_every_keyword_is_a_key(soft) -> None:
    table = TDict({1: 2}, name=3, self=4, initial=5)
    assert table == {1: 2, "name": 3, "self": 4, "initial": 5}
    named = TDict.named("stock", [(1, 2)], name=3)
    assert named == {1: 2, "name": 3}
    assert named._entries[1]._label() == "stock[1]"


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
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(stm.TransactionError, match="private to this process"):
                duplicate(container)


def test_array(soft) -> None:
    values = TArray("d", [1, 2, 3])
    values[0] = 7
    values[1:] = [8, 9]
    assert values.tolist() == [7.0, 8.0, 9.0]
    assert values[-1] == 9.0
    assert values[::2] == array("d", [7, 9])
    assert memoryview(values.snapshot()).nbytes == 24
    with pytest.raises(IndexError):
        values[3]
    with pytest.raises(ValueError, match="keeps its length"):
        values[:] = [1]
    with pytest.raises(TypeError):
        values[0] = "x"
    with pytest.raises(OverflowError):
        TArray("b", [1])[0] = 300


def test_an_array_is_one_for_numpy(soft) -> None:
    numpy = pytest.importorskip("numpy")
    assert numpy.asarray(TArray("d", [7, 8, 9])).sum() == 24


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
    with pytest.raises(Empty):
        queue.get_nowait()
    for number in range(3):
        assert not queue.full()
        queue.put_nowait(number)
    assert queue.full()
    with pytest.raises(Full):
        queue.put_nowait(3)
    with pytest.raises(stm.TransactionTimeout):
        queue.put(3, timeout=0.01)
    assert [queue.get_nowait() for _ in range(3)] == [0, 1, 2]


def test_queue_takes_the_arguments_of_the_builtin(soft) -> None:
    for queue in (TQueue(maxsize=1), Queue(maxsize=1)):
        queue.put(1, False)
        for full in (lambda: queue.put(2, False), lambda: queue.put(2, block=False)):  # noqa: B023
            with pytest.raises(Full):
                full()
        assert queue.get(True) == 1
        queue.put(3, True, 1)
        assert queue.get(True, 1) == 3
        for empty in (lambda: queue.get(False), lambda: queue.get(block=False)):  # noqa: B023
            with pytest.raises(Empty):
                empty()
        with pytest.raises(ValueError, match="non-negative"):
            queue.get(timeout=-1)
    with pytest.raises(stm.TransactionTimeout):
        TQueue().get(True, 0.01)


def test_queue_cells_are_given_back(soft) -> None:
    queue: TQueue = TQueue()
    for number in range(500):
        queue.put(number)
        assert queue.get() == number
    assert len(queue._items._cells._cells) < 200


def known(container: TDict) -> int:
    """The entries that it keeps."""
    # PyPy's weak references go with the garbage.
    gc.collect()
    return len(container._entries) + len(container._absent or ())


def churn(container: TDict) -> None:
    """Enough changes that what could not be swept before is."""
    for number in range(2000):
        container["churn", number] = number
        del container["churn", number]


def test_keys_that_were_looked_up_are_forgotten(soft) -> None:
    letters = TDict(a=1)
    for number in range(1000):
        assert number not in letters
        assert letters.get(-number, "no") == "no"
    assert known(letters) == 1


def test_keys_that_were_deleted_are_forgotten(soft) -> None:
    letters, elements = TDict(a=1), TSet()
    for number in range(1000):
        letters[number] = number
        elements.add(number)
        assert letters.pop(number) == number
        elements.remove(number)
    assert known(letters) < 200
    assert known(elements._elements) < 200
    assert dict(letters) == {"a": 1}


def test_keys_that_were_inserted_in_vain_are_forgotten(soft) -> None:
    letters = TDict()

    @atomic
    def fail(number: int) -> None:
        letters[number] = number
        raise KeyError

    for number in range(1000):
        with pytest.raises(KeyError):
            fail(number)
    letters["a"] = 1
    churn(letters)
    assert known(letters) < 200
    assert dict(letters) == {"a": 1}


def test_a_snapshot_keeps_what_others_delete(soft) -> None:
    letters = TDict((number, number) for number in range(300))

    def first(interlude) -> None:
        @atomic
        def read() -> None:
            assert letters[0] == 0
            interlude()
            assert len(letters) == 300
            assert [letters[number] for number in range(300)] == list(range(300))

        read()

    def others() -> None:
        for number in range(300):
            del letters[number]

    during_a_transaction(first, others)
    assert not letters
    churn(letters)
    assert known(letters) < 200


def test_who_waits_for_a_key_is_woken_although_it_was_forgotten(soft) -> None:
    letters = TDict()
    looked = threading.Event()

    @atomic
    def take() -> int:
        if "wanted" not in letters:
            looked.set()
            retry()
        return letters.pop("wanted")

    got: list[int] = []

    def giver() -> None:
        assert looked.wait(LIMIT)
        for number in range(300):
            letters[number] = number
            del letters[number]
        gc.collect()
        letters["wanted"] = 5

    together(lambda: got.append(take()), giver)
    assert got == [5]


def test_threads_that_insert_and_delete_the_same_keys(soft) -> None:
    """While sweeps take entries away and bring them back."""
    letters, size, start = TDict(), TVar(0), threading.Barrier(4)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    @atomic
    def toggle(key: int) -> None:
        if key in letters:
            del letters[key]
            size.value -= 1
        else:
            letters[key] = key
            size.value += 1

    def work(seed: int):
        chance = random.Random(seed)

        def run() -> None:
            start.wait(LIMIT)
            for _ in range(300):
                toggle(chance.randrange(4))
                if not chance.randrange(8):
                    letters._sweep()

        return run

    try:
        together(*[work(number) for number in range(4)])
    finally:
        sys.setswitchinterval(before)
    assert len(letters) == size.value == len(list(letters))
    assert all(letters[key] == key for key in letters)


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

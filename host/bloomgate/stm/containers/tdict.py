"""``TDict``: a dict of which transactions conflict only when they touch the same key."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from itertools import islice
from reprlib import recursive_repr
from typing import Any, Generic, NamedTuple, Optional, TypeVar, Union, overload

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers import parts
from bloomgate.stm.containers.parts import ABSENT, Private, consuming, current
from bloomgate.stm.operations import Operation, Write
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location

__all__ = ["TDict"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_NO_DEFAULT: Any = object()
#: Keys that are put in or deleted between two sweeps, at least.
_SWEEP = 64


class _Place:
    """Where an item stands in the order of insertion, which is known when its transaction commits."""

    __slots__ = ("number",)
    number: int


class _Entry(Location):
    """What is at one key."""

    __slots__ = ("used",)

    def __init__(self, initial: Any, name: str) -> None:
        super().__init__(initial, name)
        #: The newest snapshot of a transaction that found nothing here and put something in.
        self.used = 0


class _Item(NamedTuple):
    #: The object that was inserted first, as in a dict.
    key: Any
    value: Any
    place: _Place


class _Size(NamedTuple):
    """How many items there are, and the next number in the order of insertion."""

    length: int
    following: int


def _insert(size: _Size, place: _Place, write: Write) -> _Size:
    # The same number whoever evaluates it.
    place.number = size.following
    return _Size(size.length + 1, size.following + 1)


_INSERT = Operation("insert", _insert, lambda size, place: None)
_DELETE = Operation("delete", lambda size, _, write: _Size(size.length - 1, size.following), lambda size, _: None)


class TDict(Private, MutableMapping[K, V], Generic[K, V]):
    """A transactional dict. Iteration is in the order of insertion, that is, of the commits that inserted.

    Transactions conflict when one writes a key that the other reads or writes, whether it is present or not; and when
    one inserts or deletes a key while the other asks for the length or iterates. Inserting different keys does not
    conflict. Unlike with a dict, a loop goes over the contents at its beginning, so that the body can change them.
    """

    __slots__ = ("__weakref__", "_absent", "_changed", "_entries", "_name", "_size", "_sweep_at")

    def __init__(self, initial: Union[Mapping[K, V], Iterable[tuple[K, V]]] = (), /, **more: V) -> None:
        self._fill(type(self).__name__, initial, more)

    @classmethod
    def named(cls, name: str, initial: Any = (), /, **more: Any) -> TDict[Any, Any]:
        """A new one that is called ``name`` in reports: every keyword of ``TDict(...)`` is a key."""
        made = cls.__new__(cls)
        made._fill(name, initial, more)
        return made

    def _fill(self, name: str, initial: Any, more: dict[str, V]) -> None:
        self._name = name
        # Keys that compare equal have one entry, as long as anybody knows it: transactions conflict, and wait, by that.
        # parts.lock is held by who adds to or takes from the two.
        #: Entries in which something is, or was not long ago.
        self._entries: dict[Any, _Entry] = {}
        #: Entries in which there is nothing, as long as a transaction has them in its read set.
        self._absent: Optional[weakref.WeakValueDictionary[Any, _Entry]] = None
        #: Keys that were put in or deleted since the last sweep, or could not be swept then.
        self._changed: deque[Any] = deque()
        self._sweep_at = _SWEEP
        # At one moment, which dict() would not take care of.
        items: dict[Any, Any] = dict(initial._pairs() if isinstance(initial, TDict) else initial, **more)
        for number, (key, value) in enumerate(items.items()):
            place = _Place()
            place.number = number
            self._entries[key] = _Entry(_Item(key, value, place), f"{self._name}[{key!r}]")
        self._size = Location(_Size(len(items), len(items)), f"len({self._name})")

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None) -> TDict[Any, Any]:
        """A new TDict with the same value at every key."""
        return cls(dict.fromkeys(keys, value))

    def _entry(self, key: Any) -> _Entry:
        entry = self._entries.get(key)
        return self._absent_entry(key) if entry is None else entry

    def _absent_entry(self, key: Any) -> _Entry:
        label = f"{self._name}[{key!r}]"
        with parts.lock:
            # Whoever takes one out of _entries has put it here before.
            entry = self._entries.get(key)
            if entry is None:
                if self._absent is None:
                    self._absent = weakref.WeakValueDictionary()
                entry = self._absent.get(key)
                if entry is None:
                    entry = self._absent[key] = _Entry(ABSENT, label)
        return entry

    def _keep(self, key: Any, entry: _Entry, snapshot: int) -> None:
        """A transaction is going to put something in."""
        with parts.lock:
            entry.used = max(entry.used, snapshot)
            self._entries.setdefault(key, entry)
        self._note(key)

    def _note(self, key: Any) -> None:
        self._changed.append(key)
        if len(self._changed) >= self._sweep_at:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of entries in which there is nothing for any transaction, present or future."""
        horizon = runtime.horizon()
        for _ in range(len(self._changed)):
            try:
                key = self._changed.popleft()
            except IndexError:
                # Another thread sweeps, too.
                break
            with parts.lock:
                entry = self._entries.get(key)
                if entry is None or entry._head.value is not ABSENT:
                    continue
                gone = entry._head.timestamp <= horizon and entry.used < horizon
                if gone:
                    if self._absent is None:
                        self._absent = weakref.WeakValueDictionary()
                    self._absent[key] = entry
                    del self._entries[key]
            if not gone:
                self._changed.append(key)
        self._sweep_at = _SWEEP + 2 * len(self._changed)

    @operation
    def __getitem__(self, key: K) -> V:
        item = current().read(self._entry(key))
        if item is ABSENT:
            raise KeyError(key)
        value: V = item.value
        return value

    @operation
    def __setitem__(self, key: K, value: V) -> None:
        tx = current()
        entry = self._entry(key)
        item = tx.read(entry)
        if item is ABSENT:
            self._keep(key, entry, tx.snapshot)
            place = _Place()
            tx.write(entry, _Item(key, value, place))
            tx.commute(self._size, _INSERT, place)
        else:
            tx.write(entry, _Item(item.key, value, item.place))

    @operation
    def __delitem__(self, key: K) -> None:
        tx = current()
        entry = self._entry(key)
        if tx.read(entry) is ABSENT:
            raise KeyError(key)
        tx.write(entry, ABSENT)
        tx.commute(self._size, _DELETE, None)
        self._note(key)

    @operation
    def __contains__(self, key: object) -> bool:
        return current().read(self._entry(key)) is not ABSENT

    @overload
    def get(self, key: K, default: None = None) -> Optional[V]: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: D) -> Union[V, D]: ...
    @operation
    def get(self, key: K, default: Any = None) -> Any:
        item = current().read(self._entry(key))
        return default if item is ABSENT else item.value

    @operation
    def __len__(self) -> int:
        length: int = current().read(self._size).length
        return length

    def __iter__(self) -> Iterator[K]:
        return iter([item.key for _, item in self._present()])

    def __reversed__(self) -> Iterator[K]:
        return iter([item.key for _, item in reversed(self._present())])

    @operation
    def _present(self) -> list[tuple[_Entry, _Item]]:
        """Everything in it, in order. Who reads no more than keys need not read the entries: whatever changes the set
        of keys changes the size."""
        tx = current()
        tx.read(self._size)
        found = []
        for entry in self._entries.copy().values():
            known = tx.known(entry)
            item = tx.at_snapshot(entry) if known is None else known.value
            if item is not ABSENT:
                found.append((entry, item))
        found.sort(key=lambda pair: pair[1].place.number)
        return found

    @operation
    def _pairs(self) -> list[tuple[K, V]]:
        read = current().read
        pairs = []
        for entry, item in self._present():
            pairs.append((item.key, read(entry).value))
        return pairs

    def keys(self) -> KeysView[K]:
        return _Keys(self)

    def items(self) -> ItemsView[K, V]:
        return _Items(self)

    def values(self) -> ValuesView[V]:
        return _Values(self)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V) -> V: ...
    @overload
    def pop(self, key: K, default: D) -> Union[V, D]: ...
    @operation
    def pop(self, key: K, default: Any = _NO_DEFAULT) -> Any:
        item = current().read(self._entry(key))
        if item is not ABSENT:
            del self[key]
            return item.value
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default

    @operation
    def popitem(self) -> tuple[K, V]:
        """Take out the item that was inserted last. Raises KeyError when it is empty."""
        tx = current()
        size: _Size = tx.read(self._size)
        if not size.length:
            raise KeyError("popitem(): dictionary is empty")
        last: _Item = ABSENT
        # Keys come here in about the order of insertion.
        for entry in self._newest_first():
            known = tx.known(entry)
            item = tx.at_snapshot(entry) if known is None else known.value
            if item is not ABSENT and (last is ABSENT or item.place.number > last.place.number):
                last = item
                if item.place.number == size.following - 1:
                    break
        value = self.pop(last.key)
        # So that the search ends at the next one. Who inserts meanwhile conflicts with what was read.
        tx.write(self._size, _Size(size.length - 1, last.place.number))
        return last.key, value

    def _newest_first(self) -> Iterator[_Entry]:
        """All entries, each at least once, in about the opposite order."""
        with parts.lock:
            # Mostly these are enough: so many are swept later.
            last = list(islice(reversed(self._entries.values()), 2 * _SWEEP))
        yield from last
        yield from reversed(list(self._entries.values()))

    @operation
    def clear(self) -> None:
        for key in self:
            del self[key]

    @overload
    def setdefault(self: TDict[K, Optional[D]], key: K, default: None = None) -> Optional[D]: ...
    @overload
    def setdefault(self, key: K, default: V) -> V: ...
    @operation
    def setdefault(self, key: K, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    @consuming
    def update(self, /, *others: Any, **more: Any) -> None:
        for key, value in dict(*others, **more).items():
            self[key] = value

    @operation
    def copy(self) -> TDict[K, V]:
        """A new TDict with the same items."""
        return TDict(self._pairs())

    @operation
    def __or__(self, other: Mapping[K, V]) -> TDict[K, V]:
        return TDict({**dict(self._pairs()), **other}) if isinstance(other, Mapping) else NotImplemented

    @operation
    def __ror__(self, other: Mapping[K, V]) -> TDict[K, V]:
        return TDict({**other, **dict(self._pairs())}) if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> TDict[K, V]:  # type: ignore[misc]
        self.update(other)
        return self

    @operation
    def __eq__(self, other: object) -> bool:
        if isinstance(other, TDict):
            other = dict(other._pairs())
        return dict(self._pairs()) == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @recursive_repr("{...}")
    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self._pairs())!r})"


class _Keys(KeysView[K]):
    _mapping: TDict[K, Any]

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._mapping)


class _Items(ItemsView[K, V]):
    _mapping: TDict[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter(self._mapping._pairs())

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return reversed(self._mapping._pairs())


class _Values(ValuesView[V]):
    _mapping: TDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return iter([value for _, value in self._mapping._pairs()])

    def __reversed__(self) -> Iterator[V]:
        return reversed([value for _, value in self._mapping._pairs()])

"""``TList``: a list of which transactions conflict only when they touch the same position, or its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from operator import index as as_index
from reprlib import recursive_repr
from typing import Any, Callable, Optional, SupportsIndex, TypeVar, Union, overload

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers.parts import ABSENT, Cells, Compared, Private, consuming, current, grow, repeatable
from bloomgate.stm.version import Location

__all__ = ["TList"]

T = TypeVar("T")
_APPEND = grow(1)


class TList(Compared, Private, MutableSequence[T]):
    """A transactional list.

    Transactions that append do not conflict with each other, nor with those that use items by their index; the order
    of appended items is the order of the commits. Negative indices, len(), loops and slices depend on the length, and
    so conflict with appends. Inserting and deleting rewrites everything behind the place, as in a list.
    """

    __slots__ = ("__weakref__", "_cells", "_length", "_name")

    def __init__(self, initial: Iterable[T] = (), *, name: Optional[str] = None) -> None:
        self._name = name or type(self).__name__
        self._cells = Cells(self._name)
        items = list(initial)
        for position, item in enumerate(items):
            self._cells.fill(position, item)
        self._length = Location(len(items), f"len({self._name})")

    @operation
    def __len__(self) -> int:
        length: int = current().read(self._length)
        return length

    @operation
    def _items(self) -> list[T]:
        tx = current()
        return [self._cells.read(tx, position) for position in range(tx.read(self._length))]

    def _position(self, index: Any) -> int:
        """Of an item that exists. Raises IndexError."""
        tx = current()
        position = as_index(index)
        if position < 0:
            position += tx.read(self._length)
        if position < 0 or (
            self._cells.read(tx, position, self._length) is ABSENT
            # Also applies what this transaction has appended.
            and position >= tx.read(self._length)
        ):
            raise IndexError(f"{self._name} index out of range")
        return position

    @overload
    def __getitem__(self, index: SupportsIndex) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    @operation
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._items()[index]
        return self._cells.read(current(), self._position(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            self._set_slice(index, repeatable(value))
        else:
            self._set_item(index, value)

    @operation
    def _set_item(self, index: Any, value: T) -> None:
        current().write(self._cells.at(self._position(index)), value)

    @operation
    def _set_slice(self, index: slice, values: Iterable[T]) -> None:
        items = self._items()
        items[index] = values
        self._replace(items)

    @operation
    def __delitem__(self, index: Any) -> None:
        items = self._items()
        del items[index]
        self._replace(items)

    @operation
    def append(self, value: T) -> None:
        current().commute(self._length, _APPEND, (self._cells, value))

    @consuming
    def extend(self, values: Iterable[T]) -> None:
        # A list, since ``values`` may be this one.
        for value in list(values):
            self.append(value)

    @operation
    def insert(self, index: int, value: T) -> None:
        items = self._items()
        items.insert(index, value)
        self._replace(items)

    @operation
    def pop(self, index: int = -1) -> T:
        tx = current()
        length = tx.read(self._length)
        if not length:
            raise IndexError(f"pop from empty {self._name}")
        if index not in (-1, length - 1):
            item: T = self[index]
            del self[index]
            return item
        last = self._cells.at(length - 1)
        item = tx.read(last)
        tx.write(last, ABSENT)
        tx.write(self._length, length - 1)
        return item

    @operation
    def clear(self) -> None:
        self._replace([])

    @operation
    def reverse(self) -> None:
        self._replace(self._items()[::-1])

    @operation
    def sort(self, *, key: Optional[Callable[[T], Any]] = None, reverse: bool = False) -> None:
        items: list[Any] = self._items()
        items.sort(key=key, reverse=reverse)
        self._replace(items)

    @operation
    def remove(self, value: T) -> None:
        items = self._items()
        items.remove(value)
        self._replace(items)

    def _replace(self, items: list[T]) -> None:
        tx = current()
        length = tx.read(self._length)
        for position in range(max(length, len(items))):
            value = items[position] if position < len(items) else ABSENT
            if self._cells.read(tx, position) is not value:
                tx.write(self._cells.at(position), value)
        if len(items) != length:
            tx.write(self._length, len(items))

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._items())

    def __contains__(self, value: object) -> bool:
        return value in self._items()

    def index(self, value: Any, *bounds: Any) -> int:
        return self._items().index(value, *bounds)

    def count(self, value: Any) -> int:
        return self._items().count(value)

    def _builtin(self) -> list[T]:
        return self._items()

    def copy(self) -> TList[T]:
        """A new TList with the same items."""
        return TList(self._items())

    @operation
    def __add__(self, other: Union[TList[T], list[T]]) -> TList[T]:
        return TList([*self._items(), *other]) if isinstance(other, (TList, list)) else NotImplemented

    def __radd__(self, other: list[T]) -> TList[T]:
        return TList([*other, *self._items()]) if isinstance(other, list) else NotImplemented

    def __mul__(self, times: int) -> TList[T]:
        return TList(self._items() * times)

    __rmul__ = __mul__

    @operation
    def __imul__(self, times: int) -> TList[T]:
        self._replace(self._items() * times)
        return self

    def __iadd__(self, values: Iterable[T]) -> TList[T]:
        self.extend(values)
        return self

    @recursive_repr("[...]")
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items()!r})"

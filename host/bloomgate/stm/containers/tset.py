"""``TSet``: a set of which transactions conflict only when they touch the same element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet, Set
from typing import Any, Callable, Optional, TypeVar

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers.parts import Private, consuming
from bloomgate.stm.containers.tdict import TDict

__all__ = ["TSet"]

T = TypeVar("T")


def _hashable(element: Any) -> Any:
    """A set is looked for among the elements as the frozenset that is equal to it, as the builtin does."""
    if isinstance(element, (set, TSet)) and type(element).__hash__ is None:
        return frozenset(element)
    return element


class TSet(Private, MutableSet[T]):
    """A transactional set, with the operators and methods of a set; it conflicts as the keys of a TDict do."""

    __slots__ = ("__weakref__", "_elements")

    def __init__(self, initial: Iterable[T] = (), *, name: Optional[str] = None) -> None:
        self._elements: TDict[T, None] = TDict.named(name or type(self).__name__, dict.fromkeys(initial))

    def __contains__(self, element: object) -> bool:
        return _hashable(element) in self._elements

    def __iter__(self) -> Iterator[T]:
        return iter(self._elements)

    def __len__(self) -> int:
        return len(self._elements)

    @operation
    def add(self, element: T) -> None:
        if element not in self._elements:
            self._elements[element] = None

    @operation
    def discard(self, element: T) -> None:
        element = _hashable(element)
        if element in self._elements:
            del self._elements[element]

    def remove(self, element: T) -> None:
        del self._elements[_hashable(element)]

    def pop(self) -> T:
        return self._elements.popitem()[0]

    def clear(self) -> None:
        self._elements.clear()

    @consuming
    def update(self, *others: Iterable[T]) -> None:
        for other in others:
            for element in other:
                self.add(element)

    @consuming
    def difference_update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for element in list(other):
                self.discard(element)

    @consuming
    def intersection_update(self, *others: Iterable[Any]) -> None:
        keep = set(self).intersection(*others)
        for element in self:
            if element not in keep:
                self.discard(element)

    @consuming
    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        for element in set(other):
            if element in self:
                self.discard(element)
            else:
                self.add(element)

    @consuming
    def union(self, *others: Iterable[T]) -> TSet[T]:
        return TSet(set(self).union(*others))

    @consuming
    def intersection(self, *others: Iterable[Any]) -> TSet[T]:
        return TSet(set(self).intersection(*others))

    @consuming
    def difference(self, *others: Iterable[Any]) -> TSet[T]:
        return TSet(set(self).difference(*others))

    @consuming
    def symmetric_difference(self, other: Iterable[T]) -> TSet[T]:
        return TSet(set(self).symmetric_difference(other))

    @consuming
    def issubset(self, other: Iterable[Any]) -> bool:
        return set(self).issubset(other)

    @consuming
    def issuperset(self, other: Iterable[Any]) -> bool:
        return set(self).issuperset(other)

    @consuming
    def isdisjoint(self, other: Iterable[Any]) -> bool:
        return set(self).isdisjoint(other)

    def copy(self) -> TSet[T]:
        """A new TSet with the same elements."""
        return TSet(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


def _operator(name: str, reflected: bool) -> Any:
    """An operator of sets, as one transaction."""
    method: Callable[[set[Any], set[Any]], Any] = getattr(set, name)

    @operation
    def operate(self: TSet[Any], other: object) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        result = method(set(other), set(self)) if reflected else method(set(self), set(other))
        return TSet(result) if isinstance(result, set) else result

    return operate


def _in_place(change: Callable[[TSet[Any], Any], None]) -> Any:
    """An operator that changes the set."""

    def operate(self: TSet[Any], other: object) -> Any:
        if not isinstance(other, Set):
            return NotImplemented
        change(self, other)
        return self

    return operate


for _name in ("or", "and", "sub", "xor"):
    setattr(TSet, f"__{_name}__", _operator(f"__{_name}__", False))
    setattr(TSet, f"__r{_name}__", _operator(f"__{_name}__", True))
for _name in ("eq", "lt", "le", "gt", "ge"):
    setattr(TSet, f"__{_name}__", _operator(f"__{_name}__", False))
for _name, _change in (
    ("or", TSet.update),
    ("and", TSet.intersection_update),
    ("sub", TSet.difference_update),
    ("xor", TSet.symmetric_difference_update),
):
    setattr(TSet, f"__i{_name}__", _in_place(_change))

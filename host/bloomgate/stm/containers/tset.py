"""``TSet``: a set of which transactions conflict only when they touch the same element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import Any, Optional, TypeVar

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers.parts import Private
from bloomgate.stm.containers.tdict import TDict

__all__ = ["TSet"]

T = TypeVar("T")


class TSet(Private, MutableSet[T]):
    """A transactional set, with the operators and methods of a set; it conflicts as the keys of a TDict do."""

    __slots__ = ("__weakref__", "_elements")

    def __init__(self, initial: Iterable[T] = (), *, name: Optional[str] = None) -> None:
        self._elements: TDict[T, None] = TDict(dict.fromkeys(initial), name=name or type(self).__name__)

    def __contains__(self, element: object) -> bool:
        return element in self._elements

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
        if element in self._elements:
            del self._elements[element]

    def remove(self, element: T) -> None:
        del self._elements[element]

    def pop(self) -> T:
        return self._elements.popitem()[0]

    def clear(self) -> None:
        self._elements.clear()

    @operation
    def update(self, *others: Iterable[T]) -> None:
        for other in others:
            for element in other:
                self.add(element)

    @operation
    def difference_update(self, *others: Iterable[Any]) -> None:
        for other in others:
            for element in list(other):
                self.discard(element)

    @operation
    def intersection_update(self, *others: Iterable[Any]) -> None:
        keep = set(self).intersection(*others)
        for element in self:
            if element not in keep:
                self.discard(element)

    @operation
    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        for element in set(other):
            if element in self:
                self.discard(element)
            else:
                self.add(element)

    def union(self, *others: Iterable[T]) -> TSet[T]:
        return TSet(set(self).union(*others))

    def intersection(self, *others: Iterable[Any]) -> TSet[T]:
        return TSet(set(self).intersection(*others))

    def difference(self, *others: Iterable[Any]) -> TSet[T]:
        return TSet(set(self).difference(*others))

    def symmetric_difference(self, other: Iterable[T]) -> TSet[T]:
        return TSet(set(self).symmetric_difference(other))

    def issubset(self, other: Iterable[Any]) -> bool:
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        return set(self).issuperset(other)

    def copy(self) -> TSet[T]:
        """A new TSet with the same elements."""
        return TSet(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


# Each is made of several operations, and has to be one transaction.
for _name in ("__ior__", "__iand__", "__ixor__", "__isub__"):
    setattr(TSet, _name, operation(getattr(MutableSet, _name)))

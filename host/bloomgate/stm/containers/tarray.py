"""``TArray``: numbers of one machine type, of which transactions conflict by element."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from operator import index as as_index
from typing import Any, Optional, Union

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers.parts import Private, current
from bloomgate.stm.version import Location

__all__ = ["TArray"]

Number = Union[int, float]


class TArray(Private):
    """A transactional array.array of fixed length. ``snapshot()`` has a buffer for memoryview and NumPy, which also
    takes the TArray itself: ``numpy.asarray(values)``."""

    __slots__ = ("__weakref__", "_elements", "typecode")

    def __init__(self, typecode: str, initial: Iterable[Number], *, name: Optional[str] = None) -> None:
        """``typecode``: of the array module, e.g. "d". Raises what array.array raises for a wrong one or value."""
        self.typecode = typecode
        label = name or type(self).__name__
        values: array[Any] = array(typecode, list(initial))
        self._elements = [Location(value, f"{label}[{number}]") for number, value in enumerate(values)]

    def _coerce(self, values: Iterable[Any]) -> array[Any]:
        return array(self.typecode, list(values))

    def __len__(self) -> int:
        return len(self._elements)

    @operation
    def __getitem__(self, index: Any) -> Any:
        read = current().read
        if isinstance(index, slice):
            return self._coerce(read(element) for element in self._elements[index])
        return read(self._elements[as_index(index)])

    @operation
    def __setitem__(self, index: Any, value: Any) -> None:
        write = current().write
        if isinstance(index, slice):
            elements, values = self._elements[index], self._coerce(value)
            if len(elements) != len(values):
                raise ValueError(f"a TArray keeps its length: {len(elements)} values are needed, not {len(values)}")
            for element, new in zip(elements, values):
                write(element, new)
        else:
            write(self._elements[as_index(index)], self._coerce([value])[0])

    def snapshot(self) -> array[Any]:
        """All elements as they are at one moment, as an array.array of its own."""
        values: array[Any] = self[:]
        return values

    def tolist(self) -> list[Number]:
        """All elements as they are at one moment."""
        return self.snapshot().tolist()

    def __iter__(self) -> Iterator[Number]:
        return iter(self.snapshot())

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> Any:
        import numpy

        return numpy.array(self.snapshot(), dtype=dtype)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TArray):
            other = other.snapshot()
        return self.snapshot() == other if isinstance(other, array) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.typecode!r}, {self.tolist()!r})"

"""``TArray``: numbers of one machine type, of which transactions conflict by element."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from operator import index as as_index
from typing import Any, BinaryIO, Callable, NoReturn, Optional, Union

from bloomgate.stm.atomic import operation
from bloomgate.stm.containers.parts import Compared, Private, current, repeatable
from bloomgate.stm.version import Location

__all__ = ["TArray"]

Number = Union[int, float]

_FIXED = "a TArray keeps its length"
#: Methods of array.array -> why they are not here.
_REFUSED = {
    **dict.fromkeys(
        ("append", "extend", "frombytes", "fromfile", "fromlist", "fromunicode", "insert", "pop", "remove"), _FIXED
    ),
    "buffer_info": "its values have no address; take that of a snapshot()",
    "tounicode": "it holds numbers",
}


class TArray(Compared, Private):
    """A transactional array.array of fixed length. ``snapshot()`` has a buffer for memoryview and NumPy, which also
    takes the TArray itself: ``numpy.asarray(values)``."""

    __slots__ = ("__weakref__", "_elements", "typecode")

    def __init__(self, typecode: str, initial: Iterable[Number], *, name: Optional[str] = None) -> None:
        """``typecode``: of the array module, e.g. "d". Raises what array.array raises for a wrong one or value."""
        if typecode == "u":
            raise ValueError("a TArray holds numbers, so that its typecode cannot be 'u'")
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

    def __setitem__(self, index: Any, value: Any) -> None:
        self._set(index, repeatable(value) if isinstance(index, slice) else value)

    @operation
    def _set(self, index: Any, value: Any) -> None:
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

    def _builtin(self) -> array[Any]:
        return self.snapshot()

    @property
    def itemsize(self) -> int:
        """Bytes of an element in ``snapshot()``."""
        return array(self.typecode).itemsize

    def __contains__(self, value: object) -> bool:
        return value in self.snapshot()

    def count(self, value: Number) -> int:
        return self.snapshot().count(value)

    def index(self, value: Number, *bounds: int) -> int:
        """Where the first that is equal is. Raises ValueError when there is none."""
        return self.snapshot().index(value, *bounds)

    def tobytes(self) -> bytes:
        return self.snapshot().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes; as all output, not in a transaction that may be run again."""
        self.snapshot().tofile(file)

    def reverse(self) -> None:
        self._change(array.reverse)

    def byteswap(self) -> None:
        self._change(array.byteswap)

    @operation
    def _change(self, change: Callable[[array[Any]], object]) -> None:
        values = self.snapshot()
        change(values)
        self[:] = values

    def __add__(self, other: Union[TArray, array[Any]]) -> TArray:
        if isinstance(other, TArray):
            other = other.snapshot()
        return TArray(self.typecode, self.snapshot() + other) if isinstance(other, array) else NotImplemented

    def __radd__(self, other: array[Any]) -> TArray:
        return TArray(self.typecode, other + self.snapshot()) if isinstance(other, array) else NotImplemented

    def __mul__(self, times: int) -> TArray:
        return TArray(self.typecode, self.snapshot() * times)

    __rmul__ = __mul__

    def __getattr__(self, name: str) -> NoReturn:
        if name in _REFUSED:
            raise AttributeError(f"a TArray has no {name}: {_REFUSED[name]}")
        raise AttributeError(f"a TArray has no attribute {name!r}")

    def __delitem__(self, index: Any) -> NoReturn:
        raise TypeError(_FIXED)

    def __iadd__(self, other: Any) -> NoReturn:  # type: ignore[misc]
        raise TypeError(_FIXED)

    def __imul__(self, times: Any) -> NoReturn:  # type: ignore[misc]
        raise TypeError(_FIXED)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.typecode!r}, {self.tolist()!r})"

"""Variables that several processes share: ``SharedArray`` and ``SharedTVar``.

They lie in the segment of a ``shm:`` device, so that any process that has opened it can read and write them in its
transactions. Everything that other processes see is done in C (docs/shm.md); how transactions read and commit them is
in shared_part.py.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NoReturn, Optional

from bloomgate.backends.shm import ShmDevice
from bloomgate.shm.array import ArrayMemory, Number
from bloomgate.stm.atomic import run
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.runtime import runtime
from bloomgate.stm.shared_part import SharedLocation, Versioned

__all__ = ["SharedArray", "SharedTVar", "Versioned"]


class SharedArray:
    """An array of numbers in shared memory, whose elements transactions of several processes read and write.

    >>> bloomgate.use_device("shm:example")
    >>> hits = bloomgate.SharedArray("hits", 100)
    >>> hits[0] += 1

    Elements are variables like :class:`~bloomgate.TVar`: two transactions conflict if one writes an element that the
    other has read. Outside of a transaction an element reads as its newest value, and an assignment is a transaction
    of its own. An array is found by its name in the segment; pickled, it becomes the same array in another process.
    """

    def __init__(
        self, name: str, size: Optional[int] = None, typecode: Optional[str] = None, initial: Iterable[Number] = ()
    ) -> None:
        """The array of that name in the segment of the STM's device; made now if there is none and ``size`` is given.

        ``typecode``: "q" (signed 64-bit integers, the default), "Q" (unsigned) or "d" (floats). ``initial``: the first
        values of a new array, the others are 0. Raises KeyError if there is none, ValueError if there is one of another
        size or type, MemoryError if the segment is full, and :class:`~bloomgate.stm.TransactionError` if the STM's
        device is no ``shm:``.
        """
        device = runtime.device
        if not isinstance(device, ShmDevice):
            raise TransactionError(
                f"shared data need a device like shm:NAME, not {device.info().backend}: use_device()"
            )
        self._memory = ArrayMemory.open(device, name, size, typecode, initial)
        self._segment = device.segment.name
        self._locations: dict[int, SharedLocation] = {}

    @property
    def name(self) -> str:
        """Its name in the segment."""
        return self._memory.name

    @property
    def typecode(self) -> str:
        """ "q", "Q" or "d"."""
        return self._memory.kind.code

    def __len__(self) -> int:
        return self._memory.size

    def __getitem__(self, index: int) -> Number:
        return self._location(index)._get()

    def __setitem__(self, index: int, value: Number) -> None:
        self._location(index)._set(value)

    def __iter__(self) -> Iterator[Number]:
        return iter([self[index] for index in range(len(self))])

    def commute(self, index: int, operation: str, operand: Number) -> None:
        """Update an element by "add", "min" or "max", without conflicts with other such updates of it.

        As :func:`bloomgate.commute`. Integers wrap around at 64 bits.
        """
        self._location(index)._commute(operation, operand)

    def variable(self, index: int) -> SharedTVar:
        """An element as a variable."""
        return SharedTVar._of(self, self._location(index))

    def versioned(self, index: int) -> Versioned:
        """The newest published value of an element, and its version; not part of any transaction."""
        return self._location(index)._newest()

    def snapshot(self) -> list[Number]:
        """All elements at one point in the order of commits: a transaction that only reads."""
        values: list[Number] = run(list, (self,)) if here.tx is None else list(self)
        return values

    def _location(self, index: int) -> SharedLocation:
        number = self._memory.location(index)
        location = self._locations.get(number)
        if location is None:
            location = self._locations[number] = SharedLocation(self, number)
        return location

    def _here(self) -> ArrayMemory:
        """The array as this process's device sees it, which is another one after a fork or ``use_device``."""
        memory = self._memory
        device = runtime._device
        if device is not memory.device:
            if device is None:
                if self._segment is None:
                    raise TransactionError("the segment has no name, and its device is not open any more")
                runtime.use(f"shm:{self._segment}")
                device = runtime.device
            if not isinstance(device, ShmDevice) or device.segment.name != self._segment:
                raise TransactionError(
                    f"{self.name} is in the segment {self._segment}, and the device is another one:"
                    f" use_device('shm:{self._segment}')"
                )
            memory = self._memory = ArrayMemory.open(device, self.name)
        memory.device.port.require_open()
        return memory

    def __eq__(self, other: object) -> bool:
        """Whether it is the same array."""
        return self._identity() == other._identity() if isinstance(other, SharedArray) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, int]:
        return self._segment or self._memory.device, self._memory.first

    def __reduce__(self) -> Any:
        if self._segment is None:
            raise TransactionError(f"{self.name} is in a segment without a name, which no other process can open")
        return _attached, (self._segment, self.name)

    def __repr__(self) -> str:
        return f"<SharedArray {self.name} of {len(self)} {self.typecode} in shm:{self._segment or ''}>"


def _attached(segment: str, name: str) -> SharedArray:
    if runtime._device is None:
        runtime.use(f"shm:{segment}")
    device = runtime.device
    if not isinstance(device, ShmDevice) or device.segment.name != segment:
        raise TransactionError(
            f"{name} is in the segment {segment}: use_device('shm:{segment}') before it is unpickled"
        )
    return SharedArray(name)


class SharedTVar:
    """A :class:`~bloomgate.TVar` for numbers, in shared memory: an array of one element."""

    def __init__(self, initial: Number = 0, name: Optional[str] = None, typecode: Optional[str] = None) -> None:
        """The variable ``name`` of the segment, made now if there is none; without a name always a new one.

        ``typecode``: see :class:`SharedArray`; by default it fits ``initial``. Raises what SharedArray raises.
        """
        if typecode is None:
            typecode = "d" if isinstance(initial, float) else "q"
        self._array = SharedArray(name or f"tvar-{uuid.uuid4().hex}", 1, typecode, [initial])
        self._location = self._array._location(0)

    @classmethod
    def _of(cls, array: SharedArray, location: SharedLocation) -> SharedTVar:
        variable = cls.__new__(cls)
        variable._array = array
        variable._location = location
        return variable

    @property
    def value(self) -> Number:
        """As of a :class:`~bloomgate.TVar`."""
        return self._location._get()

    @value.setter
    def value(self, value: Number) -> None:
        self._location._set(value)

    def commute(self, operation: str, operand: Number) -> None:
        """Update it by "add", "min" or "max"; :func:`bloomgate.commute` calls this."""
        self._location._commute(operation, operand)

    def __bool__(self) -> NoReturn:
        # As of a TVar.
        raise TypeError("a SharedTVar itself is neither true nor false; use its .value")

    def __eq__(self, other: object) -> bool:
        """Whether it is the same variable."""
        return self._identity() == other._identity() if isinstance(other, SharedTVar) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, int]:
        return self._array._identity()[0], self._location.number

    def __reduce__(self) -> Any:
        attach, arguments = self._array.__reduce__()
        return _variable, (attach, arguments, self._location.number - self._array._memory.first)

    def __repr__(self) -> str:
        return f"<{self._location._label()}: {self.value!r}>" if here.tx is None else f"<{self._location._label()}>"


def _variable(attach: Callable[..., SharedArray], arguments: Any, index: int) -> SharedTVar:
    return attach(*arguments).variable(index)

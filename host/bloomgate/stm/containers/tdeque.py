"""``TDeque``: a deque; ``TQueue``: a queue with blocking ``get`` and ``put``."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterable, Iterator
from operator import index as as_index
from reprlib import recursive_repr
from typing import Any, Callable, Generic, Optional, TypeVar, Union

from bloomgate.stm.atomic import operation, retry
from bloomgate.stm.containers import parts
from bloomgate.stm.containers.parts import ABSENT, Cells, Compared, Private, consuming, current, grow
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location, newest_before

__all__ = ["TDeque", "TQueue"]

T = TypeVar("T")
_APPEND, _APPEND_LEFT = grow(1), grow(-1)
#: Items taken from the left end between two sweeps.
_SWEEP = 64


class TDeque(Compared, Private, Generic[T]):
    """A transactional deque. Putting in at one end does not conflict with putting in anywhere, nor, unless it is
    empty, with taking out at the other end.

    With ``maxlen`` putting in takes out at the other end when it is full, and so conflicts with everything that changes
    the length. Inserting and deleting in the middle rewrites everything behind the place.
    """

    __slots__ = ("__weakref__", "_cells", "_first", "_left", "_maxlen", "_name", "_swept", "_tail")

    def __init__(self, initial: Iterable[T] = (), maxlen: Optional[int] = None, *, name: Optional[str] = None) -> None:
        """``maxlen``: items that it can hold; None: any number. Raises what collections.deque raises for a bad one."""
        self._name = name or type(self).__name__
        self._cells = Cells(self._name)
        items = list(deque(initial, maxlen))
        self._maxlen = maxlen
        for position, item in enumerate(items):
            self._cells.fill(position, item)
        #: Positions of the first item, and behind the last one.
        self._first = Location(0, f"first of {self._name}")
        self._tail = Location(len(items), f"last of {self._name}")
        self._swept = 0
        #: Whether somebody has ever put in on the left, so that positions can be used again.
        self._left = False

    @operation
    def append(self, item: T) -> None:
        """Put in on the right."""
        if self._maxlen is not None and not self._make_room(self.popleft):
            return
        current().commute(self._tail, _APPEND, (self._cells, item))

    @operation
    def appendleft(self, item: T) -> None:
        """Put in on the left."""
        if self._maxlen is not None and not self._make_room(self.pop):
            return
        if not self._left:
            with parts.lock:
                self._left = True
        current().commute(self._first, _APPEND_LEFT, (self._cells, item))

    def _make_room(self, take: Callable[[], T]) -> bool:
        """Whether there is room for one more, after taking one out if need be."""
        if len(self) == self._maxlen:
            if not self._maxlen:
                return False
            take()
        return True

    @property
    def maxlen(self) -> Optional[int]:
        """Items that it can hold; None: any number."""
        return self._maxlen

    @consuming
    def extend(self, items: Iterable[T]) -> None:
        for item in list(items):
            self.append(item)

    @consuming
    def extendleft(self, items: Iterable[T]) -> None:
        for item in list(items):
            self.appendleft(item)

    @operation
    def popleft(self) -> T:
        """Take out on the left. Raises IndexError when it is empty."""
        tx = current()
        first = tx.read(self._first)
        if self._cells.read(tx, first, self._first, self._tail) is ABSENT and first >= tx.read(self._tail):
            raise IndexError(f"pop from an empty {self._name}")
        item: T = self._take(first)
        tx.write(self._first, first + 1)
        if not first % _SWEEP and not self._left:
            on_commit(self._sweep)
        return item

    @operation
    def pop(self) -> T:
        """Take out on the right. Raises IndexError when it is empty."""
        tx = current()
        last = tx.read(self._tail) - 1
        if self._cells.read(tx, last, self._first, self._tail) is ABSENT and last < tx.read(self._first):
            raise IndexError(f"pop from an empty {self._name}")
        item: T = self._take(last)
        tx.write(self._tail, last)
        return item

    def _take(self, position: int) -> Any:
        tx = current()
        cell = self._cells.at(position)
        item = tx.read(cell)
        tx.write(cell, ABSENT)
        return item

    def _sweep(self) -> None:
        """Forget the cells that lie before the first item for every transaction, present and future."""
        with parts.lock:
            if self._left:
                return
            visible = newest_before(self._first, runtime.horizon() + 1)
            assert visible is not None
            limit: int = visible.value
            for position in range(self._swept, limit):
                self._cells.forget(position)
            self._swept = max(self._swept, limit)

    @operation
    def _items(self) -> list[T]:
        tx = current()
        return [self._cells.read(tx, position) for position in range(tx.read(self._first), tx.read(self._tail))]

    @operation
    def __len__(self) -> int:
        tx = current()
        length: int = tx.read(self._tail) - tx.read(self._first)
        return length

    @operation
    def _cell(self, index: int) -> Location:
        tx = current()
        first, tail = tx.read(self._first), tx.read(self._tail)
        position = as_index(index) + (first if index >= 0 else tail)
        if not first <= position < tail:
            raise IndexError(f"{self._name} index out of range")
        return self._cells.at(position)

    @operation
    def __getitem__(self, index: int) -> T:
        item: T = current().read(self._cell(index))
        return item

    @operation
    def __setitem__(self, index: int, item: T) -> None:
        current().write(self._cell(index), item)

    @operation
    def __delitem__(self, index: int) -> None:
        self._change(lambda items: items.__delitem__(index))

    @operation
    def insert(self, index: int, item: T) -> None:
        """Insert before ``index``. Raises IndexError when it is full."""
        self._change(lambda items: items.insert(index, item))

    @operation
    def remove(self, item: T) -> None:
        """Delete the first that is equal. Raises ValueError when there is none."""
        self._change(lambda items: items.remove(item))

    @operation
    def reverse(self) -> None:
        self._change(lambda items: items.reverse())

    def _change(self, change: Callable[[deque[T]], object]) -> None:
        """Do to the contents what ``change`` does to a collections.deque."""
        items = self._builtin()
        change(items)
        tx = current()
        first, tail = tx.read(self._first), tx.read(self._tail)
        end = first + len(items)
        for position, item in enumerate(items, first):
            if self._cells.read(tx, position) is not item:
                tx.write(self._cells.at(position), item)
        for position in range(end, tail):
            tx.write(self._cells.at(position), ABSENT)
        if end != tail:
            tx.write(self._tail, end)

    @operation
    def clear(self) -> None:
        while self:
            self.popleft()

    @operation
    def rotate(self, steps: int = 1) -> None:
        """To the right; to the left when negative."""
        length = len(self)
        steps = as_index(steps) % length if length else 0
        if steps <= length // 2:
            for _ in range(steps):
                self.appendleft(self.pop())
        else:
            for _ in range(length - steps):
                self.append(self.popleft())

    def __iter__(self) -> Iterator[T]:
        return iter(self._items())

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._items())

    def __contains__(self, item: object) -> bool:
        return item in self._items()

    def index(self, item: T, *bounds: int) -> int:
        """Where the first that is equal is. Raises ValueError when there is none."""
        return self._builtin().index(item, *bounds)

    def count(self, item: T) -> int:
        return self._builtin().count(item)

    def copy(self) -> TDeque[T]:
        """A new TDeque with the same items and ``maxlen``."""
        return TDeque(self._items(), self._maxlen)

    def __add__(self, other: Union[TDeque[T], deque[T]]) -> TDeque[T]:
        if not isinstance(other, (TDeque, deque)):
            return NotImplemented
        return TDeque([*self._items(), *other], self._maxlen)

    def __radd__(self, other: deque[T]) -> TDeque[T]:
        return TDeque([*other, *self._items()], other.maxlen) if isinstance(other, deque) else NotImplemented

    @consuming
    def __iadd__(self, items: Iterable[T]) -> TDeque[T]:
        self.extend(items)
        return self

    def __mul__(self, times: int) -> TDeque[T]:
        return TDeque(self._builtin() * times, self._maxlen)

    __rmul__ = __mul__

    @operation
    def __imul__(self, times: int) -> TDeque[T]:
        def multiply(items: deque[T]) -> None:
            items *= times

        self._change(multiply)
        return self

    def _builtin(self) -> deque[T]:
        return deque(self._items(), self._maxlen)

    @recursive_repr("[...]")
    def __repr__(self) -> str:
        limit = "" if self._maxlen is None else f", maxlen={self._maxlen}"
        return f"{type(self).__name__}({self._items()!r}{limit})"


def _check_timeout(timeout: Optional[float]) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


class TQueue(Private, Generic[T]):
    """First in, first out. Transactions that put in do not conflict with each other in a queue without a limit.

    As queue.Queue, but for ``task_done`` and ``join``, and for what the end of a timeout raises, which is
    :class:`~bloomgate.stm.TransactionTimeout`.
    """

    __slots__ = ("__weakref__", "_items", "_maxsize")

    def __init__(self, maxsize: int = 0, *, name: Optional[str] = None) -> None:
        """``maxsize``: items at which ``put`` waits; 0: no limit."""
        self._items: TDeque[T] = TDeque(name=name or type(self).__name__)
        self._maxsize = maxsize

    @operation
    def put(self, item: T, block: bool = True, timeout: Optional[float] = None) -> None:
        """Put an item in. Waits while it is full, in a transaction by ``retry(timeout)``, ``timeout`` in seconds.

        Without ``block`` it raises queue.Full instead.
        """
        if self.full():
            if not block:
                raise queue.Full
            _check_timeout(timeout)
            retry(timeout)
        self._items.append(item)

    @operation
    def get(self, block: bool = True, timeout: Optional[float] = None) -> T:
        """Take the oldest item out. Waits while it is empty, by ``retry(timeout)``, ``timeout`` in seconds.

        Without ``block`` it raises queue.Empty instead.
        """
        try:
            return self._items.popleft()
        except IndexError:
            if not block:
                raise queue.Empty from None
            _check_timeout(timeout)
            item: T = retry(timeout)
            return item

    def get_nowait(self) -> T:
        """Take the oldest item out. Raises queue.Empty when there is none."""
        return self.get(False)

    def put_nowait(self, item: T) -> None:
        """Put an item in. Raises queue.Full when there is no room."""
        self.put(item, False)

    def full(self) -> bool:
        """Whether ``put`` would wait."""
        return 0 < self._maxsize <= len(self._items)

    def qsize(self) -> int:
        """The number of items."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there is no item."""
        return not self._items

    __len__ = qsize

    @recursive_repr("[...]")
    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self._items)!r})"

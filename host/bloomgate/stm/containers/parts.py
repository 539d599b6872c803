"""What the containers are made of."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Collection
from typing import Any, Callable, NoReturn, Optional, TypeVar

from bloomgate.stm.atomic import operation, run
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.operations import Operation, Write
from bloomgate.stm.version import Location

__all__ = ["ABSENT", "Cells", "Compared", "Private", "consuming", "current", "grow", "repeatable"]

F = TypeVar("F", bound=Callable[..., Any])

#: Held by who changes which locations a container has; for all containers, and new in a forked child. Reentrant,
#: because comparing keys can run anything.
lock = threading.RLock()


def _renew_lock() -> None:
    global lock
    lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


#: The value of a location in which nothing is.
ABSENT: Any = _Absent()


def current() -> Attempt:
    """The transaction that an operation runs in."""
    tx = here.tx
    assert tx is not None
    return tx


def repeatable(items: Any) -> Any:
    """``items``, so that they can be read any number of times: an operation may be run several times."""
    return items if isinstance(items, Collection) or hasattr(items, "keys") else list(items)


def consuming(method: F) -> F:
    """Decorator: :func:`operation` for methods whose positional arguments are iterables."""
    run_method = operation(method)

    @functools.wraps(method)
    def wrapper(self: Any, /, *iterables: Any, **more: Any) -> Any:
        return run_method(self, *map(repeatable, iterables), **more)

    return wrapper  # type: ignore[return-value]


class Private:
    """Refuses to be pickled or copied by accident."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TransactionError(
            f"a {type(self).__name__} is private to this process and cannot be pickled or copied; send its contents"
        )


class Compared:
    """Comparisons as the builtin counterpart has them, with that and with each other; each is one transaction."""

    __slots__ = ()

    def _builtin(self) -> Any:
        """The contents as the counterpart."""
        raise NotImplementedError

    def _compare(self, other: object, relation: Callable[[Any, Any], Any]) -> Any:
        if here.tx is None:
            return run(self._compare, (other, relation))
        mine = self._builtin()
        if isinstance(other, Compared):
            other = other._builtin()
        return relation(mine, other) if isinstance(other, type(mine)) else NotImplemented

    def __eq__(self, other: object) -> Any:
        return self._compare(other, operator.eq)

    def __lt__(self, other: Any) -> Any:
        return self._compare(other, operator.lt)

    def __le__(self, other: Any) -> Any:
        return self._compare(other, operator.le)

    def __gt__(self, other: Any) -> Any:
        return self._compare(other, operator.gt)

    def __ge__(self, other: Any) -> Any:
        return self._compare(other, operator.ge)

    __hash__ = None  # type: ignore[assignment]


class Cells:
    """Locations by position, made when they are needed."""

    __slots__ = ("_cells", "_name")

    def __init__(self, name: str) -> None:
        self._cells: dict[int, Location] = {}
        self._name = name

    def at(self, position: int) -> Location:
        """The location of a position, for writing."""
        cell = self._cells.get(position)
        if cell is None:
            # One atomic operation: of two threads that need it, one makes it.
            cell = self._cells.setdefault(position, Location(ABSENT, f"{self._name}[{position}]"))
        return cell

    def fill(self, position: int, value: Any) -> None:
        """The initial contents, before anybody else knows the container."""
        self._cells[position] = Location(value, f"{self._name}[{position}]")

    def read(self, tx: Attempt, position: int, *ends: Location) -> Any:
        """What is at a position; ABSENT also where there has never been anything.

        Then the caller reads where the container ends: whoever puts something there changes that. ``ends``: where it
        says so. The holder of the token, who sees the newest state, has to make sure of that first.
        """
        if tx.token:
            for end in ends:
                tx.read(end)
        cell = self._cells.get(position)
        return ABSENT if cell is None else tx.read(cell)

    def forget(self, position: int) -> None:
        """Drop the location of a position that no transaction can reach any more."""
        self._cells.pop(position, None)


def _never(value: Any, operand: Any) -> Optional[str]:
    return None


def grow(step: int) -> Operation:
    """The operation that puts an item at the end of a container, whose location holds the end's position.

    The operand is (cells, item). ``step`` 1: the location holds the position behind the last item. -1: the position of
    the first item.
    """

    def evaluate(end: int, operand: tuple[Cells, Any], write: Write) -> int:
        cells, item = operand
        write(cells.at(end if step > 0 else end - 1), item)
        return end + step

    return Operation("append", evaluate, _never)

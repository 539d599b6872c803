"""``TVar``: a transactional variable."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, Optional, TypeVar

from bloomgate.stm.atomic import run
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location

__all__ = ["TVar"]

T = TypeVar("T")


class TVar(Location, Generic[T]):
    """A variable that transactions read and write.

    Its value should be immutable (a number, a string, a tuple, a frozenset, ...): the value is versioned, what is
    inside of it is not. ``name`` appears in reports.
    """

    __slots__ = ()

    def __init__(self, initial: T, name: Optional[str] = None) -> None:
        super().__init__(initial, name)

    @property
    def value(self) -> T:
        """The value that the transaction sees; outside of a transaction the newest one.

        Assigning outside of a transaction is a transaction of its own.
        """
        tx = here.tx
        if tx is None:
            newest: T = runtime.peek(self)
            return newest
        recent = self._recent
        value: T = recent.value if recent.owner is tx.identity else tx.read(self)
        return value

    @value.setter
    def value(self, value: T) -> None:
        tx = here.tx
        if tx is None:
            run(_assign, (self, value))
            return
        recent = self._recent
        if recent.writer is tx.part:
            recent.value = value
        else:
            tx.write(self, value)

    def __repr__(self) -> str:
        return f"<{self._label()}: {self.value!r}>" if here.tx is None else f"<{self._label()}>"

    def __reduce__(self) -> NoReturn:
        raise TransactionError(
            f"{self._label()} is private to this process and cannot be pickled or copied; send its value instead"
        )


def _assign(variable: TVar[Any], value: Any) -> None:
    variable.value = value

"""``TVar``: a transactional variable."""

from __future__ import annotations

import sys
from _thread import get_ident
from reprlib import recursive_repr
from typing import Any, Generic, NoReturn, Optional, TypeVar

from bloomgate.stm.alone import Era, alone
from bloomgate.stm.atomic import run
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import IN_PLACE, Location, Version, issue_key

__all__ = ["TVar"]

T = TypeVar("T")

#: Whether what a branch costs is worth the trouble of computing without it.
_NO_BRANCH = sys.implementation.name == "pypy"


class TVar(Location, Generic[T]):
    """A variable that transactions read and write.

    Its value should be immutable (a number, a string, a tuple, a frozenset, ...): the value is versioned, what is
    inside of it is not. ``name`` appears in reports.
    """

    __slots__ = ("_before", "_era", "_stamp", "_value")

    _movable = True

    #: Its value, while ``_head`` is ``IN_PLACE``, and the one before the transaction with ``_stamp`` wrote it; of any
    #: type when it is not.
    _value: T
    _before: T
    _stamp: int
    #: In which the thread that is alone may use ``_value`` as it is.
    _era: Era

    def __init__(self, initial: T, name: Optional[str] = None) -> None:
        # Not Location's: it gets versions when a transaction needs them.
        self._key = issue_key()
        self._value = self._before = initial
        self._stamp = 0
        self._era = alone.era
        self._head = self._recent = IN_PLACE
        self._name = name

    @property
    def value(self) -> T:
        """The value that the transaction sees; outside of a transaction the newest one.

        Assigning outside of a transaction is a transaction of its own.
        """
        era = alone.era
        if self._era is era and era.thread == get_ident():
            return self._value
        tx = here.tx
        if tx is None:
            newest: T = runtime.peek(self)
            return newest
        recent = self._recent
        value: T = recent.value if recent.owner is tx.identity else tx.read(self)
        return value

    @value.setter
    def value(self, value: T) -> None:
        era = alone.era
        if self._era is era and era.thread == get_ident():
            stamp = era.stamp
            if stamp > 0:
                # In this order: see alone.py. A signal handler may write the variable in between, as a part of this.
                era.wrote = True
                old: Any = self._value
                last = self._stamp
                before: Any = self._before
                if _NO_BRANCH and type(old) is int and type(before) is int:
                    # ``old`` if it is the first write of the transaction, whose stamp is the greatest, else ``before``.
                    # Without a branch: no processor predicts it, and on PyPy that cost more than the rest of a write.
                    self._before = before ^ ((before ^ old) & ((last - stamp) >> 63))  # type: ignore[assignment]
                elif last != stamp:
                    self._before = old
                self._stamp = stamp
                self._value = value
                return
            if stamp and self._stamp == -stamp:
                self._value = value
                return
        tx = here.tx
        if tx is None:
            run(_assign, (self, value))
            return
        recent = self._recent
        if recent.writer is tx.part:
            recent.value = value
        else:
            tx.write(self, value)

    def __bool__(self) -> NoReturn:
        # ``check(variable)`` would never wait.
        raise TypeError(f"{self._label()} itself is neither true nor false; use its .value")

    def _settle(self) -> Version:
        return alone.settle(self)

    @recursive_repr("<...>")
    def __repr__(self) -> str:
        return f"<{self._label()}: {self.value!r}>" if here.tx is None else f"<{self._label()}>"

    def __reduce__(self) -> NoReturn:
        raise TransactionError(
            f"{self._label()} is private to this process and cannot be pickled or copied; send its value instead"
        )


def _assign(variable: TVar[Any], value: Any) -> None:
    variable.value = value

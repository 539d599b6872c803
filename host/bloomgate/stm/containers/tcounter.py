"""``TCounter``: a number that transactions count up without conflicts."""

from __future__ import annotations

from typing import Optional, Union

from bloomgate.stm.commute import commute
from bloomgate.stm.containers.parts import Private
from bloomgate.stm.tvar import TVar

__all__ = ["TCounter"]

Number = Union[int, float]


class TCounter(Private):
    """A number. ``add`` does not conflict with other ``add``; reading ``value`` does."""

    __slots__ = ("__weakref__", "_number")

    def __init__(self, initial: Number = 0, *, name: Optional[str] = None) -> None:
        self._number: TVar[Number] = TVar(initial, name or type(self).__name__)

    def add(self, amount: Number = 1) -> None:
        """Add at commit. Raises :class:`~bloomgate.stm.TransactionError` for what is not a number."""
        commute(self._number, "add", amount)

    def subtract(self, amount: Number = 1) -> None:
        """Subtract at commit."""
        commute(self._number, "add", -amount)

    @property
    def value(self) -> Number:
        """The number; a transaction sees what it has added itself."""
        return self._number.value

    @value.setter
    def value(self, value: Number) -> None:
        self._number.value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

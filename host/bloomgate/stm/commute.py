"""``commute``: updates that do not conflict with each other."""

from __future__ import annotations

from typing import Any, Union

from bloomgate.stm.atomic import run
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.operations import named
from bloomgate.stm.shared import SharedTVar
from bloomgate.stm.tvar import TVar

__all__ = ["commute"]


def commute(variable: Union[TVar[Any], SharedTVar], operation: str, operand: Any) -> None:
    """Update a variable in a way that does not conflict with other such updates of it.

    ``operation`` is one of ``"add"``, ``"min"``, ``"max"`` (numbers: int, float, Fraction) and ``"append"`` (the value
    is a tuple, and grows by ``operand``). It is applied at commit, to what the commits before this one left: appended
    items are in commit order. A transaction that also reads the variable gets the updated value, but then it conflicts
    with others like any that reads and writes. Should the variable have got a value by then to which the operation
    cannot be applied, the update is left out and logged as an error.

    A :class:`~bloomgate.SharedTVar` takes "add", "min" and "max"; its integers wrap around at 64 bits.

    Raises :class:`~bloomgate.stm.TransactionError` for another operation, or an operand that does not fit the value.
    """
    if isinstance(variable, SharedTVar):
        variable.commute(operation, operand)
        return
    if not isinstance(variable, TVar):
        raise TransactionError(
            f"commute() needs a TVar or a SharedTVar, not {variable!r}; a container has methods for it"
        )
    tx = here.tx
    if tx is None:
        run(commute, (variable, operation, operand))
        return
    chosen = named(operation)
    known = tx.known(variable)
    value = tx.at_snapshot(variable) if known is None else known.value
    reason = chosen.refuse(value, operand)
    if reason is not None:
        raise TransactionError(f"cannot {operation} to {variable._label()}: {reason}")
    tx.commute(variable, chosen, operand)

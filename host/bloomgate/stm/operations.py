"""The closed set of operations that commute: what they do, and which operands they take.

An operation is ``evaluate(value, operand, write) -> value``. It is evaluated when the timestamp of its commit is known
and everything before it has been written back, by whoever finishes the commit first, perhaps by several threads at
once: it must depend on its arguments alone and always return. ``write(location, value)`` gives other locations, which
the operation owns, a value of the same commit.
"""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from typing import Any, Callable, NamedTuple, Optional

from bloomgate.stm.errors import TransactionError
from bloomgate.stm.version import Location

__all__ = ["ADD", "APPEND", "MAXIMUM", "MINIMUM", "OPERATIONS", "Operation", "Pending", "evaluate"]

Write = Callable[[Location, Any], None]

_log = logging.getLogger("bloomgate.stm")


class Operation(NamedTuple):
    """One of the set."""

    name: str
    evaluate: Callable[[Any, Any, Write], Any]
    #: Why the operand cannot be applied to such a value, or None when it can.
    refuse: Callable[[Any, Any], Optional[str]]


class Pending(NamedTuple):
    """Operations of one transaction on one location, the last one first; shared with its earlier states."""

    operation: Operation
    operand: Any
    earlier: Optional[Pending]


def _refuse_number(value: Any, operand: Any) -> Optional[str]:
    for what, number in (("operand", operand), ("value", value)):
        # Types whose sums and comparisons with each other always exist. No subclasses: they can override both.
        if type(number) not in (int, float, Fraction, bool):
            return f"the {what} must be an int, float or Fraction, not {number!r}"
        if isinstance(number, float) and math.isnan(number):
            return f"the {what} must be a number that can be compared, not {number!r}"
    return None


def _refuse_append(value: Any, operand: Any) -> Optional[str]:
    return None if type(value) is tuple else f"the value must be a tuple, not {value!r}; or use a TList"


def _add(value: Any, operand: Any, write: Write) -> Any:
    try:
        return value + operand
    except OverflowError:
        # An integer too large for a float.
        return math.inf if operand > 0 else -math.inf


ADD = Operation("add", _add, _refuse_number)
MINIMUM = Operation("min", lambda value, operand, write: min(value, operand), _refuse_number)
MAXIMUM = Operation("max", lambda value, operand, write: max(value, operand), _refuse_number)
APPEND = Operation("append", lambda value, operand, write: (*value, operand), _refuse_append)

#: By the names that :func:`bloomgate.commute` takes.
OPERATIONS = {operation.name: operation for operation in (ADD, MINIMUM, MAXIMUM, APPEND)}


def named(name: str) -> Operation:
    """The operation of that name. Raises :class:`~bloomgate.stm.errors.TransactionError` for any other."""
    operation = OPERATIONS.get(name)
    if operation is None:
        raise TransactionError(f"a commuting operation must be one of {', '.join(OPERATIONS)}, not {name!r}")
    return operation


def evaluate(pending: Pending, value: Any, write: Write) -> Any:
    """The value after all of ``pending``, in the order in which the transaction asked for them."""
    steps = []
    step: Optional[Pending] = pending
    while step is not None:
        steps.append(step)
        step = step.earlier
    for step in reversed(steps):
        operation, operand, _ = step
        reason = operation.refuse(value, operand)
        if reason is not None:
            # Another commit changed the type of the value meanwhile. This one is decided, so it cannot fail any more.
            _log.error("a commuting %s was left out at commit: %s", operation.name, reason)
            continue
        value = operation.evaluate(value, operand, write)
    return value

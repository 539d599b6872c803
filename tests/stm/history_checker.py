"""Opacity: also the attempts that were aborted have only ever seen one consistent state.

Extends tests/serialisability.py, which judges what committed, by attempts that failed: each must fit into the order of
the commits as if it had only read, at the place that it claims, between its beginning and its end (Guerraoui &
Kapalka, "On the Correctness of Transactional Memory", PPoPP 2008). Knows nothing of bloomgate.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.serialisability import NotSerialisable, Transaction, check

__all__ = ["Attempted", "NotSerialisable", "check_opacity"]


@dataclass
class Attempted:
    """One attempt to run a transaction, as its thread saw it."""

    name: str
    began: float
    ended: float = 0.0
    committed: bool = False
    #: Of the state that it claims to have seen, or of its commit if it wrote.
    place: Any = 0
    reads: dict[Any, Any] = field(default_factory=dict)
    writes: dict[Any, Any] = field(default_factory=dict)
    adds: dict[Any, int] = field(default_factory=dict)


def check_opacity(attempts: list[Attempted], state: dict[Any, Any]) -> dict[Any, Any]:
    """The state at the end. Raises NotSerialisable."""
    history = []
    for attempt in attempts:
        effect = attempt.committed and bool(attempt.writes or attempt.adds)
        history.append(
            Transaction(
                attempt.name,
                attempt.began,
                attempt.ended,
                # A reader comes behind the commit whose state it has seen.
                (attempt.place, 0) if effect else (attempt.place, 1),
                attempt.reads,
                attempt.writes if effect else {},
                attempt.adds if effect else {},
            )
        )
    return check(history, state)

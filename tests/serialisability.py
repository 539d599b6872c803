"""A checker of strict serialisability. It knows nothing of bloomgate: it judges what clients saw.

Given transactions with the times at which they were called and returned, what they read and what they did, and the
place in a total order that each claims, it checks the two halves of the definition (Papadimitriou, "The
Serializability of Concurrent Database Updates", JACM 1979; Herlihy & Wing, "Linearizability", TOPLAS 1990):

* run one after the other in that order, every transaction reads exactly what it did read;
* if one returned before another was called, it comes first in that order.

A history that passes is strictly serialisable. One that fails may be so in another order, but not as claimed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Transaction:
    """What a client saw of one committed transaction."""

    name: str
    called: float
    returned: float
    #: Place in the claimed order; transactions with equal places must not affect each other.
    place: tuple[int, ...]
    #: Location -> value read, before any effect of the transaction itself.
    reads: Mapping[Any, Any] = field(default_factory=dict)
    #: Location -> value written.
    writes: Mapping[Any, Any] = field(default_factory=dict)
    #: Location -> number added, after the writes.
    adds: Mapping[Any, int] = field(default_factory=dict)


class NotSerialisable(AssertionError):
    """The history contradicts its claimed order."""


def check(history: list[Transaction], state: dict[Any, Any]) -> dict[Any, Any]:
    """The state at the end, beginning with ``state``. Raises NotSerialisable."""
    order = sorted(history, key=lambda transaction: transaction.place)
    state = dict(state)
    for before, after in zip(order, order[1:], strict=False):
        if before.place == after.place and (before.writes or before.adds or after.writes or after.adds):
            raise NotSerialisable(f"{before.name} and {after.name} both claim the place {before.place}")
    for transaction in order:
        for location, value in transaction.reads.items():
            if state[location] != value:
                raise NotSerialisable(
                    f"{transaction.name} at {transaction.place} read {value!r} from {location!r}, which was"
                    f" {state[location]!r} then"
                )
        state.update(transaction.writes)
        for location, number in transaction.adds.items():
            state[location] += number
    earliest_return = float("inf")
    earliest = None
    for transaction in reversed(order):
        # Equal places may be in either order.
        if earliest is not None and earliest_return < transaction.called and earliest.place != transaction.place:
            raise NotSerialisable(
                f"{earliest.name} at {earliest.place} returned before {transaction.name} at {transaction.place}"
                " was called, and comes after it"
            )
        if transaction.returned < earliest_return:
            earliest_return, earliest = transaction.returned, transaction
    return state

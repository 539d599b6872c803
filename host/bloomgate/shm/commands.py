"""What a client can have the server do, apart from deciding."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Command"]


class Command(IntEnum):
    """The kind of a command; its arguments and its result are 64-bit words of the slot control."""

    #: Decide all that was submitted in the slot.
    DRAIN = 1
    #: Enable the slot's queue for the owner with the generation in argument 0.
    ENABLE = 2
    #: A soft reset to the initial epoch in argument 0.
    RESET = 3
    #: :meth:`bloomgate.Device.raise_floor`.
    RAISE_FLOOR = 4
    #: :meth:`bloomgate.Device.inject_parity_error`; arguments 0 and 1 are table and row.
    INJECT = 5
    #: Copy the statistics into the segment's header.
    STATISTICS = 6

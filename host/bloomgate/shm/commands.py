"""What a client can have the server do, apart from deciding."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["NO_ROOM", "UNAVAILABLE", "Command"]

#: The result of a command for which the server's device has not got what it needs.
UNAVAILABLE = 2**64 - 1
#: The result of a reset that was not made, since the end of the epoch could not be noted.
NO_ROOM = 1


class Command(IntEnum):
    """The kind of a command; its arguments and its result are 64-bit words of the slot control."""

    #: Decide all that was submitted in the slot.
    DRAIN = 1
    #: Enable the slot's queue for the owner with the generation in argument 0.
    ENABLE = 2
    #: A soft reset to the initial epoch in argument 0; the result is 0 or NO_ROOM.
    RESET = 3
    #: :meth:`bloomgate.Device.raise_floor`.
    RAISE_FLOOR = 4
    #: :meth:`bloomgate.Device.inject_parity_error`; arguments 0 and 1 are table and row.
    INJECT = 5
    #: Copy the statistics into the segment's header.
    STATISTICS = 6
    #: Do something with the slot's transaction in flight: argument 0 is one of SLOT_OPERATIONS, argument 1 the number
    #: of its words in the exchange, where the answer is then.
    OPERATE = 7
    #: End the slot's transaction in flight, for a new owner.
    CLEAR = 8
    #: Copy the conflict log into the exchange; the result is the number of its entries.
    CONFLICTS = 9
    #: :meth:`bloomgate.Device.revoke_token`; the result is the slot that had it, or 2**32 - 1.
    REVOKE = 10
    #: :meth:`bloomgate.Device.set_token_watchdog`, argument 0 in ticks.
    WATCHDOG = 11
    #: :meth:`bloomgate.Device.tick`, argument 0 in ticks.
    TICK = 12

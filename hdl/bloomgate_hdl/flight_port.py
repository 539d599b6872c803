"""Layouts and signatures that pass between the pages and what knows of transactions in flight."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, Parameters

__all__ = [
    "SEQUENCE_BITS",
    "WATCHDOG_BITS",
    "SlotFlightSignature",
    "TokenSignature",
    "doom_layout",
    "flight_events_layout",
    "flight_layout",
]

#: Width of WAKE_SEQUENCE and of TOKEN_WATCHDOG.
SEQUENCE_BITS = 16
WATCHDOG_BITS = 32


def doom_layout(parameters: Parameters) -> data.StructLayout:
    """Why a slot was doomed, or refused."""
    return data.StructLayout(
        {
            # Whether ``winner`` is a slot.
            "by_slot": 1,
            "winner": parameters.slot_bits,
            # Whether it was a certain key, and not possibly any.
            "key_known": 1,
            "key": parameters.key_bits,
            # The newest timestamp at that time.
            "epoch": EPOCH_BITS,
            "count": parameters.timestamp_bits,
        }
    )


def flight_layout(parameters: Parameters) -> data.StructLayout:
    """One slot's state, for its page."""
    return data.StructLayout(
        {
            "doomed": 1,
            "parked": 1,
            # It holds the token; it has asked for it and has no verdict; it was taken away.
            "holder": 1,
            "token_waiting": 1,
            "revoked": 1,
            # No key of the read set waits to be announced.
            "announcing_done": 1,
            # ``doom`` and ``wake_sequence`` are of the present state.
            "told": 1,
            "wake_sequence": SEQUENCE_BITS,
            # The first doom while ``doomed``; else what woke the slot last.
            "doom": doom_layout(parameters),
        }
    )


def flight_events_layout(parameters: Parameters) -> data.StructLayout:
    """What happens to transactions in flight, for the books; events are high for one clock cycle."""
    return data.StructLayout(
        {
            # ``loser`` was doomed or refused, for the reason ``doom``: an entry of the conflict log.
            "conflict": 1,
            "loser": parameters.slot_bits,
            "doom": doom_layout(parameters),
            # ``conflict`` is a doom.
            "doomed": 1,
            "woke": 1,
            "woken_slot": parameters.slot_bits,
        }
    )


class SlotFlightSignature(wiring.Signature):
    """Between the slot pages and the transactions in flight; from the pages' side.

    Strobes are of the clock cycle of the bus write, are for ``slot``, and come at most one in a clock cycle. None of
    them is given for a write that is refused.
    """

    def __init__(self, parameters: Parameters):
        super().__init__(
            {
                "slot": Out(parameters.slot_bits),
                #: Strobe: ANNOUNCE with 1. The slot's counts are valid from the next clock cycle on, also 0.
                "announce": Out(1),
                #: Strobe: ANNOUNCE with 0. The transaction goes on; what is not announced by then, is not.
                "pause": Out(1),
                #: Strobe: a key was added to the read set.
                "append": Out(1),
                #: Strobe: a word of the snapshot was written, or a part of one.
                "snapshot": Out(1),
                #: Strobe: a request of this kind, a RequestKind, was submitted; ``pending`` shows it from the next
                #: clock cycle on.
                "submit": Out(1),
                "kind": Out(2),
                #: Strobe: DISCARD. Also for a slot that is busy, if its request is one that can be withdrawn.
                "discard": Out(1),
                #: Strobes: PARK with 1, and with 0.
                "park": Out(1),
                "unpark": Out(1),
                #: Slots whose pending request is for the token and was not taken yet: DISCARD withdraws it.
                "withdrawable": In(parameters.slots),
                #: Slots with a transaction that has begun and not ended; these, and the ones whose last one was
                #: refused with IRREVOCABLE, so that the end of the token's time would wake them.
                "in_flight": In(parameters.slots),
                "parkable": In(parameters.slots),
                #: Slots that hold the token, or did so until it was taken away: at most one, and any number.
                "holds": In(parameters.slots),
                "revoked": In(parameters.slots),
                #: State of ``look_slot``, in the same clock cycle.
                "look_slot": Out(parameters.slot_bits),
                "state": In(flight_layout(parameters)),
            }
        )


class TokenSignature(wiring.Signature):
    """Between the control page and the irrevocable token; from the page's side."""

    def __init__(self, parameters: Parameters):
        super().__init__(
            {
                #: The token is held, and by whom; somebody waits for it.
                "held": In(1),
                "holder": In(parameters.slot_bits),
                "waiting": In(1),
                #: How often it was granted.
                "grants": In(SEQUENCE_BITS),
                #: Strobe: take it away.
                "revoke": Out(1),
                #: Take it away when it has been held for so many clock cycles; 0: never.
                "watchdog": Out(WATCHDOG_BITS),
            }
        )

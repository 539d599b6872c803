"""Layouts that pass between slot pages, arbiter and bus decoder."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, Parameters

from bloomgate_hdl.register_decode import PAGE_WORD_BITS

__all__ = ["SlotPortSignature", "request_layout", "verdict_layout", "verdict_registers"]

COUNT_WORD_BITS = 32
REQUEST_BITS = 16


def request_layout(parameters: Parameters) -> data.StructLayout:
    """What the arbiter has to know of a request beside its keys."""
    return data.StructLayout(
        {
            # The number that the client wrote to SUBMIT.
            "request": REQUEST_BITS,
            # A RequestKind.
            "kind": 2,
            # The snapshot as the client wrote it, not yet checked.
            "snapshot_epoch": EPOCH_BITS,
            "snapshot_count": COUNT_WORD_BITS,
            # Keys in the read set, and in the write and commute sets together.
            "read_count": range(parameters.aperture_depth + 1),
            "write_count": range(parameters.aperture_depth + 1),
            # Keys at the beginning of the read set that need no validation, unless something happens meanwhile.
            "skip_count": range(parameters.aperture_depth + 1),
            # Reasons for which the request must not commit, whatever its keys.
            "reset": 1,
            "bad_request": 1,
            "bus_error": 1,
            "overflow": 1,
            "busy": 1,
        }
    )


def verdict_layout(parameters: Parameters) -> data.StructLayout:
    """A decided request, as it is stored for the client to read."""
    return data.StructLayout(
        {
            "committed": 1,
            "timestamped": 1,
            "reason": 4,
            "request": REQUEST_BITS,
            "epoch": EPOCH_BITS,
            "count": parameters.timestamp_bits,
            "conflict_key": parameters.key_bits,
        }
    )


def verdict_registers(verdict, done) -> dict:
    """A verdict as the register map names it: what the fields of VERDICT and the three words beside it read."""
    return {
        "VERDICT": {
            "DONE": done,
            "COMMITTED": verdict.committed,
            "TIMESTAMPED": verdict.timestamped,
            "REASON": verdict.reason,
            "REQUEST": verdict.request,
        },
        "TIMESTAMP_EPOCH": verdict.epoch,
        "TIMESTAMP_COUNT": verdict.count,
        "CONFLICT_KEY": verdict.conflict_key,
    }


class SlotPortSignature(wiring.Signature):
    """As RegisterPortSignature, with the address split into slot and word; from the initiator's side."""

    def __init__(self, parameters: Parameters):
        super().__init__(
            {
                "write_valid": Out(1),
                "write_slot": Out(parameters.slot_bits),
                #: Word offset in the slot's page.
                "write_word": Out(PAGE_WORD_BITS),
                "write_data": Out(32),
                "write_strobe": Out(4),
                #: The write of the previous clock cycle was refused.
                "write_error": In(1),
                "read_slot": Out(parameters.slot_bits),
                "read_word": Out(PAGE_WORD_BITS),
                #: The word addressed READ_LATENCY clock cycles ago.
                "read_data": In(32),
                #: That read was refused.
                "read_error": In(1),
            }
        )

"""Layouts that pass between the parts of the queue engine and the arbiter."""

from amaranth.lib import data, enum
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_layout import INDEX_BITS, MAX_READ_KEYS, SUBMISSION
from bloomgate.registers import SLOT_PAGE

from bloomgate_hdl.memory_port import BEAT_BITS
from bloomgate_hdl.slot_port import COUNT_WORD_BITS, REQUEST_BITS
from bloomgate_hdl.window_check import window_layout

__all__ = [
    "ADDRESS_BITS",
    "GENERATION_BITS",
    "INDEX_BITS",
    "KEY_BYTES",
    "LOG_COUNT_BITS",
    "READ_COUNT_BITS",
    "LogName",
    "fault_layout",
    "header_layout",
    "insert_log_layout",
    "order_layout",
    "plan_layout",
    "queued_request_layout",
    "read_log_layout",
    "ring_place_layout",
]

ADDRESS_BITS = 32
#: Bytes of a key in a log, whatever key_bits is.
KEY_BYTES = 4
GENERATION_BITS = SLOT_PAGE.register("SUBMISSION_TAIL")["GENERATION"].width
#: Width of a count of read keys.
READ_COUNT_BITS = MAX_READ_KEYS.bit_length()
#: Width of WRITE_COUNT and COMMUTE_COUNT.
LOG_COUNT_BITS = 16
_CODE_BITS = 4


class LogName(enum.Enum, shape=2):
    """A log of a request."""

    WRITES = 0
    COMMUTES = 1
    READS = 2
    #: There is none.
    NOTHING = 3


def fault_layout() -> data.StructLayout:
    """Why a queued request cannot be served, for the error log; ``code`` 0 for no reason."""
    return data.StructLayout({"code": _CODE_BITS, "detail": 32})


def order_fault_layout() -> data.StructLayout:
    """The same of an order: ``word`` is the detail, with FETCH_ERROR it is the address of the read log."""
    return data.StructLayout({"code": _CODE_BITS, "word": range(len(SUBMISSION))})


def header_layout(parameters: Parameters) -> data.StructLayout:
    """What a queued request is, beside its keys."""
    return data.StructLayout(
        {
            "slot": parameters.slot_bits,
            # The number that the client wrote to the entry.
            "request": REQUEST_BITS,
            # The snapshot as the client wrote it, not yet checked.
            "snapshot_epoch": EPOCH_BITS,
            "snapshot_count": COUNT_WORD_BITS,
        }
    )


def read_log_layout(parameters: Parameters) -> data.StructLayout:
    """Where a read log begins, and how much it is: beats in place of keys, since these are fetched."""
    chunk_bits = (parameters.buffer_depth - 1).bit_length()
    return data.StructLayout(
        {
            "address": ADDRESS_BITS,
            "beats": READ_COUNT_BITS,
            # The last chunk by its number; whether the last beat has one key only in its first lane.
            "last_chunk": READ_COUNT_BITS - chunk_bits,
            "odd": 1,
            # There is more than one chunk.
            "long": 1,
        }
    )


def insert_log_layout(parameters: Parameters) -> data.StructLayout:
    """The same of a write or commute log. Its counts mean nothing if there are too many keys to insert one by one."""
    depth = parameters.buffer_depth
    return data.StructLayout({"address": ADDRESS_BITS, "count": range(depth + 1), "beats": range(depth)})


def plan_layout(parameters: Parameters) -> data.StructLayout:
    """What a buffer has to know of an order, beside its header."""
    return data.StructLayout(
        {
            # Without any meaning if it is not fetched.
            "reads": read_log_layout(parameters),
            # Empty if there are more keys than are inserted one by one.
            "writes": insert_log_layout(parameters),
            "commutes": insert_log_layout(parameters),
            "insert_beats": range(parameters.buffer_depth),
            # It writes or commutes something, and if so, more than that.
            "inserts": 1,
            "too_many": 1,
            # What is fetched first: its address and beats, and which log it is; none has no beats. And that there are
            # at least 128 keys, so 64 beats or more; without it there are 64 or fewer.
            "first": data.StructLayout({"address": ADDRESS_BITS, "beats": READ_COUNT_BITS, "many": 1, "log": LogName}),
            "bad_request": 1,
            "bus_error": 1,
            "fault": order_fault_layout(),
        }
    )


def order_layout(parameters: Parameters) -> data.StructLayout:
    """A request for a buffer: whose keys to fetch. Nothing is fetched when ``bad_request`` or ``bus_error``."""
    return data.StructLayout(
        {
            "header": header_layout(parameters),
            "reads": read_log_layout(parameters),
            "writes": insert_log_layout(parameters),
            "commutes": insert_log_layout(parameters),
            # Which of them have keys, and that the read log has many (see plan_layout).
            "has_reads": 1,
            "has_writes": 1,
            "has_commutes": 1,
            "many_reads": 1,
            # More keys to insert than are inserted one by one.
            "too_many": 1,
            # Its entry was not what it must be, or could not be fetched; ``fault`` says more.
            "bad_request": 1,
            "bus_error": 1,
            "fault": order_fault_layout(),
        }
    )


def queued_request_layout(parameters: Parameters) -> data.StructLayout:
    """What the arbiter has to know of the request that it begins or goes on with."""
    return data.StructLayout(
        {
            "header": header_layout(parameters),
            # Keys to insert one by one.
            "insert_count": range(parameters.buffer_depth + 1),
            # It writes or commutes something, and if so, more than is inserted one by one.
            "writes": 1,
            "raises_floor": 1,
            # Its read set has more than one chunk; the chunk that comes next is the first one, the last one.
            "long": 1,
            "first": 1,
            "final": 1,
        }
    )


def ring_place_layout() -> data.StructLayout:
    """Where an entry of a ring is: the slot's window and the entry's index."""
    return data.StructLayout({"window": window_layout(), "index": INDEX_BITS, "generation": GENERATION_BITS})


assert BEAT_BITS == 2 * 8 * KEY_BYTES

"""Queue pairs: the entries of submission and completion rings, the one description of their bits.

A slot's *window* is the memory that the co-processor may touch for it: a base address and a size in bytes that only the
owner of the control page can set. Everything in it is addressed by byte offset from the base, so a client needs no
physical address and several processes can map a window wherever they like. The rings have fixed places in it; key logs
are plain arrays of 32-bit keys anywhere behind the rings. All words are 32 bits, little endian; an entry is one cache
line of the Cortex-A9 (32 bytes).

A ring index counts entries for ever, modulo 2**16; the entry is at ``index % queue_entries``. Submission ``i`` of an
owner is answered by completion ``i``, in that order. GENERATION tells owners of a slot apart: doorbells and completions
carry it, so that what an earlier owner left behind is never taken for the present owner's.
"""

from __future__ import annotations

from dataclasses import dataclass

from bloomgate.parameters import Parameters
from bloomgate.registers import SLOT_PAGE, WORD_BYTES, Field

__all__ = [
    "BEAT_BYTES",
    "COMPLETION",
    "ENTRY_BYTES",
    "FORMAT",
    "FORMAT_IN_FLIGHT",
    "INDEX_BITS",
    "MAX_READ_KEYS",
    "SEQUENCE",
    "SUBMISSION",
    "WINDOW_ALIGNMENT",
    "CompletionBeat",
    "EntryWord",
    "announced_log_offset",
    "completion_ring_offset",
    "log_area_offset",
    "sequence_of",
    "submission_ring_offset",
]

#: Bytes of a submission or completion entry.
ENTRY_BYTES = 32
#: Bytes of one data beat of S_AXI_ACP and S_AXI_HP0 (UG585 table 5-7): 64 bits.
BEAT_BYTES = 8
#: FORMAT of the entries described here.
FORMAT = 1
#: FORMAT of the commit of the transaction that the slot has in flight; only shared memory has it. The snapshot is that
#: of the transaction, and the read log what was not announced.
FORMAT_IN_FLIGHT = 2
#: Width of a ring index.
INDEX_BITS = 16
#: Keys that one read set can have.
MAX_READ_KEYS = 1 << 20
#: Base and size of a window are multiples of this many bytes, so that no burst of 16 beats straddles its ends.
WINDOW_ALIGNMENT = 4096


@dataclass(frozen=True)
class EntryWord:
    """One 32-bit word of a submission entry. Without fields the whole word is one value."""

    name: str
    #: Position in the entry, in words.
    word: int
    doc: str
    fields: tuple[Field, ...] = ()

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"entry word {self.name} has no field {name}")


@dataclass(frozen=True)
class CompletionBeat:
    """One 64-bit beat of a completion entry: a payload in the low word, SEQUENCE in the high word."""

    name: str
    #: Position in the entry, in beats.
    beat: int
    doc: str
    fields: tuple[Field, ...] = ()


#: What a client writes to the submission ring. An offset is ignored when its count is 0.
SUBMISSION = (
    EntryWord(
        "HEADER",
        0,
        "Identifies the entry.",
        (
            Field("REQUEST", 0, 16, "a number that the completion repeats"),
            Field("FORMAT", 16, 8, f"layout of the entry: {FORMAT}"),
            Field("RESERVED", 24, 8, "0"),
        ),
    ),
    EntryWord("SNAPSHOT_EPOCH", 1, "Epoch of the snapshot."),
    EntryWord("SNAPSHOT_COUNT", 2, "Count of the snapshot."),
    EntryWord("READ_OFFSET", 3, "Byte offset of the read log in the window, a multiple of 4."),
    EntryWord("READ_COUNT", 4, f"Keys in the read log, at most {MAX_READ_KEYS}."),
    EntryWord("WRITE_OFFSET", 5, "Byte offset of the write log in the window, a multiple of 4."),
    EntryWord("COMMUTE_OFFSET", 6, "Byte offset of the commute log in the window, a multiple of 4."),
    EntryWord(
        "INSERTION_COUNTS",
        7,
        "Keys in the write and commute logs. More than buffer_depth together are not inserted one by one: the commit "
        "raises the floor to its own timestamp instead.",
        (
            Field("WRITE_COUNT", 0, 16, "keys in the write log"),
            Field("COMMUTE_COUNT", 16, 16, "keys in the commute log"),
        ),
    ),
)

#: The high word of every beat of a completion. A completion is there when all four have the value expected: no order
#: of the beats among each other has to be assumed, only that a beat, 64 aligned bits, arrives as one.
SEQUENCE = EntryWord(
    "SEQUENCE",
    1,
    "Says whose completion this is and which one.",
    (
        Field("NUMBER", 0, INDEX_BITS, "index of the entry + 1, modulo 2**16"),
        Field("GENERATION", 16, 16, "generation of the slot's owner, never 0"),
    ),
)

#: What the co-processor writes to the completion ring: the verdict registers of the slot page, a beat each.
COMPLETION = tuple(
    CompletionBeat(name, beat, SLOT_PAGE.register(name).doc, SLOT_PAGE.register(name).fields)
    for beat, name in enumerate(("VERDICT", "TIMESTAMP_EPOCH", "TIMESTAMP_COUNT", "CONFLICT_KEY"))
)

assert len(SUBMISSION) * WORD_BYTES == ENTRY_BYTES == len(COMPLETION) * BEAT_BYTES


def submission_ring_offset() -> int:
    """Byte offset of the submission ring in the window."""
    return 0


def completion_ring_offset(parameters: Parameters) -> int:
    """Byte offset of the completion ring in the window."""
    return parameters.queue_entries * ENTRY_BYTES


def log_area_offset(parameters: Parameters) -> int:
    """Byte offset of the first byte behind the rings, where key logs can be."""
    return 2 * parameters.queue_entries * ENTRY_BYTES


def announced_log_offset(parameters: Parameters) -> int:
    """Byte offset of the log that ANNOUNCED_TAIL is of: room for aperture_depth keys, at a multiple of its size.

    So its lines have no carry into the number of a page in the default geometry, as rings have none.
    """
    size = max(parameters.aperture_depth * WORD_BYTES, ENTRY_BYTES)
    return -(-log_area_offset(parameters) // size) * size


def sequence_of(generation: int, index: int) -> int:
    """SEQUENCE of the completion with that ring index, for an owner of that generation."""
    number, owner = SEQUENCE.fields
    return number.insert((index + 1) % (1 << INDEX_BITS)) | owner.insert(generation)

"""The layout of a segment: the shared memory through which processes use one device. Python and C take it from here.

A segment is a file, mapped whole by every client and by the server if there is one. Its parts, each at the start of a
page:

==============  ====================================================================================================
header          what the segment is, and where its parts are
slot controls   for each slot: doorbells, heads, the words that are slept on, who owns it
publication     ``published`` and which commits have been written back
guards          locations of arrays that the holder of the token has read
exchanges       for each slot: what a command comes with and what is answered (:mod:`bloomgate.shm.exchange`)
redo            for each slot and ring entry: what a commit installs (docs/shm.md)
windows         for each slot: submission ring, completion ring, key logs (:mod:`bloomgate.queue_layout`)
device          without a server: the state of the device, its mutex and its intent record
arena           shared arrays: which there are, then their locations
==============  ====================================================================================================

Fields are little endian, naturally aligned, and never move without a new LAYOUT_VERSION. What different processes write
is in different cache lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_layout import (
    COMPLETION,
    ENTRY_BYTES,
    FORMAT,
    FORMAT_IN_FLIGHT,
    MAX_READ_KEYS,
)
from bloomgate.queue_pair import window_bytes
from bloomgate.registers import CONFLICT_LOG_ENTRIES, SLOT_PAGE, Field

__all__ = [
    "ARENA",
    "ARRAYS",
    "ARRAY_WORDS",
    "CONFLICT_WORDS",
    "EXCHANGE_ANSWER_BYTES",
    "FLIGHT",
    "GUARDS",
    "HEADER",
    "LAYOUT_VERSION",
    "MAGIC",
    "MODE_SERVER",
    "MODE_SERVERLESS",
    "LOCATION_BYTES",
    "PUBLICATION",
    "REDO",
    "REDO_ARRAY",
    "REDO_ENTRIES",
    "REDO_ENTRY_BYTES",
    "REDO_MANUAL",
    "REDO_RECORD_BYTES",
    "SERVER_LOCK",
    "SLOT_CONTROL",
    "TAG_BITS",
    "TOKEN_LOCK",
    "VERSIONS",
    "VERSION_WORDS",
    "Member",
    "Part",
    "SegmentLayout",
    "c_definitions",
]

#: The first eight bytes of a segment.
MAGIC = int.from_bytes(b"bloomseg", "little")
#: Grows with every change of what is described here, or of the state that C keeps in the device part.
LAYOUT_VERSION = 3
PAGE_BYTES = 4096
LINE_BYTES = 64

MODE_SERVERLESS = 0
MODE_SERVER = 1

#: The byte of the file that the server locks. The owner of slot n locks byte n.
SERVER_LOCK = 32
#: The byte that the holder of the irrevocable token has locked.
TOKEN_LOCK = 34

#: Bytes of one redo record.
REDO_RECORD_BYTES = 16384
REDO_HEADER_BYTES = 32
#: {location u32, operation u32, operand u64}.
REDO_ENTRY_BYTES = 16
#: Entries of a redo record.
REDO_ENTRIES = (REDO_RECORD_BYTES - REDO_HEADER_BYTES) // REDO_ENTRY_BYTES
#: Who writes a commit back: its client alone, or anybody from the entries of its redo record.
REDO_MANUAL = 0
REDO_ARRAY = 1

#: What an entry does to a location, by their codes in ``operation``.
REDO_OPERATIONS = (
    "SET",
    "ADD",
    "MIN_SIGNED",
    "MAX_SIGNED",
    "MIN_UNSIGNED",
    "MAX_UNSIGNED",
    "ADD_DOUBLE",
    "MIN_DOUBLE",
    "MAX_DOUBLE",
)

#: Publications that can happen between two loads of a reader before it has to look again.
STAMPS = 1024
#: Entries of the hash table of REDO_MANUAL commits that are written back and not published, and how many of them are
#: looked at for each.
WRITTEN_BACK = 16384
PROBES = 16
#: Commits of REDO_MANUAL that one slot can have unpublished, apart from those in its ring; and how many slots can be.
CLAIMS = 8192
SLOT_LIMIT = 32
#: Resets that can be unpublished at a time.
EPOCH_ENDS = 64

#: Bits of a version's tag in each of its words; the others are a piece of the value.
TAG_BITS = 48
#: Words of a version: 64 bits of value in pieces.
VERSION_WORDS = 64 // (64 - TAG_BITS)
#: Versions of a location.
VERSIONS = 4
LOCATION_BYTES = 8 * VERSION_WORDS * VERSIONS
#: Arrays that a segment can have, and the words that describe one: first location, locations, type, name.
ARRAYS = 1023
ARRAY_WORDS = 8
#: Bytes of the arena. Memory is used only for the arrays that there are.
ARENA_BYTES = 128 << 20

#: FLIGHT in the slot control: what the slot's owner can know of its transaction by one load.
FLIGHT = (
    Field("DOOMED", 0, 1, "the transaction will probably not commit"),
    Field("PARKED", 1, 1, "nothing has woken the slot since it parked"),
    Field("HOLDER", 2, 1, "the slot has the token"),
    Field("TOKEN_WAITING", 3, 1, "it has asked for the token"),
    Field("REVOKED", 4, 1, "it had the token, and that was taken away"),
    Field("IN_FLIGHT", 5, 1, "a transaction has begun and not ended"),
    Field("WAKE_SEQUENCE", 16, 16, "of the newest wake"),
)

#: Room for an answer in an exchange; keys and conflicts come behind it.
EXCHANGE_ANSWER_BYTES = 1024
#: Words of an entry of the conflict log, there: those of ``bg_conflict``.
CONFLICT_WORDS = 6

_TYPES = {"u32": ("uint32_t", 4), "u64": ("uint64_t", 8)}


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclass(frozen=True)
class Member:
    """One word of a part, or ``count`` of them."""

    name: str
    #: Byte offset in the part.
    offset: int
    #: "u32" or "u64".
    type: str
    doc: str
    count: int = 1

    @property
    def size(self) -> int:
        """Bytes."""
        return _TYPES[self.type][1] * self.count


class Part:
    """A part of the segment with fixed fields; C sees it as ``struct bg_NAME``, its words atomic."""

    def __init__(self, name: str, size: int, *members: Member) -> None:
        self.name = name
        #: Bytes.
        self.size = size
        self.members = members
        self._by_name = {member.name: member for member in members}
        end = 0
        for member in members:
            if member.offset < end or member.offset % _TYPES[member.type][1]:
                raise ValueError(f"{name}.{member.name} overlaps what is before it, or is not aligned")
            end = member.offset + member.size
        if end > size:
            raise ValueError(f"{name} is longer than {size} bytes")

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]


HEADER = Part(
    "header",
    PAGE_BYTES,
    Member("magic", 0, "u64", "MAGIC"),
    Member("layout_version", 8, "u32", "LAYOUT_VERSION"),
    Member("pointer_bytes", 12, "u32", "of the processes that can share it: 4 or 8"),
    Member("mode", 16, "u32", "MODE_SERVERLESS or MODE_SERVER"),
    Member("geometry", 32, "u32", "the fields of Parameters, in their order", len(dataclasses.fields(Parameters))),
    Member("total_bytes", 128, "u64", "size of the segment"),
    Member("slot_controls", 136, "u64", "byte offset of the first slot control"),
    Member("publication", 144, "u64", "byte offset of the publication part"),
    Member("arena", 152, "u64", "byte offset of the arena part"),
    Member("locations", 160, "u64", "locations in the arena"),
    Member("redo", 168, "u64", "byte offset of the first redo record"),
    Member("windows", 176, "u64", "byte offset of the first window"),
    Member("window_bytes", 184, "u64", "size of a window"),
    Member("device", 192, "u64", "byte offset of the device part"),
    Member("device_bytes", 200, "u64", "size of the device part"),
    Member("origin", 208, "u64", "newest timestamp of the device when the segment was made"),
    Member("guards", 216, "u64", "byte offset of the guards part"),
    # A line that clients write: they wake the server.
    Member("doorbell_sequence", 256, "u32", "futex: grows when a doorbell finds the server asleep"),
    Member("server_asleep", 260, "u32", "1 while the server sleeps on it, or is about to"),
    # A line that the server writes.
    Member("server_pid", 320, "u32", "process of the server; 0 when there is none"),
    Member("server_serving", 324, "u32", "1 from the moment that the server serves until it shuts down"),
    Member("server_starts", 328, "u32", "how many servers this segment has had"),
    # Written by whoever decides.
    Member("last", 384, "u64", "the newest timestamp assigned; at least as new as any in a completion that is counted"),
    Member("next_slot", 392, "u32", "where the next round over the slots begins"),
    Member("decider_pid", 396, "u32", "process that last took the mutex"),
    Member("turn", 400, "u32", "slot + 1 of the client that decides now, as a hint"),
    Member("statistics", 512, "u64", "as of the last command that asked for them", 64),
)

SLOT_CONTROL = Part(
    "slot_control",
    4 * LINE_BYTES,
    # Written by the slot's owner: the doorbells, as in the slot page of the gateware.
    Member("submission_tail", 0, "u32", "doorbell: GENERATION[31:16] | INDEX[15:0] of the next submission"),
    Member("completion_head", 4, "u32", "doorbell: GENERATION[31:16] | INDEX[15:0] of the first completion in use"),
    Member("command", 8, "u32", "to the server: number and kind of a command, see shm/commands.py"),
    Member("submitting", 12, "u32", "1 from before the look at the guards until behind the doorbell"),
    Member("argument", 16, "u64", "of the command", 3),
    # Written by whoever decides.
    Member("submission_head", 64, "u32", "index of the next submission to be decided"),
    Member("status", 68, "u32", "GENERATION[31:16] | ENABLED[0]: whose doorbells are obeyed"),
    Member("done", 72, "u32", "the last command that was carried out"),
    Member("bad_doorbells", 76, "u32", "doorbells refused: of an earlier owner, or impossible"),
    Member("result", 80, "u64", "of the command", 2),
    Member("seen_tail", 96, "u32", "the submission_tail that was looked at last"),
    Member("tail", 100, "u32", "index up to which submissions are accepted"),
    Member("seen_head", 104, "u32", "the completion_head that was looked at last"),
    Member("head", 108, "u32", "index up to which completions have been read"),
    Member("flight", 112, "u32", "FLIGHT: the slot's transaction; a change wakes the owner if it is asleep"),
    # How the owner sleeps.
    Member("asleep", 128, "u32", "1 while the owner sleeps on `wake`, or is about to"),
    Member("wake", 132, "u32", "futex: grows when a completion, a result or a new `flight` finds the owner asleep"),
    # Written by owners.
    Member("generation", 192, "u32", "of the newest owner, 1 to 65535"),
    Member("owner_pid", 196, "u32", "its process; the lock on the file says whether it lives"),
)

PUBLICATION = Part(
    "publication",
    _round_up(1216 + 8 * (STAMPS + WRITTEN_BACK + SLOT_LIMIT * CLAIMS), PAGE_BYTES),
    Member("position", 0, "u64", "publications so far; the low word is a futex"),
    Member("asleep", 64, "u32", "1 when somebody may sleep on `position`"),
    Member("epoch_end_count", 128, "u64", "ends of epochs recorded so far"),
    Member("newest_end", 136, "u64", "one more than the newest `last` below, or 0"),
    Member("newest_mark", 144, "u64", "no timestamp in `written_back` is newer"),
    Member("turn", 152, "u64", "until when others hold back (CLOCK_MONOTONIC, ns), low 8 bits: for which slot; or 0"),
    Member(
        "epoch_ends", 192, "u64", "pairs: last timestamp of an epoch that ended early, first after it", 2 * EPOCH_ENDS
    ),
    Member("stamps", 1216, "u64", "the timestamp that was published at a position, modulo STAMPS", STAMPS),
    Member("written_back", 1216 + 8 * STAMPS, "u64", "a hash table of REDO_MANUAL commits to publish", WRITTEN_BACK),
    Member(
        "claims",
        1216 + 8 * (STAMPS + WRITTEN_BACK),
        "u64",
        "for each slot: timestamps of REDO_MANUAL commits whose ring entries are free again",
        SLOT_LIMIT * CLAIMS,
    ),
)

REDO = Part(
    "redo",
    REDO_RECORD_BYTES,
    Member("serial", 0, "u64", "odd while the record is being written, and never the same again"),
    Member("sequence", 8, "u32", "SEQUENCE of the completion that it belongs to"),
    Member("kind", 12, "u32", "REDO_MANUAL or REDO_ARRAY"),
    Member("count", 16, "u32", "entries"),
    Member(
        "entries",
        REDO_HEADER_BYTES,
        "u64",
        "pairs: location [31:0] and operation [63:32], then the operand; those of a location together",
        2 * REDO_ENTRIES,
    ),
)

ARENA = Part(
    "arena",
    _round_up(64 + 8 * ARRAY_WORDS * ARRAYS, PAGE_BYTES),
    Member("arrays", 0, "u64", "arrays that there are"),
    Member("directory", 64, "u64", "ARRAY_WORDS for each", ARRAY_WORDS * ARRAYS),
)

#: Locations that the arena has room for, and words with a bit for each.
LOCATIONS = (ARENA_BYTES - ARENA.size) // LOCATION_BYTES
GUARD_WORDS = -(-LOCATIONS // 64)

GUARDS = Part(
    "guards",
    _round_up(LINE_BYTES + 8 * GUARD_WORDS, PAGE_BYTES),
    Member("active", 0, "u32", "1 when there may be any"),
    Member("holder", 4, "u32", "slot of the client that has set them"),
    Member("bits", LINE_BYTES, "u64", "one for each location: nobody but the holder may change it", GUARD_WORDS),
)

_PARTS = (HEADER, SLOT_CONTROL, PUBLICATION, REDO, ARENA, GUARDS)


@dataclass(frozen=True)
class SegmentLayout:
    """Where everything is in the segment of a device with that geometry. All numbers are bytes."""

    parameters: Parameters
    #: Size of the device part; 0 with a server.
    device_bytes: int

    @property
    def slot_controls(self) -> int:
        return HEADER.size

    @property
    def publication(self) -> int:
        return _round_up(self.slot_controls + self.parameters.slots * SLOT_CONTROL.size, PAGE_BYTES)

    @property
    def guards(self) -> int:
        return self.publication + PUBLICATION.size

    @property
    def exchanges(self) -> int:
        return self.guards + GUARDS.size

    @property
    def exchange_bytes(self) -> int:
        """An answer and, behind it, the sets of a commit with their sizes, or the conflict log."""
        words = max(self.parameters.aperture_depth, CONFLICT_WORDS * CONFLICT_LOG_ENTRIES)
        return _round_up(EXCHANGE_ANSWER_BYTES + 4 * words, PAGE_BYTES)

    @property
    def redo(self) -> int:
        return self.exchanges + self.parameters.slots * self.exchange_bytes

    @property
    def windows(self) -> int:
        records = self.parameters.slots * self.parameters.queue_entries
        return _round_up(self.redo + records * REDO_RECORD_BYTES, PAGE_BYTES)

    @property
    def window_bytes(self) -> int:
        """Rings, a log for each entry, and room for the longest request. Memory is used only where it is written."""
        return window_bytes(self.parameters)

    @property
    def device(self) -> int:
        return self.windows + self.parameters.slots * self.window_bytes

    @property
    def arena(self) -> int:
        return _round_up(self.device + self.device_bytes, PAGE_BYTES)

    @property
    def locations(self) -> int:
        """Locations that the arena has room for."""
        return LOCATIONS

    @property
    def total_bytes(self) -> int:
        return self.arena + ARENA_BYTES

    def slot_control(self, slot: int) -> int:
        return self.slot_controls + slot * SLOT_CONTROL.size

    def exchange(self, slot: int) -> int:
        return self.exchanges + slot * self.exchange_bytes

    def window(self, slot: int) -> int:
        return self.windows + slot * self.window_bytes

    def redo_record(self, slot: int, index: int) -> int:
        """Of a ring index."""
        entries = self.parameters.queue_entries
        return self.redo + (slot * entries + index % entries) * REDO_RECORD_BYTES

    def header_values(self, mode: int, pointer_bytes: int) -> dict[str, int]:
        """What HEADER has in a new segment, without the geometry."""
        return {
            "magic": MAGIC,
            "layout_version": LAYOUT_VERSION,
            "pointer_bytes": pointer_bytes,
            "mode": mode,
            **{
                name: getattr(self, name)
                for name in (
                    "total_bytes",
                    "slot_controls",
                    "publication",
                    "guards",
                    "arena",
                    "locations",
                    "redo",
                    "windows",
                    "window_bytes",
                    "device",
                    "device_bytes",
                )
            },
        }


def _c_struct(part: Part) -> Iterator[str]:
    yield f"struct bg_{part.name} {{"
    end = 0
    for member in part.members:
        if member.offset > end:
            yield f"    unsigned char gap_{end}[{member.offset - end}];"
        array = f"[{member.count}]" if member.count > 1 else ""
        yield f"    _Atomic {_TYPES[member.type][0]} {member.name}{array}; /* {member.doc} */"
        end = member.offset + member.size
    if part.size > end:
        yield f"    unsigned char gap_{end}[{part.size - end}];"
    yield "};"
    yield f'_Static_assert(sizeof(struct bg_{part.name}) == {part.size}, "{part.name} is as described");'


def c_definitions() -> str:
    """C11: a struct for each part and a macro for each constant."""
    values = {
        "MAGIC": f"UINT64_C({MAGIC:#x})",
        "LAYOUT_VERSION": LAYOUT_VERSION,
        "MODE_SERVERLESS": MODE_SERVERLESS,
        "MODE_SERVER": MODE_SERVER,
        "REDO_ENTRIES": REDO_ENTRIES,
        "REDO_MANUAL": REDO_MANUAL,
        "REDO_ARRAY": REDO_ARRAY,
        "STAMPS": STAMPS,
        "GUARD_WORDS": GUARD_WORDS,
        "TOKEN_LOCK": TOKEN_LOCK,
        "WRITTEN_BACK": WRITTEN_BACK,
        "PROBES": PROBES,
        "CLAIMS": CLAIMS,
        "EPOCH_ENDS": EPOCH_ENDS,
        "TAG_BITS": TAG_BITS,
        "VERSION_WORDS": VERSION_WORDS,
        "VERSIONS": VERSIONS,
        "GEOMETRY_WORDS": HEADER["geometry"].count,
        "ENTRY_BYTES": ENTRY_BYTES,
        "ENTRY_FORMAT": FORMAT,
        "ENTRY_FORMAT_IN_FLIGHT": FORMAT_IN_FLIGHT,
        **{f"FLIGHT_{field.name}": f"{field.mask}u" for field in FLIGHT if field.width == 1},
        "FLIGHT_WAKE_SEQUENCE_SHIFT": FLIGHT[-1].lsb,
        "COMPLETION_BEATS": len(COMPLETION),
        "MAX_READ_KEYS": MAX_READ_KEYS,
        "EPOCH_BITS": EPOCH_BITS,
        "VERDICT_TIMESTAMPED": SLOT_PAGE.register("VERDICT")["TIMESTAMPED"].mask,
        **{f"OPERATION_{name}": code for code, name in enumerate(REDO_OPERATIONS)},
        **{f"GEOMETRY_{field.name.upper()}": n for n, field in enumerate(dataclasses.fields(Parameters))},
    }
    lines = ["#include <stdatomic.h>", "#include <stdint.h>"]
    lines += [f"#define BG_{name} {value}" for name, value in values.items()]
    for part in _PARTS:
        lines += _c_struct(part)
    return "\n".join(lines) + "\n"

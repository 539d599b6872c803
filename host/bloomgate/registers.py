"""The register map: the one description of what a bus access to bloomgate means.

The gateware decodes from it, the C header and ``docs/registers.md`` are generated from it, and every driver and test
names registers through it. No offset is typed anywhere else. Offsets are bytes within a page, registers are 32 bits.

The device is ``1 + slots`` pages of 4 KiB: the control page, then one page for each slot, so that an operating system
can map one slot into one process and no other. Reads have no side effects anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from bloomgate.parameters import Parameters
from bloomgate.verdict import Reason

__all__ = [
    "BASE_ADDRESS",
    "CONFLICT_ENTRY",
    "CONFLICT_ENTRY_BYTES",
    "CONFLICT_LOG_ENTRIES",
    "CONTROL_PAGE",
    "ERROR_LOG_ENTRIES",
    "IDENTIFICATION",
    "PAGE_BYTES",
    "QUEUE_RECORD",
    "QUEUE_RECORD_BYTES",
    "SLOT_PAGE",
    "SLOT_RECORD_BYTES",
    "SLOT_STATISTICS",
    "SLOT_STATISTICS_BYTES",
    "STATISTICS",
    "VERSION",
    "Access",
    "ErrorCode",
    "Fault",
    "Field",
    "Page",
    "Register",
    "RequestKind",
    "Window",
    "page_count",
    "region_bytes",
    "slot_page_offset",
]

#: First byte address of the control page on M_AXI_GP0 (free in the stock Parallella address map).
BASE_ADDRESS = 0x43C0_0000
PAGE_BYTES = 4096
WORD_BYTES = 4

#: "BLMG", little endian.
IDENTIFICATION = int.from_bytes(b"BLMG", "little")
#: (major, minor, patch) of the register interface. A host refuses another major version.
VERSION = (0, 4, 0)

#: Entries of the error log, a ring.
ERROR_LOG_ENTRIES = 16
#: Bytes of one slot's record in SLOT_RECORDS and in QUEUE_RECORDS.
SLOT_RECORD_BYTES = 16
QUEUE_RECORD_BYTES = 32

#: Entries of the conflict log, a ring, and the bytes of one.
CONFLICT_LOG_ENTRIES = 128
CONFLICT_ENTRY_BYTES = 16
#: Bytes of one slot's statistics in the books.
SLOT_STATISTICS_BYTES = 64


class Access(Enum):
    """What the bus may do. A write that is not allowed gets SLVERR; a read always succeeds."""

    RO = "read-only"
    RW = "read-write"
    WO = "write-only, reads as 0"
    W1C = "read; writing 1 to a bit clears it"


class ErrorCode(IntEnum):
    """CODE of an error log entry."""

    #: SUBMIT or DISCARD while the slot's previous request was undecided; dropped. DETAIL: request number written.
    SUBMIT_WHILE_BUSY = 1
    #: A key or snapshot written while the slot's request was undecided; dropped. DETAIL: the data word.
    WRITE_WHILE_BUSY = 2
    #: A key written to a full slot, or an ANNOUNCED_TAIL beyond aperture_depth; dropped. DETAIL: the data word.
    KEY_OVERFLOW = 3
    #: A write of less than a whole word to an aperture, SUBMIT or DISCARD; dropped, except that SUBMIT submits what can
    #: then only be aborted. DETAIL: offset in the page, bytes.
    PARTIAL_WRITE = 4
    #: A key wider than key_bits; dropped. DETAIL: the word.
    KEY_RANGE = 5
    #: A request whose snapshot is newer than the last timestamp. DETAIL: the snapshot's count.
    SNAPSHOT_AHEAD = 6
    #: Bad parity in the recency filter. DETAIL: the key that was queried.
    FILTER_PARITY = 7
    #: Bad parity in a buffered key. DETAIL: the key as read.
    KEY_PARITY = 8
    #: A doorbell that is not the owner's, or that no sequence of submissions explains; dropped. DETAIL: the data word.
    BAD_DOORBELL = 9
    #: A submission entry that cannot be right. DETAIL: number of its first bad word, 0 to 7.
    BAD_DESCRIPTOR = 10
    #: SLVERR or DECERR where a submission entry or a key log was fetched. DETAIL: byte address. Also where an announced
    #: log was fetched, or is not in the slot's window; then DETAIL is the slot's READ_COUNT.
    FETCH_ERROR = 11
    #: SLVERR or DECERR where a completion was written. DETAIL: the slot's completions before this one, modulo 2**16.
    COMPLETION_ERROR = 12
    #: A window was set while its queue was not disabled; dropped. DETAIL: the data word.
    WINDOW_IN_USE = 13
    #: PARK of a slot that nothing could wake; dropped. Or SUBMIT of a TOKEN without a transaction that has begun, of a
    #: GUARD without the token, of an unknown KIND, or before all of the announced log has come; or an ANNOUNCED_TAIL
    #: without a transaction in flight; aborted with BAD_REQUEST. DETAIL: the data word.
    NOT_IN_FLIGHT = 14


class RequestKind(IntEnum):
    """KIND of a SUBMIT."""

    #: Decide the transaction.
    COMMIT = 0
    #: Validate the read set and grant the irrevocable token; decided when nobody else holds it. The verdict is a commit
    #: without a timestamp.
    TOKEN = 1
    #: Of the token's holder: guard the keys of the read set from now on. The verdict is a commit, with the newest
    #: timestamp.
    GUARD = 2


class Fault(IntEnum):
    """KIND of a FAULT_INJECTION command. An injected fault can only cause aborts, never a false commit."""

    #: Overwrite one recency filter word with 0 and bad parity.
    FILTER_WORD = 1
    #: Store the next buffered key, of any slot, with bad parity.
    NEXT_KEY = 2


#: The statistics, 64 bits each, in the order of the STATISTICS window.
STATISTICS = (
    ("clocks", "clock cycles since power-up"),
    ("busy_clocks", "clock cycles in which a request was in service"),
    ("commits", "requests committed"),
    *((f"aborts_{reason.name.lower()}", f"requests aborted with {reason.name}") for reason in Reason),
    ("keys_validated", "keys of read sets queried in the recency filter"),
    ("keys_inserted", "keys of write and commute sets inserted into the recency filter"),
    ("parity_errors", "memory words read with bad parity"),
    ("epoch_steps", "epochs ended, by their last count, a reset or a request for the token"),
    ("floor_raises", "commits that raised the floor because they had more than buffer_depth keys to insert"),
    ("errors", "errors found; of two in one clock cycle the error log has one"),
)

#: The statistics of each slot, 32 bits each, in the order of its words in the books. An abort's number is its reason.
SLOT_STATISTICS = (
    ("commits", "transactions committed"),
    *((f"aborts_{reason.name.lower()}", f"requests aborted with {reason.name}") for reason in Reason),
    ("dooms", "transactions doomed"),
    ("validation_clocks", "clock cycles from the beginning of a request's validation to its verdict"),
)
assert all(SLOT_STATISTICS[reason][0] == f"aborts_{reason.name.lower()}" for reason in Reason)
assert len(SLOT_STATISTICS) * 4 <= SLOT_STATISTICS_BYTES


@dataclass(frozen=True)
class Field:
    """Bits ``lsb`` to ``lsb + width - 1`` of a register."""

    name: str
    lsb: int
    width: int
    doc: str

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.lsb

    def extract(self, word: int) -> int:
        """The field's value in ``word``."""
        return (word & self.mask) >> self.lsb

    def insert(self, value: int) -> int:
        """A word with ``value`` in this field and 0 elsewhere. Raises ValueError when it does not fit."""
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{self.name} must fit in {self.width} bits, not {value}")
        return value << self.lsb


@dataclass(frozen=True)
class Register:
    """One 32-bit register. Without fields the whole word is one value."""

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()

    @property
    def size(self) -> int:
        return WORD_BYTES

    @property
    def word(self) -> int:
        """Offset in words."""
        return self.offset // WORD_BYTES

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"register {self.name} has no field {name}")


@dataclass(frozen=True)
class Window:
    """A range of words that is an array or an aperture."""

    name: str
    offset: int
    size: int
    access: Access
    doc: str

    @property
    def word(self) -> int:
        """Offset in words."""
        return self.offset // WORD_BYTES


class Page:
    """A 4 KiB page. Its registers and windows are attributes; it cannot be changed after it is built."""

    def __init__(self, name: str, *items: Register | Window) -> None:
        self.name = name
        self._items = tuple(sorted(items, key=lambda item: item.offset))
        self._by_name = {item.name: item for item in self._items}
        if len(self._by_name) != len(self._items):
            raise ValueError(f"page {name} has two registers of one name")
        end = 0
        for item in self._items:
            if item.offset % WORD_BYTES or item.size % WORD_BYTES:
                raise ValueError(f"{name}.{item.name} is not aligned to a word")
            if item.offset < end:
                raise ValueError(f"{name}.{item.name} overlaps the register before it")
            end = item.offset + item.size
        if end > PAGE_BYTES:
            raise ValueError(f"page {name} is longer than {PAGE_BYTES} bytes")

    def __iter__(self) -> Iterator[Register | Window]:
        return iter(self._items)

    def register(self, name: str) -> Register:
        item = self._by_name[name]
        assert isinstance(item, Register), f"{self.name}.{name} is a window"
        return item

    def window(self, name: str) -> Window:
        item = self._by_name[name]
        assert isinstance(item, Window), f"{self.name}.{name} is a register"
        return item


_VERDICT_FIELDS = (
    Field("DONE", 0, 1, "the request is decided and the words beside this one are its verdict"),
    Field("COMMITTED", 1, 1, "COMMIT, else ABORT"),
    Field("TIMESTAMPED", 2, 1, "the commit was assigned the timestamp beside this word"),
    Field("REASON", 4, 4, "why it was aborted, 0 when it was not"),
    Field("REQUEST", 16, 16, "the request number that was written to SUBMIT"),
)

CONTROL_PAGE = Page(
    "CONTROL",
    Register("IDENTIFICATION", 0x000, Access.RO, 'Always "BLMG" in ASCII, little endian.'),
    Register(
        "VERSION",
        0x004,
        Access.RO,
        "Version of the register interface.",
        (
            Field("PATCH", 0, 8, "nothing a host can see"),
            Field("MINOR", 8, 8, "additions"),
            Field("MAJOR", 16, 16, "changes that an older host cannot work with"),
        ),
    ),
    Register(
        "GEOMETRY",
        0x008,
        Access.RO,
        "The recency filter.",
        (
            Field("K", 0, 4, "hash tables"),
            Field("LOG2_D", 8, 5, "log2 of the entries in each table"),
            Field("TIMESTAMP_BITS", 16, 6, "width of a count"),
            Field("KEY_BITS", 24, 6, "width of a key"),
        ),
    ),
    Register(
        "CAPACITY",
        0x00C,
        Access.RO,
        "What clients can use.",
        (
            Field("SLOTS", 0, 8, "slot pages behind this page"),
            Field("APERTURE_DEPTH", 16, 16, "keys a slot can buffer, all sets together"),
        ),
    ),
    Register("HASH_SEED", 0x010, Access.RO, "Seed of the H3 matrices."),
    Register(
        "QUEUE_CAPACITY",
        0x018,
        Access.RO,
        "What queue pairs can use.",
        (
            Field("LOG2_ENTRIES", 0, 4, "log2 of the entries of each submission and each completion ring"),
            Field("REQUEST_BUFFERS", 8, 4, "requests that are fetched and decided at the same time, over all slots"),
            Field(
                "UNCACHED",
                12,
                1,
                "1: memory is reached past the processors' caches (S_AXI_HP0), so windows must be mapped uncached;"
                " 0: through them (S_AXI_ACP), so windows must be mapped cached",
            ),
            Field(
                "BUFFER_DEPTH",
                16,
                16,
                "keys that are inserted one by one and, of a read set, keys that are validated without a pause",
            ),
        ),
    ),
    Register(
        "STATUS",
        0x014,
        Access.RO,
        "State of the device.",
        (
            Field("READY", 0, 1, "requests are being decided"),
            Field("SCRUBBING", 1, 1, "the recency filter is being cleared"),
            Field("RESETTING", 2, 1, "a soft reset is in progress; requests get ABORT(RESET)"),
            Field("EXHAUSTED", 3, 1, "the last epoch has ended; every request gets ABORT(ROLLOVER)"),
            Field("FAULT_PENDING", 4, 1, "a FAULT_INJECTION of KIND 1 waits for the arbiter; another would replace it"),
            Field("SETTLED", 5, 1, "what was written and decided so far has had all its effects on other slots"),
        ),
    ),
    Register("EPOCH", 0x020, Access.RO, "The current epoch."),
    Register("COUNT", 0x024, Access.RO, "The last count issued in this epoch; 0 when none was."),
    Register("PREVIOUS_EPOCH", 0x028, Access.RO, "The epoch before the current one."),
    Register("PREVIOUS_COUNT", 0x02C, Access.RO, "The last count issued in that epoch."),
    Register("FLOOR", 0x030, Access.RO, "Snapshots with a count below this conflict with every read."),
    Register(
        "INITIAL_EPOCH",
        0x034,
        Access.RW,
        "A soft reset steps the epoch to this value if it is greater than the current epoch, else by 1.",
    ),
    Register(
        "COMMAND",
        0x038,
        Access.WO,
        "Writing 1 to a bit starts that command.",
        (
            Field("SOFT_RESET", 0, 1, "abort undecided requests with RESET, step the epoch, scrub"),
            Field("RAISE_FLOOR", 1, 1, "FLOOR := COUNT, so that every older snapshot conflicts"),
            Field("LATCH_STATISTICS", 2, 1, "copy all statistics into their window, as of one clock"),
        ),
    ),
    Register(
        "STATISTICS_SEQUENCE",
        0x03C,
        Access.RO,
        "Grows by 1 when a LATCH_STATISTICS has completed.",
    ),
    Register(
        "INTERRUPT_PENDING",
        0x040,
        Access.W1C,
        "Causes since they were last cleared. The interrupt line is high while a pending cause is enabled.",
        (
            Field("ERROR", 0, 1, "an entry was written to the error log"),
            Field("EPOCH", 1, 1, "the epoch stepped"),
            Field("VERDICT", 2, 1, "a request was decided"),
            Field("COMPLETION", 3, 1, "completions were written to memory, see COALESCE"),
            Field("WAKE", 4, 1, "a parked slot was woken"),
        ),
    ),
    Register(
        "INTERRUPT_ENABLE",
        0x044,
        Access.RW,
        "Which causes raise the interrupt line; none after power-up.",
        (
            Field("ERROR", 0, 1, "as in INTERRUPT_PENDING"),
            Field("EPOCH", 1, 1, "as in INTERRUPT_PENDING"),
            Field("VERDICT", 2, 1, "as in INTERRUPT_PENDING"),
            Field("COMPLETION", 3, 1, "as in INTERRUPT_PENDING"),
            Field("WAKE", 4, 1, "as in INTERRUPT_PENDING"),
        ),
    ),
    Register(
        "ERROR_COUNT",
        0x048,
        Access.RO,
        "Entries ever written to the error log; the newest is number (ERROR_COUNT - 1) modulo the ring's length.",
    ),
    Register(
        "FAULT_INJECTION",
        0x04C,
        Access.WO,
        "Makes a parity error, to test that it is handled.",
        (
            Field("KIND", 0, 2, "1: a recency filter word, 2: the next buffered key of any slot"),
            Field("TABLE", 4, 3, "for KIND 1: table"),
            Field("ROW", 8, 16, "for KIND 1: row"),
        ),
    ),
    Register(
        "COALESCE",
        0x050,
        Access.RW,
        "How many completions share an interrupt: it comes with the one that makes COUNT, or CLOCKS after the first.",
        (
            Field("COUNT", 0, 16, "completions written since the cause was last raised; 0 and 1: every one raises it"),
            Field("CLOCKS", 16, 16, "clock cycles from the first of them, at most this and one more; 0: no such limit"),
        ),
    ),
    Register(
        "TOKEN",
        0x054,
        Access.RO,
        "State of the irrevocable token.",
        (
            Field("HELD", 0, 1, "HOLDER has it"),
            Field("WAITING", 1, 1, "a slot waits for it"),
            Field("HOLDER", 8, 8, "the slot that has it, or had it last"),
            Field("GRANTS", 16, 16, "how often it was granted, modulo 2**16"),
        ),
    ),
    Register(
        "TOKEN_REVOKE",
        0x058,
        Access.WO,
        "Takes the token away from its holder, if that is the slot that is written here.",
        (Field("HOLDER", 0, 8, "the slot"),),
    ),
    Register(
        "TOKEN_WATCHDOG",
        0x05C,
        Access.RW,
        "Clock cycles for which the token may be held before it is taken away; 0, as after power-up: any number.",
    ),
    Register(
        "CONFLICT_HEAD",
        0x060,
        Access.RO,
        "Entries ever written to the conflict log, modulo 2**16; the newest is number (CONFLICT_HEAD - 1) modulo the"
        " ring's length.",
    ),
    Register(
        "BOOKS_BANK",
        0x064,
        Access.RW,
        "Which quarter of the books the window BOOKS shows.",
        (Field("BANK", 0, 2, "0 and 1: the conflict log; 2 and 3: the statistics of slots 0 to 15, 16 to 31"),),
    ),
    Window(
        "ERROR_LOG",
        0x100,
        ERROR_LOG_ENTRIES * 8,
        Access.RO,
        "A ring of two words an entry: CODE in bits 7:0 and the slot in bits 15:8, then DETAIL.",
    ),
    Window(
        "STATISTICS",
        0x200,
        len(STATISTICS) * 8,
        Access.RO,
        "64-bit values, low word first, as of the last LATCH_STATISTICS.",
    ),
    Window(
        "BOOKS",
        0x400,
        0x400,
        Access.RO,
        "The bank chosen by BOOKS_BANK: 64 entries of the conflict log, a ring over both its banks, or for each of 16"
        " slots its statistics since power-up, a word each.",
    ),
    Window(
        "SLOT_RECORDS",
        0x800,
        32 * SLOT_RECORD_BYTES,
        Access.RO,
        "For each slot the four words VERDICT, TIMESTAMP_EPOCH, TIMESTAMP_COUNT and CONFLICT_KEY of its page.",
    ),
    Window(
        "QUEUE_RECORDS",
        0xC00,
        32 * QUEUE_RECORD_BYTES,
        Access.RW,
        "For each slot the eight words of a queue record: its window, its state, its last verdict.",
    ),
)

_QUEUE_STATUS_FIELDS = (
    Field("ENABLED", 0, 1, "doorbells are taken and requests are served"),
    Field("DRAINING", 1, 1, "what was fetched for the owner before is being finished; QUEUE_CONTROL waits for it"),
    Field("GENERATION", 16, 16, "of the owner"),
)

#: One record of QUEUE_RECORDS; offsets are bytes within the record.
QUEUE_RECORD = Page(
    "QUEUE",
    Register(
        "WINDOW_BASE",
        0x00,
        Access.RW,
        "First byte address that the co-processor may touch for the slot, a multiple of 4096: bits 11:0 are ignored,"
        " and read as 0. Can be changed while the queue is neither ENABLED nor DRAINING.",
    ),
    Register(
        "WINDOW_SIZE",
        0x04,
        Access.RW,
        "Bytes from there on, a multiple of 4096: bits 11:0 are ignored, and read as 0. Can be changed like"
        " WINDOW_BASE.",
    ),
    Register(
        "QUEUE_CONTROL",
        0x08,
        Access.WO,
        "Disables the queue and lets what was fetched for it come to its end; then all indices are 0, and with ENABLE"
        " the queue is the new owner's. Entries that were not fetched are forgotten.",
        (
            Field("ENABLE", 0, 1, "enable it again"),
            Field("GENERATION", 16, 16, "of the new owner, not 0"),
        ),
    ),
    Register("QUEUE_STATUS", 0x0C, Access.RO, "State of the queue.", _QUEUE_STATUS_FIELDS),
    Register(
        "LAST_VERDICT",
        0x10,
        Access.RO,
        "The verdict on the slot's last queued request, kept until the next one is decided.",
        _VERDICT_FIELDS,
    ),
    Register("LAST_EPOCH", 0x14, Access.RO, "Epoch of its timestamp."),
    Register("LAST_COUNT", 0x18, Access.RO, "Count of its timestamp."),
    Register("COMPLETED", 0x1C, Access.RO, "Completions that memory has, modulo 2**16; 0 when the queue is enabled."),
)

#: One entry of the conflict log; offsets are bytes within the entry.
CONFLICT_ENTRY = Page(
    "CONFLICT",
    Register(
        "SLOTS",
        0x00,
        Access.RO,
        "Who met.",
        (
            Field("LOSER", 0, 8, "the slot that was doomed or refused"),
            Field("WINNER", 8, 8, "the slot that committed, or that held the token"),
            Field("WINNER_KNOWN", 16, 1, "WINNER is a slot whose transaction was in flight"),
            Field("KEY_KNOWN", 17, 1, "they met at KEY, else possibly at any key"),
        ),
    ),
    Register("KEY", 0x04, Access.RO, "Where they met, 0 when that is not known."),
    Register("EPOCH", 0x08, Access.RO, "Epoch of the timestamp: of the winner's commit, of a refusal the newest one."),
    Register("COUNT", 0x0C, Access.RO, "Count of the timestamp."),
)

_APERTURE_BYTES = 0x400

_DOORBELL_FIELDS = (
    Field("INDEX", 0, 16, "a ring index, see queues.md"),
    Field("GENERATION", 16, 16, "of the slot's owner, else the write is dropped"),
)

SLOT_PAGE = Page(
    "SLOT",
    Register("VERDICT", 0x000, Access.RO, "The verdict on the last request.", _VERDICT_FIELDS),
    Register("TIMESTAMP_EPOCH", 0x004, Access.RO, "Epoch of the commit timestamp."),
    Register("TIMESTAMP_COUNT", 0x008, Access.RO, "Count of the commit timestamp."),
    Register("CONFLICT_KEY", 0x00C, Access.RO, "On CONFLICT, PARITY and IRREVOCABLE the first failing key."),
    Register(
        "STATUS",
        0x010,
        Access.RO,
        "State of the slot. A request submitted while one of bits 7:4 is set is aborted with that reason.",
        (
            Field("BUSY", 0, 1, "a submitted request is undecided; writes to the page are dropped"),
            Field("BUSY_ERROR", 4, 1, "a write was dropped because the slot was busy"),
            Field("OVERFLOW_ERROR", 5, 1, "a key was dropped because the slot was full"),
            Field("BAD_REQUEST_ERROR", 6, 1, "a write was dropped because it was not a legal whole word"),
            Field("RESET_ERROR", 7, 1, "the device was reset while the slot held a request"),
        ),
    ),
    Register("READ_COUNT", 0x014, Access.RO, "Keys in the read set being filled."),
    Register("WRITE_COUNT", 0x018, Access.RO, "Keys in the write and commute sets being filled."),
    Register("SNAPSHOT_EPOCH", 0x020, Access.RW, "Epoch of the snapshot."),
    Register("SNAPSHOT_COUNT", 0x024, Access.RW, "Count of the snapshot."),
    Register(
        "SUBMIT",
        0x028,
        Access.WO,
        "Submits the request. One burst can write the snapshot and this.",
        (
            Field("REQUEST", 0, 16, "a number that VERDICT repeats"),
            Field("KIND", 16, 2, "0: decide the transaction, 1: grant the token, 2: guard the read set"),
        ),
    ),
    Register(
        "DISCARD",
        0x02C,
        Access.WO,
        "Any word empties the sets being filled, clears the errors, and ends a transaction in flight. It withdraws a"
        " request for the token, and gives the token back.",
    ),
    Register(
        "COMPLETION_HEAD",
        0x030,
        Access.WO,
        "Doorbell: completions before INDEX have been read, and their entries may be used again.",
        _DOORBELL_FIELDS,
    ),
    Register(
        "SUBMISSION_TAIL",
        0x034,
        Access.WO,
        "Doorbell: submissions before INDEX are in the ring. One burst can write COMPLETION_HEAD and this.",
        _DOORBELL_FIELDS,
    ),
    Register("SUBMISSION_HEAD", 0x038, Access.RO, "Submissions taken out of the ring, modulo 2**16."),
    Register("QUEUE_STATUS", 0x03C, Access.RO, "State of the slot's queue.", _QUEUE_STATUS_FIELDS),
    Register(
        "ANNOUNCE",
        0x040,
        Access.WO,
        "The slot's transaction is in flight: write the snapshot first.",
        (Field("ON", 0, 1, "announce the read set, the keys that come as well; else not those that come"),),
    ),
    Register(
        "PARK",
        0x044,
        Access.WO,
        "Waits for a change of the announced keys, or for the end of the token's time after IRREVOCABLE.",
        (Field("ON", 0, 1, "wake the slot when that is, also if it has been; else do not wake it"),),
    ),
    Register(
        "FLIGHT",
        0x048,
        Access.RO,
        "State of the transaction in flight.",
        (
            Field("DOOMED", 0, 1, "an announced key may have changed, see DOOM_KEY and what follows it"),
            Field("KEY_KNOWN", 1, 1, "DOOM_KEY is that key, else it may be any"),
            Field("PARKED", 2, 1, "nothing has woken the slot since PARK"),
            Field("TOKEN_WAITING", 3, 1, "a request for the token is undecided"),
            Field("HOLDER", 4, 1, "the slot has the token"),
            Field("REVOKED", 5, 1, "it had the token, which was taken away"),
            Field("ANNOUNCING_DONE", 6, 1, "all keys that are to be announced are, also those of the log"),
            Field("TOLD", 7, 1, "the last doom was told: if DOOMED, the rest here and in the DOOM registers is of it"),
            Field("WAKE_SEQUENCE", 16, 16, "grows by 1 with every wake, modulo 2**16"),
        ),
    ),
    Register("DOOM_KEY", 0x04C, Access.RO, "The announced key that may have changed."),
    Register(
        "DOOM_EPOCH",
        0x050,
        Access.RO,
        "Epoch of the timestamp with which the change is visible. From a wake until the next doom: of the timestamp to"
        " begin again with.",
    ),
    Register("DOOM_COUNT", 0x054, Access.RO, "Count of that timestamp."),
    Register(
        "ANNOUNCED_TAIL",
        0x058,
        Access.WO,
        "Doorbell: the keys before COUNT are in the announced log of the slot's window, see queues.md, and belong to"
        " the read set of its transaction in flight.",
        (Field("COUNT", 0, 32, "keys in the log since the transaction began, at most aperture_depth"),),
    ),
    Window("READ_APERTURE", 0x400, _APERTURE_BYTES, Access.WO, "A word adds a key to the read set."),
    Window("WRITE_APERTURE", 0x800, _APERTURE_BYTES, Access.WO, "A word adds a key to the write set."),
    Window("COMMUTE_APERTURE", 0xC00, _APERTURE_BYTES, Access.WO, "A word adds a key to the commute set."),
)


def slot_page_offset(slot: int) -> int:
    """Byte offset of a slot's page from the control page."""
    return (1 + slot) * PAGE_BYTES


def page_count(parameters: Parameters) -> int:
    """Pages that exist: the control page and one for each slot."""
    return 1 + parameters.slots


def region_bytes(parameters: Parameters) -> int:
    """Size of the decoded region: the pages, rounded up to a power of two."""
    size = PAGE_BYTES
    while size < page_count(parameters) * PAGE_BYTES:
        size *= 2
    return size

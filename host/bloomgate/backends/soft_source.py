"""The C source of ``soft:`` and of what ``shm:`` does in C, behind what Python defines. Needs no cffi, no compiler."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bloomgate.in_flight import (
    FLIGHT_STATISTICS,
    GRANT_MARGIN,
    OLDEST,
    PASSED_OVER,
    SLOT_COUNTERS,
    SLOT_FILTER_ROWS,
)
from bloomgate.parameters import LANES
from bloomgate.registers import CONFLICT_LOG_ENTRIES, SLOT_PAGE, STATISTICS
from bloomgate.shm.layout import c_definitions
from bloomgate.verdict import Reason

__all__ = [
    "CODE_BITS",
    "COMPILE_ARGUMENTS",
    "DECLARATIONS",
    "ILLEGAL",
    "LINK_ARGUMENTS",
    "MODULE",
    "NAMES",
    "READ_ONLY",
    "SLOT_OPERATIONS",
    "source",
    "source_hash",
]

#: The compiled module.
MODULE = "bloomgate.backends._soft_core"

#: Tables that the C code has room for: the limit of :class:`~bloomgate.parameters.Parameters`.
MAX_TABLES = 8
#: The same for slots and for the entries of a ring.
MAX_SLOTS = 32
MAX_QUEUE_ENTRIES = 256

#: Width of the code in an answer that is no timestamp; what is above it is the position of a key.
CODE_BITS = 8
#: That code for a commit without a timestamp. Other codes are values of Reason.
READ_ONLY = 0
#: A code within C, for a commit with one.
COMMIT = (1 << CODE_BITS) - 2
#: That code for a request that cannot be put on the wire.
ILLEGAL = (1 << CODE_BITS) - 1

#: Names of what the device counts itself, in the order of the C array: there is no clock.
_COUNTED = tuple(name for name, _ in STATISTICS if name not in ("clocks", "busy_clocks"))
#: Names of the statistics, in the order of copy_statistics() in C: what all slots have counted comes behind.
NAMES = (*_COUNTED, *(name for name, _ in FLIGHT_STATISTICS))
#: What a slot can do, by number in C.
SLOT_OPERATIONS = (
    *("state", "begin", "announce", "commit", "cancel", "park", "unpark", "token", "guard"),
    "count_spurious_wake",
)

#: _GNU_SOURCE: robust mutexes and futexes are not in C11.
COMPILE_ARGUMENTS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-pthread", "-Wall", "-Wextra")
LINK_ARGUMENTS = ("-pthread",)

_VERDICT = SLOT_PAGE.register("VERDICT")

_PACKAGE = Path(__file__).resolve().parents[1]
#: The C files, each behind those that it uses.
SOURCES = (
    "backends/soft_core.c",
    "backends/in_flight.c",
    "shm/publication.c",
    "shm/array.c",
    "shm/redo.c",
    "shm/ring.c",
    "shm/shared.c",
    "shm/client.c",
    "shm/flight.c",
    "shm/guards.c",
    "shm/sharing.c",
    "shm/server.c",
    "stm/in_place.c",
)

#: What Python can call.
DECLARATIONS = """
typedef struct bg_device bg_device;
bg_device *bg_new(uint32_t tables, uint32_t row_bits, uint32_t timestamp_bits, uint32_t key_bits,
                  uint32_t slots, uint32_t aperture_depth, uint32_t buffer_depth, const uint32_t *matrices);
void bg_free(bg_device *device);
uint64_t bg_commit(bg_device *device, const char *request);
uint64_t bg_commit_many(bg_device *device, const char *requests, uint64_t count);
uint64_t bg_last_timestamp(bg_device *device);
void bg_reset(bg_device *device, uint32_t initial_epoch, uint64_t *timestamps);
void bg_raise_floor(bg_device *device);
void bg_inject_parity_error(bg_device *device, uint32_t table, uint32_t row);
void bg_stats(bg_device *device, uint64_t *statistics);
const char *bg_source_hash(void);
const char *bg_compiler(void);

typedef struct { uint32_t code, epoch, count, key, position; } bg_verdict;
typedef struct {
    uint32_t in_flight, epoch, count, logged, entered, revalidate, doomed, doom_key_known, doom_key, doom_epoch,
        doom_count, parked, refused, wake_sequence, wake_epoch, wake_count, token, age;
    bg_verdict refusal;
    uint64_t statistics[...];
} bg_slot_state;
typedef struct {
    bg_verdict verdict;
    bg_slot_state state;
    uint32_t epoch, last, news;
    uint64_t epoch_end[2];
    uint32_t refused;
} bg_slot_answer;
typedef struct { uint32_t winner, loser, key_known, key, epoch, count; } bg_conflict;
void bg_slot_operate(bg_device *device, uint32_t slot, uint32_t operation, const uint32_t *words, uint32_t count,
                     bg_slot_answer *answer);
void bg_slot_sleep(bg_device *device, uint32_t seen, uint64_t ns);
uint32_t bg_conflicts(bg_device *device, bg_conflict *taken);
uint32_t bg_revoke_token(bg_device *device, uint64_t *timestamps);
void bg_token_watchdog(bg_device *device, uint64_t ticks);
void bg_tick(bg_device *device, uint64_t ticks, uint64_t *timestamps);

typedef struct bg_segment bg_segment;
uint64_t bg_device_bytes(uint32_t tables, uint32_t row_bits, uint32_t slots, uint32_t aperture_depth);
bg_segment *bg_segment_open(void *base);
void bg_segment_close(bg_segment *segment);
int bg_segment_format(bg_segment *segment, const uint32_t *matrices);
void bg_segment_own(bg_segment *segment, int file, uint32_t slot);
int bg_segment_reset(bg_segment *segment, uint32_t initial_epoch, uint64_t ns);
int bg_segment_raise_floor(bg_segment *segment, uint64_t ns);
int bg_segment_inject(bg_segment *segment, uint32_t table, uint32_t row, uint64_t ns);
int bg_segment_stats(bg_segment *segment, uint64_t *statistics, uint64_t ns);
int bg_segment_drain(bg_segment *segment, uint32_t slot, uint64_t ns);
int bg_segment_enable(bg_segment *segment, uint32_t slot, uint32_t generation, uint64_t ns);
uint64_t bg_segment_last(bg_segment *segment);

typedef struct bg_client bg_client;
bg_client *bg_client_new(bg_device *device, void *control, void *window, uint64_t window_bytes, uint32_t entries);
bg_client *bg_client_of(bg_segment *segment, uint32_t slot);
void bg_client_free(bg_client *client);
void bg_client_begin(bg_client *client, uint32_t generation);
int bg_next(const bg_client *client);
int bg_submit(bg_client *client, const uint32_t *words, uint32_t kind, const void *entries, uint32_t count);
int bg_collect(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload);
void bg_release(bg_client *client, uint32_t index);
int bg_take(bg_client *client, uint64_t ns, uint32_t *payload);
void bg_raw_enable(bg_client *client, uint32_t generation);
void bg_raw_doorbells(bg_client *client, uint32_t head, uint32_t tail);
void bg_raw_status(bg_client *client, uint32_t *status);

int bg_segment_operate(bg_segment *segment, uint32_t slot, uint32_t operation, const uint32_t *words, uint32_t count,
                       bg_slot_answer *answer, uint64_t ns);
int bg_segment_clear(bg_segment *segment, uint32_t slot, uint64_t ns);
int bg_segment_conflicts(bg_segment *segment, bg_conflict *taken, uint32_t *count, uint64_t ns);
int bg_segment_revoke(bg_segment *segment, uint32_t *holder, uint64_t ns);
int bg_segment_watchdog(bg_segment *segment, uint64_t ticks, uint64_t ns);
int bg_segment_tick(bg_segment *segment, uint64_t ticks, uint64_t ns);
uint32_t bg_flight_word(const bg_client *client);
void bg_flight_sleep(bg_client *client, uint32_t seen, uint64_t ns);
void bg_serve_tell(bg_segment *segment, bg_device *device);
void bg_serve_tell_slot(bg_segment *segment, uint32_t slot, uint32_t word);

typedef ... bg_sharing;
bg_sharing *bg_sharing_new(bg_segment *segment, int file);
void bg_sharing_free(bg_sharing *sharing);
void bg_sharing_own(bg_sharing *sharing, uint32_t slot);
uint64_t bg_unpublished_of(bg_sharing *sharing, uint32_t slot);
void bg_guard(bg_client *client, uint64_t location);
int bg_guard_settle(bg_client *client, bg_sharing *sharing, uint64_t ns);
int bg_guards_active(bg_client *client);
int bg_guards_clear(bg_client *client, bg_sharing *sharing, uint64_t ns);
int bg_transact_submit(bg_client *client, void *buffer, int holder);
void bg_transact_release(bg_client *client, void *buffer);
int bg_transact_decide(bg_client *client, bg_sharing *sharing, void *buffer, uint64_t ns);
uint64_t bg_transact_timestamp(bg_client *client, bg_sharing *sharing, const void *buffer);
int bg_transact(bg_client *client, bg_sharing *sharing, void *buffer, uint64_t ns);
uint64_t bg_turn_of_others(bg_sharing *sharing);
int bg_turn_take(bg_sharing *sharing, uint64_t ns);
void bg_turn_end(bg_sharing *sharing);
uint64_t bg_sharing_now(bg_sharing *sharing, uint64_t *timestamp);
uint64_t bg_sharing_published(bg_sharing *sharing);
uint64_t bg_sharing_position_of(bg_sharing *sharing, uint64_t timestamp);
int bg_sharing_publish(bg_sharing *sharing, uint64_t timestamp);
int bg_sharing_has_room_for_end(bg_sharing *sharing);
int bg_sharing_epoch_end(bg_sharing *sharing, uint64_t last, uint64_t origin);
int bg_sharing_wait(bg_sharing *sharing, uint64_t timestamp, uint64_t ns);
int bg_sharing_wait_position(bg_sharing *sharing, uint64_t position, uint64_t ns);
uint32_t bg_sharing_helps(bg_sharing *sharing);
uint64_t bg_sharing_read(bg_sharing *sharing, uint64_t location, uint64_t position, uint64_t *value);
uint64_t bg_sharing_newest(bg_sharing *sharing, uint64_t location);
void bg_sharing_initialise(bg_sharing *sharing, uint64_t location, uint64_t count, const uint64_t *values);

int bg_serve(bg_segment *segment, bg_device *device, uint64_t ns);
uint32_t bg_serve_doorbells(bg_segment *segment, uint32_t slot, uint32_t *words);
void bg_serve_collect(bg_segment *segment, uint32_t slot);
void bg_serve_drain(bg_segment *segment, bg_device *device, uint32_t slot);
int bg_serve_begin(bg_segment *segment, bg_sharing *sharing, uint64_t origin);
int bg_serve_take_of(bg_segment *segment, uint32_t slot, uint32_t *words);
int bg_serve_take(bg_segment *segment, uint64_t ns, uint32_t *words);
void bg_serve_answer(bg_segment *segment, uint32_t slot, uint32_t code, uint32_t request, uint64_t timestamp,
                     uint32_t key, uint64_t last);
uint64_t bg_serve_command(bg_segment *segment, uint32_t slot, uint64_t *arguments);
void bg_serve_done(bg_segment *segment, uint32_t slot, uint32_t command, uint64_t result);
void bg_serve_enable(bg_segment *segment, uint32_t slot, uint32_t generation);
void bg_serve_last(bg_segment *segment, uint64_t last);
int bg_call(bg_client *client, uint32_t kind, const uint64_t *arguments, uint64_t ns, uint64_t *result);
"""


def _definitions() -> str:
    values = {
        "MAX_TABLES": MAX_TABLES,
        "MAX_SLOTS": MAX_SLOTS,
        "MAX_QUEUE_ENTRIES": MAX_QUEUE_ENTRIES,
        "CODE_BITS": CODE_BITS,
        "READ_ONLY": READ_ONLY,
        "COMMIT": COMMIT,
        "ILLEGAL": ILLEGAL,
        "STATISTICS": len(_COUNTED),
        "FLIGHT_STATISTICS": len(FLIGHT_STATISTICS),
        "VERDICT_DONE": f"{_VERDICT['DONE'].mask}u",
        "VERDICT_COMMITTED": f"{_VERDICT['COMMITTED'].mask}u",
        "VERDICT_REASON_SHIFT": _VERDICT["REASON"].lsb,
        "VERDICT_REQUEST_SHIFT": _VERDICT["REQUEST"].lsb,
        **{f"REASON_{reason.name}": int(reason) for reason in Reason},
        **{f"STATISTIC_{name.upper()}": index for index, name in enumerate(_COUNTED)},
        "CONFLICT_LOG_ENTRIES": CONFLICT_LOG_ENTRIES,
        "GRANT_MARGIN": GRANT_MARGIN,
        "LANES": LANES,
        "OLDEST": OLDEST,
        "PASSED_OVER": PASSED_OVER,
        "SLOT_FILTER_ROWS": SLOT_FILTER_ROWS,
        "SLOT_STATISTICS": len(SLOT_COUNTERS),
        "FIRST_FLIGHT_STATISTIC": SLOT_COUNTERS.index(FLIGHT_STATISTICS[0][0]),
        **{f"SLOT_{name.upper()}": index for index, name in enumerate(SLOT_OPERATIONS)},
        **{f"SLOT_STATISTIC_{name.upper()}": index for index, name in enumerate(SLOT_COUNTERS)},
    }
    lines = [f"#define BG_{name} {value}" for name, value in values.items()]
    # Tests compile with a macro that stops or kills the process at named points; else they are nothing.
    lines += ["#ifndef BG_POINT", "#define BG_POINT(name) ((void)0)", "#endif"]
    entries = ", ".join(f"[BG_REASON_{reason.name}] = BG_STATISTIC_ABORTS_{reason.name}" for reason in Reason)
    lines.append(f"static const unsigned char bg_abort_statistic[] = {{{entries}}};")
    entries = ", ".join(f"[BG_REASON_{reason.name}] = BG_SLOT_STATISTIC_ABORTS_{reason.name}" for reason in Reason)
    lines.append(f"static const unsigned char bg_abort_slot_statistic[] = {{{entries}}};")
    return "\n".join(lines) + "\n"


_COMPILER = """
static const char *bg_compiler(void) {
#if defined(__clang__)
    return __VERSION__; /* begins with its name */
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return "an unknown compiler";
#endif
}
"""


def _text() -> str:
    files = [(_PACKAGE / name).read_text(encoding="utf-8") for name in SOURCES]
    return "\n".join([_definitions(), c_definitions(), *files, _COMPILER])


def source_hash() -> str:
    """Identifies the source, its interface and its options, so that a stale module is not used."""
    parts = (_text(), DECLARATIONS, *COMPILE_ARGUMENTS, *LINK_ARGUMENTS)
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:16]


def source() -> str:
    """The whole C source; the module that comes of it reports :func:`source_hash`."""
    return _text() + f'static const char *bg_source_hash(void) {{ return "{source_hash()}"; }}\n'

"""The C source of ``soft:``: soft_core.c behind what Python defines. Needs neither cffi nor a compiler."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bloomgate.registers import STATISTICS
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
    "source",
    "source_hash",
]

#: The compiled module.
MODULE = "bloomgate.backends._soft_core"

#: Tables that the C code has room for: the limit of :class:`~bloomgate.parameters.Parameters`.
MAX_TABLES = 8

#: Width of the code in an answer that is no timestamp; what is above it is the position of a key.
CODE_BITS = 8
#: That code for a commit without a timestamp. Other codes are values of Reason.
READ_ONLY = 0
#: A code within C, for a commit with one.
COMMIT = (1 << CODE_BITS) - 2
#: That code for a request that cannot be put on the wire.
ILLEGAL = (1 << CODE_BITS) - 1

#: Names of the statistics, in the order of the C array: there is no clock.
NAMES = tuple(name for name, _ in STATISTICS if name not in ("clocks", "busy_clocks"))

#: _GNU_SOURCE: robust mutexes and futexes are not in C11.
COMPILE_ARGUMENTS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-pthread", "-Wall", "-Wextra")
LINK_ARGUMENTS = ("-pthread",)

#: What Python can call.
DECLARATIONS = """
typedef struct bg_device bg_device;
bg_device *bg_new(uint32_t tables, uint32_t row_bits, uint32_t timestamp_bits, uint32_t key_bits,
                  uint32_t aperture_depth, uint32_t buffer_depth, const uint32_t *matrices);
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
"""


def _definitions() -> str:
    values = {
        "MAX_TABLES": MAX_TABLES,
        "CODE_BITS": CODE_BITS,
        "READ_ONLY": READ_ONLY,
        "COMMIT": COMMIT,
        "ILLEGAL": ILLEGAL,
        "STATISTICS": len(NAMES),
        **{f"REASON_{reason.name}": int(reason) for reason in Reason},
        **{f"STATISTIC_{name.upper()}": index for index, name in enumerate(NAMES)},
    }
    lines = [f"#define BG_{name} {value}" for name, value in values.items()]
    # Tests compile with a macro that stops or kills the process at named points; else they are nothing.
    lines += ["#ifndef BG_POINT", "#define BG_POINT(name) ((void)0)", "#endif"]
    entries = ", ".join(f"[BG_REASON_{reason.name}] = BG_STATISTIC_ABORTS_{reason.name}" for reason in Reason)
    lines.append(f"static const unsigned char bg_abort_statistic[] = {{{entries}}};")
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
    core = Path(__file__).with_name("soft_core.c").read_text(encoding="utf-8")
    return _definitions() + core + _COMPILER


def source_hash() -> str:
    """Identifies the source, its interface and its options, so that a stale module is not used."""
    parts = (_text(), DECLARATIONS, *COMPILE_ARGUMENTS, *LINK_ARGUMENTS)
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:16]


def source() -> str:
    """The whole C source; the module that comes of it reports :func:`source_hash`."""
    return _text() + f'static const char *bg_source_hash(void) {{ return "{source_hash()}"; }}\n'

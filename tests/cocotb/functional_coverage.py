"""Functional coverage: what the cocotb tests are to have met, counted in bins.

A point is a question, a bin one of its answers. All bins are declared here, so that a bin that nothing hits shows, and
a hit of an undeclared bin is an error. Each run leaves its counts in a JSON file; :func:`merge` adds them up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from bloomgate.registers import ErrorCode
from bloomgate.verdict import Reason

__all__ = ["POINTS", "REQUIRED", "THRESHOLD", "Coverage", "merge", "report"]

#: Share of all bins that has to be hit.
THRESHOLD = 0.95

BURSTS = ("FIXED", "INCR", "WRAP")
LENGTHS = ("1", "2", "3..7", "8", "9..15", "16")
WRAP_LENGTHS = ("2", "4", "8", "16")
LEVELS = ("0", "0.5", "0.9")
CHANNELS = ("aw", "w", "b", "ar", "r")
_LOGS = ("READ", "WRITE", "COMMUTE")


def _length_class(beats: int) -> str:
    for name in LENGTHS:
        low, _, high = name.partition("..")
        if int(low) <= beats <= int(high or low):
            return name
    raise AssertionError(f"{beats} beats")


def _join(*sets: Iterable[object]) -> tuple[str, ...]:
    return tuple(" ".join(map(str, choice)) for choice in product(*sets))


_BURST_BINS = _join(("FIXED", "INCR"), (1, 2, 4), LENGTHS) + _join(("WRAP",), (1, 2, 4), WRAP_LENGTHS)
_ILLEGAL = ("reserved burst type", "8 bytes a beat", "WRAP of bad length", "WRAP unaligned", "4 KiB crossing")
_PLACES = ("outside the region", "hole", "page that does not exist")

POINTS: dict[str, tuple[str, ...]] = {
    "write burst": _BURST_BINS,
    "read burst": _BURST_BINS,
    "unaligned burst": _join(("write", "read"), (2, 4)),
    "strobes on a register": tuple(f"{strobe:04b}" for strobe in range(16)),
    "partial strobes on an aperture": tuple(f"{strobe:04b}" for strobe in range(1, 15)),
    "outstanding bursts": _join(("write", "read"), ("1", "2", "3", "4 or more")),
    "outstanding IDs": _join(("write", "read"), ("1", "2", "3 or more")),
    "pauses": _join(CHANNELS, LEVELS),
    "write response": (
        "OKAY",
        *(f"DECERR {place}" for place in _PLACES[:1]),
        *(f"SLVERR {cause}" for cause in (*_PLACES[1:], "read-only register", "partial command", *_ILLEGAL)),
        *(f"SLVERR {cause}" for cause in ("wrong WID", "early WLAST", "late WLAST", "strobes outside the lanes")),
        "OKAY no strobes",
        "OKAY exclusive",
        "OKAY locked",
    ),
    "read response": (
        "OKAY",
        *(f"DECERR {place}" for place in _PLACES[:1]),
        *(f"SLVERR {cause}" for cause in (*_PLACES[1:], *_ILLEGAL)),
        "OKAY write-only register",
        "OKAY exclusive",
        "OKAY beside SLVERR in one burst",
    ),
    # Programmed I/O fetches nothing, so it meets no BUS_ERROR.
    "verdict": (
        "COMMIT",
        "COMMIT without timestamp",
        *(reason.name for reason in Reason if reason is not Reason.BUS_ERROR),
    ),
    "error code": tuple(code.name for code in ErrorCode),
    "conflict": ("true", "false", "of several keys the first", "by floor", "own earlier commit"),
    "read set": ("0", "1", "2", "odd", "even", "all the slot has"),
    "write and commute sets": ("0", "1", "2", "odd", "even", "all the slot has"),
    "slot full with": ("reads", "writes", "commutes", "a mix"),
    "keys": (
        "repeated in the read set",
        "read and written",
        "written and commuted",
        "read and commuted",
        "in all sets",
    ),
    "query lanes": ("1", "2"),
    "insertion lanes": ("1", "2"),
    "filled by": (*_join(("FIXED", "INCR"), ("one beat", "several beats")), "WRAP several beats"),
    "slot of 4": _join(range(4)),
    "slot of 16": _join(range(16)),
    "requests undecided at a decision": ("1", "2", "3", "4", "5..8", "9..16"),
    "snapshot": ("newest", "older", "zero of the epoch", "previous epoch", "ahead in count", "ahead in epoch"),
    "rollover": ("by a request alone", "with requests undecided", "with a request half filled"),
    "submitted during": ("a scrub of power-up", "a scrub of rollover", "a reset"),
    "soft reset": (
        "idle",
        "a request half filled",
        "a request pending",
        "a request in validation",
        "a request in insertion",
        "a scrub",
        "a reset",
        "the last commit of an epoch",
    ),
    "epoch after a reset": ("next", "INITIAL_EPOCH", "INITIAL_EPOCH is not newer", "exhausted"),
    "hard reset": (
        "in a write burst",
        "in a read burst",
        "a request half filled",
        "a request undecided",
        "with queues under way",
    ),
    "fault": (
        "filter word, PARITY",
        "filter word, mended without abort",
        "filter word, floor decides",
        "key in a read set",
        "key in a write set",
        "key beside a conflict",
    ),
    "floor": ("raised at 0", "raised", "old snapshot without reads commits"),
    "abuse": (
        "SUBMIT twice",
        "key while busy",
        "snapshot while busy",
        "DISCARD while busy",
        "overlong request",
        "DISCARD of a half request",
        "DISCARD after an error",
        "submit without keys",
        "abandoned half request",
    ),
    "reasons together": (
        "BAD_REQUEST OVERFLOW",
        "BAD_REQUEST BUSY",
        "OVERFLOW BUSY",
        "BUSY ROLLOVER",
        "OVERFLOW CONFLICT",
    ),
    "flight": (
        *("doomed", "doomed by its announcement", "doomed beside others", "woken", "woken while parking"),
        *("granted", "granted after a wait", "guarded", "refused", "revoked"),
    ),
    "queued verdict": (
        "COMMIT",
        "COMMIT without timestamp",
        *(reason.name for reason in (Reason.CONFLICT, Reason.ROLLOVER, Reason.RESET, Reason.BAD_REQUEST)),
        Reason.BUS_ERROR.name,
    ),
    "entries per doorbell": ("0", "1", "several", "all"),
    "log": _join(_LOGS, ("empty", "1 key", "unaligned head", "unaligned tail", "aligned")),
    "queued read set": ("a chunk", "a chunk and a key", "several chunks"),
    "queued insertions": ("all that a buffer has", "more than a buffer has"),
    "bad entry": (
        *("FORMAT", "RESERVED", "READ_COUNT"),
        *_join((f"{log}_OFFSET" for log in _LOGS), ("unaligned", "outside", "just outside", "wraps")),
        "snapshot ahead",
        *_join(_LOGS, ("key too wide",)),
    ),
    "bus error": _join(("SLVERR", "DECERR"), ("entry", *(f"{log} log" for log in _LOGS), "completion")),
    "memory latency": ("0", "1..9", "10..40"),
    "memory pauses": _join(CHANNELS, LEVELS),
    "memory answers": ("in order", "reordered"),
    "fetches under way": ("1", "2", "3", "4 or more"),
    "doorbell refused": (
        *("another generation", "queue disabled", "partial strobes", "tail too far", "tail behind"),
        *("head beyond the completions", "head behind"),
    ),
    "queue restarted": ("idle", "with requests under way", "with entries in the ring"),
    "queue reset": ("idle", "with requests under way"),
    "ring index": ("first lap", "later"),
    "interrupt": _join(("ERROR", "EPOCH", "VERDICT", "COMPLETION"), ("pending", "line high", "cleared")),
    "read in mid-request": ("half filled", "undecided"),
    "error log": ("wrapped",),
}

#: Points of which every bin has to be hit.
REQUIRED = (
    "verdict",
    "error code",
    "write response",
    "read response",
    "soft reset",
    "hard reset",
    "fault",
    "flight",
    "queued verdict",
    "bad entry",
    "bus error",
    "doorbell refused",
)


class Coverage:
    """Counts of bins, by "point: bin"."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def hit(self, point: str, answer: object) -> None:
        assert str(answer) in POINTS[point], f"{point} has no bin {answer!r}"
        self._counts[f"{point}: {answer}"] += 1

    # Bins that follow from numbers.

    def burst(self, direction: str, burst: int, size: int, beats: int, address: int) -> None:
        length = str(beats) if burst == 2 else _length_class(beats)
        self.hit(f"{direction} burst", f"{BURSTS[burst]} {1 << size} {length}")
        if address % (1 << size):
            self.hit("unaligned burst", f"{direction} {1 << size}")

    def outstanding(self, direction: str, bursts: int, identifiers: int) -> None:
        self.hit("outstanding bursts", f"{direction} {bursts if bursts < 4 else '4 or more'}")
        self.hit("outstanding IDs", f"{direction} {identifiers if identifiers < 3 else '3 or more'}")

    def set_sizes(self, reads: list[int], writes: list[int], commutes: list[int], depth: int) -> None:
        for point, size in (("read set", len(reads)), ("write and commute sets", len(writes) + len(commutes))):
            small = str(size) if size <= 2 else "odd" if size % 2 else "even"
            self.hit(point, "all the slot has" if size == depth else small)
        if len(reads) + len(writes) + len(commutes) == depth:
            full = {"reads": reads, "writes": writes, "commutes": commutes}
            self.hit("slot full with", next((name for name, keys in full.items() if len(keys) == depth), "a mix"))
        read, written, commuted = set(reads), set(writes), set(commutes)
        for name, met in (
            ("repeated in the read set", len(read) < len(reads)),
            ("read and written", read & written),
            ("written and commuted", written & commuted),
            ("read and commuted", read & commuted),
            ("in all sets", read & written & commuted),
        ):
            if met:
                self.hit("keys", name)

    def log(self, name: str, place: int, keys: int, chunk: int) -> None:
        """A key log of a queued request: byte offset and number of keys; ``chunk``: what a request buffer holds."""
        if keys <= 1:
            self.hit("log", f"{name} {'1 key' if keys else 'empty'}")
        unaligned = [end for end, at in (("head", place), ("tail", place + 4 * keys)) if at % 8]
        for end in unaligned:
            self.hit("log", f"{name} unaligned {end}")
        if keys and not unaligned:
            self.hit("log", f"{name} aligned")
        if name == "READ" and keys >= chunk:
            size = "a chunk" if keys == chunk else "a chunk and a key" if keys == chunk + 1 else "several chunks"
            self.hit("queued read set", size)

    def undecided(self, requests: int) -> None:
        name = str(requests) if requests <= 4 else "5..8" if requests <= 8 else "9..16"
        self.hit("requests undecided at a decision", name)

    def save(self, path: Path) -> None:
        """Add to what the file has."""
        merged = self._counts + Counter(json.loads(path.read_text()) if path.exists() else {})
        path.write_text(json.dumps(merged, indent=1, sort_keys=True))
        self._counts.clear()


def merge(paths: Iterable[Path]) -> Counter[str]:
    total: Counter[str] = Counter()
    for path in paths:
        total.update(json.loads(path.read_text()))
    return total


def report(counts: Counter[str]) -> tuple[str, float, list[str]]:
    """A table of the points, the share of bins that were hit, and the bins of REQUIRED that were not."""
    lines = [f"{'point':34} {'bins':>5} {'hit':>5}  missed", "-" * 78]
    bins = hits = 0
    lacking = []
    for point, answers in POINTS.items():
        missed = [answer for answer in answers if not counts[f"{point}: {answer}"]]
        bins += len(answers)
        hits += len(answers) - len(missed)
        shown = ", ".join(missed[:6]) + (", ..." if len(missed) > 6 else "")
        lines.append(f"{point:34} {len(answers):5} {len(answers) - len(missed):5}  {shown}".rstrip())
        if point in REQUIRED:
            lacking += [f"{point}: {answer}" for answer in missed]
    share = hits / bins
    lines += ["-" * 78, f"{'all':34} {bins:5} {hits:5}  {share:.1%}, threshold {THRESHOLD:.0%}"]
    return "\n".join(lines), share, lacking

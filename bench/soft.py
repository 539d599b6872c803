"""Speed of ``soft:``: keys validated in C, and the price of one commit called from Python.

What it is compared with runs in the same process, in turns with it; of all repetitions the fastest counts.
"""

from __future__ import annotations

import random
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bloomgate import Parameters, Reason, Verdict
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.soft import SoftDevice
from bloomgate.backends.soft_build import c_compiler
from cffi import FFI

from bench.report import Figure, at_least, at_most

SEED = 1
REPETITIONS = 9
READS, WRITES = 10, 2
#: How many commits a snapshot of the C benchmarks is behind: about what some clients at work cause.
LAG = 8

# The exact rival: last writers in an open-addressing table, as a plain C programmer would write it.
EXACT = """
#include <stdint.h>
#include <stdlib.h>
#define SLOTS (1u << 21)
static uint32_t keys[SLOTS]; static uint64_t last[SLOTS]; static uint64_t newest;
static uint32_t find(uint32_t key) {
    uint32_t slot = key * 2654435769u >> 11;
    while (last[slot] && keys[slot] != key) slot = (slot + 1) & (SLOTS - 1);
    return slot;
}
uint64_t run(const uint32_t *set, uint64_t requests, uint32_t reads, uint32_t writes, uint64_t lag) {
    uint64_t commits = 0;
    for (uint64_t i = 0; i < requests; i++, set += reads + writes) {
        uint64_t snapshot = newest > lag ? newest - lag : 0;
        uint32_t k = 0;
        while (k < reads && last[find(set[k])] <= snapshot) k++;
        if (k < reads) continue;
        commits++;
        newest++;
        for (k = 0; k < writes; k++) {
            uint32_t slot = find(set[reads + k]);
            keys[slot] = set[reads + k];
            last[slot] = newest;
        }
    }
    return commits;
}
"""


def fastest(*actions: Callable[[], Callable[[], None]]) -> list[float]:
    """Seconds of each action, at its best. Each returns, untimed, the function to time."""
    best = [float("inf")] * len(actions)
    for _ in range(REPETITIONS):
        for number, prepare in enumerate(actions):
            action = prepare()
            begin = time.perf_counter()
            action()
            best[number] = min(best[number], time.perf_counter() - begin)
    return best


def random_sets(requests: int, reads: int, writes: int) -> list[list[int]]:
    rng = random.Random(SEED)
    return [[rng.getrandbits(32) for _ in range(reads + writes)] for _ in range(requests)]


def exact_in_c(folder: Path) -> Any:
    source, library = folder / "exact.c", folder / "exact.so"
    source.write_text(EXACT)
    subprocess.run([*c_compiler(), "-O3", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    ffi = FFI()
    ffi.cdef("uint64_t run(const uint32_t *set, uint64_t requests, uint32_t reads, uint32_t writes, uint64_t lag);")
    return ffi, ffi.dlopen(str(library))


def keys_per_second(requests: int, reads: int, writes: int) -> tuple[float, float, float]:
    """Of soft:, of the exact table in C, and of the model."""
    sets = random_sets(requests, reads, writes)
    few = sets[: max(1, len(sets) // 100)]
    buffers = b"".join(
        struct.pack(f"=QIII{reads + writes}I", max(0, i - LAG), reads, writes, 0, *keys) for i, keys in enumerate(sets)
    )
    committed: list[int] = []

    def soft() -> Callable[[], None]:
        device = SoftDevice()
        module, state = device.module, device.state()
        return lambda: committed.append(module.lib.bg_commit_many(state, buffers, requests))

    def model() -> Callable[[], None]:
        device = ModelDevice()

        def decide() -> None:
            for i, keys in enumerate(few):
                device.commit(snapshot=max(0, i - LAG), reads=keys[:reads], writes=keys[reads:])

        return decide

    with tempfile.TemporaryDirectory() as folder:
        ffi, library = exact_in_c(Path(folder))
        flat = ffi.new("uint32_t[]", [key for keys in sets for key in keys])

        def exact() -> Callable[[], None]:
            return lambda: committed.append(library.run(flat, requests, reads, writes, LAG))

        seconds = fastest(soft, exact, model)
    # Random 32-bit keys do not conflict; a benchmark of aborts would be a benchmark of something else.
    if min(committed) < 0.99 * requests:
        raise AssertionError(f"of {requests} requests only {min(committed)} were committed")
    keys = requests * reads
    return keys / seconds[0], keys / seconds[1], len(few) * reads / seconds[2]


def plain_function() -> Callable[..., Verdict]:
    """The plain Python function that a commit on soft: may cost three times."""
    last_writer: dict[int, int] = {}
    newest = 0

    def commit(*, snapshot: int, reads: Sequence[int], writes: Sequence[int], commutes: Sequence[int] = ()) -> Verdict:
        nonlocal newest
        for key in reads:
            if last_writer.get(key, 0) > snapshot:
                return Verdict(False, None, Reason.CONFLICT, key)
        newest += 1
        for key in writes:
            last_writer[key] = newest
        for key in commutes:
            last_writer[key] = newest
        return Verdict(True, newest, None, None)

    return commit


def seconds_per_commit() -> tuple[float, float]:
    """Of soft: and of the plain function."""
    # Few keys again and again, so that the dict stays small and warm: the harder comparison.
    sets = [(keys[:READS], keys[READS:]) for keys in random_sets(100, READS, WRITES)] * 100

    def client(commit: Callable[..., Verdict]) -> Callable[[], None]:
        def run() -> None:
            snapshot: int | None = 0
            for reads, writes in sets:
                snapshot = commit(snapshot=snapshot, reads=reads, writes=writes).timestamp
            # One client alone is never aborted, so both have done the same.
            assert snapshot == len(sets)

        return run

    soft, plain = fastest(lambda: client(SoftDevice().commit), lambda: client(plain_function()))
    return soft / len(sets), plain / len(sets)


def run() -> list[Figure]:
    with SoftDevice() as device:
        tools = {"soft": device.info().description}
    geometry = {name: getattr(Parameters(), name) for name in ("K", "D", "timestamp_bits", "key_bits")}
    figures = []
    for name, requests, reads, writes in (("short", 100_000, READS, WRITES), ("long", 2_000, 500, 12)):
        soft, exact, model = keys_per_second(requests, reads, writes)
        sizes = {"requests": requests, "reads": reads, "writes": writes, "lag": LAG, "seed": SEED}
        figures += [
            Figure(f"soft.keys_in_c_{name}", soft, "keys/s", at_least(10e6), {**geometry, **sizes}, tools),
            Figure(f"soft.keys_in_c_{name}.exact_table", exact, "keys/s", None, sizes),
            Figure(f"soft.keys_in_c_{name}.model", model, "keys/s", None, {**geometry, **sizes}),
        ]
    soft, plain = seconds_per_commit()
    sizes = {"reads": READS, "writes": WRITES, "seed": SEED}
    figures += [
        Figure("soft.commit", soft * 1e9, "ns", None, {**geometry, **sizes}, tools),
        Figure("soft.commit.plain_function", plain * 1e9, "ns", None, sizes),
        Figure("soft.commit.ratio", soft / plain, "1", at_most(3), {**geometry, **sizes}, tools),
    ]
    return figures

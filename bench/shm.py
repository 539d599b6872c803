"""Speed of ``shm:`` with ``soft:`` behind it and no server.

Requests per second, decided and published, of C clients in processes of their own; and the instructions of a client's
way from the submission to the verdict, which do not depend on the keys.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bloomgate import Parameters
from bloomgate.backends.shm import create_segment
from bloomgate.backends.soft_build import c_compiler
from bloomgate.backends.soft_source import COMPILE_ARGUMENTS, source
from bloomgate.shm.layout import MODE_SERVERLESS
from bloomgate.shm.segment import path_of, remove

from bench.report import Figure, at_least, at_most

REQUESTS = 2_000_000
REPETITIONS = 9
READS, WRITES = 8, 2
CLIENTS = 4
#: Requests of which instructions are counted, and keys of each in the two counts.
COUNTED = 500
FEW, MANY = 8, 64
TIMEOUT = 100


class Segment:
    """A new segment and the program that uses it."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def __enter__(self) -> Segment:
        name = f"bench-{os.getpid()}"
        remove(name)
        create_segment(name, Parameters(), MODE_SERVERLESS).close()
        self.name, self.path = name, path_of(name)
        return self

    def __exit__(self, *exception: object) -> None:
        remove(self.name)


def compiled(folder: Path) -> Path:
    (folder / "core.c").write_text(source())
    program = folder / "client"
    command = [*c_compiler(), *COMPILE_ARGUMENTS, "-Wno-unused-function", f'-DSOURCE="{folder / "core.c"}"']
    subprocess.run([*command, "-g", str(Path(__file__).with_name("shm.c")), "-o", str(program)], check=True)
    return program


def requests_per_second(program: Path, clients: int) -> float:
    """Of all clients together, each with as many requests."""
    with Segment(program) as segment:
        arguments = [str(REQUESTS // clients), str(READS), str(WRITES)]
        processes = [
            subprocess.Popen([program, "run", segment.path, str(slot), *arguments], stdout=subprocess.PIPE, text=True)
            for slot in range(clients)
        ]
        times = [tuple(map(int, process.communicate(timeout=TIMEOUT)[0].split())) for process in processes]
    if any(process.returncode for process in processes):
        raise AssertionError("a client of the benchmark failed")
    # Snapshots are new and keys are each client's own: hardly anything aborts but what the filter mistakes.
    if sum(commits for _, _, commits in times) < 0.9 * REQUESTS:
        raise AssertionError(f"of {REQUESTS} requests only {sum(commits for _, _, commits in times)} were committed")
    seconds = (max(end for _, end, _ in times) - min(begin for begin, _, _ in times)) / 1e9
    return REQUESTS // clients * clients / seconds


def instructions(program: Path, mode: str, keys: int, collect: str) -> float:
    """For one request, in the functions whose names match ``collect``."""
    with Segment(program) as segment, tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--toggle-collect={collect}", "--callgrind-out-file=/dev/null"]
        arguments = [mode, segment.path, str(COUNTED), str(keys - WRITES), str(WRITES)]
        result = subprocess.run(
            [*command, str(program), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
    found = re.search(r"Collected : (\d+)", result.stderr)
    if found is None:
        raise AssertionError(f"callgrind did not say what it collected: {result.stderr}")
    return int(found.group(1)) / COUNTED


def run() -> list[Figure]:
    sizes = {"reads": READS, "writes": WRITES, "requests": REQUESTS}
    figures = []
    with tempfile.TemporaryDirectory() as name:
        program = compiled(Path(name))
        # In turns, and of all repetitions the one in the middle counts.
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPETITIONS):
            for rate, clients in zip(rates, (1, CLIENTS), strict=True):
                rate.append(requests_per_second(program, clients))
        one, four = map(statistics.median, rates)
        # It falls if it falls by more than the repetitions with one client differ.
        spread = (one - min(rates[0])) / one
        figures += [
            Figure("shm.requests.one_client", one, "requests/s", at_least(200_000), sizes),
            Figure("shm.requests.four_clients", four, "requests/s", None, sizes),
            Figure("shm.requests.one_client.spread", spread, "1", None, sizes),
            Figure("shm.requests.four_to_one", four / one, "1", at_least(1 - spread), sizes),
        ]
        if shutil.which("valgrind") is None:
            print("bench: shm: no instruction counts without valgrind: apt-get install valgrind", file=sys.stderr)
            return figures
        few, many = (instructions(program, "path", keys, "path_*") for keys in (FEW, MANY))
        whole = [instructions(program, "whole", keys, "path_*") for keys in (FEW, MANY)]
        per_key = (whole[1] - whole[0]) / (MANY - FEW)
        counted = {"requests": COUNTED, "writes": WRITES}
        figures += [
            Figure("shm.path.instructions", many, "instructions", at_most(150), {**counted, "keys": MANY}),
            Figure("shm.path.more_for_more_keys", many - few, "instructions", at_most(0), {"keys": f"{MANY}, {FEW}"}),
            Figure(
                "shm.path.deciding_itself", whole[0] - FEW * per_key, "instructions", None, {**counted, "keys": "none"}
            ),
            Figure("shm.path.deciding_itself.per_key", per_key, "instructions", None, counted),
        ]
    return figures

"""Transactions a second on ``soft:``, one thread, against the PyPI package atomix-stm.

atomix-stm becomes slower the more transactions a process has run, so a ratio means little without the length of the
run. Here each side runs LENGTH transactions in a new process, the processes take turns, and the fastest process of each
side counts. Ours runs as it is, in place because its only thread is alone, and ``ordinary``, as with other threads
around. The claims are about that mean over the whole run; the ratio of the fastest CHUNK transactions, which for
atomix-stm are its first ones, is printed beside it. It is no dependency: unpack its wheel anywhere and set
BLOOMGATE_ATOMIX to that folder (pip download --no-deps --python-version 3.13 --only-binary=:all: atomix-stm). Without
it only our own figures are there, and a line on standard error says so.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata

from bloomgate.stm import TVar, atomic, in_place, use_device

from bench.report import Figure, at_least

#: Transactions of a process that are measured, in parts of CHUNK, after as many as one part to warm up.
LENGTH, CHUNK = 10_000, 1000
PROCESSES = 2
#: Reads -> what we claim; each transaction also has one read-modify-write.
CLAIMS = {1: 10, 9: 5}


def bloomgate(reads: int) -> Callable[[], None]:
    """A transaction that reads so many variables, and reads and writes one more."""
    use_device("soft:")
    variables = [TVar(1) for _ in range(reads)]
    target = TVar(0)
    if reads == 1:
        (variable,) = variables

        @atomic
        def transaction() -> None:
            variable.value  # noqa: B018
            target.value += 1

    else:

        @atomic
        def transaction() -> None:
            for variable in variables:
                variable.value  # noqa: B018
            target.value += 1

    return transaction  # type: ignore[no-any-return]


def ordinary(reads: int) -> Callable[[], None]:
    """The same as if there were other threads: every transaction is decided by the device."""
    in_place.ENABLED = False
    return bloomgate(reads)


def atomix(reads: int) -> Callable[[], None]:
    """The same with atomix-stm."""
    logging.disable(logging.INFO)
    import atomix_stm  # type: ignore[import-not-found]

    references = [atomix_stm.Ref(1) for _ in range(reads)]
    target = atomix_stm.Ref(0)
    read, alter = atomix_stm.read, atomix_stm.alter
    if reads == 1:
        (reference,) = references

        def transaction() -> None:
            read(reference)
            alter(target, lambda value: value + 1)

    else:

        def transaction() -> None:
            for reference in references:
                read(reference)
            alter(target, lambda value: value + 1)

    return atomix_stm.atomically(transaction)  # type: ignore[no-any-return]


SIDES = {"bloomgate": bloomgate, "ordinary": ordinary, "atomix": atomix}


def seconds(transaction: Callable[[], None]) -> tuple[float, float]:
    """For each transaction: the mean of the whole run, and of its fastest part."""
    parts = []
    for _ in range(1 + LENGTH // CHUNK):
        begin = time.perf_counter()
        for _ in range(CHUNK):
            transaction()
        parts.append((time.perf_counter() - begin) / CHUNK)
    del parts[0]
    return sum(parts) / len(parts), min(parts)


def measure(side: str, reads: int) -> tuple[float, float]:
    """The same in a process of its own."""
    path = [*sys.path, os.environ.get("BLOOMGATE_ATOMIX", "")]
    result = subprocess.run(
        [sys.executable, "-m", "bench.stm_atomix", side, str(reads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    mean, fastest = json.loads(result.stdout)
    return mean, fastest


def rival_is_here() -> bool:
    folder = os.environ.get("BLOOMGATE_ATOMIX")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    if importlib.util.find_spec("atomix_stm") is not None:
        return True
    print("bench: stm_atomix: atomix-stm is not here, so nothing is compared; see bench/stm_atomix.py", file=sys.stderr)
    return False


def run() -> list[Figure]:
    compared = rival_is_here()
    sides = list(SIDES) if compared else ["bloomgate", "ordinary"]
    tools = {"atomix-stm": _version()} if compared else {}
    figures = []
    for reads, claim in CLAIMS.items():
        runs: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(PROCESSES):
            for side in sides:
                runs[side].append(measure(side, reads))
        mean = {side: min(run[0] for run in found) for side, found in runs.items()}
        fastest = {side: min(run[1] for run in found) for side, found in runs.items()}
        sizes = {"reads": reads, "read-modify-writes": 1, "threads": 1, "transactions": LENGTH}
        name = f"stm_atomix.{reads}_read{'s' if reads > 1 else ''}"
        figures += [Figure(f"{name}.{side}", 1 / mean[side], "1/s", None, sizes) for side in sides]
        if compared:
            for side, what in (("bloomgate", "ratio"), ("ordinary", "ratio_ordinary")):
                ratio = mean["atomix"] / mean[side]
                figures.append(Figure(f"{name}.{what}", ratio, "1", at_least(claim), sizes, tools))
            sizes = {**sizes, "transactions": f"the fastest {CHUNK} of {LENGTH}"}
            ratio = fastest["atomix"] / fastest["bloomgate"]
            figures.append(Figure(f"{name}.ratio_of_fastest", ratio, "1", None, sizes, tools))
    return figures


def _version() -> str:
    try:
        return metadata.version("atomix-stm")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    print(json.dumps(seconds(SIDES[sys.argv[1]](int(sys.argv[2])))))
    sys.stdout.flush()
    # atomix-stm has threads that do not end by themselves for a while.
    os._exit(0)

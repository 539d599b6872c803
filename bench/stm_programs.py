"""What serial code costs in transactions: six programs on TVars, each step atomic, against plain objects.

The code is the same; only the class of its cells differs, and whether its steps are atomic. Making the input is not
measured, making the cells is. Each variant of each program runs again and again for SECONDS in processes of its own, in
turns with the other variant, because PyPy compiles code for the classes that it has seen there; a fast run of each
process counts (one in ten is faster), and the ratio of the medians of PROCESSES processes, because PyPy does not
compile a program equally well every time.
On this Python, and on PyPy if there is one. The goal is what PyPy-TM promised for itself: at most 5 times on CPython,
at most 2 times on PyPy. The program's only thread is alone, and works in place: docs/stm-design.md.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))

from bloomgate.stm import TVar, atomic, use_device

if TYPE_CHECKING:
    from bench.report import Figure

#: Of processor time, for each variant of each program, in each of its processes.
SECONDS = 1.0
PROCESSES = 5
SEED = 1
GOALS = {"cpython": 5, "pypy": 2}


class Plain:
    """A cell without transactions."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


# What the programs work on: made once, because it is not what is measured.
_rng = random.Random(SEED)
TRANSFERS = [(_rng.randrange(64), _rng.randrange(64), _rng.randrange(9)) for _ in range(4000)]
WORDS = [f"word{number}" for number in range(50)]
LINES = [" ".join(_rng.choice(WORDS) for _ in range(40)) for _ in range(100)]
POINTS = [(_rng.random(), _rng.random()) for _ in range(400)]
NEIGHBOURS = [[_rng.randrange(300) for _ in range(12)] for _ in range(300)]
NUMBERS = [_rng.randrange(10_000) for _ in range(500)]

Program = Callable[[Any, Callable[[Any], Any]], Any]


def bank(cell: Any, step: Callable[[Any], Any]) -> Any:
    """Batches of transfers between accounts."""
    accounts = [cell(100) for _ in range(64)]

    @step
    def batch(part: Any) -> None:
        for source, target, amount in part:
            if accounts[source].value >= amount:
                accounts[source].value -= amount
                accounts[target].value += amount

    for begin in range(0, len(TRANSFERS), 100):
        batch(TRANSFERS[begin : begin + 100])
    return sum(account.value for account in accounts)


def word_count(cell: Any, step: Callable[[Any], Any]) -> Any:
    """Lines of words, counted."""
    counts = {word: cell(0) for word in WORDS}

    @step
    def count(line: str) -> None:
        for word in line.split():
            counts[word].value += 1

    for line in LINES:
        count(line)
    return sorted(cell.value for cell in counts.values())


def k_means(cell: Any, step: Callable[[Any], Any]) -> Any:
    """Points to the nearest of some centres, which move there."""
    centres = [cell(point) for point in POINTS[:5]]
    sums = [cell((0.0, 0.0, 0)) for _ in centres]

    @step
    def assign(part: Any) -> None:
        for x, y in part:
            nearest, best = 0, 9.0
            for number, centre in enumerate(centres):
                cx, cy = centre.value
                distance = (x - cx) ** 2 + (y - cy) ** 2
                if distance < best:
                    nearest, best = number, distance
            sx, sy, n = sums[nearest].value
            sums[nearest].value = (sx + x, sy + y, n + 1)

    @step
    def move(_: Any) -> None:
        for centre, total in zip(centres, sums):  # noqa: B905  Debian's PyPy has no strict=
            x, y, n = total.value
            centre.value = (x / n, y / n) if n else centre.value
            total.value = (0.0, 0.0, 0)

    for _ in range(5):
        for begin in range(0, len(POINTS), 50):
            assign(POINTS[begin : begin + 50])
        move(None)
    return [centre.value for centre in centres]


def colouring(cell: Any, step: Callable[[Any], Any]) -> Any:
    """Greedy colours for the nodes of a random graph."""
    colours = [cell(None) for _ in NEIGHBOURS]

    @step
    def paint(part: Any) -> None:
        for node in part:
            taken = {colours[other].value for other in NEIGHBOURS[node]}
            colour = 0
            while colour in taken:
                colour += 1
            colours[node].value = colour

    for begin in range(0, len(NEIGHBOURS), 30):
        paint(range(begin, begin + 30))
    return [colour.value for colour in colours]


def priority_queue(cell: Any, step: Callable[[Any], Any]) -> Any:
    """A binary heap of cells, filled and emptied."""
    heap = [cell(None) for _ in NUMBERS]
    length = cell(0)

    @step
    def push(part: Any) -> None:
        for number in part:
            place = length.value
            length.value = place + 1
            while place and heap[(place - 1) // 2].value > number:
                heap[place].value = heap[(place - 1) // 2].value
                place = (place - 1) // 2
            heap[place].value = number

    @step
    def pop(count: Any) -> Any:
        out = []
        for _ in range(count):
            out.append(heap[0].value)
            end = length.value - 1
            length.value = end
            number = heap[end].value
            place = 0
            while True:
                child = 2 * place + 1
                if child >= end:
                    break
                if child + 1 < end and heap[child + 1].value < heap[child].value:
                    child += 1
                if heap[child].value >= number:
                    break
                heap[place].value = heap[child].value
                place = child
            heap[place].value = number
        return out

    for begin in range(0, len(NUMBERS), 50):
        push(NUMBERS[begin : begin + 50])
    return [number for _ in range(10) for number in pop(50)]


def n_queens(cell: Any, step: Callable[[Any], Any]) -> Any:
    """Solutions for six queens, one transaction for each place of the first; the board is made of cells."""
    size = 6
    solutions = cell(0)
    board = [cell(None) for _ in range(size)]

    def place(row: int) -> None:
        if row == size:
            solutions.value += 1
            return
        for column in range(size):
            for earlier in range(row):
                other = board[earlier].value
                if other == column or abs(other - column) == row - earlier:
                    break
            else:
                board[row].value = column
                place(row + 1)

    @step
    def first(column: int) -> None:
        board[0].value = column
        place(1)

    for column in range(size):
        first(column)
    return solutions.value


PROGRAMS: tuple[Program, ...] = (bank, word_count, k_means, colouring, priority_queue, n_queens)


def plain(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return function


#: Name -> (what the cells are, what makes a step of a function).
VARIANTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {"plain": (Plain, plain), "transactions": (TVar, atomic)}


def fast(program: Program, variant: str) -> float:
    """Seconds of a run in this process that is slower than one in ten: the fastest may be an error of the clock."""
    use_device("soft:")
    runs = []
    end = time.process_time() + SECONDS
    now = 0.0
    while now < end:
        begin = time.process_time()
        result = program(*VARIANTS[variant])
        now = time.process_time()
        runs.append(now - begin)
    # Not before: what one variant has run is compiled with its types in mind.
    if result != program(Plain, plain):
        raise AssertionError(f"{program.__name__} has another result in transactions")
    use_device(None)
    return sorted(runs)[len(runs) // 10]


def ratio(python: str, program: Program) -> float:
    """Time in transactions, in times of the time on plain objects, on one Python."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(PROCESSES):
        for variant in VARIANTS:
            command = [python, __file__, program.__name__, variant]
            output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
            seconds[variant].append(float(output))
    return statistics.median(seconds["transactions"]) / statistics.median(seconds["plain"])


def compared(program: Program, name: str, python: str) -> Figure:
    from bench.report import Figure, at_most

    claim = at_most(GOALS[name])
    return Figure(f"stm_programs.{program.__name__}.{name}", ratio(python, program), "1", claim, {"seed": SEED})


def run() -> list[Figure]:
    pythons = {"cpython": sys.executable, "pypy": shutil.which("pypy3")}
    if pythons["pypy"] is None:
        print("bench: stm_programs: no pypy3, so nothing was measured on PyPy", file=sys.stderr)
    return [
        compared(program, name, python)
        for name, python in pythons.items()
        if python is not None
        for program in PROGRAMS
    ]


if __name__ == "__main__":
    print(fast(globals()[sys.argv[1]], sys.argv[2]))

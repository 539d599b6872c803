"""What serial code costs in transactions: six programs on TVars, each step atomic, against plain objects.

The code is the same; only the class of its cells differs, and whether its steps are atomic. Making the input is not
measured, making the cells is. Each variant runs again and again for SECONDS, so that PyPy has compiled it, and the
fastest run counts. Runs on this Python, and on PyPy if there is one, in a process of its own: ``pypy3
bench/stm_programs.py`` prints the ratios as JSON. The goal is what PyPy-TM promised for itself: at most 5 times on
CPython, at most 2 times on PyPy.
"""

from __future__ import annotations

import json
import random
import shutil
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

#: For each variant of each program, in turns of a tenth of it.
SECONDS = 1.0
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


def ratios() -> dict[str, float]:
    """Program -> time in transactions, in times of the time on plain objects."""
    use_device("soft:")
    found = {}
    for program in PROGRAMS:
        expected = program(Plain, lambda function: function)
        variants = ((Plain, lambda function: function), (TVar, atomic))
        best = [float("inf"), float("inf")]
        for _ in range(10):
            for number, (cell, step) in enumerate(variants):
                end = time.perf_counter() + SECONDS / 10
                now = 0.0
                while now < end:
                    begin = time.perf_counter()
                    result = program(cell, step)
                    now = time.perf_counter()
                    best[number] = min(best[number], now - begin)
                    if result != expected:
                        raise AssertionError(f"{program.__name__} has another result in transactions")
        found[program.__name__] = best[1] / best[0]
    use_device(None)
    return found


def run() -> list[Figure]:
    from bench.report import Figure

    pythons = {"cpython": ratios()}
    pypy = shutil.which("pypy3")
    if pypy is None:
        print("bench: stm_programs: no pypy3, so nothing was measured on PyPy", file=sys.stderr)
    else:
        output = subprocess.run([pypy, __file__], capture_output=True, text=True, check=True, timeout=300).stdout
        pythons["pypy"] = json.loads(output)
    return [
        Figure(f"stm_programs.{name}.{python}", ratio, "1", None, {"goal": f"at most {GOALS[python]}", "seed": SEED})
        for python, found in pythons.items()
        for name, ratio in found.items()
    ]


if __name__ == "__main__":
    print(json.dumps(ratios()))

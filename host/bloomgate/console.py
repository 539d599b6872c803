"""What the command line shows: progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Optional, TextIO

__all__ = ["Progress", "Table", "number"]

#: Seconds between two states of the bar on a terminal, and between two lines elsewhere (a log).
TERMINAL_INTERVAL = 0.1
LINE_INTERVAL = 10.0

BAR_WIDTH = 30


class Progress:
    """A bar that is redrawn on a terminal; elsewhere a line now and then, and none for what is soon over."""

    def __init__(self, label: str, stream: Optional[TextIO] = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = TERMINAL_INTERVAL if self._terminal else LINE_INTERVAL
        self._next = time.monotonic() + self._interval
        self._drawn = False

    def update(self, fraction: float, note: str = "") -> None:
        """Show that ``fraction``, from 0 to 1, is done."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        fraction = min(1.0, max(0.0, fraction))
        text = f"{self._label}: {100 * fraction:3.0f} %  {note}".rstrip()
        if self._terminal:
            done = round(BAR_WIDTH * fraction)
            text = f"\r\033[K[{'#' * done}{'.' * (BAR_WIDTH - done)}] {text}"
        else:
            text += "\n"
        self._stream.write(text)
        self._stream.flush()
        self._drawn = self._terminal

    def clear(self) -> None:
        """Remove the bar."""
        if self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()
            self._drawn = False


class Table:
    """A table whose rows can be printed as they become known. The first column is text, the others are numbers."""

    def __init__(self, first: str, entries: Sequence[str], columns: Sequence[str]) -> None:
        """``entries``: all texts that will come in the first column. Column titles may have two lines."""
        self._first = first
        self._columns = [title.split("\n") for title in columns]
        self._width = max(len(text) for text in [first, *entries])
        self._widths = [max(10, *(len(line) for line in lines)) for lines in self._columns]

    def header(self) -> str:
        """The titles, and a rule under them."""
        height = max(len(lines) for lines in self._columns)
        titles = [[""] * (height - len(lines)) + lines for lines in self._columns]
        rows = [self.row("" if i < height - 1 else self._first, [t[i] for t in titles]) for i in range(height)]
        rule = self.row("-" * self._width, ["-" * width for width in self._widths])
        return "\n".join([*rows, rule])

    def row(self, first: str, cells: Sequence[str]) -> str:
        """One row."""
        texts = [first.ljust(self._width), *(cell.rjust(width) for cell, width in zip(cells, self._widths))]
        return "  ".join(texts).rstrip()


def number(value: Optional[float], digits: int = 0) -> str:
    """A number with separators between the thousands; a dash for None."""
    return "-" if value is None else f"{value:,.{digits}f}"

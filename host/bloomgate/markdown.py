"""Pieces of Markdown for the generated pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bloomgate.registers import Field

__all__ = ["bits", "diagram", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"


def bits(field: Field) -> str:
    high = field.lsb + field.width - 1
    return f"{high}:{field.lsb}" if field.width > 1 else f"{field.lsb}"


def diagram(fields: Iterable[Field], width: int = 32) -> Iterator[str]:
    """The bits of a word with these fields, the highest on the left, with their numbers above."""
    cells: list[tuple[str, str]] = []
    above = width
    for field in sorted(fields, key=lambda field: -field.lsb):
        top = field.lsb + field.width
        if top < above:
            cells.append((bits(Field("", top, above - top, "")), ""))
        cells.append((bits(field), field.name))
        above = field.lsb
    if above:
        cells.append((bits(Field("", 0, above, "")), ""))
    widths = [max(map(len, cell)) + 2 for cell in cells]
    rule = "+" + "+".join("-" * width for width in widths) + "+"
    yield "```text"
    yield " " + " ".join(bits.center(width) for (bits, _), width in zip(cells, widths)).rstrip()
    yield rule
    yield "|" + "|".join(name.center(width) for (_, name), width in zip(cells, widths)) + "|"
    yield rule
    yield "```"

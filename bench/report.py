"""What a benchmark reports, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Figure", "as_json", "as_text", "at_least", "at_most", "versions"]


@dataclass(frozen=True)
class Claim:
    """The bound that a figure must keep."""

    bound: float
    #: "at least" or "at most".
    relation: str

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.relation == "at least" else value <= self.bound


def at_least(bound: float) -> Claim:
    return Claim(bound, "at least")


def at_most(bound: float) -> Claim:
    return Claim(bound, "at most")


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    #: ``module.what``; unique.
    name: str
    value: float
    #: For example "keys/s", "ns", "clocks/key", or "1" for a ratio.
    unit: str
    #: What it must reach, if the project claims anything.
    claim: Claim | None = None
    #: What it was measured with: geometry, sizes, seeds.
    parameters: Mapping[str, object] = field(default_factory=dict)
    #: Tool -> version, apart from :func:`versions`, which is reported once.
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the claim holds; a figure without one always does."""
        return self.claim is None or self.claim.holds(self.value)


def versions() -> dict[str, str]:
    """What all figures of a run have in common."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith(("model name", "Model")) and ":" in line
        ]
        model = names[0] if names else model
    return {
        platform.python_implementation(): platform.python_version(),
        "kernel": platform.release(),
        "processor": model,
        "platform": sys.platform,
    }


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.3g}"


def as_text(figures: Iterable[Figure]) -> str:
    """A table, then one line with the common versions."""
    rows = [("figure", "value", "unit", "claim", "", "measured with")]
    for figure in figures:
        claim = figure.claim
        rows.append(
            (
                figure.name,
                _number(figure.value),
                figure.unit,
                f"{claim.relation} {_number(claim.bound)}" if claim else "",
                ("met" if figure.met else "MISSED") if claim else "",
                ", ".join(f"{name}={value}" for name, value in {**figure.parameters, **figure.tools}.items()),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row[:5], widths, strict=True))
        ]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    lines.append("on " + ", ".join(f"{name} {value}" for name, value in versions().items()))
    return "\n".join(lines)


def as_json(figures: Iterable[Figure]) -> str:
    """``{"versions": {...}, "figures": [{"name", "value", "unit", "claim", "met", "parameters", "tools"}, ...]}``."""
    return json.dumps(
        {
            "versions": versions(),
            "figures": [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures],
        },
        indent=2,
    )

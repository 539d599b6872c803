"""The report of a profile as one HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bloomgate.stm.report import Conflict, Report

__all__ = ["render"]

# Of the plots, in the user units of SVG.
_NAMES, _WIDTH, _VALUES, _BAR = 250, 560, 110, 24
_HEIGHT = 130
#: Variables in the bar chart; the table has all of them.
_SHOWN = 12
#: Characters of a name that fit beside its bar.
_FITTING = 34


def render(report: Report) -> str:
    """The whole page."""
    count = sum(conflict.count for conflict in report.conflicts)
    facts = {
        "profiled": f"{report.seconds:.3f} s",
        "committed": f"{report.commits}",
        "run again": f"{count}",
        "time lost, all threads together": f"{report.seconds_lost * 1e3:.3f} ms",
    }
    lost: dict[str, float] = {}
    for conflict in report.conflicts:
        lost[conflict.variable] = lost.get(conflict.variable, 0.0) + conflict.seconds * 1e3
    return _PAGE.format(
        facts="".join(f"<div><b>{value}</b>{name}</div>" for name, value in facts.items()),
        bars=_bars(lost),
        history=_history(report.history, report.seconds),
        rows="".join(map(_row, report.conflicts)),
    )


def _row(conflict: Conflict) -> str:
    return (
        f"<tr><td class=n>{conflict.seconds * 1e3:.3f}</td><td class=n>{conflict.count}</td>"
        f"<td>{html.escape(conflict.variable)}</td><td>{_site(conflict.read_at)}</td>"
        f"<td>{_site(conflict.written_at)}</td></tr>\n"
    )


def _site(site: str) -> str:
    """A traceback, one call in a line, innermost first."""
    first, *callers = site.split(" < ")
    return f"{html.escape(first)}" + "".join(f"<br><span>called at {html.escape(line)}</span>" for line in callers)


def _bars(lost: dict[str, float]) -> str:
    """Milliseconds lost by variable, the most first."""
    shown = sorted(lost.items(), key=lambda item: item[1], reverse=True)
    if not shown:
        return "<p>No conflicts.</p>"
    longest = shown[0][1] or 1.0
    parts: list[str] = []
    for number, (name, value) in enumerate(shown[:_SHOWN]):
        middle = number * _BAR + _BAR // 2
        length = max(1.0, value / longest * _WIDTH)
        label = name if len(name) <= _FITTING else f"{name[: _FITTING - 13]}…{name[-12:]}"
        parts.append(
            f"<g><title>{html.escape(name)}</title>"
            f'<text x="{_NAMES - 8}" y="{middle + 4}" text-anchor="end">{html.escape(label)}</text>'
            f'<rect x="{_NAMES}" y="{middle - 8}" width="{length:.1f}" height="16"/>'
            f'<text x="{_NAMES + length + 6:.1f}" y="{middle + 4}">{value:.3f} ms</text></g>'
        )
    more = len(shown) - _SHOWN
    rest = f"<p>and {more} more, see the table</p>" if more > 0 else ""
    return _svg(_BAR * len(parts), parts) + rest


def _history(parts: Sequence[int], seconds: float) -> str:
    """Attempts that were run again, over time."""
    highest = max(parts)
    if not highest:
        return "<p>None.</p>"
    step = _WIDTH / len(parts)
    bottom = _HEIGHT + 10
    columns = [
        f'<rect x="{_NAMES + number * step:.1f}" y="{bottom - count / highest * _HEIGHT:.1f}"'
        f' width="{step - 1:.1f}" height="{count / highest * _HEIGHT:.1f}"/>'
        for number, count in enumerate(parts)
        if count
    ]
    right = _NAMES + _WIDTH
    frame = [
        f'<line x1="{_NAMES}" y1="{bottom}" x2="{right}" y2="{bottom}"/>',
        f'<line x1="{_NAMES}" y1="10" x2="{_NAMES}" y2="{bottom}"/>',
        f'<text x="{_NAMES - 8}" y="16" text-anchor="end">{highest}</text>',
        f'<text x="{_NAMES - 8}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{_NAMES}" y="{bottom + 18}">0 s</text>',
        f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{seconds:.3f} s</text>',
    ]
    return _svg(bottom + 24, [*columns, *frame])


def _svg(height: int, parts: Iterable[str]) -> str:
    width = _NAMES + _WIDTH + _VALUES
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>bloomgate: conflicts</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 14px/1.4 sans-serif; margin: 2em auto; padding: 0 2em; max-width: 75em; color: #222; }}
h1 {{ font-size: 22px; }} h2 {{ font-size: 16px; margin-top: 2em; }}
.facts {{ display: flex; flex-wrap: wrap; gap: 1em 3em; }} .facts b {{ display: block; font-size: 20px; }}
svg {{ display: block; max-width: 100%; height: auto; }} svg text {{ font-size: 12px; }}
rect {{ fill: #0072B2; }} line {{ stroke: #999; }}
table {{ border-collapse: collapse; width: 100%; }} th {{ background: #f2f2f2; }}
td, th {{ border-bottom: 1px solid #ccc; padding: 4px 10px; text-align: left; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }} td span {{ color: #767676; font-size: 12px; }}
.n {{ text-align: right; white-space: nowrap; }}
</style></head><body>
<h1>Conflicts</h1>
<div class=facts>{facts}</div>
<h2>Time lost by variable</h2>{bars}
<h2>Attempts run again, over time</h2>{history}
<h2>Who read and who wrote, what cost most time first</h2>
<table><thead><tr><th class=n>ms lost</th><th class=n>times</th><th>variable</th><th>read at</th><th>written at</th>
</tr></thead><tbody>
{rows}</tbody></table></body></html>
"""

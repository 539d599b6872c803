"""The plot of replays: what became of the attempts, and clock cycles for each key. Needs the extra ``plot``."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from bloomgate.errors import BloomgateError
from bloomgate.replay import ReplayReport

__all__ = ["FORMATS", "PlotError", "bars", "plot_replays", "require_plot"]

#: Endings of the file names that can be written.
FORMATS = (".png", ".svg", ".pdf")

# Okabe & Ito's palette, which colour-blind readers can tell apart.
_GREEN, _ORANGE, _RED, _GREY, _BLUE, _PALE_BLUE = "#009E73", "#E69F00", "#B2182B", "#999999", "#0072B2", "#A6CEE3"


class PlotError(BloomgateError):
    """A plot cannot be made: matplotlib is not installed, or the file name has no known ending."""


def require_plot(path: Union[str, os.PathLike[str]]) -> None:
    """Raise what :func:`plot_replays` would raise for this file, before any work is done."""
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise PlotError(f"a plot file must end in one of {', '.join(FORMATS)}, not {str(path)!r}")
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not file.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    _pyplot()


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise PlotError("a plot needs matplotlib, which is not installed: pip install 'bloomgate[plot]'") from None
    matplotlib.use("Agg")  # files only, so no display is needed
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot_replays(
    reports: Sequence[ReplayReport], path: Union[str, os.PathLike[str]], *, title: str, subtitle: str
) -> None:
    """Draw one bar for each replay. Raises :class:`PlotError`, and OSError when the file cannot be written."""
    require_plot(path)
    pyplot = _pyplot()
    clocked = all(report.cycles_per_key is not None for report in reports)
    height = 2.2 + 0.75 * len(reports)
    figure, panels = pyplot.subplots(
        1,
        2 if clocked else 1,
        squeeze=False,
        sharey=True,
        figsize=(13 if clocked else 9, height),
        gridspec_kw={"width_ratios": [1.5, 1] if clocked else [1]},
        layout="constrained",
    )
    try:
        _attempts(panels[0][0], reports)
        if clocked:
            _cycles(panels[0][1], reports)
        # The first report on top.
        panels[0][0].invert_yaxis()
        figure.suptitle(f"{title}\n", fontsize=13, fontweight="bold", x=0.01, ha="left")
        figure.text(0.01, 1 - 0.42 / height, subtitle, fontsize=9, color="#444444", va="top")
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def bars(
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    path: Union[str, os.PathLike[str]],
    *,
    title: str,
    label: str,
    bound: float,
) -> None:
    """Draw a group of bars for each name, one bar of each series, and a line where they should end.

    Raises as :func:`plot_replays`.
    """
    require_plot(path)
    pyplot = _pyplot()
    figure, panel = pyplot.subplots(figsize=(9, 1.5 + 0.6 * len(names)), layout="constrained")
    try:
        height = 0.8 / len(series)
        for place, (what, values) in enumerate(series.items()):
            rows = [row + (place - (len(series) - 1) / 2) * height for row in range(len(names))]
            panel.barh(rows, values, height=height, color=(_BLUE, _PALE_BLUE, _GREY)[place % 3], label=what)
            for row, value in zip(rows, values):
                panel.text(value, row, f" {value:.2g}", va="center", fontsize=8)
        panel.axvline(bound, color=_RED, linewidth=1, label=f"goal: at most {bound:g}")
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xlabel(label)
        _finish(panel)
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def _attempts(panel: Any, reports: Sequence[ReplayReport]) -> None:
    rows = range(len(reports))
    left = [0.0] * len(reports)
    kinds = [
        ("commits", _GREEN, [report.commits for report in reports]),
        ("true aborts (the exact rule conflicts too)", _ORANGE, [report.true_aborts for report in reports]),
        ("false aborts", _RED, [report.false_aborts for report in reports]),
        ("other aborts (rollover, ...)", _GREY, [sum(report.other_aborts.values()) for report in reports]),
    ]
    for label, colour, counts in kinds:
        if label.startswith("other") and not any(counts):
            continue
        shares = [100 * count / max(1, report.attempts) for count, report in zip(counts, reports)]
        panel.barh(rows, shares, left=left, height=0.62, color=colour, label=label)
        for row, share in enumerate(shares):
            if share >= 8:
                panel.text(
                    left[row] + share / 2, row, f"{counts[row]:,}", ha="center", va="center", color="white", fontsize=9
                )
        left = [start + share for start, share in zip(left, shares)]
    for row, report in enumerate(reports):
        panel.text(
            101,
            row,
            f"{report.false_aborts:,} false\n{report.missed:,} missed",
            va="center",
            fontsize=8,
            color="#444444",
        )
    panel.set_yticks(rows, [f"{report.name}\n{report.attempts:,} attempts" for report in reports])
    panel.set_xlim(0, 114)
    panel.set_xticks(range(0, 101, 20))
    panel.set_xlabel("share of the attempts (%); numbers in the bars are attempts")
    _finish(panel)


def _cycles(panel: Any, reports: Sequence[ReplayReport]) -> None:
    rows = range(len(reports))
    totals = [report.cycles_per_key or 0.0 for report in reports]
    panel.barh(rows, totals, height=0.62, color=_PALE_BLUE, label="all, with the bus traffic")
    busy = [report.busy_cycles_per_key for report in reports]
    if all(value is not None for value in busy):
        panel.barh(rows, busy, height=0.3, color=_BLUE, label="a request is in service")
    for row, (total, inside) in enumerate(zip(totals, busy)):
        text = f"{total:.2f}" if inside is None else f"{total:.2f} ({inside:.2f})"
        panel.text(total, row, f" {text}", va="center", fontsize=9)
    panel.set_xlim(0, max(totals) * 1.25)
    panel.set_xlabel("clock cycles per key submitted")
    _finish(panel)


def _finish(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.xaxis.grid(True, color="#dddddd", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=8.5, borderaxespad=0.2)

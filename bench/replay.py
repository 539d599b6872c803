"""Traces replayed with 8 clients: aborts that the exact rule does not know, on ``soft:``, and clocks, on ``sim:``.

The traces are the STAMP ones in ``../shared/traces`` (or under the folder that ``BLOOMGATE_SHARED`` names); where they
are not, the generated workloads. The figures are counts: they do not depend on the machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bloomgate import BloomgateError, Device, open_device
from bloomgate.replay import ReplayReport, replay
from bloomgate.trace import Record, TraceReader
from bloomgate.workloads import WORKLOADS, generate

from bench.report import Figure, at_most

CLIENTS = 8
#: Transactions of each trace on `sim:`, enough for averages; all of them would take some minutes.
SIM_LIMIT = 1000
#: Transactions of a generated workload.
TRANSACTIONS = 4000

#: The largest share of attempts that may be false aborts.
FALSE_ABORTS = 0.001
#: labyrinth has so few transactions that a single one is 0.1 %.
FALSE_ABORTS_OF = {"labyrinth": 0.01}

#: Trace -> what opens it.
Sources = dict[str, Callable[[], Iterable[Record]]]


def sources() -> tuple[str, Sources]:
    """The traces there are, and what they are."""
    shared = Path(os.environ.get("BLOOMGATE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "traces"
    files = sorted(shared.glob("*.trace.xz"))
    if files:
        return "STAMP", {path.name.removesuffix(".trace.xz"): (lambda path=path: TraceReader(path)) for path in files}
    return "generated", {name: (lambda name=name: generate(name, transactions=TRANSACTIONS)) for name in WORKLOADS}


def replays(device: Device, traces: Sources, limit: int | None) -> Iterable[ReplayReport]:
    """Replay every trace on one device."""
    for name, opened in traces.items():
        report = replay(device, opened(), name=name, clients=CLIENTS, limit=limit)
        if report.faults:
            print("\n".join([f"bench: {name}:", *report.faults]), file=sys.stderr)
        if not report.complete:
            raise BloomgateError(f"the replay of {name} could not be completed: {report.faults[-1]}")
        yield report


def run() -> list[Figure]:
    """Replay everything on both devices."""
    kind, traces = sources()
    figures = []
    for url, limit in (("soft:", None), ("sim:", SIM_LIMIT)):
        with open_device(url) as device:
            parameters = {"device": url, "clients": CLIENTS, "traces": kind, "limit": limit or "all"}
            for report in replays(device, traces, limit):
                figures += figures_of(report, url.rstrip(":"), parameters)
    return figures


def figures_of(report: ReplayReport, device: str, parameters: dict[str, object]) -> list[Figure]:
    """What is reported of one replay."""
    limit = FALSE_ABORTS_OF.get(report.name, FALSE_ABORTS)
    start = f"replay.{device}.{report.name}"
    figures = [
        Figure(f"{start}.attempts", report.attempts, "attempts", None, parameters),
        Figure(f"{start}.keys", report.keys, "keys", None, parameters),
        Figure(f"{start}.missed", report.missed + report.wrong, "verdicts", at_most(0), parameters),
        Figure(f"{start}.false_aborts", report.false_abort_rate, "1", at_most(limit), parameters),
    ]
    if report.cycles_per_key is not None:
        figures.append(Figure(f"{start}.clocks", report.cycles_per_key, "clocks/key", None, parameters))
    if report.busy_cycles_per_key is not None:
        figures.append(Figure(f"{start}.busy_clocks", report.busy_cycles_per_key, "clocks/key", None, parameters))
    return figures

"""Static timing of a routed design: the worst path to every endpoint, by the figures of timing_graph.py.

Delays of wires are those of the routes (wire_delays.py), delays of logic those of nextpnr's SDF file. Hold, pulse
widths and the clock tree's skew are not looked at; ``MARGIN`` stands for skew and jitter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloomgate_hdl.platform.timing_graph import FIGURES, CombinationalLoop, read_interconnect, timing_graph
from bloomgate_hdl.platform.wire_delays import routed_delays

__all__ = ["FIGURES", "MARGIN", "Step", "TimingPath", "TimingReport", "analyse", "read_interconnect"]

#: Taken off the clock period for skew between the ends of a path and for jitter of the PS's PLL, in ns. An assumption.
MARGIN = 0.30


@dataclass(frozen=True)
class Step:
    """A cell on a path and the wire that leaves it; all delays in ns."""

    cell: str
    kind: str
    #: Of the source where it has one, else nextpnr's.
    net: str
    cell_delay: float
    wire_delay: float


@dataclass(frozen=True)
class TimingPath:
    """From clock edge to clock edge."""

    kind: str
    delay: float
    setup: float
    steps: tuple[Step, ...]
    end_cell: str
    end_port: str
    #: Net that the endpoint drives, for a flip-flop.
    end_net: str

    @property
    def total(self) -> float:
        """The shortest period that this path allows, without the margin."""
        return self.delay + self.setup

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "period_ns": round(self.total + MARGIN, 3),
            "from": self.steps[0].net,
            "to": self.end_net or f"{self.end_cell}.{self.end_port}",
            "logic_ns": round(sum(step.cell_delay for step in self.steps) + self.setup, 3),
            "wires_ns": round(sum(step.wire_delay for step in self.steps), 3),
            "steps": [
                {
                    "cell": step.cell,
                    "kind": step.kind,
                    "net": step.net,
                    "cell_ns": round(step.cell_delay, 3),
                    "wire_ns": round(step.wire_delay, 3),
                }
                for step in self.steps
            ],
        }


@dataclass(frozen=True)
class TimingReport:
    """What ``analyse`` found: the worst path to every endpoint, worst first."""

    paths: tuple[TimingPath, ...]

    @property
    def fmax(self) -> float:
        """Highest clock frequency in MHz, margin included."""
        return 1000 / (self.paths[0].total + MARGIN)

    def worst_of_each_kind(self) -> dict[str, TimingPath]:
        """The worst path for each pair of start and end, such as "block RAM to FF"."""
        worst: dict[str, TimingPath] = {}
        for path in self.paths:
            worst.setdefault(path.kind, path)
        return worst


def _net_names(nets: Mapping[str, Any]) -> dict[int, str]:
    """By bit; of the source where there is such a name, else nextpnr's."""
    names: dict[int, str] = {}
    for name, net in nets.items():
        for index, bit in enumerate(net["bits"]):
            full = name if len(net["bits"]) == 1 else f"{name}[{index}]"
            if bit not in names or names[bit].startswith("$"):
                names[bit] = full
    return names


def analyse(netlist: Path, sdf: Path, database: Path | None = None) -> TimingReport:
    """Worst path to every endpoint of a routed design.

    Parameters
    ----------
    netlist: the JSON file that nextpnr-xilinx wrote with ``--write``.
    sdf: the file that it wrote with ``--sdf`` in the same run.
    database: folder of the device in prjxray's database, such as ``zynq7/xc7z010``. Without it all wires have the delay
        that the SDF file says, which for many inputs of LUTs is an estimate and may be nanoseconds too short.

    Raises ValueError for a cell that there are no figures for, a combinational loop, a wire without a delay, and a
    route that the database has no parts for.
    """
    (module,) = json.loads(netlist.read_text())["modules"].values()
    cells: dict[str, Any] = module["cells"]
    names = _net_names(module["netnames"])
    wires, logic = read_interconnect(sdf)
    if database is not None:
        wires |= routed_delays(module, database)
    try:
        graph = timing_graph(cells, wires, logic)
    except CombinationalLoop as loop:
        raise ValueError(f"combinational loop through {names.get(loop.bit, loop.bit)}") from loop

    # Arrival times at the outputs of cells; the arc that made it so late is kept for the report.
    arrival, kind = list(graph.launch), list(graph.kinds)
    latest: list[int] = [-1] * len(arrival)
    ends = []
    for number, arc in enumerate(graph.arcs):
        if arrival[arc.start] < 0:
            continue
        at = arrival[arc.start] + arc.wire + arc.logic
        if arc.end < 0:
            ends.append((at, number))
        elif at > arrival[arc.end]:
            arrival[arc.end], kind[arc.end], latest[arc.end] = at, kind[arc.start], number
    ends.sort(key=lambda end: (-end[0], graph.arcs[end[1]].sink, graph.arcs[end[1]].port))

    def trace(node: int, wire: float) -> tuple[Step, ...]:
        steps = []
        while True:
            bit, before = graph.bits[node], latest[node]
            name = graph.driver[bit][0]
            delay = arrival[node] if before < 0 else graph.arcs[before].logic
            steps.append(Step(name, cells[name]["type"], names.get(bit, "?"), delay, wire))
            if before < 0:
                return tuple(reversed(steps))
            node, wire = graph.arcs[before].start, graph.arcs[before].wire

    def driven(name: str) -> str:
        cell = cells[name]
        if cell["type"] != "SLICE_FFX" or not cell["connections"].get("Q"):
            return ""
        return names.get(cell["connections"]["Q"][0], "")

    paths = []
    for total, number in ends:
        arc = graph.arcs[number]
        paths.append(
            TimingPath(
                kind=f"{kind[arc.start]} to {arc.kind}",
                delay=total - arc.logic,
                setup=arc.logic,
                steps=trace(arc.start, arc.wire),
                end_cell=arc.sink,
                end_port=arc.port,
                end_net=driven(arc.sink),
            )
        )
    if not paths:
        raise ValueError("no path from clock edge to clock edge: is this the netlist of a routed design?")
    return TimingReport(tuple(paths))

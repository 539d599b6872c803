"""Static timing of a routed design, with figures for the blocks that stock nextpnr-xilinx leaves untimed.

nextpnr-xilinx knows LUT, carry chain and wire delays; block RAM, LUT RAM and PS7 ports it ignores, and it takes a
flip-flop's clock-to-out for 0.1 ns. This module reads the delays of wires and logic from its SDF file, the cells from
its routed netlist, and adds what is missing from the table below. It knows one clock, rising edges, and setup only:
hold, pulse widths and the clock tree's skew are not looked at; ``MARGIN`` stands for skew and jitter.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FIGURES", "MARGIN", "Step", "TimingPath", "TimingReport", "analyse", "read_interconnect"]

#: For speed grade -1, in ns. Clock-to-out, LUT RAM, block RAM and PS7: worst-case figures noted with the device data
#: that this flow was tried with. Flip-flop setup and arcs unknown to nextpnr: estimates on the safe side. No vendor
#: tool has been asked about any of them: what passes is what these figures let pass.
FIGURES = {
    "FF clock to out": 0.46,
    "FF setup D": 0.11,
    "FF setup CE": 0.25,
    "FF setup SR": 0.50,
    "LUT, arc that nextpnr does not know": 0.20,
    "carry chain, arc that nextpnr does not know": 0.60,
    "wide multiplexer, arc that nextpnr does not know": 0.35,
    "LUT RAM clock to out": 1.65,
    "LUT RAM setup": 0.60,
    "block RAM clock to out": 2.46,
    "block RAM clock to out, with output register": 0.90,
    "block RAM setup": 0.74,
    "PS7 clock to out": 1.90,
    "PS7 setup": 1.20,
}

#: Taken off the clock period for skew between the ends of a path and for jitter of the PS's PLL, in ns. An assumption.
MARGIN = 0.30

#: Cells without a path from clock edge to clock edge through them.
_UNTIMED = {"PSEUDO_GND", "PSEUDO_VCC", "BUFGCTRL", "PAD", "IOB33_OUTBUF", "IOB33_INBUF_EN", "IOB33_OUTBUF_TRI"}

_MUXES = {"F7MUX", "F8MUX", "SELMUX2_1"}


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


_INTERCONNECT = re.compile(r"\(INTERCONNECT (\S+) (\S+) \(([\d.]+):[\d.]+:([\d.]+)\)")
_INSTANCE = re.compile(r"\(INSTANCE (\S+)\)")
_IOPATH = re.compile(r"\(IOPATH (\S+) (\S+) \([\d.]+:[\d.]+:([\d.]+)\)")


def _unescape(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name)


def read_interconnect(path: Path) -> tuple[dict[tuple[str, str], float], dict[str, dict[tuple[str, str], float]]]:
    """From an SDF file of nextpnr, in ns: delay of the wire to each cell input, and delays through each cell."""
    wires: dict[tuple[str, str], float] = {}
    arcs: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    instance = ""
    with path.open() as file:
        for line in file:
            if found := _INTERCONNECT.search(line):
                cell, _, port = _unescape(found[2]).rpartition("/")
                wires[cell, port] = float(found[4]) / 1000
            elif found := _INSTANCE.search(line):
                instance = _unescape(found[1])
            elif found := _IOPATH.search(line):
                arcs[instance][found[1], found[2]] = float(found[3]) / 1000
    return wires, arcs


def _bit(value: str) -> bool:
    return value.endswith("1")


def _launches(cell: Mapping[str, Any], port: str) -> tuple[str, float] | None:
    """Kind and clock-to-out of an output that changes with the clock, or None for a combinational one."""
    kind = cell["type"]
    if kind == "SLICE_FFX":
        return "FF", FIGURES["FF clock to out"]
    if kind.startswith("RAMB"):
        side = "A" if port.startswith(("DOA", "DOPA")) else "B"
        registered = _bit(cell["parameters"].get(f"DO{side}_REG", "0"))
        return "block RAM", FIGURES["block RAM clock to out" + (", with output register" if registered else "")]
    if kind == "PS7_PS7":
        return "PS7", FIGURES["PS7 clock to out"]
    if kind == "SLICE_LUTX" and "CLK" in cell["connections"]:
        return "LUT RAM", FIGURES["LUT RAM clock to out"]
    return None


def _captures(cell: Mapping[str, Any], port: str) -> tuple[str, float] | None:
    """Kind and setup of an input that is sampled by the clock, or None."""
    kind = cell["type"]
    if kind == "SLICE_FFX":
        if port == "CK" or (port == "SR" and cell["attributes"].get("X_ORIG_TYPE") in ("FDPE", "FDCE")):
            return None
        return "FF", FIGURES[f"FF setup {port}"]
    if kind.startswith("RAMB"):
        return None if "CLK" in port else ("block RAM", FIGURES["block RAM setup"])
    if kind == "PS7_PS7":
        on_clock = port.startswith(("MAXI", "SAXI")) and not port.endswith("ACLK")
        return ("PS7", FIGURES["PS7 setup"]) if on_clock else None
    if kind == "SLICE_LUTX" and port.startswith(("DI", "WA", "WE")):
        return "LUT RAM", FIGURES["LUT RAM setup"]
    return None


def _arc(cell: Mapping[str, Any], known: Mapping[tuple[str, str], float], source: str, target: str) -> float | None:
    """Delay through a cell, or None if no path leads from ``source`` to ``target``."""
    kind = cell["type"]
    if kind == "SLICE_LUTX":
        if not re.fullmatch("A[1-6]", source) or target not in ("O5", "O6"):
            return None
        # Two LUTs of one site share their pins: nextpnr wires each to the inputs of the other as well.
        logical = [name for name in cell["attributes"] if name.startswith("X_ORIG_PORT_A")]
        if logical and f"X_ORIG_PORT_{source}" not in logical:
            return None
        return known.get((source, target), FIGURES["LUT, arc that nextpnr does not know"])
    if kind == "CARRY4":
        stage = int(source[-1]) if source[-1].isdigit() else 0
        if stage > int(target[-1]):
            return None
        if source.startswith("DI") and target == f"O{source[-1]}":
            return None  # a sum bit does not depend on its own generate input
        return known.get((source, target), FIGURES["carry chain, arc that nextpnr does not know"])
    if kind in _MUXES:
        return known.get((source, target), FIGURES["wide multiplexer, arc that nextpnr does not know"])
    return None


def _is_asynchronous(cell: Mapping[str, Any], port: str) -> bool:
    """An output of the PS7 that is on no clock of the fabric, or the output of an input pad."""
    return cell["type"] in _UNTIMED or (cell["type"] == "PS7_PS7" and not port.startswith(("MAXI", "SAXI")))


def analyse(netlist: Path, sdf: Path) -> TimingReport:
    """Worst path to every endpoint of a routed design.

    Parameters
    ----------
    netlist: the JSON file that nextpnr-xilinx wrote with ``--write``.
    sdf: the file that it wrote with ``--sdf`` in the same run.

    Raises ValueError for a cell that there are no figures for, a combinational loop, and a wire without a delay.
    """
    modules = json.loads(netlist.read_text())["modules"]
    (module,) = modules.values()
    cells: dict[str, Any] = module["cells"]
    wires, arcs = read_interconnect(sdf)

    known_types = {"SLICE_LUTX", "SLICE_FFX", "CARRY4", "PS7_PS7"} | _UNTIMED | _MUXES
    for name, cell in cells.items():
        if cell["type"] not in known_types and not cell["type"].startswith("RAMB"):
            raise ValueError(f"cell {name} is a {cell['type']}, for which the timing check has no figures")

    net_names: dict[int, str] = {}
    for name, net in module["netnames"].items():
        for index, bit in enumerate(net["bits"]):
            full = name if len(net["bits"]) == 1 else f"{name}[{index}]"
            if bit not in net_names or net_names[bit].startswith("$"):
                net_names[bit] = full

    constants = {
        bit
        for cell in cells.values()
        if cell["type"] in ("PSEUDO_GND", "PSEUDO_VCC")
        for bits in cell["connections"].values()
        for bit in bits
    }
    driver: dict[int, tuple[str, str]] = {}
    users: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, cell in cells.items():
        for port, bits in cell["connections"].items():
            for bit in bits:
                if bit in constants:
                    continue
                if cell["port_directions"][port] == "input":
                    users[bit].append((name, port))
                elif cell["type"] != "PAD":
                    driver[bit] = (name, port)

    # Arrival times at the outputs of cells, in topological order (Kahn); the predecessor is kept for the report.
    arrival: dict[int, float] = {}
    origin: dict[int, tuple[int, str, float, float] | None] = {}
    start: dict[int, str] = {}
    pending: dict[int, int] = {}
    ready: list[int] = []
    inputs: dict[int, list[tuple[int, str, float, float]]] = defaultdict(list)
    outputs: dict[int, list[int]] = defaultdict(list)

    for bit, (name, port) in driver.items():
        cell = cells[name]
        count = 0
        for source, source_bits in cell["connections"].items():
            if cell["port_directions"][source] != "input":
                continue
            delay = _arc(cell, arcs.get(name, {}), source, port)
            if delay is None:
                continue
            for source_bit in source_bits:
                if source_bit not in driver or _is_asynchronous(cells[driver[source_bit][0]], driver[source_bit][1]):
                    continue
                if (name, source) not in wires:
                    raise ValueError(f"no delay for the wire to {name}.{source}")
                inputs[bit].append((source_bit, source, wires[name, source], delay))
                outputs[source_bit].append(bit)
                count += 1
        pending[bit] = count
        if not count:
            ready.append(bit)

    done = 0
    heapq.heapify(ready)
    while ready:
        bit = heapq.heappop(ready)
        done += 1
        name, port = driver[bit]
        cell = cells[name]
        launch = None if _is_asynchronous(cell, port) else _launches(cell, port)
        if launch is not None:
            start[bit], arrival[bit] = launch
            origin[bit] = None
        for source_bit, source, wire, delay in inputs[bit]:
            if source_bit in arrival and arrival[source_bit] + wire + delay > arrival.get(bit, -1):
                arrival[bit] = arrival[source_bit] + wire + delay
                start[bit] = start[source_bit]
                origin[bit] = (source_bit, source, wire, delay)
        for following in outputs[bit]:
            pending[following] -= 1
            if not pending[following]:
                heapq.heappush(ready, following)
    if done != len(driver):
        stuck = next(net_names.get(bit, str(bit)) for bit, count in pending.items() if count)
        raise ValueError(f"combinational loop through {stuck}")

    paths = []
    for bit, sinks in users.items():
        if bit not in arrival:
            continue
        for name, port in sinks:
            capture = _captures(cells[name], port)
            if capture is None:
                continue
            if (name, port) not in wires:
                raise ValueError(f"no delay for the wire to {name}.{port}")
            paths.append((arrival[bit] + wires[name, port] + capture[1], bit, name, port, capture))
    paths.sort(key=lambda path: (-path[0], path[2], path[3]))

    def trace(bit: int, wire: float) -> tuple[Step, ...]:
        steps = []
        here: int | None = bit
        while here is not None:
            before = origin[here]
            name = driver[here][0]
            delay = arrival[here] if before is None else before[3]
            steps.append(Step(name, cells[name]["type"], net_names.get(here, "?"), delay, wire))
            here, wire = (None, 0.0) if before is None else (before[0], before[2])
        return tuple(reversed(steps))

    def driven(name: str) -> str:
        cell = cells[name]
        if cell["type"] != "SLICE_FFX" or not cell["connections"].get("Q"):
            return ""
        return net_names.get(cell["connections"]["Q"][0], "")

    found = []
    for total, bit, name, port, (end_kind, setup) in paths:
        found.append(
            TimingPath(
                kind=f"{start[bit]} to {end_kind}",
                delay=total - setup,
                setup=setup,
                steps=trace(bit, wires[name, port]),
                end_cell=name,
                end_port=port,
                end_net=driven(name),
            )
        )
    if not found:
        raise ValueError("no path from clock edge to clock edge: is this the netlist of a routed design?")
    return TimingReport(tuple(found))

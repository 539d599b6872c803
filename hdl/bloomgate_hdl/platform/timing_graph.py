"""A design of nextpnr-xilinx as a graph of delays, with figures for the blocks that stock nextpnr leaves untimed.

nextpnr-xilinx knows LUT, carry chain and wire delays; block RAM, LUT RAM and PS7 ports it ignores, and it takes a
flip-flop's clock-to-out for 0.1 ns. This module reads the delays of wires and logic from its SDF file, the cells from
its netlist, and adds what is missing from the table below. It knows one clock, rising edges, and setup only.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FIGURES", "Arc", "TimingGraph", "read_interconnect", "timing_graph"]

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

#: Cells without a path from clock edge to clock edge through them.
_UNTIMED = {"PSEUDO_GND", "PSEUDO_VCC", "BUFGCTRL", "PAD", "IOB33_OUTBUF", "IOB33_INBUF_EN", "IOB33_OUTBUF_TRI"}

_MUXES = {"F7MUX", "F8MUX", "SELMUX2_1"}

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


@dataclass(frozen=True)
class Arc:
    """A wire from one cell to another, and the way through that one; delays in ns."""

    #: Node that it begins at, and the one it leads to: -1 where a clock edge ends the path.
    start: int
    end: int
    source: str
    sink: str
    #: Of the sink.
    port: str
    wire: float
    #: Through the sink, or its setup.
    logic: float
    #: How many inputs the wire's net has.
    users: int
    #: What is at the end of a path, else "".
    kind: str = ""


@dataclass(frozen=True)
class TimingGraph:
    """Nodes are outputs of cells, in topological order; arcs are in that of the nodes that they lead to, ends last."""

    #: Net (its bit in the netlist) of each node.
    bits: list[int]
    #: Clock to output in ns where a path begins, else -1; and what is there, else "".
    launch: list[float]
    kinds: list[str]
    arcs: list[Arc]
    #: Without constants: cell and port by net.
    driver: dict[int, tuple[str, str]]
    users: dict[int, list[tuple[str, str]]]


def _connections(cells: Mapping[str, Any]) -> tuple[dict[int, tuple[str, str]], dict[int, list[tuple[str, str]]]]:
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
    return driver, dict(users)


def _topological(inputs: Mapping[int, list[tuple[int, str, float]]], bits: Mapping[int, Any]) -> list[int]:
    """Nets behind everything that leads to them (Kahn). Raises ValueError for a combinational loop."""
    outputs: dict[int, list[int]] = defaultdict(list)
    for bit, sources in inputs.items():
        for source, *_ in sources:
            outputs[source].append(bit)
    pending = {bit: len(inputs.get(bit, ())) for bit in bits}
    ready = [bit for bit, count in pending.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        bit = heapq.heappop(ready)
        order.append(bit)
        for following in outputs[bit]:
            pending[following] -= 1
            if not pending[following]:
                heapq.heappush(ready, following)
    if len(order) != len(pending):
        stuck = next(bit for bit, count in pending.items() if count)
        raise CombinationalLoop(stuck)
    return order


class CombinationalLoop(ValueError):
    """``bit`` is a net that depends on itself."""

    def __init__(self, bit: int) -> None:
        super().__init__(f"combinational loop through net {bit}")
        self.bit = bit


def timing_graph(
    cells: Mapping[str, Any],
    wires: Mapping[tuple[str, str], float],
    logic: Mapping[str, Mapping[tuple[str, str], float]],
) -> TimingGraph:
    """What is between clock edges.

    Parameters
    ----------
    cells: of nextpnr's netlist.
    wires, logic: from ``read_interconnect``, in ns: to each (cell, port), and through each cell by its two ports.

    Raises ValueError for a cell that there are no figures for and a wire without a delay, and CombinationalLoop.
    """
    known = {"SLICE_LUTX", "SLICE_FFX", "CARRY4", "PS7_PS7"} | _UNTIMED | _MUXES
    for name, cell in cells.items():
        if cell["type"] not in known and not cell["type"].startswith("RAMB"):
            raise ValueError(f"cell {name} is a {cell['type']}, for which the timing check has no figures")
    driver, users = _connections(cells)
    timed = {bit for bit, (name, port) in driver.items() if not _is_asynchronous(cells[name], port)}

    def wire(name: str, port: str) -> float:
        if (name, port) not in wires:
            raise ValueError(f"no delay for the wire to {name}.{port}")
        return wires[name, port]

    inputs: dict[int, list[tuple[int, str, float]]] = {}
    for bit, (name, port) in driver.items():
        cell = cells[name]
        inputs[bit] = [
            (source, through, delay)
            for through, sources in cell["connections"].items()
            if cell["port_directions"][through] == "input"
            and (delay := _arc(cell, logic.get(name, {}), through, port)) is not None
            for source in sources
            if source in timed
        ]
    bits = _topological(inputs, driver)
    node = {bit: number for number, bit in enumerate(bits)}
    launches = [_launches(cells[driver[bit][0]], driver[bit][1]) if bit in timed else None for bit in bits]

    arcs = []
    for bit in bits:
        name, _ = driver[bit]
        for source, through, delay in inputs[bit]:
            start = driver[source][0]
            count = len(users[source])
            arcs.append(Arc(node[source], node[bit], start, name, through, wire(name, through), delay, count))
    for bit in bits:
        if bit not in timed:
            continue
        for name, port in users.get(bit, ()):
            capture = _captures(cells[name], port)
            if capture is not None:
                kind, setup = capture
                start, count = driver[bit][0], len(users[bit])
                arcs.append(Arc(node[bit], -1, start, name, port, wire(name, port), setup, count, kind))
    return TimingGraph(
        bits,
        [launch[1] if launch else -1.0 for launch in launches],
        [launch[0] if launch else "" for launch in launches],
        arcs,
        driver,
        users,
    )

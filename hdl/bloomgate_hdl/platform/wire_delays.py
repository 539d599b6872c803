"""Delay of every wire of a design that nextpnr-xilinx routed, from the route itself and prjxray's database.

nextpnr's SDF file lacks some. After routing nextpnr moves nets from one input of a LUT to another, so that each is on
the pin that its route enters the site by; the route keeps the name of the old input. The delay to the new one is then
unknown to nextpnr, which writes the estimate that it placed with. The sums here are by the rules of nextpnr's timing
analysis, which comes before anything is moved, to the picosecond.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

__all__ = ["routed_delays"]

#: What nextpnr takes for a pip within a site or on its border, in ps.
_SITE_PIP = 25

#: No pip between sites is faster by nextpnr's account, in ps. The database has zero for many.
_FASTEST_PIP = 35

_SITE_WIRE = "SITEWIRE/"
_LUT_INPUT = re.compile(r"SITEWIRE/SLICE_\w+/[A-D][1-6]")


@dataclass(frozen=True)
class _Wire:
    """A wire within one tile: milliohms and attofarads."""

    resistance: int
    capacitance: int


@dataclass(frozen=True)
class _Pip:
    """A switch between two wires of a tile: ps, milliohms and attofarads."""

    delay: int
    resistance: int
    capacitance: int
    buffered: bool
    source: _Wire
    target: _Wire

    def delay_after(self, distance: int) -> int:
        """In ps, with ``distance`` tiles from the pip that drives the source to this one."""
        # A milliohm and an attofarad make 1e-21 s. Whole numbers everywhere, as nextpnr has them.
        delay = self.delay + (distance * self.source.resistance + self.resistance) * self.capacitance // 10**9
        if not self.buffered:
            delay += (self.source.resistance + self.resistance) * self.target.capacitance // 10**9
        return max(delay, _FASTEST_PIP)


class _TileType:
    """Wires and pips that all tiles of a type have."""

    def __init__(self, path: Path):
        document = json.loads(path.read_text())
        wires = {name: _wire(data or {}) for name, data in document["wires"].items()}
        #: By the names of source and target.
        self.pips: dict[tuple[str, str], _Pip] = {}
        for data in document["pips"].values():
            ends = data["src_wire"], data["dst_wire"]
            self.pips[ends] = _pip(data, wires[ends[0]], wires[ends[1]])
            if not int(data["is_directional"]):
                self.pips.setdefault(ends[::-1], _pip(data, wires[ends[1]], wires[ends[0]]))


def _wire(data: Mapping[str, Any]) -> _Wire:
    return _Wire(_thousandths(data.get("res")), _thousandths(data.get("cap")))


def _thousandths(number: str | None) -> int:
    return int(float(number or 0) * 1000)


def _pip(data: Mapping[str, Any], source: _Wire, target: _Wire) -> _Pip:
    figures = data.get("src_to_dst") or {}
    delays = figures.get("delay") or ["0"] * 4  # fastest and slowest, of each the least and the most
    return _Pip(
        delay=max(_thousandths(delay) for delay in delays[2:]),
        resistance=_thousandths(figures.get("res")),
        capacitance=_thousandths(figures.get("in_cap")),
        buffered=not int(data.get("is_pass_transistor", 1)),
        source=source,
        target=target,
    )


class _Fabric:
    """A device in prjxray's database.

    A wire is named "tile/wire". It goes on under other names in the tiles that it crosses. Routes have one of these
    names, whatever tile the pip is in, while a tile type's list of pips has those of its own tile.
    """

    def __init__(self, device: Path):
        self._family = device.parent
        grid = json.loads((device / "tilegrid.json").read_text())
        self._types = {name: tile["type"] for name, tile in grid.items()}
        self._locations = {name: (tile["grid_x"], tile["grid_y"]) for name, tile in grid.items()}
        self._tiles = {location: name for name, location in self._locations.items()}
        self._sites = {site: self._locations[name] for name, tile in grid.items() for site in tile["sites"]}
        self._joints: dict[tuple[str, str], list[tuple[int, int, str, str]]] = defaultdict(list)
        for entry in json.loads((device / "tileconn.json").read_text()):
            first, second = entry["tile_types"]
            x, y = entry["grid_deltas"]
            for here, there in entry["wire_pairs"]:
                self._joints[first, here].append((x, y, second, there))
                self._joints[second, there].append((-x, -y, first, here))
        self._loaded: dict[str, _TileType] = {}
        self._nodes: dict[str, list[tuple[str, str]]] = {}

    def site(self, wire: str) -> tuple[int, int]:
        """Where a wire "SITEWIRE/site/wire" is, in tiles."""
        site = wire.split("/")[1]
        if site not in self._sites:
            raise ValueError(f"the database has no site {site}")
        return self._sites[site]

    def pips(self, source: str, target: str) -> Iterator[tuple[tuple[int, int], _Pip]]:
        """All pips from one wire to another and where they are, in tiles."""
        targets = self._node(target)
        for tile, here in self._node(source):
            for other, there in targets:
                if other == tile and (pip := self._type(self._types[tile]).pips.get((here, there))):
                    yield self._locations[tile], pip

    def _type(self, name: str) -> _TileType:
        if name not in self._loaded:
            self._loaded[name] = _TileType(self._family / f"tile_type_{name}.json")
        return self._loaded[name]

    def _node(self, wire: str) -> list[tuple[str, str]]:
        """Tile and name of all pieces of a wire."""
        if wire not in self._nodes:
            tile, _, name = wire.partition("/")
            if tile not in self._types:
                raise ValueError(f"the database has no tile {tile}")
            found = {(tile, name): None}
            rest = [(tile, name)]
            while rest:
                tile, name = rest.pop()
                left, top = self._locations[tile]
                for x, y, kind, there in self._joints.get((self._types[tile], name), ()):
                    other = self._tiles.get((left + x, top + y))
                    if other is not None and self._types[other] == kind and (other, there) not in found:
                        found[other, there] = None
                        rest.append((other, there))
            self._nodes[wire] = list(found)
        return self._nodes[wire]


class _Route:
    """The wires of a net."""

    def __init__(self, text: str, fabric: _Fabric):
        self._fabric = fabric
        #: The wire that drives each.
        self._sources: dict[str, str] = {}
        #: Delay from the driver in ps, and where the last pip is.
        self._known: dict[str, tuple[int, tuple[int, int] | None]] = {}
        fields = text.split(";")
        for wire, pip in zip(fields[::3], fields[1::3], strict=False):
            source, _, target = pip.partition("->")
            if not pip:
                self._known[wire] = 0, None
            elif _LUT_INPUT.fullmatch(target) and not source.startswith(_SITE_WIRE):
                # The route ends at the input that the net had before; the pin has the number of the one it has now.
                self._sources[target[:-1] + source[-1]] = source
            else:
                self._sources[wire] = source

    def delay(self, wire: str) -> int | None:
        """From the driver to a wire in ps, or None for one that the route does not reach."""
        way = [wire]
        while way[-1] not in self._known:
            if way[-1] not in self._sources:
                return None
            way.append(self._sources[way[-1]])
        for source, target in pairwise(reversed(way)):
            self._known[target] = self._extend(source, target)
        return self._known[wire][0]

    def _extend(self, source: str, target: str) -> tuple[int, tuple[int, int]]:
        """Delay up to ``target`` and where its pip is, ``source`` being known."""
        so_far, before = self._known[source]
        for wire in (target, source):
            if wire.startswith(_SITE_WIRE):
                return so_far + _SITE_PIP, self._fabric.site(wire)
        found = []
        for place, pip in self._fabric.pips(source, target):
            distance = 1
            if before is not None:
                distance = max(1, abs(before[0] - place[0]) + abs(before[1] - place[1]))
            found.append((so_far + pip.delay_after(distance), place))
        if not found:
            raise ValueError(f"the database has no pip {source}->{target}")
        # Where there are two pips for the same two wires, the route does not say which one is meant.
        return max(found)


#: A constant has no delay that matters. nextpnr counts global clock wires by classes that the database does not have.
_DRIVERS_LEFT_OUT = {"PSEUDO_GND", "PSEUDO_VCC", "BUFGCTRL"}

#: Wires of a slice that inputs are on, by port, for what has no letter.
_OF_THE_SLICE = {
    "CE": "CEUSEDMUX_OUT",
    "CIN": "CIN",
    "CK": "CLKINV_OUT",
    "CLK": "CLKINV_OUT",
    "CYINIT": "PRECYINIT_OUT",
    "SR": "SRUSEDMUX_OUT",
    "WE": "WEMUX_OUT",
}

#: The same for the wide multiplexers of a slice.
_OF_A_MUX = {
    "F7AMUX": {"0": "B6LUT_O6", "1": "A6LUT_O6", "S0": "AX"},
    "F7BMUX": {"0": "D6LUT_O6", "1": "C6LUT_O6", "S0": "CX"},
    "F8MUX": {"0": "F7BMUX_OUT", "1": "F7AMUX_OUT", "S0": "BX"},
}


def _sink(cell: Mapping[str, Any], port: str) -> str:
    """The wire that an input is on."""
    site, _, place = cell["attributes"].get("NEXTPNR_BEL", "").rpartition("/")
    return f"{_SITE_WIRE}{site}/{_sink_in_site(cell['type'], place, port)}"


def _sink_in_site(kind: str, place: str, port: str) -> str:
    """The same within its site, of a cell at ``place``. nextpnr names it in its own data, which are not at hand."""
    letter, digit = place[:1], port[-1]
    if kind == "CARRY4" and port[:-1] in ("DI", "S"):
        return "ABCD"[int(digit)] + ("CY0_OUT" if port.startswith("DI") else "6LUT_O6")
    if kind == "SLICE_LUTX" and re.fullmatch("A[1-6]", port):
        return letter + digit
    if kind == "SLICE_LUTX" and port.startswith("WA"):
        return "D" + digit  # the LUTs of a slice are written at one address
    if kind == "SLICE_LUTX" and port == "DI2":
        return f"{letter}X"
    if kind == "SLICE_LUTX" and port == "DI1":
        return "DI" if letter == "D" else f"{letter}DI1MUX_OUT"
    if kind == "SLICE_FFX" and port == "D":
        return f"{place}MUX_OUT"
    if place in _OF_A_MUX:
        return _OF_A_MUX[place].get(port, port)
    if kind.startswith("RAMB") and port.startswith(("CLK", "EN", "REGCLK", "RST")):
        return f"{port}INV_OUT"  # behind what may invert it
    return _OF_THE_SLICE.get(port, port) if kind in ("SLICE_LUTX", "SLICE_FFX", "CARRY4") else port


def routed_delays(module: Mapping[str, Any], device: Path) -> dict[tuple[str, str], float]:
    """Delay of the wire to each cell input that a route reaches, in ns, by names of cell and port.

    A wire within a site is part of the route, so a LUT next to a flip-flop or on a carry chain is reached. Not reached
    are the inputs of pads and their buffers, which nextpnr routes in its own way and no clock samples. Constants and
    global clocks are left out.

    Parameters
    ----------
    module: the routed design, from the JSON that nextpnr-xilinx wrote.
    device: folder of the device in prjxray's database (``zynq7/xc7z010``), within the one of its family.

    Raises ValueError for a route with a pip, tile or site that the database lacks.
    """
    fabric = _Fabric(device)
    left_out = {
        bit
        for cell in module["cells"].values()
        if cell["type"] in _DRIVERS_LEFT_OUT
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
    }
    routes = {
        net["bits"][0]: _Route(net["attributes"]["ROUTING"], fabric)
        for net in module["netnames"].values()
        if net["attributes"].get("ROUTING") and net["bits"][0] not in left_out
    }
    delays = {}
    for name, cell in module["cells"].items():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] != "input" or not bits or bits[0] not in routes:
                continue
            delay = routes[bits[0]].delay(_sink(cell, port))
            if delay is not None:
                delays[name, port] = delay / 1000
    return delays

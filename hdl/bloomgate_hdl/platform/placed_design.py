"""What nextpnr-xilinx has placed, as annealing.c wants it, and back.

What nextpnr has legalised stays together: the LUTs of a position, its flip-flops, and all that is in slices with a
carry chain, LUT RAM or wide multiplexers; carry chains move with all of their slices.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from bloomgate_hdl.platform.sites import Sites, numbers
from bloomgate_hdl.platform.timing_graph import TimingGraph

__all__ = ["MANY_USERS", "POSITIONS", "PlacedDesign"]

#: Of a slice, by the letters in the names of their bels.
POSITIONS = "ABCD"

#: A wire of a net with more users than this is stretched: nextpnr joins it to the nearest branch, by whatever way.
MANY_USERS, _STRETCH = 40, 1.15
#: Nets with more cells are everywhere, and their length does not tell one place from another.
_LONGEST_NET = 64

#: A carry chain's way up, and a wire within a slice that does not leave it, in ns. nextpnr guesses more before routing.
_CARRY = 0.11
_INTERNAL = 0.20


def _offsets(lists: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Lists one behind the other: where each begins (and the last one ends), and all of them."""
    begins: list[int] = [0]
    items: list[int] = []
    for part in lists:
        items += part
        begins.append(len(items))
    return begins, items


class PlacedDesign:
    """A placed design in the numbers that annealing.h wants; its fields have the names from there."""

    def __init__(self, document: dict[str, Any], graph: TimingGraph, sites: Sites) -> None:
        (self.module,) = document["modules"].values()
        self.cells: dict[str, Any] = self.module["cells"]
        self.names = list(self.cells)
        self.number = {name: number for number, name in enumerate(self.names)}
        self.graph, self.sites = graph, sites
        self.all_sites = sites.slices + sites.rams
        self.site_number = {site: number for number, site in enumerate(self.all_sites)}
        self.site: dict[str, str] = {}
        self.bel: dict[str, str] = {}
        #: Of each slice that is used: bel -> cell.
        self.slices: dict[str, dict[str, str]] = defaultdict(dict)
        for name, cell in self.cells.items():
            site, _, bel = cell["attributes"]["NEXTPNR_BEL"].partition("/")
            self.site[name], self.bel[name] = site, bel
            if site.startswith("SLICE_"):
                self.slices[site][bel] = name
        self.fields: dict[str, list[Any]] = {}
        self.counts: dict[str, int] = {"cells": len(self.names)}
        self._add_device()
        self._add_places()
        macros = self._macros()
        #: Slices that are part of a macro.
        self.rigid = {slice_ for macro in macros for slice_ in macro}
        self._add_macros(macros)
        self._add_positions()
        self._add_rams()
        self._add_timing()
        self._add_nets()

    def net(self, cell: str, port: str) -> int:
        bits = self.cells[cell]["connections"].get(port)
        return bits[0] if bits else -1

    def _driver(self, bit: int) -> int:
        return self.number[self.graph.driver[bit][0]] if bit in self.graph.driver else -1

    def _add_device(self) -> None:
        sites, slices = self.sites, [numbers(site) for site in self.sites.slices]
        columns, rows = max(x for x, _ in slices) // 2 + 1, max(y for _, y in slices) + 1
        slice_at = [-1] * (2 * columns * rows)
        for number, (x, y) in enumerate(slices):
            slice_at[x * rows + y] = number
        self.counts |= {"slices": len(slices), "ram_sites": len(sites.rams), "columns": columns, "rows": rows}
        self.fields |= {
            "site_x": [sites.at[site][0] for site in self.all_sites],
            "site_y": [sites.at[site][1] for site in self.all_sites],
            "slice_column": [x // 2 for x, _ in slices],
            "slice_half": [x % 2 for x, _ in slices],
            "slice_row": [y for _, y in slices],
            "slice_at": slice_at,
            "slice_has_memory": [site in sites.with_memory for site in sites.slices],
        }

    def _add_places(self) -> None:
        positions = []
        for name in self.names:
            in_position = re.fullmatch("([ABCD])(5LUT|6LUT|FF|5FF)", self.bel[name])
            positions.append(POSITIONS.index(in_position[1]) if in_position else -1)
        # What is on no site of the list (constants) has no timing and no length, wherever it is.
        fixed = [self.sites.at.get(self.site[name], (0, 0)) for name in self.names]
        self.fields |= {
            "cell_site": [self.site_number.get(self.site[name], -1) for name in self.names],
            "cell_position": positions,
            "fixed_x": [x for x, _ in fixed],
            "fixed_y": [y for _, y in fixed],
        }

    def is_memory(self, cell: str) -> bool:
        return self.cells[cell]["type"] == "SLICE_LUTX" and "CLK" in self.cells[cell]["connections"]

    def _macros(self) -> list[list[str]]:
        """Slices that move as they are, from the lowest one of each stack upwards."""
        above: dict[str, str] = {}
        rigid = []
        for slice_, bels in self.slices.items():
            carry = bels.get("CARRY4")
            if carry is not None:
                begins = self.graph.driver.get(self.net(carry, "CIN"), ("", ""))[0]
                if begins and self.cells[begins]["type"] == "CARRY4":
                    above[self.site[begins]] = slice_
            if carry or any("MUX" in bel or self.is_memory(cell) for bel, cell in bels.items()):
                rigid.append(slice_)
        macros = []
        for slice_ in sorted(set(rigid) - set(above.values()), key=numbers):
            macro = [slice_]
            while macro[-1] in above:
                macro.append(above[macro[-1]])
            macros.append(macro)
        return macros

    def _add_macros(self, macros: list[list[str]]) -> None:
        first, base, needs_memory, slice_macro = [], [], [], [-1] * len(self.sites.slices)
        contents: list[list[int]] = []
        for number, macro in enumerate(macros):
            first.append(len(contents))
            base.append(self.site_number[macro[0]])
            inside = [cell for slice_ in macro for cell in self.slices[slice_].values()]
            needs_memory.append(any(map(self.is_memory, inside)))
            for slice_ in macro:
                slice_macro[self.site_number[slice_]] = number
                contents.append([self.number[cell] for cell in self.slices[slice_].values()])
        self.counts["macros"] = len(macros)
        self.fields |= {
            "macro_length": list(map(len, macros)),
            "macro_first": first,
            "macro_needs_memory": needs_memory,
            "macro_base": base,
            "slice_macro": slice_macro,
        }
        self.fields["macro_slice_cells"], self.fields["macro_cells"] = _offsets(contents)

    def _add_positions(self) -> None:
        names = ("lut_cells", "lut_output5", "lut_output5_is_shared", "lut_position")
        names += ("ff_cells", "ff_driver", "ff_net", "ff_control", "ff_position")
        fields: dict[str, list[int]] = {name: [] for name in names}
        position_lut, position_ff = ([-1] * (4 * len(self.sites.slices)) for _ in range(2))
        controls: dict[tuple[Any, ...], int] = {}
        for slice_, bels in self.slices.items():
            if slice_ in self.rigid:
                continue
            for at, letter in enumerate(POSITIONS):
                position = 4 * self.site_number[slice_] + at
                luts = [bels.get(letter + bel) for bel in ("6LUT", "5LUT")]
                if any(luts):
                    output5 = self.net(luts[1], "O5") if luts[1] else -1
                    position_lut[position] = len(fields["lut_position"])
                    fields["lut_position"].append(position)
                    fields["lut_cells"] += [self.number[cell] if cell else -1 for cell in luts]
                    fields["lut_output5"].append(output5)
                    fields["lut_output5_is_shared"].append(len(self.graph.users.get(output5, ())) > 1)
                ffs = [bels.get(letter + bel) for bel in ("FF", "5FF")]
                if any(ffs):
                    nets = [self.net(cell, "D") if cell else -1 for cell in ffs]
                    control = self._control(next(filter(None, ffs)))
                    position_ff[position] = len(fields["ff_position"])
                    fields["ff_position"].append(position)
                    fields["ff_cells"] += [self.number[cell] if cell else -1 for cell in ffs]
                    fields["ff_net"] += nets
                    fields["ff_driver"] += [self._driver(net) for net in nets]
                    fields["ff_control"].append(controls.setdefault(control, len(controls)))
        self.counts |= {"luts": len(fields["lut_position"]), "ffs": len(fields["ff_position"])}
        self.fields |= fields | {"position_lut": position_lut, "position_ff": position_ff}

    def _control(self, cell: str) -> tuple[Any, ...]:
        """What all flip-flops of a slice have in common."""
        parameters, kind = self.cells[cell]["parameters"], self.cells[cell]["attributes"].get("X_ORIG_TYPE")
        inverted = sorted((name, value) for name, value in parameters.items() if name.endswith("_INVERTED"))
        nets = (self.net(cell, port) for port in ("CK", "CE", "SR"))
        return (*nets, kind in ("FDPE", "FDCE"), *inverted)

    def _add_rams(self) -> None:
        rams = [name for name in self.names if self.cells[name]["type"].startswith("RAMB36")]
        ram_at = [-1] * len(self.sites.rams)
        for number, name in enumerate(rams):
            ram_at[self.site_number[self.site[name]] - len(self.sites.slices)] = number
        self.counts["rams"] = len(rams)
        self.fields |= {"ram_cell": [self.number[name] for name in rams], "ram_at": ram_at}

    def _add_timing(self) -> None:
        arcs = self.graph.arcs
        cell_arcs: list[list[int]] = [[] for _ in self.names]
        wires, stretch = [], []
        for number, arc in enumerate(arcs):
            for cell in {arc.source, arc.sink}:
                cell_arcs[self.number[cell]].append(number)
            wires.append(self._wire(arc.source, arc.sink, arc.wire))
            stretch.append(_STRETCH if arc.users > MANY_USERS else 1.0)
        self.counts |= {"nodes": len(self.graph.launch), "arcs": len(arcs)}
        self.fields |= {
            "node_launch": self.graph.launch,
            "arc_from": [arc.start for arc in arcs],
            "arc_to": [arc.end for arc in arcs],
            "arc_source": [self.number[arc.source] for arc in arcs],
            "arc_sink": [self.number[arc.sink] for arc in arcs],
            "arc_logic": [arc.logic for arc in arcs],
            "arc_wire": wires,
            "arc_stretch": stretch,
        }
        self.fields["cell_arcs"], self.fields["arcs_of_cells"] = _offsets(cell_arcs)

    def _wire(self, source: str, sink: str, estimate: float) -> float:
        """Delay of a wire that is the same wherever its cells are, else -1."""
        if self.cells[source]["type"] == self.cells[sink]["type"] == "CARRY4":
            return _CARRY
        site = self.site[source]
        return estimate if site in self.rigid and site == self.site[sink] and estimate < _INTERNAL else -1.0

    def _add_nets(self) -> None:
        cell_nets: list[list[int]] = [[] for _ in self.names]
        nets: list[list[int]] = []
        for bit, users in self.graph.users.items():
            if bit not in self.graph.driver or self.cells[self.graph.driver[bit][0]]["type"] == "BUFGCTRL":
                continue
            ends = sorted({self._driver(bit)} | {self.number[cell] for cell, _ in users})
            if 1 < len(ends) <= _LONGEST_NET:
                for cell in ends:
                    cell_nets[cell].append(len(nets))
                nets.append(ends)
        self.counts["nets"] = len(nets)
        self.fields["net_cells"], self.fields["cells_of_nets"] = _offsets(nets)
        self.fields["cell_nets"], self.fields["nets_of_cells"] = _offsets(cell_nets)

    def struct(self, ffi: Any) -> tuple[Any, dict[str, Any]]:
        """A ``placement *``, and the arrays, which have to live as long as it, by name."""
        placement = ffi.new("placement *")
        arrays = {}
        for name, field in ffi.typeof("placement").fields:
            if name in self.counts:
                setattr(placement, name, self.counts[name])
            else:
                arrays[name] = ffi.new(f"{field.type.item.cname.removeprefix('const ')}[]", self.fields[name])
                setattr(placement, name, arrays[name])
        return placement, arrays

    def write_back(self, sites: Iterable[int], positions: Iterable[int]) -> None:
        """Into the attributes that nextpnr reads."""
        for name, site, position in zip(self.names, sites, positions, strict=True):
            if site < 0:
                continue
            bel = self.bel[name] if position < 0 else POSITIONS[position] + self.bel[name][1:]
            self.cells[name]["attributes"]["NEXTPNR_BEL"] = f"{self.all_sites[site]}/{bel}"

    def rename(self, longest: Sequence[float]) -> None:
        """Cells by the longest path that ends in or goes through them. nextpnr knows those in the clock network."""
        path = dict.fromkeys(self.names, 0.0)
        for arc, through in zip(self.graph.arcs, longest, strict=True):
            path[arc.sink] = max(path[arc.sink], through)
        renamed = {}
        for rank, name in enumerate(sorted(self.names, key=lambda name: (-path[name], name))):
            cell = self.cells[name]
            # They name other cells, and were for nextpnr's placer.
            for attribute in [key for key in cell["attributes"] if key.startswith("CONSTR_")]:
                del cell["attributes"][attribute]
            movable = self.site[name] in self.site_number
            renamed[f"{rank:06}.{name}" if movable else name] = cell
        self.module["cells"] = renamed

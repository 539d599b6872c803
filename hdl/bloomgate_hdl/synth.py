"""How much of an xc7z010 the co-processor takes, according to Yosys.

``python -m bloomgate_hdl.synth --output DIRECTORY`` prints a table and writes it as JSON; exit status 1 when the budget
is exceeded. This is synthesis, not place and route: it says nothing of timing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bloomgate.parameters import Parameters

from bloomgate_hdl.export import TOP_NAME, add_parameter_options, convert_rtlil, parameters_from, yosys_command

__all__ = ["BUDGET", "DEVICE", "Resource", "main", "mapping", "resources_of", "synthesize"]

#: What the xc7z010 has (DS190, table 1; a RAMB36 can be used as two RAMB18).
DEVICE = {"LUT": 17600, "FF": 35200, "LUTRAM": 6000, "RAMB36": 60, "DSP": 80}

#: The most that the core in its default geometry may take.
BUDGET = {"LUT": 0.6 * DEVICE["LUT"], "RAMB36": 45}

#: LUTs that one LUT RAM or shift register cell occupies (UG474, tables 2-3 and 2-4).
_LUTRAM_CELLS = {
    "RAM32X1S": 1,
    "RAM32X1D": 2,
    "RAM64X1S": 1,
    "RAM64X1D": 2,
    "RAM128X1S": 2,
    "RAM128X1D": 4,
    "RAM256X1S": 4,
    "RAM32M": 4,
    "RAM64M": 4,
    "SRL16E": 1,
    "SRLC32E": 1,
}


#: What abc9 takes a wire for, in ps: about what one takes when it is routed. With its own 300 a wire costs less than a
#: large LUT, so that it builds chains of small ones, twice as long.
_WIRE_DELAY = 1000
#: The period in ps that abc9 maps for, by its own figures, in which a LUT takes up to 640. Where there is time left, it
#: saves LUTs.
_PERIOD = 10000
#: What abc9 does: it maps two structures of the logic, simplifies, goes on with others, and keeps the smallest of the
#: eight results.
_MAP = f"&if {{W}} -D {_PERIOD} {{R}}; &mfs; &save -a"
_ROUND = f"&synch2 -K 6 -C 500; {_MAP}; &dch -C 500; {_MAP}; &load"
_SCRIPT = f"+&scorr; &sweep; {_ROUND}; &st; &syn3; {_ROUND}; &st; {_ROUND}; &st; &syn4; {_ROUND}"
#: Widest arithmetic, in bits, that goes into LUTs alone: there a carry chain costs more LUTs and a slower path.
_NARROW = 5


@dataclass(frozen=True)
class Resource:
    """One kind of resource: how many are used, how many there are, and how many may be used (None: no limit)."""

    used: float
    available: int
    budget: float | None

    @property
    def share(self) -> float:
        return self.used / self.available

    @property
    def within_budget(self) -> bool:
        return self.budget is None or self.used <= self.budget


def resources_of(cells: Mapping[str, int]) -> dict[str, Resource]:
    """From Yosys' cell counts to the device's resources. A RAMB18 counts as half a RAMB36."""
    lutram = sum(count * _LUTRAM_CELLS.get(cell, 0) for cell, count in cells.items())
    luts = sum(count for cell, count in cells.items() if cell in {f"LUT{inputs}" for inputs in range(1, 7)} | {"INV"})
    used = {
        "LUT": luts + lutram,
        "FF": sum(count for cell, count in cells.items() if cell in ("FDRE", "FDSE", "FDCE", "FDPE")),
        "LUTRAM": lutram,
        "RAMB36": cells.get("RAMB36E1", 0) + cells.get("RAMB18E1", 0) / 2,
        "DSP": cells.get("DSP48E1", 0),
    }
    return {name: Resource(used[name], DEVICE[name], BUDGET.get(name)) for name in DEVICE}


def mapping(top: str, options: str = "") -> list[str]:
    """Yosys commands that map the design that was read to cells of the 7 series. Flattens it."""
    synth = f"synth_xilinx -family xc7 -flatten -abc9 -noiopad {options} -top {top}"
    return [
        f'scratchpad -set abc9.script "{_SCRIPT}"',
        f"scratchpad -set synth_xilinx.abc9.W {_WIRE_DELAY}",
        f"{synth} -run begin:fine",
        f"techmap -map +/techmap.v t:$alu r:Y_WIDTH<={_NARROW} %i t:$lcu r:WIDTH<={_NARROW} %i %u",
        f"{synth} -run fine:",
    ]


def synthesize(parameters: Parameters, directory: Path) -> tuple[dict[str, int], str]:
    """Yosys' cell counts of the core, and Yosys' version. Leaves ``core.il``, ``yosys.log`` and ``stat.json`` behind.

    Raises RuntimeError, with the place of the log, when Yosys fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "core.il").write_text(convert_rtlil(parameters))
    script = "; ".join(("read_rtlil core.il", *mapping(TOP_NAME), "tee -o stat.json stat -json"))
    result = subprocess.run([yosys_command(), "-q", "-l", "yosys.log", "-p", script], cwd=directory, check=False)
    if result.returncode:
        raise RuntimeError(f"Yosys failed; see {directory / 'yosys.log'}")
    statistics = json.loads((directory / "stat.json").read_text())
    return statistics["design"]["num_cells_by_type"], statistics["creator"].partition(" (")[0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bloomgate_hdl.synth", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    add_parameter_options(parser)
    arguments = parser.parse_args()
    parameters = parameters_from(arguments)

    print("synthesizing for the xc7z010, about a minute ...", file=sys.stderr)
    cells, creator = synthesize(parameters, arguments.output)
    resources = resources_of(cells)
    report = {
        "part": "xc7z010clg400-1",
        "tool": creator,
        "parameters": parameters.__dict__,
        "ramb36": cells.get("RAMB36E1", 0),
        "ramb18": cells.get("RAMB18E1", 0),
        "resources": {
            name: {
                "used": resource.used,
                "available": resource.available,
                "share": round(resource.share, 4),
                "budget": resource.budget,
            }
            for name, resource in resources.items()
        },
        "cells": dict(sorted(cells.items())),
    }
    path = arguments.output / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")

    print(f"{'':8} {'used':>8} {'of':>8} {'share':>8} {'budget':>8}   {creator}")
    for name, resource in resources.items():
        budget = "" if resource.budget is None else f"{resource.budget:g}"
        print(f"{name:8} {resource.used:8g} {resource.available:8} {resource.share:8.1%} {budget:>8}")
    print(f"RAMB36 cells: {report['ramb36']}, RAMB18 cells: {report['ramb18']}; details in {path}")
    exceeded = [name for name, resource in resources.items() if not resource.within_budget]
    if exceeded:
        sys.exit(f"over budget: {', '.join(exceeded)}")


if __name__ == "__main__":
    main()

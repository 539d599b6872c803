"""Better places for what nextpnr-xilinx has placed.

nextpnr places by length first, does not move anything far once it is placed, and knows nothing of paths that begin or
end in a RAM or the PS7. ``improve`` reads a placed design, moves its cells by simulated annealing with the same timing
figures as the check after routing (timing.py, annealing.c), and writes it back for nextpnr to route.

It also renames the cells by the length of the longest path that ends there. nextpnr routes a net's branches in the
order of the names, and those that come later join what is there, whatever way that takes: so critical ones go first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cffi

from bloomgate_hdl.platform.placed_design import PlacedDesign
from bloomgate_hdl.platform.sites import read_sites
from bloomgate_hdl.platform.split_nets import split_nets
from bloomgate_hdl.platform.timing_graph import read_interconnect, timing_graph

__all__ = ["CompilerMissing", "Improved", "compiler_version", "improve"]

_SOURCES = Path(__file__).parent

#: How often the weights of wires are adapted, and moves in between for each two that can be made. More take longer and
#: give a little more; these take one to two minutes for the default geometry.
EPOCHS, EFFORT = 400, 40

#: Part of the clock period that paths are to take, so that something is left for detours of the router.
GOAL = 0.90

#: Part of that from which on a path is long enough for drivers of its own.
SPLIT = 0.90


class CompilerMissing(Exception):
    """There is no C compiler for annealing.c; the message says what to install."""


@dataclass(frozen=True)
class Improved:
    """Longest path in ns as estimated, before and after, without margin."""

    before: float
    after: float
    #: Copies of drivers.
    new_ffs: int
    new_luts: int


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise CompilerMissing("placement needs a C compiler (cc, gcc, clang, or $CC); on Debian: apt-get install gcc")


def compiler_version() -> str:
    """First line of what the C compiler says of itself. Raises CompilerMissing."""
    told = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=False)
    return told.stdout.partition("\n")[0]


def _library(directory: Path) -> tuple[Any, Any]:
    """annealing.c, compiled into ``directory``; the compiler's options are such that the same seed gives the same."""
    target = directory / "annealing.so"
    command = [_compiler(), "-O2", "-std=c11", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(target)]
    subprocess.run([*command, str(_SOURCES / "annealing.c"), "-lm"], check=True)
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"/\*.*?\*/", "", (_SOURCES / "annealing.h").read_text(), flags=re.DOTALL))
    return ffi, ffi.dlopen(str(target))


def improve(
    *,
    placed: Path,
    sdf: Path,
    database: Path,
    device: str,
    output: Path,
    seed: int,
    period: float,
    spare_luts: int,
    settings: dict[str, str],
) -> Improved:
    """Move the cells of a placed design to where its paths are shorter.

    Parameters
    ----------
    placed, sdf: what nextpnr-xilinx wrote with ``--no-route --write PLACED --sdf SDF``.
    database: family folder of prjxray's database, with ``DEVICE/tilegrid.json``.
    output: for nextpnr's ``--json``, with ``--no-pack --no-place``. annealing.so is left beside it.
    period: of the clock, in ns.
    spare_luts: how many LUTs may be copied for users on long paths.
    settings: of nextpnr, for routing.

    Raises CompilerMissing without a C compiler, and ValueError for what timing_graph.py does not know.
    """
    document = json.loads(placed.read_text())
    (module,) = document["modules"].values()
    wires, logic = read_interconnect(sdf)
    sites = read_sites(database, device)
    ffi, lib = _library(output.parent)
    goal = GOAL * period

    def anneal(epochs: int) -> tuple[PlacedDesign, list[float], float, float]:
        """The design, all paths through each of its arcs, and the longest before and after."""
        design = PlacedDesign(document, timing_graph(module["cells"], wires, logic), sites)
        placement, arrays = design.struct(ffi)
        longest = ffi.new("float[]", len(design.graph.arcs))
        lib.paths(placement, longest)
        before = max(longest)
        after = lib.anneal(placement, seed, goal, epochs, EFFORT)
        lib.paths(placement, longest)
        design.write_back(arrays["cell_site"], arrays["cell_position"])
        return design, list(longest), before, after

    design, longest, before, _ = anneal(EPOCHS // 2)
    split = split_nets(PlacedDesign(document, design.graph, sites), longest, SPLIT * goal, spare_luts, wires, logic)
    design, longest, _, after = anneal(EPOCHS)
    design.rename(longest)
    design.module.setdefault("settings", {}).update(settings)
    output.write_text(json.dumps(document))
    return Improved(before, after, *split)

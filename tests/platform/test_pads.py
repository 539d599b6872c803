"""No pad lands anywhere but on its pin: what nextpnr-xilinx passes over in silence is an error here."""

import json
from pathlib import Path

import pytest
from bloomgate_hdl.platform.boards import BOARDS, board_named
from bloomgate_hdl.platform.pads import PadError, check_constraints, check_placement, pad_pins, read_xdc

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints"

#: Board documentation, not the platform class.
PARALLELLA = {"i2c_0__scl__io": "N18", "i2c_0__sda__io": "N17", "epiphany_reset_0__io": "G14"}


def pads_of(name):
    board = board_named(name)
    return pad_pins(board.take_pads().values())


def parallella_xdc():
    return (CONSTRAINTS / "parallella.xdc").read_text()


@pytest.mark.parametrize("name", ["parallella-7010", "parallella-7020"])
def test_the_parallella_s_constraints_cover_its_pads(name):
    pads = pads_of(name)
    assert {pad: pin for pad, (pin, _) in pads.items()} == PARALLELLA
    check_constraints(pads, read_xdc(parallella_xdc()))


def test_boards_without_pads_need_no_constraints():
    for name, board in BOARDS.items():
        if board.constraints is None:
            assert pads_of(name) == {}
        else:
            assert (CONSTRAINTS / board.constraints).exists()


@pytest.mark.parametrize("pad", PARALLELLA)
def test_a_missing_constraint_fails(pad):
    lines = [line for line in parallella_xdc().splitlines() if pad not in line]
    with pytest.raises(PadError, match=f"pad {pad} has no constraint, it must be on {PARALLELLA[pad]}"):
        check_constraints(pads_of("parallella-7010"), read_xdc("\n".join(lines)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpio", "there is a constraint for gpio, which is no pad of the design"),
        # A vector as Amaranth writes it; nextpnr-xilinx does not find it.
        (r"gpio\[0\]", "are understood"),
    ],
)
def test_an_unknown_name_fails(name, message):
    text = parallella_xdc() + f"\nset_property PACKAGE_PIN T16 [get_ports {{{name}}}]\n"
    with pytest.raises(PadError, match=message):
        check_constraints(pads_of("parallella-7010"), read_xdc(text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PACKAGE_PIN N18", "PACKAGE_PIN N20", "pad i2c_0__scl__io must have .*N18, not .*N20"),
        (
            "IOSTANDARD LVCMOS25 [get_ports {i2c_0__sda",
            "IOSTANDARD LVCMOS33 [get_ports {i2c_0__sda",
            "LVCMOS25, .*LVCMOS33",
        ),
        ("DRIVE 4", "DRIVE 12", "DRIVE 4.*DRIVE 12"),
        ("set_property PACKAGE_PIN N17", "set_property -dict {PACKAGE_PIN N17}", "line .* are understood"),
    ],
)
def test_a_wrong_constraint_fails(old, new, message):
    text = parallella_xdc()
    assert old in text
    with pytest.raises(PadError, match=message):
        check_constraints(pads_of("parallella-7010"), read_xdc(text.replace(old, new)))


@pytest.fixture
def package_pins(tmp_path):
    path = tmp_path / "package_pins.csv"
    path.write_text(
        "pin,bank,site,tile,pin_function\n"
        "G14,35,IOB_X0Y99,RIOB33_SING_X31Y99,IO_0_35\n"
        "N17,34,IOB_X0Y4,RIOB33_X31Y3,IO_L23P_T3_34\n"
        "N18,34,IOB_X0Y24,RIOB33_X31Y23,IO_L13P_T2_MRCC_34\n"
    )
    return path


def routed(tmp_path, **sites):
    """A netlist with pads at these sites, as nextpnr writes it."""
    cells = {
        name: {"type": "PAD", "attributes": {"NEXTPNR_BEL": f"{site}/IOB33/PAD"} if site else {}}
        for name, site in sites.items()
    }
    path = tmp_path / "routed.json"
    path.write_text(json.dumps({"modules": {"top": {"cells": {**cells, "ff": {"type": "SLICE_FFX"}}}}}))
    return path


RIGHT = {"i2c_0__scl__io": "IOB_X0Y24", "i2c_0__sda__io": "IOB_X0Y4", "epiphany_reset_0__io": "IOB_X0Y99"}


def test_placed_pads_are_compared_with_the_part(tmp_path, package_pins):
    assert check_placement(pads_of("parallella-7010"), routed(tmp_path, **RIGHT), package_pins) == RIGHT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"i2c_0__scl__io": "IOB_X0Y25"}, r"pad i2c_0__scl__io must be at IOB_X0Y24 \(N18\), not at IOB_X0Y25"),
        ({"i2c_0__sda__io": ""}, "pad i2c_0__sda__io must be at IOB_X0Y4"),
        ({"surprise": "IOB_X0Y0"}, "pad surprise at IOB_X0Y0 is no pad of the board"),
    ],
)
def test_a_misplaced_pad_fails(tmp_path, package_pins, change, message):
    with pytest.raises(PadError, match=message):
        check_placement(pads_of("parallella-7010"), routed(tmp_path, **{**RIGHT, **change}), package_pins)


def test_a_lost_pad_fails(tmp_path, package_pins):
    left = {name: site for name, site in RIGHT.items() if name != "epiphany_reset_0__io"}
    with pytest.raises(PadError, match="pad epiphany_reset_0__io must be at IOB_X0Y99"):
        check_placement(pads_of("parallella-7010"), routed(tmp_path, **left), package_pins)

"""What Yosys makes of the two big memories for the xc7z010: block RAM and nothing beside it."""

import json
import subprocess

import pytest
from amaranth.back import rtlil
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.export import yosys_command
from bloomgate_hdl.key_log import KeyLog
from bloomgate_hdl.parity import protected_bits
from bloomgate_hdl.recency_filter import RecencyFilter
from bloomgate_hdl.slot_filter import SlotFilter

PARAMETERS = Parameters()
RAMB36_BITS = 36 * 1024
DESIGNS = {
    "recency_filter": lambda: RecencyFilter(PARAMETERS),
    "key_log": lambda: KeyLog(PARAMETERS),
    "slot_filter": lambda: SlotFilter(PARAMETERS.slots),
}


def flip_flops(cells):
    """Bits in flip-flops, before the mapping to FDRE."""
    return sum(len(cell["connections"]["Q"]) for cell in cells if "dff" in cell["type"])


def number(cell, parameter):
    return int(cell["parameters"][parameter], 2)


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory):
    """{design: (cells before memories are mapped, cells after)}, by one Yosys for both."""
    folder = tmp_path_factory.mktemp("synthesis")
    script = []
    for name, component in DESIGNS.items():
        (folder / f"{name}.il").write_text(rtlil.convert(component(), name=name, emit_src=False))
        script += [
            "design -reset",
            f"read_rtlil {name}.il",
            f"hierarchy -top {name}; proc; flatten",
            f"select {name}; write_json -selected {name}_before.json; select -clear",
            # As far as block RAM and LUT RAM are chosen; no I/O buffers, since this is no top level.
            f"synth_xilinx -family xc7 -flatten -noiopad -top {name} -run begin:map_ffram; opt_clean",
            f"select {name}; write_json -selected {name}_after.json",
        ]
    command = [yosys_command(), "-q", "-p", "; ".join(script)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return {
        name: tuple(
            list(json.loads((folder / f"{name}_{when}.json").read_text())["modules"][name]["cells"].values())
            for when in ("before", "after")
        )
        for name in DESIGNS
    }


def check_memory(synthesised, name, count, *, lut_ram=0):
    """`count` RAMB36E1, filled to the last bit, and no flip-flops that emulate something.

    Beside them `lut_ram` cells of LUT RAM, and no other memories.
    """
    before, after = synthesised[name]
    types = [cell["type"] for cell in after if cell["type"].startswith("RAM")]
    assert sorted(types) == ["RAM32M"] * lut_ram + ["RAMB36E1"] * count
    rams = [cell for cell in after if cell["type"] == "RAMB36E1"]
    assert not [cell["type"] for cell in after if cell["type"].startswith("$mem")]
    assert flip_flops(after) == flip_flops(before)
    for ram in rams:
        assert ram["parameters"]["RAM_MODE"] in ("TDP", "SDP")
        for port in "AB":
            # 9, 18, 36 or 72 bits: only these widths have the parity bits, without them it is 8, 16, 32, 64.
            assert number(ram, f"READ_WIDTH_{port}") % 9 == 0
            assert number(ram, f"WRITE_WIDTH_{port}") % 9 == 0
    return rams


def test_recency_filter_is_true_dual_port_block_ram_of_native_words(synthesised):
    words = PARAMETERS.K * PARAMETERS.D
    word_bits = protected_bits(PARAMETERS.timestamp_bits)
    assert word_bits == 36
    count = words * word_bits // RAMB36_BITS
    assert count == 16
    rams = check_memory(synthesised, "recency_filter", count)
    for ram in rams:
        assert ram["parameters"]["RAM_MODE"] == "TDP"
        widths = {number(ram, f"{way}_WIDTH_{port}") for way in ("READ", "WRITE") for port in "AB"}
        assert len(widths) == 1, "each lane reads and writes through one port"
        assert 0 not in widths
        # A query beside an insertion into its row must see the old word, see RecencyFilter.
        assert {ram["parameters"][f"WRITE_MODE_{port}"] for port in "AB"} == {"READ_FIRST"}


def test_key_log_is_block_ram(synthesised):
    words = PARAMETERS.slots * PARAMETERS.aperture_depth // LANES
    count = words * LANES * protected_bits(PARAMETERS.key_bits) // RAMB36_BITS
    assert count == 8
    check_memory(synthesised, "key_log", count)


def test_slot_filter_is_true_dual_port_block_ram_with_byte_enables(synthesised):
    banks, rows = 4, 1024
    count = banks * rows * PARAMETERS.slots * protected_bits(8) // RAMB36_BITS
    assert count == 16
    # LUT RAM has the slots' generation numbers: 9 bits with 2 read ports, 6 bits a cell.
    for ram in check_memory(synthesised, "slot_filter", count, lut_ram=3):
        assert ram["parameters"]["RAM_MODE"] == "TDP"
        assert {number(ram, f"WRITE_WIDTH_{port}") for port in "AB"} == {36}
        for port in "AB":
            # Entries of the slots that share the block RAM are written one at a time.
            enables = ram["connections"][f"WE{'BWE' if port == 'B' else 'A'}"][:4]
            assert len(set(enables)) == 4

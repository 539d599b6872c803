"""Delays of routes in a device of four tiles, added up by hand."""

import json

import pytest
from bloomgate_hdl.platform.timing import FIGURES, analyse
from bloomgate_hdl.platform.wire_delays import routed_delays


def pip(source, target, delay=None, res="0.000", in_cap=None, buffered=False, both_ways=False):
    figures = {"delay": delay and ["0.010", "0.020", delay, "0.001"], "res": res, "in_cap": in_cap}
    return {
        "src_wire": source,
        "dst_wire": target,
        "is_directional": "0" if both_ways else "1",
        "is_pseudo": "0",
        "is_pass_transistor": 0 if buffered else 1,
        "src_to_dst": figures,
    }


CLB = {
    "wires": {"CLB_AQ": None, "CLB_OUT": None, "CLB_IMUX": None, "CLB_A2": None},
    "pips": {"1": pip("CLB_AQ", "CLB_OUT"), "2": pip("CLB_IMUX", "CLB_A2")},
}
INT = {
    "wires": {
        "OUT": {"res": "10.000"},
        "BEG": None,
        "END": {"res": "100.000", "cap": "7.000"},
        "IMUX": {"res": "900.000", "cap": "50.000"},
    },
    "pips": {
        "1": pip("OUT", "BEG", "0.178", "1000.000", "4.000", buffered=True),
        "2": pip("END", "IMUX", "0.100", "500.000", "2.000"),
        "3": pip("IMUX", "OUT", "0.040", "0.000", "0.000", buffered=True, both_ways=True),
    },
}


@pytest.fixture
def device(tmp_path):
    """Two slices, three tiles above each other, and the switches to the right of each."""
    grid = {}
    for y in (0, 3):
        grid[f"CLB_X0Y{y}"] = {"type": "CLB", "grid_x": 0, "grid_y": y, "sites": {f"SLICE_X0Y{y}": "SLICEL"}}
        grid[f"INT_X1Y{y}"] = {"type": "INT", "grid_x": 1, "grid_y": y, "sites": {}}
    joints = [
        {
            "tile_types": ["CLB", "INT"],
            "grid_deltas": [1, 0],
            "wire_pairs": [["CLB_OUT", "OUT"], ["CLB_IMUX", "IMUX"]],
        },
        {"tile_types": ["INT", "INT"], "grid_deltas": [0, 3], "wire_pairs": [["BEG", "END"]]},
    ]
    folder = tmp_path / "family" / "device"
    folder.mkdir(parents=True)
    (folder / "tilegrid.json").write_text(json.dumps(grid))
    (folder / "tileconn.json").write_text(json.dumps(joints))
    for name, kind in (("CLB", CLB), ("INT", INT)):
        (folder.parent / f"tile_type_{name}.json").write_text(json.dumps(kind))
    return folder


def cell(kind, bel, inputs, outputs=None):
    outputs = outputs or {}
    return {
        "type": kind,
        "attributes": {"NEXTPNR_BEL": bel},
        "parameters": {},
        "connections": {port: [bit] for port, bit in (inputs | outputs).items()},
        "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output"),
    }


def routing(*wires):
    """A route from its driver on."""
    triples = [f"{wires[0]};;1"]
    triples += [f"{target};{source}->{target};1" for source, target in zip(wires, wires[1:], strict=False)]
    return ";".join(reversed(triples))


#: From a flip-flop's output to what was input 5 of a LUT, and enters the slice by pin 2.
FAR = (
    "SITEWIRE/SLICE_X0Y0/AQ",
    "CLB_X0Y0/CLB_AQ",
    "INT_X1Y0/OUT",
    "INT_X1Y0/BEG",
    "CLB_X0Y3/CLB_IMUX",
    "CLB_X0Y3/CLB_A2",
    "SITEWIRE/SLICE_X0Y3/A5",
)
NEAR = ("SITEWIRE/SLICE_X0Y3/A6LUT_O6", "SITEWIRE/SLICE_X0Y3/AFFMUX_OUT")

#: The last pip in the switches is three tiles from where its source is driven, by a wire with 100 ohms for each.
FAR_NS = (
    0.025  # out of the slice
    + 0.035  # the least that a pip takes
    + 0.178
    + 0.004  # (10 + 1000) ohms, 4 fF
    + 0.100
    + 0.001  # (3 * 100 + 500) ohms, 2 fF
    + 0.030  # (100 + 500) ohms, 50 fF behind a pip without a buffer
    + 0.035
    + 0.025
)


def design():
    return {
        "cells": {
            "start": cell("SLICE_FFX", "SLICE_X0Y0/AFF", {"CK": 9}, {"Q": 2}),
            "lut": cell("SLICE_LUTX", "SLICE_X0Y3/A6LUT", {"A2": 2, "A3": 2}, {"O6": 3}),
            "carry": cell("CARRY4", "SLICE_X0Y3/CARRY4", {"S0": 3, "DI0": 3}, {}),
            "end": cell("SLICE_FFX", "SLICE_X0Y3/AFF", {"CK": 9, "D": 3}, {"Q": 4}),
            "buffer": cell("BUFGCTRL", "BUFGCTRL_X0Y0/BUFGCTRL", {}, {"O": 9}),
        },
        "netnames": {
            "far": {"bits": [2], "attributes": {"ROUTING": routing(*FAR)}},
            "near": {"bits": [3], "attributes": {"ROUTING": routing(*NEAR)}},
            "unrouted": {"bits": [4], "attributes": {"ROUTING": ""}},
            "clock": {"bits": [9], "attributes": {"ROUTING": routing("A", "SITEWIRE/SLICE_X0Y0/CLKINV_OUT")}},
        },
    }


def test_each_input_that_a_route_reaches_has_the_sum_of_its_pips(device):
    delays = routed_delays(design(), device)
    assert delays.pop(("lut", "A2")) == pytest.approx(FAR_NS)
    # A3 and DI0 are not in the route, nor is the clock looked at. S0 is the LUT's output itself.
    assert delays == {("end", "D"): 0.025, ("carry", "S0"): 0}


def test_a_pip_of_both_ways_has_the_same_figures_in_either(device):
    module = design()
    ends = FAR[:3] + ("CLB_X0Y0/CLB_IMUX", "CLB_X0Y0/CLB_A2", "SITEWIRE/SLICE_X0Y0/A2")
    module["cells"]["lut"]["attributes"]["NEXTPNR_BEL"] = "SLICE_X0Y0/A6LUT"
    module["netnames"]["far"]["attributes"]["ROUTING"] = routing(*ends)
    assert routed_delays(module, device)["lut", "A2"] == pytest.approx(0.025 + 0.035 + 0.040 + 0.035 + 0.025)


@pytest.mark.parametrize(
    ("beginning", "message"),
    [
        ((*FAR[:3], "INT_X1Y3/OUT"), "no pip INT_X1Y0/OUT->INT_X1Y3/OUT"),
        ((*FAR[:3], "INT_X7Y7/BEG"), "no tile INT_X7Y7"),
        (("SITEWIRE/SLICE_X7Y7/AQ", "SITEWIRE/SLICE_X7Y7/AMUX"), "no site SLICE_X7Y7"),
    ],
)
def test_a_route_that_is_not_of_the_device_is_refused(device, beginning, message):
    module = design()
    module["netnames"]["far"]["attributes"]["ROUTING"] = routing(*beginning, *FAR[-2:])
    with pytest.raises(ValueError, match=f"the database has {message}"):
        routed_delays(module, device)


def test_the_timing_check_prefers_routed_delays_and_keeps_the_others(device, tmp_path):
    module = design()
    module["cells"]["beside"] = cell("SLICE_FFX", "SLICE_X0Y3/BFF", {"CK": 9, "D": 3}, {"Q": 5})
    (tmp_path / "routed.json").write_text(json.dumps({"modules": {"top": module}}))
    sinks = ("lut/A2", "lut/A3", "carry/S0", "carry/DI0", "end/D", "beside/D")
    lines = [f"(INTERCONNECT x/O {sink} (90:90:90) (90:90:90))" for sink in sinks]
    (tmp_path / "routed.sdf").write_text("\n".join(lines))
    through = FIGURES["FF clock to out"] + FIGURES["LUT, arc that nextpnr does not know"] + FIGURES["FF setup D"]

    report = analyse(tmp_path / "routed.json", tmp_path / "routed.sdf", device)
    assert {path.end_cell: path.total for path in report.paths} == {
        "beside": pytest.approx(through + FAR_NS + 0.090),
        "end": pytest.approx(through + FAR_NS + 0.025),
    }
    report = analyse(tmp_path / "routed.json", tmp_path / "routed.sdf")
    assert [path.total for path in report.paths] == pytest.approx([through + 0.090 + 0.090] * 2)

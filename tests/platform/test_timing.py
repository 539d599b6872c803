"""The timing check on small routed designs whose answer can be added up by hand."""

import json

import pytest
from bloomgate_hdl.platform.timing import FIGURES, MARGIN, analyse


class Routed:
    """A netlist and an SDF file in the form of nextpnr-xilinx. Delays of wires go with their sinks."""

    def __init__(self):
        self.cells = {}
        self.bits = {}
        self.interconnect = []
        self.iopaths = []

    def cell(self, name, kind, inputs=None, outputs=None, attributes=None, parameters=None):
        connections, directions = {}, {}
        for ports, direction in ((inputs or {}, "input"), (outputs or {}, "output")):
            for port, net in ports.items():
                connections[port] = [self.bits.setdefault(net, len(self.bits) + 2)]
                directions[port] = direction
        self.cells[name] = {
            "type": kind,
            "connections": connections,
            "port_directions": directions,
            "attributes": attributes or {},
            "parameters": parameters or {},
        }

    def wire(self, cell, port, nanoseconds):
        self.interconnect.append((cell, port, nanoseconds))

    def arc(self, cell, source, target, nanoseconds):
        self.iopaths.append((cell, source, target, nanoseconds))

    def analyse(self, directory):
        names = {net: {"bits": [bit], "attributes": {}} for net, bit in self.bits.items()}
        (directory / "routed.json").write_text(
            json.dumps({"modules": {"top": {"cells": self.cells, "netnames": names}}})
        )

        def delay(ns):
            return f"({ns * 1000:g}:{ns * 1000:g}:{ns * 1000:g})"

        def escape(name):
            return "".join("\\" + letter if letter in "$\\[]:" else letter for letter in name)

        lines = ["(DELAYFILE", "  (CELL", '    (CELLTYPE "top")', "    (INSTANCE )"]
        for cell, port, ns in self.interconnect:
            lines.append(f"        (INTERCONNECT somewhere/O {escape(cell)}/{port} {delay(ns)} {delay(ns)})")
        for cell, source, target, ns in self.iopaths:
            lines.append(f"    (INSTANCE {escape(cell)})")
            lines.append(f"        (IOPATH {source} {target} {delay(ns)} {delay(ns)})")
        (directory / "routed.sdf").write_text("\n".join(lines))
        return analyse(directory / "routed.json", directory / "routed.sdf")


def flip_flop(design, name, d, q, wire):
    design.cell(name, "SLICE_FFX", {"CK": "clk", "D": d}, {"Q": q})
    design.wire(name, "D", wire)


def test_flip_flop_to_flip_flop_through_a_lut(tmp_path):
    design = Routed()
    flip_flop(design, r"$flatten\core[1]", "unused", "a", 0)
    design.cell("lut", "SLICE_LUTX", {"A3": "a"}, {"O6": "b"}, {"X_ORIG_PORT_A3": "I0"})
    design.wire("lut", "A3", 1.25)
    design.arc("lut", "A3", "O6", 0.125)
    flip_flop(design, "$2", "b", "core.c", 0.5)
    report = design.analyse(tmp_path)
    (path,) = report.paths
    assert path.kind == "FF to FF"
    assert path.total == pytest.approx(0.46 + 1.25 + 0.125 + 0.5 + 0.11)
    assert report.fmax == pytest.approx(1000 / (path.total + MARGIN))
    document = path.to_dict()
    assert (document["from"], document["to"]) == ("a", "core.c")
    assert [step["net"] for step in document["steps"]] == ["a", "b"]
    assert document["period_ns"] == pytest.approx(path.total + MARGIN, abs=1e-3)
    assert document["logic_ns"] + document["wires_ns"] == pytest.approx(path.total, abs=2e-3)


@pytest.mark.parametrize(
    ("kind", "port", "parameters", "figure"),
    [
        ("RAMB36E1_RAMB36E1", "DOADO3", {}, "block RAM clock to out"),
        ("RAMB36E1_RAMB36E1", "DOPADOP0", {"DOA_REG": "0001"}, "block RAM clock to out, with output register"),
        ("RAMB18E1_RAMB18E1", "DOBDO3", {"DOA_REG": "0001"}, "block RAM clock to out"),
        ("PS7_PS7", "MAXIGP0AWVALID", {}, "PS7 clock to out"),
        ("SLICE_LUTX", "O6", {}, "LUT RAM clock to out"),
    ],
)
def test_starts_that_nextpnr_does_not_time(tmp_path, kind, port, parameters, figure):
    design = Routed()
    design.cell("start", kind, {"CLK": "clk"}, {port: "a"}, parameters=parameters)
    flip_flop(design, "end", "a", "b", 2)
    (path,) = design.analyse(tmp_path).paths
    assert path.total == pytest.approx(FIGURES[figure] + 2 + FIGURES["FF setup D"])


@pytest.mark.parametrize(
    ("kind", "port", "figure"),
    [
        ("RAMB36E1_RAMB36E1", "ADDRARDADDRL5", "block RAM setup"),
        ("RAMB36E1_RAMB36E1", "WEAL0", "block RAM setup"),
        ("PS7_PS7", "MAXIGP0RDATA3", "PS7 setup"),
        ("SLICE_LUTX", "DI2", "LUT RAM setup"),
        ("SLICE_LUTX", "WE", "LUT RAM setup"),
        ("SLICE_FFX", "CE", "FF setup CE"),
        ("SLICE_FFX", "SR", "FF setup SR"),
    ],
)
def test_ends_that_nextpnr_does_not_time(tmp_path, kind, port, figure):
    design = Routed()
    flip_flop(design, "start", "unused", "a", 0)
    design.cell("end", kind, {port: "a"})
    design.wire("end", port, 3)
    (path,) = design.analyse(tmp_path).paths
    assert path.total == pytest.approx(0.46 + 3 + FIGURES[figure])


def test_the_worst_path_comes_first_and_each_kind_once(tmp_path):
    design = Routed()
    design.cell("ram", "RAMB36E1_RAMB36E1", {"CLKARDCLKL": "clk"}, {"DOADO0": "word"})
    flip_flop(design, "near", "word", "x", 1)
    flip_flop(design, "far", "word", "y", 4)
    flip_flop(design, "next", "x", "z", 1)
    report = design.analyse(tmp_path)
    assert [path.end_net for path in report.paths] == ["y", "x", "z"]
    assert {kind: path.end_net for kind, path in report.worst_of_each_kind().items()} == {
        "block RAM to FF": "y",
        "FF to FF": "z",
    }


def test_what_no_clock_of_the_fabric_moves_is_left_out(tmp_path):
    design = Routed()
    design.cell("ps7", "PS7_PS7", {"IRQF2P0": "b"}, {"EMIOI2C0SCLO": "a"})
    flip_flop(design, "first", "a", "b", 50)
    flip_flop(design, "second", "b", "c", 1)
    design.wire("ps7", "IRQF2P0", 50)
    (path,) = design.analyse(tmp_path).paths
    assert (path.end_cell, path.end_port) == ("second", "D")


def test_pins_shared_with_the_other_lut_of_a_site_are_no_path(tmp_path):
    design = Routed()
    flip_flop(design, "start", "unused", "a", 0)
    # nextpnr wires A5 of both LUTs to what only the other one uses: here its own output.
    design.cell("lut", "SLICE_LUTX", {"A2": "a", "A5": "b"}, {"O6": "b"}, {"X_ORIG_PORT_A2": "I0"})
    design.wire("lut", "A2", 1)
    design.wire("lut", "A5", 1)
    flip_flop(design, "end", "b", "c", 1)
    (path,) = design.analyse(tmp_path).paths
    assert path.total == pytest.approx(0.46 + 1 + FIGURES["LUT, arc that nextpnr does not know"] + 1 + 0.11)


def test_carry_arcs_without_a_delay_are_not_free(tmp_path):
    design = Routed()
    flip_flop(design, "start", "unused", "a", 0)
    design.cell("carry", "CARRY4", {"DI0": "a"}, {"CO3": "b", "O0": "c"})
    design.wire("carry", "DI0", 1)
    flip_flop(design, "carried", "b", "d", 1)
    flip_flop(design, "summed", "c", "e", 1)
    (path,) = design.analyse(tmp_path).paths
    assert path.end_cell == "carried"
    assert path.total == pytest.approx(0.46 + 1 + FIGURES["carry chain, arc that nextpnr does not know"] + 1 + 0.11)


def test_what_it_cannot_judge_it_refuses(tmp_path):
    design = Routed()
    flip_flop(design, "start", "unused", "a", 0)
    design.cell("dsp", "DSP48E1_DSP48E1", {"A0": "a"})
    with pytest.raises(ValueError, match="cell dsp is a DSP48E1_DSP48E1, for which the timing check has no figures"):
        design.analyse(tmp_path)

    design = Routed()
    flip_flop(design, "start", "unused", "a", 0)
    design.cell("end", "SLICE_FFX", {"D": "a"}, {"Q": "b"})
    with pytest.raises(ValueError, match=r"no delay for the wire to end\.D"):
        design.analyse(tmp_path)

    design = Routed()
    design.cell("lut", "SLICE_LUTX", {"A1": "b"}, {"O6": "b"})
    design.wire("lut", "A1", 1)
    with pytest.raises(ValueError, match="combinational loop through b"):
        design.analyse(tmp_path)

    with pytest.raises(ValueError, match="no path from clock edge to clock edge"):
        Routed().analyse(tmp_path)

"""The top level of every board: one PS7, and on each of its pins what must be there."""

import json
import subprocess

import pytest
from amaranth.back import rtlil
from bloomgate.parameters import Parameters
from bloomgate_hdl.export import yosys_command
from bloomgate_hdl.memory_port import ACP, HP
from bloomgate_hdl.platform.boards import BOARDS, board_named
from bloomgate_hdl.platform.system import CLOCK_NET, System

#: Small, so that Yosys is quick; nothing outside the core depends on the geometry.
SMALL = Parameters(slots=2, D=64, aperture_depth=32)

#: Pins of the PS that are no business of the fabric.
PS_PADS = ("DDR", "MIO", "PSCLK", "PSPORB", "PSSRSTB")


def netlist(name, directory, memory_port=ACP):
    """Top module and the primitive's ports, after flattening, before technology mapping."""
    board = board_named(name)
    pads = board.take_pads()
    system = System(board, SMALL, pads, memory_port)
    (directory / "top.il").write_text(
        rtlil.convert(system, name="top", ports=list(pads.values()), platform=board, emit_src=False)
    )
    script = (
        # Before `hierarchy`, which makes connections as wide as their ports without a word.
        "read_rtlil top.il; proc; write_json written.json;"
        " read_verilog -lib +/xilinx/cells_xtra.v; hierarchy -top top; flatten; opt_clean; write_json top.json"
    )
    subprocess.run([yosys_command(), "-q", "-p", script], cwd=directory, check=True)
    modules = json.loads((directory / "top.json").read_text())["modules"]
    written = json.loads((directory / "written.json").read_text())["modules"]
    (ps7,) = [cell for module in written.values() for cell in module["cells"].values() if cell["type"] == "PS7"]
    for name, bits in ps7["connections"].items():
        assert len(bits) == len(modules["PS7"]["ports"][name]["bits"]), f"{name} has {len(bits)} bits"
    return modules["top"], modules["PS7"]["ports"]


@pytest.fixture(scope="module")
def parallella(tmp_path_factory):
    return netlist("parallella-7010", tmp_path_factory.mktemp("parallella"))


def cells(top, kind):
    return [cell for cell in top["cells"].values() if cell["type"] == kind]


def ps7_of(top):
    (cell,) = cells(top, "PS7")
    return cell["connections"]


@pytest.mark.parametrize("name", [name for name in BOARDS if name != "parallella-7010"])
def test_every_board_elaborates_with_one_ps7(name, tmp_path):
    top, _ = netlist(name, tmp_path)
    assert len(cells(top, "PS7")) == len(cells(top, "BUFG")) == 1
    pads = len(top["ports"])
    assert pads == (3 if name.startswith("parallella") else 0)


def test_no_input_of_the_ps7_is_left_open(parallella):
    top, ports = parallella
    connections = ps7_of(top)
    for name, port in ports.items():
        if port["direction"] != "input" or name.startswith(PS_PADS) and name != "DDRARB":
            continue
        assert name in connections, f"{name} is open"
        assert "x" not in connections[name], name
    assert set(connections) <= set(ports)


def test_clock_and_reset(parallella):
    top, _ = parallella
    connections = ps7_of(top)
    (buffer,) = cells(top, "BUFG")
    assert buffer["connections"]["I"] == connections["FCLKCLK"][:1]
    clock = buffer["connections"]["O"]
    assert clock == top["netnames"][CLOCK_NET]["bits"]
    for port in ("MAXIGP0", "MAXIGP1", "SAXIACP", "SAXIHP0"):
        assert connections[f"{port}ACLK"] == clock, port
    # Reset is released by two flip-flops that FCLK_RESET0_N holds.
    stages = cells(top, "FDPE")
    assert len(stages) == 2
    for stage in stages:
        assert stage["connections"]["C"] == clock
    (held,) = {tuple(stage["connections"]["PRE"]) for stage in stages}
    inverter = next(cell for cell in cells(top, "$not") if cell["connections"]["Y"] == list(held))
    assert inverter["connections"]["A"] == connections["FCLKRESETN"][:1]


def test_gp0_meets_the_core_and_gp1_a_responder(parallella):
    top, ports = parallella
    connections = ps7_of(top)
    for port in ("MAXIGP0", "MAXIGP1"):
        for signal in ("ARREADY", "AWREADY", "WREADY", "BVALID", "RVALID", "RLAST"):
            assert isinstance(connections[port + signal][0], int), f"{port}{signal} is a constant"
        for signal in ("BID", "RID"):
            assert all(isinstance(bit, int) for bit in connections[port + signal])
    assert all(isinstance(bit, int) for bit in connections["MAXIGP0RDATA"])
    assert connections["MAXIGP1RDATA"] == ["0"] * 32
    # DECERR is 0b11.
    assert connections["MAXIGP1RRESP"] == connections["MAXIGP1BRESP"] == ["1", "1"]


def test_only_interrupt_0_is_wired(parallella):
    top, _ = parallella
    interrupts = ps7_of(top)["IRQF2P"]
    assert isinstance(interrupts[0], int)
    assert interrupts[1:] == ["0"] * 19


def silent(top, port):
    return all(ps7_of(top)[port + signal] == ["0"] for signal in ("ARVALID", "AWVALID", "WVALID", "RREADY", "BREADY"))


@pytest.mark.parametrize("port", ["SAXIHP0", "SAXIHP1", "SAXIHP2", "SAXIHP3", "SAXIGP0", "SAXIGP1"])
def test_unused_memory_ports_are_silent(parallella, port):
    assert silent(parallella[0], port)


def meets_memory(top, port, attributes):
    """The core is the initiator of that port, with those attributes in binary."""
    connections = ps7_of(top)
    for signal in ("RREADY", "BREADY"):
        assert isinstance(connections[port + signal][0], int), f"{port}{signal} is a constant"
    # Bursts of whole beats with all strobes, neither exclusive nor locked.
    expected = {"SIZE": "11", "BURST": "01", "LOCK": "00", **attributes}
    for direction in ("AW", "AR"):
        for name, bits in expected.items():
            assert "".join(reversed(connections[port + direction + name])) == bits, direction + name
    assert connections[port + "WSTRB"] == ["1"] * 8
    assert connections[port + "WID"] == connections[port + "AWID"]


def test_the_core_reaches_memory_through_the_acp(parallella):
    meets_memory(parallella[0], "SAXIACP", {"CACHE": "1111", "PROT": "000", "USER": "00001"})


def test_the_core_can_reach_memory_past_the_caches(tmp_path):
    top, _ = netlist("parallella-7010", tmp_path, HP)
    meets_memory(top, "SAXIHP0", {"CACHE": "0011", "PROT": "000"})
    assert silent(top, "SAXIACP")


def test_idle_levels(parallella):
    top, _ = parallella
    connections = ps7_of(top)
    for name in ("EMIOUART0RX", "EMIOUART1RX", "EMIOSPI0SSIN", "EMIOSPI1SSIN", "EMIOI2C1SCLI", "EMIOI2C1SDAI"):
        assert connections[name] == ["1"], name
    # A card is present and may be written, as in the stock design.
    for name in ("EMIOSDIO0CDN", "EMIOSDIO0WP", "EMIOSDIO1CDN", "EMIOSDIO1WP"):
        assert connections[name] == ["0"], name


def evaluate(top, bit, values):
    """Value of a net as a function of others, through $and, $not and the like of one bit."""
    if not isinstance(bit, int):
        return int(bit)
    if bit in values:
        return values[bit]
    for cell in top["cells"].values():
        if cell["connections"].get("Y") == [bit]:
            inputs = [
                evaluate(top, cell["connections"][name][0], values) for name in "AB" if name in cell["connections"]
            ]
            return {"$not": lambda a: 1 - a, "$and": lambda a, b: a & b}[cell["type"]](*inputs)
    raise AssertionError(f"net {bit} has no driver of one bit")


@pytest.mark.parametrize("line", ["SCL", "SDA"])
def test_i2c_is_bridged_open_drain(parallella, line):
    top, _ = parallella
    connections = ps7_of(top)
    pad = top["ports"][f"i2c_0__{line.lower()}__io"]["bits"]
    (buffer,) = [cell["connections"] for cell in cells(top, "IOBUF") if cell["connections"]["IO"] == pad]
    assert buffer["O"] == connections[f"EMIOI2C0{line}I"]
    # Low or released, never high.
    assert buffer["I"] == ["0"]
    (level,), (drive,) = connections[f"EMIOI2C0{line}O"], connections[f"EMIOI2C0{line}TN"]
    for o in (0, 1):
        for tn in (0, 1):
            released = evaluate(top, buffer["T"][0], {level: o, drive: tn})
            assert released == (0 if tn and not o else 1), (o, tn)


def test_epiphany_is_held_in_reset(parallella):
    top, _ = parallella
    (buffer,) = [cell["connections"] for cell in cells(top, "OBUF")]
    assert buffer["O"] == top["ports"]["epiphany_reset_0__io"]["bits"]
    assert buffer["I"] == ["0"]


def test_an_unknown_board_is_refused():
    with pytest.raises(ValueError, match="board must be one of parallella-7010, .*, not 'zedboard'"):
        board_named("zedboard")

"""Device trees: compiled, applied to a tree as the Parallella's images have it, and read back."""

import subprocess

import pytest
from bloomgate.backends.uio import CONTROL_NODE, slot_node
from bloomgate.devicetree import QUEUE_BASE, QUEUE_BYTES
from bloomgate.generate import FILES
from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, PAGE_BYTES, slot_page_offset

from tests.board.emulation import ROOT, needs

FOLDER = ROOT / "firmware" / "devicetree"
SOURCES = sorted(FOLDER.glob("*.dtso"))
#: What dtc cannot know of a fragment: whether the tree that it goes into has 1 cell for addresses.
QUIET = ("-W", "no-avoid_unnecessary_addr_size")

#: The parts of a stock tree that matter here: no symbols, an elink on GP1 as old and new kernels name it, the HDMI
#: pipeline on GP0, I2C0 with the power management chip, and ordinary devices of the PS.
STOCK = """
/dts-v1/;
/ {
    #address-cells = <1>;
    #size-cells = <1>;
    compatible = "adapteva,parallella", "xlnx,zynq-7000";
    memory@0 { device_type = "memory"; reg = <0x0 0x40000000>; };
    chosen { };
    fpga-full { compatible = "fpga-region"; #address-cells = <1>; #size-cells = <1>; ranges; };
    axi {
        compatible = "simple-bus";
        #address-cells = <1>;
        #size-cells = <1>;
        interrupt-parent = <&intc>;
        ranges;
        intc: interrupt-controller@f8f01000 {
            compatible = "arm,cortex-a9-gic";
            #interrupt-cells = <3>;
            interrupt-controller;
            reg = <0xf8f01000 0x1000>, <0xf8f00100 0x100>;
        };
        i2c@e0004000 {
            compatible = "cdns,i2c-r1p10"; reg = <0xe0004000 0x1000>; status = "okay";
            #address-cells = <1>; #size-cells = <0>;
            isl9305@68 { compatible = "isil,isl9305"; reg = <0x68>; };
        };
        slcr@f8000000 {
            compatible = "xlnx,zynq-slcr", "syscon"; reg = <0xf8000000 0x1000>; #address-cells = <1>; #size-cells = <1>;
            clkc@100 { compatible = "xlnx,ps7-clkc"; reg = <0x100 0x100>; #clock-cells = <1>; CLOCKS };
        };
        serial@e0001000 { compatible = "xlnx,xuartps"; reg = <0xe0001000 0x1000>; status = "okay"; };
        ELINK { compatible = "adapteva,elink"; reg = <0x81000000 0x1000>; status = "okay"; };
        axivdma@43000000 { compatible = "xlnx,axi-vdma"; reg = <0x43000000 0x1000>; };
    };
};
"""


#: Of which only FCLK1 is kept running.
CLOCKS = "fclk-enable = <0x2>;"


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=True).stdout


def compiled(source, target):
    """With every warning an error."""
    needs("dtc")
    result = subprocess.run(
        ["dtc", "-@", *QUIET, "-I", "dts", "-O", "dtb", "-o", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return target


@pytest.fixture(params=["elink@81000000", "elink0: elink@0x81000000"], ids=("new", "old"))
def stock(request, tmp_path):
    """A compiled stock tree, without symbols."""
    needs("dtc", "fdtoverlay", "fdtget")
    source, target = tmp_path / "stock.dts", tmp_path / "stock.dtb"
    source.write_text(STOCK.replace("ELINK", request.param).replace("CLOCKS", CLOCKS))
    run("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", target, source)
    return target


def patched(stock, *options):
    target = stock.with_name("patched.dtb")
    said = run("sh", FOLDER / "patch-base.sh", *options, stock, target)
    return target, said.splitlines()


def cells(tree, path, name):
    return [int(word, 16) for word in run("fdtget", "-t", "x", tree, path, name).split()]


def status(tree, path):
    return run("fdtget", "-d", "okay", tree, path, "status").strip()


def check_nodes(tree, parent):
    """One node a page, each with its own address and name; the interrupt at page 0."""
    slots = Parameters().slots
    names = {f"{CONTROL_NODE}@{BASE_ADDRESS:x}": [BASE_ADDRESS, PAGE_BYTES]}
    for slot in range(slots):
        address = BASE_ADDRESS + slot_page_offset(slot)
        names[f"{slot_node(slot)}@{address:x}"] = [address, PAGE_BYTES, QUEUE_BASE + slot * QUEUE_BYTES, QUEUE_BYTES]
    assert set(run("fdtget", "-l", tree, parent).split()) == set(names)
    for name, reg in names.items():
        path = f"{parent}/{name}"
        assert cells(tree, path, "reg") == reg
        assert run("fdtget", tree, path, "compatible").strip() == "generic-uio"
    control = f"{parent}/{CONTROL_NODE}@{BASE_ADDRESS:x}"
    # GIC 61, level high (UG585 table 7-4)
    assert cells(tree, control, "interrupts") == [0, 61 - 32, 4]
    gic = cells(tree, "/axi/interrupt-controller@f8f01000", "phandle")
    assert cells(tree, control, "interrupt-parent") == gic


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_compiles(source, tmp_path):
    compiled(source, tmp_path / "x.dtbo")


def test_every_source_is_generated():
    assert {f"firmware/devicetree/{path.name}" for path in SOURCES} <= set(FILES)


def test_patched_tree(stock):
    """Memory reserved, nothing left in the fabric, everything else as it was."""
    tree, said = patched(stock)
    elink = next(name for name in run("fdtget", "-l", tree, "/axi").split() if name.startswith("elink"))
    assert sorted(said) == sorted([f"disabled /axi/{elink}", "disabled /axi/axivdma@43000000"])
    assert status(tree, f"/axi/{elink}") == status(tree, "/axi/axivdma@43000000") == "disabled"
    for kept in ("i2c@e0004000", "i2c@e0004000/isl9305@68", "serial@e0001000", "interrupt-controller@f8f01000"):
        assert status(tree, f"/axi/{kept}") == "okay"
    reserved = f"/reserved-memory/bloomgate@{QUEUE_BASE:x}"
    assert cells(tree, reserved, "reg") == [QUEUE_BASE, Parameters().slots * QUEUE_BYTES]
    assert "no-map" in run("fdtget", "-p", tree, reserved).split()


@pytest.mark.parametrize(("before", "after"), [(CLOCKS, 0x3), ("fclk-enable = <0xf>;", 0xF), ("", 0x1)])
def test_the_clock_keeps_running(stock, before, after):
    """Linux stops an FCLK that nothing claims."""
    source = stock.with_suffix(".dts")
    source.write_text(source.read_text().replace(CLOCKS, before))
    run("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", stock, source)
    tree, _ = patched(stock)
    assert cells(tree, "/axi/slcr@f8000000/clkc@100", "fclk-enable") == [after]


def test_i2c0_can_be_disabled(stock):
    tree, said = patched(stock, "--no-i2c0")
    assert "disabled /axi/i2c@e0004000" in said
    assert status(tree, "/axi/i2c@e0004000") == "disabled"
    assert status(tree, "/axi/serial@e0001000") == "okay"


@pytest.mark.parametrize("name", ["bloomgate", "bloomgate-module"])
def test_the_overlay_applies_to_the_patched_tree(stock, tmp_path, name):
    tree, _ = patched(stock)
    overlay = compiled(FOLDER / f"{name}.dtso", tmp_path / "x.dtbo")
    whole = tmp_path / "whole.dtb"
    run("fdtoverlay", "-i", tree, "-o", whole, overlay)
    assert run("fdtget", whole, "/fpga-full", "firmware-name").strip() == "bloomgate.bit.bin"
    if name == "bloomgate":
        check_nodes(whole, "/fpga-full")
    else:
        pages = (1 + Parameters().slots) * PAGE_BYTES
        assert cells(whole, f"/fpga-full/bloomgate@{BASE_ADDRESS:x}", "reg") == [BASE_ADDRESS, pages]


def test_static_nodes(stock):
    tree, _ = patched(stock, "--static")
    check_nodes(tree, "/bloomgate")
    assert run("fdtget", tree, "/bloomgate", "compatible").strip() == "simple-bus"


def test_queue_memory_is_where_the_stock_system_has_none():
    """The 32 MiB that the stock system keeps from Linux for the Epiphany."""
    assert QUEUE_BASE == 0x3E000000
    assert Parameters().slots * QUEUE_BYTES <= 32 << 20
    assert QUEUE_BASE % PAGE_BYTES == QUEUE_BYTES % PAGE_BYTES == 0


def test_the_script_needs_two_files():
    result = subprocess.run(
        ["sh", str(FOLDER / "patch-base.sh")], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "usage: patch-base.sh" in result.stderr

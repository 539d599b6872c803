"""The virtual Parallella: Debian's ARM Python and a Linux kernel in QEMU's Zynq, the gateware in the fabric.

Runs where `make virtual-board` has built kernel and root file system; what it shows is in docs/board.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, QUEUE_RECORD, QUEUE_RECORD_BYTES, VERSION, slot_page_offset
from bloomgate_sim.device import SimulatedBus

from tests.board.emulation import ARM_GCC, INCLUDE, ROOT, THUMB, needs
from tests.board.linux_board import LinuxBoard, MemoryType, cache_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("virtual board")]

#: Few keys, since each access takes 0.1 ms here.
GEOMETRY = Parameters(K=2, D=64, timestamp_bits=32, key_bits=32, slots=6, aperture_depth=32)
QUEUE_STATUS = CONTROL_PAGE.window("QUEUE_RECORDS").offset + QUEUE_RECORD.register("QUEUE_STATUS").offset
#: Seconds for a system from its start to its end; the machine may be busy.
SECONDS = 800


@pytest.fixture(scope="module")
def cache():
    return cache_folder()


@pytest.fixture
def folder():
    # Short, for sockets.
    with tempfile.TemporaryDirectory(prefix="bg-") as name:
        (Path(name) / "files").mkdir()
        yield Path(name)


@pytest.fixture
def bus():
    bus = SimulatedBus(GEOMETRY)
    yield bus
    bus.close()


def script(folder, *lines):
    path = folder / "files" / "init.test"
    path.write_text("\n".join(["#!/bin/busybox sh", *lines]) + "\n")
    path.chmod(0o755)


def install(folder):
    """The package of `make deb`, unpacked onto the board."""
    needs("dpkg-deb", "dtc", ARM_GCC)
    build = [sys.executable, str(ROOT / "packaging" / "build_deb.py"), "--output", str(folder)]
    package = subprocess.run(build, capture_output=True, text=True, check=True, timeout=120).stdout.split()[-1]
    subprocess.run(["dpkg-deb", "-x", package, str(folder / "files")], check=True, timeout=60)
    if sys.version_info[:2] == (3, 11):
        # The byte code that py3compile makes at installation.
        site = folder / "files" / "usr" / "lib" / "python3"
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(site)], check=True, timeout=120)


def reports(text):
    """The JSON documents on the console."""
    return [json.loads(found) for found in re.findall(r"^(\{.*?^\})\s*$", text, re.M | re.S)]


SECTIONS = (
    "identification",
    "registers",
    "slots",
    "flights",
    "verdicts",
    "errors",
    "interrupt",
    "queues",
    "throughput",
)


def check_report(report):
    failed = {section["name"]: section["said"] for section in report["sections"] if section["status"] == "failed"}
    assert failed == {}
    found = {section["name"]: section["status"] for section in report["sections"]}
    assert found == dict.fromkeys((*SECTIONS, "soak"), "passed")


#: The nodes get the owners that the udev rule gives them; then one user, who is in the group of slot 3 alone.
OWNER = """
import os, bloomgate
for entry in os.scandir('/sys/class/uio'):
    name = open(entry.path + '/name').read().strip()
    os.chown('/dev/' + entry.name, 0, 1000 + int(name[14:]) if 'slot' in name else 999)
    os.chmod('/dev/' + entry.name, 0o660)
os.setgroups([1003])
os.setgid(1003)
os.setuid(1000)
with bloomgate.open_device('uio:slot=3') as device:
    print('owner', device.commit(snapshot=device.published, writes=[9]).committed)
for url in ('uio:slot=4', 'uio:'):
    try:
        bloomgate.open_device(url)
    except bloomgate.DeviceUnavailable as error:
        print('refused', error)
"""


def test_boardtest(folder, bus, cache):
    """`bloomgate load` to look at what is loaded, then `bloomgate boardtest`, both through UIO."""
    install(folder)
    script(
        folder,
        "bloomgate load && echo REPORT && cat /run/bloomgate/device.json && echo END",
        f'python3 -c "{OWNER}"',
        "bloomgate boardtest --device uio: --duration 1 --json 2>/dev/null && echo END",
        "grep bloomgate /proc/interrupts",
    )
    board = LinuxBoard(folder, bus, folder / "files", cache)
    text = board.wait(SECONDS)
    assert "init.test ended with status 0" in text, text
    identity, report = reports(text)
    assert (identity["version"], identity["parameters"]["slots"]) == (list(VERSION), GEOMETRY.slots)
    check_report(report)
    assert report["host"]["machine"] == "armv7l"
    assert report["host"]["model"] == "Adapteva Parallella board"
    pages = {0, *(slot_page_offset(slot) for slot in range(GEOMETRY.slots))}
    assert board.mapped == pages
    # As UIO maps everything.
    assert board.fabric_types == board.memory_types == {MemoryType.STRONGLY_ORDERED}
    assert "owner True" in text
    for node in ("slot4", "control"):
        assert f"refused the node bloomgate-{node}: Permission denied" in text
    # The interrupt went through the kernel's driver.
    counted = re.search(r"\d+:\s+(\d+)\s.*bloomgate-control", text)
    assert counted is not None
    assert int(counted.group(1)) > 0


def build_modules(folder, cache):
    """The kernel module, and the tests' own, built for the board's kernel and put onto the board."""
    needs(ARM_GCC)
    # In a copy, since kbuild leaves its products beside the sources.
    copy = folder / "module"
    linux = copy / "firmware" / "linux"
    shutil.copytree(ROOT / "firmware" / "linux", linux)
    shutil.copytree(INCLUDE, copy / "host" / "bloomgate" / "include")
    shutil.copy(ROOT / "tests" / "board" / "programs" / "unbind.c", linux)
    with (linux / "Makefile").open("a") as makefile:
        makefile.write("obj-m += unbind.o\n")
    command = ["make", "-s", "-C", str(linux), f"KDIR={cache / 'linux-source-6.1'}", "ARCH=arm"]
    subprocess.run([*command, f"CROSS_COMPILE={ARM_GCC[:-3]}"], check=True, timeout=300, env=clean_environment())
    for name in ("bloomgate.ko", "unbind.ko"):
        shutil.copy(linux / name, folder / "files")


def clean_environment():
    """Without what an enclosing make hands down."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}


def compile_overlay(folder):
    """The overlay for the kernel module."""
    overlay = folder / "module.dtbo"
    source = ROOT / "firmware" / "devicetree" / "bloomgate-module.dtso"
    subprocess.run(["dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", overlay, source], check=True, timeout=60)
    return overlay


def test_a_fabric_that_does_not_answer_is_not_touched(folder, bus, cache):
    """The module looks first: level shifters, reset, clock, and whether it is configured."""
    build_modules(folder, cache)
    attempt = "insmod /bloomgate.ko && rmmod bloomgate"
    script(
        folder,
        f"devmem 0xF8000900 32 0x3; {attempt}; devmem 0xF8000900 32 0xF",
        f"devmem 0xF8000240 32 1; {attempt}; devmem 0xF8000240 32 0",
        f"devmem 0xF8000178 32 1; {attempt}; devmem 0xF8000178 32 0",
        "insmod /bloomgate.ko && ls /sys/class/bloomgate | wc -l",
    )
    board = LinuxBoard(folder, bus, folder / "files", cache, overlay=compile_overlay(folder), configured=False)
    text = board.wait(SECONDS)
    assert "init.test ended with status 0" in text, text
    said = re.findall(r"bloomgate 43c00000\.bloomgate: .*: (the fabric .*?)\s*$", text, re.M)
    assert said == [
        "the fabric is not accessed: its level shifters are off",
        "the fabric is not accessed: it is held in reset",
        "the fabric is not accessed: FCLK0 is stopped; fclk-enable in the device tree keeps it running",
        "the fabric is not configured",
    ], text
    assert re.search(r"^0\s*$", text, re.M), text
    assert board.accesses == 0


ONE_SLOT = """
import bloomgate
with bloomgate.open_device('bloomgate:slot=2') as device:
    first = device.commit(snapshot=device.published, writes=[5])
    stale = device.commit(snapshot=device.published, reads=[5])
    print(device.info().description, first.timestamp == device.published + 1, stale.reason.name)
    with device.queue_pair() as queue:
        newest = device.last_timestamp()
        first = queue.submit(snapshot=newest, reads=[5], writes=[6])
        second = queue.submit(snapshot=newest, reads=[6])
        timestamp, reason = queue.collect(first).timestamp, queue.collect(second).reason
        print('queued', timestamp == device.last_timestamp(), reason.name)
    with bloomgate.open_device('bloomgate:slot=1,data=own') as own:
        for _ in range(2):
            device.commit(snapshot=device.published, writes=[7])
            last = own.commit(snapshot=own.published, reads=[8], writes=[8]).timestamp
            device.commit(snapshot=device.published, writes=[7])
            own.publish(last)
            print('own', own.published == own.last_timestamp() == last == device.last_timestamp() - 1)
        try:
            own.queue_pair()
        except bloomgate.DeviceUnavailable as error:
            print(error)
"""


def test_kernel_module(folder, bus, cache):
    """Loaded, its devices used and refused, unloaded; what it programs is seen from the gateware's side."""
    install(folder)
    files = folder / "files"
    build_modules(folder, cache)
    THUMB.program(
        files / "slots",
        ROOT / "tests" / "board" / "programs" / "slots.c",
        options=[f"-I{ROOT / 'firmware' / 'linux'}"],
    )
    THUMB.program(files / "queue", ROOT / "firmware" / "examples" / "queue.c")
    shutil.copy(ROOT / "tests" / "board" / "programs" / "parked.py", files)
    overlay = compile_overlay(folder)
    script(
        folder,
        "insmod /bloomgate.ko && ls /dev/bloomgate* && /slots",
        "status=$?",
        "if [ $status = 0 ]; then",
        "/queue 4",
        f'python3 -c "{ONE_SLOT}"',
        "echo parked: $(python3 /parked.py bloomgate:)",
        "bloomgate boardtest --device bloomgate: --duration 0 --json 2>/dev/null",
        "fi",
        "rmmod bloomgate && ls /dev/bloomgate* 2>&1",
        "for heap in /sys/kernel/slab/kmalloc-*; do echo 1 > $heap/validate; done",
        "dmesg | grep -i -e bloomgate -e 'cut here' -e BUG",
        "exit $status",
    )
    board = LinuxBoard(folder, bus, files, cache, overlay=overlay)
    text = board.wait(SECONDS)
    assert "init.test ended with status 0" in text, text
    assert "failed:" not in text
    assert text.split().count("done") == 1, text
    for name in ("control", *(f"slot{slot}" for slot in range(GEOMETRY.slots))):
        assert f"/dev/bloomgate-{name}" in text
    assert f"/dev/bloomgate-slot{GEOMETRY.slots}\n" not in text
    assert f"bloomgate: {GEOMETRY.slots} slots with queues" in text
    for sign in ("cut here", "BUG", "Oops"):
        assert sign not in text
    assert "slot 2 of the gateware in the FPGA, through the kernel module True CONFLICT" in text
    assert "queued True CONFLICT" in text
    assert text.count("own True") == 2, text
    assert "slot 1 has no queue pair with data=own" in text
    assert f"parked:{2 * ' True IRREVOCABLE True True False'}" in text, text
    assert re.findall(r"^\d: (.*?)(?: at \d+)?\s*$", text, re.M) == ["commit", *["abort, reason 1"] * 3]
    (report,) = reports(text)
    check_report(report)
    assert report["device"]["backend"] == "bloomgate"
    # Nothing of the fabric was mapped but page 0 and the slots that exist, registers as such and buffers cached.
    assert board.mapped == {0, *(slot_page_offset(slot) for slot in range(GEOMETRY.slots))}
    assert board.fabric_types == {MemoryType.DEVICE}
    assert board.memory_types == {MemoryType.CACHED}
    # A slot reaches its own buffer and nothing else.
    assert board.buffers <= board.windows
    assert {size for _, size in board.windows} == {256 << 10}
    # Every slot was let go: no window is left, and no queue.
    for slot in range(GEOMETRY.slots):
        assert board.window(slot)[1] == 0, slot
        assert bus.read(QUEUE_STATUS + QUEUE_RECORD_BYTES * slot, 1)[0] & 1 == 0, slot

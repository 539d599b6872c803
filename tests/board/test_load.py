"""bloomgate load, on a tree of real files in which a class does what the kernel would do at each write."""

import errno
import fcntl
import json
import re
import struct
import sys

import pytest
from bloomgate.backends.uio import CONTROL_NODE, IDENTITY_FILE, slot_node
from bloomgate.bitstream import BitstreamError
from bloomgate.errors import DeviceUnavailable
from bloomgate.libbloomgate import library
from bloomgate.load import DEFAULT_OVERLAY, LoadError, load, look
from bloomgate.registers import (
    BASE_ADDRESS,
    CONTROL_PAGE,
    IDENTIFICATION,
    PAGE_BYTES,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    VERSION,
)
from bloomgate.system import System

from tests.board.conftest import GEOMETRY
from tests.board.emulation import NATIVE, make_tree, node
from tests.platform.test_bitstream import bit, payload, stream

GOOD = payload(stream(), "<")
PSS_IDCODE, LVL_SHFTR_EN, FPGA_RST_CTRL, FPGA0_THR_STA = 0xF8000530, 0xF8000900, 0xF8000240, 0xF800017C
#: SLCR as a boot loader and Linux leave it.
OPEN_BRIDGE = {LVL_SHFTR_EN: 0xF, FPGA_RST_CTRL: 0, FPGA0_THR_STA: 1 << 16}
OVERLAYS = "sys/kernel/config/device-tree/overlays"
MANAGER = "sys/class/fpga_manager/fpga0"


def control_page():
    """Page 0 as it reads, at rest."""
    words = [0] * (PAGE_BYTES // 4)
    register = CONTROL_PAGE.register
    words[register("IDENTIFICATION").word] = IDENTIFICATION
    words[register("VERSION").word] = VERSION[0] << 16 | VERSION[1] << 8 | VERSION[2]
    fields = {"K": GEOMETRY.K, "LOG2_D": GEOMETRY.row_bits}
    fields |= {"TIMESTAMP_BITS": GEOMETRY.timestamp_bits, "KEY_BITS": GEOMETRY.key_bits}
    words[register("GEOMETRY").word] = sum(register("GEOMETRY")[name].insert(value) for name, value in fields.items())
    capacity = register("CAPACITY")
    words[capacity.word] = capacity["SLOTS"].insert(GEOMETRY.slots) | capacity["APERTURE_DEPTH"].insert(
        GEOMETRY.aperture_depth
    )
    words[register("HASH_SEED").word] = GEOMETRY.hash_seed
    words[register("STATUS").word] = register("STATUS")["READY"].mask
    words[register("EPOCH").word] = 6
    return struct.pack(f"<{len(words)}I", *words)


class Kernel(System):
    """A tree of real files; what a write or a new folder sets off in the kernel is done at once."""

    def __init__(self, root, *, part=0x02, ways=("manager",), configured=True):
        super().__init__(str(root))
        #: What was configured, in order: (way, data).
        self.programmed = []
        self.removed = 0
        self.verdict = "operating"
        make_tree(root, GEOMETRY.slots, state="operating" if configured else "unknown")
        for name in (CONTROL_NODE, *map(slot_node, range(GEOMETRY.slots))):
            node(root, name).write_bytes(control_page() if name == CONTROL_NODE else bytes(PAGE_BYTES))
        if part is not None:
            self.make("sys/devices/soc0/family", "Xilinx Zynq\n")
            self.make("sys/devices/soc0/soc_id", f"{part:#x}\n")
        if "overlay" in ways:
            self.path(OVERLAYS).mkdir(parents=True)
            self.make(DEFAULT_OVERLAY, "an overlay")
        if "manager" in ways:
            self.make(f"{MANAGER}/flags", "3f\n")
            self.make(f"{MANAGER}/firmware", "")
        if "xdevcfg" in ways:
            self.make("dev/xdevcfg", "")
        if "sd" in ways:
            self.make("boot/parallella.bit.bin", "the old one")

    def make(self, name, text):
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def memory(self, words):
        """/dev/mem, with these words in it, an open bridge, and page 0."""
        with open(self.path("dev/mem"), "wb") as file:
            file.truncate(1 << 32)
            file.seek(BASE_ADDRESS)
            file.write(control_page())
            for address, word in {**OPEN_BRIDGE, **words}.items():
                file.seek(address)
                file.write(struct.pack("<I", word))

    def write(self, name, data):
        super().write(name, data)
        if name == f"{MANAGER}/firmware":
            assert self.text(f"{MANAGER}/flags")[:1] == "0"
            self.configure("manager", self.path(f"lib/firmware/{data.decode().strip()}").read_bytes())
        elif name == "dev/xdevcfg":
            self.configure("xdevcfg", data)
        elif name == f"{OVERLAYS}/bloomgate/dtbo":
            self.configure("overlay", self.path("lib/firmware/bloomgate.bit.bin").read_bytes())
            self.make(f"{OVERLAYS}/bloomgate/status", "applied\n")

    def remove_folder(self, name):
        self.removed += 1
        for file in self.path(name).iterdir():
            file.unlink()
        super().remove_folder(name)

    def configure(self, way, data):
        """As zynq-fpga: the sync word at a multiple of 4 bytes, and whole words."""
        swapped = bytes.fromhex("665599aa")
        if len(data) % 4 or swapped not in [data[i : i + 4] for i in range(0, len(data), 4)]:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.programmed.append((way, data))
        self.make(f"{MANAGER}/state", f"{self.verdict}\n")

    def word(self, register):
        """What page 0's file holds."""
        data = node(self.path(""), CONTROL_NODE).read_bytes()
        return struct.unpack_from("<I", data, CONTROL_PAGE.register(register).offset)[0]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "design.bit.bin"
    path.write_bytes(GOOD)
    return path


def said(file, kernel, **options):
    lines = []
    result = load(file, system=kernel, say=lines.append, **options)
    return result, "\n".join(lines)


@pytest.mark.parametrize(
    ("ways", "chosen"),
    [
        (("overlay", "manager", "xdevcfg", "sd"), "overlay"),
        (("manager", "xdevcfg", "sd"), "manager"),
        (("xdevcfg", "sd"), "xdevcfg"),
    ],
)
def test_the_best_way_is_taken(tmp_path, file, ways, chosen):
    kernel = Kernel(tmp_path / "root", ways=ways)
    loaded, text = said(file, kernel)
    assert kernel.programmed == [(chosen, GOOD)]
    assert (loaded.way, loaded.part, loaded.version, loaded.parameters) == (chosen, "xc7z010", VERSION, GEOMETRY)
    assert f"the running co-processor with {GEOMETRY.slots} slots is at rest" in text
    reset = CONTROL_PAGE.register("COMMAND")["SOFT_RESET"].mask
    assert (kernel.word("COMMAND"), kernel.word("INTERRUPT_ENABLE")) == (reset, 0)
    document = json.loads(kernel.path(str(IDENTITY_FILE)).read_text())
    assert document["version"] == list(VERSION)
    assert document["parameters"]["slots"] == GEOMETRY.slots


def test_boot_partition(tmp_path, file):
    """Written for the next start; the running device is left alone, and the old file stays."""
    kernel = Kernel(tmp_path / "root", ways=("sd",))
    loaded, text = said(file, kernel)
    assert (loaded.way, loaded.version, kernel.programmed, kernel.word("COMMAND")) == ("sd", None, [], 0)
    assert kernel.path("boot/parallella.bit.bin").read_bytes() == GOOD
    assert kernel.path("boot/parallella.bit.bin.previous").read_text() == "the old one"
    assert "takes effect at the next start" in text
    assert sorted(path.name for path in kernel.path("boot").iterdir()) == [
        "parallella.bit.bin",
        "parallella.bit.bin.previous",
    ]


def test_a_bit_file_is_converted(tmp_path):
    file = tmp_path / "design.bit"
    file.write_bytes(bit(stream()))
    kernel = Kernel(tmp_path / "root")
    load(file, system=kernel)
    assert kernel.programmed == [("manager", GOOD)]


def test_an_overlay_that_is_applied_is_replaced(tmp_path, file):
    kernel = Kernel(tmp_path / "root", ways=("overlay",))
    load(file, system=kernel)
    load(file, system=kernel)
    assert (len(kernel.programmed), kernel.removed) == (2, 1)


def untouched(kernel):
    return not kernel.programmed and kernel.word("COMMAND") == 0 and not kernel.path("lib/firmware").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:-200], "the data is cut short"),
        (b"", "the file is empty"),
        (b"\x7fELF" + bytes(4096), "there is no sync word"),
        (payload(stream()), "the words are not byte-swapped"),
    ],
    ids=("cut", "empty", "elf", "order"),
)
def test_a_wrong_file_touches_nothing(tmp_path, data, message):
    file = tmp_path / "x.bit.bin"
    file.write_bytes(data)
    kernel = Kernel(tmp_path / "root")
    with pytest.raises(BitstreamError, match=f"{re.escape(str(file))}: {message}.*; nothing was touched$"):
        load(file, system=kernel)
    assert untouched(kernel)


@pytest.mark.parametrize(
    ("part", "named", "message"),
    [
        (0x07, None, "is for the xc7z010, and this is an xc7z020; nothing was touched"),
        (0x07, "xc7z010", "this is an xc7z020, not the xc7z010 that was named; nothing was touched"),
        (0x0C, None, "is for the xc7z010, and this is an unknown part 0xc; nothing was touched"),
        (None, None, "nothing here says which part this is; run as root, or say --part; nothing was touched"),
        (None, "xc7z020", "is for the xc7z010, and this is an xc7z020; nothing was touched"),
    ],
)
def test_another_part_touches_nothing(tmp_path, file, part, named, message):
    kernel = Kernel(tmp_path / "root", part=part)
    with pytest.raises(LoadError, match=re.escape(message)):
        load(file, system=kernel, part=named)
    assert untouched(kernel)


def test_the_part_can_be_named_where_nothing_says_it(tmp_path, file):
    kernel = Kernel(tmp_path / "root", part=None)
    assert load(file, system=kernel, part="xc7z010").part == "xc7z010"


@pytest.mark.parametrize(("code", "part"), [(0x02, "xc7z010"), (0x07, "xc7z020"), (0x1F, "unknown part")])
def test_the_part_by_slcr(tmp_path, code, part):
    kernel = Kernel(tmp_path / "root", part=None)
    kernel.memory({PSS_IDCODE: 0x13722093 & ~0x1F000 | code << 12})
    assert kernel.part().startswith(part)


def test_without_a_way(tmp_path, file):
    kernel = Kernel(tmp_path / "root", ways=())
    with pytest.raises(LoadError, match="this system has no way to load a bitstream"):
        load(file, system=kernel)
    with pytest.raises(LoadError, match="this system cannot load by way of xdevcfg; nothing was touched"):
        load(file, system=kernel, way="xdevcfg")


@pytest.mark.parametrize("name", [CONTROL_NODE, slot_node(4)])
def test_a_device_in_use_is_left_alone(tmp_path, file, name):
    kernel = Kernel(tmp_path / "root")
    with open(node(kernel.path(""), name)) as user:
        fcntl.flock(user, fcntl.LOCK_EX)
        with pytest.raises(LoadError, match=f"the co-processor is in use; end its users first: the node {name}"):
            load(file, system=kernel)
        assert untouched(kernel)
    load(file, system=kernel)


@pytest.fixture
def with_module(tmp_path):
    """A system on which the kernel module has the device."""
    kernel = Kernel(tmp_path / "root", ways=("overlay", "manager", "xdevcfg"))
    for name in (CONTROL_NODE, *map(slot_node, range(GEOMETRY.slots))):
        node(kernel.path(""), name).rename(kernel.path(f"dev/{name}"))
    return kernel


def test_an_overlay_takes_the_kernel_module_away(file, with_module):
    """After it has brought the co-processor to rest through the module."""
    result, text = said(file, with_module)
    assert (result.way, [way for way, _ in with_module.programmed]) == ("overlay", ["overlay"])
    assert f"the running co-processor with {GEOMETRY.slots} slots is at rest" in text
    page = with_module.path(f"dev/{CONTROL_NODE}").read_bytes()
    command = CONTROL_PAGE.register("COMMAND")
    assert struct.unpack_from("<I", page, command.offset)[0] == command["SOFT_RESET"].mask


@pytest.mark.parametrize("way", ["manager", "xdevcfg"])
def test_the_kernel_module_does_not_get_another_bitstream_under_it(file, with_module, way):
    with pytest.raises(LoadError, match="rmmod bloomgate brings it to rest; nothing was touched"):
        load(file, system=with_module, way=way)
    assert with_module.programmed == []
    assert with_module.path(f"dev/{CONTROL_NODE}").read_bytes() == control_page()


def test_look_through_the_kernel_module(with_module):
    assert look(system=with_module)[1].slots == GEOMETRY.slots


def test_a_fabric_that_is_not_configured_is_not_brought_to_rest(tmp_path, file):
    kernel = Kernel(tmp_path / "root", configured=False)
    load(file, system=kernel)
    assert (len(kernel.programmed), kernel.word("COMMAND")) == (1, 0)


def test_a_design_that_is_not_ours_is_not_written_to(tmp_path, file):
    kernel = Kernel(tmp_path / "root")
    node(kernel.path(""), CONTROL_NODE).write_bytes(bytes(PAGE_BYTES))
    with pytest.raises(LoadError, match="the bitstream is loaded, but this is not a bloomgate device"):
        load(file, system=kernel)
    assert (len(kernel.programmed), kernel.word("COMMAND")) == (1, 0)


def test_a_kernel_that_refuses(tmp_path, file, monkeypatch):
    kernel = Kernel(tmp_path / "root")

    def refuse(way, data):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(kernel, "configure", refuse)
    with pytest.raises(LoadError, match=r"the kernel refused the bitstream \(.*Invalid argument\); see dmesg"):
        load(file, system=kernel)


def without_nodes(tmp_path, **words):
    kernel = Kernel(tmp_path / "root")
    for folder in (kernel.path("sys/class/uio")).iterdir():
        (folder / "name").unlink()
    kernel.memory({PSS_IDCODE: 0x2000, **words})
    return kernel


def test_without_nodes_it_looks_through_memory(tmp_path, file):
    loaded, text = said(file, without_nodes(tmp_path))
    assert (loaded.version, loaded.parameters) == (VERSION, GEOMETRY)
    assert "looking through /dev/mem" in text


@pytest.mark.parametrize(
    ("address", "word", "message"),
    [
        (LVL_SHFTR_EN, 0xA, "the level shifters are off"),
        (FPGA_RST_CTRL, 1, "the fabric is held in reset"),
        (FPGA0_THR_STA, 0, "FCLK0 is stopped"),
    ],
)
@pytest.mark.parametrize("nodes", [True, False], ids=["nodes", "no nodes"])
def test_a_closed_bridge_is_not_crossed(tmp_path, file, monkeypatch, nodes, address, word, message):
    """Neither before the new bitstream nor after it."""
    kernel = Kernel(tmp_path) if nodes else without_nodes(tmp_path)
    kernel.memory({address: word})
    monkeypatch.setattr("bloomgate.load.identify", lambda bus: pytest.fail("it was touched"))
    lines = []
    with pytest.raises(LoadError, match=f"the bitstream is loaded, but {message}.*, so it is not touched"):
        load(file, system=kernel, say=lines.append)
    assert any(re.match(f"no co-processor is brought to rest: {message}", line) for line in lines)
    assert not kernel.exists(IDENTITY_FILE)


@pytest.mark.parametrize(("nowayout", "armed"), [("0", True), ("1", False)])
def test_the_watchdog_is_armed_across_the_first_access(tmp_path, file, nowayout, armed):
    """Only one that can be stopped again: the "V" stops it."""
    kernel = Kernel(tmp_path / "root", configured=False)
    kernel.make("sys/class/watchdog/watchdog0/nowayout", f"{nowayout}\n")
    kernel.make("dev/watchdog", "")
    _, text = said(file, kernel)
    assert ("first access, with the watchdog armed" in text) == armed
    assert kernel.path("dev/watchdog").read_text() == ("V" if armed else "")


@pytest.mark.parametrize(("status", "warned"), [(b"okay\0", True), (None, True), (b"disabled\0", False)])
def test_it_warns_of_an_elink_in_the_device_tree(tmp_path, file, status, warned):
    kernel = Kernel(tmp_path / "root")
    folder = kernel.path("proc/device-tree/amba/elink@80000000")
    folder.mkdir(parents=True)
    if status is not None:
        (folder / "status").write_bytes(status)
    _, text = said(file, kernel)
    assert ("warning: the device tree has amba/elink@80000000" in text) == warned


def test_look_without_loading(tmp_path):
    kernel = Kernel(tmp_path / "root")
    assert look(system=kernel) == (VERSION, GEOMETRY)
    assert untouched(kernel)
    assert json.loads(kernel.path(str(IDENTITY_FILE)).read_text())["version"] == list(VERSION)
    kernel = without_nodes(tmp_path / "other")
    with pytest.raises(DeviceUnavailable, match="there is no node"):
        look(system=kernel)


def test_the_command_on_the_gateware(board, tmp_path, file):
    """Quiesce and version check through the shim: the epoch of the simulated gateware steps."""
    NATIVE.require()
    library()
    shim = NATIVE.shim(tmp_path / "shim.so")
    for name, text in {
        "sys/devices/soc0/family": "Xilinx Zynq\n",
        "sys/devices/soc0/soc_id": "0x2\n",
        f"{MANAGER}/flags": "0\n",
        f"{MANAGER}/firmware": "",
    }.items():
        path = board.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (epoch,) = board.server.bus.read(CONTROL_PAGE.register("EPOCH").offset, 1)
    # The last owner of a slot has left its queue pair enabled.
    queue = CONTROL_PAGE.window("QUEUE_RECORDS").offset + QUEUE_RECORD_BYTES
    control, status = QUEUE_RECORD.register("QUEUE_CONTROL"), QUEUE_RECORD.register("QUEUE_STATUS")
    board.server.bus.write(queue + control.offset, [control["ENABLE"].mask | control["GENERATION"].insert(7)])
    assert board.server.bus.read(queue + status.offset, 1)[0] & status["ENABLED"].mask
    command = [sys.executable, "-m", "bloomgate", "load", "--json", "--root", str(board.root)]
    result = board.run(*NATIVE.command(shim, *command, str(file)))
    assert result.returncode == 0, result
    document = json.loads(result.stdout)
    assert (document["way"], document["part"], document["version"]) == ("manager", "xc7z010", list(VERSION))
    assert board.server.bus.read(CONTROL_PAGE.register("EPOCH").offset, 1) == [epoch + 1]
    assert json.loads((board.root / IDENTITY_FILE).read_text())["version"] == list(VERSION)
    assert not board.server.bus.read(queue + status.offset, 1)[0] & (status["ENABLED"].mask | status["DRAINING"].mask)
    file.write_bytes(GOOD[:-400])
    result = board.run(*NATIVE.command(shim, *command, str(file)))
    assert (result.returncode, result.stdout) == (2, "")
    assert "nothing was touched" in result.stderr
    assert board.server.bus.read(CONTROL_PAGE.register("EPOCH").offset, 1) == [epoch + 1]

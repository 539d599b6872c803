"""The bring-up monitor as a person sees it: its console, on a virtual Zynq with the gateware in its fabric."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, IDENTIFICATION, PAGE_BYTES, SLOT_PAGE, VERSION, slot_page_offset
from bloomgate_sim.device import SimulatedBus

from tests.board.monitor_board import MonitorBoard, monitor_board, program
from tests.board.serial_line import LIMIT, Terminal
from tests.board.virtual_zynq import XC7Z010, Debugger

pytestmark = pytest.mark.xdist_group("sim")

BASE = 0x43C0_0000
LVL_SHFTR_EN, FPGA_RST_CTRL = 0xF800_0900, 0xF800_0240
IO_PLL_CTRL, UART_CLK_CTRL, MIO_PIN_08 = 0xF800_0108, 0xF800_0154, 0xF800_0720
UART1_BAUDGEN, UART1_BAUDDIV = 0xE000_1018, 0xE000_1034
SLCR_UNLOCK, SLCR_UNLOCK_KEY = 0xF800_0008, 0xDF0D


#: Offset of the first word of the control page that is no register.
HOLE = next(
    offset
    for offset in range(0, PAGE_BYTES, 4)
    if not any(item.offset <= offset < item.offset + item.size for item in CONTROL_PAGE)
)


@pytest.fixture(scope="module")
def bus() -> Iterator[SimulatedBus]:
    opened = SimulatedBus(Parameters())
    yield opened
    opened.close()


@contextmanager
def console(board: MonitorBoard) -> Iterator[Terminal]:
    """A terminal, at the prompt."""
    terminal = Terminal(board.line.port)
    terminal.wait_for_prompt()
    yield terminal
    terminal.close()


@pytest.fixture(scope="module")
def running(bus: SimulatedBus) -> Iterator[tuple[MonitorBoard, Terminal]]:
    """One monitor for all tests after which it runs on."""
    with monitor_board(bus) as board, console(board) as terminal:
        yield board, terminal


@pytest.fixture
def board(running: tuple[MonitorBoard, Terminal], bus: SimulatedBus) -> MonitorBoard:
    zynq = running[0].zynq
    zynq.bus, zynq.answering, zynq.clock_running, zynq.idcode = bus, True, True, XC7Z010
    return running[0]


@pytest.fixture
def terminal(running: tuple[MonitorBoard, Terminal], board: MonitorBoard) -> Terminal:
    assert running[1].say("") == ""
    return running[1]


@pytest.mark.parametrize("mmu", [False, True], ids=["caches off", "as U-Boot leaves it"])
def test_the_banner(bus: SimulatedBus, mmu: bool) -> None:
    with monitor_board(bus, mmu=mmu) as board, console(board) as terminal:
        banner = terminal.said
    version = ".".join(map(str, VERSION))
    assert banner.splitlines() == [
        "",
        "bloomgate monitor",
        "part: xc7z010, PSS_IDCODE 0x03722093",
        "last reset by: power-on, REBOOT_STATUS 0x00400000",
        "FCLK0: 36 MHz",  # of QEMU's PLLs as they are at its reset
        "fabric: ready",
        f"bloomgate {version}, K=4 D=4096, slots: {Parameters().slots}, keys: 512",
    ]


def test_peek_and_poke(terminal: Terminal) -> None:
    assert terminal.say(f"peek {BASE:#x}") == f"0x{BASE:08X}: 0x{IDENTIFICATION:08X}\n"
    epoch = BASE + CONTROL_PAGE.register("INITIAL_EPOCH").offset
    assert terminal.say(f"poke {epoch} 0xDeadBeef") == ""
    assert terminal.say(f"peek {epoch:#x} 1") == f"0x{epoch:08X}: 0xDEADBEEF\n"
    lines = terminal.say(f"peek {BASE:#X} 5").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"0x{BASE + 4 * n:08X}" for n in range(5)]


def peeked(terminal: Terminal, address: int) -> int:
    return int(terminal.say(f"peek {address:#x}").split()[1], 16)


@pytest.mark.parametrize(
    ("pll", "divisor", "clock"),
    [
        (0x0001_A008, 0x3F03, 33_333_333 * 26 / 63),  # after a reset
        (0x0001_E008, 0x1403, 33_333_333 * 30 / 20),  # 50 MHz, of which boot loaders are fond
        (0x0001_E008, 0x0A03, 33_333_333 * 30 / 10),
    ],
)
def test_the_baud_rate(board: MonitorBoard, terminal: Terminal, pll: int, divisor: int, clock: float) -> None:
    """From the clocks as the monitor finds them when it begins, here after an exception."""
    terminal.say(f"poke {SLCR_UNLOCK:#x} {SLCR_UNLOCK_KEY:#x}")
    terminal.say(f"poke {IO_PLL_CTRL:#x} {pll:#x}")
    terminal.say(f"poke {UART_CLK_CTRL:#x} {divisor:#x}")
    crash(board, 0xE7F0_00F0, 0)
    terminal.type("id\r")
    terminal.wait_for("restarted after")
    terminal.wait_for_prompt()
    generator, unit = peeked(terminal, UART1_BAUDGEN), peeked(terminal, UART1_BAUDDIV) + 1
    assert unit >= 5
    # A receiver samples the last of ten bits at its middle: each end may be off by 2 % and more.
    assert clock / (generator * unit) == pytest.approx(115200, rel=0.01)
    # Nobody had given the UART its pins: UART1 to send on MIO8 and to receive on MIO9.
    assert [peeked(terminal, MIO_PIN_08 + 4 * n) & 0xFF for n in range(2)] == [0xE0, 0xE1]


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("peek", "the address must be a number that is a multiple of 4"),
        ("peek 0x43C00002", "the address must be a number that is a multiple of 4"),
        ("peek 0x143C00000", "the address must be a number that is a multiple of 4"),
        ("peek 4294967296", "the address must be a number that is a multiple of 4"),
        ("peek 0x", "the address must be a number that is a multiple of 4"),
        ("peek 12a", "the address must be a number that is a multiple of 4"),
        ("peek 0x43C00000 0", "the count must be a number from 1 to 256"),
        ("peek 0x43C00000 257", "the count must be a number from 1 to 256"),
        ("poke 0x43C00034", "the value must be a number of 32 bits"),
        ("poke 0x43C00034 -1", "the value must be a number of 32 bits"),
        ("Peek 0", "no such command; say help"),
        ("pe ek", "no such command; say help"),
    ],
)
def test_what_is_typed_wrong(terminal: Terminal, command: str, answer: str) -> None:
    assert terminal.say(command) == f"{answer}\n"


def test_editing_a_line(terminal: Terminal) -> None:
    terminal.type("peek\b\b\b\bhelpx\x7f\r")
    assert "self-test of the core" in terminal.wait_for_prompt()
    # Longer than any line: the end is lost, and nothing else.
    terminal.type("x" * 500 + "\r")
    assert "no such command" in terminal.wait_for_prompt()
    assert terminal.say("") == ""


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        (BASE + HOLE, "SLVERR"),  # no register in the control page
        (BASE + 0x8_0000, "DECERR"),  # behind the last slot
        (0xC000_0000, "nothing is mapped there"),  # reserved in the address map: the MMU's own fault
    ],
)
def test_data_aborts(terminal: Terminal, address: int, fault: str) -> None:
    for command in (f"peek {address:#x}", f"poke {address:#x} 1"):
        pattern = rf"aborted: {fault}, address 0x{address:08X}, DFSR 0x[0-9A-F]{{8}}\n"
        assert re.fullmatch(pattern, terminal.say(command))
        # It has recovered.
        assert terminal.say(f"peek {BASE:#x}") == f"0x{BASE:08X}: 0x{IDENTIFICATION:08X}\n"


def test_a_peek_stops_at_the_first_abort(terminal: Terminal) -> None:
    lines = terminal.say(f"peek {BASE + HOLE - 8:#x} 4").splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(f"aborted: SLVERR, address 0x{BASE + HOLE:08X}")


# -- before the first access ---------------------------------------------------------------


def test_without_a_bitstream() -> None:
    with monitor_board(None, connected=False) as board, console(board) as terminal:
        assert "fabric: not configured; load a bitstream\n" in terminal.said
        for command in (f"peek {BASE:#x}", f"poke {BASE:#x} 0", "test", "peek 0x80000000", "peek 0x7FFFFFFC"):
            assert terminal.say(command) == "refused, fabric: not configured; load a bitstream\n"
        assert terminal.say("connect") == "fabric: not configured; load a bitstream\n"
        assert "nothing is mapped" in terminal.say("peek 0xC0000000")
        assert board.zynq.accesses == 0


def test_connecting_a_configured_fabric(bus: SimulatedBus) -> None:
    with monitor_board(bus, connected=False) as board, console(board) as terminal:
        assert "fabric: level shifters off; say connect\n" in terminal.said
        assert terminal.say(f"peek {BASE:#x}") == "refused, fabric: level shifters off; say connect\n"
        assert board.zynq.accesses == 0
        assert terminal.say("connect") == "fabric: ready\n"
        assert terminal.say(f"peek {BASE:#x}") == f"0x{BASE:08X}: 0x{IDENTIFICATION:08X}\n"


@pytest.mark.parametrize(
    ("register", "value", "good", "state"),
    [
        (LVL_SHFTR_EN, 0xA, 0xF, "level shifters off; say connect"),
        (FPGA_RST_CTRL, 1, 0, "in reset; say connect"),
        (FPGA_RST_CTRL, 0x0100_0000, 0, "in reset; say connect"),
    ],
)
def test_a_fabric_that_would_not_answer(
    board: MonitorBoard, terminal: Terminal, register: int, value: int, good: int, state: str
) -> None:
    terminal.say(f"poke {SLCR_UNLOCK:#x} {SLCR_UNLOCK_KEY:#x}")
    terminal.say(f"poke {register:#x} {value:#x}")
    before = board.zynq.accesses
    for command in (f"peek {BASE:#x}", f"poke {BASE:#x} 0", "test"):
        assert terminal.say(command) == f"refused, fabric: {state}\n"
    assert board.zynq.accesses == before
    terminal.say(f"poke {register:#x} {good:#x}")
    assert terminal.say(f"peek {BASE:#x}") == f"0x{BASE:08X}: 0x{IDENTIFICATION:08X}\n"


def test_a_fabric_without_a_clock(board: MonitorBoard, terminal: Terminal) -> None:
    board.zynq.clock_running = False
    before = board.zynq.accesses
    assert terminal.say(f"peek {BASE:#x}") == "refused, fabric: FCLK0 is stopped\n"
    assert terminal.say("connect") == "fabric: FCLK0 is stopped\n"
    assert board.zynq.accesses == before


@pytest.mark.parametrize(("idcode", "part"), [(0x1372_7093, "xc7z020"), (0x0373_1093, "unknown")])
def test_other_parts(board: MonitorBoard, terminal: Terminal, idcode: int, part: str) -> None:
    board.zynq.idcode = idcode
    assert f"part: {part}, PSS_IDCODE 0x{idcode:08X}\n" in terminal.say("id")


def test_every_access_is_watched(board: MonitorBoard, terminal: Terminal) -> None:
    """That none is made without the watchdog is checked at each; here, that it sleeps in between."""
    armed = board.zynq.watchdog.armed
    terminal.say(f"peek {BASE:#x} 3")
    terminal.say("peek 0xF8000530")
    assert board.zynq.watchdog.armed == armed + 4
    assert not board.zynq.watchdog.enabled


def test_an_access_without_an_answer(board: MonitorBoard, terminal: Terminal) -> None:
    board.zynq.answering = False
    terminal.type(f"peek {BASE:#x}\r")
    # Its banner wants to identify the core, and stalls in turn, until there is no fabric any more.
    said = terminal.wait_for("fabric: ready")
    assert "last reset by: the system watchdog, during an access that had no answer" in said
    board.zynq.bus = None
    said = terminal.wait_for_prompt()
    assert said.endswith("fabric: not configured; load a bitstream\n")
    assert board.zynq.bites >= 1
    # Reported once.
    assert "watchdog" not in terminal.say("id")


def test_the_bite_command(bus: SimulatedBus) -> None:
    with monitor_board(bus) as board, console(board) as terminal:
        terminal.type("bite\r")
        terminal.wait_for("the watchdog resets the system in two seconds")
        deadline = time.monotonic() + LIMIT
        while not board.zynq.watchdog.enabled:
            assert time.monotonic() < deadline


def test_reboot(bus: SimulatedBus) -> None:
    with monitor_board(bus) as board, console(board) as terminal:
        terminal.type("reboot\r")
        terminal.wait_for("bloomgate monitor")
        assert "fabric: in reset" in terminal.wait_for_prompt(), "QEMU's SLCR is as after a reset"


# -- what nobody expected ------------------------------------------------------------------

#: What it ends in, instruction, and r0.
CRASHES = [
    ("undefined instruction", 0xE7F0_00F0, 0),  # udf
    ("data abort", 0xE590_0000, 0xC000_0000),  # ldr r0, [r0]
    ("data abort", 0xE590_0000, BASE),  # the fabric is mapped only while the monitor expects to access it
    ("data abort", 0xE580_0000, 0xBFFF_FFFC),  # str r0, [r0]
    ("unexpected exception", 0xEF00_0000, 0),  # svc
    ("prefetch abort", 0xE12F_FF10, 0xC000_0000),  # bx r0
    ("prefetch abort", 0xE12F_FF10, BASE),
]


def crash(board: MonitorBoard, instruction: int, r0: int, *, accessing: bool = False) -> int:
    """Have the processor execute an instruction, at the next access to a device, or in the middle of one.

    Returns the address of the instruction: the far end of the monitor's stack.
    """
    place = program("uboot").symbols["__bss_end"]

    def interruption(debugger: Debugger) -> bool:
        if accessing and not board.zynq.watchdog.enabled:
            return False
        debugger.order(
            Debugger.write_word(place, instruction), Debugger.set_register(0, r0), Debugger.set_register(15, place)
        )
        return True

    board.zynq.interruption = interruption
    return place


@pytest.mark.parametrize(("kind", "instruction", "address"), CRASHES)
def test_an_exception_that_nobody_expected(
    board: MonitorBoard, terminal: Terminal, kind: str, instruction: int, address: int
) -> None:
    for _ in range(2):
        place = crash(board, instruction, address)
        terminal.type("id\r")
        terminal.wait_for("bloomgate monitor")
        said = terminal.wait_for_prompt()
        pc = address if kind == "prefetch abort" else place
        assert re.match(rf"\nrestarted after: {kind}, pc 0x{pc:08X}, status 0x[0-9A-F]+, address 0x[0-9A-F]+\n", said)
        assert not board.zynq.watchdog.enabled
        assert terminal.say(f"peek {BASE:#x}") == f"0x{BASE:08X}: 0x{IDENTIFICATION:08X}\n"


def test_an_exception_in_the_middle_of_an_access(board: MonitorBoard, terminal: Terminal) -> None:
    """The watchdog is put to sleep, and the fabric is not left open."""
    before = board.zynq.accesses
    crash(board, 0xE7F0_00F0, 0, accessing=True)
    terminal.type(f"peek {BASE:#x}\r")
    terminal.wait_for("restarted after: undefined instruction")
    terminal.wait_for_prompt()
    assert (board.zynq.watchdog.enabled, board.zynq.accesses) == (False, before)


# -- the self-test -------------------------------------------------------------------------


def test_the_selftest(terminal: Terminal) -> None:
    for _ in range(2):
        said = terminal.say("test").splitlines()
        assert said[-1] == "self-test passed"
        assert {line.split()[0] for line in said[1:-1]} == {"ok"}
        assert len(said) == 13


class LyingBus(SimulatedBus):
    """Turns over bits of one word when it is read for the nth time."""

    def __init__(self, offset: int, mask: int, when: int) -> None:
        super().__init__(Parameters())
        self._lie = (offset, mask, when)
        self._reads = itertools.count()

    def read(self, offset: int, words: int) -> list[int]:
        result = super().read(offset, words)
        wrong, mask, when = self._lie
        if offset == wrong and next(self._reads) >= when:
            result[0] ^= mask
        return result


_PAGE = slot_page_offset(0)
_VERDICT = SLOT_PAGE.register("VERDICT")
LIES = {
    "another identification": (0, 0x100, 0),
    "another major version": (4, 1 << 16, 0),
    "the epoch stands still": (CONTROL_PAGE.register("EPOCH").offset, 1, 1),
    "never ready": (CONTROL_PAGE.register("STATUS").offset, 1, 0),
    "no verdict": (_PAGE + _VERDICT.offset, _VERDICT["DONE"].mask, 1),
    "commits for aborts": (_PAGE + _VERDICT.offset, _VERDICT["COMMITTED"].mask, 1),
    "another timestamp": (_PAGE + SLOT_PAGE.register("TIMESTAMP_COUNT").offset, 4, 0),
    "another epoch": (_PAGE + SLOT_PAGE.register("TIMESTAMP_EPOCH").offset, 4, 0),
    "another key": (_PAGE + SLOT_PAGE.register("CONFLICT_KEY").offset, 4, 0),
    "another count": (CONTROL_PAGE.register("COUNT").offset, 1, 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_selftest_finds_a_wrong_core(board: MonitorBoard, terminal: Terminal, lie: str) -> None:
    board.zynq.bus = wrong = LyingBus(*LIES[lie])
    said = terminal.say("test")
    wrong.close()
    assert said.endswith("self-test FAILED\n")
    assert "  FAILED  " in said

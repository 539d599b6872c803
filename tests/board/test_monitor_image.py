"""The monitor's boot image, read as the BootROM reads it: by UG585 section 6.3, and by none of the project's code."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from bloomgate.parameters import Parameters
from bloomgate_sim.device import SimulatedBus

from tests.board.monitor_board import BUILD, ROOT, monitor_board, program
from tests.board.serial_line import Terminal

pytestmark = pytest.mark.xdist_group("sim")

TOOL = ROOT / "firmware" / "monitor" / "boot_image.py"


class Booted(NamedTuple):
    program: bytes
    load: int
    start: int


def boot_rom(image: bytes) -> Booted:
    """What the BootROM would load where, and enter; ValueError for what it refuses (UG585 table 6-5 and figure 6-6)."""

    def word(offset: int) -> int:
        return int.from_bytes(image[offset : offset + 4], "little")

    if len(image) < 0x8C0:
        raise ValueError("shorter than a header")
    if image[0x20:0x24] != b"\x66\x55\x99\xaa":
        raise ValueError("no width detection word")
    if image[0x24:0x28] != b"XNLX":
        raise ValueError("no identification")
    if sum(word(offset) for offset in range(0x20, 0x48, 4)) + word(0x48) & 0xFFFFFFFF != 0xFFFFFFFF:
        raise ValueError("a wrong checksum")
    if word(0x28) != 0:
        raise ValueError("encrypted")
    offset, length, load, start, total = word(0x30), word(0x34), word(0x38), word(0x3C), word(0x40)
    if offset % 64 or offset < 0x8C0:
        raise ValueError("the program is at an address that is not allowed")
    if not 0 < length <= 192 * 1024 or length != total or length % 4:
        raise ValueError("a length that is not allowed")
    if load or not load <= start < load + length or start % 4:
        raise ValueError("an address that is not allowed")
    if len(image) < offset + length:
        raise ValueError("cut short")
    for pair in range(256):
        address = word(0xA0 + 8 * pair)
        if address == 0xFFFFFFFF:
            break
        raise ValueError(f"initialises {address:#x}")
    return Booted(image[offset : offset + length], load, start)


@pytest.fixture(scope="module")
def image() -> bytes:
    program("boot")
    return (BUILD / "BOOT.BIN").read_bytes()


def test_the_header(image: bytes) -> None:
    booted = boot_rom(image)
    linked = program("boot")
    assert booted.program[: len(linked.data)] == linked.data
    assert len(booted.program) - len(linked.data) < 4
    assert (booted.load, booted.start) == (0, linked.symbols["_start"])
    # Until the program has set VBAR, an exception must not run into the header's own words.
    assert struct.unpack_from("<8I", image) == (0xEAFFFFFE,) * 8


def test_it_boots(image: bytes) -> None:
    """From what the BootROM loads, without a boot loader before it: no bitstream, and everything as after a reset."""
    booted = boot_rom(image)
    with monitor_board(None, data=booted.program, name="boot", connected=False) as board:
        terminal = Terminal(board.line.port)
        assert "fabric: not configured" in terminal.wait_for_prompt()
        # In low memory it is as careful with what it does not have.
        assert "nothing is mapped" in terminal.say("peek 0x00080000")
        terminal.close()


def test_it_serves_a_fabric_that_a_debugger_has_configured(image: bytes) -> None:
    bus = SimulatedBus(Parameters())
    with monitor_board(bus, data=boot_rom(image).program, name="boot", connected=False) as board:
        terminal = Terminal(board.line.port)
        terminal.wait_for_prompt()
        assert terminal.say("connect") == "fabric: ready\n"
        assert terminal.say("test").endswith("self-test passed\n")
        terminal.close()
    bus.close()


def run(tmp_path: Path, data: bytes) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program").write_bytes(data)
    command = [sys.executable, str(TOOL), str(tmp_path / "program"), str(tmp_path / "image")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 192 * 1024])
def test_any_program_that_fits(tmp_path: Path, size: int) -> None:
    data = bytes(range(1, 256)) * (size // 255 + 1)
    assert run(tmp_path, data[:size]).returncode == 0
    booted = boot_rom((tmp_path / "image").read_bytes())
    assert booted.program[:size] == data[:size]
    assert not any(booted.program[size:])


@pytest.mark.parametrize("size", [0, 192 * 1024 + 1])
def test_a_program_that_does_not_fit(tmp_path: Path, size: int) -> None:
    result = run(tmp_path, bytes(size))
    assert result.returncode == 1
    assert result.stderr.endswith(f"a program must have 1 to 196608 bytes, not {(size + 3) // 4 * 4}\n")
    assert not (tmp_path / "image").exists()

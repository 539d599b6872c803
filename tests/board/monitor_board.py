"""The bring-up monitor on a virtual Zynq: built once, started in every way that a board can start it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from bloomgate_sim.device import SimulatedBus

from tests.board.serial_line import SerialLine
from tests.board.virtual_zynq import VirtualZynq, require_tools

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "firmware"


class Program(NamedTuple):
    """A linked monitor."""

    data: bytes
    #: Addresses of its symbols.
    symbols: Mapping[str, int]


@cache
def build() -> None:
    """As ``make firmware`` does it. Skips without the tools."""
    require_tools()
    BUILD.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(BUILD / ".lock"):
        command = ["make", "-C", str(ROOT / "firmware" / "monitor"), f"BUILD={BUILD}", f"PYTHON={sys.executable}"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert made.returncode == 0, made.stderr


@cache
def program(name: str) -> Program:
    """``uboot`` or ``boot``."""
    build()
    listed = subprocess.run(
        ["arm-linux-gnueabihf-nm", str(BUILD / f"monitor-{name}.elf")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    lines = (line.split() for line in listed.stdout.splitlines())
    symbols = {symbol: int(address, 16) for address, _, symbol in lines}
    return Program((BUILD / f"monitor-{name}.bin").read_bytes(), symbols)


class MonitorBoard(NamedTuple):
    zynq: VirtualZynq
    line: SerialLine


@contextmanager
def monitor_board(
    bus: SimulatedBus | None, *, data: bytes | None = None, name: str = "uboot", **kind: Any
) -> Iterator[MonitorBoard]:
    """A running monitor. ``data``: the program, if not the one of that name. ``kind``: see VirtualZynq."""
    linked = program(name)
    with tempfile.TemporaryDirectory(prefix="bg-") as folder:
        zynq = VirtualZynq(
            Path(folder),
            linked.data if data is None else data,
            address=linked.symbols["_start"],
            vectors=linked.symbols["vectors"],
            bus=bus,
            **kind,
        )
        try:
            line = SerialLine(zynq.console)
            try:
                zynq.start()
                yield MonitorBoard(zynq, line)
            finally:
                line.close()
        finally:
            zynq.close()

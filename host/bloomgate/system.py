"""The files of a Linux system on a Zynq that say what the board is and carry a bitstream into it.

Everything is below a root, so that the same code runs on a tree of ordinary files. ``/dev/mem`` is opened only by the
methods that say so, and only for the words that they read.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from bloomgate.libbloomgate import library

__all__ = ["System"]

#: SLCR (UG585 appendix B.28): the part; level shifters between PS and PL; resets of the PL; the state of FCLK0.
_PSS_IDCODE, _LVL_SHFTR_EN, _FPGA_RST_CTRL, _FPGA0_THR_STA = 0xF8000530, 0xF8000900, 0xF8000240, 0xF800017C
#: LVL_SHFTR_EN with both directions on.
_SHIFTERS_ON = 0xF
#: FPGA0_THR_STA while the clock runs.
_RUNNING = 1 << 16
#: Bits 16:12 of PSS_IDCODE (UG585, "PSS_IDCODE") and Linux's soc_id, which is the same field.
_PARTS = {0x02: "xc7z010", 0x07: "xc7z020"}


class System:
    """A Linux system. Paths are relative to its root."""

    def __init__(self, root: str = "") -> None:
        """``root``: "" for this machine."""
        self.root = root

    def path(self, name: str) -> Path:
        """Where a file of the system is."""
        return Path(self.root or "/", name)

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def text(self, name: str) -> Optional[str]:
        """A short file without its line end; None when it cannot be read."""
        try:
            return self.path(name).read_text(encoding="ascii", errors="replace").rstrip("\n\0")
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Hand data to a file of the kernel, with one write and nothing truncated. Raises OSError."""
        file = os.open(self.path(name), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            done = os.write(file, data)
            while done < len(data):
                done += os.write(file, data[done:])
        finally:
            os.close(file)

    def store(self, name: str, data: bytes) -> None:
        """Write a file of a file system: it is there whole, and on the medium, or as it was. Raises OSError."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def make_folder(self, name: str) -> None:
        self.path(name).mkdir()

    def remove_folder(self, name: str) -> None:
        self.path(name).rmdir()

    def fabric_ready(self) -> bool:
        """Whether Linux says that the fabric is configured."""
        ffi, lib = library()
        return bool(lib.bloomgate_fabric_ready(os.fsencode(self.root)) == lib.BLOOMGATE_OK)

    def physical_words(self, address: int, count: int) -> list[int]:
        """Words from /dev/mem, read 32 bits at a time. Raises OSError."""
        page = mmap.PAGESIZE
        file = os.open(self.path("dev/mem"), os.O_RDONLY | os.O_SYNC)
        try:
            memory = mmap.mmap(file, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=address // page * page)
        finally:
            os.close(file)
        ffi, lib = library()
        with memory, ffi.from_buffer(memory) as buffer:
            words = ffi.cast("uint32_t *", buffer)
            window = ffi.new("struct bloomgate_window *", {"words": words, "bytes": page, "file": -1})
            target = ffi.new("uint32_t[]", count)
            if lib.bloomgate_read(window, address % page, target, count) != lib.BLOOMGATE_OK:
                raise ValueError(f"{count} words at {address:#010x} are not in one page")
            return list(target)

    def part(self) -> Optional[str]:
        """The part that this is, as Linux or else SLCR says (/dev/mem); None when neither can be asked."""
        identifier = self.text("sys/devices/soc0/soc_id")
        if identifier is not None and self.text("sys/devices/soc0/family") == "Xilinx Zynq":
            with contextlib.suppress(ValueError):
                return _PARTS.get(int(identifier, 16), f"unknown part {identifier}")
        try:
            (word,) = self.physical_words(_PSS_IDCODE, 1)
        except OSError:
            return None
        return _PARTS.get(word >> 12 & 0x1F, f"unknown part with PSS_IDCODE {word:#010x}")

    def bridge_closed(self) -> Optional[str]:
        """What would keep the fabric from answering, as SLCR says (/dev/mem); None when it can answer.

        Raises OSError where /dev/mem cannot be read.
        """
        (shifters,) = self.physical_words(_LVL_SHFTR_EN, 1)
        if shifters & _SHIFTERS_ON != _SHIFTERS_ON:
            return f"the level shifters are off (LVL_SHFTR_EN {shifters:#x})"
        (resets,) = self.physical_words(_FPGA_RST_CTRL, 1)
        if resets & 1:
            return f"the fabric is held in reset (FPGA_RST_CTRL {resets:#x})"
        (clock,) = self.physical_words(_FPGA0_THR_STA, 1)
        if not clock & _RUNNING:
            return f"FCLK0 is stopped (FPGA0_THR_STA {clock:#x}); fclk-enable in the device tree keeps it running"
        return None

    @contextlib.contextmanager
    def watchdog(self) -> Iterator[bool]:
        """Arm the watchdog around an access that may stall the processor; whether it is armed.

        It is left alone where it could not be stopped again (nowayout), or where another program feeds it.
        """
        file = None
        if self.text("sys/class/watchdog/watchdog0/nowayout") == "0":
            with contextlib.suppress(OSError):
                file = os.open(self.path("dev/watchdog"), os.O_WRONLY)
        try:
            yield file is not None
        finally:
            if file is not None:
                os.write(file, b"V")  # "magic close": the next close stops it
                os.close(file)

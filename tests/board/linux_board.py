"""The virtual Parallella: Linux for the Cortex-A9 in QEMU's Zynq, and the compiled gateware in its fabric.

As in ``virtual_zynq.py``, QEMU's debugger stub stops the processor before each access to the fabric, and Python makes
the access on the gateware. A stub watches virtual addresses, so this also stops where the kernel maps the fabric, at
``remap_pfn_range`` for a program's mmap and at the end of ``ioremap`` for a driver, and where it unmaps. Kernel,
drivers and programs are those of a board, unchanged. Two programs may not have the fabric mapped at the same time. The
interrupt goes through QEMU's qtest socket into the interrupt controller.

Memory is a file that QEMU shares, and the gateware's master reads and writes it: what S_AXI_ACP and S_AXI_HP0 would
see, as here is no cache.

PCFG_DONE, which QEMU lacks, is answered here, so that Linux finds the fabric configured.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE
from bloomgate_sim.device import BusError, SimulatedBus

from tests.board.emulation import ROOT
from tests.board.virtual_zynq import LIMIT, QEMU, Debugger, VirtualZynqError, connect

__all__ = ["LinuxBoard", "cache_folder"]

_PAGE = 4096
_FABRIC = range(BASE_ADDRESS, BASE_ADDRESS + 0x10_0000)
_DEVCFG, _INT_STS, _PCFG_DONE = 0xF800_7000, 0x00C, 1 << 2
_SP, _LR, _PC, _CPSR = 13, 14, 15, 25
_THUMB = 1 << 5
#: Seconds between two looks at the gateware while the processor touches nothing, and clocks that then pass; after so
#: many it is at rest, until it is touched again.
_TICK_SECONDS, _TICK_CLOCKS, _TICKS = 0.002, 500, 200
#: DDR, from address 0. Linux has the first 256 MiB, and UIO maps the queue memory at 0x3E000000.
_MEMORY_BYTES = 1 << 30
_QUEUE_CAPACITY = CONTROL_PAGE.register("QUEUE_CAPACITY")
#: IRQ_F2P[0] at the input of QEMU's interrupt controller: GIC 61 without the 32 private ones.
_LINE = 61 - 32


def cache_folder() -> Path:
    """Where ``make virtual-board`` has put kernel and root file system. Skips the test if it has not."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    folder = root / "bloomgate" / "virtual-board"
    tools = (QEMU, "dtc", "fdtoverlay", "cpio")
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if lacking or not (folder / "kernel" / "done").exists() or not (folder / "root" / "done").exists():
        pytest.skip(f"no kernel in {folder}{''.join(f', no {tool}' for tool in lacking)}: make virtual-board")
    return folder


def decode(code: int, thumb: bool, registers: list[int]) -> tuple[int, bool, int, int, int | None]:
    """(length, load, register, address, base afterwards) of a 32-bit load or store with an immediate offset.

    ``code``: the four bytes at the program counter. Raises VirtualZynqError for any other instruction.
    """
    if not thumb and code >> 28 == 0xE and code >> 25 & 7 == 2 and not code >> 22 & 1:
        rn, rt, offset = code >> 16 & 15, code >> 12 & 15, code & 0xFFF
        after = registers[rn] + (offset if code >> 23 & 1 else -offset)
        pre = code >> 24 & 1
        writes_back = not pre or code >> 21 & 1
        return 4, bool(code >> 20 & 1), rt, after if pre else registers[rn], after if writes_back else None
    first, second = code & 0xFFFF, code >> 16
    if thumb and first & 0xF000 == 0x6000:
        return 2, bool(first >> 11 & 1), first & 7, registers[first >> 3 & 7] + (first >> 6 & 31) * 4, None
    if thumb and first & 0xF600 == 0x5000:
        return 2, bool(first >> 11 & 1), first & 7, registers[first >> 3 & 7] + registers[first >> 6 & 7], None
    if thumb and first & 0xFF60 == 0xF840:
        rn, rt, load = first & 15, second >> 12, bool(first >> 4 & 1)
        if first & 0x80:
            return 4, load, rt, registers[rn] + (second & 0xFFF), None
        if second & 0x800:
            offset = second & 0xFF if second & 0x200 else -(second & 0xFF)
            address = registers[rn] + (offset if second & 0x400 else 0)
            return 4, load, rt, address, registers[rn] + offset if second & 0x100 else None
        return 4, load, rt, registers[rn] + (registers[second & 15] << (second >> 4 & 3)), None
    raise VirtualZynqError(f"the instruction {code:#010x} is no 32-bit access")


class LinuxBoard:
    """A running board. ``wait`` ends it."""

    def __init__(self, folder: Path, bus: SimulatedBus, files: Path, cache: Path, overlay: Path | None = None) -> None:
        """``files``: a tree that is laid over the root file system; its ``/init.test`` runs, and its end is the end.

        ``overlay``: compiled, applied to the board's device tree in the place of the UIO nodes. With those, the
        gateware says that it is on S_AXI_HP0, as a bitstream for UIO is.
        """
        self.bus = bus
        #: Accesses to the fabric, and pages of it that were mapped.
        self.accesses = 0
        self.mapped: set[int] = set()
        self.failure: BaseException | None = None
        self._folder = folder
        #: Virtual page -> physical page and the address space it is in (0: the kernel's).
        self._pages: dict[int, tuple[int, int]] = {}
        self._returns: dict[int, int] = {}
        self._line = False
        self._uncached = overlay is None
        # In memory, if it can be: it is written to often.
        shared = Path("/dev/shm")
        with tempfile.TemporaryFile(dir=shared if shared.is_dir() else folder) as memory:
            memory.truncate(_MEMORY_BYTES)
            bus.memory.attach(mmap.mmap(memory.fileno(), _MEMORY_BYTES), 0)
            self._start(folder, self._images(folder, files, cache, overlay), cache, memory.fileno())

    def _start(self, folder: Path, images: tuple[Path, Path], cache: Path, memory: int) -> None:
        """``memory``: the file that is DDR."""
        symbols = dict(
            reversed(line.split()[::2]) for line in (cache / "kernel" / "System.map").read_text().splitlines()
        )
        self._remap = int(symbols["remap_pfn_range"], 16)
        self._ioremap = int(symbols["__arm_ioremap_caller"], 16)
        self._unmap = int(symbols["unmap_vmas"], 16)
        self._log = (folder / "console.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(QEMU, "-machine", "xilinx-zynq-a9,memory-backend=ddr", "-m", f"{_MEMORY_BYTES >> 20}"),
                "-object",
                f"memory-backend-file,id=ddr,size={_MEMORY_BYTES},share=on,mem-path=/proc/self/fd/{memory}",
                *("-display", "none", "-nodefaults", "-no-reboot", "-S"),
                *("-kernel", str(cache / "kernel" / "zImage"), "-dtb", str(images[0]), "-initrd", str(images[1])),
                "-append",
                "console=ttyPS0 uio_pdrv_genirq.of_id=generic-uio maxcpus=1 mem=256M panic=-1 rdinit=/init.board quiet",
                *("-gdb", f"unix:{folder}/gdb,server=on,wait=off"),
                *("-qtest", f"unix:{folder}/qtest,server=on,wait=off", "-qtest-log", "/dev/null"),
                *("-monitor", f"unix:{folder}/monitor,server=on,wait=off"),
                *("-serial", "null", "-serial", "stdio"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[memory],
        )
        self._debugger = Debugger(folder / "gdb", self._process)
        self._qtest = connect(folder / "qtest", self._process)
        self._qtest.settimeout(LIMIT)
        self._gic = self._interrupt_controller()
        self._debugger.order(*(f"Z0,{address:x},4" for address in (self._remap, self._ioremap, self._unmap)))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @staticmethod
    def _images(folder: Path, files: Path, cache: Path, overlay: Path | None) -> tuple[Path, Path]:
        """Device tree and initial file system."""
        tree, archive = folder / "board.dtb", folder / "root.cpio"
        script = ROOT / "firmware" / "devicetree" / "patch-base.sh"
        stock = cache / "kernel" / "zynq-parallella.dtb"
        # QEMU has no I2C device at 0x68 either.
        options = ["--no-i2c0"] if overlay is not None else ["--no-i2c0", "--static"]
        command = ["sh", str(script), *options, str(stock), str(tree)]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
        if overlay is not None:
            whole = folder / "whole.dtb"
            subprocess.run(["fdtoverlay", "-i", str(tree), "-o", str(whole), str(overlay)], check=True, timeout=60)
            tree = whole
        with archive.open("wb") as out:
            # The kernel unpacks archives one after the other.
            for source in (cache / "root", ROOT / "firmware" / "virtual-board" / "root", files):
                names = subprocess.run(["find", "."], cwd=source, check=True, stdout=subprocess.PIPE, timeout=60).stdout
                command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"]
                subprocess.run(command, cwd=source, input=names, stdout=out, check=True, timeout=60)
        return tree, archive

    def wait(self, seconds: float) -> str:
        """The console's text, when the system has ended. Raises what went wrong."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self.failure = self.failure or VirtualZynqError(f"the system did not end within {seconds} s")
        self._thread.join(LIMIT)
        self._debugger.close()
        self._qtest.close()
        self._log.close()
        text = (self._folder / "console.log").read_text(errors="replace")
        if self.failure is not None:
            raise VirtualZynqError(f"{self.failure}; the console:\n{text}") from self.failure
        return text

    def _interrupt_controller(self) -> str:
        """The path of QEMU's interrupt controller, from the tree of its objects."""
        with connect(self._folder / "monitor", self._process) as monitor:
            monitor.settimeout(LIMIT)
            monitor.sendall(b"info qom-tree\n")
            text = ""
            while "(a9mpcore_priv)" not in text:
                text += monitor.recv(1 << 16).decode(errors="replace")
        (line,) = [line for line in text.splitlines() if "(a9mpcore_priv)" in line]
        return f"/machine/unattached/{line.split('/')[1].split(' ')[0]}"

    # The processor, in the thread that serves it.

    def _serve(self) -> None:
        try:
            while True:
                self._debugger.send("c")
                stop = self._stopped()
                if stop.startswith("W"):
                    return
                if "watch:" in stop:
                    self._access()
                else:
                    self._breakpoint()
                self._drive_interrupt()
        except (EOFError, ConnectionError):
            pass  # the system has ended
        except BaseException as error:
            self.failure = error
            self._process.kill()

    def _stopped(self) -> str:
        """Why the processor has stopped, when it has. Until then the gateware's time passes."""
        for _ in range(_TICKS):
            stop = self._debugger.receive_within(_TICK_SECONDS)
            if stop is not None:
                return stop
            self.bus.step(_TICK_CLOCKS)
            self._drive_interrupt()
        # `wait` has the limit of how long the program may take.
        while (stop := self._debugger.receive_within(LIMIT)) is None:
            pass
        return stop

    def _drive_interrupt(self) -> None:
        if self.bus.interrupt != self._line:
            self._line = not self._line
            self._qtest.sendall(f"set_irq_in {self._gic} unnamed-gpio-in {_LINE} {int(self._line)}\n".encode())
            if not self._qtest.recv(1 << 12).startswith(b"OK"):
                raise VirtualZynqError("QEMU did not take the interrupt")

    def _breakpoint(self) -> None:
        """The kernel is about to map something, or has done so."""
        registers = self._debugger.registers()
        pc = registers[_PC]
        if pc == self._remap:  # (vma, address, page number, size, protection)
            self._watch(registers[1], registers[2] * _PAGE, registers[3], self._space(registers[0]))
        elif pc == self._unmap:  # (gather, tree, vma, begin, on the stack: end)
            self._unwatch(registers)
        elif pc == self._ioremap:  # (physical address, size, type, caller)
            physical = registers[0]
            if physical in _FABRIC or physical == _DEVCFG:
                self._returns[registers[_LR]] = physical
                self._debugger.order(f"Z0,{registers[_LR]:x},4")
        elif pc in self._returns:
            physical = self._returns.pop(pc)
            self._debugger.order(f"z0,{pc:x},4")
            if physical == _DEVCFG:
                self._pages[registers[0]] = physical, 0
                self._debugger.order(f"Z4,{registers[0] + _INT_STS:x},4")
            else:
                self._watch(registers[0], physical, _PAGE, 0)
            return
        # Over the breakpoint.
        self._debugger.order(f"z0,{pc:x},4")
        self._debugger.ask("s")
        self._debugger.order(f"Z0,{pc:x},4")

    def _space(self, vma: int) -> int:
        """The address space of a mapping: vm_mm is behind vm_start and vm_end."""
        return int.from_bytes(self._debugger.read(vma + 8), "little")

    def _watch(self, virtual: int, physical: int, size: int, space: int) -> None:
        for page in range(0, size, _PAGE):
            if physical + page in _FABRIC:
                self._debugger.order(f"Z4,{virtual + page:x},{_PAGE:x}")
                self._pages[virtual + page] = physical + page, space
                self.mapped.add(physical + page - BASE_ADDRESS)

    def _unwatch(self, registers: list[int]) -> None:
        if not any(space for _, space in self._pages.values()):
            return
        space, begin = self._space(registers[2]), registers[3]
        end = int.from_bytes(self._debugger.read(registers[_SP]), "little")
        for page in [page for page, (_, owner) in self._pages.items() if owner == space and begin <= page < end]:
            self._debugger.order(f"z4,{page:x},{_PAGE:x}")
            del self._pages[page]

    def _access(self) -> None:
        """Make the access that the processor stands before."""
        registers = self._debugger.registers()
        pc = registers[_PC]
        thumb = bool(self._debugger.register(_CPSR) & _THUMB)
        code = int.from_bytes(self._debugger.read(pc), "little")
        length, load, register, address, base = decode(code, thumb, registers)
        address &= 0xFFFFFFFF
        physical = self._pages[address // _PAGE * _PAGE][0] + address % _PAGE
        orders = []
        if physical == _DEVCFG + _INT_STS:
            word = _PCFG_DONE
        else:
            self.accesses += 1
            word = self._transfer(physical - BASE_ADDRESS, None if load else registers[register])
        if base is not None:
            orders.append(Debugger.set_register(code >> 16 & 15 if not thumb else code & 15, base))
        if load:
            orders.append(Debugger.set_register(register, word))
        self._debugger.order(*orders, Debugger.set_register(_PC, pc + length))

    def _transfer(self, offset: int, word: int | None) -> int:
        try:
            if word is None:
                (word,) = self.bus.read(offset, 1)
                if offset == _QUEUE_CAPACITY.offset and self._uncached:
                    word |= _QUEUE_CAPACITY["UNCACHED"].mask
                return word
            self.bus.write(offset, [word])
            return 0
        except BusError as error:
            raise VirtualZynqError(f"an access to {offset:#x} of the device was refused: {error}") from error

"""The virtual Parallella: Linux for the Cortex-A9 in QEMU's Zynq, and the compiled gateware in its fabric.

As in ``virtual_zynq.py``, QEMU's debugger stub stops the processor before each access to the fabric, and Python makes
the access on the gateware. A stub watches virtual addresses, so this also stops where the kernel maps the fabric, at
``remap_pfn_range`` for a program's mmap and at the end of ``ioremap`` for a driver, and where it unmaps. Kernel,
drivers and programs are those of a board, unchanged. Two programs may not have the fabric mapped at the same time. The
interrupt goes through QEMU's qtest socket into the interrupt controller.

Memory is a file that QEMU shares, and the gateware's master reads and writes it: what S_AXI_ACP and S_AXI_HP0 would
see, as here is no cache.

Two status bits of the PS that QEMU lacks are answered here, to the kernel: PCFG_DONE, so that Linux finds the fabric
configured, and whether FCLK0 runs.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
import tempfile
import threading
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import pytest
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, QUEUE_RECORD_BYTES
from bloomgate_sim.device import BusError, SimulatedBus

from tests.board.emulation import ROOT
from tests.board.virtual_zynq import LIMIT, QEMU, Debugger, VirtualZynqError, connect

__all__ = ["LinuxBoard", "MemoryType", "cache_folder"]

_PAGE = 4096
_FABRIC = range(BASE_ADDRESS, BASE_ADDRESS + 0x10_0000)
_DEVCFG, _INT_STS, _PCFG_DONE = 0xF800_7000, 0x00C, 1 << 2
_SLCR, _FPGA0_THR_CNT, _FPGA0_THR_STA, _RUNNING = 0xF800_0000, 0x178, 0x17C, 1 << 16
#: Pages of the PS with a register that is answered here, and those registers.
_PS_PAGES = (_DEVCFG, _SLCR)
_PS_ANSWERS = (_DEVCFG + _INT_STS, _SLCR + _FPGA0_THR_STA)
_SP, _LR, _PC, _CPSR = 13, 14, 15, 25
_THUMB = 1 << 5
#: Seconds between two looks at the gateware while the processor touches nothing, and clocks that then pass; after so
#: many it is at rest, until it is touched again.
_TICK_SECONDS, _TICK_CLOCKS, _TICKS = 0.002, 500, 200
#: DDR, from address 0. Linux has the first 256 MiB, and UIO maps the queue memory at 0x3E000000.
_MEMORY_BYTES = 1 << 30
_RECORDS = CONTROL_PAGE.window("QUEUE_RECORDS")
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
    wanted = (ROOT / "firmware" / "virtual-board" / "kernel.config").read_text()
    if (folder / "kernel" / "config").read_text() != wanted:
        pytest.skip(f"the kernel in {folder} was built with another configuration: make virtual-board")
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


class MemoryType(IntEnum):
    """What the processor may do with accesses: L_PTE_MT_ of ARM Linux, bits 5:2 of a protection."""

    STRONGLY_ORDERED = 0x0
    NORMAL_UNCACHED = 0x1
    DEVICE = 0x4
    CACHED = 0x7


class _Mapping(NamedTuple):
    """Where a virtual page leads in one address space."""

    physical: int
    #: The kernel's record of the address space, and its page table (TTBR0). Both 0: in all of them, the kernel's.
    space: int = 0
    table: int = 0


class LinuxBoard:
    """A running board. ``wait`` ends it."""

    def __init__(
        self,
        folder: Path,
        bus: SimulatedBus,
        files: Path,
        cache: Path,
        overlay: Path | None = None,
        *,
        configured: bool = True,
    ) -> None:
        """``files``: a tree that is laid over the root file system; its ``/init.test`` runs, and its end is the end.

        ``overlay``: compiled, applied to the board's device tree in the place of the UIO nodes. With those, the
        gateware says that it is on S_AXI_HP0, as a bitstream for UIO is. ``configured``: what Linux finds the fabric.
        """
        self.bus = bus
        #: Accesses to the fabric, and pages of it that were mapped.
        self.accesses = 0
        self.mapped: set[int] = set()
        #: How programs have mapped the fabric, and memory that the gateware reaches: memory types of ARM Linux.
        self.fabric_types: set[MemoryType] = set()
        self.memory_types: set[MemoryType] = set()
        #: The memory that programs have mapped, and what the gateware's slots could reach then: address and bytes.
        self.buffers: set[tuple[int, int]] = set()
        self.windows: set[tuple[int, int]] = set()
        self.failure: BaseException | None = None
        self._folder = folder
        #: By virtual page: where it leads, in each address space that has it.
        self._pages: dict[int, list[_Mapping]] = {}
        self._returns: dict[int, int] = {}
        self._line = False
        self._uncached = overlay is None
        self._configured = configured
        (capacity,) = bus.read(CONTROL_PAGE.register("CAPACITY").offset, 1)
        self._slots = CONTROL_PAGE.register("CAPACITY")["SLOTS"].extract(capacity)
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
        self._iounmap = int(symbols["iounmap"], 16)
        self._log = (folder / "console.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(QEMU, "-machine", "xilinx-zynq-a9,memory-backend=ddr", "-m", f"{_MEMORY_BYTES >> 20}"),
                "-object",
                f"memory-backend-file,id=ddr,size={_MEMORY_BYTES},share=on,mem-path=/proc/self/fd/{memory}",
                *("-display", "none", "-nodefaults", "-no-reboot", "-S"),
                *("-kernel", str(cache / "kernel" / "zImage"), "-dtb", str(images[0]), "-initrd", str(images[1])),
                "-append",
                # With checks of the kernel's heap: what is used after it was freed ends the system, or is reported.
                "console=ttyPS0 uio_pdrv_genirq.of_id=generic-uio maxcpus=1 mem=256M panic=-1 rdinit=/init.board quiet"
                " slub_debug=FZPU",
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
        self._table = self._debugger.number_of("TTBR0_EL1")
        stops = (self._remap, self._ioremap, self._unmap, self._iounmap)
        self._debugger.order(*(f"Z0,{address:x},4" for address in stops))
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

    def window(self, slot: int) -> tuple[int, int]:
        """The window of a slot: base and size in bytes."""
        base, size = self.bus.read(_RECORDS.offset + slot * QUEUE_RECORD_BYTES, 2)
        return base, size

    # The processor, in the thread that serves it.

    def _serve(self) -> None:
        try:
            while True:
                self._debugger.send("c")
                stop = self._stopped()
                if stop.startswith("W"):
                    return
                watched = re.search("watch:([0-9a-f]+)", stop)
                if watched is not None:
                    self._access(int(watched.group(1), 16))
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
            physical, size = registers[2] * _PAGE, registers[3]
            memory_type = MemoryType(int.from_bytes(self._debugger.read(registers[_SP]), "little") >> 2 & 0xF)
            if physical in _FABRIC:
                self.fabric_types.add(memory_type)
                mapping = _Mapping(physical, self._space(registers[0]), self._debugger.register(self._table))
                self._watch(registers[1], mapping, size)
            elif physical < _MEMORY_BYTES:
                self.memory_types.add(memory_type)
                self.buffers.add((physical, size))
                self.windows.update(window for window in map(self.window, range(self._slots)) if window[1])
        elif pc == self._unmap:  # (gather, tree, vma, begin, on the stack: end)
            self._unwatch(registers)
        elif pc == self._iounmap:  # (address)
            self._forget(registers[0] // _PAGE * _PAGE, 0)
        elif pc == self._ioremap:  # (physical address, size, type, caller)
            physical = registers[0]
            if physical in _FABRIC or physical in _PS_PAGES:
                self._returns[registers[_LR]] = physical
                self._debugger.order(f"Z0,{registers[_LR]:x},4")
        elif pc in self._returns:
            physical = self._returns.pop(pc)
            self._debugger.order(f"z0,{pc:x},4")
            self._watch(registers[0], _Mapping(physical), _PAGE)
            return
        self._step(f"0,{pc:x},4")

    def _step(self, point: str) -> None:
        """Over a breakpoint or an access that is watched."""
        self._debugger.order(f"z{point}")
        self._debugger.ask("s")
        self._debugger.order(f"Z{point}")

    def _space(self, vma: int) -> int:
        """The address space of a mapping: vm_mm is behind vm_start and vm_end."""
        return int.from_bytes(self._debugger.read(vma + 8), "little")

    def _watch(self, virtual: int, mapping: _Mapping, size: int) -> None:
        for at in range(0, size, _PAGE):
            physical = mapping.physical + at
            if physical not in _FABRIC and physical not in _PS_PAGES:
                continue
            if physical in _FABRIC:
                self.mapped.add(physical - BASE_ADDRESS)
            owners = self._pages.setdefault(virtual + at, [])
            if not owners:
                self._debugger.order(f"Z4,{virtual + at:x},{_PAGE:x}")
            owners.append(mapping._replace(physical=physical))

    def _unwatch(self, registers: list[int]) -> None:
        if not any(mapping.space for owners in self._pages.values() for mapping in owners):
            return
        space, begin = self._space(registers[2]), registers[3]
        end = int.from_bytes(self._debugger.read(registers[_SP]), "little")
        for page in [page for page in self._pages if begin <= page < end]:
            self._forget(page, space)

    def _forget(self, page: int, space: int) -> None:
        owners = self._pages.get(page, [])
        left = [mapping for mapping in owners if mapping.space != space]
        if owners and not left:
            self._debugger.order(f"z4,{page:x},{_PAGE:x}")
            del self._pages[page]
        elif owners:
            self._pages[page] = left

    def _access(self, page: int) -> None:
        """Make the access that the processor stands before, unless it is to something else at that virtual address."""
        owners = self._pages[page]
        if owners[0].space:
            table = self._debugger.register(self._table)
            owners = [mapping for mapping in owners if mapping.table == table]
        if not owners:
            self._step(f"4,{page:x},{_PAGE:x}")
            return
        registers = self._debugger.registers()
        pc = registers[_PC]
        thumb = bool(self._debugger.register(_CPSR) & _THUMB)
        code = int.from_bytes(self._debugger.read(pc), "little")
        length, load, register, address, base = decode(code, thumb, registers)
        physical = owners[0].physical + address % _PAGE
        if physical not in _FABRIC and physical not in _PS_ANSWERS:
            self._step(f"4,{page:x},{_PAGE:x}")
            return
        orders = []
        if physical == _DEVCFG + _INT_STS:
            word = _PCFG_DONE if self._configured else 0
        elif physical == _SLCR + _FPGA0_THR_STA:
            # A count of clocks to give stops it, as Linux does: drivers/clk/zynq/clkc.c.
            count = self._debugger.read(page + _FPGA0_THR_CNT)
            word = 0 if any(count) else _RUNNING
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

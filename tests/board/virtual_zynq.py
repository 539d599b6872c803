"""A Zynq-7000 in QEMU that runs a bare-metal program for its processor, and Python at the other end of its buses.

QEMU has no fabric and traps no access. But its debugger stub stops the processor before an access to a watched
address, so that a debugger can take the access's place: decode the load or store at the program counter, ask a model,
write the register, step over the instruction. That is what this does, about 10000 times a second. The program is the
one that runs on a board, unchanged; only 32-bit accesses are understood, since nothing else may reach a device.

Behind M_AXI_GP0 is the gateware itself (``SimulatedBus``). Its SLVERR and DECERR become the data aborts that a
Cortex-A9 takes for them: synchronous for a load, asynchronous for a store. What QEMU 7.2 lacks of the processing system
and the monitor needs is modelled here: PCFG_DONE, the state of FCLK0, PSS_IDCODE and the system watchdog, which needs
no time here: it bites when an access has no answer.
"""

from __future__ import annotations

import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bloomgate.registers import BASE_ADDRESS
from bloomgate_sim.device import BusError, SimulatedBus

#: PSS_IDCODE of the P1600 and P1601: device 0x02 in bits 16:12, and the manufacturer.
XC7Z010 = 0x0372_2093
QEMU = "qemu-system-arm"
#: Seconds for anything that is waited for here.
LIMIT = 60.0

_PL = range(BASE_ADDRESS, BASE_ADDRESS + 0x10_0000)
_SLCR = 0xF800_0000
_LOCK, _LOCK_KEY = _SLCR + 0x004, 0x767B
_UNLOCK, _UNLOCK_KEY = _SLCR + 0x008, 0xDF0D
_FPGA_RST_CTRL = _SLCR + 0x240
_REBOOT_STATUS = _SLCR + 0x258
_LVL_SHFTR_EN = _SLCR + 0x900
_THR_STA = range(_SLCR + 0x17C, _SLCR + 0x180)
_IDCODE = range(_SLCR + 0x530, _SLCR + 0x534)
_SWDT = range(0xF800_5000, 0xF800_5010)
_INT_STS = range(0xF800_700C, 0xF800_7010)
_POWER_ON, _WATCHDOG_RESET = 1 << 22, 1 << 16

# Numbers of registers in the debugger's protocol, and of processor modes.
_LR, _PC, _CPSR = 14, 15, 25
_MODE, _ABORT_MODE, _ABORT_MASKS, _THUMB = 0x1F, 0x17, 0x180, 1 << 5
# DFSR: an external abort, synchronous or not, and what answered.
_SYNCHRONOUS, _ASYNCHRONOUS, _WRITE, _SLVERR = 0x008, 0x406, 1 << 11, 1 << 12

#: Where the boot loader is, and what it does: sets up the MMU, stores words from a table, and enters the program at its
#: end.
_LOADER = 0x0010_0000
_LOADER_PROGRAM = b"".join(
    word.to_bytes(4, "little")
    for word in (
        0xEE02_0F10,  # mcr p15, 0, r0, c2, c0, 0: TTBR0
        0xE3E0_0000,  # mvn r0, #0
        0xEE03_0F10,  # mcr p15, 0, r0, c3, c0, 0: DACR, no checks
        0xEE01_1F10,  # mcr p15, 0, r1, c1, c0, 0: SCTLR
        0xF57F_F06F,  # isb
        0xE28F_0010,  # add r0, pc, #16: the table
        0xE8B0_0006,  # ldmia r0!, {r1, r2}
        0xE351_0000,  # cmp r1, #0
        0x012F_FF12,  # bxeq r2
        0xE581_2000,  # str r2, [r1]
        0xEAFF_FFFA,  # b to the ldmia
    )
)
#: U-Boot's page table: everything, one to one, cached.
_PAGE_TABLE, _SECTION = 0x0020_0000, 0xC0E
_SCTLR_RESET, _SCTLR_MMU_AND_CACHES = 0x00C5_0078, 0x00C5_187D


class VirtualZynqError(Exception):
    """The program did what it must not do, or QEMU did not do what it should."""


def connect(path: Path, process: subprocess.Popen[bytes] | None = None) -> socket.socket:
    """A connection to a socket that QEMU makes soon. ``process``: QEMU, if it may have failed."""
    deadline = time.monotonic() + LIMIT
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.01)


class Debugger:
    """The debugger stub of QEMU: the packets that are needed."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self._socket = connect(path, process)
        self._socket.settimeout(LIMIT)
        self._received = b""
        # Only who has read the target's description may write registers.
        self.ask("qXfer:features:read:target.xml:0,ffb")

    def send(self, *packets: str) -> None:
        self._socket.sendall(
            b"".join(b"$%s#%02x" % (packet.encode(), sum(packet.encode()) & 0xFF) for packet in packets)
        )

    def receive(self) -> str:
        packet = self.receive_within(LIMIT)
        if packet is None:
            raise TimeoutError(f"the debugger stub has not answered within {LIMIT:g} s")
        return packet

    def receive_within(self, seconds: float) -> str | None:
        """The next packet; None if it has not come by then.

        QEMU acknowledges each packet at once, and with "c" that is long before the processor stops: so that there is
        something to read does not say that there is a packet.
        """
        deadline = time.monotonic() + seconds
        while True:
            begin = self._received.find(b"$")
            end = self._received.find(b"#", begin)
            if begin >= 0 <= end and len(self._received) >= end + 3:
                packet = self._received[begin + 1 : end].decode()
                self._received = self._received[end + 3 :]
                return packet
            if not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._received += data

    def ask(self, packet: str) -> str:
        self.send(packet)
        return self.receive()

    def order(self, *packets: str) -> None:
        """Packets that must be answered OK. Raises EOFError when QEMU says instead that it has ended, by a restart."""
        self.send(*packets)
        for packet in packets:
            answer = self.receive()
            if answer.startswith("W"):
                raise EOFError
            if answer != "OK":
                raise VirtualZynqError(f"the debugger stub answered {answer!r} to {packet!r}")

    def registers(self) -> list[int]:
        """r0 to r15, and others behind them."""
        answer = bytes.fromhex(self.ask("g"))
        return [int.from_bytes(answer[at : at + 4], "little") for at in range(0, 64, 4)]

    def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def number_of(self, name: str) -> int:
        """The number of a system register, which depends on QEMU's version."""
        text, more = "", True
        while more:
            part = self.ask(f"qXfer:features:read:system-registers.xml:{len(text):x},800")
            text, more = text + part[1:], part[0] == "m"
        found = re.search(rf'<reg name="{name}" [^>]*regnum="(\d+)"', text)
        if found is None:
            raise VirtualZynqError(f"this QEMU does not show {name}")
        return int(found.group(1))

    @staticmethod
    def set_register(number: int, value: int) -> str:
        return f"P{number:x}={(value & 0xFFFFFFFF).to_bytes(4, 'little').hex()}"

    def read(self, address: int, size: int = 4) -> bytes:
        return bytes.fromhex(self.ask(f"m{address:x},{size:x}"))

    @staticmethod
    def write(address: int, data: bytes) -> str:
        return f"M{address:x},{len(data):x}:{data.hex()}"

    @classmethod
    def write_word(cls, address: int, word: int) -> str:
        return cls.write(address, word.to_bytes(4, "little"))

    def close(self) -> None:
        self._socket.close()


class Watchdog:
    """The system watchdog's registers (UG585 appendix B.34)."""

    def __init__(self) -> None:
        self.enabled = False
        #: How often it was enabled.
        self.armed = 0
        self._control = 0
        self._restarted = False

    def write(self, offset: int, word: int) -> None:
        if offset == 0x0 and word >> 12 == 0xABC:
            enabled = word & 3 == 3
            if enabled and (not self._restarted or self._control >> 14 != 0x248 or not self._control & 0x3FFC):
                raise VirtualZynqError("the watchdog was enabled before it had a period")
            self.armed += enabled and not self.enabled
            self.enabled = enabled
        elif offset == 0x4:
            self._control = word
        elif offset == 0x8 and word == 0x1999:
            self._restarted = True
        else:
            raise VirtualZynqError(f"a write of {word:#x} to offset {offset:#x} of the watchdog does nothing")


class VirtualZynq:
    """A running processor. Attributes that are set take effect at the next access."""

    def __init__(
        self,
        folder: Path,
        program: bytes,
        *,
        address: int,
        vectors: int,
        bus: SimulatedBus | None = None,
        connected: bool = True,
        mmu: bool = False,
    ) -> None:
        """``program`` is loaded and entered at ``address``; ``vectors``: address of its exception vectors.

        ``bus``: what is configured into the fabric. ``connected``: the level shifters are on and the resets off, as
        the first-stage boot loader leaves them after it has loaded a bitstream. ``mmu``: the MMU and the caches are
        on, as U-Boot leaves them.
        """
        #: The gateware; None: the fabric is not configured.
        self.bus = bus
        #: Whether the fabric answers at all.
        self.answering = True
        #: Whether FCLK0 runs.
        self.clock_running = True
        #: PSS_IDCODE.
        self.idcode = XC7Z010
        self.watchdog = Watchdog()
        #: Accesses to the fabric.
        self.accesses = 0
        #: Times the watchdog has reset the system.
        self.bites = 0
        #: Called with the processor stopped before each access to anything that is modelled here, until it returns
        #: True: then it has sent the processor elsewhere.
        self.interruption: Callable[[Debugger], bool] | None = None
        #: What went wrong on the processor's side.
        self.failure: BaseException | None = None
        self.console = folder / "console"
        self._address, self._vectors, self._connected, self._mmu = address, vectors, connected, mmu
        self._instructions: dict[int, int] = {}
        self._closing = False
        image = folder / "program.bin"
        image.write_bytes(program)
        debugger = folder / "debugger"
        self._log = (folder / "qemu.log").open("w+")
        self._process = subprocess.Popen(
            [
                *(QEMU, "-machine", "xilinx-zynq-a9", "-m", "128", "-display", "none", "-nodefaults", "-S"),
                *("-gdb", f"unix:{debugger},server=on,wait=off"),
                *("-serial", "null", "-serial", f"unix:{self.console},server=on,wait=off"),
                *("-device", f"loader,file={image},addr={address:#x},force-raw=on"),
                # Where the processor begins after a reset; otherwise at 0, which QEMU does not take here.
                *(("-device", f"loader,addr={address:#x},cpu-num=0") if address else ()),
            ],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        try:
            self._debugger = Debugger(debugger, self._process)
            for watched in (_PL, _THR_STA, _IDCODE, _SWDT, _INT_STS):
                self._debugger.order(f"Z4,{watched.start:x},{len(watched):x}")
            self._boot(_POWER_ON)
        except BaseException as error:
            self._process.kill()
            self._process.wait()
            self._log.seek(0)
            said = self._log.read()
            self._log.close()
            raise VirtualZynqError(f"QEMU did not start; it said {said!r}") from error
        self._thread = threading.Thread(target=self._serve, name="virtual Zynq", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop. Raises what went wrong."""
        self._closing = True
        self._process.kill()
        self._process.wait()
        if self._thread.ident is not None:
            self._thread.join(LIMIT)
        self._debugger.close()
        self._log.close()
        if self.failure is not None:
            raise self.failure

    def _boot(self, reboot_status: int) -> None:
        """What the first-stage boot loader leaves, with the SLCR locked again, as it may be found."""
        words = [(_UNLOCK, _UNLOCK_KEY), (_REBOOT_STATUS, reboot_status)]
        if self._connected:
            words += [(_LVL_SHFTR_EN, 0xF), (_FPGA_RST_CTRL, 0)]
        words += [(_LOCK, _LOCK_KEY), (0, self._address)]
        # A program, since the stub writes to memory only.
        table = b"".join(word.to_bytes(4, "little") for pair in words for word in pair)
        sections = (mib << 20 | _SECTION for mib in range(4096)) if self._mmu else ()
        self._fill(_PAGE_TABLE, b"".join(word.to_bytes(4, "little") for word in sections))
        self._debugger.order(
            Debugger.write(_LOADER, _LOADER_PROGRAM + table),
            Debugger.set_register(0, _PAGE_TABLE),
            Debugger.set_register(1, _SCTLR_MMU_AND_CACHES if self._mmu else _SCTLR_RESET),
            Debugger.set_register(_PC, _LOADER),
        )

    def _fill(self, address: int, data: bytes) -> None:
        for at in range(0, len(data), 1024):
            self._debugger.order(Debugger.write(address + at, data[at : at + 1024]))

    # The processor, in the thread that serves it.

    def _serve(self) -> None:
        try:
            while True:
                self._debugger.send("c")
                stop = self._debugger.receive()
                if "watch:" not in stop:
                    raise VirtualZynqError(f"the processor stopped with {stop!r}")
                if self.interruption is not None and self.interruption(self._debugger):
                    self.interruption = None
                else:
                    self._access()
        except (EOFError, ConnectionError):
            if not self._closing:
                self.failure = VirtualZynqError("QEMU closed the debugger's connection")
        except BaseException as error:
            self.failure = error

    def _access(self) -> None:
        """Make the access that the processor stands before."""
        registers = self._debugger.registers()
        pc = registers[_PC]
        instruction = self._instructions.get(pc)
        if instruction is None:
            instruction = self._instructions[pc] = int.from_bytes(self._debugger.read(pc), "little")
        # LDR and STR with an immediate offset and no write-back (ARM ARM A8.8.63, A8.8.204); always executed.
        if instruction & 0xFF60_0000 != 0xE500_0000:
            raise VirtualZynqError(f"the instruction {instruction:#010x} at {pc:#x} is no 32-bit access")
        offset = instruction & 0xFFF
        address = registers[instruction >> 16 & 0xF] + (offset if instruction >> 23 & 1 else -offset)
        register, load = instruction >> 12 & 0xF, bool(instruction >> 20 & 1)
        if address % 4:
            raise VirtualZynqError(f"an access at {pc:#x} to {address:#x}, which is no word")
        try:
            if load:
                word = self._read(address)
            else:
                self._write(address, registers[register])
        except BusError as error:
            self._abort(registers, address, load, "SLVERR" in str(error))
        except _Unanswered:
            self._stall()
        else:
            loaded = [Debugger.set_register(register, word)] if load else []
            self._debugger.order(*loaded, Debugger.set_register(_PC, pc + 4))

    def _read(self, address: int) -> int:
        if address in _PL:
            return self._fabric().read(address - BASE_ADDRESS, 1)[0]
        if address in _INT_STS:
            return 0 if self.bus is None else 1 << 2
        if address in _THR_STA:
            return self.clock_running << 16
        if address in _IDCODE:
            return self.idcode
        raise VirtualZynqError(f"a read of {address:#x}")

    def _write(self, address: int, word: int) -> None:
        if address in _PL:
            self._fabric().write(address - BASE_ADDRESS, [word])
        elif address in _SWDT:
            self.watchdog.write(address - _SWDT.start, word)
        else:
            raise VirtualZynqError(f"a write to {address:#x}")

    def _fabric(self) -> SimulatedBus:
        self.accesses += 1
        if not self.watchdog.enabled:
            raise VirtualZynqError("an access to the fabric without the watchdog")
        if self.bus is None or not self.answering:
            raise _Unanswered
        return self.bus

    def _abort(self, registers: list[int], address: int, load: bool, slave_error: bool) -> None:
        """A data abort, as the processor takes it (ARM ARM B1.8.3 and B1.9.9)."""
        pc = registers[_PC]
        cpsr = self._debugger.register(_CPSR)
        # The store's instruction is done when its abort comes; what is interrupted is the next.
        status = (_SYNCHRONOUS if load else _ASYNCHRONOUS | _WRITE) | (_SLVERR if slave_error else 0)
        interrupted = pc if load else pc + 4
        # The stub cannot write DFSR, DFAR and SPSR, so the processor does: three instructions in the program's place.
        stub = b"".join(
            word.to_bytes(4, "little")
            for word in (
                0xEE05_0F10,  # mcr p15, 0, r0, c5, c0, 0: DFSR
                0xEE06_1F10 if load else 0xE320_F000,  # mcr p15, 0, r1, c6, c0, 0: DFAR, else nop
                0xE16F_F002,  # msr spsr_fsxc, r2
            )
        )
        saved = self._debugger.read(pc, len(stub))
        self._debugger.order(
            Debugger.set_register(_CPSR, cpsr & ~(_MODE | _THUMB) | _ABORT_MODE | _ABORT_MASKS),
            Debugger.write(pc, stub),
            *(Debugger.set_register(number, value) for number, value in enumerate((status, address, cpsr))),
        )
        for _ in range(len(stub) // 4):
            self._debugger.send("s")
            if not self._debugger.receive().startswith("T05"):
                raise VirtualZynqError("the processor did not step")
        self._debugger.order(
            Debugger.write(pc, saved),
            *(Debugger.set_register(number, registers[number]) for number in range(3)),
            Debugger.set_register(_LR, interrupted + 8),
            Debugger.set_register(_PC, self._vectors + 0x10),
        )

    def _stall(self) -> None:
        """The processor waits for ever; only the watchdog ends that, with a reset of the system."""
        mark = int.from_bytes(self._debugger.read(_REBOOT_STATUS), "little") & 0xFF00_0000
        self.bites += 1
        self.watchdog.enabled = False
        self._debugger.send("qRcmd," + b"system_reset".hex())
        while self._debugger.receive() != "OK":
            pass  # what the command prints
        deadline = time.monotonic() + LIMIT
        while self._debugger.registers()[_PC] != self._address:
            if time.monotonic() > deadline:
                raise VirtualZynqError("QEMU did not reset")
            time.sleep(0.01)
        self._boot(_WATCHDOG_RESET | mark)


class _Unanswered(Exception):
    """Nothing answers on the bus."""


def require_tools() -> None:
    """Skip what cannot be run here."""
    for tool, package in ((QEMU, "qemu-system-arm"), ("arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install {package}")

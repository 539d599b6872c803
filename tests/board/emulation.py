"""What the tests of the board run on: a file tree in the place of Linux's, and the gateware behind a UIO shim."""

import contextlib
import mmap
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bloomgate.devicetree import QUEUE_BASE, QUEUE_BYTES
from bloomgate.libbloomgate import FLAGS, INCLUDE, SOURCES
from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, PAGE_BYTES, SLOT_PAGE, slot_page_offset
from bloomgate_sim.device import BusError, SimulatedBus

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests" / "board" / "shim"
#: Seconds after which a program under test hangs.
SECONDS = 120

ARM_GCC = "arm-linux-gnueabihf-gcc"
QEMU = "qemu-arm"
ARM_SYSROOT = Path("/usr/arm-linux-gnueabihf")

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


def needs(*commands: str) -> None:
    """Skip the test, and say what would enable it, unless these commands are there."""
    packages = {
        ARM_GCC: "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
        QEMU: "qemu-user",
        "gcc": "gcc",
        "dtc": "device-tree-compiler",
        "fdtoverlay": "device-tree-compiler",
        "fdtget": "device-tree-compiler",
        "dpkg-deb": "dpkg",
    }
    lacking = [command for command in commands if shutil.which(command) is None]
    if lacking:
        wanted = " ".join(sorted({packages[command] for command in lacking}))
        pytest.skip(f"no {', '.join(lacking)}: apt-get install {wanted}")


class Machine:
    """A processor that programs are compiled for and run on."""

    def __init__(
        self, name: str, compiler: str, decoder: str, runner: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.compiler = compiler
        self.decoder = decoder
        self.runner = tuple(runner)
        #: For the programs, beyond those that the library is compiled with.
        self.options = tuple(options)

    def require(self) -> None:
        needs(self.compiler, *(self.runner[:1]))

    def program(self, target: Path, *sources: Path, options: Sequence[str] = ()) -> Path:
        """A program made of libbloomgate and these sources, without a warning."""
        here = SOURCES[0].parent
        flags = [flag for flag in FLAGS if flag not in ("-fPIC", "-shared")]
        everything = [*map(str, SOURCES), *map(str, sources)]
        command = [self.compiler, *flags, *STRICT, *self.options, *options, f"-I{INCLUDE}", f"-I{here}", *everything]
        subprocess.run([*command, "-o", str(target)], check=True, timeout=SECONDS)
        return target

    def shim(self, target: Path) -> Path:
        sources = [str(SHIM / "uio_shim.c"), str(SHIM / self.decoder)]
        flags = ["-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([self.compiler, *flags, *sources, "-ldl", "-o", str(target)], check=True, timeout=SECONDS)
        return target

    def command(self, shim: Path, *words: str) -> list[str]:
        """The command that runs a program with the shim."""
        if self.runner:
            return [*self.runner, "-E", f"LD_PRELOAD={shim}", *words]
        return ["env", f"LD_PRELOAD={shim}", *words]


NATIVE = Machine("x86", "gcc", "decode_x86.c")
_UNDER_QEMU = (QEMU, "-L", str(ARM_SYSROOT))
#: Debian's compiler makes Thumb code unless it is told otherwise.
THUMB = Machine("thumb", ARM_GCC, "decode_arm.c", _UNDER_QEMU)
ARM = Machine("arm", ARM_GCC, "decode_arm.c", _UNDER_QEMU, ["-marm"])
MACHINES = (NATIVE, THUMB, ARM)


def make_tree(root: Path, slots: int, *, state: str = "operating") -> Path:
    """Fill ``root`` with what Linux shows of a board whose fabric is configured and whose overlay is applied."""
    manager = root / "sys" / "class" / "fpga_manager" / "fpga0"
    manager.mkdir(parents=True)
    (manager / "state").write_text(f"{state}\n")
    (root / "dev").mkdir()
    pages = [("bloomgate-control", BASE_ADDRESS)]
    pages += [(f"bloomgate-slot{slot}", BASE_ADDRESS + slot_page_offset(slot)) for slot in range(slots)]
    # Numbers that say nothing about the page, as on a board with other UIO devices.
    for number, (name, address) in enumerate(reversed(pages), 2):
        folder = root / "sys" / "class" / "uio" / f"uio{number}"
        (folder / "maps" / "map0").mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "maps" / "map0" / "addr").write_text(f"{address:#010x}\n")
        (folder / "maps" / "map0" / "size").write_text(f"{PAGE_BYTES:#010x}\n")
        if name != "bloomgate-control":
            (folder / "maps" / "map1").mkdir()
            queue = QUEUE_BASE + int(name.removeprefix("bloomgate-slot")) * QUEUE_BYTES
            (folder / "maps" / "map1" / "addr").write_text(f"{queue:#010x}\n")
            (folder / "maps" / "map1" / "size").write_text(f"{QUEUE_BYTES:#010x}\n")
        (root / "dev" / f"uio{number}").touch()
        (root / "dev" / f"uio{number}").chmod(0o660)
    return root


def node(root: Path, name: str) -> Path:
    """The device node of a page."""
    for folder in (root / "sys" / "class" / "uio").iterdir():
        if (folder / "name").read_text().strip() == name:
            return root / "dev" / folder.name
    raise LookupError(name)


_LOAD, _STORE, _INTERRUPT = range(3)
_MESSAGE, _ANSWER = struct.Struct("=III"), struct.Struct("=II")
#: Seconds between two looks at the interrupt line, and clocks that pass in each: a program that waits for the
#: interrupt does not touch the bus, and simulated time must pass all the same.
_TICK_SECONDS, _TICK_CLOCKS = 0.005, 200
#: Clocks that pass after a doorbell, in steps: a program that looks at memory does not touch the bus either.
_DOORBELL_CLOCKS, _STEP_CLOCKS = 20_000, 100
_QUEUE_CAPACITY = CONTROL_PAGE.register("QUEUE_CAPACITY")
_TAIL = SLOT_PAGE.register("SUBMISSION_TAIL").offset


class BusServer:
    """The other end of the shim's socket: every access goes to the simulated gateware, which reaches ``memory``."""

    def __init__(self, bus: SimulatedBus, path: Path, memory: Path, *, uncached: bool = True) -> None:
        """``memory``: a file with what is at each physical address, of which there is the queue memory of all slots.

        ``uncached``: the gateware says that it is on S_AXI_HP0, as UIO needs it. It is on the ACP; here that is the
        same, since there is one memory and no cache.
        """
        self.bus = bus
        self.path = path
        self._uncached = uncached
        #: Accesses done, and those that the bus refused.
        self.loads = self.stores = self.refused = 0
        #: The lowest offset accessed.
        self.lowest = 1 << 32
        #: Interrupts that were delivered; and whether the next has to be unmasked first.
        self.interrupts = 0
        self._masked = False
        self._listeners: list[socket.socket] = []
        self._interrupting = threading.Lock()
        size = Parameters().slots * QUEUE_BYTES
        with memory.open("wb") as file:
            file.truncate(QUEUE_BASE + size)
        with memory.open("r+b") as file:
            bus.memory.attach(mmap.mmap(file.fileno(), size, offset=QUEUE_BASE), QUEUE_BASE)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen()
        self._closing = threading.Event()
        #: Clocks that are to pass, since a doorbell was rung.
        self._clocks = 0
        self._rung = threading.Condition()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._pass_time)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        with self._rung:
            self._rung.notify()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(SECONDS)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass_time(self) -> None:
        while not self._closing.is_set():
            with self._rung:
                self._rung.wait_for(lambda: self._clocks > 0 or self._closing.is_set())
                self._clocks -= _STEP_CLOCKS
            self.bus.step(_STEP_CLOCKS)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while message := connection.recv(_MESSAGE.size, socket.MSG_WAITALL):
                kind, address, value = _MESSAGE.unpack(message)
                if kind == _INTERRUPT:
                    self._carry_interrupt(connection)
                    return
                connection.sendall(_ANSWER.pack(*self._access(kind, address - BASE_ADDRESS, value)))

    def _access(self, kind: int, offset: int, value: int) -> tuple[int, int]:
        self.lowest = min(self.lowest, offset)
        try:
            if kind == _LOAD:
                self.loads += 1
                (word,) = self.bus.read(offset, 1)
                if offset == _QUEUE_CAPACITY.offset and self._uncached:
                    word |= _QUEUE_CAPACITY["UNCACHED"].mask
                return 0, word
            self.stores += 1
            self.bus.write(offset, [value])
        except BusError:
            self.refused += 1
            return 1, 0
        if offset >= PAGE_BYTES and offset % PAGE_BYTES == _TAIL:
            with self._rung:
                self._clocks = _DOORBELL_CLOCKS
                self._rung.notify()
        return 0, 0

    def _carry_interrupt(self, connection: socket.socket) -> None:
        """As uio_pdrv_genirq does: an interrupt is counted, told to all who have the file open, and masked.

        A word that one of them writes unmasks it.
        """
        with self._interrupting:
            self._listeners.append(connection)
        try:
            while not self._closing.is_set():
                if select.select([connection], [], [], _TICK_SECONDS)[0]:
                    if not connection.recv(4, socket.MSG_WAITALL):
                        return
                    self._masked = False
                self.bus.step(_TICK_CLOCKS)
                with self._interrupting:
                    if not self._masked and self.bus.interrupt:
                        self.interrupts, self._masked = self.interrupts + 1, True
                        for listener in self._listeners:
                            with contextlib.suppress(BrokenPipeError):  # just closed
                                listener.sendall(struct.pack("=I", self.interrupts))
        finally:
            with self._interrupting:
                self._listeners.remove(connection)


class EmulatedBoard:
    """A file tree, the gateware behind it, and the environment in which a program meets both."""

    def __init__(self, root: Path, server: BusServer) -> None:
        self.root = root
        self.server = server
        self.environment = dict(
            os.environ,
            BLOOMGATE_SHIM_ROOT=str(root),
            BLOOMGATE_SHIM_SOCKET=str(server.path),
            BLOOMGATE_SHIM_MEMORY=str(server.path.with_name("memory")),
            PYTHONPATH="host:.",
        )

    def run(self, *command: str, **options: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            **options,
        )


@contextlib.contextmanager
def emulated_board(folder: Path, parameters: Parameters, *, uncached: bool = True) -> Iterator[EmulatedBoard]:
    """``folder`` should be short: a socket's path has room for 107 bytes. ``uncached``: see :class:`BusServer`."""
    root = make_tree(folder / "root", parameters.slots)
    bus = SimulatedBus(parameters)
    server = BusServer(bus, folder / "bus", folder / "memory", uncached=uncached)
    try:
        yield EmulatedBoard(root, server)
    finally:
        server.close()
        bus.close()

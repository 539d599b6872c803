"""``bloomgate load``: a bitstream into the fabric of this board, by whichever way its system has.

========== ==================================================================================================
overlay    configfs: a device-tree overlay with an fpga-region; the kernel programs and makes the UIO nodes
manager    ``/sys/class/fpga_manager/fpga0/firmware`` of kernels with Xilinx's patches
xdevcfg    ``/dev/xdevcfg`` of old Xilinx kernels
sd         ``parallella.bit.bin`` in the boot partition, which U-Boot loads at the next start
========== ==================================================================================================

Nothing is touched before the file has been decoded and its part compared with this one. Then a co-processor that runs
is brought to rest: a reset or new configuration under an outstanding burst wedges a port of the PS until power-off.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from bloomgate.backends.uio import CONTROL_NODE, IDENTITY_FILE, UioBus, identity
from bloomgate.bitstream import BitstreamError, bit_bin_from_bit, read_bitstream
from bloomgate.driver import RegisterBus, identify
from bloomgate.errors import BloomgateError, DeviceInUse, DeviceTimeout, DeviceUnavailable, VersionMismatch
from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, QUEUE_RECORD, QUEUE_RECORD_BYTES, slot_page_offset
from bloomgate.system import System

__all__ = ["DEFAULT_OVERLAY", "WAYS", "LoadError", "Loaded", "load", "look"]

#: The ways, best first.
WAYS = ("overlay", "manager", "xdevcfg", "sd")

#: Seconds for the kernel to configure the fabric and to make the nodes. It needs 0.1 s.
_SECONDS = 10.0

_OVERLAYS = "sys/kernel/config/device-tree/overlays"
_OVERLAY = f"{_OVERLAYS}/bloomgate"
_MANAGER = "sys/class/fpga_manager/fpga0"
_XDEVCFG = "dev/xdevcfg"
#: There while the kernel module has the device.
_MODULE = f"dev/{CONTROL_NODE}"
#: The firmware file that the overlay names (firmware/devicetree).
_FIRMWARE = "bloomgate.bit.bin"
#: Where the boot partition can be mounted, and the files by which it is known (parallella-uboot).
_BOOT_FOLDERS = ("boot", "boot/firmware", "mnt/boot", "media/boot")
_BOOT_FILES = ("parallella.bit.bin", "uImage", "devicetree.dtb")
#: Where the Debian package puts the overlay.
DEFAULT_OVERLAY = "usr/share/bloomgate/bloomgate.dtbo"


class LoadError(BloomgateError):
    """A bitstream could not be loaded. The message says whether the hardware was touched."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What ``load`` has done."""

    way: str
    part: str
    #: Of the register interface; None when the bitstream takes effect only at the next start.
    version: Optional[tuple[int, int, int]]
    parameters: Optional[Parameters]


def load(
    file: Path,
    *,
    system: Optional[System] = None,
    part: Optional[str] = None,
    overlay: Optional[Path] = None,
    way: Optional[str] = None,
    say: Callable[[str], None] = lambda line: None,
) -> Loaded:
    """Load a ``.bit`` or ``.bit.bin`` file.

    ``part``: what this is, where the system does not say it. ``overlay``: the compiled overlay. ``way``: one of WAYS,
    by default the first that this system has. ``say``: called with each step, in words.

    Raises LoadError, or BitstreamError for a file that is not a whole bitstream; then nothing was touched.
    """
    system = System() if system is None else system
    data, named = _read(file)
    found = system.part()
    if found is not None and part is not None and found != part:
        raise LoadError(f"this is an {found}, not the {part} that was named; nothing was touched")
    if found is None and part is None:
        raise LoadError("nothing here says which part this is; run as root, or say --part; nothing was touched")
    if named != (found or part):
        raise LoadError(f"{file} is for the {named}, and this is an {found or part}; nothing was touched")
    overlay = system.path(DEFAULT_OVERLAY) if overlay is None else overlay
    chosen = _choose(system, way, overlay)
    say(f"{file}: {len(data):,} bytes for the {named}, by way of {chosen}")
    _warn(system, say)
    if chosen == "sd":
        where = _to_boot_partition(system, data)
        say(f"written to {where}; it takes effect at the next start")
        return Loaded(chosen, named, None, None)

    if system.exists(_MODULE) and chosen != "overlay":
        raise LoadError(
            "the kernel module has the co-processor, and would go on with another bitstream under it: rmmod bloomgate"
            " brings it to rest; nothing was touched"
        )
    running = _quiesce(system, say)
    try:
        if chosen == "overlay":
            # Its nodes go away with the old overlay.
            _release(running)
            running = None
            _by_overlay(system, data, overlay)
        elif chosen == "manager":
            system.store(f"lib/firmware/{_FIRMWARE}", data)
            system.write(f"{_MANAGER}/flags", b"0\n")
            system.write(f"{_MANAGER}/firmware", f"{_FIRMWARE}\n".encode("ascii"))
        else:
            system.write(_XDEVCFG, data)
    except OSError as error:
        raise LoadError(f"the kernel refused the bitstream ({error}); see dmesg") from error
    finally:
        _release(running)
    _wait(system.fabric_ready, "the fabric is not configured; see dmesg")
    version, parameters = _identify(system, _bus_after_loading(system, say), say)
    return Loaded(chosen, named, version, parameters)


def look(
    *, system: Optional[System] = None, say: Callable[[str], None] = lambda line: None
) -> tuple[tuple[int, int, int], Parameters]:
    """Version and geometry of a bitstream that was loaded before, by U-Boot for example.

    Only through page 0's node of UIO or of the kernel module: without one nothing says that this is bloomgate's design,
    and another may leave the access without an answer. Leaves them for the owners of single slots. Raises
    DeviceUnavailable, LoadError.
    """
    system = System() if system is None else system
    return _identify(system, _open_bus(system), say)


def _read(file: Path) -> tuple[bytes, str]:
    """The ``.bit.bin`` data and the part it is for. Raises BitstreamError."""
    data = file.read_bytes()
    try:
        info = read_bitstream(data)
        return (bit_bin_from_bit(data) if info.container == "bit" else data), info.part
    except BitstreamError as error:
        raise BitstreamError(f"{file}: {error}; nothing was touched") from error


def _choose(system: System, way: Optional[str], overlay: Path) -> str:
    has = {
        "overlay": system.path(_OVERLAYS).is_dir() and overlay.is_file(),
        "manager": system.exists(f"{_MANAGER}/firmware"),
        "xdevcfg": system.exists(_XDEVCFG),
        "sd": _boot_partition(system) is not None,
    }
    if way is None:
        for name in WAYS:
            if has[name]:
                return name
        raise LoadError(
            "this system has no way to load a bitstream: no overlays in configfs, no firmware file of fpga_manager, no"
            " /dev/xdevcfg, no boot partition that is mounted; nothing was touched"
        )
    if not has[way]:
        raise LoadError(f"this system cannot load by way of {way}; nothing was touched")
    return way


def _warn(system: System, say: Callable[[str], None]) -> None:
    """Of what the device tree has and this bitstream has not."""
    tree = system.path("proc/device-tree")
    for node in sorted([*tree.glob("elink*"), *tree.glob("*/elink*")]):
        status = node / "status"
        if not status.exists() or status.read_bytes().rstrip(b"\0") in (b"ok", b"okay"):
            say(
                f"warning: the device tree has {node.relative_to(tree)}, and nothing answers there any more but with an"
                " error; disable it (docs/board.md, base patch)"
            )


def _open_bus(system: System) -> UioBus:
    """Page 0, by the kernel module if that has it."""
    return UioBus(root=system.root, way="bloomgate" if system.exists(_MODULE) else "uio")


# Bringing the old configuration to rest.


def _quiesce(system: System, say: Callable[[str], None]) -> Optional[UioBus]:
    """Reset a co-processor that runs, and keep others from it: the bus holds every page until it is closed."""
    if not system.fabric_ready():
        return None
    closed = _bridge_closed(system)
    if closed is not None:
        say(f"no co-processor is brought to rest: {closed}")
        return None
    try:
        bus = _open_bus(system)
    except DeviceInUse as error:
        raise LoadError(f"the co-processor is in use; end its users first: {error}") from error
    except DeviceUnavailable as error:
        say(f"no co-processor is brought to rest: {error}")
        return None
    try:
        with system.watchdog():
            _, parameters = identify(bus)
        for slot in range(parameters.slots):
            bus.read(slot_page_offset(slot), 1)
        status, command = CONTROL_PAGE.register("STATUS"), CONTROL_PAGE.register("COMMAND")
        bus.write(CONTROL_PAGE.register("INTERRUPT_ENABLE").offset, [0])
        # The reset alone would leave entries in the rings, which the master would go on to fetch.
        for slot in range(parameters.slots):
            _stop_queue(bus, slot)
        bus.write(command.offset, [command["SOFT_RESET"].insert(1)])
        moving = status["RESETTING"].mask | status["SCRUBBING"].mask
        _wait(lambda: not bus.read(status.offset, 1)[0] & moving, "the co-processor did not come to rest")
    except VersionMismatch as error:
        say(f"no co-processor is brought to rest: {error}")
        bus.close()
        return None
    except DeviceInUse as error:
        bus.close()
        raise LoadError(f"the co-processor is in use; end its users first: {error}") from error
    except BaseException:
        bus.close()
        raise
    say(f"the running co-processor with {parameters.slots} slots is at rest")
    return bus


def _stop_queue(bus: UioBus, slot: int) -> None:
    """Disable a slot's queue pair, and wait until nothing is fetched for it any more."""
    record = CONTROL_PAGE.window("QUEUE_RECORDS").offset + slot * QUEUE_RECORD_BYTES
    status = QUEUE_RECORD.register("QUEUE_STATUS")
    bus.write(record + QUEUE_RECORD.register("QUEUE_CONTROL").offset, [0])
    _wait(
        lambda: not bus.read(record + status.offset, 1)[0] & status["DRAINING"].mask,
        f"the queue of slot {slot} did not come to rest",
    )


def _bridge_closed(system: System) -> Optional[str]:
    """What would keep the fabric from answering, if that can be known: without /dev/mem it cannot."""
    try:
        return system.bridge_closed()
    except OSError:
        return None


def _release(bus: Optional[UioBus]) -> None:
    if bus is not None:
        bus.close()


# The ways.


def _by_overlay(system: System, data: bytes, overlay: Path) -> None:
    if system.exists(_OVERLAY):
        system.remove_folder(_OVERLAY)
    system.store(f"lib/firmware/{_FIRMWARE}", data)
    system.make_folder(_OVERLAY)
    try:
        system.write(f"{_OVERLAY}/dtbo", overlay.read_bytes())
        if system.text(f"{_OVERLAY}/status") not in ("applied", None):
            raise LoadError("the kernel did not apply the overlay; see dmesg")
    except BaseException:
        system.remove_folder(_OVERLAY)
        raise


def _boot_partition(system: System) -> Optional[Path]:
    for folder in _BOOT_FOLDERS:
        if any(system.exists(f"{folder}/{name}") for name in _BOOT_FILES):
            return Path(folder)
    return None


def _to_boot_partition(system: System, data: bytes) -> Path:
    """The old file stays beside the new one, for the way back."""
    folder = _boot_partition(system)
    assert folder is not None
    name = folder / "parallella.bit.bin"
    old = system.path(str(name))
    if old.exists():
        system.store(f"{name}.previous", old.read_bytes())
    system.store(str(name), data)
    return old


# What is there now.


class _MemoryBus(RegisterBus):
    """Reads page 0 through /dev/mem: for a system whose device tree has no node for it."""

    def __init__(self, system: System) -> None:
        self._system = system

    def read(self, offset: int, words: int) -> list[int]:
        return self._system.physical_words(BASE_ADDRESS + offset, words)

    def write(self, offset: int, values: Sequence[int]) -> None:
        raise NotImplementedError("page 0 is only looked at")


def _bus_after_loading(system: System, say: Callable[[str], None]) -> RegisterBus:
    """The way to page 0 of the bitstream that has just been loaded."""
    try:
        return _open_bus(system)
    except DeviceUnavailable as error:
        say(f"{error}; looking through /dev/mem")
        try:
            # Whether /dev/mem can be read. What this says counts before the first access, see _identify().
            system.bridge_closed()
        except OSError as denied:
            raise LoadError(
                f"the bitstream is loaded, but nothing can look at it: {error}; /dev/mem: {denied.strerror}"
            ) from error
        return _MemoryBus(system)


def _identify(system: System, bus: RegisterBus, say: Callable[[str], None]) -> tuple[tuple[int, int, int], Parameters]:
    """Version and geometry, which are also left for the owners of single slots. Closes the bus."""
    try:
        closed = _bridge_closed(system)
        if closed is not None:
            raise LoadError(f"the bitstream is loaded, but {closed}, so it is not touched")
        with system.watchdog() as armed:
            say("first access, with the watchdog armed" if armed else "first access, without a watchdog")
            version, parameters = identify(bus)
    except VersionMismatch as error:
        raise LoadError(f"the bitstream is loaded, but {error}") from error
    finally:
        bus.close()
    system.store(str(IDENTITY_FILE), identity(version, parameters).encode("ascii"))
    system.path(str(IDENTITY_FILE)).chmod(0o644)
    return version, parameters


def _wait(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DeviceTimeout(f"{failure} ({_SECONDS:.0f} s)")
        time.sleep(0.01)

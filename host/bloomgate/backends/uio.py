"""``uio:`` and ``bloomgate:``, the gateware in the FPGA of a board that runs Linux: a node for every page.

URLs::

    uio:                    the whole device: page 0 and every slot
    uio:slot=3              slot 3 alone, for a user who may not touch another page
    uio:root=/tmp/fake      put before every path of the system, for tests (also uio:slot=3,root=/tmp/fake)
    bloomgate:              the same three through the kernel module

``uio:`` finds its nodes by name in ``/sys/class/uio`` (``bloomgate-control``, ``bloomgate-slot3``); the device-tree
overlay of ``firmware/devicetree`` makes them. ``bloomgate:`` has those of the kernel module of ``firmware/linux``:
``/dev/bloomgate-slot3``. The udev rule gives each to the group of its name. A page belongs to one process at a time.
Registers are accessed by :mod:`bloomgate.libbloomgate`, 32 bits at a time, and not before Linux says that the fabric is
configured: an access that nothing answers would stall the processor for ever.

Queue pairs: with the kernel module a window is memory of its own, cached. With ``uio:`` it is the slot's part of the
reserved memory, which Linux maps uncached: each word that the processor reads or writes there is an access to DDR. The
gateware must reach memory in the same way, S_AXI_ACP for the module and S_AXI_HP0 for ``uio:``, and says which it is.

A process with one slot does not see page 0, so it knows less:

* Version and geometry come from the kernel module; with ``uio:`` from ``/run/bloomgate/device.json``, which
  ``bloomgate load`` writes, or from the URL.
* With ``uio:``, ``last_timestamp()`` is the newest that this process knows of: the device's when it was opened, and
  those of its own commits.
* ``published`` is that of this process. It does not go past commits of other slots, since nobody here knows when they
  are written back: that costs aborts and never correctness, but ``wait_published`` of a commit behind one of them does
  not return, and with it no transaction of the STM. Programs that use the device at the same time, on the same data or
  each on its own, open it as ``shm:`` with ``bloomgate serve``.
* When another epoch has begun, because the owner of page 0 has reset the device or another slot has used up the last
  count, ``commit`` raises DeviceUnavailable, since nobody here knows what is written back of the epoch before. When
  all of it is, open the device again: it begins in the new epoch. From queue pairs comes ROLLOVER.
* Queue pairs need the kernel module: only page 0 can give a slot its window.
* ``reset``, ``raise_floor``, ``inject_parity_error``, and ``open_slot`` with all that belongs to it, raise
  :class:`~bloomgate.errors.DeviceUnavailable`, and ``stats`` counts this slot's verdicts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import threading
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, NoReturn, Optional

from bloomgate.backends.uio_queue import LibraryQueue
from bloomgate.device import Device, DeviceInfo
from bloomgate.driver import POLLS_PER_ACCESS, ProgrammedIODevice, RegisterBus
from bloomgate.errors import (
    DeviceClosed,
    DeviceInUse,
    DeviceTimeout,
    DeviceUnavailable,
    DeviceURLError,
    ParameterError,
    VersionMismatch,
)
from bloomgate.libbloomgate import library
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_pair import QueuePair
from bloomgate.queue_port import QueuePort
from bloomgate.queue_slots import QueueSlots
from bloomgate.registers import CONTROL_PAGE, PAGE_BYTES, VERSION
from bloomgate.slots import Slot
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

__all__ = ["CONTROL_NODE", "IDENTITY_FILE", "UioBus", "UioDevice", "UioSlotDevice", "identity", "open_uio", "slot_node"]

#: Name of page 0's node.
CONTROL_NODE = "bloomgate-control"
#: What the owner of page 0 tells those who may not read it.
IDENTITY_FILE = Path("run", "bloomgate", "device.json")

#: The version of gateware from which on a slot's page tells the newest timestamp.
_NEWEST_SINCE = (0, 3, 0)
_LAST_EPOCH = (1 << EPOCH_BITS) - 1

#: What :meth:`Device.info` says of each way to the registers.
_DESCRIPTIONS = {
    "uio": "the gateware in the FPGA, through Linux UIO nodes",
    "bloomgate": "the gateware in the FPGA, through the kernel module",
}

_INTERRUPT_ENABLE = CONTROL_PAGE.register("INTERRUPT_ENABLE")
_INTERRUPT_PENDING = CONTROL_PAGE.register("INTERRUPT_PENDING")
#: The causes that end a nap: those of libbloomgate's queue pairs too, which share the register.
_WAKING = _INTERRUPT_ENABLE["COMPLETION"].mask | _INTERRUPT_ENABLE["WAKE"].mask
#: What a file of the kernel module reads: the number of wake-ups.
_COUNT_BYTES = 4

#: What the library says of queue pairs under the names of Parameters.
_QUEUE_PARAMETERS = ("queue_entries", "request_buffers", "buffer_depth")


def slot_node(slot: int) -> str:
    """Name of a slot's node."""
    return f"bloomgate-slot{slot}"


def open_uio(way: str, path: str, *, expected: Optional[Parameters], initial_epoch: int, url: str) -> Device:
    """The device that a URL names. ``way``: its scheme. ``path``: what is between that and the question mark."""
    options: dict[str, str] = {}
    for part in path.split(",") if path else []:
        name, _, value = part.partition("=")
        if name not in ("slot", "root") or name in options or not value:
            raise DeviceURLError(f"a {way}: URL can have slot=NUMBER and root=FOLDER, not {part!r}, in {url!r}")
        options[name] = value
    root = options.get("root", "")
    if "slot" not in options:
        return UioDevice(root=root, expected=expected, initial_epoch=initial_epoch, way=way)
    if not (options["slot"].isascii() and options["slot"].isdigit()):
        raise DeviceURLError(f"slot must be a number, not {options['slot']!r}, in {url!r}")
    if initial_epoch:
        raise DeviceURLError(f"initial_epoch is for the owner of page 0, not of one slot, in {url!r}")
    return UioSlotDevice(int(options["slot"]), root=root, parameters=expected, way=way)


class UioBus(RegisterBus):
    """The pages of the device, each mapped when it is first used. 32-bit accesses only.

    Threads that nap share an interrupt, and with the kernel module a slot's file: one may take what would have woken
    another, so that a nap is short.
    """

    longest_nap = 0.02

    def __init__(self, *, root: str = "", way: str = "uio") -> None:
        """``root``: put before every path of the system. ``way``: "uio", or "bloomgate" for the kernel module.

        Raises DeviceUnavailable without page 0.
        """
        self._ffi, self._lib = library()
        self._way = way
        #: The kernel's interrupt handler clears the causes itself.
        self.takes_causes = way == "bloomgate"
        self._root = root
        self._windows: dict[int, Any] = {}
        self._closed = False
        self._window(0)

    def read(self, offset: int, words: int) -> list[int]:
        target = self._ffi.new("uint32_t[]", words)
        window = self._window(offset // PAGE_BYTES)
        self._check(self._lib.bloomgate_read(window, offset % PAGE_BYTES, target, words))
        return list(self._ffi.unpack(target, words))

    def write(self, offset: int, values: Sequence[int]) -> None:
        source = self._ffi.new("uint32_t[]", values)
        window = self._window(offset // PAGE_BYTES)
        self._check(self._lib.bloomgate_write(window, offset % PAGE_BYTES, source, len(values)))

    def poll(self, offset: int, words: int, mask: int, value: int) -> list[int]:
        target = self._ffi.new("uint32_t[]", words)
        window = self._window(offset // PAGE_BYTES)
        self._check(self._lib.bloomgate_poll(window, offset % PAGE_BYTES, target, words, mask, value, POLLS_PER_ACCESS))
        return list(self._ffi.unpack(target, words))

    def wait_interrupt(self, seconds: float) -> bool:
        """Unmask the interrupt, and wait for it; False when it does not come.

        The kernel module needs no unmasking: it disables the causes when the interrupt comes.
        """
        window = self._window(0)
        if self._way == "uio":
            self._check(self._lib.bloomgate_uio_unmask(window))
        status = self._lib.bloomgate_uio_wait(window, int(seconds * 1000), self._ffi.new("uint32_t *"))
        if status == self._lib.BLOOMGATE_E_TIMEOUT:
            return False
        self._check(status)
        return True

    def arm(self, slot: int) -> None:
        if self._way == "uio":
            self.write(_INTERRUPT_ENABLE.offset, [_WAKING])
            self._check(self._lib.bloomgate_uio_unmask(self._window(0)))
        else:
            os.read(self._window(slot + 1).file, _COUNT_BYTES)

    def nap(self, slot: int, seconds: float) -> None:
        waiting = select.poll()
        try:
            waiting.register(self._window(0 if self._way == "uio" else slot + 1).file, select.POLLIN)
        except DeviceClosed:
            return
        if waiting.poll(1000 * seconds) and self._way == "uio":
            # Now it is masked. Another thread may have taken it.
            self._lib.bloomgate_uio_wait(self._window(0), 0, self._ffi.new("uint32_t *"))
            self.write(_INTERRUPT_PENDING.offset, [_WAKING])

    def open_queue(self, slot: int, parameters: Parameters) -> QueuePort:
        control, page = self._window(0), self._window(slot + 1)
        geometry = self._ffi.new("struct bloomgate_geometry *")
        self._check(self._lib.bloomgate_identify(control, geometry))
        queue = self._ffi.new("struct bloomgate_queue *")
        if self._way == "uio":
            root = os.fsencode(self._root)
            status = self._lib.bloomgate_uio_queue_open(queue, root, control, slot, page, geometry)
        else:
            status = self._lib.bloomgate_module_queue_open(queue, page, geometry)
        return _queue(slot, parameters, queue, status)

    def close(self) -> None:
        self._closed = True
        for window in self._windows.values():
            self._lib.bloomgate_close(window)
        self._windows.clear()

    def _window(self, page: int) -> Any:
        window = self._windows.get(page)
        if window is None:
            if self._closed:
                raise DeviceClosed("the device is closed; open it again with bloomgate.open_device()")
            window = _open_node(CONTROL_NODE if page == 0 else slot_node(page - 1), self._root, self._way)
            self._windows[page] = window
        return window

    def _check(self, status: int) -> None:
        if status != self._lib.BLOOMGATE_OK:
            raise DeviceUnavailable(_text(status))


class UioDevice(ProgrammedIODevice):
    """The whole device: the driver for programmed I/O over UIO."""

    def __init__(
        self,
        *,
        root: str = "",
        expected: Optional[Parameters] = None,
        initial_epoch: int = 0,
        way: str = "uio",
    ) -> None:
        """``expected``: the geometry that it must have. ``way``: see :class:`UioBus`.

        Raises what ProgrammedIODevice raises, and DeviceUnavailable.
        """
        self._require_epoch(initial_epoch)
        #: The bus, for what the driver does not do.
        self.bus = UioBus(root=root, way=way)
        super().__init__(
            self.bus,
            backend=way,
            description=_DESCRIPTIONS[way],
            expected=expected,
            initial_epoch=initial_epoch,
        )

    def _after_fork(self) -> None:
        super()._after_fork()
        # The pages are locked for as long as either process has the files open.
        self.bus.close()


class UioSlotDevice(Device):
    """One slot. Its threads take turns. The module's text says what a device without page 0 cannot do."""

    def __init__(self, slot: int, *, root: str = "", parameters: Optional[Parameters] = None, way: str = "uio") -> None:
        """``parameters``: the geometry, where nobody has left it in ``/run/bloomgate/device.json``, else a check of it.

        Raises DeviceUnavailable, or VersionMismatch for gateware that this host does not speak with.
        """
        self._ffi, self._lib = library()
        self._way, self._number = way, slot
        self._lock = threading.Lock()
        if way == "uio":
            self._version, found = _read_identity(root, parameters)
            if slot >= found.slots:
                raise DeviceUnavailable(f"there is no slot {slot}: the device has {found.slots}")
            self._window = _open_node(slot_node(slot), root, way)
        else:
            self._window = _open_node(slot_node(slot), root, way)
            self._version, found = _ask_module(self._window, parameters)
        self._queues = QueueSlots(1, self._open_queue)
        self._slot = self._ffi.new("struct bloomgate_slot *")
        geometry = self._ffi.new(
            "struct bloomgate_geometry *",
            {
                "timestamp_bits": found.timestamp_bits,
                "key_bits": found.key_bits,
                "slots": found.slots,
                "aperture_depth": found.aperture_depth,
            },
        )
        newest = self._ffi.new("uint64_t *")
        status = self._lib.bloomgate_slot_open(self._slot, self._window, geometry)
        if status == self._lib.BLOOMGATE_OK:
            status = self._lib.bloomgate_slot_newest(self._slot, newest)
        if status != self._lib.BLOOMGATE_OK:
            self._lib.bloomgate_close(self._window)
            raise DeviceTimeout(f"slot {slot} did not decide its last request; reset or reload the device")
        self._newest = int(newest[0])
        #: The newest epoch that ``published`` can come to.
        self._epoch = self._newest >> found.timestamp_bits
        self._counts = {"commits": 0, **{f"aborts_{reason.name.lower()}": 0 for reason in Reason}}
        super().__init__(found, self._newest)

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """See :meth:`~bloomgate.device.Device.commit`. After any exception the transaction has not happened.

        Raises :class:`~bloomgate.errors.DeviceTimeout` when the device does not decide within its bound, and
        :class:`~bloomgate.errors.DeviceUnavailable` when an epoch has begun of which this device cannot know enough.
        """
        self._require_request(snapshot, reads, writes, commutes)
        sets = [self._ffi.new("uint32_t[]", [index(key) for key in keys]) for keys in (reads, writes, commutes)]
        request = self._ffi.new(
            "struct bloomgate_request *",
            {
                "snapshot": index(snapshot),
                **dict(zip(("reads", "writes", "commutes"), sets)),
                **dict(zip(("read_count", "write_count", "commute_count"), map(len, sets))),
            },
        )
        decision = self._ffi.new("struct bloomgate_decision *")
        with self._lock:
            self._require_open()
            self._settle()
            try:
                status = self._lib.bloomgate_commit(self._slot, request, decision)
                if status != self._lib.BLOOMGATE_OK:
                    raise DeviceTimeout(f"slot {self._number} did not decide its request; reset or reload the device")
                verdict = self._verdict(decision)
                if verdict.reason is Reason.ROLLOVER:
                    self._require_older(snapshot)
                return verdict
            except BaseException:
                # The caller sees no verdict and writes nothing back: the commit, if it is one, is empty.
                if decision.timestamped:
                    self._newest = max(self._newest, decision.timestamp)
                    self.publish(decision.timestamp)
                raise

    def queue_pair(self) -> QueuePair:
        self._require_open()
        return QueuePair(self._queues.open(), self._require_sets)

    def _open_queue(self, _: int) -> QueuePort:
        if self._way == "uio":
            self._refuse("queue_pair", "; with the kernel module every slot has one")
        geometry, timestamp = self._ffi.new("struct bloomgate_geometry *"), self._ffi.new("uint64_t *")
        queue = self._ffi.new("struct bloomgate_queue *")
        status = self._lib.bloomgate_module_info(self._window, geometry, timestamp)
        if status == self._lib.BLOOMGATE_OK:
            status = self._lib.bloomgate_module_queue_open(queue, self._window, geometry)
        return _queue(self._number, self.parameters, queue, status)

    def last_timestamp(self) -> int:
        """The device's newest timestamp as the kernel module says; with ``uio:`` the newest that is known here."""
        self._require_open()
        if self._way == "bloomgate":
            geometry, timestamp = self._ffi.new("struct bloomgate_geometry *"), self._ffi.new("uint64_t *")
            status = self._lib.bloomgate_module_info(self._window, geometry, timestamp)
            if status != self._lib.BLOOMGATE_OK:
                raise DeviceUnavailable(f"the kernel module does not answer: {_text(status)}")
            return int(timestamp[0])
        return self._newest

    def info(self) -> DeviceInfo:
        self._require_open()
        return DeviceInfo(
            backend=self._way,
            version=self._version,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description=f"slot {self._number} of {_DESCRIPTIONS[self._way]}",
        )

    def stats(self) -> Mapping[str, int]:
        self._require_open()
        return dict(self._counts)

    def reset(self, initial_epoch: int = 0) -> None:
        self._refuse("reset")

    def raise_floor(self) -> None:
        self._refuse("raise_floor")

    def inject_parity_error(self, table: int, row: int) -> None:
        self._refuse("inject_parity_error")

    def open_slot(self, number: Optional[int] = None) -> Slot:
        self._refuse("open_slot", self._whole_device)

    def conflicts(self) -> NoReturn:
        self._refuse("conflicts", self._whole_device)

    def revoke_token(self) -> NoReturn:
        self._refuse("revoke_token", self._whole_device)

    def set_token_watchdog(self, ticks: int) -> None:
        self._refuse("set_token_watchdog", self._whole_device)

    def tick(self, ticks: int = 1) -> None:
        self._refuse("tick", self._whole_device)

    @property
    def _whole_device(self) -> str:
        return f"; open the whole device as {self._way}:, for one process, or as shm: with bloomgate serve, for several"

    def close(self) -> None:
        try:
            self._queues.close()
        finally:
            with self._lock:
                super().close()
                self._lib.bloomgate_close(self._window)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._queues.abandon()
        # As above; and another thread of the other process may have the lock.
        self._lib.bloomgate_close(self._window)

    def _refuse(self, what: str, hint: str = "") -> NoReturn:
        self._require_open()
        raise DeviceUnavailable(f"{what}() is for the owner of page 0; this device is slot {self._number} alone{hint}")

    def _settle(self) -> None:
        """Publish what a request that timed out has become, so that nothing waits for it."""
        if self._slot.submitted:
            decision = self._ffi.new("struct bloomgate_decision *")
            if self._lib.bloomgate_settle(self._slot, decision) != self._lib.BLOOMGATE_OK:
                raise DeviceTimeout(f"slot {self._number} has not decided its last request; reset or reload the device")
            self.publish(self._verdict(decision).timestamp)

    def _verdict(self, decision: Any) -> Verdict:
        if decision.committed:
            self._counts["commits"] += 1
            if not decision.timestamped:
                return Verdict(True, None, None, None)
            self._newest = max(self._newest, decision.timestamp)
            if decision.timestamp == self.parameters.timestamp(self._epoch, self.parameters.max_count):
                self._epoch += 1
            return Verdict(True, decision.timestamp, None, None)
        reason = Reason(decision.reason)
        self._counts[f"aborts_{reason.name.lower()}"] += 1
        return Verdict(False, None, reason, decision.key if reason in KEY_REASONS else None)

    def _require_older(self, snapshot: int) -> None:
        """ROLLOVER is a verdict on a snapshot older than the epoch that is known here, or of the last epoch of all.

        Else another has begun, and ``published`` does not come to it: it would when everything of this one is written
        back, and where this one has ended only page 0 says.
        """
        if self._epoch <= index(snapshot) >> self.parameters.timestamp_bits < _LAST_EPOCH:
            raise DeviceUnavailable(
                f"nothing was committed: epoch {self._epoch} is over, by a reset or by the commit of another slot; when"
                f" all of it is written back, open slot {self._number} again"
            )


# What is common to both.


def _text(status: int) -> str:
    """The library's words on a status, or the system's."""
    ffi, lib = library()
    if status == lib.BLOOMGATE_E_SYSTEM:
        return os.strerror(ffi.errno)
    text: str = ffi.string(lib.bloomgate_message(status)).decode("ascii")
    return text


def _open_node(name: str, root: str, way: str) -> Any:
    """The window of a node. Raises DeviceUnavailable, DeviceInUse."""
    ffi, lib = library()
    window = ffi.new("struct bloomgate_window *")
    opener = lib.bloomgate_uio_open if way == "uio" else lib.bloomgate_module_open
    status = opener(window, os.fsencode(root), name.encode("ascii"))
    if status != lib.BLOOMGATE_OK:
        said = _text(status)
        if status == lib.BLOOMGATE_E_SYSTEM:
            said += f"; its users are the members of the group {name}"
        kind = DeviceInUse if status == lib.BLOOMGATE_E_IN_USE else DeviceUnavailable
        raise kind(f"the node {name}: {said}")
    return window


def _queue(slot: int, parameters: Parameters, queue: Any, status: int) -> QueuePort:
    """The port of a queue, if opening it came to ``status`` BLOOMGATE_OK."""
    _, lib = library()
    if status == lib.BLOOMGATE_E_TIMEOUT:
        raise DeviceTimeout(f"the queue of slot {slot} does not come to rest; reset or reload the device")
    if status != lib.BLOOMGATE_OK:
        raise DeviceUnavailable(f"slot {slot} has no queue pair: {_text(status)}")
    return LibraryQueue(parameters, queue)


def identity(version: tuple[int, int, int], parameters: Parameters) -> str:
    """What ``/run/bloomgate/device.json`` says of a device: JSON."""
    document = {"version": version, "parameters": dataclasses.asdict(parameters)}
    return json.dumps(document, indent=2) + "\n"


def _require_version(version: tuple[int, int, int]) -> None:
    """What a slot alone learns from its page, older gateware does not tell."""
    if version < _NEWEST_SINCE:
        raise VersionMismatch(
            f"the gateware speaks version {'.'.join(map(str, version))}, and a slot alone needs"
            f" {'.'.join(map(str, _NEWEST_SINCE))} or newer; open the whole device"
        )


def _ask_module(window: Any, parameters: Optional[Parameters]) -> tuple[tuple[int, int, int], Parameters]:
    """Version and geometry, from the kernel module. Closes the window if they will not do."""
    ffi, lib = library()
    geometry, timestamp = ffi.new("struct bloomgate_geometry *"), ffi.new("uint64_t *")
    try:
        status = lib.bloomgate_module_info(window, geometry, timestamp)
        if status != lib.BLOOMGATE_OK:
            raise VersionMismatch(_text(status))
        queues = {name: getattr(geometry, name) for name in _QUEUE_PARAMETERS} if geometry.queue_entries else {}
        found = Parameters(
            K=geometry.tables,
            D=1 << geometry.log2_rows,
            timestamp_bits=geometry.timestamp_bits,
            key_bits=geometry.key_bits,
            slots=geometry.slots,
            aperture_depth=geometry.aperture_depth,
            hash_seed=geometry.hash_seed,
            **queues,
        )
        if parameters is not None and parameters != found:
            raise VersionMismatch(f"the gateware was built as {found}, not {parameters}")
        version = geometry.major, geometry.minor, geometry.patch
        _require_version(version)
    except BaseException:
        lib.bloomgate_close(window)
        raise
    return version, found


def _read_identity(root: str, parameters: Optional[Parameters]) -> tuple[tuple[int, int, int], Parameters]:
    """Version and geometry.

    ``parameters``: the geometry that it must have, or has if nobody says it.
    """
    path = Path(root or "/", IDENTITY_FILE)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        major, minor, patch = (int(number) for number in document["version"])
        found = Parameters(**document["parameters"])
    except FileNotFoundError:
        if parameters is None:
            raise DeviceUnavailable(
                f"{path} is not there, so nothing says what the device is: load it with `bloomgate load`, or give its"
                " parameters in the URL"
            ) from None
        return VERSION, parameters
    except (OSError, ValueError, TypeError, KeyError, ParameterError) as error:
        raise DeviceUnavailable(f"{path} cannot be used ({error}); write it anew with `bloomgate load`") from error
    if major != VERSION[0]:
        raise VersionMismatch(f"the gateware speaks version {major}.{minor}.{patch}, and this host {VERSION}")
    _require_version((major, minor, patch))
    if parameters is not None and parameters != found:
        raise VersionMismatch(f"the gateware was built as {found}, not {parameters}")
    return (major, minor, patch), found

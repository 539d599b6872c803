"""The whole device of ``uio:`` and ``bloomgate:``: page 0, every slot, and the interrupt."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from typing import Any, Optional

from bloomgate.backends.uio_node import CONTROL_NODE, DESCRIPTIONS, open_node, slot_node, status_text
from bloomgate.backends.uio_queue import opened_queue
from bloomgate.driver import POLLS_PER_ACCESS, ProgrammedIODevice, RegisterBus
from bloomgate.errors import DeviceClosed, DeviceUnavailable
from bloomgate.libbloomgate import library
from bloomgate.parameters import Parameters
from bloomgate.queue_port import QueuePort
from bloomgate.registers import CONTROL_PAGE, PAGE_BYTES

__all__ = ["UioBus", "UioDevice"]

_INTERRUPT_ENABLE = CONTROL_PAGE.register("INTERRUPT_ENABLE")
_INTERRUPT_PENDING = CONTROL_PAGE.register("INTERRUPT_PENDING")
#: The causes that end a nap: those of libbloomgate's queue pairs too, which share the register.
_WAKING = _INTERRUPT_ENABLE["COMPLETION"].mask | _INTERRUPT_ENABLE["WAKE"].mask
#: What a file of the kernel module reads: the number of wake-ups.
_COUNT_BYTES = 4


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
        return opened_queue(slot, parameters, queue, status)

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
            window = open_node(CONTROL_NODE if page == 0 else slot_node(page - 1), self._root, self._way)
            self._windows[page] = window
        return window

    def _check(self, status: int) -> None:
        if status != self._lib.BLOOMGATE_OK:
            raise DeviceUnavailable(status_text(status))


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
            description=DESCRIPTIONS[way],
            expected=expected,
            initial_epoch=initial_epoch,
        )

    def _after_fork(self) -> None:
        super()._after_fork()
        # The pages are locked for as long as either process has the files open.
        self.bus.close()

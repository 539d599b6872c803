"""The queue pairs of ``uio:`` and ``bloomgate:``: the rings in libbloomgate."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any, Optional

from bloomgate.backends.uio_node import status_text
from bloomgate.errors import DeviceTimeout, DeviceUnavailable
from bloomgate.libbloomgate import library
from bloomgate.parameters import Parameters
from bloomgate.queue_port import QueuePort

__all__ = ["LibraryQueue", "opened_queue"]

#: Seconds after which a device that does not decide is reported.
PATIENCE = 30.0
#: Seconds for threads that wait in a queue which is being closed; they look up every 0.05 s.
_CLOSING_SECONDS = 2.0


class LibraryQueue(QueuePort):
    """A queue that :mod:`bloomgate.libbloomgate` has opened. It waits by looking at memory, then on the interrupt."""

    def __init__(self, parameters: Parameters, queue: Any) -> None:
        """``queue``: a ``struct bloomgate_queue``, which belongs to the port from now on."""
        self._ffi, self._lib = library()
        self._queue = queue
        self._idle = threading.Condition()
        #: Threads in collect().
        self._waiting = 0
        # The pointer is to words, for C; here it is bytes.
        super().__init__(parameters, memoryview(self._ffi.buffer(queue.memory, queue.bytes)).cast("B"))

    @property
    def spins(self) -> int:
        """Looks at a completion before a waiter sleeps."""
        return int(self._queue.spins)

    @spins.setter
    def spins(self, looks: int) -> None:
        self._queue.spins = looks

    def next_index(self) -> Optional[int]:
        index: int = self._lib.bloomgate_queue_next(self._queue)
        return None if index < 0 else index

    def put(self, offset: int, keys: Sequence[int]) -> None:
        self.require_open()
        words = self._ffi.from_buffer("uint32_t[]", struct.pack(f"={len(keys)}I", *keys))
        if self._lib.bloomgate_queue_put(self._queue, offset, words, len(keys)) != self._lib.BLOOMGATE_OK:
            raise ValueError(f"{len(keys)} keys at {offset:#x} are not in the window")

    def submit(self, words: Sequence[int]) -> None:
        self.require_open()
        self._lib.bloomgate_queue_enter(self._queue, words)

    def announce(self, position: int, keys: Sequence[int]) -> None:
        self.require_open()
        words = self._ffi.from_buffer("uint32_t[]", struct.pack(f"={len(keys)}I", *keys))
        if self._lib.bloomgate_announce(self._queue, position, words, len(keys)) != self._lib.BLOOMGATE_OK:
            raise ValueError(f"{position + len(keys)} keys are more than the slot's announced log can have")

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        verdict = self._ffi.new("uint32_t[4]")
        with self._idle:
            self.require_open()
            self._waiting += 1
        try:
            status = self._lib.bloomgate_queue_wait(self._queue, index, -int(-seconds * 1000 // 1), verdict)
        finally:
            with self._idle:
                self._waiting -= 1
                self._idle.notify_all()
        if status == self._lib.BLOOMGATE_E_TIMEOUT:
            return None
        if status != self._lib.BLOOMGATE_OK:
            text = self._ffi.string(self._lib.bloomgate_message(status)).decode("ascii")
            raise DeviceUnavailable(f"a queue pair cannot wait: {text}")
        return tuple(self._ffi.unpack(verdict, 4))

    def release(self, index: int) -> None:
        self._lib.bloomgate_queue_release(self._queue, index)

    def waited(self, seconds: float) -> None:
        if seconds >= PATIENCE:
            raise DeviceTimeout(f"the device has not decided a request for {seconds:.0f} s; reset or reload it")

    def close(self) -> None:
        """Give the slot back. What is in the rings is decided or forgotten, and the window is not to be used any more.

        Raises :class:`~bloomgate.errors.DeviceTimeout` if another thread waits in it, or the device does not come to
        rest.
        """
        with self._idle:
            if self.closed:
                return
            self.closed = True
            if not self._idle.wait_for(lambda: self._waiting == 0, _CLOSING_SECONDS):
                raise DeviceTimeout("a thread that waits in this queue pair does not end")
        self.window.release()
        if self._lib.bloomgate_queue_close(self._queue) != self._lib.BLOOMGATE_OK:
            raise DeviceTimeout("the device does not bring this queue pair to rest; reset or reload it")

    def abandon(self) -> None:
        if not self.closed:
            self.closed = True
            self._lib.bloomgate_queue_abandon(self._queue)


def opened_queue(slot: int, parameters: Parameters, queue: Any, status: int) -> QueuePort:
    """The port of a queue, if opening it came to ``status`` BLOOMGATE_OK."""
    _, lib = library()
    if status == lib.BLOOMGATE_E_TIMEOUT:
        raise DeviceTimeout(f"the queue of slot {slot} does not come to rest; reset or reload the device")
    if status != lib.BLOOMGATE_OK:
        raise DeviceUnavailable(f"slot {slot} has no queue pair: {status_text(status)}")
    return LibraryQueue(parameters, queue)

"""The queue pairs of ``soft:`` and ``shm:``: the rings in C."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from bloomgate.parameters import Parameters
from bloomgate.queue_pair import window_bytes
from bloomgate.queue_port import QueuePort
from bloomgate.registers import PAGE_BYTES

if TYPE_CHECKING:
    from bloomgate.backends.soft import SoftDevice

__all__ = ["CPort", "SoftQueue"]


class CPort(QueuePort):
    """A port whose client is C code, see shm/client.c."""

    def __init__(self, parameters: Parameters, window: memoryview, module: Any, client: Any) -> None:
        """``client``: a bg_client, which whoever calls frees."""
        super().__init__(parameters, window)
        self.module = module
        self.client = client

    def next_index(self) -> Optional[int]:
        index: int = self.module.lib.bg_next(self.client)
        return None if index < 0 else index

    def submit(self, words: Sequence[int]) -> None:
        self.module.lib.bg_submit(self.client, words, 0, self.module.ffi.NULL, 0)

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        payload = self.module.ffi.new("uint32_t[4]")
        if self.module.lib.bg_collect(self.client, index, int(seconds * 1e9), payload):
            return tuple(payload)
        return None

    def release(self, index: int) -> None:
        self.module.lib.bg_release(self.client, index)


class SoftQueue(CPort):
    """The queue of one slot of ``soft:``, its window in memory of this process."""

    def __init__(self, device: SoftDevice, size: Optional[int] = None) -> None:
        """``size`` of the window, in bytes; by default what a queue pair needs."""
        module = device.module
        size = window_bytes(device.parameters) if size is None else size
        self._device = device
        # Only the pages that are written use memory. The slot control comes first.
        self._memory = mmap.mmap(-1, PAGE_BYTES + size)
        memory = module.ffi.from_buffer("unsigned char[]", self._memory, require_writable=True)
        client = module.lib.bg_client_new(
            device.state(), memory, memory + PAGE_BYTES, size, device.parameters.queue_entries
        )
        if client == module.ffi.NULL:
            raise MemoryError("no memory for a queue pair")
        super().__init__(
            device.parameters,
            memoryview(self._memory)[PAGE_BYTES:],
            module,
            module.ffi.gc(client, module.lib.bg_client_free),
        )
        #: Both are used by the client.
        self._keep = (memory, device.state())

    def require_open(self) -> None:
        self._device.state()

    def enable(self, generation: int) -> None:
        """Page 0: end the ownership of the slot, and begin another unless ``generation`` is 0."""
        self.module.lib.bg_raw_enable(self.client, generation)
        self.module.lib.bg_client_begin(self.client, generation)

    def ring_doorbells(self, head: int, tail: int) -> None:
        """Write COMPLETION_HEAD, then SUBMISSION_TAIL."""
        self._device.state()
        self.module.lib.bg_raw_doorbells(self.client, head, tail)

    def status(self) -> tuple[int, int]:
        """ENABLED and GENERATION as in QUEUE_STATUS, and SUBMISSION_HEAD."""
        status = self.module.ffi.new("uint32_t[2]")
        self.module.lib.bg_raw_status(self.client, status)
        return status[0], status[1]

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        self._device.state()
        return super().collect(index, seconds)

"""The irrevocable token of a segment: its holder has what it reads of shared arrays left alone by everybody else.

It is a lock that the kernel releases when its holder dies. The guards, a bit for each location, are in the segment;
those of a holder that has died are removed by whoever meets them (guards.c).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Optional

from bloomgate.shm.layout import TOKEN_LOCK
from bloomgate.shm.locks import try_lock, unlock

if TYPE_CHECKING:
    from bloomgate.backends.shm import ShmDevice
    from bloomgate.shm.publication import SharedPublication

__all__ = ["Guards"]

#: Nanoseconds that one call to C may last, so that Python sees signals.
_SLICE_NS = 50_000_000


class Guards:
    """The token and the guards of a segment, as one device sees them. Any thread."""

    def __init__(self, device: ShmDevice, publication: SharedPublication) -> None:
        self._device = device
        self._publication = publication
        self._lib = publication._lib
        self._lock = threading.RLock()
        #: Who has the token in this process: the kernel does not tell its threads apart.
        self._owner: Optional[object] = None

    def take(self, owner: object) -> bool:
        """Take the token. False while another has it. Whatever happens, :meth:`release` it."""
        with self._lock:
            if self._owner is not None:
                return self._owner is owner
            self._owner = owner
            if try_lock(self._device.segment.file, TOKEN_LOCK):
                if self._clear():
                    return True
                unlock(self._device.segment.file, TOKEN_LOCK)
            self._owner = None
            return False

    def release(self, owner: object) -> None:
        """Give the token back, and remove the guards; does nothing for somebody else. Idempotent."""
        with self._lock:
            if self._owner is owner:
                # That one has it already, or an exception has come in between.
                if self._device.segment.file >= 0 and try_lock(self._device.segment.file, TOKEN_LOCK):
                    self._clear()
                    unlock(self._device.segment.file, TOKEN_LOCK)
                self._owner = None

    def guard(self, location: int) -> int:
        """For the holder: nobody else commits a change of that location from now on.

        Returns the timestamp whose publication makes all earlier changes visible. Raises
        :class:`~bloomgate.errors.DeviceTimeout` when these are not decided.
        """
        device = self._device
        client = device.port.client
        begin = time.monotonic()
        device.port.require_open()
        self._lib.bg_guard(client, location)
        while not self._lib.bg_guard_settle(client, self._publication.view, _SLICE_NS):
            device.port.waited(time.monotonic() - begin)
        return device.last_timestamp()

    def in_the_way(self) -> bool:
        """Whether somebody else has guards; those of a dead holder are removed."""
        with self._lock:
            if not self._lib.bg_guards_active(self._device.port.client):
                return False
            if self._owner is not None:
                return True
            self._device.port.require_open()
            removed = False
            if try_lock(self._device.segment.file, TOKEN_LOCK):
                removed = self._clear()
                unlock(self._device.segment.file, TOKEN_LOCK)
            return not removed

    def _clear(self) -> bool:
        """Whether there are none any more; else the next one tries, when the holder's commit has been decided."""
        return bool(self._lib.bg_guards_clear(self._device.port.client, self._publication.view, _SLICE_NS))

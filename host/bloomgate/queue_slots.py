"""Which slots of a device have a queue pair: at most one each, of those that the device's bus opens."""

from __future__ import annotations

import contextlib
import threading
from typing import Callable

from bloomgate.errors import DeviceInUse
from bloomgate.queue_port import QueuePort

__all__ = ["QueueSlots"]


class QueueSlots:
    """The open ports of a device. Any thread may use it."""

    def __init__(self, slots: int, open_port: Callable[[int], QueuePort]) -> None:
        """``open_port``: makes the port of a slot."""
        self._open_port = open_port
        self._slots = slots
        self._lock = threading.Lock()
        self._ports: dict[int, QueuePort] = {}

    def open(self) -> QueuePort:
        """A port on a slot that has none. Raises :class:`~bloomgate.errors.DeviceInUse`, and what opening it raises."""
        with self._lock:
            for slot in range(self._slots):
                if slot not in self._ports or self._ports[slot].closed:
                    self._ports[slot] = port = self._open_port(slot)
                    return port
        raise DeviceInUse(f"all {self._slots} slots have a queue pair; close one, or submit more in each")

    def open_on(self, slot: int) -> QueuePort:
        """The port of this slot. Raises :class:`~bloomgate.errors.DeviceInUse`, and what opening it raises."""
        with self._lock:
            if slot in self._ports and not self._ports[slot].closed:
                raise DeviceInUse(f"slot {slot} has a queue pair that is in use; close it, or announce without its log")
            self._ports[slot] = port = self._open_port(slot)
            return port

    def close(self) -> None:
        """Close all ports, also if one cannot be brought to rest; then raise what that one raises."""
        with self._lock, contextlib.ExitStack() as closing:
            for port in self._ports.values():
                closing.callback(port.close)

    def abandon(self) -> None:
        """After a fork, in the child: the ports are the parent's."""
        for port in self._ports.values():
            port.abandon()

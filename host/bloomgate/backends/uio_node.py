"""The nodes of ``uio:`` and ``bloomgate:``, one for every page of the device."""

from __future__ import annotations

import os
from typing import Any

from bloomgate.errors import DeviceInUse, DeviceUnavailable
from bloomgate.libbloomgate import library

__all__ = ["CONTROL_NODE", "DESCRIPTIONS", "open_node", "slot_node", "status_text"]

#: Name of page 0's node.
CONTROL_NODE = "bloomgate-control"

#: What :meth:`Device.info` says of each way to the registers.
DESCRIPTIONS = {
    "uio": "the gateware in the FPGA, through Linux UIO nodes",
    "bloomgate": "the gateware in the FPGA, through the kernel module",
}


def slot_node(slot: int) -> str:
    """Name of a slot's node."""
    return f"bloomgate-slot{slot}"


def open_node(name: str, root: str, way: str) -> Any:
    """The window of a node. Raises DeviceUnavailable, DeviceInUse."""
    ffi, lib = library()
    window = ffi.new("struct bloomgate_window *")
    opener = lib.bloomgate_uio_open if way == "uio" else lib.bloomgate_module_open
    status = opener(window, os.fsencode(root), name.encode("ascii"))
    if status != lib.BLOOMGATE_OK:
        said = status_text(status)
        if status == lib.BLOOMGATE_E_SYSTEM:
            said += f"; its users are the members of the group {name}"
        kind = DeviceInUse if status == lib.BLOOMGATE_E_IN_USE else DeviceUnavailable
        raise kind(f"the node {name}: {said}")
    return window


def status_text(status: int) -> str:
    """The library's words on a status, or the system's."""
    ffi, lib = library()
    if status == lib.BLOOMGATE_E_SYSTEM:
        return os.strerror(ffi.errno)
    text: str = ffi.string(lib.bloomgate_message(status)).decode("ascii")
    return text

"""``uio:`` and ``bloomgate:``, the gateware in the FPGA of a board that runs Linux: a node for every page.

URLs::

    uio:                    the whole device: page 0 and every slot
    uio:slot=3              slot 3 alone, for a user who may not touch another page
    uio:slot=3,data=own     the same, for a program whose data no other program reads or writes
    uio:root=/tmp/fake      put before every path of the system, for tests (also uio:slot=3,root=/tmp/fake)
    bloomgate:              all these through the kernel module

``uio:`` finds its nodes by name in ``/sys/class/uio`` (``bloomgate-control``, ``bloomgate-slot3``); the device-tree
overlay of ``firmware/devicetree`` makes them. ``bloomgate:`` has those of the kernel module of ``firmware/linux``:
``/dev/bloomgate-slot3``. The udev rule gives each to the group of its name. A page belongs to one process at a time.
Registers are accessed by :mod:`bloomgate.libbloomgate`, 32 bits at a time, and not before Linux says that the fabric is
configured: an access that nothing answers would stall the processor for ever.

Queue pairs: with the kernel module a window is memory of its own, cached. With ``uio:`` it is the slot's part of the
reserved memory, which Linux maps uncached: each word that the processor reads or writes there is an access to DDR. The
gateware must reach memory in the same way, S_AXI_ACP for the module and S_AXI_HP0 for ``uio:``, and says which it is.

:mod:`~bloomgate.backends.uio_slot` says what a process with one slot cannot know.
"""

from __future__ import annotations

from typing import Optional

from bloomgate.backends.uio_device import UioBus, UioDevice
from bloomgate.backends.uio_identity import IDENTITY_FILE, identity
from bloomgate.backends.uio_node import CONTROL_NODE, slot_node
from bloomgate.backends.uio_slot import UioSlotDevice
from bloomgate.device import Device
from bloomgate.errors import DeviceURLError
from bloomgate.parameters import Parameters

__all__ = ["CONTROL_NODE", "IDENTITY_FILE", "UioBus", "UioDevice", "UioSlotDevice", "identity", "open_uio", "slot_node"]


def open_uio(way: str, path: str, *, expected: Optional[Parameters], initial_epoch: int, url: str) -> Device:
    """The device that a URL names. ``way``: its scheme. ``path``: what is between that and the question mark."""
    options: dict[str, str] = {}
    for part in path.split(",") if path else []:
        name, _, value = part.partition("=")
        if name not in ("slot", "data", "root") or name in options or not value:
            raise DeviceURLError(
                f"a {way}: URL can have slot=NUMBER, data=own and root=FOLDER, not {part!r}, in {url!r}"
            )
        options[name] = value
    root = options.get("root", "")
    if "data" in options and (options["data"] != "own" or "slot" not in options):
        raise DeviceURLError(f"data must be own, of a device with one slot, in {url!r}")
    if "slot" not in options:
        return UioDevice(root=root, expected=expected, initial_epoch=initial_epoch, way=way)
    if not (options["slot"].isascii() and options["slot"].isdigit()):
        raise DeviceURLError(f"slot must be a number, not {options['slot']!r}, in {url!r}")
    if initial_epoch:
        raise DeviceURLError(f"initial_epoch is for the owner of page 0, not of one slot, in {url!r}")
    return UioSlotDevice(
        int(options["slot"]), root=root, parameters=expected, way=way, own_data=options.get("data") == "own"
    )

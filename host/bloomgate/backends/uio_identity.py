"""What an owner of one slot learns of the device, whose page 0 is another's: version and geometry."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

from bloomgate.backends.uio_node import status_text
from bloomgate.errors import DeviceUnavailable, ParameterError, VersionMismatch
from bloomgate.libbloomgate import library
from bloomgate.parameters import Parameters
from bloomgate.registers import VERSION

__all__ = ["IDENTITY_FILE", "ask_module", "identity", "read_identity"]

#: What the owner of page 0 tells those who may not read it.
IDENTITY_FILE = Path("run", "bloomgate", "device.json")

#: The version of gateware from which on a slot's page tells the newest timestamp.
_NEWEST_SINCE = (0, 3, 0)
#: What the library says of queue pairs under the names of Parameters.
_QUEUE_PARAMETERS = ("queue_entries", "request_buffers", "buffer_depth")


def identity(version: tuple[int, int, int], parameters: Parameters) -> str:
    """What ``/run/bloomgate/device.json`` says of a device: JSON."""
    document = {"version": version, "parameters": dataclasses.asdict(parameters)}
    return json.dumps(document, indent=2) + "\n"


def read_identity(root: str, parameters: Optional[Parameters]) -> tuple[tuple[int, int, int], Parameters]:
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


def ask_module(window: Any, parameters: Optional[Parameters]) -> tuple[tuple[int, int, int], Parameters]:
    """Version and geometry, from the kernel module. Closes the window if they will not do."""
    ffi, lib = library()
    geometry, timestamp = ffi.new("struct bloomgate_geometry *"), ffi.new("uint64_t *")
    try:
        status = lib.bloomgate_module_info(window, geometry, timestamp)
        if status != lib.BLOOMGATE_OK:
            raise VersionMismatch(status_text(status))
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


def _require_version(version: tuple[int, int, int]) -> None:
    """What a slot alone learns from its page, older gateware does not tell."""
    if version < _NEWEST_SINCE:
        raise VersionMismatch(
            f"the gateware speaks version {'.'.join(map(str, version))}, and a slot alone needs"
            f" {'.'.join(map(str, _NEWEST_SINCE))} or newer; open the whole device"
        )

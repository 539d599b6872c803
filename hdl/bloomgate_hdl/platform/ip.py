"""The core for other people's designs: Verilog, a FuseSoC core file and an IP-XACT component.

``python -m bloomgate_hdl.platform.ip --output DIRECTORY`` writes ``bloomgate.v``, ``bloomgate.core`` and
``component.xml``. FuseSoC takes the folder with ``--cores-root``, Vivado as an IP repository. The core has no PS7 and
no pins; its AXI3 slave port goes to M_AXI_GP0, by way of an interconnect if there are others, and its master port to
S_AXI_ACP. Vivado has not been tried.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, region_bytes

from bloomgate_hdl.export import (
    AXI_PREFIX,
    MEMORY_PREFIX,
    TOP_NAME,
    add_parameter_options,
    convert_verilog,
    parameters_from,
)

__all__ = ["Port", "core_file", "ip_xact", "main", "module_ports", "write_ip"]

#: Vendor, library, name of the core (FuseSoC's "VLNV", IP-XACT's versionedIdentifier).
VENDOR, LIBRARY = "bloomgate", "stm"

_SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
_INTERFACE = AXI_PREFIX.rstrip("_")
_MEMORY_INTERFACE = MEMORY_PREFIX.rstrip("_")


@dataclass(frozen=True)
class Port:
    """A port of the Verilog module."""

    name: str
    is_input: bool
    width: int


def module_ports(verilog: str, top: str = TOP_NAME) -> tuple[Port, ...]:
    """The ports of a module in the form that Yosys writes, in the order of its header."""
    found = re.search(rf"^module \\?{re.escape(top)}\s*\((.*?)\);(.*?)^endmodule", verilog, re.S | re.M)
    if found is None:
        raise ValueError(f"there is no module {top} in the Verilog text")
    declared = {
        name: Port(name, direction == "input", int(high) + 1 if high else 1)
        for direction, high, name in re.findall(r"^\s*(input|output)\s+(?:\[(\d+):0\]\s+)?(\w+)\s*;", found[2], re.M)
    }
    names = [name.strip() for name in found[1].split(",")]
    missing = [name for name in names if name not in declared]
    if missing:
        raise ValueError(f"the ports {', '.join(missing)} of {top} have no declaration of a form that is understood")
    return tuple(declared[name] for name in names)


def core_file(release: str) -> str:
    """A FuseSoC core description (CAPI2)."""
    return f"""CAPI=2:
name: {VENDOR}:{LIBRARY}:{TOP_NAME}:{release}
description: Commit validation of software transactional memory behind an AXI3 slave port

filesets:
  rtl:
    files: [bloomgate.v]
    file_type: verilogSource-2005

targets:
  default:
    filesets: [rtl]
    toplevel: {TOP_NAME}
  lint:
    filesets: [rtl]
    toplevel: {TOP_NAME}
    default_tool: verilator
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wno-fatal]
"""


def _add(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    element = ET.SubElement(parent, f"{{{_SPIRIT}}}{name}")
    element.text = text
    return element


def _type(parent: ET.Element, name: str, library: str, kind: str) -> None:
    element = _add(parent, name)
    for key, value in (("vendor", "xilinx.com"), ("library", library), ("name", kind), ("version", "1.0")):
        element.set(f"{{{_SPIRIT}}}{key}", value)


def _interface(
    parent: ET.Element,
    name: str,
    library: str,
    kind: str,
    ports: Mapping[str, str],
    parameters: Mapping[str, str],
    master: bool = False,
) -> ET.Element:
    """A bus interface; ``ports`` is from the names of the bus definition to those of the module."""
    interface = _add(parent, "busInterface")
    _add(interface, "name", name)
    _type(interface, "busType", library, kind)
    abstraction = f"{kind}_rtl"
    _type(interface, "abstractionType", library, abstraction)
    mode = _add(interface, "master" if master else "slave")
    maps = _add(interface, "portMaps")
    for logical, physical in ports.items():
        entry = _add(maps, "portMap")
        _add(_add(entry, "logicalPort"), "name", logical)
        _add(_add(entry, "physicalPort"), "name", physical)
    if parameters:
        values = _add(interface, "parameters")
        for key, value in parameters.items():
            parameter = _add(values, "parameter")
            _add(parameter, "name", key)
            _add(parameter, "value", value)
    return mode


def _axi_ports(ports: tuple[Port, ...], prefix: str) -> dict[str, str]:
    """The names that the bus definition has for the ports with that prefix, and theirs."""
    return {port.name.removeprefix(prefix).upper(): port.name for port in ports if port.name.startswith(prefix)}


def ip_xact(ports: tuple[Port, ...], parameters: Parameters, release: str) -> str:
    """An IP-XACT component (IEEE 1685-2009, as Vivado reads it) with Xilinx' bus definitions."""
    ET.register_namespace("spirit", _SPIRIT)
    component = ET.Element(f"{{{_SPIRIT}}}component")
    for key, value in (("vendor", VENDOR), ("library", LIBRARY), ("name", TOP_NAME), ("version", release)):
        _add(component, key, value)

    interfaces = _add(component, "busInterfaces")
    slave = _interface(
        interfaces, _INTERFACE, "interface", "aximm", _axi_ports(ports, AXI_PREFIX), {"PROTOCOL": "AXI3"}
    )
    _add(slave, "memoryMapRef").set(f"{{{_SPIRIT}}}memoryMapRef", _INTERFACE)
    memory = _axi_ports(ports, MEMORY_PREFIX)
    _interface(interfaces, _MEMORY_INTERFACE, "interface", "aximm", memory, {"PROTOCOL": "AXI3"}, master=True)
    clock = {"ASSOCIATED_BUSIF": f"{_INTERFACE}:{_MEMORY_INTERFACE}", "ASSOCIATED_RESET": "rst", "FREQ_HZ": "100000000"}
    _interface(interfaces, "clk", "signal", "clock", {"CLK": "clk"}, clock)
    _interface(interfaces, "rst", "signal", "reset", {"RST": "rst"}, {"POLARITY": "ACTIVE_HIGH"})
    level = {"SENSITIVITY": "LEVEL_HIGH"}
    _interface(interfaces, "interrupt", "signal", "interrupt", {"INTERRUPT": "interrupt"}, level, master=True)

    memory_map = _add(_add(component, "memoryMaps"), "memoryMap")
    _add(memory_map, "name", _INTERFACE)
    block = _add(memory_map, "addressBlock")
    _add(block, "name", "registers")
    # The core decodes whole addresses, so this is where it must be put.
    _add(block, "baseAddress", f"0x{BASE_ADDRESS:08X}")
    _add(block, "range", str(region_bytes(parameters)))
    _add(block, "width", "32")
    _add(block, "usage", "register")

    model = _add(component, "model")
    view = _add(_add(model, "views"), "view")
    _add(view, "name", "xilinx_anylanguagesynthesis")
    _add(view, "envIdentifier", "verilogSource:vivado.xilinx.com:synthesis")
    _add(view, "language", "verilog")
    _add(view, "modelName", TOP_NAME)
    _add(_add(view, "fileSetRef"), "localName", "rtl")
    listed = _add(model, "ports")
    for port in ports:
        entry = _add(listed, "port")
        _add(entry, "name", port.name)
        wire = _add(entry, "wire")
        _add(wire, "direction", "in" if port.is_input else "out")
        if port.width > 1:
            vector = _add(wire, "vector")
            _add(vector, "left", str(port.width - 1))
            _add(vector, "right", "0")

    file_set = _add(_add(component, "fileSets"), "fileSet")
    _add(file_set, "name", "rtl")
    file = _add(file_set, "file")
    _add(file, "name", "bloomgate.v")
    _add(file, "fileType", "verilogSource")
    _add(component, "description", "Commit validation of software transactional memory behind an AXI3 slave port")

    ET.indent(component)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(component, encoding="unicode") + "\n"


def write_ip(parameters: Parameters, directory: Path) -> tuple[Port, ...]:
    """Write the three files. Returns the ports of the core."""
    directory.mkdir(parents=True, exist_ok=True)
    release = version("bloomgate")
    text = convert_verilog(parameters)
    ports = module_ports(text)
    (directory / "bloomgate.v").write_text(text)
    (directory / "bloomgate.core").write_text(core_file(release))
    (directory / "component.xml").write_text(ip_xact(ports, parameters, release))
    return ports


def main() -> int:
    parser = argparse.ArgumentParser(prog="bloomgate_hdl.platform.ip", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="DIRECTORY")
    add_parameter_options(parser)
    arguments = parser.parse_args()
    ports = write_ip(parameters_from(arguments), arguments.output)
    print(f"{arguments.output}: bloomgate.v with {len(ports)} ports, bloomgate.core, component.xml")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The packaged core: what its descriptions say is what its Verilog has."""

import re
import subprocess
import xml.etree.ElementTree as ET

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, region_bytes
from bloomgate_hdl.axi3 import Axi3Signature
from bloomgate_hdl.export import yosys_command
from bloomgate_hdl.memory_port import ACP
from bloomgate_hdl.platform.ip import Port, module_ports, write_ip

PARAMETERS = Parameters(slots=2, D=64, aperture_depth=32)
SPIRIT = {"s": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ip")
    return folder, write_ip(PARAMETERS, folder)


@pytest.fixture(scope="module")
def component(package):
    return ET.parse(package[0] / "component.xml").getroot()


def text(element, path):
    return element.findtext(path, namespaces=SPIRIT)


def parameters(interface):
    return {text(p, "s:name"): text(p, "s:value") for p in interface.iterfind("s:parameters/s:parameter", SPIRIT)}


def interfaces(component):
    return {text(i, "s:name"): i for i in component.iterfind("s:busInterfaces/s:busInterface", SPIRIT)}


def port_map(interface):
    return {
        text(entry, "s:logicalPort/s:name"): text(entry, "s:physicalPort/s:name")
        for entry in interface.iterfind("s:portMaps/s:portMap", SPIRIT)
    }


def test_ports_are_those_of_the_axi3_ports(package):
    ports = {port.name: port for port in package[1]}
    for name, member in Axi3Signature(32, 32, 12).members.items():
        assert ports.pop(f"s_axi_gp0_{name}") == Port(f"s_axi_gp0_{name}", member.flow.name == "Out", member.shape)
    for name, member in ACP.signature.members.items():
        assert ports.pop(f"m_axi_memory_{name}") == Port(f"m_axi_memory_{name}", member.flow.name == "In", member.shape)
    for name, is_input in {"clk": True, "rst": True, "interrupt": False}.items():
        assert ports.pop(name) == Port(name, is_input, 1)
    assert all(name == "probe" for name in ports)


def test_model_ports_are_the_module_s(package, component):
    described = [
        Port(
            text(port, "s:name"),
            text(port, "s:wire/s:direction") == "in",
            int(text(port, "s:wire/s:vector/s:left") or 0) + 1,
        )
        for port in component.iterfind("s:model/s:ports/s:port", SPIRIT)
    ]
    assert tuple(described) == package[1]
    assert text(component, "s:model/s:views/s:view/s:modelName") == "bloomgate"


def test_every_bus_port_is_mapped_once(package, component):
    found = interfaces(component)
    assert set(found) == {"s_axi_gp0", "m_axi_memory", "clk", "rst", "interrupt"}
    mapped = [physical for interface in found.values() for physical in port_map(interface).values()]
    assert sorted(mapped) == sorted(port.name for port in package[1] if port.name != "probe")
    for name, mode in {"s_axi_gp0": "slave", "m_axi_memory": "master"}.items():
        assert found[name].find(f"s:{mode}", SPIRIT) is not None
        assert all(f"{name}_{logical.lower()}" == physical for logical, physical in port_map(found[name]).items())
        assert parameters(found[name])["PROTOCOL"] == "AXI3"
    assert parameters(found["clk"])["ASSOCIATED_BUSIF"] == "s_axi_gp0:m_axi_memory"
    assert parameters(found["rst"])["POLARITY"] == "ACTIVE_HIGH"
    assert parameters(found["interrupt"])["SENSITIVITY"] == "LEVEL_HIGH"


def test_the_memory_map_is_where_the_core_decodes(component):
    block = component.find("s:memoryMaps/s:memoryMap/s:addressBlock", SPIRIT)
    assert int(text(block, "s:baseAddress"), 16) == BASE_ADDRESS
    assert int(text(block, "s:range")) == region_bytes(PARAMETERS)
    reference = component.find(".//s:slave/s:memoryMapRef", SPIRIT)
    assert reference.get(f"{{{SPIRIT['s']}}}memoryMapRef") == text(component, "s:memoryMaps/s:memoryMap/s:name")


def test_files_that_are_named_exist(package, component):
    folder, _ = package
    for file in component.iterfind("s:fileSets/s:fileSet/s:file/s:name", SPIRIT):
        assert (folder / file.text).is_file()
    core = (folder / "bloomgate.core").read_text()
    assert core.startswith("CAPI=2:\n")
    for files in re.findall(r"files: \[(.*?)\]", core):
        for name in files.split(", "):
            assert (folder / name).is_file()
    assert re.search(r"^name: bloomgate:stm:bloomgate:[\d.]+$", core, re.M)
    assert set(re.findall(r"toplevel: (\w+)", core)) == {"bloomgate"}


def test_the_verilog_stands_alone(package):
    subprocess.run(
        [yosys_command(), "-q", "-p", "read_verilog bloomgate.v; hierarchy -check -top bloomgate"],
        cwd=package[0],
        check=True,
    )


def test_a_module_that_is_not_there():
    with pytest.raises(ValueError, match="there is no module bloomgate"):
        module_ports("module other(a);\n input a;\nendmodule\n")
    with pytest.raises(ValueError, match="the ports b of x have no declaration"):
        module_ports("module x(a, b);\n  input a;\n  inout b;\nendmodule\n", "x")

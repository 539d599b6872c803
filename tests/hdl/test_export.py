"""The Verilog export: port names that tools infer the AXI interface from, and the same bytes on every machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import bloomgate
import bloomgate_hdl
import pytest
from amaranth.lib import wiring
from bloomgate.parameters import Parameters
from bloomgate_hdl.axi3 import Axi3Signature
from bloomgate_hdl.export import AXI_PREFIX, MEMORY_PREFIX, TOP_NAME, convert_rtlil
from bloomgate_hdl.memory_port import ACP
from bloomgate_hdl.top import probe_layout

PARAMETERS = Parameters(K=1, D=16, timestamp_bits=8, key_bits=8, slots=1, aperture_depth=4)
OPTIONS = ["--K=1", "--D=16", "--timestamp-bits=8", "--key-bits=8", "--slots=1", "--aperture-depth=4"]
SOURCES = [Path(package.__file__).parent.parent for package in (bloomgate, bloomgate_hdl)]


def expected_ports():
    """{name: (direction, width)}."""
    ports = {"clk": ("input", 1), "rst": ("input", 1), "interrupt": ("output", 1)}
    ports["probe"] = ("output", probe_layout(PARAMETERS).size)
    for (name,), member, _ in Axi3Signature(32, 32, 12).flatten(Axi3Signature(32, 32, 12).create()):
        # The signature is written from the initiator's side, and this is the target.
        direction = "input" if member.flow == wiring.Out else "output"
        ports["s_axi_gp0_" + name] = (direction, member.shape)
    for name, member in ACP.signature.members.items():
        ports["m_axi_memory_" + name] = ("output" if member.flow == wiring.Out else "input", member.shape)
    return ports


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The Verilog of two runs, in different folders and with different hashes of strings."""
    texts = []
    for run in range(2):
        folder = tmp_path_factory.mktemp(f"run{run}")
        target = folder / "deep" / "bloomgate.v"
        environment = dict(os.environ, PYTHONHASHSEED=str(run + 1))
        environment["PYTHONPATH"] = os.pathsep.join(map(str, SOURCES))
        command = [sys.executable, "-m", "bloomgate_hdl.export", str(target), *OPTIONS]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert f"top module {TOP_NAME}" in result.stdout
        texts.append(target.read_text())
    return texts


def test_port_names(exported):
    assert (TOP_NAME, AXI_PREFIX, MEMORY_PREFIX) == ("bloomgate", "s_axi_gp0_", "m_axi_memory_")
    (body,) = re.findall(r"^module bloomgate\(.*?^endmodule", exported[0], re.MULTILINE | re.DOTALL)
    ports = {}
    for direction, high, name in re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+)", body, re.MULTILINE):
        ports[name] = (direction, int(high) + 1 if high else 1)
    assert ports == expected_ports()
    header = re.match(r"module bloomgate\((.*?)\);", body, re.DOTALL)[1]
    assert sorted(re.findall(r"\w+", header)) == sorted(ports)


def test_two_runs_give_the_same_bytes(exported):
    assert exported[0] == exported[1]
    assert convert_rtlil(PARAMETERS) == convert_rtlil(PARAMETERS)


def test_no_machine_path_and_no_date(exported):
    rtlil = convert_rtlil(PARAMETERS)
    for text in (*exported, rtlil):
        for path in (*SOURCES, Path(sys.prefix), Path.home(), Path.cwd()):
            if len(path.parts) > 1:
                assert str(path) not in text
        assert ".py" not in text
        assert not re.search(r"\d\d:\d\d:\d\d|20\d\d-\d\d-\d\d", text)


def test_every_module_has_a_name_of_this_design(exported):
    modules = re.findall(r"^module \\?(\S+?)\s?\(", exported[0], re.MULTILINE)
    assert modules[0] == TOP_NAME or TOP_NAME in modules
    assert all(name == TOP_NAME or name.startswith(f"{TOP_NAME}.") for name in modules), modules


def test_options_are_the_parameters_and_bad_ones_are_refused(tmp_path):
    command = [sys.executable, "-m", "bloomgate_hdl.export", str(tmp_path / "x.v"), "--D=24"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, SOURCES)))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "D must be a power of two, not 24" in result.stderr
    assert not (tmp_path / "x.v").exists()

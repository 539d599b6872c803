"""Builds ``soft:``. ``setup.py`` runs this file for ``ffibuilder``; :func:`compile_module` needs no setuptools."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

if __name__ != "bloomgate.backends.soft_build":
    # Run by setup.py, when nothing is installed yet.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cffi import FFI

from bloomgate.backends.soft_source import (
    COMPILE_ARGUMENTS,
    DECLARATIONS,
    LINK_ARGUMENTS,
    MODULE,
    source,
)
from bloomgate.errors import CompilerMissing

__all__ = ["c_compiler", "compile_module", "ffibuilder"]

ffibuilder = FFI()
ffibuilder.cdef(DECLARATIONS)
ffibuilder.set_source(
    MODULE,
    source(),
    extra_compile_args=list(COMPILE_ARGUMENTS),
    extra_link_args=list(LINK_ARGUMENTS),
)

_PACKAGES = {
    "cpython": "apt install gcc libpython3-dev",
    "pypy": "apt install gcc pypy3-dev",
}


def _advice() -> str:
    command = _PACKAGES.get(sys.implementation.name, _PACKAGES["cpython"])
    return f"install one ({command}), or set CC to yours, or use model: instead of soft:"


def c_compiler() -> list[str]:
    """The command of the C compiler. Raises :class:`~bloomgate.errors.CompilerMissing` when there is none."""
    configured = os.environ.get("CC") or str(sysconfig.get_config_var("CC") or "cc")
    # The compiler that Python was built with need not be here; the standard names may be.
    for candidate in (configured, "cc", "gcc", "clang"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
        if os.environ.get("CC"):
            break
    raise CompilerMissing(f"soft: has to be compiled once, and there is no C compiler {configured!r}; {_advice()}")


def compile_module(target: Path, compiler: list[str], builder: FFI = ffibuilder) -> None:
    """Compile the extension module to ``target``, whose folder exists. It appears there complete, or not at all.

    ``compiler``: see :func:`c_compiler`. ``builder``: for a module with a source of its own.

    Raises :class:`~bloomgate.errors.CompilerMissing` when it fails.
    """
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        code = Path(folder, "soft_core_module.c")
        module = Path(folder, target.name)
        with contextlib.redirect_stdout(io.StringIO()):  # cffi prints what it writes
            builder.emit_c_code(str(code))
        includes = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
        command = [
            *compiler,
            *COMPILE_ARGUMENTS,
            "-fPIC",
            "-shared",
            *(f"-I{path}" for path in sorted(includes)),
            str(code),
            "-o",
            str(module),
            *LINK_ARGUMENTS,
        ]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if result.returncode != 0:
            lines = result.stderr.splitlines()
            # The first error says most: "Python.h: No such file or directory".
            said = next((line.split("error:", 1)[1].strip() for line in lines if "error:" in line), "no message")
            raise CompilerMissing(f"soft: has to be compiled once, and {compiler[0]} failed ({said}); {_advice()}")
        os.replace(module, target)

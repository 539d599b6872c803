"""libbloomgate from Python: the C library behind cffi's ABI mode, so that no interpreter's headers are needed.

``_declarations.py`` is ``bloomgate.h`` as cffi has parsed it; ``make generate`` writes it. Parsing at run time would
take seconds on the board.

A Debian package brings the library compiled, beside this file. Elsewhere the C compiler makes it at first use, into
``$XDG_CACHE_HOME/bloomgate`` (``~/.cache/bloomgate``), under a hash of its sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Optional

from bloomgate.errors import CompilerMissing

__all__ = ["FLAGS", "INCLUDE", "SOURCES", "compile_library", "declarations_module", "library"]

_HERE = Path(__file__).resolve().parent
#: Where bloomgate_registers.h is; bloomgate.h is beside this file.
INCLUDE = _HERE.parent / "include"
#: The C files that the library is made of.
SOURCES = tuple(sorted(_HERE.glob("*.c")))
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-fPIC", "-shared")
#: The library as a package installs it.
_INSTALLED = _HERE / "libbloomgate.so"
#: Seconds for the compiler, which needs less than one.
_COMPILER_SECONDS = 120

_loading = threading.Lock()
_loaded: Optional[tuple[Any, Any]] = None


def library() -> tuple[Any, Any]:
    """cffi's ``ffi`` and ``lib`` for ``bloomgate.h``.

    Raises :class:`~bloomgate.errors.CompilerMissing` when the library has to be compiled and cannot be.
    """
    global _loaded
    with _loading:
        if _loaded is None:
            from bloomgate.libbloomgate._declarations import ffi

            _loaded = ffi, ffi.dlopen(str(_INSTALLED if _INSTALLED.exists() else _cached()))
        return _loaded


def compile_library(target: Path, compiler: list[str]) -> None:
    """Compile to ``target``, whose folder exists. It appears there complete, or not at all.

    Raises :class:`~bloomgate.errors.CompilerMissing` when the compiler fails.
    """
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        made = Path(folder, target.name)
        command = [*compiler, *FLAGS, f"-I{INCLUDE}", *map(str, SOURCES), "-o", str(made)]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_COMPILER_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerMissing(f"libbloomgate cannot be compiled: {error}") from error
        if result.returncode != 0:
            said = next((line for line in result.stderr.splitlines() if "error" in line), "no message")
            raise CompilerMissing(f"libbloomgate has to be compiled once, and {compiler[0]} failed: {said}")
        os.replace(made, target)


def declarations_module() -> str:
    """The text of ``_declarations.py``: ``bloomgate.h`` without its preprocessor lines, parsed by cffi."""
    import cffi

    header = (_HERE / "bloomgate.h").read_text(encoding="utf-8")
    ffi = cffi.FFI()
    ffi.cdef(re.sub(r"(?ms)^#ifdef __cplusplus.*?^#endif|^#[^\n]*$", "", header))
    ffi.set_source("bloomgate.libbloomgate._declarations", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "_declarations.py")
        with contextlib.redirect_stdout(io.StringIO()):  # cffi prints what it writes
            ffi.emit_python_code(str(path))
        return path.read_text(encoding="ascii")


def _cached() -> Path:
    """The library in the user's cache, compiled now if it is not there."""
    digest = hashlib.sha256()
    for path in (*SOURCES, *sorted(_HERE.glob("*.h")), *sorted(INCLUDE.glob("*.h"))):
        digest.update(path.read_bytes())
    configured = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(configured if os.path.isabs(configured) else os.path.expanduser("~/.cache"), "bloomgate")
    target = folder / f"libbloomgate-{digest.hexdigest()[:16]}-{platform.machine()}.so"
    if not target.exists():
        compiler = shlex.split(os.environ.get("CC") or "cc")
        if not compiler or shutil.which(compiler[0]) is None:
            raise CompilerMissing(
                "libbloomgate has to be compiled once, and there is no C compiler"
                f" {' '.join(compiler)!r}; install one (apt install gcc) or set CC to yours"
            )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            print(f"bloomgate: compiling libbloomgate, once, into {folder}", file=sys.stderr, flush=True)
            compile_library(target, compiler)
        except OSError as error:
            raise CompilerMissing(
                f"libbloomgate cannot be kept in {folder} ({error}); set XDG_CACHE_HOME to a folder of yours"
            ) from error
    return target

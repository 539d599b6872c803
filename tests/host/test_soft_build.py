"""soft: where it was not compiled at installation: compiled once, or a message that says what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bloomgate
import pytest
from bloomgate.backends import soft
from bloomgate.errors import DeviceUnavailable

PACKAGE = Path(bloomgate.__file__).parent
OPEN = "import bloomgate; d = bloomgate.open_device('soft:'); print(d.commit(snapshot=0, writes=[1]).timestamp)"


class Copy:
    """The package without its compiled module, and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "site"
        self.cache = folder / "cache"
        shutil.copytree(PACKAGE, self.path / "bloomgate", ignore=shutil.ignore_patterns("_soft_core.*", "__pycache__"))

    def start(self, code: str = OPEN, python: str = sys.executable, **environment: str | None) -> subprocess.Popen:
        variables = dict(os.environ, PYTHONPATH=str(self.path), XDG_CACHE_HOME=str(self.cache))
        variables.pop("CC", None)
        for name, value in environment.items():
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
        return subprocess.Popen(
            [python, "-B", "-c", code],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.path,
        )

    def run(self, code: str = OPEN, python: str = sys.executable, **environment: str | None) -> tuple[str, str]:
        """What it says on standard output and standard error."""
        return finish(self.start(code, python, **environment))


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    return out, err


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture
def fresh(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler: apt install gcc libpython3-dev"
)


@needs_compiler
def test_processes_compile_it_once(copy: Copy) -> None:
    results = [finish(process) for process in [copy.start() for _ in range(3)]]
    assert [out for out, _ in results] == ["1\n"] * 3, results
    said = "".join(err for _, err in results)
    folder = re.escape(str(copy.cache / "bloomgate"))
    assert re.fullmatch(rf"bloomgate: compiling the soft: device, once, into {folder}/soft-\S+\n", said), said
    assert copy.run() == ("1\n", "")
    # Nothing is left over from the build.
    (built,) = (copy.cache / "bloomgate").iterdir()
    assert {path.name.split(".")[0] for path in built.iterdir()} == {"_soft_core", "lock"}


@needs_compiler
def test_another_source_is_another_module(copy: Copy, fresh: Copy) -> None:
    copy.run()
    fresh.cache = copy.cache
    assert fresh.run() == ("1\n", "")
    with open(fresh.path / "bloomgate" / "backends" / "soft_core.c", "a") as file:
        file.write("/* changed */\n")
    out, err = fresh.run()
    assert (out, "compiling" in err) == ("1\n", True)


@needs_compiler
@pytest.mark.parametrize(
    "stale",
    [
        "class lib: pass",  # of a version that did not tell
        "class ffi:\n    string = staticmethod(lambda text: text)\n"
        "class lib:\n    bg_source_hash = staticmethod(lambda: b'0123456789abcdef')",
        "raise ImportError('undefined symbol')",  # of another interpreter
    ],
)
def test_a_stale_module_is_not_used(copy: Copy, fresh: Copy, stale: str) -> None:
    copy.run()
    fresh.cache = copy.cache
    (fresh.path / "bloomgate" / "backends" / "_soft_core.py").write_text(stale)
    assert fresh.run() == ("1\n", "")


@needs_compiler
def test_without_a_cache_that_can_be_written(copy: Copy) -> None:
    out, err = copy.run(XDG_CACHE_HOME="/dev/null/cache")
    assert (out, "compiling the soft: device" in err) == ("1\n", True), err
    assert not re.search("Traceback|Error", err)


@needs_compiler
def test_a_relative_cache_is_ignored(copy: Copy) -> None:
    """As the XDG specification says."""
    copy.run()
    home = copy.cache.parent / "home"
    home.mkdir(exist_ok=True)
    link = home / ".cache"
    if not link.exists():
        link.symlink_to(copy.cache)
    assert copy.run(XDG_CACHE_HOME="cache", HOME=str(home)) == ("1\n", "")
    assert not (copy.path / "cache").exists()


CAUGHT = f"""
import bloomgate
try:
    {OPEN.split("; ", 1)[1]}
except bloomgate.CompilerMissing as error:
    print(error)
"""
ADVICE = r"install one \(apt install gcc libpython3-dev\), or set CC to yours, or use model: instead of soft:"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"CC": "no-such-compiler"},
            rf"soft: has to be compiled once, and there is no C compiler 'no-such-compiler'; {ADVICE}\n",
        ),
        ({"PATH": "/nonexistent"}, rf"soft: has to be compiled once, and there is no C compiler '.*'; {ADVICE}\n"),
        ({"CC": "false"}, rf"soft: has to be compiled once, and false failed \(no message\); {ADVICE}\n"),
    ],
)
def test_without_a_compiler(fresh: Copy, environment: dict[str, str], message: str) -> None:
    out, err = fresh.run(CAUGHT, **environment)
    assert re.fullmatch(message, out), (out, err)
    assert len(err.splitlines()) == (environment.get("CC") == "false")  # no progress where nothing begins
    # Nothing half-made stays, so that it works once there is a compiler.
    assert not list(fresh.cache.rglob("*.so"))


@needs_compiler
def test_without_the_headers_of_python(fresh: Copy) -> None:
    # Headers are searched for where sysconfig says.
    code = "import sysconfig; sysconfig.get_path = lambda name: '/nonexistent'" + CAUGHT
    out, _ = fresh.run(code)
    assert re.fullmatch(
        rf"soft: has to be compiled once, and \S+ failed \([Pp]y\w+\.h: No such file.*\); {ADVICE}\n", out
    ), out


@needs_compiler
def test_the_other_devices_need_no_compiler(fresh: Copy) -> None:
    assert fresh.run(OPEN.replace("soft:", "model:"), PATH="/nonexistent") == ("1\n", "")
    assert not fresh.cache.exists()


LOCKSTEP = """
import bloomgate
from bloomgate.selftest import selftest
for options in ("", "?D=16&timestamp_bits=3&key_bits=5&aperture_depth=8&K=7"):
    with bloomgate.open_device("soft:" + options) as device:
        selftest(device, rounds=1500)
with bloomgate.open_device("soft:") as device:
    for odd in (1.0, "1", None, -1, 2**32):
        try:
            device.commit(snapshot=0, reads=[odd])
        except bloomgate.KeyRangeError:
            continue
        raise AssertionError(odd)
    for odd in (1.0, "1", None, -1, 2**64):
        try:
            device.commit(snapshot=odd, reads=[1])
        except bloomgate.SnapshotRangeError:
            continue
        raise AssertionError(odd)
print("equal")
"""


@needs_compiler
def test_pypy(copy: Copy) -> None:
    pypy = shutil.which("pypy3")
    if pypy is None:
        pytest.skip("no pypy3: apt-get install pypy3 pypy3-dev")
    out, err = copy.run(LOCKSTEP, python=pypy)
    if "pypy3-dev" in err:
        pytest.skip("no headers of PyPy: apt-get install pypy3-dev")
    assert out == "equal\n", err


def test_the_c_code_has_room_for_every_geometry() -> None:
    from bloomgate.backends.soft_source import MAX_TABLES

    bloomgate.Parameters(K=MAX_TABLES)
    with pytest.raises(bloomgate.ParameterError):
        bloomgate.Parameters(K=MAX_TABLES + 1)


@needs_compiler
def test_the_c_code_gives_no_warnings(tmp_path: Path) -> None:
    from bloomgate.backends.soft_build import c_compiler
    from bloomgate.backends.soft_source import COMPILE_ARGUMENTS, source

    file = tmp_path / "core.c"
    # The functions that cffi makes callable are static.
    file.write_text(source())
    command = [*c_compiler(), *COMPILE_ARGUMENTS, "-Werror", "-Wno-unused-function", "-pedantic", "-c", str(file)]
    result = subprocess.run(
        [*command, "-o", str(tmp_path / "core.o")], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_python_without_cffi(tmp_path):
    program = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == '_cffi_backend' else find(name, *more)\n"
        "from bloomgate import TVar, atomic\n"
        "try: atomic(lambda: TVar(0).value)()\n"
        "except Exception as error: print(repr(error))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == (
        "DeviceUnavailable('soft: and shm: need the package cffi (pip install cffi), or use model:')\n"
    ), result.stderr


@pytest.mark.parametrize(("version", "refused"), [((3, 13), True), ((3, 14), False)])
def test_a_python_without_gil_that_cffi_does_not_support(monkeypatch, version, refused):
    """The build of the interpreter is what it is here, so that the question about it is answered by the test."""
    monkeypatch.setattr(soft, "_loaded", None)
    monkeypatch.setattr(soft.sysconfig, "get_config_var", lambda name: name == "Py_GIL_DISABLED" or None)
    monkeypatch.setattr(soft.sys, "version_info", (*version, 0, "final", 0))
    if refused:
        with pytest.raises(DeviceUnavailable, match=r"supports Python without a GIL from 3\.14 on"):
            soft.load_native()
    else:
        soft._require_cffi()

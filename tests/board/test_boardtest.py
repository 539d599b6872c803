"""bloomgate boardtest: on devices that are right, on the gateware through UIO, and on devices that are wrong."""

import dataclasses
import json
import subprocess
import sys

import pytest
from bloomgate import open_device
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.uio import IDENTITY_FILE, identity
from bloomgate.boardtest import boardtest, report_text
from bloomgate.libbloomgate import library
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, VERSION, slot_page_offset
from bloomgate.verdict import Reason, Verdict
from bloomgate_sim.device import SimulatedBus, SimulatedDevice

from tests.board.conftest import GEOMETRY
from tests.board.emulation import NATIVE

SECTIONS = ["identification", "registers", "slots", "flights", "verdicts", "errors", "interrupt", "queues"]
SECTIONS += ["throughput", "soak"]
NEED_REGISTERS = {"registers", "slots", "errors", "interrupt"}


def statuses(report):
    return {section.name: section.status for section in report.sections}


def failures(report):
    return {section.name: section.said for section in report.sections if section.status == "failed"}


@pytest.mark.parametrize("scheme", ["model", "soft"])
def test_a_device_in_software(scheme):
    with open_device(f"{scheme}:?slots=4") as device:
        report = boardtest(device, duration=0.1)
    assert failures(report) == {}
    assert [name for name, status in statuses(report).items() if status == "skipped"] == [
        name for name in SECTIONS if name in NEED_REGISTERS
    ]
    assert "This was no hardware" in report_text(report)


def test_the_gateware():
    parts = []
    with SimulatedDevice(GEOMETRY) as device:
        report = boardtest(device, duration=0.2, seed=5, progress=lambda fraction, note: parts.append((fraction, note)))
    assert failures(report) == {}
    assert statuses(report) == dict.fromkeys(SECTIONS, "passed")
    found = {section.name: section for section in report.sections}
    assert {"COMMIT", "CONFLICT", "ROLLOVER", "BAD_REQUEST", "PARITY"} <= set(found["verdicts"].figures)
    assert found["errors"].figures["busy_was_hit"]
    assert found["soak"].figures["requests"] > 0
    assert found["throughput"].figures["clock_hz"] > 0
    assert report.statistics["aborts_overflow"] == GEOMETRY.slots
    assert report.statistics["aborts_reset"] == report.statistics["aborts_busy"] == 1
    fractions = [fraction for fraction, _ in parts]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    json.dumps(dataclasses.asdict(report))


@pytest.fixture
def command(board, tmp_path):
    """Runs the command with the shim."""
    NATIVE.require()
    library()
    shim = NATIVE.shim(tmp_path / "shim.so")

    def run(url, *options):
        words = [sys.executable, "-m", "bloomgate", "boardtest", "--device", url, "--root", str(board.root), *options]
        return board.run(*NATIVE.command(shim, *words))

    return run


def test_the_command_through_uio(board, command, tmp_path):
    """The whole test with real mappings, real faults and the interrupt; nothing but 32-bit accesses to registers."""
    result = command(f"uio:root={board.root}", "--duration", "0.5", "--output", str(tmp_path / "report"))
    assert result.returncode == 0, result
    assert result.stdout.startswith("bloomgate boardtest: PASSED\n")
    assert board.server.refused == 0
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["passed"]
    assert {section["name"]: section["status"] for section in document["sections"]} == dict.fromkeys(SECTIONS, "passed")
    assert document["host"]["fabric"] == "operating"
    assert (tmp_path / "report.txt").read_text() == result.stdout
    assert "This was no hardware" not in result.stdout


def test_one_slot(board, command):
    path = board.root / IDENTITY_FILE
    path.parent.mkdir(parents=True)
    path.write_text(identity(VERSION, GEOMETRY))
    result = command(f"uio:slot=2,root={board.root}", "--json", "--duration", "0.1")
    assert result.returncode == 0, result
    sections = {section["name"]: section for section in json.loads(result.stdout)["sections"]}
    assert sections["identification"]["status"] == "passed"
    assert sections["verdicts"]["status"] == "skipped"
    assert "is for the owner of page 0" in sections["verdicts"]["said"]


# Devices that are wrong. Each must be found by the section that is there for it.


class Careless(ModelDevice):
    """Commits what conflicts."""

    def commit(self, **request):
        verdict = super().commit(**request)
        if verdict.reason is Reason.CONFLICT:
            return Verdict(True, None, None, None)
        return verdict


class Shaky(ModelDevice):
    """Wrong from some request of the soak on."""

    left = None

    def commit(self, **request):
        verdict = super().commit(**request)
        if self.left is not None:
            self.left -= 1
        return verdict if self.left is None or self.left > 0 else Verdict(False, None, Reason.PARITY, 3)


class Forgetful(ModelDevice):
    """Its queue pairs commit what conflicts."""

    def commit_queued(self, *request):
        verdict = super().commit_queued(*request)
        return Verdict(True, None, None, None) if verdict.reason is Reason.CONFLICT else verdict


class Deaf(ModelDevice):
    """Its queue pairs take any entry."""

    def refuse_queued(self):
        return Verdict(True, None, None, None)


@pytest.mark.parametrize(
    ("kind", "section"), [(Careless, "verdicts"), (Shaky, "soak"), (Forgetful, "queues"), (Deaf, "queues")]
)
def test_wrong_verdicts(kind, section):
    def progress(fraction, note):
        if note == "soak":
            device.left = 100

    with kind(GEOMETRY) as device:
        report = boardtest(device, duration=2, seed=1, progress=progress)
    assert section in failures(report)
    assert not report.passed
    assert report_text(report).startswith("bloomgate boardtest: FAILED\n")


VERDICT = SLOT_PAGE.register("VERDICT")


class StuckBit(SimulatedBus):
    """One bit of one register reads as 1."""

    where = CONTROL_PAGE.register("INITIAL_EPOCH").offset

    def read(self, offset, words):
        found = super().read(offset, words)
        if offset == self.where:
            found[0] |= 1 << 9
        return found


class DeafLine(SimulatedBus):
    """Its interrupt does not arrive."""

    interrupt = False


class LostKeys(SimulatedBus):
    """Keys to slot 1 do not arrive."""

    def write(self, offset, values):
        if offset != 2 * 4096 + SLOT_PAGE.window("READ_APERTURE").offset:
            super().write(offset, values)


class Babble(SimulatedBus):
    """A verdict of slot 1 has a reason that there is not."""

    def read(self, offset, words):
        found = super().read(offset, words)
        if offset == slot_page_offset(1) + VERDICT.offset:
            found[0] |= VERDICT["REASON"].mask
        return found


@pytest.mark.parametrize(
    ("kind", "section", "said"),
    [
        (StuckBit, "registers", "INITIAL_EPOCH: 513, and should be 1"),
        (DeafLine, "interrupt", "INTERRUPT_PENDING shows the verdict, but no interrupt came"),
        (Babble, "slots", "ValueError: "),
        (LostKeys, "slots", "slot 1, a key too many: COMMIT, and should be OVERFLOW"),
    ],
)
def test_wrong_wires(monkeypatch, kind, section, said):
    monkeypatch.setattr("bloomgate_sim.device.SimulatedBus", kind)
    with SimulatedDevice(GEOMETRY) as device:
        report = boardtest(device, duration=0)
    assert said in failures(report)[section]
    # A failure does not keep the rest from running.
    assert list(statuses(report)) == SECTIONS


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bloomgate", "boardtest", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("1.5s", 1.5), ("2m", 120), ("8h", 28800)])
def test_durations(text, seconds):
    from bloomgate.cli_board import _seconds

    assert _seconds(text) == seconds


def test_a_wrong_duration():
    result = cli("--duration", "soon")
    assert result.returncode == 2
    assert "must be a time like 30, 10m or 8h, not 'soon'" in result.stderr

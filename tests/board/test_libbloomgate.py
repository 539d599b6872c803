"""The C library: against the model through the simulated gateware, on x86 and on ARM; and its errors, one by one."""

import random
import re
import signal
import subprocess

import pytest
from bloomgate.backends.model import ModelDevice
from bloomgate.libbloomgate import INCLUDE, SOURCES, library
from bloomgate.registers import (
    CONTROL_PAGE,
    IDENTIFICATION,
    PAGE_BYTES,
    SLOT_PAGE,
    STATISTICS,
    VERSION,
    WORD_BYTES,
    ErrorCode,
)
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

from tests.board.conftest import GEOMETRY
from tests.board.emulation import ARM_GCC, ROOT, STRICT, needs

ffi, lib = library()
ROUNDS = 120
#: A word of a slot page that is no register.
HOLE = SLOT_PAGE.window("READ_APERTURE").offset - WORD_BYTES


class Exercise:
    """The program ``exercise``: lines in, lists of numbers out."""

    def __init__(self, board, machine, built, slot=3):
        command = machine.command(built / "shim.so", str(built / "exercise"), str(board.root), str(slot))
        self.lines = []
        self.command = command
        self.board = board

    def add(self, letter, *numbers):
        self.lines.append(" ".join(map(str, [letter, *numbers])))

    def commit(self, snapshot, reads=(), writes=(), commutes=()):
        self.add("c", snapshot, len(reads), len(writes), len(commutes), *reads, *writes, *commutes)

    def run(self):
        result = self.board.run(*self.command, input="\n".join(self.lines) + "\n")
        assert result.returncode == 0, result
        answers = [[int(word) for word in line.split()] for line in result.stdout.splitlines()]
        assert len(answers) == len(self.lines), result
        return answers


def verdict(answer):
    status, committed, timestamped, timestamp, reason, key = answer
    assert status == lib.BLOOMGATE_OK
    if committed:
        return Verdict(True, timestamp if timestamped else None, None, None)
    named = Reason(reason) in KEY_REASONS
    assert named or key == 0
    return Verdict(False, None, Reason(reason), key if named else None)


def test_example(board, machine, built):
    result = board.run(*machine.command(built / "shim.so", str(built / "commit"), "3", str(board.root)))
    assert result.stderr == ""
    version = ".".join(map(str, VERSION))
    assert result.stdout.splitlines() == [
        f"version {version}, {GEOMETRY.slots} slots, {GEOMETRY.aperture_depth} keys a request",
        "first: commit at 1",
        "stale: abort, reason 1, key 10",
        "read-only: commit without a timestamp",
        "commits 2, conflicts 1",
    ]


def test_random_requests_are_decided_as_by_the_model(board, machine, built, seed):
    """Across rollovers and resets, with requests of every size: verdict, reason, key, timestamp, counters."""
    chance = random.Random(seed)
    exercise, model = Exercise(board, machine, built), ModelDevice(GEOMETRY)
    expected = []
    hot = [chance.randint(0, GEOMETRY.max_key) for _ in range(12)]
    for _ in range(ROUNDS):
        if chance.random() < 0.04:
            exercise.add("r", epoch := chance.choice((0, 7)))
            model.reset(epoch)
            expected.append(None)
            continue
        if chance.random() < 0.1:
            exercise.add("n")
            expected.append(model.last_timestamp())
            continue
        sizes = [chance.choice((0, 1, 2, 5)) for _ in range(3)]
        if chance.random() < 0.05:
            sizes = chance.choice(([300, 0, 0], [0, 257, 255], [200, 200, 112]))  # more than an aperture has words
        sets = [[chance.choice(hot) for _ in range(size)] for size in sizes]
        snapshot = max(0, model.last_timestamp() + chance.choice((-70, -3, -1, 0, 0, 0, 0, 1)))
        exercise.commit(snapshot, *sets)
        expected.append(model.commit(snapshot=snapshot, reads=sets[0], writes=sets[1], commutes=sets[2]))
    exercise.add("t")
    exercise.add("s")
    *answers, (status, timestamp), (status_too, *values) = exercise.run()
    for line, answer, right in zip(exercise.lines, answers, expected, strict=False):
        if right is None:
            assert answer == [0], line
        elif isinstance(right, int):
            assert answer == [0, right], line
        else:
            assert verdict(answer) == right, line
    assert (status, timestamp) == (0, model.last_timestamp())
    assert status_too == 0
    counted = dict(zip((name for name, _ in STATISTICS), values, strict=True))
    totals = {name: value for name, value in model.stats().items() if name in counted}
    assert {name: counted[name] for name in totals} == totals
    reasons = {right.reason for right in expected if isinstance(right, Verdict)}
    assert {None, Reason.CONFLICT, Reason.BAD_REQUEST, Reason.ROLLOVER} <= reasons


def test_who_has_looked_at_the_newest_timestamp_is_not_in_flight(board, machine, built):
    flight = SLOT_PAGE.register("FLIGHT")
    exercise = Exercise(board, machine, built)
    exercise.commit(0, writes=[1])
    exercise.add("n")
    exercise.add("x", flight.offset)
    _, newest, (status, word) = exercise.run()
    assert newest == [0, 1]
    assert (status, word & flight["DOOMED"].mask) == (0, 0)


def test_what_cannot_be_submitted_is_refused_and_leaves_nothing(board, machine, built):
    exercise = Exercise(board, machine, built)
    exercise.commit(0, reads=[1] * (GEOMETRY.aperture_depth + 1))
    exercise.commit(0, reads=[1] * GEOMETRY.aperture_depth, commutes=[2])
    exercise.commit(0, writes=[GEOMETRY.max_key + 1])
    exercise.commit(GEOMETRY.max_timestamp + 1)
    exercise.commit(0, writes=[GEOMETRY.max_key])
    exercise.add("e")
    large, larger, key, snapshot, good, log = exercise.run()
    assert large == larger == [lib.BLOOMGATE_E_TOO_LARGE]
    assert key == [lib.BLOOMGATE_E_KEY]
    assert snapshot == [lib.BLOOMGATE_E_SNAPSHOT]
    assert verdict(good) == Verdict(True, 1, None, None)
    assert log == [0]


def test_error_log(board, machine, built):
    """More errors than it holds: the last ones, oldest first."""
    exercise = Exercise(board, machine, built, slot=2)
    for snapshot in range(1, 19):
        exercise.commit(snapshot)
    exercise.add("e")
    *verdicts, (status, *words) = exercise.run()
    assert {verdict(each).reason for each in verdicts} == {Reason.BAD_REQUEST}
    assert status == 0
    entries = [tuple(words[i : i + 4]) for i in range(0, len(words), 4)]
    assert entries == [(n, ErrorCode.SNAPSHOT_AHEAD, 2, n + 1) for n in range(2, 18)]


def test_interrupt(board, machine, built):
    """It comes once for each unmasking, while a pending cause is enabled."""
    register = CONTROL_PAGE.register("INTERRUPT_ENABLE")
    cause = register["VERDICT"].mask
    exercise = Exercise(board, machine, built)
    exercise.add("w", 0)  # nothing is enabled
    exercise.add("i", cause)
    exercise.commit(0, writes=[1])
    exercise.add("w", 60_000)
    exercise.add("u")
    exercise.add("w", 60_000)  # the cause was not taken, so it comes again
    exercise.add("p")
    exercise.add("u")
    exercise.add("w", 100)
    none, enabled, _, first, _, second, taken, _, after = exercise.run()
    assert none == [lib.BLOOMGATE_E_TIMEOUT, 0]
    assert enabled == [0]
    assert first == [0, 1]
    assert second == [0, 2]
    assert taken == [0, cause]
    assert after == [lib.BLOOMGATE_E_TIMEOUT, 0]


def test_an_access_that_the_bus_refuses_ends_the_program(board, machine, built):
    """As on the board: SLVERR and DECERR are data aborts, which Linux turns into SIGBUS."""
    exercise = Exercise(board, machine, built)
    exercise.add("x", HOLE)
    result = board.run(*exercise.command, input="\n".join(exercise.lines) + "\n")
    assert result.returncode in (-signal.SIGBUS, 128 + signal.SIGBUS), result
    assert board.server.refused == 1


def test_the_shim_refuses_other_than_words(board, machine, built):
    """So that a green test says: nothing but 32-bit accesses."""
    exercise = Exercise(board, machine, built)
    exercise.add("b", 0)
    result = board.run(*exercise.command, input="\n".join(exercise.lines) + "\n")
    assert result.returncode == 99, result
    assert "no aligned access of 32 bits" in result.stderr


# Without a device: windows of ordinary memory, where registers hold what the test puts there.


class Memory:
    """A page of memory as a window."""

    def __init__(self):
        self.words = ffi.new("uint32_t[]", PAGE_BYTES // WORD_BYTES)
        self.window = ffi.new("struct bloomgate_window *", {"words": self.words, "bytes": PAGE_BYTES, "file": -1})

    def __setitem__(self, register, value):
        self.words[register.word] = value

    def __getitem__(self, register):
        return self.words[register.word]


@pytest.fixture
def control():
    page = Memory()
    version = CONTROL_PAGE.register("VERSION")
    geometry, capacity = CONTROL_PAGE.register("GEOMETRY"), CONTROL_PAGE.register("CAPACITY")
    page[CONTROL_PAGE.register("IDENTIFICATION")] = IDENTIFICATION
    page[version] = version["MAJOR"].insert(VERSION[0]) | version["MINOR"].insert(VERSION[1] + 1)
    page[geometry] = geometry["K"].insert(4) | geometry["TIMESTAMP_BITS"].insert(32) | geometry["KEY_BITS"].insert(32)
    page[capacity] = capacity["SLOTS"].insert(2) | capacity["APERTURE_DEPTH"].insert(16)
    return page


def identify(control):
    geometry = ffi.new("struct bloomgate_geometry *")
    return lib.bloomgate_identify(control.window, geometry), geometry


def test_identification(control):
    status, geometry = identify(control)
    assert status == lib.BLOOMGATE_OK
    found = (geometry.major, geometry.minor, geometry.tables, geometry.timestamp_bits, geometry.slots)
    assert found == (VERSION[0], VERSION[1] + 1, 4, 32, 2)


@pytest.mark.parametrize(
    ("name", "word", "status"),
    [
        ("IDENTIFICATION", 0, "IDENTIFICATION"),
        ("IDENTIFICATION", 0xFFFFFFFF, "IDENTIFICATION"),
        ("VERSION", (VERSION[0] + 1) << 16, "VERSION"),
        ("GEOMETRY", 0, "GEOMETRY"),
        ("GEOMETRY", 0x3F3F0000, "GEOMETRY"),
        ("CAPACITY", 0, "GEOMETRY"),
    ],
)
def test_what_is_no_device_of_ours_is_refused(control, name, word, status):
    control[CONTROL_PAGE.register(name)] = word
    assert identify(control)[0] == getattr(lib, f"BLOOMGATE_E_{status}")


def test_a_request_that_is_never_decided(control):
    """It times out, blocks the slot, and can be settled when the verdict comes after all."""
    page, slot = Memory(), ffi.new("struct bloomgate_slot *")
    register, decision = SLOT_PAGE.register("VERDICT"), ffi.new("struct bloomgate_decision *")
    page[register] = register["REQUEST"].insert(register["REQUEST"].mask >> register["REQUEST"].lsb)
    assert lib.bloomgate_slot_open(slot, page.window, identify(control)[1]) == lib.BLOOMGATE_OK
    slot.milliseconds = 1
    request = ffi.new("struct bloomgate_request *", {"snapshot": 5 << 32 | 6})
    assert lib.bloomgate_commit(slot, request, decision) == lib.BLOOMGATE_E_TIMEOUT
    assert lib.bloomgate_commit(slot, request, decision) == lib.BLOOMGATE_E_UNSETTLED
    assert lib.bloomgate_settle(slot, decision) == lib.BLOOMGATE_E_TIMEOUT
    # The number after the last one is 0.
    names = ("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT", "SUBMIT")
    assert [page[SLOT_PAGE.register(name)] for name in names] == [5, 6, 0]
    page[SLOT_PAGE.register("TIMESTAMP_EPOCH")] = 5
    page[SLOT_PAGE.register("TIMESTAMP_COUNT")] = 7
    page[register] = register["DONE"].mask | register["COMMITTED"].mask | register["TIMESTAMPED"].mask
    assert lib.bloomgate_settle(slot, decision) == lib.BLOOMGATE_OK
    assert (decision.committed, decision.timestamped, decision.timestamp) == (1, 1, 5 << 32 | 7)
    page[register] = 0
    assert lib.bloomgate_commit(slot, request, decision) == lib.BLOOMGATE_E_TIMEOUT


@pytest.mark.parametrize("reason", Reason)
def test_the_key_is_told_with_the_reasons_that_name_one(control, reason):
    page, slot = Memory(), ffi.new("struct bloomgate_slot *")
    register, decision = SLOT_PAGE.register("VERDICT"), ffi.new("struct bloomgate_decision *")
    assert lib.bloomgate_slot_open(slot, page.window, identify(control)[1]) == lib.BLOOMGATE_OK
    page[register] = register["DONE"].mask | register["REASON"].insert(reason) | register["REQUEST"].insert(1)
    page[SLOT_PAGE.register("CONFLICT_KEY")] = 77
    assert lib.bloomgate_commit(slot, ffi.new("struct bloomgate_request *"), decision) == lib.BLOOMGATE_OK
    assert (decision.reason, decision.key) == (reason, 77 if reason in KEY_REASONS else 0)


def test_a_slot_that_does_not_tell_the_newest_timestamp(control):
    """Nothing dooms; or the epoch has come to its last count, and does not end. In the last of all it need not."""
    page, slot, newest = Memory(), ffi.new("struct bloomgate_slot *"), ffi.new("uint64_t *")
    assert lib.bloomgate_slot_open(slot, page.window, identify(control)[1]) == lib.BLOOMGATE_OK
    slot.milliseconds = 1
    flight = SLOT_PAGE.register("FLIGHT")
    for shown in (0, flight["TOLD"].mask, flight["DOOMED"].mask):
        page[flight] = shown
        assert lib.bloomgate_slot_newest(slot, newest) == lib.BLOOMGATE_E_TIMEOUT
    page[flight] = flight["TOLD"].mask | flight["DOOMED"].mask
    assert (lib.bloomgate_slot_newest(slot, newest), newest[0]) == (lib.BLOOMGATE_OK, 0)
    page[SLOT_PAGE.register("DOOM_COUNT")] = 0xFFFFFFFF
    assert lib.bloomgate_slot_newest(slot, newest) == lib.BLOOMGATE_E_TIMEOUT
    page[SLOT_PAGE.register("DOOM_EPOCH")] = 0xFFFFFFFF
    assert (lib.bloomgate_slot_newest(slot, newest), newest[0]) == (lib.BLOOMGATE_OK, (1 << 64) - 1)
    page[SLOT_PAGE.register("VERDICT")] = 0
    request = ffi.new("struct bloomgate_request *")
    assert lib.bloomgate_commit(slot, request, ffi.new("struct bloomgate_decision *")) == lib.BLOOMGATE_E_TIMEOUT
    assert lib.bloomgate_slot_newest(slot, newest) == lib.BLOOMGATE_E_UNSETTLED


def test_a_slot_that_stays_busy_is_not_taken_over(control):
    page, slot = Memory(), ffi.new("struct bloomgate_slot *")
    page[SLOT_PAGE.register("STATUS")] = SLOT_PAGE.register("STATUS")["BUSY"].mask
    assert lib.bloomgate_slot_open(slot, page.window, identify(control)[1]) == lib.BLOOMGATE_E_TIMEOUT


def test_accesses_outside_a_window(control):
    words = ffi.new("uint32_t[4]")
    for offset, count in ((2, 1), (PAGE_BYTES, 1), (PAGE_BYTES - 4, 2), (0, 2**30), (0xFFFFFFFC, 1)):
        assert lib.bloomgate_read(control.window, offset, words, count) == lib.BLOOMGATE_E_RANGE
        assert lib.bloomgate_write(control.window, offset, words, count) == lib.BLOOMGATE_E_RANGE
        assert lib.bloomgate_poll(control.window, offset, words, count, 0, 0, 1) == lib.BLOOMGATE_E_RANGE
    assert lib.bloomgate_read(control.window, PAGE_BYTES - 4, words, 1) == lib.BLOOMGATE_OK


def test_every_status_has_a_message():
    codes = ffi.typeof("enum bloomgate_status").elements
    texts = {ffi.string(lib.bloomgate_message(code)).decode() for code in codes}
    assert len(texts) == len(codes)
    assert "unknown status" not in texts
    assert ffi.string(lib.bloomgate_message(-1000)) == b"unknown status"


@pytest.mark.parametrize("compiler", ["gcc", ARM_GCC])
@pytest.mark.parametrize("options", [["-O0"], ["-O3", "-Wconversion", "-Wshadow"], ["-Os", "-marm"]], ids="-".join)
def test_it_compiles_without_a_warning(tmp_path, compiler, options):
    needs(compiler)
    if compiler == "gcc" and "-marm" in options:
        options = ["-Os"]
    for source in SOURCES:
        command = [compiler, "-std=c11", *STRICT, *options, f"-I{INCLUDE}", "-c", str(source)]
        subprocess.run([*command, "-o", str(tmp_path / "object.o")], check=True, timeout=60)


def test_the_header_is_also_cplusplus(tmp_path):
    needs("gcc")
    source = tmp_path / "x.cpp"
    source.write_text('#include "bloomgate.h"\nint main() { return bloomgate_message(0) == nullptr; }\n')
    command = ["g++", *STRICT, f"-I{SOURCES[0].parent}", "-c", str(source), "-o", str(tmp_path / "x.o")]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("source", [*SOURCES, ROOT / "firmware" / "examples" / "commit.c"], ids=lambda path: path.name)
def test_no_offset_is_typed(source):
    """They come from the generated header."""
    assert not re.search(r"0x[0-9a-fA-F]{3,}", source.read_text())

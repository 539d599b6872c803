"""``SharedArray`` and ``SharedTVar`` as the STM's users see them, in one process and in several."""

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import bloomgate
import pytest
from bloomgate import DeviceClosed, SharedArray, SharedTVar, TransactionError, TVar, atomic, commute, stats
from bloomgate.shm.array import ArrayMemory, VersionGone
from bloomgate.shm.layout import REDO_ENTRIES, VERSIONS
from bloomgate.shm.segment import remove
from bloomgate.stm import shared_part
from bloomgate.stm.atomic import PATIENCE
from bloomgate.stm.context import here
from bloomgate.stm.runtime import runtime

LIMIT = 60
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def segment():
    """The STM's device is a fresh segment; its name."""
    name = f"test-array-{os.getpid()}-{time.monotonic_ns()}"
    bloomgate.use_device(f"shm:{name}?D=256")
    yield name
    bloomgate.use_device(None)
    remove(name)


def member(segment: str, what: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.shm.member", segment, what, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    return text


# What an array is.


@pytest.mark.parametrize(
    ("typecode", "values"),
    [
        ("q", [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF]),
        ("Q", [0, 1, 2**64 - 1, 0xFEDCBA9876543210]),
        ("d", [0.0, -0.5, 1e300, float("inf"), float("-inf")]),
    ],
)
def test_every_bit_of_a_value_survives(segment, typecode, values) -> None:
    written = SharedArray("written", len(values), typecode)
    initial = SharedArray("initial", len(values), typecode, values)
    for index, value in enumerate(values):
        written[index] = value
    for array in (written, initial):
        assert list(array) == values
        assert list(map(type, array)) == [type(values[0])] * len(values)
    assert (written.typecode, len(written)) == (typecode, len(values))


def test_elements_are_numbered_like_a_list(segment) -> None:
    array = SharedArray("a", 3, initial=[10, 20, 30])
    assert array[-1] == 30
    array[-3] = 11
    assert array.snapshot() == [11, 20, 30]
    for index in (3, -4):
        with pytest.raises(IndexError, match="^a index out of range: it has 3 elements$"):
            array[index]
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        array["0"]


@pytest.mark.parametrize(
    ("typecode", "value", "error"),
    [
        ("q", 2**63, OverflowError),
        ("Q", -1, OverflowError),
        ("q", 1.5, TypeError),
        ("q", "1", TypeError),
        ("d", "1", TypeError),
        ("q", None, TypeError),
    ],
)
def test_a_value_that_does_not_fit(segment, typecode, value, error) -> None:
    array = SharedArray("a", 1, typecode)
    with pytest.raises(error, match="^a value must be "):
        array[0] = value
    with pytest.raises(error, match="^a value must be "):
        array.commute(0, "add", value)
    assert array[0] == 0


def test_an_array_is_found_by_its_name(segment) -> None:
    first = SharedArray("a", 2, "q")
    first[1] = 7
    assert SharedArray("a")[1] == 7
    assert SharedArray("a", 2, "q", initial=[5, 5])[1] == 7, "initial values are for a new one only"
    with pytest.raises(ValueError, match="^the array 'a' has 2 elements of type 'q', not 3 of type 'q'$"):
        SharedArray("a", 3)
    with pytest.raises(ValueError, match="not 2 of type 'd'$"):
        SharedArray("a", 2, "d")
    with pytest.raises(KeyError, match="the segment has no array 'b'"):
        SharedArray("b")
    with pytest.raises(ValueError, match="1 to 40 bytes"):
        SharedArray("b" * 41, 1)
    with pytest.raises(ValueError, match="must be one of q, Q, d, not 'f'"):
        SharedArray("b", 1, "f")
    with pytest.raises(ValueError, match="at least 1 element"):
        SharedArray("b", 0)
    with pytest.raises(MemoryError, match="elements, of which 1 and 2 are used: no room for"):
        SharedArray("b", 1 << 40)


def test_only_a_segment_can_be_shared() -> None:
    bloomgate.use_device("soft:")
    with pytest.raises(TransactionError, match="^shared data need a device like shm:NAME, not soft"):
        SharedArray("a", 1)
    bloomgate.use_device(None)


def test_of_another_segment(segment) -> None:
    array = SharedArray("a", 1)
    bloomgate.use_device("soft:")
    with pytest.raises(TransactionError, match=f"use_device\\('shm:{segment}'\\)$"):
        array[0]
    bloomgate.use_device(f"shm:{segment}")
    assert array[0] == 0


def test_of_a_closed_device(segment) -> None:
    array, variable = SharedArray("a", 1), SharedTVar(1)

    @atomic
    def write() -> None:
        array[0] = 1
        runtime.device.close()

    with pytest.raises(DeviceClosed, match="^the device is closed; open it again"):
        write()
    for use in (lambda: array[0], array.snapshot, lambda: array.versioned(0), lambda: setattr(variable, "value", 2)):
        with pytest.raises(DeviceClosed, match="^the device is closed; open it again"):
            use()
    bloomgate.use_device(f"shm:{segment}")
    assert (array[0], variable.value) == (0, 1)


# Transactions.


def test_all_or_nothing(segment) -> None:
    array = SharedArray("a", 2)

    @atomic
    def fail() -> None:
        array[0] = 1
        array.commute(1, "add", 1)
        assert (array[0], array[1]) == (1, 1)
        raise RuntimeError("too late")

    with pytest.raises(RuntimeError):
        fail()
    assert array.snapshot() == [0, 0]


def test_commuting_updates(segment) -> None:
    array = SharedArray("a", 3, initial=[5, 5, 2**63 - 1])
    variable = SharedTVar(2.5)

    @atomic
    def update() -> None:
        array.commute(0, "add", 3)
        array.commute(0, "min", 6)
        array.commute(0, "add", 1)
        commute(array.variable(1), "max", -9)
        array.commute(2, "add", 1)
        commute(variable, "min", 1)

    update()
    assert array.snapshot() == [7, 5, -(2**63)]
    assert variable.value == 1.0

    @atomic
    def promoted() -> int:
        array.commute(2, "add", -1)
        return array[2]

    assert promoted() == 2**63 - 1 == array[2]
    with pytest.raises(TransactionError, match="must be add, min or max, not 'append'$"):
        array.commute(0, "append", 1)
    with pytest.raises(TransactionError, match="not nan"):
        commute(variable, "add", float("nan"))


def test_or_else_takes_back_what_it_must(segment) -> None:
    array = SharedArray("a", 2)

    def first() -> None:
        array[0] = 1
        bloomgate.retry()

    def second() -> None:
        assert array[0] == 0
        array[1] = 2

    bloomgate.or_else(first, second)
    assert array.snapshot() == [0, 2]


def test_versions_count_the_commits(segment) -> None:
    array = SharedArray("a", 2, initial=[4, 0])
    assert array.versioned(0) == (4, 1)
    array[1] = 1
    first = array.versioned(1).version
    array[0] = 5
    array[1] = 2
    assert [array.versioned(0), array.versioned(1)] == [(5, first + 1), (2, first + 2)]


def test_a_snapshot_keeps_its_values_until_they_are_gone(segment) -> None:
    """A reader sees the versions of its snapshot; when they are gone it says so, and never shows a newer one."""
    array = SharedArray("a", 1)
    memory = ArrayMemory.open(runtime.device, "a")
    position = memory.publication.now()[1]
    for number in range(1, VERSIONS):
        array[0] = number
        assert memory.read(memory.location(0), position) == (0, 1)
    array[0] = VERSIONS
    with pytest.raises(VersionGone):
        memory.read(memory.location(0), position)


def test_a_reader_whose_version_is_gone_begins_again(segment) -> None:
    array = SharedArray("a", 2)
    attempts = []
    before = stats()["versions_gone"]

    def others() -> None:
        for number in range(2 * VERSIONS):
            array[1] = number

    @atomic
    def read() -> tuple[int, int]:
        attempts.append(here.tx)
        first = array[0]
        if len(attempts) == 1:
            thread = threading.Thread(target=others)
            thread.start()
            thread.join(LIMIT)
        return first, array[1]

    assert read() == (0, 2 * VERSIONS - 1)
    assert len(attempts) == 2
    assert stats()["versions_gone"] == before + 1


def test_reads_of_private_variables_are_validated_too(segment) -> None:
    array, private = SharedArray("a", 1), TVar(1)
    runs = []

    @atomic
    def copy() -> None:
        runs.append(private.value)
        if len(runs) == 1:
            thread = threading.Thread(target=lambda: setattr(private, "value", 2))
            thread.start()
            thread.join(LIMIT)
        array[0] = private.value

    copy()
    assert runs == [1, 2]
    assert array[0] == 2


def test_too_much_for_one_transaction(segment) -> None:
    array = SharedArray("a", REDO_ENTRIES + 1)

    @atomic
    def write() -> None:
        for index in range(len(array)):
            array[index] = 1

    with pytest.raises(bloomgate.RequestTooLarge, match=f"^a transaction can change {REDO_ENTRIES} shared locations"):
        write()
    assert set(array) == {0}


def test_a_reset_in_between(segment) -> None:
    array = SharedArray("a", 1, initial=[1])
    runs = []

    @atomic
    def increment() -> None:
        runs.append(array[0])
        array[0] += 1
        if len(runs) == 1:
            runtime.device.reset()

    increment()
    assert runs == [1, 1]
    assert array[0] == 2
    for _ in range(5):
        runtime.device.reset(runtime.device.parameters.epoch_and_count(runtime.device.last_timestamp())[0] + 7)
        array[0] += 1
    assert array[0] == 7


# Processes.


def test_members_count_together(segment) -> None:
    array = SharedArray("x", 1)
    members = [member(segment, "add", 200) for _ in range(3)]
    for process in members:
        output(process)
    assert array[0] == 600


def test_epochs_roll_over(segment) -> None:
    name = f"{segment}-small"
    try:
        with bloomgate.open_device(f"shm:{name}?D=16&timestamp_bits=4") as device:
            memory = ArrayMemory.open(device, "x", 1)
            for process in [member(name, "add", 50) for _ in range(2)]:
                output(process)
            value, version = memory.read(memory.location(0), memory.publication.now()[1])
            # The beginning of an epoch is a position too.
            assert value == 100 < version - 1
            assert device.parameters.epoch_and_count(device.last_timestamp())[0] == 100 // 15
    finally:
        remove(name)


def test_children_are_killed_and_stopped(segment, seed: int) -> None:
    """A bank of the STM: the total holds, and each commit has counted once, whatever happens to whom."""
    accounts = SharedArray("accounts", 5, initial=[100] * 5)
    count = SharedTVar(0, "count")
    dice = random.Random(seed)

    @atomic
    def transfer(source: int, target: int, amount: int) -> None:
        accounts[source] -= amount
        accounts[target] += amount
        commute(count, "add", 1)

    def child() -> int:
        state = dice.getrandbits(32)
        pid = os.fork()
        if pid == 0:
            try:
                mine = random.Random(state)
                while True:
                    transfer(*mine.sample(range(5), 2), mine.randrange(10))
                    assert sum(accounts.snapshot()) == 500
            finally:
                os._exit(1)
        return pid

    first = runtime.device.last_timestamp()
    children = [child() for _ in range(3)]
    for _ in range(25):
        time.sleep(dice.random() * 0.03)
        assert sum(accounts.snapshot()) == 500
        victim = dice.choice(children)
        if dice.random() < 0.5:
            os.kill(victim, signal.SIGSTOP)
            before = count.value
            time.sleep(dice.random() * 0.01)
            os.kill(victim, signal.SIGCONT)
            assert count.value >= before
        else:
            os.kill(victim, signal.SIGKILL)
            children.remove(victim)
            assert os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) == -signal.SIGKILL
            children.append(child())
    for victim in children:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
    # The first of these decides what dead clients have submitted, the others publish it.
    for _ in range(3):
        transfer(0, 1, 1)
    assert sum(accounts.snapshot()) == 500
    assert runtime.device.published == runtime.device.last_timestamp()
    assert count.value == runtime.device.last_timestamp() - first


@pytest.mark.parametrize("longest_turn", [shared_part.LONGEST_TURN, 0.0001], ids=["turns", "token"])
def test_a_long_transaction_is_not_starved(segment, monkeypatch, longest_turn: float) -> None:
    """Others change what it reads all the time, until they hold back; if that does not help, it takes the token."""
    monkeypatch.setattr(shared_part, "LONGEST_TURN", longest_turn)
    array = SharedArray("x", 20)
    members = [member(segment, "hammer") for _ in range(2)]
    attempts = []

    @atomic
    def long() -> int:
        attempts.append(here.tx)
        total = 0
        for index in range(len(array)):
            total += array[index]
            time.sleep(0.003)
        array[0] += 1
        return total

    try:
        while not any(array):
            assert all(process.poll() is None for process in members)
            time.sleep(0.001)
        long()
    finally:
        for process in members:
            process.kill()
            process.communicate()
    assert len(attempts) > 1, "nobody was in its way"
    if longest_turn < shared_part.FIRST_TURN:
        # One turn, which is too short, and then it cannot lose.
        assert len(attempts) <= PATIENCE + 2


def test_a_turn_ends_with_the_time(segment) -> None:
    """Whoever has it is dead."""
    array = SharedArray("x", 1)
    child = os.fork()
    if child == 0:
        array[0] = 1
        runtime.device._publication.take_turn(0.05)
        os._exit(0)
    os.waitpid(child, 0)
    array[0] = 2
    assert array[0] == 2


def test_retry_waits_for_other_processes(segment) -> None:
    ball = SharedArray("ball", 2)
    other = member(segment, "echo", 20)
    for number in range(1, 21):
        ball[0] = number

        @atomic(timeout=LIMIT)
        def received(number: int = number) -> None:
            bloomgate.check(ball[1] == number)

        received()
    output(other)


def test_retry_has_a_timeout(segment) -> None:
    array = SharedArray("a", 1)

    @atomic(timeout=0.05)
    def never() -> None:
        bloomgate.check(array[0] == 1)

    with pytest.raises(bloomgate.TransactionTimeout):
        never()


def test_pickled_it_is_the_same(segment) -> None:
    array = SharedArray("a", 3)
    variable = SharedTVar(5, "v")
    copies = pickle.loads(pickle.dumps((array, variable, array.variable(2))))
    assert copies == (array, variable, array.variable(2))
    assert {array, variable, array.variable(2)} == {*copies, array.variable(-1)}
    assert copies[1] != SharedTVar(5, "w") != 5
    assert array.variable(0) != array.variable(1)
    assert array != SharedArray("b", 3)
    copies[0][1] = 4
    copies[1].value += 1
    copies[2].value = 9
    assert array.snapshot() == [0, 4, 9]
    assert variable.value == 6
    program = (
        "import pickle, sys; array, variable = pickle.load(sys.stdin.buffer); array[0] = variable.value * 10;"
        " print(variable.value)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((array, variable)), capture_output=True, timeout=LIMIT
    )
    assert result.stdout == b"6\n", result.stderr.decode()
    assert array[0] == 60


def test_a_forked_child_opens_its_own_slot(segment) -> None:
    array = SharedArray("a", 2)
    array[0] = 1

    @atomic
    def add(number: int) -> None:
        array[0] += number

    slot = runtime.device.slot
    child = os.fork()
    if child == 0:
        try:
            add(1)
            array[1] = runtime.device.slot
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    add(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert array[0] == 12
    assert array[1] != slot


def test_a_conflict_is_named(segment) -> None:
    """Also one with another process, of which only the variable is known."""
    array = SharedArray("x", 1)
    runs = []

    @atomic
    def loser(disturb) -> None:
        value = array[0]
        runs.append(value)
        if len(runs) % 2:
            disturb()
        array[0] = value + 1

    def disturb_here() -> None:
        thread = threading.Thread(target=lambda: array.commute(0, "add", 1))
        thread.start()
        thread.join(LIMIT)

    with bloomgate.profile() as recorder:
        loser(lambda: output(member(segment, "add", 1)))
        loser(disturb_here)
    elsewhere, here_too = sorted(recorder.report().conflicts, key=lambda conflict: conflict.seconds, reverse=True)
    assert elsewhere.variable == here_too.variable == "x[0]"
    assert "in loser" in elsewhere.read_at
    assert elsewhere.written_at.startswith("unknown: committed by another process")
    assert "in disturb_here" in here_too.written_at or "<lambda>" in here_too.written_at
    assert array[0] == 4

"""Queue pairs through uio:, memory that the gateware and the program share: Python natively, C also on ARM."""

import inspect
import random
import re
import sys
import tempfile
from pathlib import Path

import pytest
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.uio import IDENTITY_FILE, identity
from bloomgate.devicetree import QUEUE_BASE, QUEUE_BYTES
from bloomgate.libbloomgate import library
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import ENTRY_BYTES
from bloomgate.registers import CONTROL_PAGE, QUEUE_RECORD_BYTES, VERSION
from bloomgate.verdict import Reason

from tests.board.emulation import NATIVE, emulated_board
from tests.board.test_libbloomgate import Exercise, verdict
from tests.queue_pair_contract import GEOMETRY, QueuePairContract

#: That of the contract, with fewer slots.
PARAMETERS = Parameters(slots=3, **{name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", GEOMETRY)})
RECORDS = CONTROL_PAGE.window("QUEUE_RECORDS").offset
_, lib = library()


@pytest.fixture
def board():
    with tempfile.TemporaryDirectory(prefix="bg-") as folder, emulated_board(Path(folder), PARAMETERS) as emulated:
        yield emulated


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    NATIVE.require()
    return NATIVE.shim(tmp_path_factory.mktemp("shim") / "shim.so")


def python(board, shim, *arguments, url="uio:"):
    separator = "" if url.endswith(":") else ","
    words = [word.replace("URL", f"{url}{separator}root={board.root}") for word in map(str, arguments)]
    return board.run(*NATIVE.command(shim, sys.executable, *words))


def test_the_contract(board, shim, seed):
    result = python(board, shim, Path(__file__).with_name("programs") / "queue_pairs.py", "URL", seed)
    tests = [name for name, _ in inspect.getmembers(QueuePairContract, inspect.isfunction) if name.startswith("test_")]
    assert (result.stdout.split(), result.returncode) == (tests, 0), result
    assert board.server.refused == 0
    # The windows were in the reserved memory, each slot's in its own part, and none is in use any more.
    for slot in range(2):
        base, size, _, status = board.server.bus.read(RECORDS + QUEUE_RECORD_BYTES * slot, 4)
        assert (base, size, status & 1) == (QUEUE_BASE + slot * QUEUE_BYTES, QUEUE_BYTES, 0)


REFUSED = """
import sys, bloomgate
with bloomgate.open_device(sys.argv[1]) as device:
    try:
        device.queue_pair()
    except bloomgate.DeviceUnavailable as error:
        print(error)
    print(device.commit(snapshot=device.published, writes=[1]).committed)
"""


def test_memory_that_would_not_be_coherent_is_refused(shim, tmp_path):
    """Through the ACP, what the co-processor writes to uncached memory may stay in the L2 cache, and the like."""
    with tempfile.TemporaryDirectory(prefix="bg-") as folder:
        with emulated_board(Path(folder), PARAMETERS, uncached=False) as board:
            result = python(board, shim, "-c", REFUSED, "URL")
            assert board.server.bus.read(RECORDS, 4)[0] == 0, "the window was set"
    assert result.stdout.splitlines() == [
        "slot 0 has no queue pair: the gateware reaches memory in another way than it is mapped here: UIO needs"
        " S_AXI_HP0, the module S_AXI_ACP",
        "True",
    ]


def test_without_queue_memory_in_the_device_tree(board, shim):
    for folder in (board.root / "sys" / "class" / "uio").iterdir():
        if (folder / "maps" / "map1").exists():
            (folder / "maps" / "map1" / "size").write_text("0x1000\n")
    result = python(board, shim, "-c", REFUSED, "URL")
    assert result.stdout.splitlines()[0].endswith("the slot has no memory for a queue pair of this geometry"), result


def test_the_owner_of_one_slot_has_none(board, shim):
    path = board.root / IDENTITY_FILE
    path.parent.mkdir(parents=True)
    path.write_text(identity(VERSION, PARAMETERS))
    result = python(board, shim, "-c", REFUSED, "URL", url="uio:slot=1")
    assert result.stdout.splitlines()[0] == (
        "queue_pair() is for the owner of page 0; this device is slot 1 alone; with the kernel module every slot has"
        " one"
    ), result


FORK = """
import os, sys, bloomgate
with bloomgate.open_device(sys.argv[1]) as device:
    queue = device.queue_pair()
    ticket = queue.submit(snapshot=device.published, writes=[1])
    child = os.fork()
    if child == 0:
        try:
            queue.collect(ticket)
        except bloomgate.DeviceClosed:
            queue.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(queue.collect(ticket).committed, queue.commit(snapshot=device.last_timestamp(), writes=[1]).committed)
"""


def test_a_forked_child_has_none_and_does_no_harm(board, shim):
    result = python(board, shim, "-c", FORK, "URL")
    assert result.stdout == "True True\n", result


# In C.


class Queue(Exercise):
    """With a queue on slot 1."""

    def __init__(self, board, machine, built):
        super().__init__(board, machine, built, slot=1)
        self.add("Q")

    def submit(self, snapshot, reads=(), writes=(), commutes=()):
        self.add("S", snapshot, len(reads), len(writes), len(commutes), *reads, *writes, *commutes)

    def collect(self, index, milliseconds=60_000):
        self.add("C", index, milliseconds)


def test_requests_are_decided_as_by_the_model(board, machine, built, seed):
    """Several outstanding, collected in any order, around the ring and past rollovers; and slots go on beside it."""
    rng = random.Random(seed)
    queue, model = Queue(board, machine, built), ModelDevice(PARAMETERS)
    expected, number = [None], 0
    for _ in range(40):
        batch = rng.randint(1, 4)
        verdicts = []
        for _ in range(batch):
            snapshot = max(0, model.last_timestamp() - rng.choice((0, 0, 1, 1, 2, 2, 20)))
            # Few keys, so that each decides; now and then as many as there is room for.
            most = 80 if rng.random() < 0.03 else 2
            sets = [[rng.randrange(64) for _ in range(rng.randint(0, most))] for _ in range(3)]
            queue.submit(snapshot, *sets)
            verdicts.append(model.commit(snapshot=snapshot, reads=sets[0], writes=sets[1], commutes=sets[2]))
            expected.append([0, number + len(verdicts) - 1])
        order = list(range(batch))
        rng.shuffle(order)
        for index in order:
            queue.collect(number + index)
            expected.append(verdicts[index])
        number += batch
        queue.commit(model.last_timestamp(), reads=[1])
        expected.append(model.commit(snapshot=model.last_timestamp(), reads=[1]))
    queue.add("E")
    queue.add("e")
    expected += [[0], [0]]
    for line, answer, right in zip(queue.lines, queue.run(), expected, strict=True):
        assert right in (None, answer) or verdict(answer) == right, line


def test_a_full_ring_and_requests_that_cannot_be(board, machine, built):
    queue = Queue(board, machine, built)
    queue.submit(0, reads=[1] * (PARAMETERS.aperture_depth + 1))
    queue.submit(0, writes=[PARAMETERS.max_key + 1])
    queue.submit(PARAMETERS.max_timestamp + 1)
    for _ in range(PARAMETERS.queue_entries + 1):
        queue.submit(0, writes=[3])
    queue.collect(1)
    queue.submit(1)  # entry 0 is not free
    queue.collect(0)
    queue.submit(1)
    opened, large, key, snapshot, *submitted, full, second, still, first, after = queue.run()
    assert opened == [0]
    assert (large, key, snapshot) == (
        [lib.BLOOMGATE_E_TOO_LARGE],
        [lib.BLOOMGATE_E_KEY],
        [lib.BLOOMGATE_E_SNAPSHOT],
    )
    assert submitted == [[0, index] for index in range(PARAMETERS.queue_entries)]
    assert full == still == [lib.BLOOMGATE_E_FULL]
    assert [verdict(answer).timestamp for answer in (first, second)] == [1, 2]
    assert after == [0, PARAMETERS.queue_entries]


def test_a_waiter_sleeps_until_the_interrupt(board, machine, built):
    """Without a look before the sleep, and with slow memory. A busy machine can be slower still, so more than once."""
    board.server.bus.memory.latency(2000)
    snapshot = 0
    for _ in range(6):  # an epoch has 15 commits
        queue = Queue(board, machine, built)
        queue.add("P", 0)
        for index in range(2):
            queue.submit(snapshot + index, writes=[1])
            queue.collect(index)
        _, _, *answers = queue.run()
        assert [verdict(answer).timestamp for answer in answers[1::2]] == [snapshot + 1, snapshot + 2]
        snapshot += 2
        if board.server.interrupts > 0:
            return
    pytest.fail("no wait ended with an interrupt")


def test_each_nap_ends_with_its_own_interrupt(board, machine, built):
    """Armed and asleep, again and again; and with nothing to wake for, nothing wakes."""
    queue = Queue(board, machine, built)
    for index in range(3):
        queue.add("A")
        queue.submit(index, writes=[1])
        queue.add("N", 30_000)
        queue.collect(index, 0)
        queue.add("A")
        queue.add("N", 100)
    _, *answers = queue.run()
    for index in range(3):
        armed, submitted, woken, decided, again, quiet = answers[6 * index : 6 * index + 6]
        assert (armed, submitted, again) == ([0], [0, index], [0])
        assert woken == [0, 1]
        assert verdict(decided).timestamp == index + 1
        assert quiet == [0, 0]


def test_a_request_that_is_never_decided(board, machine, built):
    """It is waited for as long as the caller says, and can be collected when the verdict comes."""
    board.server.bus.memory.latency(1_000_000_000)
    queue = Queue(board, machine, built)
    queue.submit(0, writes=[1])
    queue.collect(0, 0)
    queue.collect(0, 50)
    _, submitted, at_once, later = queue.run()
    assert (submitted, at_once, later) == ([0, 0], [lib.BLOOMGATE_E_TIMEOUT], [lib.BLOOMGATE_E_TIMEOUT])


def test_a_log_that_cannot_be_fetched(board, machine, built):
    """BUS_ERROR, and the same request commits when memory answers."""
    memory = board.server.bus.memory
    log = QUEUE_BASE + QUEUE_BYTES + 2 * PARAMETERS.queue_entries * ENTRY_BYTES
    memory.fail(log, log + 8, 2)
    queue = Queue(board, machine, built)
    queue.submit(0, reads=[1], writes=[2])
    queue.collect(0)
    _, _, answer = queue.run()
    assert verdict(answer).reason is Reason.BUS_ERROR
    memory.heal()
    queue = Queue(board, machine, built)
    queue.submit(0, reads=[1], writes=[2])
    queue.collect(0)
    assert verdict(queue.run()[2]).timestamp == 1

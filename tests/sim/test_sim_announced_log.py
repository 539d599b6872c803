"""Announcing by a log in memory, on the simulated gateware: what a client, memory and others can do meanwhile."""

import pytest
from bloomgate import DeviceInUse, Reason, open_device
from bloomgate.driver import ErrorEntry
from bloomgate.queue_layout import announced_log_offset
from bloomgate.registers import SLOT_PAGE, WORD_BYTES, ErrorCode, slot_page_offset
from bloomgate.verdict_words import verdict_of
from bloomgate_sim.device import AxiChannel, SimulatedDevice
from bloomgate_sim.rings import SlotRings

from tests.sim.geometries import QUEUES

FLIGHT = SLOT_PAGE.register("FLIGHT")
SLOT = 1
BASE = 0x5000_0000
#: Clock cycles in which a log has come, whatever memory does in these tests.
PATIENCE = 400


class Client:
    """A slot's page and window, past the driver."""

    def __init__(self, device):
        self.bus = device.bus
        self.page = slot_page_offset(SLOT)
        self.memory = bytearray(2 * 4096)
        device.bus.memory.attach(self.memory, BASE)
        self.rings = SlotRings(device.bus, device.parameters, SLOT, memoryview(self.memory), BASE)
        self.rings.open()

    def write(self, name, *words):
        self.bus.write(self.page + SLOT_PAGE.register(name).offset, words)

    def read(self, name, words=1):
        return self.bus.read(self.page + SLOT_PAGE.register(name).offset, words)

    def put(self, position, keys):
        self.rings.put(announced_log_offset(QUEUES) + position * WORD_BYTES, keys)

    def done(self):
        return bool(FLIGHT["ANNOUNCING_DONE"].extract(self.read("FLIGHT")[0]))

    def catch_up(self):
        for _ in range(PATIENCE):
            if self.done():
                return
            self.bus.step(1)
        raise AssertionError(f"the log has not come after {PATIENCE} clock cycles")

    def submit(self):
        self.write("SUBMIT", 7)
        self.bus.step(PATIENCE)
        return verdict_of(QUEUES, self.read("VERDICT", 4))


@pytest.fixture
def device():
    with SimulatedDevice(QUEUES) as opened:
        yield opened


@pytest.fixture
def client(device):
    made = Client(device)
    made.write("ANNOUNCE", 1)
    return made


def test_what_a_log_has_announced_is_the_read_set(device, client):
    client.put(0, [3, 4, 5])
    client.write("ANNOUNCED_TAIL", 3)
    client.catch_up()
    assert client.read("READ_COUNT") == [3]
    assert not FLIGHT["DOOMED"].extract(client.read("FLIGHT")[0])
    first = device.commit(snapshot=0, writes=[5])
    client.bus.step(PATIENCE)
    assert FLIGHT["DOOMED"].extract(client.read("FLIGHT")[0])
    assert client.read("DOOM_KEY") == [5]
    verdict = client.submit()
    assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, 5)
    device.publish(first.timestamp)


@pytest.mark.parametrize("clocks", range(0, 60, 3))
def test_a_submission_before_the_log_has_come_is_a_bad_request_and_never_commits(device, client, clocks, seed):
    """A doorbell, and SUBMIT so many clock cycles behind it: a verdict without the keys would be a false commit."""
    for number, channel in enumerate((AxiChannel.AR, AxiChannel.R)):
        client.bus.memory.pause(channel, 0.4, seed + number)
    device.publish(device.commit(snapshot=0, writes=[9]).timestamp)
    client.put(0, [*range(20, 28), 9])
    client.write("ANNOUNCED_TAIL", 9)
    client.bus.step(clocks)
    had_come = client.done()
    verdict = client.submit()
    assert not verdict.committed
    if had_come:
        assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, 9)
        assert device.error_log() == []
    elif verdict.reason is Reason.BAD_REQUEST:
        assert device.error_log() == [ErrorEntry(0, ErrorCode.NOT_IN_FLIGHT, SLOT, 7)]
    else:  # it came while FLIGHT was read
        assert verdict.conflict_key == 9
    # Nothing of it reaches the next transaction.
    client.write("ANNOUNCE", 1)
    client.bus.step(PATIENCE)
    assert client.read("READ_COUNT") == [0]
    assert client.submit().committed


@pytest.mark.parametrize("clocks", range(0, 60, 7))
def test_discard_drops_what_has_not_come(client, clocks):
    client.put(0, range(16))
    client.write("ANNOUNCED_TAIL", 16)
    client.bus.step(clocks)
    client.write("DISCARD", 0)
    client.write("ANNOUNCE", 1)
    client.put(0, [40])
    client.write("ANNOUNCED_TAIL", 1)
    client.catch_up()
    assert client.read("READ_COUNT") == [1]
    assert client.submit().committed


def test_the_log_goes_on_beside_the_apertures(client):
    client.put(0, [1, 2, 3])
    client.write("ANNOUNCED_TAIL", 2)
    client.catch_up()
    client.bus.write(client.page + SLOT_PAGE.window("READ_APERTURE").offset, (50,))
    client.write("ANNOUNCED_TAIL", 3)
    client.catch_up()
    assert client.read("READ_COUNT") == [4]
    assert client.submit().committed


@pytest.mark.parametrize("response", [2, 3])
def test_memory_that_does_not_answer_makes_a_bad_request(device, client, response):
    client.bus.memory.fail(BASE + announced_log_offset(QUEUES) + 8, BASE + announced_log_offset(QUEUES) + 16, response)
    client.put(0, range(6))
    client.write("ANNOUNCED_TAIL", 6)
    client.catch_up()
    log = device.error_log()
    assert [(entry.code, entry.slot) for entry in log] == [(ErrorCode.FETCH_ERROR, SLOT)]
    assert log[0].detail == client.read("READ_COUNT")[0] < 6
    assert client.submit().reason is Reason.BAD_REQUEST
    client.bus.memory.heal()
    client.write("ANNOUNCE", 1)
    client.write("ANNOUNCED_TAIL", 6)
    client.catch_up()
    assert client.submit().committed


def test_a_window_without_the_log_makes_a_bad_request(device):
    client = Client(device)
    client.rings.base, client.rings.window = BASE, client.rings.window[:0]
    client.rings.control(2, enable=False)
    client.bus.write(client.rings.record("WINDOW_BASE"), [BASE, 0])
    client.rings.control(2)
    client.write("ANNOUNCE", 1)
    client.write("ANNOUNCED_TAIL", 1)
    client.catch_up()
    assert client.submit().reason is Reason.BAD_REQUEST
    assert [entry.code for entry in device.error_log()] == [ErrorCode.FETCH_ERROR]


def test_a_queue_that_is_disabled_meanwhile_fetches_nothing(device, client):
    client.rings.control(1, enable=False)
    client.write("ANNOUNCED_TAIL", 2)
    client.bus.step(PATIENCE)
    assert not client.done()
    assert client.submit().reason is Reason.BAD_REQUEST
    client.rings.control(1)  # and nobody waits for it
    client.rings._drained(1000)
    assert client.read("READ_COUNT") == [0]


def test_more_keys_than_the_page_has_room_for_overflow(device, client):
    depth = QUEUES.aperture_depth
    client.write("ANNOUNCED_TAIL", depth + 1)
    assert client.submit().reason is Reason.OVERFLOW
    assert device.error_log() == [ErrorEntry(0, ErrorCode.KEY_OVERFLOW, SLOT, depth + 1)]
    client.write("ANNOUNCE", 1)
    client.bus.write(client.page + SLOT_PAGE.window("WRITE_APERTURE").offset, (50,))
    client.write("ANNOUNCED_TAIL", depth)
    client.catch_up()
    assert client.submit().reason is Reason.OVERFLOW


def test_a_tail_without_a_transaction_is_a_bad_request(device):
    client = Client(device)
    client.write("ANNOUNCED_TAIL", 1)
    assert client.submit().reason is Reason.BAD_REQUEST
    assert device.error_log()[0] == ErrorEntry(0, ErrorCode.NOT_IN_FLIGHT, SLOT, 1)


def test_a_reset_lets_the_log_come_and_the_commit_get_rollover(device, client):
    client.put(0, range(16))
    client.write("ANNOUNCED_TAIL", 16)
    device.reset()
    client.catch_up()
    assert client.submit().reason is Reason.ROLLOVER


def test_the_queue_pair_of_a_slot_has_one_user():
    with open_device("sim:?K=2&D=16&timestamp_bits=4&slots=4&aperture_depth=16") as device:
        with device.queue_pair() as queue, device.open_slot(0) as slot:
            slot.begin(0)
            with pytest.raises(DeviceInUse, match="slot 0 has a queue pair"):
                slot.announce_log([1])
            queue.close()
            slot.announce_log([1])
            assert slot.announced == 1
        # Given back.
        for _ in range(3):
            with device.open_slot(0) as slot:
                slot.begin(0)
                slot.announce_log([2])
                assert slot.commit().committed

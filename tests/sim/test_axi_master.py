"""The simulated bus: what it puts on the wires, its bounds, and what it says when an access fails."""

import random

import pytest
from bloomgate import DeviceClosed, DeviceTimeout
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, IDENTIFICATION, SLOT_PAGE, slot_page_offset
from bloomgate_sim.device import AxiChannel, Burst, BusError, SimulatedBus, SimulatedDevice

from tests.sim.geometries import SMALL

OKAY, SLVERR, DECERR = 0, 2, 3
READ_APERTURE = slot_page_offset(0) + SLOT_PAGE.window("READ_APERTURE").offset
READ_COUNT = slot_page_offset(0) + SLOT_PAGE.register("READ_COUNT").offset
INITIAL_EPOCH = CONTROL_PAGE.register("INITIAL_EPOCH").offset


@pytest.fixture
def bus():
    opened = SimulatedBus(SMALL)
    yield opened
    opened.close()


def test_time_passes_only_in_accesses(bus):
    assert bus.clock_cycles == 0
    bus.step(123)
    assert bus.clock_cycles == 123
    bus.read(0, 1)
    clocks = bus.clock_cycles
    assert 123 < clocks < 150
    assert bus.clock_cycles == bus.now() == clocks


def test_a_long_access_is_split_into_bursts(bus):
    statistics = CONTROL_PAGE.window("STATISTICS")
    words = statistics.size // 4
    assert words > 16, "more than one burst"
    bus.step(100)
    bus.write(CONTROL_PAGE.register("COMMAND").offset, [CONTROL_PAGE.register("COMMAND")["LATCH_STATISTICS"].mask])
    bus.step(10)
    one_by_one = [bus.read(statistics.offset + 4 * index, 1)[0] for index in range(words)]
    assert one_by_one[0] > 100, "the clocks"
    assert bus.read(statistics.offset, words) == one_by_one


def test_no_burst_crosses_a_page(bus):
    # A burst that did would be refused as a whole. So the keys arrive, and what is refused is the word behind.
    end = slot_page_offset(1)
    with pytest.raises(BusError, match=f"the write at {BASE_ADDRESS + end:#010x} was answered SLVERR"):
        bus.write(end - 16, [1, 2, 3, 4, 5, 6])
    assert bus.read(slot_page_offset(0) + SLOT_PAGE.register("WRITE_COUNT").offset, 1) == [4]


def test_every_beat_of_a_burst_takes_one_clock(bus):
    write = Burst(BASE_ADDRESS + READ_APERTURE, list(range(16)))
    read = Burst(BASE_ADDRESS + CONTROL_PAGE.window("STATISTICS").offset, length=16, barrier=True)
    bus.run([write, read])
    for burst in (write, read):
        first = burst.data_clocks[0]
        # Write data may have to wait once, for its address.
        waits = (0, 1) if burst is write else (0,)
        assert burst.data_clocks[-1] - first - 15 in waits
        assert all(later > clock for clock, later in zip(burst.data_clocks, burst.data_clocks[1:], strict=False))
        assert burst.address_clock <= burst.data_clocks[0]
        assert burst.response_clock >= burst.data_clocks[-1]
    assert read.address_clock > write.response_clock, "barrier"


@pytest.mark.parametrize("channel", list(AxiChannel))
def test_pauses_slow_their_channel_and_change_nothing_else(bus, channel, seed):
    def clocks_of_some_accesses() -> int:
        begin = bus.clock_cycles
        chosen = random.Random(seed)
        for _ in range(40):
            value = chosen.randrange(1 << 32)
            bus.write(INITIAL_EPOCH, [value])
            assert bus.read(INITIAL_EPOCH, 1) == [value]
        return bus.clock_cycles - begin

    brisk = clocks_of_some_accesses()
    bus.pause(channel, 0.9, seed)
    slow = clocks_of_some_accesses()
    # 40 handshakes that wait 9 clocks on average; half of that is 15 standard deviations away.
    assert slow > brisk + 40 * 4.5
    bus.pause(channel, 0, seed)
    assert abs(clocks_of_some_accesses() - brisk) <= 1


def test_refused_accesses_are_named(bus):
    begin = CONTROL_PAGE.register("HASH_SEED").offset
    unmapped = next(offset for offset in range(begin, 0x100, 4) if all(item.offset != offset for item in CONTROL_PAGE))
    with pytest.raises(BusError, match=f"the read at {BASE_ADDRESS + unmapped:#010x} was answered SLVERR"):
        bus.read(begin, (unmapped - begin) // 4 + 1)
    with pytest.raises(BusError, match=f"the write at {BASE_ADDRESS + unmapped:#010x} was answered SLVERR"):
        bus.write(unmapped, [0])
    with pytest.raises(BusError, match="the read at 0x43c04000 was answered DECERR"):
        bus.read(slot_page_offset(SMALL.slots), 1)
    with pytest.raises(ValueError, match="the address of a word must be a multiple of 4"):
        bus.read(2, 1)
    assert bus.read(0, 1) == [IDENTIFICATION], "the bus must have survived"


def test_illegal_bursts_are_answered(bus):
    bursts = [
        Burst(BASE_ADDRESS + READ_APERTURE, [1, 2], wid=5, id=4),
        Burst(BASE_ADDRESS + READ_APERTURE, [1, 2], last=0b11, length=3, barrier=True),
        Burst(BASE_ADDRESS + READ_APERTURE, [1], size=3, barrier=True),
        Burst(BASE_ADDRESS, length=4, burst=3, barrier=True),
        Burst(BASE_ADDRESS + 0x100000, length=2, id=0xFFF, barrier=True),
        Burst(BASE_ADDRESS + 0x100000, [1], id=0xFFF, barrier=True),
    ]
    # The second burst ends with its first beat; what is left over would be the next one's data.
    bursts[1].data = [1]
    bus.run(bursts)
    assert [burst.responses for burst in bursts] == [[SLVERR], [SLVERR], [SLVERR], [SLVERR] * 4, [DECERR] * 2, [DECERR]]
    assert bus.read(0, 1) == [IDENTIFICATION]


def test_locked_and_exclusive_accesses_are_ordinary(bus):
    for lock in (1, 2):
        write = Burst(BASE_ADDRESS + INITIAL_EPOCH, [lock], lock=lock, cache=3, prot=2)
        read = Burst(BASE_ADDRESS + INITIAL_EPOCH, lock=lock, barrier=True)
        bus.run([write, read])
        assert (write.responses, read.responses, read.words) == ([OKAY], [OKAY], [lock])


def test_a_strobe_selects_bytes(bus):
    bus.run([Burst(BASE_ADDRESS + INITIAL_EPOCH, [0xAABBCCDD], strobes=[0b0101])])
    assert bus.read(INITIAL_EPOCH, 1) == [0x00BB00DD]


def test_an_access_that_takes_too_long_is_an_error_for_good():
    bus = SimulatedBus(SMALL, access_clocks=3)
    for _ in range(2):
        with pytest.raises(DeviceTimeout, match="no answer within 3 clocks to the read burst at 0x43C00000"):
            bus.read(0, 1)
    assert bus.clock_cycles == 3
    bus.close()


def test_a_write_that_takes_too_long():
    bus = SimulatedBus(SMALL, access_clocks=3)
    with pytest.raises(DeviceTimeout, match="no answer within 3 clocks to the write burst at 0x43C00034"):
        bus.write(INITIAL_EPOCH, [1])
    bus.close()


def test_polling_is_bounded_and_can_leave_pauses():
    def clocks_of_a_poll(interval: int) -> int:
        bus = SimulatedBus(SMALL, poll_interval=interval)
        assert bus.poll(0, 1, 0xFFFFFFFF, 0) == [IDENTIFICATION]
        clocks = bus.clock_cycles
        bus.close()
        return clocks

    assert clocks_of_a_poll(100) - clocks_of_a_poll(0) == 15 * 100


def test_a_closed_bus_is_closed():
    bus = SimulatedBus(SMALL)
    bus.step(5)
    bus.close()
    bus.close()
    assert bus.clock_cycles == 5
    for access in (lambda: bus.read(0, 1), lambda: bus.write(0, [0]), lambda: bus.step(1), lambda: bus.interrupt):
        with pytest.raises(DeviceClosed, match="open it again"):
            access()


def test_bad_bursts_are_the_callers_mistake(bus):
    with pytest.raises(ValueError, match="length must be 1 to 16 beats, not 17"):
        bus.run([Burst(BASE_ADDRESS, length=17)])
    with pytest.raises(ValueError, match="at most 65000 / 65536"):
        bus.pause(AxiChannel.R, 1.0, 0)
    with pytest.raises(OverflowError):
        bus.write(INITIAL_EPOCH, [1 << 32])


def test_the_interrupt_line():
    with SimulatedDevice(SMALL) as device:
        cause = CONTROL_PAGE.register("INTERRUPT_PENDING")["VERDICT"].mask
        device.bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING").offset, [0xFF])
        device.bus.write(CONTROL_PAGE.register("INTERRUPT_ENABLE").offset, [cause])
        assert not device.bus.interrupt
        device.commit(snapshot=0, writes=[1])
        assert device.bus.interrupt
        device.bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING").offset, [cause])
        device.bus.step(2)
        assert not device.bus.interrupt


def test_devices_of_one_geometry_are_independent():
    with SimulatedDevice(SMALL) as first, SimulatedDevice(SMALL) as second:
        assert first.commit(snapshot=0, writes=[1]).timestamp == 1
        assert (first.last_timestamp(), second.last_timestamp()) == (1, 0)
        clocks = first.clock_cycles
        second.bus.step(1000)
        assert first.clock_cycles == clocks


def test_the_probe_is_recorded():
    with SimulatedDevice(SMALL) as device:
        device.commit(snapshot=0, writes=[1])
        assert device.bus.recorded() == []
        device.bus.record()
        begin = device.clock_cycles
        device.commit(snapshot=0, reads=[5], writes=[1])
        events = device.bus.recorded()
        # Bit 0: submitted, bit 1: decided; see probe_layout.
        submitted = [clock for clock, probe in events if probe & 1]
        decided = [clock for clock, probe in events if probe & 2]
        assert len(submitted) == len(decided) == 1
        assert begin < submitted[0] < decided[0] < device.clock_cycles

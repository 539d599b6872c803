"""Queue pairs of the simulated gateware against the model, in the order in which the gateware decided."""

import random
from collections import deque

import pytest
from bloomgate import Reason
from bloomgate.backends.model import ModelDevice
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, STATISTICS
from bloomgate_hdl.top import probe_layout
from bloomgate_sim.device import AxiChannel, Burst, SimulatedBus
from bloomgate_sim.rings import SlotRings, doorbell_word

from tests.sim.geometries import QUEUES

MEMORY_BASE = 0x1000_0000
WINDOW_BYTES = 1 << 16
#: The keys of one chunk.
CHUNK = QUEUES.buffer_depth
#: Reasons that are told with a key.
WITH_KEY = (Reason.CONFLICT, Reason.PARITY)


class Device:
    """The gateware with memory and an open ring for each slot, and the model that judges it.

    Every request is remembered until it is decided; `judge` has the model decide the same in the same order.
    """

    def __init__(self):
        self.bus = SimulatedBus(QUEUES)
        self.bus.step(QUEUES.D)
        self._layout = probe_layout(QUEUES)
        memory = memoryview(bytearray(QUEUES.slots * WINDOW_BYTES))
        self.bus.memory.attach(memory, MEMORY_BASE)
        self.model = ModelDevice(QUEUES)
        self.rings = []
        self.outstanding = []
        for slot in range(QUEUES.slots):
            window = memory[slot * WINDOW_BYTES : (slot + 1) * WINDOW_BYTES]
            self.rings.append(SlotRings(self.bus, QUEUES, slot, window, MEMORY_BASE + slot * WINDOW_BYTES))
            self.rings[-1].open(generation=0x100 + slot)
            self.outstanding.append(deque())
        #: Verdicts of the model that have not been compared, by slot.
        self._judged = [deque() for _ in range(QUEUES.slots)]
        self._requests = 0
        self.verdicts = []
        #: (clock, slot) of every decision, and clocks in which a validation was exclusive.
        self.decisions = []
        self.exclusive = []
        self.bus.record()

    def submit(self, slot, *, ring=True, skips=(0, 0, 0), **request):
        """A request by a slot that has room for it."""
        self._requests += 1
        number = self._requests & 0xFFFF
        epoch, count = QUEUES.epoch_and_count(request.pop("snapshot"))
        self.rings[slot].submit(snapshot=(epoch, count), request=number, ring=ring, skips=skips, **request)
        self.outstanding[slot].append((number, (epoch, count), request))

    def room(self, slot):
        return QUEUES.queue_entries - len(self.outstanding[slot])

    def read(self):
        """Compare the completions that are there; returns how many there were."""
        found = 0
        for slot, rings in enumerate(self.rings):
            while self.outstanding[slot] and (completion := rings.read()) is not None:
                self._judge()
                number, _, request = self.outstanding[slot].popleft()
                expected = self._judged[slot].popleft()
                assert completion.request == number
                assert_same(completion.verdict, expected, request)
                self.verdicts.append(completion.verdict)
                rings.ring_head()
                found += 1
        return found

    def _judge(self):
        """What was decided since the last time, decided by the model in the same order."""
        events = self.bus.recorded()
        self.bus.record()
        for clock, bits in events:
            probe = self._layout.from_bits(bits)
            if probe.exclusive:
                self.exclusive.append(clock)
            if probe.decided:
                slot = probe.decided_slot
                self.decisions.append((clock, slot))
                # Requests are decided in the order of their submission, and completions may still be on their way.
                number, (epoch, count), request = self.outstanding[slot][len(self._judged[slot])]
                sets = [request.get(name, ()) for name in ("reads", "writes", "commutes")]
                self._judged[slot].append(self.model.commit_queued(epoch, count, *map(list, sets)))

    def finish(self, limit=30_000):
        """Everything that was submitted is decided and compared."""
        start = self.bus.clock_cycles
        while any(self.outstanding):
            if not self.read():
                self.bus.step(16)
            assert self.bus.clock_cycles - start < limit, f"undecided: {self.outstanding}"
        self._judge()

    def register(self, name):
        return self.bus.read(CONTROL_PAGE.register(name).offset, 1)[0]

    def newest(self):
        return QUEUES.timestamp(self.register("EPOCH"), self.register("COUNT"))

    def statistics(self):
        window, command = CONTROL_PAGE.window("STATISTICS"), CONTROL_PAGE.register("COMMAND")
        self.bus.write(command.offset, [command["LATCH_STATISTICS"].mask])
        self.bus.step(3 * len(STATISTICS))
        words = self.bus.read(window.offset, window.size // 4)
        return {name: words[2 * number] | words[2 * number + 1] << 32 for number, (name, _) in enumerate(STATISTICS)}

    def hesitate(self, rng):
        """Memory with any latency and pauses."""
        memory = self.bus.memory
        memory.latency(rng.choice((0, 3, 30)))
        memory.reorder(rng.random() < 0.5, rng.getrandbits(32))
        for channel in AxiChannel:
            memory.pause(channel, rng.choice((0, 0.1, 0.5)), rng.getrandbits(32))


def assert_same(verdict, expected, request):
    """Of a long request only the key may differ: another key of it may have failed while it was being validated."""
    if len(request.get("reads", ())) > CHUNK and verdict.reason in WITH_KEY:
        assert verdict.reason is expected.reason
        assert verdict.conflict_key in request["reads"]
    else:
        assert verdict == expected, request


@pytest.fixture
def device():
    opened = Device()
    yield opened
    opened.bus.close()
    opened.model.close()


def lengths(rng):
    """Of the three sets: mostly short ones, on both sides of a beat, a burst and a chunk."""
    reads = rng.choice((0, 1, 2, 3, 8, 31, 32, 33, 63, 64, 65, 130, 200))
    writes, commutes = rng.choice(((0, 0), (0, 0), (1, 0), (0, 1), (2, 3), (5, 0), (0, 8), (20, 13)))
    return reads, writes, commutes


@pytest.mark.parametrize("slow", [False, True], ids=["fast memory", "slow memory"])
def test_random_rings_of_all_slots(device, slow, seed):
    rng = random.Random(seed)
    pool = [rng.getrandbits(32) for _ in range(3000)]
    hot = pool[:6]
    if slow:
        device.hesitate(rng)
    while len(device.decisions) < 400:
        newest = device.newest()
        for slot in range(QUEUES.slots):
            batch = rng.randint(0, device.room(slot))
            for _ in range(batch):
                sets = {
                    name: rng.sample(pool, length) if rng.random() < 0.9 else rng.choices(hot, k=length)
                    for name, length in zip(("reads", "writes", "commutes"), lengths(rng), strict=True)
                }
                snapshot = max(0, newest - rng.choice((0, 0, 0, 0, 0, 0, 1, 4, -500)))
                device.submit(slot, snapshot=snapshot, ring=False, skips=rng.choices((0, 1), k=3), **sets)
            if batch:
                device.rings[slot].ring()
        device.bus.step(rng.choice((0, 10, 200)))
        device.read()
    device.finish()
    reasons = {verdict.reason for verdict in device.verdicts}
    assert {None, Reason.CONFLICT, Reason.BAD_REQUEST} <= reasons
    assert min(rings.tail for rings in device.rings) > 3 * QUEUES.queue_entries, "laps of every ring"
    totals, expected = device.statistics(), device.model.stats()
    for name in ("commits", "aborts_conflict", "aborts_bad_request", "keys_inserted", "errors", "parity_errors"):
        assert totals[name] == expected[name], name


# -- long read sets -----------------------------------------------------------------------


def test_a_commit_between_two_chunks_is_not_missed(device, seed):
    """A short request writes a key that the long one has already validated, at any time of its validation."""
    rng = random.Random(seed)
    reads = list(range(0x1000, 0x1000 + 4 * CHUNK))
    outcomes = set()
    for _ in range(25):
        newest = device.newest()
        device.submit(0, snapshot=newest, reads=reads, writes=[0x9000])
        device.bus.step(rng.randint(0, 160))
        device.submit(1, snapshot=newest, writes=[rng.choice(reads[:CHUNK])])
        device.finish()
        outcomes.add((device.verdicts[-1].committed, [slot for _, slot in device.decisions[-2:]][0]))
        outcomes.update(("conflict",) for verdict in device.verdicts if verdict.reason is Reason.CONFLICT)
    assert ("conflict",) in outcomes
    assert (True, 0) in outcomes, "the long one was decided first at least once"


def test_a_disturbed_validation_is_repeated_exclusively(device):
    reads = range(0x1000, 0x1000 + 6 * CHUNK)
    newest = device.newest()
    device.submit(0, snapshot=newest, reads=reads, writes=[0x9000])
    for slot in (1, 2, 3):
        for number in range(QUEUES.queue_entries):
            device.submit(slot, snapshot=newest, reads=[1, 2], writes=[0x8000 + slot * 16 + number], ring=False)
        device.rings[slot].ring()
    device.finish()
    assert all(verdict.committed for verdict in device.verdicts)
    slots = [slot for _, slot in device.decisions]
    assert slots.index(0) > 3, "others were decided between the chunks"
    # One exclusive pass: two keys a clock cycle, and what it takes to begin and to end each chunk.
    assert device.exclusive
    clocks = device.exclusive[-1] - device.exclusive[0] + 1
    assert clocks == len(device.exclusive), "one stretch"
    assert clocks <= len(reads) // 2 + 10 * 6
    assert not any(device.exclusive[0] < clock < device.exclusive[-1] for clock, _ in device.decisions)


def test_an_undisturbed_validation_is_not_repeated(device):
    before = device.statistics()["keys_validated"]
    device.submit(0, snapshot=device.newest(), reads=range(5 * CHUNK + 3), skips=(1, 0, 0))
    device.submit(1, snapshot=device.newest(), reads=[7])
    device.finish()
    assert not device.exclusive
    assert device.statistics()["keys_validated"] - before == 5 * CHUNK + 3 + 1


def test_validation_ends_with_the_chunk_that_fails(device):
    device.submit(0, snapshot=0, writes=[3])
    device.finish()
    before = device.statistics()["keys_validated"]
    keys = list(range(0x4000, 0x4000 + 4 * CHUNK))
    keys[CHUNK + 5] = 3
    device.submit(1, snapshot=0, reads=keys)
    device.finish()
    assert device.verdicts[-1].conflict_key == 3
    assert device.statistics()["keys_validated"] - before == 2 * CHUNK


@pytest.mark.parametrize("slots", [2, 3], ids=["two long readers", "three long readers"])
def test_long_readers_without_end_do_not_keep_short_writers_waiting(device, slots):
    """Every short request is decided before two long ones have been since its doorbell: one in service, one more."""
    writer = QUEUES.slots - 1
    long_reads = range(0x1000, 0x1000 + 8 * CHUNK)
    rung, waits = 0, []
    while len(waits) < 20:
        for slot in range(slots):
            while device.room(slot):
                device.submit(slot, snapshot=device.newest(), reads=long_reads)
        if not device.outstanding[writer]:
            seen = len(device.decisions)
            device.submit(writer, snapshot=device.newest(), reads=[1], writes=[2])
            rung = device.bus.clock_cycles
        device.bus.step(40)
        device.read()
        mine = [clock for clock, slot in device.decisions[seen:] if slot == writer and clock > rung - 100]
        if mine:
            between = [slot for clock, slot in device.decisions[seen:] if clock < mine[0] and slot != writer]
            waits.append(len(between))
    device.finish()
    assert max(waits) <= 2
    assert device.exclusive, "the writer disturbs them"


# -- the floor ----------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [CHUNK - 1, CHUNK, CHUNK + 1, 1000])
def test_more_keys_than_a_buffer_holds_raise_the_floor(device, keys):
    device.submit(0, snapshot=0, writes=[5])
    device.finish()
    before = device.statistics()
    device.submit(1, snapshot=1, reads=[9], writes=range(keys - 7), commutes=range(7), skips=(1, 1, 1))
    device.submit(2, snapshot=2, reads=[0x7777_7777])
    device.submit(2, snapshot=1, reads=[0x7777_7777])
    device.finish()
    raised = keys > CHUNK
    assert device.register("FLOOR") == (2 if raised else 0)
    after = device.statistics()
    assert after["floor_raises"] - before["floor_raises"] == raised
    assert after["keys_inserted"] - before["keys_inserted"] == (0 if raised else keys)


def test_an_aborted_request_with_too_many_keys_raises_nothing(device):
    device.submit(0, snapshot=0, writes=[5])
    device.submit(0, snapshot=0, reads=[5], writes=range(CHUNK + 1))
    device.finish()
    assert device.verdicts[-1].reason is Reason.CONFLICT
    assert device.register("FLOOR") == 0


# -- owners -------------------------------------------------------------------------------


def test_a_stale_doorbell_is_dropped_and_a_new_owner_starts_clean(device):
    rings = device.rings[0]
    device.submit(0, snapshot=0, reads=[1])
    device.finish()
    old = rings.generation
    rings.open(generation=9)
    errors = device.register("ERROR_COUNT")
    device.bus.write(rings.page("SUBMISSION_TAIL"), [doorbell_word(old, 1)])
    device.bus.step(200)
    assert device.register("ERROR_COUNT") == errors + 1
    assert rings.peek(0) is None
    device.submit(0, snapshot=0, reads=[1])
    device.finish()
    assert rings.head == 1


def test_disabling_waits_for_what_was_fetched(device, seed):
    """The old owner's requests are decided or forgotten, and each that was decided has its completion."""
    rng = random.Random(seed)
    for number in range(12):
        device.bus.memory.latency(rng.choice((0, 20)))
        rings = device.rings[0]
        for _ in range(QUEUES.queue_entries):
            device.submit(0, snapshot=0, reads=range(rng.choice((4, 3 * CHUNK))), ring=False)
        rings.ring()
        device.bus.step(rng.randint(0, 150))
        rings.control(0, enable=False)
        rings._drained(2000)
        before = device.bus.memory.statistics()
        device.bus.step(300)
        assert device.bus.memory.statistics().read_beats == before.read_beats, "nothing is fetched for a disabled slot"
        device.read()
        device.outstanding[0].clear()
        device.rings[0].open(generation=number + 1)
        device.submit(0, snapshot=0, reads=[1])
        device.finish()


def test_one_burst_rings_both_doorbells(device):
    rings = device.rings[0]
    for lap in range(3):
        for _ in range(QUEUES.queue_entries):
            device.submit(0, snapshot=0, reads=[1], ring=False)
        words = [doorbell_word(rings.generation, rings.head), doorbell_word(rings.generation, rings.tail)]
        burst = Burst(BASE_ADDRESS + rings.page("COMPLETION_HEAD"), data=words)
        device.bus.run([burst])
        device._judge()
        for _ in range(QUEUES.queue_entries):
            assert rings.collect(1000).verdict.committed
            device._judge()
            device.outstanding[0].popleft()
            device._judged[0].popleft()
        assert rings.head == (lap + 1) * QUEUES.queue_entries

# amaranth: UnusedElaboratable=no
"""The AXI3 slave against a model of the bus written from IHI 0022 A3.4, not from the gateware."""

import collections
import dataclasses
import itertools
import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator
from bloomgate_hdl.axi3 import Axi3Signature, Burst, Response
from bloomgate_hdl.axi3_slave import Axi3Slave
from bloomgate_hdl.register_port import READ_LATENCY, RegisterPortSignature
from bloomgate_hdl.response_queue import ResponseQueue
from bloomgate_hdl.stream_queue import StreamQueue

BASE = 0x43C0_0000
SIZE = 0x2_0000
PAGE = 4096

FIXED, INCR, WRAP, RESERVED = 0, 1, 2, 3
OKAY, EXOKAY, SLVERR, DECERR = 0, 1, 2, 3

# -- the model ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Address:
    """What a master puts on AW or AR; `beats` is AxLEN + 1 and `bytes` is 1 << AxSIZE."""

    id: int
    address: int
    beats: int = 1
    bytes: int = 4
    burst: int = INCR
    lock: int = 0


@dataclasses.dataclass(frozen=True)
class Beat:
    """What a master puts on W."""

    id: int
    data: int
    strobe: int
    last: bool


def beat_addresses(burst):
    """Address_N of every beat, by the formulas of IHI 0022 A3.4.1."""
    start, count, length = burst.address, burst.bytes, burst.beats
    aligned = (start // count) * count
    if burst.burst == FIXED:
        return [start] * length
    addresses = [start] + [aligned + (n - 1) * count for n in range(2, length + 1)]
    if burst.burst == WRAP:
        boundary = (start // (count * length)) * (count * length)
        limit = boundary + count * length
        addresses = [a if a < limit else a - count * length for a in addresses]
    return addresses


def byte_lanes(address, count):
    """The strobes that a beat may have, by IHI 0022 A3.4.3."""
    aligned = (address // count) * count
    lower = address - (address // 4) * 4
    upper = aligned + (count - 1) - (address // 4) * 4
    return sum(1 << lane for lane in range(lower, upper + 1))


def form_response(burst):
    """The response that the address and form of a burst deserve."""
    if not BASE <= burst.address < BASE + SIZE:
        return DECERR
    if burst.burst == RESERVED or burst.bytes > 4:
        return SLVERR
    if burst.burst == WRAP and (burst.beats not in (2, 4, 8, 16) or burst.address % burst.bytes):
        return SLVERR
    if any(address // PAGE != burst.address // PAGE for address in beat_addresses(burst)):
        return SLVERR
    return OKAY


def word_of(address):
    return (address - BASE) // 4


def model_writes(bursts, beats, write_error):
    """The word writes and the (ID, response) pairs that `bursts` and the W stream must cause."""
    writes, answers = [], []
    beats = collections.deque(beats)
    for burst in bursts:
        response = form_response(burst)
        addresses = beat_addresses(burst) if response == OKAY else [None] * burst.beats
        faulty = refused = False
        for number, address in enumerate(addresses, 1):
            beat = beats.popleft()
            faulty |= beat.id != burst.id
            faulty |= beat.last != (number == burst.beats)
            if address is not None:
                faulty |= bool(beat.strobe & ~byte_lanes(address, burst.bytes))
                if beat.strobe and not faulty:
                    writes.append((word_of(address), beat.data, beat.strobe))
                    refused |= write_error(word_of(address))
            if beat.last:
                break
        if response == OKAY and (faulty or refused):
            response = SLVERR
        answers.append((burst.id, response))
    assert not beats, "the test sends beats that belong to no burst"
    return writes, answers


def model_reads(bursts, read_word):
    """The word addresses read and the (ID, data, response, last) beats that `bursts` must cause."""
    reads, answers = [], []
    for burst in bursts:
        response = form_response(burst)
        for number in range(1, burst.beats + 1):
            last = number == burst.beats
            if response != OKAY:
                answers.append((burst.id, 0, response, last))
                continue
            word = word_of(beat_addresses(burst)[number - 1])
            reads.append(word)
            data, error = read_word(word)
            answers.append((burst.id, data, SLVERR if error else OKAY, last))
    return reads, answers


def names(text):
    return text.split()


# -- the bench ----------------------------------------------------------------------------


def no_error(word):
    return False


def pattern(word):
    """Register contents for tests that only read: different in every word, no errors."""
    return (word * 0x9E37_79B1 + 0x1234_5678) & 0xFFFF_FFFF, False


class Bench:
    """Drives all five channels and the registers, one Python step per clock.

    `pause` is the probability that a channel does nothing although it could, by channel name.
    Everything that happens is logged with its clock. What the slave must ignore is random.
    """

    CHANNELS = ("aw", "w", "b", "ar", "r")

    def __init__(self, rng, *, pause=(), write_error=no_error, read_word=pattern, **parameters):
        self.rng = rng
        self.pause = dict.fromkeys(self.CHANNELS, 0) | dict(pause)
        self.write_error = write_error
        self.read_word = read_word
        self.slave = Axi3Slave(base=BASE, size=SIZE, **parameters)
        self.reset = Signal()
        self.queues = {"aw": collections.deque(), "w": collections.deque(), "ar": collections.deque()}
        self.taken = {"aw": [], "w": [], "ar": []}
        self.b, self.r, self.writes, self.reads = [], [], [], []
        #: Channels on which the master holds a valid, and payloads that the slave must hold.
        self.valid, self.held = dict.fromkeys(self.queues, False), {}
        self.clock = 0
        #: Clocks in which to assert the reset.
        self.reset_at = range(0)
        #: Called in every clock with the sampled outputs.
        self.on_clock = None

    def write(self, burst, data=None, *, ids=None, strobes=None, lasts=None):
        """Queues a write burst; the lists replace what a correct master would send."""
        count = len(lasts) if lasts is not None else burst.beats
        if strobes is None:
            whole = Address(burst.id, burst.address, count, burst.bytes, burst.burst)
            legal = form_response(burst) == OKAY
            strobes = [byte_lanes(a, burst.bytes) if legal else 0xF for a in beat_addresses(whole)]
        lasts = lasts or [n == count - 1 for n in range(count)]
        ids = ids or [burst.id] * count
        data = data or [self.rng.getrandbits(32) for _ in range(count)]
        self.queues["aw"].append(burst)
        self.queues["w"].extend(map(Beat, ids, data, strobes, lasts))

    def restart(self):
        """The master is reset too: it forgets everything."""
        self.held.clear()
        self.valid.update(dict.fromkeys(self.valid, False))
        for part in (*self.queues.values(), *self.taken.values(), self.b, self.r, self.writes, self.reads):
            part.clear()

    def read(self, burst):
        self.queues["ar"].append(burst)

    def run(self, *, limit, until=None):
        """Runs until everything queued is answered, or `until()`; fails at `limit` clocks."""
        m = Module()
        m.submodules.slave = ResetInserter(self.reset)(self.slave)
        simulator = Simulator(m)
        simulator.add_clock(10e-9)
        sent = {name: list(queue) for name, queue in self.queues.items()}
        beats = sum(burst.beats for burst in sent["ar"])

        def answered():
            return len(self.b) == len(sent["aw"]) and len(self.r) == beats and not self.queues["w"]

        async def bench(ctx):
            await self._bench(ctx, until or answered, limit)

        simulator.add_testbench(bench)
        simulator.run()
        return sent

    def check(self, *, limit):
        """Runs what is queued and compares everything with the model."""
        sent = self.run(limit=limit)
        writes, write_answers = model_writes(sent["aw"], sent["w"], self.write_error)
        reads, read_answers = model_reads(sent["ar"], self.read_word)
        assert [entry[1:] for entry in self.writes] == writes
        assert [entry[1:] for entry in self.b] == write_answers
        assert [entry[1:] for entry in self.reads] == [(word,) for word in reads]
        assert [entry[1:] for entry in self.r] == read_answers

    def _present(self, ctx, name, item):
        bus = self.slave.bus
        if name == "w":
            fields = {"id": item.id, "data": item.data, "strb": item.strobe, "last": item.last}
        else:
            fields = {"id": item.id, "addr": item.address, "len": item.beats - 1, "burst": item.burst}
            fields |= {"size": item.bytes.bit_length() - 1, "lock": item.lock}
            fields |= {"cache": self.rng.getrandbits(4), "prot": self.rng.getrandbits(3)}
        for field, value in fields.items():
            ctx.set(getattr(bus, name + field), value)

    async def _bench(self, ctx, done, limit):
        bus, port, rng = self.slave.bus, self.slave.registers, self.rng
        outputs = {
            name: getattr(bus, name)
            for name in names("awready wready arready bvalid bid bresp rvalid rid rdata rresp rlast")
        }
        outputs |= {
            name: getattr(port, name)
            for name in names("write_valid write_address write_data write_strobe read_valid read_address")
        }
        outputs["idle"] = self.slave.idle
        valid, held = self.valid, self.held
        pipeline = [None] * (READ_LATENCY - 1)
        for self.clock in itertools.count():
            assert self.clock < limit, f"not finished after {limit} clocks: {len(self.b)} B, {len(self.r)} R"
            in_reset = self.clock in self.reset_at
            ctx.set(self.reset, in_reset)
            for name, queue in self.queues.items():
                if not valid[name] and queue and rng.random() >= self.pause[name]:
                    self._present(ctx, name, queue[0])
                    valid[name] = True
                ctx.set(getattr(bus, name + "valid"), valid[name])
            ready = {name: rng.random() >= self.pause[name] for name in ("b", "r")}
            ctx.set(bus.bready, ready["b"])
            ctx.set(bus.rready, ready["r"])

            _, _, *values = await ctx.tick().sample(*outputs.values())
            now = dict(zip(outputs, values, strict=True))
            if self.on_clock is not None:
                self.on_clock(now)
            for name, queue in self.queues.items():
                if valid[name] and now[name + "ready"]:
                    self.taken[name].append((self.clock, queue.popleft()))
                    valid[name] = False
            for name, fields, log in (
                ("b", ("bid", "bresp"), self.b),
                ("r", ("rid", "rdata", "rresp", "rlast"), self.r),
            ):
                payload = tuple(now[field] for field in fields)
                if name in held:
                    assert now[name + "valid"], f"clock {self.clock}: {name}valid fell without a handshake"
                    assert payload == held.pop(name), f"clock {self.clock}: the payload of {name} changed"
                if now[name + "valid"]:
                    if ready[name]:
                        log.append((self.clock, *payload))
                    elif not in_reset:
                        held[name] = payload

            # The registers: an answer where one is due, noise elsewhere.
            ctx.set(port.write_error, rng.getrandbits(1))
            if now["write_valid"]:
                word = now["write_address"]
                self.writes.append((self.clock, word, now["write_data"], now["write_strobe"]))
                ctx.set(port.write_error, self.write_error(word))
            if now["read_valid"]:
                self.reads.append((self.clock, now["read_address"]))
            pipeline.append(now["read_address"] if now["read_valid"] else None)
            word = pipeline.pop(0)
            data, error = (rng.getrandbits(32), rng.getrandbits(1)) if word is None else self.read_word(word)
            ctx.set(port.read_data, data)
            ctx.set(port.read_error, error)
            if done():
                return


@pytest.fixture
def rng(seed):
    return random.Random(seed)


# -- bursts that the standard allows ------------------------------------------------------


def legal_bursts():
    """Every burst type, size and length, each at all offsets that matter."""
    identifiers = itertools.count(1)
    for size in (1, 2, 4):
        for beats in (1, 2, 3, 5, 8, 16):
            for offset in range(4):
                for burst in (FIXED, INCR):
                    yield Address(next(identifiers) % 4096, BASE + 0x1100 + offset, beats, size, burst)
    for size in (1, 2, 4):
        for beats in (2, 4, 8, 16):
            for start in sorted({0, 1, beats // 2, beats - 1}):
                # 0x40 is the largest span of a wrap; start in the middle of memory, not at 0.
                yield Address(next(identifiers) % 4096, BASE + 0x1F40 + start * size, beats, size, WRAP)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_legal_form(rng, size):
    bench = Bench(rng)
    for burst in legal_bursts():
        if burst.bytes == size:
            bench.write(burst)
            bench.read(burst)
    bench.check(limit=4000)
    assert {entry[-1] for entry in bench.b} == {OKAY}


def test_model_knows_the_examples_of_the_standard():
    assert beat_addresses(Address(0, 0x07, 5, 4, INCR)) == [0x07, 0x08, 0x0C, 0x10, 0x14]
    assert beat_addresses(Address(0, 0x04, 4, 4, WRAP)) == [0x04, 0x08, 0x0C, 0x00]
    assert [byte_lanes(a, 1) for a in (0, 1, 2, 3)] == [1, 2, 4, 8]
    assert byte_lanes(0x07, 4) == 0b1000
    assert byte_lanes(0x01, 2) == 0b0010


def test_bursts_at_the_ends_of_region_and_page(rng):
    bench = Bench(rng)
    for address in (BASE, BASE + PAGE - 64, BASE + SIZE - 64):
        for burst in (INCR, WRAP):
            bench.write(Address(1, address, 16, 4, burst))
            bench.read(Address(2, address, 16, 4, burst))
    bench.write(Address(3, BASE + SIZE - 1, 1, 1))
    bench.write(Address(3, BASE + SIZE - 1, 1, 4))
    bench.read(Address(3, BASE + SIZE - 1, 16, 4, FIXED))
    bench.check(limit=600)
    assert {entry[-1] for entry in bench.b} == {OKAY}


@pytest.mark.parametrize("lock", [1, 2])
def test_exclusive_and_locked_accesses_are_ordinary(rng, lock):
    bench = Bench(rng)
    bench.write(Address(7, BASE, lock=lock))
    bench.read(Address(7, BASE, lock=lock))
    bench.check(limit=50)
    assert len(bench.writes) == 1
    assert bench.b[0][2] == OKAY
    assert bench.r[0][3] == OKAY


def test_partial_and_empty_strobes(rng):
    bench = Bench(rng)
    bench.write(Address(1, BASE + 0x40, 16), strobes=list(range(16)))
    bench.check(limit=60)
    assert [entry[3] for entry in bench.writes] == list(range(1, 16))
    assert bench.b[0][2] == OKAY


@pytest.mark.parametrize("pause", [0, 0.5, 0.9])
def test_byte_memory(rng, pause):
    """Write, then read back, in a memory of bytes: the lanes end up where they belong."""
    memory = bytearray(rng.randbytes(PAGE))
    expected = bytearray(memory)

    def read_word(word):
        return int.from_bytes(memory[word * 4 : word * 4 + 4], "little"), False

    written = Bench(rng, pause=dict.fromkeys(Bench.CHANNELS, pause))
    bursts = [random_legal(rng, BASE) for _ in range(25)]
    for burst in bursts:
        payload = [rng.getrandbits(32) for _ in range(burst.beats)]
        written.write(burst, payload)
        for address, word in zip(beat_addresses(burst), payload, strict=True):
            # The master's view: the bytes from the address to the end of its transfer.
            for byte in range(address, address // burst.bytes * burst.bytes + burst.bytes):
                expected[byte - BASE] = word >> 8 * (byte % 4) & 0xFF
    written.check(limit=12_000)
    for _, word, data, strobe in written.writes:
        for lane in range(4):
            if strobe >> lane & 1:
                memory[word * 4 + lane] = data >> 8 * lane & 0xFF
    assert memory == expected

    back = Bench(rng, pause=dict.fromkeys(Bench.CHANNELS, pause), read_word=read_word)
    for burst in bursts:
        back.read(burst)
    back.check(limit=12_000)


def random_legal(rng, region):
    """A legal burst in one page."""
    while True:
        burst = Address(
            rng.getrandbits(12),
            region + rng.randrange(PAGE),
            rng.randint(1, 16),
            1 << rng.randrange(3),
            rng.randrange(3),
        )
        if form_response(burst) == OKAY:
            return burst


# -- bursts that get an error -------------------------------------------------------------

BAD_FORMS = {
    "reserved type": (Address(1, BASE, 4, 4, RESERVED), SLVERR),
    "8 bytes a beat": (Address(2, BASE, 2, 8), SLVERR),
    "128 bytes a beat": (Address(3, BASE, 2, 128, FIXED), SLVERR),
    "wrap of 1": (Address(4, BASE, 1, 4, WRAP), SLVERR),
    "wrap of 3": (Address(5, BASE, 3, 4, WRAP), SLVERR),
    "wrap of 12": (Address(6, BASE, 12, 4, WRAP), SLVERR),
    "unaligned wrap": (Address(7, BASE + 2, 4, 4, WRAP), SLVERR),
    "unaligned half-word wrap": (Address(8, BASE + 1, 4, 2, WRAP), SLVERR),
    "across a page": (Address(9, BASE + PAGE - 4, 2), SLVERR),
    "across a page, unaligned": (Address(10, BASE + PAGE - 1, 2), SLVERR),
    "across a page, bytes": (Address(11, BASE + PAGE - 15, 16, 1), SLVERR),
    "across the end of the region": (Address(12, BASE + SIZE - 32, 16), SLVERR),
    "below the region": (Address(13, BASE - 4), DECERR),
    "into the region from below": (Address(14, BASE - 4, 2), DECERR),
    "above the region": (Address(15, BASE + SIZE, 16), DECERR),
    "far away": (Address(16, BASE ^ 1 << 31, 3), DECERR),
    "outside and illegal": (Address(17, 0, 3, 8, RESERVED), DECERR),
}


@pytest.mark.parametrize("name", list(BAD_FORMS))
def test_bad_form_touches_nothing(rng, name):
    burst, response = BAD_FORMS[name]
    bench = Bench(rng)
    bench.write(burst)
    bench.read(burst)
    good = Address(99, BASE + 8, 2)
    bench.write(good)
    bench.read(good)
    bench.check(limit=100)
    assert bench.b[0][1:] == (burst.id, response)
    assert [entry[1:] for entry in bench.r[: burst.beats]] == [
        (burst.id, 0, response, n == burst.beats) for n in range(1, burst.beats + 1)
    ]
    assert len(bench.writes) == len(bench.reads) == 2


@pytest.mark.parametrize(
    ("case", "written"),
    [
        pytest.param({"ids": [5, 5, 6, 5]}, 2, id="wrong ID on beat 3"),
        pytest.param({"ids": [6, 5, 5, 5]}, 0, id="wrong ID on beat 1"),
        pytest.param({"ids": [5, 5, 5, 5 | 1 << 11]}, 3, id="wrong ID on the last beat"),
        pytest.param({"lasts": [False, False, False, False]}, 3, id="no last"),
        pytest.param({"lasts": [False, True]}, 1, id="last two beats early"),
        pytest.param({"lasts": [True]}, 0, id="last on the first beat"),
        pytest.param({"strobes": [3, 15, 3, 3]}, 1, id="strobe above the lanes"),
        pytest.param({"strobes": [3, 12, 3, 0b1110]}, 3, id="strobe below the lanes"),
    ],
)
def test_bad_data(rng, case, written):
    """A half-word burst whose data is wrong somewhere; the burst after it is not harmed."""
    bench = Bench(rng)
    if "strobes" not in case:
        case = case | {"strobes": [3, 12, 3, 12][: len(case.get("lasts", range(4)))]}
    bench.write(Address(5, BASE + 0x10, 4, 2), **case)
    bench.write(Address(5, BASE + 0x20, 2))
    bench.check(limit=100)
    assert len(bench.writes) == written + 2
    assert [entry[1:] for entry in bench.b] == [(5, SLVERR), (5, OKAY)]


def test_refusals_of_the_registers(rng):
    """One B per burst tells of any refused write; every R tells of its own."""
    bench = Bench(rng, write_error=lambda word: word == 6, read_word=lambda word: (word, word == 6))
    for start in (0, 4, 5, 6, 7):
        bench.write(Address(start, BASE + 4 * start, 2))
        bench.read(Address(start, BASE + 4 * start, 2))
    bench.check(limit=100)
    assert [entry[2] for entry in bench.b] == [OKAY, OKAY, SLVERR, SLVERR, OKAY]
    assert [entry[3] for entry in bench.r] == [0, 0, 0, 0, 0, SLVERR, SLVERR, 0, 0, 0]


# -- everything at once -------------------------------------------------------------------


def random_burst(rng):
    """Mostly legal; every kind of error now and then."""
    if rng.random() < 0.75:
        return random_legal(rng, BASE + PAGE * rng.randrange(SIZE // PAGE))
    address = rng.choice([BASE, BASE + SIZE, BASE - PAGE, rng.getrandbits(32) & ~0xFFF, BASE + 5 * PAGE])
    offset = rng.choice([rng.randrange(PAGE), PAGE - rng.randrange(1, 64), rng.randrange(16)])
    return Address(
        rng.getrandbits(12),
        (address + offset) % (1 << 32),
        rng.randint(1, 16),
        1 << rng.choice([0, 1, 2, 2, 3, 7]),
        rng.randrange(4),
    )


def queue_random_write(bench, rng):
    burst = random_burst(rng)
    if rng.random() < 0.7:
        bench.write(burst)
        return
    lasts = [n == burst.beats - 1 for n in range(burst.beats)]
    kind = rng.randrange(3)
    if kind == 0:
        lasts = lasts[: rng.randint(1, burst.beats)]
        lasts[-1] = True
    elif kind == 1:
        lasts[-1] = False
    ids = [burst.id ^ (rng.random() < 0.05) << rng.randrange(12) for _ in lasts]
    strobes = None
    if rng.random() < 0.5:
        strobes = [rng.getrandbits(4) for _ in lasts]
    bench.write(burst, ids=ids, strobes=strobes, lasts=lasts)


@pytest.mark.parametrize("channel", [*Bench.CHANNELS, "all"])
@pytest.mark.parametrize("pause", [0.5, 0.9])
def test_random_traffic_under_backpressure(rng, channel, pause):
    pauses = dict.fromkeys(Bench.CHANNELS, pause) if channel == "all" else {channel: pause}
    bench = Bench(
        rng,
        pause=pauses,
        write_error=lambda word: word % 61 == 0,
        read_word=lambda word: (pattern(word)[0], word % 61 == 0),
    )
    for _ in range(30):
        queue_random_write(bench, rng)
        bench.read(random_burst(rng))
    bench.check(limit=16_000)


def test_random_traffic_at_full_speed(rng):
    bench = Bench(rng)
    for _ in range(150):
        queue_random_write(bench, rng)
        bench.read(random_burst(rng))
    bench.check(limit=6000)


# -- outstanding bursts, order, speed -----------------------------------------------------


def test_four_addresses_ahead_of_the_first_answer(rng):
    """With no data and no readiness for it, at least four addresses are taken on either side."""
    bench = Bench(rng, pause={"w": 1, "r": 1})
    for n in range(8):
        bench.write(Address(n, BASE + 4 * n))
        bench.read(Address(n, BASE + 4 * n))
    bench.run(limit=41, until=lambda: bench.clock == 40)
    assert len(bench.taken["aw"]) >= 4
    assert len(bench.taken["ar"]) >= 4
    assert not bench.writes
    assert not bench.b


def test_data_before_its_address_waits(rng):
    bench = Bench(rng, pause={"aw": 0.97})
    for n in range(4):
        bench.write(Address(n, BASE + 64 * n, 3))
    bench.check(limit=2000)
    first = [clock for clock, _ in bench.taken["aw"]]
    assert all(bench.writes[3 * n][0] >= first[n] + 1 for n in range(4))


def test_answers_wait_for_the_last_beat(rng):
    bench = Bench(rng, pause={"w": 0.7})
    for n in range(10):
        bench.write(Address(n, BASE + 64 * n, 3))
    bench.check(limit=1000)
    lasts = [clock for clock, beat in bench.taken["w"] if beat.last]
    assert all(answer[0] == last + 3 for answer, last in zip(bench.b, lasts, strict=True))


def consecutive(clocks):
    return clocks == list(range(clocks[0], clocks[0] + len(clocks)))


@pytest.mark.parametrize("beats", [16, 3, 1])
def test_one_beat_per_clock_also_between_bursts(rng, beats):
    bench = Bench(rng)
    for n in range(48 // beats):
        bench.write(Address(n, BASE + 64 * n, beats))
        bench.read(Address(n, BASE + 64 * n, beats))
    bench.check(limit=100)
    assert consecutive([entry[0] for entry in bench.writes])
    assert consecutive([entry[0] for entry in bench.reads])
    assert consecutive([entry[0] for entry in bench.r])


def test_latency(rng):
    """The figures in the docstring of Axi3Slave."""
    bench = Bench(rng)
    bench.write(Address(1, BASE, 16))
    bench.read(Address(1, BASE, 4))
    bench.check(limit=60)
    address, read = bench.taken["aw"][0][0], bench.taken["ar"][0][0]
    data = [clock for clock, _ in bench.taken["w"]]
    writes = [entry[0] for entry in bench.writes]
    assert writes[0] == address + 2
    # The first beat is taken with the address and the second waits behind it.
    assert all(write <= clock + 2 for write, clock in zip(writes, data, strict=True))
    assert bench.b[0][0] == data[-1] + 3
    assert bench.reads[0][0] == read + 2
    assert bench.r[0][0] == read + 5


def test_a_beat_is_written_one_clock_after_its_handshake(rng):
    bench = Bench(rng, pause={"w": 0.8})
    bench.write(Address(1, BASE, 16))
    held = list(bench.queues["w"])
    bench.queues["w"].clear()

    def release(now):
        if bench.clock == 8:
            bench.queues["w"].extend(held)

    bench.on_clock = release
    bench.run(limit=400, until=lambda: len(bench.b) == 1)
    assert [entry[0] for entry in bench.writes] == [clock + 1 for clock, _ in bench.taken["w"]]


@pytest.mark.parametrize("pause", [0, 0.5])
def test_idle_means_nothing_outstanding(rng, pause):
    bench = Bench(rng, pause=dict.fromkeys(Bench.CHANNELS, pause))
    for n in range(12):
        bench.write(Address(n, BASE + 64 * n, 1 + n % 5))
        if n % 3 == 0:
            bench.read(Address(n, BASE + 64 * n, 1 + n % 5))
    idle = []

    def watch(now):
        lasts = sum(entry[4] for entry in bench.r)
        busy = len(bench.taken["aw"]) > len(bench.b) or len(bench.taken["ar"]) > lasts
        busy |= len(bench.taken["w"]) > len(bench.writes)
        assert now["idle"] == (not busy), f"clock {bench.clock}"
        idle.append(now["idle"])

    bench.on_clock = watch
    bench.check(limit=3000)
    assert idle[0]
    assert not all(idle)


# -- reset --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [6, 9, 13, 20])
def test_reset_forgets_everything(rng, at):
    """In the middle of bursts on both sides, with answers waiting; then traffic as if new."""
    bench = Bench(rng, pause={"b": 0.9, "r": 0.9})
    for n in range(6):
        bench.write(Address(n, BASE + 64 * n, 5))
        bench.read(Address(n, BASE + 64 * n, 5))

    def watch(now):
        if bench.clock in range(at + 1, at + 5):
            silent = names("awready wready arready bvalid rvalid write_valid read_valid")
            assert not any(now[name] for name in silent), now
            assert now["idle"]
        if bench.clock == at + 2:
            busy.append((len(bench.taken["aw"]) > len(bench.b), len(bench.taken["ar"]) * 5 > len(bench.r)))
            bench.restart()
            for n in range(5):
                bench.write(Address(100 + n, BASE + PAGE + 64 * n, 4))
                bench.read(Address(100 + n, BASE + PAGE + 64 * n, 4))
            sent.update({name: list(queue) for name, queue in bench.queues.items()})

    busy = []
    sent = {}
    bench.reset_at = range(at, at + 4)
    bench.on_clock = watch
    bench.run(limit=3000, until=lambda: sent and len(bench.b) == 5 and len(bench.r) == 20)
    assert busy == [(True, True)], "the reset came when there was nothing to forget"
    writes, answers = model_writes(sent["aw"], sent["w"], no_error)
    assert [entry[1:] for entry in bench.writes] == writes
    assert [entry[1:] for entry in bench.b] == answers
    assert [entry[1:] for entry in bench.r] == model_reads(sent["ar"], pattern)[1]


# -- parameters and signatures ------------------------------------------------------------


def test_enums_have_the_codes_of_the_standard():
    assert [member.value for member in Burst] == [FIXED, INCR, WRAP]
    assert [member.value for member in Response] == [OKAY, EXOKAY, SLVERR, DECERR]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"base": 0, "size": 2048}, "size must be a power of two from 4096 to 2\\*\\*32, not 2048"),
        ({"base": 0, "size": 12288}, "size must be a power of two from 4096 to 2\\*\\*32, not 12288"),
        ({"base": 4096, "size": 8192}, "base must be a 32-bit multiple of size 0x2000, not 4096"),
        ({"base": 1 << 32, "size": 8192}, "base must be a 32-bit multiple of size 0x2000, not 4294967296"),
        ({"base": 0, "size": 4096, "depth": 3}, "depth must be a power of two of at least 2, not 3"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        Axi3Slave(**parameters)


@pytest.mark.parametrize("queue", [StreamQueue, ResponseQueue])
def test_bad_queue_depth(queue):
    with pytest.raises(ValueError, match="depth must be a power of two of at least 2, not 1"):
        queue(8, 1)


def test_one_page_is_enough(rng):
    slave = Axi3Slave(base=BASE, size=PAGE)
    assert slave.registers.signature == RegisterPortSignature(10)
    Simulator(slave)


def test_signature_has_the_names_of_the_standard():
    plain = Axi3Signature(32, 32, 12)
    assert plain == Axi3Signature(32, 32, 12)
    assert plain != Axi3Signature(32, 64, 12)
    assert "awuser" not in plain.members
    coherent = Axi3Signature(32, 64, 3, user_width=5)
    assert {"awuser", "aruser"} <= set(coherent.members)
    assert set(plain.members) == {
        *names("awid awaddr awlen awsize awburst awlock awcache awprot awvalid awready"),
        *names("wid wdata wstrb wlast wvalid wready bid bresp bvalid bready"),
        *names("arid araddr arlen arsize arburst arlock arcache arprot arvalid arready"),
        *names("rid rdata rresp rlast rvalid rready"),
    }
    with pytest.raises(ValueError, match="data_width must be a positive multiple of 8, not 12"):
        Axi3Signature(32, 12, 1)

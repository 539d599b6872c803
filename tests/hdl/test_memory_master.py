# amaranth: UnusedElaboratable=no
"""The memory master against a model of the memory and its bus: every command answered, nothing outside its window."""

import random
from collections import defaultdict, deque
from dataclasses import dataclass

import pytest
from bloomgate.queue_layout import COMPLETION
from bloomgate_hdl.memory_master import MemoryMaster
from bloomgate_hdl.memory_port import ACP, HP

from tests.hdl.memory import attach, memory_for
from tests.hdl.simulation import simulate
from tests.memory_model import CHANNELS, DECERR, OKAY, SLVERR

IDS = 5
SLOT_BITS = 4
BASE, SIZE = 0x1234_0000, 0x8000
#: The window of the slot that the tests act for, in pages; the page after it is memory too.
WINDOW = {"base": BASE >> 12, "end": (BASE + SIZE >> 12) - 1}
BEATS = len(COMPLETION)


@dataclass(frozen=True)
class Command:
    identifier: int
    address: int
    beats: int

    @property
    def allowed(self):
        inside = BASE <= self.address < BASE + SIZE - 0x1000
        return inside and self.beats > 0 and self.address % 128 + 8 * self.beats <= 128


def fields(layout, value):
    """The members of a struct, responses as plain numbers."""
    members = {name: getattr(value, name) for name, _ in layout}
    return {name: getattr(member, "value", member) for name, member in members.items()}


class Bench:
    """A master with a memory of random contents behind it, and a record of what it answers."""

    def __init__(self, seed, port=ACP):
        self.rng = random.Random(seed)
        self.dut = MemoryMaster(slot_bits=SLOT_BITS, ids=IDS, port=port)
        self.memory = memory_for(port, seed=seed + 1)
        self.contents = self.memory.attach(BASE, SIZE)
        self.contents[:] = self.rng.randbytes(SIZE)
        #: (clock, fields) of every beat and every `written`.
        self.beats, self.written = [], []
        #: Clock numbers of the handshakes of commands and completions.
        self.fetched, self.completed = [], []
        self.clock = 0

    def run(self, *benches, clocks):
        simulate(self.dut, *benches, clocks=clocks, background=(attach(self.memory, self.dut.bus), self._watch))

    async def _watch(self, ctx):
        dut = self.dut
        layouts = dut.beat.shape(), dut.written.shape()
        signals = (
            dut.beat,
            dut.written,
            dut.fetch.valid & dut.fetch.ready,
            dut.completion.valid & dut.completion.ready,
            dut.busy,
            dut.reads_idle,
        )
        open_commands = defaultdict(int)
        async for _, reset, beat, written, fetched, completed, busy, idle in ctx.tick().sample(*signals):
            assert not reset
            assert idle == (busy == 0)
            assert {identifier for identifier, count in open_commands.items() if count} == {
                identifier for identifier in range(IDS) if busy >> identifier & 1
            }
            if beat.valid:
                self.beats.append((self.clock, fields(layouts[0], beat)))
                open_commands[int(beat.id)] -= int(beat.last)
            if written.valid:
                self.written.append((self.clock, fields(layouts[1], written)))
            if fetched:
                self.fetched.append(self.clock)
                open_commands[int(ctx.get(dut.fetch.payload.id))] += 1
            if completed:
                self.completed.append(self.clock)
            self.clock += 1

    async def fetch(self, ctx, commands, gap=0.0):
        """Gives commands, hesitating with that probability in each clock."""
        stream = self.dut.fetch
        for command in commands:
            while self.rng.random() < gap:
                await ctx.tick()
            ctx.set(
                stream.payload,
                {"id": command.identifier, "address": command.address, "beats": command.beats, "window": WINDOW},
            )
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    async def complete(self, ctx, completions, gap=0.0):
        stream = self.dut.completion
        for slot, address, sequence, words in completions:
            while self.rng.random() < gap:
                await ctx.tick()
            ctx.set(
                stream.payload,
                {"slot": slot, "address": address, "window": WINDOW, "sequence": sequence, "words": words},
            )
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    async def settle(self, ctx):
        """Waits until nothing is under way, with what the last clock brought seen."""
        await ctx.tick().until(self.dut.reads_idle & self.dut.writes_idle)
        await ctx.tick()

    def word(self, address):
        offset = address - BASE
        return int.from_bytes(self.contents[offset : offset + 8], "little")

    def random_command(self):
        beats = self.rng.choice((1, 2, 4, 16, self.rng.randint(1, 16)))
        address = BASE + self.rng.randrange(0, SIZE - 0x1000, 128) + 8 * self.rng.randint(0, 16 - beats)
        return Command(self.rng.randrange(IDS), address, beats)

    def random_completion(self, address):
        rng = self.rng
        return rng.getrandbits(SLOT_BITS), address, rng.getrandbits(32), [rng.getrandbits(32) for _ in COMPLETION]


def image(sequence, words):
    """The bytes of a completion entry."""
    return b"".join(word.to_bytes(4, "little") + sequence.to_bytes(4, "little") for word in words)


def expected_beats(bench, commands):
    """By ID what has to come: (data or None, response, last, refused)."""
    expected = defaultdict(deque)
    for command in commands:
        if not command.allowed:
            expected[command.identifier].append((None, OKAY, 1, 1))
            continue
        for number in range(command.beats):
            address = command.address + 8 * number
            response = max([r for first, end, r in bench.memory.errors if first <= address < end], default=OKAY)
            data = bench.word(address) if response == OKAY else None
            expected[command.identifier].append((data, response, int(number + 1 == command.beats), 0))
    return expected


def check_beats(bench, commands):
    expected = expected_beats(bench, commands)
    for clock, beat in bench.beats:
        assert expected[beat["id"]], f"clock {clock}: a beat of ID {beat['id']} that nobody asked for"
        data, *rest = expected[beat["id"]].popleft()
        assert [beat["response"], beat["last"], beat["refused"]] == rest
        assert data in (None, beat["data"])
    missing = {identifier: len(rest) for identifier, rest in expected.items() if rest}
    assert not missing, f"beats missing by ID: {missing}"
    allowed = [(c.identifier, c.address, c.beats) for c in commands if c.allowed]
    assert [(b.identifier, b.address, b.beats) for b in bench.memory.reads] == allowed


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("reorder", [False, True])
def test_reads_and_writes_together(seed, level, reorder):
    """Everything at once: stalls on every channel, latency, errors, refusals, all IDs."""
    bench = Bench(seed)
    rng, memory = bench.rng, bench.memory
    memory.stalls = dict.fromkeys(CHANNELS, level)
    memory.latency = rng.choice((0, 3, 30))
    memory.reorder = reorder
    memory.errors = [(BASE + 0x1000, BASE + 0x1400, SLVERR), (BASE + 0x2200, BASE + 0x2208, DECERR)]
    commands = [bench.random_command() for _ in range(120)]
    # Outside on either side, without beats, across the end of a block; never one that only the memory would refuse.
    for address, beats in ((BASE - 128, 16), (BASE + SIZE - 0x1000, 1), (BASE, 0), (BASE + 64, 9), (BASE + 128, 17)):
        commands.insert(rng.randrange(len(commands)), Command(rng.randrange(IDS), address, beats))
    # Lines that nothing reads, and two that cannot be written.
    completions = [bench.random_completion(BASE + SIZE - 0x1000 - 32 * (n + 1)) for n in range(40)]
    bad_lines = {7: BASE + SIZE - 0x1000, 20: BASE + 0x1020}
    for index, address in bad_lines.items():
        completions.insert(index, bench.random_completion(address))
    memory.errors.append((BASE + SIZE - 0x1000 - 32, BASE + SIZE - 0x1000, SLVERR))
    lines = range(BASE + SIZE - 0x1000 - 32 * 40, BASE + SIZE - 0x1000)
    commands = [c for c in commands if not any(a in lines for a in (c.address, c.address + 8 * c.beats - 8))]

    async def reads(ctx):
        await bench.fetch(ctx, commands, gap=level)
        await bench.settle(ctx)

    async def writes(ctx):
        await bench.complete(ctx, completions, gap=level)
        await bench.settle(ctx)

    bench.run(reads, writes, clocks=60_000)
    check_beats(bench, commands)
    answers = [(w["slot"], w["response"], w["refused"]) for _, w in bench.written]
    expected = []
    for slot, address, sequence, words in completions:
        response = max([r for first, end, r in memory.errors if first <= address < end], default=OKAY)
        refused = address == bad_lines[7]
        expected.append((slot, OKAY if refused else response, int(refused)))
        if not refused:
            line = bytes(bench.contents[address - BASE : address - BASE + 32])
            assert (line == image(sequence, words)) == (response == OKAY)
    assert answers == expected
    assert memory.idle


@pytest.mark.parametrize(("beats", "latency"), [(16, 0), (4, 0), (1, 0), (16, 30), (4, 30)])
def test_a_beat_in_every_clock(seed, beats, latency):
    bench = Bench(seed)
    bench.memory.latency = latency
    commands = [Command(n % IDS, BASE + 128 * n, beats) for n in range(40)]

    async def reads(ctx):
        await bench.fetch(ctx, commands)
        await bench.settle(ctx)

    bench.run(reads, clocks=2000)
    check_beats(bench, commands)
    clocks = [clock for clock, _ in bench.beats]
    # Command to AR 1, AR to R 1 and the latency, R to beat 1.
    assert clocks == list(range(bench.fetched[0] + 3 + latency, bench.fetched[0] + 3 + latency + 40 * beats))


def test_bursts_under_way_are_bounded(seed):
    bench = Bench(seed)
    bench.memory.latency = 200
    commands = [Command(1, BASE + 128 * n, 1) for n in range(40)]

    async def reads(ctx):
        await bench.fetch(ctx, commands)
        await bench.settle(ctx)

    bench.run(reads, clocks=2000)
    check_beats(bench, commands)
    assert bench.memory.most_outstanding == 16


def test_a_refusal_keeps_the_order_of_its_id(seed):
    bench = Bench(seed)
    bench.memory.latency = 20
    commands = [Command(2, BASE, 16), Command(3, BASE + 128, 1), Command(2, BASE + SIZE, 1), Command(2, BASE + 256, 2)]

    async def reads(ctx):
        await bench.fetch(ctx, commands)
        await bench.settle(ctx)

    bench.run(reads, clocks=500)
    check_beats(bench, commands)
    assert [beat["id"] for _, beat in bench.beats] == [2] * 16 + [3] + [2] * 3


def test_latency_and_throughput_of_completions(seed):
    bench = Bench(seed)
    completions = [bench.random_completion(BASE + 32 * n) for n in range(20)]

    async def writes(ctx):
        await bench.complete(ctx, completions)
        await bench.settle(ctx)

    bench.run(writes, clocks=500)
    first = bench.completed[0]
    assert bench.completed == [first + 5 * n for n in range(20)]
    # AW 1 clock after the command, last W 4, B 1 after it, `written` 1 after that.
    assert [burst.taken for burst in bench.memory.writes] == [clock + 1 for clock in bench.completed]
    assert [clock for clock, _, _ in bench.memory.write_answers] == [clock + 5 for clock in bench.completed]
    assert [clock for clock, _ in bench.written] == [clock + 6 for clock in bench.completed]


def test_completions_await_their_answers_together(seed):
    """A slow B holds nothing up until eight are awaited."""
    bench = Bench(seed)
    bench.memory.latency = 60
    completions = [bench.random_completion(BASE + 32 * n) for n in range(12)]

    async def writes(ctx):
        await bench.complete(ctx, completions)
        await bench.settle(ctx)

    bench.run(writes, clocks=1000)
    assert bench.completed[7] == bench.completed[0] + 35
    assert bench.completed[8] > bench.memory.write_answers[0][0]


def test_a_completion_across_two_lines_is_refused(seed):
    bench = Bench(seed)
    before = bytes(bench.contents)

    async def writes(ctx):
        await bench.complete(ctx, [bench.random_completion(BASE + offset) for offset in (8, 16, 24)])
        await bench.settle(ctx)

    bench.run(writes, clocks=200)
    assert [written["refused"] for _, written in bench.written] == [1, 1, 1]
    assert bytes(bench.contents) == before
    assert not bench.memory.writes


def test_hold_drains_and_keeps_idle(seed):
    bench = Bench(seed)
    dut, memory = bench.dut, bench.memory
    memory.latency = 10
    memory.stalls["ar"] = memory.stalls["aw"] = 0.8

    async def reads(ctx):
        await bench.fetch(ctx, [Command(n % IDS, BASE + 128 * n, 16) for n in range(30)])

    async def writes(ctx):
        await bench.complete(ctx, [bench.random_completion(BASE + 32 * n) for n in range(30)])

    async def control(ctx):
        for _ in range(4):
            await ctx.tick().repeat(25)
            ctx.set(dut.hold_reads, 1)
            ctx.set(dut.hold_writes, 1)
            await ctx.tick()
            taken = len(bench.fetched), len(bench.completed)
            await ctx.tick().until(dut.reads_idle & dut.writes_idle)
            for _ in range(20):
                await ctx.tick()
                assert ctx.get(dut.reads_idle & dut.writes_idle)
                assert not ctx.get(dut.bus.arvalid | dut.bus.awvalid | dut.bus.wvalid)
            assert memory.idle
            assert (len(bench.fetched), len(bench.completed)) == taken
            ctx.set(dut.hold_reads, 0)
            ctx.set(dut.hold_writes, 0)
        await ctx.tick().until(dut.reads_idle & dut.writes_idle & ~dut.fetch.valid & ~dut.completion.valid)
        await ctx.tick()

    bench.run(reads, writes, control, clocks=5000)
    assert (len(bench.fetched), len(bench.completed), len(bench.written)) == (30, 30, 30)


def test_the_other_port(seed):
    """Attributes of HP0, which the memory expects of every burst."""
    bench = Bench(seed, HP)
    commands = [bench.random_command() for _ in range(10)]

    async def reads(ctx):
        await bench.fetch(ctx, commands)
        await bench.complete(ctx, [bench.random_completion(BASE)])
        await bench.settle(ctx)

    bench.run(reads, clocks=1000)
    assert len(bench.memory.writes) == 1
    bench.contents[:32] = bytes(32)
    assert not hasattr(bench.dut.bus, "aruser")


@pytest.mark.parametrize("ids", [0, 9])
def test_ids_that_the_port_does_not_have(ids):
    with pytest.raises(ValueError, match=f"ids must be 1 to 8 for a port with 3-bit IDs, not {ids}"):
        MemoryMaster(slot_bits=SLOT_BITS, ids=ids)

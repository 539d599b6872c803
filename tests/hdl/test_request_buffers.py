"""Request buffers and their reader: logs at any place come out as keys in their order, whatever memory does."""

import dataclasses
import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import ErrorCode
from bloomgate_hdl.key_reader import Pass
from bloomgate_hdl.request_buffers import RequestBuffers
from bloomgate_hdl.validation_pipeline import KeyOperation

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(K=1, D=16, slots=2, aperture_depth=4, request_buffers=2, buffer_depth=64)
CHUNK = PARAMETERS.buffer_depth
BASE = 0x1000_0000
MAX_BEATS = 16


def key_at(address):
    """What memory holds: a key that tells its address."""
    return (address * 0x9E37_79B1) & 0xFFFF_FFFF


def keys_of(log):
    return [key_at(log["address"] + 4 * number) for number in range(log["count"])]


def order(reads=(0, 0), writes=(0, 0), commutes=(0, 0), **more):
    """Logs as (offset, keys)."""
    logs = {"reads": reads, "writes": writes, "commutes": commutes}
    logs = {name: {"address": BASE + offset, "count": count} for name, (offset, count) in logs.items()}
    return {**logs, "too_many": writes[1] + commutes[1] > CHUNK, **more}


def checked(order, chunk):
    """The order as DescriptorCheck says it, with beats in place of keys."""
    made = {name: value for name, value in order.items() if name not in ("reads", "writes", "commutes")}
    for name in ("reads", "writes", "commutes"):
        log = order[name]
        count, lane = log["count"], log["address"] // 4 % 2
        made["has_" + name] = count > 0
        beats = (count + lane + 1) // 2 if count else 0
        if name == "reads":
            last_chunk = max(0, count - 1) // chunk
            odd = (count + lane) % 2
            made[name] = {"address": log["address"], "beats": beats, "last_chunk": last_chunk, "odd": odd}
            made[name]["long"] = last_chunk > 0
        else:
            made[name] = {**log, "beats": beats} if count <= chunk else {"address": log["address"]}
    return {**made, "many_reads": order["reads"]["count"] >= 128}


class Memory:
    """Answers commands, each ID in its order, with any latency and pauses, and checks their form."""

    def __init__(self, rng, dut, *, pace=1.0, latency=0):
        self.rng, self.dut, self.pace, self.latency = rng, dut, pace, latency
        self.queues = {number + 1: [] for number in range(PARAMETERS.request_buffers)}
        self.fails = set()
        #: The slots of the orders, and where their logs begin and end, in whole beats.
        self.logs = []
        self.clock = 0

    def take(self, command, slot):
        address, beats = command.address, command.beats
        assert address % 8 == 0
        assert 1 <= beats <= MAX_BEATS
        assert address // 128 == (address + 8 * beats - 1) // 128, "a burst leaves its 128 bytes"
        inside = any(
            owner == slot and start <= address and address + 8 * beats <= end for owner, start, end in self.logs
        )
        assert inside, "a burst leaves its log, or another slot is said to read it"
        for number in range(beats):
            due = self.clock + 1 + self.latency
            self.queues[int(command.id)].append((due, address + 8 * number, number == beats - 1))


class Bench:
    """Drives all ports clock by clock and collects the beats of the pipeline."""

    def __init__(self, ctx, dut, memory, stall=0.0):
        self.ctx, self.dut, self.memory, self.stall = ctx, dut, memory, stall
        self.rng = memory.rng
        self.beats = []
        #: The pipeline is somebody else's where nobody has asked for it a clock cycle ago.
        self.on_demand = False
        self._wanted = False

    async def tick(self, **strobes):
        ctx, dut, memory = self.ctx, self.dut, self.memory
        ready = self._wanted if self.on_demand else self.rng.random() >= self.stall
        drive(ctx, dut, pipeline_ready=ready, **strobes)
        drive(ctx, dut.fetch, ready=self.rng.random() < memory.pace)
        ctx.set(dut.busy, sum(1 << number for number, queue in memory.queues.items() if queue))
        due = [number for number, queue in memory.queues.items() if queue and queue[0][0] <= memory.clock]
        beat = {"valid": 0, "id": 1, "data": 0xBAD0_BAD0_BAD0_BAD0, "last": 0, "response": 0, "refused": 0}
        answered = None
        if due and self.rng.random() < memory.pace:
            answered = self.rng.choice(due)
            _, address, last = memory.queues[answered][0]
            data = key_at(address) | key_at(address + 4) << 32
            response = 2 if address in memory.fails else 0
            beat = {"valid": 1, "id": answered, "data": data, "last": last, "response": response, "refused": 0}
        ctx.set(dut.beat, beat)
        if ctx.get(dut.fetch.valid) and ctx.get(dut.fetch.ready):
            memory.take(ctx.get(dut.fetch.payload), ctx.get(dut.fetch_slot))
        if ready:
            entering = ctx.get(dut.keys)
            lanes = [
                (lane.operation, int(lane.key), int(lane.key_bad))
                for lane in entering.lanes
                if lane.operation != KeyOperation.NONE
            ]
            if lanes or entering.last:
                self.beats.append((lanes, int(entering.last)))
        corrupts = ctx.get(dut.corrupts)
        self._wanted = ctx.get(dut.wants)
        await ctx.tick()
        drive(ctx, dut, **dict.fromkeys(strobes, 0))
        if corrupts:
            drive(ctx, dut, corrupt=0)  # once is enough, as the top level has it
        if answered is not None:
            memory.queues[answered].pop(0)
        memory.clock += 1

    async def load(self, order, chunk=CHUNK):
        slot = self.rng.randrange(PARAMETERS.slots)
        self.ctx.set(self.dut.order, {"header": {"slot": slot}, **checked(order, chunk)})
        if not self.ctx.get(self.dut.active):
            self.memory.logs.clear()
        for log in (order["reads"], order["writes"], order["commutes"]):
            start, end = log["address"], log["address"] + 4 * log["count"]
            self.memory.logs.append((slot, start // 8 * 8, -(-end // 8) * 8))
        while not self.ctx.get(self.dut.ready):
            await self.tick()
        await self.tick(valid=1)

    async def serviceable(self):
        while not self.ctx.get(self.dut.serviceable):
            await self.tick()

    async def run_pass(self, which):
        """One pass; returns its keys, with the operation and whether each is bad."""
        self.beats.clear()
        await self.tick(start=1, start_pass=which)
        if which is Pass.INSERT:
            while not self.ctx.get(self.dut.ending):
                await self.tick()
            self.stall, stall = 0, self.stall
            for _ in range(3):
                await self.tick()
            self.stall = stall
            assert not any(last for _, last in self.beats)
        else:
            while not (self.beats and self.beats[-1][1]):
                await self.tick()
        return [lane for lanes, _ in self.beats for lane in lanes]


def good(operation, keys):
    return [(operation, key, 0) for key in keys]


@pytest.mark.parametrize("pace", [1.0, 0.1])
def test_a_pass_asks_for_the_pipeline_whenever_it_needs_it(pace, seed):
    """Else whoever announces would keep it: the reader must move before it has a beat."""
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        memory = Memory(random.Random(seed), dut, pace=pace, latency=5)
        bench = Bench(ctx, dut, memory)
        bench.on_demand = True
        logs = order(reads=(0, 40), writes=(0x400, 5), commutes=(0x800, 6))
        await bench.load(logs)
        await bench.serviceable()
        await bench.tick(second=0)
        assert await bench.run_pass(Pass.VALIDATE) == good(KeyOperation.QUERY, keys_of(logs["reads"]))
        keys = keys_of(logs["writes"]) + keys_of(logs["commutes"])
        assert await bench.run_pass(Pass.CHECK) == good(KeyOperation.CHECK, keys)
        assert await bench.run_pass(Pass.INSERT) == good(KeyOperation.INSERT, keys)
        for _ in range(20):
            await bench.tick()
            assert not ctx.get(dut.wants)

    simulate(dut, run, clocks=3000)


@pytest.mark.parametrize("pace", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_logs_at_every_place_come_out_in_order(pace, stall, seed):
    rng = random.Random(seed)
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        memory = Memory(rng, dut, pace=pace, latency=rng.choice((0, 5, 20)))
        bench = Bench(ctx, dut, memory, stall)
        counts = (0, 1, 2, 3, 15, 16, 31, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7)
        for _ in range(12 if pace > 0.2 else 4):
            writes = rng.choice((0, 0, 1, 2, 9, 30))
            commutes = rng.choice((0, 0, 1, 3, CHUNK - writes))
            request = order(
                *((4 * rng.randrange(200), count) for count in (rng.choice(counts), writes, commutes)),
            )
            await bench.load(request)
            await bench.serviceable()
            asked = ctx.get(dut.request)
            assert asked.insert_count == writes + commutes
            assert asked.writes == (writes + commutes > 0)
            reads = keys_of(request["reads"])
            chunks = [reads[start : start + CHUNK] for start in range(0, len(reads), CHUNK)] or [[]]
            assert asked.long == (len(chunks) > 1)
            # Now and then a pass is repeated: a chunk that is repaired, or all of them.
            rewinds = rng.choice((0, 0, 1)) if len(chunks) > 1 else 0
            for number in [*range(len(chunks))] * (1 + rewinds):
                await bench.serviceable()
                asked = ctx.get(dut.request)
                assert (asked.first, asked.final) == (number == 0, number == len(chunks) - 1)
                assert await bench.run_pass(Pass.VALIDATE) == good(KeyOperation.QUERY, chunks[number])
                if rng.random() < 0.3:
                    assert await bench.run_pass(Pass.REPAIR) == good(KeyOperation.REPAIR, chunks[number])
                if number < len(chunks) - 1:
                    await bench.tick(next_chunk=1, rotate=1)
                elif rewinds:
                    rewinds = 0
                    await bench.tick(again=1)
            await bench.tick(decided=1)
            inserted = await bench.run_pass(Pass.INSERT) if writes + commutes else []
            expected = keys_of(request["writes"]) + keys_of(request["commutes"])
            assert inserted == good(KeyOperation.INSERT, expected)
            await bench.tick(release=1)
            assert ctx.get(dut.parity_errors) == 0
        while ctx.get(dut.active):
            await bench.tick()

    simulate(dut, run, clocks=60_000)


def test_a_chunk_that_is_read_again_is_fetched_to_its_end_and_no_further():
    """Of many chunks the last one, so that what is left of the log becomes little at once."""
    dut = RequestBuffers(PARAMETERS)
    request = order(reads=(0, 4 * CHUNK + 10))
    chunks = [keys_of(request["reads"])[start : start + CHUNK] for start in range(0, 4 * CHUNK + 10, CHUNK)]

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut))
        await bench.load(request)
        for number, keys in enumerate(chunks):
            await bench.serviceable()
            assert await bench.run_pass(Pass.VALIDATE) == good(KeyOperation.QUERY, keys)
            if number < len(chunks) - 1:
                await bench.tick(next_chunk=1)
        for _ in range(2):
            assert await bench.run_pass(Pass.REPAIR) == good(KeyOperation.REPAIR, chunks[-1])
        await bench.tick(decided=1, release=1)

    simulate(dut, run, clocks=2_000)


def test_a_request_that_is_cut_as_it_begins_anew_begins_with_its_first_chunk():
    dut = RequestBuffers(PARAMETERS)
    request = order(reads=(0, 2 * CHUNK))

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut))
        await bench.load(request)
        await bench.serviceable()
        await bench.run_pass(Pass.VALIDATE)
        await bench.tick(next_chunk=1)
        await bench.serviceable()
        await bench.run_pass(Pass.VALIDATE)
        await bench.tick(again=1, reset=1)
        await bench.serviceable()
        asked = ctx.get(dut.request)
        assert (asked.first, asked.final) == (1, 0)

    simulate(dut, run, clocks=1_000)


def test_a_key_is_in_the_pipeline_in_the_clock_cycle_in_which_it_arrives():
    latency = 3
    parameters = dataclasses.replace(PARAMETERS, buffer_depth=512)  # its ring holds more than a burst
    dut = RequestBuffers(parameters)
    request = order(reads=(0, parameters.buffer_depth))

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut, latency=latency))
        await bench.load(request, parameters.buffer_depth)
        assert ctx.get(dut.fetch.valid), "a clock cycle after the order"
        start = bench.memory.clock
        await bench.tick()
        assert ctx.get(dut.expected)
        assert await bench.run_pass(Pass.VALIDATE) == good(KeyOperation.QUERY, keys_of(request["reads"]))
        # The first command is taken in the first clock cycle, and the beats follow each other, with two keys each.
        assert bench.memory.clock - start == 1 + latency + parameters.buffer_depth // 2
        await bench.tick(decided=1, release=1)

    simulate(dut, run, clocks=600)


@pytest.mark.parametrize("log", ["writes", "commutes", "reads"])
@pytest.mark.parametrize("lane", [0, 1])
def test_a_bad_key_is_found(log, lane):
    """The next key that is stored, in whichever lane it lies; of the write and commute logs, before the decision."""
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut))
        request = order(**{log: (4 * lane, 5)})
        drive(ctx, dut, corrupt=1)
        await bench.load(request)
        await bench.serviceable()
        validated = await bench.run_pass(Pass.VALIDATE)
        first = keys_of(request[log])[0]
        check = ctx.get(dut.findings.check)
        if log == "reads":
            assert [key for key in validated if key[2]] == [(KeyOperation.QUERY, first, 1)]
        else:
            assert check.bad
            assert check.key == first

    simulate(dut, run, clocks=300)


def test_more_keys_than_are_inserted_are_not_fetched():
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut))
        await bench.load(order(reads=(0, 2), writes=(64, CHUNK), commutes=(1024, 1)))
        await bench.serviceable()
        asked = ctx.get(dut.request)
        assert (asked.writes, asked.raises_floor, asked.insert_count) == (1, 1, 0)
        assert len(await bench.run_pass(Pass.VALIDATE)) == 2
        await bench.tick(decided=1, release=1)

    simulate(dut, run, clocks=300)


@pytest.mark.parametrize(("log", "beat"), [("reads", 0), ("reads", 30), ("writes", 0), ("writes", 3), ("commutes", 2)])
def test_a_failed_beat_ends_the_request_and_is_named(log, beat, seed):
    rng = random.Random(seed)
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        memory = Memory(rng, dut, pace=0.7, latency=3)
        bench = Bench(ctx, dut, memory)
        offsets = {"writes": 0x100, "commutes": 0x400, "reads": 0x800}
        request = order(**{name: (offset, 40 if name == "reads" else 9) for name, offset in offsets.items()})
        if beat > 20:
            request["reads"]["count"] = 150
        memory.fails = {BASE + offsets[log] + 8 * beat}
        await bench.load(request)
        # Until there is nothing to wait for: chunk after chunk, and the last one ends before its time.
        while True:
            await bench.serviceable()
            await bench.run_pass(Pass.VALIDATE)
            if ctx.get(dut.findings.bus_error):
                break
            await bench.tick(next_chunk=1, rotate=1)
        fault = ctx.get(dut.findings.fault)
        assert (fault.code, fault.detail) == (ErrorCode.FETCH_ERROR, BASE + offsets[log] + 8 * beat)
        await bench.tick(decided=1, release=1)
        while ctx.get(dut.active):
            await bench.tick()
        # The next request is not touched by what still came.
        memory.fails = set()
        await bench.load(order(reads=(4, 3)))
        await bench.serviceable()
        keys = keys_of(order(reads=(4, 3))["reads"])
        assert await bench.run_pass(Pass.VALIDATE) == good(KeyOperation.QUERY, keys)
        assert not ctx.get(dut.findings.bus_error)

    simulate(dut, run, clocks=3000)


def test_a_reset_cuts_every_request_short():
    dut = RequestBuffers(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut, Memory(random.Random(1), dut, latency=10))
        for _ in range(2):
            await bench.load(order(reads=(0, 3 * CHUNK), writes=(0, 3)))
        await bench.tick(reset=1)
        for _ in range(2):
            await bench.serviceable()
            await bench.run_pass(Pass.VALIDATE)
            assert ctx.get(dut.findings.reset)
            await bench.tick(decided=1, release=1)
        while ctx.get(dut.active):
            await bench.tick()
        assert not any(bench.memory.queues.values()), "free before memory has answered"

    simulate(dut, run, clocks=600)

"""The log follower against plain lists: each key of each log once, in order, and none of a transaction that is over."""

import random

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.log_follower import LogFollower
from bloomgate_hdl.memory_port import MAX_BEATS

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(slots=3, aperture_depth=128, D=16)
BLOCK_BEATS = MAX_BEATS


class Log:
    """What one slot has announced, and what of it has come."""

    def __init__(self):
        self.transaction = 0
        self.in_flight = False
        self.tail = 0
        self.keys = 0


class Bench:
    """Pages, fetcher and memory around a follower. A key says whose it is: slot, transaction, place in the log."""

    def __init__(self, rng, latency=0):
        self.rng = rng
        self.dut = LogFollower(PARAMETERS)
        self.logs = [Log() for _ in range(PARAMETERS.slots)]
        self.latency = latency
        #: Beats on their way: (clock cycle of arrival, word, failed).
        self.coming = []
        self.clock = 0
        #: The bursts under way are of this slot and transaction, and behind this key of the log they end.
        self.fetched_for = None
        self.stop = 0
        #: Bursts that were asked for while another was under way.
        self.followed = 0
        self.failing = 0.0
        self.lost = set()

    def word(self, slot, beat):
        """The beat of the slot's log as it is now."""
        log = self.logs[slot]
        keys = [(slot + 1) << 28 | (log.transaction & 0xFFF) << 12 | beat * LANES + lane for lane in range(LANES)]
        return sum(key << 32 * lane for lane, key in enumerate(keys))

    async def step(self, ctx, *, bus=None, accept=True, ready=True, allowed=-1):
        """One clock cycle, with ``bus`` (begin, advance or drop; slot; tail)."""
        dut, logs = self.dut, self.logs
        drive(ctx, dut.log, begin=0, advance=0, drop=0, key_ready=ready)
        # A slot is in flight until its verdict, and the page wants no more from SUBMIT on.
        ctx.set(dut.allowed, allowed & sum((log.transaction > 0) << slot for slot, log in enumerate(logs)))
        if bus is not None:
            what, slot, tail = bus
            drive(ctx, dut.log, slot=slot, tail=tail, **{what: 1})
        # What memory answers.
        arrives = bool(self.coming) and self.coming[0][0] <= self.clock
        drive(ctx, dut.fetch, beat_valid=arrives)
        if arrives:
            _, word, failed = self.coming.pop(0)
            drive(ctx, dut, beat=word)
            drive(ctx, dut.fetch, beat_failed=failed)
        # What the fetcher does.
        due, slot = ctx.get(dut.fetch.due), ctx.get(dut.fetch.slot)
        fetched = bool(due and accept and ctx.get(dut.fetch.beats))
        drive(ctx, dut.fetch, fetched=fetched)
        if due:
            assert logs[slot].in_flight
            assert allowed >> slot & 1
            first, beats = ctx.get(dut.fetch.first), ctx.get(dut.fetch.beats)
            follows = bool(ctx.get(dut.busy))
            start = self.stop if follows else logs[slot].keys
            assert first == start // LANES
            assert 1 <= beats <= BLOCK_BEATS - first % BLOCK_BEATS
            # No more than is there.
            assert (first + beats - 1) * LANES < logs[slot].tail
        if fetched:
            # A burst that follows is of the same transaction, and all that was not handed on has room.
            assert not follows or self.fetched_for == (slot, logs[slot].transaction)
            assert follows or not self.coming
            assert first + beats - logs[slot].keys // LANES <= 2 * BLOCK_BEATS
            self.followed += follows
            self.fetched_for = slot, logs[slot].transaction
            self.stop = min(logs[slot].tail, (first + beats) * LANES)
            at = max([self.clock + 1 + self.latency, *(came + 1 for came, *_ in self.coming[-1:])])
            for beat in range(first, first + beats):
                at += self.rng.random() < 0.3
                failed = self.rng.random() < self.failing
                word = 0 if failed else self.word(slot, beat)
                self.coming.append((at, word, failed))
                at += 1
        # What reaches the page.
        if ctx.get(dut.log.key_valid):
            slot = ctx.get(dut.log.key_slot)
            log = logs[slot]
            assert (slot, log.transaction) == self.fetched_for, "a key of a transaction that is over"
            assert log.in_flight
            assert bus is None or bus[:2] != ("drop", slot), "a key that its page takes behind the end"
            if ctx.get(dut.log.key_lost):
                if ready:
                    self.lost.add((slot, log.transaction))
                    log.keys = self.stop
            else:
                assert log.keys < log.tail
                assert ctx.get(dut.log.key) == (slot + 1) << 28 | (log.transaction & 0xFFF) << 12 | log.keys
                log.keys += ready
        # What a client sees: ``behind`` may end late, never early.
        looked_at = self.rng.randrange(len(logs))
        ctx.set(dut.log.look_slot, looked_at)
        for where, shows in ((looked_at, dut.log.look_behind), (ctx.get(dut.log.slot), dut.log.behind)):
            log = logs[where]
            if log.in_flight and log.keys < log.tail and not ctx.get(dut.log.key_valid):
                assert ctx.get(shows), f"slot {where} is behind"
        if bus is not None:
            what, slot, tail = bus
            log = logs[slot]
            if what == "begin":
                log.in_flight, log.tail, log.keys = True, 0, 0
                log.transaction += 1
            elif what == "advance":
                log.tail = tail
            else:
                log.in_flight = False
        await ctx.tick()
        self.clock += 1

    async def catch_up(self, ctx, most=2000):
        """Until everything has come, and is known to have; of slots that could not fetch before, too."""
        for _ in range(2 * len(self.logs)):
            await self.step(ctx)
        for _ in range(most):
            if ctx.get(self.dut.settled):
                break
            await self.step(ctx)
        assert ctx.get(self.dut.settled)
        for slot, log in enumerate(self.logs):
            if log.in_flight:
                assert log.keys == log.tail
                ctx.set(self.dut.log.look_slot, slot)
                assert not ctx.get(self.dut.log.look_behind)


@pytest.mark.parametrize("latency", [0, 7, 40])
@pytest.mark.parametrize("failing", [0.0, 0.02])
def test_every_key_once_and_in_order(latency, failing, seed):
    rng = random.Random(seed)
    bench = Bench(rng, latency)
    bench.failing = failing

    async def run(ctx):
        for _ in range(3000):
            slot = rng.randrange(PARAMETERS.slots)
            log, bus = bench.logs[slot], None
            chance = rng.random()
            if chance < 0.05:
                if not log.in_flight:
                    bus = ("begin", slot, 0)
                elif rng.random() < 0.2:
                    bus = ("drop", slot, 0)
                elif log.tail < PARAMETERS.aperture_depth:
                    most = min(PARAMETERS.aperture_depth, log.tail + rng.choice((1, 2, 5, 40)))
                    bus = ("advance", slot, rng.randrange(log.tail, most + 1))
            allowed = rng.choice((-1, -1, -1, 0, 0b101))
            await bench.step(ctx, bus=bus, accept=rng.random() < 0.5, ready=rng.random() < 0.7, allowed=allowed)
        await bench.catch_up(ctx)

    simulate(bench.dut, run, clocks=6000)
    assert failing or not bench.lost
    assert bench.followed


@pytest.mark.parametrize("latency", [0, 10, 30])
def test_a_whole_log_comes_at_a_key_a_clock_cycle_but_for_the_way_to_memory(latency):
    bench = Bench(random.Random(0), latency)

    async def run(ctx):
        bench.rng.random = lambda: 1.0  # memory does not pause
        await bench.step(ctx, bus=("begin", 1, 0))
        await bench.step(ctx, bus=("advance", 1, PARAMETERS.aperture_depth))
        before = bench.clock
        while bench.logs[1].keys < PARAMETERS.aperture_depth:
            await bench.step(ctx)
        assert bench.clock - before <= PARAMETERS.aperture_depth + PARAMETERS.slots + latency + 4

    simulate(bench.dut, run, clocks=1000)


@pytest.mark.parametrize("keys", [50, PARAMETERS.aperture_depth])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_comes_behind_the_end_is_dropped_and_the_next_transaction_begins_at_the_front(keys, at_once):
    bench = Bench(random.Random(1), latency=20)

    async def run(ctx):
        await bench.step(ctx, bus=("begin", 2, 0))
        await bench.step(ctx, bus=("advance", 2, keys))
        while not bench.coming:
            await bench.step(ctx)
        await bench.step(ctx, bus=("drop", 2, 0), accept=False)
        # What follows is not asked for any more: `step` sees to that.
        for _ in range(0 if at_once else 100):
            await bench.step(ctx)
        await bench.step(ctx, bus=("begin", 2, 0))
        await bench.step(ctx, bus=("advance", 2, 3))
        await bench.catch_up(ctx)
        assert bench.logs[2].keys == 3

    simulate(bench.dut, run, clocks=1000)


def test_a_burst_that_is_asked_for_as_its_transaction_ends_is_waited_for():
    """All beats before it have come, so only what is asked for at that moment keeps the follower busy."""
    bench = Bench(random.Random(1), latency=20)

    async def run(ctx):
        await bench.step(ctx, bus=("begin", 0, 0))
        await bench.step(ctx, bus=("advance", 0, PARAMETERS.aperture_depth))
        while not bench.coming:
            await bench.step(ctx)
        while bench.coming:
            await bench.step(ctx, accept=False, ready=False)
        while not ctx.get(bench.dut.fetch.due):
            await bench.step(ctx, accept=False)
        await bench.step(ctx, bus=("drop", 0, 0))
        assert bench.coming
        while bench.coming:
            assert ctx.get(bench.dut.busy)
            await bench.step(ctx)
        while ctx.get(bench.dut.busy):
            await bench.step(ctx)

    simulate(bench.dut, run, clocks=500)


@pytest.mark.parametrize("clocks", range(12))
def test_another_transaction_may_begin_when_a_burst_ends(clocks):
    bench = Bench(random.Random(3))

    async def run(ctx):
        await bench.step(ctx, bus=("begin", 0, 0))
        await bench.step(ctx, bus=("advance", 0, 3))
        for _ in range(clocks):
            await bench.step(ctx)
        await bench.step(ctx, bus=("begin", 1, 0))
        await bench.step(ctx, bus=("advance", 1, 2))
        await bench.catch_up(ctx)
        assert [log.keys for log in bench.logs] == [3, 2, 0]

    simulate(bench.dut, run, clocks=200)


def test_a_slot_that_may_not_fetch_stays_behind_until_its_transaction_ends():
    bench = Bench(random.Random(2))

    async def run(ctx):
        await bench.step(ctx, bus=("begin", 0, 0))
        await bench.step(ctx, bus=("advance", 0, 4))
        for _ in range(50):
            await bench.step(ctx, allowed=0)
        ctx.set(bench.dut.log.look_slot, 0)
        assert ctx.get(bench.dut.log.look_behind)
        await bench.step(ctx, bus=("drop", 0, 0), allowed=0)
        assert not ctx.get(bench.dut.log.look_behind)
        assert bench.logs[0].keys == 0

    simulate(bench.dut, run, clocks=200)

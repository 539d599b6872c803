"""Where nothing is, every burst ends, and ends with DECERR."""

import random

import pytest
from bloomgate_hdl.platform.decerr_responder import DecerrResponder

from tests.hdl.simulation import drive, simulate

DECERR = 3
PAUSES = (0, 0.5, 0.9)


async def pause(ctx, rng, probability):
    while rng.random() < probability:
        await ctx.tick()


async def send(ctx, valid, ready):
    """Holds a valid until it is taken."""
    ctx.set(valid, 1)
    while not ctx.get(ready):
        await ctx.tick()
    await ctx.tick()
    ctx.set(valid, 0)


@pytest.mark.parametrize("busy", PAUSES)
def test_every_read_burst_has_its_beats(busy, seed):
    rng = random.Random(seed)
    dut = DecerrResponder()
    bursts = [(rng.getrandbits(12), rng.randrange(16)) for _ in range(30)]

    async def addresses(ctx):
        for identifier, length in bursts:
            await pause(ctx, rng, busy)
            drive(ctx, dut.bus, arid=identifier, araddr=rng.getrandbits(32), arlen=length)
            await send(ctx, dut.bus.arvalid, dut.bus.arready)

    async def beats(ctx):
        for identifier, length in bursts:
            for beat in range(length + 1):
                await pause(ctx, rng, busy)
                ctx.set(dut.bus.rready, 1)
                while not ctx.get(dut.bus.rvalid):
                    await ctx.tick()
                assert ctx.get(dut.bus.rid) == identifier
                assert ctx.get(dut.bus.rresp) == DECERR
                assert ctx.get(dut.bus.rdata) == 0
                assert ctx.get(dut.bus.rlast) == (beat == length)
                await ctx.tick()
                ctx.set(dut.bus.rready, 0)
        # Nothing is left over.
        for _ in range(20):
            assert not ctx.get(dut.bus.rvalid)
            await ctx.tick()

    simulate(dut, addresses, beats, clocks=20_000)


@pytest.mark.parametrize("busy", PAUSES)
@pytest.mark.parametrize("data_first", [False, True])
def test_every_write_burst_has_one_answer(busy, data_first, seed):
    rng = random.Random(seed)
    dut = DecerrResponder()
    bursts = [(rng.getrandbits(12), rng.randrange(16)) for _ in range(30)]

    async def addresses(ctx):
        if data_first:
            await ctx.tick().repeat(40)
        for identifier, length in bursts:
            await pause(ctx, rng, busy)
            drive(ctx, dut.bus, awid=identifier, awaddr=rng.getrandbits(32), awlen=length)
            await send(ctx, dut.bus.awvalid, dut.bus.awready)

    completed = 0

    async def data(ctx):
        nonlocal completed
        for identifier, length in bursts:
            for beat in range(length + 1):
                await pause(ctx, rng, busy)
                drive(ctx, dut.bus, wid=identifier, wdata=rng.getrandbits(32), wstrb=15, wlast=beat == length)
                await send(ctx, dut.bus.wvalid, dut.bus.wready)
            completed += 1

    async def answers(ctx):
        for number, (identifier, _) in enumerate(bursts):
            await pause(ctx, rng, busy)
            ctx.set(dut.bus.bready, 1)
            while not ctx.get(dut.bus.bvalid):
                await ctx.tick()
            assert completed > number, "answered before the last beat of the burst"
            assert (ctx.get(dut.bus.bid), ctx.get(dut.bus.bresp)) == (identifier, DECERR)
            await ctx.tick()
            ctx.set(dut.bus.bready, 0)
        for _ in range(20):
            assert not ctx.get(dut.bus.bvalid)
            await ctx.tick()

    simulate(dut, addresses, data, answers, clocks=30_000)


def test_data_waits_for_addresses_only_when_fifteen_bursts_are_ahead():
    dut = DecerrResponder()

    async def bench(ctx):
        await ctx.tick().repeat(2)
        drive(ctx, dut.bus, wvalid=1, wlast=1)
        taken = 0
        for _ in range(40):
            taken += ctx.get(dut.bus.wready)
            await ctx.tick()
        assert taken == 15
        drive(ctx, dut.bus, wvalid=0, awvalid=1, bready=1)
        answers = 0
        for _ in range(100):
            answers += ctx.get(dut.bus.bvalid)
            await ctx.tick()
        assert answers == 15

    simulate(dut, bench, clocks=300)


def test_reads_do_not_wait_for_a_stuck_write():
    dut = DecerrResponder()

    async def bench(ctx):
        await ctx.tick().repeat(2)
        # An address whose data never comes.
        ctx.set(dut.bus.awvalid, 1)
        await ctx.tick().repeat(5)
        drive(ctx, dut.bus, arvalid=1, rready=1)
        for _ in range(5):
            await ctx.tick()
            if ctx.get(dut.bus.rvalid):
                return
        raise AssertionError("no answer to a read of one beat")

    simulate(dut, bench, clocks=100)

"""Epoch, count and floor against their definition in Python."""

import random

import pytest
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate_hdl.timestamp_counter import TimestampCounter

from tests.hdl.simulation import drive, simulate

LAST_EPOCH = (1 << EPOCH_BITS) - 1
OUTPUTS = ("epoch", "count", "full", "previous_epoch", "previous_count", "floor", "exhausted")


def outputs(ctx, dut):
    return {name: ctx.get(getattr(dut, name)) for name in OUTPUTS}


async def strobe(ctx, dut, *names, least_epoch=0):
    drive(ctx, dut, least_epoch=least_epoch, **dict.fromkeys(names, 1))
    await ctx.tick()
    drive(ctx, dut, **dict.fromkeys(names, 0))


def test_reset_state():
    dut = TimestampCounter(Parameters(timestamp_bits=4))

    async def bench(ctx):
        assert outputs(ctx, dut) == dict.fromkeys(OUTPUTS, 0)

    simulate(dut, bench, clocks=10)


@pytest.mark.parametrize("bits", [2, 5])
def test_full_after_the_last_count(bits):
    dut = TimestampCounter(Parameters(timestamp_bits=bits))

    async def bench(ctx):
        for count in range(1, 1 << bits):
            assert not ctx.get(dut.full)
            await strobe(ctx, dut, "assign")
            assert ctx.get(dut.count) == count
        assert ctx.get(dut.full)
        await strobe(ctx, dut, "step")
        assert outputs(ctx, dut) == dict.fromkeys(OUTPUTS, 0) | {"epoch": 1, "previous_count": (1 << bits) - 1}

    simulate(dut, bench, clocks=100)


def test_floor_beside_assign_takes_the_count_before_it():
    dut = TimestampCounter(Parameters(timestamp_bits=8))

    async def bench(ctx):
        await strobe(ctx, dut, "assign")
        await strobe(ctx, dut, "assign", "raise_floor")
        assert (ctx.get(dut.count), ctx.get(dut.floor)) == (2, 1)
        await strobe(ctx, dut, "raise_floor")
        assert ctx.get(dut.floor) == 2

    simulate(dut, bench, clocks=100)


@pytest.mark.parametrize("least", [0, 6, 7, 8, 9, 0x8000_0000, LAST_EPOCH])
def test_step_goes_to_least_epoch_if_that_is_further(least):
    dut = TimestampCounter(Parameters(timestamp_bits=8))

    async def bench(ctx):
        await strobe(ctx, dut, "step", least_epoch=7)
        await strobe(ctx, dut, "assign")
        await strobe(ctx, dut, "raise_floor")
        await strobe(ctx, dut, "step", least_epoch=least)
        expected = {"epoch": max(8, least), "previous_epoch": 7, "previous_count": 1}
        assert outputs(ctx, dut) == dict.fromkeys(OUTPUTS, 0) | expected

    simulate(dut, bench, clocks=100)


def test_after_the_last_epoch_nothing_changes_but_exhausted():
    dut = TimestampCounter(Parameters(timestamp_bits=8))

    async def bench(ctx):
        await strobe(ctx, dut, "step", least_epoch=LAST_EPOCH)
        await strobe(ctx, dut, "assign")
        await strobe(ctx, dut, "raise_floor")
        await strobe(ctx, dut, "assign")
        before = outputs(ctx, dut)
        assert not before["exhausted"]
        for least_epoch in (0, LAST_EPOCH):
            await strobe(ctx, dut, "step", least_epoch=least_epoch)
            assert outputs(ctx, dut) == before | {"exhausted": 1}

    simulate(dut, bench, clocks=100)


def test_random_strobes(seed):
    rng = random.Random(seed)
    dut = TimestampCounter(Parameters(timestamp_bits=5))

    async def bench(ctx):
        expected = dict.fromkeys(OUTPUTS, 0)
        for _ in range(600):
            choice = rng.random()
            if choice < 0.02:
                least = rng.choice((0, rng.getrandbits(32) >> rng.randrange(32), expected["epoch"] + 5))
                await strobe(ctx, dut, "step", least_epoch=min(least, LAST_EPOCH))
                if expected["epoch"] == LAST_EPOCH:
                    expected["exhausted"] = 1
                else:
                    expected["previous_epoch"], expected["previous_count"] = expected["epoch"], expected["count"]
                    expected["epoch"] = max(expected["epoch"] + 1, min(least, LAST_EPOCH))
                    expected["count"] = expected["floor"] = 0
            elif choice < 0.1:
                await strobe(ctx, dut, "raise_floor")
                expected["floor"] = expected["count"]
            elif not expected["full"] and choice < 0.5:
                both = rng.random() < 0.2
                await strobe(ctx, dut, "assign", *(["raise_floor"] if both else []))
                if both:
                    expected["floor"] = expected["count"]
                expected["count"] += 1
            else:
                ctx.set(dut.least_epoch, rng.getrandbits(32))  # without `step` it means nothing
                await ctx.tick()
            expected["full"] = int(expected["count"] == 31)
            assert outputs(ctx, dut) == expected

    simulate(dut, bench, clocks=700)

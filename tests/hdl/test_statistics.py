"""Statistics: exact totals at every rate of events, and latches that are as of one clock cycle."""

import random

import pytest
from amaranth.lib import memory
from bloomgate.parameters import Parameters
from bloomgate.registers import STATISTICS
from bloomgate_hdl.statistics import Statistics, event_layout

from tests.hdl.simulation import simulate

PARAMETERS = Parameters(K=8, D=16, aperture_depth=16, slots=2, buffer_depth=64)
NAMES = [name for name, _ in STATISTICS]
#: The most that can happen of each in one clock cycle.
MOST = {
    **dict.fromkeys(NAMES, 1),
    "keys_validated": 2,
    "keys_inserted": PARAMETERS.buffer_depth,
    "parity_errors": 2 * (PARAMETERS.K + 2),
    "errors": 4,
}


class Bench:
    """Feeds events and keeps, for every clock cycle, what the totals were after it."""

    def __init__(self):
        self.dut = Statistics(PARAMETERS)
        self.sums = [dict.fromkeys(NAMES, 0)]

    async def step(self, ctx, events, *, latch=False):
        ctx.set(self.dut.events, events)
        ctx.set(self.dut.latch, latch)
        await ctx.tick()
        ctx.set(self.dut.latch, 0)
        self.sums.append({name: total + events.get(name, 0) for name, total in self.sums[-1].items()})

    async def latched(self, ctx, events):
        """All latched totals, read under ``events``."""
        totals = {}
        for number, name in enumerate(NAMES):
            words = []
            for half in range(2):
                ctx.set(self.dut.read_word, 2 * number + half)
                await self.step(ctx, events)
                words.append(ctx.get(self.dut.read_data))
            totals[name] = words[0] | words[1] << 32
        return totals

    async def latch(self, ctx, events):
        """A latch under `events()`; returns its totals after checking which clock cycle they are of."""
        sequence, asked = ctx.get(self.dut.sequence), len(self.sums)
        await self.step(ctx, events(), latch=True)
        for _ in range(2 * len(NAMES) + 2):
            if ctx.get(self.dut.sequence) != sequence:
                break
            await self.step(ctx, events())
        assert ctx.get(self.dut.sequence) == sequence + 1, "not completed after two passes and 2 clock cycles"
        until = len(self.sums)
        totals = await self.latched(ctx, {})
        # What had happened when the latch was asked for is in it, and one clock cycle explains all totals.
        assert totals in self.sums[asked:until], "not as of one clock cycle from the latch on"
        return totals


def test_widths_hold_the_most_that_can_happen():
    layout = event_layout(PARAMETERS)
    assert [name for name, _ in layout] == NAMES
    for name, most in MOST.items():
        assert layout[name].width == most.bit_length()


def test_exact_under_the_highest_rates_for_long():
    bench = Bench()

    async def run(ctx):
        for _ in range(3):
            for _ in range(120):
                await bench.step(ctx, MOST)
            await bench.latch(ctx, lambda: MOST)

    simulate(bench.dut, run, clocks=2000)


def test_every_statistic_counts_for_itself():
    bench = Bench()

    async def run(ctx):
        for name in NAMES:
            await bench.step(ctx, {name: 1})
            before = dict(bench.sums[-1])
            assert await bench.latch(ctx, dict) == before

    simulate(bench.dut, run, clocks=4000)


def test_latches_at_every_place_of_a_pass(seed):
    """Random events; every distance between two latches occurs, up to one that arrives while one is in progress."""
    rng = random.Random(seed)
    bench = Bench()

    def events():
        return {name: rng.randint(0, most) for name, most in MOST.items()}

    async def run(ctx):
        for wait in range(len(NAMES) + 1):
            for _ in range(wait):
                await bench.step(ctx, events())
            await bench.latch(ctx, events)
        # A second latch before the first is done is not lost.
        for gap in (0, 3, len(NAMES), 2 * len(NAMES) - 4):
            sequence = ctx.get(bench.dut.sequence)
            await bench.step(ctx, events(), latch=True)
            for _ in range(gap):
                await bench.step(ctx, events())
            asked = len(bench.sums)
            await bench.step(ctx, events(), latch=True)
            for _ in range(3 * len(NAMES)):
                await bench.step(ctx, events())
            assert await bench.latched(ctx, {}) in bench.sums[asked:]
            assert ctx.get(bench.dut.sequence) > sequence

    simulate(bench.dut, run, clocks=8000)


def test_reading_does_not_wait_for_a_latch_and_totals_stay_between_latches():
    bench = Bench()

    async def run(ctx):
        first = await bench.latch(ctx, lambda: MOST)
        for _ in range(3):
            assert await bench.latched(ctx, MOST) == first

    simulate(bench.dut, run, clocks=400)


@pytest.mark.parametrize("name", ["clocks", "keys_inserted"])
def test_totals_carry_into_the_high_word(name, monkeypatch):
    """The totals' memory is set to just below 2**32, since a simulation cannot count so far."""
    memories = []

    class Recorded(memory.Memory):
        def __init__(self, **options):
            super().__init__(**options)
            memories.append(self)

    monkeypatch.setattr(memory, "Memory", Recorded)
    bench = Bench()
    place = NAMES.index(name)

    async def run(ctx):
        totals = memories[0]
        ctx.set(totals.data[place], (1 << 32) - 5)
        bench.sums[-1][name] = (1 << 32) - 5
        for _ in range(10):
            await bench.step(ctx, {name: 1})
        assert (await bench.latch(ctx, dict))[name] == (1 << 32) + 5

    simulate(bench.dut, run, clocks=400)

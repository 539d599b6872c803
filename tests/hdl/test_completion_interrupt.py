"""When completions raise their cause, against a model and at its bounds."""

import random

import pytest
from bloomgate_hdl.completion_interrupt import CompletionInterrupt

from tests.hdl.simulation import drive, simulate


async def strobes(ctx, dut, written):
    """The clock cycles in which the cause is raised, for completions in these; both counted from 0."""
    raised = []
    for clock in range(max(written, default=0) + 80):
        drive(ctx, dut, written=clock in written)
        await ctx.tick()
        if ctx.get(dut.raises):
            raised.append(clock)
    return raised


@pytest.mark.parametrize(
    ("count", "clocks", "written", "raised"),
    [
        (0, 0, [3, 4, 9], [3, 4, 9]),
        (1, 0, [3, 4, 9], [3, 4, 9]),
        (3, 0, [3, 4, 9, 20], [9]),
        (3, 10, [3], [13]),
        (3, 10, [3, 12], [13]),
        (3, 10, [3, 4, 5, 6], [5, 16]),
        (2, 10, [3, 13], [13]),
        (2, 10, [3, 14], [13, 24]),
        (100, 1, [3, 7], [4, 8]),
    ],
)
def test_count_and_clocks(count, clocks, written, raised):
    """`clocks` after the first unreported completion at the latest, at once with the one that makes the count."""
    dut = CompletionInterrupt()

    async def bench(ctx):
        drive(ctx, dut, count=count, clocks=clocks)
        assert await strobes(ctx, dut, written) == raised

    simulate(dut, bench, clocks=300)


def test_every_completion_is_reported_in_time(seed):
    rng = random.Random(seed)
    for _ in range(8):
        dut = CompletionInterrupt()
        count, clocks = rng.randint(0, 6), rng.randint(1, 12)
        written = sorted(rng.sample(range(200), rng.randint(1, 120)))

        async def bench(ctx, dut=dut, count=count, clocks=clocks, written=written):
            drive(ctx, dut, count=count, clocks=clocks)
            raised = await strobes(ctx, dut, written)
            before = -1
            for clock in raised:
                since = [each for each in written if before < each <= clock]
                assert since, "nothing to report"
                assert len(since) <= max(count, 1)
                assert len(since) == max(count, 1) or clock - since[0] == clocks
                before = clock
            assert not [each for each in written if each > before]

        simulate(dut, bench, clocks=400)

"""Fair choice: cyclic order, and nobody waits for more than all others once."""

import random

import pytest
from bloomgate_hdl.round_robin import RoundRobin

from tests.hdl.simulation import drive, simulate


@pytest.mark.parametrize("count", [1, 2, 3, 16, 32])
def test_choice_is_the_next_requester_in_cyclic_order(count, seed):
    rng = random.Random(seed)
    dut = RoundRobin(count)

    async def bench(ctx):
        last = count - 1  # after reset requester 0 comes first
        for _ in range(200):
            density = rng.choice((0.05, 0.5, 1))
            requests = [rng.random() < density for _ in range(count)]
            take = any(requests) and rng.random() < 0.7
            drive(ctx, dut, requests=sum(bit << place for place, bit in enumerate(requests)), take=take)
            assert ctx.get(dut.valid) == any(requests)
            if any(requests):
                expected = next(place for place in range(last + 1, last + 1 + count) if requests[place % count]) % count
                assert ctx.get(dut.choice) == expected
                if take:
                    last = expected
            await ctx.tick()

    simulate(dut, bench, clocks=300)


def test_everyone_is_chosen_within_count_choices(seed):
    rng = random.Random(seed)
    count = 5
    dut = RoundRobin(count)

    async def bench(ctx):
        waiting = [0] * count
        requests = 0
        for _ in range(300):
            requests |= rng.getrandbits(count)
            drive(ctx, dut, requests=requests, take=requests != 0)
            if requests:
                choice = ctx.get(dut.choice)
                assert waiting[choice] <= count - 1
                waiting = [wait + 1 if requests >> place & 1 else 0 for place, wait in enumerate(waiting)]
                waiting[choice] = 0
                requests &= ~(1 << choice)
            await ctx.tick()

    simulate(dut, bench, clocks=400)

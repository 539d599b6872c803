"""The hash unit against the definition of H3, evaluated in Python."""

import random

import pytest
from bloomgate.h3 import H3
from bloomgate.parameters import Parameters
from bloomgate_hdl.hash_unit import HashUnit

from tests.hdl.simulation import simulate

GEOMETRIES = [
    Parameters(),
    Parameters(K=1, D=16, key_bits=4, hash_seed=1),
    Parameters(K=8, D=256, key_bits=17, hash_seed=0xFFFF_FFFF),
]


@pytest.mark.parametrize("parameters", GEOMETRIES, ids=["default", "smallest", "eight"])
def test_rows_are_those_of_h3_one_key_per_clock(parameters, seed):
    rng = random.Random(seed)
    dut = HashUnit(parameters)
    h3 = H3(parameters)
    # Each bit alone shows each matrix word.
    keys = [1 << bit for bit in range(parameters.key_bits)] + [0, parameters.max_key]
    keys += [rng.randint(0, parameters.max_key) for _ in range(60)]

    async def bench(ctx):
        assert [ctx.get(dut.rows[table]) for table in range(parameters.K)] == [0] * parameters.K, "reset state"
        ctx.set(dut.advance, 1)
        for key in keys:
            ctx.set(dut.key, key)
            await ctx.tick()
            assert tuple(ctx.get(dut.rows[table]) for table in range(parameters.K)) == h3.rows(key)

    simulate(dut, bench, clocks=200)


def test_rows_are_kept_without_advance(seed):
    rng = random.Random(seed)
    parameters = Parameters(K=3, D=64, key_bits=12)
    dut = HashUnit(parameters)
    h3 = H3(parameters)

    async def bench(ctx):
        expected = (0, 0, 0)
        for _ in range(100):
            key, advance = rng.randint(0, parameters.max_key), rng.random() < 0.5
            ctx.set(dut.key, key)
            ctx.set(dut.advance, advance)
            await ctx.tick()
            if advance:
                expected = h3.rows(key)
            assert tuple(ctx.get(dut.rows[table]) for table in range(3)) == expected

    simulate(dut, bench, clocks=200)

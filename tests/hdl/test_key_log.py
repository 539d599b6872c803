"""The key log against a dict, with faults."""

import random

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.key_log import KeyLog

from tests.hdl.simulation import drive, simulate

GEOMETRIES = [
    Parameters(slots=3, aperture_depth=8, key_bits=32),
    Parameters(slots=1, aperture_depth=4, key_bits=9, D=16),
]


def outputs(ctx, dut):
    return [(ctx.get(dut.keys[lane]), bool(ctx.get(dut.bad[lane]))) for lane in range(LANES)]


@pytest.mark.parametrize("parameters", GEOMETRIES, ids=["three slots", "one slot"])
def test_random_writes_and_reads_in_every_clock(parameters, seed):
    rng = random.Random(seed)
    dut = KeyLog(parameters)
    depth = parameters.aperture_depth
    places = [(slot, position) for slot in range(parameters.slots) for position in range(depth)]

    async def bench(ctx):
        keys = {}
        for slot, position in places:  # so that every read has something to find
            keys[slot, position] = (rng.randint(0, parameters.max_key), rng.random() < 0.2)
            key, bad = keys[slot, position]
            drive(ctx, dut, write=1, write_slot=slot, write_position=position, write_key=key, write_bad=bad)
            await ctx.tick()
        expected = None
        for _ in range(400):
            write, read = rng.random() < 0.6, rng.random() < 0.7
            slot, position = rng.choice(places)
            key, bad = rng.randint(0, parameters.max_key), rng.random() < 0.2
            drive(ctx, dut, write=write, write_slot=slot, write_position=position, write_key=key, write_bad=bad)
            read_slot, word = rng.randrange(parameters.slots), rng.randrange(depth // LANES)
            if write and (read_slot, word) == (slot, position // LANES):
                read = False  # what a read sees of a write in the same clock cycle is not promised
            drive(ctx, dut, read=read, read_slot=read_slot, read_word=word)
            if read:
                expected = [keys[read_slot, word * LANES + lane] for lane in range(LANES)]
            if write:
                keys[slot, position] = (key, bad)
            await ctx.tick()
            if expected is not None:
                assert [bad for _, bad in outputs(ctx, dut)] == [bad for _, bad in expected]
                assert outputs(ctx, dut) == expected, "the key is stored even where its parity is not"

    simulate(dut, bench, clocks=600)

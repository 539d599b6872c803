"""The books against plain Python: every entry of the conflict log and every statistic, whatever comes together."""

import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import (
    CONFLICT_ENTRY,
    CONFLICT_ENTRY_BYTES,
    CONFLICT_LOG_ENTRIES,
    CONTROL_PAGE,
    SLOT_STATISTICS,
    SLOT_STATISTICS_BYTES,
)
from bloomgate_hdl.books import Books

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(K=2, D=16, timestamp_bits=20, key_bits=24, slots=5)
NUMBERS = {name: number for number, (name, _) in enumerate(SLOT_STATISTICS)}
BANK_WORDS = CONTROL_PAGE.window("BOOKS").size // 4
#: Clock cycles between two verdicts, at least.
SPACING = 5


async def word(ctx, dut, number):
    ctx.set(dut.read_word, number)
    await ctx.tick()
    return ctx.get(dut.read_data)


async def entry(ctx, dut, number):
    """An entry of the conflict log: (winner or None, loser, key or None, epoch, count)."""
    base = number % CONFLICT_LOG_ENTRIES * (CONFLICT_ENTRY_BYTES // 4)
    slots, key, epoch, count = [await word(ctx, dut, base + place) for place in range(4)]
    field = CONFLICT_ENTRY.register("SLOTS")
    return (
        field["WINNER"].extract(slots) if field["WINNER_KNOWN"].extract(slots) else None,
        field["LOSER"].extract(slots),
        key if field["KEY_KNOWN"].extract(slots) else None,
        epoch,
        count,
    )


async def statistics(ctx, dut, slot):
    base = 2 * BANK_WORDS + slot * (SLOT_STATISTICS_BYTES // 4)
    return [await word(ctx, dut, base + number) for number in range(len(SLOT_STATISTICS))]


def random_doom(rng, p):
    by_slot, key_known = rng.random() < 0.7, rng.random() < 0.7
    return {
        "by_slot": by_slot,
        "winner": rng.randrange(p.slots),
        "key_known": key_known,
        "key": rng.getrandbits(p.key_bits) if key_known else 0,
        "epoch": rng.getrandbits(32),
        "count": rng.getrandbits(p.timestamp_bits),
    }


@pytest.mark.parametrize("parameters", [PARAMETERS, Parameters(slots=32)], ids=["5 slots", "32 slots"])
def test_random_events(parameters, seed):
    rng = random.Random(seed)
    p = parameters
    dut = Books(p)
    log, totals = [], [[0] * len(SLOT_STATISTICS) for _ in range(p.slots)]

    async def bench(ctx):
        began = began_before = since_verdict = clock = 0
        while clock < 2500 or len(log) <= CONFLICT_LOG_ENTRIES:
            inputs = {"began": 0, "decided": 0, "conflict": 0}
            if since_verdict >= SPACING and rng.random() < 0.7:
                slot, reason, counts = rng.randrange(p.slots), rng.randrange(11), rng.random() < 0.8
                inputs |= {"decided": 1, "decided_slot": slot, "reason": reason, "counts": counts}
                if counts:
                    totals[slot][reason] += 1
                # The next request may have begun with the decision, a clock cycle before the verdict.
                totals[slot][NUMBERS["validation_clocks"]] += clock - (began if began < clock - 1 else began_before)
                since_verdict = 0
            elif rng.random() < 0.1:
                inputs["began"], began, began_before = 1, clock, began
            since_verdict += 1
            if ctx.get(dut.ready) and rng.random() < 0.5:
                doom, loser, doomed = random_doom(rng, p), rng.randrange(p.slots), rng.random() < 0.5
                inputs |= {"conflict": 1, "loser": loser, "doom": doom, "doomed": doomed}
                log.append(
                    (
                        doom["winner"] if doom["by_slot"] else None,
                        loser,
                        doom["key"] if doom["key_known"] else None,
                        doom["epoch"],
                        doom["count"],
                    )
                )
                totals[loser][NUMBERS["dooms"]] += doomed
            drive(ctx, dut, **inputs)
            # Reads in between disturb nothing.
            await word(ctx, dut, rng.randrange(4 * BANK_WORDS))
            clock += 1
        drive(ctx, dut, began=0, decided=0, conflict=0)
        await ctx.tick().repeat(20)
        assert ctx.get(dut.ready)
        assert ctx.get(dut.head) == len(log)
        for number in range(len(log) - CONFLICT_LOG_ENTRIES, len(log)):
            assert await entry(ctx, dut, number) == log[number]
        for slot in range(p.slots):
            assert await statistics(ctx, dut, slot) == totals[slot]

    # The first validation begins with the first clock cycle.
    simulate(dut, bench, clocks=20_000)


def test_an_entry_counts_when_all_of_it_is_there(seed):
    rng = random.Random(seed)
    dut = Books(PARAMETERS)

    async def bench(ctx):
        for number in range(5):
            doom = random_doom(rng, PARAMETERS) | {"by_slot": True, "key_known": True}
            drive(ctx, dut, conflict=1, loser=3, doom=doom, doomed=1)
            await ctx.tick()
            ctx.set(dut.conflict, 0)
            while ctx.get(dut.head) == number:
                await ctx.tick()
            found = await entry(ctx, dut, number)
            assert found == (doom["winner"], 3, doom["key"], doom["epoch"], doom["count"])
            while not ctx.get(dut.ready):
                await ctx.tick()

    simulate(dut, bench, clocks=200)


def test_a_verdict_does_not_wait_for_the_conflict_log():
    """Verdicts as close together as they come, and as many conflicts as fit between."""
    dut = Books(PARAMETERS)

    async def bench(ctx):
        for clock in range(50 * SPACING):
            drive(ctx, dut, decided=clock % SPACING == 0, decided_slot=1, reason=0, counts=1)
            drive(ctx, dut, conflict=ctx.get(dut.ready), loser=2, doomed=1)
            await ctx.tick()
        drive(ctx, dut, decided=0, conflict=0)
        await ctx.tick().repeat(20)
        totals = await statistics(ctx, dut, 1)
        assert totals[NUMBERS["commits"]] == 50
        assert (await statistics(ctx, dut, 2))[NUMBERS["dooms"]] == ctx.get(dut.head) > 5

    simulate(dut, bench, clocks=1000)

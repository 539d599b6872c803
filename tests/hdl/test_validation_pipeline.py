"""The validation pipeline: keys and answers stay together, in order, whatever the recency filter makes them wait."""

import random

import pytest
from bloomgate.h3 import H3
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.validation_pipeline import KeyOperation, ValidationPipeline

from tests.hdl.simulation import drive, simulate

NONE, QUERY, CHECK, REPAIR, INSERT = (KeyOperation[name] for name in ("NONE", "QUERY", "CHECK", "REPAIR", "INSERT"))
PARAMETERS = Parameters(K=2, D=16, timestamp_bits=8, key_bits=8, aperture_depth=4, slots=1)
IDLE = ([(NONE, 0, 0)] * LANES, 0)


def offer(ctx, dut, beat):
    lanes, last = beat
    for lane, (operation, key, key_bad) in enumerate(lanes):
        drive(ctx, dut.beat.lanes[lane], operation=operation, key=key, key_bad=key_bad)
    ctx.set(dut.beat.last, last)


def outcome(ctx, dut):
    """(beat, [(conflict, uncertain, bad_words) a lane])."""
    value = ctx.get(dut.outcome)
    lanes = [(lane.operation, lane.key, lane.key_bad) for lane in value.beat.lanes]
    answers = [(answer.conflict, answer.uncertain, answer.bad_words) for answer in value.filter]
    return (lanes, value.beat.last), answers


def is_idle(beat):
    lanes, last = beat
    return not last and all(operation == NONE for operation, _, _ in lanes)


async def scrubbed(ctx, dut):
    clocks = 0
    while ctx.get(dut.scrubbing):
        await ctx.tick()
        clocks += 1
    return clocks


def test_reset_state_is_scrubbing_and_empty():
    dut = ValidationPipeline(PARAMETERS)

    async def bench(ctx):
        offer(ctx, dut, ([(QUERY, 1, 0)] * LANES, 1))
        for _ in range(PARAMETERS.D // 2):
            assert not ctx.get(dut.ready)
            assert outcome(ctx, dut) == (IDLE, [(0, 0, 0)] * LANES)
            await ctx.tick()
        assert not ctx.get(dut.scrubbing)
        assert ctx.get(dut.ready)

    simulate(dut, bench, clocks=50)


def test_latency_and_throughput():
    dut = ValidationPipeline(PARAMETERS)
    beats = [([(QUERY, 2 * n, 0), (CHECK, 2 * n + 1, n % 2)], n == 19) for n in range(20)]

    async def bench(ctx):
        await scrubbed(ctx, dut)
        came = []
        for beat in [*beats, *[IDLE] * 3]:
            offer(ctx, dut, beat)
            assert ctx.get(dut.ready)
            came.append(outcome(ctx, dut)[0])
            await ctx.tick()
        assert came[:3] == [IDLE] * 3
        assert came[3:] == beats

    simulate(dut, bench, clocks=50)


def test_key_operations_do_what_they_say():
    dut = ValidationPipeline(PARAMETERS)
    rows = H3(PARAMETERS).rows(77)

    async def bench(ctx):
        await scrubbed(ctx, dut)

        async def ask(operation, *, snapshot=2, lane=0):
            ctx.set(dut.snapshot, snapshot)
            lanes = [(NONE, 0, 0)] * LANES
            lanes[lane] = (operation, 77, 0)
            offer(ctx, dut, (lanes, 1))
            while not ctx.get(dut.ready):
                await ctx.tick()
            await ctx.tick()
            offer(ctx, dut, IDLE)
            await ctx.tick()
            await ctx.tick()
            (came, last), answers = outcome(ctx, dut)
            assert (came, last) == (lanes, 1)
            assert answers[1 - lane] == (0, 0, 0)
            return answers[lane]

        drive(ctx, dut, newest=3)
        for operation in (NONE, CHECK, QUERY, REPAIR):
            await ask(operation)
        assert await ask(QUERY) == (0, 0, 0), "only INSERT inserts"
        assert await ask(INSERT, lane=1) == (0, 0, 0)
        for operation, answer in ((NONE, 0), (CHECK, 0), (INSERT, 0), (QUERY, 1), (REPAIR, 1)):
            for lane in range(LANES):
                assert await ask(operation, lane=lane) == (answer, 0, 0)
        assert await ask(QUERY, snapshot=3) == (0, 0, 0)
        ctx.set(dut.floor, 4)
        assert await ask(QUERY, snapshot=3) == (1, 0, 0)
        ctx.set(dut.floor, 0)
        # The row of the fault is that of the key in the table of the fault.
        drive(ctx, dut, inject=1, inject_table=1, inject_row=rows[1])
        await ctx.tick()
        ctx.set(dut.inject, 0)
        assert await ask(CHECK) == (0, 0, 0)
        assert await ask(QUERY) == (1, 1, 1)
        assert await ask(QUERY) == (1, 1, 1)
        assert await ask(REPAIR) == (1, 1, 1)
        assert await ask(QUERY) == (1, 0, 0)
        ctx.set(dut.scrub, 1)
        await ctx.tick()
        ctx.set(dut.scrub, 0)
        assert await scrubbed(ctx, dut) == PARAMETERS.D // 2
        assert await ask(QUERY, snapshot=0) == (0, 0, 0)

    simulate(dut, bench, clocks=400)


def test_a_query_sees_the_insertion_of_the_beat_before():
    dut = ValidationPipeline(PARAMETERS)

    async def bench(ctx):
        await scrubbed(ctx, dut)
        ctx.set(dut.newest, 1)
        for key in (5, 6):
            offer(ctx, dut, ([(QUERY, key, 0), (INSERT, key, 0)], 0))
            await ctx.tick()
            offer(ctx, dut, ([(QUERY, key, 0), (QUERY, key, 0)], 1))
            await ctx.tick()
            offer(ctx, dut, IDLE)
            await ctx.tick()
            assert outcome(ctx, dut)[1] == [(0, 0, 0), (0, 0, 0)], "not that of its own beat"
            await ctx.tick()
            assert outcome(ctx, dut)[1] == [(1, 0, 0), (1, 0, 0)]

    simulate(dut, bench, clocks=50)


def test_random_beats_with_stalls(seed):
    """Scrubs, faults and repairs stall the pipeline; nothing is lost, doubled or reordered, no answer changes key."""
    rng = random.Random(seed)
    dut = ValidationPipeline(PARAMETERS)
    h3 = H3(PARAMETERS)

    async def bench(ctx):
        # (beat, [answers]) to come. A word is [count, bad]; every operation is atomic in the order of beats, since
        # faults are injected and scrubs begin only into an empty pipeline.
        words = [[[0, False] for _ in range(16)] for _ in range(2)]
        due = []
        newest, snapshot, empty_for, stalls = 0, 0, 0, 0
        pause = 0
        repaired_lately = [False] * 3
        for _ in range(800):
            stalls += not ctx.get(dut.ready)
            drive(ctx, dut, scrub=0, inject=0)
            beat = IDLE
            if pause:
                pause -= 1
            elif rng.random() < 0.06:
                pause = 14
            elif empty_for < 6 or rng.random() < 0.7:
                operations = rng.choice(((QUERY, CHECK), (QUERY, CHECK), (REPAIR,), (INSERT,)))
                lanes = [(rng.choice((*operations, NONE)), rng.getrandbits(8), rng.getrandbits(1)) for _ in range(2)]
                beat = (lanes, rng.getrandbits(1))
            if empty_for >= 6:
                choice = rng.random()
                if choice < 0.3:
                    newest = min(newest + 1, 255)
                    snapshot = rng.randint(max(0, newest - 4), newest)
                    drive(ctx, dut, newest=newest, snapshot=snapshot)
                elif choice < 0.35:
                    beat = IDLE
                    ctx.set(dut.scrub, 1)
                    words = [[[0, False] for _ in range(16)] for _ in range(2)]
                elif choice < 0.7 and not ctx.get(dut.scrubbing):
                    table, row = rng.randrange(2), rng.randrange(16)
                    drive(ctx, dut, inject=1, inject_table=table, inject_row=row)
                    words[table][row] = [0, True]
                    beat = IDLE
            offer(ctx, dut, beat)
            if ctx.get(dut.ready) and not is_idle(beat):
                due.append(beat)
            came, answers = outcome(ctx, dut)
            if not is_idle(came):
                expected = due.pop(0)
                assert came == expected
                repairs = []
                for (operation, key, _), answer in zip(came[0], answers, strict=True):
                    places = list(enumerate(h3.rows(key)))
                    met = [words[table][row] for table, row in places]
                    bad = sum(is_bad for _, is_bad in met)
                    conflict = min(newest if is_bad else count for count, is_bad in met) > snapshot
                    if operation in (QUERY, REPAIR):
                        # A beat that entered while another's repair was under way may still meet the bad word.
                        assert answer[0] == conflict
                        if not any(repaired_lately):
                            assert answer == (int(conflict), int(conflict and bad > 0), bad)
                    else:
                        assert answer == (0, 0, 0)
                    if operation is REPAIR:
                        repairs += places
                for table, row in repairs:
                    if words[table][row][1]:
                        words[table][row] = [newest, False]
                for operation, key, _ in came[0]:
                    if operation is INSERT:
                        for table, row in enumerate(h3.rows(key)):
                            words[table][row] = [newest, False]
                repaired_lately = [*repaired_lately[1:], bool(repairs)]
            else:
                repaired_lately = [*repaired_lately[1:], False]
            empty_for = 0 if due or not is_idle(beat) or not ctx.get(dut.ready) else empty_for + 1
            await ctx.tick()
        assert stalls > PARAMETERS.D // 2, "no stall but that of the reset"

    simulate(dut, bench, clocks=1300)


@pytest.mark.parametrize("stall", ["inject", "scrub"])
def test_a_waiting_beat_is_kept_and_its_outcome_comes_later(stall):
    """One clock cycle without `ready` right behind a beat delays it, later ones do not."""
    dut = ValidationPipeline(PARAMETERS)

    async def bench(ctx):
        await scrubbed(ctx, dut)
        wait = 1 if stall == "inject" else 1 + PARAMETERS.D // 2
        for after, delay in ((1, wait), (2, 0)):
            clock = 0
            beat = ([(QUERY, 9, 0), (CHECK, 8, 1)], 1)
            offer(ctx, dut, beat)
            seen = []
            for clock in range(4 + wait):
                ctx.set(getattr(dut, stall), clock == after)
                if outcome(ctx, dut)[0] == beat:
                    seen.append(clock)
                await ctx.tick()
                # Another beat waits behind it, and must not overtake it or be taken twice.
                offer(ctx, dut, IDLE)
            assert seen == [3 + delay]
            for _ in range(20):
                await ctx.tick()

    simulate(dut, bench, clocks=200)

"""The decision against the order of reasons that Reason documents."""

import dataclasses
import itertools
import random

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import ErrorCode
from bloomgate.verdict import Reason
from bloomgate_hdl.decision import Decision
from bloomgate_hdl.validation_pipeline import KeyOperation

from tests.hdl.simulation import drive, simulate

NONE, QUERY, CHECK, REPAIR, INSERT = (KeyOperation[name] for name in ("NONE", "QUERY", "CHECK", "REPAIR", "INSERT"))
PARAMETERS = Parameters(K=2, D=16, timestamp_bits=8, key_bits=8, aperture_depth=16, slots=1)
NOTHING = {"operation": NONE, "key": 0, "key_bad": 0, "conflict": 0, "uncertain": 0, "bad_words": 0}


@dataclasses.dataclass
class Expected:
    """What the outcomes of a pass and the request must lead to."""

    reason: int = 0
    key: int = 0
    code: int = 0
    detail: int = 0
    repair: bool = False


def expected_of(request, epoch, count, exhausted, outcomes):
    """Straight from the documentation of Reason, ErrorCode and the design brief."""
    failing = doubted = None
    repair = False
    for seen in itertools.chain.from_iterable(outcomes):
        query, check = seen["operation"] is QUERY, seen["operation"] is CHECK
        if not (query or check):
            continue
        filter_bad = query and seen["bad_words"] > 0
        if failing is None and (seen["key_bad"] or query and seen["conflict"]):
            parity = seen["key_bad"] or seen["uncertain"]
            failing = (Reason.PARITY if parity else Reason.CONFLICT, seen["key"])
        if doubted is None and (seen["key_bad"] or filter_bad):
            doubted = (ErrorCode.KEY_PARITY if seen["key_bad"] else ErrorCode.FILTER_PARITY, seen["key"])
        repair = repair or filter_bad
    snapshot = (request["snapshot_epoch"], request["snapshot_count"])
    ahead = snapshot > (epoch, count)
    expected = Expected(repair=repair)
    if request["reset"]:
        expected.reason = Reason.RESET
    elif request["bad_request"] or ahead:
        expected.reason = Reason.BAD_REQUEST
    elif request["overflow"]:
        expected.reason = Reason.OVERFLOW
    elif request["busy"]:
        expected.reason = Reason.BUSY
    elif snapshot[0] < epoch or exhausted:
        expected.reason = Reason.ROLLOVER
    elif failing is not None:
        expected.reason, expected.key = failing
    if ahead:
        expected.code, expected.detail = ErrorCode.SNAPSHOT_AHEAD, snapshot[1]
    elif doubted is not None:
        expected.code, expected.detail = doubted
    return expected


def parity_errors_of(beat):
    return sum(
        (seen["operation"] in (QUERY, CHECK, INSERT) and seen["key_bad"])
        + (seen["bad_words"] if seen["operation"] is QUERY else 0)
        for seen in beat
    )


def show(ctx, dut, beat, last):
    for lane, seen in enumerate(beat):
        drive(ctx, dut.outcome.beat.lanes[lane], operation=seen["operation"], key=seen["key"], key_bad=seen["key_bad"])
        answer = {name: seen[name] for name in ("conflict", "uncertain", "bad_words")}
        drive(ctx, dut.outcome.filter[lane], **answer)
    ctx.set(dut.outcome.beat.last, last)


async def decide(ctx, dut, outcomes):
    """Plays a pass, whose last outcome is in the clock cycle at the end."""
    ctx.set(dut.start, 1)
    # In the clock cycle of `start` the INSERT pass of the request before may still come out.
    show(ctx, dut, [NOTHING | {"operation": INSERT, "key": 3}] * LANES, 0)
    await ctx.tick()
    ctx.set(dut.start, 0)
    show(ctx, dut, [NOTHING] * LANES, 0)
    await ctx.tick().repeat(2)
    for number, beat in enumerate(outcomes):
        show(ctx, dut, beat, number == len(outcomes) - 1)
        assert ctx.get(dut.parity_errors) == parity_errors_of(beat)
        if number < len(outcomes) - 1:
            await ctx.tick()


def verdict(ctx, dut):
    reason, commit = ctx.get(dut.reason), ctx.get(dut.commit)
    assert commit == (reason == 0)
    code = ctx.get(dut.error_code)
    return Expected(
        reason,
        ctx.get(dut.conflict_key),
        code,
        ctx.get(dut.error_detail) if code else 0,
        bool(ctx.get(dut.needs_repair)),
    )


def request_of(**values):
    names = ("request", "snapshot_epoch", "snapshot_count", "read_count", "write_count")
    flags = ("reset", "bad_request", "overflow", "busy")
    return dict.fromkeys((*names, *flags), 0) | values


def answers_of(rng, operations, density):
    """Possible outcomes: what the recency filter cannot say does not occur."""
    beats = []
    for operation in operations:
        beat = []
        for _ in range(LANES):
            seen = dict(NOTHING, operation=rng.choice((operation, operation, NONE)))
            if seen["operation"] is not NONE:
                seen |= {"key": rng.getrandbits(8), "key_bad": int(rng.random() < density)}
            if seen["operation"] in (QUERY, REPAIR):
                seen["conflict"] = int(rng.random() < density)
                seen["bad_words"] = rng.choice((0, 1, 2)) if rng.random() < density else 0
                seen["uncertain"] = int(bool(seen["conflict"] and seen["bad_words"] and rng.random() < 0.6))
            beat.append(seen)
        beats.append(beat)
    return beats


def test_every_combination_of_reasons():
    """All subsets of what can be wrong, each with its documented precedence."""
    dut = Decision(PARAMETERS)
    flags = ("reset", "bad_request", "overflow", "busy")

    async def bench(ctx):
        conflict = [dict(NOTHING, operation=QUERY, key=7, conflict=1), NOTHING]
        parity = [dict(NOTHING, operation=CHECK, key=9, key_bad=1), NOTHING]
        clean = [dict(NOTHING, operation=QUERY, key=5), dict(NOTHING, operation=QUERY, key=6)]
        for bits in itertools.product((0, 1), repeat=len(flags)):
            for snapshot in ((2, 9), (3, 5), (3, 6), (4, 0)):
                for exhausted in (0, 1):
                    for outcomes in ([clean], [conflict, parity]):
                        request = request_of(**dict(zip(flags, bits, strict=True)))
                        request |= {"snapshot_epoch": snapshot[0], "snapshot_count": snapshot[1]}
                        drive(ctx, dut, request=request, epoch=3, count=5, exhausted=exhausted)
                        await decide(ctx, dut, outcomes)
                        assert verdict(ctx, dut) == expected_of(request, 3, 5, exhausted, outcomes)

    simulate(dut, bench, clocks=4000)


def test_random_passes(seed):
    rng = random.Random(seed)
    dut = Decision(PARAMETERS)

    async def bench(ctx):
        for _ in range(120):
            epoch, count = rng.getrandbits(2), rng.randint(0, 3)
            request = request_of(snapshot_epoch=rng.choice((epoch, epoch, rng.getrandbits(2))))
            request["snapshot_count"] = rng.choice((count, count, rng.randint(0, 4), 256 + rng.randint(0, 4)))
            request |= {name: int(rng.random() < 0.05) for name in ("reset", "bad_request", "overflow", "busy")}
            exhausted = rng.random() < 0.05
            drive(ctx, dut, request=request, epoch=epoch, count=count, exhausted=exhausted)
            operations = [QUERY] * rng.randint(0, 4) + [CHECK] * rng.randint(0, 3)
            outcomes = answers_of(rng, operations or [NONE], rng.choice((0, 0.1, 0.4)))
            await decide(ctx, dut, outcomes)
            expected = expected_of(request, epoch, count, exhausted, outcomes)
            assert verdict(ctx, dut) == expected
            # It stays the same until the next start, whatever REPAIR and INSERT passes come out.
            for beat in answers_of(rng, rng.choice(([REPAIR] * 3, [INSERT] * 3)), 0.5):
                await ctx.tick()
                show(ctx, dut, beat, rng.getrandbits(1))
                assert verdict(ctx, dut) == expected
                assert ctx.get(dut.parity_errors) == parity_errors_of(beat)
            await ctx.tick()

    simulate(dut, bench, clocks=4000)


@pytest.mark.parametrize("bit", [0, 7, 8, 31])
def test_snapshots_are_compared_in_full(bit):
    """Also the bits of the client's count that a timestamp does not have."""
    dut = Decision(PARAMETERS)
    clean = [[dict(NOTHING, operation=QUERY, key=5)] + [NOTHING] * (LANES - 1)]

    async def bench(ctx):
        for epoch_word, count_word, reason in (
            (0, 1 << bit, Reason.BAD_REQUEST),
            (1 << bit, 0, Reason.BAD_REQUEST),
        ):
            request = request_of(snapshot_epoch=epoch_word, snapshot_count=count_word)
            drive(ctx, dut, request=request, epoch=0, count=0, exhausted=0)
            await decide(ctx, dut, clean)
            assert verdict(ctx, dut).reason == reason
        drive(ctx, dut, request=request_of(snapshot_count=0xFFFF_FFFF), epoch=1 << bit)
        await decide(ctx, dut, clean)
        assert verdict(ctx, dut).reason == Reason.ROLLOVER

    simulate(dut, bench, clocks=100)

# amaranth: UnusedElaboratable=no
"""The slot filter against plain sets: what was announced is always found, what was not hardly ever."""

import random

import pytest
from bloomgate.parameters import LANES
from bloomgate_hdl.slot_filter import SlotFilter, SlotFilterOperation

from tests.hdl.simulation import simulate

NONE, ANNOUNCE, LOOKUP = (SlotFilterOperation[name] for name in ("NONE", "ANNOUNCE", "LOOKUP"))


class Harness:
    def __init__(self, slots=4, banks=2, rows=16, tag_bits=3, scrub_patience=16):
        self.dut = SlotFilter(slots, banks, rows, tag_bits, scrub_patience)
        self.slots, self.banks, self.rows = slots, banks, rows

    def offer(self, ctx, *operations):
        """(operation, slot, rows) a lane; lanes that are not named do nothing. Who announces is the same for all."""
        idle = (NONE, 0, (0,) * self.banks)
        announcers = {slot for operation, slot, _ in operations if operation == ANNOUNCE}
        assert len(announcers) <= 1
        ctx.set(self.dut.slot, *announcers or {0})
        for lane, (operation, _, rows) in zip(
            self.dut.lanes, [*operations, *[idle] * (LANES - len(operations))], strict=True
        ):
            ctx.set(lane.operation, operation)
            for bank, row in enumerate(rows):
                ctx.set(lane.rows[bank], row)

    async def do(self, ctx, *operations):
        """One beat, when it is accepted; the hits that come of it, a set of slots a lane."""
        self.offer(ctx, *operations)
        while not ctx.get(self.dut.ready):
            await ctx.tick()
        await ctx.tick()
        self.offer(ctx)
        await ctx.tick()
        return [self.slots_in(ctx.get(self.dut.hits[lane])) for lane in range(LANES)]

    def slots_in(self, bits):
        return {slot for slot in range(self.slots) if bits >> slot & 1}

    async def clear(self, ctx, slot):
        ctx.set(self.dut.clear, 1)
        ctx.set(self.dut.clear_slot, slot)
        await ctx.tick()
        ctx.set(self.dut.clear, 0)

    async def scrubbed(self, ctx):
        while ctx.get(self.dut.scrubbing):
            await ctx.tick()


def test_the_first_scrub_takes_a_clock_a_row():
    harness = Harness(rows=16)

    async def bench(ctx):
        clocks = 0
        while ctx.get(harness.dut.scrubbing):
            await ctx.tick()
            clocks += 1
        assert clocks == 16

    simulate(harness.dut, bench, clocks=100)


def test_random_announcements_and_lookups(seed):
    rng = random.Random(seed)
    harness = Harness()
    dut = harness.dut
    exact = [set() for _ in range(harness.slots)]
    seen = {"hit": 0, "clean": 0, "scrubs": 0}
    # Few keys, so that they meet; rows of their own, so that most answers are exact.
    keys = [tuple(rng.randrange(harness.rows) for _ in range(harness.banks)) for _ in range(12)]

    async def bench(ctx):
        await harness.scrubbed(ctx)
        waiting = []
        for _ in range(4000):
            busy = ctx.get(dut.scrubbing)
            clear = rng.randrange(harness.slots) if rng.random() < 0.05 else None
            operations = []
            slot = rng.randrange(harness.slots)
            for _ in range(LANES):
                rows = rng.choice(keys)
                kind = rng.choice((NONE, ANNOUNCE, LOOKUP)) if rng.random() < 0.9 else NONE
                if kind == ANNOUNCE and (busy >> slot & 1 or slot == clear):
                    kind = NONE
                operations.append((kind, slot, rows))
            harness.offer(ctx, *operations)
            ctx.set(dut.clear, clear is not None)
            ctx.set(dut.clear_slot, clear or 0)
            accepted = ctx.get(dut.ready)
            answers = []
            for kind, _, rows in operations:
                must = {slot for slot in range(harness.slots) if rows in exact[slot]}
                may = {
                    slot
                    for slot in range(harness.slots)
                    if all(any(other[bank] == rows[bank] for other in exact[slot]) for bank in range(harness.banks))
                }
                # Announcements of the same clock cycle may or may not be seen.
                for other_kind, slot, other_rows in operations:
                    if other_kind == ANNOUNCE:
                        may |= {slot} if any(other_rows[bank] == rows[bank] for bank in range(harness.banks)) else set()
                # Nothing is said of those that are being scrubbed.
                may |= {slot for slot in range(harness.slots) if busy >> slot & 1}
                answers.append((must, may) if accepted and kind == LOOKUP else (set(), set()))
            if accepted:
                for kind, slot, rows in operations:
                    if kind == ANNOUNCE:
                        exact[slot].add(rows)
            if clear is not None:
                exact[clear].clear()
                # A lookup under way may answer for the next generation: when that wraps, for tags of its first life.
                for due in [*waiting, answers]:
                    for must, may in due:
                        must.discard(clear)
                        may.add(clear)
            waiting.append(answers)
            await ctx.tick()
            seen["scrubs"] += ctx.get(dut.scrubbing) != 0
            if len(waiting) == 2:
                due = waiting.pop(0)
                for lane, (must, may) in enumerate(due):
                    hits = harness.slots_in(ctx.get(dut.hits[lane]))
                    assert must <= hits, f"lane {lane} must hit {must}, not {hits}"
                    assert hits <= may | must, f"lane {lane} hits {hits}, announced at most by {may}"
                    seen["hit"] += bool(hits)
                    seen["clean"] += not hits

    simulate(dut, bench, clocks=6000)
    assert min(seen.values()) > 100, f"the test met too little: {seen}"


@pytest.mark.parametrize("bank", [0, 1])
def test_a_tag_of_bad_parity_is_a_hit(bank):
    harness = Harness()
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        rows = (5, 9)
        assert (await harness.do(ctx, (LOOKUP, 0, rows)))[0] == set()
        # The other bank has the tag, this one a broken entry of slot 2.
        await harness.do(ctx, (ANNOUNCE, 2, tuple(row if place != bank else 0 for place, row in enumerate(rows))))
        assert (await harness.do(ctx, (LOOKUP, 0, rows)))[0] == set()
        entries = [ctx.get(dut.contents[bank][rows[bank]][slot]) for slot in range(harness.slots)]
        entries[2] ^= 1
        ctx.set(dut.contents[bank][rows[bank]], entries)
        assert (await harness.do(ctx, (NONE, 0, rows), (LOOKUP, 0, rows)))[1] == {2}

    simulate(dut, bench, clocks=100)


def test_a_scrub_takes_the_lanes_only_after_some_patience():
    patience = 5
    harness = Harness(slots=2, tag_bits=2, scrub_patience=patience)
    dut = harness.dut
    rows = (1, 2)

    async def bench(ctx):
        await harness.scrubbed(ctx)
        await harness.do(ctx, (ANNOUNCE, 0, rows))
        await harness.do(ctx, (ANNOUNCE, 1, rows))
        for _ in range(3):
            await harness.clear(ctx, 1)
        refused = clocks = 0
        while ctx.get(dut.scrubbing):
            harness.offer(ctx, (LOOKUP, 0, rows), (LOOKUP, 0, rows))
            refused += not ctx.get(dut.ready)
            clocks += 1
            await ctx.tick()
        assert refused == harness.rows, "a sweep takes a clock cycle for a row"
        assert clocks <= refused * patience + 2
        # The neighbour's key is still there, and the scrubbed slot's is not.
        assert (await harness.do(ctx, (LOOKUP, 0, rows)))[0] == {0}

    simulate(dut, bench, clocks=1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 12}, "rows must be a power of two, 2 or more, not 12"),
        ({"rows": 1}, "rows must be a power of two, 2 or more, not 1"),
        ({"tag_bits": 1}, "tag_bits must be between 2 and 8, not 1"),
        ({"tag_bits": 9}, "tag_bits must be between 2 and 8, not 9"),
        ({"scrub_patience": 1}, "scrub_patience must be 2 or more, not 1"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlotFilter(4, **arguments)

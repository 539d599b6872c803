"""The token keeper against plain Python: to the oldest who waits, to one at a time, and for how long."""

import random

import pytest
from bloomgate.in_flight import GRANT_MARGIN, OLDEST, PASSED_OVER
from bloomgate.parameters import Parameters
from bloomgate.registers import RequestKind
from bloomgate_hdl.token_keeper import TokenKeeper

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(slots=5, aperture_depth=8, D=16, timestamp_bits=32)
STROBES = ("begin", "submit", "discard", "decided", "committed", "keeps", "ends", "revoke")


class Expected:
    """Who has the token and who is next, as bloomgate.in_flight says; an event at a time."""

    def __init__(self, slots):
        self.ages = [0] * slots
        self.waiting = set()
        self.revoked = set()
        self.holder = None
        #: Whose request is being decided, and who was that last.
        self.chosen = None
        self.last = slots - 1
        self.grants = 0

    def choose(self):
        """When the token is free: the oldest, of equals the next one behind the last; the others grow older."""
        if self.holder is not None or self.chosen is not None or not self.waiting:
            return
        slots = len(self.ages)
        in_turn = [(self.last + 1 + step) % slots for step in range(slots)]
        self.chosen = self.last = max((slot for slot in in_turn if slot in self.waiting), key=self.ages.__getitem__)
        for slot in self.waiting - {self.chosen}:
            self.ages[slot] = min(OLDEST, self.ages[slot] + PASSED_OVER)

    def decided(self, slot, *, committed, keeps):
        self.waiting.discard(slot)
        if slot == self.chosen:
            self.chosen = None
            if keeps:
                self.holder = slot
                self.grants += 1
        if not keeps:
            self.ages[slot] = 0 if committed else min(OLDEST, self.ages[slot] + 1)
            self.over(slot)

    def over(self, slot):
        self.revoked.discard(slot)
        if slot == self.holder:
            self.holder = None

    def discard(self, slot):
        self.waiting.discard(slot)
        if slot == self.chosen:
            self.chosen = None
        self.over(slot)

    def revoke(self):
        if self.holder is not None:
            self.revoked.add(self.holder)
            self.holder = None


class Bench:
    """A token keeper, and what is expected of it."""

    def __init__(self, parameters=PARAMETERS):
        self.dut = TokenKeeper(parameters)
        self.slots = range(parameters.slots)
        self.expected = Expected(parameters.slots)

    async def give(self, ctx, **strobes):
        drive(ctx, self.dut, **strobes)
        await ctx.tick()
        drive(ctx, self.dut, **dict.fromkeys(STROBES, 0))

    async def ask(self, ctx, slot):
        await self.give(ctx, slot=slot, submit=1, kind=RequestKind.TOKEN)
        self.expected.waiting.add(slot)

    async def decide(self, ctx, slot, *, committed, keeps):
        await self.give(ctx, decided=1, decided_slot=slot, committed=committed, keeps=keeps, ends=not keeps)
        self.expected.decided(slot, committed=committed, keeps=keeps)

    async def discard(self, ctx, slot):
        await self.give(ctx, slot=slot, discard=1)
        self.expected.discard(slot)

    async def revoke(self, ctx):
        await self.give(ctx, revoke=1)
        self.expected.revoke()

    async def begin(self, ctx, slot):
        await self.give(ctx, slot=slot, begin=1)
        self.expected.revoked.discard(slot)

    async def chooses(self, ctx):
        """Time enough for it, and that it has chosen right."""
        self.expected.choose()
        for _ in range(2 * len(self.slots) + 3):
            await ctx.tick()
        self.check(ctx)

    def check(self, ctx):
        dut, expected = self.dut, self.expected

        def those(name):
            return {slot for slot in self.slots if ctx.get(getattr(dut, name)) >> slot & 1}

        assert those("waiting") == expected.waiting
        assert those("hidden") == expected.waiting - {expected.chosen}
        assert ctx.get(dut.held) == (expected.holder is not None)
        assert those("holds") == {expected.holder} - {None}
        assert expected.holder is None or ctx.get(dut.holder) == expected.holder
        assert those("revoked") == expected.revoked
        assert ctx.get(dut.grants) == expected.grants
        assert ctx.get(dut.settled) == (expected.chosen is None)


def test_random_events(seed):
    """One at a time; the keeper may choose between any two."""
    rng = random.Random(seed)
    bench = Bench()
    expected = bench.expected
    seen = set()

    async def event(ctx):
        slot = rng.choice(bench.slots)
        what = rng.choice(("ask", "ask", "ask", "verdict", "other", "discard", "revoke", "begin"))
        if what == "ask" and slot != expected.holder and slot not in expected.waiting:
            await bench.ask(ctx, slot)
        elif what == "verdict" and expected.chosen is not None:
            granted = rng.random() < 0.7
            await bench.decide(ctx, expected.chosen, committed=granted, keeps=granted)
            seen.add("granted" if granted else "refused")
        elif what == "other" and slot not in expected.waiting:
            # A commit, an abort, or a key that the holder guards.
            guards = slot == expected.holder and rng.random() < 0.5
            seen.add("guards" if guards else "given back" if slot == expected.holder else what)
            await bench.decide(ctx, slot, committed=guards or rng.random() < 0.3, keeps=guards)
        elif what == "discard":
            if slot in expected.waiting:
                seen.add("withdrawn")
            # The arbiter may have the request of the chosen one already: then its page refuses.
            if slot != expected.chosen:
                await bench.discard(ctx, slot)
        elif what == "revoke" and rng.random() < 0.3:
            if expected.holder is not None:
                seen.add(what)
            await bench.revoke(ctx)
        elif what == "begin" and slot not in expected.waiting and slot != expected.holder:
            await bench.begin(ctx, slot)

    wanted = {"granted", "refused", "guards", "given back", "withdrawn", "revoke", "other"}

    async def run(ctx):
        for events in range(20_000):
            await event(ctx)
            await bench.chooses(ctx)
            if events >= 400 and wanted <= seen:
                return
        raise AssertionError(f"the test has not seen {wanted - seen}")

    simulate(bench.dut, run, clocks=400_000)


def test_verdicts_at_any_time_keep_one_holder_and_nobody_waits_for_ever(seed):
    """With all of them asking again and again, and verdicts of others in any clock cycle: never a second one visible or
    holding, nobody granted while it is held, and nobody passed over more often than it takes to be of the greatest age,
    and once by each other slot that is.
    """
    rng = random.Random(seed)
    bench = Bench()
    dut, slots = bench.dut, bench.slots

    async def run(ctx):
        holder, waiting, waits, grants = None, set(), dict.fromkeys(slots, 0), 0
        while grants < 60:
            visible = {slot for slot in waiting if not ctx.get(dut.hidden) >> slot & 1}
            assert len(visible) <= 1
            assert not (visible and holder is not None), "a request is visible while the token is held"
            assert ctx.get(dut.held) == (holder is not None)
            strobes = {}
            asking = None
            slot = rng.choice(slots)
            if slot not in waiting and slot != holder and rng.random() < 0.8:
                asking = slot
                strobes |= {"slot": slot, "submit": 1, "kind": RequestKind.TOKEN}
            decided = rng.choice(slots)
            granted = gives_back = False
            if decided in visible and rng.random() < 0.2:
                granted = rng.random() < 0.8
                strobes |= {"decided": 1, "decided_slot": decided, "committed": granted, "keeps": granted}
            elif decided not in waiting and decided != asking and rng.random() < 0.3:
                gives_back = decided == holder
                committed = rng.random() < 0.5
                strobes |= {"decided": 1, "decided_slot": decided, "committed": committed, "keeps": 0}
            strobes["ends"] = strobes.get("decided", 0) and not strobes["keeps"]
            await bench.give(ctx, **strobes)
            if granted:
                holder = decided
                grants += 1
                for other in waiting - {decided}:
                    waits[other] += 1
                    assert waits[other] <= -(-OLDEST // PASSED_OVER) + len(slots)
            if strobes.get("decided") and decided in waiting:
                waiting.discard(decided)
                waits[decided] = 0
            if gives_back:
                holder = None
            if asking is not None:
                waiting.add(asking)

    simulate(dut, run, clocks=100_000)


def test_an_aborted_slot_goes_before_those_that_committed():
    """Ages are aborts since the last commit; a verdict that ends no transaction in flight counts for nobody."""
    bench = Bench()

    async def run(ctx):
        for slot, verdicts in ((1, "aaac"), (2, "aa"), (4, "aaa")):
            for verdict in verdicts:
                await bench.decide(ctx, slot, committed=verdict == "c", keeps=False)
        for _ in range(5):
            await bench.give(ctx, decided=1, decided_slot=3, ends=0)
        await bench.ask(ctx, 0)
        await bench.chooses(ctx)
        await bench.decide(ctx, 0, committed=True, keeps=True)
        for slot in (1, 2, 3, 4):
            await bench.ask(ctx, slot)
        order = []
        for _ in range(4):
            await bench.decide(ctx, bench.expected.holder, committed=True, keeps=False)
            await bench.chooses(ctx)
            order.append(bench.expected.chosen)
            await bench.decide(ctx, bench.expected.chosen, committed=True, keeps=True)
            await bench.chooses(ctx)
        assert order == [4, 2, 3, 1]

    simulate(bench.dut, run, clocks=500)


@pytest.mark.parametrize("clocks", [0, 1, 40])
def test_the_watchdog_takes_it_from_who_holds_it_too_long_if_it_is_on(clocks):
    bench = Bench()
    dut = bench.dut

    async def run(ctx):
        ctx.set(dut.watchdog, clocks)
        await bench.ask(ctx, 2)
        await bench.chooses(ctx)
        await bench.decide(ctx, 2, committed=True, keeps=True)
        held = 0
        while ctx.get(dut.held) and held < 3000:
            held += 1
            await ctx.tick()
        if clocks == 0:
            assert held == 3000, "nobody has asked for a watchdog"
            bench.check(ctx)
            return
        assert clocks <= held <= clocks + 2
        bench.expected.revoke()
        await bench.chooses(ctx)
        # The next one's time is counted from its own grant.
        await bench.ask(ctx, 3)
        await bench.chooses(ctx)
        await bench.decide(ctx, 3, committed=True, keeps=True)
        held = 0
        while ctx.get(dut.held):
            held += 1
            await ctx.tick()
        assert clocks <= held <= clocks + 2

    simulate(dut, run, clocks=5000)


@pytest.mark.parametrize(("bits", "margin"), [(32, GRANT_MARGIN), (8, 127)])
def test_who_asks_near_the_end_of_an_epoch_is_chosen_in_the_next_one(bits, margin):
    """The holder shall not run into a rollover."""
    parameters = Parameters(slots=5, aperture_depth=8, D=16, timestamp_bits=bits)
    bench = Bench(parameters)
    dut = bench.dut
    limit = parameters.max_count - margin

    async def holds_until(ctx, slot, count):
        await bench.ask(ctx, slot)
        await bench.chooses(ctx)
        await bench.decide(ctx, slot, committed=True, keeps=True)
        ctx.set(dut.count, count)
        await bench.chooses(ctx)
        assert not ctx.get(dut.ends_epoch)
        await bench.decide(ctx, slot, committed=True, keeps=False)

    async def run(ctx):
        for count in (limit, parameters.max_count - 1):
            ctx.set(dut.count, count)
            for _ in range(3):
                await ctx.tick()
                assert not ctx.get(dut.ends_epoch), "nobody asks"
            await bench.ask(ctx, 1)
            await ctx.tick()
            for _ in range(50):
                await ctx.tick()
                assert ctx.get(dut.ends_epoch)
                assert not ctx.get(dut.settled)
                assert ctx.get(dut.hidden) == 1 << 1
            await bench.discard(ctx, 1)
            for _ in range(2):
                await ctx.tick()
            assert not ctx.get(dut.ends_epoch)
            assert ctx.get(dut.settled)
        await bench.ask(ctx, 1)
        for _ in range(50):
            await ctx.tick()
        ctx.set(dut.count, 0)
        await bench.chooses(ctx)
        assert bench.expected.chosen == 1
        assert not ctx.get(dut.ends_epoch)
        await bench.decide(ctx, 1, committed=False, keeps=False)
        # Not while it is held, and not before.
        ctx.set(dut.count, limit - 1)
        await holds_until(ctx, 2, parameters.max_count - 1)
        for _ in range(10):
            await ctx.tick()
            assert not ctx.get(dut.ends_epoch)
        # An exhausted device has no other epoch: the arbiter refuses.
        ctx.set(dut.exhausted, 1)
        await ctx.tick()
        await bench.ask(ctx, 3)
        await bench.chooses(ctx)
        assert bench.expected.chosen == 3
        assert not ctx.get(dut.ends_epoch)

    simulate(bench.dut, run, clocks=1000)


@pytest.mark.parametrize("clocks", range(4 * PARAMETERS.slots))
def test_a_verdict_during_the_search_changes_no_choice_and_no_age(clocks):
    """It takes the clock cycle: the ages are those of who waits, and whoever is passed over grows older."""
    bench = Bench()

    async def run(ctx):
        for slot, aborts in ((0, 40), (1, 3), (2, 5), (3, 30)):
            for _ in range(aborts):
                await bench.decide(ctx, slot, committed=False, keeps=False)
        await bench.ask(ctx, 4)
        await bench.chooses(ctx)
        await bench.decide(ctx, 4, committed=True, keeps=True)
        await bench.ask(ctx, 1)
        await bench.ask(ctx, 2)
        await bench.decide(ctx, 4, committed=True, keeps=False)
        for _ in range(clocks):
            await ctx.tick()
        # It ends no transaction: nobody's age changes.
        await bench.give(ctx, decided=1, decided_slot=0, ends=0)
        await bench.chooses(ctx)
        assert bench.expected.chosen == 2
        await bench.decide(ctx, 2, committed=True, keeps=True)
        await bench.ask(ctx, 3)
        await bench.decide(ctx, 2, committed=True, keeps=False)
        await bench.chooses(ctx)
        assert bench.expected.chosen == 1, "slot 1 was passed over, and is older than slot 3"

    simulate(bench.dut, run, clocks=500)


def test_what_is_taken_away_from_who_gives_it_back_leaves_no_trace():
    bench = Bench()

    async def run(ctx):
        for end in ({"decided": 1, "decided_slot": 2, "committed": 1, "ends": 1}, {"discard": 1, "slot": 2}):
            await bench.ask(ctx, 2)
            await bench.chooses(ctx)
            await bench.decide(ctx, 2, committed=True, keeps=True)
            await bench.give(ctx, revoke=1, **end)
            bench.expected.over(2)
            await bench.chooses(ctx)

    simulate(bench.dut, run, clocks=200)

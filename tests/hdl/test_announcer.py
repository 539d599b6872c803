"""The announcer against plain Python: every key once and in order, in turns, and in one clock cycle of four."""

import random
from dataclasses import dataclass

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import RequestKind
from bloomgate_hdl.announcer import Announcer

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(slots=5, aperture_depth=32, D=16)
STROBES = ("begin", "announce", "pause", "append", "submit", "discard", "ends", "keeps")


@dataclass
class Slot:
    """What its client and the arbiter did, and what came of it."""

    in_flight: bool = False
    announcing: bool = False
    #: Keys in the read set; the first ``next`` of them were announced.
    count: int = 0
    next: int = 0
    #: It has announced a key in this transaction.
    logged: bool = False
    #: Kind of the request that is undecided.
    submitted: RequestKind | None = None
    #: Visits of others while it had something to announce and was allowed to.
    waits: int = 0

    @property
    def owes(self):
        return self.announcing and self.next < self.count


class Bench:
    """Slot pages, pipeline and arbiter around an announcer; each method but `step` is an access of this clock cycle."""

    def __init__(self, parameters=PARAMETERS):
        self.parameters = parameters
        self.dut = Announcer(parameters)
        self.slots = [Slot() for _ in range(parameters.slots)]
        self.barred = set()
        #: Slots that were visited, None in a clock cycle without, one entry a clock cycle.
        self.visits = []
        self._after = []

    def bus(self, ctx, slot, **strobes):
        drive(ctx, self.dut, slot=slot, **strobes)

    def later(self, **changes):
        """State that counts from the next clock cycle on."""
        self._after.append(changes)

    def announce(self, ctx, slot):
        state = self.slots[slot]
        self.bus(ctx, slot, announce=1, begin=not state.in_flight)
        if not state.in_flight:
            self.later(slot=slot, in_flight=True, next=0, logged=False)
        self.later(slot=slot, announcing=True)

    def pause(self, ctx, slot):
        self.bus(ctx, slot, pause=1)
        self.later(slot=slot, announcing=False)

    def append(self, ctx, slot):
        self.bus(ctx, slot, append=1)
        self.later(slot=slot, count=self.slots[slot].count + 1)

    def submit(self, ctx, slot, kind):
        self.bus(ctx, slot, submit=1, kind=kind)
        self.later(slot=slot, submitted=kind)
        if kind == RequestKind.COMMIT:
            self.later(slot=slot, announcing=False)

    def discard(self, ctx, slot):
        self.bus(ctx, slot, discard=1)
        self.later(slot=slot, in_flight=False, announcing=False, logged=False, submitted=None, count=0, next=0)

    def decide(self, ctx, slot, *, keeps):
        drive(ctx, self.dut, decided_slot=slot, keeps=keeps, ends=not keeps)
        self.later(slot=slot, submitted=None, count=0, next=0)
        if not keeps:
            self.later(slot=slot, in_flight=False, announcing=False, logged=False)

    async def step(self, ctx, *, ready=True, contended=False, forbidden=False, granted=True):
        """One clock cycle; checks what is announced in it."""
        dut, slots = self.dut, self.slots
        looked_at = ctx.get(dut.look_slot)
        asked = looked_at if granted else (looked_at + 1) % len(slots)
        drive(ctx, dut, ready=ready, contended=contended, forbidden=forbidden, look_granted=granted)
        drive(ctx, dut, read_count=slots[asked].count, position_slot=asked)
        ctx.set(dut.barred, sum(1 << slot for slot in self.barred))
        visits = ctx.get(dut.visits)
        lanes = ctx.get(dut.lanes)
        keys = [ctx.get(dut.word) * LANES + lane for lane in range(LANES) if lanes >> lane & 1]
        held_back, logged = ctx.get(dut.held_back), ctx.get(dut.logged)
        for slot, state in enumerate(slots):
            assert logged >> slot & 1 == state.logged, f"slot {slot}"
            assert not state.owes or held_back >> slot & 1, f"slot {slot} has keys that were not announced"
            assert state.announcing or not held_back >> slot & 1, f"slot {slot}"
        if slots[asked].logged:
            assert ctx.get(dut.position) == slots[asked].next
        if visits:
            state = slots[looked_at]
            assert ready
            assert granted
            assert not forbidden
            assert state.announcing
            assert looked_at not in self.barred
            # Those of one word, as far as there are any; none twice, none left out.
            end = min(state.count, (state.next // LANES + 1) * LANES)
            assert keys == list(range(state.next, end)), f"slot {looked_at}"
            self.later(slot=looked_at, next=end, **({"logged": True} if keys else {}))
            state.waits = 0
        for slot, state in enumerate(slots):
            if not state.owes or slot in self.barred:
                state.waits = 0
            elif visits and slot != looked_at:
                state.waits += 1
            # One of each other slot, and the one that was looked at already.
            assert state.waits <= len(slots), f"slot {slot}"
        self.visits.append(looked_at if visits else None)
        await ctx.tick()
        drive(ctx, dut, **dict.fromkeys(STROBES, 0))
        # A verdict or the bus may end what is announced in the same clock cycle: theirs is what counts.
        for changes in sorted(self._after, key=lambda change: "logged" in change and not change["logged"]):
            state = slots[changes.pop("slot")]
            for name, value in changes.items():
                setattr(state, name, value)
        self._after.clear()

    async def fill(self, ctx, slot, count):
        """A transaction that has keys to announce, which nobody has looked at yet."""
        for _ in range(count):
            self.append(ctx, slot)
            await self.step(ctx, granted=False)
        self.announce(ctx, slot)
        await self.step(ctx, granted=False)


def test_everything_is_announced_once_and_in_order(seed):
    """All that clients, arbiter and pipeline can do, at random; `Bench.step` has the expectations."""
    rng = random.Random(seed)
    bench = Bench()
    slots = bench.slots
    seen = set()

    async def access(ctx):
        """Of one client, as its page lets it through."""
        number = rng.randrange(len(slots))
        slot = slots[number]
        if slot.submitted is not None:
            if slot.submitted == RequestKind.TOKEN and rng.random() < 0.02:
                bench.discard(ctx, number)
            return
        choices = ["append"] * 12 * (slot.count < bench.parameters.aperture_depth) + ["announce", "announce"]
        choices += ["pause", "COMMIT", "discard"]
        choices += ["TOKEN", "GUARD"] * slot.in_flight
        what = rng.choice(choices)
        seen.add(what)
        if what in RequestKind.__members__:
            bench.submit(ctx, number, RequestKind[what])
        else:
            getattr(bench, what)(ctx, number)

    def verdict(ctx):
        """On a request that the scheduler may see."""
        held_back = ctx.get(bench.dut.held_back)
        ready = [
            number for number, slot in enumerate(slots) if slot.submitted is not None and not held_back >> number & 1
        ]
        if ready and rng.random() < 0.2:
            number = rng.choice(ready)
            keeps = slots[number].submitted != RequestKind.COMMIT and rng.random() < 0.7
            assert slots[number].submitted == RequestKind.COMMIT or not slots[number].owes
            bench.decide(ctx, number, keeps=keeps)
            seen.add("keeps" if keeps else "ends")

    async def run(ctx):
        busy, contention, bus = 0.0, 0.0, 0.0
        for clock in range(4000):
            if clock % 100 == 0:
                busy, contention, bus = rng.choice((0, 0.1, 0.5)), rng.choice((0, 0.5, 1)), rng.choice((0.3, 1))
            if rng.random() < 0.01:
                bench.barred ^= {rng.randrange(len(slots))}
            verdict(ctx)
            deciding = {changes["slot"] for changes in bench._after}
            if rng.random() < bus:
                before = len(bench._after)
                await access(ctx)
                if {changes["slot"] for changes in bench._after[before:]} & deciding:
                    # The page is busy in the clock cycle of its verdict.
                    del bench._after[before:]
                    drive(ctx, bench.dut, **dict.fromkeys(set(STROBES) - {"ends", "keeps"}, 0))
            await bench.step(
                ctx,
                ready=rng.random() >= busy / 2,
                contended=rng.random() < contention,
                forbidden=rng.random() < busy / 2,
                granted=rng.random() >= busy / 2,
            )
        bench.barred.clear()
        for _ in range(len(slots) * bench.parameters.aperture_depth + 10):
            await bench.step(ctx)
        assert not any(slot.owes for slot in slots)
        assert ctx.get(bench.dut.held_back) == 0

    simulate(bench.dut, run, clocks=5000)
    assert {"announce", "pause", "discard", "keeps", "ends", "TOKEN", "GUARD"} <= seen
    assert sum(visit is not None for visit in bench.visits) > 100


@pytest.mark.parametrize("announcing", [1, 2, 5])
def test_one_clock_cycle_in_four_whatever_others_want(announcing):
    bench = Bench()

    async def run(ctx):
        for slot in range(announcing):
            await bench.fill(ctx, slot, PARAMETERS.aperture_depth)
        del bench.visits[:]
        beats = announcing * PARAMETERS.aperture_depth // LANES
        for _ in range(4 * beats + 4):
            await bench.step(ctx, contended=True)
        clocks = [clock for clock, slot in enumerate(bench.visits) if slot is not None]
        assert len(clocks) == beats
        assert {later - earlier for earlier, later in zip(clocks, clocks[1:], strict=False)} == {4}
        # In turns.
        visited = [slot for slot in bench.visits if slot is not None]
        for turn in range(0, beats, announcing):
            assert sorted(visited[turn : turn + announcing]) == list(range(announcing))

    simulate(bench.dut, run, clocks=1000)


def test_clock_cycles_that_were_forbidden_are_made_up_for(seed):
    """Insertions must not be held up; whoever announces has one in four again as soon as they are over."""
    rng = random.Random(seed)
    bench = Bench(Parameters(slots=5, aperture_depth=512, D=16))

    async def run(ctx):
        for slot in range(5):
            await bench.fill(ctx, slot, 512)
        for _ in range(5):
            del bench.visits[:]
            forbidden = rng.randrange(1, 200)
            for _ in range(forbidden):
                await bench.step(ctx, contended=True, forbidden=True)
            assert not any(slot is not None for slot in bench.visits)
            for _ in range(forbidden // 3 + 5):
                await bench.step(ctx, contended=True)
            made = sum(slot is not None for slot in bench.visits)
            assert made >= len(bench.visits) // 4
            # And no more than that, but for the first one.
            for _ in range(40):
                await bench.step(ctx, contended=True)
            assert sum(slot is not None for slot in bench.visits) <= len(bench.visits) // 4 + 2

    simulate(bench.dut, run, clocks=8000)


@pytest.mark.parametrize(("announcing", "clocks"), [(1, 2), (2, 1), (5, 1)])
def test_a_beat_in_every_clock_cycle_that_nobody_else_wants(announcing, clocks):
    """Two where they are all of one slot, so that it announces a key a clock cycle, as fast as the bus brings them."""
    bench = Bench()

    async def run(ctx):
        for slot in range(announcing):
            await bench.fill(ctx, slot, PARAMETERS.aperture_depth)
        del bench.visits[:]
        beats = announcing * PARAMETERS.aperture_depth // LANES
        for _ in range(clocks * beats + 2):
            await bench.step(ctx)
        found = [clock for clock, slot in enumerate(bench.visits) if slot is not None]
        assert len(found) == beats
        assert found[-1] - found[0] == clocks * (beats - 1)

    simulate(bench.dut, run, clocks=1000)


@pytest.mark.parametrize("how", ["COMMIT", "pause", "discard"])
def test_announcing_ends_at_once(how):
    """Nothing is announced from the next clock cycle on, and nobody waits for it."""
    bench = Bench()

    async def run(ctx):
        await bench.fill(ctx, 3, 9)
        for _ in range(4):
            await bench.step(ctx)
        announced = bench.slots[3].next
        assert 0 < announced < 9
        if how == "COMMIT":
            bench.submit(ctx, 3, RequestKind.COMMIT)
        else:
            getattr(bench, how)(ctx, 3)
        await bench.step(ctx)
        del bench.visits[:]
        for _ in range(20):
            assert ctx.get(bench.dut.held_back) == 0
            await bench.step(ctx)
        assert set(bench.visits) == {None}

    simulate(bench.dut, run, clocks=100)


@pytest.mark.parametrize("kind", [RequestKind.TOKEN, RequestKind.GUARD])
def test_a_request_of_the_token_is_held_back_until_everything_is_announced(kind):
    bench = Bench()

    async def run(ctx):
        await bench.fill(ctx, 3, 9)
        bench.submit(ctx, 3, kind)
        await bench.step(ctx)
        for _ in range(4 * 5 + 8):
            if not ctx.get(bench.dut.held_back):
                break
            await bench.step(ctx, contended=True)
        assert bench.slots[3].next == 9
        # After a verdict with which the transaction goes on, positions are counted from 0 again.
        assert not ctx.get(bench.dut.held_back)
        bench.decide(ctx, 3, keeps=True)
        await bench.step(ctx)
        bench.append(ctx, 3)
        await bench.step(ctx)
        for _ in range(4):
            await bench.step(ctx)
        assert bench.slots[3].next == 1
        assert bench.slots[3].logged

    simulate(bench.dut, run, clocks=100)


def test_who_is_barred_waits_and_holds_up_nobody():
    """As while its slot filter is scrubbed."""
    bench = Bench()

    async def run(ctx):
        await bench.fill(ctx, 1, 8)
        await bench.fill(ctx, 2, 8)
        bench.barred = {1}
        for _ in range(12):
            await bench.step(ctx)
        assert (bench.slots[1].next, bench.slots[2].next) == (0, 8)
        assert ctx.get(bench.dut.held_back) == 1 << 1
        bench.barred = set()
        for _ in range(12):
            await bench.step(ctx)
        assert bench.slots[1].next == 8

    simulate(bench.dut, run, clocks=100)

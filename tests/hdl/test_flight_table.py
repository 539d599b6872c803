"""The flight table against plain Python: who is doomed by what, who is woken, what is logged."""

import random
from dataclasses import dataclass, field

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.flight_table import FlightTable

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(K=2, D=16, timestamp_bits=8, key_bits=8, aperture_depth=4, slots=5)
STROBES = ("begin", "discard", "end", "park", "unpark", "refuse", "late", "floor_raised", "epoch_ended", "fault")


@dataclass
class Slot:
    in_flight: bool = False
    logged: bool = False
    revalidate: bool = False
    doom: tuple | None = None
    parked: bool = False
    refused: bool = False
    wakes: int = 0
    #: What the page shows of the last doom or release.
    shown: tuple = (0, 0, 0, 0)


@dataclass
class Expected:
    """What bloomgate.in_flight says, an event at a time. A doom is (winner or None, key or None, epoch, count)."""

    slots: list = field(default_factory=lambda: [Slot() for _ in range(PARAMETERS.slots)])
    log: list = field(default_factory=list)
    holder: int | None = None
    now: tuple = (0, 0)

    def doom(self, number, winner, key):
        slot = self.slots[number]
        if not slot.in_flight or number == self.holder:
            return
        slot.revalidate = True
        if slot.doom is None:
            slot.doom = slot.shown = (winner, key, *self.now)
            self.log.append((number, slot.doom))
            if slot.parked:
                self.wake(slot)

    def wake(self, slot):
        slot.parked = False
        slot.wakes += 1

    def over(self, number):
        old = self.slots[number]
        self.slots[number] = Slot(wakes=old.wakes, shown=old.shown)

    def begin(self, number):
        self.over(number)
        self.slots[number].in_flight = True

    def refuse(self, number, key):
        self.over(number)
        self.slots[number].refused = True
        self.slots[number].shown = (self.holder, key, *self.now)
        self.log.append((number, self.slots[number].shown))

    def park(self, number):
        slot = self.slots[number]
        slot.parked = True
        if slot.doom is not None:
            self.wake(slot)
        else:
            self.release()

    def release(self):
        """Whom the token has refused, and who sleeps on it, is woken when nobody holds it."""
        for slot in self.slots:
            if self.holder is None and slot.refused and slot.parked:
                slot.shown = (None, None, *self.now)
                self.wake(slot)


def idle(ctx, dut):
    drive(ctx, dut, conflicts=0, uncertain=0, **dict.fromkeys(STROBES, 0))
    for lane in range(LANES):
        ctx.set(dut.hits[lane], 0)


async def pulse(ctx, dut, **inputs):
    """These inputs in one clock cycle; strobes, hits and conflicts only in that."""
    drive(ctx, dut, **inputs)
    await ctx.tick()
    idle(ctx, dut)


def shown(doom):
    winner = doom.winner if doom.by_slot else None
    return winner, doom.key if doom.key_known else None, doom.epoch, doom.count


def test_random_events(seed):
    rng = random.Random(seed)
    dut = FlightTable(PARAMETERS)
    expected = Expected()
    logged = []
    seen = set()

    async def follow_log(ctx):
        async for _, _, log, loser, doom in ctx.tick().sample(dut.log, dut.log_loser, dut.log_doom):
            if log:
                logged.append((loser, shown(doom)))

    async def bench(ctx):
        ctx.set(dut.log_ready, 1)
        slots = range(PARAMETERS.slots)
        for _ in range(1000):
            number = rng.randrange(len(slots))
            slot = expected.slots[number]
            keys = [rng.randrange(256) for _ in range(LANES)]
            winner = rng.randrange(len(slots))
            kind = rng.choice(
                (
                    "begin",
                    "begin",
                    "end",
                    "discard",
                    "late",
                    "hits",
                    "hits",
                    "announce",
                    "announce",
                    "announce",
                    "announce",
                    "park",
                    "unpark",
                    "floor",
                    "epoch",
                )
                + ("fault", "refuse", "token", "time")
            )
            known = rng.random() < 0.7
            drive(ctx, dut, winner=winner, winner_known=known, announcer=winner)
            for lane, key in enumerate(keys):
                ctx.set(dut.keys[lane], key)
            if kind == "begin":
                drive(ctx, dut, begin=1, slot=number)
                expected.begin(number)
            elif kind == "late":
                ctx.set(dut.late, 1)
                expected.doom(winner, None, None)
            elif kind == "end":
                drive(ctx, dut, end=1, decided_slot=number)
                expected.over(number)
            elif kind == "discard":
                drive(ctx, dut, discard=1, slot=number)
                expected.over(number)
            elif kind == "hits":
                for lane, key in enumerate(keys):
                    hit = [other for other in slots if rng.random() < 0.5]
                    ctx.set(dut.hits[lane], sum(1 << other for other in hit))
                    for other in hit:
                        if expected.slots[other].logged:
                            expected.doom(other, winner if known else None, key)
            elif kind == "announce" and expected.slots[winner].in_flight:
                announces = rng.randrange(1, 4)
                conflicts = announces & rng.choice((0, 0, 1, 2, 3))
                uncertain = announces & ~conflicts & rng.choice((0, 0, 0, 3))
                expected.slots[winner].logged = True
                drive(ctx, dut, conflicts=conflicts, uncertain=uncertain)
                for lane, key in enumerate(keys):
                    if conflicts >> lane & 1:
                        expected.doom(winner, None, key)
                if uncertain:
                    expected.slots[winner].revalidate = True
            elif kind == "park" and not slot.parked:
                drive(ctx, dut, park=1, slot=number)
                expected.park(number)
            elif kind == "unpark":
                drive(ctx, dut, unpark=1, slot=number)
                slot.parked = False
            elif kind == "floor":
                ctx.set(dut.floor_raised, 1)
                for other in slots:
                    if expected.slots[other].logged:
                        expected.doom(other, None, None)
            elif kind == "epoch":
                drive(ctx, dut, epoch_ended=1)
                for other in slots:
                    expected.doom(other, None, None)
            elif kind == "fault":
                drive(ctx, dut, fault=1)
                for other in expected.slots:
                    other.revalidate |= other.logged
            elif kind == "refuse" and expected.holder not in (None, number):
                drive(ctx, dut, refuse=1, refuse_key=keys[0], end=1, decided_slot=number)
                expected.refuse(number, keys[0])
            elif kind == "token":
                expected.holder = None if expected.holder is not None else number
                if expected.holder is not None and expected.slots[number].doom is not None:
                    expected.holder = None
                holds = 0 if expected.holder is None else 1 << expected.holder
                drive(ctx, dut, holds=holds, holder=expected.holder or 0)
                expected.release()
            elif kind == "time":
                expected.now = (rng.randrange(4), rng.randrange(1, 256))
                drive(ctx, dut, epoch=expected.now[0], count=expected.now[1])
            seen.add(kind)
            ctx.set(dut.logged, sum(state.logged << other for other, state in enumerate(expected.slots)))
            await ctx.tick()
            idle(ctx, dut)
            for _ in range(2 * len(slots) + 3):
                await ctx.tick()
            for other, state in enumerate(expected.slots):
                ctx.set(dut.look_slot, other)
                found = ctx.get(dut.state)
                assert found.doomed == (state.doom is not None), f"{kind}: slot {other}"
                assert found.told, f"{kind}: slot {other}"
                assert found.parked == state.parked, f"{kind}: slot {other}"
                assert found.wake_sequence == state.wakes % 2**16, f"{kind}: slot {other}"
                if state.doom is not None or state.wakes:
                    # By whom is only in the log.
                    assert shown(found.doom)[1:] == state.shown[1:], f"{kind}: slot {other}"
                assert ctx.get(dut.in_flight) >> other & 1 == state.in_flight
                assert not state.in_flight or ctx.get(dut.revalidate) >> other & 1 == state.revalidate
            assert sorted(logged, key=str) == sorted(expected.log, key=str)
            seen.update(name for state in expected.slots for name in ("parked", "refused") if getattr(state, name))

    simulate(dut, bench, clocks=30_000, background=(follow_log,))
    assert {"parked", "refused", "refuse", "floor", "hits"} <= seen
    assert len(expected.log) > 50


@pytest.mark.parametrize("log_ready", [1, 0])
@pytest.mark.parametrize("sleepers", [1, 5])
def test_latency_to_doom_and_wake(sleepers, log_ready):
    """All that a commit dooms and wakes see it in the next clock cycle, whatever the log is doing. What it was they are
    told one after the other, and the log must be ready for each.
    """
    dut = FlightTable(PARAMETERS)

    async def bench(ctx):
        for slot in range(PARAMETERS.slots):
            await pulse(ctx, dut, begin=1, slot=slot)
        for slot in range(sleepers):
            await pulse(ctx, dut, park=1, slot=slot)
        drive(ctx, dut, logged=(1 << PARAMETERS.slots) - 1, log_ready=log_ready)
        ctx.set(dut.hits[1], (1 << sleepers) - 1)
        for clocks in range(1, 20):
            await ctx.tick()
            idle(ctx, dut)
            for slot in range(PARAMETERS.slots):
                ctx.set(dut.look_slot, slot)
                state = ctx.get(dut.state)
                assert state.doomed == (slot < sleepers)
                assert not state.parked
                told = log_ready and clocks >= 3 + slot
                assert state.told == (told or slot >= sleepers)
                assert state.wake_sequence == (told and slot < sleepers)

    simulate(dut, bench, clocks=100)


def test_release_of_the_token_does_not_wait_for_the_log():
    """Who is woken by it makes no entry."""
    dut = FlightTable(PARAMETERS)

    async def bench(ctx):
        drive(ctx, dut, holds=1, holder=0, log_ready=1)
        for slot in range(1, PARAMETERS.slots):
            await pulse(ctx, dut, refuse=1, end=1, decided_slot=slot, refuse_key=slot)
            await pulse(ctx, dut, park=1, slot=slot)
            for _ in range(4):
                await ctx.tick()
        drive(ctx, dut, holds=0, log_ready=0)
        for _ in range(PARAMETERS.slots + 2):
            await ctx.tick()
        for slot in range(1, PARAMETERS.slots):
            ctx.set(dut.look_slot, slot)
            state = ctx.get(dut.state)
            assert (state.parked, state.wake_sequence) == (0, 1), f"slot {slot}"

    simulate(dut, bench, clocks=200)


@pytest.mark.parametrize("how", ["end", "discard"])
def test_what_ends_in_the_clock_cycle_of_its_doom_is_not_doomed(how):
    dut = FlightTable(PARAMETERS)

    async def bench(ctx):
        await pulse(ctx, dut, begin=1, slot=3)
        drive(ctx, dut, logged=1 << 3, log_ready=1, slot=3, decided_slot=3, **{how: 1})
        ctx.set(dut.hits[0], 1 << 3)
        await ctx.tick()
        idle(ctx, dut)
        drive(ctx, dut, logged=0, look_slot=3)
        for _ in range(10):
            state = ctx.get(dut.state)
            assert (state.doomed, state.parked, state.wake_sequence) == (0, 0, 0)
            assert not ctx.get(dut.revalidate)
            await ctx.tick()
        assert ctx.get(dut.state.told)

    simulate(dut, bench, clocks=100)


@pytest.mark.parametrize("doomed_too", [False, True])
@pytest.mark.parametrize("clocks", range(10))
def test_who_parks_while_others_are_woken_takes_nobodys_wake(clocks, doomed_too):
    dut = FlightTable(PARAMETERS)
    last = PARAMETERS.slots - 1

    async def bench(ctx):
        for slot in range(PARAMETERS.slots):
            await pulse(ctx, dut, begin=1, slot=slot)
        for slot in range(last):
            await pulse(ctx, dut, park=1, slot=slot)
        drive(ctx, dut, logged=(1 << PARAMETERS.slots) - 1, log_ready=1)
        ctx.set(dut.hits[1], (1 << last + doomed_too) - 1)
        for clock in range(30):
            await ctx.tick()
            idle(ctx, dut)
            if clock == clocks:
                drive(ctx, dut, park=1, slot=last)
        for slot in range(PARAMETERS.slots):
            ctx.set(dut.look_slot, slot)
            woken = slot < last or doomed_too
            state = ctx.get(dut.state)
            assert (state.parked, state.wake_sequence) == (not woken, woken), f"slot {slot}"

    simulate(dut, bench, clocks=100)


def test_a_doom_that_is_told_late_wakes_nobody_in_the_next_transaction():
    dut = FlightTable(PARAMETERS)

    async def bench(ctx):
        drive(ctx, dut, logged=1 << 4, log_ready=0, look_slot=4, slot=4, decided_slot=4)
        for strobe in ("begin", "hit", "end", "begin", "park"):
            if strobe == "hit":
                ctx.set(dut.hits[0], 1 << 4)
            await pulse(ctx, dut, **({} if strobe == "hit" else {strobe: 1}))
        ctx.set(dut.log_ready, 1)
        for _ in range(10):
            state = ctx.get(dut.state)
            assert (state.doomed, state.parked, state.wake_sequence) == (0, 1, 0)
            await ctx.tick()

    simulate(dut, bench, clocks=100)


@pytest.mark.parametrize("how", ["end", "discard"])
def test_who_waits_until_the_last_doom_is_told_gets_none_of_it(how):
    dut = FlightTable(PARAMETERS)

    async def doomed_by(ctx, key, count):
        drive(ctx, dut, logged=1 << 4, epoch=0, count=count)
        ctx.set(dut.keys[0], key)
        ctx.set(dut.hits[0], 1 << 4)
        await ctx.tick()
        idle(ctx, dut)

    async def told(ctx):
        for _ in range(10):
            if ctx.get(dut.state.told):
                return
            await ctx.tick()
        raise AssertionError("never told")

    async def bench(ctx):
        await pulse(ctx, dut, begin=1, slot=4, decided_slot=4, look_slot=4, log_ready=0)
        await doomed_by(ctx, 0x11, 1)
        await pulse(ctx, dut, **{how: 1})
        for _ in range(10):
            assert not ctx.get(dut.state.told), "the log has not taken it"
            await ctx.tick()
        ctx.set(dut.log_ready, 1)
        await told(ctx)
        for strobe in ("begin", "park"):
            await pulse(ctx, dut, **{strobe: 1})
        await doomed_by(ctx, 0x22, 2)
        await told(ctx)
        state = ctx.get(dut.state)
        assert (state.doomed, state.parked, state.wake_sequence) == (1, 0, 1)
        assert (state.doom.key, state.doom.count) == (0x22, 2)

    simulate(dut, bench, clocks=200)

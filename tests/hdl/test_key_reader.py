"""The key reader in front of a key log and a pipeline that is not always ready."""

import itertools
import random

import pytest
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.key_reader import KeyReader, Pass
from bloomgate_hdl.validation_pipeline import KeyOperation

from tests.hdl.simulation import drive, simulate

DEPTH = 16
PARAMETERS = Parameters(slots=3, aperture_depth=DEPTH, key_bits=12, D=16)
NONE, QUERY, CHECK, REPAIR, INSERT, ANNOUNCE = (
    KeyOperation[name] for name in ("NONE", "QUERY", "CHECK", "REPAIR", "INSERT", "ANNOUNCE")
)
#: CHECK has nothing here, its keys are in the queues' buffers.
PASSES = (Pass.DRAIN, Pass.VALIDATE, Pass.REPAIR, Pass.INSERT)
NO_KEY = (NONE, None, None)


def stored(slot, position):
    """The key that the test's key log has there, and whether it is bad; different everywhere."""
    return slot * DEPTH + position + 1, (slot + position) % 5 == 0


def beats_of(which, slot, reads, writes, skips=0):
    """The beats that a pass must make: ([(operation, key, bad) a lane], last)."""
    read_set = [stored(slot, position) for position in range(reads)]
    write_set = [stored(slot, DEPTH - 1 - position) for position in range(writes)]
    sets = {
        Pass.DRAIN: [],
        Pass.VALIDATE: [(QUERY, read_set), (CHECK, write_set)],
        Pass.REPAIR: [(REPAIR, read_set)],
        Pass.INSERT: [],
    }[which]
    beats = []
    if which is Pass.VALIDATE and skips:
        # Whole words of the log from the first key on, but for what is left out.
        left_out, sets = read_set[:skips], [(QUERY, read_set[skips:]), *sets[1:]]
        if len(left_out) % LANES and skips < reads:
            beats.append([NO_KEY, (QUERY, *read_set[skips])])
            sets[0] = (QUERY, read_set[skips + 1 :])
    for operation, keys in sets:
        for start in range(0, len(keys), LANES):
            lanes = [(operation, key, bad) for key, bad in keys[start : start + LANES]]
            beats.append(lanes + [NO_KEY] * (LANES - len(lanes)))
    if which is Pass.INSERT:
        # Whole words of the log, from both ends of the set in turns.
        words = list(range((DEPTH - writes) // LANES, DEPTH // LANES))
        while words:
            word = words.pop(0 if len(beats) % 2 == 0 else -1)
            positions = range(word * LANES, word * LANES + LANES)
            beats.append([(INSERT, *stored(slot, at)) if at >= DEPTH - writes else NO_KEY for at in positions])
    beats = beats or [[NO_KEY] * LANES]
    return [(beat, which is not Pass.INSERT and place == len(beats) - 1) for place, beat in enumerate(beats)]


class Bench:
    """Runs passes back to back or with gaps and records what enters the pipeline, with the clock cycle."""

    def __init__(self, passes, *, ready=lambda: True, gap=lambda: 0, announcing=None):
        """``announcing``: where the decisions come from when somebody announces, too."""
        self.passes, self.ready, self.gap, self.rng = passes, ready, gap, announcing
        self.announcements, self.announced = [], []
        self.dut = KeyReader(PARAMETERS)
        self.taken = []
        self.started = []

    def announce(self, ctx):
        """Asks for a word to be announced now and then: (slot, word, lanes), or None."""
        if self.rng is None or self.rng.random() < 0.6:
            return None
        asked = self.rng.randrange(3), self.rng.randrange(DEPTH // LANES), self.rng.randrange(4)
        drive(ctx, self.dut, announce=1, announce_slot=asked[0], announce_word=asked[1], announce_lanes=asked[2])
        return asked

    def beat(self, ctx):
        beat = self.dut.beat
        lanes = []
        for lane in range(LANES):
            operation = ctx.get(beat.lanes[lane].operation)
            if operation == NONE:
                lanes.append(NO_KEY)
            else:
                lanes.append((operation, ctx.get(beat.lanes[lane].key), bool(ctx.get(beat.lanes[lane].key_bad))))
        return lanes, bool(ctx.get(beat.last))

    async def run(self, ctx):
        dut = self.dut
        waiting = list(self.passes)
        wait, idle_for = self.gap(), 0
        for clock in itertools.count():
            ready = bool(ctx.get(dut.inserting)) or self.ready()
            ctx.set(dut.ready, ready)
            asked = self.announce(ctx) if ready and not ctx.get(dut.inserting) else None
            ending = ctx.get(dut.ending)
            assert not ending or (ready and ctx.get(dut.inserting))
            running = ctx.get(dut.active) and not ending
            start = not running and bool(waiting) and wait <= 0
            wait -= not running
            # Without a strobe they mean nothing.
            drive(ctx, dut, begin=0, start=0, start_pass=Pass.VALIDATE, read_count=clock % 16, write_count=1)
            drive(ctx, dut, next_read_count=clock % 15, next_write_count=2, next_skip_count=clock % 5)
            slot_next = ctx.get(dut.slot)
            if start:
                which, slot_next, reads, writes, *skips = waiting.pop(0)
                if which is Pass.VALIDATE:
                    drive(ctx, dut, begin=1, next_read_count=reads, next_write_count=writes)
                    ctx.set(dut.next_skip_count, *skips or [0])
                else:
                    drive(ctx, dut, start=1, start_pass=which, read_count=reads, write_count=writes)
                wait = self.gap()
                self.started.append(clock)
            lanes, last = self.beat(ctx)
            if ready and ctx.get(dut.announces):
                assert not last
                self.announced.append((ctx.get(dut.beat.slot), lanes))
            elif ready and (last or lanes != [NO_KEY] * LANES):
                self.taken.append((clock, lanes, last))
            read, slot, word = ctx.get(dut.read), ctx.get(dut.read_slot), ctx.get(dut.read_word)
            if asked:
                self.announcements.append(asked)
                assert (slot, word) == asked[:2]
            await ctx.tick()
            drive(ctx, dut, announce=0, slot=slot_next)
            # The key log.
            if read:
                for lane in range(LANES):
                    key, bad = stored(slot, word * LANES + lane)
                    ctx.set(dut.keys[lane], key)
                    ctx.set(dut.bad[lane], bad)
            # Until whatever the last pass left has had the time to come out, or too much.
            idle_for = 0 if ctx.get(dut.active) or waiting else idle_for + ready
            if idle_for > 8:
                return

    def check(self):
        simulate(self.dut, self.run, clocks=6000)
        expected = []
        for some_pass in self.passes:
            beats = beats_of(*some_pass)
            expected += [beat for beat in beats if beat[1] or beat[0] != [NO_KEY] * LANES]
        assert [(lanes, last) for _, lanes, last in self.taken] == expected
        assert len(self.announcements) - len(self.announced) <= 1, "the last one may be on its way"
        for (slot, lanes), (asked_slot, word, present) in zip(self.announced, self.announcements, strict=False):
            assert slot == asked_slot
            assert lanes == [
                (ANNOUNCE, *stored(slot, word * LANES + lane)) if present >> lane & 1 else NO_KEY
                for lane in range(LANES)
            ]


@pytest.mark.parametrize("which", PASSES, ids=lambda which: which.name)
def test_every_split_of_the_sets(which):
    """Odd and even numbers of keys, up to a slot full of either set or of both: order, lanes, last."""
    counts = [(reads, writes) for reads in range(DEPTH + 1) for writes in range(DEPTH + 1 - reads)]
    counts = [(r, w) for r, w in counts if r + w == DEPTH or r + w <= 5]
    Bench([(which, (r + w) % 3, r, w) for r, w in counts]).check()


@pytest.mark.parametrize("skips", range(1, 6))
def test_validation_leaves_out_what_was_announced(skips):
    Bench([(Pass.VALIDATE, 1, r, w, skips) for r in range(skips, 8) for w in range(4)]).check()


def test_passes_go_on_behind_announcements(seed):
    rng = random.Random(seed)
    passes = []
    for _ in range(30):
        reads = rng.randint(0, DEPTH)
        skips = rng.choice((0, rng.randint(0, reads)))
        passes.append((rng.choice(PASSES), rng.randrange(3), reads, rng.randint(0, DEPTH - reads), skips))
    bench = Bench(passes, ready=lambda: rng.random() < 0.7, gap=lambda: rng.choice((0, 0, 3)), announcing=rng)
    bench.check()
    assert bench.announcements


def test_random_passes_with_backpressure_and_gaps(seed):
    rng = random.Random(seed)
    passes = []
    for _ in range(20):
        reads = rng.randint(0, DEPTH)
        passes.append((rng.choice(PASSES), rng.randrange(3), reads, rng.randint(0, DEPTH - reads)))
    for unready in (0.0, 0.5, 0.9):
        Bench(passes, ready=lambda p=unready: rng.random() >= p, gap=lambda: rng.choice((0, 0, 1, 3))).check()


def test_first_beat_after_two_clocks_then_one_a_clock_without_a_gap_behind_an_insertion():
    passes = [
        (Pass.INSERT, 2, 0, 4),
        (Pass.VALIDATE, 0, 5, 3),
        (Pass.INSERT, 0, 0, 3),
        (Pass.DRAIN, 0, 3, 3),
    ]
    bench = Bench(passes)
    bench.check()
    clocks = [clock for clock, _, _ in bench.taken]
    assert clocks[0] - bench.started[0] == 2
    inserted, validated, inserted_then = 2, 5, 2
    first = clocks[: inserted + validated]
    assert first == list(range(first[0], first[0] + len(first)))
    then = clocks[inserted + validated :]
    assert then[0] - bench.started[2] == 2
    assert then == list(range(then[0], then[0] + inserted_then + 1))


def test_a_request_is_validated_once_more_from_its_first_key_on():
    """The second time nothing is left out, and the keys to be written follow again."""
    dut = KeyReader(PARAMETERS)

    async def bench(ctx):
        drive(ctx, dut, ready=1, slot=1, read_count=3, write_count=2, next_read_count=3, next_write_count=2)
        beats = []
        for strobe, skips in (("begin", 3), ("start", 0)):
            drive(ctx, dut, start_pass=Pass.VALIDATE, next_skip_count=skips, **{strobe: 1})
            for _ in range(6):
                read, word = ctx.get(dut.read), ctx.get(dut.read_word)
                await ctx.tick()
                drive(ctx, dut, begin=0, start=0)
                for lane in range(LANES):
                    ctx.set(dut.keys[lane], stored(1, word * LANES + lane)[0] if read else 0)
                operations = [ctx.get(lane.operation) for lane in dut.beat.lanes]
                if any(operation != NONE for operation in operations):
                    beats.append((operations, ctx.get(dut.beat.lanes[0].key), ctx.get(dut.beat.last)))
        written = stored(1, DEPTH - 1)[0]
        assert beats == [
            ([CHECK, CHECK], written, 1),
            ([QUERY, QUERY], stored(1, 0)[0], 0),
            ([QUERY, NONE], stored(1, 2)[0], 0),
            ([CHECK, CHECK], written, 1),
        ]

    simulate(dut, bench, clocks=40)


def test_reset_state_is_no_pass():
    dut = KeyReader(PARAMETERS)

    async def bench(ctx):
        ctx.set(dut.ready, 1)
        for _ in range(4):
            assert not ctx.get(dut.ending)
            assert not ctx.get(dut.beat.last)
            assert all(ctx.get(lane.operation) == NONE for lane in dut.beat.lanes)
            await ctx.tick()

    simulate(dut, bench, clocks=20)

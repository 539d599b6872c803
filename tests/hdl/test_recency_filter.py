"""The recency filter against a model of its own: plain lists, and a dict of the exact truth."""

import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.recency_filter import FilterOperation, RecencyFilter

from tests.hdl.simulation import drive, simulate

NONE, QUERY, REPAIR, INSERT = (FilterOperation[name] for name in ("NONE", "QUERY", "REPAIR", "INSERT"))

GEOMETRIES = [
    Parameters(K=2, D=16, timestamp_bits=10, key_bits=8),
    Parameters(K=1, D=16, timestamp_bits=5, key_bits=8),
    Parameters(K=3, D=32, timestamp_bits=32, key_bits=8),
]


def present(ctx, dut, operations):
    """Drives one (operation, rows) a lane."""
    for lane, (operation, rows) in enumerate(operations):
        ctx.set(dut.lanes[lane].operation, operation)
        for table, row in enumerate(rows):
            ctx.set(dut.lanes[lane].rows[table], row)


def results(ctx, dut):
    """(conflict, uncertain, bad_words) a lane."""
    return [
        tuple(ctx.get(getattr(dut.results[lane], name)) for name in ("conflict", "uncertain", "bad_words"))
        for lane in range(LANES)
    ]


class Harness:
    """One access at a time, for tests that say what they want instead of drawing it."""

    def __init__(self, parameters=GEOMETRIES[0]):
        self.parameters = parameters
        self.dut = RecencyFilter(parameters)

    def idle(self, ctx):
        present(ctx, self.dut, [(NONE, (0,) * self.parameters.K)] * LANES)

    async def scrubbed(self, ctx):
        while not ctx.get(self.dut.ready):
            await ctx.tick()

    async def do(self, ctx, *operations):
        """Offers a beat until it is accepted and returns what its lanes answer, 2 clock cycles later."""
        operations = [*operations, *[(NONE, (0,) * self.parameters.K)] * (LANES - len(operations))]
        present(ctx, self.dut, operations)
        while not ctx.get(self.dut.ready):
            await ctx.tick()
        await ctx.tick()
        self.idle(ctx)
        await ctx.tick()
        return results(ctx, self.dut)

    async def inject(self, ctx, table, row):
        drive(ctx, self.dut, inject=1, inject_table=table, inject_row=row)
        assert not ctx.get(self.dut.ready), "ready while injecting"
        await ctx.tick()
        ctx.set(self.dut.inject, 0)


# -- time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [16, 32])
def test_reset_and_scrub_take_half_the_rows_and_forget_everything(depth):
    parameters = Parameters(K=2, D=depth, timestamp_bits=8, key_bits=8)
    harness = Harness(parameters)
    dut = harness.dut
    everything = [(row, row) for row in range(depth)]

    async def not_ready(ctx):
        clocks = 0
        while not ctx.get(dut.ready):
            assert ctx.get(dut.scrubbing)
            # What is offered meanwhile must leave no trace.
            present(ctx, dut, [(INSERT, (clocks % depth,) * 2), (REPAIR, (clocks % depth,) * 2)])
            await ctx.tick()
            clocks += 1
        assert not ctx.get(dut.scrubbing)
        harness.idle(ctx)
        return clocks

    async def nothing_is_known(ctx):
        drive(ctx, dut, snapshot=0, floor=0)
        for first, second in zip(everything[::2], everything[1::2], strict=True):
            assert await harness.do(ctx, (QUERY, first), (QUERY, second)) == [(0, 0, 0)] * 2

    async def bench(ctx):
        ctx.set(dut.newest, 5)
        assert await not_ready(ctx) == depth // 2
        await nothing_is_known(ctx)
        # Once, and again while the first scrub runs or ends.
        for again_after in (None, 1, depth // 2 - 1, depth // 2):
            for rows in everything:
                present(ctx, dut, [(INSERT, rows), (INSERT, rows)])
                await ctx.tick()
            harness.idle(ctx)
            await harness.inject(ctx, 1, 3)
            for wait in [0] if again_after is None else [again_after - 1, 0]:
                ctx.set(dut.scrub, 1)
                assert not ctx.get(dut.ready), "ready in the clock cycle of the strobe"
                await ctx.tick()
                ctx.set(dut.scrub, 0)
                for _ in range(wait):
                    await ctx.tick()
            assert await not_ready(ctx) == depth // 2
            await nothing_is_known(ctx)

    simulate(dut, bench, clocks=40 * depth)


def test_reset_in_operation_scrubs_again():
    parameters = GEOMETRIES[0]
    harness = Harness(parameters)
    m = Module()
    reset = Signal()
    m.submodules.dut = ResetInserter(reset)(harness.dut)

    async def bench(ctx):
        await harness.scrubbed(ctx)
        ctx.set(harness.dut.newest, 7)
        await harness.do(ctx, (INSERT, (4, 5)))
        assert await harness.do(ctx, (QUERY, (4, 5))) == [(1, 0, 0), (0, 0, 0)]
        present(ctx, harness.dut, [(QUERY, (4, 5))] * LANES)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        harness.idle(ctx)
        for clock in range(parameters.D // 2):
            assert not ctx.get(harness.dut.ready), f"ready {clock} clock cycles after reset"
            assert results(ctx, harness.dut) == [(0, 0, 0)] * LANES
            await ctx.tick()
        assert ctx.get(harness.dut.ready)
        assert await harness.do(ctx, (QUERY, (4, 5))) == [(0, 0, 0)] * LANES

    simulate(m, bench, clocks=100)


def test_result_comes_two_clocks_after_acceptance_and_for_one_clock():
    harness = Harness()
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        ctx.set(dut.newest, 1)
        await harness.do(ctx, (INSERT, (1, 2)))
        seen = []
        present(ctx, dut, [(NONE, (0, 0)), (QUERY, (1, 2))])
        for _ in range(5):
            seen.append(results(ctx, dut)[1][0])
            await ctx.tick()
            harness.idle(ctx)
        assert seen == [0, 0, 1, 0, 0]

    simulate(dut, bench, clocks=100)


# -- order and lanes ----------------------------------------------------------------------


def test_a_query_sees_the_insertions_of_earlier_clocks_only():
    harness = Harness()
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        ctx.set(dut.newest, 3)
        for inserting in range(LANES):
            rows = (inserting, inserting + 8)
            beat = [(QUERY, rows)] * LANES
            beat[inserting] = (INSERT, rows)
            assert await harness.do(ctx, *beat) == [(0, 0, 0)] * LANES
            # In the very next clock cycle, on both lanes, it counts.
            rows = (inserting + 4, inserting + 12)
            beat = [(NONE, rows)] * LANES
            beat[inserting] = (INSERT, rows)
            present(ctx, dut, beat)
            await ctx.tick()
            assert await harness.do(ctx, (QUERY, rows), (QUERY, rows)) == [(1, 0, 0)] * LANES

    simulate(dut, bench, clocks=100)


def test_one_old_table_suffices_and_equal_is_not_newer():
    """The answer is the minimum over the tables, and a snapshot sees its own timestamp."""
    harness = Harness(Parameters(K=3, D=16, timestamp_bits=8, key_bits=8))
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        for count, rows in ((5, (1, 1, 2)), (6, (1, 2, 1)), (7, (2, 1, 1))):
            ctx.set(dut.newest, count)
            await harness.do(ctx, (INSERT, rows))
        # Table by table the words at row 1 are 6, 7, 7; at row 2 they are 7, 6, 5; at row 3 nothing.
        for rows, minimum in {
            (1, 1, 1): 6,
            (2, 2, 2): 5,
            (1, 2, 2): 5,
            (1, 1, 3): 0,
            (3, 1, 1): 0,
            (1, 3, 1): 0,
        }.items():
            for snapshot in range(9):
                drive(ctx, dut, snapshot=snapshot, floor=0)
                expected = (int(minimum > snapshot), 0, 0)
                assert await harness.do(ctx, (QUERY, rows), (REPAIR, rows)) == [expected] * LANES, (rows, snapshot)
        # The floor is a lower bound of every answer, with the same comparison.
        for floor in (3, 4, 5):
            drive(ctx, dut, snapshot=4, floor=floor)
            assert await harness.do(ctx, (QUERY, (3, 3, 3))) == [(int(floor > 4), 0, 0), (0, 0, 0)]

    simulate(dut, bench, clocks=300)


def test_counts_are_compared_in_full_width():
    parameters = Parameters(K=1, D=16, timestamp_bits=32, key_bits=8)
    harness = Harness(parameters)
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        for row, bit in enumerate(range(0, 32, 3)):
            ctx.set(dut.newest, 1 << bit)
            await harness.do(ctx, (INSERT, (row,)))
            for snapshot, expected in (((1 << bit) - 1, 1), (1 << bit, 0), (parameters.max_count, 0)):
                ctx.set(dut.snapshot, snapshot)
                assert (await harness.do(ctx, (QUERY, (row,))))[0] == (expected, 0, 0)

    simulate(dut, bench, clocks=300)


# -- parity -------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [0, 1, 2])
def test_a_bad_word_reads_as_newest_until_repair(table):
    harness = Harness(Parameters(K=3, D=16, timestamp_bits=8, key_bits=8))
    dut = harness.dut
    rows = (5, 6, 7)
    repaired_rows = tuple(row if number == table else 1 for number, row in enumerate(rows))

    async def bench(ctx):
        await harness.scrubbed(ctx)
        ctx.set(dut.newest, 4)
        await harness.do(ctx, (INSERT, rows))
        ctx.set(dut.newest, 9)
        await harness.inject(ctx, table, rows[table])

        async def ask(operation, snapshot):
            ctx.set(dut.snapshot, snapshot)
            return (await harness.do(ctx, (operation, rows)))[0]

        for _ in range(2):  # a QUERY mends nothing
            assert await ask(QUERY, 3) == (1, 1, 1), "conflicts, but perhaps only for the bad word"
            assert await ask(QUERY, 4) == (0, 0, 1), "a good word of the others says it is old"
            assert await ask(QUERY, 9) == (0, 0, 1), "nothing is newer than the newest"
        # With a floor that says it anyway the bad word makes no difference.
        ctx.set(dut.floor, 8)
        assert await ask(QUERY, 7) == (1, 0, 1)
        ctx.set(dut.floor, 0)
        assert await ask(REPAIR, 4) == (0, 0, 1)
        assert await ask(QUERY, 3) == (1, 0, 0)
        # It was rewritten with 9, the newest timestamp, as a key shows that was committed then and shares this word.
        await harness.do(ctx, (INSERT, (1, 1, 1)))
        for snapshot, expected in ((8, 1), (9, 0)):
            ctx.set(dut.snapshot, snapshot)
            assert (await harness.do(ctx, (QUERY, repaired_rows)))[0] == (expected, 0, 0)

    simulate(dut, bench, clocks=200)


def test_repair_writes_the_newest_timestamp_and_stalls_for_one_clock():
    harness = Harness(Parameters(K=1, D=16, timestamp_bits=8, key_bits=8))
    dut = harness.dut

    async def bench(ctx):
        await harness.scrubbed(ctx)
        drive(ctx, dut, newest=9, snapshot=9)
        await harness.inject(ctx, 0, 3)
        await harness.inject(ctx, 0, 4)
        present(ctx, dut, [(REPAIR, (3,)), (REPAIR, (4,))])
        await ctx.tick()
        # Accepted before the repair: it meets the bad words too, and mends them a second time.
        present(ctx, dut, [(REPAIR, (4,)), (REPAIR, (5,))])
        assert ctx.get(dut.ready)
        await ctx.tick()
        present(ctx, dut, [(QUERY, (3,)), (QUERY, (4,))])
        assert results(ctx, dut) == [(0, 0, 1), (0, 0, 1)]
        assert not ctx.get(dut.ready), "ready while repairing"
        await ctx.tick()
        assert results(ctx, dut) == [(0, 0, 1), (0, 0, 0)]
        assert not ctx.get(dut.ready), "ready while repairing"
        await ctx.tick()
        assert ctx.get(dut.ready)
        for snapshot, expected in ((8, 1), (9, 0)):
            ctx.set(dut.snapshot, snapshot)
            assert await harness.do(ctx, (QUERY, (3,)), (QUERY, (4,))) == [(expected, 0, 0)] * LANES
        assert await harness.do(ctx, (QUERY, (5,)), (QUERY, (2,))) == [(0, 0, 0)] * LANES

    simulate(dut, bench, clocks=100)


# -- everything at once -------------------------------------------------------------------


class Model:
    """The contract, clock by clock. `words` are (count, bad); `truth` is what no answer may be older than."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.scrub()
        #: (operation, rows, words as read) accepted in the clock before, and the answers due in this one.
        self.reading = [(NONE, (), [], 0)] * LANES
        self.due = [(0, 0, 0)] * LANES
        #: Words to be rewritten in this clock cycle; it is one in which words can be.
        self.repairs, self.repairing = [], False
        self.scrub_left = parameters.D // 2

    def scrub(self):
        self.words = [[(0, False)] * self.parameters.D for _ in range(self.parameters.K)]
        self.truth = {}

    def ready(self, inputs):
        return not (self.scrub_left or inputs["scrub"] or inputs["inject"] or self.repairing)

    def clock(self, inputs, operations):
        """One clock cycle; the answers of the next one are then in `due`."""
        newest, snapshot, floor = inputs["newest"], inputs["snapshot"], inputs["floor"]
        accepted = operations if self.ready(inputs) else [(NONE, ())] * LANES
        due, repairs = [], []
        repairing = any(operation is REPAIR for operation, *_ in self.reading)
        for operation, rows, words, truth in self.reading:
            if operation not in (QUERY, REPAIR):
                due.append((0, 0, 0))
                continue
            bad = sum(is_bad for _, is_bad in words)
            minimum = min(newest if is_bad else count for count, is_bad in words)
            conflict = max(floor, minimum) > snapshot
            assert conflict or truth <= snapshot, "the model itself is older than an insertion"
            due.append((int(conflict), int(conflict and floor <= snapshot and bad > 0), bad))
            if operation is REPAIR:
                repairs += [(table, rows[table]) for table, (_, is_bad) in enumerate(words) if is_bad]
        reading = [
            (operation, rows, [self.words[t][r] for t, r in enumerate(rows)], self.truth.get(rows, 0))
            for operation, rows in accepted
        ]
        for operation, rows in accepted:
            if operation is INSERT:
                self.truth[rows] = newest
                for table, row in enumerate(rows):
                    self.words[table][row] = (newest, False)
        if inputs["inject"]:
            self.words[inputs["inject_table"]][inputs["inject_row"]] = (0, True)
        elif not self.scrub_left:
            for table, row in self.repairs:
                self.words[table][row] = (newest, False)
        if inputs["scrub"]:
            self.scrub_left = self.parameters.D // 2
            self.scrub()
        elif self.scrub_left:
            self.scrub_left -= 1
        self.reading, self.due, self.repairs, self.repairing = reading, due, repairs, repairing


@pytest.mark.parametrize("collide", [False, True], ids=["all rows", "few rows"])
@pytest.mark.parametrize("parameters", GEOMETRIES, ids=lambda p: f"K{p.K}D{p.D}T{p.timestamp_bits}")
def test_random_operations_on_both_lanes_in_every_clock(parameters, collide, seed):
    rng = random.Random(seed)
    dut = RecencyFilter(parameters)
    model = Model(parameters)
    range_of_rows = 3 if collide else parameters.D
    #: Keys in the sense of the truth: fixed combinations of rows.
    keys = [tuple(rng.randrange(range_of_rows) for _ in range(parameters.K)) for _ in range(6 if collide else 20)]
    seen = {"conflict": 0, "bad": 0, "old": 0, "repair": 0, "scrub": 0, "same row": 0}

    async def bench(ctx):
        newest = floor = 0
        in_flight = [False, False]
        for clock in range(400):
            quiet = not any(in_flight)
            inputs = {"scrub": 0, "inject": 0, "inject_table": 0, "inject_row": 0}
            if quiet and rng.random() < (0.02 if seen["scrub"] else 0.2 * (clock > 150)):
                inputs["scrub"], newest, floor = 1, 0, 0
                seen["scrub"] += 1
            elif not model.scrub_left and not model.repairs and rng.random() < 0.08:
                inputs["inject"] = 1
                inputs["inject_table"] = rng.randrange(parameters.K)
                inputs["inject_row"] = rng.choice(keys)[inputs["inject_table"]]
            if rng.random() < 0.15:
                newest = min(newest + rng.choice((1, 1, 1, max(1, parameters.max_count // 64))), parameters.max_count)
            if rng.random() < 0.03:
                floor = rng.randint(floor, newest)
            if quiet:
                snapshot = max(0, min(newest + rng.randint(-9, 2), parameters.max_count))
            inputs |= {"newest": newest, "snapshot": snapshot, "floor": floor}
            drive(ctx, dut, **inputs)
            # Now and then a clock without queries, so that the snapshot can change.
            choices = (NONE, INSERT) if rng.random() < 0.3 else (NONE, QUERY, QUERY, REPAIR, INSERT)
            operations = [(rng.choice(choices), rng.choice(keys)) for _ in range(LANES)]
            if rng.random() < 0.3:
                operations[1] = (operations[1][0], operations[0][1])
            seen["same row"] += operations[0][1] == operations[1][1]
            present(ctx, dut, operations)
            assert ctx.get(dut.ready) == model.ready(inputs), f"ready in clock {clock}"
            assert ctx.get(dut.scrubbing) == (model.scrub_left > 0), f"scrubbing in clock {clock}"
            assert results(ctx, dut) == model.due, f"results in clock {clock}"
            accepted = model.ready(inputs) and any(operation in (QUERY, REPAIR) for operation, _ in operations)
            in_flight = [bool(accepted), in_flight[0]]
            was_reading = model.reading
            model.clock(inputs, operations)
            seen["repair"] += len(model.repairs)
            for (operation, *_), (conflict, _, bad_words) in zip(was_reading, model.due, strict=True):
                seen["conflict"] += conflict
                seen["bad"] += bad_words
                seen["old"] += operation in (QUERY, REPAIR) and not conflict
            await ctx.tick()

    simulate(dut, bench, clocks=500)
    assert all(seen.values()), f"not everything happened: {seen}"


def test_never_older_than_the_insertion_whatever_the_rows(seed):
    """The one promise that everything rests on, with nothing of the model but the dict."""
    rng = random.Random(seed)
    parameters = Parameters(K=2, D=16, timestamp_bits=12, key_bits=8)
    harness = Harness(parameters)
    dut = harness.dut
    keys = [(rng.randrange(16), rng.randrange(16)) for _ in range(40)]

    async def bench(ctx):
        await harness.scrubbed(ctx)
        inserted = {}
        for count in range(1, 60):
            drive(ctx, dut, newest=count, snapshot=0)
            pair = rng.sample(keys, LANES)
            await harness.do(ctx, *((INSERT, key) for key in pair))
            inserted.update(dict.fromkeys(pair, count))
            if rng.random() < 0.2:
                table = rng.randrange(parameters.K)
                await harness.inject(ctx, table, rng.choice(keys)[table])
            for key in rng.sample(sorted(inserted), 2):
                ctx.set(dut.snapshot, inserted[key] - 1)
                answer = (await harness.do(ctx, (rng.choice((QUERY, REPAIR)), key)))[0]
                assert answer[0], f"{key}, inserted at {inserted[key]}, is not newer than the snapshot before"

    simulate(dut, bench, clocks=3000)

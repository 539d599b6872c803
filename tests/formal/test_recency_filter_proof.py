"""The recency filter never reports an inserted key as older than its insertion."""

import pytest

from tests.formal import mutations, sby
from tests.formal.mutations import Mutation
from tests.formal.recency_filter_properties import RecencyFilterProperties

#: Clock cycles: a scrub takes 2, an operation 3; this leaves room for operations between and after two scrubs.
DEPTH = 20 if sby.FULL else 12
HARNESS = "tests.formal.recency_filter_properties:RecencyFilterProperties"
FILE = "recency_filter.py"

MUTATIONS = [
    Mutation(
        "one table inserts nothing",
        FILE,
        "write.en.eq(accepted[lane].operation == FilterOperation.INSERT)",
        "write.en.eq((accepted[lane].operation == FilterOperation.INSERT) & (table != 1))",
        "a committed key would look as old as its stalest table",
    ),
    Mutation(
        "snapshot off by one",
        FILE,
        "word[:count_bits] > snapshot",
        "word[:count_bits] > snapshot + 1",
        "the first commit after the snapshot would be missed",
    ),
    Mutation(
        "scrub stops one row early",
        FILE,
        "scrub_row.all()",
        "(scrub_row == 0)",
        "the last two rows would keep counts of an older epoch",
    ),
    Mutation(
        "bad parity trusted",
        FILE,
        "Mux(word_is_bad, newest_is_newer, word[:count_bits] > snapshot)",
        "word[:count_bits] > snapshot",
        "a corrupted word could hide a commit",
    ),
    Mutation(
        "repair takes the wrong lane's row",
        FILE,
        "row.eq(stage_3[lane].rows[table])",
        "row.eq(stage_2[lane].rows[table])",
        "the bad word would stay, and another row's count be lost",
    ),
    Mutation(
        "snapshot of the clock cycle after",
        FILE,
        "m.d.sync += [snapshot.eq(self.snapshot), floor",
        "m.d.comb += snapshot.eq(self.snapshot)\n        m.d.sync += [floor",
        "an announcement would be compared with the snapshot of whoever comes behind it",
    ),
    Mutation(
        "floor ignored",
        FILE,
        "result.conflict.eq(floor_is_newer | newer[lane].all())",
        "result.conflict.eq(newer[lane].all())",
        "the way out for what cannot be inserted would be closed",
    ),
]


@pytest.mark.formal
def test_never_older_than_its_insertion():
    sby.prove(RecencyFilterProperties(), "recency_filter", depth=DEPTH, timeout=1200 if sby.FULL else 240)


@pytest.mark.formal
def test_the_properties_are_not_vacuous():
    sby.prove(RecencyFilterProperties(cover=True), "recency_filter_cover", mode="cover", depth=16, timeout=240)


@pytest.mark.formal
@pytest.mark.parametrize("mutation", mutations.parameters(MUTATIONS, short=3))
def test_the_proof_catches(mutation):
    mutations.check_caught(mutation, HARNESS, depth=DEPTH, timeout=240)

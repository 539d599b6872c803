"""The slot filter never loses an announced key, and never takes a tag of an earlier life for a present one."""

import pytest

from tests.formal import mutations, sby
from tests.formal.mutations import Mutation
from tests.formal.slot_filter_properties import SlotFilterProperties

#: Clock cycles: a scrub takes 4, a lookup 3, and the third time a set is emptied its generation wraps.
DEPTH = 20 if sby.FULL else 12
HARNESS = "tests.formal.slot_filter_properties:SlotFilterProperties"
FILE = "slot_filter.py"

MUTATIONS = [
    Mutation(
        "a wrap asks for no scrub",
        FILE,
        "wrapped[slot].eq(last)",
        "wrapped[slot].eq(0)",
        "keys of the slot's first life would be in its set again",
    ),
    Mutation(
        "a scrub empties the sets of all slots",
        FILE,
        "Mux(sweeps, swept,",
        "Mux(sweeps, ~0,",
        "one slot's wrap would lose the others' keys",
    ),
    Mutation(
        "a slot that wraps during a sweep is done with it",
        FILE,
        "self.scrubbing & ~swept | wrapped",
        "self.scrubbing & ~swept",
        "the rows that the sweep had passed would keep its old tags",
    ),
    Mutation(
        "the sweep leaves out the last rows",
        FILE,
        "sweep & swept_row.all()",
        "sweep & swept_row[1:].all()",
        "old tags would survive there",
    ),
    Mutation(
        "a key may differ in any bit",
        FILE,
        "(all_below & all_but_one_above) | (all_but_one_below & all_above)",
        "all_but_one_below | all_but_one_above",
        "everything would be in every set",
    ),
    Mutation(
        "a sweep that takes the lanes leaves them ready",
        FILE,
        "self.ready.eq(~due)",
        "self.ready.eq(1)",
        "an announcement would be lost",
    ),
]


@pytest.mark.formal
def test_no_announced_key_is_lost():
    sby.prove(SlotFilterProperties(), "slot_filter", depth=DEPTH, timeout=1200 if sby.FULL else 240)


@pytest.mark.formal
def test_a_wrap_a_false_hit_and_a_miss_can_happen():
    sby.prove(SlotFilterProperties(cover=True), "slot_filter_cover", mode="cover", depth=16, timeout=240)


@pytest.mark.formal
@pytest.mark.parametrize("mutation", mutations.parameters(MUTATIONS, short=3))
def test_the_slot_filter_proof_catches(mutation):
    mutations.check_caught(mutation, HARNESS, depth=DEPTH, timeout=240)

"""The commit arbiter decides each request exactly once, and in the order of the timestamps."""

import pytest

from tests.formal import mutations, sby
from tests.formal.commit_arbiter_properties import PATIENCE, CommitArbiterProperties
from tests.formal.mutations import Mutation

#: Clock cycles: in 14 a request is validated, decided and inserted, and the next one's validation follows.
DEPTH = 18 if sby.FULL else 14
#: Clock cycles: long enough for a request to run out of patience.
LIVELY_DEPTH = PATIENCE + 5
HARNESS = "tests.formal.commit_arbiter_properties:CommitArbiterProperties"

MUTATIONS = [
    Mutation(
        "last key of an odd set dropped",
        "key_reader.py",
        "read_present[lane].eq(left > lane)",
        "read_present[lane].eq(left > LANES - 1)",
        "a read would go unchecked, or a write uninserted",
    ),
    Mutation(
        "next request validated beside the insertion",
        "commit_arbiter.py",
        "with m.If(Mux(queued, self.queue_ending & ~key_reader.offers, key_reader.ending)):",
        "with m.If(key_reader.read):",
        "it would not see all of the commit before it",
    ),
    Mutation(
        "timestamp given twice",
        "commit_arbiter.py",
        "Mux(guards, counter.count, next_count)",
        "Mux(guards, counter.count, counter.count)",
        "two commits would share a timestamp",
    ),
    Mutation(
        "snapshot from the future accepted",
        "decision.py",
        "(request.snapshot_count > self.count)",
        "(request.snapshot_count > self.count + 1)",
        "nothing is known about conflicts with commits that were not made yet",
    ),
    Mutation(
        "reset forgets the request at hand",
        "request_scheduler.py",
        "self.next_request.reset.eq(self.request.reset | self.reset)",
        "self.next_request.reset.eq(self.request.reset)",
        "a request from before the reset would be validated against the empty filter",
    ),
    Mutation(
        "withheld verdict overwritten",
        "commit_arbiter.py",
        "with m.If(~withheld):",
        "with m.If(1):",
        "the client would get the next request's",
    ),
    Mutation(
        "lost key forgiven",
        "commit_arbiter.py",
        "counter.raise_floor.eq(self.raise_floor | lost | too_many)",
        "counter.raise_floor.eq(self.raise_floor | too_many)",
        "a committed write would leave no trace in the filter",
    ),
    Mutation(
        "second lane's failure ignored",
        "decision.py",
        "for lane in reversed(range(LANES)):",
        "for lane in reversed(range(LANES - 1)):",
        "every second conflict would be missed",
    ),
]

LIVELY_MUTATIONS = [
    Mutation(
        "withheld verdict lost",
        "commit_arbiter.py",
        "withheld.eq(withholds | (withheld & ~gives))",
        "withheld.eq(withholds)",
        "the client would wait for ever",
    ),
    Mutation(
        "completion lost after a repair",
        "commit_arbiter.py",
        "decides.eq(weighs & ~blocked",
        "decides.eq(weighs & ~repairing & ~blocked",
        "the client would wait for ever",
    ),
]


@pytest.mark.formal
def test_decided_once_and_in_order():
    sby.prove(CommitArbiterProperties(), "commit_arbiter", depth=DEPTH, timeout=3000 if sby.FULL else 290)


@pytest.mark.formal
def test_decided_in_bounded_time():
    sby.prove(CommitArbiterProperties(lively=True), "commit_arbiter_lively", depth=LIVELY_DEPTH, timeout=290)


@pytest.mark.formal
def test_the_properties_are_not_vacuous():
    sby.prove(CommitArbiterProperties(cover=True), "commit_arbiter_cover", mode="cover", depth=24, timeout=240)


@pytest.mark.formal
@pytest.mark.parametrize("mutation", mutations.parameters(MUTATIONS, short=3))
def test_the_proof_catches(mutation):
    mutations.check_caught(mutation, HARNESS, depth=DEPTH, timeout=290)


@pytest.mark.formal
@pytest.mark.parametrize("mutation", mutations.parameters(LIVELY_MUTATIONS, short=0))
def test_the_bound_catches(mutation):
    mutations.check_caught(mutation, HARNESS, depth=LIVELY_DEPTH, timeout=290, arguments={"lively": True})

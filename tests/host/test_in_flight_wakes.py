"""Wake-ups, in every order in which a few slots can do what they do."""

from collections.abc import Iterator, Sequence

import pytest
from bloomgate import Reason

from tests.in_flight_devices import LEAN_PARAMS, opened


@pytest.fixture(params=LEAN_PARAMS)
def device(request):
    with opened(request.param, "") as device:
        yield device


def interleavings(programs: Sequence[Sequence[str]]) -> Iterator[list[tuple[int, str]]]:
    """Every order of the steps of these programs, each step with the number of its program."""
    if not any(programs):
        yield []
    for number, program in enumerate(programs):
        if program:
            rest = [*programs[:number], program[1:], *programs[number + 1 :]]
            for later in interleavings(rest):
                yield [(number, program[0]), *later]


def step(device, slot, what: str):
    """One step; a number in it is a key."""
    name, _, key = what.partition(" ")
    if name == "begin":
        return slot.begin(device.last_timestamp())
    if name == "commit":
        verdict = slot.commit(writes=[int(key)])
        device.publish(verdict.timestamp)
        return verdict
    if name == "announce":
        return slot.announce([int(key)])
    if name == "revoke":
        return device.revoke_token()
    return getattr(slot, name)()


def test_the_orders_are_all_there_are():
    orders = {tuple(order) for order in interleavings([("a", "b"), ("c",)])}
    assert orders == {((0, "a"), (0, "b"), (1, "c")), ((0, "a"), (1, "c"), (0, "b")), ((1, "c"), (0, "a"), (0, "b"))}


def test_a_sleeper_and_two_writers(device):
    """It sleeps as long as nothing that it has announced has changed since its snapshot, and no longer."""
    slots = [device.open_slot() for _ in range(3)]
    sleeper = slots[0]
    programs = [("begin", "announce 1", "announce 2", "park"), ("begin", "commit 1"), ("begin", "commit 3")]
    orders = list(interleavings(programs))
    assert len(orders) == 420
    for order in orders:
        snapshot, changed, announced, asked = None, None, set(), False
        wakes = sleeper.last_wake.sequence
        for number, what in order:
            result = step(device, slots[number], what)
            key = int(what[-1]) if what[-1].isdigit() else None
            if number == 0:
                snapshot = device.last_timestamp() if what == "begin" else snapshot
                announced |= {key} - {None}
                asked = asked or what == "park"
            else:
                changed = result.timestamp if key == 1 else changed
            stale = snapshot is not None and changed is not None and changed > snapshot and 1 in announced
            assert (sleeper.doomed is not None) is stale, order
            assert sleeper.parked is (asked and not stale), order
            assert sleeper.last_wake.sequence - wakes == (asked and stale), order
            if asked and stale:
                assert sleeper.last_wake.timestamp >= changed
        sleeper.cancel()


@pytest.mark.parametrize("end", ["commit 9", "cancel", "close", "revoke"])
def test_who_was_refused_and_the_end_of_the_token(device, end):
    """Whoever was refused is awake when the token is free, however that came."""
    holder, other = device.open_slot(), device.open_slot()
    refused = 0
    for order in interleavings([("begin", "announce 1", "request_token", end), ("begin", "commit 1", "park")]):
        was_refused = False
        for number, what in order:
            if what == "park" and not was_refused:
                continue
            if what == end and holder.announced is None:
                continue  # what it had announced was stale, and the request for the token has ended it
            result = step(device, (holder, other)[number], what)
            if number == 1 and what == "commit 1":
                was_refused = result.reason is Reason.IRREVOCABLE
        assert not other.parked, order
        refused += was_refused
        holder.close()
        holder = device.open_slot()
    assert refused >= 3

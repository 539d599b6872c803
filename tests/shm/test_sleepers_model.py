"""Sleeping until FLIGHT changes, in every interleaving: shm/flight.c in plain Python, without the timeouts that it has.

The owner of a slot looks, and sleeps. Two others take the mutex, one after the other, to wake it; one of them may die
at any step in there. The checker finds a state from which the owner cannot come to its end: a lost wake-up.
"""

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.shm.interleavings import Access, Continue, Explorer, Wrong, load, store

Steps = Generator[Any, Any, None]

#: Steps of a waker that has something to do.
LONGEST = 8


@dataclass(frozen=True)
class Rules:
    """What the protocol rests on; a test leaves out one at a time."""

    #: The sleeper announces itself before it looks for the last time.
    announced_first: bool = True
    #: The waker looks for sleepers after it has changed the word.
    told_first: bool = True
    #: The kernel lets nobody sleep whose futex has changed.
    futex_compared: bool = True
    #: Who takes the mutex from a dead one wakes everybody.
    woken_again: bool = True


MEMORY = {"parked": 1, "word": 1, "wake": 0, "asleep": 0, "sleeping": 0, "mutex": 0, "dead": 0}


def lock(me: int) -> Access:
    """The answer: None if another one has it, else whether that one has died in it."""

    def action(memory: dict[Any, Any]) -> Any:
        if memory["mutex"] and memory["mutex"] != memory["dead"]:
            return None
        taken_over = bool(memory["mutex"])
        memory["mutex"] = me
        return taken_over

    return Access(action, f"lock by {me}")


def wake() -> Access:
    """The increment and FUTEX_WAKE; that they are two steps changes nothing, since the increment alone wakes nobody."""

    def action(memory: dict[Any, Any]) -> None:
        memory["wake"] += 1
        memory["sleeping"] = 0

    return Access(action, "wake")


def fall_asleep(rules: Rules, turn: int) -> Access:
    def action(memory: dict[Any, Any]) -> None:
        if memory["wake"] == turn or not rules.futex_compared:
            memory["sleeping"] = 1

    return Access(action, f"sleep unless wake has changed from {turn}")


def waker(rules: Rules, me: int, life: int) -> Steps:
    """Takes the mutex and wakes; dies after ``life`` steps in there."""
    taken_over = yield lock(me)
    if taken_over is None:
        yield Continue(waker, (rules, me, life))
    steps = in_mutex(rules, taken_over)
    answer = None
    for _ in range(life):
        try:
            answer = yield steps.send(answer)
        except StopIteration:
            yield store("mutex", 0)
            return
    yield store("dead", me)


def in_mutex(rules: Rules, taken_over: bool) -> Steps:
    if taken_over and rules.woken_again and (yield load("asleep")):
        yield wake()
    yield store("parked", 0)
    if (yield load("word")) == 0:
        return
    if rules.told_first:
        yield store("word", 0)
        asleep = yield load("asleep")
    else:
        asleep = yield load("asleep")
        yield store("word", 0)
    if asleep:
        yield wake()


def sleeper(rules: Rules) -> Steps:
    seen = yield load("word")
    if (yield lock(3)) is None:
        yield Continue(sleeper, (rules,))
    parked = yield load("parked")
    yield store("mutex", 0)
    if not parked:
        return
    if not rules.announced_first:
        word = yield load("word")
    turn = yield load("wake")
    yield store("asleep", 1)
    if rules.announced_first:
        word = yield load("word")
    if word == seen:
        yield fall_asleep(rules, turn)
    yield Continue(until_awake, (rules,))


def until_awake(rules: Rules) -> Steps:
    if (yield load("sleeping")):
        yield Continue(until_awake, (rules,))
    yield store("asleep", 0)
    yield Continue(sleeper, (rules,))


def explore(rules: Rules) -> int:
    """Every place where the first waker may die, and every interleaving. Raises :class:`Wrong`."""
    states = 0
    for life in (*range(LONGEST), 99):
        explorer = Explorer(MEMORY, [(sleeper, rules), (waker, rules, 1, life), (waker, rules, 2, 99)], deaths=0)
        explorer.run()
        states += explorer.states
    return states


def test_no_wake_up_is_lost() -> None:
    assert explore(Rules()) > 1000


@pytest.mark.parametrize("rule", [field.name for field in dataclasses.fields(Rules)])
def test_no_rule_can_be_left_out(rule: str) -> None:
    with pytest.raises(Wrong, match="nobody can come to an end any more"):
        explore(dataclasses.replace(Rules(), **{rule: False}))

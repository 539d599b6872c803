"""The protocol of shared transactions under every interleaving, with deaths; and that it needs each of its rules."""

import dataclasses

import pytest

from tests.shm.interleavings import Continue, Explorer, Wrong, load, store
from tests.shm.publication_model import (
    Rules,
    committer,
    consistent,
    finished_by_the_next,
    helper,
    memory,
    reader,
)

#: Of each: how many may die, then what each client commits: (location, digit) for each commit. Then the programs of
#: those who commit nothing.
SCENARIOS = {
    # Both write the same location, and one uses its record again.
    "two clients": (1, [((0, 1), (1, 2)), ((0, 3),)], []),
    # As many commits as make every word of every version change twice while a helper is stopped anywhere.
    "a late helper": (1, [((0, 1), (0, 2), (0, 3))], [helper]),
    # The third commit has the record and the sequence of the first, but another location.
    "a late helper after the sequence has wrapped": (0, [((0, 1), (0, 2), (1, 3))], [helper]),
    "a reader": (0, [((0, 1), (0, 2), (0, 3))], [reader]),
    "two helpers": (1, [((0, 1), (0, 2))], [helper, helper]),
}


def explore(rules: Rules, name: str) -> int:
    deaths, commits, others = SCENARIOS[name]
    clients = len(commits)
    processes: list[tuple[object, ...]] = [
        (committer, rules, clients, number, operations) for number, operations in enumerate(commits)
    ]
    for program in others:
        processes.append((program, rules, clients) if program is helper else (program, rules))
    explorer = Explorer(
        memory(clients), processes, consistent, lambda state: finished_by_the_next(state, clients), deaths
    )
    explorer.run()
    return explorer.states


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interleaving(name: str) -> None:
    assert explore(Rules(), name) > 1000


@pytest.mark.parametrize("rule", [field.name for field in dataclasses.fields(Rules)])
def test_no_rule_can_be_left_out(rule: str) -> None:
    """Each is needed in at least one of the small scenarios."""
    broken = dataclasses.replace(Rules(), **{rule: False})
    for name in SCENARIOS:
        if name != "two helpers":
            try:
                explore(broken, name)
            except Wrong:
                return
    pytest.fail(f"without {rule} everything still works: it is not needed, or not tested")


# The checker itself.


def increment():
    value = yield load("counter")
    yield store("counter", value + 1)


def spin():
    if (yield load("flag")) == 0:
        yield Continue(spin, ())


def set_flag():
    yield load("counter")
    yield store("flag", 1)


def two(state):
    assert state["counter"] == 2


def test_the_checker_finds_a_lost_update() -> None:
    with pytest.raises(Wrong, match="load counter"):
        Explorer({"counter": 0}, [(increment,), (increment,)], at_end=two, deaths=0).run()
    Explorer({"counter": 1}, [(increment,)], at_end=two, deaths=0).run()


def test_the_checker_finds_who_waits_for_the_dead() -> None:
    programs = [(spin,), (set_flag,)]
    with pytest.raises(Wrong, match="come to an end"):
        Explorer({"counter": 0, "flag": 0}, programs, deaths=1).run()

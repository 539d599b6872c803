"""Containers against their builtin counterparts, in transactions that commit or are undone, wholly or in part."""

from __future__ import annotations

import copy
from array import array
from collections import deque
from typing import Any

import pytest
from bloomgate import stm
from bloomgate.stm import TArray, TDeque, TDict, TList, TSet, atomic, in_place, or_else, retry
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.stm import test_containers as calls
from tests.stm.core_cases import together

#: Operations of a transaction.
SOME = 3


class Undone(Exception):
    pass


class Machine(RuleBasedStateMachine):
    """The builtin is copied where ours is to be undone."""

    ours: Any
    builtin: Any

    @staticmethod
    def contents(container: Any) -> Any:
        return list(container)

    def perform(self, operations: list[tuple[Any, ...]]) -> None:
        calls.run_both(operations, self.ours, self.builtin)

    def alone(self, operations: list[tuple[Any, ...]]) -> None:
        """Each is a transaction."""
        self.perform(operations)

    def committed(self, operations: list[tuple[Any, ...]]) -> None:
        """All of them are one, in another thread."""
        together(lambda: atomic(self.perform)(operations))

    def undone(self, operations: list[tuple[Any, ...]]) -> None:
        before = copy.copy(self.builtin)

        @atomic
        def fail() -> None:
            self.perform(operations)
            raise Undone

        with pytest.raises(Undone):
            fail()
        self.builtin = before

    def undone_in_part(self, first: list[tuple[Any, ...]], operations: list[tuple[Any, ...]]) -> None:
        @atomic
        def whole() -> None:
            self.perform(first)
            self.undone(operations)
            self.perform(first)

        whole()

    def waits_and_does_something_else(self, first: list[tuple[Any, ...]], operations: list[tuple[Any, ...]]) -> None:
        before = copy.copy(self.builtin)

        def waits() -> None:
            self.perform(first)
            retry()

        def instead() -> None:
            self.builtin = before
            self.perform(operations)

        or_else(waits, instead)

    @invariant()
    def equal(self) -> None:
        assert self.contents(self.ours) == self.contents(self.builtin)
        assert len(self.ours) == len(self.builtin)


def machine(ours: Any, builtin: Any, kinds: Any, contents: Any = list) -> type[Machine]:
    operations = st.lists(st.one_of([call for _, call in kinds]), min_size=1, max_size=SOME)

    class Concrete(Machine):
        def __init__(self) -> None:
            super().__init__()
            self.builtin = builtin()
            self.ours = ours()

        alone = rule(operations=operations)(Machine.alone)
        committed = rule(operations=operations)(Machine.committed)
        undone = rule(operations=operations)(Machine.undone)
        undone_in_part = rule(first=operations, operations=operations)(Machine.undone_in_part)
        waits_and_does_something_else = rule(first=operations, operations=operations)(
            Machine.waits_and_does_something_else
        )

    Concrete.contents = staticmethod(contents)
    return Concrete


MACHINES = {
    "TDict": machine(TDict, dict, calls.DICT, lambda container: list(container.items())),
    "TSet": machine(TSet, set, calls.SET, lambda container: set(container)),
    "TList": machine(TList, list, calls.LIST),
    "TDeque": machine(TDeque, deque, calls.DEQUE),
    "TArray": machine(lambda: TArray("h", range(5)), lambda: array("h", range(5)), calls.ARRAY),
}


@pytest.mark.parametrize("name", MACHINES)
def test_it_is_as_the_builtin_all_the_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # No block may run again: it would change the builtin twice. In place it does, when it changes a container.
    monkeypatch.setattr(in_place, "ENABLED", False)
    case = MACHINES[name].TestCase
    case.settings = settings(max_examples=40, stateful_step_count=8)
    stm.use_device("soft:")
    try:
        case().runTest()
    finally:
        stm.use_device(None)

"""A small model checker: every interleaving of a few processes, each of which may die or be stopped anywhere.

A process is a Python generator that yields its accesses to shared memory, one at a time; between them it may compute
what it likes from what it has read. All states that any schedule can reach are visited once. What is checked: no
assertion of a process fails, the invariant holds in every state, and from every state all processes that live can come
to their end, however many others have died before. A process that is stopped for ever looks like a dead one; one that
is resumed later is one of the schedules.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple


class Access(NamedTuple):
    """One indivisible step: ``action(memory)`` may read and change the memory, and returns what the process learns."""

    action: Callable[[dict[Any, Any]], Any]
    #: For traces.
    what: str


class Continue(NamedTuple):
    """Go on as another program and forget everything else: equal states become one. A loop must do so."""

    program: Callable[..., Generator[Any, Any, None]]
    arguments: tuple[Any, ...]


def load(word: Any) -> Access:
    return Access(lambda memory: memory[word], f"load {word}")


def store(word: Any, value: Any) -> Access:
    return Access(lambda memory: memory.__setitem__(word, value), f"store {word} {value}")


def swap(word: Any, before: Any, after: Any) -> Access:
    def action(memory: dict[Any, Any]) -> bool:
        if memory[word] != before:
            return False
        memory[word] = after
        return True

    return Access(action, f"swap {word} {before} -> {after}")


class Wrong(AssertionError):
    """The protocol fails; the message has the steps that lead there."""


#: A process: program, arguments, what its accesses since then have returned. None: at its end, or dead.
Process = tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]
State = tuple[tuple[Any, ...], tuple[Process | None, ...]]


class Explorer:
    def __init__(
        self,
        memory: Mapping[Any, Any],
        processes: list[tuple[Any, ...]],
        invariant: Callable[[dict[Any, Any]], None] = lambda memory: None,
        at_end: Callable[[dict[Any, Any]], None] = lambda memory: None,
        deaths: int = 1,
    ) -> None:
        """``processes``: of each the program and its arguments. ``deaths``: how many of them may die."""
        self._words = tuple(memory)
        self._start: State = (
            tuple(memory.values()),
            tuple((program, tuple(arguments), ()) for program, *arguments in processes),
        )
        self._invariant = invariant
        self._at_end = at_end
        self._deaths = deaths
        self._next: dict[Process, Access | None] = {}
        self.states = 0

    def run(self) -> None:
        """Raises :class:`Wrong`."""
        start = (self._start, 0)
        parents: dict[Any, Any] = {start: None}
        into: dict[Any, list[Any]] = {}
        ends = []
        todo = [start]
        while todo:
            here = todo.pop()
            memory = dict(zip(self._words, here[0][0], strict=True))
            try:
                self._invariant(memory)
                followers = list(self._followers(here, memory))
                if all(process is None for process in here[0][1]):
                    self._at_end(memory)
                    ends.append(here)
            except AssertionError as error:
                raise Wrong(f"{error}\n{self._trace(parents, here)}") from error
            for what, there in followers:
                if there not in parents:
                    parents[there] = (here, what)
                    todo.append(there)
                into.setdefault(there, []).append(here)
        self.states = len(parents)
        reach = set(ends)
        while ends:
            for before in into.get(ends.pop(), ()):
                if before not in reach:
                    reach.add(before)
                    ends.append(before)
        for state in parents:
            if state not in reach:
                raise Wrong(f"nobody can come to an end any more\n{self._trace(parents, state)}")

    def _followers(self, here: Any, memory: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
        (values, processes), dead = here
        for number, process in enumerate(processes):
            if process is None:
                continue
            if dead < self._deaths:
                rest = (*processes[:number], None, *processes[number + 1 :])
                yield f"process {number} dies", ((values, rest), dead + 1)
            access = self._access(process)
            assert access is not None
            changed = dict(memory)
            result = access.action(changed)
            program, arguments, history = process
            after = self._settle((program, arguments, (*history, result)))
            now = (tuple(changed[word] for word in self._words), (*processes[:number], after, *processes[number + 1 :]))
            yield f"process {number}: {access.what} = {result}", (now, dead)

    def _settle(self, process: Process) -> Process | None:
        """The process at its next access."""
        while True:
            yielded = self._access(process)
            if not isinstance(yielded, Continue):
                return None if yielded is None else process
            process = (yielded.program, yielded.arguments, ())

    def _access(self, process: Process) -> Any:
        """What it does next, by running it again with the same answers."""
        if process not in self._next:
            program, arguments, history = process
            generator = program(*arguments)
            try:
                yielded = next(generator)
                for result in history:
                    yielded = generator.send(result)
            except StopIteration:
                yielded = None
            self._next[process] = yielded
        return self._next[process]

    @staticmethod
    def _trace(parents: dict[Any, Any], state: Any) -> str:
        lines = []
        while parents[state] is not None:
            state, what = parents[state]
            lines.append(f"  {what}")
        return "\n".join(reversed(lines))

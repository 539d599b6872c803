"""Transactions of a thread that is alone, which change variables in place: see alone.py."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional, TypeVar, Union

from bloomgate.stm.alone import Era, alone, issue_stamp
from bloomgate.stm.attempt import Attempt, Mark
from bloomgate.stm.context import IDLE, Context, here, snapshots
from bloomgate.stm.errors import Restart, RetrySignal
from bloomgate.stm.hooks import finish
from bloomgate.stm.operations import Operation
from bloomgate.stm.version import Location, Version

if TYPE_CHECKING:
    from bloomgate.stm.runtime import Runtime

__all__ = ["AGAIN", "InPlace", "begin", "run_in_place"]

T = TypeVar("T")

#: Transactions of a thread in a row, without one of another thread in between, after which it tries to be alone.
PATIENCE = 32
#: It grows up to this when being alone was soon over.
LONGEST_PATIENCE = 1 << 14

#: With a GIL, threads run in turn, and each of them can be alone in its turn.
_TURNS: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
#: Seconds, for which a sleep is long enough to give the GIL away; and how often a transaction does that at its begin.
_PAUSE = 1e-6
_PAUSES = 2

#: Switched off by tests and benchmarks of ordinary attempts.
ENABLED = True

AGAIN = object()

#: What it has read and written, as others would have to know.
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class InPlace(Attempt):
    """It has to run again as an ordinary one when it needs what only that has: :class:`Restart`."""

    in_place = True
    plain = False
    # Of no version. Writing goes by the stamp.
    identity: object = object()
    part: object = object()
    reads = writes = _NOTHING  # type: ignore[assignment]

    def __init__(self, runtime: Runtime, context: Context, era: Era) -> None:
        self.runtime = runtime
        self.context = context
        self.era = era
        self.snapshot = alone.timestamp
        self.eras = alone.count
        #: {"committed": ...} as soon as that is decided, by the first ``setdefault``.
        self.fate: dict[str, bool] = {}
        #: Its number.
        self.first: int = issue_stamp()
        #: That of the nested call that is running, or its own.
        self.stamp = self.first
        #: (variable, its value before, its stamp before) for what nested calls write, while there is one.
        self.undo_log: list[tuple[Any, Any, int]] = []

    @property
    def committed(self) -> bool:
        """Whether it is."""
        return self.fate.get("committed", False)

    def commit(self) -> None:
        """Make what it has written the newest. Raises :class:`Restart` if another thread came before that."""
        if not self.fate.setdefault("committed", True) and self.era.wrote:
            raise Restart

    def known(self, location: Location) -> Optional[Version]:
        """As if nothing was read or written before: :meth:`at_snapshot` has the value in any case."""
        return None

    def read(self, location: Location) -> Any:
        """The value that the transaction sees."""
        if location._movable and self._take(location):
            return location._value  # type: ignore[attr-defined]
        # As long as it has only read, it can go on with that when the thread is not alone any more.
        if location._shared or (self.era.wrote and alone.era is not self.era):
            self.run_again()
        return super().at_snapshot(location)

    at_snapshot = read

    def run_again(self) -> NoReturn:
        """It cannot be committed, also if the function catches what this raises."""
        self.era.wrote = True
        alone.end(self.era)
        raise Restart

    def _take(self, variable: Any) -> bool:
        """Whether the value is in place, after having brought it there if need be."""
        era = self.era
        return alone.era is era and (variable._era is era or alone.take(variable, era))

    def write(self, location: Location, value: Any) -> None:
        """Set the value; what TVar.value does inline, and for nested calls."""
        if not (location._movable and self._take(location)):
            self.run_again()
        variable: Any = location
        stamp = self.stamp
        # In this order: a signal handler may write it in between, as a part of this.
        old = variable._value
        last = variable._stamp
        if last != stamp:
            if last < self.first:
                variable._before = old
            if stamp != self.first:
                self.undo_log.append((variable, old, last))
            self.era.wrote = True
            variable._stamp = stamp
        variable._value = value

    def commute(self, location: Location, operation: Operation, operand: Any) -> None:
        """Do it at once: there is nobody to conflict with."""
        self.write(location, operation.evaluate(self.read(location), operand, self.write))

    def enter(self) -> Mark:
        """Begin a part that can be undone."""
        hooks = self.hooks
        counts = (0, 0) if hooks is None else (len(hooks.on_commit), len(hooks.on_abort))
        era = self.era
        mark = Mark(len(self.undo_log), counts, False, (self.stamp, era.stamp))
        era.stamp = 0
        self.stamp = issue_stamp()
        era.stamp = -self.stamp
        return mark

    def leave(self, mark: Mark) -> None:
        """Keep the part."""
        stamp: int
        outer: int
        stamp, outer = mark.part  # type: ignore[misc]
        for variable, _, _ in self.undo_log[mark.journal :]:
            variable._stamp = stamp
        if stamp == self.first:
            self.undo_log.clear()
        self.stamp = stamp
        self.era.stamp = outer

    def undo(self, mark: Mark) -> None:
        """Take the part back."""
        if alone.era is not self.era and self.era.wrote:
            self.run_again()
        while len(self.undo_log) > mark.journal:
            variable, value, stamp = self.undo_log[-1]
            # In this order: see alone.py. Out of the log when it is done, because an exception can come in between.
            variable._value = value
            variable._stamp = stamp
            self.undo_log.pop()
        if self.hooks is not None:
            self.hooks.undo(mark)
        self.leave(mark)


def begin(runtime: Runtime) -> Optional[InPlace]:
    """A new attempt in place, if the calling thread is alone."""
    if not ENABLED:
        return None
    mine = here.mine
    if mine is None:
        mine = here.context()
    era = mine.era
    if era is not alone.era:
        patience = mine.patience or PATIENCE
        if era is not None:
            mine.patience = 0 if era.commits >= patience else min(2 * patience, LONGEST_PATIENCE)
            mine.era = None
        if _TURNS:
            _make_way(mine)
        mine.in_a_row += 1
        if mine.in_a_row <= (mine.patience or PATIENCE):
            return None
        mine.in_a_row = 0
        quiet = functools.partial(_quiet, runtime)
        era = alone.claim(mine.thread, quiet)
        if era is None and _TURNS and snapshots[mine.number] == IDLE:
            alone.wanted = mine.thread
            try:
                _pause()
                era = alone.claim(mine.thread, quiet)
            finally:
                alone.wanted = 0
        if era is None:
            return None
        mine.era = era
    # From here on a signal handler ends the era, so that no stamp is between that of this attempt and the one before.
    interrupted, era.running = era.running, True
    if interrupted or not era.decided():
        # This is a signal handler that has interrupted it; or it was interrupted so often that nothing ended it.
        alone.end(era)
        return None
    era.wrote = False
    era.attempt = attempt = InPlace(runtime, mine, era)
    # While it is registered no other thread can be alone, even if this one is not any more.
    snapshots[mine.number] = mine.last_snapshot
    return attempt


def _make_way(mine: Context) -> None:
    """Let another thread come to be alone, or to the end of its transaction in place. Nothing may be registered yet.

    With a GIL, threads that contend are mostly stopped in the middle of a transaction, and keep each other from being
    alone: then all of them pay for ordinary attempts.
    """
    if alone.wanted and alone.wanted != mine.thread:
        _pause()
    for _ in range(_PAUSES):
        era = alone.active
        if era is None or not era.running or era.thread == mine.thread:
            return
        _pause()


def _pause() -> None:
    """Give the GIL away; it takes sys.getswitchinterval() to get it back from a thread that computes."""
    time.sleep(_PAUSE)


def _quiet(runtime: Runtime) -> Optional[int]:
    """What is published, if nobody is in the middle of anything; or None."""
    # In this order: who is registered can still commit, and end.
    idle = all(snapshot == IDLE for snapshot in snapshots.copy().values())
    return runtime.quiet() if idle else None


def run_in_place(attempt: InPlace, function: Callable[..., T], args: Any, kwargs: Any) -> Union[T, object]:
    """``AGAIN`` when the function has to run again in an ordinary attempt."""
    era = attempt.era
    mine = attempt.context
    try:
        try:
            here.tx = attempt
            if alone.active is not era or alone.era is not era:
                # Whoever ended it has perhaps not seen the attempt.
                attempt.run_again()
            era.stamp = attempt.first
            result = function(*args, **kwargs)
            # Finalisers that run from here on are not part of the transaction.
            era.stamp = 0
            here.tx = None
            attempt.commit()
            wrote = era.wrote
        finally:
            era.stamp = 0
            era.running = False
            here.tx = None
            attempt.runtime.end(attempt)
        era.commits += 1
        if wrote:
            mine.commits += 1
        else:
            mine.read_only += 1
        if attempt.hooks is not None:
            finish(attempt, True)
        return result
    except BaseException as error:
        here.tx = None
        attempt.runtime.end(attempt)
        # What it has written stays where it is, marked as lost; so nobody may use values in place as they are.
        alone.end(era)
        committed = attempt.committed
        if isinstance(error, (Restart, RetrySignal)) and not committed:
            mine.other_aborts += 1
            finish(attempt, False)
            return AGAIN
        mine.exceptions += 1
        finish(attempt, committed)
        raise

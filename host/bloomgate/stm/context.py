"""What each thread has of its own: the attempt it is running, its registered snapshot, its counters."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from bloomgate.stm.alone import Era
    from bloomgate.stm.attempt import Attempt
    from bloomgate.stm.limits import Allowance

__all__ = [
    "COUNTERS",
    "IDLE",
    "Context",
    "contexts",
    "forget_other_threads",
    "here",
    "oldest_snapshot",
    "snapshots",
    "totals",
]

#: Registered by a thread that runs no transaction; greater than every timestamp.
IDLE = 1 << 65

#: Number of the context -> the snapshot of its transaction, or IDLE. A dict, because its stores and copies are atomic
#: in every Python: a reader registers first and reads ``published`` second, a pruner the other way round.
snapshots: dict[int, int] = {}

COUNTERS = (
    "commits",
    "read_only",
    "conflicts",
    "other_aborts",
    "retries",
    "exceptions",
    "escalations",
    "helps",
    "versions_gone",
)


class Context:
    """One thread's share."""

    __slots__ = ("__weakref__", "begun", "era", "in_a_row", "last_snapshot", "number", "patience", "thread", *COUNTERS)

    commits: int
    read_only: int
    conflicts: int
    other_aborts: int
    retries: int
    exceptions: int
    escalations: int
    helps: int
    versions_gone: int

    def __init__(self) -> None:
        with _lock:
            global _numbers
            _numbers += 1
            self.number = _numbers
            _fold()
        #: threading.get_ident()
        self.thread = threading.get_ident()
        #: Not newer than the next one.
        self.last_snapshot = 0
        #: Ordinary attempts.
        self.begun = 0
        #: The last one in which it was alone.
        self.era: Optional[Era] = None
        #: Transactions since another thread began one, and after how many it tries to be alone; 0: as many as usual.
        self.in_a_row = 0
        self.patience = 0
        for name in COUNTERS:
            setattr(self, name, 0)
        snapshots[self.number] = IDLE
        # Last, because an exception can come before.
        contexts[self.number] = self


class _Here(threading.local):
    #: The transaction that this thread is in the middle of.
    tx: Optional[Attempt] = None
    #: For how long that may wait; None: for ever.
    allowance: Optional[Allowance] = None
    #: Its context, once it has asked for it.
    mine: Optional[Context] = None
    _owner: Optional[_Owner] = None

    def context(self) -> Context:
        mine = self.mine
        if mine is None:
            self._owner = _Owner()
            mine = self.mine = self._owner.context
        return mine


class _Owner:
    """Lives as long as its thread, and then hands the counters over."""

    context: Context

    def __init__(self) -> None:
        # Kept here, because at the end of the interpreter this module may be cleared first.
        self._tables = (snapshots, contexts, _finished)
        self.context = Context()

    def __del__(self) -> None:
        if "context" not in self.__dict__:
            # An exception came in the middle of __init__.
            return
        snapshots, contexts, finished = self._tables
        number = self.context.number
        snapshots.pop(number, None)
        # May run within any allocation of any thread, so it takes no lock.
        if contexts.pop(number, None) is not None:
            finished.append(self.context)


_lock = threading.Lock()
_numbers = 0
contexts: dict[int, Context] = {}
_finished: list[Context] = []
#: The sums of threads that are gone.
_past = dict.fromkeys(COUNTERS, 0)


def _fold() -> None:
    """Add what finished threads left. Called with the lock held."""
    while _finished:
        context = _finished.pop()
        for name in COUNTERS:
            _past[name] += getattr(context, name)


here = _Here()


def oldest_snapshot(published: int) -> int:
    """A timestamp that no snapshot, present or future, is older than, given one that was published before."""
    oldest = published
    for snapshot in snapshots.copy().values():
        if snapshot < oldest:
            oldest = snapshot
    return oldest


def totals() -> dict[str, int]:
    """The counters of all threads together."""
    with _lock:
        _fold()
        return {name: _past[name] + sum(getattr(c, name) for c in list(contexts.values())) for name in COUNTERS}


def forget_other_threads() -> None:
    """In a forked child, where they do not exist."""
    global _lock
    _lock = threading.Lock()
    here.tx = None
    mine = here.context().number
    for number in list(snapshots):
        if number != mine:
            snapshots.pop(number, None)
            contexts.pop(number, None)
    snapshots[mine] = IDLE

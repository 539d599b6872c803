"""One attempt to run a transaction: its snapshot, what it has read, and its redo log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from bloomgate.stm.context import Context
from bloomgate.stm.operations import Operation, Pending, evaluate
from bloomgate.stm.version import Location, Version
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.stm.report import Trace
    from bloomgate.stm.runtime import Runtime

__all__ = ["Attempt", "Hooks"]

_MISSING = object()


class Hooks:
    """What to call when the transaction has ended."""

    def __init__(self) -> None:
        self.on_commit: list[Callable[[], object]] = []
        self.on_abort: list[Callable[[], object]] = []


class _Mark(NamedTuple):
    """A state that can be returned to."""

    journal: int
    hooks: tuple[int, int]
    outermost: bool


class Attempt:
    """Private to its thread until it is submitted; from then on it does not change, so that anybody can finish it."""

    __slots__ = (
        "commutes",
        "context",
        "hooks",
        "irrevocable",
        "journal",
        "plain_reads",
        "plain_writes",
        "reads",
        "repeatable",
        "runtime",
        "snapshot",
        "token",
        "trace",
        "verdict",
        "writes",
    )

    def __init__(self, runtime: Runtime, context: Context, snapshot: int) -> None:
        self.runtime = runtime
        #: Of the thread that runs it.
        self.context = context
        #: The newest timestamp whose writes are visible to it.
        self.snapshot = snapshot
        #: What was read -> its value at the snapshot (or, for the holder of the token, the newest).
        self.reads: dict[Location, Any] = {}
        self.writes: dict[Location, Any] = {}
        self.commutes: Optional[dict[Location, Pending]] = None
        #: Whether reads and writes need nothing but the two dicts and the snapshot: the fast paths ask only this.
        self.plain_reads = True
        self.plain_writes = True
        #: How to undo, while a nested call may have to: (dict, location, value before or _MISSING).
        self.journal: Optional[list[tuple[dict[Location, Any], Location, Any]]] = None
        self.hooks: Optional[Hooks] = None
        #: Whether it holds the token, or is waiting for it.
        self.token = False
        #: Whether its caller was promised that it is not run again.
        self.irrevocable = False
        #: Whether somebody can run it again.
        self.repeatable = True
        #: None until the device's verdict is known.
        self.verdict: Optional[Verdict] = None
        #: Where it read and wrote, while somebody profiles.
        self.trace: Optional[Trace] = None

    # Reads and writes, in full. TVar.value has the common case inline.

    def read(self, location: Location) -> Any:
        """The value that the transaction sees."""
        if location in self.writes:
            return self.writes[location]
        if self.commutes and location in self.commutes:
            return self._promote(location)
        if location in self.reads:
            return self.reads[location]
        if self.trace is not None:
            self.trace.read(location)
        if self.token:
            return self.runtime.read_guarded(self, location)
        value = self.reads[location] = self.at_snapshot(location)
        return value

    def at_snapshot(self, location: Location) -> Any:
        """The committed value, without making it part of the read set."""
        if self.token:
            snapshot = self.runtime.published()
        else:
            snapshot = self.snapshot
        version: Optional[Version] = location._head
        while version is not None and version.timestamp > snapshot:
            version = version.older
        # The snapshot is registered, so that its version cannot have been dropped.
        assert version is not None
        return version.value

    def write(self, location: Location, value: Any) -> None:
        """Set the value that others see from the commit on."""
        commutes = self.commutes
        if self.journal is not None:
            self._log(self.writes, location)
            if commutes:
                self._log(commutes, location)
        if self.trace is not None:
            self.trace.write(location)
        if commutes and location in commutes:
            del commutes[location]
        self.writes[location] = value

    def commute(self, location: Location, operation: Operation, operand: Any) -> None:
        """Log an operation; on a location that was read or written it is done at once."""
        if location in self.writes or location in self.reads:
            self.write(location, operation.evaluate(self.read(location), operand, self.write))
            return
        commutes = self.commutes
        if commutes is None:
            commutes = self.commutes = {}
            self.plain_reads = self.plain_writes = False
        if self.journal is not None:
            self._log(commutes, location)
        if self.trace is not None:
            self.trace.write(location)
        commutes[location] = Pending(operation, operand, commutes.get(location))

    def _promote(self, location: Location) -> Any:
        """Turn operations on a location into a read and a write."""
        assert self.commutes is not None
        pending = self.commutes[location]
        if self.journal is not None:
            self._log(self.commutes, location)
        del self.commutes[location]
        value = evaluate(pending, self.read(location), self.write)
        self.write(location, value)
        return value

    # Nested calls: one transaction, of which a part can be undone.

    def enter(self) -> _Mark:
        """Begin a part that can be undone."""
        journal = self.journal
        outermost = journal is None
        if journal is None:
            journal = self.journal = []
            self.plain_writes = False
        hooks = self.hooks
        return _Mark(len(journal), (0, 0) if hooks is None else (len(hooks.on_commit), len(hooks.on_abort)), outermost)

    def leave(self, mark: _Mark) -> None:
        """Keep the part."""
        if mark.outermost:
            self.journal = None
            self.plain_writes = self.commutes is None and self.trace is None

    def undo(self, mark: _Mark) -> None:
        """Take the part back. What it read stays read: the decision to undo it may depend on that."""
        journal = self.journal
        assert journal is not None
        while len(journal) > mark.journal:
            mapping, location, before = journal[-1]
            if before is _MISSING:
                mapping.pop(location, None)
            else:
                mapping[location] = before
            journal.pop()
        if self.hooks is not None:
            del self.hooks.on_commit[mark.hooks[0] :]
        self.leave(mark)

    def _log(self, mapping: dict[Location, Any], location: Location) -> None:
        assert self.journal is not None
        self.journal.append((mapping, location, mapping.get(location, _MISSING)))

    def changed_since(self) -> Optional[int]:
        """The timestamp of a commit that wrote something this attempt has read, if there is one."""
        for location in self.reads:
            timestamp = location._head.timestamp
            if timestamp > self.snapshot:
                return timestamp
        return None

"""One attempt to run a transaction: its snapshot, what it has read, and its redo log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, NoReturn, Optional, Union

from bloomgate.stm.alone import alone
from bloomgate.stm.context import Context
from bloomgate.stm.errors import Restart
from bloomgate.stm.operations import Operation, Pending, evaluate
from bloomgate.stm.version import IN_PLACE, Location, Version
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.stm.report import Trace
    from bloomgate.stm.runtime import Runtime
    from bloomgate.stm.shared_part import SharedPart

__all__ = ["Attempt", "Hooks", "Mark"]


class Hooks:
    """What to call when the transaction has ended."""

    def __init__(self) -> None:
        self.on_commit: list[Callable[[], object]] = []
        self.on_abort: list[Callable[[], object]] = []
        #: Once it has ended: calls one of them with each step.
        self.calls: Optional[Iterator[object]] = None

    def undo(self, mark: Mark) -> None:
        """A part is taken back: of its hooks, those for an abort are called, whatever becomes of the rest."""
        on_commit, on_abort = mark.hooks
        self.on_commit[on_commit:] = reversed(self.on_abort[on_abort:])


class Mark(NamedTuple):
    """A state that can be returned to."""

    journal: int
    hooks: tuple[int, int]
    outermost: bool
    part: object


class _WasVersion(NamedTuple):
    """How what is known of a location was before a write."""

    location: Location
    version: Version
    value: Any
    writer: object
    written: bool


class _WasPending(NamedTuple):
    """Which operations were logged for a location."""

    location: Location
    pending: Optional[Pending]


class Attempt:
    """Private to its thread until it is submitted; from then on it does not change, so that anybody can finish it."""

    #: Operations that commute, by location; none of these locations is in the other sets.
    commutes: Optional[dict[Location, Pending]] = None
    hooks: Optional[Hooks] = None
    #: Whether it holds the token, or is waiting for it.
    token = False
    #: Whether its caller was promised that it is not run again.
    irrevocable = False
    #: Whether it changes variables in place, and so has to run again as an ordinary one for everything else.
    in_place = False
    #: Whether somebody can run it again.
    repeatable = True
    #: In how many alternatives of or_else() it is that can be undone: there retry() takes the next one.
    alternatives = 0
    #: What it has to do with memory that other processes use.
    shared: Optional[SharedPart] = None
    #: None until the device's verdict is known.
    verdict: Optional[Verdict] = None
    #: Which one of its context.
    number = 0
    #: Where it read and wrote, while somebody profiles.
    trace: Optional[Trace] = None

    def __init__(self, runtime: Runtime, context: Context, snapshot: int) -> None:
        self.runtime = runtime
        #: Of the thread that runs it.
        self.context = context
        #: The newest timestamp whose writes are visible to it.
        self.snapshot = snapshot
        #: If it is another one later, a thread has been alone and has perhaps changed what was read here.
        self.eras = alone.count
        #: What its versions know it by. Not the attempt itself: they outlive it, and should not keep it.
        self.identity: object = object()
        #: The nested call that is running, as versions know it.
        self.part = self.identity
        #: Whether it neither commutes, nor holds the token, nor is traced.
        self.plain = True
        #: How to undo, while a nested call may have to.
        self.journal: Optional[list[Union[_WasVersion, _WasPending]]] = None
        #: What was read, as it is at the snapshot (or, for the holder of the token, the newest).
        self.reads: dict[Location, Version] = {}
        #: The redo log. What was read before has the same version here as there, but for one read by a signal handler.
        self.writes: dict[Location, Version] = {}

    def registered(self) -> bool:
        """Whether its snapshot still is. A signal handler or finaliser that came at its begin or end has taken over."""
        return self.number == self.context.begun or self.token

    def prepare(self) -> None:
        """Called before it first uses shared data."""

    # Reads and writes. TVar.value has the shortest way inline: that the location remembers a version of ours.

    def known(self, location: Location) -> Optional[Version]:
        """The version that was read or written here, if there is one."""
        recent = location._recent
        if recent.owner is self.identity:
            return recent
        # Another attempt has used the location meanwhile, or this one has not yet.
        if location in self.writes:
            recent = location._recent = self.writes[location]
        elif location in self.reads:
            recent = location._recent = self.reads[location]
        else:
            return None
        return recent

    def read(self, location: Location) -> Any:
        """The value that the transaction sees."""
        recent = location._recent
        if recent.owner is self.identity:
            return recent.value
        if location in self.writes or location in self.reads:
            return self.known(location).value  # type: ignore[union-attr]
        if self.plain:
            snapshot = self.snapshot
            visible = location._head
            if visible is IN_PLACE:
                visible = location._settle()
            while visible.timestamp > snapshot:
                # The snapshot is registered, so that its version cannot have been dropped.
                visible = visible.older  # type: ignore[assignment]
            value = visible.value
        else:
            if self.commutes and location in self.commutes:
                return self._promote(location)
            if self.trace is not None:
                self.trace.read(location)
            if self.token and not location._shared:
                return self.runtime.read_guarded(self, location)
            value = self.at_snapshot(location)
        version = Version()
        version.owner = self.identity
        version.value = value
        version.writer = None
        self.reads[location] = location._recent = version
        return value

    def at_snapshot(self, location: Location) -> Any:
        """The committed value, without making it part of the read set."""
        if location._shared:
            return location._at_snapshot(self)
        snapshot = self.runtime.published() if self.token else self.snapshot
        version = location._head
        if version is IN_PLACE:
            version = location._settle()
        while version.timestamp > snapshot:
            version = version.older  # type: ignore[assignment]
        return version.value

    def write(self, location: Location, value: Any) -> None:
        """Set the value that others see from the commit on."""
        version = self.known(location)
        if version is None:
            if self.commutes and location in self.commutes:
                self._log_pending(location)
                del self.commutes[location]
            # Complete before anybody finds it: a signal handler may read the location at every line here.
            version = Version()
            version.owner = self.identity
            version.value = value
            version.writer = None
            if self.journal is not None:
                self.journal.append(_WasVersion(location, version, None, None, False))
        elif self.journal is not None:
            self.journal.append(_WasVersion(location, version, version.value, version.writer, location in self.writes))
        self.writes[location] = location._recent = version
        version.value = value
        if self.trace is None:
            version.writer = self.part
        else:
            self.trace.write(location)

    def commute(self, location: Location, operation: Operation, operand: Any) -> None:
        """Log an operation; on a location that was read or written it is done at once."""
        known = self.known(location)
        if known is not None:
            self.write(location, operation.evaluate(known.value, operand, self.write))
            return
        if self.commutes is None:
            self.commutes = {}
            self.plain = False
        self._log_pending(location)
        if self.trace is not None:
            self.trace.write(location)
        self.commutes[location] = Pending(operation, operand, self.commutes.get(location))

    def _promote(self, location: Location) -> Any:
        """Turn operations on a location into a read and a write."""
        assert self.commutes is not None
        pending = self.commutes[location]
        self._log_pending(location)
        del self.commutes[location]
        value = evaluate(pending, self.read(location), self.write)
        self.write(location, value)
        return value

    def run_again(self) -> NoReturn:
        """Give it up in its middle."""
        raise Restart

    # Nested calls: one transaction, of which a part can be undone.

    def enter(self) -> Mark:
        """Begin a part that can be undone."""
        journal = self.journal
        outermost = journal is None
        if journal is None:
            journal = self.journal = []
        hooks = self.hooks
        counts = (0, 0) if hooks is None else (len(hooks.on_commit), len(hooks.on_abort))
        mark = Mark(len(journal), counts, outermost, self.part)
        self.part = object()
        return mark

    def leave(self, mark: Mark) -> None:
        """Keep the part."""
        self.part = mark.part
        if mark.outermost:
            self.journal = None

    def undo(self, mark: Mark) -> None:
        """Take the part back. What it read stays read: the decision to undo it may depend on that."""
        journal = self.journal
        assert journal is not None
        pending: set[Location] = set()
        while len(journal) > mark.journal:
            last = len(journal) - 1
            was = journal[last]
            if isinstance(was, _WasVersion):
                self._restore_version(was)
            else:
                self._restore_pending(was)
                pending.add(was.location)
            # Unless a signal handler has written meanwhile, as a part of this one: that is undone before.
            if len(journal) == last + 1:
                del journal[last]
        for location in pending:
            # Promoted by a read in the part: as that stays, so does this.
            if location in self.reads and self.commutes and location in self.commutes:
                self._promote(location)
        if self.hooks is not None:
            self.hooks.undo(mark)
        self.leave(mark)

    def _restore_version(self, was: _WasVersion) -> None:
        version = was.version
        if not was.written:
            # In this order: no signal handler finds a version without its value.
            if self.reads.get(was.location) is not version:
                version.owner = None
            self.writes.pop(was.location, None)
        version.value, version.writer = was.value, was.writer

    def _restore_pending(self, was: _WasPending) -> None:
        assert self.commutes is not None
        if was.pending is None:
            self.commutes.pop(was.location, None)
        else:
            self.commutes[was.location] = was.pending

    def _log_pending(self, location: Location) -> None:
        if self.journal is not None:
            assert self.commutes is not None
            self.journal.append(_WasPending(location, self.commutes.get(location)))

    def changed_since(self) -> Optional[int]:
        """The timestamp of a commit that wrote something this attempt has read, if there is one."""
        for location in self.reads:
            if location._shared:
                if location._changed_since(self):
                    return self.snapshot + 1
                continue
            timestamp = location._head.timestamp
            if timestamp > self.snapshot:
                return timestamp
        return None

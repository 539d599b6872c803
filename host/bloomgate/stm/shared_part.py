"""How a transaction reads and commits what lies in shared memory: its elements as locations, and its part in them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from bloomgate.backends.shm import ShmDevice
from bloomgate.shm.array import KEY_BIT, ArrayMemory, Change, Commit, Number, VersionGone
from bloomgate.shm.publication import SharedPublication
from bloomgate.stm.atomic import run
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.errors import CommitFailed, Restart, TransactionError, TransactionTimeout
from bloomgate.stm.limits import Allowance
from bloomgate.stm.operations import Operation, Pending, Write
from bloomgate.stm.version import Location, new_version
from bloomgate.verdict import Verdict

if TYPE_CHECKING:
    from bloomgate.stm.shared import SharedArray

__all__ = ["SharedLocation", "SharedPart", "Versioned", "part_of"]

_log = logging.getLogger("bloomgate.stm")

#: What no attempt has read or written.
_NO_VERSION = new_version(None)

#: Exceptions that may interrupt a commit before the rest of it is left to other processes.
_INTERRUPTIONS = 100
#: Seconds that a wait for other processes lasts before it looks whether this one has changed something.
_SLICE = 0.02
#: Seconds for which other processes hold back so that a transaction that has lost again and again can win. If the
#: longest is not enough it takes the token.
FIRST_TURN = 0.02
LONGEST_TURN = 2.0
#: Seconds between two looks whether another thread's turn has ended.
_TURN_LOOK = 0.0005
#: Seconds between two looks whether an irrevocable transaction of another process has ended.
_TOKEN_LOOK = 0.0005
#: Times that the token's holder submits again.
_SUBMISSIONS = 1000


class Versioned(NamedTuple):
    """A value and when it was written."""

    value: Number
    #: Position in the order of all commits on the segment; the initial value has 1.
    version: int


class SharedLocation(Location):
    """An element of an array."""

    __slots__ = ("array", "number")

    _shared = True

    def __init__(self, array: SharedArray, number: int) -> None:
        # Not Location's, which makes a version of its own.
        self._recent = _NO_VERSION
        self._key = KEY_BIT | number
        self._name = f"{array.name}[{number - array._memory.first}]"
        self.array = array
        #: Of the location in the segment.
        self.number = number

    def _get(self) -> Number:
        tx = here.tx
        if tx is None:
            return self._newest().value
        # From now on the attempt reads by way of _at_snapshot().
        part_of(tx, self)
        value: Number = tx.read(self)
        return value

    def _set(self, value: Number) -> None:
        tx = here.tx
        if tx is None:
            run(self._set, (value,))
            return
        memory = part_of(tx, self).memory(self)
        # What is read afterwards is what others will read.
        tx.write(self, memory.kind.decode(memory.kind.encode(value)))

    def _commute(self, operation: str, operand: Number) -> None:
        tx = here.tx
        if tx is None:
            run(self._commute, (operation, operand))
            return
        kind = part_of(tx, self).memory(self).kind
        if operation not in ("add", "min", "max"):
            raise TransactionError(f"a commuting operation on shared data must be add, min or max, not {operation!r}")
        if operand != operand:
            raise TransactionError("the operand must be a number that can be compared, not nan")
        operand = kind.decode(kind.encode(operand))

        def evaluate(value: Number, operand: Number, write: Write) -> Number:
            if operation != "add":
                return min(value, operand) if operation == "min" else max(value, operand)
            total = value + operand
            if kind.code == "d":
                return total
            # As C adds 64-bit words.
            bits = int(total) & (1 << 64) - 1
            return bits - (1 << 64) if kind.code == "q" and bits >> 63 else bits

        tx.commute(self, Operation(operation, evaluate, _accept), operand)

    def _newest(self) -> Versioned:
        memory = self.array._here()
        while True:
            try:
                return Versioned(*memory.read(self.number, memory.publication.now()[1]))
            except VersionGone:
                continue

    def _at_snapshot(self, attempt: Attempt) -> Number:
        part = part_of(attempt, self)
        if part.holder:
            return part.read_guarded(attempt, self)
        try:
            return part.memory(self).read(self.number, part.position)[0]
        except VersionGone:
            attempt.context.versions_gone += 1
            raise Restart from None

    def _changed_since(self, attempt: Attempt) -> bool:
        part = part_of(attempt, self)
        return part.memory(self).newest(self.number) > part.position


def _accept(value: Any, operand: Any) -> Optional[str]:
    return None


def part_of(attempt: Attempt, location: SharedLocation) -> SharedPart:
    """The part of an attempt that has to do with shared memory, from now on."""
    part = attempt.shared
    if part is None:
        if attempt.in_place:
            attempt.run_again()
        memory = location.array._here()
        publication = memory.publication
        attempt.prepare()
        if attempt.irrevocable or (attempt.token and _turns.used_up()):
            part = attempt.shared = SharedPart(memory.device, publication, publication.now()[1])
            # If it is irrevocable it has been promised that it comes to its end, and so has no limits.
            part.hold(attempt, None if attempt.irrevocable else here.allowance)
            return part
        if attempt.token:
            # It holds off this process's transactions only. What it has read is valid until now, so it stays valid at
            # the snapshot, and the device validates it like everything else.
            attempt.runtime.give_back(attempt)
            _turns.take(publication)
            if not attempt.reads:
                attempt.snapshot = publication.published
        elif _turns.hold_back(publication) and not attempt.reads:
            attempt.snapshot = publication.published
        position = publication.position_of(attempt.snapshot)
        if position is None:
            attempt.context.versions_gone += 1
            raise Restart
        attempt.plain = False
        part = attempt.shared = SharedPart(memory.device, publication, position)
    return part


def wait_until(condition: Callable[[], bool], allowance: Optional[Allowance]) -> None:
    """Wait for the holder of the token.

    Raises :class:`~bloomgate.stm.TransactionTimeout` or :class:`~bloomgate.stm.Cancelled`.
    """
    deadline = None if allowance is None else allowance.deadline()
    while not condition():
        if allowance is not None:
            allowance.check()
        if deadline is not None and time.monotonic() >= deadline:
            raise TransactionTimeout("an irrevocable transaction of another process was in the way for too long")
        time.sleep(_TOKEN_LOOK)


class _Turns(threading.local):
    """The turns of a thread's transaction that has lost again and again."""

    #: Seconds; 0 without a turn.
    length = 0.0

    def take(self, publication: SharedPublication) -> None:
        """Have a turn; each one is longer than the one before, until the transaction commits."""
        self.length = min(LONGEST_TURN, 2 * self.length or FIRST_TURN)
        publication.take_turn(self.length)
        _turn_here[0] = threading.get_ident(), time.monotonic() + self.length

    def used_up(self) -> bool:
        """Whether it has lost in the longest one, too."""
        return self.length >= LONGEST_TURN

    def hold_back(self, publication: SharedPublication) -> bool:
        """Let others have their turn, in this process and in other ones; whether there was anything to wait for."""
        waited = publication.hold_back()
        while True:
            thread, end = _turn_here[0]
            left = end - time.monotonic() if end else 0.0
            if left <= 0 or thread == threading.get_ident():
                return waited
            waited = True
            time.sleep(min(left, _TURN_LOOK))

    def end(self, publication: SharedPublication) -> None:
        """It has committed."""
        if self.length:
            self.length = 0.0
            _turn_here[0] = 0, 0.0
            publication.end_turn()


_turns = _Turns()
#: The thread of this process that has had the last turn, and when that ends: threads share the process's slot.
_turn_here: list[tuple[int, float]] = [(0, 0.0)]


class SharedPart:
    """The shared part of an attempt, and how the other one is committed with it.

    A commit is decided and published by way of the segment, where any process can do the latter. If it changes private
    variables too, these are written back by whoever first sees the commit published in this process
    (:class:`~bloomgate.shm.publication.PrivatePart`), so that nobody here sees one part without the other.
    """

    def __init__(self, device: ShmDevice, publication: SharedPublication, position: int) -> None:
        self._device = device
        self._publication = publication
        #: Of the snapshot in the order of publication.
        self.position = position
        #: Whether it holds the segment's token, or is about to: then others leave alone what it reads.
        self.holder = False
        #: From the beginning of the commit on.
        self._attempt: Optional[Attempt] = None
        self._request: Optional[Commit] = None

    def memory(self, location: SharedLocation) -> ArrayMemory:
        memory = location.array._memory
        return memory if memory.device is self._device else location.array._here()

    # The token.

    def hold(self, attempt: Attempt, allowance: Optional[Allowance]) -> None:
        """Take the token of the segment; from now on nobody can change what the attempt has read. Then :meth:`release`.

        What was changed before, the caller has to find out. Raises :class:`~bloomgate.stm.TransactionTimeout` or
        :class:`~bloomgate.stm.Cancelled` when a transaction of another process holds it for too long.
        """
        self.holder = True
        wait_until(lambda: self._device.guards.take(self), allowance)
        for location in attempt.reads:
            if isinstance(location, SharedLocation):
                self._publication.wait(self._device.guards.guard(location.number))

    def release(self) -> None:
        """Give the token back. Idempotent."""
        if self.holder:
            self._device.guards.release(self)
            self.holder = False

    def read_guarded(self, attempt: Attempt, location: SharedLocation) -> Number:
        """The newest value, which stays the newest until the token is released."""
        guard = self._device.guards.guard(location.number)
        self._publication.wait(guard)
        attempt.snapshot = max(attempt.snapshot, guard)
        while True:
            try:
                return self.memory(location).read(location.number, self._publication.now()[1])[0]
            except VersionGone:
                continue

    def wait_for_holder(self, allowance: Optional[Allowance]) -> None:
        """Wait until nobody else has guards. Raises what :meth:`hold` raises."""
        wait_until(lambda: not self._device.guards.in_the_way(), allowance)

    # The commit.

    def commit(self, attempt: Attempt, allowance: Optional[Allowance] = None) -> bool:
        """What :meth:`Runtime.commit` is for others. Whatever happens, it has happened wholly or not at all."""
        commutes = attempt.commutes or {}
        reads = [] if self.holder else [location._key for location in attempt.reads]
        writes = [location._key for location in attempt.writes]
        commuted = [location._key for location in commutes]
        changes, private = self._changes(attempt)
        if private:
            # The request has the rest.
            attempt.writes = {location: version for location, version in attempt.writes.items() if not location._shared}
            attempt.commutes = {location: pending for location, pending in commutes.items() if not location._shared}
        for _ in range(_SUBMISSIONS if self.holder else 1):
            # Nobody can have changed what its holder has read; a filter may still say so, and an epoch may end.
            snapshot = self._device.last_timestamp() if self.holder else attempt.snapshot
            request = Commit(self._device, snapshot, reads, writes, commuted, changes, holder=self.holder)
            verdict = self._submit(attempt, request, private, allowance)
            if verdict.committed:
                self.committed()
                return True
        if self.holder:
            raise CommitFailed(f"the device refused a commit {_SUBMISSIONS} times, the last time with {verdict}")
        return False

    def _submit(self, attempt: Attempt, request: Commit, private: bool, allowance: Optional[Allowance]) -> Verdict:
        """To the end, whichever it is."""
        attempt.verdict = None
        self._request = request
        try:
            if private:
                self._attempt = attempt
                self._publication.private_parts.append(self)
                attempt.runtime.commit_with_shared(attempt, request, allowance)
                self._forget()
            else:
                while not request.submit():
                    self.wait_for_holder(allowance)
                attempt.verdict = request.run()
        except BaseException:
            self._complete(attempt, request)
            raise
        assert attempt.verdict is not None
        return attempt.verdict

    def committed(self) -> None:
        """The transaction has ended well."""
        _turns.end(self._publication)

    # Private variables.

    @property
    def timestamp(self) -> Optional[int]:
        """See :class:`~bloomgate.shm.publication.PrivatePart`."""
        attempt, request = self._attempt, self._request
        assert attempt is not None
        assert request is not None
        if attempt.verdict is not None and attempt.verdict.committed:
            # By now the ring entry may be another request's.
            return attempt.verdict.timestamp
        return request.timestamp

    def write_back(self, timestamp: int) -> None:
        """See :class:`~bloomgate.shm.publication.PrivatePart`."""
        assert self._attempt is not None
        self._attempt.runtime.write_private(self._attempt, timestamp)
        self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(ValueError):  # others may do the same
            self._publication.private_parts.remove(self)

    def decided(self) -> Optional[Verdict]:
        """The verdict on a submission that was cut short; None if it is not known, and for what was not submitted.

        One that comes when nobody waits for it any more still has its private part written back.
        """
        request = self._request
        assert request is not None
        if not request.submitted:
            self._forget()
            return None
        try:
            verdict = request.decide()
        except Exception as error:
            _log.warning("a commit on shared data was interrupted, and its end is not known: %s", error)
            return request.verdict
        if verdict.timestamp is None:
            self._forget()
        return verdict

    # The request.

    def _changes(self, attempt: Attempt) -> tuple[list[Change], bool]:
        """What the attempt does to shared locations, and whether it changes private ones too."""
        changes: list[Change] = []
        private = False
        for location, version in attempt.writes.items():
            if isinstance(location, SharedLocation):
                kind = self.memory(location).kind
                changes.append(Change(location.number, kind.operations["set"], kind.encode(version.value)))
            else:
                private = True
        for location, pending in (attempt.commutes or {}).items():
            if isinstance(location, SharedLocation):
                changes += self._steps(location, pending)
            else:
                private = True
        return changes, private

    def _steps(self, location: SharedLocation, pending: Pending) -> list[Change]:
        kind = self.memory(location).kind
        steps = []
        step: Optional[Pending] = pending
        while step is not None:
            steps.append(Change(location.number, kind.operations[step.operation.name], kind.encode(step.operand)))
            step = step.earlier
        return steps[::-1]

    def _complete(self, attempt: Attempt, request: Commit) -> None:
        """An exception came in the middle: find out what became of the request, however often that happens."""
        for _ in range(_INTERRUPTIONS):
            try:
                if request.submitted:
                    attempt.verdict = request.run()
                if attempt.verdict is None or attempt.verdict.timestamp is None:
                    self._forget()
                return
            except Exception as error:
                # Nobody decides any more. If somebody has, others write it back.
                attempt.verdict = request.verdict
                _log.warning("a commit on shared data was interrupted, and its end is not known: %s", error)
                return
            except BaseException as error:
                _log.debug("a commit on shared data was interrupted again: %r", error)
        attempt.verdict = request.verdict

    def wait(self, attempt: Attempt, woken: threading.Event, until: Optional[float]) -> Optional[int]:
        """Wait until another process has changed what the attempt has read, or ``woken`` is set.

        Returns the newest timestamp then; None at ``until`` (time.monotonic(), seconds).
        """
        while True:
            position = self._publication.now()[1]
            if woken.is_set() or attempt.changed_since() is not None:
                return self._publication.published
            left = _SLICE if until is None else min(_SLICE, until - time.monotonic())
            if left <= 0:
                return None
            self._publication.wait_beyond(position, left)

"""Variables that several processes share: ``SharedArray`` and ``SharedTVar``.

They lie in the segment of a ``shm:`` device, so that any process that has opened it can read and write them in its
transactions. Everything that other processes see is done in C (docs/shm.md); here is what makes them variables of the
STM: a location that knows its number in the segment, and the part of an attempt that reads and commits them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Callable, NamedTuple, Optional

from bloomgate.backends.shm import ShmDevice
from bloomgate.shm.array import KEY_BIT, ArrayMemory, Change, Commit, Number, VersionGone
from bloomgate.shm.publication import SharedPublication
from bloomgate.stm.atomic import run
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.errors import CommitFailed, Restart, TransactionError, TransactionTimeout
from bloomgate.stm.limits import Allowance
from bloomgate.stm.operations import Operation, Pending, Write
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location, new_version
from bloomgate.verdict import Verdict

__all__ = ["SharedArray", "SharedTVar", "Versioned"]

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


class SharedArray:
    """An array of numbers in shared memory, whose elements transactions of several processes read and write.

    >>> bloomgate.use_device("shm:example")
    >>> hits = bloomgate.SharedArray("hits", 100)
    >>> hits[0] += 1

    Elements are variables like :class:`~bloomgate.TVar`: two transactions conflict if one writes an element that the
    other has read. Outside of a transaction an element reads as its newest value, and an assignment is a transaction
    of its own. An array is found by its name in the segment; pickled, it becomes the same array in another process.
    """

    def __init__(
        self, name: str, size: Optional[int] = None, typecode: Optional[str] = None, initial: Iterable[Number] = ()
    ) -> None:
        """The array of that name in the segment of the STM's device; made now if there is none and ``size`` is given.

        ``typecode``: "q" (signed 64-bit integers, the default), "Q" (unsigned) or "d" (floats). ``initial``: the first
        values of a new array, the others are 0. Raises KeyError if there is none, ValueError if there is one of another
        size or type, MemoryError if the segment is full, and :class:`~bloomgate.stm.TransactionError` if the STM's
        device is no ``shm:``.
        """
        device = runtime.device
        if not isinstance(device, ShmDevice):
            raise TransactionError(
                f"shared data need a device like shm:NAME, not {device.info().backend}: use_device()"
            )
        self._memory = ArrayMemory.open(device, name, size, typecode, initial)
        self._segment = device.segment.name
        self._locations: dict[int, SharedLocation] = {}

    @property
    def name(self) -> str:
        """Its name in the segment."""
        return self._memory.name

    @property
    def typecode(self) -> str:
        """ "q", "Q" or "d"."""
        return self._memory.kind.code

    def __len__(self) -> int:
        return self._memory.size

    def __getitem__(self, index: int) -> Number:
        return self._location(index)._get()

    def __setitem__(self, index: int, value: Number) -> None:
        self._location(index)._set(value)

    def __iter__(self) -> Iterator[Number]:
        return iter([self[index] for index in range(len(self))])

    def commute(self, index: int, operation: str, operand: Number) -> None:
        """Update an element by "add", "min" or "max", without conflicts with other such updates of it.

        As :func:`bloomgate.commute`. Integers wrap around at 64 bits.
        """
        self._location(index)._commute(operation, operand)

    def variable(self, index: int) -> SharedTVar:
        """An element as a variable."""
        return SharedTVar._of(self, self._location(index))

    def versioned(self, index: int) -> Versioned:
        """The newest published value of an element, and its version; not part of any transaction."""
        return self._location(index)._newest()

    def snapshot(self) -> list[Number]:
        """All elements at one point in the order of commits: a transaction that only reads."""
        values: list[Number] = run(list, (self,)) if here.tx is None else list(self)
        return values

    def _location(self, index: int) -> SharedLocation:
        number = self._memory.location(index)
        location = self._locations.get(number)
        if location is None:
            location = self._locations[number] = SharedLocation(self, number)
        return location

    def _here(self) -> ArrayMemory:
        """The array as this process's device sees it, which is another one after a fork or ``use_device``."""
        memory = self._memory
        device = runtime._device
        if device is not memory.device:
            if device is None:
                if self._segment is None:
                    raise TransactionError("the segment has no name, and its device is not open any more")
                runtime.use(f"shm:{self._segment}")
                device = runtime.device
            if not isinstance(device, ShmDevice) or device.segment.name != self._segment:
                raise TransactionError(
                    f"{self.name} is in the segment {self._segment}, and the device is another one:"
                    f" use_device('shm:{self._segment}')"
                )
            memory = self._memory = ArrayMemory.open(device, self.name)
        memory.device.port.require_open()
        return memory

    def __reduce__(self) -> Any:
        if self._segment is None:
            raise TransactionError(f"{self.name} is in a segment without a name, which no other process can open")
        return _attached, (self._segment, self.name)

    def __repr__(self) -> str:
        return f"<SharedArray {self.name} of {len(self)} {self.typecode} in shm:{self._segment or ''}>"


def _attached(segment: str, name: str) -> SharedArray:
    if runtime._device is None:
        runtime.use(f"shm:{segment}")
    device = runtime.device
    if not isinstance(device, ShmDevice) or device.segment.name != segment:
        raise TransactionError(
            f"{name} is in the segment {segment}: use_device('shm:{segment}') before it is unpickled"
        )
    return SharedArray(name)


class SharedTVar:
    """A :class:`~bloomgate.TVar` for numbers, in shared memory: an array of one element."""

    def __init__(self, initial: Number = 0, name: Optional[str] = None, typecode: Optional[str] = None) -> None:
        """The variable ``name`` of the segment, made now if there is none; without a name always a new one.

        ``typecode``: see :class:`SharedArray`; by default it fits ``initial``. Raises what SharedArray raises.
        """
        if typecode is None:
            typecode = "d" if isinstance(initial, float) else "q"
        self._array = SharedArray(name or f"tvar-{uuid.uuid4().hex}", 1, typecode, [initial])
        self._location = self._array._location(0)

    @classmethod
    def _of(cls, array: SharedArray, location: SharedLocation) -> SharedTVar:
        variable = cls.__new__(cls)
        variable._array = array
        variable._location = location
        return variable

    @property
    def value(self) -> Number:
        """As of a :class:`~bloomgate.TVar`."""
        return self._location._get()

    @value.setter
    def value(self, value: Number) -> None:
        self._location._set(value)

    def commute(self, operation: str, operand: Number) -> None:
        """Update it by "add", "min" or "max"; :func:`bloomgate.commute` calls this."""
        self._location._commute(operation, operand)

    def __reduce__(self) -> Any:
        attach, arguments = self._array.__reduce__()
        return _variable, (attach, arguments, self._location.number - self._array._memory.first)

    def __repr__(self) -> str:
        return f"<{self._location._label()}: {self.value!r}>" if here.tx is None else f"<{self._location._label()}>"


def _variable(attach: Callable[..., SharedArray], arguments: Any, index: int) -> SharedTVar:
    return attach(*arguments).variable(index)


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

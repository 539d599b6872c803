"""The programmed-I/O driver: a device behind a register bus, whatever carries the bus.

A request is written into the apertures of a slot page, submitted with one burst, and its verdict polled for. One bus
access happens at a time, but the requests of several threads are in flight at once, each in a slot of its own.

What an exception leaves behind
-------------------------------
``commit`` may end with an exception that has nothing to do with the request: KeyboardInterrupt, or a bus that timed
out. Then the caller has seen no verdict, so it writes nothing back, and the transaction has not happened. What is in
the slot is settled before the slot is used again:

* A request cut short before SUBMIT is discarded. Its keys never reach another request.
* A request cut short after SUBMIT may still commit, and a timestamp that nobody publishes would hold back
  ``published`` for ever. So the driver waits for its verdict and publishes the timestamp as an empty commit, which is
  true: nothing was written under it. It does so while the exception passes through ``commit``; if that fails too (a
  second interrupt, a device that still does not answer), at the next ``commit``, ``reset`` or ``wait_published``.

A reset cut short is finished in the same way, before anything else is submitted.
"""

from __future__ import annotations

import abc
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import (
    BloomgateError,
    DeviceInUse,
    DeviceTimeout,
    DeviceUnavailable,
    ParameterError,
    VersionMismatch,
)
from bloomgate.flight_registers import FlightRegisters
from bloomgate.in_flight import FLIGHT_STATISTICS, Conflict, Wake
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_pair import QueuePair
from bloomgate.queue_port import QueuePort
from bloomgate.queue_slots import QueueSlots
from bloomgate.registers import (
    CONTROL_PAGE,
    ERROR_LOG_ENTRIES,
    IDENTIFICATION,
    SLOT_PAGE,
    STATISTICS,
    VERSION,
    WORD_BYTES,
    ErrorCode,
    Fault,
    RequestKind,
    slot_page_offset,
)
from bloomgate.slots import Slot
from bloomgate.verdict import Verdict
from bloomgate.verdict_words import verdict_of

if TYPE_CHECKING:
    from bloomgate.programmed_slot import ProgrammedSlot

__all__ = ["ErrorEntry", "ProgrammedIODevice", "RegisterBus", "identify"]

#: Polls in one bus access: few enough that other threads get the bus in between.
POLLS_PER_ACCESS = 16
#: Seconds after which a thread that gets no slot gives up. Slots are held for one request each.
SLOT_SECONDS = 60.0

_VERDICT = SLOT_PAGE.register("VERDICT")
_DONE = _VERDICT["DONE"].mask
_REQUEST = _VERDICT["REQUEST"]
_REQUEST_NUMBERS = 1 << _REQUEST.width
_VERDICT_WORDS = 4
_SLOT_BUSY = SLOT_PAGE.register("STATUS")["BUSY"].mask
_SUBMIT = SLOT_PAGE.register("SUBMIT")
_FLIGHT = SLOT_PAGE.register("FLIGHT")
_APERTURES = tuple(SLOT_PAGE.window(name) for name in ("READ_APERTURE", "WRITE_APERTURE", "COMMUTE_APERTURE"))

_STATUS = CONTROL_PAGE.register("STATUS")
_READY = _STATUS["READY"].mask
_EXHAUSTED = _STATUS["EXHAUSTED"].mask
_IN_TRANSITION = _STATUS["SCRUBBING"].mask | _STATUS["RESETTING"].mask
_COMMAND = CONTROL_PAGE.register("COMMAND")

# The version of the register interface that brought queue pairs.
_QUEUES_SINCE = (0, 2, 0)
# And the one that brought transactions in flight.
_FLIGHT_SINCE = (0, 3, 0)
# And the one that brought their announced logs.
LOGS_SINCE = (0, 4, 0)

_LAST_EPOCH = (1 << EPOCH_BITS) - 1

# What a slot holds.
EMPTY = 0
FILLING = 1  # some of a request's keys, perhaps, or a transaction in flight
SUBMITTED = 2  # a request, perhaps decided, whose verdict has not reached its caller


class RegisterBus(abc.ABC):
    """Accesses to 32-bit registers, by byte offset from the control page.

    Implementations raise :class:`~bloomgate.errors.DeviceTimeout` rather than hang. The driver makes one call at a
    time.
    """

    #: What :meth:`now` counts, for messages.
    unit: str = "s"
    #: How long the device may take for anything, in that unit: far longer than any request, scrub or reset takes.
    patience: float = 5.0
    #: Time passes in accesses only: whoever wants to see what comes of an access has to make more of them.
    stands_still: bool = False
    #: The longest :meth:`nap`, in seconds.
    longest_nap: float = 1e-3

    @abc.abstractmethod
    def read(self, offset: int, words: int) -> list[int]:
        """``words`` words at rising addresses from ``offset``, read in that order."""

    @abc.abstractmethod
    def write(self, offset: int, values: Sequence[int]) -> None:
        """Whole words to rising addresses from ``offset``, in that order; all have arrived when it returns."""

    def poll(self, offset: int, words: int, mask: int, value: int) -> list[int]:
        """Read until the first word, masked, is ``value``, a few times at most; returns what was read last."""
        for _ in range(POLLS_PER_ACCESS):
            result = self.read(offset, words)
            if result[0] & mask == value:
                break
        return result

    def arm(self, slot: int) -> None:  # noqa: B027 - where there is no interrupt there is nothing to arm
        """Whoever looks at the slot after this may :meth:`nap` until it has changed since."""

    def nap(self, slot: int, seconds: float) -> None:
        """Until something has happened to the slot, or for no reason; ``seconds`` at most. Any thread may call it."""
        time.sleep(seconds)

    def now(self) -> float:
        """The time against which bounds are measured."""
        return time.monotonic()

    @property
    def clock_cycles(self) -> Optional[int]:
        """Clock cycles since power-up; None if that is not known."""
        return None

    def open_queue(self, slot: int, parameters: Parameters) -> QueuePort:
        """Begin a queue pair on a slot that has none. Raises :class:`~bloomgate.errors.DeviceUnavailable`."""
        raise DeviceUnavailable("there are no queue pairs here: this way to the device reaches no memory")

    def close(self) -> None:  # noqa: B027 - most buses have something to release, not all
        """Release everything. Idempotent."""


class ErrorEntry(NamedTuple):
    """One entry of the device's error log."""

    #: Number of the entry since power-up, from 0.
    number: int
    #: What happened; a plain integer if this host does not know the code.
    code: Union[ErrorCode, int]
    #: The slot where it happened.
    slot: int
    #: See :class:`~bloomgate.registers.ErrorCode`.
    detail: int


class SlotPage:
    """The driver's side of one slot page."""

    __slots__ = ("client", "counted", "number", "offset", "opened", "owner", "request", "state", "wake")

    def __init__(self, number: int) -> None:
        self.number = number
        self.offset = slot_page_offset(number)
        #: Identifier of the thread that is using it.
        self.owner: Optional[int] = None
        #: It is a :class:`~bloomgate.slots.Slot`'s, and nobody else's.
        self.opened = False
        #: That one, when it can be used.
        self.client: Optional[ProgrammedSlot] = None
        #: What such slots have counted until they were closed, and the newest wake that they have seen.
        self.counted: Counter[str] = Counter()
        self.wake = Wake(0, 0)
        #: Number of the request submitted last.
        self.request = 0
        self.state = EMPTY


class ProgrammedIODevice(Device):
    """A device behind a :class:`RegisterBus`. The module's text says what happens on exceptions."""

    def __init__(
        self,
        bus: RegisterBus,
        *,
        backend: str,
        description: str,
        expected: Optional[Parameters] = None,
        initial_epoch: int = 0,
    ) -> None:
        """Identify the device, and take it over: commits made before count as written back.

        ``backend``, ``description``: for :meth:`info`. ``expected``: the geometry that the device must have.
        ``initial_epoch``: if greater than 0, reset to it. The bus belongs to the device from now on, and is closed
        when this fails.

        Raises :class:`~bloomgate.errors.VersionMismatch` if this is not a bloomgate device, or one that this host
        does not speak with; :class:`~bloomgate.errors.ParameterError` for an epoch out of range.
        """
        self._bus = bus
        #: Held for every bus access, and for sequences of accesses that others must not interrupt.
        self._lock = threading.RLock()
        self._backend = backend
        self._description = description
        self._closed = False
        try:
            self._require_epoch(initial_epoch)
            self._version, parameters = identify(bus, expected)
            self.parameters = parameters  # for last_timestamp(), which the base class needs
            self._queues = QueueSlots(parameters.slots, lambda slot: bus.open_queue(slot, parameters))
            self._slots = tuple(SlotPage(number) for number in range(parameters.slots))
            self._flight = FlightRegisters(self)
            #: Signalled when a slot becomes free.
            self._freed = threading.Condition()
            #: The slot that each thread is using: how it finds one that an interrupt made it forget.
            self._held: dict[int, SlotPage] = {}
            #: Some slot is not empty although no thread is using it.
            self._unsettled = False
            #: A reset was begun, in this epoch, and `published` has not been told.
            self._reset_from: Optional[int] = None
            self._await(_STATUS.offset, 1, _IN_TRANSITION, 0, "the device did not become ready")
            for slot in self._slots:
                self._take_over(slot)
            if self._version >= _FLIGHT_SINCE:
                self._flight.begin()
            super().__init__(parameters, self.last_timestamp())
            #: The epoch up to which `published` knows how each one ended.
            self._epoch = self._publication.published >> parameters.timestamp_bits
            self._statistics_before = self._latched_statistics()
            if initial_epoch > 0:
                self.reset(initial_epoch)
        except BaseException:
            bus.close()
            raise

    # The contract.

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """See :meth:`~bloomgate.device.Device.commit`. After any exception the transaction has not happened.

        Raises :class:`~bloomgate.errors.DeviceTimeout` when the device does not decide within its bound.
        """
        self._require_request(snapshot, reads, writes, commutes)
        thread = threading.get_ident()
        verdict: Optional[Verdict] = None
        try:
            slot = self._claim(thread)
            words = self._decide(slot, index(snapshot), (reads, writes, commutes))
            verdict = self._verdict(words)
            self._release(slot, thread)
            self._flight.settle()
            return verdict
        except BaseException as error:
            # After a timeout there is no point in waiting once more.
            self._abandon(thread, patient=not isinstance(error, DeviceTimeout))
            if verdict is not None:
                self.publish(verdict.timestamp)  # the slot may have been released with it
            raise

    def queue_pair(self) -> QueuePair:
        self._require_open()
        return QueuePair(self._queues.open(), self._require_sets)

    def last_timestamp(self) -> int:
        deadline = self._bus.now() + self._bus.patience
        while True:
            with self._lock:
                self._require_open()
                epoch, count = self._bus.read(_offset("EPOCH"), 2)
                # The epoch may have ended between the two words. If it is the same now it did not.
                (again,) = self._bus.read(_offset("EPOCH"), 1)
            # The verdict on the last commit of an epoch is readable before its keys are inserted, and only then the
            # epoch ends. It has no end only if it is the last that there can be.
            ending = count == self.parameters.max_count and epoch != _LAST_EPOCH
            if again == epoch and not ending:
                return self.parameters.timestamp(epoch, count)
            if self._bus.now() > deadline:
                raise self._timeout("the epoch did not end")

    def info(self) -> DeviceInfo:
        self._require_open()
        return DeviceInfo(
            backend=self._backend,
            version=self._version,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description=self._description,
        )

    def stats(self) -> Mapping[str, int]:
        now = self._latched_statistics()
        counted = {
            name: (value - before) % (1 << 64)
            for (name, _), value, before in zip(STATISTICS, now, self._statistics_before)
        }
        slots = [slot.counted if slot.client is None else slot.client.counters() for slot in self._slots]
        for name in (*(name for name, _ in FLIGHT_STATISTICS), "validation_clocks"):
            counted[name] = sum(slot[name] for slot in slots)
        return counted

    def reset(self, initial_epoch: int = 0) -> None:
        self._require_epoch(initial_epoch)
        with self._lock:
            self._require_open()
            self._settle_reset()
            self._note_epoch()
            self._bus.write(_offset("INITIAL_EPOCH"), (initial_epoch,))
            self._reset_from = self._epoch
            self._bus.write(_COMMAND.offset, (_COMMAND["SOFT_RESET"].insert(1),))
            self._settle_reset(certain=True)
        self._flight.settle()

    def raise_floor(self) -> None:
        self._command("RAISE_FLOOR")
        self._flight.settle()

    def inject_parity_error(self, table: int, row: int) -> None:
        self._require_word(table, row)
        register = CONTROL_PAGE.register("FAULT_INJECTION")
        word = (
            register["KIND"].insert(Fault.FILTER_WORD) | register["TABLE"].insert(table) | register["ROW"].insert(row)
        )
        with self._lock:
            self._require_open()
            self._bus.write(register.offset, (word,))
        pending = _STATUS["FAULT_PENDING"].mask
        self._await(_STATUS.offset, 1, pending, 0, "the device did not inject the fault")
        self._flight.settle()

    def error_log(self) -> list[ErrorEntry]:
        """The entries that the device still has, oldest first: the last 16 at most."""
        window = CONTROL_PAGE.window("ERROR_LOG")
        before = None
        while True:
            with self._lock:
                self._require_open()
                words = self._bus.read(window.offset, window.size // WORD_BYTES)
                (total,) = self._bus.read(_offset("ERROR_COUNT"), 1)
            # An entry written meanwhile may have been read in halves; without new entries the ring stood still.
            if total == before:
                break
            before = total
        entries = []
        for number in range(max(0, total - ERROR_LOG_ENTRIES), total):
            head, detail = words[2 * (number % ERROR_LOG_ENTRIES) :][:2]
            code: Union[ErrorCode, int] = head & 0xFF
            try:
                code = ErrorCode(code)
            except ValueError:
                pass  # from newer gateware
            entries.append(ErrorEntry(number, code, head >> 8 & 0xFF, detail))
        return entries

    def open_slot(self, number: Optional[int] = None) -> Slot:
        from bloomgate.programmed_slot import ProgrammedSlot

        self._require_flight()
        deadline = time.monotonic() + SLOT_SECONDS
        with self._freed:
            while True:
                self._require_open()
                wanted = [slot for slot in self._slots if number in (None, slot.number) and not slot.opened]
                if not wanted and number is not None:
                    raise DeviceInUse(f"slot {number} is open, or not one of the {len(self._slots)} of the device")
                if not wanted:
                    raise DeviceInUse(f"all {len(self._slots)} slots of the device are open: close one")
                for slot in wanted:
                    if slot.owner is None and slot.state == EMPTY:
                        slot.opened = True
                        return ProgrammedSlot(self, slot)
                self._freed.wait(1.0)
                if time.monotonic() > deadline:
                    raise DeviceTimeout(f"no slot became free within {SLOT_SECONDS} s; use fewer threads")

    def conflicts(self) -> list[Conflict]:
        self._require_flight()
        return self._flight.conflicts()

    def revoke_token(self) -> Optional[int]:
        self._require_flight()
        return self._flight.revoke_token()

    def set_token_watchdog(self, ticks: int) -> None:
        self._require_flight()
        self._require_ticks(ticks)
        self._flight.set_watchdog(ticks)

    def tick(self, ticks: int = 1) -> None:
        self._require_flight()
        self._require_ticks(ticks)
        self._flight.tick(ticks)

    def _require_flight(self) -> None:
        self._require_open()
        if self._version < _FLIGHT_SINCE:
            raise DeviceUnavailable(
                f"gateware of version {'.'.join(map(str, self._version))} of the register interface has no in-flight"
                f" filters; load version {'.'.join(map(str, _FLIGHT_SINCE))} or newer"
            )

    @property
    def clock_cycles(self) -> Optional[int]:
        return self._bus.clock_cycles

    def wait_published(self, timestamp: Optional[int], timeout: Optional[float] = None) -> None:
        self._settle(threading.get_ident())
        super().wait_published(timestamp, timeout)

    def close(self) -> None:
        try:
            self._queues.close()
        finally:
            with self._lock:
                super().close()
                self._bus.close()
        with self._freed:
            self._freed.notify_all()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._queues.abandon()

    # Slots.

    def _claim(self, thread: int) -> SlotPage:
        """A slot for this thread; waits until one is free."""
        self._settle(thread)
        deadline = time.monotonic() + SLOT_SECONDS
        with self._freed:
            while True:
                self._require_open()
                for slot in self._slots:
                    if slot.owner is None and slot.state == EMPTY and not slot.opened:
                        # In this order: a slot that has an owner is found through the owner.
                        self._held[thread] = slot
                        slot.owner = thread
                        return slot
                if all(slot.opened for slot in self._slots):
                    raise DeviceInUse(f"all {len(self._slots)} slots of the device are open: close one")
                if all(slot.owner is None for slot in self._slots):
                    raise DeviceTimeout(
                        f"none of the {len(self._slots)} slots has decided its last request; reset the device"
                    )
                self._freed.wait(1.0)
                if time.monotonic() > deadline:
                    raise DeviceTimeout(f"no slot became free within {SLOT_SECONDS} s; use fewer threads")

    def _release(self, slot: SlotPage, thread: int) -> None:
        """The request is decided, and its verdict is on the way to its caller."""
        with self._freed:
            self._freed.notify()
            # Without a call between, so that no interrupt comes between: the slot is either whole or free.
            slot.state = EMPTY
            slot.owner = None
        self._held.pop(thread, None)

    def _give_back(self, slot: SlotPage) -> None:
        """The slot that was opened on it is closed."""
        with self._freed:
            slot.opened = False
            if slot.state != EMPTY:
                self._unsettled = True
            self._freed.notify()

    def _abandon(self, thread: int, patient: bool) -> None:
        """Settle what this thread has left in the slot that it holds, and let the slot go."""
        slot = self._held.get(thread)
        if slot is None:
            return
        if slot.owner == thread:
            try:
                if slot.state != EMPTY and not self._closed:
                    self._settle_slot(slot, patient)
            except BloomgateError:
                pass  # the exception that led here says more; the slot stays out of use
            finally:
                with self._freed:
                    if slot.state != EMPTY:
                        self._unsettled = True
                    slot.owner = None
                    self._freed.notify()
        self._held.pop(thread, None)

    def _settle(self, thread: int) -> None:
        """Put in order what exceptions have left behind, as far as the device has decided it."""
        if thread in self._held:
            self._abandon(thread, patient=True)
        if self._unsettled:
            with self._lock:
                self._require_open()
                self._unsettled = False
                for slot in self._slots:
                    if slot.owner is None and slot.state != EMPTY and not slot.opened:
                        self._settle_slot(slot, patient=False)
                        if slot.state != EMPTY:
                            self._unsettled = True
        if self._reset_from is not None:
            with self._lock:
                self._require_open()
                self._settle_reset()

    def _settle_slot(self, slot: SlotPage, patient: bool) -> None:
        """Empty a slot whose caller has gone, if it can be done; ``patient``: wait for the decision."""
        if slot.state == SUBMITTED:
            deadline = self._bus.now() + self._bus.patience
            while True:
                with self._lock:
                    (status,) = self._bus.read(slot.offset + SLOT_PAGE.register("STATUS").offset, 1)
                    words = self._bus.read(slot.offset + _VERDICT.offset, _VERDICT_WORDS)
                if self._is_decided(slot, words):
                    self.publish(self._verdict(words).timestamp)
                    slot.state = EMPTY
                    return
                if not status & _SLOT_BUSY:
                    # It was idle, and still the verdict is another one: SUBMIT never arrived.
                    break
                if not patient or self._bus.now() > deadline:
                    return
        with self._lock:
            self._bus.write(slot.offset + SLOT_PAGE.register("DISCARD").offset, (0,))
        slot.state = EMPTY

    def _take_over(self, slot: SlotPage) -> None:
        """Empty a slot in which an earlier user may have left anything."""
        status = SLOT_PAGE.register("STATUS").offset
        if self._version >= _FLIGHT_SINCE:
            (word,) = self._bus.read(slot.offset + _FLIGHT.offset, 1)
            if word & _FLIGHT["TOKEN_WAITING"].mask:
                self._bus.write(slot.offset + SLOT_PAGE.register("DISCARD").offset, (0,))
        self._await(slot.offset + status, 1, _SLOT_BUSY, 0, f"slot {slot.number} did not decide its last request")
        self._bus.write(slot.offset + SLOT_PAGE.register("DISCARD").offset, (0,))
        (word,) = self._bus.read(slot.offset + _VERDICT.offset, 1)
        # The next request number differs from the one that the slot shows now.
        slot.request = _REQUEST.extract(word)

    # Requests.

    def _decide(self, slot: SlotPage, snapshot: int, sets: Sequence[Sequence[int]]) -> list[int]:
        """Fill the slot, submit, and wait for the verdict block."""
        slot.state = FILLING
        self._fill(slot, sets)
        self._submit(slot, RequestKind.COMMIT, self.parameters.epoch_and_count(snapshot))
        return self._answer(slot)

    def _fill(self, slot: SlotPage, sets: Sequence[Sequence[int]]) -> None:
        """Add to the read, write and commute set of the slot."""
        for window, keys in zip(_APERTURES, sets):
            if not len(keys):
                continue
            values = [index(key) for key in keys]
            room = window.size // WORD_BYTES
            # Any word of the aperture appends, so a longer set begins at its start again.
            for begin in range(0, len(values), room):
                with self._lock:
                    self._require_open()
                    self._bus.write(slot.offset + window.offset, values[begin : begin + room])

    def _submit(self, slot: SlotPage, kind: RequestKind, snapshot: tuple[int, ...] = ()) -> None:
        """``snapshot``: epoch and count, if they have not been written."""
        request = (slot.request + 1) % _REQUEST_NUMBERS
        with self._lock:
            self._require_open()
            self._settle_reset()
            slot.request = request
            if kind is RequestKind.COMMIT:
                slot.state = SUBMITTED  # only this one can be assigned a timestamp
            # SNAPSHOT_EPOCH, SNAPSHOT_COUNT and SUBMIT are neighbours.
            first = _SUBMIT.offset - len(snapshot) * WORD_BYTES
            word = _SUBMIT["REQUEST"].insert(request) | _SUBMIT["KIND"].insert(kind)
            self._bus.write(slot.offset + first, (*snapshot, word))

    def _answer(self, slot: SlotPage) -> list[int]:
        """Wait for the verdict block of what was submitted last."""
        return self._await(
            slot.offset + _VERDICT.offset,
            _VERDICT_WORDS,
            _DONE | _REQUEST.mask,
            _DONE | _REQUEST.insert(slot.request),
            f"slot {slot.number} did not decide its request",
        )

    @staticmethod
    def _is_decided(slot: SlotPage, words: Sequence[int]) -> bool:
        return words[0] & (_DONE | _REQUEST.mask) == _DONE | _REQUEST.insert(slot.request)

    def _verdict(self, words: Sequence[int]) -> Verdict:
        verdict = verdict_of(self.parameters, words)
        if verdict.timestamp is not None:
            if verdict.timestamp >> self.parameters.timestamp_bits != self._epoch:
                self._note_epoch()
            self._publication.assigned(verdict.timestamp)
        return verdict

    # The control page.

    def _command(self, name: str) -> None:
        with self._lock:
            self._require_open()
            self._bus.write(_COMMAND.offset, (_COMMAND[name].insert(1),))

    def _settle_reset(self, certain: bool = False) -> None:
        """Wait until a reset that was begun is over, and tell ``published``. Called with the lock held.

        ``certain``: the command has arrived; else an interrupt may have come before it, and there is no reset.

        The lock keeps every thread from submitting, so the previous epoch in the registers is the one that the reset
        ended, and not one that ended by rollover since.
        """
        before = self._reset_from
        if before is None:
            return
        failure = "the device did not finish its reset"
        deadline = self._bus.now() + self._bus.patience
        while True:
            (status,) = self._await(_STATUS.offset, 1, _IN_TRANSITION, 0, failure)
            (epoch,) = self._bus.read(_offset("EPOCH"), 1)
            if status & _EXHAUSTED:
                break
            if epoch != before and status & _READY:
                self._note_epoch()
                break
            if status & _READY and not certain:
                break
            if self._bus.now() > deadline:
                raise self._timeout(failure)
        self._reset_from = None

    def _note_epoch(self) -> None:
        """Tell ``published`` if the epoch has ended before its last count.

        Page 0 knows of the newest end only. So this is called before another epoch can have ended: behind whatever ends
        one early, and with the first timestamp of each epoch.
        """
        with self._lock:
            self._require_open()
            while True:
                epoch, _, previous_epoch, previous_count = self._bus.read(_offset("EPOCH"), 4)
                if self._bus.read(_offset("EPOCH"), 1)[0] == epoch:
                    break
            if epoch != self._epoch:
                self._epoch = epoch
                if previous_count != self.parameters.max_count:
                    last = self.parameters.timestamp(previous_epoch, previous_count)
                    self._publication.epoch_stepped(last, self.parameters.timestamp(epoch, 0))

    def _latched_statistics(self) -> list[int]:
        window = CONTROL_PAGE.window("STATISTICS")
        sequence = _offset("STATISTICS_SEQUENCE")
        with self._lock:
            self._require_open()
            (before,) = self._bus.read(sequence, 1)
            self._command("LATCH_STATISTICS")
            self._await(sequence, 1, 0xFFFFFFFF, (before + 1) & 0xFFFFFFFF, "the device did not latch its statistics")
            words = self._bus.read(window.offset, window.size // WORD_BYTES)
        return [low | high << 32 for low, high in zip(words[::2], words[1::2])]

    def _await(self, offset: int, words: int, mask: int, value: int, failure: str) -> list[int]:
        """Poll until the first word, masked, is ``value``; other threads get the bus in between."""
        deadline = self._bus.now() + self._bus.patience
        while True:
            with self._lock:
                self._require_open()
                result = self._bus.poll(offset, words, mask, value)
            if result[0] & mask == value:
                return result
            if self._bus.now() > deadline:
                raise self._timeout(failure)

    def _timeout(self, failure: str) -> DeviceTimeout:
        return DeviceTimeout(f"{failure} within {self._bus.patience:.0f} {self._bus.unit}; reset or reload it")


def _offset(name: str) -> int:
    return CONTROL_PAGE.register(name).offset


def identify(bus: RegisterBus, expected: Optional[Parameters] = None) -> tuple[tuple[int, int, int], Parameters]:
    """The version and geometry of what is on the bus, from the first words of page 0 and nothing else.

    ``expected``: the geometry that it must have. Raises :class:`~bloomgate.errors.VersionMismatch` if this is not a
    bloomgate device, or one that this host does not speak with.
    """
    identification, version_word, geometry, capacity, seed = bus.read(_offset("IDENTIFICATION"), 5)
    if identification != IDENTIFICATION:
        raise VersionMismatch(
            f"this is not a bloomgate device: its identification is {identification:#010x}, not"
            f" {IDENTIFICATION:#010x}; load the bitstream, and check the base address"
        )
    register = CONTROL_PAGE.register("VERSION")
    version = tuple(register[name].extract(version_word) for name in ("MAJOR", "MINOR", "PATCH"))
    major, minor, patch = version
    if major != VERSION[0]:
        remedy = "install a newer bloomgate on the host" if major > VERSION[0] else "load newer gateware"
        raise VersionMismatch(
            f"the gateware speaks version {major}.{minor}.{patch} of the register interface, and this host"
            f" {'.'.join(map(str, VERSION))}; {remedy}"
        )
    shape = CONTROL_PAGE.register("GEOMETRY")
    room = CONTROL_PAGE.register("CAPACITY")
    queues: dict[str, int] = {}
    if version >= _QUEUES_SINCE:
        # Not in one burst with the others: gateware without queue pairs answers with an error.
        register = CONTROL_PAGE.register("QUEUE_CAPACITY")
        (word,) = bus.read(register.offset, 1)
        if register["REQUEST_BUFFERS"].extract(word):
            queues = {
                "queue_entries": 1 << register["LOG2_ENTRIES"].extract(word),
                "request_buffers": register["REQUEST_BUFFERS"].extract(word),
                "buffer_depth": register["BUFFER_DEPTH"].extract(word),
            }
    try:
        parameters = Parameters(
            K=shape["K"].extract(geometry),
            D=1 << shape["LOG2_D"].extract(geometry),
            timestamp_bits=shape["TIMESTAMP_BITS"].extract(geometry),
            key_bits=shape["KEY_BITS"].extract(geometry),
            slots=room["SLOTS"].extract(capacity),
            aperture_depth=room["APERTURE_DEPTH"].extract(capacity),
            hash_seed=seed,
            **queues,
        )
    except ParameterError as error:
        raise VersionMismatch(f"the gateware has a geometry that this host cannot use: {error}") from error
    if expected is not None and parameters != expected:
        raise VersionMismatch(
            f"the gateware was built as {parameters}, not {expected}; open it without parameters or load other gateware"
        )
    return (major, minor, patch), parameters

"""Replays a transaction trace on a device and compares every verdict with the exact rule.

The rule of the replay: with C clients in flight, a client takes the next transaction of the trace, its snapshot is
the newest published timestamp at that moment, and it submits after C - 1 other requests have been decided. An aborted
transaction is retried by the same client with a new snapshot, and again waits for C - 1 other decisions. So the
clients take turns, and the replay is deterministic. At the very start, and when the trace has run out, fewer
requests come between.

The exact rule is backward validation (Kung & Robinson, "On Optimistic Methods for Concurrency Control", TODS 1981) on
the full sets of 64-bit words, without keys or filters: a transaction conflicts iff a word it read was written by a
commit newer than its snapshot. It is applied to what the *device* committed, with the timestamps that the device gave,
so that one wrong verdict does not make later ones look wrong.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Callable, Optional

from bloomgate.device import Device
from bloomgate.errors import ParameterError, PublicationError, RequestTooLarge
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.trace import Record
from bloomgate.verdict import Reason, Verdict

__all__ = ["MAX_CLIENTS", "ReplayReport", "derive_keys", "replay"]

#: Clients in flight; a limit so that a typing error does not read a whole trace into memory.
MAX_CLIENTS = 1024

#: Faults that a report describes in words; all are counted.
MAX_FAULTS = 10

#: Decisions between two calls of ``progress``.
PROGRESS_INTERVAL = 64

_SEGMENT_BITS = 32
_OFFSET_MASK = (1 << _SEGMENT_BITS) - 1
#: The odd number next to 2**32 / golden ratio (Knuth, TAOCP 3, 6.4): spreads consecutive segments over all keys.
_SEGMENT_FACTOR = 0x9E3779B1


def derive_keys(words: Iterable[int], key_bits: int = 32) -> list[int]:
    """The conflict keys of 64-bit word addresses, in the same order.

    The upper 32 bits of an address are its segment and the lower 32 its offset. The key is the offset XORed with a
    number made from the segment, so that no two locations of one segment share a key of 32 bits, and two segments
    with the same offsets in use (as in ssca2: heap and stack) do not meet systematically. A shared key can only cause
    a false abort. Keys narrower than 32 bits are folded by XOR, where no offset bit is lost.
    """
    keys = [(word & _OFFSET_MASK) ^ ((word >> _SEGMENT_BITS) * _SEGMENT_FACTOR & _OFFSET_MASK) for word in words]
    if key_bits < _SEGMENT_BITS:
        mask = (1 << key_bits) - 1
        for index, key in enumerate(keys):
            folded = 0
            while key:
                folded ^= key & mask
                key >>= key_bits
            keys[index] = folded
    return keys


@dataclass
class ReplayReport:
    """What came of a replay. An attempt is one submission; every attempt has one verdict."""

    #: What was replayed.
    name: str
    clients: int
    #: Transactions that the device committed.
    commits: int = 0
    #: Those among them that wrote nothing, and so have no timestamp.
    read_only: int = 0
    attempts: int = 0
    #: Aborts with CONFLICT where the exact rule conflicts too.
    true_aborts: int = 0
    #: Aborts with CONFLICT where the exact rule does not conflict.
    false_aborts: int = 0
    #: Commits where the exact rule conflicts. There must be none, whatever the device.
    missed: int = 0
    #: Verdicts that no correct device gives for another reason: a timestamp out of turn, a snapshot of an older epoch
    #: accepted, a conflict key that is not the first one.
    wrong: int = 0
    #: Aborts for other reasons, by the name of the reason.
    other_aborts: dict[str, int] = field(default_factory=dict)
    #: Epochs that ended between two commits of the replay.
    epoch_steps: int = 0
    #: Keys submitted, those of retries included.
    keys: int = 0
    #: Clock cycles from the first submission to the last verdict; None where the device has no clock.
    clock_cycles: Optional[int] = None
    #: The clock cycles among them in which a request was in service.
    busy_cycles: Optional[int] = None
    #: Whether every transaction was committed in the end. If not, ``faults`` says why.
    complete: bool = False
    #: The first few missed conflicts and wrong verdicts, in words.
    faults: list[str] = field(default_factory=list)
    #: Wall-clock time, in seconds. All other figures are the same in every replay.
    seconds: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the replay ended and the device never erred in the unsafe direction."""
        return self.complete and not self.missed and not self.wrong

    @property
    def agreeing(self) -> int:
        """Verdicts that are those of the exact rule, of the ones that it says anything about."""
        return self.commits - self.missed + self.true_aborts

    @property
    def compared(self) -> int:
        """Verdicts that the exact rule says something about: all but aborts for reasons other than CONFLICT."""
        return self.commits + self.true_aborts + self.false_aborts

    @property
    def false_abort_rate(self) -> float:
        """False aborts as a share of the attempts, from 0 to 1."""
        return self.false_aborts / self.attempts if self.attempts else 0.0

    @property
    def cycles_per_key(self) -> Optional[float]:
        """Clock cycles for each key submitted, all bus traffic included; None where there is no clock."""
        return self.clock_cycles / self.keys if self.clock_cycles is not None and self.keys else None

    @property
    def busy_cycles_per_key(self) -> Optional[float]:
        """Clock cycles in service for each key submitted; None where there is no clock."""
        return self.busy_cycles / self.keys if self.busy_cycles is not None and self.keys else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "name": self.name,
            "clients": self.clients,
            "attempts": self.attempts,
            "commits": self.commits,
            "read_only": self.read_only,
            "true_aborts": self.true_aborts,
            "false_aborts": self.false_aborts,
            "false_abort_rate": self.false_abort_rate,
            "missed": self.missed,
            "wrong": self.wrong,
            "other_aborts": dict(self.other_aborts),
            "epoch_steps": self.epoch_steps,
            "keys": self.keys,
            "clock_cycles": self.clock_cycles,
            "busy_cycles": self.busy_cycles,
            "cycles_per_key": self.cycles_per_key,
            "busy_cycles_per_key": self.busy_cycles_per_key,
            "seconds": self.seconds,
            "complete": self.complete,
            "ok": self.ok,
            "faults": list(self.faults),
        }


class _Oracle:
    """The exact rule: who wrote which word last."""

    def __init__(self) -> None:
        self._last_writer: dict[int, int] = {}

    def first_conflict(self, reads: Iterable[int], snapshot: int) -> Optional[int]:
        """The position in ``reads`` of the first word written after ``snapshot``."""
        last_writer = self._last_writer
        for position, word in enumerate(reads):
            if last_writer.get(word, -1) > snapshot:
                return position
        return None

    def commit(self, writes: Iterable[int], timestamp: int) -> None:
        """The device committed these writes."""
        last_writer = self._last_writer
        for word in writes:
            # A device that assigns an older timestamp than before must not make a write forgotten.
            if last_writer.get(word, -1) < timestamp:
                last_writer[word] = timestamp


class _Transaction:
    """A transaction in flight."""

    __slots__ = ("number", "read_keys", "record", "snapshot", "write_keys")

    def __init__(self, number: int, record: Record, key_bits: int) -> None:
        #: Place in the trace, from 1.
        self.number = number
        self.record = record
        self.read_keys = derive_keys(record.reads, key_bits)
        self.write_keys = derive_keys(record.writes, key_bits)
        self.snapshot = 0


class _Replay:
    """The state of one replay."""

    def __init__(self, device: Device, report: ReplayReport) -> None:
        self._device = device
        self._parameters: Parameters = device.parameters
        self._report = report
        self._oracle = _Oracle()
        self._newest = device.last_timestamp()
        #: Decisions since the last commit.
        self._barren = 0
        self._last_reason = ""
        # Of the C - 1 decisions that a request waits for, one must be a commit if it conflicts. So of C decisions in
        # a row one is a commit, or two when a rollover comes between; injected faults are rare.
        self._patience = 1000 + 16 * report.clients

    def fault(self, what: str) -> None:
        """Note a fault that has been counted."""
        if len(self._report.faults) < MAX_FAULTS:
            self._report.faults.append(what)

    def wrong(self, what: str) -> None:
        """Count and note a wrong verdict."""
        self._report.wrong += 1
        self.fault(what)

    def decide(self, transaction: _Transaction) -> bool:
        """Submit once; whether it was committed."""
        report, record, snapshot = self._report, transaction.record, transaction.snapshot
        # Before the device decides, so that it cannot depend on the verdict.
        exact = self._oracle.first_conflict(record.reads, snapshot)
        verdict = self._device.commit(snapshot=snapshot, reads=transaction.read_keys, writes=transaction.write_keys)
        report.attempts += 1
        report.keys += len(transaction.read_keys) + len(transaction.write_keys)
        if verdict.committed:
            self._barren = 0
            self._committed(transaction, verdict, exact)
        else:
            self._barren += 1
            self._aborted(transaction, verdict, exact)
        return verdict.committed

    def _committed(self, transaction: _Transaction, verdict: Verdict, exact: Optional[int]) -> None:
        report, parameters, record = self._report, self._parameters, transaction.record
        report.commits += 1
        number, snapshot, timestamp = transaction.number, transaction.snapshot, verdict.timestamp
        if exact is not None:
            report.missed += 1
            self.fault(
                f"transaction {number} was committed with snapshot {snapshot} although the word"
                f" {record.reads[exact]:#x}, which it read, was written by a later commit"
            )
        epoch = parameters.epoch_and_count(self._device.published)[0]
        if parameters.epoch_and_count(snapshot)[0] < epoch:
            self.wrong(f"transaction {number} was committed with snapshot {snapshot} of an epoch before {epoch}")
        if not record.writes:
            report.read_only += 1
            if timestamp is not None:
                self.wrong(f"transaction {number} writes nothing and was given the timestamp {timestamp}")
            return
        expected = self._newest + 1
        if parameters.epoch_and_count(expected)[1] == 0:
            expected += 1  # (epoch, 0) is the empty commit that begins an epoch
        if timestamp is None:
            self.wrong(f"transaction {number} was committed without a timestamp; the next one was {expected}")
            timestamp = expected
        elif timestamp != expected and not self._first_of_an_epoch(timestamp):
            self.wrong(f"transaction {number} was given the timestamp {timestamp}; the next one was {expected}")
        if timestamp >> parameters.timestamp_bits > self._newest >> parameters.timestamp_bits:
            report.epoch_steps += 1
        self._newest = max(self._newest, timestamp)
        self._oracle.commit(record.writes, timestamp)
        self._device.publish(verdict.timestamp)

    def _first_of_an_epoch(self, timestamp: int) -> bool:
        """Whether the timestamp is in turn after a reset, which ends an epoch early."""
        epoch, count = self._parameters.epoch_and_count(timestamp)
        return count == 1 and epoch > self._parameters.epoch_and_count(self._newest)[0]

    def _aborted(self, transaction: _Transaction, verdict: Verdict, exact: Optional[int]) -> None:
        report, parameters = self._report, self._parameters
        number, reason = transaction.number, verdict.reason
        self._last_reason = "no reason" if reason is None else reason.name
        if verdict.timestamp is not None or reason is None:
            self.wrong(f"transaction {number} was aborted with timestamp {verdict.timestamp} and reason {reason}")
        if reason is Reason.CONFLICT:
            if exact is None:
                report.false_aborts += 1
            else:
                report.true_aborts += 1
            # The filter may name a key too early, never too late: then it would have missed the one before.
            latest = transaction.read_keys[: None if exact is None else exact + 1]
            if verdict.conflict_key not in latest:
                self.wrong(
                    f"transaction {number} was aborted with CONFLICT on {verdict.conflict_key}, which is not among its"
                    f" first {len(latest)} keys, though the first conflicting one is"
                )
            return
        report.other_aborts[self._last_reason] = report.other_aborts.get(self._last_reason, 0) + 1
        if reason is Reason.ROLLOVER:
            epoch = parameters.epoch_and_count(self._device.last_timestamp())[0]
            exhausted = epoch == (1 << EPOCH_BITS) - 1  # then there is no epoch to retry in
            if parameters.epoch_and_count(transaction.snapshot)[0] >= epoch and not exhausted:
                self.wrong(f"transaction {number} was aborted with ROLLOVER in the epoch of its snapshot, {epoch}")

    def run(self, source: Iterator[_Transaction], clients: int, progress: Optional[Callable[[int], None]]) -> None:
        """Replay everything, or stop at a fault that leaves no way on."""
        device, report = self._device, self._report
        in_flight: deque[_Transaction] = deque()
        for transaction in islice(source, clients):
            transaction.snapshot = device.published
            in_flight.append(transaction)
        while in_flight:
            # The client whose turn it is has waited for all the others; then it takes the last place again.
            transaction = in_flight.popleft()
            try:
                following = next(source, None) if self.decide(transaction) else transaction
            except PublicationError as error:
                self.wrong(
                    f"the device denies a timestamp that it assigned to transaction {transaction.number}: {error}"
                )
                return
            if self._barren > self._patience:
                self.fault(
                    f"the replay was given up: {self._barren} requests in a row were aborted,"
                    f" the last one with {self._last_reason}"
                )
                return
            if following is not None:
                following.snapshot = device.published
                in_flight.append(following)
            if progress is not None and report.attempts % PROGRESS_INTERVAL == 0:
                progress(report.commits)
        report.complete = True


def replay(
    device: Device,
    records: Iterable[Record],
    *,
    name: str = "trace",
    clients: int = 8,
    limit: Optional[int] = None,
    progress: Optional[Callable[[int], None]] = None,
) -> ReplayReport:
    """Replay a trace on a device that has no other client, and compare every verdict with the exact rule.

    ``clients`` are in flight at a time, 1 to :data:`MAX_CLIENTS`. Of the trace, the first ``limit`` transactions are
    replayed. ``progress`` is called now and then with the number of transactions committed. Aborted transactions are
    retried until they commit; where a device aborts without end, the report says so and is not ``complete``.

    Raises :class:`~bloomgate.errors.RequestTooLarge` for a transaction with more words than the device can buffer,
    :class:`~bloomgate.errors.ParameterError` for a number of clients or a limit out of range, and what iterating over
    ``records`` or the device raises.
    """
    if not 1 <= clients <= MAX_CLIENTS:
        raise ParameterError(f"clients must be between 1 and {MAX_CLIENTS}, not {clients}")
    if limit is not None and limit < 1:
        raise ParameterError(f"limit must be at least 1, not {limit}")
    report = ReplayReport(name=name, clients=clients)
    source = _transactions(device, records, name, limit)
    clocks, busy = device.clock_cycles, device.stats().get("busy_clocks")
    started = time.perf_counter()
    _Replay(device, report).run(source, clients, progress)
    report.seconds = time.perf_counter() - started
    clocks_now = device.clock_cycles
    if clocks is not None and clocks_now is not None:
        report.clock_cycles = clocks_now - clocks
        busy_now = device.stats().get("busy_clocks")
        if busy is not None and busy_now is not None:
            report.busy_cycles = busy_now - busy
    return report


def _transactions(device: Device, records: Iterable[Record], name: str, limit: Optional[int]) -> Iterator[_Transaction]:
    """The transactions of a trace, each checked to fit the device before any part of it is submitted."""
    capacity, key_bits = device.info().max_request_keys, device.parameters.key_bits
    for number, record in enumerate(islice(records, limit), 1):
        size = len(record.reads) + len(record.writes)
        if size > capacity:
            depth = 1 << (size - 1).bit_length()
            try:
                Parameters(aperture_depth=depth)
            except ParameterError:
                advice = "no device takes that many, so the transaction must be split"
            else:
                advice = f"open it with aperture_depth={depth}"
            raise RequestTooLarge(
                f"{name}: record {number} has {size} keys, and the device takes {capacity} in one request: {advice}"
            )
        yield _Transaction(number, record, key_bits)

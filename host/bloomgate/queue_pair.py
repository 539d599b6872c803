"""Queue pairs: submit a request now, collect its verdict later, several at a time.

>>> import bloomgate
>>> with bloomgate.open_device("model:") as device, device.queue_pair() as queue:
...     first = queue.submit(snapshot=0, reads=[1], writes=[1])
...     second = queue.submit(snapshot=0, reads=[1])
...     queue.collect(first).timestamp, queue.collect(second).reason.name
(1, 'CONFLICT')

A request can be longer than one of :meth:`bloomgate.Device.commit`: 2**20 reads, 65535 writes and as many commutes, as
far as the window has room (on a board it is smaller, see docs/board.md). One of those that do not fit a ring entry's
own log, of ``aperture_depth`` keys, can be outstanding at a time.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Sequence
from operator import index as as_index
from typing import Callable, NamedTuple, Optional, Union

from bloomgate.closing import Closing
from bloomgate.errors import QueueFull, RequestError, RequestTooLarge
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import FORMAT, MAX_READ_KEYS, SUBMISSION, WINDOW_ALIGNMENT, log_area_offset
from bloomgate.queue_port import QueuePort
from bloomgate.registers import WORD_BYTES
from bloomgate.verdict import Verdict
from bloomgate.verdict_words import verdict_of

__all__ = ["QueuePair", "Ticket", "window_bytes"]

#: Keys of a write or commute set.
MAX_INSERTION_KEYS = 0xFFFF
#: Seconds that one call to the port may wait, so that Python sees signals.
SLICE_SECONDS = 0.05
#: Seconds after which a thread that finds the ring full of other threads' requests gives up.
FULL_SECONDS = 60.0

_NUMBERS = 1 << SUBMISSION[0]["REQUEST"].width

#: Raises the error that a request deserves; returns how many keys it has.
Check = Callable[[int, Sequence[int], Sequence[int], Sequence[int]], int]


def _long_log_offset(parameters: Parameters) -> int:
    return log_area_offset(parameters) + parameters.queue_entries * parameters.aperture_depth * WORD_BYTES


def window_bytes(parameters: Parameters) -> int:
    """Size of a window with the rings, a log for each ring entry, and room for the longest request."""
    size = _long_log_offset(parameters) + (MAX_READ_KEYS + 2 * MAX_INSERTION_KEYS) * WORD_BYTES
    return -(-size // WINDOW_ALIGNMENT) * WINDOW_ALIGNMENT


class Ticket(NamedTuple):
    """A submitted request."""

    #: Ring index of its entries.
    entry: int
    #: Counts the submissions of a queue pair.
    number: int


class QueuePair(Closing):
    """The rings of one slot. Can be used from any number of threads; a context manager that closes itself."""

    def __init__(self, port: QueuePort, check: Check, entry_format: int = FORMAT) -> None:
        """``port`` is enabled for this owner and belongs to the queue pair from now on."""
        self.port = port
        self._check = check
        self._format_bits = SUBMISSION[0]["FORMAT"].insert(entry_format)
        #: Held while entries are taken and given back.
        self.lock = threading.RLock()
        self._freed = threading.Condition(self.lock)
        self._submitted = 0
        #: Ring index -> the ticket that its entry is used by.
        self._live: dict[int, Ticket] = {}
        #: Threads and their commits that were cut short: undecided, or decided with a verdict that got lost.
        self._abandoned: list[tuple[int, Union[Ticket, Verdict]]] = []
        self._long: Optional[Ticket] = None
        #: Thread -> what it submitted last.
        self._newest: dict[int, Ticket] = {}
        #: Thread -> the verdict on its newest commit().
        self._known: dict[int, Verdict] = {}

    def submit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Ticket:
        """Submit a request; never waits. Whoever submits also collects, or the ring fills up.

        Raises what :meth:`bloomgate.Device.commit` raises for a request that cannot be put on the wire, and
        :class:`~bloomgate.errors.QueueFull`; then nothing was submitted.
        """
        with self.lock:
            index = self.port.next_index()
            if index is None:
                self.port.require_open()
                entries = self.port.parameters.queue_entries
                raise QueueFull(
                    f"all {entries} entries are in use; collect a request, or publish what was committed, first"
                )
            ticket = Ticket(index, self._submitted)
            words = self._entry(ticket, snapshot, reads, writes, commutes)
            # Before the request can be decided, so that it is found whatever exception comes now.
            self._live[index] = ticket
            self._newest[threading.get_ident()] = ticket
            self._submitted += 1
            self.port.submit(words)
            return ticket

    def collect(self, ticket: Ticket, timeout: Optional[float] = None) -> Verdict:
        """The verdict of a request; waits for it, for at most ``timeout`` seconds, and gives its entry back.

        Raises TimeoutError, and :class:`~bloomgate.errors.DeviceTimeout` if the device does not answer any more; in
        both cases it can be collected again. Raises ValueError for a ticket that has been collected.
        """
        payload = self._await(ticket, timeout)
        self._release(ticket)
        return verdict_of(self.port.parameters, payload)

    def poll(self, ticket: Ticket) -> Optional[Verdict]:
        """The verdict of a request, as :meth:`collect`, or None if it is not there yet."""
        try:
            return self.collect(ticket, 0)
        except TimeoutError:
            return None

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """Submit a request and collect it; waits for a free entry if other threads use them all.

        After any exception the transaction has not happened; what was submitted is left to :meth:`settle`.
        """
        deadline = time.monotonic() + FULL_SECONDS
        thread = threading.get_ident()
        self._newest.pop(thread, None)
        self._known.pop(thread, None)
        try:
            while True:
                try:
                    ticket = self.submit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
                    break
                except QueueFull:
                    with self.lock:
                        self._freed.wait(SLICE_SECONDS)
                    if time.monotonic() > deadline:
                        raise
            payload = self._await(ticket, None)
            self._known[thread] = verdict = verdict_of(self.port.parameters, payload)
            self._release(ticket)
            return verdict
        except BaseException:
            self._abandon(thread)
            raise

    def recall(self, thread: Optional[int] = None) -> Optional[Verdict]:
        """The verdict of the newest :meth:`commit` of this (or that) thread, also if an exception has cut it short.

        Then the caller takes over what it has to write back and to publish. None: nothing was submitted, or
        :meth:`settle` has already published it as an empty commit.
        """
        if thread is None:
            thread = threading.get_ident()
        with self.lock:
            for entry in [entry for entry in self._abandoned if entry[0] == thread]:
                self._known[thread] = self._recover(entry[1])
                self._abandoned.remove(entry)
            return self._known.get(thread)

    def settle(self, publish: Callable[[Optional[int]], None]) -> None:
        """Collect what commits have left behind, and publish it as empty commits: nothing was written under it."""
        if not self._abandoned:
            return
        with self.lock:
            for entry in list(self._abandoned):
                thread, left = entry
                if isinstance(left, Ticket) and self.port.collect(left.entry, 0.0) is None:
                    continue
                publish(self._recover(left).timestamp)
                self._abandoned.remove(entry)
                self._known.pop(thread, None)

    def _abandon(self, thread: int) -> None:
        """A commit was cut short by an exception. Note what it leaves behind."""
        with self.lock:
            ticket = self._newest.pop(thread, None)
            if ticket is None:
                return
            if self._live.get(ticket.entry) != ticket:
                self._abandoned.append((thread, self._known[thread]))
            elif self.port.next_index() == ticket.entry:  # it never got into the ring
                del self._live[ticket.entry]
            else:
                self._abandoned.append((thread, ticket))

    def _recover(self, left: Union[Ticket, Verdict]) -> Verdict:
        """The verdict of an abandoned commit."""
        if isinstance(left, Verdict):
            return left
        verdict = verdict_of(self.port.parameters, self._await(left, None))
        self._release(left)
        return verdict

    def close(self) -> None:
        """Give the slot back. What was not collected is decided or forgotten. Idempotent."""
        self.port.close()

    def _await(self, ticket: Ticket, timeout: Optional[float]) -> tuple[int, ...]:
        if self._live.get(ticket.entry) != ticket:
            raise ValueError(f"{ticket} has been collected")
        begin = time.monotonic()
        deadline = None if timeout is None else begin + timeout
        while True:
            left = SLICE_SECONDS if deadline is None else min(SLICE_SECONDS, deadline - time.monotonic())
            payload = self.port.collect(ticket.entry, max(0.0, left))
            if payload is not None:
                return payload
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"request {ticket.number} was not decided within {timeout} s")
            self.port.waited(time.monotonic() - begin)

    def _release(self, ticket: Ticket) -> None:
        with self.lock:
            if self._live.get(ticket.entry) != ticket:
                raise ValueError(f"{ticket} has been collected")
            del self._live[ticket.entry]
            if self._long == ticket:
                self._long = None
            self.port.release(ticket.entry)
            self._freed.notify()

    # Entries and logs.

    def _entry(
        self,
        ticket: Ticket,
        snapshot: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
    ) -> list[int]:
        """Write the logs; the words of the entry."""
        parameters = self.port.parameters
        try:
            size = len(reads) + len(writes) + len(commutes)
            if size > parameters.aperture_depth:
                size = self._check_long(snapshot, reads, writes, commutes)
                self._long = ticket
                offset = _long_log_offset(parameters)
                self.port.reserve(offset, size * WORD_BYTES)
            else:
                place = ticket.entry % parameters.queue_entries
                offset = log_area_offset(parameters) + place * parameters.aperture_depth * WORD_BYTES
            self.port.put(offset, (*reads, *writes, *commutes))
            if parameters.key_bits < 32 or not 0 <= snapshot <= parameters.max_timestamp:
                self._check(snapshot, reads, writes, commutes)
            epoch, count = parameters.epoch_and_count(as_index(snapshot))
        except RequestError:
            raise
        except (struct.error, TypeError, ValueError, OverflowError):
            if self._check(snapshot, reads, writes, commutes) == 0:
                raise
            # Integers, but not in the eyes of `struct`.
            return self._entry(
                ticket,
                as_index(snapshot),
                [as_index(key) for key in reads],
                [as_index(key) for key in writes],
                [as_index(key) for key in commutes],
            )
        return [
            self._format_bits | ticket.number % _NUMBERS,
            epoch,
            count,
            offset,
            len(reads),
            offset + len(reads) * WORD_BYTES,
            offset + (len(reads) + len(writes)) * WORD_BYTES,
            len(writes) | len(commutes) << 16,
        ]

    def _check_long(self, snapshot: int, reads: Sequence[int], writes: Sequence[int], commutes: Sequence[int]) -> int:
        size = self._check(snapshot, reads, writes, commutes)
        for name, keys, limit in (
            ("reads", reads, MAX_READ_KEYS),
            ("writes", writes, MAX_INSERTION_KEYS),
            ("commutes", commutes, MAX_INSERTION_KEYS),
        ):
            if len(keys) > limit:
                raise RequestTooLarge(f"a queued request can have {limit} keys in {name}, not {len(keys)}")
        room = (len(self.port.window) - _long_log_offset(self.port.parameters)) // WORD_BYTES
        if size > room:
            raise RequestTooLarge(f"the window of this queue pair has room for requests of {room} keys, not {size}")
        if self._long is not None and self._live.get(self._long.entry) == self._long:
            raise QueueFull(f"request {self._long.number} uses the room for long logs; collect it first")
        return size

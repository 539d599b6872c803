"""``model:``, the decisions of the gateware in plain Python: their specification, written to be read.

A device holds

* the current epoch, and ``last``, the last count issued in it (0: none yet);
* the epoch before it and that epoch's last count;
* ``floor``: snapshots with a count below it conflict with every read;
* the recency filter: K tables of D words, each a count and whether its parity is bad;
* whether it is exhausted: the last epoch there can be has ended.

A request is decided in one atomic step:

1. Every read key is queried, in order, against the filter as it is before the request; always, also if the request
   will be refused for another reason. The words of a key are the ones at its row in each table. A word with bad
   parity reads as ``last``. The key fails if ``floor`` is greater than the snapshot's count, or if all K words are.
   A failing key has the reason PARITY if ``floor`` alone does not fail it and one of its words was bad; else it has
   the reason CONFLICT.
2. Every bad word that was met is rewritten with ``last`` and good parity.
3. The verdict is the first that applies:

   * BAD_REQUEST if the snapshot is newer than the last timestamp, or a key is wider than key_bits;
   * ROLLOVER if the snapshot's epoch is older than the current one, or the device is exhausted;
   * the reason of the first failing key, with that key;
   * COMMIT.
4. A COMMIT with at least one write or commute issues the count ``last + 1``, and writes it with good parity to the
   words of all these keys. If that was the largest count, the epoch ends.

A request from a slot with a transaction in flight (:mod:`bloomgate.in_flight`) queries what it has not announced, or
everything if it has to. A COMMIT looks every inserted key up in the slot filters.

A request from a queue pair (:mod:`bloomgate.backends.model_queue`) differs in what it can be too large for:

* Its reads are validated in chunks of buffer_depth keys: steps 1 and 2 are done for each chunk in turn. They end after
  the first chunk behind which a COMMIT is out of the question; the keys of later chunks are not queried.
* A key wider than key_bits is queried by its low key_bits bits. In the read set it is known when its chunk has been
  validated; in the writes or commutes, with the first chunk.
* A COMMIT of more than buffer_depth writes and commutes together writes no words. It issues the count ``last + 1``, and
  ``floor`` becomes that count.

The end of an epoch: the next one begins with ``last`` and ``floor`` 0 and a filter of good zeros. After the last epoch
nothing changes, but the device is exhausted. A reset ends the epoch, too, and so can a request for the token.

Source of the filter: the timestamps of a hash-indexed version table, as in TL2 (Dice, Shalev & Shavit, DISC 2006), in
K tables like a Bloom filter (Bloom, CACM 1970). Because counts only grow, overwriting a word can make a key look newer
than it is, and never older.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Optional

from bloomgate.backends.model_slot import ModelSlot
from bloomgate.device import Device, DeviceInfo
from bloomgate.h3 import H3
from bloomgate.in_flight import Conflict, InFlight, Token, insertion_beats, queued_insertion_beats
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_pair import QueuePair, window_bytes
from bloomgate.registers import STATISTICS, VERSION
from bloomgate.slots import SlotNumbers
from bloomgate.verdict import Reason, Verdict

__all__ = ["ModelDevice"]

#: Statistics that only a device with a clock has.
CLOCK_STATISTICS = ("clocks", "busy_clocks")

LAST_EPOCH = (1 << EPOCH_BITS) - 1


class ModelDevice(Device):
    """The pure-Python device. Bit-exact with the gateware, apart from time: there is no clock."""

    def __init__(self, parameters: Optional[Parameters] = None, *, initial_epoch: int = 0) -> None:
        """Raises :class:`~bloomgate.errors.ParameterError` for an ``initial_epoch`` that no epoch can have."""
        parameters = Parameters() if parameters is None else parameters
        self._require_epoch(initial_epoch)
        self._lock = threading.Lock()
        #: Somebody was woken, or the token has moved.
        self._news = threading.Condition(self._lock)
        self._h3 = H3(parameters)
        self._max_count = parameters.max_count
        self._epoch = 0
        self._last = 0
        self._previous = (0, 0)
        self._floor = 0
        self._exhausted = False
        #: Counts, [table][row].
        self._words = [[0] * parameters.D for _ in range(parameters.K)]
        #: The (table, row) of every word with bad parity.
        self._bad: set[tuple[int, int]] = set()
        self._statistics = {name: 0 for name, _ in STATISTICS if name not in CLOCK_STATISTICS}
        self._in_flight = InFlight(
            parameters,
            rows_of=self._h3.rows,
            query=self._query,
            newest=lambda: (self._epoch, self._last),
            exhausted=lambda: self._exhausted,
            validate=self._validate_slot,
        )
        self._slot_numbers = SlotNumbers(parameters.slots)
        super().__init__(parameters, 0)
        if initial_epoch > 0:
            self.reset(initial_epoch)

    # The contract.

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        self._require_request(snapshot, reads, writes, commutes)
        epoch, count = self.parameters.epoch_and_count(index(snapshot))
        with self._lock:
            verdict = self._decide(
                epoch, count, [index(key) for key in reads], [index(key) for key in (*writes, *commutes)]
            )
            self._settle()
            return verdict

    def commit_queued(
        self,
        epoch: int,
        count: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
        slot: Optional[int] = None,
    ) -> Verdict:
        """Decide a request that was fetched from memory. Keys are 32 bits and may be wider than key_bits.

        ``slot``: whose ring it was in, if that can have a transaction in flight.
        """
        depth = self.parameters.buffer_depth
        with self._lock:
            verdict = self._decide(
                epoch,
                count,
                reads,
                [*writes, *commutes],
                slot=slot,
                chunk=depth,
                capacity=depth,
                beats=queued_insertion_beats(len(reads), writes, commutes),
            )
            self._settle()
            return verdict

    def queue_pair(self) -> QueuePair:
        from bloomgate.backends.model_queue import ModelQueue

        self._require_open()
        port = ModelQueue(self, window_bytes(self.parameters))
        port.enable(1)
        return QueuePair(port, self._require_sets)

    def refuse_queued(self) -> Verdict:
        """The verdict on a queue entry that is not what it must be."""
        with self._lock:
            self._statistics["errors"] += 1
            return self._abort(Reason.BAD_REQUEST)

    def count_error(self) -> None:
        """A doorbell was refused."""
        with self._lock:
            self._statistics["errors"] += 1

    def last_timestamp(self) -> int:
        self._require_open()
        with self._lock:
            return self.parameters.timestamp(self._epoch, self._last)

    def info(self) -> DeviceInfo:
        self._require_open()
        return DeviceInfo(
            backend="model",
            version=VERSION,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description="pure-Python reference model",
        )

    def stats(self) -> Mapping[str, int]:
        self._require_open()
        with self._lock:
            return {**self._statistics, **self._in_flight.totals()}

    def reset(self, initial_epoch: int = 0) -> None:
        self._require_epoch(initial_epoch)
        self._require_open()
        with self._lock:
            self._end_epoch(initial_epoch, by_reset=True)
            self._settle()

    def raise_floor(self) -> None:
        self._require_open()
        with self._lock:
            self._floor = self._last
            self._in_flight.floor_raised()
            self._settle()

    def inject_parity_error(self, table: int, row: int) -> None:
        self._require_word(table, row)
        self._require_open()
        with self._lock:
            self._words[table][row] = 0
            self._bad.add((table, row))
            self._in_flight.fault_injected()

    # In flight.

    def open_slot(self, number: Optional[int] = None) -> ModelSlot:
        self._require_open()
        return ModelSlot(self, self._slot_numbers.take(number))

    def conflicts(self) -> list[Conflict]:
        self._require_open()
        with self._lock:
            drained = list(self._in_flight.conflicts)
            self._in_flight.conflicts.clear()
            return drained

    def revoke_token(self) -> Optional[int]:
        self._require_open()
        with self._lock:
            holder = self._in_flight.revoke()
            self._settle()
            return holder

    def set_token_watchdog(self, ticks: int) -> None:
        self._require_open()
        self._require_ticks(ticks)
        with self._lock:
            self._in_flight.set_watchdog(ticks)

    def tick(self, ticks: int = 1) -> None:
        self._require_open()
        self._require_ticks(ticks)
        with self._lock:
            self._in_flight.tick(ticks)
            self._settle()

    def _validate_slot(self, slot: int) -> Optional[Verdict]:
        """What is to be said against a slot's transaction as far as it has come."""
        epoch, count = self._in_flight.snapshot(slot)
        return self._refusal(epoch, count, self._in_flight.log(slot), ())

    def _decide_slot(self, slot: int, reads: Sequence[int], insertions: Sequence[int]) -> Verdict:
        epoch, count = self._in_flight.snapshot(slot)
        queried = self._in_flight.reads_to_query(slot, reads)
        verdict = self._decide(epoch, count, queried, insertions, slot=slot)
        self._in_flight.decided(slot, verdict)
        self._settle()
        return verdict

    # The decision.

    def _decide(
        self,
        epoch: int,
        count: int,
        reads: Sequence[int],
        insertions: Sequence[int],
        *,
        slot: Optional[int] = None,
        chunk: Optional[int] = None,
        capacity: Optional[int] = None,
        beats: Optional[Iterable[Sequence[int]]] = None,
    ) -> Verdict:
        refusal = self._refusal(epoch, count, reads, insertions, slot=slot, chunk=chunk)
        if refusal is not None:
            return refusal

        self._statistics["commits"] += 1
        if not insertions:
            return Verdict(True, None, None, None)
        self._last += 1
        timestamp = self.parameters.timestamp(self._epoch, self._last)
        if capacity is not None and len(insertions) > capacity:
            self._floor = self._last
            self._statistics["floor_raises"] += 1
            self._in_flight.floor_raised(slot)
        else:
            for key in insertions:
                self._insert(key)
            self._statistics["keys_inserted"] += len(insertions)
            self._in_flight.committed(slot, insertion_beats(insertions) if beats is None else beats)
        return Verdict(True, timestamp, None, None)

    def _settle(self) -> None:
        """Behind every step: the epoch ends if it has to, and whoever was woken goes on."""
        if self._last == self._max_count or self._in_flight.ends_epoch():
            self._end_epoch()
        self._news.notify_all()

    def _refusal(
        self,
        epoch: int,
        count: int,
        reads: Sequence[int],
        insertions: Sequence[int],
        *,
        slot: Optional[int] = None,
        chunk: Optional[int] = None,
    ) -> Optional[Verdict]:
        """The ABORT that the request deserves, if it deserves one."""
        bad_request = (epoch, count) > (self._epoch, self._last) or self._too_wide(insertions)
        rollover = epoch < self._epoch or self._exhausted
        failure: Optional[tuple[Reason, int]] = None
        words_met = 0
        step = len(reads) if chunk is None else chunk
        for begin in range(0, len(reads), step or 1):
            keys = reads[begin : begin + step]
            met: list[tuple[int, int]] = []
            for key in keys:
                reason, bad = self._examine(key, count)
                met += bad
                if failure is None and reason is not None:
                    failure = (reason, key)
            for table, row in met:
                self._words[table][row] = self._last
            self._bad.difference_update(met)
            self._statistics["keys_validated"] += len(keys)
            words_met += len(met)
            bad_request = bad_request or self._too_wide(keys)
            if bad_request or rollover or failure is not None:
                break

        self._statistics["parity_errors"] += words_met
        if bad_request or words_met:
            self._statistics["errors"] += 1
        if slot is not None and self._in_flight.token(slot) is Token.REVOKED:
            return self._abort(Reason.REVOKED)
        if bad_request:
            return self._abort(Reason.BAD_REQUEST)
        if rollover:
            return self._abort(Reason.ROLLOVER)
        if failure is not None:
            return self._abort(*failure)
        refused = self._in_flight.refuses(slot, insertions)
        if refused is not None:
            return self._abort(Reason.IRREVOCABLE, refused)
        return None

    def _too_wide(self, keys: Sequence[int]) -> bool:
        return any(key > self.parameters.max_key for key in keys)

    def _query(self, key: int, snapshot: int) -> tuple[Optional[Reason], bool]:
        reason, bad = self._examine(key, snapshot)
        return reason, bool(bad)

    def _examine(self, key: int, snapshot: int) -> tuple[Optional[Reason], list[tuple[int, int]]]:
        """Why ``key`` fails for a snapshot with that count, if it does; and the bad words that were met."""
        places = list(enumerate(self._h3.rows(key)))
        bad = [place for place in places if place in self._bad]
        words = [self._last if (table, row) in self._bad else self._words[table][row] for table, row in places]
        if self._floor > snapshot:
            return Reason.CONFLICT, bad
        if min(words) > snapshot:
            return Reason.PARITY if bad else Reason.CONFLICT, bad
        return None, bad

    def _insert(self, key: int) -> None:
        for table, row in enumerate(self._h3.rows(key)):
            self._words[table][row] = self._last
            self._bad.discard((table, row))

    def _end_epoch(self, initial_epoch: int = 0, *, by_reset: bool = False) -> None:
        if self._epoch == LAST_EPOCH:
            self._exhausted = True
            self._in_flight.last_epoch_ended(by_reset)
            return
        self._previous = (self._epoch, self._last)
        self._epoch = max(self._epoch + 1, initial_epoch)
        self._last = 0
        self._floor = 0
        for table in self._words:
            table[:] = [0] * len(table)
        self._bad.clear()
        self._statistics["epoch_steps"] += 1
        ended = self.parameters.timestamp(*self._previous)
        if self._previous[1] != self._max_count:
            self._publication.epoch_stepped(ended, self.parameters.timestamp(self._epoch, 0))
        self._in_flight.epoch_ended(ended, by_reset)

    def _abort(self, reason: Reason, key: Optional[int] = None) -> Verdict:
        self._statistics[f"aborts_{reason.name.lower()}"] += 1
        return Verdict(False, None, reason, key)

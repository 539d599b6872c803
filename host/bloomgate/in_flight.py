"""In-flight transactions as ``model:`` sees them: announced reads, doom, parking, the irrevocable token.

This is the specification of what a device does between a transaction's first read and its commit, in plain Python.
Every method is one atomic step; :class:`~bloomgate.backends.model.ModelDevice` calls them under its lock. A slot:

* **begins** with a snapshot, and from then until its verdict or its cancellation is *in flight*.
* **announces** keys of its read set. A key first enters the slot's filter, then it is queried in the recency filter
  with the slot's snapshot. A slot filter is a Bloom filter: for each of the K tables the rows of its keys, taken modulo
  the rows of a bank.
* is **doomed** by the first thing that may have changed a key it announced: a commit of another slot with a key that
  hits its filter; its own query, when the change came first; a floor that was raised; the end of the epoch, also one
  before it began. The first doom is kept, with the key if one is known and the timestamp to wait for. Doom is a hint.
  Of several keys of one commit it is the one that comes first in :func:`insertion_beats`.
* must **revalidate** if it was doomed, or if a word of bad parity was met or made since: then its commit queries the
  whole read set, in order, and else only what it did not announce. Either way the verdict is the same as if nothing had
  been announced.
* **parks**: the first doom, past or future, wakes it. A wake has a sequence number and the timestamp to wait for.
* **waits for the token**, of which there is one. Among those who wait, the oldest is next: the one with the greatest
  age, then the next in cyclic order behind the last holder. The age of a slot counts its aborts since its last commit,
  and grows by ``PASSED_OVER`` whenever another waiting slot is preferred; so nobody waits for ever. When it is granted,
  the whole read set is validated: failure is an ordinary abort. From then on no commit of another slot with a key that
  hits the holder's filter is let through: it is refused with IRREVOCABLE, and its slot is woken when the token is free
  again. The holder's own commit queries nothing and cannot fail, but when the token was taken away meanwhile: that is
  REVOKED. The holder enters further keys with :meth:`InFlight.guard`.
* **ends the epoch early** if it asks for the token, and nobody holds it, within the last ``GRANT_MARGIN`` counts: the
  holder's commit shall have a count left. The epoch ends behind that step as if its counts had run out, with the newest
  count as its last one. So all who have asked get ABORT(ROLLOVER), as everybody else with a snapshot of that epoch, and
  whoever asks again is granted the token in the next one. At the end of the last epoch that exhausts the device; on an
  exhausted device a request for the token is refused with ROLLOVER at once, as every commit is.

Source: the irrevocable transactions of Welc, Saha & Adl-Tabatabai, "Irrevocable Transactions and their Applications",
SPAA 2008, with Bloom filters for read locks; early aborts as in RingSTM (Spear, Michael & von Praun, SPAA 2008).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Callable, NamedTuple, Optional

from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import CONFLICT_LOG_ENTRIES
from bloomgate.verdict import Reason, Verdict

__all__ = [
    "FLIGHT_STATISTICS",
    "SLOT_COUNTERS",
    "SLOT_FILTER_ROWS",
    "Conflict",
    "Doom",
    "InFlight",
    "Token",
    "Wake",
    "grant_limit",
    "insertion_beats",
    "queued_insertion_beats",
]

#: Rows of each bank of the slot filters; as many as the recency filter has where that is fewer.
SLOT_FILTER_ROWS = 1024
#: How much older a slot gets when the token passes it by; ages saturate at ``OLDEST``.
PASSED_OVER = 32
OLDEST = 255
#: Counts before the end of an epoch within which the token is not granted, and asking for it ends the epoch; half an
#: epoch where it is shorter. See :func:`grant_limit`.
GRANT_MARGIN = 1 << 16


#: What is counted of transactions in flight, of each slot and of all slots together: name and meaning.
FLIGHT_STATISTICS = (
    ("dooms", "transactions doomed"),
    ("wakes", "times that a parked slot was woken"),
    ("spurious_wakes", "wakes that ended a wait although nothing announced is known to have changed, see Slot.wait"),
    ("keys_announced", "keys announced, or guarded by the holder of the token"),
)
#: Names of all that a slot counts. Where there is a clock it has validation_clocks too.
SLOT_COUNTERS = (
    "commits",
    *(f"aborts_{reason.name.lower()}" for reason in Reason),
    *(name for name, _ in FLIGHT_STATISTICS),
)


class Doom(NamedTuple):
    """Why a slot is doomed."""

    #: The announced key that may have changed; None when it may have been any.
    key: Optional[int]
    #: Publication of this timestamp makes the change visible.
    timestamp: int


class Wake(NamedTuple):
    """What woke a parked slot."""

    #: Grows by 1 with every wake of the slot, modulo 2**16.
    sequence: int
    #: Begin again when this timestamp is published.
    timestamp: int


class Conflict(NamedTuple):
    """An entry of the conflict log: somebody was doomed or refused."""

    #: The slot that committed, or that holds the token; None when it is not known. See ``Device.conflicts``.
    winner: Optional[int]
    #: The slot that was doomed or refused.
    loser: int
    #: Where they met; None when it may have been any key.
    key: Optional[int]
    #: Of the winner's commit; of a refusal, the newest timestamp.
    timestamp: int


class Token(Enum):
    """Where a slot is with the irrevocable token."""

    NONE = 0
    #: Asked for it.
    WAITING = 1
    HOLDER = 2
    #: Had it, and it was taken away: the next commit is aborted with REVOKED.
    REVOKED = 3


def grant_limit(max_count: int) -> int:
    """The newest count with which the token is not granted any more in an epoch that has counts up to ``max_count``."""
    return max_count - min(GRANT_MARGIN, max_count // 2)


def insertion_beats(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    """The writes and commutes of a commit by programmed I/O, as they are inserted and looked up: some at a time.

    The gateware keeps LANES keys in a word, the last key of the request in the lowest place. It takes a word from the
    low end and one from the high end in turns, so that the client may fill the slot anew from both ends meanwhile.
    """
    words = deque(keys[begin : begin + LANES][::-1] for begin in range(0, len(keys), LANES))
    while words:
        yield words.pop()
        if words:
            yield words.popleft()


def queued_insertion_beats(reads: int, *logs: Sequence[int]) -> Iterator[Sequence[int]]:
    """The same for a queue pair, whose host puts write and commute log behind so many reads in memory.

    A log is fetched by words of LANES keys; what does not begin or end with a word is alone in it.
    """
    place = reads % LANES
    for log in logs:
        for begin in range(-place, len(log), LANES):
            yield log[max(begin, 0) : begin + LANES]
        place = (place + len(log)) % LANES


class _Slot:
    """What the device knows of one slot."""

    def __init__(self, banks: int) -> None:
        self.in_flight = False
        self.epoch = 0
        self.count = 0
        #: Announced keys in their order, until the token is granted.
        self.log: list[int] = []
        #: Rows of announced keys, a set for each bank.
        self.rows: list[set[int]] = [set() for _ in range(banks)]
        self.revalidate = False
        self.doom: Optional[Doom] = None
        self.parked = False
        self.refused = False
        self.wake = Wake(0, 0)
        self.token = Token.NONE
        #: The verdict with which the request for the token was refused.
        self.token_refusal: Optional[Verdict] = None
        self.age = 0
        self.statistics: Counter[str] = Counter()

    def empty(self) -> None:
        """End the transaction. What lasts longer: wake, token, age, statistics."""
        self.in_flight = False
        self.log.clear()
        for rows in self.rows:
            rows.clear()
        self.revalidate = False
        self.doom = None
        self.parked = False
        self.refused = False


class InFlight:
    """All slots of one device."""

    def __init__(
        self,
        parameters: Parameters,
        rows_of: Callable[[int], Sequence[int]],
        query: Callable[[int, int], tuple[Optional[Reason], bool]],
        newest: Callable[[], tuple[int, int]],
        exhausted: Callable[[], bool],
        validate: Callable[[int], Optional[Verdict]],
    ) -> None:
        """``rows_of``: the rows of a key in the recency filter. ``query``: why a key fails for a snapshot count, if it
        does, and whether a word of bad parity was met. ``newest``: the newest timestamp as (epoch, count).
        ``exhausted``: whether the last epoch has ended. ``validate``: what is to be said against a slot's transaction
        as far as it has come, if anything.
        """
        self._parameters = parameters
        self._rows_of = rows_of
        self._query = query
        self._newest = newest
        self._exhausted = exhausted
        self._validate = validate
        self._slots = [_Slot(parameters.K) for _ in range(parameters.slots)]
        self._last_holder = parameters.slots - 1
        self._watchdog = 0
        self._held_for = 0
        self.conflicts: deque[Conflict] = deque(maxlen=CONFLICT_LOG_ENTRIES)

    # -- a transaction ---------------------------------------------------------------------

    def begin(self, slot: int, epoch: int, count: int) -> None:
        """Start a transaction; what the slot had announced before is forgotten."""
        state = self._slots[slot]
        state.empty()
        state.in_flight = True
        state.epoch, state.count = epoch, count
        if epoch != self._newest()[0]:
            self._doom(slot, None, None)

    def announce(self, slot: int, keys: Sequence[int]) -> None:
        """Add keys to the announced read set."""
        state = self._slots[slot]
        for key in keys:
            state.log.append(key)
            self._enter(state, key)
            reason, met_bad_word = self._query(key, state.count)
            if reason is not None:
                self._doom(slot, None, key)
            elif met_bad_word:
                state.revalidate = True
        state.statistics["keys_announced"] += len(keys)

    def doomed(self, slot: int) -> Optional[Doom]:
        """The slot's first doom in this transaction."""
        return self._slots[slot].doom

    def reads_to_query(self, slot: int, reads: Sequence[int]) -> Sequence[int]:
        """What the commit of a transaction with these further reads has to query, in order."""
        state = self._slots[slot]
        if state.token in (Token.HOLDER, Token.REVOKED):
            return ()
        return [*state.log, *reads] if state.revalidate else reads

    def log(self, slot: int) -> Sequence[int]:
        """Announced keys, in their order."""
        return tuple(self._slots[slot].log)

    def snapshot(self, slot: int) -> tuple[int, int]:
        """The (epoch, count) that the slot's transaction began with."""
        state = self._slots[slot]
        return state.epoch, state.count

    def is_in_flight(self, slot: int) -> bool:
        """Whether a transaction has begun and not ended."""
        return self._slots[slot].in_flight

    def cancel(self, slot: int) -> None:
        """End the transaction without a verdict. Gives the token back, or withdraws the request for it."""
        state = self._slots[slot]
        state.empty()
        if state.token is Token.HOLDER:
            self._release(slot)
        state.token = Token.NONE
        state.token_refusal = None

    # -- commits ---------------------------------------------------------------------------

    def refuses(self, slot: Optional[int], insertions: Sequence[int]) -> Optional[int]:
        """The first of another slot's insertions that the holder of the token does not let through."""
        holder = self.holder
        if holder is None or holder == slot:
            return None
        # The last counts of an epoch are the holder's: its epoch does not end under it.
        all_of_them = self._newest()[1] >= self._parameters.max_count - 2
        return next((key for key in insertions if all_of_them or self._hits(self._slots[holder], key)), None)

    def committed(self, slot: Optional[int], beats: Iterable[Sequence[int]]) -> None:
        """A commit was numbered and its keys inserted, so many at a time."""
        for keys in beats:
            for loser, state in enumerate(self._slots):
                if loser != slot and state.in_flight:
                    for key in keys:
                        if self._hits(state, key):
                            self._doom(loser, slot, key)

    def decided(self, slot: int, verdict: Verdict) -> None:
        """The slot's transaction has its verdict: it is over."""
        state = self._slots[slot]
        state.empty()
        if verdict.committed:
            state.age = 0
            state.statistics["commits"] += 1
        else:
            assert verdict.reason is not None
            state.age = min(state.age + 1, OLDEST)
            state.statistics[f"aborts_{verdict.reason.name.lower()}"] += 1
        if verdict.reason is Reason.IRREVOCABLE:
            state.refused = True
            self._log_conflict(self.holder, slot, verdict.conflict_key)
        if state.token is Token.HOLDER and verdict.reason is not Reason.BUS_ERROR:
            self._release(slot)
        if state.token is Token.REVOKED:
            state.token = Token.NONE

    def floor_raised(self, winner: Optional[int] = None) -> None:
        """The floor is the newest timestamp, by a commit of ``winner`` if there is one: any key may have changed."""
        for slot, state in enumerate(self._slots):
            if slot != winner and state.rows[0]:
                self._doom(slot, winner, None)

    def fault_injected(self) -> None:
        """A word of the recency filter was made bad: announced keys may have it."""
        for state in self._slots:
            state.revalidate = state.revalidate or bool(state.log)

    def epoch_ended(self, last: int, by_reset: bool) -> None:
        """Snapshots of before are of no use any more. A reset takes the token away, too, before the epoch ends.

        ``last``: the newest timestamp of the epoch that has ended.
        """
        revoked = self.holder if by_reset else None
        if revoked is not None:
            self._slots[revoked].token = Token.REVOKED
        for slot, state in enumerate(self._slots):
            if state.in_flight:
                self._doom(slot, None, None)
        if revoked is not None:
            self._release(revoked, last)
        self._grant()

    def last_epoch_ended(self, by_reset: bool) -> None:
        """Nothing is assigned any more. A reset takes the token away; whoever waits for it gets ROLLOVER."""
        if by_reset:
            self.revoke()
        self._grant()

    # -- parking ---------------------------------------------------------------------------

    def park(self, slot: int) -> None:
        """Be woken by the first doom, also if that has come already; after IRREVOCABLE, when the token is free."""
        state = self._slots[slot]
        state.parked = True
        if state.doom is not None:
            self._wake(slot, state.doom.timestamp)
        elif state.refused and self.holder is None:
            self._wake(slot, self._newest_timestamp())

    def unpark(self, slot: int) -> None:
        """Not be woken any more; the transaction goes on."""
        self._slots[slot].parked = False

    def is_refused(self, slot: int) -> bool:
        """Whether the slot's last transaction was refused with IRREVOCABLE, and it has not begun another."""
        return self._slots[slot].refused

    def is_parked(self, slot: int) -> bool:
        """Whether the slot still waits to be woken."""
        return self._slots[slot].parked

    def last_wake(self, slot: int) -> Wake:
        """The slot's newest wake."""
        return self._slots[slot].wake

    # -- the token -------------------------------------------------------------------------

    @property
    def holder(self) -> Optional[int]:
        """The slot that has the token."""
        return next((slot for slot, state in enumerate(self._slots) if state.token is Token.HOLDER), None)

    def token(self, slot: int) -> Token:
        """Where the slot is with the token."""
        return self._slots[slot].token

    def request_token(self, slot: int) -> None:
        """Ask for the token; it may be granted, or the transaction aborted, at once."""
        self._slots[slot].token = Token.WAITING
        self._grant()

    def ends_epoch(self) -> bool:
        """Whether somebody waits for the free token so near the end of the epoch that it is to end at once."""
        if not self._is_near_end() or self.holder is not None:
            return False
        return any(state.token is Token.WAITING for state in self._slots)

    def token_refusal(self, slot: int) -> Optional[Verdict]:
        """The verdict with which the slot's request for the token was refused, if it was."""
        return self._slots[slot].token_refusal

    def guard(self, slot: int, keys: Sequence[int]) -> int:
        """The holder is going to read these keys, when the timestamp that this returns is published."""
        state = self._slots[slot]
        for key in keys:
            self._enter(state, key)
        state.statistics["keys_announced"] += len(keys)
        return self._newest_timestamp()

    def revoke(self) -> Optional[int]:
        """Take the token from its holder, which is told by REVOKED; returns who it was."""
        holder = self.holder
        if holder is not None:
            self._slots[holder].token = Token.REVOKED
            self._release(holder)
        return holder

    def set_watchdog(self, ticks: int) -> None:
        """Revoke the token when it has been held for so many ticks; 0: never."""
        self._watchdog = ticks

    def tick(self, ticks: int) -> None:
        """Let time pass."""
        if self.holder is not None:
            self._held_for += ticks
            if self._watchdog and self._held_for >= self._watchdog:
                self.revoke()

    # -- books -----------------------------------------------------------------------------

    def count(self, slot: int, name: str, amount: int) -> None:
        """Add to one of the slot's statistics."""
        self._slots[slot].statistics[name] += amount

    def statistics(self, slot: int) -> dict[str, int]:
        """What the slot has counted, by :data:`SLOT_COUNTERS`."""
        statistics = self._slots[slot].statistics
        return {name: statistics[name] for name in SLOT_COUNTERS}

    def totals(self) -> dict[str, int]:
        """What all slots have counted of transactions in flight, by :data:`FLIGHT_STATISTICS`."""
        return {name: sum(state.statistics[name] for state in self._slots) for name, _ in FLIGHT_STATISTICS}

    # -- within ----------------------------------------------------------------------------

    def _bank_rows(self, key: int) -> list[int]:
        return [row % SLOT_FILTER_ROWS for row in self._rows_of(key)]

    def _enter(self, state: _Slot, key: int) -> None:
        for rows, row in zip(state.rows, self._bank_rows(key)):
            rows.add(row)

    def _hits(self, state: _Slot, key: int) -> bool:
        return all(row in rows for rows, row in zip(state.rows, self._bank_rows(key)))

    def _newest_timestamp(self) -> int:
        return self._parameters.timestamp(*self._newest())

    def _doom(self, slot: int, winner: Optional[int], key: Optional[int]) -> None:
        state = self._slots[slot]
        if state.token is Token.HOLDER:
            return
        state.revalidate = True
        if state.doom is None:
            state.doom = Doom(key, self._newest_timestamp())
            state.statistics["dooms"] += 1
            self._log_conflict(winner, slot, key)
            if state.parked:
                self._wake(slot, state.doom.timestamp)

    def _wake(self, slot: int, timestamp: int) -> None:
        state = self._slots[slot]
        state.parked = False
        state.wake = Wake((state.wake.sequence + 1) % (1 << 16), timestamp)
        state.statistics["wakes"] += 1

    def _log_conflict(self, winner: Optional[int], loser: int, key: Optional[int]) -> None:
        self.conflicts.append(Conflict(winner, loser, key, self._newest_timestamp()))

    def _release(self, holder: int, timestamp: Optional[int] = None) -> None:
        """The token is free; ``timestamp``: what was newest then, if it is not what is newest now."""
        state = self._slots[holder]
        if state.token is Token.HOLDER:
            state.token = Token.NONE
        for slot, other in enumerate(self._slots):
            if other.refused and other.parked:
                self._wake(slot, self._newest_timestamp() if timestamp is None else timestamp)
        self._grant()

    def _is_near_end(self) -> bool:
        return not self._exhausted() and self._newest()[1] >= grant_limit(self._parameters.max_count)

    def _grant(self) -> None:
        """Give a free token to the one who is next, until somebody keeps it."""
        while self.holder is None and not self._is_near_end():
            slots = len(self._slots)
            cyclic = [(self._last_holder + 1 + step) % slots for step in range(slots)]
            waiting = [slot for slot in cyclic if self._slots[slot].token is Token.WAITING]
            if not waiting:
                return
            chosen = max(waiting, key=lambda slot: self._slots[slot].age)
            for slot in waiting:
                if slot != chosen:
                    self._slots[slot].age = min(self._slots[slot].age + PASSED_OVER, OLDEST)
            self._last_holder = chosen
            state = self._slots[chosen]
            refusal = self._validate(chosen)
            if refusal is None:
                state.token = Token.HOLDER
                state.log.clear()  # which nothing will query again
                self._held_for = 0
            else:
                state.token = Token.NONE
                state.token_refusal = refusal
                self.decided(chosen, refusal)

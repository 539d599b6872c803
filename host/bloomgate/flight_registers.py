"""What page 0 has of transactions in flight: the conflict log, the token, the statistics of each slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Optional

from bloomgate.in_flight import Conflict, grant_limit
from bloomgate.registers import (
    CONFLICT_ENTRY,
    CONFLICT_ENTRY_BYTES,
    CONFLICT_LOG_ENTRIES,
    CONTROL_PAGE,
    SLOT_STATISTICS,
    SLOT_STATISTICS_BYTES,
)

if TYPE_CHECKING:
    from bloomgate.driver import ProgrammedIODevice

__all__ = ["FlightRegisters"]

_BOOKS = CONTROL_PAGE.window("BOOKS")
_BANK = CONTROL_PAGE.register("BOOKS_BANK").offset
_HEAD = CONTROL_PAGE.register("CONFLICT_HEAD")
_HEADS = 1 << 16
_ENTRIES_PER_BANK = _BOOKS.size // CONFLICT_ENTRY_BYTES
_SLOTS_PER_BANK = _BOOKS.size // SLOT_STATISTICS_BYTES
_FIRST_STATISTICS_BANK = CONFLICT_LOG_ENTRIES // _ENTRIES_PER_BANK
_ENTRY_SLOTS = CONFLICT_ENTRY.register("SLOTS")
_TOKEN = CONTROL_PAGE.register("TOKEN")
_REVOKE = CONTROL_PAGE.register("TOKEN_REVOKE")
_STATUS = CONTROL_PAGE.register("STATUS")
_SETTLED = _STATUS["SETTLED"].mask
_COUNT = CONTROL_PAGE.register("COUNT")


class FlightRegisters:
    """These registers of a device, used under its lock.

    The device's clock does not drive the watchdog here, but :meth:`tick` does: so a holder lives for the same number of
    ticks on every device.
    """

    def __init__(self, device: ProgrammedIODevice) -> None:
        self._device = device
        #: Entries of the conflict log that were taken, or are of an earlier user.
        self._seen = 0
        self._watchdog = 0
        self._held_for = 0
        self._grants: Optional[int] = None
        self._grant_limit = grant_limit(device.parameters.max_count)

    def begin(self) -> None:
        """What is in the conflict log now is of an earlier user."""
        self._seen = self._read_head()

    def settle(self) -> None:
        """Where time stands still between accesses: let everything that was done so far have its effects."""
        device = self._device
        if device._bus.stands_still and any(slot.opened for slot in device._slots):
            device._await(_STATUS.offset, 1, _SETTLED, _SETTLED, "what was done did not come to its end")

    def conflicts(self) -> list[Conflict]:
        """What was logged since the last call, and is still there."""
        self.settle()
        with self._device._lock:
            head = self._read_head()
            new = min((head - self._seen) % _HEADS, CONFLICT_LOG_ENTRIES)
            entries = [self._conflict(number) for number in range(head - new, head)]
            self._seen = head
            # The oldest may have been overwritten while they were read.
            overwritten = max(0, new + (self._read_head() - head) % _HEADS - CONFLICT_LOG_ENTRIES)
        return entries[overwritten:]

    def _conflict(self, number: int) -> Conflict:
        bank, place = divmod(number % CONFLICT_LOG_ENTRIES, _ENTRIES_PER_BANK)
        slots, key, epoch, count = self._read_books(bank, place * CONFLICT_ENTRY_BYTES, len(tuple(CONFLICT_ENTRY)))
        return Conflict(
            _ENTRY_SLOTS["WINNER"].extract(slots) if slots & _ENTRY_SLOTS["WINNER_KNOWN"].mask else None,
            _ENTRY_SLOTS["LOSER"].extract(slots),
            key if slots & _ENTRY_SLOTS["KEY_KNOWN"].mask else None,
            self._device.parameters.timestamp(epoch, count),
        )

    def statistics(self, slot: int) -> Mapping[str, int]:
        """The slot's counters since power-up, modulo 2**32."""
        bank, place = divmod(slot, _SLOTS_PER_BANK)
        with self._device._lock:
            words = self._read_books(_FIRST_STATISTICS_BANK + bank, place * SLOT_STATISTICS_BYTES, len(SLOT_STATISTICS))
        return {name: word for (name, _), word in zip(SLOT_STATISTICS, words)}

    def revoke_token(self) -> Optional[int]:
        """Take the token from its holder; returns who it was."""
        with self._device._lock:
            (word,) = self._device._bus.read(_TOKEN.offset, 1)
            if not word & _TOKEN["HELD"].mask:
                return None
            holder = _TOKEN["HOLDER"].extract(word)
            self._device._bus.write(_REVOKE.offset, (_REVOKE["HOLDER"].insert(holder),))
            self.token_moved()
        return holder

    def set_watchdog(self, ticks: int) -> None:
        """Revoke the token in the tick that makes it so many under one holder; 0: never."""
        self._watchdog = ticks

    def tick(self, ticks: int) -> None:
        """Let time pass for the watchdog."""
        with self._device._lock:
            (word,) = self._device._bus.read(_TOKEN.offset, 1)
            if not word & _TOKEN["HELD"].mask:
                return
            grants = _TOKEN["GRANTS"].extract(word)
            if grants != self._grants:
                self._grants, self._held_for = grants, 0
            self._held_for += ticks
            if self._watchdog and self._held_for >= self._watchdog:
                self.revoke_token()

    def token_moved(self) -> None:
        """The token was asked for, or may have come free: whoever waits for it may end the epoch early.

        Called before anything else is submitted, so that no other epoch ends before ``published`` knows of this one.
        """
        device = self._device
        self.settle()
        deadline = device._bus.now() + device._bus.patience
        with device._lock:
            while self._is_ending():
                if device._bus.now() > deadline:
                    raise device._timeout("the epoch did not end for who waits for the token")
            device._note_epoch()

    def _is_ending(self) -> bool:
        """Whether somebody waits for the free token near the end of the epoch."""
        # In this order: who has been refused in the next epoch does not wait any more.
        (token,) = self._device._bus.read(_TOKEN.offset, 1)
        (status,) = self._device._bus.read(_STATUS.offset, 1)
        (count,) = self._device._bus.read(_COUNT.offset, 1)
        waits = token & (_TOKEN["WAITING"].mask | _TOKEN["HELD"].mask) == _TOKEN["WAITING"].mask
        return waits and not status & _STATUS["EXHAUSTED"].mask and count >= self._grant_limit

    def _read_head(self) -> int:
        (head,) = self._device._bus.read(_HEAD.offset, 1)
        return head

    def _read_books(self, bank: int, offset: int, words: int) -> list[int]:
        bus = self._device._bus
        bus.write(_BANK, (bank,))
        return bus.read(_BOOKS.offset + offset, words)

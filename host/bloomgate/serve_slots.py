"""What a server does for its clients' transactions in flight, with any device that has slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from bloomgate.backends.soft import NOBODY, SoftDevice
from bloomgate.backends.soft_slot import SoftSlot
from bloomgate.backends.soft_source import COMMIT, SLOT_OPERATIONS
from bloomgate.device import Device
from bloomgate.errors import BloomgateError, DeviceInUse
from bloomgate.in_flight import SLOT_COUNTERS, Conflict, Token
from bloomgate.shm import locks
from bloomgate.shm.exchange import Exchange
from bloomgate.shm.layout import FLIGHT, SLOT_CONTROL
from bloomgate.shm.segment import Segment
from bloomgate.slots import Slot
from bloomgate.verdict import Reason, Verdict

__all__ = ["ServedSlots"]

_FLIGHT = {field.name: field for field in FLIGHT}
_TOKEN_BITS = {
    Token.NONE: 0,
    Token.WAITING: _FLIGHT["TOKEN_WAITING"].mask,
    Token.HOLDER: _FLIGHT["HOLDER"].mask,
    Token.REVOKED: _FLIGHT["REVOKED"].mask,
}


class ServedSlots:
    """Slot n of the segment is slot n of the device, from the first operation of its owner."""

    def __init__(self, device: Device, segment: Segment, module: Any, handle: Any) -> None:
        """``handle``: the ``bg_segment`` of C."""
        self._device, self._segment, self._module, self._handle = device, segment, module, handle
        self._slots: dict[int, Slot] = {}
        #: The device may doom and wake any time, so that verdicts are seen before :meth:`tell` is called: what is in
        #: flight counts as doomed for whoever looks at one word only, and asks the server then.
        self._uncertain = False

    def warn(self) -> None:
        """From now to the next :meth:`tell` the device decides by itself."""
        self._uncertain = True
        for number in self._slots:
            word = self._segment.read(SLOT_CONTROL["flight"], base=self._segment.layout.slot_control(number))
            self._tell_slot(number, word)

    def resume(self) -> None:
        """Continue with a segment whose earlier server has ended: all that was in flight is doomed, and who has parked
        is woken. The device is in an epoch after all snapshots."""
        for number in range(self._segment.parameters.slots):
            word = self._segment.read(SLOT_CONTROL["flight"], base=self._segment.layout.slot_control(number))
            if word & _FLIGHT["IN_FLIGHT"].mask:
                slot = self._slot(number)
                slot.begin(0)
                if word & _FLIGHT["PARKED"].mask:
                    slot.park()
            elif word:
                self._tell_slot(number, 0)
        self.tell()

    def operate(self, number: int, operation: int, count: int) -> None:
        """Do what a slot's owner wants, with so many words in its exchange, and answer there.

        Raises :class:`~bloomgate.errors.DeviceUnavailable` if the device has no slots.
        """
        exchange = Exchange(self._segment, number)
        slot = self._slot(number)
        name = SLOT_OPERATIONS[operation] if operation < len(SLOT_OPERATIONS) else "state"
        words = exchange.words[: min(count, len(exchange.words))].tolist()
        # A commit comes through the ring.
        if name == "commit" or (name == "begin" and len(words) != 2):
            name = "state"
        answer = slot._operate(name, words) if isinstance(slot, SoftSlot) else self._ask(slot, name, words)
        data = self._module.ffi.buffer(answer)
        exchange.answer[: len(data)] = data

    def commit(self, number: int, reads: Sequence[int], writes: Sequence[int], commutes: Sequence[int]) -> Verdict:
        """Decide the transaction of a slot; BAD_REQUEST if there is none, or it has too many keys."""
        slot = self._slots.get(number)
        if slot is None:
            return Verdict(False, None, Reason.BAD_REQUEST, None)
        try:
            return slot.commit(reads=reads, writes=writes, commutes=commutes)
        except BloomgateError:
            return Verdict(False, None, Reason.BAD_REQUEST, None)

    def conflicts(self, number: int) -> int:
        """Write the conflict log into the exchange of a slot; how many entries there are."""
        conflicts = self._device.conflicts()
        words = list(chain.from_iterable(map(self._conflict_words, conflicts)))
        Exchange(self._segment, number).put(words)
        return len(conflicts)

    def clear(self, number: int) -> None:
        """The owner of a slot is gone: its transaction ends."""
        slot = self._slots.get(number)
        if slot is not None:
            slot.cancel()

    def bury(self) -> None:
        """If the holder of the token is gone, the token comes free."""
        for number, slot in self._slots.items():
            if slot.token is Token.HOLDER and not locks.is_locked(self._segment.file, number):
                slot.cancel()
                self.tell()

    def tell(self, certain: bool = False) -> None:
        """Tell the owners of slots what has happened to them. ``certain``: and that is all, behind :meth:`warn`."""
        self._uncertain = self._uncertain and not certain
        if isinstance(self._device, SoftDevice):
            self._module.lib.bg_serve_tell(self._handle, self._device.state())
            return
        for number, slot in self._slots.items():
            self._tell_slot(number, flight_word(slot))

    def close(self) -> None:
        """Give the device's slots back."""
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()

    def _tell_slot(self, number: int, word: int) -> None:
        if self._uncertain and word & _FLIGHT["IN_FLIGHT"].mask:
            word |= _FLIGHT["DOOMED"].mask
        self._module.lib.bg_serve_tell_slot(self._handle, number, word)

    def _slot(self, number: int) -> Slot:
        slot = self._slots.get(number)
        if slot is None:
            self._slots[number] = slot = self._device.open_slot(number)
        return slot

    def _ask(self, slot: Slot, name: str, words: Sequence[int]) -> Any:
        """The same with a slot that is not C's."""
        answer = self._module.ffi.new("bg_slot_answer *")
        try:
            if name == "begin":
                slot.begin(self._device.parameters.timestamp(words[0], words[1]))
            elif name == "announce":
                slot.announce(words)
            elif name == "guard":
                slot.guard(words)
            elif name == "token":
                slot.request_token()
            elif name == "cancel":
                slot.cancel()
            elif name == "park":
                slot.park()
            elif name == "unpark":
                slot._unpark()
            elif name == "count_spurious_wake":
                slot._count_spurious_wake()
        except DeviceInUse:
            raise
        except BloomgateError:
            answer.refused = 1
        answer.epoch, answer.last = self._device.parameters.epoch_and_count(self._device.last_timestamp())
        self._describe(slot, answer.state)
        return answer

    def _describe(self, slot: Slot, state: Any) -> None:
        """Make a ``bg_slot_state`` of all that a client asks about."""
        state.refused = slot.refused
        split = self._device.parameters.epoch_and_count
        announced, doom, wake, refusal = slot.announced, slot.doomed, slot.last_wake, slot.token_refusal
        state.in_flight = announced is not None
        state.logged = announced or 0
        if doom is not None:
            state.doomed = 1
            state.doom_key_known = doom.key is not None
            state.doom_key = doom.key or 0
            state.doom_epoch, state.doom_count = split(doom.timestamp)
        state.parked = slot.parked
        state.wake_sequence = wake.sequence
        state.wake_epoch, state.wake_count = split(wake.timestamp)
        state.token = slot.token.value
        state.refusal.code = COMMIT
        if refusal is not None and refusal.reason is not None:
            state.refusal.code = refusal.reason
            state.refusal.key = refusal.conflict_key or 0
        statistics = slot.stats()
        for place, name in enumerate(SLOT_COUNTERS):
            state.statistics[place] = statistics[name]

    def _conflict_words(self, conflict: Conflict) -> Iterator[int]:
        yield from (
            conflict.winner if conflict.winner is not None else NOBODY,
            conflict.loser,
            conflict.key is not None,
            conflict.key or 0,
            *self._device.parameters.epoch_and_count(conflict.timestamp),
        )


def flight_word(slot: Slot) -> int:
    """FLIGHT of the slot control."""
    word = _TOKEN_BITS[slot.token] | _FLIGHT["WAKE_SEQUENCE"].insert(slot.last_wake.sequence)
    for name, holds in (
        ("IN_FLIGHT", slot.announced is not None),
        ("DOOMED", slot.doomed is not None),
        ("PARKED", slot.parked),
    ):
        word |= _FLIGHT[name].insert(int(holds))
    return word

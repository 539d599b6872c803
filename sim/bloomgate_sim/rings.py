"""The software side of queue pairs on a simulated bus, as plain as can be: for tests and benchmarks."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Optional

from bloomgate.parameters import Parameters
from bloomgate.queue_layout import (
    COMPLETION,
    ENTRY_BYTES,
    FORMAT,
    INDEX_BITS,
    SUBMISSION,
    completion_ring_offset,
    log_area_offset,
    sequence_of,
    submission_ring_offset,
)
from bloomgate.registers import (
    CONTROL_PAGE,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    slot_page_offset,
)
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

from bloomgate_sim.device import SimulatedBus

__all__ = ["Completion", "SlotRings", "doorbell_word", "submission_words"]

_KEY_BYTES = 4
_INDEX_MASK = (1 << INDEX_BITS) - 1
_WORDS = {word.name: word for word in SUBMISSION}
_VERDICT = SLOT_PAGE.register("VERDICT")
_TAIL = SLOT_PAGE.register("SUBMISSION_TAIL")


class Completion(NamedTuple):
    """What a completion entry says."""

    #: REQUEST of the submission.
    request: int
    verdict: Verdict


def submission_words(
    *,
    request: int = 0,
    snapshot: tuple[int, int] = (0, 0),
    reads: tuple[int, int] = (0, 0),
    writes: tuple[int, int] = (0, 0),
    commutes: tuple[int, int] = (0, 0),
) -> list[int]:
    """A submission entry. A log is (byte offset, keys)."""
    header = _WORDS["HEADER"]
    counts = _WORDS["INSERTION_COUNTS"]
    return [
        header["REQUEST"].insert(request) | header["FORMAT"].insert(FORMAT),
        *snapshot,
        *reads,
        writes[0],
        commutes[0],
        counts["WRITE_COUNT"].insert(writes[1]) | counts["COMMUTE_COUNT"].insert(commutes[1]),
    ]


def doorbell_word(generation: int, index: int) -> int:
    """What to write to a doorbell."""
    return _TAIL["GENERATION"].insert(generation) | _TAIL["INDEX"].insert(index & _INDEX_MASK)


class SlotRings:
    """One slot's queue pair: writes entries and logs to its window, rings, and reads completions.

    Nothing here checks anything: that is what the gateware is tested for.
    """

    def __init__(self, bus: SimulatedBus, parameters: Parameters, slot: int, window: memoryview, base: int) -> None:
        """``window``: the memory at bus address ``base``, of whole pages."""
        self.bus = bus
        self.parameters = parameters
        self.slot = slot
        self.window = window
        self.base = base
        self.generation = 0
        #: Indices of the next submission, and of the next completion to read.
        self.tail = 0
        self.head = 0
        self._next_log = log_area_offset(parameters)

    def record(self, name: str) -> int:
        """Offset of a register of the slot's queue record."""
        offset = CONTROL_PAGE.window("QUEUE_RECORDS").offset + self.slot * QUEUE_RECORD_BYTES
        return offset + QUEUE_RECORD.register(name).offset

    def page(self, name: str) -> int:
        """Offset of a register of the slot's page."""
        return slot_page_offset(self.slot) + SLOT_PAGE.register(name).offset

    def control(self, generation: int, *, enable: bool = True) -> None:
        """Write QUEUE_CONTROL."""
        register = QUEUE_RECORD.register("QUEUE_CONTROL")
        word = register["ENABLE"].insert(int(enable)) | register["GENERATION"].insert(generation)
        self.bus.write(self.record("QUEUE_CONTROL"), [word])

    def status(self) -> dict[str, int]:
        """The fields of QUEUE_STATUS."""
        register = QUEUE_RECORD.register("QUEUE_STATUS")
        (word,) = self.bus.read(self.record("QUEUE_STATUS"), 1)
        return {field.name: field.extract(word) for field in register.fields}

    def open(self, generation: int = 1, limit: int = 1000) -> None:
        """As a new owner does: disable, set the window, enable. AssertionError if it drains for more than ``limit``
        accesses."""
        self.control(generation, enable=False)
        self._drained(limit)
        self.bus.write(self.record("WINDOW_BASE"), [self.base, len(self.window)])
        self.control(generation)
        self._drained(limit)
        self.generation = generation
        self.tail = self.head = 0
        self.window[: log_area_offset(self.parameters)] = bytes(log_area_offset(self.parameters))

    def _drained(self, limit: int) -> None:
        for _ in range(limit):
            if not self.status()["DRAINING"]:
                return
        raise AssertionError(f"slot {self.slot} has not drained after {limit} reads of its status")

    def put(self, offset: int, keys: Sequence[int]) -> tuple[int, int]:
        """A log of these keys there: (offset, keys)."""
        struct.pack_into(f"<{len(keys)}I", self.window, offset, *keys)
        return offset, len(keys)

    def log(self, keys: Sequence[int], *, skip: int = 0) -> tuple[int, int]:
        """A log at the next free place of the window, ``skip`` keys behind an address that is a multiple of 8."""
        at = -(-self._next_log // 8) * 8 + skip * _KEY_BYTES
        if at + len(keys) * _KEY_BYTES > len(self.window):
            at = log_area_offset(self.parameters) + skip * _KEY_BYTES
        self._next_log = at + len(keys) * _KEY_BYTES
        return self.put(at, keys)

    def enter(self, words: Sequence[int]) -> None:
        """Put an entry into the ring; nobody knows until :meth:`ring`."""
        place = submission_ring_offset() + self.tail % self.parameters.queue_entries * ENTRY_BYTES
        struct.pack_into(f"<{len(words)}I", self.window, place, *words)
        self.tail = (self.tail + 1) & _INDEX_MASK

    def ring(self) -> None:
        """The doorbell for all that was entered."""
        self.bus.write(self.page("SUBMISSION_TAIL"), [doorbell_word(self.generation, self.tail)])

    def ring_head(self) -> None:
        """The doorbell for all completions that were read."""
        self.bus.write(self.page("COMPLETION_HEAD"), [doorbell_word(self.generation, self.head)])

    def submit(
        self,
        *,
        snapshot: tuple[int, int] = (0, 0),
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
        request: int = 0,
        skips: Sequence[int] = (0, 0, 0),
        ring: bool = True,
    ) -> None:
        """One request, with logs ``skips`` keys behind multiples of 8."""
        logs = [self.log(keys, skip=skip) for keys, skip in zip((reads, writes, commutes), skips, strict=True)]
        self.enter(
            submission_words(request=request, snapshot=snapshot, reads=logs[0], writes=logs[1], commutes=logs[2])
        )
        if ring:
            self.ring()

    def peek(self, index: int) -> Optional[Completion]:
        """Completion ``index``, if it is there."""
        place = completion_ring_offset(self.parameters) + index % self.parameters.queue_entries * ENTRY_BYTES
        words = struct.unpack_from(f"<{2 * len(COMPLETION)}I", self.window, place)
        if any(sequence != sequence_of(self.generation, index) for sequence in words[1::2]):
            return None
        verdict, epoch, count, key = words[0::2]
        committed = bool(_VERDICT["COMMITTED"].extract(verdict))
        code = _VERDICT["REASON"].extract(verdict)
        timestamped = _VERDICT["TIMESTAMPED"].extract(verdict)
        timestamp = self.parameters.timestamp(epoch, count) if timestamped else None
        reason = Reason(code) if code else None
        has_key = reason in KEY_REASONS
        assert _VERDICT["DONE"].extract(verdict)
        assert has_key or key == 0
        assert timestamped or (epoch, count) == (0, 0)
        request = _VERDICT["REQUEST"].extract(verdict)
        return Completion(request, Verdict(committed, timestamp, reason, key if has_key else None))

    def read(self) -> Optional[Completion]:
        """The next completion, if it is there; nobody knows that it was read until :meth:`ring_head`."""
        found = self.peek(self.head)
        if found is not None:
            self.head = (self.head + 1) & _INDEX_MASK
        return found

    def collect(self, limit: int = 10_000, *, clocks: int = 8) -> Completion:
        """The next completion, waited for in steps of ``clocks``. AssertionError after ``limit`` clock cycles."""
        for _ in range(0, limit, clocks):
            found = self.read()
            if found is not None:
                return found
            self.bus.step(clocks)
        raise AssertionError(f"slot {self.slot}: no completion {self.head} within {limit} clock cycles")

"""The queue pairs of ``model:``: the specification of rings, doorbells and entries, written to be read.

A slot's queue is disabled, or enabled for the owner with a certain generation. Enabling forgets what was in the rings
and sets all indices to 0. An index counts entries modulo 2**16. Three of them say everything:

* ``tail``: submissions before it are in the ring; the doorbell SUBMISSION_TAIL sets it;
* ``submission_head``: submissions before it are decided, and their completions are in the ring;
* ``head``: completions before it have been read; the doorbell COMPLETION_HEAD sets it.

A doorbell is refused, which counts as an error and changes nothing, unless

* the queue is enabled and the doorbell's generation is the owner's;
* COMPLETION_HEAD is not beyond ``submission_head``, and not behind it by more than a ring;
* SUBMISSION_TAIL is not ahead of ``submission_head`` or of ``head`` by more than a ring.

Submissions are decided in the order of the ring. One whose entry is not what :mod:`bloomgate.queue_layout` says gets
ABORT(BAD_REQUEST), and nothing is queried for it. For the others see :mod:`bloomgate.backends.model`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

from bloomgate.backends.model import ModelDevice
from bloomgate.queue_layout import (
    COMPLETION,
    ENTRY_BYTES,
    FORMAT,
    INDEX_BITS,
    MAX_READ_KEYS,
    SUBMISSION,
    completion_ring_offset,
    log_area_offset,
    sequence_of,
    submission_ring_offset,
)
from bloomgate.queue_port import QueuePort
from bloomgate.registers import WORD_BYTES
from bloomgate.verdict import Verdict
from bloomgate.verdict_words import words_of

__all__ = ["ModelQueue", "first_bad_word"]

_INDICES = 1 << INDEX_BITS
_WORDS = {word.name: word.word for word in SUBMISSION}
_HEADER = SUBMISSION[_WORDS["HEADER"]]
_COUNTS = SUBMISSION[_WORDS["INSERTION_COUNTS"]]
#: Entry words: number of the offset's word -> the log's name.
_LOGS = {"READ": _WORDS["READ_OFFSET"], "WRITE": _WORDS["WRITE_OFFSET"], "COMMUTE": _WORDS["COMMUTE_OFFSET"]}


def counts_of(words: Sequence[int]) -> dict[str, int]:
    """Keys in each log of an entry."""
    insertions = words[_COUNTS.word]
    return {
        "READ": words[_WORDS["READ_COUNT"]],
        "WRITE": _COUNTS["WRITE_COUNT"].extract(insertions),
        "COMMUTE": _COUNTS["COMMUTE_COUNT"].extract(insertions),
    }


def first_bad_word(words: Sequence[int], window_bytes: int) -> Optional[int]:
    """The number of the first word that is wrong, HEADER and READ_COUNT looked at before the offsets; None if none."""
    header = words[_HEADER.word]
    if _HEADER["FORMAT"].extract(header) != FORMAT or _HEADER["RESERVED"].extract(header) != 0:
        return _HEADER.word
    counts = counts_of(words)
    if counts["READ"] > MAX_READ_KEYS:
        return _WORDS["READ_COUNT"]
    for log, word in _LOGS.items():
        offset, size = words[word], counts[log] * WORD_BYTES
        if size > 0 and (offset % WORD_BYTES != 0 or offset + size > window_bytes):
            return word
    return None


class ModelQueue(QueuePort):
    """The queue of one slot of a model, its window in a bytearray."""

    def __init__(self, device: ModelDevice, window_bytes: int) -> None:
        super().__init__(device.parameters, memoryview(bytearray(window_bytes)))
        self._device = device
        self._enabled = False
        self._generation = 0
        self._tail = self._submission_head = self._head = 0
        #: The client's: indices of the next submission and of the oldest that is not released; which are.
        self._next = self._oldest = 0
        self._released: set[int] = set()

    # Page 0 and the slot page.

    def enable(self, generation: int) -> None:
        ring = completion_ring_offset(self.parameters)
        self.window[ring : log_area_offset(self.parameters)] = bytes(log_area_offset(self.parameters) - ring)
        self._enabled, self._generation = generation != 0, generation
        self._tail = self._submission_head = self._head = 0
        self._next = self._oldest = 0
        self._released.clear()

    def ring_doorbells(self, head: int, tail: int) -> None:
        """Write COMPLETION_HEAD, then SUBMISSION_TAIL."""
        entries = self.parameters.queue_entries
        index = head % _INDICES
        if self._is_owner(head) and _steps(index, self._submission_head) <= entries:
            self._head = index
        else:
            self._device.count_error()
        index = tail % _INDICES
        if (
            self._is_owner(tail)
            and _steps(self._submission_head, index) <= entries
            and _steps(self._head, index) <= entries
        ):
            self._tail = index
        else:
            self._device.count_error()
        while self._submission_head != self._tail:
            self._serve()

    def status(self) -> tuple[int, int]:
        """ENABLED and GENERATION as in QUEUE_STATUS, and SUBMISSION_HEAD."""
        return (self._generation << 16 | 1 if self._enabled else 0), self._submission_head

    def _is_owner(self, doorbell: int) -> bool:
        return self._enabled and doorbell >> 16 == self._generation

    def _serve(self) -> None:
        """Decide the next submission."""
        place = self._submission_head % self.parameters.queue_entries * ENTRY_BYTES
        words = struct.unpack_from("<8I", self.window, submission_ring_offset() + place)
        if first_bad_word(words, len(self.window)) is not None:
            verdict = self._device.refuse_queued()
        else:
            counts = counts_of(words)
            reads, writes, commutes = (
                struct.unpack_from(f"<{counts[log]}I", self.window, words[word] if counts[log] else 0)
                for log, word in _LOGS.items()
            )
            verdict = self._device.commit_queued(words[1], words[2], reads, writes, commutes)
        self._complete(place, _HEADER["REQUEST"].extract(words[0]), verdict)

    def _complete(self, place: int, request: int, verdict: Verdict) -> None:
        sequence = sequence_of(self._generation, self._submission_head)
        beats = [word for payload in words_of(self.parameters, request, verdict) for word in (payload, sequence)]
        struct.pack_into(
            f"<{2 * len(COMPLETION)}I", self.window, completion_ring_offset(self.parameters) + place, *beats
        )
        self._submission_head = (self._submission_head + 1) % _INDICES

    # The client.

    def require_open(self) -> None:
        self._device._require_open()

    def next_index(self) -> Optional[int]:
        return self._next if _steps(self._oldest, self._next) < self.parameters.queue_entries else None

    def submit(self, words: Sequence[int]) -> None:
        place = self._next % self.parameters.queue_entries * ENTRY_BYTES
        struct.pack_into("<8I", self.window, submission_ring_offset() + place, *words)
        self._next = (self._next + 1) % _INDICES
        owner = self._generation << 16
        self.ring_doorbells(owner | self._oldest, owner | self._next)

    def collect(self, index: int, seconds: float) -> Optional[tuple[int, ...]]:
        place = index % self.parameters.queue_entries * ENTRY_BYTES
        beats = struct.unpack_from("<8I", self.window, completion_ring_offset(self.parameters) + place)
        if any(word != sequence_of(self._generation, index) for word in beats[1::2]):
            return None
        return beats[::2]

    def release(self, index: int) -> None:
        self._released.add(index)
        while self._oldest in self._released:
            self._released.remove(self._oldest)
            self._oldest = (self._oldest + 1) % _INDICES


def _steps(start: int, end: int) -> int:
    """How far it is from one index to another, upwards."""
    return (end - start) % _INDICES

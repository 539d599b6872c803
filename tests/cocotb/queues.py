"""Queue pairs in the cocotb tests: a client that owns a slot's window, and what its requests should have become."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bloomgate.backends.model_queue import first_bad_word
from bloomgate.queue_layout import (
    COMPLETION,
    ENTRY_BYTES,
    FORMAT,
    SEQUENCE,
    SUBMISSION,
    completion_ring_offset,
    log_area_offset,
    sequence_of,
)
from bloomgate.registers import QUEUE_RECORD, QUEUE_RECORD_BYTES, SLOT_PAGE, ErrorCode
from bloomgate.verdict import Reason, Verdict
from replay import Replay
from testbench import Request, Testbench

__all__ = ["QueueClient", "QueuedRequest", "entry_words", "queue_clients"]

#: Bus address of the window of slot 0, and the distance to the next one: between them is nothing.
BASE, DISTANCE = 0x1000_0000, 0x10_0000
INDICES = 1 << SEQUENCE["NUMBER"].width

_STATUS = QUEUE_RECORD.register("QUEUE_STATUS")
_CONTROL = QUEUE_RECORD.register("QUEUE_CONTROL")
_DOORBELL = SLOT_PAGE.register("SUBMISSION_TAIL")
#: Statistics that the model keeps of queued requests.
_COUNTED = (
    "commits",
    "keys_validated",
    "keys_inserted",
    "floor_raises",
    *(f"aborts_{reason.name.lower()}" for reason in Reason),
)
_WORDS = {word.name: word for word in SUBMISSION}


@dataclass(eq=False)
class QueuedRequest(Request):
    """A request in a submission ring."""

    #: The entry as it was written.
    entry: list[int] = field(default_factory=list)
    #: Number of the first word of the entry that is not what it must be.
    bad_word: int | None = None
    #: Byte address of its entry, or of the one beat of a log, that is answered with an error.
    bus_error: int | None = None
    generation: int = 0
    index: int = 0

    def judge(self, replay: Replay) -> None:
        """As :meth:`Request.judge`, with the model's own account of a queued request."""
        verdict = replay.verdict(self)
        model = replay.model
        before = dict(model.stats())
        if self.maybe_reset and verdict.reason is Reason.RESET:
            # How much of it had been fetched, and what was in the ring, only the device knows.
            exact = verdict
            replay.totals["aborts_reset"] += 1
            replay.uncertain.add("keys_validated")
        elif self.bad_word is not None:
            exact = model.refuse_queued()
            replay.errors.append((ErrorCode.BAD_DESCRIPTOR, self.slot, self.bad_word))
        elif self.bus_error is not None:
            exact = Verdict(False, None, Reason.BUS_ERROR, None)
            replay.totals["aborts_bus_error"] += 1
            replay.errors.append((ErrorCode.FETCH_ERROR, self.slot, self.bus_error))
            replay.uncertain.add("keys_validated")
        else:
            exact = model.commit_queued(self.epoch, self.count, self.reads, self.writes, self.commutes)
            if exact.reason is Reason.BAD_REQUEST:
                replay.errors.append(self._bad_request_error(replay))
        after = model.stats()
        replay.totals.update({name: after[name] - before[name] for name in _COUNTED})
        cover = replay.cover
        if len(self.reads) > replay.parameters.buffer_depth:
            # Some of it may have been validated before others were decided, and again after.
            replay.uncertain.add("keys_validated")
            assert (verdict.committed, verdict.reason) == (exact.committed, exact.reason), f"{self}: {exact} expected"
            assert verdict.timestamp == exact.timestamp
        elif replay.exact:
            assert verdict == exact, f"{self}: {verdict}, the model says {exact}"
        if verdict.committed:
            snapshot = replay.parameters.timestamp(self.epoch, self.count)
            true = replay.reference.commit(
                snapshot=snapshot, reads=self.reads, writes=self.writes, commutes=self.commutes
            )
            assert true == verdict, f"{self}: {verdict}, by exact sets {true}"
            cover.hit("queued verdict", "COMMIT" if verdict.timestamp is not None else "COMMIT without timestamp")
        else:
            cover.hit("queued verdict", verdict.reason.name)
        if verdict.reason is Reason.CONFLICT:
            assert verdict.conflict_key in self.reads, f"{self}: conflict with a key that was not read"
        if verdict.timestamp is not None:
            replay.assigned(self, verdict.timestamp)

    def _bad_request_error(self, replay: Replay) -> tuple[int, int, int]:
        wide = [key for key in (*self.writes, *self.commutes, *self.reads) if key > replay.parameters.max_key]
        if wide:
            return ErrorCode.KEY_RANGE, self.slot, wide[0]
        return ErrorCode.SNAPSHOT_AHEAD, self.slot, self.count


def entry_words(number, epoch, count, logs: dict[str, tuple[int, int]]) -> list[int]:
    """The words of a submission entry; ``logs`` gives offset and count of each log."""
    words = [0] * len(SUBMISSION)
    header = _WORDS["HEADER"]
    words[header.word] = header["REQUEST"].insert(number) | header["FORMAT"].insert(FORMAT)
    words[_WORDS["SNAPSHOT_EPOCH"].word] = epoch
    words[_WORDS["SNAPSHOT_COUNT"].word] = count
    for name, (offset, keys) in logs.items():
        words[_WORDS[f"{name}_OFFSET"].word] = offset
        if name == "READ":
            words[_WORDS["READ_COUNT"].word] = keys
        else:
            words[_WORDS["INSERTION_COUNTS"].word] |= _WORDS["INSERTION_COUNTS"][f"{name}_COUNT"].insert(keys)
    return words


class QueueClient:
    """The owner of one slot's queue pair."""

    def __init__(self, testbench: Testbench, slot: int, pages: int = 8) -> None:
        self.testbench = testbench
        self.slot = slot
        self.parameters = testbench.parameters
        self.base = BASE + slot * DISTANCE
        self.window = testbench.memory.attach(self.base, pages * 4096)
        self.generation = 0
        #: Index of the next submission, and of the next completion to read.
        self.tail = self.head = self._rung = 0
        self._open: deque[QueuedRequest] = deque()
        self._number = random.randrange(1 << 16)
        testbench.queues[slot] = self
        #: What was submitted and is not decided, oldest first.
        self.undecided: deque[QueuedRequest] = deque()

    # -- Ownership -----------------------------------------------------------------------------------------------------

    def record(self, name: str) -> int:
        """Byte address of a word of the slot's queue record."""
        offset = self.testbench.control("QUEUE_RECORDS") + QUEUE_RECORD_BYTES * self.slot
        return offset + QUEUE_RECORD.register(name).offset

    async def status(self) -> dict[str, int]:
        word = (await self.testbench.read(self.record("QUEUE_STATUS"), 1))[0]
        return {item.name: item.extract(word) for item in _STATUS.fields}

    async def disable(self) -> tuple[int, int]:
        """Ends ownership; returns when nothing of it is left on the bus, how many were decided and how many not."""
        await self.testbench.write(self.record("QUEUE_CONTROL"), [0])
        while True:
            status = await self.status()
            assert not status["ENABLED"]
            if not status["DRAINING"]:
                break
        decided = [request for request in self._open if request not in self.undecided]
        for request in decided:
            request.words = self.completed(request)
        waiting = len(self.undecided)
        self.forget()
        return len(decided), waiting

    def forget(self) -> None:
        """Nothing that was submitted will be answered any more."""
        self._open.clear()
        self.undecided.clear()

    async def enable(self, generation: int) -> tuple[int, int]:
        """A new owner, with the whole of the window. Returns what :meth:`disable` does, of the owner before."""
        left = await self.disable()
        begin, end = completion_ring_offset(self.parameters), log_area_offset(self.parameters)
        self.window[begin:end] = bytes(end - begin)
        window = [self.base, len(self.window)]
        await self.testbench.write(self.record("WINDOW_BASE"), window)
        assert await self.testbench.read(self.record("WINDOW_BASE"), 2) == window
        control = _CONTROL["ENABLE"].insert(1) | _CONTROL["GENERATION"].insert(generation)
        await self.testbench.write(self.record("QUEUE_CONTROL"), [control])
        while not (await self.status())["ENABLED"]:
            pass
        self.generation = generation
        self.tail = self.head = self._rung = 0
        return left

    # -- Submission ----------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Entries that can be submitted."""
        return self.parameters.queue_entries - (self.tail - self.head)

    def prepare(self, snapshot, reads=(), writes=(), commutes=(), **changes) -> QueuedRequest:
        """Writes logs and entry of the next submission. ``changes``: words of the entry by name, instead of its own."""
        assert self.room > 0
        index = self.tail
        self._number = (self._number + 1) % (1 << 16)
        begin = log_area_offset(self.parameters)
        share = (len(self.window) - begin) // self.parameters.queue_entries // 4 * 4
        place = begin + index % self.parameters.queue_entries * share
        end = place + share
        logs = {}
        spare = share // 4 - len(reads) - len(writes) - len(commutes)
        for name, keys in (("READ", reads), ("WRITE", writes), ("COMMUTE", commutes)):
            gap = random.choice((0, 1, random.randint(0, 40)))
            gap = min(gap, spare)
            spare -= gap
            place += 4 * gap
            self.testbench.cover.log(name, place, len(keys), self.parameters.buffer_depth)
            self.window[place : place + 4 * len(keys)] = b"".join(key.to_bytes(4, "little") for key in keys)
            # The offset of a log without keys does not count.
            logs[name] = (place if keys else random.getrandbits(32), len(keys))
            place += 4 * len(keys)
        assert place <= end, "logs are longer than their share of the window"
        words = entry_words(self._number, *snapshot, logs)
        for name, value in changes.items():
            words[_WORDS[name].word] = value
        request = QueuedRequest(
            self.slot,
            _WORDS["HEADER"]["REQUEST"].extract(words[0]),
            words[1],
            words[2],
            list(reads),
            list(writes),
            list(commutes),
            entry=words,
            bad_word=first_bad_word(words, len(self.window)),
            generation=self.generation,
            index=index,
        )
        if request.bad_word is not None:
            request.forced.add(Reason.BAD_REQUEST)
        entry = index % self.parameters.queue_entries * ENTRY_BYTES
        self.window[entry : entry + ENTRY_BYTES] = b"".join(word.to_bytes(4, "little") for word in words)
        self.tail += 1
        self._open.append(request)
        self.undecided.append(request)
        return request

    def doorbell(self, index: int) -> int:
        return _DOORBELL["INDEX"].insert(index % INDICES) | _DOORBELL["GENERATION"].insert(self.generation)

    async def ring(self) -> None:
        """Everything prepared may be fetched; everything collected may be overwritten."""
        words = [self.doorbell(self.head), self.doorbell(self.tail)]
        entries = self.tail - self._rung
        name = "all" if entries == self.parameters.queue_entries else str(entries) if entries < 2 else "several"
        self.testbench.cover.hit("entries per doorbell", name)
        self._rung = self.tail
        if random.random() < 0.5:
            await self.testbench.write(self.testbench.slot(self.slot, "COMPLETION_HEAD"), words)
        else:
            await self.testbench.write(self.testbench.slot(self.slot, "COMPLETION_HEAD"), words[:1])
            await self.testbench.write(self.testbench.slot(self.slot, "SUBMISSION_TAIL"), words[1:])

    def completed(self, request: QueuedRequest) -> list[int] | None:
        """The four words of its completion, or None if that is not there yet."""
        place = completion_ring_offset(self.parameters) + request.index % self.parameters.queue_entries * ENTRY_BYTES
        entry = self.window[place : place + ENTRY_BYTES]
        words = [int.from_bytes(entry[4 * n : 4 * n + 4], "little") for n in range(2 * len(COMPLETION))]
        expected = sequence_of(request.generation, request.index)
        return words[::2] if all(word == expected for word in words[1::2]) else None

    async def collect(self) -> QueuedRequest:
        """The oldest submission, when it is answered."""
        request = self._open[0]
        while (words := self.completed(request)) is None:
            await self.testbench.clocks(1)
        self._open.popleft()
        self.head += 1
        request.words = words
        if request.committed and words[1:3] != [0, 0]:
            self.testbench.newest = max(self.testbench.newest, (words[1], words[2]))
        elif request.reason in (Reason.ROLLOVER, Reason.RESET):
            self.testbench.newest = max(self.testbench.newest, await self.testbench.timestamp())
        return request

    async def commit(self, snapshot=None, reads=(), writes=(), commutes=(), **changes) -> QueuedRequest:
        """One request, alone in the ring."""
        self.prepare(self.testbench.newest if snapshot is None else snapshot, reads, writes, commutes, **changes)
        await self.ring()
        return await self.collect()

    async def collect_all(self) -> list[QueuedRequest]:
        return [await self.collect() for _ in range(len(self._open))]


def queue_clients(testbench: Testbench, slots: Sequence[int] | None = None, pages: int = 8) -> list[QueueClient]:
    chosen = range(testbench.parameters.slots) if slots is None else slots
    return [QueueClient(testbench, slot, pages) for slot in chosen]

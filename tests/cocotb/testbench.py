"""What all cocotb tests stand on: clock, registers, slot clients, and the comparison with model and reference STM."""

from __future__ import annotations

import functools
import os
import random
import warnings
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cocotb
from axi3 import CHANNELS, DECERR, FIXED, INCR, OKAY, SLVERR, WRAP, Monitor, RawMaster, make_master, set_pauses
from bloomgate.registers import (
    BASE_ADDRESS,
    CONTROL_PAGE,
    ERROR_LOG_ENTRIES,
    SLOT_PAGE,
    STATISTICS,
    ErrorCode,
    Fault,
    slot_page_offset,
)
from bloomgate.verdict import Reason
from bloomgate_hdl.top import probe_layout
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from dut_memory import Memory
from functional_coverage import Coverage
from replay import Replay
from simulator import CLOCK_PERIOD_NS, GEOMETRIES

if TYPE_CHECKING:
    from queues import QueueClient

__all__ = ["FULL", "GEOMETRY", "Client", "GrantRequest", "GuardRequest", "Request", "Testbench", "bench"]

# cocotbext-axi 0.1.28 still uses names that cocotb 2 has deprecated.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\..*")

GEOMETRY = os.environ["BLOOMGATE_GEOMETRY"]
#: The long campaign.
FULL = os.environ.get("BLOOMGATE_COCOTB") == "full"

_APERTURES = {"read": "READ_APERTURE", "write": "WRITE_APERTURE", "commute": "COMMUTE_APERTURE"}
_VERDICT = SLOT_PAGE.register("VERDICT")
_STATUS = CONTROL_PAGE.register("STATUS")
_COMMAND = CONTROL_PAGE.register("COMMAND")
_FAULT_INJECTION = CONTROL_PAGE.register("FAULT_INJECTION")
_SUBMISSION_NUMBERS = 1 << 16


def bench(cycles: int, master: bool = True, geometries: Sequence[str] = ()):
    """A cocotb test that gets a ready :class:`Testbench` and is limited to ``cycles`` clock cycles (30 times in full).

    ``master``: with a cocotbext-axi master; else the test makes a RawMaster. ``geometries``: where it makes sense.
    """

    def decorate(function):
        @functools.wraps(function)
        async def test(dut):
            testbench = Testbench(dut)
            try:
                await testbench.power_up(master=master)
                await function(testbench)
                await testbench.finish()
            finally:
                testbench.cover.save(Path(os.environ["BLOOMGATE_COVERAGE"]))

        del test.__wrapped__
        skip = bool(geometries) and GEOMETRY not in geometries
        limit = cycles * (30 if FULL else 1)
        return cocotb.test(timeout_time=limit * CLOCK_PERIOD_NS, timeout_unit="ns", skip=skip)(test)

    return decorate


@dataclass(eq=False)
class Request:
    """A request as the slot has accepted it, and what became of it."""

    slot: int
    number: int
    #: As on the wire.
    epoch: int
    count: int
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    commutes: list[int] = field(default_factory=list)
    #: Reasons other than the model's for which it must abort.
    forced: set[Reason] = field(default_factory=set)
    #: A reset came while it was on its way into the slot: RESET, or not.
    maybe_reset: bool = False
    #: A reset came between its decision and its verdict.
    withheld: bool = False
    #: A key that was buffered with bad parity, as (the set's name, index).
    bad_key: tuple[str, int] | None = None
    #: Keys of it may have been announced: they are validated then, and perhaps again.
    announced: bool = False
    #: Every key is in the slot; SUBMIT has arrived there.
    filled: bool = False
    accepted: bool = False
    #: At its decision: other requests were undecided, other slots half filled.
    company: tuple[bool, bool] = (False, False)
    #: The verdict's four words, when the client has read them.
    words: list[int] | None = None
    #: Clock cycles.
    submitted: int = 0
    decided: int = 0

    def judge(self, replay: Replay) -> None:
        """Compare it with what it should have become."""
        replay.request(self)

    @property
    def reason(self) -> Reason | None:
        code = _VERDICT["REASON"].extract(self.words[0])
        return Reason(code) if code else None

    @property
    def committed(self) -> bool:
        return bool(_VERDICT["COMMITTED"].extract(self.words[0]))


class GrantRequest(Request):
    """A request for the irrevocable token, with the read set so far."""

    def judge(self, replay: Replay) -> None:
        replay.grant(self)


class GuardRequest(Request):
    """The holder of the token guards its read set."""

    def judge(self, replay: Replay) -> None:
        replay.guard(self)


@dataclass
class Command:
    """A command on its way through the decisions: RESET (with its initial epoch), FLOOR, or FAULT (table, row)."""

    kind: str
    argument: object = None

    def judge(self, replay: Replay) -> None:
        replay.command(self)


class Testbench:
    """The device under test with its clock, a master, a monitor and the record of what was decided in which order."""

    __test__ = False

    def __init__(self, dut) -> None:
        self.dut = dut
        self.parameters = GEOMETRIES[GEOMETRY]
        self.cover = Coverage()
        self.monitor = Monitor(dut, self.cover)
        self.memory = Memory(dut)
        #: Clients of queue pairs, by slot.
        self.queues: dict[int, QueueClient] = {}
        self.undecided: dict[int, Request] = {}
        #: Requests that are being filled.
        self.filling: dict[int, Request] = {}
        #: Clock cycles of soft resets that were begun.
        self.resets: list[int] = []
        #: Requests in the order of their decisions, and the commands between them.
        self.events: list[Request | Command] = []
        #: (code, slot, detail) of errors that bus accesses make.
        self.access_errors: list[tuple[int, int, int]] = []
        #: Clock cycles with queries or insertions at the filter's door.
        self.queried: deque[int] = deque(maxlen=64)
        self.inserted: deque[int] = deque(maxlen=64)
        self.decisions = 0
        self._initial_epoch = 0
        #: The epoch and count after the last decision that was read; what clients use as snapshot.
        self.newest = (0, 0)
        #: Compare with the bit-exact model too. Off when commands overlap with decisions that they influence.
        self.exact = True

    # -- Life ----------------------------------------------------------------------------------------------------------

    async def power_up(self, master: bool = True) -> None:
        self.dut.rst.value = 1
        cocotb.start_soon(Clock(self.dut.clk, CLOCK_PERIOD_NS, "ns").start())
        for name in CHANNELS[:2] + ("ar",):
            getattr(self.dut, f"s_axi_gp0_{name}valid").value = 0
        for name in ("b", "r"):
            getattr(self.dut, f"s_axi_gp0_{name}ready").value = 0
        for name in ("wid",):
            getattr(self.dut, f"s_axi_gp0_{name}").value = 0
        self.memory.start()
        await ClockCycles(self.dut.clk, 3)
        self.dut.rst.value = 0
        self.monitor.start()
        cocotb.start_soon(self._watch())
        self.axi = make_master(self.dut) if master else None
        if master:
            self.statistics_before = await self.statistics()

    async def hard_reset(self, cycles: int = 2) -> None:
        """``rst``, as after reconfiguration; the record begins anew."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, cycles)
        self.dut.rst.value = 0
        self.undecided.clear()
        self.filling.clear()
        self.events.clear()
        self._initial_epoch = 0
        self.access_errors.clear()
        self.newest = (0, 0)

    async def finish(self) -> None:
        """Everything submitted is decided, everything on the bus is answered, and all of it was right."""
        for _ in range(400):
            if self.monitor.idle and self.memory.idle and not self.undecided:
                break
            await RisingEdge(self.dut.clk)
        assert self.monitor.idle, f"unanswered: {self.monitor.writes} {self.monitor.reads}"
        assert self.memory.idle, "bursts to memory are under way"
        assert not self.undecided, f"undecided: {self.undecided}"
        for client in self.queues.values():
            assert not client.undecided, f"undecided in the queue of slot {client.slot}: {client.undecided}"
        if self.axi is not None:
            await self.compare()

    async def _watch(self):
        """Follow the probe; and, inside, what a reset hits, which no port shows."""
        layout = probe_layout(self.parameters)
        fields = {name: (layout[name].offset, (1 << layout[name].width) - 1) for name, _ in layout}
        probe = self.dut.probe
        slot_pages, pipeline = self.dut.core.slot_pages, self.dut.core.pipeline
        arbiter = self.dut.core.arbiter
        edge = RisingEdge(self.dut.clk)
        # A submission is in `pending` one clock cycle later; whether the device was resetting and scrubbing then.
        submitted = None

        def part(word, name):
            offset, mask = fields[name]
            return word >> offset & mask

        while True:
            await edge
            if self.dut.rst.value:
                submitted = None
                continue
            word = int(probe.value)
            cycle = self.monitor.cycle
            if submitted is not None:
                self._accept(int(slot_pages.pending.value), *submitted)
                submitted = None
            if word:
                queries, insertions = part(word, "queries"), part(word, "insertions")
                if queries:
                    self.queried.append(cycle)
                    self.cover.hit("query lanes", queries.bit_count())
                if insertions:
                    self.inserted.append(cycle)
                    self.cover.hit("insertion lanes", insertions.bit_count())
                if part(word, "decided"):
                    if arbiter.decided_queued.value:
                        self._decide_queued(part(word, "decided_slot"))
                    else:
                        self._decide(part(word, "decided_slot"))
                if part(word, "submitted"):
                    submitted = bool(slot_pages.resetting.value), bool(pipeline.scrubbing.value)
            if slot_pages.reset.value:
                withheld = None
                if arbiter.withholds.value:
                    withheld = int(arbiter.serving_slot.value)
                elif arbiter.withheld.value:
                    withheld = int(arbiter.decided_slot.value)
                self._reset_begins(bool(pipeline.scrubbing.value), withheld)
            elif slot_pages.resetting.value and self.dut.core.control_page.soft_reset.value:
                self.cover.hit("soft reset", "a reset")

    def _accept(self, pending, resetting, scrubbing):
        for slot, request in self.undecided.items():
            if pending >> slot & 1 and not request.accepted:
                request.accepted = True
                if resetting:
                    request.forced.add(Reason.RESET)
                    self.cover.hit("submitted during", "a reset")
                elif scrubbing:
                    name = "rollover" if self.decisions else "power-up"
                    self.cover.hit("submitted during", f"a scrub of {name}")

    def _decide(self, slot):
        assert slot in self.undecided, f"slot {slot} got a verdict without a request, or a second one"
        self.cover.undecided(len(self.undecided))
        request = self.undecided.pop(slot)
        assert request.accepted, f"slot {slot} got a verdict before it submitted"
        request.decided = self.monitor.cycle
        request.company = bool(self.undecided), any(other.filled for other in self.filling.values())
        self._record_decision(request)

    def _decide_queued(self, slot):
        undecided = self.queues[slot].undecided
        assert undecided, f"the queue of slot {slot} got a verdict without a request"
        request = undecided.popleft()
        request.decided = self.monitor.cycle
        self._record_decision(request)

    def _record_decision(self, request):
        self.decisions += 1
        if self.resets and (request.withheld or request.decided == self.resets[-1] + 1):
            # The verdict was on its way out when the reset came: it is from before, or, if it was not withheld, RESET.
            request.forced.discard(Reason.RESET)
            request.maybe_reset = not request.withheld
            self.events.insert(-1, request)
        else:
            self.events.append(request)

    def _reset_begins(self, scrubbing, withheld):
        """What is in a slot gets RESET; what is on its way there may. That of slot ``withheld`` has been committed."""
        cycle = self.monitor.cycle
        self.resets.append(cycle)
        self.events.append(Command("RESET", self._initial_epoch))
        hit = functools.partial(self.cover.hit, "soft reset")
        for slot, request in self.undecided.items():
            request.withheld = slot == withheld
            if request.accepted or request.filled:
                request.forced.add(Reason.RESET)
            else:
                request.maybe_reset = True
        for client in self.queues.values():
            for request in client.undecided:
                # It may wait in the ring, and be decided afterwards.
                request.maybe_reset = True
        for request in self.filling.values():
            if request.filled:
                request.forced.add(Reason.RESET)
                hit("a request half filled")
            else:
                request.maybe_reset = True
        if not self.undecided and not self.filling:
            hit("idle")
        if scrubbing:
            hit("a scrub")
        if len(self.undecided) > 1:
            hit("a request pending")
        if cycle in self.queried:
            hit("a request in validation")
        if cycle in self.inserted:
            hit("a request in insertion")
        if int(self.dut.core.arbiter.count.value) == self.parameters.max_count:
            hit("the last commit of an epoch")

    # -- Registers -----------------------------------------------------------------------------------------------------

    async def clocks(self, count: int) -> None:
        if count:
            await ClockCycles(self.dut.clk, count)

    async def write(self, address: int, words: Sequence[int], expect: int = OKAY, **options) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in words)
        response = await self.axi.write(address, data, awid=random.getrandbits(12), **options)
        assert response.resp == expect, f"write to {address:#x}: {response.resp!r}"

    async def read(self, address: int, words: int, expect: int = OKAY, **options) -> list[int]:
        response = await self.axi.read(address, 4 * words, arid=random.getrandbits(12), **options)
        assert response.resp == expect, f"read of {address:#x}: {response.resp!r}"
        return [int.from_bytes(response.data[4 * n : 4 * n + 4], "little") for n in range(words)]

    def control(self, name: str) -> int:
        """Byte address of an item of the control page."""
        return BASE_ADDRESS + next(item.offset for item in CONTROL_PAGE if item.name == name)

    def slot(self, slot: int, name: str) -> int:
        """Byte address of an item of a slot page."""
        return BASE_ADDRESS + slot_page_offset(slot) + next(item.offset for item in SLOT_PAGE if item.name == name)

    async def get(self, name: str) -> int:
        return (await self.read(self.control(name), 1))[0]

    async def set(self, name: str, value: int) -> None:
        await self.write(self.control(name), [value])

    async def status(self) -> set[str]:
        word = await self.get("STATUS")
        return {item.name for item in _STATUS.fields if item.extract(word)}

    async def ready(self) -> None:
        """Wait until requests are being decided."""
        while "READY" not in await self.status():
            pass

    async def timestamp(self) -> tuple[int, int]:
        """EPOCH and COUNT, from one epoch."""
        while True:
            epoch, count, *_ = await self.read(self.control("EPOCH"), 4)
            if epoch == await self.get("EPOCH"):
                return epoch, count

    async def statistics(self) -> dict[str, int]:
        sequence = await self.get("STATISTICS_SEQUENCE")
        await self.set("COMMAND", _COMMAND["LATCH_STATISTICS"].insert(1))
        while await self.get("STATISTICS_SEQUENCE") == sequence:
            pass
        words = []
        total = 2 * len(STATISTICS)
        for start in range(0, total, 16):
            words += await self.read(self.control("STATISTICS") + 4 * start, min(16, total - start))
        return {name: words[2 * n] | words[2 * n + 1] << 32 for n, (name, _) in enumerate(STATISTICS)}

    async def error_log(self) -> list[tuple[int, int, int]]:
        """(code, slot, detail), oldest first."""
        total = await self.get("ERROR_COUNT")
        words = await self.read(self.control("ERROR_LOG"), 16)
        words += await self.read(self.control("ERROR_LOG") + 64, 16)
        if total > ERROR_LOG_ENTRIES:
            self.cover.hit("error log", "wrapped")
        entries = []
        for number in range(max(0, total - ERROR_LOG_ENTRIES), total):
            head, detail = words[2 * (number % ERROR_LOG_ENTRIES) :][:2]
            entries.append((head & 0xFF, head >> 8, detail))
        return entries

    # -- Commands ------------------------------------------------------------------------------------------------------

    async def soft_reset(self, initial_epoch: int | None = None) -> None:
        """Start a soft reset. It may overlap with anything but another reset's scrub."""
        if initial_epoch is not None:
            await self.set("INITIAL_EPOCH", initial_epoch)
            self._initial_epoch = initial_epoch
        await self.set("COMMAND", _COMMAND["SOFT_RESET"].insert(1))

    async def raise_floor(self) -> None:
        """To be called while nothing is being decided."""
        await self.set("COMMAND", _COMMAND["RAISE_FLOOR"].insert(1))
        self.events.append(Command("FLOOR"))

    async def inject_filter_word(self, table: int, row: int) -> None:
        """To be called while nothing is being decided."""
        kind = _FAULT_INJECTION["KIND"].insert(Fault.FILTER_WORD)
        place = _FAULT_INJECTION["TABLE"].insert(table) | _FAULT_INJECTION["ROW"].insert(row)
        await self.set("FAULT_INJECTION", kind | place)
        # The arbiter has a place for one such command, and carries it out between two requests.
        await self.clocks(16)
        self.events.append(Command("FAULT", (table, row)))

    async def inject_next_key(self) -> None:
        await self.set("FAULT_INJECTION", _FAULT_INJECTION["KIND"].insert(Fault.NEXT_KEY))

    # -- The comparison ------------------------------------------------------------------------------------------------

    async def compare(self) -> None:
        """Replay every decision in its order on the model and on the reference STM; then compare the books."""
        replay = Replay(self)
        for event in self.events:
            event.judge(replay)
        await self.ready()
        epoch, count = await self.timestamp()
        expected = replay.reference.last_timestamp()
        assert self.parameters.timestamp(epoch, count) == expected, f"EPOCH {epoch}, COUNT {count}: not {expected:#x}"

        after = await self.statistics()
        for name, value in replay.statistics(len(self.access_errors)).items():
            if name in replay.uncertain:
                continue
            got = after[name] - self.statistics_before[name]
            assert got == value, f"statistic {name} has grown by {got}, not {value}"

        log = Counter(await self.error_log())
        strangers = log - Counter(self.access_errors) - Counter(replay.errors)
        assert not strangers, f"in the error log, but never made: {strangers}"
        total = len(self.access_errors) + len(replay.errors)
        if total <= ERROR_LOG_ENTRIES:
            # An error of a bus access is left out when the arbiter has one in the same clock cycle.
            assert not Counter(replay.errors) - log, f"not logged: {Counter(replay.errors) - log}"
            assert log.total() >= total - len(replay.errors)
        for code, _, _ in log:
            self.cover.hit("error code", ErrorCode(code).name)

        # The next comparison begins here.
        self.statistics_before = after


class Client:
    """One slot's user."""

    def __init__(self, testbench: Testbench, slot: int) -> None:
        self.testbench = testbench
        self.slot = slot
        self._number = random.randrange(_SUBMISSION_NUMBERS)
        self._pending: list = []

    def address(self, name: str) -> int:
        return self.testbench.slot(self.slot, name)

    async def write(self, name: str, words: Sequence[int], expect: int = OKAY) -> None:
        await self.settle()
        await self.testbench.write(self.address(name), words, expect)

    async def read(self, name: str, words: int = 1) -> list[int]:
        return await self.testbench.read(self.address(name), words)

    async def status(self) -> set[str]:
        word = (await self.read("STATUS"))[0]
        return {item.name for item in SLOT_PAGE.register("STATUS").fields if item.extract(word)}

    def _send(self, address: int, words: Sequence[int], burst: int) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in words)
        write = self.testbench.axi.write(address, data, awid=random.getrandbits(12), burst=burst)
        # Tasks begin in the order in which they were started, so these writes keep theirs; others have to settle first.
        self._pending.append(cocotb.start_soon(write))

    async def settle(self, expect: int = OKAY) -> None:
        """Wait for the responses to what was sent."""
        pending, self._pending = self._pending, []
        for task in pending:
            response = await task
            assert response.resp == expect, f"{response}"

    def send_keys(self, kind: str, keys: Sequence[int]) -> None:
        """Append keys in bursts of any legal shape."""
        window = SLOT_PAGE.window(_APERTURES[kind])
        base = self.address(_APERTURES[kind])
        keys = list(keys)
        while keys:
            burst = random.choice((FIXED, INCR, INCR, WRAP))
            beats = random.randint(1, min(16, len(keys)))
            if burst == WRAP:
                beats = max((size for size in (2, 4, 8, 16) if size <= beats), default=1)
                burst = WRAP if beats > 1 else INCR
            room = window.size // 4 - beats
            offset = 4 * random.choice((0, room, random.randint(0, room)))
            self._send(base + offset, keys[:beats], burst)
            names = ("FIXED", "INCR", "WRAP")
            self.testbench.cover.hit("filled by", f"{names[burst]} {'one beat' if beats == 1 else 'several beats'}")
            del keys[:beats]

    async def fill(self, reads=(), writes=(), commutes=(), eager: bool | None = None) -> None:
        """Write the sets, those of writes and commutes interleaved. ``eager``: without waiting for responses."""
        pieces = []
        for kind, keys in (("read", reads), ("write", writes), ("commute", commutes)):
            keys = list(keys)
            while keys:
                cut = random.randint(1, len(keys))
                pieces.append((random.random(), kind, keys[:cut]))
                del keys[:cut]
        # Any order of the pieces that keeps the order within each set.
        order = [kind for _, kind, _ in sorted(pieces, key=lambda piece: piece[0])]
        by_kind = {kind: deque(keys for _, k, keys in pieces if k == kind) for kind in _APERTURES}
        for kind in order:
            self.send_keys(kind, by_kind[kind].popleft())
            if not (random.random() < 0.5 if eager is None else eager):
                await self.settle()

    def new_request(self, snapshot: tuple[int, int], reads=(), writes=(), commutes=(), forced=()) -> Request:
        self._number = (self._number + 1) % _SUBMISSION_NUMBERS
        return Request(self.slot, self._number, *snapshot, list(reads), list(writes), list(commutes), set(forced))

    async def prepare(self, request: Request) -> None:
        """Fill the slot with its sets."""
        self.testbench.filling[self.slot] = request
        await self.fill(request.reads, request.writes, request.commutes)
        # Otherwise some of it is still on the bus.
        request.filled = not self._pending and bool(request.reads or request.writes or request.commutes)

    async def submit(self, request: Request, snapshot: bool = True) -> None:
        """Submit what was filled, in one burst or in single writes; returns when the write was answered."""
        testbench = self.testbench
        assert self.slot not in testbench.undecided
        testbench.filling.pop(self.slot, None)
        testbench.undecided[self.slot] = request
        request.submitted = testbench.monitor.cycle
        words = [request.epoch, request.count, request.number]
        if not snapshot:
            self._send(self.address("SUBMIT"), words[2:], INCR)
        elif random.random() < 0.8:
            self._send(self.address("SNAPSHOT_EPOCH"), words, INCR)
        else:
            for name, word in zip(("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT", "SUBMIT"), words, strict=True):
                self._send(self.address(name), [word], INCR)
        await self.settle()

    async def verdict(self, request: Request) -> Request:
        """Poll until it is decided, in the slot page or in the slot's record in the control page."""
        testbench = self.testbench
        while True:
            if random.random() < 0.8:
                words = await self.read("VERDICT", 4)
            else:
                words = await testbench.read(testbench.control("SLOT_RECORDS") + 16 * self.slot, 4)
            if _VERDICT["DONE"].extract(words[0]):
                break
        # The words may have been read in the clock cycles around the decision.
        request.words = await self.read("VERDICT", 4)
        if request.committed and _VERDICT["TIMESTAMPED"].extract(words[0]):
            testbench.newest = max(testbench.newest, (request.words[1], request.words[2]))
        elif request.reason is Reason.ROLLOVER:
            # As a client does whose snapshot is of another epoch.
            testbench.newest = max(testbench.newest, await testbench.timestamp())
        return request

    async def commit(self, snapshot=None, reads=(), writes=(), commutes=(), forced=()) -> Request:
        """The whole exchange."""
        snapshot = self.testbench.newest if snapshot is None else snapshot
        request = self.new_request(snapshot, reads, writes, commutes, forced)
        await self.prepare(request)
        await self.submit(request)
        return await self.verdict(request)


def client_set(testbench: Testbench) -> list[Client]:
    return [Client(testbench, slot) for slot in range(testbench.parameters.slots)]


__all__ += ["CHANNELS", "DECERR", "OKAY", "SLVERR", "Command", "RawMaster", "client_set", "set_pauses"]

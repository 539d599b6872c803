"""The slot pages against a model of the client's contract, clock by clock and rule by rule."""

import dataclasses
import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import PAGE_BYTES, SLOT_PAGE, Access, ErrorCode, Register, RequestKind
from bloomgate_hdl.flight_port import flight_layout
from bloomgate_hdl.register_decode import APERTURE_PAGE
from bloomgate_hdl.register_port import READ_LATENCY
from bloomgate_hdl.slot_pages import SlotPages
from bloomgate_hdl.slot_port import request_layout, verdict_layout

from tests.hdl.simulation import PageBus, drive, simulate, value_of

PARAMETERS = Parameters(K=1, D=16, timestamp_bits=20, key_bits=24, slots=3, aperture_depth=4)
ITEMS = {item.word + n: item for item in APERTURE_PAGE for n in range(item.size // 4)}
#: In place of the word of a write: a key of the slot's announced log; with no strobe, the message that it is lost.
LOG = -1
APERTURES = {name: SLOT_PAGE.window(f"{name}_APERTURE") for name in ("READ", "WRITE", "COMMUTE")}
SUBMIT, DISCARD = SLOT_PAGE.register("SUBMIT"), SLOT_PAGE.register("DISCARD")
ANNOUNCE, PARK = SLOT_PAGE.register("ANNOUNCE"), SLOT_PAGE.register("PARK")
TAIL = SLOT_PAGE.register("ANNOUNCED_TAIL")
ITEMS[LOG] = APERTURES["READ"]
KIND = SUBMIT["KIND"]
SNAPSHOT = {name: SLOT_PAGE.register(f"SNAPSHOT_{name}") for name in ("EPOCH", "COUNT")}
VERDICT, STATUS = SLOT_PAGE.register("VERDICT"), SLOT_PAGE.register("STATUS")
WHOLE = 0b1111
ERRORS = ("BUSY_ERROR", "OVERFLOW_ERROR", "BAD_REQUEST_ERROR")
#: What the transactions in flight say of each slot, and what they are told.
FLIGHT_STATE = ("in_flight", "parkable", "holds", "withdrawable")
FLIGHT_STROBES = ("announce", "pause", "append", "snapshot", "submit", "discard", "park", "unpark")


@dataclasses.dataclass
class Slot:
    """What one client and the arbiter know of a slot."""

    reads: int = 0
    writes: int = 0
    snapshot: dict = dataclasses.field(default_factory=lambda: {"EPOCH": 0, "COUNT": 0})
    errors: set = dataclasses.field(default_factory=set)
    #: Something was put in that a reset must not leave unnoticed.
    touched: bool = False
    reset: bool = False
    busy: bool = False
    pending: bool = False
    #: Handed to the arbiter with SUBMIT.
    submitted: dict = dataclasses.field(default_factory=dict)
    verdict: dict | None = None
    done: bool = False
    # What is said of its transaction in flight.
    in_flight: bool = False
    parkable: bool = False
    holds: bool = False
    withdrawable: bool = False
    #: Not all of its announced log has come.
    behind: bool = False


class Model:
    """`clock` applies what happens in one clock cycle to the state before it."""

    def __init__(self, parameters=PARAMETERS):
        self.parameters = parameters
        self.slots = [Slot() for _ in range(parameters.slots)]

    def write(self, slot, word, data, strobe):
        """The outcome of a write: (what it is, error code, detail), judged by the state before it."""
        p, state, item = self.parameters, self.slots[slot], ITEMS.get(word)
        if item is None or item.access not in (Access.RW, Access.WO):
            return "refused", None, None
        aperture = item in APERTURES.values()
        if item is DISCARD and strobe == WHOLE and state.withdrawable:
            return "discard", None, None
        if state.busy:
            busy = ErrorCode.SUBMIT_WHILE_BUSY if item in (SUBMIT, DISCARD) else ErrorCode.WRITE_WHILE_BUSY
            return "BUSY_ERROR", busy, data
        if item not in SNAPSHOT.values() and strobe != WHOLE:
            if word == LOG:
                return "BAD_REQUEST_ERROR", ErrorCode.FETCH_ERROR, state.reads
            # A partial SUBMIT must not leave its client without a verdict.
            return "submit" if item is SUBMIT else "BAD_REQUEST_ERROR", ErrorCode.PARTIAL_WRITE, word * 4
        if item is SUBMIT and (state.behind or KIND.extract(data) not in self.kinds(slot)):
            return "submit", ErrorCode.NOT_IN_FLIGHT, data
        if item is TAIL and not state.in_flight:
            return "BAD_REQUEST_ERROR", ErrorCode.NOT_IN_FLIGHT, data
        if item is TAIL:
            fits = data <= p.aperture_depth
            return ("advance", None, None) if fits else ("OVERFLOW_ERROR", ErrorCode.KEY_OVERFLOW, data)
        if item is PARK and data & 1 and not state.parkable:
            return "nothing", ErrorCode.NOT_IN_FLIGHT, data
        if aperture and data > p.max_key:
            return "BAD_REQUEST_ERROR", ErrorCode.KEY_RANGE, data
        if aperture and state.reads + state.writes == p.aperture_depth:
            return "OVERFLOW_ERROR", ErrorCode.KEY_OVERFLOW, data
        if aperture:
            return "append", None, None
        if item in (ANNOUNCE, PARK):
            return {ANNOUNCE: ("pause", "announce"), PARK: ("unpark", "park")}[item][data & 1], None, None
        return {SUBMIT: "submit", DISCARD: "discard"}.get(item, "snapshot"), None, None

    def kinds(self, slot):
        """What the slot may ask for."""
        state = self.slots[slot]
        token = {RequestKind.TOKEN} if state.in_flight and not state.holds else set()
        return {RequestKind.COMMIT} | token | ({RequestKind.GUARD} if state.holds else set())

    def request(self, slot):
        state = self.slots[slot]
        return state.submitted | {
            "snapshot_epoch": state.snapshot["EPOCH"],
            "snapshot_count": state.snapshot["COUNT"],
            "read_count": state.reads,
            "write_count": state.writes,
            "reset": int(state.reset),
            "bus_error": 0,
            "skip_count": 0,
        }

    def clock(self, write=None, *, take=None, decided=None, reset=False, resetting=False):
        """`write` is (slot, word, data, strobe), `take` a slot, `decided` (slot, verdict)."""
        effect, code = None, None
        if write is not None:
            slot, word, data, strobe = write
            effect, code, _ = self.write(slot, word, data, strobe)
        marked = [
            state
            for state in self.slots
            if reset and (state.touched and not state.in_flight or state.busy and not state.withdrawable)
        ]
        if take is not None:
            self.slots[take].pending = False
        for state in marked:
            state.reset = True
        if decided is not None:
            state = self.slots[decided[0]]
            state.verdict, state.done, state.busy = decided[1], True, False
            state.reset = state.touched = False
            state.reads = state.writes = 0
        if write is None:
            return
        state, item = self.slots[slot], ITEMS.get(word)
        if effect in ERRORS:
            state.errors.add(effect)
        elif effect == "append":
            state.touched = True
            if item is APERTURES["READ"]:
                state.reads += 1
            else:
                state.writes += 1
        elif effect == "snapshot":
            mask = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            name = "EPOCH" if item is SNAPSHOT["EPOCH"] else "COUNT"
            state.snapshot[name] = state.snapshot[name] & ~mask | data & mask
        elif effect == "announce":
            state.touched = True
        elif effect == "discard":
            state.reads = state.writes = 0
            state.errors.clear()
            state.touched = state.reset = state.busy = state.pending = False
        elif effect == "submit":
            state.submitted = {
                "request": data & 0xFFFF,
                "kind": RequestKind.COMMIT if code is not None else KIND.extract(data),
                "bad_request": int("BAD_REQUEST_ERROR" in state.errors or code is not None),
                "overflow": int("OVERFLOW_ERROR" in state.errors),
                "busy": int("BUSY_ERROR" in state.errors),
            }
            state.errors.clear()
            state.busy = state.pending = state.touched = True
            state.done = False
            state.reset = state.reset or resetting

    def read(self, slot, word):
        """The word there, or None where a read is refused or its value has no meaning."""
        state, item = self.slots[slot], ITEMS.get(word)
        if item is None:
            return None
        if item.access is Access.WO:
            return 0
        if item is STATUS:
            fields = dict.fromkeys(("BUSY", *ERRORS, "RESET_ERROR"), 0)
            fields |= dict.fromkeys(state.errors, 1)
            fields["BUSY"], fields["RESET_ERROR"] = int(state.busy), int(state.reset and not state.busy)
            return sum(STATUS[name].insert(bit) for name, bit in fields.items())
        if item.name == "FLIGHT" or item.name.startswith("DOOM_"):
            return 0
        if item in SNAPSHOT.values():
            return state.snapshot[item.name.removeprefix("SNAPSHOT_")]
        if item.name in ("READ_COUNT", "WRITE_COUNT"):
            return state.reads if item.name == "READ_COUNT" else state.writes
        if state.verdict is None:
            return 0
        if item is VERDICT:
            fields = {"DONE": int(state.done)}
            fields |= {name: state.verdict[name.lower()] for name in ("COMMITTED", "TIMESTAMPED", "REASON", "REQUEST")}
            return sum(VERDICT[name].insert(value) for name, value in fields.items())
        return state.verdict[{"TIMESTAMP_EPOCH": "epoch", "TIMESTAMP_COUNT": "count"}.get(item.name, "conflict_key")]


class Bench:
    """One clock cycle of everything: drives, checks all outputs, and keeps the model in step."""

    def __init__(self, parameters=PARAMETERS):
        self.parameters = parameters
        self.dut = SlotPages(parameters)
        self.model = Model(parameters)
        self.request_members = request_layout(parameters)
        self.reads = []  # (slot, word, values it may have) or None, newest first
        self.refused = None
        self.arrived = None  # the write of the clock cycle before, which takes effect in this one

    async def step(self, ctx, arriving=None, *, read=None, take=None, decided=None, reset=False, resetting=False):
        dut, model, p = self.dut, self.model, self.parameters
        # Answers to what was asked before.
        if self.refused is not None:
            assert ctx.get(dut.bus.write_error) == self.refused
        if len(self.reads) == READ_LATENCY and (due := self.reads.pop()) is not None:
            slot, word, values = due
            where = f"slot {slot}, word {word:#x}"
            assert bool(ctx.get(dut.bus.read_error)) == (ITEMS.get(word) is None), where
            assert None in values or ctx.get(dut.bus.read_data) in values, where
        # What the arbiter sees.
        assert ctx.get(dut.pending) == sum(state.pending << number for number, state in enumerate(model.slots))
        for slot, state in enumerate(model.slots):
            if state.busy:
                ctx.set(dut.request_slot, slot)
                assert value_of(self.request_members, ctx.get(dut.request)) == model.request(slot)
        # The clock cycle itself.
        for name in FLIGHT_STATE:
            vector = sum(getattr(state, name) << number for number, state in enumerate(model.slots))
            ctx.set(getattr(dut.flight, name), vector)
        through_log = arriving is not None and arriving[1] == LOG
        drive(
            ctx, dut.log, key_valid=through_log, behind=self.arrived is not None and model.slots[self.arrived[0]].behind
        )
        if through_log:
            slot, _, key, strobe = arriving
            drive(ctx, dut.log, key_slot=slot, key=key, key_lost=not strobe)
        drive(ctx, dut, take=take is not None, request_slot=take or 0, reset=reset, resetting=reset or resetting)
        ctx.set(dut.decided, decided is not None)
        if decided is not None:
            drive(ctx, dut, decided_slot=decided[0], verdict=decided[1])
        ctx.set(dut.bus.write_valid, arriving is not None and not through_log)
        assert ctx.get(dut.log.key_ready) == (arriving is None or through_log)
        if arriving is not None and not through_log:
            slot, word, data, strobe = arriving
            drive(ctx, dut.bus, write_slot=slot, write_word=word, write_data=data, write_strobe=strobe)
        write, self.arrived = self.arrived, arriving
        effect = None
        if write is not None:
            slot, word, data, strobe = write
            effect, code, detail = model.write(slot, word, data, strobe)
            error = value_of([(name, None) for name in ("code", "slot", "detail")], ctx.get(dut.error))
            if code is not None:
                assert error == {"code": code, "slot": slot, "detail": detail}
            assert ctx.get(dut.error.valid) == (code is not None), f"{effect} to word {word:#x}"
        else:
            assert not ctx.get(dut.error.valid)
        assert ctx.get(dut.submitted) == (effect == "submit")
        told = {name for name in FLIGHT_STROBES if ctx.get(getattr(dut.flight, name))}
        reads_more = effect == "append" and ITEMS[word] is APERTURES["READ"]
        assert told == ({effect} if effect in FLIGHT_STROBES and (effect != "append" or reads_more) else set())
        assert not told or ctx.get(dut.flight.slot) == slot
        if effect == "submit":
            assert ctx.get(dut.flight.kind) == (RequestKind.COMMIT if code is not None else KIND.extract(data))
        in_flight = write is not None and model.slots[write[0]].in_flight
        ends = {"submit": "drop", "discard": "drop", "advance": "advance"}
        expected = {"begin"} if effect == "announce" and not in_flight else {ends[effect]} if effect in ends else set()
        assert {name for name in ("begin", "advance", "drop") if ctx.get(getattr(dut.log, name))} == expected
        assert not expected or ctx.get(dut.log.slot) == slot
        if effect == "advance":
            assert ctx.get(dut.log.tail) == data
        assert ctx.get(dut.append) == (effect == "append")
        if effect == "append":
            state = model.slots[slot]
            down = ITEMS[word] is not APERTURES["READ"]
            assert ctx.get(dut.append_slot) == slot
            assert ctx.get(dut.append_key) == data
            expected = p.aperture_depth - 1 - state.writes if down else state.reads
            assert ctx.get(dut.append_position) == expected
        self.refused = None if arriving is None or through_log else model.write(*arriving)[0] == "refused"
        before = None
        if read is not None:
            drive(ctx, dut.bus, read_slot=read[0], read_word=read[1])
            before = model.read(*read)
        model.clock(write, take=take, decided=decided, reset=reset, resetting=reset or resetting)
        # An access in the clock cycle of a change may see it or not.
        self.reads.insert(0, None if read is None else (*read, (before, model.read(*read))))
        await ctx.tick()

    async def write(self, ctx, slot, item, data=0, strobe=WHOLE, index=0):
        await self.step(ctx, (slot, item.word + index, data, strobe))
        await self.step(ctx)

    async def finish(self, ctx, slot, **verdict):
        """The arbiter takes and decides the request of `slot`."""
        await self.step(ctx, take=slot)
        await self.step(ctx, decided=(slot, verdict_of(self.parameters, **verdict)))

    async def check_all(self, ctx):
        """Every word of every slot."""
        for slot in range(self.parameters.slots):
            for item in APERTURE_PAGE:
                await self.step(ctx, read=(slot, item.word))
        for _ in range(READ_LATENCY):
            await self.step(ctx)

    def run(self, bench, clocks=1000):
        simulate(self.dut, bench, clocks=clocks)


def verdict_of(parameters, **values):
    verdict = {name: 0 for name, _ in verdict_layout(parameters)}
    return verdict | values


def random_verdict(rng, parameters):
    return {name: rng.getrandbits(field.width) for name, field in verdict_layout(parameters)}


# -- single rules -------------------------------------------------------------------------


def test_reset_state():
    bench = Bench()

    async def run(ctx):
        assert ctx.get(bench.dut.pending) == 0
        bus = PageBus(ctx, bench.dut.bus)
        for slot in range(3):
            for item in APERTURE_PAGE:
                if isinstance(item, Register) and item.access is not Access.WO:
                    assert await bus.read(item, slot) == 0

    bench.run(run)


def test_every_word_of_the_page_readable_or_refused():
    bench = Bench()

    async def run(ctx):
        for word in range(PAGE_BYTES // 4):
            await bench.step(ctx, read=(1, word))
            if ITEMS.get(word) is None or ITEMS[word].access is Access.RO:
                await bench.step(ctx, (1, word, 0xFFFF_FFFF, WHOLE))
        await bench.check_all(ctx)

    bench.run(run, clocks=4000)


def test_every_word_of_an_aperture_appends():
    bench = Bench(dataclasses.replace(PARAMETERS, aperture_depth=4096, key_bits=32))

    async def run(ctx):
        for aperture in APERTURES.values():
            for index in (0, 1, 63, aperture.size // 4 - 1):
                await bench.write(ctx, 1, aperture, 0xFFFF_0000 + index, index=index)
        assert (bench.model.slots[1].reads, bench.model.slots[1].writes) == (4, 8)
        await bench.check_all(ctx)

    bench.run(run)


def test_verdict_fields_are_where_the_register_map_has_them(seed):
    bench = Bench()
    rng = random.Random(seed)

    async def run(ctx):
        bus = PageBus(ctx, bench.dut.bus)
        for _ in range(4):
            verdict = random_verdict(rng, PARAMETERS)
            await bench.write(ctx, 2, SUBMIT, 1)
            await bench.step(ctx)
            assert (await bus.fields("VERDICT", 2))["DONE"] == 0
            bench.reads.clear()
            await bench.step(ctx, take=2)
            await bench.step(ctx, decided=(2, verdict))
            ctx.set(bench.dut.decided, 0)
            fields = await bus.fields("VERDICT", 2)
            assert fields["DONE"] == 1
            for name in ("COMMITTED", "TIMESTAMPED", "REASON", "REQUEST"):
                assert fields[name] == verdict[name.lower()]
            assert await bus.read(SLOT_PAGE.register("TIMESTAMP_EPOCH"), 2) == verdict["epoch"]
            assert await bus.read(SLOT_PAGE.register("TIMESTAMP_COUNT"), 2) == verdict["count"]
            assert await bus.read(SLOT_PAGE.register("CONFLICT_KEY"), 2) == verdict["conflict_key"]
            bench.reads.clear()

    bench.run(run)


@pytest.mark.parametrize("reads", range(5))
def test_a_full_slot_takes_no_more_keys_and_the_request_overflows(reads):
    """Whatever the split; the keys that fit stay, and the mark goes with the request."""
    bench = Bench()

    async def run(ctx):
        for number in range(4):
            await bench.write(ctx, 0, APERTURES["READ" if number < reads else "COMMUTE"], number)
        for aperture in APERTURES.values():
            await bench.write(ctx, 0, aperture, 0x77)
        await bench.write(ctx, 1, APERTURES["READ"], 0x99)  # another slot has room
        await bench.check_all(ctx)
        await bench.write(ctx, 0, SUBMIT, 5)
        assert bench.model.request(0)["overflow"] == 1
        await bench.finish(ctx, 0)
        await bench.check_all(ctx)
        await bench.write(ctx, 0, APERTURES["WRITE"], 1)
        await bench.write(ctx, 0, SUBMIT, 6)
        assert bench.model.request(0) == bench.model.request(0) | {"overflow": 0, "read_count": 0, "write_count": 1}
        await bench.finish(ctx, 0)

    bench.run(run)


@pytest.mark.parametrize("strobe", range(1, 15))
def test_partial_writes(strobe):
    """To SNAPSHOT they write their bytes; an aperture and DISCARD drop them; SUBMIT submits a BAD_REQUEST."""
    bench = Bench()

    async def run(ctx):
        for register in SNAPSHOT.values():
            await bench.write(ctx, 1, register, 0x1122_3344)
            await bench.write(ctx, 1, register, 0xAABB_CCDD, strobe)
        await bench.check_all(ctx)
        assert not bench.model.slots[1].errors
        for aperture in APERTURES.values():
            await bench.write(ctx, 1, aperture, 9)
            await bench.write(ctx, 1, aperture, 7, strobe, index=3)
            assert "BAD_REQUEST_ERROR" in bench.model.slots[1].errors
            await bench.check_all(ctx)
            await bench.write(ctx, 1, DISCARD, 0, strobe)  # dropped, so it clears nothing
            await bench.check_all(ctx)
            await bench.write(ctx, 1, DISCARD, 0)
            await bench.check_all(ctx)
        await bench.write(ctx, 1, SUBMIT, 0x1234_5678, strobe)
        assert bench.model.request(1)["bad_request"] == 1
        await bench.finish(ctx, 1)
        await bench.write(ctx, 1, SUBMIT, 8)
        assert bench.model.request(1)["bad_request"] == 0
        await bench.finish(ctx, 1)

    bench.run(run, clocks=2000)


@pytest.mark.parametrize("key", [1 << 24, 1 << 31, 0xFFFF_FFFF])
def test_a_key_that_is_too_wide_makes_a_bad_request(key):
    bench = Bench()

    async def run(ctx):
        for aperture in APERTURES.values():
            await bench.write(ctx, 0, aperture, PARAMETERS.max_key)
            await bench.write(ctx, 0, aperture, key)
        await bench.check_all(ctx)
        await bench.write(ctx, 0, SUBMIT, 0)
        request = bench.model.request(0)
        assert (request["bad_request"], request["read_count"], request["write_count"]) == (1, 1, 2)
        await bench.finish(ctx, 0)

    bench.run(run)


@pytest.mark.parametrize(
    "item", [*APERTURES.values(), *SNAPSHOT.values(), SUBMIT, DISCARD, ANNOUNCE, PARK, TAIL], ids=lambda item: item.name
)
@pytest.mark.parametrize("when", ["pending", "taken", "decided now"])
def test_a_write_to_a_busy_slot_is_dropped_and_counts_against_the_next_request(item, when):
    bench = Bench()

    async def run(ctx):
        await bench.write(ctx, 2, APERTURES["READ"], 1)
        await bench.write(ctx, 2, SUBMIT, 11)
        request = bench.model.request(2)
        if when != "pending":
            await bench.step(ctx, take=2)
        write = (2, item.word, 0x12, WHOLE)
        if when == "decided now":
            # In the very clock cycle in which the verdict arrives.
            await bench.step(ctx, write)
            await bench.step(ctx, decided=(2, verdict_of(PARAMETERS, committed=1, request=11)))
            await bench.check_all(ctx)
        else:
            await bench.step(ctx, write)
            await bench.step(ctx)
            assert bench.model.request(2) == request, "the request in progress is complete"
            await bench.check_all(ctx)
            if when == "pending":
                await bench.step(ctx, take=2)
            await bench.step(ctx, decided=(2, verdict_of(PARAMETERS, committed=1, request=11)))
        assert bench.model.slots[2].errors == {"BUSY_ERROR"}
        await bench.check_all(ctx)
        await bench.write(ctx, 2, SUBMIT, 12)
        assert bench.model.request(2) == request | {"request": 12, "busy": 1, "read_count": 0}
        await bench.finish(ctx, 2)
        await bench.write(ctx, 2, SUBMIT, 13)
        assert bench.model.request(2)["busy"] == 0
        await bench.finish(ctx, 2)

    bench.run(run)


def test_the_write_one_clock_behind_the_verdict_is_taken():
    bench = Bench()

    async def run(ctx):
        await bench.write(ctx, 0, SUBMIT, 1)
        await bench.finish(ctx, 0)
        await bench.write(ctx, 0, APERTURES["READ"], 5)
        await bench.write(ctx, 0, SUBMIT, 2)
        # And so is the one behind the submit refused.
        await bench.write(ctx, 0, APERTURES["READ"], 6)
        assert bench.model.slots[0].errors == {"BUSY_ERROR"}
        assert bench.model.request(0)["read_count"] == 1
        await bench.finish(ctx, 0)
        await bench.check_all(ctx)

    bench.run(run)


def test_discard_empties_the_sets_and_clears_the_errors_but_not_the_snapshot():
    bench = Bench()

    async def run(ctx):
        await bench.write(ctx, 1, SNAPSHOT["COUNT"], 77)
        for _ in range(5):
            await bench.write(ctx, 1, APERTURES["READ"], 5)
        await bench.write(ctx, 1, APERTURES["READ"], 5, 0b0011)
        await bench.step(ctx, reset=True)
        await bench.check_all(ctx)
        assert bench.model.slots[1].reset
        assert len(bench.model.slots[1].errors) == 2
        await bench.write(ctx, 1, DISCARD, 0xFFFF_FFFF)
        await bench.check_all(ctx)
        for aperture in APERTURES.values():
            await bench.write(ctx, 1, aperture, 5)
        await bench.write(ctx, 1, SUBMIT, 3)
        expected = {"snapshot_count": 77, "read_count": 1, "write_count": 2, "request": 3}
        assert bench.model.request(1) == dict.fromkeys(bench.model.request(1), 0) | expected
        await bench.finish(ctx, 1)
        await bench.check_all(ctx)

    bench.run(run)


def test_reset_marks_what_is_filled_or_undecided_and_nothing_else():
    bench = Bench(dataclasses.replace(PARAMETERS, slots=6))

    async def run(ctx):
        # 0 untouched, 1 filled, 2 pending, 3 taken, 4 decided in that clock cycle, 5 submitted in that clock cycle.
        await bench.write(ctx, 1, APERTURES["WRITE"], 5)
        for slot in (2, 3, 4):
            await bench.write(ctx, slot, SUBMIT, slot)
        await bench.step(ctx, take=3)
        await bench.step(ctx, take=4)
        verdict = verdict_of(bench.parameters, committed=1, request=4)
        await bench.step(ctx, (5, SUBMIT.word, 5, WHOLE))
        await bench.step(ctx, decided=(4, verdict), reset=True)
        assert [state.reset for state in bench.model.slots] == [False, True, True, True, False, True]
        await bench.check_all(ctx)
        # While the reset is in progress: a submit is hit, filling is not.
        await bench.step(ctx, (0, SUBMIT.word, 5, WHOLE), resetting=True)
        await bench.step(ctx, (4, APERTURES["READ"].word, 5, WHOLE), resetting=True)
        await bench.step(ctx, resetting=True)
        assert [state.reset for state in bench.model.slots] == [True, True, True, True, False, True]
        # The mark of the filled one sticks until its request is decided.
        await bench.write(ctx, 1, SUBMIT, 1)
        await bench.write(ctx, 4, SUBMIT, 1)
        await bench.check_all(ctx)
        for slot in (2, 5, 0, 1, 4):
            await bench.step(ctx, take=slot)
        for slot in (3, 2, 5, 0, 1, 4):
            assert bench.model.request(slot)["reset"] == (slot != 4)
            await bench.step(ctx, decided=(slot, verdict))
        await bench.check_all(ctx)
        assert not any(state.reset for state in bench.model.slots)

    bench.run(run)


# -- transactions in flight ---------------------------------------------------------------


def test_announcing_and_pausing():
    """The counts are valid behind ANNOUNCE, and it empties nothing."""
    bench = Bench()

    async def run(ctx):
        # Of an earlier request.
        await bench.write(ctx, 1, APERTURES["READ"], 5)
        await bench.write(ctx, 1, SUBMIT, 3)
        await bench.finish(ctx, 1)
        await bench.write(ctx, 1, ANNOUNCE, 1)
        ctx.set(bench.dut.request_slot, 1)
        assert ctx.get(bench.dut.request.read_count) == 0
        bench.model.slots[1].in_flight = True
        await bench.check_all(ctx)
        await bench.write(ctx, 1, APERTURES["READ"], 5)
        await bench.write(ctx, 1, ANNOUNCE, 0)
        await bench.write(ctx, 1, APERTURES["READ"], 6)
        await bench.write(ctx, 1, ANNOUNCE, 0xFFFF_FFFF)
        assert bench.model.slots[1].reads == 2
        await bench.check_all(ctx)
        await bench.write(ctx, 1, SUBMIT, 4)
        await bench.finish(ctx, 1)
        await bench.check_all(ctx)

    bench.run(run)


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("state", [(), ("in_flight",), ("in_flight", "holds")], ids=["nothing", "in flight", "holder"])
def test_what_may_be_asked_for(kind, state):
    """A request that may not be made is one to commit that is refused: its client gets a verdict, and soon."""
    bench = Bench()

    async def run(ctx):
        for name in state:
            setattr(bench.model.slots[2], name, True)
        legal = bench.model.kinds(2)
        await bench.write(ctx, 2, SUBMIT, KIND.insert(kind) | 7)
        expected = {"kind": kind, "bad_request": 0} if kind in legal else {"kind": 0, "bad_request": 1}
        assert bench.model.request(2) == bench.model.request(2) | expected | {"request": 7}
        await bench.finish(ctx, 2)
        await bench.check_all(ctx)

    bench.run(run)


def test_a_request_for_the_token_can_be_withdrawn_until_it_is_taken():
    bench = Bench()

    async def run(ctx):
        for taken in (False, True):
            slot = bench.model.slots[0]
            await bench.write(ctx, 0, ANNOUNCE, 1)
            slot.in_flight = True
            await bench.write(ctx, 0, APERTURES["READ"], 5)
            await bench.write(ctx, 0, SUBMIT, KIND.insert(RequestKind.TOKEN))
            slot.withdrawable = not taken
            if taken:
                await bench.step(ctx, take=0)
            await bench.write(ctx, 0, DISCARD, 0, strobe=0b0111)
            assert slot.busy
            await bench.write(ctx, 0, DISCARD, 0)
            slot.withdrawable = False
            assert slot.busy == taken
            await bench.check_all(ctx)
            if not taken:
                assert (slot.pending, slot.done, slot.reads, slot.errors) == (False, False, 0, set())

    bench.run(run)


def test_parking_with_nothing_to_wake_it_is_an_error():
    bench = Bench()

    async def run(ctx):
        for word in (1, 0):
            await bench.write(ctx, 1, PARK, word)
        bench.model.slots[1].parkable = True
        for word in (1, 0, 0xFFFF_FFFF):
            await bench.write(ctx, 1, PARK, word)
        assert not bench.model.slots[1].errors, "the next request has nothing to do with it"
        await bench.check_all(ctx)

    bench.run(run)


def test_a_reset_marks_neither_a_transaction_in_flight_nor_who_waits_for_the_token():
    bench = Bench()

    async def run(ctx):
        for slot in range(3):
            await bench.write(ctx, slot, ANNOUNCE, 1)
            bench.model.slots[slot].in_flight = True
            await bench.write(ctx, slot, APERTURES["READ"], 5)
        await bench.write(ctx, 1, SUBMIT, KIND.insert(RequestKind.TOKEN))
        bench.model.slots[1].withdrawable = True
        await bench.write(ctx, 2, SUBMIT, 1)
        assert not ctx.get(bench.dut.reset_owed)
        await bench.step(ctx, reset=True)
        assert [state.reset for state in bench.model.slots] == [False, False, True]
        assert ctx.get(bench.dut.reset_owed)
        await bench.check_all(ctx)
        await bench.finish(ctx, 2)
        assert not ctx.get(bench.dut.reset_owed)
        await bench.check_all(ctx)

    bench.run(run)


def test_flight_registers_are_where_the_register_map_has_them(seed):
    bench = Bench()
    rng = random.Random(seed)
    names = ("DOOMED", "PARKED", "TOKEN_WAITING", "HOLDER", "REVOKED", "ANNOUNCING_DONE", "TOLD", "WAKE_SEQUENCE")

    async def run(ctx):
        bus = PageBus(ctx, bench.dut.bus)
        for slot in range(3):
            state = {name: rng.getrandbits(shape.width) for name, shape in flight_layout(PARAMETERS) if name != "doom"}
            doom = {"key_known": rng.getrandbits(1), "key": rng.getrandbits(24)}
            doom |= {"epoch": rng.getrandbits(32), "count": rng.getrandbits(20)}
            ctx.set(bench.dut.flight.state, {**state, "doom": doom})
            fields = await bus.fields("FLIGHT", slot)
            assert ctx.get(bench.dut.flight.look_slot) == slot
            assert fields == {name: state[name.lower()] for name in names} | {"KEY_KNOWN": doom["key_known"]}
            for name in ("key", "epoch", "count"):
                assert await bus.read(SLOT_PAGE.register(f"DOOM_{name.upper()}"), slot) == doom[name]

    bench.run(run)


# -- everything at once -------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_random_accesses_in_every_clock(slots, seed):
    """All slots interleaved at one write and one read a clock cycle, an arbiter behind them, and resets."""
    rng = random.Random(seed)
    p = dataclasses.replace(PARAMETERS, slots=slots, key_bits=rng.choice((24, 32)))
    bench = Bench(p)
    targets = [*APERTURES.values()] * 5 + [*SNAPSHOT.values(), DISCARD, ANNOUNCE, PARK, TAIL] + [SUBMIT] * 4

    async def run(ctx):
        taken, resetting = [], 0
        for _ in range(500):
            for state in bench.model.slots:
                if rng.random() < 0.1:
                    for name in ("in_flight", "parkable", "holds", "behind"):
                        setattr(state, name, rng.random() < 0.5)
                state.withdrawable = state.pending and state.submitted["kind"] == RequestKind.TOKEN
            write = None
            if rng.random() < 0.95:
                item = rng.choice(targets)
                word = item.word + rng.randrange(item.size // 4)
                if rng.random() < 0.04:
                    word = rng.randrange(PAGE_BYTES // 4)
                data = rng.getrandbits(p.key_bits) if rng.random() < 0.9 else rng.getrandbits(32)
                strobe = WHOLE if rng.random() < 0.95 else rng.randint(1, 15)
                if item is TAIL and rng.random() < 0.7:
                    data = rng.randrange(p.aperture_depth + 2)
                write = (rng.randrange(slots), word, data, strobe)
            # The follower has none for a slot that is busy, nor for one that is about to be.
            free = [slot for slot, state in enumerate(bench.model.slots) if not state.busy]
            if free and rng.random() < 0.2 and (bench.arrived is None or ITEMS.get(bench.arrived[1]) is not SUBMIT):
                write = (rng.choice(free), LOG, rng.getrandbits(p.key_bits), rng.choice((WHOLE, WHOLE, WHOLE, 0)))
            pending = [slot for slot, state in enumerate(bench.model.slots) if state.pending]
            take = rng.choice(pending) if pending and rng.random() < 0.2 else None
            if take is not None:
                bench.model.slots[take].withdrawable = False
            decided = None
            if taken and rng.random() < 0.2:
                decided = (taken.pop(0), random_verdict(rng, p))
            if take is not None:
                taken.append(take)
            reset = not resetting and rng.random() < 0.02
            resetting = rng.randint(1, 9) if reset else max(0, resetting - 1)
            word = rng.choice([item.word for item in APERTURE_PAGE if item.access is not Access.WO])
            read = (rng.randrange(slots), word)
            await bench.step(ctx, write, read=read, take=take, decided=decided, reset=reset, resetting=resetting > 0)
        await bench.check_all(ctx)

    bench.run(run)

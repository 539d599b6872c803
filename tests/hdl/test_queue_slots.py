"""Doorbells, windows and indices of queue pairs against a model of the rules."""

import random
from dataclasses import dataclass

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import QUEUE_RECORD, SLOT_PAGE, ErrorCode
from bloomgate.verdict import Reason
from bloomgate_hdl.queue_slots import QueueSlots

from tests.hdl.simulation import PageBus, fields_of, simulate

PARAMETERS = Parameters(K=1, D=16, timestamp_bits=20, key_bits=24, slots=3, aperture_depth=4, queue_entries=4)
ENTRIES = PARAMETERS.queue_entries
PAGE = 4096
TAIL, HEAD = (SLOT_PAGE.register(name) for name in ("SUBMISSION_TAIL", "COMPLETION_HEAD"))


def record(name):
    return QUEUE_RECORD.register(name)


def doorbell(generation, index):
    return TAIL["GENERATION"].insert(generation) | TAIL["INDEX"].insert(index % 2**16)


def control(generation, enable=1):
    register = record("QUEUE_CONTROL")
    return register["GENERATION"].insert(generation) | register["ENABLE"].insert(enable)


@dataclass
class Slot:
    """Indices of a slot in the order in which they grow, counted for ever."""

    head: int = 0
    written: int = 0
    decided: int = 0
    taken: int = 0
    fetched: int = 0
    tail: int = 0


class Bench:
    def __init__(self, ctx, dut):
        self.ctx = ctx
        self.dut = dut
        self.bus = PageBus(ctx, dut.bus)
        self.errors = []

    async def tick(self, count=1):
        for _ in range(count):
            await self.ctx.tick()
            error = self.ctx.get(self.dut.error)
            if error.valid:
                self.errors.append((int(error.slot), int(error.code), int(error.detail)))

    async def write(self, item, word, slot, strobe=0b1111):
        """True if it was refused. Its effect is there when this returns."""
        self.bus.offer_write(item, word, slot, strobe=strobe)
        await self.tick()
        self.bus.withdraw_write()
        refused = bool(self.ctx.get(self.dut.bus.write_error))
        await self.tick(2)
        return refused

    async def read(self, item, slot):
        return await self.bus.read(item, slot)

    async def status(self, slot):
        register = record("QUEUE_STATUS")
        return fields_of(register, await self.read(register, slot))

    async def open(self, slot, generation, base=0x1000_0000, size=2 * PAGE):
        await self.write(record("WINDOW_BASE"), base, slot)
        await self.write(record("WINDOW_SIZE"), size, slot)
        await self.write(record("QUEUE_CONTROL"), control(generation), slot)
        await self.tick(2 * PARAMETERS.slots + 4)

    async def strobe(self, name, slot):
        """One of fetched, taken, decided, written, for a slot; returns the entry's index where there is one."""
        dut = self.dut
        ports = {
            "fetched": (dut.fetch_slot, dut.fetch_index),
            "taken": (dut.take_slot, None),
            "decided": (dut.decided_slot, dut.completion_place.index),
            "written": (dut.written_slot, dut.written_index),
        }
        port, index = ports[name]
        self.ctx.set(port, slot)
        if name == "decided":
            self.ctx.set(dut.serving_slot, slot)
            await self.tick()
        found = None if index is None else self.ctx.get(index)
        self.ctx.set(getattr(dut, name), 1)
        await self.tick()
        self.ctx.set(getattr(dut, name), 0)
        return found


def test_reset_state_and_window():
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        assert ctx.get(dut.enabled) == ctx.get(dut.pending) == 0
        await bench.write(TAIL, doorbell(0, 1), 1)
        assert bench.errors.pop() == (1, ErrorCode.BAD_DOORBELL, 1)
        await bench.open(1, 7, base=0xFFFF_EABC, size=PAGE + 5)
        assert await bench.status(1) == {"ENABLED": 1, "DRAINING": 0, "GENERATION": 7}
        assert ctx.get(dut.enabled) == 0b010
        assert await bench.read(record("WINDOW_BASE"), 1) == 0xFFFF_E000
        assert await bench.read(record("WINDOW_SIZE"), 1) == PAGE
        for name in ("fetch_slot", "window_slot", "arriving_slot", "serving_slot"):
            ctx.set(getattr(dut, name), 1)
        await bench.tick()
        place = ctx.get(dut.completion_place)
        assert (place.window.base, place.window.end, place.index, place.generation) == (0xFFFFE, 0xFFFFF, 0, 7)
        window = ctx.get(dut.window)
        assert (window.base, window.end) == (0xFFFFE, 0xFFFFF)
        assert (ctx.get(dut.arriving_base), ctx.get(dut.arriving_size)) == (0xFFFFE, 1)
        assert ctx.get(dut.fetch_index) == 0
        # In use: the window stays.
        for name in ("WINDOW_BASE", "WINDOW_SIZE"):
            assert not await bench.write(record(name), 0x1234_5000, 1)
            assert bench.errors.pop() == (1, ErrorCode.WINDOW_IN_USE, 0x1234_5000)
        assert await bench.read(record("WINDOW_BASE"), 1) == 0xFFFF_E000
        # The generation 0 is nobody's.
        await bench.open(2, 0)
        assert not (await bench.status(2))["ENABLED"]

    simulate(dut, run, clocks=300)


@pytest.mark.parametrize("item", [*QUEUE_RECORD, TAIL, HEAD], ids=lambda item: item.name)
def test_partial_words(item):
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        await bench.open(0, 3)
        refused = await bench.write(item, doorbell(3, 1), 0, strobe=0b0111)
        assert refused == (item not in (TAIL, HEAD))
        assert bool(bench.errors) == (item in (TAIL, HEAD))
        assert ctx.get(dut.pending) == 0
        assert await bench.status(0) == {"ENABLED": 1, "DRAINING": 0, "GENERATION": 3}

    simulate(dut, run, clocks=200)


def test_random_doorbells_and_progress(seed):
    """Every index in every order that can be, at both ends of 16 bits, and doorbells that cannot be."""
    rng = random.Random(seed)
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        slots = [Slot() for _ in range(PARAMETERS.slots)]
        generations = [rng.randint(1, 2**16 - 1) for _ in slots]
        refused = 0
        for number, generation in enumerate(generations):
            await bench.open(number, generation)
        # Until every index has gone far enough and enough doorbells were refused, however the dice fall.
        while refused <= 50 or min(slot.written for slot in slots) <= 2 * ENTRIES:
            number = rng.randrange(len(slots))
            slot = slots[number]
            choice = rng.choice(("tail", "head", "fetched", "taken", "decided", "written"))
            if choice in ("tail", "head"):
                # The index that is right, or one somewhere around the ones there are.
                near = rng.choice((slot.tail + 1, slot.head + ENTRIES, slot.head, slot.tail - 1, slot.fetched - 1))
                index = (near if choice == "tail" else rng.randint(slot.head - 1, slot.decided + 1)) + rng.randint(0, 1)
                generation = generations[number] ^ (rng.random() < 0.1)
                if choice == "tail":
                    fits = slot.fetched <= index <= slot.head + ENTRIES
                else:
                    fits = slot.head <= index <= slot.decided
                word = doorbell(generation, index)
                assert not await bench.write(TAIL if choice == "tail" else HEAD, word, number)
                if fits and generation == generations[number]:
                    assert not bench.errors, (choice, index, slot)
                    setattr(slot, choice, index)
                else:
                    assert bench.errors.pop() == (number, ErrorCode.BAD_DOORBELL, word), (choice, index, slot)
                    refused += 1
            else:
                limits = {
                    "fetched": slot.tail,
                    "taken": slot.fetched,
                    "decided": slot.taken,
                    "written": slot.decided,
                }
                if getattr(slot, choice) == limits[choice]:
                    continue
                index = await bench.strobe(choice, number)
                assert index in (None, getattr(slot, choice) % 2**16)
                setattr(slot, choice, getattr(slot, choice) + 1)
            pending = sum((slot.tail > slot.fetched) << n for n, slot in enumerate(slots))
            assert ctx.get(dut.pending) == pending
            if rng.random() < 0.1:
                taken, written = SLOT_PAGE.register("SUBMISSION_HEAD"), record("COMPLETED")
                assert await bench.read(taken, number) == slot.taken
                assert await bench.read(written, number) == slot.written

    simulate(dut, run, clocks=60_000)


def test_a_doorbell_rings_behind_its_write_and_is_pending_a_clock_cycle_later():
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        await bench.open(1, 5)
        for tail, left in ((1, 1), (3, 2), (3, 0)):
            bench.bus.offer_write(TAIL, doorbell(5, tail), 1)
            await bench.tick()
            bench.bus.withdraw_write()
            assert (ctx.get(dut.ringing), ctx.get(dut.ringing_slot), ctx.get(dut.pending)) == (1, 1, 0)
            await bench.tick()
            assert not ctx.get(dut.ringing)
            for more in reversed(range(left)):
                assert ctx.get(dut.pending) == 0b010
                await bench.strobe("fetched", 1)
                assert ctx.get(dut.pending) == (0b010 if more else 0)
        assert not bench.errors

    simulate(dut, run, clocks=200)


@pytest.mark.parametrize(("rung", "left", "errors"), [(1, 0, [1]), (2, 0, []), (3, 1, [])])
def test_a_submission_is_fetched_in_the_clock_cycle_of_a_doorbell(rung, left, errors):
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        await bench.open(1, 5)
        await bench.write(TAIL, doorbell(5, 2), 1)
        await bench.strobe("fetched", 1)
        bench.bus.offer_write(TAIL, doorbell(5, rung), 1)
        await bench.tick()
        bench.bus.withdraw_write()
        await bench.strobe("fetched", 1)
        assert ctx.get(dut.pending) == (0b010 if left else 0)
        await bench.tick(2)
        assert [slot for slot, *_ in bench.errors] == errors

    simulate(dut, run, clocks=200)


def test_a_new_owner_waits_for_the_old_owners_requests_and_starts_at_0():
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        await bench.open(2, 5)
        await bench.write(TAIL, doorbell(5, 3), 2)
        for name in ("fetched", "fetched", "taken", "decided"):
            await bench.strobe(name, 2)
        ctx.set(dut.held, 0b100)
        await bench.write(record("QUEUE_CONTROL"), control(6), 2)
        assert ctx.get(dut.pending) == ctx.get(dut.enabled) == 0
        for held, then in ((0b100, None), (0, "written")):
            ctx.set(dut.held, held)
            await bench.tick(10)
            # Its completions are still the old owner's.
            assert await bench.status(2) == {"ENABLED": 0, "DRAINING": 1, "GENERATION": 5}
            await bench.write(TAIL, doorbell(6, 1), 2)
            assert bench.errors.pop()[1] == ErrorCode.BAD_DOORBELL
            if then:
                await bench.strobe(then, 2)
        await bench.tick(2 * PARAMETERS.slots)
        assert await bench.status(2) == {"ENABLED": 1, "DRAINING": 0, "GENERATION": 6}
        for item in (SLOT_PAGE.register("SUBMISSION_HEAD"), record("COMPLETED")):
            assert await bench.read(item, 2) == 0
        await bench.write(TAIL, doorbell(5, 1), 2)
        assert bench.errors.pop() == (2, ErrorCode.BAD_DOORBELL, doorbell(5, 1))
        await bench.write(TAIL, doorbell(6, 1), 2)
        assert not bench.errors
        assert ctx.get(dut.pending) == 0b100

    simulate(dut, run, clocks=400)


def test_the_last_verdict_stays():
    dut = QueueSlots(PARAMETERS)

    async def run(ctx):
        bench = Bench(ctx, dut)
        await bench.open(0, 5)
        assert fields_of(record("LAST_VERDICT"), await bench.read(record("LAST_VERDICT"), 0))["DONE"] == 0
        verdict = {"committed": 1, "timestamped": 1, "reason": 0, "request": 0xABCD, "epoch": 3, "count": 77}
        ctx.set(dut.verdict, verdict)
        await bench.strobe("decided", 0)
        ctx.set(dut.verdict, {"reason": Reason.RESET.value})
        await bench.strobe("decided", 1)
        await bench.write(record("QUEUE_CONTROL"), control(0, enable=0), 0)
        await bench.tick(10)
        fields = fields_of(record("LAST_VERDICT"), await bench.read(record("LAST_VERDICT"), 0))
        assert fields == {"DONE": 1, "COMMITTED": 1, "TIMESTAMPED": 1, "REASON": 0, "REQUEST": 0xABCD}
        assert await bench.read(record("LAST_EPOCH"), 0) == 3
        assert await bench.read(record("LAST_COUNT"), 0) == 77

    simulate(dut, run, clocks=200)

"""The whole device, through its AXI port."""

import itertools

from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, IDENTIFICATION, SLOT_PAGE, slot_page_offset
from bloomgate.verdict import Reason
from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.top import Bloomgate

from tests.hdl.simulation import drive, fields_of, simulate

PARAMETERS = Parameters(K=2, D=16, timestamp_bits=8, key_bits=16, slots=3, aperture_depth=16)
INCR = 1


class Bus:
    """An AXI3 master that does one INCR burst of words at a time."""

    def __init__(self, ctx, dut):
        self.ctx, self.axi = ctx, dut.axi
        self.clock = 0
        self.probe = dut.probe
        #: Clock cycle of the last W handshake, and of the first in which the last verdict can be read.
        self.last_w = self.readable = None

    async def step(self):
        axi = self.axi
        _, _, wready, awready, arready, decided = await self.ctx.tick().sample(
            axi.wready, axi.awready, axi.arready, self.probe.decided
        )
        if decided:
            self.readable = self.clock + 1
        self.clock += 1
        return awready, wready, arready

    async def write(self, address, words, *, id=1):
        """Address and data at once; returns the response."""
        ctx, axi = self.ctx, self.axi
        drive(ctx, axi, awid=id, awaddr=address, awlen=len(words) - 1, awsize=2, awburst=INCR, awvalid=1)
        place, bready = 0, False
        drive(ctx, axi, wid=id, wstrb=15, bready=1)
        while True:
            if place < len(words):
                drive(ctx, axi, wdata=words[place], wlast=place == len(words) - 1, wvalid=1)
            bready = ctx.get(axi.bvalid)
            answer = (ctx.get(axi.bid), ctx.get(axi.bresp))
            awready, wready, _ = await self.step()
            if ctx.get(axi.awvalid) and awready:
                ctx.set(axi.awvalid, 0)
            if place < len(words) and wready:
                place += 1
                self.last_w = self.clock - 1
                ctx.set(axi.wvalid, 0)
            if bready:
                assert answer[0] == id
                return Response(answer[1])

    async def read(self, address, count=1, *, id=2):
        """The words and the responses of a burst."""
        ctx, axi = self.ctx, self.axi
        drive(ctx, axi, arid=id, araddr=address, arlen=count - 1, arsize=2, arburst=INCR, arvalid=1, rready=1)
        words, responses = [], []
        while len(words) < count:
            if ctx.get(axi.rvalid):
                assert ctx.get(axi.rid) == id
                assert ctx.get(axi.rlast) == (len(words) == count - 1)
                words.append(ctx.get(axi.rdata))
                responses.append(Response(ctx.get(axi.rresp)))
            _, _, arready = await self.step()
            if arready:
                ctx.set(axi.arvalid, 0)
        return words, responses


def at(register, slot=None, index=0):
    page = 0 if slot is None else slot_page_offset(slot)
    return BASE_ADDRESS + page + register.offset + 4 * index


async def ready(bus):
    status = CONTROL_PAGE.register("STATUS")
    while not fields_of(status, (await bus.read(at(status)))[0][0])["READY"]:
        pass


async def fill(bus, slot, snapshot, **sets):
    """Keys in bursts over the apertures; snapshot and SUBMIT in one burst."""
    for name, keys in sets.items():
        for start in range(0, len(keys), 16):
            window = SLOT_PAGE.window(f"{name.upper()}_APERTURE")
            assert await bus.write(at(window, slot), keys[start : start + 16]) == Response.OKAY
    assert SLOT_PAGE.register("SUBMIT").offset == SLOT_PAGE.register("SNAPSHOT_EPOCH").offset + 8
    epoch_and_count = PARAMETERS.epoch_and_count(snapshot)
    assert await bus.write(at(SLOT_PAGE.register("SNAPSHOT_EPOCH"), slot), [*epoch_and_count, 0x1234]) == Response.OKAY


async def verdict(bus, slot):
    """(fields of VERDICT, epoch, count, conflict key), which one burst reads."""
    register = SLOT_PAGE.register("VERDICT")
    while True:
        words, responses = await bus.read(at(register, slot), 4)
        assert set(responses) == {Response.OKAY}
        fields = fields_of(register, words[0])
        if fields["DONE"]:
            return fields, *words[1:]


def test_a_commit_a_conflict_and_the_records():
    dut = Bloomgate(PARAMETERS)

    async def bench(ctx):
        bus = Bus(ctx, dut)
        assert (await bus.read(at(CONTROL_PAGE.register("IDENTIFICATION"))))[0] == [IDENTIFICATION]
        await ready(bus)
        await fill(bus, 0, 0, read=[1, 2], write=[3], commute=[4])
        fields, epoch, count, key = await verdict(bus, 0)
        expected = {"DONE": 1, "COMMITTED": 1, "TIMESTAMPED": 1, "REASON": 0, "REQUEST": 0x1234}
        assert (fields, epoch, count, key) == (expected, 0, 1, 0)
        await fill(bus, 2, 0, read=[9, 4])
        fields, epoch, count, key = await verdict(bus, 2)
        expected = {"DONE": 1, "COMMITTED": 0, "TIMESTAMPED": 0, "REASON": Reason.CONFLICT, "REQUEST": 0x1234}
        assert (fields, epoch, count, key) == (expected, 0, 0, 4)
        records = CONTROL_PAGE.window("SLOT_RECORDS")
        for slot in range(PARAMETERS.slots):
            record, _ = await bus.read(at(records, index=4 * slot), 4)
            page, _ = await bus.read(at(SLOT_PAGE.register("VERDICT"), slot), 4)
            assert record == page
            assert (record[0] != 0) == (slot != 1)
        _, responses = await bus.read(at(records, index=4 * PARAMETERS.slots), 1)
        assert responses == [Response.SLVERR]

    simulate(dut, bench, clocks=1000)


def test_verdict_within_16_clocks_of_the_last_w_handshake():
    dut = Bloomgate(PARAMETERS)

    async def bench(ctx):
        bus = Bus(ctx, dut)
        await ready(bus)
        for count, reads in enumerate((0, 1, 7, 8)):
            sets = {"read": [1] * reads, "write": [2] * (8 - reads)}
            bus.readable = None
            await fill(bus, 1, count, **{name: keys for name, keys in sets.items() if keys})
            handshake = bus.last_w
            while bus.readable is None:
                await bus.step()
            assert bus.readable - handshake <= 16
            assert (await verdict(bus, 1))[0]["COMMITTED"]

    simulate(dut, bench, clocks=1000)


def test_accesses_that_are_refused_do_nothing():
    dut = Bloomgate(PARAMETERS)

    async def bench(ctx):
        bus = Bus(ctx, dut)
        await ready(bus)
        assert await bus.write(at(SLOT_PAGE.register("VERDICT"), 0), [1]) == Response.SLVERR
        assert await bus.write(at(CONTROL_PAGE.register("IDENTIFICATION")), [1]) == Response.SLVERR
        # Three slots and page 0 fill the region of four pages; behind it there is nothing.
        beyond = BASE_ADDRESS + slot_page_offset(PARAMETERS.slots)
        assert await bus.write(beyond, [1]) == Response.DECERR
        assert (await bus.read(beyond))[1] == [Response.DECERR]
        words, _ = await bus.read(at(SLOT_PAGE.register("VERDICT"), 0), 4)
        assert words == [0] * 4

    simulate(dut, bench, clocks=1000)


def test_interrupt_on_a_verdict_until_it_is_acknowledged():
    dut = Bloomgate(PARAMETERS)
    enable, pending = (CONTROL_PAGE.register(f"INTERRUPT_{name}") for name in ("ENABLE", "PENDING"))

    async def bench(ctx):
        bus = Bus(ctx, dut)
        await ready(bus)
        await bus.write(at(enable), [enable["VERDICT"].insert(1)])
        assert not ctx.get(dut.interrupt)
        await fill(bus, 0, 0, write=[3])
        await verdict(bus, 0)
        assert ctx.get(dut.interrupt)
        await bus.write(at(pending), [pending["VERDICT"].insert(1)])
        for _ in range(3):
            await bus.step()
        assert not ctx.get(dut.interrupt)

    simulate(dut, bench, clocks=1000)


def test_keys_enter_the_filter_two_a_clock_and_each_once():
    dut = Bloomgate(PARAMETERS)
    seen = {"queries": 0, "insertions": 0, "submitted": 0, "decided": 0}

    async def count(ctx):
        while True:
            _, _, *values = await ctx.tick().sample(*(getattr(dut.probe, name) for name in seen))
            for name, value in zip(seen, values, strict=True):
                seen[name] += value.bit_count()

    async def bench(ctx):
        bus = Bus(ctx, dut)
        await ready(bus)
        for reads, writes in itertools.product((0, 3), (0, 2)):
            sets = {"read": [1] * reads, "commute": [2] * writes}
            await fill(bus, 0, 255, **{name: keys for name, keys in sets.items() if keys})  # ahead: BAD_REQUEST
            await verdict(bus, 0)
            await fill(bus, 0, seen["insertions"] // 2, **{name: keys for name, keys in sets.items() if keys})
            await verdict(bus, 0)
            for _ in range(8):
                await bus.step()
        # An aborted request is queried all the same, but not inserted.
        assert seen == {"queries": 2 * 6, "insertions": 4, "submitted": 8, "decided": 8}

    simulate(dut, bench, clocks=2000, background=(count,))

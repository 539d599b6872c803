"""The top level without its AXI slave: tests of the arbiter reach the pages through the register port itself."""

import types

import bloomgate_hdl.top
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, STATISTICS, Fault
from bloomgate.verdict import KEY_REASONS, Reason, Verdict
from bloomgate_hdl.axi3 import Axi3Signature
from bloomgate_hdl.register_port import READ_LATENCY, RegisterPortSignature
from bloomgate_hdl.top import Bloomgate

from tests.hdl.simulation import PageBus, fields_of, simulate

__all__ = ["W_TO_WRITE", "Core"]

#: Clock cycles from the handshake of a W beat to the write at the register port, see Axi3Slave.
W_TO_WRITE = 1


class DirectPort(wiring.Component):
    """In place of Axi3Slave: one word access a clock cycle, with word addresses on the AXI signals."""

    def __init__(self, *, base, size, id_width):
        super().__init__(
            {
                "bus": In(Axi3Signature(32, 32, id_width)),
                "registers": Out(RegisterPortSignature((size // 4 - 1).bit_length())),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.registers.write_valid.eq(self.bus.wvalid),
            self.registers.write_address.eq(self.bus.awaddr),
            self.registers.write_data.eq(self.bus.wdata),
            self.registers.write_strobe.eq(self.bus.wstrb),
            self.bus.bresp.eq(self.registers.write_error),
            self.registers.read_valid.eq(self.bus.arvalid),
            self.registers.read_address.eq(self.bus.araddr),
            self.bus.rdata.eq(self.registers.read_data),
            self.bus.rresp.eq(self.registers.read_error),
        ]
        return m


class Core:
    """A device under test that counts clock cycles and records what its probe shows in each of them.

    `run` calls a bench; while it runs the methods below may be awaited. Slots count from 0.
    """

    def __init__(self, parameters, monkeypatch):
        monkeypatch.setattr(bloomgate_hdl.top, "Axi3Slave", DirectPort)
        self.memories = []
        recorded = self.memories

        class Recorded(memory.Memory):
            def __init__(self, *contents, **options):
                super().__init__(*contents, **options)
                recorded.append(self)

        monkeypatch.setattr(memory, "Memory", Recorded)
        self.parameters = parameters
        self.dut = Bloomgate(parameters)
        axi = self.dut.axi
        self._bus = types.SimpleNamespace(
            write_valid=axi.wvalid,
            write_address=axi.awaddr,
            write_data=axi.wdata,
            write_strobe=axi.wstrb,
            write_error=axi.bresp,
            read_valid=axi.arvalid,
            read_address=axi.araddr,
            read_data=axi.rdata,
            read_error=axi.rresp,
        )
        self.clock = 0
        #: Clock cycles of the writes that submitted; (clock, slot) of verdicts; (clock, lanes) of keys that entered.
        self.submitted, self.decided, self.queries, self.insertions = [], [], [], []

    def run(self, bench, *, clocks):
        async def run(ctx):
            self.ctx = ctx
            self._pages = PageBus(ctx, self._bus)
            await bench()

        simulate(self.dut, run, clocks=clocks)

    async def step(self):
        """One clock cycle."""
        probe = self.dut.probe
        _, _, submitted, decided, slot, queries, insertions = await self.ctx.tick().sample(
            probe.submitted, probe.decided, probe.decided_slot, probe.queries, probe.insertions
        )
        if submitted:
            self.submitted.append(self.clock)
        if decided:
            self.decided.append((self.clock, slot))
        if queries:
            self.queries.append((self.clock, queries.bit_count()))
        if insertions:
            self.insertions.append((self.clock, insertions.bit_count()))
        self.clock += 1

    async def write(self, page, item, data):
        """Page 0 is the control page, page 1 + n that of slot n."""
        self._pages.offer_write(item, data, page)
        await self.step()
        self._pages.withdraw_write()

    async def read(self, page, item, index=0):
        self.ctx.set(self._bus.read_address, page * 1024 + item.word + index)
        for _ in range(READ_LATENCY):
            await self.step()
        assert not self.ctx.get(self._bus.read_error)
        return self.ctx.get(self._bus.read_data)

    async def control(self, name):
        """The value of a register of the control page, by its fields where it has some."""
        register = CONTROL_PAGE.register(name)
        word = await self.read(0, register)
        return fields_of(register, word) if register.fields else word

    async def command(self, name):
        register = CONTROL_PAGE.register("COMMAND")
        await self.write(0, register, register[name].insert(1))

    async def inject(self, kind, table=0, row=0):
        register = CONTROL_PAGE.register("FAULT_INJECTION")
        fields = {"KIND": kind, "TABLE": table, "ROW": row}
        await self.write(0, register, sum(register[name].insert(value) for name, value in fields.items()))
        if kind == Fault.FILTER_WORD:
            for _ in range(10):  # it goes through the pipeline behind everything else
                await self.step()

    async def ready(self):
        while not (await self.control("STATUS"))["READY"]:
            pass

    async def fill(self, slot, snapshot, reads=(), writes=(), commutes=()):
        for name, word in zip(("EPOCH", "COUNT"), self.parameters.epoch_and_count(snapshot), strict=True):
            await self.write(1 + slot, SLOT_PAGE.register(f"SNAPSHOT_{name}"), word)
        for name, keys in (("READ", reads), ("WRITE", writes), ("COMMUTE", commutes)):
            for key in keys:
                await self.write(1 + slot, SLOT_PAGE.window(f"{name}_APERTURE"), key)

    async def submit(self, slot, number=0):
        await self.write(1 + slot, SLOT_PAGE.register("SUBMIT"), number)

    async def wait(self, count):
        """Until there are `count` verdicts in all."""
        while len(self.decided) < count:
            await self.step()

    async def verdict(self, slot, number=None):
        """The verdict in a slot's page, which must be done."""
        p = self.parameters
        word = await self.read(1 + slot, SLOT_PAGE.register("VERDICT"))
        fields = fields_of(SLOT_PAGE.register("VERDICT"), word)
        assert fields["DONE"]
        assert number is None or fields["REQUEST"] == number
        epoch, count, key = [
            await self.read(1 + slot, SLOT_PAGE.register(name))
            for name in ("TIMESTAMP_EPOCH", "TIMESTAMP_COUNT", "CONFLICT_KEY")
        ]
        reason = Reason(fields["REASON"]) if fields["REASON"] else None
        assert (reason is None) == bool(fields["COMMITTED"])
        if not fields["TIMESTAMPED"]:
            assert (epoch, count) == (0, 0)
        timestamp = p.timestamp(epoch, count) if fields["TIMESTAMPED"] else None
        has_key = reason in KEY_REASONS
        assert has_key or key == 0
        return Verdict(bool(fields["COMMITTED"]), timestamp, reason, key if has_key else None)

    async def commit(self, slot, snapshot, reads=(), writes=(), commutes=()):
        """A request from filling to verdict, nothing else meanwhile."""
        await self.fill(slot, snapshot, reads, writes, commutes)
        await self.submit(slot)
        await self.wait(len(self.decided) + 1)
        return await self.verdict(slot)

    async def statistics(self):
        window = CONTROL_PAGE.window("STATISTICS")
        sequence = await self.control("STATISTICS_SEQUENCE")
        await self.command("LATCH_STATISTICS")
        while await self.control("STATISTICS_SEQUENCE") == sequence:
            pass
        totals = {}
        for number, (name, _) in enumerate(STATISTICS):
            low, high = [await self.read(0, window, 2 * number + half) for half in range(2)]
            totals[name] = low | high << 32
        return totals

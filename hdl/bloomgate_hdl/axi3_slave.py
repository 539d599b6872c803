"""AXI3 slave for M_AXI_GP0 of the Zynq-7000: bursts to register accesses."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi3 import Axi3Signature
from .axi3_read_channel import Axi3ReadChannel
from .axi3_write_channel import Axi3WriteChannel
from .burst_sequencer import region_bits
from .register_port import RegisterPortSignature
from .stream_queue import check_depth

__all__ = ["Axi3Slave"]


class Axi3Slave(wiring.Component):
    """Answers every burst on the bus, legal or not, with accesses to never-stalling registers.

    Bursts of 1 to 16 beats, FIXED, INCR and WRAP, of 1, 2 or 4 bytes a beat, aligned or not; at
    least 4 write and 4 read bursts outstanding; answers in the order of the addresses, whatever
    their IDs. Reads and writes do not wait for each other and are not ordered against each other:
    a master that needs an order waits for B, as IHI 0022 A5 asks of it. Data may come before its
    address (2 beats are taken ahead); it is written after.

    Reads of a word return the whole word. Writes pass WSTRB on; a beat without strobes writes
    nothing. Exclusive accesses are performed and answered OKAY, never EXOKAY: there is no monitor
    (IHI 0022 A7.2). AxLOCK, AxCACHE and AxPROT have no effect.

    =============================================  ==========================  ====================
    burst                                          write                       read
    =============================================  ==========================  ====================
    first address outside the region               B DECERR, nothing written   every beat DECERR
    reserved AxBURST; AxSIZE > 2; WRAP of other    B SLVERR, nothing written   every beat SLVERR
    than 2, 4, 8, 16 beats or unaligned; INCR
    across a 4 KiB boundary
    WID, WLAST or strobe lanes wrong               B SLVERR, nothing written   (none)
                                                   from that beat on
    registers refuse an access                     B SLVERR                    that beat SLVERR
    =============================================  ==========================  ====================

    The first line that applies counts. There are always exactly one B for a write burst and
    ARLEN + 1 beats for a read burst, so the bus never hangs; `Axi3WriteChannel` says how a write
    burst with the wrong number of beats ends.

    Latency in clocks (0 is the handshake): AW to write 2, W to write 1, last W to BVALID 3, AR to
    read 2, AR to RVALID 5. Throughput: one write and one read beat per clock, also between bursts.

    Timing: bus inputs go to flip-flops and LUT RAM, and bus outputs come from flip-flops; the
    readys of B and R also steer the enables of their own output registers. `registers.write_*`
    come from LUT RAM through the judgement of the beat, so a target should register them.

    Reset: synchronous. From the clock edge that sees it every valid and ready of the bus and of
    `registers` is low and every burst is forgotten without an answer, which wedges the port of the
    PS7 (UG585): stop the master and wait for `idle` first. Readys rise one clock after the reset.

    Source: ARM IHI 0022 (AXI3), UG585 chapter 5.

    Parameters
    ----------
    base, size: the decoded region in bytes: `size` a power of two of at least 4 KiB, `base` a
        multiple of it.
    id_width: bits of the IDs; 12 on M_AXI_GP.
    depth: write and read addresses taken ahead of the burst in progress; a power of two, at
        least 2.
    """

    def __init__(self, *, base, size, id_width=12, depth=4):
        check_depth(depth)
        self._channel = {"base": base, "size": size, "id_width": id_width, "depth": depth}
        super().__init__(
            {
                #: To M_AXI_GP0.
                "bus": In(Axi3Signature(32, 32, id_width)),
                #: To the registers.
                "registers": Out(RegisterPortSignature(region_bits(base, size) - 2)),
                #: No burst that was accepted in an earlier clock is unfinished, and no write data
                #: is waiting for its address.
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.write = write = Axi3WriteChannel(**self._channel)
        m.submodules.read = read = Axi3ReadChannel(**self._channel)

        bus = self.bus
        for channel, prefix in ((write.address, "aw"), (read.address, "ar")):
            m.d.comb += [
                channel.payload.id.eq(getattr(bus, prefix + "id")),
                channel.payload.address.eq(getattr(bus, prefix + "addr")),
                channel.payload.length.eq(getattr(bus, prefix + "len")),
                channel.payload.size.eq(getattr(bus, prefix + "size")),
                channel.payload.burst.eq(getattr(bus, prefix + "burst")),
                channel.valid.eq(getattr(bus, prefix + "valid")),
                getattr(bus, prefix + "ready").eq(channel.ready),
            ]
        m.d.comb += [
            write.data.payload.id.eq(bus.wid),
            write.data.payload.data.eq(bus.wdata),
            write.data.payload.strobe.eq(bus.wstrb),
            write.data.payload.last.eq(bus.wlast),
            write.data.valid.eq(bus.wvalid),
            bus.wready.eq(write.data.ready),
            bus.bid.eq(write.response.payload.id),
            bus.bresp.eq(write.response.payload.response),
            bus.bvalid.eq(write.response.valid),
            write.response.ready.eq(bus.bready),
            bus.rid.eq(read.data.payload.id),
            bus.rdata.eq(read.data.payload.data),
            bus.rresp.eq(read.data.payload.response),
            bus.rlast.eq(read.data.payload.last),
            bus.rvalid.eq(read.data.valid),
            read.data.ready.eq(bus.rready),
            self.registers.write_valid.eq(write.write_valid),
            self.registers.write_address.eq(write.write_address),
            self.registers.write_data.eq(write.write_data),
            self.registers.write_strobe.eq(write.write_strobe),
            write.write_error.eq(self.registers.write_error),
            self.registers.read_valid.eq(read.read_valid),
            self.registers.read_address.eq(read.read_address),
            read.read_data.eq(self.registers.read_data),
            read.read_error.eq(self.registers.read_error),
            self.idle.eq(write.idle & read.idle),
        ]
        return m

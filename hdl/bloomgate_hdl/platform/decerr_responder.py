"""An AXI3 subordinate where nothing is: answers every access with DECERR."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from bloomgate_hdl.axi3 import Axi3Signature, Response

__all__ = ["DecerrResponder"]

#: Bursts whose data may run ahead of their addresses.
_AHEAD = 15


class DecerrResponder(wiring.Component):
    """Ends every burst with DECERR, so that a stray access gives a data abort instead of a hung processor.

    For M_AXI_GP1: stock device trees of the Parallella have a device there whose logic this bitstream does not hold.

    One read and one write burst at a time; reads and writes do not wait for each other. Write data is taken at any
    time, also before its address; B follows once a burst's address and its WLAST are both in, in the order of the
    addresses (the ports of the PS7 do not interleave write data, UG585 5.2). Up to 15 bursts of data run ahead of
    their addresses; then WREADY waits for an address.

    Latency in clocks: AR to RVALID 1; AW to BVALID 2, or last W to BVALID 2, whichever is later. Throughput: a read
    beat per clock with one idle clock between bursts. Read data is 0. Bus outputs are flip-flops, or one LUT after
    them. Reset: every valid and ready is low for the reset and one clock after it.

    Parameters
    ----------
    id_width: bits of the IDs; 12 on M_AXI_GP.
    """

    def __init__(self, id_width=12):
        self._id_width = id_width
        #: To M_AXI_GP1.
        super().__init__({"bus": In(Axi3Signature(32, 32, id_width))})

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        # One clock after the reset; before, nothing may be taken.
        awake = Signal()
        m.d.sync += awake.eq(1)

        # Reads.
        left = Signal(4)
        m.d.comb += [
            bus.arready.eq(awake & ~bus.rvalid),
            bus.rdata.eq(0),
            bus.rresp.eq(Response.DECERR),
            bus.rlast.eq(left == 0),
        ]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rid.eq(bus.arid), left.eq(bus.arlen)]
        with m.Elif(bus.rvalid & bus.rready):
            m.d.sync += [bus.rvalid.eq(left != 0), left.eq(left - 1)]

        # Writes: an address in hand, and how many bursts' data is in that have had no answer yet.
        addressed = Signal()
        complete = Signal(range(_AHEAD + 1))
        last = Signal()
        answer = Signal()
        m.d.comb += [
            bus.awready.eq(awake & ~addressed),
            bus.wready.eq(awake & (complete != _AHEAD)),
            last.eq(bus.wvalid & bus.wready & bus.wlast),
            bus.bresp.eq(Response.DECERR),
            answer.eq(addressed & (complete != 0) & ~bus.bvalid),
        ]
        m.d.sync += complete.eq(complete + last - answer)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [addressed.eq(1), bus.bid.eq(bus.awid)]
        with m.If(answer):
            m.d.sync += bus.bvalid.eq(1)
        with m.Elif(bus.bvalid & bus.bready):
            m.d.sync += [bus.bvalid.eq(0), addressed.eq(0)]
        return m

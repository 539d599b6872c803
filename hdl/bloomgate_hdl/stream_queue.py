"""A short queue at the input of a bus, with a registered ready."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bloomgate_hdl.up_down import up_down

__all__ = ["StreamQueue", "check_depth"]


def check_depth(depth):
    """ValueError if a queue cannot have `depth` places."""
    if depth < 2 or depth & (depth - 1):
        raise ValueError(f"depth must be a power of two of at least 2, not {depth!r}")


class StreamQueue(wiring.Component):
    """First in, first out; what enters from a bus touches nothing but storage and `level`.

    Made for signals that leave the PS7 of a Zynq late in the clock: `i.payload` goes straight into
    LUT RAM, and `i.ready` is a flip-flop, so no path leads from a bus input to a bus output.

    Latency: what is taken in clock 0 is offered in clock 1. Throughput: one item per clock, also
    with the queue full or holding one item. Reset: empty, `i.ready` low for the reset and one
    clock after it.

    Parameters
    ----------
    shape: of the payload.
    depth: items, a power of two of at least 2 (2 sustain full throughput).
    """

    def __init__(self, shape, depth):
        check_depth(depth)
        self._shape = shape
        self._depth = depth
        super().__init__(
            {
                #: Items in.
                "i": In(stream.Signature(shape)),
                #: Items out, oldest first.
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write = storage.write_port()
        read = storage.read_port(domain="comb")

        put = Signal()
        get = Signal()
        level = Signal(range(self._depth + 1))
        next_level = Signal.like(level)
        m.d.comb += [
            put.eq(self.i.valid & self.i.ready),
            get.eq(self.o.valid & self.o.ready),
            next_level.eq(up_down(level, put, get)),
            write.data.eq(self.i.payload),
            # Where nothing is put, a free place may hold anything; whether an item comes may be late in the clock.
            write.en.eq(self.i.ready),
            self.o.valid.eq(level != 0),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            level.eq(next_level),
            self.i.ready.eq(next_level != self._depth),
            write.addr.eq(write.addr + put),
            read.addr.eq(read.addr + get),
        ]
        return m

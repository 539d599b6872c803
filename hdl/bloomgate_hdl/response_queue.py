"""A short queue at the output of a bus, with reserved places and registered outputs."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from bloomgate_hdl.up_down import up_down

from .stream_queue import check_depth

__all__ = ["ResponseQueue"]


class ResponseQueue(wiring.Component):
    """First in, first out, for producers that cannot be stopped once they have started.

    A producer with a pipeline reserves a place (`reserve`, only while `room`) when it starts an
    item and delivers it (`valid`, `payload`) any number of clocks later, in order; the place is
    there. `o` leaves from flip-flops and is held until taken.

    Latency: an item delivered to an empty queue in clock 0 is offered in clock 1. Throughput: one
    item per clock. A place is free again one clock after its item was taken, so a producer whose
    items take N clocks from `reserve` to `valid` needs N + 2 places for full throughput.
    Reset: empty, `o.valid` low, all reservations forgotten.

    Parameters
    ----------
    shape: of the payload.
    depth: places, a power of two.
    """

    def __init__(self, shape, depth):
        check_depth(depth)
        self._shape = shape
        self._depth = depth
        super().__init__(
            {
                #: A place is free.
                "room": Out(1),
                #: Take a place. Only while `room`.
                "reserve": In(1),
                #: Fill the place that was reserved first.
                "valid": In(1),
                #: The item, while `valid`.
                "payload": In(shape),
                #: No place is reserved or filled.
                "empty": Out(1),
                #: Items out, oldest first.
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write = storage.write_port()
        read = storage.read_port(domain="comb")

        #: Places reserved and not yet empty again, including the output register.
        claimed = Signal(range(self._depth + 1))
        #: Items in `storage`, not counting the output register.
        stored = Signal(range(self._depth + 1))
        waiting = Signal()
        load = Signal()
        put = Signal()
        get = Signal()
        m.d.comb += [
            self.room.eq(claimed != self._depth),
            self.empty.eq(claimed == 0),
            waiting.eq(stored != 0),
            load.eq(~self.o.valid | self.o.ready),
            get.eq(load & waiting),
            # An item passes by the storage if it would be the next one out anyway.
            put.eq(self.valid & ~(load & ~waiting)),
            write.data.eq(self.payload),
            write.en.eq(put),
        ]
        m.d.sync += [
            claimed.eq(up_down(claimed, self.reserve, self.o.valid & self.o.ready)),
            stored.eq(up_down(stored, put, get)),
            write.addr.eq(write.addr + put),
            read.addr.eq(read.addr + get),
        ]
        with m.If(load):
            m.d.sync += self.o.valid.eq(waiting | self.valid)
            with m.If(waiting):
                m.d.sync += self.o.payload.eq(read.data)
            with m.Else():
                m.d.sync += self.o.payload.eq(self.payload)
        return m

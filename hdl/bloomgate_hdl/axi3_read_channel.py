"""The read half of the AXI3 slave: AR and R."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi3 import Response, address_layout
from .burst_sequencer import BurstSequencer, region_bits
from .register_port import READ_LATENCY
from .response_queue import ResponseQueue
from .stream_queue import StreamQueue, check_depth

__all__ = ["Axi3ReadChannel", "read_data_layout"]


def read_data_layout(id_width):
    """The fields of a 32-bit R beat."""
    return data.StructLayout({"id": id_width, "data": 32, "response": Response, "last": 1})


class Axi3ReadChannel(wiring.Component):
    """Read bursts from single words; see `Axi3Slave` for the contract of both channels.

    Every burst gets exactly ARLEN + 1 beats, with RLAST on the last. A beat is a read of its whole
    word, whatever its size; a beat with an error from the address or form of its burst reads
    nothing, and its data is 0. A read is issued only when there is a place for its beat, so the
    registers need not wait for the bus.

    Latency in clocks: AR handshake to read 2, read to RVALID `READ_LATENCY` + 1, so AR handshake
    to RVALID 5. Throughput: one beat per clock, also from burst to burst.
    """

    def __init__(self, *, base, size, id_width, depth):
        check_depth(depth)
        self._base = base
        self._size = size
        self._id_width = id_width
        self._depth = depth
        super().__init__(
            {
                #: AR.
                "address": In(stream.Signature(address_layout(id_width))),
                #: R.
                "data": Out(stream.Signature(read_data_layout(id_width))),
                #: As in `RegisterPortSignature`.
                "read_valid": Out(1),
                #: As in `RegisterPortSignature`.
                "read_address": Out(region_bits(base, size) - 2),
                #: As in `RegisterPortSignature`.
                "read_data": In(32),
                #: As in `RegisterPortSignature`.
                "read_error": In(1),
                #: No address or data is held.
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.addresses = addresses = StreamQueue(address_layout(self._id_width), self._depth)
        m.submodules.sequencer = sequencer = BurstSequencer(base=self._base, size=self._size, id_width=self._id_width)
        # READ_LATENCY clocks in the registers and 2 in the queue: 4 places for full throughput.
        m.submodules.responses = responses = ResponseQueue(read_data_layout(self._id_width), 4)
        connect(m, flipped(self.address), addresses.i)
        connect(m, addresses.o, sequencer.request)
        connect(m, responses.o, flipped(self.data))

        place = sequencer.beat.payload
        transfer = Signal()
        m.d.comb += [
            transfer.eq(sequencer.beat.valid & responses.room),
            sequencer.beat.ready.eq(responses.room),
            responses.reserve.eq(transfer),
            self.read_valid.eq(transfer & (place.response == Response.OKAY)),
            self.read_address.eq(place.address),
        ]

        # What the registers do not return travels beside them.
        valid = transfer
        identifier, last, response = place.id, place.last, place.response
        for clock in range(1, READ_LATENCY + 1):
            stage = {
                "valid": Signal(name=f"valid_{clock}"),
                "identifier": Signal(self._id_width, name=f"identifier_{clock}"),
                "last": Signal(name=f"last_{clock}"),
                "response": Signal(Response, name=f"response_{clock}"),
            }
            m.d.sync += [
                stage["valid"].eq(valid),
                stage["identifier"].eq(identifier),
                stage["last"].eq(last),
                stage["response"].eq(response),
            ]
            valid, identifier, last, response = stage.values()

        beat = responses.payload
        m.d.comb += [
            responses.valid.eq(valid),
            beat.id.eq(identifier),
            beat.last.eq(last),
            beat.response.eq(response),
        ]
        with m.If(response == Response.OKAY):
            m.d.comb += beat.data.eq(self.read_data)
            with m.If(self.read_error):
                m.d.comb += beat.response.eq(Response.SLVERR)
        m.d.comb += self.idle.eq(~addresses.o.valid & ~sequencer.beat.valid & responses.empty)
        return m

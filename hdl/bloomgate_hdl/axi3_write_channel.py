"""The write half of the AXI3 slave: AW, W and B."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .axi3 import Response, address_layout, write_data_layout
from .burst_sequencer import BurstSequencer, region_bits
from .response_queue import ResponseQueue
from .stream_queue import StreamQueue, check_depth

__all__ = ["Axi3WriteChannel", "write_response_layout"]


def write_response_layout(id_width):
    """The fields of B."""
    return data.StructLayout({"id": id_width, "response": Response})


class Axi3WriteChannel(wiring.Component):
    """Write bursts to single words; see `Axi3Slave` for the contract of both channels.

    Every beat is judged on its own: it reaches the registers unless its burst has an error from
    its address or form (DECERR, SLVERR), or this beat or an earlier beat of the burst is faulty:

    * its WID is not the AWID of the burst being written;
    * a strobe lies outside the byte lanes of the beat (IHI 0022 A3.4.3 forbids that);
    * WLAST is high before beat AWLEN + 1, or low on it.

    From the first faulty beat on the rest of the burst is dropped and B is SLVERR; beats before
    were written already, because they are passed on as they come. The burst ends with WLAST or
    with beat AWLEN + 1, whichever comes first: the slave never waits for a beat that a faulty
    master may not send, so there is always an answer. Beats beyond AWLEN + 1 belong to the next
    burst in line.

    Latency in clocks: W handshake to write 1, if the burst has begun, that is, if its AW handshake
    was at least 1 clock before that of its first beat and all earlier bursts are written; AW
    handshake to first write 2; last W handshake to BVALID 3. Throughput: one beat per clock, also
    from burst to burst and with bursts of one beat.
    """

    def __init__(self, *, base, size, id_width, depth):
        check_depth(depth)
        self._base = base
        self._size = size
        self._id_width = id_width
        self._depth = depth
        super().__init__(
            {
                #: AW.
                "address": In(stream.Signature(address_layout(id_width))),
                #: W.
                "data": In(stream.Signature(write_data_layout(id_width))),
                #: B.
                "response": Out(stream.Signature(write_response_layout(id_width))),
                #: As in `RegisterPortSignature`.
                "write_valid": Out(1),
                #: As in `RegisterPortSignature`.
                "write_address": Out(region_bits(base, size) - 2),
                #: As in `RegisterPortSignature`.
                "write_data": Out(32),
                #: As in `RegisterPortSignature`.
                "write_strobe": Out(4),
                #: As in `RegisterPortSignature`.
                "write_error": In(1),
                #: No address, data or response is held.
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.addresses = addresses = StreamQueue(address_layout(self._id_width), self._depth)
        # Two beats sustain full throughput; more would only let data run ahead of its address.
        m.submodules.beats = beats = StreamQueue(write_data_layout(self._id_width), 2)
        m.submodules.sequencer = sequencer = BurstSequencer(base=self._base, size=self._size, id_width=self._id_width)
        # A response takes 1 clock from its last beat to the queue.
        m.submodules.responses = responses = ResponseQueue(write_response_layout(self._id_width), 4)
        connect(m, flipped(self.address), addresses.i)
        connect(m, addresses.o, sequencer.request)
        connect(m, flipped(self.data), beats.i)
        connect(m, responses.o, flipped(self.response))

        # Clock 0: a beat meets its place in the burst.
        place = sequencer.beat.payload
        word = beats.o.payload
        transfer = Signal()
        final = Signal()
        faulty = Signal()
        was_faulty = Signal()
        m.d.comb += [
            transfer.eq(beats.o.valid & sequencer.beat.valid & responses.room),
            beats.o.ready.eq(sequencer.beat.valid & responses.room),
            sequencer.beat.ready.eq(beats.o.valid & responses.room),
            sequencer.end.eq(word.last),
            final.eq(word.last | place.last),
            responses.reserve.eq(transfer & final),
            faulty.eq(
                was_faulty | (word.id != place.id) | (word.last != place.last) | (word.strobe & ~place.lanes).any()
            ),
            self.write_valid.eq(transfer & ~faulty & (place.response == Response.OKAY) & word.strobe.any()),
            self.write_address.eq(place.address),
            self.write_data.eq(word.data),
            self.write_strobe.eq(word.strobe),
        ]
        with m.If(transfer):
            m.d.sync += was_faulty.eq(faulty & ~final)

        # Clock 1: the registers have answered.
        wrote = Signal()
        finished = Signal()
        identifier = Signal(self._id_width)
        response = Signal(Response)
        refused = Signal()
        was_refused = Signal()
        m.d.sync += [
            wrote.eq(self.write_valid),
            finished.eq(transfer & final),
            identifier.eq(place.id),
            response.eq(place.response),
        ]
        with m.If(faulty & (place.response == Response.OKAY)):
            m.d.sync += response.eq(Response.SLVERR)
        m.d.comb += [
            refused.eq(was_refused | (wrote & self.write_error)),
            responses.valid.eq(finished),
            responses.payload.id.eq(identifier),
            responses.payload.response.eq(Mux((response == Response.OKAY) & refused, Response.SLVERR, response)),
            self.idle.eq(~addresses.o.valid & ~beats.o.valid & ~sequencer.beat.valid & responses.empty),
        ]
        m.d.sync += was_refused.eq(refused & ~finished)
        return m

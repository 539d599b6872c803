"""From AXI addresses to beats: the part that the write and the read channel have in common."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .axi3 import Response, address_layout
from .burst_address import PAGE_BITS, BurstAddress, BurstMask, byte_lanes

__all__ = ["BurstSequencer", "beat_layout", "region_bits"]


def region_bits(base, size):
    """log2 of `size`, the bytes of the decoded region; ValueError if a `BurstSequencer` cannot decode it."""
    if size < 1 << PAGE_BITS or size & (size - 1) or size > 1 << 32:
        raise ValueError(f"size must be a power of two from 4096 to 2**32, not {size!r}")
    if base % size or not 0 <= base < 1 << 32:
        raise ValueError(f"base must be a 32-bit multiple of size {size:#x}, not {base!r}")
    return (size - 1).bit_length()


def beat_layout(region_width, id_width):
    """What a `BurstSequencer` says of each beat; `region_width` is log2 of the region in bytes."""
    return data.StructLayout(
        {
            #: AxID of the burst.
            "id": id_width,
            #: Word address within the region.
            "address": region_width - 2,
            #: The bytes of the word that the beat may carry.
            "lanes": 4,
            #: Beat AxLEN + 1 of the burst.
            "last": 1,
            #: OKAY, or the error that the address or the form of the burst deserves.
            "response": Response,
        }
    )


class BurstSequencer(wiring.Component):
    """Takes AXI addresses one after the other and steps through the beats of each.

    Errors: a first address outside base..base+size-1 gives every beat the response DECERR, also if
    the burst is illegal too; a burst that `BurstMask` calls illegal gives SLVERR. Either way there
    are AxLEN + 1 beats. A legal burst that starts in the region stays in it, because it stays in
    its 4 KiB page.

    Latency: an address taken in clock 0 is the first beat in clock 1. Throughput: one beat per
    clock, no bubble between bursts. Reset: no burst in progress.

    Parameters
    ----------
    base, size: the decoded region, bytes; a power of two of at least 4 KiB, naturally aligned.
    id_width: bits of AxID.
    """

    def __init__(self, *, base, size, id_width):
        self._base = base
        self._region_width = region_bits(base, size)
        self._id_width = id_width
        super().__init__(
            {
                #: Addresses, from the queue of AW or AR.
                "request": In(stream.Signature(address_layout(id_width))),
                #: The beats of one burst after the other.
                "beat": Out(stream.Signature(beat_layout(self._region_width, id_width))),
                #: With the transfer of this beat the burst ends, whatever its length says.
                "end": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.burst_mask = burst_mask = BurstMask()
        m.submodules.burst_address = burst_address = BurstAddress()

        request = self.request.payload
        beat = self.beat.payload
        outside = Signal()
        m.d.comb += [
            outside.eq(request.address[self._region_width :] != self._base >> self._region_width),
            burst_mask.address.eq(request.address),
            burst_mask.length.eq(request.length),
            burst_mask.size.eq(request.size),
            burst_mask.burst.eq(request.burst),
        ]

        active = Signal()
        identifier = Signal(self._id_width)
        page = Signal(self._region_width - PAGE_BITS)
        address = Signal(PAGE_BITS)
        #: The mask of an INCR is all ones and that of a WRAP has at most 6 bits.
        mask = Signal(7)
        size = Signal(2)
        #: Known with the address, since a beat of data meets both late in the clock.
        lanes = Signal(4)
        left = Signal(4)
        response = Signal(Response)
        m.d.comb += [
            burst_address.address.eq(address),
            burst_address.size.eq(size),
            burst_address.mask.eq(Cat(mask, mask[-1].replicate(PAGE_BITS - len(mask)))),
            self.beat.valid.eq(active),
            beat.id.eq(identifier),
            beat.address.eq(Cat(address[2:], page)),
            beat.lanes.eq(lanes),
            beat.last.eq(left == 0),
            beat.response.eq(response),
            self.request.ready.eq(~active | (self.beat.ready & (beat.last | self.end))),
        ]
        with m.If(self.request.ready):
            m.d.sync += [
                active.eq(self.request.valid),
                identifier.eq(request.id),
                page.eq(request.address[PAGE_BITS : self._region_width]),
                address.eq(request.address),
                mask.eq(burst_mask.mask),
                size.eq(request.size),
                lanes.eq(byte_lanes(request.address[:2], request.size[:2])),
                left.eq(request.length),
            ]
            with m.If(outside):
                m.d.sync += response.eq(Response.DECERR)
            with m.Elif(~burst_mask.legal):
                m.d.sync += response.eq(Response.SLVERR)
            with m.Else():
                m.d.sync += response.eq(Response.OKAY)
        with m.Elif(self.beat.ready):
            next_address = burst_address.next_address
            m.d.sync += [
                address.eq(next_address),
                lanes.eq(byte_lanes(next_address[:2], size)),
                left.eq(left - Const(1, 4)),
            ]
        return m

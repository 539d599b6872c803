"""Addresses of the beats of an AXI burst."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi3 import Burst

__all__ = ["PAGE_BITS", "BurstAddress", "BurstMask", "byte_lanes"]

#: log2 of the 4 KiB that a burst must not cross (IHI 0022 A3.4.1): no bit above changes in a burst.
PAGE_BITS = 12


class BurstMask(wiring.Component):
    """The address bits that change from beat to beat of a burst, and whether the burst is legal.

    With the mask the three burst types step alike, see `BurstAddress`. Illegal are, by IHI 0022
    A3.4.1 and for a 32-bit port: the reserved burst type; more than 4 bytes in a beat; WRAP with a
    length other than 2, 4, 8 or 16 or with an unaligned start; INCR across a 4 KiB boundary.
    Locked and exclusive accesses are not looked at. Combinational.
    """

    #: Address of the first beat within its 4 KiB page, in bytes.
    address: In(PAGE_BITS)
    #: AxLEN.
    length: In(4)
    #: AxSIZE.
    size: In(3)
    #: AxBURST.
    burst: In(2)

    #: The bits of the address that may change from beat to beat; undefined if not `legal`.
    mask: Out(PAGE_BITS)
    #: The standard allows this burst.
    legal: Out(1)

    def elaborate(self, platform):
        m = Module()
        within_beat = Signal(2)
        span = Signal(6)
        last = Signal(PAGE_BITS + 1)
        m.d.comb += [
            # 0, 1, 3 for 1, 2, 4 bytes.
            within_beat.eq((1 << self.size[:2]) - 1),
            # The bytes from the first beat's aligned address to that of the last beat.
            span.eq(self.length << self.size[:2]),
            last.eq(Cat(self.address[:2] & ~within_beat, self.address[2:]) + span),
        ]
        with m.Switch(self.burst):
            with m.Case(Burst.FIXED):
                m.d.comb += [self.mask.eq(0), self.legal.eq(self.size <= 2)]
            with m.Case(Burst.INCR):
                m.d.comb += [
                    self.mask.eq(~0),
                    self.legal.eq((self.size <= 2) & ~last[PAGE_BITS]),
                ]
            with m.Case(Burst.WRAP):
                m.d.comb += [
                    # Length less one is all ones here, so the span is too; below it a wrap is aligned.
                    self.mask.eq(span),
                    self.legal.eq(
                        (self.size <= 2) & self.length.matches(1, 3, 7, 15) & ((self.address[:2] & within_beat) == 0)
                    ),
                ]
        return m


class BurstAddress(wiring.Component):
    """The address of the next beat.

    IHI 0022 A3.4.1: after the first beat, which may be unaligned, every beat of INCR and WRAP is
    aligned to the transfer size; FIXED repeats the first address. Combinational.
    """

    #: Address of this beat within its 4 KiB page, in bytes.
    address: In(PAGE_BITS)
    #: log2 of the bytes in a beat: 0, 1 or 2.
    size: In(2)
    #: From `BurstMask`.
    mask: In(PAGE_BITS)

    #: Address of the next beat within its 4 KiB page, in bytes.
    next_address: Out(PAGE_BITS)

    def elaborate(self, platform):
        m = Module()
        incremented = Signal(PAGE_BITS)
        unit = Signal(PAGE_BITS)
        m.d.comb += [
            unit.eq(1 << self.size),
            incremented.eq((self.address + unit) & ~(unit - 1)),
            self.next_address.eq((self.address & ~self.mask) | (incremented & self.mask)),
        ]
        return m


def byte_lanes(offset, size):
    """The bytes of a 32-bit word that a beat may carry: 4 bits.

    ``offset``: its address in the word, in bytes; an unaligned one leaves only what is above. ``size``: log2 of the
    bytes in a beat, 0, 1 or 2.
    """
    from_there = (0b1111 << offset)[:4]
    half = Mux(offset[1], 0b1100, 0b0011) & from_there
    return Mux(size == 0, (1 << offset)[:4], Mux(size == 1, half, from_there))

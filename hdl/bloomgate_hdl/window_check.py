"""Whether a burst stays where it may go: the co-processor's only protection, since the Zynq has no IOMMU."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bloomgate_hdl.burst_address import PAGE_BITS
from bloomgate_hdl.memory_port import BEAT_BITS, MAX_BEATS

__all__ = ["BLOCK_BITS", "PAGE_NUMBER_BITS", "WindowCheck", "window_layout"]

_BEAT_BYTES = BEAT_BITS // 8
_BEAT_ADDRESS_BITS = (_BEAT_BYTES - 1).bit_length()
#: log2 of the bytes of an aligned block that a burst must not leave: the longest burst, so that a burst has one page.
BLOCK_BITS = _BEAT_ADDRESS_BITS + (MAX_BEATS - 1).bit_length()
#: Width of the number of a page.
PAGE_NUMBER_BITS = 32 - PAGE_BITS


def window_layout():
    """A slot's window in pages of 4 KiB: the first one and the one after the last. Without pages if they are equal."""
    return data.StructLayout({"base": PAGE_NUMBER_BITS, "end": PAGE_NUMBER_BITS + 1})


class WindowCheck(wiring.Component):
    """Allows a burst of 1 to 16 whole beats inside an aligned block of 128 bytes whose page is in the window.

    Such a burst is legal AXI3 and never crosses 4 KiB, so the page of its first byte is that of all. Combinational.
    """

    #: Byte address of the first beat.
    address: In(32)
    #: Number of beats.
    beats: In(range(MAX_BEATS + 1))
    #: Where the burst may go.
    window: In(window_layout())

    #: The burst may be made.
    allowed: Out(1)

    def elaborate(self, platform):
        m = Module()
        page = self.address[PAGE_BITS:]
        beat_of_block = self.address[_BEAT_ADDRESS_BITS:BLOCK_BITS]
        shaped = Signal()
        inside = Signal()
        m.d.comb += [
            shaped.eq(
                (self.address[:_BEAT_ADDRESS_BITS] == 0) & (self.beats != 0) & (beat_of_block + self.beats <= MAX_BEATS)
            ),
            inside.eq((page >= self.window.base) & (page < self.window.end)),
            self.allowed.eq(shaped & inside),
        ]
        return m

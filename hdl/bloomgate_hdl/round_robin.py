"""Fair choice between requesters."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin"]


def _lowest(bits):
    """Whether any bit is set, and the number of the lowest one that is."""
    if len(bits) == 1:
        return bits[0], Const(0, 0)
    half = 1 << (len(bits) - 1).bit_length() - 1
    low, low_number = _lowest(bits[:half])
    high, high_number = _lowest(bits[half:])
    return low | high, Cat(Mux(low, low_number, high_number), ~low)


class RoundRobin(wiring.Component):
    """The next requester after the one taken last, in cyclic order: each waits for at most ``count - 1`` others.

    Latency: 0 clock cycles. Reset state: requester 0 comes first.
    """

    def __init__(self, count: int):
        self._count = count
        super().__init__(
            {
                #: One bit a requester.
                "requests": In(count),
                #: Someone requests.
                "valid": Out(1),
                #: Who is next, when ``valid``.
                "choice": Out(range(max(count, 2))),
                #: Strobe: ``choice`` has been taken.
                "take": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        last = Signal.like(self.choice, init=self._count - 1)  # the one taken last
        # Those that come after it. Decoded here, beside `requests`, since `choice` is late.
        later = self.requests & Cat(last < index for index in range(self._count))
        # Both answers at once, since this is on long ways.
        _, first_later = _lowest(later)
        _, first = _lowest(self.requests)
        any_later = later.any()
        m.d.comb += [
            self.valid.eq(self.requests.any()),
            self.choice.eq(Mux(any_later, first_later, first)),
        ]
        with m.If(self.take):
            m.d.sync += last.eq(self.choice)
        return m

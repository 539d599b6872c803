"""Fair choice between requesters."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin"]


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
        after_last = Signal(self._count)  # the requesters that come after the one taken last
        later = Signal(self._count)
        candidates = Signal(self._count)
        m.d.comb += [
            self.valid.eq(self.requests.any()),
            later.eq(self.requests & after_last),
            candidates.eq(Mux(later.any(), later, self.requests)),
        ]
        for index in reversed(range(self._count)):
            with m.If(candidates[index]):
                m.d.comb += self.choice.eq(index)
        with m.If(self.take):
            for index in range(self._count):
                m.d.sync += after_last[index].eq(self.choice < index)
        return m

"""When written completions raise their interrupt cause."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CompletionInterrupt"]

_BITS = 16


class CompletionInterrupt(wiring.Component):
    """Lets several completions share an interrupt: raises with the one that makes ``count``, or after ``clocks``.

    With ``count`` 0 or 1 each completion raises; with ``clocks`` 0 only the count does. A change of either counts for
    the completions that were not reported yet.

    Latency: 1 clock cycle from the completion that makes the count; ``clocks`` + 1 from the first unreported one at
    most. Reset state: nothing unreported.
    """

    def __init__(self):
        super().__init__(
            {
                #: Strobe: memory has a completion.
                "written": In(1),
                #: The fields of COALESCE: completions, clock cycles.
                "count": In(_BITS),
                "clocks": In(_BITS),
                #: Strobe.
                "raises": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        unreported = Signal(_BITS)
        passed = Signal(_BITS, init=1)  # clock cycles since the first of them, this one too
        now = Signal(_BITS + 1)
        due = Signal()
        late = Signal()
        m.d.comb += [
            now.eq(unreported + self.written),
            due.eq(self.written & (now >= self.count)),
            late.eq((unreported != 0) & (self.clocks != 0) & (passed >= self.clocks)),
        ]
        m.d.sync += self.raises.eq(due | late)
        with m.If(due | late):
            m.d.sync += [unreported.eq(0), passed.eq(1)]
        with m.Else():
            m.d.sync += unreported.eq(now)
            with m.If((unreported != 0) & ~passed.all()):
                m.d.sync += passed.eq(passed + 1)
        return m

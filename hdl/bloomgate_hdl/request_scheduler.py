"""Which request is decided next."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters

from bloomgate_hdl.round_robin import RoundRobin
from bloomgate_hdl.slot_port import request_layout

__all__ = ["RequestScheduler"]


class RequestScheduler(wiring.Component):
    """Takes pending requests in fair order and has the next one at hand while the arbiter works on another.

    A slot waits for at most one request of each other slot, plus the one at hand. Latency: 2 clock cycles from
    pending to valid, and 3 from ``next`` to valid again. Reset state: nothing at hand, slot 0 comes first.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: Slots with a request that was not taken yet, see SlotPages for these four.
                "pending": In(parameters.slots),
                "take": Out(1),
                "request_slot": Out(parameters.slot_bits),
                "request": In(request_layout(parameters)),
                #: Strobe: mark the request at hand as hit by a reset.
                "reset": In(1),
                #: A request is at hand.
                "valid": Out(1),
                "next_slot": Out(parameters.slot_bits),
                "next_request": Out(request_layout(parameters)),
                #: Strobe: it has been taken over.
                "next": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.round_robin = robin = RoundRobin(self._parameters.slots)
        picked = Signal()
        m.d.comb += [
            robin.requests.eq(self.pending),
            robin.take.eq(robin.valid & ~picked & ~self.valid),
            self.take.eq(picked),
        ]
        m.d.sync += picked.eq(robin.take)
        with m.If(robin.take):
            m.d.sync += self.request_slot.eq(robin.choice)

        with m.If(self.reset):
            m.d.sync += self.next_request.reset.eq(1)
        with m.If(picked):
            m.d.sync += [
                self.valid.eq(1),
                self.next_slot.eq(self.request_slot),
                self.next_request.eq(self.request),
                self.next_request.reset.eq(self.request.reset | self.reset),
            ]
        with m.Elif(self.next):
            m.d.sync += self.valid.eq(0)
        return m

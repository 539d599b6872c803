"""From an order to what a request buffer fetches."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.queue_port import LogName, order_layout, plan_layout

__all__ = ["OrderPlanner"]

_LANE_BITS = (LANES - 1).bit_length()


class OrderPlanner(wiring.Component):
    """Counts the beats of each log, leaves out what is not fetched, and says what comes first. Combinational."""

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__({"order": In(order_layout(parameters)), "plan": Out(plan_layout(parameters))})

    def elaborate(self, platform):
        m = Module()
        order, plan = self.order, self.plan
        too_many = Signal()
        bad = Signal()
        m.d.comb += [
            too_many.eq(order.writes.count + order.commutes.count > self._parameters.buffer_depth),
            bad.eq(order.bad_request | order.bus_error),
            plan.window.eq(order.window),
            plan.inserts.eq((order.writes.count | order.commutes.count) != 0),
            plan.too_many.eq(too_many),
            plan.bad_request.eq(order.bad_request),
            plan.bus_error.eq(order.bus_error),
            plan.fault.eq(order.fault),
            plan.first.log.eq(LogName.NOTHING),
        ]
        # Last to first, since in Amaranth the assignment that comes last counts.
        for name, log, target, left_out in (
            (LogName.READS, order.reads, plan.reads, bad),
            (LogName.COMMUTES, order.commutes, plan.commutes, bad | too_many),
            (LogName.WRITES, order.writes, plan.writes, bad | too_many),
        ):
            beats = Signal.like(target.beats, name=f"{name.name.lower()}_beats")
            fetched = Signal(name=f"{name.name.lower()}_fetched")
            lane = log.address[2 : 2 + _LANE_BITS]
            m.d.comb += [
                fetched.eq((log.count != 0) & ~left_out),
                beats.eq((log.count + lane + 1) >> 1),
                target.address.eq(log.address),
                target.count.eq(Mux(left_out, 0, log.count)),
                target.beats.eq(Mux(fetched, beats, 0)),
            ]
            with m.If(fetched):
                m.d.comb += [plan.first.log.eq(name), plan.first.address.eq(log.address), plan.first.beats.eq(beats)]
        return m

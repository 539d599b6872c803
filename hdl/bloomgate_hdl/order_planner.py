"""From an order to what a request buffer fetches."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.memory_port import MAX_BEATS
from bloomgate_hdl.queue_port import LogName, order_layout, plan_layout

__all__ = ["MANY_BITS", "OrderPlanner"]

#: log2 of a number of keys that is many.
MANY_BITS = (4 * MAX_BEATS * LANES - 1).bit_length()


class OrderPlanner(wiring.Component):
    """Leaves out what is not fetched, and says what comes first. Combinational."""

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__({"order": In(order_layout(parameters)), "plan": Out(plan_layout(parameters))})

    def elaborate(self, platform):
        m = Module()
        order, plan = self.order, self.plan
        too_many = order.too_many
        bad = Signal()
        m.d.comb += [
            bad.eq(order.bad_request | order.bus_error),
            plan.inserts.eq(order.has_writes | order.has_commutes),
            plan.too_many.eq(too_many),
            plan.bad_request.eq(order.bad_request),
            plan.bus_error.eq(order.bus_error),
            plan.fault.eq(order.fault),
            plan.reads.eq(order.reads),
            plan.reads.long.eq(order.reads.long & ~bad),
            plan.first.log.eq(LogName.NOTHING),
        ]
        to_fetch = {}  # beats of the logs to insert
        # Last to first, since in Amaranth the assignment that comes last counts.
        for name, log, fetched, many in (
            (LogName.READS, order.reads, order.has_reads & ~bad, order.many_reads),
            (LogName.COMMUTES, order.commutes, order.has_commutes & ~(bad | too_many), None),
            (LogName.WRITES, order.writes, order.has_writes & ~(bad | too_many), None),
        ):
            with m.If(fetched):
                m.d.comb += [
                    plan.first.log.eq(name),
                    plan.first.address.eq(log.address),
                    plan.first.beats.eq(log.beats),
                    plan.first.many.eq(log.count[MANY_BITS:].any() if many is None else many),
                ]
            if name is not LogName.READS:
                target = plan.commutes if name is LogName.COMMUTES else plan.writes
                to_fetch[name] = Mux(fetched, log.beats, 0)
                m.d.comb += [
                    target.address.eq(log.address),
                    target.count.eq(Mux(fetched, log.count, 0)),
                    target.beats.eq(to_fetch[name]),
                ]
        m.d.comb += plan.insert_beats.eq(to_fetch[LogName.WRITES] + to_fetch[LogName.COMMUTES])
        return m

"""From an order to what a request buffer fetches."""

from amaranth.hdl import Cat, Module, Mux, Signal
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
        too_many = order.too_many
        bad = Signal()
        m.d.comb += [
            bad.eq(order.bad_request | order.bus_error),
            plan.window.eq(order.window),
            plan.inserts.eq((order.writes.count | order.commutes.count) != 0),
            plan.too_many.eq(too_many),
            plan.bad_request.eq(order.bad_request),
            plan.bus_error.eq(order.bus_error),
            plan.fault.eq(order.fault),
            plan.first.log.eq(LogName.NOTHING),
        ]
        to_fetch = {}  # beats of each log
        # Last to first, since in Amaranth the assignment that comes last counts.
        for name, log, target, left_out in (
            (LogName.READS, order.reads, plan.reads, bad),
            (LogName.COMMUTES, order.commutes, plan.commutes, bad | too_many),
            (LogName.WRITES, order.writes, plan.writes, bad | too_many),
        ):
            beats = Signal.like(target.beats, name=f"{name.name.lower()}_beats")
            fetched = Signal(name=f"{name.name.lower()}_fetched")
            to_fetch[name] = Signal.like(beats, name=f"{name.name.lower()}_to_fetch")
            lane = log.address[2 : 2 + _LANE_BITS]
            m.d.comb += [
                fetched.eq((log.count != 0) & ~left_out),
                beats.eq((log.count + lane + 1) >> 1),
                target.address.eq(log.address),
                to_fetch[name].eq(Mux(fetched, beats, 0)),
                target.beats.eq(to_fetch[name]),
            ]
            if name is not LogName.READS:
                m.d.comb += target.count.eq(Mux(left_out, 0, log.count))
            with m.If(fetched):
                m.d.comb += [plan.first.log.eq(name), plan.first.address.eq(log.address), plan.first.beats.eq(beats)]

        chunk_bits = (self._parameters.buffer_depth - 1).bit_length()
        keys = order.reads.count
        whole = keys[:chunk_bits] == 0  # all chunks have buffer_depth keys
        with m.If((keys != 0) & ~bad):
            m.d.comb += [
                plan.reads.last_chunk.eq(keys[chunk_bits:] - whole),
                plan.reads.last_keys.eq(Cat(keys[:chunk_bits], whole)),
                plan.reads.long.eq(keys[chunk_bits + 1 :].any() | (keys[chunk_bits] & ~whole)),
            ]
        m.d.comb += plan.insert_beats.eq(to_fetch[LogName.WRITES] + to_fetch[LogName.COMMUTES])
        return m

"""64-bit event counters at the price of a few LUTs each."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import STATISTICS

__all__ = ["Statistics", "event_layout"]

_TOTAL_BITS = 64


def event_layout(parameters: Parameters) -> data.StructLayout:
    """How often each of the statistics happens in one clock cycle."""
    most = {
        "keys_validated": LANES,
        "keys_inserted": max(parameters.aperture_depth, parameters.buffer_depth),
        "parity_errors": LANES * (parameters.K + 2),
        "errors": 4,
    }
    return data.StructLayout({name: range(most.get(name, 1) + 1) for name, _ in STATISTICS})


class Statistics(wiring.Component):
    """Totals of all statistics in block RAM, brought up to date in turns.

    Events gather in small counters. A pass, as long as there are statistics, takes all of these at once and adds them
    to the totals one a clock cycle. A latch copies the totals on the way, so that they are all as of one clock cycle.

    A latch takes at most two passes and 2 clock cycles. Reset state: the totals are kept: they count from power-up.
    """

    def __init__(self, parameters: Parameters):
        self._events = event_layout(parameters)
        super().__init__(
            {
                "events": In(self._events),
                #: Strobe: copy all totals to where ``read_data`` comes from.
                "latch": In(1),
                #: Grows by 1, modulo 2**32, when a latch has completed.
                "sequence": Out(32),
                #: Word of the latched totals, low word first, and its value 1 clock cycle later.
                "read_word": In(range(2 * len(STATISTICS))),
                "read_data": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        length = len(STATISTICS)
        # So few words go to LUT RAM by themselves; but LUTs are what is scarce.
        block_ram = {"ram_style": "block"}
        totals = memory.Memory(shape=_TOTAL_BITS, depth=length, init=[], attrs=block_ram)
        latched = memory.Memory(shape=_TOTAL_BITS, depth=length, init=[], attrs=block_ram)
        m.submodules.totals = totals
        m.submodules.latched = latched

        turn = Signal(range(length))
        last = Signal()
        m.d.comb += last.eq(turn == length - 1)
        m.d.sync += turn.eq(Mux(last, 0, turn + 1))

        # Registers here and in the addition below keep the long carry chain apart from whatever makes the events.
        events = Signal(self._events)
        m.d.sync += events.eq(self.events)

        # What gathers during a pass fits: the counters have room for `length` clock cycles of the most events.
        shares = []
        for name, _ in STATISTICS:
            event = events[name]
            bits = len(event) + length.bit_length()
            gathering = Signal(bits, name=f"{name}_gathering")
            share = Signal(bits, name=f"{name}_share")
            with m.If(last):
                m.d.sync += [share.eq(gathering + event), gathering.eq(0)]
            with m.Else():
                m.d.sync += gathering.eq(gathering + event)
            shares.append(share)

        latch_requested = Signal()
        latching = Signal()
        with m.If(last):
            m.d.sync += [latching.eq(latch_requested), latch_requested.eq(0)]
        with m.If(self.latch):
            m.d.sync += latch_requested.eq(1)

        # Read, add, write: a clock cycle each. The next turn of a statistic comes long after.
        stage = data.StructLayout({"turn": range(length), "last": 1, "latching": 1})
        read_stage, added_stage = Signal(stage), Signal(stage)
        share, total = Signal(max(map(len, shares))), Signal(_TOTAL_BITS)
        total_read = totals.read_port()
        total_write = totals.write_port()
        latch_write = latched.write_port()
        latch_read = latched.read_port()
        read_half = Signal()
        m.d.sync += [
            read_stage.turn.eq(turn),
            read_stage.last.eq(last),
            read_stage.latching.eq(latching),
            share.eq(Array(shares)[turn]),
            added_stage.eq(read_stage),
            total.eq(total_read.data + share),
            read_half.eq(self.read_word[0]),
        ]
        with m.If(added_stage.last & added_stage.latching):
            m.d.sync += self.sequence.eq(self.sequence + 1)
        m.d.comb += [
            total_read.addr.eq(turn),
            total_write.addr.eq(added_stage.turn),
            total_write.data.eq(total),
            total_write.en.eq(1),
            latch_write.addr.eq(added_stage.turn),
            latch_write.data.eq(total),
            latch_write.en.eq(added_stage.latching),
            latch_read.addr.eq(self.read_word[1:]),
            self.read_data.eq(latch_read.data.word_select(read_half, 32)),
        ]
        return m

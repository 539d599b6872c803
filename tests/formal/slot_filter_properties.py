"""What must hold of the slot filters, whatever the hash functions: the rows of a key are free inputs here."""

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bloomgate.parameters import LANES
from bloomgate_hdl.slot_filter import SlotFilter, SlotFilterOperation

#: Small enough for the solver, and with 3 generations, so that they wrap within the depth of the proof.
GEOMETRY = {"slots": 2, "banks": 2, "rows": 4, "tag_bits": 2, "scrub_patience": 2}


class SlotFilterProperties(wiring.Component):
    """Follows one watched key, with arbitrary rows, of one watched slot, among arbitrary operations of both slots.

    * A lookup of the watched key hits the watched slot if it has announced the key since its set was emptied.
    * A lookup of any key does not hit the watched slot if it has announced nothing since then: no tag of an earlier
      life, from before a wrap or a reset, is ever taken for the present one. But while it is being scrubbed.
    * Nothing hits that was not looked up.
    """

    #: A reset does not clear block RAM. It does not clear the generations either, and they agree with each other.
    arbitrary_memories = "*.bank_*"

    def __init__(self, cover: bool = False):
        self._cover = cover
        self.dut = SlotFilter(**GEOMETRY)
        inputs = ("lanes", "slot", "hold", "clear", "clear_slot")
        super().__init__({name: In(self.dut.signature.members[name].shape) for name in inputs})
        self._inputs = inputs

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        for name in self._inputs:
            m.d.comb += getattr(dut, name).eq(getattr(self, name))

        watched_slot = AnyConst(len(dut.clear_slot))
        watched_rows = AnyConst(len(dut.lanes[0].rows.as_value()))
        lookups, finds, announces, adds = [], [], [], []
        for lane in dut.lanes:
            is_watched = lane.rows.as_value() == watched_rows
            announce = (lane.operation == SlotFilterOperation.ANNOUNCE) & (dut.slot == watched_slot)
            lookups.append(dut.ready & (lane.operation == SlotFilterOperation.LOOKUP))
            finds.append(lookups[-1] & is_watched)
            announces.append(dut.ready & announce)
            adds.append(announces[-1] & is_watched)
            # What the one who announces promises (docstring of SlotFilter).
            barred = dut.scrubbing.bit_select(dut.slot, 1)
            m.d.comb += Assume(~((lane.operation == SlotFilterOperation.ANNOUNCE) & barred))

        emptied = dut.clear & (dut.clear_slot == watched_slot)
        announced = Signal()
        anything = Signal()
        with m.If(emptied):
            # What is announced in the same clock cycle is announced under the old generation.
            m.d.sync += [announced.eq(0), anything.eq(0)]
        with m.Else():
            with m.If(adds[0] | adds[1]):
                m.d.sync += announced.eq(1)
            with m.If(announces[0] | announces[1]):
                m.d.sync += anything.eq(1)

        emptied_before = Signal()
        m.d.sync += emptied_before.eq(emptied)
        lives = Signal(3)
        with m.If(emptied & ~lives.all()):
            m.d.sync += lives.eq(lives + 1)
        for lane in range(LANES):
            # Stage by stage with the lookup; one that is under way when the set is emptied may answer for either.
            must, may, asked = finds[lane] & announced, anything, lookups[lane]
            for stage in range(2):
                late_must = Signal(name=f"must_{lane}_{stage}")
                late_may = Signal(name=f"may_{lane}_{stage}")
                late_asked = Signal(name=f"asked_{lane}_{stage}")
                scrubbing = dut.scrubbing.bit_select(watched_slot, 1)
                m.d.sync += [late_must.eq(must & ~emptied), late_may.eq(may | scrubbing), late_asked.eq(asked)]
                must, may, asked = late_must, late_may, late_asked
            hit = dut.hits[lane].bit_select(watched_slot, 1)
            if self._cover:
                m.d.comb += [
                    Cover(must & hit & (lives == 3) & ~dut.scrubbing.any()),
                    Cover(asked & hit & ~must & ~dut.scrubbing.any()),
                    Cover(asked & may & ~hit & ~emptied_before & (lives == 1)),
                ]
            else:
                m.d.comb += [
                    Assert(~(must & ~emptied_before) | hit),
                    Assert(~(asked & ~may) | ~hit),
                    Assert(asked | ~dut.hits[lane].any()),
                ]
        return m

"""What must hold of the recency filter, whatever the hash functions: the rows of a key are free inputs here."""

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.recency_filter import FilterOperation, RecencyFilter

#: Small enough for the solver; nothing in the gateware depends on the sizes.
PARAMETERS = Parameters(K=2, D=4, timestamp_bits=3, key_bits=4, slots=2, aperture_depth=4)


class RecencyFilterProperties(wiring.Component):
    """Follows one watched key, with arbitrary rows, among arbitrary operations on arbitrary other rows.

    * A query of the watched key conflicts if the key was inserted, since the last scrub, under a timestamp newer than
      the snapshot: across inserts of other keys into the same rows, both lanes, injected faults, repairs and scrubs.
    * A query conflicts if the floor is newer than the snapshot.
    * Without any insertion or fault since the scrub, it conflicts for no other reason: the scrub forgets everything.
    * After a REPAIR of its rows, and until a fault is injected, a query of the watched key meets no bad parity.
    * Uncertain means that there was a word of bad parity, and that the query conflicts.
    """

    #: A reset does not clear block RAM.
    arbitrary_memories = "*"

    def __init__(self, cover: bool = False):
        self._cover = cover
        self.dut = RecencyFilter(PARAMETERS)
        inputs = ("lanes", "newest", "snapshot", "floor", "scrub", "inject", "inject_table", "inject_row")
        super().__init__({name: In(self.dut.signature.members[name].shape) for name in inputs})
        self._inputs = inputs

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        for name in self._inputs:
            m.d.comb += getattr(dut, name).eq(getattr(self, name))

        watched = AnyConst(len(dut.lanes[0].rows.as_value()))
        asks, inserts, asks_watched, inserts_watched = [], [], [], []
        for lane in range(LANES):
            operation = dut.lanes[lane].operation
            is_watched = dut.lanes[lane].rows.as_value() == watched
            ask = (operation == FilterOperation.QUERY) | (operation == FilterOperation.REPAIR)
            asks.append(dut.ready & ask)
            inserts.append(dut.ready & (operation == FilterOperation.INSERT))
            asks_watched.append(asks[lane] & is_watched)
            inserts_watched.append(inserts[lane] & is_watched)

        # What the arbiter promises (docstring of RecencyFilter).
        in_flight = Signal(2)  # queries accepted one and two clock cycles ago
        last_newest = Signal.like(dut.newest)
        scrubbed = Signal()  # in the clock cycle before
        m.d.sync += [
            in_flight.eq(in_flight << 1 | asks[0] | asks[1]),
            last_newest.eq(dut.newest),
            scrubbed.eq(dut.scrub),
        ]
        first = Signal(init=1)
        m.d.sync += first.eq(0)
        m.d.comb += [
            Assume(first | scrubbed | (dut.newest >= last_newest)),
            Assume(~dut.scrub | (in_flight == 0)),
            Assume(~dut.inject | (~dut.scrubbing & ~dut.scrub)),
        ]

        # The newest insertion of the watched key, and whether the filter may hold anything at all.
        inserted = Signal()
        inserted_at = Signal.like(dut.newest)
        touched = Signal()
        with m.If(dut.scrub):
            m.d.sync += [inserted.eq(0), touched.eq(0)]
        with m.Else():
            with m.If(inserts_watched[0] | inserts_watched[1]):
                m.d.sync += [inserted.eq(1), inserted_at.eq(dut.newest)]
            with m.If(inserts[0] | inserts[1] | dut.inject):
                m.d.sync += touched.eq(1)

        # The watched key's rows have been repaired, by an operation that has come out of the filter.
        repaired = Signal()
        repairing = Signal(2)
        repairs = [asks_watched[lane] & (dut.lanes[lane].operation == FilterOperation.REPAIR) for lane in range(LANES)]
        m.d.sync += repairing.eq(repairing << 1 | repairs[0] | repairs[1])
        with m.If(dut.inject):
            m.d.sync += [repaired.eq(0), repairing.eq(0)]
        with m.Elif(repairing[1]):
            m.d.sync += repaired.eq(1)

        for lane in range(LANES):
            result = dut.results[lane]
            # Stage by stage with the query.
            must_conflict = asks_watched[lane] & inserted & (inserted_at > dut.snapshot)
            may_conflict = touched | dut.inject
            asked = asks[lane]
            must_be_good = asks_watched[lane] & repaired & ~dut.inject
            for stage in range(2):
                late_must = Signal(name=f"must_conflict_{lane}_{stage}")
                late_may = Signal(name=f"may_conflict_{lane}_{stage}")
                late_asked = Signal(name=f"asked_{lane}_{stage}")
                late_good = Signal(name=f"must_be_good_{lane}_{stage}")
                m.d.sync += [late_must.eq(must_conflict), late_may.eq(may_conflict), late_asked.eq(asked)]
                m.d.sync += late_good.eq(must_be_good)
                must_conflict, may_conflict, asked, must_be_good = late_must, late_may, late_asked, late_good
            # The floor of the clock cycle in which the words are there, and the snapshot of the query.
            asked_with = Signal.like(dut.snapshot, name=f"asked_with_{lane}")
            floor_was_newer = Signal(name=f"floor_was_newer_{lane}")
            m.d.sync += [asked_with.eq(dut.snapshot), floor_was_newer.eq(dut.floor > asked_with)]
            if self._cover:
                m.d.comb += [
                    Cover(must_conflict & ~result.uncertain & ~floor_was_newer),
                    Cover(asked & result.uncertain),
                    Cover(must_be_good & ~result.conflict),
                    Cover(asked & ~result.conflict & (result.bad_words != 0)),
                    Cover(asked & touched & inserted & ~result.conflict),
                ]
            else:
                m.d.comb += [
                    Assert(~must_conflict | result.conflict),
                    Assert(~(asked & floor_was_newer) | result.conflict),
                    Assert(~(asked & ~may_conflict & ~floor_was_newer) | ~result.conflict),
                    Assert(~must_be_good | (result.bad_words == 0)),
                    Assert(~result.uncertain | (result.conflict & (result.bad_words != 0))),
                    Assert(asked | (result.as_value() == 0)),
                ]
        if self._cover:
            # A second scrub that is over while the watched key is in the filter again: rollover and life after it.
            scrubs = Signal(2)
            with m.If(dut.scrub & ~scrubs.all()):
                m.d.sync += scrubs.eq(scrubs + 1)
            m.d.comb += Cover((scrubs == 1) & inserted & ~dut.scrubbing)
        return m

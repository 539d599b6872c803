"""Keys in, conflicts out: hashing, recency filter and slot filters as one pipeline."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.in_flight import SLOT_FILTER_ROWS
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.hash_unit import HashUnit
from bloomgate_hdl.recency_filter import FilterOperation, FilterResult, RecencyFilter
from bloomgate_hdl.slot_filter import SlotFilter, SlotFilterOperation

__all__ = ["KeyOperation", "ValidationPipeline", "beat_layout", "outcome_layout"]


class KeyOperation(enum.Enum, shape=3):
    """What happens to a key on its way through the pipeline."""

    #: No key.
    NONE = 0
    #: A key of the read set: has it been committed after the snapshot?
    QUERY = 1
    #: A key of the write or commute set, before the decision: is its parity good, and who has announced it?
    CHECK = 2
    #: As QUERY; also mends words of bad parity in the recency filter.
    REPAIR = 3
    #: A key of the write or commute set, after the decision: recorded under the newest timestamp; who has announced it?
    INSERT = 4
    #: A key of a read set while its transaction runs: enters the slot filter; has it been committed after the snapshot?
    ANNOUNCE = 5


def beat_layout(parameters: Parameters) -> data.StructLayout:
    """What enters the pipeline in one clock cycle: a key a lane; lane 0 comes first in the request."""
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(
                data.StructLayout(
                    {
                        "operation": KeyOperation,
                        # Anything where there is no operation.
                        "key": parameters.key_bits,
                        # The key was read from its buffer with bad parity.
                        "key_bad": 1,
                    }
                ),
                LANES,
            ),
            # The last beat of a pass over the request.
            "last": 1,
            # For ANNOUNCE, whose keys they are; and that the snapshot is not of this epoch.
            "slot": parameters.slot_bits,
            "late": 1,
        }
    )


def outcome_layout(parameters: Parameters) -> data.StructLayout:
    """What leaves it: the beat, and what the filters say to each key."""
    return data.StructLayout(
        {
            "beat": beat_layout(parameters),
            "filter": data.ArrayLayout(FilterResult, LANES),
            # Slots that may have announced it.
            "hits": data.ArrayLayout(parameters.slots, LANES),
        }
    )


_FILTER_OPERATIONS = {
    KeyOperation.QUERY: FilterOperation.QUERY,
    KeyOperation.REPAIR: FilterOperation.REPAIR,
    KeyOperation.INSERT: FilterOperation.INSERT,
    KeyOperation.ANNOUNCE: FilterOperation.QUERY,
}
_SLOT_FILTER_OPERATIONS = {
    KeyOperation.CHECK: SlotFilterOperation.LOOKUP,
    KeyOperation.INSERT: SlotFilterOperation.LOOKUP,
    KeyOperation.ANNOUNCE: SlotFilterOperation.ANNOUNCE,
}


class ValidationPipeline(wiring.Component):
    """Hash unit and a port of the filters for each lane, with each key carried beside its outcome.

    Order is kept: a query sees every insertion of an earlier beat, and a lookup every announcement. A key accesses the
    recency filter and the slot filters in one clock cycle. So of one that is announced and one that is inserted, which
    are never in the same beat, the later one sees the earlier one: either the query conflicts or the lookup hits.

    Latency: 3 clock cycles from acceptance to
    outcome. Throughput: one beat, two keys, per clock cycle while ``ready``. Reset state: empty, and scrubbing.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: Keys that enter. Accepted when ``ready``; an idle beat has only NONE and no ``last``.
                "beat": In(beat_layout(parameters)),
                #: The beat is accepted in this clock cycle.
                "ready": Out(1),
                #: The beat accepted 3 clock cycles ago and its answers. It waits in the hash unit while the clock cycle
                #: behind its acceptance is without ``ready``, and comes as much later.
                "outcome": Out(outcome_layout(parameters)),
                #: Snapshot count of the beat.
                "snapshot": In(parameters.timestamp_bits),
                #: See SlotFilter.
                "clear": In(1),
                "clear_slot": In(parameters.slot_bits),
                "hold": In(1),
                "slots_scrubbing": Out(parameters.slots),
                #: See RecencyFilter for the rest.
                "newest": In(parameters.timestamp_bits),
                "floor": In(parameters.timestamp_bits),
                "scrub": In(1),
                "scrubbing": Out(1),
                "inject": In(1),
                "inject_table": In(range(parameters.K)),
                "inject_row": In(parameters.row_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        m.submodules.recency_filter = recency_filter = RecencyFilter(p)
        m.submodules.slot_filter = slot_filter = SlotFilter(p.slots, banks=p.K, rows=min(SLOT_FILTER_ROWS, p.D))
        for name in ("newest", "floor", "scrub", "inject", "inject_table", "inject_row"):
            m.d.comb += getattr(recency_filter, name).eq(getattr(self, name))
        m.d.comb += [
            self.scrubbing.eq(recency_filter.scrubbing),
            self.ready.eq(recency_filter.ready & slot_filter.ready),
            slot_filter.hold.eq(self.hold),
            slot_filter.clear.eq(self.clear),
            slot_filter.clear_slot.eq(self.clear_slot),
            self.slots_scrubbing.eq(slot_filter.scrubbing),
        ]

        hashed = Signal(self.beat.shape())
        accessed = Signal(self.beat.shape())
        answered = Signal(self.beat.shape())
        snapshot = Signal(p.timestamp_bits)
        with m.If(self.ready):
            m.d.sync += [
                hashed.eq(self.beat),
                snapshot.eq(self.snapshot),
                accessed.eq(hashed),
            ]
        with m.Else():
            m.d.sync += accessed.eq(0)
        m.d.sync += answered.eq(accessed)
        m.d.comb += [
            recency_filter.snapshot.eq(snapshot),
            slot_filter.slot.eq(hashed.slot),
            self.outcome.beat.eq(answered),
            self.outcome.filter.eq(recency_filter.results),
            self.outcome.hits.eq(slot_filter.hits),
        ]

        for lane in range(LANES):
            hash_unit = HashUnit(p)
            m.submodules[f"hash_unit_{lane}"] = hash_unit
            m.d.comb += [
                hash_unit.key.eq(self.beat.lanes[lane].key),
                hash_unit.advance.eq(self.ready),
            ]
            # A filter that is ready without the other one does its part now, and once more when both are: the second
            # time changes nothing, and the first answer comes with an idle beat.
            for port, operations in (
                (recency_filter.lanes[lane], _FILTER_OPERATIONS),
                (slot_filter.lanes[lane], _SLOT_FILTER_OPERATIONS),
            ):
                for bank, row in enumerate(port.rows):
                    m.d.comb += row.eq(hash_unit.rows[bank])
                with m.Switch(hashed.lanes[lane].operation):
                    for key_operation, operation in operations.items():
                        with m.Case(key_operation):
                            m.d.comb += port.operation.eq(operation)
        return m

"""Keys in, conflicts out: hashing and the recency filter as one pipeline."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.hash_unit import HashUnit
from bloomgate_hdl.recency_filter import FilterOperation, FilterResult, RecencyFilter

__all__ = ["KeyOperation", "ValidationPipeline", "beat_layout", "outcome_layout"]


class KeyOperation(enum.Enum, shape=3):
    """What happens to a key on its way through the pipeline."""

    #: No key.
    NONE = 0
    #: A key of the read set: has it been committed after the snapshot?
    QUERY = 1
    #: A key of the write or commute set, before the decision: only its parity is looked at.
    CHECK = 2
    #: As QUERY; also mends words of bad parity in the recency filter.
    REPAIR = 3
    #: A key of the write or commute set, after the decision: recorded under the newest timestamp.
    INSERT = 4


def beat_layout(parameters: Parameters) -> data.StructLayout:
    """What enters the pipeline in one clock cycle: a key a lane; lane 0 comes first in the request."""
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(
                data.StructLayout(
                    {
                        "operation": KeyOperation,
                        "key": parameters.key_bits,
                        # The key was read from its buffer with bad parity.
                        "key_bad": 1,
                    }
                ),
                LANES,
            ),
            # The last beat of a pass over the request.
            "last": 1,
        }
    )


def outcome_layout(parameters: Parameters) -> data.StructLayout:
    """What leaves it: the beat, and what the recency filter says to each key."""
    return data.StructLayout(
        {
            "beat": beat_layout(parameters),
            "filter": data.ArrayLayout(FilterResult, LANES),
        }
    )


_FILTER_OPERATIONS = {
    KeyOperation.QUERY: FilterOperation.QUERY,
    KeyOperation.REPAIR: FilterOperation.REPAIR,
    KeyOperation.INSERT: FilterOperation.INSERT,
}


class ValidationPipeline(wiring.Component):
    """Hash unit and recency filter port for each lane, with each key carried beside its outcome.

    Order is kept: a query sees every insertion of an earlier beat. Latency: 3 clock cycles from acceptance to
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
                #: See RecencyFilter for the rest.
                "newest": In(parameters.timestamp_bits),
                "snapshot": In(parameters.timestamp_bits),
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
        m.submodules.recency_filter = recency_filter = RecencyFilter(self._parameters)
        for name in ("newest", "snapshot", "floor", "scrub"):
            m.d.comb += getattr(recency_filter, name).eq(getattr(self, name))
        for name in ("inject", "inject_table", "inject_row"):
            m.d.comb += getattr(recency_filter, name).eq(getattr(self, name))
        m.d.comb += [
            self.scrubbing.eq(recency_filter.scrubbing),
            self.ready.eq(recency_filter.ready),
        ]

        hashed = Signal(self.beat.shape())
        accessed = Signal(self.beat.shape())
        answered = Signal(self.beat.shape())
        with m.If(recency_filter.ready):
            m.d.sync += [hashed.eq(self.beat), accessed.eq(hashed)]
        with m.Else():
            m.d.sync += accessed.eq(0)
        m.d.sync += answered.eq(accessed)
        m.d.comb += [
            self.outcome.beat.eq(answered),
            self.outcome.filter.eq(recency_filter.results),
        ]

        for lane in range(LANES):
            hash_unit = HashUnit(self._parameters)
            m.submodules[f"hash_unit_{lane}"] = hash_unit
            port = recency_filter.lanes[lane]
            m.d.comb += [
                hash_unit.key.eq(self.beat.lanes[lane].key),
                hash_unit.advance.eq(recency_filter.ready),
                port.rows.eq(hash_unit.rows),
            ]
            with m.Switch(hashed.lanes[lane].operation):
                for key_operation, filter_operation in _FILTER_OPERATIONS.items():
                    with m.Case(key_operation):
                        m.d.comb += port.operation.eq(filter_operation)
        return m

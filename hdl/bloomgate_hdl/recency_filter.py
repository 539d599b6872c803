"""The recency filter: when was a key committed last, at the earliest?"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.parity import is_bad, parity_of, protected_bits

__all__ = ["FilterOperation", "FilterResult", "RecencyFilter"]


class FilterOperation(enum.Enum, shape=2):
    """What a lane does with a key in one clock cycle."""

    NONE = 0
    #: Compare the key's words with the snapshot.
    QUERY = 1
    #: As QUERY, and rewrite words of bad parity with the newest timestamp.
    REPAIR = 2
    #: Write the newest timestamp to the key's words.
    INSERT = 3


class FilterResult(data.Struct):
    """Outcome of a QUERY or REPAIR; all 0 for other operations."""

    #: The key may have been committed after the snapshot.
    conflict: 1
    #: ``conflict``, and a word of bad parity left no better answer.
    uncertain: 1
    #: Words of bad parity, 0 to K.
    bad_words: 4


class RecencyFilter(wiring.Component):
    """K tables of D commit counts, shared by two lanes.

    A query answers ``max(floor, min over the tables) > snapshot``. Timestamps only grow, so an insertion just
    overwrites: no read-modify-write, and a key never looks older than its insertion, whatever the hash functions
    (design brief, "Recency filter"). The minimum is not formed: all words exceeding the snapshot says the same.

    Each table is one true-dual-port block RAM and each lane is one port of all of them; a word is timestamp_bits of
    count plus parity. A word of bad parity reads as ``newest``. Both lanes may hit one row in one clock cycle, since
    everything written in a clock cycle is the same word. Queries see the insertions of earlier clock cycles only.

    Latency: 2 clock cycles from acceptance to result. Throughput: one key per lane and clock cycle while ``ready``,
    which it is not in the second one behind a REPAIR.
    Reset state: scrubbing, which takes D / 2 clock cycles and leaves every count 0 ("never").
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        lane = data.StructLayout(
            {
                "operation": FilterOperation,
                "rows": data.ArrayLayout(parameters.row_bits, parameters.K),
            }
        )
        super().__init__(
            {
                #: One operation a lane, with the key's row in each table. Accepted when ``ready``.
                "lanes": In(data.ArrayLayout(lane, LANES)),
                #: The lanes are accepted in this clock cycle. Low while scrubbing, repairing or injecting.
                "ready": Out(1),
                #: Outcome of the operations accepted two clock cycles ago.
                "results": Out(data.ArrayLayout(FilterResult, LANES)),
                #: Count of the newest commit, which INSERT and REPAIR write. Must not shrink except with ``scrub``.
                "newest": In(parameters.timestamp_bits),
                #: Snapshot count of the queries that are accepted in this clock cycle.
                "snapshot": In(parameters.timestamp_bits),
                #: Lower bound of every answer, as a count.
                "floor": In(parameters.timestamp_bits),
                #: Strobe: forget every commit.
                "scrub": In(1),
                #: High until the scrub has reached the last row.
                "scrubbing": Out(1, init=1),
                #: Strobe: write 0 with bad parity to ``inject_row`` of ``inject_table``. Not while scrubbing, and not 2
                #: clock cycles after a REPAIR, whose rewriting it would displace.
                "inject": In(1),
                "inject_table": In(range(parameters.K)),
                "inject_row": In(parameters.row_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        count_bits = p.timestamp_bits
        word_bits = protected_bits(count_bits)

        # Scrub: both ports clear one row each per clock cycle.
        scrub_row = Signal(p.row_bits - 1)
        with m.If(self.scrub):
            m.d.sync += [self.scrubbing.eq(1), scrub_row.eq(0)]
        with m.Elif(self.scrubbing):
            m.d.sync += scrub_row.eq(scrub_row + 1)
            with m.If(scrub_row.all()):
                m.d.sync += self.scrubbing.eq(0)

        # Stage 1 is the access itself, stage 2 has the words, stage 3 the verdicts on them.
        accepted = Signal(self.lanes.shape())
        stage_2 = Signal(self.lanes.shape())
        stage_3 = Signal(self.lanes.shape())
        bad = Signal(data.ArrayLayout(p.K, LANES))
        # Told by the operation alone: whether words were bad comes too late to hold up everything before the filter.
        repairing = Signal(LANES)

        with m.If(self.ready):
            m.d.comb += accepted.eq(self.lanes)
        m.d.sync += [
            stage_2.eq(accepted),
            stage_3.eq(stage_2),
            repairing.eq(Cat(stage_2[lane].operation == FilterOperation.REPAIR for lane in range(LANES))),
        ]
        m.d.comb += self.ready.eq(~(self.scrubbing | self.scrub | self.inject | repairing.any()))

        # Everything written in one clock cycle is one word.
        blank = Signal()
        write_count = Signal(count_bits)
        write_word = Signal(word_bits)
        m.d.comb += [
            blank.eq(self.scrubbing | self.inject),
            write_count.eq(Mux(blank, 0, self.newest)),
            write_word.eq(
                Cat(
                    write_count,
                    parity_of(write_count) ^ self.inject.replicate(word_bits - count_bits),
                )
            ),
        ]

        snapshot = Signal(count_bits)  # of stage 2
        newest_is_newer = Signal()
        floor_is_newer = Signal()
        m.d.comb += newest_is_newer.eq(self.newest > snapshot)
        m.d.sync += [snapshot.eq(self.snapshot), floor_is_newer.eq(self.floor > snapshot)]

        newer = Signal(data.ArrayLayout(p.K, LANES))
        for table in range(p.K):
            ram = memory.Memory(shape=word_bits, depth=p.D, init=[])
            m.submodules[f"table_{table}"] = ram
            for lane in range(LANES):
                # Read and write port share address and clock, so that they become one port of the block RAM. The read
                # is never disabled: a gated read beside an ungated write would cost a register for each data bit.
                read = ram.read_port()
                write = ram.write_port()
                word = read.data
                row = Signal(p.row_bits, name=f"row_{table}_{lane}")
                m.d.comb += [
                    read.en.eq(1),
                    read.addr.eq(row),
                    write.addr.eq(row),
                    write.data.eq(write_word),
                ]
                with m.If(self.scrubbing):
                    m.d.comb += [row.eq(Cat(Const(lane, 1), scrub_row)), write.en.eq(1)]
                with m.Elif(self.inject):
                    m.d.comb += row.eq(self.inject_row)
                    if lane == 0:
                        m.d.comb += write.en.eq(self.inject_table == table)
                with m.Elif(repairing.any()):
                    m.d.comb += [
                        row.eq(stage_3[lane].rows[table]),
                        write.en.eq(repairing[lane] & bad[lane][table]),
                    ]
                with m.Else():
                    m.d.comb += [
                        row.eq(self.lanes[lane].rows[table]),
                        write.en.eq(accepted[lane].operation == FilterOperation.INSERT),
                    ]

                word_is_bad = Signal(name=f"bad_{table}_{lane}")
                m.d.comb += word_is_bad.eq(is_bad(word, count_bits))
                m.d.sync += [
                    bad[lane][table].eq(word_is_bad),
                    newer[lane][table].eq(Mux(word_is_bad, newest_is_newer, word[:count_bits] > snapshot)),
                ]

        for lane in range(LANES):
            operation = stage_2[lane].operation
            result = self.results[lane]
            asks = Signal(name=f"asks_{lane}")  # of stage 3
            m.d.sync += asks.eq((operation == FilterOperation.QUERY) | (operation == FilterOperation.REPAIR))
            with m.If(asks):
                m.d.comb += [
                    result.conflict.eq(floor_is_newer | newer[lane].all()),
                    result.uncertain.eq(~floor_is_newer & newer[lane].all() & bad[lane].any()),
                    result.bad_words.eq(sum(bad[lane])),
                ]
        return m

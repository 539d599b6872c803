"""Reads a queued request's keys out of its buffer, in passes."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.key_reader import Pass
from bloomgate_hdl.memory_port import BEAT_BITS
from bloomgate_hdl.request_buffer import KEY_WORD_BITS, chunk_layout
from bloomgate_hdl.validation_pipeline import KeyOperation, beat_layout

__all__ = ["BufferReader"]


class BufferReader(wiring.Component):
    """Turns a pass into beats for the validation pipeline, as fast as the buffer's words come.

    As KeyReader does for programmed I/O, but a VALIDATE or REPAIR pass is over one chunk of the read log (the other
    keys were checked on arrival), and waits for words that memory has not delivered. A word that arrives when nothing
    is stored passes by the block RAM. When the request is ``cut`` the pass ends with what is there.

    A lane without a key is idle: where a log does not begin or end on a beat, and where a chunk does not. The word
    that such a chunk ends in is used up by the next chunk.

    Latency: ``start`` to the first beat 3 clock cycles for a word that is stored, 1 for one that arrives in the clock
    cycle behind ``start``; arrival to beat 0 then. Throughput: one beat per clock cycle while the pipeline is ready.
    Reset state: no pass.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        depth = parameters.buffer_depth
        lane_bits = (LANES - 1).bit_length()
        super().__init__(
            {
                #: Strobe: begin ``start_pass`` (any but DRAIN), when there is no pass or it is ``ending``.
                "start": In(1),
                "start_pass": In(Pass),
                #: The last beat of an INSERT pass leaves the buffer in this clock cycle.
                "ending": Out(1),
                #: The chunk that a VALIDATE pass is over, from its buffer, see there.
                "chunk": In(chunk_layout(parameters)),
                #: What an INSERT or CHECK pass is over, see there.
                "write_words": In(range(depth)),
                "write_lane": In(lane_bits),
                "write_odd": In(1),
                "commute_words": In(range(depth)),
                "commute_lane": In(lane_bits),
                "commute_odd": In(1),
                #: The write and commute logs are there.
                "complete": In(1),
                #: A word of the read log is stored; one arrives; none will.
                "stored": In(1),
                "arrives": In(1),
                "arriving": In(BEAT_BITS),
                "arriving_bad": In(LANES),
                "cut": In(1),
                "take": Out(1),
                "read": Out(1),
                "read_insert": Out(1),
                "read_word": Out(range(depth)),
                "word": In(data.ArrayLayout(KEY_WORD_BITS, LANES)),
                "word_bad": In(LANES),
                #: Strobe: this word of the read log does not fit in key_bits.
                "wide": Out(1),
                "wide_word": Out(KEY_WORD_BITS),
                #: To the validation pipeline.
                "beat": Out(beat_layout(parameters)),
                "ready": In(1),
                #: It needs ``ready``, for a beat or to come by the next one.
                "wants": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters

        # A part of a log: the words that have not been addressed, whether there are any and whether it is one, the lane
        # of the first key, and whether the last lane of the last word has none. Kept as they are looked at, early.
        run_layout = data.StructLayout(
            {"left": range(p.buffer_depth), "some": 1, "single": 1, "lane": self.chunk.lane.shape(), "odd": 1}
        )

        def run_of(name, words, lane, odd):
            run = Signal(run_layout, name=name)
            m.d.comb += [
                run.left.eq(words),
                run.some.eq(words != 0),
                run.single.eq(words == 1),
                run.lane.eq(lane),
                run.odd.eq(odd),
            ]
            return run

        chunk = self.chunk
        of_chunk = run_of("of_chunk", chunk.words, chunk.lane, chunk.odd)
        of_writes = run_of("of_writes", self.write_words, self.write_lane, self.write_odd)
        of_commutes = run_of("of_commutes", self.commute_words, self.commute_lane, self.commute_odd)
        # The chunk that was validated, for a REPAIR pass.
        validated = Signal(run_layout)

        active = Signal()
        operation = Signal(KeyOperation)
        run = Signal(run_layout)
        final = Signal()  # nothing of the log comes behind it
        commutes_next = Signal()
        inserts = Signal()  # the pass is over the keys to insert

        # The word that the buffer is reading, and the beat that was read.
        reading = Signal()
        reading_present = Signal(LANES)
        reading_last = Signal()
        reading_ends = Signal()
        reading_operation = Signal(KeyOperation)
        was_read = Signal(self.beat.shape())
        offers_read = Signal()

        present = Signal(LANES)
        m.d.comb += present.eq(Cat(~run.lane, ~(run.single & run.odd)))

        by_ram = Signal()  # a word is read
        passes_by = Signal()  # a word goes by the block RAM
        gives_up = Signal()  # an empty beat ends the pass
        advance = Signal()
        m.d.comb += [
            by_ram.eq(active & run.some & (inserts | self.stored)),
            passes_by.eq(
                active & run.some & ~inserts & ~self.stored & self.arrives & ~reading & ~offers_read & ~self.cut
            ),
            gives_up.eq(
                active & ((~run.some & self.complete) | (self.cut & ~inserts & ~self.stored)) & ~reading & ~offers_read
            ),
            advance.eq(self.ready & (by_ram | passes_by)),
            self.wants.eq(by_ram | passes_by | gives_up | reading | offers_read),
            self.read.eq(by_ram & self.ready),
            self.read_insert.eq(inserts),
            # A word with a key of the next chunk stays.
            self.take.eq(advance & ~inserts & ~(run.single & run.odd & ~final)),
        ]
        with m.If(advance):
            m.d.sync += [
                run.left.eq(run.left - 1),
                run.some.eq(~run.single),
                run.single.eq(run.left == 2),
                run.lane.eq(0),
                self.read_word.eq(self.read_word + 1),
            ]
            with m.If(run.single):
                with m.If(commutes_next):
                    m.d.sync += [commutes_next.eq(0), run.eq(of_commutes)]
                with m.Else():
                    m.d.sync += active.eq(0)
        with m.If(self.ready & gives_up):
            m.d.sync += active.eq(0)

        with m.If(self.ready):
            m.d.sync += [
                reading.eq(by_ram),
                reading_present.eq(present),
                reading_operation.eq(operation),
                reading_last.eq(run.single & ~commutes_next & (operation != KeyOperation.INSERT)),
                reading_ends.eq(run.single & ~commutes_next & (operation == KeyOperation.INSERT)),
            ]
        m.d.comb += self.ending.eq(reading & reading_ends)

        # The strobe and the pass are late in the clock cycle: what begins is there for each pass.
        of_insertion = Signal(run_layout)
        m.d.comb += of_insertion.eq(Mux(of_writes.some, of_writes, of_commutes))
        with m.If(self.start):
            m.d.sync += [active.eq(1), inserts.eq(0), commutes_next.eq(0), self.read_word.eq(0)]
            with m.Switch(self.start_pass):
                with m.Case(Pass.VALIDATE):
                    m.d.sync += [
                        operation.eq(KeyOperation.QUERY),
                        run.eq(of_chunk),
                        validated.eq(of_chunk),
                        final.eq(chunk.final),
                    ]
                with m.Case(Pass.REPAIR):
                    m.d.sync += [operation.eq(KeyOperation.REPAIR), run.eq(validated)]
                with m.Default():
                    m.d.sync += [
                        inserts.eq(1),
                        operation.eq(Mux(self.start_pass == Pass.CHECK, KeyOperation.CHECK, KeyOperation.INSERT)),
                        commutes_next.eq(of_writes.some & of_commutes.some),
                        run.eq(of_insertion),
                    ]

        # --- To the pipeline ----------------------------------------------------------------------------------------
        # What was read goes through a register; what passes by comes from one. Keys of lanes without an operation are
        # anything: whether a word passes by is late.
        words_read = [self.word[index] for index in range(LANES)]
        words_passing = [self.arriving.word_select(index, KEY_WORD_BITS) for index in range(LANES)]
        with m.If(self.ready):
            m.d.sync += [offers_read.eq(reading), was_read.last.eq(reading & reading_last)]
        m.d.comb += self.beat.last.eq(Mux(offers_read, was_read.last, (passes_by & run.single) | gives_up))
        for index in range(LANES):
            read, beat = was_read.lanes[index], self.beat.lanes[index]
            with m.If(self.ready):
                m.d.sync += [
                    read.operation.eq(Mux(reading & reading_present[index], reading_operation, KeyOperation.NONE)),
                    read.key.eq(words_read[index][: p.key_bits]),
                    read.key_bad.eq(self.word_bad[index]),
                ]
            passing = Mux(passes_by & present[index], operation, KeyOperation.NONE)
            m.d.comb += [
                beat.operation.eq(Mux(offers_read, read.operation, passing)),
                beat.key.eq(Mux(offers_read, read.key, words_passing[index][: p.key_bits])),
                beat.key_bad.eq(Mux(offers_read, read.key_bad, self.arriving_bad[index])),
            ]

        if p.key_bits < KEY_WORD_BITS:
            m.d.sync += self.wide.eq(0)
            for index in reversed(range(LANES)):
                for now, held, of, words in (
                    (passes_by, present, operation, words_passing),
                    (reading, reading_present, reading_operation, words_read),
                ):
                    queries = self.ready & now & held[index] & (of == KeyOperation.QUERY)
                    with m.If(queries & words[index][p.key_bits :].any()):
                        m.d.sync += [self.wide.eq(1), self.wide_word.eq(words[index])]
        return m

"""Reads a queued request's keys out of its buffer, in passes."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.key_reader import Pass
from bloomgate_hdl.memory_port import BEAT_BITS
from bloomgate_hdl.parity import is_bad
from bloomgate_hdl.request_buffer import KEY_WORD_BITS, chunk_layout, word_layout
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
                #: What the pass is over, in its buffer, see there.
                "chunk": In(chunk_layout(parameters)),
                "write_keys": In(range(depth + 1)),
                "write_lane": In(lane_bits),
                "commute_keys": In(range(depth + 1)),
                "commute_lane": In(lane_bits),
                "commute_word": In(range(depth)),
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
                "word": In(word_layout()),
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

        active = Signal()
        operation = Signal(KeyOperation)
        lane = Signal.like(self.chunk.lane)  # of the next key
        left = Signal(range(p.buffer_depth + 1))  # keys of the log that have not been addressed
        final = Signal()  # nothing of the log comes behind them
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
        m.d.comb += [
            present[0].eq((lane == 0) & (left != 0)),
            present[1].eq(Mux(lane == 0, left > 1, left != 0)),
        ]
        log_ends = Signal()
        m.d.comb += log_ends.eq(left <= Mux(lane == 0, 2, 1))

        by_ram = Signal()  # a word is read
        passes_by = Signal()  # a word goes by the block RAM
        gives_up = Signal()  # an empty beat ends the pass
        advance = Signal()
        m.d.comb += [
            by_ram.eq(active & (left != 0) & (inserts | self.stored)),
            passes_by.eq(
                active & (left != 0) & ~inserts & ~self.stored & self.arrives & ~reading & ~offers_read & ~self.cut
            ),
            gives_up.eq(
                active
                & (((left == 0) & self.complete) | (self.cut & ~inserts & ~self.stored))
                & ~reading
                & ~offers_read
            ),
            advance.eq(self.ready & (by_ram | passes_by)),
            self.wants.eq(by_ram | passes_by | gives_up | reading | offers_read),
            self.read.eq(by_ram & self.ready),
            self.read_insert.eq(inserts),
            # A word with a key of the next chunk stays.
            self.take.eq(advance & ~inserts & ~((left == 1) & (lane == 0) & ~final)),
        ]
        with m.If(advance):
            m.d.sync += [left.eq(left - present[0] - present[1]), lane.eq(0), self.read_word.eq(self.read_word + 1)]
            with m.If(log_ends):
                with m.If(commutes_next):
                    m.d.sync += [
                        commutes_next.eq(0),
                        left.eq(self.commute_keys),
                        lane.eq(self.commute_lane),
                        self.read_word.eq(self.commute_word),
                    ]
                with m.Else():
                    m.d.sync += active.eq(0)
        with m.If(self.ready & gives_up):
            m.d.sync += active.eq(0)

        with m.If(self.ready):
            m.d.sync += [
                reading.eq(by_ram),
                reading_present.eq(present),
                reading_operation.eq(operation),
                reading_last.eq(log_ends & ~commutes_next & (operation != KeyOperation.INSERT)),
                reading_ends.eq(log_ends & ~commutes_next & (operation == KeyOperation.INSERT)),
            ]
        m.d.comb += self.ending.eq(self.ready & reading & reading_ends)

        with m.If(self.start):
            m.d.sync += active.eq(1)
            with m.If((self.start_pass == Pass.INSERT) | (self.start_pass == Pass.CHECK)):
                m.d.sync += [
                    inserts.eq(1),
                    operation.eq(Mux(self.start_pass == Pass.CHECK, KeyOperation.CHECK, KeyOperation.INSERT)),
                    commutes_next.eq((self.write_keys != 0) & (self.commute_keys != 0)),
                ]
                with m.If(self.write_keys != 0):
                    m.d.sync += [left.eq(self.write_keys), lane.eq(self.write_lane), self.read_word.eq(0)]
                with m.Else():
                    m.d.sync += [
                        left.eq(self.commute_keys),
                        lane.eq(self.commute_lane),
                        self.read_word.eq(self.commute_word),
                    ]
            with m.Else():
                m.d.sync += [
                    inserts.eq(0),
                    operation.eq(Mux(self.start_pass == Pass.REPAIR, KeyOperation.REPAIR, KeyOperation.QUERY)),
                    commutes_next.eq(0),
                    left.eq(self.chunk.keys),
                    lane.eq(self.chunk.lane),
                    final.eq(self.chunk.final),
                ]

        # --- To the pipeline ----------------------------------------------------------------------------------------
        # What was read goes through a register; what passes by comes from one.
        def beat_of(target, present, operation, words, bad):
            for index in range(LANES):
                with m.If(present[index]):
                    yield target.lanes[index].operation.eq(operation)
                    yield target.lanes[index].key.eq(words[index][: p.key_bits])
                    yield target.lanes[index].key_bad.eq(bad[index])

        words_read = [self.word[index][:KEY_WORD_BITS] for index in range(LANES)]
        words_passing = [self.arriving.word_select(index, KEY_WORD_BITS) for index in range(LANES)]
        bad_read = [is_bad(self.word[index], KEY_WORD_BITS) for index in range(LANES)]
        with m.If(self.ready):
            m.d.sync += [offers_read.eq(reading), was_read.eq(0)]
            with m.If(reading):
                for assignment in beat_of(was_read, reading_present, reading_operation, words_read, bad_read):
                    m.d.sync += assignment
                m.d.sync += was_read.last.eq(reading_last)
        with m.If(offers_read):
            m.d.comb += self.beat.eq(was_read)
        with m.Else():
            with m.If(passes_by):
                for assignment in beat_of(self.beat, present, operation, words_passing, self.arriving_bad):
                    m.d.comb += assignment
            m.d.comb += self.beat.last.eq((passes_by & log_ends) | gives_up)

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

"""Room for one queued request: its keys on their way from memory to the filter."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import ErrorCode

from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.memory_port import MAX_BEATS
from bloomgate_hdl.parity import is_bad, parity_of, protected_bits
from bloomgate_hdl.queue_port import ADDRESS_BITS, READ_COUNT_BITS, LogName, fault_layout, plan_layout
from bloomgate_hdl.read_master import burst_layout, fetched_layout
from bloomgate_hdl.up_down import up_down

__all__ = ["BEAT_ADDRESS_BITS", "KEY_WORD_BITS", "RequestBuffer", "chunk_layout", "check_layout"]

#: A key as it lies in memory.
KEY_WORD_BITS = 32
_BEAT_BYTES = LANES * KEY_WORD_BITS // 8
#: log2 of the bytes of a data beat.
BEAT_ADDRESS_BITS = (_BEAT_BYTES - 1).bit_length()
_LANE_BITS = (LANES - 1).bit_length()
#: Width of a number of beats in a burst.
_BURST_BITS = MAX_BEATS.bit_length()


def chunk_layout(parameters: Parameters) -> data.StructLayout:
    """The part of a read set that comes next."""
    return data.StructLayout(
        {
            # Words that it has keys in, the lane of the first key, and whether the last word has none in its last lane.
            "words": range(parameters.buffer_depth // LANES + 2),
            "lane": _LANE_BITS,
            "odd": 1,
            # It is the first, or the last; both if there is one only.
            "first": 1,
            "final": 1,
        }
    )


def check_layout(parameters: Parameters) -> data.StructLayout:
    """The first key with bad parity in the write and commute logs."""
    return data.StructLayout({"bad": 1, "key": parameters.key_bits})


class RequestBuffer(wiring.Component):
    """Fetches the logs of one request, first the write and commute logs, then the read log.

    A word is a data beat as it comes, two keys; a log that does not begin or end on a beat has a lane without a key in
    its first or last word. One block RAM holds the write and commute logs, of at most buffer_depth keys, and a ring of
    buffer_depth / 4 words through which the read log streams. If there are more keys to insert they are not fetched.

    Each key of the write and commute logs is read back once behind its arrival to check its parity and width. ``take``
    consumes the read log. ``rewind`` begins it anew from its first key or from the first key of the current chunk.

    The beats of commands are of the ID ``number + 1``. ``fetch`` may be changed while it waits: it is no stream.

    Latency: ``load`` to ``fetch`` 1 clock cycle; a beat is in ``stored`` 1, in ``word`` 2 clock cycles after it. The
    result of the check is there 3 clock cycles after the last beat. Throughput: one word per clock cycle in and out.
    Reset state: free.
    """

    def __init__(self, parameters: Parameters, number: int):
        self._parameters = parameters
        self._number = number
        depth = parameters.buffer_depth
        ids = parameters.request_buffers + 1
        super().__init__(
            {
                #: Nothing is in here: may be loaded.
                "free": Out(1),
                #: Strobe: fetch what ``plan`` says.
                "load": In(1),
                "plan": In(plan_layout(parameters)),
                #: To and from the ReadMaster; ``busy``: it has not answered all commands.
                "fetch": Out(stream.Signature(burst_layout(ids))),
                "beat": In(fetched_layout(ids)),
                "busy": In(1),
                #: Store the next key with bad parity; taken with ``corrupts``, by a beat of this buffer.
                "corrupt": In(1),
                "corrupts": Out(1),
                #: The write and commute logs are here.
                "complete": Out(1),
                #: What there is to insert: keys and words of each log, the lane of its first key, and whether its last
                #: word has none in its last lane. The commute log's words are behind those of the write log.
                "write_keys": Out(range(depth + 1)),
                "write_words": Out(range(depth)),
                "write_lane": Out(_LANE_BITS),
                "write_odd": Out(1),
                "commute_keys": Out(range(depth + 1)),
                "commute_words": Out(range(depth)),
                "commute_lane": Out(_LANE_BITS),
                "commute_odd": Out(1),
                #: It writes or commutes something, and if so, more than is inserted.
                "writes": Out(1),
                "raises_floor": Out(1),
                "long": Out(1),
                "check": Out(check_layout(parameters)),
                #: Keys found with bad parity in this clock cycle.
                "parity_errors": Out(range(LANES + 1)),
                #: The chunk to be taken, that words of it and beyond are stored, and that some are on their way.
                "chunk": Out(chunk_layout(parameters)),
                "stored": Out(1),
                "coming": Out(1),
                #: A word of the read log arrives, and which of its keys are stored with bad parity.
                "arrives": Out(1),
                "arriving_bad": Out(LANES),
                #: Strobes: the word read in this clock cycle is used up; the chunk is.
                "take": In(1),
                "next_chunk": In(1),
                #: Strobe: forget what is stored and fetch the read log again, from the chunk's first key or its own.
                "rewind": In(1),
                "rewind_to_chunk": In(1),
                #: Read the oldest word that is stored, or with ``read_insert`` word ``read_word`` of those to insert.
                "read": In(1),
                "read_insert": In(1),
                "read_word": In(range(depth)),
                "word": Out(data.ArrayLayout(KEY_WORD_BITS, LANES)),
                "word_bad": Out(LANES),
                #: Strobe: a reset aborts the request.
                "reset": In(1),
                #: Strobe: a key of the read log does not fit in key_bits.
                "wide": In(1),
                "wide_word": In(KEY_WORD_BITS),
                #: Nothing more comes: the request can only be aborted.
                "cut": Out(1),
                "was_reset": Out(1),
                "bad_request": Out(1),
                "bus_error": Out(1),
                #: What went wrong after the order. With FETCH_ERROR the detail is the bytes of that log that came
                #: before, and ``origin`` the number of its first beat in memory.
                "fault": Out(fault_layout()),
                "origin": Out(ADDRESS_BITS - BEAT_ADDRESS_BITS),
                #: Strobe: the request is decided and its keys are not needed any more.
                "release": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        depth = p.buffer_depth
        ring_words = depth // 4
        chunk_bits = (depth - 1).bit_length()
        word_bits = chunk_bits - _LANE_BITS
        plan = self.plan
        beat_address_bits = ADDRESS_BITS - BEAT_ADDRESS_BITS
        beat_count_bits = READ_COUNT_BITS

        ram = memory.Memory(shape=data.ArrayLayout(protected_bits(KEY_WORD_BITS), LANES), depth=depth, init=[])
        m.submodules.ram = ram
        write = ram.write_port()
        read = ram.read_port()

        def lane_of(log):
            return log.address[2 : 2 + _LANE_BITS]

        # --- The request --------------------------------------------------------------------------------------------
        # `load` is late in its clock cycle. So while a buffer is free it follows `plan`, and with `load` it stops to.
        free = Signal(init=1)
        releasing = Signal()
        failed_log = Signal(LogName, init=LogName.READS)
        read_log = Signal(plan.reads.shape())
        write_log = Signal(plan.writes.shape())
        commute_log = Signal(plan.commutes.shape())
        insert_beats = Signal.like(plan.insert_beats)
        chunk = Signal(READ_COUNT_BITS - chunk_bits)
        first = Signal()
        final = Signal()
        final_comes = Signal()  # the chunk behind this one is the last

        def beat_address(log):
            return log.address[BEAT_ADDRESS_BITS:]

        m.d.comb += [
            self.free.eq(free),
            self.write_keys.eq(write_log.count),
            self.write_words.eq(write_log.beats),
            self.write_lane.eq(lane_of(write_log)),
            self.commute_keys.eq(commute_log.count),
            self.commute_words.eq(commute_log.beats),
            self.commute_lane.eq(lane_of(commute_log)),
        ]
        with m.If(free):
            m.d.sync += [
                releasing.eq(0),
                read_log.eq(plan.reads),
                write_log.eq(plan.writes),
                commute_log.eq(plan.commutes),
                self.write_odd.eq((plan.writes.count + lane_of(plan.writes))[0]),
                self.commute_odd.eq((plan.commutes.count + lane_of(plan.commutes))[0]),
                self.raises_floor.eq(plan.too_many),
                insert_beats.eq(plan.insert_beats),
                chunk.eq(0),
                first.eq(1),
                final.eq(~plan.reads.long),
                self.was_reset.eq(0),
                self.cut.eq(plan.bad_request | plan.bus_error),
                self.bad_request.eq(plan.bad_request),
                self.bus_error.eq(plan.bus_error),
                self.fault.code.eq(0),
                failed_log.eq(LogName.READS),
            ]
        with m.If(self.load):
            m.d.sync += [free.eq(0), self.writes.eq(plan.inserts), self.long.eq(plan.reads.long)]
        with m.If(self.reset):
            m.d.sync += [self.was_reset.eq(1), self.cut.eq(1)]
        m.d.sync += final_comes.eq(chunk + 1 == read_log.last_chunk)
        with m.If(self.next_chunk):
            m.d.sync += [chunk.eq(chunk + 1), first.eq(0), final.eq(final_comes)]
        with m.If(self.rewind & ~self.rewind_to_chunk):
            m.d.sync += [chunk.eq(0), first.eq(1), final.eq(~self.long)]
        m.d.comb += [
            self.chunk.first.eq(first),
            self.chunk.final.eq(final),
            self.chunk.lane.eq(lane_of(read_log)),
            # The last chunk has the words that those before it leave: each begins depth / LANES behind the one before.
            self.chunk.words.eq(
                Mux(final, read_log.beats ^ (read_log.last_chunk[0] << word_bits), (1 << word_bits) + lane_of(read_log))
            ),
            self.chunk.odd.eq(Mux(final, read_log.odd, lane_of(read_log))),
        ]

        # --- Commands -----------------------------------------------------------------------------------------------
        log = Signal(LogName, init=LogName.NOTHING)
        address = Signal(beat_address_bits)
        left = Signal(beat_count_bits)
        to_boundary = Signal(_BURST_BITS)  # beats from `address` to the next multiple of a burst
        many = Signal()  # much more is left than a burst can have; found out while a command waits
        short = Signal()  # little more is
        claimed = Signal(range(ring_words + 1))  # words of the ring that are stored or on their way
        has_room = Signal()  # for a burst, found out a clock cycle ahead, as if every command were of the most beats
        flushing = Signal()
        rewinding = Signal()  # the read log begins anew when nothing is on its way
        skipped = Signal()  # it did in the clock cycle before
        m.d.comb += [
            self.fetch.payload.id.eq(self._number + 1),
            self.fetch.payload.address.eq(address << BEAT_ADDRESS_BITS),
            short.eq(~many & ~left[_BURST_BITS : _BURST_BITS + 2].any()),
            self.fetch.payload.beats.eq(Mux(short & (left[:_BURST_BITS] < to_boundary), left, to_boundary)),
            self.fetch.valid.eq(
                (log != LogName.NOTHING)
                & ~(self.cut | rewinding | releasing | skipped)
                & ((log != LogName.READS) | has_room)
            ),
        ]
        fetched = Signal()
        ends_log = Signal()
        m.d.comb += [
            fetched.eq(self.fetch.valid & self.fetch.ready),
            ends_log.eq(short & (left[:_BURST_BITS] <= to_boundary)),
        ]

        # Where the current chunk begins in the read log, in beats. Added to the log's address when it is fetched again,
        # in the same way as the beats of a command: no command is given meanwhile.
        passed = Signal(beat_count_bits)
        step = Signal(beat_count_bits)
        skips_chunks = Signal()
        m.d.comb += [
            passed.eq(chunk << word_bits),
            step.eq(Mux(rewinding, passed, self.fetch.payload.beats)),
            skips_chunks.eq(rewinding & ~self.busy),
        ]

        def has_many(beats):
            return beats[_BURST_BITS + 1 :].any()

        def begin(log, many_beats):
            start = beat_address(log)
            return [
                many.eq(many_beats),
                address.eq(start),
                to_boundary.eq(MAX_BEATS - start[: (MAX_BEATS - 1).bit_length()]),
                left.eq(log.beats),
            ]

        begin_reads = [
            log.eq(Mux(read_log.beats == 0, LogName.NOTHING, LogName.READS)),
            *begin(read_log, has_many(read_log.beats)),
        ]
        # A command takes at most a burst, so what was right before one is as good behind it.
        m.d.sync += [many.eq(has_many(left)), skipped.eq(skips_chunks)]
        with m.If(fetched | skips_chunks):
            m.d.sync += [address.eq(address + step), left.eq(left - step)]
        with m.If(fetched):
            m.d.sync += to_boundary.eq(MAX_BEATS)
        with m.If(fetched & ends_log):
            with m.If((log == LogName.WRITES) & (commute_log.beats != 0)):
                m.d.sync += [log.eq(LogName.COMMUTES), *begin(commute_log, has_many(commute_log.beats))]
            with m.Elif(log != LogName.READS):
                m.d.sync += begin_reads
            with m.Else():
                m.d.sync += log.eq(LogName.NOTHING)
        with m.If(self.rewind):
            m.d.sync += begin_reads
        with m.If(free):
            m.d.sync += [log.eq(plan.first.log), *begin(plan.first, plan.first.many)]

        # --- Arrival ------------------------------------------------------------------------------------------------
        inserted_beats = Signal(range(depth))
        received = Signal(beat_count_bits)  # of the read log
        comes = Signal()
        arrives = Signal()
        for_insertion = Signal()
        failing = Signal()
        failed = Signal()
        corrupt = Signal(LANES)
        m.d.comb += [
            comes.eq(self.beat.valid & (self.beat.id == self._number + 1) & ~flushing),
            failing.eq((self.beat.response != Response.OKAY) | self.beat.refused),
            failed.eq(comes & failing),
            arrives.eq(comes & ~failing),
            for_insertion.eq(~self.complete),
            self.arrives.eq(arrives & ~for_insertion),
            self.arriving_bad.eq(corrupt),
            write.en.eq(arrives),
            write.addr.eq(Mux(for_insertion, ring_words + inserted_beats, received[: (ring_words - 1).bit_length()])),
        ]
        stored_words = Signal(range(ring_words + 1))
        comes_in = arrives & ~for_insertion
        m.d.sync += [
            inserted_beats.eq(inserted_beats + (arrives & for_insertion)),
            received.eq(received + comes_in),
            stored_words.eq(up_down(stored_words, comes_in, self.take)),
            self.stored.eq(
                stored_words[1:].any() | Mux(self.take, stored_words[0] & comes_in, stored_words[0] | comes_in)
            ),
            claimed.eq(up_down(claimed, fetched & (log == LogName.READS), self.take, number=self.fetch.payload.beats)),
        ]
        m.d.comb += self.coming.eq(claimed != stored_words)
        m.d.sync += has_room.eq(Mux(fetched, claimed <= ring_words - 2 * MAX_BEATS, claimed <= ring_words - MAX_BEATS))
        with m.If(free):
            m.d.sync += has_room.eq(1)

        # Where the first and last beat of a log have no key.
        of_writes = Signal()
        first_beat = Signal()
        last_beat = Signal()
        writes_end = Signal()
        next_beat = inserted_beats + 1
        lane = Signal(_LANE_BITS)
        odd = Signal()
        m.d.comb += [
            writes_end.eq(next_beat == write_log.beats),
            last_beat.eq(writes_end | (next_beat == insert_beats)),
            lane.eq(Mux(of_writes, self.write_lane, self.commute_lane)),
            odd.eq(Mux(of_writes, self.write_odd, self.commute_odd)),
        ]
        with m.If(arrives & for_insertion):
            m.d.sync += [
                self.complete.eq(next_beat == insert_beats),
                first_beat.eq(writes_end),
                of_writes.eq(of_writes & ~writes_end),
            ]
        with m.If(free):
            m.d.sync += [
                self.complete.eq(~plan.first.log.as_value().matches(LogName.WRITES.value, LogName.COMMUTES.value)),
                first_beat.eq(1),
                of_writes.eq(plan.first.log == LogName.WRITES),
            ]
        first_read = received == 0
        holds_key = Signal(LANES)  # for the write and commute logs
        m.d.comb += [
            holds_key.eq(Cat(~(first_beat & lane), ~(last_beat & odd))),
            self.corrupts.eq(self.corrupt & arrives),
        ]
        with m.If(self.corrupts):
            skips = Mux(for_insertion, ~holds_key[0], first_read & lane_of(read_log))
            m.d.comb += corrupt.eq(Mux(skips, 0b10, 0b01))
        for index in range(LANES):
            key_word = self.beat.data.word_select(index, KEY_WORD_BITS)
            parity = parity_of(key_word)
            m.d.comb += write.data[index].eq(Cat(key_word, parity ^ corrupt[index].replicate(len(parity))))

        # --- Reading ------------------------------------------------------------------------------------------------
        checks = Signal(LANES)  # the word behind `checked_word` is to be checked
        check_word = Signal.like(write.addr)
        checking = Signal(LANES)
        taken = Signal((ring_words - 1).bit_length())
        m.d.sync += [
            checks.eq(Mux(arrives & for_insertion, holds_key, 0)),
            check_word.eq(write.addr),
            checking.eq(checks),
            taken.eq(taken + self.take),
        ]
        for index in range(LANES):
            m.d.comb += [
                self.word[index].eq(read.data[index][:KEY_WORD_BITS]),
                self.word_bad[index].eq(is_bad(read.data[index], KEY_WORD_BITS)),
            ]
        with m.If(checks.any()):
            m.d.comb += [read.en.eq(1), read.addr.eq(check_word)]
        with m.Else():
            m.d.comb += [
                read.en.eq(self.read),
                read.addr.eq(Mux(self.read_insert, ring_words + self.read_word, taken)),
            ]
        found_bad = Signal(LANES)
        m.d.comb += self.parity_errors.eq(sum(found_bad))
        # That a key is bad is found out late, so the words are kept whether it is or not.
        suspects = Signal.like(self.word)
        bad_lane = Signal(range(LANES))
        m.d.comb += self.check.key.eq(suspects[bad_lane])
        for index in range(LANES):
            m.d.comb += found_bad[index].eq(checking[index] & self.word_bad[index])
        m.d.sync += self.check.bad.eq(found_bad.any() | (self.check.bad & ~free))
        with m.If(~self.check.bad):
            m.d.sync += [suspects.eq(self.word), bad_lane.eq(LANES - 1)]
            for index in reversed(range(LANES - 1)):
                with m.If(found_bad[index]):
                    m.d.sync += bad_lane.eq(index)

        # --- The read log again -------------------------------------------------------------------------------------
        with m.If(self.rewind):
            m.d.sync += [rewinding.eq(1), flushing.eq(1)]
        with m.Elif(skips_chunks):
            # `busy` shows a command of the clock cycle of `rewind`, the last one before this one.
            m.d.sync += [
                rewinding.eq(0),
                flushing.eq(0),
                received.eq(passed),
                stored_words.eq(0),
                self.stored.eq(0),
                claimed.eq(0),
                taken.eq(0),
            ]
        with m.If(rewinding):
            m.d.comb += self.coming.eq(1)
        with m.If(self.rewind):
            m.d.sync += [stored_words.eq(0), self.stored.eq(0)]
        with m.If(free):
            m.d.sync += [
                inserted_beats.eq(0),
                received.eq(0),
                stored_words.eq(0),
                self.stored.eq(0),
                claimed.eq(0),
                taken.eq(0),
                rewinding.eq(0),
                flushing.eq(0),
            ]

        # --- Failures -----------------------------------------------------------------------------------------------
        with m.Switch(failed_log):
            with m.Case(LogName.WRITES):
                m.d.comb += self.origin.eq(beat_address(write_log))
            with m.Case(LogName.COMMUTES):
                m.d.comb += self.origin.eq(beat_address(commute_log))
            with m.Default():
                m.d.comb += self.origin.eq(beat_address(read_log))

        def fails(code, detail):
            with m.If(self.fault.code == 0):
                m.d.sync += [self.fault.code.eq(code), self.fault.detail.eq(detail)]

        if p.key_bits < KEY_WORD_BITS:
            # As soon as `check`, since the request may be decided next.
            for index in reversed(range(LANES)):
                key_word = read.data[index][:KEY_WORD_BITS]
                with m.If(checking[index] & key_word[p.key_bits :].any()):
                    m.d.sync += self.bad_request.eq(1)
                    fails(ErrorCode.KEY_RANGE.value, key_word)
            with m.If(self.wide):
                m.d.sync += self.bad_request.eq(1)
                fails(ErrorCode.KEY_RANGE.value, self.wide_word)
        with m.If(failed):
            m.d.sync += self.cut.eq(1)
            with m.If(self.beat.refused):
                m.d.sync += self.bad_request.eq(1)
            with m.Else():
                m.d.sync += self.bus_error.eq(1)
            # Beats of the log that have come.
            inserted = (inserted_beats - Mux(of_writes, 0, write_log.beats))[: len(inserted_beats)]
            fails(ErrorCode.FETCH_ERROR.value, Mux(for_insertion, inserted, received) << BEAT_ADDRESS_BITS)
            with m.If(self.fault.code == 0):
                m.d.sync += failed_log.eq(
                    Mux(for_insertion, Mux(of_writes, LogName.WRITES, LogName.COMMUTES), LogName.READS)
                )

        # --- The end ------------------------------------------------------------------------------------------------
        # `release` is late in its clock cycle, so what follows from it comes a clock cycle behind it.
        with m.If(self.release):
            m.d.sync += releasing.eq(1)
        with m.If(releasing):
            m.d.sync += [log.eq(LogName.NOTHING), flushing.eq(1)]
            with m.If(~self.busy):
                m.d.sync += [free.eq(1), releasing.eq(0), self.writes.eq(0), self.long.eq(0)]
        return m

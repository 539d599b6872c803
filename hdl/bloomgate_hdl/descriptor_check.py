"""Whether a submission entry is what it must be."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import FORMAT, MAX_READ_KEYS, SUBMISSION
from bloomgate.registers import ErrorCode

from bloomgate_hdl.burst_address import PAGE_BITS
from bloomgate_hdl.memory_port import BEAT_BITS
from bloomgate_hdl.order_planner import MANY_BITS
from bloomgate_hdl.queue_port import ADDRESS_BITS, KEY_BYTES, READ_COUNT_BITS, order_layout
from bloomgate_hdl.window_check import PAGE_NUMBER_BITS

__all__ = ["BEATS", "DescriptorCheck"]

_WORDS = {word.name: word for word in SUBMISSION}
_KEY_ADDRESS_BITS = (KEY_BYTES - 1).bit_length()
#: Data beats of an entry.
BEATS = len(SUBMISSION) * 32 // BEAT_BITS


class DescriptorCheck(wiring.Component):
    """Takes the beats of a submission entry and makes an order of it, with byte addresses in place of offsets.

    The checks are made in this order: FORMAT and RESERVED; READ_COUNT; then of the read, write and commute log, if it
    has keys, that its offset is a multiple of 4 and its last key inside the window. Of an entry that fails one the
    order says ``bad_request``, with the number of the word that holds the count, the offset or the header as detail.

    Latency: the order is complete in the clock cycle of the last beat, and is nothing until then. ``fault.word`` counts
    if it is bad. Reset state: irrelevant.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: A beat of the entry, and which one. The first page of the slot's window and the number of its pages
                #: are held from the first beat to the last.
                "valid": In(1),
                "beat": In(range(BEATS)),
                "data": In(BEAT_BITS),
                "base": In(PAGE_NUMBER_BITS),
                "size": In(PAGE_NUMBER_BITS),
                #: The entry, but for its slot.
                "order": Out(order_layout(parameters)),
                #: Its read set has more than one chunk.
                "long": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        order = self.order
        depth = self._parameters.buffer_depth

        # An order is stored in the clock cycle of the last beat, so little may be left to do then: of what came before,
        # everything is found out as it comes.
        def arriving(name, field_name=None):
            word = self.data.word_select(_WORDS[name].word % 2, 32)
            if field_name is None:
                return word
            part = _WORDS[name][field_name]
            return word[part.lsb : part.lsb + part.width]

        def keep(what, value, name):
            """What ``value`` was in the beat with the word ``name``."""
            kept = Signal.like(value, name=what)
            with m.If(self.valid & (self.beat == _WORDS[name].word // 2)):
                m.d.sync += kept.eq(value)
            return kept

        def lane_of(address):
            return address[_KEY_ADDRESS_BITS]

        def beats(count, address):
            return (count + lane_of(address) + 1) >> 1

        base = Signal(PAGE_NUMBER_BITS)
        size = Signal(PAGE_NUMBER_BITS)
        m.d.sync += [base.eq(self.base), size.eq(self.size)]

        # --- Offsets of the read and the write log: in the high half of a beat, and the counts in the next beat -------
        offset = self.data.word_select(1, 32)
        assert _WORDS["READ_OFFSET"].word % 2 == _WORDS["WRITE_OFFSET"].word % 2 == 1
        address = Signal(ADDRESS_BITS)
        left = Signal(signed(ADDRESS_BITS + 1))  # bytes to the end of the window
        room = Signal(READ_COUNT_BITS)  # keys
        plenty = Signal()  # there are more than that
        outside = Signal()  # there are none, or the offset is odd
        m.d.comb += [address.eq((base << PAGE_BITS) + offset), left.eq((size << PAGE_BITS) - offset)]
        with m.If(self.valid):
            m.d.sync += [
                room.eq(left[_KEY_ADDRESS_BITS:]),
                plenty.eq(left[_KEY_ADDRESS_BITS + READ_COUNT_BITS :].any()),
                outside.eq((left < 0) | (offset[:_KEY_ADDRESS_BITS] != 0)),
            ]

        def exceeds(count):
            return (count != 0) & (outside | (~plenty & (count > room)))

        # --- What came before the last beat ---------------------------------------------------------------------------
        read_count = arriving("READ_COUNT")
        header_is_bad = keep(
            "header_is_bad",
            (arriving("HEADER", "FORMAT") != FORMAT) | (arriving("HEADER", "RESERVED") != 0),
            "HEADER",
        )
        was_bad = Signal()
        bad_word = Signal(range(len(SUBMISSION)))
        with m.If(self.valid & (self.beat == _WORDS["READ_COUNT"].word // 2)):
            m.d.sync += was_bad.eq(1)
            with m.If(header_is_bad):
                m.d.sync += bad_word.eq(_WORDS["HEADER"].word)
            with m.Elif(read_count > MAX_READ_KEYS):
                m.d.sync += bad_word.eq(_WORDS["READ_COUNT"].word)
            with m.Else():
                m.d.sync += [bad_word.eq(_WORDS["READ_OFFSET"].word), was_bad.eq(exceeds(read_count[:READ_COUNT_BITS]))]
        read_address = keep("read_address", address, "READ_OFFSET")
        write_address = keep("write_address", address, "WRITE_OFFSET")
        read_beats = Signal.like(order.reads.beats)
        chunk_bits = (depth - 1).bit_length()
        last_chunk = Signal.like(order.reads.last_chunk)
        with m.If(read_count != 0):
            m.d.comb += [
                read_beats.eq(beats(read_count, read_address)),
                last_chunk.eq(read_count[chunk_bits:] - (read_count[:chunk_bits] == 0)),
            ]
        m.d.comb += [
            self.long.eq(keep("long", read_count > depth, "READ_COUNT")),
            order.header.request.eq(keep("request", arriving("HEADER", "REQUEST"), "HEADER")),
            order.header.snapshot_epoch.eq(keep("snapshot_epoch", arriving("SNAPSHOT_EPOCH"), "SNAPSHOT_EPOCH")),
            order.header.snapshot_count.eq(keep("snapshot_count", arriving("SNAPSHOT_COUNT"), "SNAPSHOT_COUNT")),
            order.reads.address.eq(read_address),
            order.reads.beats.eq(keep("kept_beats", read_beats, "READ_COUNT")),
            order.reads.last_chunk.eq(keep("kept_last_chunk", last_chunk, "READ_COUNT")),
            order.reads.odd.eq(keep("odd", read_count[0] ^ lane_of(read_address), "READ_COUNT")),
            order.reads.long.eq(self.long),
            order.has_reads.eq(keep("has_reads", read_count != 0, "READ_COUNT")),
            order.many_reads.eq(keep("many_reads", read_count[MANY_BITS:].any(), "READ_COUNT")),
            order.writes.address.eq(write_address),
        ]

        # --- The last beat --------------------------------------------------------------------------------------------
        writes = arriving("INSERTION_COUNTS", "WRITE_COUNT")
        commutes = arriving("INSERTION_COUNTS", "COMMUTE_COUNT")
        offset = arriving("COMMUTE_OFFSET")
        spare = Signal(signed(ADDRESS_BITS + 2))  # bytes between the commute log and the end of the window
        writes_are_bad = Signal()
        commutes_are_bad = Signal()
        bad = Signal()
        m.d.comb += [
            spare.eq((size << PAGE_BITS) - offset - (commutes << _KEY_ADDRESS_BITS)),
            writes_are_bad.eq(exceeds(writes)),
            commutes_are_bad.eq((commutes != 0) & ((spare < 0) | (offset[:_KEY_ADDRESS_BITS] != 0))),
            order.writes.count.eq(writes),
            order.writes.beats.eq(beats(writes[: chunk_bits + 1], write_address)),
            order.has_writes.eq(writes != 0),
            order.commutes.address.eq((base << PAGE_BITS) + offset),
            order.commutes.count.eq(commutes),
            order.commutes.beats.eq(beats(commutes[: chunk_bits + 1], offset)),
            order.has_commutes.eq(commutes != 0),
            order.too_many.eq(writes + commutes > depth),
            bad.eq(was_bad | writes_are_bad | commutes_are_bad),
            order.bad_request.eq(bad),
            order.fault.code.eq(Mux(bad, ErrorCode.BAD_DESCRIPTOR.value, 0)),
            order.fault.word.eq(
                Mux(
                    was_bad,
                    bad_word,
                    Mux(writes_are_bad, _WORDS["WRITE_OFFSET"].word, _WORDS["COMMUTE_OFFSET"].word),
                )
            ),
        ]
        return m

"""Whether a submission entry is what it must be."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import FORMAT, MAX_READ_KEYS, SUBMISSION
from bloomgate.registers import ErrorCode

from bloomgate_hdl.memory_port import BEAT_BITS
from bloomgate_hdl.queue_port import ADDRESS_BITS, KEY_BYTES, order_layout
from bloomgate_hdl.window_check import window_layout

__all__ = ["BEATS", "DescriptorCheck"]

_WORDS = {word.name: word for word in SUBMISSION}
_PAGE_BITS = 12
#: Data beats of an entry.
BEATS = len(SUBMISSION) * 32 // BEAT_BITS


class DescriptorCheck(wiring.Component):
    """Takes the beats of a submission entry and makes an order of it, with byte addresses in place of offsets.

    The checks are made in this order: FORMAT and RESERVED; READ_COUNT; then of the read, write and commute log, if it
    has keys, that its offset is a multiple of 4 and its last key inside the window. Of an entry that fails one the
    order says ``bad_request``, with the number of the word that holds the count, the offset or the header as detail.

    Latency: the order is complete in the clock cycle of the last beat; until then its parts are those of the entry
    before. Reset state: irrelevant.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: A beat of the entry, and which one. The slot's window is held from the first to the last.
                "valid": In(1),
                "beat": In(range(BEATS)),
                "data": In(BEAT_BITS),
                "window": In(window_layout()),
                #: The entry, but for its slot.
                "order": Out(order_layout(parameters)),
                #: Its read set has more than one chunk.
                "long": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        order = self.order

        # Words of this beat and of those before it.
        words = []
        for number in range(len(SUBMISSION)):
            beat, half = divmod(number, 2)
            arriving = self.data.word_select(half, 32)
            if beat == BEATS - 1:
                words.append(arriving)
                continue
            kept = Signal(32, name=f"word_{number}")
            with m.If(self.valid & (self.beat == beat)):
                m.d.sync += kept.eq(arriving)
            words.append(kept)

        def word(name):
            return words[_WORDS[name].word]

        def field(name, field_name):
            part = _WORDS[name][field_name]
            return word(name)[part.lsb : part.lsb + part.width]

        window = self.window
        counts = {
            "READ_OFFSET": Signal.like(order.reads.count, name="read_count"),
            "WRITE_OFFSET": Signal.like(order.writes.count, name="write_count"),
            "COMMUTE_OFFSET": Signal.like(order.commutes.count, name="commute_count"),
        }
        m.d.comb += [
            counts["READ_OFFSET"].eq(word("READ_COUNT")),
            counts["WRITE_OFFSET"].eq(field("INSERTION_COUNTS", "WRITE_COUNT")),
            counts["COMMUTE_OFFSET"].eq(field("INSERTION_COUNTS", "COMMUTE_COUNT")),
            order.header.request.eq(field("HEADER", "REQUEST")),
            order.header.snapshot_epoch.eq(word("SNAPSHOT_EPOCH")),
            order.header.snapshot_count.eq(word("SNAPSHOT_COUNT")),
            order.window.eq(window),
            order.too_many.eq(counts["WRITE_OFFSET"] + counts["COMMUTE_OFFSET"] > self._parameters.buffer_depth),
            self.long.eq(counts["READ_OFFSET"] > self._parameters.buffer_depth),
        ]

        size = Signal(range((1 << ADDRESS_BITS) + 1))
        m.d.sync += size.eq((window.end - window.base)[: ADDRESS_BITS - _PAGE_BITS + 1] << _PAGE_BITS)

        def bad_log(log, name):
            """The log does not lie in the window. What the order says of it is set on the way."""
            offset, count = word(name), counts[name]
            m.d.comb += [
                log.address.eq((window.base << _PAGE_BITS) + offset),
                log.count.eq(count),
            ]
            return (count != 0) & ((offset[:2] != 0) | (offset + count * KEY_BYTES > size))

        checks = (
            ("HEADER", (field("HEADER", "FORMAT") != FORMAT) | (field("HEADER", "RESERVED") != 0)),
            ("READ_COUNT", word("READ_COUNT") > MAX_READ_KEYS),
            ("READ_OFFSET", bad_log(order.reads, "READ_OFFSET")),
            ("WRITE_OFFSET", bad_log(order.writes, "WRITE_OFFSET")),
            ("COMMUTE_OFFSET", bad_log(order.commutes, "COMMUTE_OFFSET")),
        )
        for name, bad in reversed(checks):
            with m.If(bad):
                m.d.comb += [
                    order.bad_request.eq(1),
                    order.fault.code.eq(ErrorCode.BAD_DESCRIPTOR.value),
                    order.fault.word.eq(_WORDS[name].word),
                ]
        return m

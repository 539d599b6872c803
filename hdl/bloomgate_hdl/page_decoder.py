"""Which page a bus access goes to."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.registers import (
    CONTROL_PAGE,
    QUEUE_RECORD_BYTES,
    SLOT_RECORD_BYTES,
    page_count,
    region_bytes,
)

from bloomgate_hdl.register_decode import PAGE_WORD_BITS, QUEUE_PAGE, selects
from bloomgate_hdl.register_port import READ_LATENCY, RegisterPortSignature
from bloomgate_hdl.slot_port import SlotPortSignature

__all__ = ["PageDecoder"]

#: The registers of a slot page that belong to its queue pair are an aligned block of words.
_QUEUE_WORDS = [item.word for item in QUEUE_PAGE]
_QUEUE_WORD_BITS = (len(_QUEUE_WORDS) - 1).bit_length()
_QUEUE_BLOCK = _QUEUE_WORDS[0] >> _QUEUE_WORD_BITS
assert [word - (_QUEUE_BLOCK << _QUEUE_WORD_BITS) for word in _QUEUE_WORDS] == list(range(1 << _QUEUE_WORD_BITS))


class PageDecoder(wiring.Component):
    """Splits the device's address region into the control page, the slot pages and the queue pairs' registers.

    SLOT_RECORDS in the control page is the first words of each slot's page, so reads of it go there. QUEUE_RECORDS and
    QUEUE_PAGE's registers go to ``queues``: words of a record as offsets in the record, words of a slot page as offsets
    in the page, which are greater. Pages that do not exist, behind the last slot, refuse every access, and
    so do records of slots that do not exist. Latency: none in addition to the pages'.
    Reset state: no answer is selected.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        region_words = region_bytes(parameters) // 4
        super().__init__(
            {
                "bus": In(RegisterPortSignature((region_words - 1).bit_length())),
                "control": Out(RegisterPortSignature(PAGE_WORD_BITS)),
                "slots": Out(SlotPortSignature(parameters)),
                "queues": Out(SlotPortSignature(parameters)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        bus, control, slots, queues = self.bus, self.control, self.slots, self.queues
        records = CONTROL_PAGE.window("SLOT_RECORDS")
        queue_records = CONTROL_PAGE.window("QUEUE_RECORDS")

        def record_of(window, record_bytes, word):
            """Slot and word of a record at this offset in the control page."""
            record_words = record_bytes // 4
            place = word - window.word
            return place[(record_words - 1).bit_length() :], place % record_words

        def is_queue_word(page, word):
            return (page != 0) & (word[_QUEUE_WORD_BITS:] == _QUEUE_BLOCK)

        write_page = bus.write_address[PAGE_WORD_BITS:]
        write_word = bus.write_address[:PAGE_WORD_BITS]
        write_exists = write_page < page_count(p)
        written_record = (write_page == 0) & selects(queue_records, write_word)
        written_queue_word = is_queue_word(write_page, write_word)
        record_slot, record_word = record_of(queue_records, QUEUE_RECORD_BYTES, write_word)
        written_record_exists = record_slot < p.slots
        m.d.comb += [
            control.write_valid.eq(bus.write_valid & (write_page == 0) & ~written_record),
            control.write_address.eq(write_word),
            slots.write_valid.eq(bus.write_valid & (write_page != 0) & write_exists & ~written_queue_word),
            slots.write_slot.eq(write_page - 1),
            slots.write_word.eq(write_word),
            queues.write_valid.eq(
                bus.write_valid & ((written_record & written_record_exists) | (written_queue_word & write_exists))
            ),
            queues.write_slot.eq(Mux(written_record, record_slot, write_page - 1)),
            queues.write_word.eq(Mux(written_record, record_word, write_word)),
        ]
        for target in (control, slots, queues):
            m.d.comb += [
                target.write_data.eq(bus.write_data),
                target.write_strobe.eq(bus.write_strobe),
            ]
        nowhere = Signal()
        m.d.sync += nowhere.eq(~write_exists | (written_record & ~written_record_exists))
        m.d.comb += bus.write_error.eq(control.write_error | slots.write_error | queues.write_error | nowhere)

        read_page = bus.read_address[PAGE_WORD_BITS:]
        read_word = bus.read_address[:PAGE_WORD_BITS]
        is_record = (read_page == 0) & selects(records, read_word)
        is_queue_record = (read_page == 0) & selects(queue_records, read_word)
        slot_record, slot_record_word = record_of(records, SLOT_RECORD_BYTES, read_word)
        queue_record, queue_record_word = record_of(queue_records, QUEUE_RECORD_BYTES, read_word)
        m.d.comb += [
            control.read_valid.eq(bus.read_valid),
            control.read_address.eq(read_word),
            slots.read_slot.eq(Mux(is_record, slot_record, read_page - 1)),
            slots.read_word.eq(Mux(is_record, slot_record_word, read_word)),
            queues.read_slot.eq(Mux(is_queue_record, queue_record, read_page - 1)),
            queues.read_word.eq(Mux(is_queue_record, queue_record_word, read_word)),
        ]

        # Answers come READ_LATENCY clock cycles later; what they are selected by goes along.
        from_queues = is_queue_record | is_queue_word(read_page, read_word)
        from_slots = is_record | (read_page != 0)
        exists = (
            (read_page < page_count(p))
            & (~is_record | (slot_record < p.slots))
            & (~is_queue_record | (queue_record < p.slots))
        )
        for stage in range(READ_LATENCY):
            late_from_queues = Signal(name=f"from_queues_{stage}")
            late_from_slots = Signal(name=f"from_slots_{stage}")
            late_exists = Signal(name=f"exists_{stage}")
            m.d.sync += [
                late_from_queues.eq(from_queues),
                late_from_slots.eq(from_slots),
                late_exists.eq(exists),
            ]
            from_queues, from_slots, exists = late_from_queues, late_from_slots, late_exists
        with m.If(from_queues):
            m.d.comb += [bus.read_data.eq(queues.read_data), bus.read_error.eq(~exists | queues.read_error)]
        with m.Elif(from_slots):
            m.d.comb += [bus.read_data.eq(slots.read_data), bus.read_error.eq(~exists | slots.read_error)]
        with m.Else():
            m.d.comb += [bus.read_data.eq(control.read_data), bus.read_error.eq(~exists | control.read_error)]
        return m

"""Which page a bus access goes to."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, SLOT_RECORD_BYTES, page_count, region_bytes

from bloomgate_hdl.register_decode import PAGE_WORD_BITS, selects
from bloomgate_hdl.register_port import READ_LATENCY, RegisterPortSignature
from bloomgate_hdl.slot_port import SlotPortSignature

__all__ = ["PageDecoder"]


class PageDecoder(wiring.Component):
    """Splits the device's address region into the control page and the slot pages.

    SLOT_RECORDS in the control page is the first words of each slot's page, so reads of it go there. Pages that do not
    exist, behind the last slot, refuse every access. Latency: none in addition to the pages'.
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
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        bus, control, slots = self.bus, self.control, self.slots
        record_words = SLOT_RECORD_BYTES // 4
        records = CONTROL_PAGE.window("SLOT_RECORDS")

        write_page = bus.write_address[PAGE_WORD_BITS:]
        write_word = bus.write_address[:PAGE_WORD_BITS]
        m.d.comb += [
            control.write_valid.eq(bus.write_valid & (write_page == 0)),
            slots.write_valid.eq(bus.write_valid & (write_page != 0) & (write_page < page_count(p))),
            slots.write_slot.eq(write_page - 1),
            control.write_address.eq(write_word),
            slots.write_word.eq(write_word),
        ]
        for target in (control, slots):
            m.d.comb += [
                target.write_data.eq(bus.write_data),
                target.write_strobe.eq(bus.write_strobe),
            ]
        nowhere = Signal()
        m.d.sync += nowhere.eq(write_page >= page_count(p))
        m.d.comb += bus.write_error.eq(control.write_error | slots.write_error | nowhere)

        read_page = bus.read_address[PAGE_WORD_BITS:]
        read_word = bus.read_address[:PAGE_WORD_BITS]
        record = read_word - records.word
        is_record = (read_page == 0) & selects(records, read_word)
        record_slot = record[(record_words - 1).bit_length() :]
        m.d.comb += [
            control.read_valid.eq(bus.read_valid),
            control.read_address.eq(read_word),
            slots.read_slot.eq(Mux(is_record, record_slot, read_page - 1)),
            slots.read_word.eq(Mux(is_record, record % record_words, read_word)),
        ]

        # Answers come READ_LATENCY clock cycles later; what they are selected by goes along.
        from_slots = is_record | (read_page != 0)
        exists = (read_page < page_count(p)) & (~is_record | (record_slot < p.slots))
        for stage in range(READ_LATENCY):
            late_from_slots = Signal(name=f"from_slots_{stage}")
            late_exists = Signal(name=f"exists_{stage}")
            m.d.sync += [late_from_slots.eq(from_slots), late_exists.eq(exists)]
            from_slots, exists = late_from_slots, late_exists
        m.d.comb += [
            bus.read_data.eq(Mux(from_slots, slots.read_data, control.read_data)),
            bus.read_error.eq(~exists | Mux(from_slots, slots.read_error, control.read_error)),
        ]
        return m

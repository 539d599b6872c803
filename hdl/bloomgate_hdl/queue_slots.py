"""The slots' queue pairs: doorbells, windows, and how far each ring has come."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.registers import QUEUE_RECORD, ErrorCode

from bloomgate_hdl.error_log import error_layout
from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.queue_port import GENERATION_BITS, INDEX_BITS, ring_place_layout
from bloomgate_hdl.read_mux import ReadMux
from bloomgate_hdl.register_decode import QUEUE_PAGE, selects
from bloomgate_hdl.slot_port import SlotPortSignature, verdict_layout, verdict_registers
from bloomgate_hdl.window_check import PAGE_NUMBER_BITS, window_layout

__all__ = ["QueueSlots"]

_PAGE_BITS = 12


class QueueSlots(wiring.Component):
    """State of all queue pairs between the bus, the descriptor fetcher and the completions.

    An index counts for ever, modulo 2**16. For each slot, in the order in which they grow: submissions rung in (tail),
    fetched, taken out of the ring, decided, written to memory, and read by the client (completion head). A doorbell
    counts only when it is a whole word, carries the generation of the owner of an enabled queue, and leaves these in
    their order with at most queue_entries between tail and completion head; else it is dropped and logged.

    Disabling stops fetching at once. The slot drains until the fetcher has nothing of it and as many completions are
    written as requests were taken; then all its indices become 0 and the new generation counts.

    Indices live in LUT RAM, which has one write port each: a slot that is restarted waits for it.

    Latency: a doorbell shows in ``ringing`` 1 clock cycle after its write; an error is reported 2 clock cycles after
    the write; reads as in register_port. Throughput: one access per clock cycle. Reset state: all queues disabled.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        slots = parameters.slots
        super().__init__(
            {
                #: Words of QUEUE_RECORD, and of QUEUE_PAGE.
                "bus": In(SlotPortSignature(parameters)),
                #: Slots that are enabled, and of these the ones with a submission that was not fetched.
                "enabled": Out(slots),
                "pending": Out(slots),
                #: A doorbell for submissions of ``ringing_slot`` is being looked at, a clock cycle before ``pending``.
                "ringing": Out(1),
                "ringing_slot": Out(parameters.slot_bits),
                #: Slot to look at, its next entry to fetch in the same clock cycle, and the strobe that it is fetched.
                "fetch_slot": In(parameters.slot_bits),
                "fetch_index": Out(INDEX_BITS),
                "fetched": In(1),
                #: Slot that wants to read, and its window in the same clock cycle; which does not change while the
                #: slot is enabled or drains, so while anything of it is under way.
                "window_slot": In(parameters.slot_bits),
                "window": Out(window_layout()),
                #: Slot whose entry arrives, and its window's first page and number of pages.
                "arriving_slot": In(parameters.slot_bits),
                "arriving_base": Out(PAGE_NUMBER_BITS),
                "arriving_size": Out(PAGE_NUMBER_BITS),
                #: Strobe: the oldest submission of ``take_slot`` that was fetched has left the ring.
                "take_slot": In(parameters.slot_bits),
                "taken": In(1),
                #: Slot whose request is in service, and in the next clock cycle where its completion goes.
                "serving_slot": In(parameters.slot_bits),
                "completion_place": Out(ring_place_layout()),
                #: Strobe: the completion of ``decided_slot``, which was in service until then, is on its way, with the
                #: verdict.
                "decided_slot": In(parameters.slot_bits),
                "decided": In(1),
                "verdict": In(verdict_layout(parameters)),
                #: Strobe: memory has the completion of ``written_slot``; its index.
                "written_slot": In(parameters.slot_bits),
                "written": In(1),
                "written_index": Out(INDEX_BITS),
                #: Slots of which the fetcher has something.
                "held": In(slots),
                #: A write that was not honoured.
                "error": Out(error_layout(parameters)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        slots = p.slots
        bus = self.bus

        per_slot = PerSlot(m, slots)

        bases = per_slot.words("bases", PAGE_NUMBER_BITS)
        sizes = per_slot.words("sizes", PAGE_NUMBER_BITS)
        ends = per_slot.words("ends", window_layout()["end"].shape)  # found out at a restart
        generations = per_slot.words("generations", GENERATION_BITS)
        next_generations = per_slot.words("next_generations", GENERATION_BITS)
        verdicts = per_slot.words("verdicts", verdict_layout(p))
        tails, fetches, takes, decisions, writes, heads = (
            per_slot.words(name, INDEX_BITS) for name in ("tails", "fetches", "takes", "decisions", "writes", "heads")
        )

        enabled = self.enabled
        pending = Signal(slots)
        draining = Signal(slots)
        wanted = Signal(slots)  # to be enabled when it has drained
        m.d.comb += self.pending.eq(pending & enabled)

        # --- Bus writes: a register first, since they come late in the clock cycle -----------------------------------
        record = {name: QUEUE_RECORD.register(name) for name in ("WINDOW_BASE", "WINDOW_SIZE", "QUEUE_CONTROL")}
        doorbells = {name: QUEUE_PAGE.register(name) for name in ("COMPLETION_HEAD", "SUBMISSION_TAIL")}
        words = {name: Signal(name=f"is_{name.lower()}") for name in (*record, *doorbells)}
        whole = Signal()
        slot = Signal(p.slot_bits)
        word = Signal(32)
        honoured = Signal()
        for name, item in (record | doorbells).items():
            here = selects(item, bus.write_word)
            m.d.sync += words[name].eq(bus.write_valid & here & (bus.write_strobe.all() | (name in doorbells)))
            with m.If(here):
                # A partial doorbell is in the error log: refusing a posted write would only kill its client.
                m.d.comb += honoured.eq(bus.write_strobe.all() | (name in doorbells))
        m.d.sync += [
            bus.write_error.eq(bus.write_valid & ~honoured),
            whole.eq(bus.write_strobe.all()),
            slot.eq(bus.write_slot),
            word.eq(bus.write_data),
        ]

        tail_field = QUEUE_PAGE.register("SUBMISSION_TAIL")
        index = word[tail_field["INDEX"].lsb :][: tail_field["INDEX"].width]
        generation = word[tail_field["GENERATION"].lsb :][: tail_field["GENERATION"].width]
        fetched_here = Signal()  # a submission of the slot is being fetched
        unfetched = Signal(INDEX_BITS)  # but for that one
        head = per_slot.word(heads, slot)
        owner = Signal()
        tail_fits = Signal()
        head_fits = Signal()
        rings_tail = Signal()
        rings_head = Signal()

        def between(first, last):
            """Entries from one index to another."""
            return (last - first)[:INDEX_BITS]

        m.d.comb += [
            fetched_here.eq(self.fetched & (self.fetch_slot == slot)),
            unfetched.eq(between(per_slot.word(fetches, slot), index)),
            owner.eq(enabled.bit_select(slot, 1) & (generation == per_slot.word(generations, slot)) & whole),
            tail_fits.eq(
                (between(head, index) <= p.queue_entries)
                & (unfetched <= p.queue_entries)
                & ~((unfetched == 0) & fetched_here)
            ),
            head_fits.eq(between(head, index) <= between(head, per_slot.word(decisions, slot))),
            rings_tail.eq(words["SUBMISSION_TAIL"] & owner & tail_fits),
            rings_head.eq(words["COMPLETION_HEAD"] & owner & head_fits),
            self.ringing.eq(words["SUBMISSION_TAIL"]),
            self.ringing_slot.eq(slot),
        ]

        # --- Windows and owners -------------------------------------------------------------------------------------
        controls = words["QUEUE_CONTROL"]
        control = QUEUE_RECORD.register("QUEUE_CONTROL")
        locked = (enabled | draining).bit_select(slot, 1)
        sets_window = Signal()
        m.d.comb += sets_window.eq(words["WINDOW_BASE"] | words["WINDOW_SIZE"])
        for slot_ram, name in ((bases, "WINDOW_BASE"), (sizes, "WINDOW_SIZE")):
            write = slot_ram.write_port()
            m.d.comb += [
                write.addr.eq(slot),
                write.data.eq(word[_PAGE_BITS:]),
                write.en.eq(words[name] & ~locked),
            ]
        write = next_generations.write_port()
        new_generation = word[control["GENERATION"].lsb :][: control["GENERATION"].width]
        m.d.comb += [write.addr.eq(slot), write.data.eq(new_generation), write.en.eq(controls)]

        # One slot after the other is looked at whether it has drained. If so, no index of it moves any more, and each
        # is cleared when no other slot's is written.
        scanned = Signal(p.slot_bits)
        restarting = Signal()
        cleared = Signal(6)
        restart = Signal()
        # A reset leaves LUT RAM as it is, so until a slot's first restart its indices mean nothing.
        unused = Signal(slots, init=(1 << slots) - 1)
        drained = Signal()
        m.d.comb += [
            drained.eq(
                draining.bit_select(scanned, 1)
                & ~self.held.bit_select(scanned, 1)
                & (unused.bit_select(scanned, 1) | (per_slot.word(takes, scanned) == per_slot.word(writes, scanned)))
            ),
            restart.eq(cleared.all() & ~controls),
        ]
        with m.If(restart):
            m.d.sync += restarting.eq(0)
        with m.Elif(~restarting):
            m.d.sync += restarting.eq(drained)
            with m.If(~drained):
                m.d.sync += scanned.eq(Mux(scanned == slots - 1, 0, scanned + 1))
        restart_mask = per_slot.one_hot(scanned, restart)
        control_mask = per_slot.one_hot(slot, controls)
        # The generation 0 is no owner's, so it enables nothing.
        enables = word[control["ENABLE"].lsb] & (new_generation != 0)
        m.d.sync += [
            wanted.eq(Mux(enables, wanted | control_mask, wanted & ~control_mask)),
            draining.eq((draining | control_mask) & ~restart_mask),
            unused.eq(unused & ~restart_mask),
            enabled.eq((enabled & ~control_mask) | (restart_mask & wanted)),
        ]
        # Nobody looks at it before the restart.
        end = Signal(window_layout()["end"].shape)
        m.d.sync += end.eq(per_slot.word(bases, scanned) + per_slot.word(sizes, scanned))
        for slot_ram, value in ((generations, per_slot.word(next_generations, scanned)), (ends, end)):
            write = slot_ram.write_port()
            m.d.comb += [write.addr.eq(scanned), write.data.eq(value), write.en.eq(restart)]

        # --- Indices ------------------------------------------------------------------------------------------------
        m.d.comb += [
            self.fetch_index.eq(per_slot.word(fetches, self.fetch_slot)),
            self.window.base.eq(per_slot.word(bases, self.window_slot)),
            self.window.end.eq(per_slot.word(ends, self.window_slot)),
            self.arriving_base.eq(per_slot.word(bases, self.arriving_slot)),
            self.arriving_size.eq(per_slot.word(sizes, self.arriving_slot)),
            self.written_index.eq(per_slot.word(writes, self.written_slot)),
        ]
        # The slot is known long before the decision, and the way from here to memory is long.
        place = self.completion_place
        m.d.sync += [
            place.window.base.eq(per_slot.word(bases, self.serving_slot)),
            place.window.end.eq(per_slot.word(ends, self.serving_slot)),
            place.index.eq(per_slot.word(decisions, self.serving_slot)),
            place.generation.eq(per_slot.word(generations, self.serving_slot)),
        ]
        next_fetch = Signal(INDEX_BITS)
        m.d.comb += next_fetch.eq(self.fetch_index + 1)
        for number, (index_ram, strobe, counts, at, value) in enumerate(
            (
                # Whether a doorbell counts is found out late, so it keeps its place in any case.
                (tails, words["SUBMISSION_TAIL"], rings_tail, slot, index),
                (heads, words["COMPLETION_HEAD"], rings_head, slot, index),
                (fetches, self.fetched, None, self.fetch_slot, next_fetch),
                (takes, self.taken, None, self.take_slot, per_slot.word(takes, self.take_slot) + 1),
                (decisions, self.decided, None, self.decided_slot, self.completion_place.index + 1),
                (writes, self.written, None, self.written_slot, self.written_index + 1),
            )
        ):
            write = index_ram.write_port()
            m.d.comb += [
                write.en.eq(Mux(strobe, 1 if counts is None else counts, restarting)),
                write.addr.eq(Mux(strobe, at, scanned)),
                write.data.eq(Mux(strobe, value, 0)),
            ]
            m.d.sync += cleared[number].eq(restarting & ~restart & (cleared[number] | ~strobe))

        newest = per_slot.word(tails, self.fetch_slot)
        with m.If(self.fetched & (next_fetch == newest)):
            m.d.sync += pending.bit_select(self.fetch_slot, 1).eq(0)
        with m.If(rings_tail):
            m.d.sync += pending.bit_select(slot, 1).eq(Mux(fetched_here, unfetched != 1, unfetched != 0))
        with m.If(restart):
            m.d.sync += pending.bit_select(scanned, 1).eq(0)

        verdict_write = verdicts.write_port()
        m.d.comb += [
            verdict_write.addr.eq(self.decided_slot),
            verdict_write.data.eq(self.verdict),
            verdict_write.en.eq(self.decided),
        ]

        # --- Errors -------------------------------------------------------------------------------------------------
        bad_doorbell = Signal()
        m.d.comb += bad_doorbell.eq((words["SUBMISSION_TAIL"] & ~rings_tail) | (words["COMPLETION_HEAD"] & ~rings_head))
        m.d.sync += [
            self.error.valid.eq(bad_doorbell | (sets_window & locked)),
            self.error.code.eq(Mux(sets_window, ErrorCode.WINDOW_IN_USE.value, ErrorCode.BAD_DOORBELL.value)),
            self.error.slot.eq(slot),
            self.error.detail.eq(word),
        ]

        # --- Bus reads ----------------------------------------------------------------------------------------------
        read_slot = Signal(p.slot_bits)
        read_word = Signal.like(bus.read_word)
        m.d.sync += [read_slot.eq(bus.read_slot), read_word.eq(bus.read_word)]
        verdict = Signal(verdict_layout(p))
        m.d.comb += verdict.eq(per_slot.word(verdicts, read_slot))
        last = verdict_registers(verdict, done=verdict.committed | (verdict.reason != 0))
        status = {
            "ENABLED": enabled.bit_select(read_slot, 1),
            "DRAINING": draining.bit_select(read_slot, 1),
            "GENERATION": per_slot.word(generations, read_slot),
        }
        values = {
            "WINDOW_BASE": Cat(Const(0, _PAGE_BITS), per_slot.word(bases, read_slot)),
            "WINDOW_SIZE": Cat(Const(0, _PAGE_BITS), per_slot.word(sizes, read_slot)),
            "QUEUE_STATUS": status,
            "LAST_VERDICT": last["VERDICT"],
            "LAST_EPOCH": last["TIMESTAMP_EPOCH"],
            "LAST_COUNT": last["TIMESTAMP_COUNT"],
            "COMPLETED": per_slot.word(writes, read_slot),
        }
        m.submodules.record_mux = record_mux = ReadMux(QUEUE_RECORD)
        m.submodules.page_mux = page_mux = ReadMux(QUEUE_PAGE)
        m.d.comb += [
            record_mux.word.eq(read_word),
            record_mux.drive(values),
            page_mux.word.eq(read_word),
            page_mux.drive({"SUBMISSION_HEAD": per_slot.word(takes, read_slot), "QUEUE_STATUS": status}),
        ]
        # Words of the two pages are different, so what one has is an error in the other, which then reads as 0.
        m.d.sync += [
            bus.read_data.eq(record_mux.data | page_mux.data),
            bus.read_error.eq(record_mux.error & page_mux.error),
        ]
        return m

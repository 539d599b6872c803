"""The slots' register pages: clients fill requests here and find their verdicts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.registers import SLOT_PAGE, ErrorCode, RequestKind

from bloomgate_hdl.announced_log_port import AnnouncedLogSignature
from bloomgate_hdl.error_log import error_layout
from bloomgate_hdl.flight_port import SlotFlightSignature
from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.read_mux import ReadMux
from bloomgate_hdl.register_decode import APERTURE_PAGE, selects
from bloomgate_hdl.slot_port import (
    COUNT_WORD_BITS,
    REQUEST_BITS,
    SlotPortSignature,
    request_layout,
    verdict_layout,
    verdict_registers,
)

__all__ = ["SlotPages"]


class SlotPages(wiring.Component):
    """State of all slots between the bus and the arbiter, but for their queue pairs and transactions in flight.

    A slot is idle (its request is being filled) or busy (submitted and undecided). Keys go to the key log: the read
    set from position 0 up, write and commute sets from the last position down, so that the sets share the slot's
    space in any proportion. A write that cannot be honoured is dropped, logged, and remembered: the request it
    belonged to can then only be aborted. A write to a busy slot counts against the slot's next request, since the
    one in progress is complete. Nothing ever stalls the bus.

    What a write means for a transaction in flight is handed on through ``flight``. A request for the token that waits
    for it keeps its slot busy, but DISCARD withdraws it. A reset does not mark what belongs to a transaction in flight:
    its snapshot is of an older epoch, which is reason enough.

    Keys of an announced log come in as if they were written to READ_APERTURE, whenever the bus writes nothing.

    One bit of each slot's state lives in a vector of flip-flops, words live in LUT RAM. LUT RAM has one write port, so
    each word is written from one side only: counts and snapshot by the bus, verdicts by the arbiter. In place of
    clearing the counts when a request is decided, ``fresh`` marks them as void.

    Latency: a write takes effect 2 clock cycles after it; reads as in register_port. Throughput: one write and
    one read per clock cycle. Reset state: all slots idle and empty, all verdicts not DONE.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        slots = parameters.slots
        super().__init__(
            {
                "bus": In(SlotPortSignature(parameters)),
                #: Slots whose request waits for the arbiter.
                "pending": Out(slots),
                #: Strobe: the arbiter has taken the request of ``request_slot``.
                "take": In(1),
                #: Slot to look at, and its request in the same clock cycle.
                "request_slot": In(parameters.slot_bits),
                "request": Out(request_layout(parameters)),
                #: Strobe: the request of ``decided_slot`` has the verdict ``verdict``.
                "decided": In(1),
                "decided_slot": In(parameters.slot_bits),
                "verdict": In(verdict_layout(parameters)),
                #: Strobe: every request that is filled or undecided is to be aborted with RESET.
                "reset": In(1),
                #: Requests submitted now are to be aborted with RESET.
                "resetting": In(1),
                #: A request that was undecided when the last reset came still is.
                "reset_owed": Out(1),
                #: Key log write port, see KeyLog.
                "append": Out(1),
                "append_slot": Out(parameters.slot_bits),
                "append_position": Out(range(parameters.aperture_depth)),
                "append_key": Out(parameters.key_bits),
                "flight": Out(SlotFlightSignature(parameters)),
                "log": Out(AnnouncedLogSignature(parameters)),
                #: A write that was not honoured.
                "error": Out(error_layout(parameters)),
                #: Strobe: a request has been submitted (for measurements).
                "submitted": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        slots = p.slots

        def flags(name, **kwargs):
            return Signal(slots, name=name, **kwargs)

        pending = self.pending
        busy = flags("busy")
        done = flags("done")
        fresh = flags("fresh", init=-1)
        busy_error = flags("busy_error")
        overflow_error = flags("overflow_error")
        bad_request_error = flags("bad_request_error")
        reset_error = flags("reset_error")
        reset_owed = flags("reset_owed")

        per_slot = PerSlot(m, slots)

        # Words of state.
        fill_layout = data.StructLayout(
            {"reads": range(p.aperture_depth + 1), "writes": range(p.aperture_depth + 1), "full": 1}
        )
        kind_field = SLOT_PAGE.register("SUBMIT")["KIND"]
        submission_layout = data.StructLayout(
            {"request": REQUEST_BITS, "kind": kind_field.width, "bad_request": 1, "overflow": 1, "busy": 1}
        )
        snapshot_epochs = per_slot.words("snapshot_epochs", EPOCH_BITS)
        snapshot_counts = per_slot.words("snapshot_counts", COUNT_WORD_BITS)
        fills = per_slot.words("fills", fill_layout)
        submissions = per_slot.words("submissions", submission_layout)
        verdicts = per_slot.words("verdicts", verdict_layout(p))

        # --- Bus writes: a register first, since they come late in the clock cycle -----------------------------------
        bus = self.bus
        words = {
            name: Signal(name=f"to_{name.lower()}")
            for name in (
                *("READ_APERTURE", "WRITE_APERTURE", "COMMUTE_APERTURE"),
                *("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT", "SUBMIT", "DISCARD", "ANNOUNCE", "PARK", "ANNOUNCED_TAIL"),
            )
        }
        slot = Signal(p.slot_bits)
        word = Signal.like(bus.write_word)
        written = Signal.like(bus.write_data)
        strobe = Signal.like(bus.write_strobe)
        here = {item.name: selects(item, bus.write_word) for item in APERTURE_PAGE if item.name in words}
        by_log = Signal()
        log = self.log
        m.d.comb += log.key_ready.eq(~bus.write_valid)
        m.d.sync += [
            *(words[name].eq(bus.write_valid & selected) for name, selected in here.items()),
            bus.write_error.eq(bus.write_valid & ~Cat(here.values()).any()),
            by_log.eq(~bus.write_valid & log.key_valid),
            slot.eq(Mux(bus.write_valid, bus.write_slot, log.key_slot)),
            word.eq(bus.write_word),
            written.eq(Mux(bus.write_valid, bus.write_data, log.key)),
            # A key that was lost is a write that was not whole.
            strobe.eq(Mux(bus.write_valid, bus.write_strobe, ~log.key_lost.replicate(len(strobe)))),
        ]
        whole = strobe.all()
        is_busy = busy.bit_select(slot, 1)
        adds_read = words["READ_APERTURE"] | by_log
        submits, discards = words["SUBMIT"], words["DISCARD"]
        announces, parks, advances = words["ANNOUNCE"], words["PARK"], words["ANNOUNCED_TAIL"]
        adds_write = Signal()
        adds_key = Signal()
        sets_snapshot = Signal()
        writable = Signal()
        m.d.comb += [
            adds_write.eq(words["WRITE_APERTURE"] | words["COMMUTE_APERTURE"]),
            adds_key.eq(adds_read | adds_write),
            sets_snapshot.eq(words["SNAPSHOT_EPOCH"] | words["SNAPSHOT_COUNT"]),
            writable.eq(Cat(words.values()).any() | by_log),
        ]

        # What has been filled so far; a request that was decided or discarded leaves nothing.
        fill = Signal(fill_layout)
        m.d.comb += fill.eq(Mux(fresh.bit_select(slot, 1), 0, per_slot.word(fills, slot)))
        refused_busy = Signal()
        refused_partial = Signal()
        refused_range = Signal()
        refused_full = Signal()
        refused_flight = Signal()
        refused_tail = Signal()
        flight = self.flight
        on = written[0]
        kind = written[kind_field.lsb : kind_field.lsb + kind_field.width]
        in_flight = flight.in_flight.bit_select(slot, 1)
        parkable = flight.parkable.bit_select(slot, 1)
        bad_kind = Signal()
        withdraws = Signal()
        m.d.comb += withdraws.eq(discards & whole & flight.withdrawable.bit_select(slot, 1))
        with m.If(log.behind):
            m.d.comb += bad_kind.eq(1)
        with m.Else(), m.Switch(kind):
            with m.Case(RequestKind.COMMIT.value):
                m.d.comb += bad_kind.eq(0)
            with m.Case(RequestKind.TOKEN.value):
                m.d.comb += bad_kind.eq(~(flight.in_flight & ~flight.holds).bit_select(slot, 1))
            with m.Case(RequestKind.GUARD.value):
                m.d.comb += bad_kind.eq(~flight.holds.bit_select(slot, 1))
            with m.Default():
                m.d.comb += bad_kind.eq(1)
        append = self.append
        key_too_wide = written[p.key_bits :].any() if p.key_bits < 32 else Const(0, 1)
        # A write is to one word, so that only the reasons against that one come one after the other.
        served = Signal()
        parks_on = Signal()
        beyond = Signal()
        m.d.comb += [
            served.eq(~is_busy & whole),
            parks_on.eq(served & parks & on),
            beyond.eq(written > p.aperture_depth),
            refused_busy.eq(writable & is_busy & ~withdraws),
            refused_partial.eq(writable & ~sets_snapshot & ~is_busy & ~whole),
            refused_flight.eq(served & submits & bad_kind | parks_on & ~parkable | served & advances & ~in_flight),
            refused_tail.eq(served & advances & in_flight & beyond),
            refused_range.eq(served & adds_key & key_too_wide),
            refused_full.eq(served & adds_key & ~key_too_wide & fill.full),
            append.eq(served & adds_key & ~key_too_wide & ~fill.full),
        ]

        submit = Signal()
        discard = Signal()
        announce = Signal()
        m.d.comb += [
            # A partial SUBMIT still submits, so that its client gets a verdict; see `submissions` below.
            submit.eq(submits & ~is_busy),
            discard.eq(discards & whole & (~is_busy | withdraws)),
            announce.eq(served & announces & on),
            self.submitted.eq(submit),
            self.append_slot.eq(slot),
            self.append_key.eq(written),
            self.append_position.eq(Mux(adds_read, fill.reads, p.aperture_depth - 1 - fill.writes)),
            flight.slot.eq(slot),
            flight.announce.eq(announce),
            flight.pause.eq(served & announces & ~on),
            log.slot.eq(slot),
            log.begin.eq(announce & ~in_flight),
            log.advance.eq(served & advances & in_flight & ~beyond),
            log.tail.eq(written),
            log.drop.eq(submit | discard),
            flight.append.eq(append & adds_read),
            flight.snapshot.eq(sets_snapshot & ~is_busy),
            flight.submit.eq(submit),
            flight.kind.eq(Mux(whole & ~bad_kind, kind, RequestKind.COMMIT.value)),
            flight.discard.eq(discard),
            flight.park.eq(parks_on & parkable),
            flight.unpark.eq(served & parks & ~on),
        ]

        for slot_ram, name in ((snapshot_epochs, "SNAPSHOT_EPOCH"), (snapshot_counts, "SNAPSHOT_COUNT")):
            write = slot_ram.write_port(granularity=8)
            m.d.comb += [
                write.addr.eq(slot),
                write.data.eq(written),
                write.en.eq(Mux(words[name] & ~is_busy, strobe, 0)),
            ]

        fill_write = fills.write_port()
        m.d.comb += [
            fill_write.addr.eq(slot),
            fill_write.en.eq(append | submit | announce),
            # A key that is not appended leaves no trace, and other words add none.
            fill_write.data.reads.eq(fill.reads + adds_read),
            fill_write.data.writes.eq(fill.writes + adds_write),
            fill_write.data.full.eq(fill.full | adds_key & (fill.reads + fill.writes == p.aperture_depth - 1)),
        ]

        submission_write = submissions.write_port()
        m.d.comb += [
            submission_write.addr.eq(slot),
            submission_write.en.eq(submit),
            submission_write.data.request.eq(written),
            submission_write.data.kind.eq(flight.kind),
            submission_write.data.bad_request.eq(~whole | bad_kind | bad_request_error.bit_select(slot, 1)),
            submission_write.data.overflow.eq(overflow_error.bit_select(slot, 1)),
            submission_write.data.busy.eq(busy_error.bit_select(slot, 1)),
        ]

        submit_mask = Signal(slots)
        clear_mask = Signal(slots)
        decided_mask = Signal(slots)
        discard_mask = Signal(slots)
        reset_mask = Signal(slots)
        owed = Signal(slots)
        m.d.comb += [
            submit_mask.eq(per_slot.one_hot(slot, submit)),
            discard_mask.eq(per_slot.one_hot(slot, discard)),
            clear_mask.eq(submit_mask | discard_mask),
            owed.eq(busy & ~flight.withdrawable),
            decided_mask.eq(per_slot.one_hot(self.decided_slot, self.decided)),
            reset_mask.eq(Mux(self.reset, ~fresh & ~flight.in_flight | owed, 0) | Mux(self.resetting, submit_mask, 0)),
        ]
        bad = refused_partial & ~submits | refused_range | refused_flight & advances
        m.d.sync += [
            pending.eq(pending & ~(per_slot.one_hot(self.request_slot, self.take) | discard_mask) | submit_mask),
            busy.eq(busy & ~(decided_mask | discard_mask) | submit_mask),
            done.eq(done & ~submit_mask | decided_mask),
            fresh.eq(fresh & ~per_slot.one_hot(slot, append | submit | announce) | decided_mask | discard_mask),
            # These describe the request being filled; submitting hands them on.
            busy_error.eq(busy_error & ~clear_mask | per_slot.one_hot(slot, refused_busy)),
            overflow_error.eq(overflow_error & ~clear_mask | per_slot.one_hot(slot, refused_full | refused_tail)),
            bad_request_error.eq(bad_request_error & ~clear_mask | per_slot.one_hot(slot, bad)),
            reset_owed.eq((reset_owed | Mux(self.reset, owed, 0)) & ~decided_mask),
            # This one sticks to a request until it is decided, since a reset also hits requests already submitted.
            reset_error.eq((reset_error | reset_mask) & ~decided_mask & ~discard_mask),
        ]

        m.d.comb += self.reset_owed.eq(reset_owed.any())

        error = self.error
        m.d.comb += [
            error.valid.eq(
                refused_busy | refused_partial | refused_flight | refused_tail | refused_range | refused_full
            ),
            error.slot.eq(slot),
            error.detail.eq(written),
        ]
        with m.If(refused_busy):
            m.d.comb += error.code.eq(
                Mux(
                    submits | discards,
                    ErrorCode.SUBMIT_WHILE_BUSY.value,
                    ErrorCode.WRITE_WHILE_BUSY.value,
                )
            )
        with m.Elif(refused_partial):
            m.d.comb += [
                error.code.eq(Mux(by_log, ErrorCode.FETCH_ERROR.value, ErrorCode.PARTIAL_WRITE.value)),
                error.detail.eq(Mux(by_log, fill.reads, word << 2)),
            ]
        with m.Elif(refused_flight):
            m.d.comb += error.code.eq(ErrorCode.NOT_IN_FLIGHT.value)
        with m.Elif(refused_range):
            m.d.comb += error.code.eq(ErrorCode.KEY_RANGE.value)
        with m.Else():
            m.d.comb += error.code.eq(ErrorCode.KEY_OVERFLOW.value)

        # --- The arbiter's side -----------------------------------------------------------------------------------
        looked_at = self.request_slot
        submission = per_slot.word(submissions, looked_at)
        asked = per_slot.word(fills, looked_at)
        m.d.comb += [
            self.request.request.eq(submission.request),
            self.request.kind.eq(submission.kind),
            self.request.snapshot_epoch.eq(per_slot.word(snapshot_epochs, looked_at)),
            self.request.snapshot_count.eq(per_slot.word(snapshot_counts, looked_at)),
            self.request.read_count.eq(asked.reads),
            self.request.write_count.eq(asked.writes),
            self.request.reset.eq(reset_error.bit_select(looked_at, 1)),
            self.request.bad_request.eq(submission.bad_request),
            self.request.overflow.eq(submission.overflow),
            self.request.busy.eq(submission.busy),
        ]
        verdict_write = verdicts.write_port()
        m.d.comb += [
            verdict_write.addr.eq(self.decided_slot),
            verdict_write.data.eq(self.verdict),
            verdict_write.en.eq(self.decided),
        ]

        # --- Bus reads --------------------------------------------------------------------------------------------
        read_slot = Signal(p.slot_bits)
        read_word = Signal.like(bus.read_word)
        m.d.sync += [read_slot.eq(bus.read_slot), read_word.eq(bus.read_word)]

        verdict = per_slot.word(verdicts, read_slot)
        read_fresh = fresh.bit_select(read_slot, 1)
        read_busy = busy.bit_select(read_slot, 1)
        read_fill = per_slot.word(fills, read_slot)
        m.d.comb += [flight.look_slot.eq(read_slot), log.look_slot.eq(read_slot)]
        state = flight.state
        values = {
            **verdict_registers(verdict, done.bit_select(read_slot, 1)),
            "STATUS": {
                "BUSY": read_busy,
                "BUSY_ERROR": busy_error.bit_select(read_slot, 1),
                "OVERFLOW_ERROR": overflow_error.bit_select(read_slot, 1),
                "BAD_REQUEST_ERROR": bad_request_error.bit_select(read_slot, 1),
                "RESET_ERROR": reset_error.bit_select(read_slot, 1) & ~read_busy,
            },
            "READ_COUNT": Mux(read_fresh, 0, read_fill.reads),
            "WRITE_COUNT": Mux(read_fresh, 0, read_fill.writes),
            "SNAPSHOT_EPOCH": per_slot.word(snapshot_epochs, read_slot),
            "SNAPSHOT_COUNT": per_slot.word(snapshot_counts, read_slot),
            "FLIGHT": {
                "DOOMED": state.doomed,
                "KEY_KNOWN": state.doom.key_known,
                "PARKED": state.parked,
                "TOKEN_WAITING": state.token_waiting,
                "HOLDER": state.holder,
                "REVOKED": state.revoked,
                "ANNOUNCING_DONE": state.announcing_done & ~log.look_behind,
                "TOLD": state.told,
                "WAKE_SEQUENCE": state.wake_sequence,
            },
            "DOOM_KEY": state.doom.key,
            "DOOM_EPOCH": state.doom.epoch,
            "DOOM_COUNT": state.doom.count,
        }
        m.submodules.read_mux = read_mux = ReadMux(APERTURE_PAGE)
        m.d.comb += [read_mux.word.eq(read_word), read_mux.drive(values)]
        m.d.sync += [bus.read_data.eq(read_mux.data), bus.read_error.eq(read_mux.error)]
        return m

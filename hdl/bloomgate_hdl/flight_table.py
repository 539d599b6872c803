"""What is known of each slot's transaction in flight: doomed, parked, to be validated again."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, LANES, Parameters

from bloomgate_hdl.flight_port import SEQUENCE_BITS, doom_layout, flight_layout
from bloomgate_hdl.per_slot import PerSlot

__all__ = ["FlightTable"]


class FlightTable(wiring.Component):
    """Dooms and wakes; bloomgate.in_flight says what they mean.

    One commit can doom all slots in one clock cycle. So who is doomed is a vector of flip-flops, and why is an *event*:
    a word of LUT RAM with the losers and both lanes' keys. Events queue up. The losers of the oldest one come one a
    clock cycle, lowest slot first, when the conflict log is ready, and are *told*: the event is copied to the slot's
    own doom, which its page shows, and handed to the log, and the wake is counted if the slot is parked. Until then the
    page shows only that it is doomed, and parked no more. When the queue is half full, the log is not waited for and
    misses some: a slot is doomed once in a transaction, and fewer can begin than are served then.

    A slot that parks when it has been told of its doom is woken in the next clock cycle. When the irrevocable token
    becomes free, the slots that it refused are woken by an event that dooms nobody.

    Latency: the page shows a doom, and that it ends the parking, 1 clock cycle behind its cause, of all losers at once;
    the rest 3 clock cycles, more by the losers that come first and by what the log makes them wait. Throughput: any
    number of causes per clock cycle, of each kind one.
    Reset state: nothing in flight.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        p = parameters
        super().__init__(
            {
                #: Strobes for ``slot``: a transaction begins, is discarded; the client parks, or does not want to be
                #: woken any more.
                "slot": In(p.slot_bits),
                "begin": In(1),
                "discard": In(1),
                "park": In(1),
                "unpark": In(1),
                #: Strobe: the snapshot of ``slot`` has changed.
                "snapshot": In(1),
                #: Strobe: the transaction of ``decided_slot`` is over by a verdict; and it is IRREVOCABLE for this key.
                "end": In(1),
                "refuse": In(1),
                "decided_slot": In(p.slot_bits),
                "refuse_key": In(p.key_bits),
                #: For each lane: slots that have announced ``key``, which was committed, by ``winner`` if
                #: ``winner_known``. That slot is no exception: its transaction is over by then, and its next one is as
                #: good as others.
                "hits": In(data.ArrayLayout(p.slots, LANES)),
                "winner": In(p.slot_bits),
                "winner_known": In(1),
                #: For each lane: ``announcer`` has announced ``key``; it was committed before; or it met a bad word.
                "conflicts": In(LANES),
                "uncertain": In(LANES),
                "announcer": In(p.slot_bits),
                "keys": In(data.ArrayLayout(p.key_bits, LANES)),
                #: Strobe: the snapshot of ``announcer`` is not of this epoch.
                "late": In(1),
                #: Slots in flight that have announced a key; hits and conflicts of others mean nothing.
                "logged": In(p.slots),
                #: Strobe: the floor is raised.
                "floor_raised": In(1),
                #: Strobe: the epoch has ended.
                "epoch_ended": In(1),
                #: Strobe: a fault is injected into the recency filter.
                "fault": In(1),
                #: Slot that holds the irrevocable token, if one does: it is never doomed.
                "holds": In(p.slots),
                "holder": In(p.slot_bits),
                #: Newest timestamp.
                "epoch": In(EPOCH_BITS),
                "count": In(p.timestamp_bits),
                #: A transaction has begun and not ended.
                "in_flight": Out(p.slots),
                #: The commit has to validate its whole read set.
                "revalidate": Out(p.slots),
                #: Slots whose last transaction was refused as irrevocable: they are woken when the token is free.
                "refused": Out(p.slots),
                #: Strobe, not without ``log_ready``: ``log_loser`` was doomed or refused, for this reason.
                "log_ready": In(1),
                "log": Out(1),
                "log_loser": Out(p.slot_bits),
                "log_doom": Out(doom_layout(p)),
                #: Strobes: a slot was doomed, a slot was woken.
                "doomed_one": Out(1),
                "woke_one": Out(1),
                "woken_slot": Out(p.slot_bits),
                #: Nobody waits to be told of a doom, or woken.
                "settled": Out(1),
                #: State of ``look_slot``, in the same clock cycle.
                "look_slot": In(p.slot_bits),
                "state": Out(flight_layout(p)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        slots = p.slots

        per_slot = PerSlot(m, slots)

        in_flight, revalidate, refused = self.in_flight, self.revalidate, self.refused
        doomed = Signal(slots)
        # Its doom, or that of its last transaction, is still to be told. Who begins the next one waits for that.
        untold = Signal(slots)
        told = Signal(slots)
        tells = Signal(slots)  # now
        m.d.comb += told.eq(doomed & (~untold | tells))
        parked = Signal(slots)
        by_bus = per_slot.one_hot(self.slot, 1)
        decided = per_slot.one_hot(self.decided_slot, 1)
        announcer = per_slot.one_hot(self.announcer, 1)
        ends = Mux(self.end, decided, 0) | Mux(self.discard, by_bus, 0)
        begins = Mux(self.begin, by_bus, 0)
        over = Signal(slots)
        m.d.comb += over.eq(ends | begins)

        # Who is doomed now, by which lane's key or by any.
        logged = Signal(slots)
        m.d.comb += logged.eq(self.logged & ~self.holds)
        lane_dooms = [(self.hits[lane] | Mux(self.conflicts[lane], announcer, 0)) & logged for lane in range(LANES)]
        other_dooms = Mux(self.floor_raised, logged, 0) | (
            (Mux(self.late, announcer, 0) | self.epoch_ended.replicate(slots)) & in_flight & ~self.holds
        )
        fresh = Signal(slots)
        m.d.comb += fresh.eq((lane_dooms[0] | lane_dooms[1] | other_dooms) & ~doomed)
        uncertain = (
            Mux(self.uncertain.any(), announcer, 0) | Mux(self.snapshot, by_bus, 0) | Mux(self.fault, self.logged, 0)
        )

        # --- Events -----------------------------------------------------------------------------------------------
        event_layout = data.StructLayout(
            {
                # Doomed now; if nobody is, those that a refusal or the token is about.
                "losers": slots,
                "others": slots,
                # Whose key is that of lane 0.
                "first": slots,
                "keys": data.ArrayLayout(p.key_bits, LANES),
                "key_known": 1,
                # If nobody is: it is a refusal; it wakes whom it does not doom, and is not for the log.
                "refuses": 1,
                "frees": 1,
                "by_slot": 1,
                "winner": p.slot_bits,
                "holder": p.slot_bits,
                "epoch": EPOCH_BITS,
                "count": p.timestamp_bits,
            }
        )
        depth = 2 * max(2, 1 << (slots - 1).bit_length())
        m.submodules.events = events = memory.Memory(shape=event_layout, depth=depth, init=[])
        put = events.write_port()
        get = events.read_port(domain="comb")
        event = get.data
        # Whether somebody is doomed comes too late to choose by it what is put; so it is chosen when it is taken out.
        event_dooms = Signal()
        event_refuses = Signal()
        event_frees = Signal()
        m.d.comb += [
            event_dooms.eq(event.losers.any()),
            event_refuses.eq(event.refuses & ~event_dooms),
            event_frees.eq(event.frees & ~event_dooms),
        ]
        first_free = Signal(range(depth))
        oldest = Signal(range(depth))  # `left` are of this one
        left = Signal(slots)
        queued = Signal(range(depth))
        dooms_somebody = Signal()
        # A refusal waits for a clock cycle of its own, and who is to be woken by the token until there is nothing else.
        refusal = Signal()
        refusal_slot = Signal(p.slot_bits)
        refusal_key = Signal(p.key_bits)
        tells_refusal = Signal()
        frees = Signal()
        free = Mux(self.holds.any(), 0, refused & parked)
        may_free = Signal()
        idle = Signal()
        m.d.comb += [
            dooms_somebody.eq(fresh.any()),
            tells_refusal.eq(refusal & ~dooms_somebody),
            idle.eq((queued == 0) & ~left.any() & ~refusal),
            may_free.eq(idle & free.any()),
            frees.eq(may_free & ~dooms_somebody),
            put.en.eq(1),
            put.addr.eq(first_free),
            put.data.losers.eq(fresh),
            put.data.others.eq(Mux(refusal, per_slot.one_hot(refusal_slot, 1), free)),
            put.data.first.eq(lane_dooms[0]),
            put.data.keys.eq(self.keys),
            put.data.key_known.eq(~(self.floor_raised | self.late | self.epoch_ended)),
            put.data.refuses.eq(refusal),
            put.data.frees.eq(may_free),
            put.data.by_slot.eq(self.hits.as_value().any() & self.winner_known),
            put.data.winner.eq(self.winner),
            put.data.holder.eq(self.holder),
            put.data.epoch.eq(self.epoch),
            put.data.count.eq(self.count),
            queued.eq(first_free - oldest),
            self.settled.eq(idle & ~frees),
        ]
        with m.If(self.refuse):
            m.d.sync += [refusal.eq(1), refusal_slot.eq(self.decided_slot), refusal_key.eq(self.refuse_key)]
        with m.Elif(tells_refusal):
            m.d.sync += refusal.eq(0)
        with m.If(dooms_somebody | refusal | may_free):
            m.d.sync += first_free.eq(first_free + 1)

        # --- One loser a clock cycle ------------------------------------------------------------------------------
        served = Signal(slots)
        serves = Signal()
        begun = Signal()
        number = Signal(p.slot_bits)
        # A slot that has parked may be woken now, and only one can be.
        woken_early = Signal()
        early_slot = Signal(p.slot_bits)
        m.d.comb += [
            get.addr.eq(oldest),
            serves.eq(left.any() & (self.log_ready | queued[-1] | event_frees) & ~woken_early),
            served.eq(per_slot.one_hot(number, serves)),
            tells.eq(Mux(event_refuses | event_frees, 0, served)),
        ]
        m.d.sync += left.eq(left & ~served)
        with m.If(~left.any()):
            with m.If(begun):
                m.d.sync += [begun.eq(0), oldest.eq(oldest + 1)]
            with m.Elif(queued != 0):
                m.d.sync += [begun.eq(1), left.eq(Mux(event_dooms, event.losers, event.others))]
        for slot in reversed(range(slots)):
            with m.If(left[slot]):
                m.d.comb += number.eq(slot)
        is_doomed = doomed.bit_select(number, 1)
        event_key = Mux(event.first.bit_select(number, 1), event.keys[0], event.keys[1])
        m.d.comb += [
            self.log_loser.eq(number),
            self.log_doom.by_slot.eq(Mux(event_dooms, event.by_slot, event_refuses)),
            self.log_doom.winner.eq(Mux(event_dooms, event.winner, event.holder)),
            # The key of a refusal is lost if there is another one before it is told.
            self.log_doom.key_known.eq(Mux(event_refuses, refusal_slot == number, event.key_known & ~event_frees)),
            self.log_doom.key.eq(Mux(event_refuses, refusal_key, event_key)),
            self.log_doom.epoch.eq(event.epoch),
            self.log_doom.count.eq(event.count),
            self.log.eq(serves & self.log_ready & ~event_frees),
            self.doomed_one.eq(~event_refuses),
        ]
        shown_layout = data.StructLayout(
            {"key_known": 1, "key": p.key_bits, "epoch": EPOCH_BITS, "count": p.timestamp_bits}
        )
        m.submodules.dooms = dooms = memory.Memory(shape=shown_layout, depth=slots, init=[])
        doom_write = dooms.write_port()
        doom_read = dooms.read_port(domain="comb")
        m.d.comb += [
            doom_write.en.eq(serves),
            doom_write.addr.eq(number),
            doom_read.addr.eq(self.look_slot),
            *(doom_write.data[name].eq(self.log_doom[name]) for name, _ in shown_layout),
            *(self.state.doom[name].eq(doom_read.data[name]) for name, _ in shown_layout),
        ]

        # --- Wakes ------------------------------------------------------------------------------------------------
        parks = Mux(self.park, by_bus, 0)
        wakes = Signal()
        m.d.sync += [woken_early.eq(self.park & told.bit_select(self.slot, 1)), early_slot.eq(self.slot)]
        m.d.comb += [
            wakes.eq(woken_early | (serves & parked.bit_select(number, 1) & (is_doomed | event_frees))),
            self.woke_one.eq(wakes),
            self.woken_slot.eq(Mux(woken_early, early_slot, number)),
        ]
        m.submodules.sequences = sequences = memory.Memory(shape=SEQUENCE_BITS, depth=slots, init=[])
        sequence_write = sequences.write_port()
        sequence_now = sequences.read_port(domain="comb")
        sequence_read = sequences.read_port(domain="comb")
        m.d.comb += [
            sequence_now.addr.eq(self.woken_slot),
            sequence_write.addr.eq(self.woken_slot),
            sequence_write.data.eq(sequence_now.data + 1),
            sequence_write.en.eq(wakes),
            sequence_read.addr.eq(self.look_slot),
            self.state.wake_sequence.eq(sequence_read.data),
        ]

        # A page shows at once that its slot is doomed, and so parked no more, and later why.
        is_doomed_now = doomed.bit_select(self.look_slot, 1)
        m.d.comb += [
            self.state.doomed.eq(is_doomed_now),
            self.state.parked.eq(parked.bit_select(self.look_slot, 1) & ~is_doomed_now),
            self.state.told.eq(~untold.bit_select(self.look_slot, 1)),
        ]

        m.d.sync += [
            in_flight.eq(in_flight & ~ends | begins),
            doomed.eq((doomed | fresh) & ~over),
            revalidate.eq((revalidate | fresh | uncertain) & ~over),
            refused.eq(refused & ~over | Mux(self.refuse, decided, 0)),
            untold.eq(untold & ~tells | fresh),
            parked.eq((parked & ~Mux(wakes, served, 0) & ~Mux(self.unpark, by_bus, 0) | parks & ~told) & ~over),
        ]
        return m

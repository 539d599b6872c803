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
    a word of LUT RAM that is written once, with both lanes' keys, and that each new loser points to. The losers then
    come one a clock cycle, lowest slot first: the event is copied to the slot's own doom, which its page shows, and
    handed to the conflict log. Every event has a loser that was not doomed before, so there are never more of them
    waiting than slots, and twice that many words are enough. A slot is woken behind its doom in the same way.

    When the irrevocable token becomes free, the slots that it refused are woken by an event that dooms nobody.

    Latency: ``doomed`` 1 clock cycle behind its cause; the page 2 clock cycles, and a wake 3, more by the number of
    slots that it happens to at once. Throughput: any number of causes per clock cycle, of each kind one.
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
                #: Strobe: the snapshot of ``late_slot`` is not of this epoch.
                "late": In(1),
                "late_slot": In(p.slot_bits),
                #: Slots that have announced a key.
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

        def lowest(vector):
            return vector & -vector

        def number_of(bits):
            """Of the only bit that is set."""
            number = Signal(p.slot_bits, name=f"{bits.name}_number")
            with m.Switch(bits):
                for slot in range(slots):
                    with m.Case(1 << slot):
                        m.d.comb += number.eq(slot)
            return number

        in_flight, revalidate = self.in_flight, self.revalidate
        doomed = Signal(slots)
        parked = Signal(slots)
        refused = self.refused
        by_bus = per_slot.one_hot(self.slot, 1)
        decided = per_slot.one_hot(self.decided_slot, 1)
        begins = Mux(self.begin, by_bus, 0)
        parks = Mux(self.park, by_bus, 0)
        unparks = Mux(self.unpark, by_bus, 0)
        ends = Mux(self.end, decided, 0) | Mux(self.discard, by_bus, 0)
        over = Signal(slots)
        m.d.comb += over.eq(ends | begins)

        # Who is doomed now, by which lane's key or by any.
        vulnerable = Signal(slots)
        m.d.comb += vulnerable.eq(in_flight & ~self.holds & ~over)
        announcer = per_slot.one_hot(self.announcer, 1)
        lane_dooms = [(self.hits[lane] | Mux(self.conflicts[lane], announcer, 0)) & vulnerable for lane in range(LANES)]
        floor_dooms = Mux(self.floor_raised, self.logged, 0)
        late_dooms = per_slot.one_hot(self.late_slot, self.late)
        other_dooms = (floor_dooms | late_dooms | self.epoch_ended.replicate(slots)) & vulnerable
        any_doom = lane_dooms[0] | lane_dooms[1] | other_dooms
        fresh = Signal(slots)
        m.d.comb += fresh.eq(any_doom & ~doomed)
        uncertain = Mux(self.uncertain.any(), announcer, 0) | Mux(self.fault, self.logged, 0)

        # Who is woken because the token is free. A refusal that waits for its event is not woken before it.
        free = Signal(slots)
        refusal = Signal()
        refusal_slot = Signal(p.slot_bits)
        refusal_key = Signal(p.key_bits)
        held = self.holds.any()
        m.d.comb += free.eq(Mux(held, 0, refused & parked))

        m.d.sync += [
            in_flight.eq(in_flight & ~ends | begins),
            doomed.eq((doomed | fresh) & ~over),
            revalidate.eq((revalidate | any_doom | uncertain) & ~over),
            refused.eq(refused & ~over | Mux(self.refuse, decided, 0)),
        ]

        # --- Events -----------------------------------------------------------------------------------------------
        event_layout = data.StructLayout(
            {
                "keys": data.ArrayLayout(p.key_bits, LANES),
                "by_slot": 1,
                "winner": p.slot_bits,
                "epoch": EPOCH_BITS,
                "count": p.timestamp_bits,
            }
        )
        depth = 2 * max(2, 1 << (slots - 1).bit_length())
        m.submodules.events = events = memory.Memory(shape=event_layout, depth=depth, init=[])
        put = events.write_port()
        get = events.read_port(domain="comb")
        newest_event = Signal(range(depth))
        # Each loser's event, the lane of its key, whether it has one, and whether it goes to the conflict log.
        pointers = [
            Signal(
                data.StructLayout({"event": range(depth), "lane": 1, "key_known": 1, "logs": 1}), name=f"pointer_{slot}"
            )
            for slot in range(slots)
        ]
        waiting = Signal(slots)
        dooms_somebody = Signal()
        tells_refusal = Signal()
        arriving = Signal(slots)
        with m.If(self.refuse):
            m.d.sync += [refusal.eq(1), refusal_slot.eq(self.decided_slot), refusal_key.eq(self.refuse_key)]
        with m.Elif(tells_refusal):
            m.d.sync += refusal.eq(0)
        m.d.comb += [
            dooms_somebody.eq(fresh.any()),
            # In a clock cycle of its own.
            tells_refusal.eq(refusal & ~dooms_somebody),
            arriving.eq(fresh | Mux(tells_refusal, per_slot.one_hot(refusal_slot, 1), 0)),
            put.en.eq(arriving.any() | free.any()),
            put.addr.eq(newest_event),
            put.data.keys[0].eq(Mux(dooms_somebody, self.keys[0], refusal_key)),
            put.data.keys[1].eq(self.keys[1]),
            put.data.by_slot.eq(Mux(dooms_somebody, self.hits.as_value().any() & self.winner_known, held)),
            put.data.winner.eq(Mux(dooms_somebody, self.winner, self.holder)),
            put.data.epoch.eq(self.epoch),
            put.data.count.eq(self.count),
        ]
        with m.If(put.en):
            m.d.sync += newest_event.eq(newest_event + 1)
        for slot in range(slots):
            pointer = pointers[slot]
            with m.If(arriving[slot] | free[slot]):
                m.d.sync += [
                    pointer.event.eq(newest_event),
                    pointer.lane.eq(~lane_dooms[0][slot] & fresh[slot]),
                    pointer.key_known.eq(Mux(fresh[slot], lane_dooms[0][slot] | lane_dooms[1][slot], arriving[slot])),
                    pointer.logs.eq(arriving[slot]),
                ]

        # --- One loser a clock cycle ------------------------------------------------------------------------------
        served = Signal(slots)
        m.d.comb += served.eq(Mux(self.log_ready, lowest(waiting), 0))
        served_number = number_of(served)
        m.d.sync += waiting.eq(waiting & ~served | arriving | free)
        pointer = Signal.like(pointers[0], name="pointer")
        with m.Switch(served_number):
            for slot in range(slots):
                with m.Case(slot):
                    m.d.comb += pointer.eq(pointers[slot])
        event = get.data
        m.d.comb += [
            get.addr.eq(pointer.event),
            self.log_loser.eq(served_number),
            self.log_doom.by_slot.eq(event.by_slot),
            self.log_doom.winner.eq(event.winner),
            self.log_doom.key_known.eq(pointer.key_known),
            self.log_doom.key.eq(Mux(pointer.key_known, event.keys[pointer.lane], 0)),
            self.log_doom.epoch.eq(event.epoch),
            self.log_doom.count.eq(event.count),
            self.log.eq(served.any() & pointer.logs),
            self.doomed_one.eq((served & doomed).any() & pointer.logs),
        ]
        m.submodules.dooms = dooms = memory.Memory(shape=doom_layout(p), depth=slots, init=[])
        doom_write = dooms.write_port()
        doom_read = dooms.read_port(domain="comb")
        m.d.comb += [
            doom_write.en.eq(served.any()),
            doom_write.addr.eq(served_number),
            doom_write.data.eq(self.log_doom),
            doom_read.addr.eq(self.look_slot),
        ]
        shown = Signal(slots)
        m.d.sync += shown.eq((shown | served & doomed) & ~over)

        # --- One sleeper a clock cycle ----------------------------------------------------------------------------
        # Freed slots are woken when their event has been copied.
        freed = Signal(slots)
        wakes = Signal(slots)
        m.d.comb += wakes.eq(lowest((parked & shown | freed & ~waiting) & ~over & ~unparks))
        m.d.sync += [
            freed.eq((freed | free) & ~(wakes | over)),
            parked.eq((parked | parks) & ~(wakes | over | unparks | free)),
            self.woke_one.eq(wakes.any()),
        ]
        wake_number = number_of(wakes)
        m.d.sync += self.woken_slot.eq(wake_number)
        m.submodules.sequences = sequences = memory.Memory(shape=SEQUENCE_BITS, depth=slots, init=[])
        sequence_write = sequences.write_port()
        sequence_now = sequences.read_port(domain="comb")
        sequence_read = sequences.read_port(domain="comb")
        m.d.comb += [
            sequence_now.addr.eq(wake_number),
            sequence_write.addr.eq(wake_number),
            sequence_write.data.eq(sequence_now.data + 1),
            sequence_write.en.eq(wakes.any()),
            self.settled.eq(~(waiting | wakes | free).any() & ~refusal),
            sequence_read.addr.eq(self.look_slot),
            self.state.doomed.eq(shown.bit_select(self.look_slot, 1)),
            self.state.parked.eq((parked | freed).bit_select(self.look_slot, 1)),
            self.state.wake_sequence.eq(sequence_read.data),
            self.state.doom.eq(doom_read.data),
        ]
        return m

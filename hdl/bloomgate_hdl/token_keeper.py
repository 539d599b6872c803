"""Who has the irrevocable token, and who gets it next."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.in_flight import OLDEST, PASSED_OVER, grant_limit
from bloomgate.parameters import Parameters
from bloomgate.registers import RequestKind

from bloomgate_hdl.flight_port import SEQUENCE_BITS, WATCHDOG_BITS
from bloomgate_hdl.per_slot import PerSlot

__all__ = ["TokenKeeper"]


class TokenKeeper(wiring.Component):
    """The token as bloomgate.in_flight describes it: given to the oldest of those who wait.

    Ages are in LUT RAM and are gone through one a clock cycle: first to find the oldest, from the slot behind the one
    that was chosen last; then again, and those who were passed over grow older. The request for the token of the chosen
    slot is the only one that the scheduler sees; its verdict says whether the slot has it. A verdict on a request takes
    its clock cycle from the search.

    Near the end of the epoch nobody is chosen: ``ends_epoch`` asks for the next one, where those who wait are refused.

    Latency: 2 clock cycles for each slot from a request for a free token until the scheduler sees it.
    Reset state: free, nobody waits, everybody is of age 0.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        p = parameters
        super().__init__(
            {
                #: See SlotFlightSignature.
                "slot": In(p.slot_bits),
                "begin": In(1),
                "submit": In(1),
                "kind": In(2),
                "discard": In(1),
                #: Strobe: the request of ``decided_slot`` has its verdict: whether it was committed, whether its
                #: transaction goes on, so that it was granted the token or has guarded a key, and whether it ends one
                #: that was in flight.
                "decided": In(1),
                "decided_slot": In(p.slot_bits),
                "committed": In(1),
                "keeps": In(1),
                "ends": In(1),
                #: The newest timestamp's count, and whether the last epoch is over.
                "count": In(p.timestamp_bits),
                "exhausted": In(1),
                #: Strobe: the epoch has ended.
                "epoch_ended": In(1),
                #: Strobe: take the token away; and clock cycles for which it is left to a holder, 0 for ever.
                "revoke": In(1),
                "watchdog": In(WATCHDOG_BITS),
                #: Requests that the scheduler must not see.
                "hidden": Out(p.slots),
                "waiting": Out(p.slots),
                "held": Out(1),
                "holder": Out(p.slot_bits),
                "holds": Out(p.slots),
                "revoked": Out(p.slots),
                "grants": Out(SEQUENCE_BITS),
                #: Somebody waits for the free token too near the end of the epoch: that has to end.
                "ends_epoch": Out(1),
                #: Nobody is about to be chosen, or has been and has no verdict yet.
                "settled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        per_slot = PerSlot(m, p.slots)

        by_bus = per_slot.one_hot(self.slot, 1)
        decided = per_slot.one_hot(self.decided_slot, self.decided)
        discarded = Mux(self.discard, by_bus, 0)
        waiting = self.waiting
        asks = self.submit & (self.kind == RequestKind.TOKEN.value)
        m.d.sync += waiting.eq((waiting | Mux(asks, by_bus, 0)) & ~decided & ~discarded)

        # --- Who has it -------------------------------------------------------------------------------------------
        held = self.held
        held_for = Signal(WATCHDOG_BITS)
        expired = Signal()
        over = (decided | discarded) & self.holds
        gives_back = Signal()
        m.d.comb += [
            self.holds.eq(per_slot.one_hot(self.holder, held)),
            gives_back.eq(over.any() & ~(self.decided & self.keeps)),
        ]
        m.d.sync += [
            # At the end of an epoch, for who was granted it since a reset took it from its holder.
            expired.eq(held & (self.epoch_ended | (held_for == self.watchdog) & (self.watchdog != 0))),
            held_for.eq(Mux(held, held_for + 1, 0)),
        ]
        revoked = Mux(self.revoke | expired, self.holds, 0)
        ends = Mux(self.keeps, 0, decided) | discarded | Mux(self.begin, by_bus, 0)
        m.d.sync += self.revoked.eq((self.revoked | revoked) & ~ends)
        with m.If(self.decided & self.keeps & ~held):
            m.d.sync += [held.eq(1), self.holder.eq(self.decided_slot), self.grants.eq(self.grants + 1)]
        with m.Elif(gives_back | self.revoke | expired):
            m.d.sync += held.eq(0)

        # --- Who is next ------------------------------------------------------------------------------------------
        age_bits = OLDEST.bit_length()
        ages = per_slot.words("ages", age_bits)
        last = p.slots - 1
        place = Signal(range(max(p.slots, 2)))
        step = Signal(range(max(p.slots, 2)))
        oldest = Signal(age_bits)
        found = Signal()
        chosen = Signal(p.slot_bits, init=last)
        near_end = Signal()
        m.d.sync += near_end.eq((self.count >= grant_limit(p.max_count)) & ~self.exhausted)

        looked_at = Mux(self.decided, self.decided_slot, place)
        age = Signal(age_bits)
        grown = Signal(age_bits + 1)
        amount = Signal(range(PASSED_OVER + 1))
        write = ages.write_port()
        m.d.comb += [
            age.eq(per_slot.word(ages, looked_at)),
            amount.eq(Mux(self.decided, 1, PASSED_OVER)),
            grown.eq(age + amount),
            write.addr.eq(looked_at),
            write.data.eq(Mux(grown > OLDEST, OLDEST, grown)),
        ]
        with m.If(self.decided):
            m.d.comb += write.en.eq(self.ends)
            with m.If(self.committed):
                m.d.comb += write.data.eq(0)

        waits = waiting.bit_select(place, 1)
        shown = Signal(p.slots)  # the one that was chosen
        m.d.sync += self.ends_epoch.eq(0)
        with m.FSM(name="token"):

            def go_through(then):
                m.d.sync += [place.eq(Mux(place == last, 0, place + 1)), step.eq(step + 1)]
                with m.If(step == last):
                    m.d.sync += step.eq(0)
                    then()

            with m.State("FREE"):
                m.d.sync += [place.eq(Mux(chosen == last, 0, chosen + 1)), step.eq(0), oldest.eq(0), found.eq(0)]
                with m.If(waiting.any() & ~held):
                    with m.If(near_end):
                        m.d.sync += self.ends_epoch.eq(1)
                    with m.Else():
                        m.next = "SEARCH"
                with m.Else():
                    m.d.comb += self.settled.eq(1)

            with m.State("SEARCH"):
                with m.If(~self.decided):
                    with m.If(waits & (~found | (age > oldest))):
                        m.d.sync += [found.eq(1), oldest.eq(age), chosen.eq(place)]

                    def searched():
                        m.next = "PASS"

                    go_through(searched)

            with m.State("PASS"):
                with m.If(~self.decided):
                    m.d.comb += write.en.eq(waits & (place != chosen))

                    def passed():
                        m.next = "CHOSEN"
                        m.d.sync += shown.eq(per_slot.one_hot(chosen, 1))

                    go_through(passed)

            with m.State("CHOSEN"):
                # It has its verdict, or does not want it any more.
                with m.If((waiting & shown) == 0):
                    m.next = "FREE"
                    m.d.sync += shown.eq(0)

        m.d.comb += self.hidden.eq(waiting & ~shown)
        return m

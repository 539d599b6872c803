"""Transactions in flight: what is announced, who is doomed and woken, who has the irrevocable token."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, LANES, Parameters
from bloomgate.registers import RequestKind
from bloomgate.verdict import Reason

from bloomgate_hdl.announcer import Announcer
from bloomgate_hdl.flight_port import SlotFlightSignature, TokenSignature, flight_events_layout
from bloomgate_hdl.flight_table import FlightTable
from bloomgate_hdl.slot_port import request_layout, verdict_layout
from bloomgate_hdl.token_keeper import TokenKeeper
from bloomgate_hdl.validation_pipeline import KeyOperation, outcome_layout

__all__ = ["Flights"]


class Flights(wiring.Component):
    """Announcer, FlightTable and TokenKeeper, between the pages and the commit arbiter.

    A transaction is in flight from ANNOUNCE to its verdict or DISCARD. Its set in the slot filter is emptied when it
    begins. Latency and reset state: as those three have it.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        p = parameters
        super().__init__(
            {
                "pages": In(SlotFlightSignature(p)),
                "token": In(TokenSignature(p)),
                "events": Out(flight_events_layout(p)),
                #: ``events.conflict`` can be taken.
                "events_ready": In(1),
                #: Nothing that has happened will still doom or wake anybody, or give anybody the token. ``busy``: the
                #: arbiter decides or inserts.
                "settled": Out(1),
                "busy": In(1),
                #: Slots whose pending request the scheduler must not see yet.
                "hidden": Out(p.slots),
                #: Slot that the scheduler takes a request of, if ``takes``; and its request as its page has it. While
                #: the scheduler takes none, another slot is looked at.
                "takes": In(1),
                "take_slot": In(p.slot_bits),
                "request_slot": Out(p.slot_bits),
                "request": In(request_layout(p)),
                "skip_count": Out(range(p.aperture_depth + 1)),
                #: Strobe: a request from a slot page has its verdict; see CommitArbiter.
                "decided": In(1),
                "decided_slot": In(p.slot_bits),
                "decided_keeps": In(1),
                "verdict": In(verdict_layout(p)),
                #: Strobe: the verdict ends a transaction in flight.
                "ends": Out(1),
                #: To and from the CommitArbiter, see there.
                "in_flight": Out(p.slots),
                "logged": Out(p.slots),
                "revalidate": Out(p.slots),
                "holds": Out(p.slots),
                "revoked": Out(p.slots),
                "announce": Out(1),
                "announce_word": Out(range(p.aperture_depth // LANES)),
                "announce_lanes": Out(LANES),
                "announce_late": Out(1),
                "contended": In(1),
                "inserting": In(1),
                "winner": In(p.slot_bits),
                "winner_known": In(1),
                "floor_rises": In(1),
                "fault": In(1),
                "epoch_ended": In(1),
                "reset_begins": In(1),
                "ends_epoch": Out(1),
                "exhausted": In(1),
                "epoch": In(EPOCH_BITS),
                "count": In(p.timestamp_bits),
                #: To and from the ValidationPipeline.
                "ready": In(1),
                "outcome": In(outcome_layout(p)),
                "clear": Out(1),
                "scrubbing": In(p.slots),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        m.submodules.announcer = announcer = Announcer(p)
        m.submodules.table = table = FlightTable(p)
        m.submodules.keeper = keeper = TokenKeeper(p)
        pages, outcome = self.pages, self.outcome

        ends = Signal()
        m.d.comb += [
            ends.eq(self.decided & ~self.decided_keeps),
            self.ends.eq(ends & table.in_flight.bit_select(self.decided_slot, 1)),
            self.clear.eq(pages.announce & ~table.in_flight.bit_select(pages.slot, 1)),
            self.in_flight.eq(table.in_flight),
            self.revalidate.eq(table.revalidate),
            self.holds.eq(keeper.holds),
            self.revoked.eq(keeper.revoked),
            self.hidden.eq(keeper.hidden | announcer.held_back),
        ]

        # --- Announcing -------------------------------------------------------------------------------------------
        for name in ("slot", "announce", "pause", "append", "submit", "kind", "discard"):
            m.d.comb += getattr(announcer, name).eq(getattr(pages, name))
        m.d.comb += [
            announcer.begin.eq(self.clear),
            announcer.ends.eq(ends),
            announcer.keeps.eq(self.decided & self.decided_keeps),
            announcer.decided_slot.eq(self.decided_slot),
            announcer.barred.eq(self.scrubbing),
            self.request_slot.eq(Mux(self.takes, self.take_slot, announcer.look_slot)),
            announcer.look_granted.eq(~self.takes),
            announcer.position_slot.eq(self.request_slot),
            announcer.read_count.eq(self.request.read_count),
            announcer.ready.eq(self.ready),
            announcer.contended.eq(self.contended),
            announcer.forbidden.eq(self.inserting),
            self.announce.eq(announcer.visits),
            self.announce_word.eq(announcer.word),
            self.announce_lanes.eq(announcer.lanes),
            self.announce_late.eq(self.request.snapshot_epoch != self.epoch),
            self.logged.eq(announcer.logged),
        ]
        # What the commit of a transaction need not validate: nothing, what was announced, or all.
        with m.If(self.request.kind == RequestKind.COMMIT.value):
            with m.If((keeper.holds | keeper.revoked).bit_select(self.request_slot, 1)):
                m.d.comb += self.skip_count.eq(self.request.read_count)
            with m.Elif((announcer.logged & ~table.revalidate).bit_select(self.request_slot, 1)):
                m.d.comb += self.skip_count.eq(announcer.position)

        # --- Dooms and wakes --------------------------------------------------------------------------------------
        lanes = list(enumerate(outcome.beat.lanes))
        announced = Cat(lane.operation == KeyOperation.ANNOUNCE for _, lane in lanes)
        for name in ("slot", "discard", "park", "unpark", "snapshot"):
            m.d.comb += getattr(table, name).eq(getattr(pages, name))
        for name in ("winner", "winner_known", "fault", "epoch_ended", "epoch", "count"):
            m.d.comb += getattr(table, name).eq(getattr(self, name))
        m.d.comb += [
            table.begin.eq(self.clear),
            table.end.eq(ends),
            table.refuse.eq(self.ends & (self.verdict.reason == Reason.IRREVOCABLE.value)),
            table.decided_slot.eq(self.decided_slot),
            table.refuse_key.eq(self.verdict.conflict_key),
            table.announcer.eq(outcome.beat.slot),
            # A key that was lost may be any.
            table.conflicts.eq(
                announced & Cat(outcome.filter[number].conflict | lane.key_bad for number, lane in lanes)
            ),
            table.uncertain.eq(announced & Cat(outcome.filter[number].bad_words != 0 for number, _ in lanes)),
            table.late.eq(outcome.beat.late),
            table.logged.eq(announcer.logged),
            table.floor_raised.eq(self.floor_rises),
            table.holds.eq(keeper.holds),
            table.holder.eq(keeper.holder),
        ]
        for number, lane in lanes:
            m.d.comb += table.keys[number].eq(lane.key)
            with m.If(lane.operation == KeyOperation.INSERT):
                m.d.comb += table.hits[number].eq(outcome.hits[number])

        # --- The token --------------------------------------------------------------------------------------------
        for name in ("slot", "submit", "kind", "discard"):
            m.d.comb += getattr(keeper, name).eq(getattr(pages, name))
        m.d.comb += [
            keeper.begin.eq(self.clear),
            keeper.decided.eq(self.decided),
            keeper.decided_slot.eq(self.decided_slot),
            keeper.committed.eq(self.verdict.committed),
            keeper.keeps.eq(self.decided_keeps),
            keeper.ends.eq(self.ends),
            keeper.count.eq(self.count),
            keeper.exhausted.eq(self.exhausted),
            self.ends_epoch.eq(keeper.ends_epoch),
            keeper.revoke.eq(self.token.revoke | self.reset_begins),
            keeper.epoch_ended.eq(self.epoch_ended),
            keeper.watchdog.eq(self.token.watchdog),
            self.token.held.eq(keeper.held),
            self.token.holder.eq(keeper.holder),
            self.token.waiting.eq(keeper.waiting.any()),
            self.token.grants.eq(keeper.grants),
        ]

        # What is in the pipeline has had its effects when it has advanced so often and nothing came behind it.
        quiet = Signal(4)
        with m.If(self.busy | announcer.held_back.any() | ~table.settled | ~keeper.settled):
            m.d.sync += quiet.eq(0)
        with m.Elif(self.ready & ~quiet.all()):
            m.d.sync += quiet.eq(quiet + 1)
        m.d.comb += self.settled.eq(quiet.all())

        # --- What others see --------------------------------------------------------------------------------------
        looked_at = pages.look_slot
        state = pages.state
        m.d.comb += [
            table.look_slot.eq(looked_at),
            state.eq(table.state),
            state.holder.eq(keeper.holds.bit_select(looked_at, 1)),
            state.token_waiting.eq(keeper.waiting.bit_select(looked_at, 1)),
            state.revoked.eq(keeper.revoked.bit_select(looked_at, 1)),
            state.announcing_done.eq(~announcer.held_back.bit_select(looked_at, 1)),
            pages.withdrawable.eq(keeper.hidden),
            pages.in_flight.eq(table.in_flight),
            pages.parkable.eq(table.in_flight | table.refused),
            pages.holds.eq(keeper.holds),
            pages.revoked.eq(keeper.revoked),
            table.log_ready.eq(self.events_ready),
            self.events.conflict.eq(table.log),
            self.events.loser.eq(table.log_loser),
            self.events.doom.eq(table.log_doom),
            self.events.doomed.eq(table.doomed_one),
            self.events.woke.eq(table.woke_one),
            self.events.woken_slot.eq(table.woken_slot),
        ]
        return m

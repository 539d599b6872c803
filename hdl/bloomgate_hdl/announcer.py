"""Which keys of transactions that run are announced next."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import RequestKind

from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.round_robin import RoundRobin

__all__ = ["Announcer"]


class Announcer(wiring.Component):
    """Follows the read sets of slots in announce mode with beats of ANNOUNCE, the slots in turns.

    A beat has the keys of one word of the key log. It takes a clock cycle of the key reader and of the pipeline: any
    one in which nobody else has them, and else one in four. One that it must not have then, it gets later.

    A slot is in announce mode from ``announce`` until ``pause`` or the end of the transaction. COMMIT ends it at once:
    the request validates what was not announced by then. A TOKEN or GUARD is ``held_back`` until everything is.

    ``look_slot`` asks for what slot pages have on a slot in their ``request``; the scheduler goes first.
    Latency: 2 clock cycles from ``append`` to the beat's address. Throughput: a beat per clock cycle, or in two if they
    are all of one slot. Reset state: nobody announces.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        p = parameters
        super().__init__(
            {
                #: Strobe: the transaction of ``slot`` begins; see SlotFlightSignature for the next ones.
                "begin": In(1),
                "slot": In(p.slot_bits),
                "announce": In(1),
                "pause": In(1),
                "append": In(1),
                "submit": In(1),
                "kind": In(2),
                "discard": In(1),
                #: Strobe: the transaction of ``decided_slot`` is over by a verdict; goes on with an empty read set.
                "ends": In(1),
                "keeps": In(1),
                "decided_slot": In(p.slot_bits),
                #: Slots that must not announce for now.
                "barred": In(p.slots),
                #: Slot that is looked at, and its counts, see SlotPages; not ``look_granted``: another one is.
                "look_slot": Out(p.slot_bits),
                "look_granted": In(1),
                "read_count": In(range(p.aperture_depth + 1)),
                #: The pipeline takes a beat; somebody else has one for it; and must have it.
                "ready": In(1),
                "contended": In(1),
                "forbidden": In(1),
                #: Strobe: ``look_slot`` is served: the key reader addresses ``word``, of which ``lanes`` are announced,
                #: if any, with the snapshot that is looked at.
                "visits": Out(1),
                "word": Out(range(p.aperture_depth // LANES)),
                "lanes": Out(LANES),
                #: Slots in flight that have announced a key.
                "logged": Out(p.slots),
                #: Slots in announce mode whose read set was not announced completely.
                "held_back": Out(p.slots),
                #: How many keys a slot has announced, if it has ``logged``; ``look_slot`` while ``look_granted``.
                "position_slot": In(p.slot_bits),
                "position": Out(range(p.aperture_depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        per_slot = PerSlot(m, p.slots)
        m.submodules.round_robin = robin = RoundRobin(p.slots)
        positions = per_slot.words("positions", range(p.aperture_depth + 1))

        announcing = Signal(p.slots)
        logged = self.logged
        due = Signal(p.slots)  # may have keys that were not announced
        looking = Signal()
        looked_at = per_slot.one_hot(self.look_slot, looking)
        allowed = announcing & ~self.barred
        gone = Signal()
        m.d.comb += [
            self.held_back.eq(announcing & due),
            gone.eq(looking & ~allowed.bit_select(self.look_slot, 1)),
            # The one that is looked at is left out: it is known only later whether it has more.
            robin.requests.eq(due & allowed & ~looked_at),
            robin.take.eq(robin.valid & (~looking | self.visits | gone)),
        ]
        with m.If(robin.take):
            m.d.sync += [looking.eq(1), self.look_slot.eq(robin.choice)]
        with m.Elif(self.visits | gone):
            m.d.sync += looking.eq(0)

        # One clock cycle in four, also for the ones behind it in which it was forbidden.
        most = p.aperture_depth
        waited = Signal(range(most + 1))
        enough = Signal()
        m.d.comb += [
            enough.eq(waited >= 3),
            self.visits.eq(
                looking
                & ~gone
                & self.look_granted
                & ~self.keeps
                & self.ready
                & ~self.forbidden
                & (~self.contended | enough)
            ),
        ]
        with m.If(~looking & ~robin.valid):
            m.d.sync += waited.eq(0)
        with m.Elif(self.contended):
            with m.If(self.visits):
                m.d.sync += waited.eq(waited - 3)
            with m.Elif(waited != most):
                m.d.sync += waited.eq(waited + 1)

        position = Signal.like(self.position)
        passes = Signal()  # the word is full
        more = Signal()
        following = Signal.like(self.position)
        m.d.comb += [
            self.position.eq(per_slot.word(positions, self.position_slot)),
            position.eq(Mux(logged.bit_select(self.look_slot, 1), self.position, 0)),
            self.word.eq(position // LANES),
            passes.eq(position // LANES != self.read_count // LANES),
            following.eq(Mux(passes, (self.word + 1) * LANES, self.read_count)),
            self.lanes[0].eq(~position[0] & (position != self.read_count)),
            self.lanes[1].eq(passes),
            more.eq(following != self.read_count),
        ]
        write = positions.write_port()
        m.d.comb += [
            write.en.eq(self.visits | self.keeps),
            write.addr.eq(Mux(self.keeps, self.decided_slot, self.look_slot)),
            write.data.eq(Mux(self.keeps, 0, following)),
        ]

        by_bus = per_slot.one_hot(self.slot, 1)
        visited = per_slot.one_hot(self.look_slot, self.visits)
        ended = per_slot.one_hot(self.decided_slot, self.ends)
        closes = self.pause | self.discard | (self.submit & (self.kind == RequestKind.COMMIT.value))
        m.d.sync += [
            announcing.eq((announcing | Mux(self.announce, by_bus, 0)) & ~Mux(closes, by_bus, 0) & ~ended),
            due.eq(due & ~Mux(more, 0, visited) | Mux(self.announce | self.append, by_bus, 0)),
            logged.eq(
                (logged | Mux(self.lanes.any(), visited, 0)) & ~Mux(self.begin | self.discard, by_bus, 0) & ~ended
            ),
        ]
        return m

"""Announcing by a log in memory: fetches what is before its tail, for the slot pages."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.announced_log_port import AnnouncedLogSignature, LogFetchSignature
from bloomgate_hdl.memory_port import BEAT_BITS, MAX_BEATS
from bloomgate_hdl.per_slot import PerSlot

__all__ = ["LogFollower"]

#: Keys in an aligned block of memory, of which a burst can have all.
_BLOCK_KEYS = MAX_BEATS * LANES


class LogFollower(wiring.Component):
    """Looks at one slot after the other, and fetches what it has announced and is not in its page.

    A burst has what is there of a block. While one that ends with its block is under way, the slot's next one is asked
    for; there is room for two.

    A slot's *position* is how many keys of its log have reached its page. When a transaction ends, its tail falls back
    to it, and what is under way for it is dropped.

    Latency: ``log.advance`` to ``fetch.due`` at most one clock cycle a slot, if nothing else is under way; ``beat`` to
    ``log.key`` 1. Throughput: a key per clock cycle, if memory brings 64 in the time of 64 keys, and none between one
    slot and the next. Reset state: nothing under way.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        p = parameters
        super().__init__(
            {
                "log": In(AnnouncedLogSignature(p)),
                #: Slots whose log can be fetched.
                "allowed": In(p.slots),
                "fetch": Out(LogFetchSignature(p)),
                #: Bursts of ``fetch.slot`` did not come completely, or were not handed on completely.
                "busy": Out(1),
                #: The beat from memory.
                "beat": In(BEAT_BITS),
                #: Nothing is under way, and nothing was due in a whole round.
                "settled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        log, fetch = self.log, self.fetch
        per_slot = PerSlot(m, p.slots)
        count = log.tail.shape()
        tails = per_slot.words("tails", count)
        positions = per_slot.words("positions", count)
        slot = fetch.slot

        def behind(of):
            return per_slot.word(tails, of) != per_slot.word(positions, of)

        # --- The next burst -----------------------------------------------------------------------------------------
        stop = Signal(count)  # behind the last key that was asked for
        index = Signal(count)  # of the next key
        stale = Signal()  # the transaction that wanted them has ended
        lost = Signal()
        tail = per_slot.word(tails, slot)
        position = per_slot.word(positions, slot)
        start = Signal(count)
        end = Signal(count)  # of what the burst brings
        block_bits = _BLOCK_KEYS.bit_length() - 1
        whole = Signal()
        follows = Signal()  # a burst may follow the one that is under way: that is a whole block, handed on at present
        m.d.comb += [
            log.behind.eq(behind(log.slot)),
            log.look_behind.eq(behind(log.look_slot)),
            follows.eq((stop[:block_bits] == 0) & ((stop ^ index) >> block_bits)[:1].any() & ~stale),
            start.eq(Mux(self.busy, stop, position)),
            fetch.due.eq((~self.busy | follows) & (tail != start) & self.allowed.bit_select(slot, 1)),
            whole.eq((tail >> block_bits) != (start >> block_bits)),
            end.eq(Mux(whole, ((start >> block_bits) + 1) << block_bits, tail)),
            fetch.first.eq(start // LANES),
            # Both ends are in one block.
            fetch.beats.eq(
                Mux(whole, MAX_BEATS, (tail[:block_bits] + LANES - 1) // LANES) - start[:block_bits] // LANES
            ),
        ]

        # --- What is under way --------------------------------------------------------------------------------------
        m.submodules.beats_here = beats_here = memory.Memory(shape=BEAT_BITS, depth=2 * MAX_BEATS, init=[])
        store = beats_here.write_port()
        load = beats_here.read_port(domain="comb")
        arrived = Signal(range(p.aperture_depth // LANES + 1))  # number of the beat that comes next
        behind_last = Signal.like(arrived)  # the beat behind what was asked for, known a clock cycle later
        just_fetched = Signal()
        complete = Signal()
        m.d.sync += [behind_last.eq((stop + LANES - 1) // LANES), just_fetched.eq(fetch.fetched)]
        ended = Signal()
        ends = Signal()
        dropped = Signal()
        key = log.key
        here = Signal()  # the beat with the next key has come
        m.d.comb += [
            store.en.eq(fetch.beat_valid),
            store.addr.eq(arrived),
            store.data.eq(self.beat),
            load.addr.eq(index // LANES),
            key.eq(load.data.word_select(index[: (LANES - 1).bit_length()], len(key))),
            complete.eq((arrived == behind_last) & ~just_fetched),
            ended.eq(index == stop),
            log.key_slot.eq(slot),
            log.key_lost.eq(lost),
            # With a beat all is lost that was not handed on before.
            here.eq(arrived != index // LANES),
            log.key_valid.eq(self.busy & ~ended & here & ~(stale | dropped)),
            dropped.eq(log.drop & (log.slot == slot)),
            ends.eq(complete & (ended | stale) & ~log.begin),
        ]
        with m.If(fetch.beat_valid):
            m.d.sync += [arrived.eq(arrived + 1), lost.eq(lost | fetch.beat_failed)]
        with m.If(log.key_valid & log.key_ready):
            m.d.sync += index.eq(Mux(lost, stop, index + 1))
        with m.If(dropped):
            m.d.sync += stale.eq(1)
        with m.If(fetch.fetched):
            m.d.sync += [self.busy.eq(1), stop.eq(end)]
            with m.If(~self.busy):
                m.d.sync += [arrived.eq(fetch.first), index.eq(position), lost.eq(0), stale.eq(dropped)]
        with m.Elif(self.busy & ends):
            m.d.sync += self.busy.eq(0)
        with m.If(~self.busy & ~fetch.due):
            m.d.sync += slot.eq(Mux(slot == p.slots - 1, 0, slot + 1))

        # --- Tails and positions ------------------------------------------------------------------------------------
        write = tails.write_port()
        m.d.comb += [
            write.en.eq(log.begin | log.advance | log.drop),
            write.addr.eq(log.slot),
            write.data.eq(Mux(log.begin, 0, Mux(log.advance, log.tail, per_slot.word(positions, log.slot)))),
        ]
        write = positions.write_port()
        m.d.comb += [
            write.en.eq(log.begin | (self.busy & ends & ~stale & ~dropped)),
            write.addr.eq(Mux(log.begin, log.slot, slot)),
            write.data.eq(Mux(log.begin, 0, stop)),
        ]

        # A round with nothing due behind one in which the last tail came.
        moved = Signal(2)
        moves = Signal()
        just_moved = Signal()
        m.d.sync += just_moved.eq(log.advance | fetch.due)  # late in the clock cycle
        m.d.comb += moves.eq(just_moved | self.busy)
        with m.If(slot == p.slots - 1):
            m.d.sync += moved.eq(moved << 1 | moves)
        with m.Elif(moves):
            m.d.sync += moved[0].eq(1)
        m.d.comb += self.settled.eq((moved == 0) & ~just_moved)
        return m

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
    """Looks at one slot after the other, and fetches what it has announced and is not in its page: a burst at a time.

    A slot's *position* is how many keys of its log have reached its page. When a transaction ends, its tail falls back
    to it, and what is under way for it is dropped.

    Latency: ``log.advance`` to ``fetch.due`` at most one clock cycle a slot, if nothing else is under way; ``beat`` to
    ``log.key`` 1. Throughput: a key per clock cycle while a burst comes, and none from its last key to the next
    burst's first beat. Reset state: nothing under way.
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
                #: The burst of ``fetch.slot`` did not come completely, or was not handed on completely.
                "busy": Out(1),
                #: The beat from memory, and that it is the last of its burst.
                "beat": In(BEAT_BITS),
                "beat_last": In(1),
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
        tail = per_slot.word(tails, slot)
        position = per_slot.word(positions, slot)
        end = Signal(count)  # of what the burst brings
        block_bits = _BLOCK_KEYS.bit_length() - 1
        whole = Signal()
        m.d.comb += [
            log.behind.eq(behind(log.slot)),
            log.look_behind.eq(behind(log.look_slot)),
            fetch.due.eq(~self.busy & (tail != position) & self.allowed.bit_select(slot, 1)),
            whole.eq((tail >> block_bits) != (position >> block_bits)),
            end.eq(Mux(whole, ((position >> block_bits) + 1) << block_bits, tail)),
            fetch.first.eq(position // LANES),
            fetch.beats.eq((end + LANES - 1) // LANES - position // LANES),
        ]

        # --- The burst under way ------------------------------------------------------------------------------------
        m.submodules.beats_here = beats_here = memory.Memory(shape=BEAT_BITS, depth=MAX_BEATS, init=[])
        store = beats_here.write_port()
        load = beats_here.read_port(domain="comb")
        stop = Signal(count)
        index = Signal(count)  # of the next key
        complete = Signal()
        lost = Signal()
        stale = Signal()  # the transaction that wanted it has ended
        ends = Signal()
        dropped = Signal()
        ended = Signal()
        key = log.key
        here = Signal()  # the beat with the next key has come
        m.d.comb += [
            store.en.eq(fetch.beat_valid),
            store.data.eq(self.beat),
            load.addr.eq(index // LANES),
            key.eq(load.data.word_select(index[: (LANES - 1).bit_length()], len(key))),
            ended.eq(index == stop),
            log.key_slot.eq(slot),
            log.key_lost.eq(lost),
            # Of a beat that is lost its whole burst is, when it has come.
            here.eq(complete | ((load.addr != store.addr) & ~lost)),
            log.key_valid.eq(self.busy & ~ended & here & ~(stale | dropped)),
            dropped.eq(log.drop & (log.slot == slot)),
            ends.eq(complete & (ended | stale) & ~log.begin),
        ]
        with m.If(fetch.beat_valid):
            m.d.sync += [
                store.addr.eq(store.addr + 1),
                complete.eq(self.beat_last),
                lost.eq(lost | fetch.beat_failed),
            ]
        with m.If(log.key_valid & log.key_ready):
            m.d.sync += index.eq(Mux(lost, stop, index + 1))
        with m.If(dropped):
            m.d.sync += stale.eq(1)
        with m.If(fetch.fetched):
            m.d.sync += [
                self.busy.eq(1),
                store.addr.eq(fetch.first),
                stop.eq(end),
                index.eq(position),
                lost.eq(0),
                stale.eq(dropped),
            ]
        with m.Elif(ends):
            m.d.sync += [self.busy.eq(0), complete.eq(0)]
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
            write.en.eq(log.begin | (ends & ~stale & ~dropped)),
            write.addr.eq(Mux(log.begin, log.slot, slot)),
            write.data.eq(Mux(log.begin, 0, stop)),
        ]

        # A round with nothing due behind one in which the last tail came.
        moved = Signal(2)
        moves = log.advance | self.busy | fetch.due
        with m.If(slot == p.slots - 1):
            m.d.sync += moved.eq(moved << 1 | moves)
        with m.Elif(moves):
            m.d.sync += moved[0].eq(1)
        m.d.comb += self.settled.eq(moved == 0)
        return m

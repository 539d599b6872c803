"""The conflict log and the statistics of each slot, in one block RAM."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.registers import (
    CONFLICT_ENTRY,
    CONFLICT_ENTRY_BYTES,
    CONFLICT_LOG_ENTRIES,
    CONTROL_PAGE,
    SLOT_STATISTICS,
    SLOT_STATISTICS_BYTES,
)

from bloomgate_hdl.flight_port import doom_layout

__all__ = ["BOOKS_WORD_BITS", "Books"]

_WORD_BITS = 32
_ENTRY_BITS = (CONFLICT_LOG_ENTRIES - 1).bit_length()
_PLACE_BITS = (CONFLICT_ENTRY_BYTES // 4 - 1).bit_length()
_STATISTIC_BITS = (SLOT_STATISTICS_BYTES // 4 - 1).bit_length()
_MAX_SLOT_BITS = 5
#: Width of the number of a word in the books: bank and word of the window BOOKS.
BOOKS_WORD_BITS = (CONTROL_PAGE.window("BOOKS").size // 4 - 1).bit_length() + CONTROL_PAGE.register("BOOKS_BANK")[
    "BANK"
].width
# The two halves, chosen by the most significant bit.
assert _ENTRY_BITS + _PLACE_BITS == _MAX_SLOT_BITS + _STATISTIC_BITS == BOOKS_WORD_BITS - 1

_NUMBERS = {name: number for number, (name, _) in enumerate(SLOT_STATISTICS)}
_CLOCKS_BITS = 16


class Books(wiring.Component):
    """Writes a word each clock cycle; reads go to the other port of the block RAM and disturb nothing.

    A verdict counts in two statistics, each read, added to and written back: 4 clock cycles, in which an entry of the
    conflict log waits. The entry itself takes 4, and the statistic of a doom 2, before the next one can be taken: there
    is always room for a verdict every 5 clock cycles or more. The head of the log counts an entry when all of it can
    be read.

    Latency: ``read_data`` 1 clock cycle behind ``read_word``. Reset state: head 0; what was written is kept.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        slot_bits = parameters.slot_bits
        super().__init__(
            {
                #: Strobe: the validation of a request begins.
                "began": In(1),
                #: Strobe: the request of ``decided_slot`` has its verdict: ``reason``, 0 for a commit. It counts as a
                #: transaction's end only if ``counts``.
                "decided": In(1),
                "decided_slot": In(slot_bits),
                "reason": In(4),
                "counts": In(1),
                #: Strobe, not without ``ready``: ``loser`` was refused or, if ``doomed``, doomed; an entry of the log.
                "conflict": In(1),
                "loser": In(slot_bits),
                "doom": In(doom_layout(parameters)),
                "doomed": In(1),
                "ready": Out(1, init=1),
                #: Entries written to the conflict log, modulo 2**16.
                "head": Out(16),
                "read_word": In(BOOKS_WORD_BITS),
                "read_data": Out(_WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ram = memory.Memory(shape=_WORD_BITS, depth=1 << BOOKS_WORD_BITS, init=[])
        m.submodules.ram = ram
        # Read and write port share address and clock, so that they become one port of the block RAM.
        before = ram.read_port()
        write = ram.write_port()
        host = ram.read_port()
        address = Signal(BOOKS_WORD_BITS)
        m.d.comb += [
            before.addr.eq(address),
            write.addr.eq(address),
            host.addr.eq(self.read_word),
            self.read_data.eq(host.data),
        ]

        # What is to be counted: of the last verdict, and of the last entry of the conflict log.
        clocks = Signal(_CLOCKS_BITS)
        # A clock cycle late: the next request may begin with the decision, and the verdict comes a clock cycle later.
        began = Signal()
        m.d.sync += [began.eq(self.began), clocks.eq(Mux(began, 2, clocks + ~clocks.all()))]
        outcome_owed, clocks_owed, doom_owed = Signal(), Signal(), Signal()
        decided_slot = Signal.like(self.decided_slot, name="counted_slot")
        reason = Signal.like(self.reason, name="counted_reason")
        decided_clocks = Signal.like(clocks)
        loser = Signal.like(self.loser, name="logged_loser")
        doom = Signal(doom_layout(self._parameters), name="logged_doom")
        doomed = Signal(name="logged_doomed")
        filling = Signal()
        place = Signal(_PLACE_BITS)

        # A statistic is chosen and read in one clock cycle, and written in the next one.
        adding = Signal()
        added_to = Signal.like(address)
        amount = Signal.like(clocks)
        statistic = Signal(_STATISTIC_BITS)
        slot = Signal(_MAX_SLOT_BITS)
        owed = Signal()
        m.d.comb += owed.eq(outcome_owed | clocks_owed | doom_owed & ~filling)
        m.d.sync += [adding.eq(owed & ~adding), added_to.eq(address), amount.eq(1)]
        with m.If(outcome_owed):
            m.d.comb += [slot.eq(decided_slot), statistic.eq(reason)]
        with m.Elif(clocks_owed):
            m.d.comb += [slot.eq(decided_slot), statistic.eq(_NUMBERS["validation_clocks"])]
            m.d.sync += amount.eq(decided_clocks)
        with m.Else():
            m.d.comb += [slot.eq(loser), statistic.eq(_NUMBERS["dooms"])]

        words = {
            "SLOTS": Cat(
                (doom_field | Const(0, CONFLICT_ENTRY.register("SLOTS")[name].width))
                for name, doom_field in (
                    ("LOSER", loser),
                    ("WINNER", doom.winner),
                    ("WINNER_KNOWN", doom.by_slot),
                    ("KEY_KNOWN", doom.key_known),
                )
            ),
            "KEY": doom.key,
            "EPOCH": doom.epoch,
            "COUNT": doom.count,
        }
        with m.If(adding):
            m.d.comb += [address.eq(added_to), write.data.eq(before.data + amount), write.en.eq(1)]
        with m.Elif(owed):
            m.d.comb += address.eq(Cat(statistic, slot, 1))
            with m.If(outcome_owed):
                m.d.sync += outcome_owed.eq(0)
            with m.Elif(clocks_owed):
                m.d.sync += clocks_owed.eq(0)
            with m.Else():
                m.d.sync += doom_owed.eq(0)
        with m.Else():
            m.d.comb += [
                address.eq(Cat(place, self.head[:_ENTRY_BITS], 0)),
                write.data.eq(Array(words[item.name] for item in CONFLICT_ENTRY)[place]),
                write.en.eq(filling),
            ]
            with m.If(filling):
                m.d.sync += place.eq(place + 1)
                with m.If(place.all()):
                    m.d.sync += [filling.eq(0), self.head.eq(self.head + 1), doom_owed.eq(doomed)]

        m.d.comb += self.ready.eq(~(filling | doom_owed))
        with m.If(self.conflict):
            m.d.sync += [filling.eq(1), loser.eq(self.loser), doom.eq(self.doom), doomed.eq(self.doomed)]
        with m.If(self.decided):
            m.d.sync += [
                outcome_owed.eq(self.counts),
                clocks_owed.eq(1),
                decided_slot.eq(self.decided_slot),
                reason.eq(self.reason),
                decided_clocks.eq(clocks),
            ]
        return m

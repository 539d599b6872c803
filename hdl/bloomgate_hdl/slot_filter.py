"""The slot filters: which slots may have announced a key in their present transaction?"""

import functools
import operator

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, enum, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES

from bloomgate_hdl.parity import is_bad, parity_of, protected_bits

__all__ = ["SlotFilter", "SlotFilterOperation"]


class SlotFilterOperation(enum.Enum, shape=2):
    """What a lane does with a key in one clock cycle."""

    NONE = 0
    #: Add the key to the set of one slot.
    ANNOUNCE = 1
    #: Ask all slots at once whether it is in theirs.
    LOOKUP = 2


class SlotFilter(wiring.Component):
    """A Bloom filter of announced keys for each slot, all slots side by side in one row of a few banks.

    A row has an entry for each slot: a tag, and its parity. A key is in a slot's set if the tags at its row in all
    banks are the slot's generation, so that a set is emptied by counting the generation up, in one clock cycle, and a
    key is added by writing one entry a bank, without reading first. A tag with bad parity counts as the generation:
    what is in doubt is a hit (design brief, "Slot filters"; Bloom, CACM 1970).

    Generations run from 1 to 2**tag_bits - 1. When a slot's wraps, tags of its first life would look present again,
    so its entries are set to 0, the tag of no generation, row by row in clock cycles in which both lanes are idle, or
    every ``scrub_patience`` clock cycles where there are none. Until then its set is empty and must stay so; the others
    are not disturbed.

    A lookup sees the announcements of earlier clock cycles and may miss those of its own. So whoever announces a key
    queries the recency filter in the same clock cycle, whoever commits one inserts it there in the clock cycle of its
    lookup, and the two never share a clock cycle: then the later one sees the earlier one.

    Latency: 2 clock cycles from acceptance to ``hits``. Throughput: one key per lane and clock cycle while ``ready``.
    Reset state: every set empty, all being scrubbed, which takes rows / 2 clock cycles if nobody is in the way.
    """

    def __init__(self, slots: int, banks: int = 4, rows: int = 1024, tag_bits: int = 8, scrub_patience: int = 16):
        """``rows``: entries of a bank for each slot, a power of two, 2 or more. ``tag_bits``: 2 or more; 8 and its
        parity bit are what a block RAM can write on its own (UG473, "Byte-Wide Write Enable"). ``scrub_patience``:
        clock cycles, 2 or more; a scrub costs others at most one clock cycle in so many. Raises ValueError.
        """
        if rows < 2 or rows & (rows - 1):
            raise ValueError(f"rows must be a power of two, 2 or more, not {rows}")
        if tag_bits < 2:
            raise ValueError(f"tag_bits must be 2 or more, not {tag_bits}")
        if scrub_patience < 2:
            raise ValueError(f"scrub_patience must be 2 or more, not {scrub_patience}")
        self._slots = slots
        self._banks = banks
        self._tag_bits = tag_bits
        self._scrub_patience = scrub_patience
        row_bits = rows.bit_length() - 1
        slot_bits = max(1, (slots - 1).bit_length())
        entry_bits = protected_bits(tag_bits)
        #: Contents of the banks; an entry a slot.
        self.contents = [
            memory.MemoryData(shape=data.ArrayLayout(entry_bits, slots), depth=rows, init=[]) for _ in range(banks)
        ]
        lane = data.StructLayout(
            {
                "operation": SlotFilterOperation,
                # Who announces.
                "slot": slot_bits,
                "rows": data.ArrayLayout(row_bits, banks),
            }
        )
        super().__init__(
            {
                #: One operation a lane, with the key's row in each bank. Accepted when ``ready``. No ANNOUNCE for a
                #: slot whose bit in ``scrubbing`` is set.
                "lanes": In(data.ArrayLayout(lane, LANES)),
                #: The lanes are accepted in this clock cycle.
                "ready": Out(1),
                #: Slots that may have announced the key of the LOOKUP accepted two clock cycles ago; else 0.
                "hits": Out(data.ArrayLayout(slots, LANES)),
                #: Strobe: empty the set of ``clear_slot``. Counts for what is accepted from the next clock cycle on; a
                #: lookup that is under way may answer for either set.
                "clear": In(1),
                "clear_slot": In(slot_bits),
                #: Slots whose entries are being set to 0.
                "scrubbing": Out(slots, init=-1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        slots, banks = self._slots, self._banks
        tag_bits = self._tag_bits

        generations = Array(Signal(tag_bits, name=f"generation_{slot}", init=1) for slot in range(slots))
        wrapped = Signal(slots)
        with m.If(self.clear):
            generation = generations[self.clear_slot]
            m.d.sync += generation.eq(generation + 1)
            with m.If(generation.all()):
                m.d.sync += generation.eq(1)
                m.d.comb += wrapped.bit_select(self.clear_slot, 1).eq(1)

        # A sweep goes through all rows, a lane taking the even ones and the other the odd ones, for the slots that
        # waited for one when it began.
        sweeping = Signal(init=1)
        swept = Signal(slots, init=-1)
        pair = Signal(max(1, len(self.lanes[0].rows[0]) - 1))
        last_pair = (1 << (len(self.lanes[0].rows[0]) - 1)) - 1
        waited = Signal(range(self._scrub_patience))
        sweep = Signal()
        idle = Signal()
        m.d.comb += [
            idle.eq(~Cat(lane.operation != SlotFilterOperation.NONE for lane in self.lanes).any()),
            sweep.eq(sweeping & (idle | (waited == self._scrub_patience - 1))),
            self.ready.eq(~sweep | idle),
        ]
        with m.If(sweep):
            m.d.sync += [waited.eq(0), pair.eq(pair + 1)]
        with m.Elif(sweeping):
            m.d.sync += waited.eq(waited + 1)
        m.d.sync += self.scrubbing.eq(self.scrubbing | wrapped)
        with m.If(sweep & (pair == last_pair)):
            # One that wraps now has to wait for a sweep of its own.
            m.d.sync += [self.scrubbing.eq(self.scrubbing & ~swept | wrapped), sweeping.eq(0), pair.eq(0)]
        with m.Elif(~sweeping & self.scrubbing.any()):
            m.d.sync += [sweeping.eq(1), swept.eq(self.scrubbing)]

        present = Signal(data.ArrayLayout(data.ArrayLayout(slots, banks), LANES))
        for bank, contents in enumerate(self.contents):
            m.submodules[f"bank_{bank}"] = ram = memory.Memory(contents)
            for lane_number, lane in enumerate(self.lanes):
                # Read and write port share address and clock, so that they become one port of the block RAM.
                read = ram.read_port()
                write = ram.write_port(granularity=1)
                row = Signal.like(lane.rows[bank], name=f"row_{bank}_{lane_number}")
                tag = Signal(tag_bits, name=f"tag_{bank}_{lane_number}")
                m.d.comb += [read.en.eq(1), read.addr.eq(row), write.addr.eq(row)]
                with m.If(sweep):
                    m.d.comb += [row.eq(Cat(lane_number == 1, pair)), write.en.eq(swept)]
                with m.Else():
                    m.d.comb += [row.eq(lane.rows[bank]), tag.eq(generations[lane.slot])]
                    with m.If(lane.operation == SlotFilterOperation.ANNOUNCE):
                        m.d.comb += write.en.bit_select(lane.slot, 1).eq(1)
                entry = Cat(tag, parity_of(tag))
                for slot in range(slots):
                    found = read.data[slot]
                    m.d.comb += write.data[slot].eq(entry)
                    # A lookup that read before the sweep was over also finds `scrubbing` set here, since a sweep and a
                    # lookup never share a clock cycle.
                    m.d.sync += present[lane_number][bank][slot].eq(
                        ((found[:tag_bits] == generations[slot]) | is_bad(found, tag_bits)) & ~self.scrubbing[slot]
                    )

        looked_up = Signal(data.ArrayLayout(2, LANES))
        for lane_number, lane in enumerate(self.lanes):
            stages = looked_up[lane_number]
            asks = self.ready & (lane.operation == SlotFilterOperation.LOOKUP)
            m.d.sync += stages.eq(Cat(asks, stages[0]))
            everywhere = functools.reduce(operator.and_, present[lane_number])
            m.d.comb += self.hits[lane_number].eq(Mux(stages[1], everywhere, 0))
        return m

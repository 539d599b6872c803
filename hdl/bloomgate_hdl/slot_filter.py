"""The slot filters: which slots may have announced a key in their present transaction?"""

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES

from bloomgate_hdl.parity import parity_of, protected_bits

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
    key is added by writing one entry a bank, without reading first (design brief, "Slot filters"; Bloom, CACM 1970).

    An entry that is a bit away from the generation's has bad parity, and counts as the generation: what is in doubt is
    a hit. Entries of two generations differ in two bits or more, so the key is looked for by bit and not by bank: it is
    in the set if all banks have the bit that they should have, in all bits but one.

    Generations run from 1 to 2**tag_bits - 1. When a slot's wraps, tags of its first life would look present again,
    so its entries are set to 0, the tag of no generation, row by row in clock cycles in which the first lane is idle,
    or every ``scrub_patience`` clock cycles where there are none. Until then its set must stay empty, and its hits mean
    nothing; the others are not disturbed.

    A lookup sees the announcements of earlier clock cycles and may miss those of its own. So whoever announces a key
    queries the recency filter in the same clock cycle, whoever commits one inserts it there in the clock cycle of its
    lookup, and the two never share a clock cycle: then the later one sees the earlier one.

    Latency: 2 clock cycles from acceptance to ``hits``. Throughput: one key per lane and clock cycle while ``ready``.
    Reset state: every set empty, all being scrubbed, which takes a clock cycle a row if nobody is in the way.
    """

    def __init__(self, slots: int, banks: int = 4, rows: int = 1024, tag_bits: int = 8, scrub_patience: int = 16):
        """``rows``: entries of a bank for each slot, a power of two, 2 or more. ``tag_bits``: 2 to 8; 8 and the
        parity bit are what a block RAM can write on its own (UG473, "Byte-Wide Write Enable"). ``scrub_patience``:
        clock cycles, 2 or more; a scrub costs others at most one clock cycle in so many. Raises ValueError.
        """
        if rows < 2 or rows & (rows - 1):
            raise ValueError(f"rows must be a power of two, 2 or more, not {rows}")
        if not 2 <= tag_bits <= 8:
            raise ValueError(f"tag_bits must be between 2 and 8, not {tag_bits}")
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
                "rows": data.ArrayLayout(row_bits, banks),
            }
        )
        super().__init__(
            {
                #: One operation a lane, with the key's row in each bank. Accepted when ``ready``.
                "lanes": In(data.ArrayLayout(lane, LANES)),
                #: Who announces. None whose bit in ``scrubbing`` is set.
                "slot": In(slot_bits),
                #: The lanes are accepted in this clock cycle.
                "ready": Out(1),
                #: Be ready, whatever is swept meanwhile.
                "hold": In(1),
                #: Slots that may have announced the key of the LOOKUP accepted two clock cycles ago, but for those that
                #: were ``scrubbing`` then; else 0.
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
        slots = self._slots
        tag_bits = self._tag_bits
        entry_bits = protected_bits(tag_bits)
        banks_of_ram = []
        for bank, contents in enumerate(self.contents):
            m.submodules[f"bank_{bank}"] = ram = memory.Memory(contents)
            banks_of_ram.append(ram)

        def entry_of(tag):
            return Cat(tag, parity_of(tag))

        # As entries, which is what they are written as; and again in flip-flops, to be compared with all at once. Both
        # outlast a reset, as the banks do.
        m.submodules.numbers = numbers = memory.Memory(shape=entry_bits, depth=slots, init=[1] * slots)
        next_number = numbers.write_port()
        number = numbers.read_port(domain="comb")
        announced = numbers.read_port(domain="comb")
        generations = [Signal(entry_bits, name=f"generation_{slot}", init=1, reset_less=True) for slot in range(slots)]
        last = Signal()
        following = Signal(tag_bits)
        wrapped = Signal(slots)
        m.d.comb += [
            number.addr.eq(self.clear_slot),
            last.eq(number.data[:tag_bits].all()),
            following.eq(Mux(last, 1, number.data[:tag_bits] + 1)),
            next_number.addr.eq(self.clear_slot),
            next_number.data.eq(entry_of(following)),
            next_number.en.eq(self.clear),
            announced.addr.eq(self.slot),
        ]
        for slot in range(slots):
            with m.If(self.clear & (self.clear_slot == slot)):
                m.d.sync += generations[slot].eq(next_number.data)
                m.d.comb += wrapped[slot].eq(last)

        # A sweep goes through all rows, with the first lane, for the slots that waited for one when it began.
        sweeping = Signal(init=1)
        swept = Signal(slots, init=-1)
        swept_row = Signal.like(self.lanes[0].rows[0])
        # Clock cycles without a sweep, counted from such a number that patience ends when the highest bit is set:
        # whether others must wait has to be known early in the clock cycle.
        waited_bits = (self._scrub_patience - 1).bit_length()
        waited_from = (1 << waited_bits) - (self._scrub_patience - 1)
        waited = Signal(waited_bits + 1, init=waited_from)
        sweep = Signal()
        due = Signal()
        m.d.comb += [
            due.eq(waited[-1] & ~self.hold),
            sweep.eq(due | (sweeping & (self.lanes[0].operation == SlotFilterOperation.NONE))),
            self.ready.eq(~due),
        ]
        with m.If(sweep):
            m.d.sync += [waited.eq(waited_from), swept_row.eq(swept_row + 1)]
        with m.Elif(sweeping & ~waited[-1]):
            m.d.sync += waited.eq(waited + 1)
        m.d.sync += self.scrubbing.eq(self.scrubbing | wrapped)
        with m.If(sweep & swept_row.all()):
            # One that wraps now has to wait for a sweep of its own.
            m.d.sync += [self.scrubbing.eq(self.scrubbing & ~swept | wrapped), sweeping.eq(0)]
        with m.Elif(~sweeping & self.scrubbing.any()):
            m.d.sync += [sweeping.eq(1), swept.eq(self.scrubbing)]

        # What an announcement and a sweep write, and to whose entry.
        entry = Signal(entry_bits)
        announcer = Signal(slots)
        m.d.comb += [
            entry.eq(Mux(sweep, entry_of(Const(0, tag_bits)), announced.data)),
            announcer.eq(1 << self.slot),
        ]
        expected = Signal(slots * entry_bits)
        m.d.comb += expected.eq(Cat(generations))
        for lane_number, lane in enumerate(self.lanes):
            sweeps = sweep if lane_number == 0 else Const(0, 1)
            enable = Signal(slots, name=f"enable_{lane_number}")
            announces = (lane.operation == SlotFilterOperation.ANNOUNCE) & self.ready
            m.d.comb += enable.eq(Mux(sweeps, swept, Mux(announces, announcer, 0)))
            rows = []
            for bank, ram in enumerate(banks_of_ram):
                # Read and write port share address and clock, so that they become one port of the block RAM.
                read = ram.read_port()
                write = ram.write_port(granularity=1)
                row = Signal.like(lane.rows[bank], name=f"row_{bank}_{lane_number}")
                m.d.comb += [
                    row.eq(Mux(sweeps, swept_row, lane.rows[bank])),
                    read.en.eq(1),
                    read.addr.eq(row),
                    write.addr.eq(row),
                    write.en.eq(enable),
                    *(write.data[slot].eq(entry if lane_number == 0 else announced.data) for slot in range(slots)),
                ]
                rows.append(read.data.as_value())

            asks = Signal(name=f"asks_{lane_number}")
            m.d.sync += asks.eq(self.ready & (lane.operation == SlotFilterOperation.LOOKUP))
            # Which bits are as they should be: all of all slots at once.
            in_all = functools.reduce(operator.and_, rows)
            in_any = functools.reduce(operator.or_, rows)
            agrees = Signal(slots * entry_bits, name=f"agrees_{lane_number}")
            m.d.comb += agrees.eq((expected & in_all) | ~(expected | in_any))
            _, all_but_one = _agreement(agrees, entry_bits)
            # The answer goes a long way from here, so all of the comparison is on this side of the register.
            hits = Cat(all_but_one[entry_bits * slot] for slot in range(slots))
            m.d.sync += self.hits[lane_number].eq(Mux(asks, hits, 0))
        return m


def _agreement(bits, width):
    """Do all, and do all but at most one, of the ``width`` bits from each place of ``bits`` on agree?

    Two values of bits that count for the places where an entry begins. Groups of bits are put together in pairs.
    """

    def together(first, second, distance):
        all_below, all_but_one_below = first
        all_above, all_but_one_above = (value[distance:] for value in second)
        return all_below & all_above, (all_below & all_but_one_above) | (all_but_one_below & all_above)

    group, group_width = (bits, Const((1 << len(bits)) - 1)), 1
    result, covered = None, 0
    while covered < width:
        if width & group_width:
            result = group if result is None else together(result, group, covered)
            covered += group_width
        group = together(group, group, group_width)
        group_width *= 2
    return result

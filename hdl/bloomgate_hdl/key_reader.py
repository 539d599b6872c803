"""Reads a request's keys out of the key log, in passes."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.validation_pipeline import KeyOperation, beat_layout

__all__ = ["KeyReader", "Pass"]


class Pass(enum.Enum, shape=3):
    """What a pass over a request is for. All but INSERT mark their last beat."""

    #: One beat without keys: when it comes out of the pipeline, everything before it has.
    DRAIN = 0
    #: QUERY the read set, then CHECK the write and commute sets.
    VALIDATE = 1
    #: REPAIR the read set.
    REPAIR = 2
    #: INSERT the write and commute sets.
    INSERT = 3
    #: CHECK the write and commute sets once more; of queued requests only.
    CHECK = 4


class KeyReader(wiring.Component):
    """Turns a pass into beats for the validation pipeline, LANES keys of one set in each.

    Sets lie in the key log as SlotPages puts them: reads from the first position up, the others from the last one
    down, and so a pass runs through them. But INSERT takes turns at both ends of its set, the lower one first: its
    client may refill the slot by then, from both ends of the log, at one key a clock cycle, and must not catch up.
    That holds for every set if the first key is written no earlier than in the second clock cycle after ``start``.

    Between the words of any other pass it addresses those that the Announcer asks for, in clock cycles of their own.

    A pass over nothing is one empty beat. Latency: 2 clock cycles from ``start`` to the first beat, 1 to the one of a
    pass over nothing that need not wait for the pipeline, for another pass or for announcing. Throughput: one
    beat per clock cycle while the pipeline is ready, without a gap between an INSERT pass and one that is begun in the
    clock cycle of its ``ending``. Reset state: no pass.

    ``begin`` and ``start`` come late in the clock cycle, so nothing is computed from them: they select.

    Parameters
    ----------
    few_keys: more than LANES.
    """

    def __init__(self, parameters: Parameters, *, few_keys: int = 12):
        self._parameters = parameters
        self._few_keys = few_keys
        depth = parameters.aperture_depth
        super().__init__(
            {
                #: Strobe, when there is no pass or an INSERT is ``ending``: begin the VALIDATE pass of a request, which
                #: is in service from the next clock cycle on. Its keys in the read set, in the write and commute sets
                #: together, and at the beginning of the read set those that are left out.
                "begin": In(1),
                "next_read_count": In(range(depth + 1)),
                "next_write_count": In(range(depth + 1)),
                "next_skip_count": In(range(depth + 1)),
                #: Strobe, likewise: begin ``start_pass`` over all keys of the request in service.
                "start": In(1),
                "start_pass": In(Pass),
                #: Of that request.
                "slot": In(parameters.slot_bits),
                "read_count": In(range(depth + 1)),
                "write_count": In(range(depth + 1)),
                #: There is a pass; there is one that must not be held up, see above.
                "active": Out(1),
                "inserting": Out(1),
                #: Strobe: address a word to be announced instead; and the lanes that have a key. Only when ``ready``,
                #: and not while ``inserting``.
                "announce": In(1),
                "announce_slot": In(parameters.slot_bits),
                "announce_word": In(range(depth // LANES)),
                "announce_lanes": In(LANES),
                "announce_late": In(1),
                #: The beat is such a one.
                "announces": Out(1),
                #: The last beat of an INSERT pass is being addressed in this clock cycle.
                "ending": Out(1),
                #: Fewer than ``few_keys`` of the set at hand have not been addressed.
                "few_left": Out(1),
                #: Key log read port, see KeyLog.
                "read": Out(1),
                "read_slot": Out(parameters.slot_bits),
                "read_word": Out(range(depth // LANES)),
                "keys": In(data.ArrayLayout(parameters.key_bits, LANES)),
                "bad": In(LANES),
                #: To the validation pipeline.
                "beat": Out(beat_layout(parameters)),
                #: Always, while ``inserting``.
                "ready": In(1),
                #: The beat has a key.
                "offers": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self._parameters.aperture_depth
        top_word = depth // LANES - 1

        active = self.active
        operation = Signal(KeyOperation)
        word = Signal(range(depth // LANES))
        left = Signal(range(depth + 1))  # keys of the set that have not been addressed
        # Kept inverted: a counter that goes down takes a LUT more for each bit.
        left_inverted = Signal.like(left)
        checks_left = Signal(range(depth + 1))  # keys of the sets that this pass comes to next

        other_end = Signal.like(word)  # INSERT: the word that comes next
        climbing = Signal()  # INSERT: `word` is at the lower end
        half_full = Signal()  # `word` is the lowest one of an odd set, with a key in its last lane only

        set_ends = Signal()
        advance = Signal()
        pass_ends = Signal()
        m.d.comb += [
            left.eq(~left_inverted),
            set_ends.eq(left <= LANES),
            advance.eq(active & self.ready & ~self.announce),
            pass_ends.eq(advance & set_ends & (checks_left == 0)),
            # Nothing holds it up: neither ``ready`` nor ``announce``.
            self.ending.eq(self.inserting & set_ends),
            self.few_left.eq(left < self._few_keys),
            self.read.eq(self.ready),
            self.read_slot.eq(Mux(self.announce, self.announce_slot, self.slot)),
            self.read_word.eq(Mux(self.announce, self.announce_word, word)),
        ]
        with m.If(advance):
            m.d.sync += half_full.eq(0)
            with m.If(~set_ends):
                m.d.sync += left_inverted.eq(left_inverted + LANES)
                with m.Switch(operation):
                    with m.Case(KeyOperation.QUERY, KeyOperation.REPAIR):
                        m.d.sync += word.eq(word + 1)
                    with m.Case(KeyOperation.CHECK):
                        m.d.sync += word.eq(word - 1)
                    with m.Case(KeyOperation.INSERT):
                        m.d.sync += [
                            word.eq(other_end),
                            other_end.eq(Mux(climbing, word + 1, word - 1)),
                            climbing.eq(~climbing),
                        ]
            with m.Elif(checks_left != 0):
                m.d.sync += [
                    operation.eq(KeyOperation.CHECK),
                    left_inverted.eq(~checks_left),
                    checks_left.eq(0),
                    word.eq(top_word),
                ]
            with m.Else():
                m.d.sync += [active.eq(0), self.inserting.eq(0)]

        # A pass over nothing addresses nothing; its beat comes at once if nothing is in the way.
        next_reads = Signal()
        free = Signal()
        at_once = Signal()
        m.d.comb += [
            next_reads.eq(self.next_read_count != self.next_skip_count),
            free.eq(self.ready & ~active & ~self.announce),
            at_once.eq(
                free
                & (
                    self.begin & ~next_reads & (self.next_write_count == 0)
                    | self.start & (self.start_pass == Pass.DRAIN)
                )
            ),
        ]
        with m.If(self.begin):
            m.d.sync += [
                active.eq(~at_once),
                self.inserting.eq(0),
                operation.eq(Mux(next_reads, KeyOperation.QUERY, KeyOperation.CHECK)),
                word.eq(Mux(next_reads, self.next_skip_count // LANES, top_word)),
                half_full.eq(next_reads & self.next_skip_count[0]),
                left_inverted.eq(
                    ~Mux(next_reads, self.next_read_count - (self.next_skip_count & ~1), self.next_write_count)
                ),
                checks_left.eq(Mux(next_reads, self.next_write_count, 0)),
            ]
        with m.Elif(self.start):
            m.d.sync += [active.eq(~at_once), half_full.eq(0), checks_left.eq(0)]
            m.d.sync += self.inserting.eq(self.start_pass == Pass.INSERT)
            with m.Switch(self.start_pass):
                with m.Case(Pass.DRAIN):
                    m.d.sync += [operation.eq(KeyOperation.NONE), left_inverted.eq(-1)]
                # A request is validated once more only if it has keys to read.
                with m.Case(Pass.VALIDATE):
                    m.d.sync += [
                        operation.eq(KeyOperation.QUERY),
                        word.eq(0),
                        left_inverted.eq(~self.read_count),
                        checks_left.eq(self.write_count),
                    ]
                with m.Case(Pass.REPAIR):
                    m.d.sync += [
                        operation.eq(KeyOperation.REPAIR),
                        word.eq(0),
                        left_inverted.eq(~self.read_count),
                    ]
                with m.Case(Pass.INSERT):
                    m.d.sync += [
                        operation.eq(KeyOperation.INSERT),
                        word.eq((depth - self.write_count) // LANES),
                        other_end.eq(top_word),
                        climbing.eq(1),
                        half_full.eq(self.write_count[0]),
                        left_inverted.eq(~self.write_count),
                    ]

        # What has been addressed, while the key log reads it.
        read_operation = Signal(KeyOperation)
        read_present = Signal(LANES)
        read_last = Signal()
        with m.If(self.ready):
            m.d.sync += [
                read_operation.eq(operation),
                read_present.eq(0),
                read_last.eq(at_once | pass_ends & (operation != KeyOperation.INSERT)),
                self.beat.slot.eq(self.read_slot),
                self.beat.late.eq(self.announce & self.announce_late),
                self.announces.eq(self.announce),
            ]
            with m.If(self.announce):
                m.d.sync += [read_operation.eq(KeyOperation.ANNOUNCE), read_present.eq(self.announce_lanes)]
            with m.Elif(active):
                for lane in range(LANES):
                    m.d.sync += read_present[lane].eq(left > lane)
                with m.If((operation == KeyOperation.INSERT) & (left != 0)):
                    m.d.sync += read_present.eq(0b11)
                with m.If(half_full):
                    m.d.sync += read_present[0].eq(0)

        # A set that grows downwards has its first key in the last lane of a word. Insertions have no order to keep.
        downwards = Signal()
        with m.If(self.ready):
            m.d.sync += downwards.eq((operation == KeyOperation.CHECK) & ~self.announce)
        m.d.comb += [self.beat.last.eq(read_last), self.offers.eq(read_present.any())]
        for lane in range(LANES):
            mirrored = LANES - 1 - lane
            # The way on through the hash unit is long: whether there is a key at all is for its operation to say.
            m.d.comb += self.beat.lanes[lane].key.eq(Mux(downwards, self.keys[mirrored], self.keys[lane]))
            with m.If(read_present[lane]):
                m.d.comb += [
                    self.beat.lanes[lane].operation.eq(read_operation),
                    self.beat.lanes[lane].key_bad.eq(Mux(downwards, self.bad[mirrored], self.bad[lane])),
                ]
        return m

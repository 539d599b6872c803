"""Fetches submission entries ahead of their turn, and parts of announced logs."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import ENTRY_BYTES, announced_log_offset, submission_ring_offset
from bloomgate.registers import ErrorCode

from bloomgate_hdl.announced_log_port import LogFetchSignature
from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.burst_address import PAGE_BITS
from bloomgate_hdl.descriptor_check import BEATS, DescriptorCheck
from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.queue_port import ADDRESS_BITS, INDEX_BITS, order_layout
from bloomgate_hdl.read_master import burst_layout, fetched_layout
from bloomgate_hdl.request_buffer import BEAT_ADDRESS_BITS
from bloomgate_hdl.round_robin import RoundRobin
from bloomgate_hdl.stream_queue import StreamQueue
from bloomgate_hdl.window_check import PAGE_NUMBER_BITS

__all__ = ["DESCRIPTOR_ID", "DescriptorFetcher", "entry_address"]

#: AXI ID of the fetches; those of the request buffers come behind it.
DESCRIPTOR_ID = 0
#: Entries of one slot that can be here.
_AHEAD = 2
_ENTRY_BITS = (ENTRY_BYTES - 1).bit_length()


def entry_address(place, ring_offset: int, entries: int):
    """Byte address of a ring's entry: 32 bits."""
    return _address(place.window.base, _entry_offset(place.index, ring_offset, entries))


def _entry_offset(index, ring_offset: int, entries: int):
    """Where the entry is in its window, in bytes."""
    number = index[: (entries - 1).bit_length()]
    return ring_offset + (number << _ENTRY_BITS)


def _address(base, offset):
    """Byte address of what is at a byte offset in the window that begins with page ``base``: 32 bits.

    No adder for what fits into a page.
    """
    if len(offset) <= PAGE_BITS:
        return Cat(offset, Const(0, PAGE_BITS - len(offset)), base)
    return ((base << PAGE_BITS) + offset)[:ADDRESS_BITS]


class DescriptorFetcher(wiring.Component):
    """Fetches submission entries of all slots in turns, checks them, and hands them on in turns as orders.

    Up to two entries of each slot are fetched ahead, so that a slot whose next request must wait (a long one, while
    ``hold_long``) keeps no other waiting, and one slot alone keeps memory busy. Entries of one slot leave in the order
    of its ring. What is here of a slot that is disabled is dropped when it has arrived.

    The LogFollower's burst of an announced log goes out between the entries'.

    Latency: ``ringing`` or ``pending`` to command 1 clock cycle, and ``log.due`` also; last beat to ``order`` 1, if no
    other order is here. Throughput: a command and an order every second clock cycle. Reset state: empty.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        slots = parameters.slots
        ids = parameters.request_buffers + 1
        super().__init__(
            {
                #: See QueueSlots.
                "enabled": In(slots),
                "pending": In(slots),
                "ringing": In(1),
                "ringing_slot": In(parameters.slot_bits),
                "fetch_slot": Out(parameters.slot_bits),
                "fetch_index": In(INDEX_BITS),
                "fetched": Out(1),
                "held": Out(slots),
                #: The window of ``fetch_slot`` begins there, if ``asks``.
                "fetch_base": In(PAGE_NUMBER_BITS),
                #: See QueueSlots.
                "arriving_slot": Out(parameters.slot_bits),
                "arriving_base": In(PAGE_NUMBER_BITS),
                "arriving_size": In(PAGE_NUMBER_BITS),
                #: See LogFollower.
                "log": In(LogFetchSignature(parameters)),
                #: To and from the ReadMaster, for ``fetch_slot``.
                "fetch": Out(stream.Signature(burst_layout(ids))),
                #: There may be a command in this clock cycle: known earlier in it than ``fetch.valid``.
                "asks": Out(1),
                "beat": In(fetched_layout(ids)),
                #: Fetch no further entries, hand none on.
                "hold": In(1),
                #: Keep orders with more than one chunk; keep all orders of these slots.
                "hold_long": In(1),
                "hold_slots": In(slots),
                #: Slots whose oldest entry here is such an order.
                "long": Out(slots),
                #: Orders, which are taken when ``ready``; not a stream, since another slot's may take its place.
                "valid": Out(1),
                "ready": In(1),
                "order": Out(order_layout(parameters)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        slots = p.slots

        per_slot = PerSlot(m, slots)

        # Of each slot: something is here or on its way, and nothing more has room; the oldest one has come, the second
        # one, too, and which of them are long. The turn says which of two places the oldest one has.
        full = Signal(slots)
        ready = Signal(slots)
        next_ready = Signal(slots)
        long = Signal(slots)
        next_long = Signal(slots)
        turn = Signal(slots)

        # --- Fetch --------------------------------------------------------------------------------------------------
        m.submodules.fetch_robin = fetch_robin = RoundRobin(slots)
        ring_offset = _entry_offset(self.fetch_index, submission_ring_offset(), p.queue_entries)
        place_layout = data.StructLayout({"slot": p.slot_bits, "place": 1})
        # Where the entries under way go, oldest first; and where in the window each is, in case it is refused.
        under_way_layout = data.StructLayout({"to": place_layout, "offset": len(ring_offset), "is_log": 1})
        depth = 1 << (slots * _AHEAD - 1).bit_length()
        m.submodules.under_way = under_way = StreamQueue(under_way_layout, min(8, max(2, depth)))
        command = self.fetch
        # Who is next is found out in the clock cycle before; whether that slot has a submission, only then. In between
        # there is a clock cycle for the log, whose burst waits here: it is found out late.
        picked = Signal()
        goes = Signal()
        wants = Signal()
        choice = self.fetch_slot
        log_waits = Signal()
        log_first = Signal.like(self.log.first)
        log_beats = Signal.like(self.log.beats)
        # The log is at a multiple of its size.
        log_offset = announced_log_offset(p) | (log_first << BEAT_ADDRESS_BITS)
        m.d.comb += [
            fetch_robin.requests.eq(self.pending & ~full),
            fetch_robin.take.eq(~picked & fetch_robin.valid),
            wants.eq((self.pending & ~full).bit_select(choice, 1)),
            self.asks.eq((picked | log_waits) & ~self.hold & under_way.i.ready),
            command.valid.eq(self.asks & (wants | ~picked)),
            command.payload.id.eq(DESCRIPTOR_ID),
            command.payload.address.eq(_address(self.fetch_base, Mux(picked, ring_offset, log_offset))),
            command.payload.beats.eq(Mux(picked, BEATS, log_beats)),
            goes.eq(command.valid & command.ready),
            self.fetched.eq(goes & picked),
            self.log.fetched.eq(self.log.due & ~log_waits & ~self.hold),
            under_way.i.valid.eq(goes),
            under_way.i.payload.to.slot.eq(choice),
            under_way.i.payload.to.place.eq((turn ^ self.held).bit_select(choice, 1)),
            under_way.i.payload.offset.eq(ring_offset),
            under_way.i.payload.is_log.eq(~picked),
        ]
        with m.If(~picked):
            # A doorbell is looked at ahead where nobody else asks. The log's slot stays while its burst waits.
            m.d.sync += [
                picked.eq(fetch_robin.valid | self.ringing),
                choice.eq(Mux(self.ringing, self.ringing_slot, self.log.slot)),
            ]
            with m.If(fetch_robin.valid):
                m.d.sync += choice.eq(fetch_robin.choice)
        with m.Elif(goes | ~wants):
            m.d.sync += [picked.eq(0), choice.eq(self.log.slot)]
        with m.If(~log_waits):
            m.d.sync += [log_waits.eq(self.log.fetched), log_first.eq(self.log.first), log_beats.eq(self.log.beats)]
        with m.Elif(goes & ~picked):
            m.d.sync += log_waits.eq(0)

        # --- Arrival ------------------------------------------------------------------------------------------------
        m.submodules.check = check = DescriptorCheck(p)
        orders = memory.Memory(shape=order_layout(p), depth=slots * _AHEAD, init=[])
        m.submodules.orders = orders
        store = orders.write_port()
        arrived = Signal()
        finished = Signal()  # all of an entry has come
        number = Signal(range(BEATS))
        failed = Signal()
        refused = Signal()
        failing = Signal()
        refusing = Signal()
        to = under_way.o.payload.to
        m.d.comb += [
            arrived.eq(self.beat.valid & (self.beat.id == DESCRIPTOR_ID)),
            finished.eq(arrived & self.beat.last & ~under_way.o.payload.is_log),
            failing.eq(failed | (self.beat.response != Response.OKAY)),
            refusing.eq(refused | self.beat.refused),
            check.valid.eq(arrived),
            check.beat.eq(number),
            check.data.eq(self.beat.data),
            self.arriving_slot.eq(to.slot),
            check.base.eq(self.arriving_base),
            check.size.eq(self.arriving_size),
            under_way.o.ready.eq(arrived & self.beat.last),
            self.log.beat_valid.eq(arrived & under_way.o.payload.is_log),
            self.log.beat_failed.eq((self.beat.response != Response.OKAY) | self.beat.refused),
            store.en.eq(finished),
            store.addr.eq(Cat(to.place, to.slot)),
            store.data.eq(check.order),
        ]
        with m.If(arrived):
            m.d.sync += [
                number.eq(Mux(self.beat.last, 0, number + 1)),
                failed.eq(failing & ~self.beat.last),
                refused.eq(refusing & ~self.beat.last),
            ]
        # What was not read says nothing, not even that its snapshot is ahead. Refused is an entry outside the window: a
        # window of no size.
        with m.If(failing | refusing):
            m.d.comb += [
                store.data.bad_request.eq(refusing),
                store.data.bus_error.eq(~refusing),
                store.data.header.snapshot_epoch.eq(0),
                store.data.header.snapshot_count.eq(0),
                store.data.fault.code.eq(ErrorCode.FETCH_ERROR.value),
                store.data.fault.word.eq(0),
                store.data.reads.address.eq(_address(self.arriving_base, under_way.o.payload.offset)),
            ]

        # --- Orders -------------------------------------------------------------------------------------------------
        m.submodules.order_robin = order_robin = RoundRobin(slots)
        load = orders.read_port(domain="comb")
        is_ready = ready & self.enabled
        held_back = self.hold_slots | Mux(self.hold_long, long, 0)
        # As above: what has just come is looked at ahead where there is nothing else. A slot's turn stays while it is
        # chosen, so it is found out ahead, too.
        chosen = Signal()
        chosen_slot = Signal(p.slot_bits)
        chosen_place = Signal()
        next_slot = Signal(p.slot_bits)
        found = Signal()  # what was chosen is still there
        taken = Signal()
        m.d.comb += [
            self.long.eq(long & is_ready),
            order_robin.requests.eq(is_ready & ~held_back),
            next_slot.eq(Mux(order_robin.valid, order_robin.choice, to.slot)),
            found.eq(chosen & order_robin.requests.bit_select(chosen_slot, 1)),
            self.valid.eq(found & ~self.hold),
            taken.eq(self.valid & self.ready),
            order_robin.take.eq(~found & order_robin.valid),
            load.addr.eq(Cat(chosen_place, chosen_slot)),
            self.order.eq(load.data),
            self.order.header.slot.eq(chosen_slot),
        ]
        with m.If(taken):
            m.d.sync += chosen.eq(0)
        with m.Elif(~found):
            m.d.sync += [
                chosen.eq(order_robin.valid | finished),
                chosen_slot.eq(next_slot),
                chosen_place.eq(turn.bit_select(next_slot, 1)),
            ]

        # Of an entry that is bad it does not matter, and that it is, is found out late.
        long_now = Signal()
        m.d.comb += long_now.eq(check.long & ~(failing | refusing))
        fetched = per_slot.one_hot(choice, self.fetched)
        come = per_slot.one_hot(to.slot, finished)
        gone = per_slot.one_hot(chosen_slot, taken) | (ready & ~self.enabled)
        came_before = (gone & next_ready) | (~gone & ready)
        m.d.sync += [
            full.eq((full & ~gone) | (self.held & fetched & ~gone)),
            self.held.eq(fetched | full | (self.held & ~gone)),
            ready.eq(came_before | come),
            next_ready.eq((next_ready & (~gone | come)) | (ready & come & ~gone)),
            long.eq((came_before & ((gone & next_long) | (~gone & long))) | (~came_before & long_now.replicate(slots))),
            next_long.eq(Mux(long_now, next_long | ~next_ready | gone, next_long & next_ready & ~gone)),
            turn.eq(turn ^ gone),
        ]
        return m

"""Fetches submission entries ahead of their turn, and parts of announced logs."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import ENTRY_BYTES, announced_log_offset, submission_ring_offset
from bloomgate.registers import ErrorCode

from bloomgate_hdl.announced_log_port import LogFetchSignature
from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.descriptor_check import BEATS, DescriptorCheck
from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.queue_port import ADDRESS_BITS, order_layout, ring_place_layout
from bloomgate_hdl.read_master import fetch_layout, fetched_layout
from bloomgate_hdl.request_buffer import BEAT_ADDRESS_BITS
from bloomgate_hdl.round_robin import RoundRobin
from bloomgate_hdl.stream_queue import StreamQueue
from bloomgate_hdl.window_check import window_layout

__all__ = ["DESCRIPTOR_ID", "DescriptorFetcher", "entry_address"]

#: AXI ID of the fetches; those of the request buffers come behind it.
DESCRIPTOR_ID = 0
#: Entries of one slot that can be here.
_AHEAD = 2
_PAGE_BITS = 12
_ENTRY_BITS = (ENTRY_BYTES - 1).bit_length()


def entry_address(place, ring_offset: int, entries: int):
    """Byte address of a ring's entry: 32 bits."""
    return _address(place.window, _entry_offset(place.index, ring_offset, entries))


def _entry_offset(index, ring_offset: int, entries: int):
    """Where the entry is in its window, in bytes."""
    number = index[: (entries - 1).bit_length()]
    return ring_offset + (number << _ENTRY_BITS)


def _address(window, offset):
    """Byte address of what is at a byte offset in a window: 32 bits. No adder for what fits into a page."""
    if len(offset) <= _PAGE_BITS:
        return Cat(offset, Const(0, _PAGE_BITS - len(offset)), window.base)
    return ((window.base << _PAGE_BITS) + offset)[:ADDRESS_BITS]


class DescriptorFetcher(wiring.Component):
    """Fetches submission entries of all slots in turns, checks them, and hands them on in turns as orders.

    Up to two entries of each slot are fetched ahead, so that a slot whose next request must wait (a long one, while
    ``hold_long``) keeps no other waiting, and one slot alone keeps memory busy. Entries of one slot leave in the order
    of its ring. What is here of a slot that is disabled is dropped when it has arrived.

    The LogFollower's burst of an announced log goes out between the entries'.

    Latency: ``ringing`` or ``pending`` to command 1 clock cycle; last beat to ``order`` 1, if no other order is here.
    Throughput: a command and an order every second clock cycle. Reset state: empty.
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
                "fetch_place": In(ring_place_layout()),
                "fetched": Out(1),
                "held": Out(slots),
                "restarted": In(1),
                "restarted_slot": In(parameters.slot_bits),
                #: See LogFollower.
                "log": In(LogFetchSignature(parameters)),
                #: To and from the ReadMaster.
                "fetch": Out(stream.Signature(fetch_layout(ids))),
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

        # Places of each slot: given away, and filled. The turns say which one is fetched to, or handed on, next.
        busy = [Signal(slots, name=f"busy_{place}") for place in range(_AHEAD)]
        ready = [Signal(slots, name=f"ready_{place}") for place in range(_AHEAD)]
        long = [Signal(slots, name=f"long_{place}") for place in range(_AHEAD)]
        fetch_turn = Signal(slots)
        order_turn = Signal(slots)

        def of_turn(turn, flags):
            return (turn & flags[1]) | (~turn & flags[0])

        m.d.comb += self.held.eq(busy[0] | busy[1])

        # --- Fetch --------------------------------------------------------------------------------------------------
        m.submodules.fetch_robin = fetch_robin = RoundRobin(slots)
        ring_offset = _entry_offset(self.fetch_place.index, submission_ring_offset(), p.queue_entries)
        place_layout = data.StructLayout({"slot": p.slot_bits, "place": 1})
        # Where the entries under way go, oldest first; and where in the window each is, in case it is refused.
        under_way_layout = data.StructLayout(
            {
                "to": place_layout,
                "offset": len(ring_offset),
                "window": window_layout(),
                "is_log": 1,
            }
        )
        depth = 1 << (slots * _AHEAD - 1).bit_length()
        m.submodules.under_way = under_way = StreamQueue(under_way_layout, min(8, max(2, depth)))
        command = self.fetch
        # Who is next is found out in the clock cycle before; whether that slot has a submission, only then.
        vacant = Signal(slots)
        picked = Signal()
        picks = Signal()
        wants = Signal()
        choice = Signal(p.slot_bits)
        # The log is at a multiple of its size.
        log_offset = announced_log_offset(p) | (self.log.first << BEAT_ADDRESS_BITS)
        m.d.comb += [
            vacant.eq(~of_turn(fetch_turn, busy)),
            fetch_robin.requests.eq((self.pending & vacant) | per_slot.one_hot(self.ringing_slot, self.ringing)),
            fetch_robin.take.eq(~wants & fetch_robin.valid),
            wants.eq(picked & (self.pending & vacant).bit_select(choice, 1)),
            # An entry is wanted in every second clock cycle at most.
            self.fetch_slot.eq(Mux(wants, choice, self.log.slot)),
            command.valid.eq((wants | self.log.due) & ~self.hold & under_way.i.ready),
            command.payload.id.eq(DESCRIPTOR_ID),
            command.payload.address.eq(_address(self.fetch_place.window, Mux(wants, ring_offset, log_offset))),
            command.payload.beats.eq(Mux(wants, BEATS, self.log.beats)),
            command.payload.window.eq(self.fetch_place.window),
            picks.eq(command.valid & command.ready),
            self.fetched.eq(picks & wants),
            self.log.fetched.eq(picks & ~wants),
            under_way.i.valid.eq(picks),
            under_way.i.payload.to.slot.eq(choice),
            under_way.i.payload.to.place.eq(fetch_turn.bit_select(choice, 1)),
            under_way.i.payload.offset.eq(ring_offset),
            under_way.i.payload.window.eq(self.fetch_place.window),
            under_way.i.payload.is_log.eq(~wants),
        ]
        with m.If(self.fetched):
            m.d.sync += picked.eq(0)
        with m.Elif(~wants):
            m.d.sync += [picked.eq(fetch_robin.valid), choice.eq(fetch_robin.choice)]

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
            check.window.eq(under_way.o.payload.window),
            under_way.o.ready.eq(arrived & self.beat.last),
            self.log.beat_valid.eq(arrived & under_way.o.payload.is_log),
            self.log.beat_failed.eq((self.beat.response != Response.OKAY) | self.beat.refused),
            store.en.eq(finished),
            store.addr.eq(Cat(to.place, to.slot)),
            store.data.eq(check.order),
            store.data.header.slot.eq(to.slot),
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
                store.data.reads.address.eq(_address(under_way.o.payload.window, under_way.o.payload.offset)),
            ]

        # --- Orders -------------------------------------------------------------------------------------------------
        m.submodules.order_robin = order_robin = RoundRobin(slots)
        load = orders.read_port(domain="comb")
        is_long = of_turn(order_turn, long)
        is_ready = of_turn(order_turn, ready) & self.enabled
        held_back = self.hold_slots | Mux(self.hold_long, is_long, 0)
        # As above: what has just come is looked at ahead, and what is kept back a clock cycle late.
        chosen = Signal()
        chosen_slot = Signal(p.slot_bits)
        found = Signal()  # what was chosen is still there
        held_before = Signal(slots)
        taken = Signal()
        m.d.sync += held_before.eq(held_back)
        m.d.comb += [
            self.long.eq(is_long & is_ready),
            order_robin.requests.eq((is_ready & ~held_before) | per_slot.one_hot(to.slot, finished)),
            found.eq(chosen & (is_ready & ~held_back).bit_select(chosen_slot, 1)),
            self.valid.eq(found & ~self.hold),
            taken.eq(self.valid & self.ready),
            order_robin.take.eq(~found & order_robin.valid),
            load.addr.eq(Cat(order_turn.bit_select(chosen_slot, 1), chosen_slot)),
            self.order.eq(load.data),
        ]
        with m.If(taken):
            m.d.sync += chosen.eq(0)
        with m.Elif(~found):
            m.d.sync += [chosen.eq(order_robin.valid), chosen_slot.eq(order_robin.choice)]

        long_now = Signal()
        m.d.comb += long_now.eq(check.long & ~store.data.bad_request & ~store.data.bus_error)
        restarted = per_slot.one_hot(self.restarted_slot, self.restarted)
        for place in range(_AHEAD):
            fetched_here = per_slot.one_hot(choice, self.fetched) & (fetch_turn if place else ~fetch_turn)
            finished_here = per_slot.one_hot(to.slot, finished & (to.place == place))
            taken_here = per_slot.one_hot(chosen_slot, taken) & (order_turn if place else ~order_turn)
            dropped = ready[place] & ~self.enabled
            gone = taken_here | dropped
            m.d.sync += [
                busy[place].eq((busy[place] | fetched_here) & ~gone),
                ready[place].eq((ready[place] & ~gone) | finished_here),
                long[place].eq(Mux(long_now, long[place] | finished_here, long[place] & ~finished_here)),
            ]
        m.d.sync += [
            fetch_turn.eq((fetch_turn ^ per_slot.one_hot(choice, self.fetched)) & ~restarted),
            order_turn.eq((order_turn ^ per_slot.one_hot(chosen_slot, taken)) & ~restarted),
        ]
        return m

"""All request buffers: who fetches, and who is served."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import ErrorCode

from bloomgate_hdl.buffer_reader import BufferReader
from bloomgate_hdl.descriptor_fetcher import DESCRIPTOR_ID
from bloomgate_hdl.key_reader import Pass
from bloomgate_hdl.memory_port import MAX_BEATS
from bloomgate_hdl.order_planner import OrderPlanner
from bloomgate_hdl.queue_port import fault_layout, order_layout, queued_request_layout
from bloomgate_hdl.read_master import burst_layout, fetched_layout
from bloomgate_hdl.request_buffer import BEAT_ADDRESS_BITS, RequestBuffer, check_layout
from bloomgate_hdl.up_down import up_down
from bloomgate_hdl.validation_pipeline import beat_layout

__all__ = ["RequestBuffers", "findings_layout"]

#: Beats that can be under way when a buffer behind the first one asks for more: they cover a latency of 64 clock cycles
#: with a tenth of the beats withheld.
_PREFETCHED = 80


def findings_layout(parameters: Parameters) -> data.StructLayout:
    """What the buffer in service had found out by itself a clock cycle ago."""
    return data.StructLayout(
        {
            "reset": 1,
            "bad_request": 1,
            "bus_error": 1,
            "fault": fault_layout(),
            "check": check_layout(parameters),
        }
    )


class RequestBuffers(wiring.Component):
    """The buffers in the order of their requests, and the reader of the one in service.

    The first buffer of the order is served, and fetches before the others do. ``decided`` takes it out of the order,
    ``next_chunk`` with ``rotate`` puts it at the end. A buffer that was taken out is loaded again when it is released
    and everything that it asked memory for has come.

    ``fetch`` may be changed while it waits: it is no stream.

    Latency: ``load`` to ``fetch`` 1 clock cycle; see BufferReader for the rest. Reset state: all buffers free.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        ids = parameters.request_buffers + 1
        super().__init__(
            {
                #: Orders, see DescriptorFetcher.
                "order": In(order_layout(parameters)),
                "valid": In(1),
                "ready": Out(1),
                #: A request with more than one chunk is here.
                "long": Out(1),
                #: Not all buffers are free.
                "active": Out(1),
                #: To and from the ReadMaster, and the slot whose burst it is.
                "fetch": Out(stream.Signature(burst_layout(ids))),
                "fetch_slot": Out(parameters.slot_bits),
                "beat": In(fetched_layout(ids)),
                "busy": In(ids),
                #: Strobe: a reset aborts all requests here.
                "reset": In(1),
                #: Store the next key with bad parity, until ``corrupts``.
                "corrupt": In(1),
                "corrupts": Out(1),
                #: Look at the second request, since the first one is in service.
                "second": In(1),
                #: That request can be begun: keys are there; or: they are coming.
                "serviceable": Out(1),
                "expected": Out(1),
                "request": Out(queued_request_layout(parameters)),
                "findings": Out(findings_layout(parameters)),
                #: See BufferReader; REPAIR goes back to the first key of the chunk.
                "start": In(1),
                "start_pass": In(Pass),
                "ending": Out(1),
                "keys": Out(beat_layout(parameters)),
                "pipeline_ready": In(1),
                "wants": Out(1),
                #: Strobes: the chunk is done; other requests come first.
                "next_chunk": In(1),
                "rotate": In(1),
                #: Strobe: the whole read set must be validated again; other requests come first.
                "again": In(1),
                #: Strobe: the first request is decided.
                "decided": In(1),
                #: Strobe: the request decided last is inserted.
                "release": In(1),
                #: Buffered keys found with bad parity on arrival, a clock cycle ago.
                "parity_errors": Out(range(LANES + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        count = p.request_buffers
        numbers = range(count)
        buffers = []
        for number in numbers:
            buffer = RequestBuffer(p, number)
            m.submodules[f"buffer_{number}"] = buffer
            buffers.append(buffer)
        m.submodules.reader = reader = BufferReader(p)
        m.submodules.planner = planner = OrderPlanner(p)
        m.d.comb += planner.order.eq(self.order)

        def of(number, name):
            """A port of the buffer with that number."""
            return Array(getattr(buffer, name) for buffer in buffers)[number]

        # --- Order --------------------------------------------------------------------------------------------------
        order = [Signal(range(count), name=f"order_{place}") for place in numbers]
        waiting = Signal(range(count + 1))  # requests in the order
        first = order[0]
        free = Cat(buffer.free for buffer in buffers)
        vacant = Signal(range(count))
        for number in reversed(numbers):
            with m.If(free[number]):
                m.d.comb += vacant.eq(number)
        loads = Signal()
        returns = Signal()  # the first one goes to the end
        m.d.comb += [
            self.ready.eq(free.any()),
            self.active.eq(~free.all()),
            self.long.eq(Cat(buffer.long for buffer in buffers).any()),
            loads.eq(self.valid & self.ready),
            returns.eq((self.next_chunk & self.rotate) | self.again),
        ]
        # These strobes come late in the clock cycle, so what is right without them and with them is there before.
        m.d.sync += waiting.eq(up_down(waiting, loads, self.decided))
        for place in numbers:
            stays = Mux(loads & (waiting == place), vacant, order[place])
            following = order[place + 1] if place + 1 < count else order[place]
            follows = Mux(loads & (waiting == place + 1), vacant, following)
            ends = Mux(waiting == place + 1, first, Mux(loads & (waiting == place), vacant, following))
            m.d.sync += order[place].eq(Mux(returns, ends, Mux(self.decided, follows, stays)))

        candidate = Signal(range(count))
        m.d.comb += candidate.eq(Mux(self.second, order[1], first))

        def kept(name, value, number):
            """What ``value`` was when that buffer was loaded."""
            ram = memory.Memory(shape=value.shape(), depth=count, init=[])
            m.submodules[name] = ram
            write = ram.write_port()
            read = ram.read_port(domain="comb")
            # Of a buffer that is free it does not matter, and that one is loaded is found out late.
            m.d.comb += [write.en.eq(self.ready), write.addr.eq(vacant), write.data.eq(value), read.addr.eq(number)]
            return read.data

        # --- Commands and beats -------------------------------------------------------------------------------------
        corrupts = []
        for number, buffer in enumerate(buffers):
            m.d.comb += [
                buffer.load.eq(loads & (vacant == number)),
                buffer.plan.eq(planner.plan),
                buffer.beat.eq(self.beat),
                buffer.busy.eq(self.busy[number + 1]),
                buffer.reset.eq(self.reset),
                buffer.corrupt.eq(self.corrupt),
            ]
            corrupts.append(buffer.corrupts)
        m.d.comb += self.corrupts.eq(Cat(corrupts).any())
        slots = [Signal(p.slot_bits, name=f"slot_{number}") for number in numbers]
        for number, buffer in enumerate(buffers):
            with m.If(buffer.free):
                m.d.sync += slots[number].eq(self.order.header.slot)
        asks = Cat(buffer.fetch.valid for buffer in buffers)
        asking = Signal(range(count))
        # Beats under way. What the others ask for must not keep those of the first one so long that its ring runs dry.
        under_way = Signal(range(_PREFETCHED + count * p.buffer_depth))
        # Whether they are too many is found out a clock cycle ahead, as if a command were of the most beats.
        goes = self.fetch.valid & self.fetch.ready
        beats = self.fetch.payload.beats
        crowded = Signal()
        m.d.sync += crowded.eq(
            (under_way > _PREFETCHED - MAX_BEATS) | (goes & (under_way > _PREFETCHED - 2 * MAX_BEATS))
        )
        with m.If(self.busy[1:] == 0):
            m.d.sync += [under_way.eq(Mux(goes, beats, 0)), crowded.eq(0)]
        with m.Else():
            comes = self.beat.valid & (self.beat.id != DESCRIPTOR_ID)
            m.d.sync += under_way.eq(up_down(under_way, goes, comes, number=beats))
        # Whose turn it is, is found out a clock cycle ahead; a buffer that is being loaded will ask. One that was
        # decided has left the order and asks for nothing.
        ordered = Signal(count)
        with m.If(loads):
            m.d.sync += [ordered.bit_select(vacant, 1).eq(1), asking.eq(vacant)]
        with m.If(self.decided):
            m.d.sync += ordered.bit_select(first, 1).eq(0)
        for place in reversed(numbers):
            asks_here = (waiting > place) & asks.bit_select(order[place], 1)
            with m.If(asks_here & ~crowded if place else asks_here):
                m.d.sync += asking.eq(order[place])
        turns = Cat(ordered[number] & (asking == number) & (~crowded | (first == number)) for number in numbers)
        m.d.comb += [
            self.fetch.valid.eq((asks & turns).any()),
            self.fetch.payload.eq(Array(buffer.fetch.payload.as_value() for buffer in buffers)[asking]),
            self.fetch_slot.eq(Array(slots)[asking]),
        ]
        for number, buffer in enumerate(buffers):
            m.d.comb += buffer.fetch.ready.eq(self.fetch.ready & turns[number])

        # --- The next request ---------------------------------------------------------------------------------------
        # The buffer in service begins a read log, or a chunk of it, anew: a clock cycle behind the strobe for it, which
        # is late, and until it has done so nobody looks at its words.
        rewinds = Signal()
        rewinds_chunk = Signal()
        exists = Signal()
        complete = Signal()
        cut = Signal()
        chunk = Signal(buffers[0].chunk.shape())
        m.d.comb += [
            exists.eq((waiting > self.second) & ~rewinds),
            complete.eq(of(candidate, "complete")),
            cut.eq(of(candidate, "cut")),
            chunk.eq(Array(buffer.chunk.as_value() for buffer in buffers)[candidate]),
            self.serviceable.eq(exists & (cut | (complete & (of(candidate, "stored") | (chunk.words == 0))))),
            self.expected.eq(exists & (~complete | of(candidate, "coming"))),
            self.request.header.eq(kept("headers", self.order.header, candidate)),
            self.request.insert_count.eq(of(candidate, "write_keys") + of(candidate, "commute_keys")),
            self.request.writes.eq(of(candidate, "writes")),
            self.request.raises_floor.eq(of(candidate, "raises_floor")),
            self.request.long.eq(of(candidate, "long")),
            self.request.first.eq(chunk.first),
            self.request.final.eq(chunk.final),
        ]

        # --- The request in service ---------------------------------------------------------------------------------
        serving = Signal(range(count))
        repairs = self.start & (self.start_pass == Pass.REPAIR)
        m.d.sync += [rewinds.eq(repairs | self.again), rewinds_chunk.eq(~self.again)]
        with m.If(self.start & (self.start_pass == Pass.VALIDATE)):
            m.d.sync += serving.eq(candidate)
        m.d.comb += [
            reader.start.eq(self.start),
            reader.start_pass.eq(self.start_pass),
            self.ending.eq(reader.ending),
            self.keys.eq(reader.beat),
            reader.ready.eq(self.pipeline_ready),
            self.wants.eq(reader.wants),
            reader.chunk.eq(chunk),
            reader.stored.eq(of(serving, "stored") & ~rewinds),
            reader.arrives.eq(of(serving, "arrives") & ~rewinds),
            reader.arriving.eq(self.beat.data),
            reader.word.eq(Array(buffer.word.as_value() for buffer in buffers)[serving]),
            *(
                getattr(reader, name).eq(of(serving, name))
                for name in ("write_words", "write_lane", "write_odd", "commute_words", "commute_lane", "commute_odd")
            ),
            *(getattr(reader, name).eq(of(serving, name)) for name in ("word_bad", "complete", "arriving_bad", "cut")),
        ]
        # The keys of one beat are looked at in a clock cycle.
        m.d.sync += self.parity_errors.eq(reduce(or_, (buffer.parity_errors for buffer in buffers)))
        order_fault = kept("faults", planner.plan.fault, serving)
        fault = Signal(fault_layout())
        m.d.comb += fault.eq(Array(buffer.fault.as_value() for buffer in buffers)[serving])
        m.d.sync += [
            self.findings.reset.eq(of(serving, "was_reset")),
            self.findings.bad_request.eq(of(serving, "bad_request")),
            self.findings.bus_error.eq(of(serving, "bus_error")),
            self.findings.check.eq(Array(buffer.check.as_value() for buffer in buffers)[serving]),
        ]
        # An order that could not be fetched failed at the first beat of its read log.
        of_order = Signal()
        of_fetch = Signal()
        m.d.comb += [
            of_order.eq(order_fault.code != 0),
            of_fetch.eq(
                (order_fault.code == ErrorCode.FETCH_ERROR.value)
                | (~of_order & (fault.code == ErrorCode.FETCH_ERROR.value))
            ),
        ]
        m.d.sync += [
            self.findings.fault.code.eq(Mux(of_order, order_fault.code, fault.code)),
            self.findings.fault.detail.eq(
                Mux(of_order, order_fault.word, fault.detail)
                + (Mux(of_fetch, of(serving, "origin"), 0) << BEAT_ADDRESS_BITS)
            ),
        ]
        for number, buffer in enumerate(buffers):
            mine = serving == number
            m.d.comb += [
                buffer.take.eq(mine & reader.take),
                buffer.read.eq(mine & reader.read),
                buffer.read_insert.eq(reader.read_insert),
                buffer.read_word.eq(reader.read_word),
                buffer.wide.eq(mine & reader.wide),
                buffer.wide_word.eq(reader.wide_word),
                buffer.next_chunk.eq(mine & self.next_chunk),
                buffer.rewind.eq(mine & rewinds),
                buffer.rewind_to_chunk.eq(rewinds_chunk),
                buffer.release.eq(mine & self.release),
            ]
        return m

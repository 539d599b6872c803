"""Everything of the queue pairs between the bus, the arbiter and the memory master."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from bloomgate.parameters import LANES, Parameters
from bloomgate.queue_layout import COMPLETION, SEQUENCE, completion_ring_offset
from bloomgate.registers import SLOT_PAGE, ErrorCode

from bloomgate_hdl.announced_log_port import AnnouncedLogSignature
from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.completion_interrupt import CompletionInterrupt
from bloomgate_hdl.completion_writer import completion_layout, written_layout
from bloomgate_hdl.descriptor_fetcher import DescriptorFetcher, entry_address
from bloomgate_hdl.error_log import error_layout
from bloomgate_hdl.key_reader import Pass
from bloomgate_hdl.log_follower import LogFollower
from bloomgate_hdl.per_slot import PerSlot
from bloomgate_hdl.queue_port import queued_request_layout
from bloomgate_hdl.queue_slots import QueueSlots
from bloomgate_hdl.read_master import fetch_layout, fetched_layout
from bloomgate_hdl.request_buffers import RequestBuffers, findings_layout
from bloomgate_hdl.slot_port import SlotPortSignature, verdict_layout, verdict_registers
from bloomgate_hdl.validation_pipeline import beat_layout

__all__ = ["QueueEngine"]


class QueueEngine(wiring.Component):
    """Doorbell in, descriptor and keys from memory, request to the arbiter, completion to memory.

    While ``resetting`` nothing is fetched; requests in the buffers are aborted with RESET, and ``reset_owed`` says that
    something is left: a request, a burst, or a completion. Entries that are in their rings, or in the descriptor
    fetcher, wait.

    Fairness: slots are fetched from and handed to buffers in turns, and buffers are served in the order in which they
    were loaded, each chunk of a long request as one. At most one long request is in a buffer, and the next ones of its
    slot wait for it. When one has been validated exclusively, every slot that had a request pending then has its oldest
    one handed to a buffer before the next long request is.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        ids = parameters.request_buffers + 1
        super().__init__(
            {
                #: See LogFollower; and the slots with a transaction in flight.
                "log": In(AnnouncedLogSignature(parameters)),
                "log_settled": Out(1),
                "in_flight": In(parameters.slots),
                #: See QueueSlots.
                "bus": In(SlotPortSignature(parameters)),
                #: See MemoryMaster.
                "fetch": Out(stream.Signature(fetch_layout(ids))),
                "beat": In(fetched_layout(ids)),
                "busy": In(ids),
                "reads_idle": In(1),
                "completion": Out(stream.Signature(completion_layout(parameters.slot_bits))),
                "written": In(written_layout(parameters.slot_bits)),
                "writes_idle": In(1),
                #: See CommitArbiter.
                "serviceable": Out(1),
                "expected": Out(1),
                "request": Out(queued_request_layout(parameters)),
                "findings": Out(findings_layout(parameters)),
                "second": In(1),
                "start": In(1),
                "start_pass": In(Pass),
                "ending": Out(1),
                "keys": Out(beat_layout(parameters)),
                "pipeline_ready": In(1),
                "wants": Out(1),
                "next_chunk": In(1),
                "rotate": In(1),
                "again": In(1),
                "taken_out": In(1),
                "release": In(1),
                "exclusive_ends": In(1),
                "completable": Out(1),
                #: Slot of the request in service. Strobe, in the clock cycle behind its decision: a queued request of
                #: ``decided_slot`` has the verdict ``verdict``.
                "serving_slot": In(parameters.slot_bits),
                "decided": In(1),
                "decided_slot": In(parameters.slot_bits),
                "verdict": In(verdict_layout(parameters)),
                #: Strobe: a reset begins; and from then until the new epoch has begun.
                "reset": In(1),
                "resetting": In(1),
                "reset_owed": Out(1),
                #: Store the next key with bad parity, until ``corrupts``.
                "corrupt": In(1),
                "corrupts": Out(1),
                #: The fields of COALESCE, and the strobe for the interrupt cause.
                "coalesce_count": In(16),
                "coalesce_clocks": In(16),
                "completed": Out(1),
                #: Errors of bus accesses and of completions, and how many there are in this clock cycle.
                "error": Out(error_layout(parameters)),
                "errors": Out(range(3)),
                "parity_errors": Out(range(LANES + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        per_slot = PerSlot(m, p.slots)
        m.submodules.slots = slots = QueueSlots(p)
        m.submodules.fetcher = fetcher = DescriptorFetcher(p)
        m.submodules.follower = follower = LogFollower(p)
        m.submodules.buffers = buffers = RequestBuffers(p)
        m.submodules.interrupt = interrupt = CompletionInterrupt()
        connect(m, flipped(self.bus), slots.bus)
        connect(m, flipped(self.log), follower.log)
        connect(m, follower.fetch, fetcher.log)

        # Descriptors.
        m.d.comb += [
            fetcher.enabled.eq(slots.enabled),
            fetcher.pending.eq(slots.pending),
            slots.fetch_slot.eq(fetcher.fetch_slot),
            fetcher.fetch_index.eq(slots.fetch_index),
            fetcher.fetch_base.eq(slots.window.base),
            slots.arriving_slot.eq(fetcher.arriving_slot),
            fetcher.arriving_base.eq(slots.arriving_base),
            fetcher.arriving_size.eq(slots.arriving_size),
            fetcher.ringing.eq(slots.ringing),
            fetcher.ringing_slot.eq(slots.ringing_slot),
            slots.fetched.eq(fetcher.fetched),
            slots.held.eq(fetcher.held | per_slot.one_hot(follower.fetch.slot, follower.busy)),
            fetcher.beat.eq(self.beat),
            follower.allowed.eq(slots.enabled & self.in_flight),
            follower.beat.eq(self.beat.data),
            self.log_settled.eq(follower.settled),
            buffers.order.eq(fetcher.order),
            buffers.valid.eq(fetcher.valid),
            fetcher.ready.eq(buffers.ready),
            slots.take_slot.eq(fetcher.order.header.slot),
            slots.taken.eq(fetcher.valid & buffers.ready),
        ]
        # A clock cycle late: what is handed on in that of `reset` is aborted like what was.
        m.d.sync += fetcher.hold.eq(self.resetting)
        # Requests of a slot are decided in their order, so those behind a long one wait for it.
        long_slot = Signal(p.slot_bits)
        with m.If(slots.taken & ~buffers.long):
            m.d.sync += long_slot.eq(slots.take_slot)
        # A clock cycle late, since no order is handed on in the clock cycle behind another.
        m.d.sync += fetcher.hold_slots.eq(per_slot.one_hot(long_slot, buffers.long))
        owed = Signal(p.slots)  # slots whose oldest request comes before any other long one
        served = per_slot.one_hot(slots.take_slot, slots.taken)
        still_owed = owed & ~served & ~fetcher.long & slots.enabled
        m.d.sync += owed.eq(Mux(self.exclusive_ends, slots.pending | fetcher.held, still_owed))
        m.d.sync += fetcher.hold_long.eq(buffers.long | owed.any())

        # Memory. Descriptors go first: they are short, and everything waits for them.
        m.d.comb += [
            self.fetch.valid.eq(Mux(fetcher.asks, fetcher.fetch.valid, buffers.fetch.valid)),
            *(
                self.fetch.payload[name].eq(Mux(fetcher.asks, fetcher.fetch.payload[name], buffers.fetch.payload[name]))
                for name in ("id", "address", "beats")
            ),
            slots.window_slot.eq(Mux(fetcher.asks, fetcher.fetch_slot, buffers.fetch_slot)),
            self.fetch.payload.window.eq(slots.window),
            fetcher.fetch.ready.eq(self.fetch.ready),
            buffers.fetch.ready.eq(self.fetch.ready & ~fetcher.asks),
            buffers.beat.eq(self.beat),
            buffers.busy.eq(self.busy),
        ]

        # The arbiter.
        m.d.comb += [
            self.serviceable.eq(buffers.serviceable),
            self.expected.eq(buffers.expected),
            self.request.eq(buffers.request),
            self.findings.eq(buffers.findings),
            buffers.second.eq(self.second),
            buffers.start.eq(self.start),
            buffers.start_pass.eq(self.start_pass),
            self.ending.eq(buffers.ending),
            self.keys.eq(buffers.keys),
            buffers.pipeline_ready.eq(self.pipeline_ready),
            self.wants.eq(buffers.wants),
            buffers.next_chunk.eq(self.next_chunk),
            buffers.rotate.eq(self.rotate),
            buffers.again.eq(self.again),
            buffers.decided.eq(self.taken_out),
            buffers.release.eq(self.release),
            buffers.reset.eq(self.reset),
            buffers.corrupt.eq(self.corrupt),
            self.corrupts.eq(buffers.corrupts),
            self.parity_errors.eq(buffers.parity_errors),
            self.reset_owed.eq(buffers.active | ~self.reads_idle | ~self.writes_idle | self.decided),
        ]

        # Completions.
        place = slots.completion_place
        verdict = self.verdict
        number, generation = SEQUENCE.fields
        words = verdict_registers(verdict, done=1)
        payload = self.completion.payload
        m.d.comb += [
            slots.serving_slot.eq(self.serving_slot),
            slots.decided_slot.eq(self.decided_slot),
            slots.decided.eq(self.decided),
            slots.verdict.eq(verdict),
            # The arbiter decides when the writer has room, so it is taken at once.
            self.completion.valid.eq(self.decided),
            self.completable.eq(self.completion.ready & ~self.decided),
            payload.slot.eq(self.decided_slot),
            payload.address.eq(entry_address(place, completion_ring_offset(p), p.queue_entries)),
            payload.window.eq(place.window),
            payload.sequence[number.lsb : number.lsb + number.width].eq(place.index + 1),
            payload.sequence[generation.lsb : generation.lsb + generation.width].eq(place.generation),
        ]
        for beat in COMPLETION:
            word = words[beat.name]
            target = payload.words[beat.beat]
            if not isinstance(word, dict):
                m.d.comb += target.eq(word)
                continue
            register = SLOT_PAGE.register(beat.name)
            for field_name, value in word.items():
                field = register[field_name]
                m.d.comb += target[field.lsb : field.lsb + field.width].eq(value)

        written = self.written
        lost = Signal()
        m.d.comb += [
            slots.written.eq(written.valid),
            slots.written_slot.eq(written.slot),
            lost.eq(written.valid & ((written.response != Response.OKAY) | written.refused)),
            interrupt.written.eq(written.valid),
            interrupt.count.eq(self.coalesce_count),
            interrupt.clocks.eq(self.coalesce_clocks),
            self.completed.eq(interrupt.raises),
            self.errors.eq(slots.error.valid + lost),
            self.error.eq(slots.error),
        ]
        with m.If(lost):
            m.d.comb += [
                self.error.valid.eq(1),
                self.error.code.eq(ErrorCode.COMPLETION_ERROR.value),
                self.error.slot.eq(written.slot),
                self.error.detail.eq(slots.written_index),
            ]
        return m

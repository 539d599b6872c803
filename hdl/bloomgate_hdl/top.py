"""The co-processor: everything between the AXI port and the interrupt line."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import BASE_ADDRESS, region_bytes
from bloomgate.verdict import Reason

from bloomgate_hdl.axi3 import Axi3Signature
from bloomgate_hdl.axi3_slave import Axi3Slave
from bloomgate_hdl.books import Books
from bloomgate_hdl.commit_arbiter import CommitArbiter
from bloomgate_hdl.control_page import ControlPage
from bloomgate_hdl.error_log import ErrorLog
from bloomgate_hdl.flights import Flights
from bloomgate_hdl.key_log import KeyLog
from bloomgate_hdl.memory_master import MemoryMaster
from bloomgate_hdl.memory_port import ACP, HP, MemoryPort
from bloomgate_hdl.page_decoder import PageDecoder
from bloomgate_hdl.queue_engine import QueueEngine
from bloomgate_hdl.slot_pages import SlotPages
from bloomgate_hdl.statistics import Statistics
from bloomgate_hdl.validation_pipeline import KeyOperation, ValidationPipeline

__all__ = ["Bloomgate", "probe_layout"]

#: M_AXI_GP0 of the Zynq-7000 (UG585 ch. 5): 32-bit data, 12-bit IDs.
GP_DATA_BITS = 32
GP_ID_BITS = 12


def probe_layout(parameters: Parameters) -> data.StructLayout:
    """Events and states for measurements and logic analysers; an event is high for one clock cycle."""
    return data.StructLayout(
        {
            # A request has been accepted; visible 2 clock cycles after the data beat entered the AXI slave.
            "submitted": 1,
            # A verdict is being stored: readable from the next clock cycle on.
            "decided": 1,
            "decided_slot": parameters.slot_bits,
            # Lanes whose key enters the pipeline to be queried, checked, inserted, and announced.
            "queries": LANES,
            "checks": LANES,
            "insertions": LANES,
            "announcements": LANES,
            # The last beat of a completion is being taken by the memory.
            "completed": 1,
            # A long request's read set is validated while nothing else is decided.
            "exclusive": 1,
        }
    )


class Bloomgate(wiring.Component):
    """The device between an AXI3 slave port and a port to memory, without PS7 and without pins.

    ``base`` is the byte address of the control page, ``memory_port`` what ``memory`` is connected to.
    Clock: ``sync``, everything synchronous to it.
    Reset state: epoch 0, scrubbing for D / 2 clock cycles, during which requests are taken but not decided.
    """

    def __init__(self, parameters: Parameters, base: int = BASE_ADDRESS, memory_port: MemoryPort = ACP):
        self._parameters = parameters
        self._base = base
        self._memory_port = memory_port
        super().__init__(
            {
                #: To M_AXI_GP0.
                "axi": In(Axi3Signature(32, GP_DATA_BITS, GP_ID_BITS)),
                #: To S_AXI_ACP or S_AXI_HP0.
                "memory": Out(memory_port.signature),
                #: Level high; to IRQ_F2P.
                "interrupt": Out(1),
                #: For measurements only.
                "probe": Out(probe_layout(parameters)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        m.submodules.axi_slave = axi_slave = Axi3Slave(base=self._base, size=region_bytes(p), id_width=GP_ID_BITS)
        m.submodules.page_decoder = decoder = PageDecoder(p)
        m.submodules.control_page = control = ControlPage(p, uncached=self._memory_port == HP)
        m.submodules.slot_pages = slot_pages = SlotPages(p)
        m.submodules.key_log = key_log = KeyLog(p)
        m.submodules.arbiter = arbiter = CommitArbiter(p)
        m.submodules.pipeline = pipeline = ValidationPipeline(p)
        m.submodules.flights = flights = Flights(p)
        m.submodules.statistics = statistics = Statistics(p)
        m.submodules.books = books = Books(p)
        m.submodules.error_log = error_log = ErrorLog(p)
        m.submodules.queues = queues = QueueEngine(p)
        m.submodules.memory_master = memory_master = MemoryMaster(
            slot_bits=p.slot_bits, ids=p.request_buffers + 1, port=self._memory_port
        )

        # Bus.
        connect(m, flipped(self.axi), axi_slave.bus)
        connect(m, memory_master.bus, flipped(self.memory))
        connect(m, axi_slave.registers, decoder.bus)
        connect(m, decoder.control, control.bus)
        connect(m, decoder.slots, slot_pages.bus)
        connect(m, decoder.queues, queues.bus)

        # Queue pairs and memory.
        connect(m, queues.fetch, memory_master.fetch)
        connect(m, queues.completion, memory_master.completion)
        connect(m, slot_pages.log, queues.log)
        m.d.comb += [
            queues.in_flight.eq(flights.in_flight),
            queues.beat.eq(memory_master.beat),
            queues.busy.eq(memory_master.busy),
            queues.reads_idle.eq(memory_master.reads_idle),
            queues.written.eq(memory_master.written),
            queues.writes_idle.eq(memory_master.writes_idle),
        ]

        # Keys into their buffer. An injected fault waits for the next key, which may be there already.
        fault_waits = Signal()
        fault_next_key = Signal()
        m.d.comb += [
            fault_next_key.eq(fault_waits | control.inject_next_key),
            queues.corrupt.eq(fault_waits),
        ]
        with m.If(slot_pages.append | queues.corrupts):
            m.d.sync += fault_waits.eq(fault_waits & control.inject_next_key)
        with m.Else():
            m.d.sync += fault_waits.eq(fault_next_key)
        m.d.comb += [
            key_log.write.eq(slot_pages.append),
            key_log.write_slot.eq(slot_pages.append_slot),
            key_log.write_position.eq(slot_pages.append_position),
            key_log.write_key.eq(slot_pages.append_key),
            key_log.write_bad.eq(fault_next_key & ~queues.corrupts),
        ]

        # Requests to the arbiter, verdicts back.
        m.d.comb += [
            arbiter.pending.eq(slot_pages.pending & ~flights.hidden),
            slot_pages.take.eq(arbiter.take),
            slot_pages.request_slot.eq(flights.request_slot),
            arbiter.request.eq(slot_pages.request),
            arbiter.request.skip_count.eq(flights.skip_count),
            slot_pages.decided.eq(arbiter.given & ~arbiter.decided_queued),
            slot_pages.decided_slot.eq(arbiter.decided_slot),
            slot_pages.verdict.eq(arbiter.verdict),
            slot_pages.reset.eq(arbiter.reset_begins),
            slot_pages.resetting.eq(arbiter.resetting),
            arbiter.reset_owed.eq(slot_pages.reset_owed | queues.reset_owed),
        ]

        # The same for queued requests, with their keys.
        m.d.comb += [
            arbiter.queue_serviceable.eq(queues.serviceable),
            arbiter.queue_expected.eq(queues.expected),
            arbiter.queue_request.eq(queues.request),
            arbiter.queue_findings.eq(queues.findings),
            queues.second.eq(arbiter.queue_second),
            queues.start.eq(arbiter.queue_start),
            queues.start_pass.eq(arbiter.queue_pass),
            arbiter.queue_ending.eq(queues.ending),
            arbiter.queue_keys.eq(queues.keys),
            queues.pipeline_ready.eq(arbiter.queue_ready),
            arbiter.queue_wants.eq(queues.wants),
            queues.next_chunk.eq(arbiter.queue_next_chunk),
            queues.rotate.eq(arbiter.queue_rotate),
            queues.again.eq(arbiter.queue_again),
            queues.taken_out.eq(arbiter.queue_decided),
            queues.release.eq(arbiter.queue_release),
            queues.exclusive_ends.eq(arbiter.exclusive_ends),
            arbiter.completable.eq(queues.completable),
            queues.decided.eq(arbiter.given & arbiter.decided_queued),
            queues.serving_slot.eq(arbiter.serving_slot),
            queues.decided_slot.eq(arbiter.decided_slot),
            queues.verdict.eq(arbiter.verdict),
            queues.reset.eq(arbiter.reset_begins),
            queues.resetting.eq(arbiter.resetting),
        ]

        # Keys from their buffer through the filter.
        m.d.comb += [
            key_log.read.eq(arbiter.read),
            key_log.read_slot.eq(arbiter.read_slot),
            key_log.read_word.eq(arbiter.read_word),
            arbiter.keys.eq(key_log.keys),
            arbiter.bad.eq(key_log.bad),
            pipeline.beat.eq(arbiter.beat),
            arbiter.ready.eq(pipeline.ready),
            arbiter.outcome.eq(pipeline.outcome),
            pipeline.newest.eq(arbiter.newest),
            pipeline.snapshot.eq(arbiter.snapshot),
            pipeline.floor.eq(arbiter.floor),
            pipeline.scrub.eq(arbiter.scrub),
            arbiter.scrubbing.eq(pipeline.scrubbing),
            pipeline.inject.eq(arbiter.inject),
            pipeline.inject_table.eq(control.inject_table),
            pipeline.inject_row.eq(control.inject_row),
        ]

        # Transactions in flight.
        connect(m, slot_pages.flight, flights.pages)
        connect(m, control.token, flights.token)
        m.d.comb += [
            flights.takes.eq(arbiter.take),
            flights.take_slot.eq(arbiter.request_slot),
            flights.request.eq(slot_pages.request),
            flights.decided.eq(arbiter.decided & ~arbiter.decided_queued),
            flights.decided_slot.eq(arbiter.decided_slot),
            flights.decided_keeps.eq(arbiter.decided_keeps),
            flights.verdict.eq(arbiter.verdict),
            arbiter.announce.eq(flights.announce),
            arbiter.announce_slot.eq(flights.request_slot),
            arbiter.announce_word.eq(flights.announce_word),
            arbiter.announce_lanes.eq(flights.announce_lanes),
            arbiter.announce_late.eq(flights.announce_late),
            arbiter.announce_count.eq(slot_pages.request.snapshot_count),
            flights.fault.eq(arbiter.inject),
            flights.reset_begins.eq(arbiter.reset_begins),
            flights.epoch.eq(arbiter.epoch),
            flights.count.eq(arbiter.count),
            flights.busy.eq(arbiter.busy | ~queues.log_settled),
            flights.ready.eq(pipeline.ready),
            flights.outcome.eq(pipeline.outcome),
            pipeline.hold.eq(arbiter.hold),
            flights.scrubbing.eq(pipeline.slots_scrubbing),
        ]
        # A clock cycle late, and still before the slot's first key is announced.
        m.d.sync += [pipeline.clear.eq(flights.clear), pipeline.clear_slot.eq(slot_pages.flight.slot)]
        for name in ("in_flight", "logged", "revalidate", "holds", "revoked", "ends_epoch"):
            m.d.comb += getattr(arbiter, name).eq(getattr(flights, name))
        for name in ("contended", "inserting", "winner", "winner_known", "floor_rises", "epoch_ended", "exhausted"):
            m.d.comb += getattr(flights, name).eq(getattr(arbiter, name))

        # Commands and state.
        m.d.comb += [
            arbiter.reset.eq(control.soft_reset),
            arbiter.initial_epoch.eq(control.initial_epoch),
            arbiter.raise_floor.eq(control.raise_floor),
            arbiter.inject_fault.eq(control.inject_filter_word),
            control.state.ready.eq(~(pipeline.scrubbing | arbiter.resetting)),
            control.state.scrubbing.eq(pipeline.scrubbing),
            control.state.resetting.eq(arbiter.resetting),
            control.state.exhausted.eq(arbiter.exhausted),
            control.state.fault_pending.eq(arbiter.fault_pending),
            control.state.epoch.eq(arbiter.epoch),
            control.state.count.eq(arbiter.count),
            control.state.settled.eq(flights.settled),
            control.woke.eq(flights.events.woke),
            control.state.previous_epoch.eq(arbiter.previous_epoch),
            control.state.previous_count.eq(arbiter.previous_count),
            control.state.floor.eq(arbiter.floor),
            control.error_logged.eq(error_log.logged),
            control.epoch_stepped.eq(arbiter.epoch_stepped),
            control.decided.eq(arbiter.given & ~arbiter.decided_queued),
            control.completed.eq(queues.completed),
            queues.coalesce_count.eq(control.coalesce_count),
            queues.coalesce_clocks.eq(control.coalesce_clocks),
            self.interrupt.eq(control.interrupt),
        ]

        # Books.
        events = statistics.events
        queries = Cat(lane.operation == KeyOperation.QUERY for lane in pipeline.outcome.beat.lanes)
        m.d.comb += [
            error_log.decision.eq(arbiter.error),
            error_log.queue.eq(queues.error),
            error_log.access.eq(slot_pages.error),
            error_log.read_word.eq(control.error_word),
            control.error_data.eq(error_log.read_data),
            control.error_count.eq(error_log.count),
            statistics.latch.eq(control.latch_statistics),
            statistics.read_word.eq(control.statistics_word),
            control.statistics_data.eq(statistics.read_data),
            control.statistics_sequence.eq(statistics.sequence),
            events.clocks.eq(1),
            events.busy_clocks.eq(arbiter.busy),
            events.commits.eq(arbiter.decided & arbiter.verdict.committed & ~arbiter.decided_keeps),
            events.keys_validated.eq(sum(queries)),
            events.keys_inserted.eq(arbiter.keys_inserted),
            events.parity_errors.eq(arbiter.parity_errors + queues.parity_errors),
            events.floor_raises.eq(arbiter.floor_raised),
            events.epoch_steps.eq(arbiter.epoch_stepped),
            events.errors.eq(arbiter.error.valid + slot_pages.error.valid + queues.errors),
        ]
        m.d.comb += [
            books.began.eq(arbiter.begins),
            books.decided.eq(arbiter.decided & ~arbiter.decided_queued),
            books.decided_slot.eq(arbiter.decided_slot),
            books.reason.eq(arbiter.verdict.reason),
            books.counts.eq(flights.ends),
            books.conflict.eq(flights.events.conflict),
            books.loser.eq(flights.events.loser),
            books.doom.eq(flights.events.doom),
            books.doomed.eq(flights.events.doomed),
            flights.events_ready.eq(books.ready),
            control.conflict_head.eq(books.head),
            books.read_word.eq(control.books_word),
            control.books_data.eq(books.read_data),
        ]
        for reason in Reason:
            m.d.comb += events[f"aborts_{reason.name.lower()}"].eq(
                arbiter.decided & (arbiter.verdict.reason == reason.value)
            )

        accepted = [Signal(KeyOperation, name=f"accepted_{lane}") for lane in range(LANES)]
        for lane, operation in enumerate(accepted):
            with m.If(pipeline.ready):
                m.d.comb += operation.eq(arbiter.beat.lanes[lane].operation)
        m.d.comb += [
            self.probe.submitted.eq(slot_pages.submitted),
            self.probe.decided.eq(arbiter.given),
            self.probe.decided_slot.eq(arbiter.decided_slot),
            self.probe.completed.eq(self.memory.wvalid & self.memory.wready & self.memory.wlast),
            self.probe.exclusive.eq(arbiter.exclusive),
            *(
                lanes.eq(Cat(entering == operation for entering in accepted))
                for lanes, operation in (
                    (self.probe.queries, KeyOperation.QUERY),
                    (self.probe.checks, KeyOperation.CHECK),
                    (self.probe.insertions, KeyOperation.INSERT),
                    (self.probe.announcements, KeyOperation.ANNOUNCE),
                )
            ),
        ]
        return m

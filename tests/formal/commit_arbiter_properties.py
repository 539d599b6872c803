"""What must hold of the commit arbiter: each request is decided once, and in the order of the timestamps."""

from amaranth.asserts import AnyConst
from amaranth.hdl import Array, Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from bloomgate.parameters import LANES, Parameters
from bloomgate.registers import RequestKind
from bloomgate.verdict import Reason
from bloomgate_hdl.commit_arbiter import CommitArbiter
from bloomgate_hdl.recency_filter import FilterResult
from bloomgate_hdl.slot_port import request_layout
from bloomgate_hdl.validation_pipeline import KeyOperation

#: Small enough for the solver; nothing in the gateware depends on the sizes.
PARAMETERS = Parameters(K=1, D=4, timestamp_bits=2, key_bits=4, slots=2, aperture_depth=4)

#: Clock cycles from submission to decision when the filter never stalls and no other slot wants anything: for 4 keys,
#: with the insertion and the end of an epoch of the request before it, and with a REPAIR pass.
PATIENCE = 22


class CommitArbiterProperties(wiring.Component):
    """The arbiter between slots that submit at any time and a filter that answers anything and stalls at will.

    The pipeline is a delay that carries beats and adds free answers, so that what holds here holds for any filter. Keys
    are free but constant. With these, for each request:

    * The verdict goes to a slot whose request is undecided, and names it: it is decided at most once, and that is given
      once. With ``lively``, where nothing stalls and one slot has the arbiter for itself, it is decided within PATIENCE
      clock cycles.
    * Timestamps are consecutive from 1 within an epoch; epochs only grow. A request is given one iff it commits and
      writes or commutes something.
    * Validation and assignment are one step: from the first key validated to the verdict, nothing is inserted and
      neither timestamp nor epoch changes.
    * It commits only if every read key was queried and none failed, every other key was checked and none was bad, its
      snapshot is of this epoch and not ahead, and neither a reset nor its slot forbids it.
    * A reset is over only when every request that it hit has its verdict.
    * CONFLICT and PARITY name the first failing key in the order of the request.
    * After a commit every write and commute key is inserted under its timestamp before any other key is queried and
      before the epoch ends; a key that its buffer lost meanwhile raises the floor to that timestamp.
    """

    def __init__(self, cover: bool = False, lively: bool = False):
        self._cover = cover
        self._lively = lively
        # Some verdicts are withheld, and some are not.
        self.dut = CommitArbiter(PARAMETERS, many_keys=4)
        slots = PARAMETERS.slots
        super().__init__(
            {
                "submit": In(slots),
                "submissions": In(data.ArrayLayout(request_layout(PARAMETERS), slots)),
                "bad": In(LANES),
                "stall": In(1),
                "answers": In(data.ArrayLayout(FilterResult, LANES)),
                "reset": In(1),
                "initial_epoch": In(32),
                "raise_floor": In(1),
                "inject_fault": In(1),
                "ends_epoch": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.dut
        slots = PARAMETERS.slots
        depth = PARAMETERS.aperture_depth
        properties = []  # of (condition, promise)

        def always(promise):
            properties.append(promise)

        def implies(condition, promise):
            properties.append(~condition | promise)

        for name in ("bad", "reset", "initial_epoch", "raise_floor", "inject_fault", "ends_epoch"):
            m.d.comb += getattr(dut, name).eq(getattr(self, name))
        if self._lively:
            m.d.comb += [Assume(~self.stall), Assume(~self.reset), Assume(~self.inject_fault)]
            m.d.comb += [Assume(~self.submit[1]), Assume(~self.raise_floor), Assume(~self.ends_epoch)]

        # --- Slots, as SlotPages has them ---------------------------------------------------------------------------
        pending = Signal(slots)
        busy = Signal(slots)
        hit_by_reset = Signal(slots)
        owed = Signal(slots)
        requests = Array(Signal(request_layout(PARAMETERS), name=f"request_{slot}") for slot in range(slots))
        for slot in range(slots):
            accepted = self.submit[slot] & ~busy[slot]
            given = dut.given & (dut.decided_slot == slot)
            submission = self.submissions[slot]
            m.d.comb += Assume(submission.read_count + submission.write_count <= depth)
            # Requests of a slot that has announced nothing; nobody holds the token.
            m.d.comb += Assume((submission.kind == RequestKind.COMMIT.value) & (submission.skip_count == 0))
            with m.If(accepted):
                m.d.sync += [pending[slot].eq(1), busy[slot].eq(1), requests[slot].eq(submission)]
                m.d.sync += hit_by_reset[slot].eq(dut.resetting)
            with m.Else():
                with m.If(dut.reset_begins & busy[slot]):
                    m.d.sync += hit_by_reset[slot].eq(1)
                with m.If(given):
                    m.d.sync += [busy[slot].eq(0), hit_by_reset[slot].eq(0)]
            with m.If(dut.take & (dut.request_slot == slot)):
                m.d.sync += pending[slot].eq(0)
            with m.If(given):
                m.d.sync += owed[slot].eq(0)
            with m.Elif(dut.reset_begins):
                m.d.sync += owed[slot].eq(busy[slot])
        m.d.comb += [
            dut.reset_owed.eq(owed.any()),
            dut.pending.eq(pending),
            dut.request.eq(requests[dut.request_slot].as_value()),
            dut.request.reset.eq(hit_by_reset.bit_select(dut.request_slot, 1)),
        ]
        request = Signal(request_layout(PARAMETERS))
        m.d.comb += request.eq(requests[dut.decided_slot].as_value())
        was_resetting = Signal()
        m.d.sync += was_resetting.eq(dut.resetting)
        implies(was_resetting & ~dut.resetting, owed == 0)
        implies(dut.take, pending.bit_select(dut.request_slot, 1))
        implies(dut.decided, (busy & ~pending).bit_select(dut.decided_slot, 1))
        implies(dut.decided, dut.verdict.request == request.request)

        # Decided and not given: the verdict stays as it is, and is given before the next one.
        withheld = Signal()
        held_slot = Signal.like(dut.decided_slot)
        held_verdict = Signal.like(dut.verdict)
        m.d.sync += withheld.eq((withheld | dut.decided) & ~dut.given)
        with m.If(dut.decided):
            m.d.sync += [held_slot.eq(dut.decided_slot), held_verdict.eq(dut.verdict)]
        implies(dut.given, dut.decided ^ withheld)
        implies(withheld, (dut.decided_slot == held_slot) & (dut.verdict.as_value() == held_verdict.as_value()))

        # --- Keys ---------------------------------------------------------------------------------------------------
        words = depth // LANES
        all_keys = [AnyConst(PARAMETERS.key_bits) for _ in range(slots * depth)]
        keys = Signal.like(dut.keys)
        with m.If(dut.read):
            for lane in range(LANES):
                position = (dut.read_slot * words + dut.read_word) * LANES + lane
                m.d.sync += keys[lane].eq(Array(all_keys)[position])
        m.d.comb += dut.keys.eq(keys)

        # --- A pipeline like ValidationPipeline, but with free answers ----------------------------------------------
        scrubbing = Signal(init=1)
        m.d.sync += scrubbing.eq(dut.scrub)
        m.d.comb += [
            dut.scrubbing.eq(scrubbing),
            dut.ready.eq(~((self.stall & ~dut.hold) | scrubbing | dut.scrub | dut.inject)),
        ]
        # What is held may not be scrubbed or injected either.
        implies(dut.hold, dut.ready)
        stage_1 = Signal.like(dut.beat)
        stage_2 = Signal.like(dut.beat)
        stage_3 = Signal.like(dut.beat)
        with m.If(dut.ready):
            m.d.sync += [stage_1.eq(dut.beat), stage_2.eq(stage_1)]
        with m.Else():
            m.d.sync += stage_2.eq(0)
        m.d.sync += stage_3.eq(stage_2)
        m.d.comb += dut.outcome.beat.eq(stage_3)
        for lane in range(LANES):
            operation = stage_3.lanes[lane].operation
            with m.If((operation == KeyOperation.QUERY) | (operation == KeyOperation.REPAIR)):
                m.d.comb += dut.outcome.filter[lane].eq(self.answers[lane])
            m.d.comb += Assume(~self.answers[lane].uncertain | self.answers[lane].conflict)

        def lanes_with(beat, operation):
            return [lane.operation == operation for lane in beat.lanes]

        # --- Timestamps ---------------------------------------------------------------------------------------------
        # `decided` comes one clock cycle after the decision: by then the arbiter's count has gone up.
        epoch = Signal.like(dut.epoch)
        count = Signal.like(dut.count)
        timestamped = dut.decided & dut.verdict.timestamped
        m.d.sync += epoch.eq(dut.epoch)
        with m.If(dut.scrub):
            m.d.sync += count.eq(0)
        with m.Elif(timestamped):
            m.d.sync += count.eq(count + 1)
        implies(timestamped, (count != PARAMETERS.max_count) & (dut.verdict.count == count + 1))
        implies(timestamped, dut.verdict.epoch == dut.epoch)
        always(dut.count == (count + timestamped)[: PARAMETERS.timestamp_bits])
        always(dut.epoch >= epoch)
        implies(dut.decided, dut.verdict.timestamped == (dut.verdict.committed & (request.write_count != 0)))
        implies(dut.decided, dut.verdict.committed == (dut.verdict.reason == 0))

        # --- Validation, as one step with the decision --------------------------------------------------------------
        accepted = Signal.like(dut.beat)
        with m.If(dut.ready):
            m.d.comb += accepted.eq(dut.beat)
        enters = {operation: lanes_with(accepted, operation) for operation in KeyOperation}
        validates = enters[KeyOperation.QUERY] + enters[KeyOperation.CHECK] + enters[KeyOperation.REPAIR]
        validating = Signal()
        with m.If(dut.decided):
            m.d.sync += validating.eq(0)
        with m.Elif(sum(validates).any()):
            m.d.sync += validating.eq(1)
        implies(validating, ~sum(enters[KeyOperation.INSERT]).any())
        implies(validating, ~dut.scrub & ~dut.inject & (dut.epoch == epoch))

        queried = Signal(range(depth + 1))
        checked = Signal(range(depth + 1))
        failed = Signal()
        failed_key = Signal(PARAMETERS.key_bits)
        failed_now, failed_key_now = failed, failed_key
        for lane in range(LANES):
            key = stage_3.lanes[lane]
            answer = dut.outcome.filter[lane]
            query = key.operation == KeyOperation.QUERY
            check = key.operation == KeyOperation.CHECK
            fails = query & answer.conflict | (query | check) & key.key_bad
            failed_key_now = Mux(failed_now, failed_key_now, key.key)
            failed_now = failed_now | fails
        hit_before = Signal(slots)  # a reset in the clock cycle of the decision comes too late for it
        m.d.sync += hit_before.eq(hit_by_reset)
        with m.If(dut.decided):
            m.d.sync += [queried.eq(0), checked.eq(0), failed.eq(0)]
        with m.Else():
            m.d.sync += [
                queried.eq(queried + sum(lanes_with(stage_3, KeyOperation.QUERY))),
                checked.eq(checked + sum(lanes_with(stage_3, KeyOperation.CHECK))),
                failed.eq(failed_now),
                failed_key.eq(failed_key_now),
            ]
        implies(dut.decided, (queried == request.read_count) & (checked == request.write_count))
        implies(
            dut.decided & dut.verdict.committed,
            ~failed
            & ~dut.exhausted
            & (request.snapshot_epoch == dut.epoch)
            & (request.snapshot_count <= count)
            & ~(request.bad_request | request.overflow | request.busy)
            & ~hit_before.bit_select(dut.decided_slot, 1),
        )
        names_key = (dut.verdict.reason == Reason.CONFLICT.value) | (dut.verdict.reason == Reason.PARITY.value)
        implies(dut.decided & names_key, failed & (dut.verdict.conflict_key == failed_key))

        # One arbitrary position of the set that is queried, and one of those that are inserted.
        watched_read = AnyConst(2)
        watched_write = AnyConst(2)
        owner = dut.decided_slot
        read_key = Array(all_keys)[owner * depth + watched_read]
        write_key = Array(all_keys)[owner * depth + depth - 1 - watched_write]
        saw_read = Signal()
        for lane in stage_3.lanes:
            with m.If((lane.operation == KeyOperation.QUERY) & (lane.key == read_key)):
                m.d.sync += saw_read.eq(1)
        with m.If(dut.decided):
            m.d.sync += saw_read.eq(0)
        implies(dut.decided & (watched_read < request.read_count), saw_read)

        # --- Insertion ----------------------------------------------------------------------------------------------
        inserts_owed = Signal(range(depth + 1))
        owed_key = Signal(PARAMETERS.key_bits)
        owes_key = Signal()
        inserting = sum(enters[KeyOperation.INSERT])
        with m.If(timestamped):
            m.d.sync += inserts_owed.eq(request.write_count)
            m.d.sync += [owes_key.eq(watched_write < request.write_count), owed_key.eq(write_key)]
        with m.Else():
            m.d.sync += inserts_owed.eq(inserts_owed - inserting)
            for lane in range(LANES):
                with m.If(enters[KeyOperation.INSERT][lane] & (accepted.lanes[lane].key == owed_key)):
                    m.d.sync += owes_key.eq(0)
        always(inserts_owed >= inserting)
        implies(sum(validates).any() | dut.scrub | timestamped, (inserts_owed == 0) & ~owes_key)
        # The floor is up two clock cycles after the beat was accepted, when the next one can be at the filter.
        loses = Signal()
        lost = Signal()
        m.d.sync += [
            loses.eq(
                sum(enters[KeyOperation.INSERT][lane] & accepted.lanes[lane].key_bad for lane in range(LANES)).any()
            ),
            lost.eq(loses),
        ]
        implies(lost, dut.floor == dut.count)

        # --- Progress -----------------------------------------------------------------------------------------------
        if self._lively:
            for slot in range(slots):
                waited = Signal(range(PATIENCE + 2), name=f"waited_{slot}")
                with m.If(busy[slot]):
                    m.d.sync += waited.eq(waited + 1)
                with m.Else():
                    m.d.sync += waited.eq(0)
                always(waited <= PATIENCE)

        if self._cover:
            commits = Signal(2)
            with m.If(timestamped & ~commits.all()):
                m.d.sync += commits.eq(commits + 1)
            epochs = Signal(2)
            with m.If(dut.scrub & ~epochs.all()):
                m.d.sync += epochs.eq(epochs + 1)
            aborted = dut.decided & ~dut.verdict.committed
            m.d.comb += [
                Cover((commits == 2) & timestamped & (dut.decided_slot == 1)),
                Cover(aborted & (dut.verdict.reason == Reason.CONFLICT.value) & (request.read_count == depth)),
                Cover(aborted & (dut.verdict.reason == Reason.PARITY.value)),
                Cover(aborted & (dut.verdict.reason == Reason.RESET.value)),
                Cover(timestamped & (request.write_count == depth)),
                Cover((epochs == 1) & timestamped),
                Cover(lost),
            ]
        else:
            m.d.comb += [Assert(promise) for promise in properties]
        return m

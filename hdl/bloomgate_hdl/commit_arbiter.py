"""The commit arbiter: decides requests one after the other and numbers the commits."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, LANES, Parameters
from bloomgate.registers import RequestKind

from bloomgate_hdl.decision import Decision
from bloomgate_hdl.error_log import error_layout
from bloomgate_hdl.key_reader import KeyReader, Pass
from bloomgate_hdl.queue_port import queued_request_layout
from bloomgate_hdl.request_buffers import findings_layout
from bloomgate_hdl.request_scheduler import RequestScheduler
from bloomgate_hdl.slot_port import request_layout, verdict_layout
from bloomgate_hdl.timestamp_counter import TimestampCounter
from bloomgate_hdl.validation_pipeline import KeyOperation, beat_layout, outcome_layout

__all__ = ["CommitArbiter"]


class CommitArbiter(wiring.Component):
    """Validates each request and assigns its timestamp as one atomic step.

    A request goes through these passes over its keys (see Pass): VALIDATE; REPAIR when the recency filter showed bad
    parity; then the verdict is given and the timestamp assigned in one clock cycle; INSERT when it was committed with
    writes or commutes. The next request's VALIDATE follows the INSERT into the same pipeline, so it sees all of it.
    A key that cannot be inserted, because its buffer lost it, raises the floor to the timestamp instead.

    Requests come from the slot pages and, already fetched, from the queue pairs; from both in turns while both have
    one. A queued request goes through the same passes, except that its read set is validated in chunks. If it has more
    than one, other requests are decided between them. If one of those was assigned a timestamp, or the floor was raised
    or a fault injected, the read set is validated again, now without any other request in between (*exclusively*): so
    validation and assignment are one atomic step again. Validation ends with a chunk after which the request is certain
    to be aborted. Afterwards, no other long request begins before each slot page that had one pending has been served.
    The commit of a request with more keys to insert than its buffer holds raises the floor to its own timestamp.

    VALIDATE leaves out what a transaction in flight has announced, but if it turns out at the end that the slot must
    ``revalidate``, there is another pass over everything. A request of kind TOKEN always has that one, and inserts
    nothing; one of kind GUARD has no pass. While a slot ``holds`` the irrevocable token, no request of others commits
    whose write or commute keys may be the holder's: they are looked up in its VALIDATE pass, or in a CHECK pass if it
    is a queued one. Between the beats of a pass those of the Announcer may come, see KeyReader.

    Between two requests, with priority over them, the arbiter maintains the recency filter: it ends the epoch after
    the last count was assigned, on a reset, or because the TokenKeeper wants it, and injects faults.

    The verdict leaves a clock cycle after the decision, so that the insertion is ahead of a client that refills its
    slot at once (see KeyReader). With ``many_keys`` to insert it is given when fewer are left, so that whoever the last
    one dooms or wakes knows at most 12 clock cycles after it. That of a queued request has its way to memory before it.

    Latency: at most 16 clock cycles from pending to verdict for 8 keys, 10 + 1/2 per key for more, and 1/2 more for
    each key that is inserted before the verdict. Between the last key validated and the first one inserted, or the next
    request's first, 4 clock cycles pass, 5 in a queued request.
    Reset state: idle; the recency filter is being scrubbed.

    Parameters
    ----------
    many_keys: more than LANES. With 12 every verdict comes within 16 clock cycles, and one for each key beyond 8.
    """

    def __init__(self, parameters: Parameters, *, many_keys: int = 12):
        self._parameters = parameters
        self._many_keys = many_keys
        p = parameters
        super().__init__(
            {
                #: Requests and verdicts, see SlotPages.
                "pending": In(p.slots),
                "take": Out(1),
                "request_slot": Out(p.slot_bits),
                "request": In(request_layout(p)),
                "decided": Out(1),
                #: The slot whose request is in service.
                "serving_slot": Out(p.slot_bits),
                #: The client gets the verdict; with ``decided``, or later while ``decided_slot`` and ``verdict`` stay.
                "given": Out(1),
                "decided_slot": Out(p.slot_bits),
                "verdict": Out(verdict_layout(p)),
                #: The request was a queued one; the sets, the log and the transaction go on.
                "decided_queued": Out(1),
                "decided_keeps": Out(1),
                #: Slots with a transaction in flight; which have announced a key; whose announced keys have to be
                #: validated, too; that hold the irrevocable token; and held it.
                "in_flight": In(p.slots),
                "logged": In(p.slots),
                "revalidate": In(p.slots),
                "holds": In(p.slots),
                "revoked": In(p.slots),
                #: The epoch has to end, whatever counts it has left.
                "ends_epoch": In(1),
                #: See KeyReader; and the snapshot count of what is announced.
                "announce": In(1),
                "announce_slot": In(p.slot_bits),
                "announce_word": In(range(p.aperture_depth // LANES)),
                "announce_lanes": In(LANES),
                "announce_late": In(1),
                "announce_count": In(p.timestamp_bits),
                #: A beat may come from somebody else; it must come.
                "contended": Out(1),
                "inserting": Out(1),
                #: The pipeline must be ready.
                "hold": Out(1),
                #: The slot whose transaction in flight was given the newest timestamp, if it was one.
                "winner": Out(p.slot_bits),
                "winner_known": Out(1),
                #: Strobe: the floor is raised.
                "floor_rises": Out(1),
                #: Strobe: the epoch has ended.
                "epoch_ended": Out(1),
                #: Keys, see KeyLog.
                "read": Out(1),
                "read_slot": Out(p.slot_bits),
                "read_word": Out(range(p.aperture_depth // LANES)),
                "keys": In(data.ArrayLayout(p.key_bits, LANES)),
                "bad": In(LANES),
                #: Queued requests, see RequestBuffers for these.
                "queue_serviceable": In(1),
                "queue_expected": In(1),
                "queue_request": In(queued_request_layout(p)),
                "queue_findings": In(findings_layout(p)),
                "queue_second": Out(1),
                "queue_start": Out(1),
                "queue_pass": Out(Pass),
                "queue_ending": In(1),
                "queue_keys": In(beat_layout(p)),
                #: ``queue_keys`` is accepted in this clock cycle.
                "queue_ready": Out(1),
                "queue_wants": In(1),
                "queue_next_chunk": Out(1),
                "queue_rotate": Out(1),
                "queue_again": Out(1),
                "queue_decided": Out(1),
                "queue_release": Out(1),
                #: A completion can be taken in the next clock cycle and after it, until one is.
                "completable": In(1),
                #: A long request is being validated exclusively; strobe: that has ended.
                "exclusive": Out(1),
                "exclusive_ends": Out(1),
                #: To and from the ValidationPipeline.
                "beat": Out(beat_layout(p)),
                "ready": In(1),
                "outcome": In(outcome_layout(p)),
                "newest": Out(p.timestamp_bits),
                "snapshot": Out(p.timestamp_bits),
                "floor": Out(p.timestamp_bits),
                "scrub": Out(1),
                "scrubbing": In(1),
                "inject": Out(1),
                #: Strobe: abort what is undecided with RESET and end the epoch. Ignored while ``resetting``.
                "reset": In(1),
                "initial_epoch": In(EPOCH_BITS),
                #: Requests that the reset hit are undecided: the epoch ends when they have their verdicts.
                "reset_owed": In(1),
                #: Strobe: a reset begins.
                "reset_begins": Out(1),
                #: From then until the new epoch has begun.
                "resetting": Out(1),
                #: Strobe: snapshots older than the newest timestamp shall conflict.
                "raise_floor": In(1),
                #: Strobe: inject a fault into the recency filter before the next request.
                "inject_fault": In(1),
                #: The fault has not been injected yet.
                "fault_pending": Out(1),
                #: See TimestampCounter.
                "epoch": Out(EPOCH_BITS),
                "count": Out(p.timestamp_bits),
                "previous_epoch": Out(EPOCH_BITS),
                "previous_count": Out(p.timestamp_bits),
                "exhausted": Out(1),
                #: A request is in service; strobe: one begins.
                "busy": Out(1),
                "begins": Out(1),
                #: For the statistics: keys inserted for the verdict, a floor raised instead, words of bad parity, an
                #: epoch ended.
                "keys_inserted": Out(range(max(p.aperture_depth, p.buffer_depth) + 1)),
                "floor_raised": Out(1),
                "parity_errors": Out(range(LANES * (p.K + 1) + 1)),
                "epoch_stepped": Out(1),
                #: Error found in deciding a request.
                "error": Out(error_layout(p)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        m.submodules.scheduler = scheduler = RequestScheduler(p)
        m.submodules.key_reader = key_reader = KeyReader(p, few_keys=self._many_keys)
        m.submodules.decision = decision = Decision(p)
        m.submodules.counter = counter = TimestampCounter(p)

        slot = Signal(p.slot_bits)
        request = Signal(request_layout(p))
        queued = Signal()  # `request` came from a queue pair, where it is `queue`
        queue = Signal(queued_request_layout(p))
        reset = Signal()
        reset_due = Signal()
        reset_in_progress = Signal()
        rollover_due = Signal()
        early_end = Signal()
        fault_due = Signal()
        maintenance_due = Signal()
        repairing = Signal()
        announce_count = Signal(p.timestamp_bits)
        queue_wants = Signal()
        m.d.sync += queue_wants.eq(self.queue_wants)
        with m.If(self.announce):
            m.d.sync += announce_count.eq(self.announce_count)

        m.d.comb += [
            scheduler.pending.eq(self.pending),
            self.take.eq(scheduler.take),
            self.request_slot.eq(scheduler.request_slot),
            scheduler.request.eq(self.request),
            scheduler.reset.eq(reset),
            self.read.eq(key_reader.read),
            self.read_slot.eq(key_reader.read_slot),
            self.read_word.eq(key_reader.read_word),
            key_reader.keys.eq(self.keys),
            key_reader.bad.eq(self.bad),
            # The one that has no pass offers zeros. The last beat of an insertion stands when the next pass has begun.
            self.beat.eq(key_reader.beat.as_value() | Mux(key_reader.offers, 0, self.queue_keys.as_value())),
            # But for keys, which are anything in a lane without an operation.
            *(
                lane.key.eq(Mux(key_reader.offers, read_lane.key, queue_lane.key))
                for lane, read_lane, queue_lane in zip(
                    self.beat.lanes, key_reader.beat.lanes, self.queue_keys.lanes, strict=True
                )
            ),
            self.queue_ready.eq(self.ready & ~key_reader.offers),
            key_reader.ready.eq(self.ready),
            key_reader.announce.eq(self.announce),
            key_reader.announce_slot.eq(self.announce_slot),
            key_reader.announce_word.eq(self.announce_word),
            key_reader.announce_lanes.eq(self.announce_lanes),
            key_reader.announce_late.eq(self.announce_late),
            self.inserting.eq(key_reader.inserting),
            self.contended.eq(key_reader.active | queue_wants),
            decision.request.eq(request),
            decision.outcome.eq(self.outcome),
            decision.epoch.eq(counter.epoch),
            decision.count.eq(counter.count),
            decision.exhausted.eq(counter.exhausted),
            self.newest.eq(counter.count),
            self.count.eq(counter.count),
            self.floor.eq(counter.floor),
            self.snapshot.eq(Mux(key_reader.announces, announce_count, request.snapshot_count)),
            self.epoch.eq(counter.epoch),
            self.previous_epoch.eq(counter.previous_epoch),
            self.previous_count.eq(counter.previous_count),
            self.exhausted.eq(counter.exhausted),
            self.parity_errors.eq(decision.parity_errors),
            reset.eq(self.reset & ~reset_in_progress),
            self.reset_begins.eq(reset),
            self.resetting.eq(reset | reset_in_progress),
            self.fault_pending.eq(self.inject_fault | fault_due),
            # A reset that has begun will end the epoch as well.
            early_end.eq(self.ends_epoch & ~reset_in_progress),
            maintenance_due.eq(rollover_due | early_end | fault_due | (reset_due & ~self.reset_owed)),
        ]

        with m.If(queued):
            m.d.comb += [
                decision.request.reset.eq(request.reset | self.queue_findings.reset),
                decision.request.bad_request.eq(self.queue_findings.bad_request),
                decision.request.bus_error.eq(self.queue_findings.bus_error),
                decision.fault.eq(self.queue_findings.fault),
                decision.check.eq(self.queue_findings.check),
            ]

        # What is not decided when a reset arrives, is decided by it.
        with m.If(reset):
            m.d.sync += [reset_due.eq(1), reset_in_progress.eq(1), request.reset.eq(1)]
        with m.If(self.inject_fault):
            m.d.sync += fault_due.eq(1)

        # More keys than are inserted one by one: the floor takes their timestamp when it has been assigned.
        too_many = Signal()
        m.d.sync += too_many.eq(self.floor_raised)

        # A key lost between its check and its insertion. The floor is up before the next beat meets the filter.
        lost = Signal()
        m.d.sync += lost.eq(
            self.ready & sum((lane.operation == KeyOperation.INSERT) & lane.key_bad for lane in self.beat.lanes).any()
        )
        m.d.comb += [
            counter.raise_floor.eq(self.raise_floor | lost | too_many),
            self.floor_rises.eq(counter.raise_floor),
        ]
        m.d.sync += self.epoch_ended.eq(counter.step & ~counter.epoch.all())

        # The irrevocable token, and what was announced.
        held = Signal()
        exempt = Signal()  # the request is of the holder
        last_counts = Signal()  # they are the holder's, so that the epoch does not end under it
        stale = Signal()
        skipped = Signal()
        checked = Signal()
        commits = Signal()
        # Outcomes come late in the clock cycle. These were settled when the request's first beat was on its way.
        guarded_slots = Signal(p.slots)
        all_guarded = Signal()
        m.d.comb += [
            held.eq(self.holds.any()),
            exempt.eq(~queued & self.holds.bit_select(slot, 1)),
            stale.eq(skipped & ~exempt & ~decision.revoked & self.revalidate.bit_select(slot, 1)),
            commits.eq(queued | (request.kind == RequestKind.COMMIT.value)),
        ]
        m.d.sync += [
            decision.revoked.eq(~queued & self.revoked.bit_select(slot, 1)),
            decision.refuses.eq(queued & held & queue.raises_floor),
            last_counts.eq(counter.count >= p.max_count - 2),
            all_guarded.eq(held & ~exempt & last_counts),
            guarded_slots.eq(Mux(exempt, 0, self.holds & self.logged)),
        ]
        for lane in range(LANES):
            m.d.comb += decision.guarded[lane].eq((self.outcome.hits[lane] & guarded_slots).any() | all_guarded)

        # The verdict on `request`, in the clock cycle of `decides`; it leaves through registers.
        decides = Signal()
        verdict = Signal(verdict_layout(p))
        withholds = Signal()
        withheld = Signal()
        gives = Signal()
        m.d.comb += gives.eq(withheld & key_reader.few_left)
        m.d.sync += withheld.eq(withholds | (withheld & ~gives))
        # One that is withheld stays: the next request is decided after it is given.
        with m.If(~withheld):
            m.d.sync += [
                self.decided_queued.eq(queued),
                self.decided_keeps.eq(decision.commit & ~commits),
                self.decided_slot.eq(slot),
                self.verdict.eq(verdict),
            ]
        m.d.sync += [
            self.decided.eq(decides),
            self.given.eq(decides & ~withholds | gives),
            self.error.valid.eq(decides & (decision.error_code != 0)),
            self.error.code.eq(decision.error_code),
            self.error.slot.eq(slot),
            self.error.detail.eq(decision.error_detail),
        ]
        has_writes = Signal()
        timestamped = Signal()
        guards = decision.commit & ~queued & (request.kind == RequestKind.GUARD.value)
        next_count = Signal(p.timestamp_bits)
        last_of_epoch = Signal()
        m.d.comb += [
            has_writes.eq(Mux(queued, queue.writes, request.write_count != 0)),
            timestamped.eq(decision.commit & commits & has_writes),
            next_count.eq(counter.count + 1),
            last_of_epoch.eq(next_count == p.max_count),
            verdict.committed.eq(decision.commit),
            verdict.timestamped.eq(timestamped | guards),
            verdict.reason.eq(decision.reason),
            verdict.request.eq(request.request),
            verdict.conflict_key.eq(decision.conflict_key),
        ]
        with m.If(timestamped | guards):
            m.d.comb += [
                verdict.epoch.eq(counter.epoch),
                verdict.count.eq(Mux(guards, counter.count, next_count)),
            ]
        with m.If(decides):
            m.d.comb += [
                counter.assign.eq(timestamped),
                self.keys_inserted.eq(Mux(timestamped, Mux(queued, queue.insert_count, request.write_count), 0)),
                self.floor_raised.eq(timestamped & queued & queue.raises_floor),
            ]
            with m.If(timestamped):
                m.d.sync += [
                    self.winner.eq(slot),
                    self.winner_known.eq(~queued & self.in_flight.bit_select(slot, 1)),
                ]
            with m.If(timestamped & last_of_epoch):
                m.d.sync += rollover_due.eq(1)
                # Counted now, since a client may look as soon as it has the verdict.
                m.d.comb += self.epoch_stepped.eq(~counter.epoch.all())

        begin = Signal()
        begin_queued = Signal()
        picks_queue = Signal()
        revalidates = Signal()
        m.d.comb += [
            self.begins.eq(begin | begin_queued),
            decision.start.eq(self.begins | revalidates),
            scheduler.next.eq(begin),
        ]
        with m.If(revalidates):
            m.d.sync += [skipped.eq(0), repairing.eq(0)]
        # Which of both it is, is known before it is known that one begins.
        with m.If(self.begins):
            m.d.sync += [queued.eq(picks_queue), checked.eq(0), repairing.eq(0)]
            with m.If(picks_queue):
                header = self.queue_request.header
                m.d.sync += [
                    queue.eq(self.queue_request),
                    slot.eq(header.slot),
                    request.eq(0),
                    request.request.eq(header.request),
                    request.snapshot_epoch.eq(header.snapshot_epoch),
                    request.snapshot_count.eq(header.snapshot_count),
                    request.reset.eq(reset),
                    skipped.eq(0),
                ]
            with m.Else():
                m.d.sync += [
                    slot.eq(scheduler.next_slot),
                    request.eq(scheduler.next_request),
                    request.reset.eq(scheduler.next_request.reset | reset),
                    skipped.eq(scheduler.next_request.skip_count != 0),
                ]

        # Long requests: whether what was validated so far may have become wrong, and whether it is validated again.
        disturbed = Signal()
        again = Signal()
        exclusive = self.exclusive
        with m.If(begin_queued & self.queue_request.long & self.queue_request.first):
            m.d.sync += [disturbed.eq(0), exclusive.eq(again)]
        with m.Elif(counter.assign | counter.raise_floor | counter.step | self.inject):
            m.d.sync += disturbed.eq(1)
        with m.If(self.queue_again):
            m.d.sync += again.eq(1)
        with m.If(self.queue_decided & queue.long):
            m.d.sync += [again.eq(0), exclusive.eq(0)]
        pages_owed = Signal(p.slots)  # slot pages that are served before another long request begins
        m.d.comb += self.exclusive_ends.eq(self.queue_decided & exclusive)
        m.d.sync += pages_owed.eq(Mux(self.exclusive_ends, self.pending, pages_owed & self.pending))

        # Who is next. While another waits, keys must be there before a queued request begins.
        queue_turn = Signal()  # the slot pages were served last
        queue_can = Signal()
        m.d.comb += [
            queue_can.eq(
                (self.queue_serviceable | (self.queue_expected & (~scheduler.valid | exclusive)))
                & ~(self.queue_request.long & self.queue_request.first & ~again & pages_owed.any())
            ),
            picks_queue.eq(queue_can & (queue_turn | ~scheduler.valid | exclusive)),
        ]
        with m.If(begin):
            m.d.sync += queue_turn.eq(1)
        with m.If(begin_queued):
            m.d.sync += queue_turn.eq(0)

        def start(which, *, queue=False):
            if queue:
                return [self.queue_start.eq(1), self.queue_pass.eq(which)]
            return [key_reader.start.eq(1), key_reader.start_pass.eq(which)]

        m.d.comb += [
            key_reader.begin.eq(begin & (scheduler.next_request.kind != RequestKind.GUARD.value)),
            key_reader.slot.eq(slot),
            self.serving_slot.eq(slot),
            key_reader.next_read_count.eq(scheduler.next_request.read_count),
            key_reader.next_write_count.eq(scheduler.next_request.write_count),
            key_reader.next_skip_count.eq(scheduler.next_request.skip_count),
            key_reader.read_count.eq(request.read_count),
            key_reader.write_count.eq(request.write_count),
        ]

        # A clock cycle late, and then nothing is in the pipeline either.
        m.d.sync += [self.scrub.eq(0), self.inject.eq(0)]

        # The verdict counts, unless it is COMMIT and something comes first; the way to a completion may be taken.
        weighs = Signal()
        more_chunks = Signal()
        validates_again = Signal()
        checks_first = Signal()
        postponed = Signal()
        blocked = Signal()
        completes = Signal()
        inserts = Signal()
        m.d.comb += [
            more_chunks.eq(queued & queue.long & ~queue.final),
            validates_again.eq(queued & queue.long & disturbed & ~exclusive),
            checks_first.eq(queued & held & queue.writes & ~checked),
            postponed.eq(more_chunks | validates_again | checks_first),
            blocked.eq(queued & ~self.completable),
            decides.eq(weighs & ~blocked & ~(decision.commit & postponed) | completes),
            inserts.eq(timestamped & ~(queued & queue.raises_floor)),
            withholds.eq(decides & inserts & ~queued & (request.write_count >= self._many_keys)),
            self.queue_decided.eq(decides & queued),
        ]

        # What comes next, whenever something ends: maintenance, the next request, or nothing yet.
        goes_on = Signal()
        maintains = Signal()
        can_begin = Signal()
        m.d.comb += [
            maintains.eq(maintenance_due & ~exclusive),
            can_begin.eq(scheduler.valid & ~exclusive),
            begin_queued.eq(goes_on & ~maintains & picks_queue),
            begin.eq(goes_on & ~maintains & ~picks_queue & can_begin),
        ]
        with m.If(goes_on & maintains):
            m.d.comb += start(Pass.DRAIN)
            with m.If(early_end & ~rollover_due):
                m.d.sync += rollover_due.eq(1)
                m.d.comb += self.epoch_stepped.eq(~counter.epoch.all())
        with m.If(begin_queued):
            m.d.comb += start(Pass.VALIDATE, queue=True)
        with m.If(begin & (scheduler.next_request.kind == RequestKind.GUARD.value)):
            m.d.comb += start(Pass.DRAIN)

        with m.FSM(name="arbiter"):

            def go_on():
                m.d.comb += goes_on.eq(1)
                with m.If(maintains):
                    m.next = "MAINTAIN"
                with m.Elif(picks_queue | can_begin):
                    m.next = "VALIDATE"
                with m.Else():
                    m.next = "IDLE"

            def decide():
                """Go on with what follows from the verdict."""
                with m.If(inserts):
                    with m.If(queued):
                        m.d.comb += start(Pass.INSERT, queue=True)
                    with m.Else():
                        m.d.comb += start(Pass.INSERT)
                    m.next = "INSERT"
                with m.Else():
                    m.d.comb += self.queue_release.eq(queued)
                    # The end of the epoch is due in the next clock cycle, if that was its last count.
                    with m.If(exclusive | timestamped):
                        m.next = "IDLE"
                    with m.Else():
                        go_on()

            with m.State("IDLE"):
                go_on()

            with m.State("VALIDATE"):
                m.d.comb += [self.busy.eq(1), self.queue_second.eq(queued)]
                with m.If(self.outcome.beat.last):
                    with m.If(stale):
                        m.d.comb += [revalidates.eq(1), *start(Pass.VALIDATE)]
                    with m.Elif(decision.needs_repair & ~repairing):
                        with m.If(queued):
                            m.d.comb += start(Pass.REPAIR, queue=True)
                        with m.Else():
                            m.d.comb += start(Pass.REPAIR)
                        m.d.sync += repairing.eq(1)
                    with m.Else():
                        m.d.comb += weighs.eq(1)
                        with m.If(decision.commit & postponed):
                            with m.If(more_chunks):
                                m.d.comb += [self.queue_next_chunk.eq(1), self.queue_rotate.eq(~exclusive)]
                                m.next = "IDLE"
                            with m.Elif(validates_again):
                                m.d.comb += self.queue_again.eq(1)
                                m.next = "IDLE"
                            with m.Else():
                                m.d.comb += start(Pass.CHECK, queue=True)
                                m.d.sync += checked.eq(1)
                        with m.Elif(blocked):
                            m.next = "COMPLETE"
                        with m.Else():
                            decide()

            with m.State("COMPLETE"):
                m.d.comb += [self.busy.eq(1), self.queue_second.eq(1)]
                with m.If(self.completable):
                    m.d.comb += completes.eq(1)
                    decide()

            with m.State("INSERT"):
                m.d.comb += self.busy.eq(1)
                # The pipeline is ready all the time, only announcing comes between.
                m.d.comb += self.hold.eq(1)
                with m.If(Mux(queued, self.queue_ending & ~key_reader.offers, key_reader.ending)):
                    m.d.comb += self.queue_release.eq(queued)
                    go_on()

            with m.State("MAINTAIN"):
                with m.If(self.outcome.beat.last):
                    with m.If(fault_due):
                        m.d.sync += [self.inject.eq(1), fault_due.eq(0)]
                        m.next = "IDLE"
                    with m.Else():
                        # After the last epoch nothing is assigned any more, so there is nothing to forget.
                        m.d.comb += counter.step.eq(1)
                        m.d.sync += self.scrub.eq(~counter.epoch.all())
                        m.next = "SCRUB"
                        # A rollover and a reset are two steps, whichever way they coincide.
                        with m.If(rollover_due):
                            m.d.sync += rollover_due.eq(0)
                        with m.Else():
                            m.d.comb += [
                                counter.least_epoch.eq(self.initial_epoch),
                                self.epoch_stepped.eq(~counter.epoch.all()),
                            ]
                            m.d.sync += reset_due.eq(0)

            with m.State("SCRUB"):
                with m.If(~(self.scrub | self.scrubbing)):
                    with m.If(~(reset_due | reset)):
                        m.d.sync += reset_in_progress.eq(0)
                    m.next = "IDLE"
        return m

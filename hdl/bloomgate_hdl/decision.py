"""What the verdict on a request is."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, LANES, Parameters
from bloomgate.registers import ErrorCode
from bloomgate.verdict import Reason

from bloomgate_hdl.queue_port import fault_layout
from bloomgate_hdl.request_buffer import check_layout
from bloomgate_hdl.slot_port import request_layout
from bloomgate_hdl.validation_pipeline import KeyOperation, outcome_layout

__all__ = ["Decision"]


class Decision(wiring.Component):
    """Collects the outcomes of a request's VALIDATE pass and weighs them in the order that Reason documents.

    The verdict counts in the clock cycle of the pass's last outcome or any later one before ``start``; it includes
    that outcome. The other inputs must have been stable for two clock cycles by then, but for ``request.reset``,
    ``request.bad_request`` and ``check``.
    Reset state: to be started.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: Strobe: forget the outcomes; a new request begins.
                "start": In(1),
                "request": In(request_layout(parameters)),
                "outcome": In(outcome_layout(parameters)),
                #: Lanes whose key must not be committed now, if it is a CHECK; and nothing may be committed at all.
                "guarded": In(LANES),
                "refuses": In(1),
                #: The irrevocable token was taken from the slot.
                "revoked": In(1),
                #: Of a queued request: why it cannot be served, and what was found when its keys arrived.
                "fault": In(fault_layout()),
                "check": In(check_layout(parameters)),
                #: The newest timestamp, and whether the last epoch is over.
                "epoch": In(EPOCH_BITS),
                "count": In(parameters.timestamp_bits),
                "exhausted": In(1),
                #: COMMIT, else ABORT with ``reason`` (0 on COMMIT).
                "commit": Out(1),
                "reason": Out(4),
                #: The first key that failed, when the reason is CONFLICT, PARITY or IRREVOCABLE, else 0.
                "conflict_key": Out(parameters.key_bits),
                #: A word of the recency filter had bad parity and needs a REPAIR pass.
                "needs_repair": Out(1),
                #: Memory words of bad parity in this clock cycle's outcome.
                "parity_errors": Out(range(LANES * (parameters.K + 1) + 1)),
                #: Error that the request is to be logged with, 0 for none, and its detail.
                "error_code": Out(8),
                "error_detail": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters

        # The first failing key, and the first key with a parity error, each with what came before this clock cycle.
        # No reset: they are forgotten at each start, which leaves no time for another reason.
        failed = Signal(reset_less=True)
        failed_by = Signal(4, reset_less=True)
        failed_key = Signal(p.key_bits, reset_less=True)
        doubted = Signal(reset_less=True)
        doubted_filter = Signal(reset_less=True)
        doubted_key = Signal(p.key_bits, reset_less=True)
        repair = Signal(reset_less=True)

        now = {}
        for signal in (failed, failed_by, failed_key, doubted, doubted_filter, doubted_key):
            now[signal.name] = Signal.like(signal, name=f"{signal.name}_now")
            m.d.comb += now[signal.name].eq(signal)
            m.d.sync += signal.eq(now[signal.name])
        repair_now = Signal()
        m.d.sync += repair.eq(repair_now)

        # Whether it fails is wanted early, since everything waits for it; by what and which key, is not.
        fails = Signal(LANES)
        filter_is_bad = Signal(LANES)
        parity_errors = 0
        # Lanes last to first, since in Amaranth the assignment that comes last counts.
        for lane in reversed(range(LANES)):
            entered = self.outcome.beat.lanes[lane]
            answer = self.outcome.filter[lane]
            query = entered.operation == KeyOperation.QUERY
            check = entered.operation == KeyOperation.CHECK
            key_bad = (query | check | (entered.operation == KeyOperation.INSERT)) & entered.key_bad
            filter_bad = query & (answer.bad_words != 0)
            m.d.comb += [
                fails[lane].eq(
                    query & (answer.conflict | entered.key_bad) | check & (self.guarded[lane] | entered.key_bad)
                ),
                filter_is_bad[lane].eq(filter_bad),
            ]
            with m.If(~failed & fails[lane]):
                m.d.comb += [
                    now["failed_by"].eq(Mux(check, Reason.IRREVOCABLE.value, Reason.CONFLICT.value)),
                    now["failed_key"].eq(entered.key),
                ]
                with m.If(entered.key_bad | answer.uncertain):
                    m.d.comb += now["failed_by"].eq(Reason.PARITY.value)
            with m.If(~doubted & ((query | check) & entered.key_bad | filter_bad)):
                m.d.comb += [
                    now["doubted"].eq(1),
                    now["doubted_filter"].eq(~entered.key_bad),
                    now["doubted_key"].eq(entered.key),
                ]
            parity_errors += key_bad + Mux(query, answer.bad_words, 0)
        m.d.comb += [
            now["failed"].eq(failed | fails.any()),
            repair_now.eq(repair | filter_is_bad.any()),
            self.parity_errors.eq(parity_errors),
            self.needs_repair.eq(repair_now),
        ]

        with m.If(self.start):
            m.d.sync += [failed.eq(0), doubted.eq(0), repair.eq(0)]

        request = self.request
        ahead = Signal()
        old = Signal()
        m.d.sync += [
            ahead.eq(
                (request.snapshot_epoch > self.epoch)
                | (request.snapshot_epoch == self.epoch) & (request.snapshot_count > self.count)
            ),
            old.eq((request.snapshot_epoch < self.epoch) | self.exhausted),
        ]

        # Outcomes come late in the clock cycle, so what else forbids a commit is looked at before where it can be.
        allowed = Signal()
        m.d.sync += allowed.eq(~(ahead | old | request.bus_error | request.overflow | request.busy))
        m.d.comb += self.commit.eq(
            allowed
            & ~(request.reset | self.revoked | request.bad_request | self.check.bad | self.refuses)
            & ~now["failed"]
        )

        with m.If(request.reset):
            m.d.comb += self.reason.eq(Reason.RESET.value)
        with m.Elif(self.revoked):
            m.d.comb += self.reason.eq(Reason.REVOKED.value)
        with m.Elif(request.bad_request | ahead):
            m.d.comb += self.reason.eq(Reason.BAD_REQUEST.value)
        with m.Elif(request.bus_error):
            m.d.comb += self.reason.eq(Reason.BUS_ERROR.value)
        with m.Elif(request.overflow):
            m.d.comb += self.reason.eq(Reason.OVERFLOW.value)
        with m.Elif(request.busy):
            m.d.comb += self.reason.eq(Reason.BUSY.value)
        with m.Elif(old):
            m.d.comb += self.reason.eq(Reason.ROLLOVER.value)
        with m.Elif(now["failed"]):
            m.d.comb += [
                self.reason.eq(now["failed_by"]),
                self.conflict_key.eq(now["failed_key"]),
            ]
        with m.Elif(self.check.bad):
            m.d.comb += [self.reason.eq(Reason.PARITY.value), self.conflict_key.eq(self.check.key)]
        with m.Elif(self.refuses):
            m.d.comb += self.reason.eq(Reason.IRREVOCABLE.value)

        with m.If(self.fault.code != 0):
            m.d.comb += [self.error_code.eq(self.fault.code), self.error_detail.eq(self.fault.detail)]
        with m.Elif(ahead):
            m.d.comb += [
                self.error_code.eq(ErrorCode.SNAPSHOT_AHEAD.value),
                self.error_detail.eq(request.snapshot_count),
            ]
        with m.Elif(now["doubted"]):
            m.d.comb += [
                self.error_code.eq(
                    Mux(
                        now["doubted_filter"],
                        ErrorCode.FILTER_PARITY.value,
                        ErrorCode.KEY_PARITY.value,
                    )
                ),
                self.error_detail.eq(now["doubted_key"]),
            ]
        with m.Elif(self.check.bad):
            m.d.comb += [
                self.error_code.eq(ErrorCode.KEY_PARITY.value),
                self.error_detail.eq(self.check.key),
            ]
        return m

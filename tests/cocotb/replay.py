"""What should have been decided: every decision again, in its order, on the model and on the reference STM."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING

from bloomgate.backends.model import ModelDevice
from bloomgate.h3 import H3
from bloomgate.reference import ReferenceSTM
from bloomgate.registers import SLOT_PAGE, STATISTICS, ErrorCode
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

if TYPE_CHECKING:
    from testbench import Command, Request, Testbench

__all__ = ["Replay"]

_VERDICT = SLOT_PAGE.register("VERDICT")


class Replay:
    """The oracle: what should have been decided."""

    def __init__(self, testbench: Testbench) -> None:
        self.parameters = testbench.parameters
        self.cover = testbench.cover
        self.exact = testbench.exact
        self.model = ModelDevice(testbench.parameters)
        self._h3 = H3(testbench.parameters)
        self.reference = ReferenceSTM(testbench.parameters.timestamp_bits)
        self.totals: Counter[str] = Counter()
        #: (code, slot, detail) of errors that decisions make.
        self.errors: list[tuple[int, int, int]] = []
        #: Key -> (timestamp, slot) of its last commit in this epoch, exactly.
        self._last: dict[int, tuple[int, int]] = {}
        self._floor = 0
        #: Statistics that depend on when what was fetched.
        self.uncertain: set[str] = set()

    def command(self, event: Command) -> None:
        if event.kind == "RESET":
            self._step()
            before = self.reference.last_timestamp()
            self.model.reset(event.argument)
            self.reference.reset(event.argument)
            epoch, _ = self.parameters.epoch_and_count(self.reference.last_timestamp())
            old, _ = self.parameters.epoch_and_count(before)
            if epoch == old:
                self.cover.hit("epoch after a reset", "exhausted")
            elif event.argument > old:
                self.cover.hit("epoch after a reset", "INITIAL_EPOCH")
            else:
                self.cover.hit("epoch after a reset", "INITIAL_EPOCH is not newer" if event.argument else "next")
        elif event.kind == "FLOOR":
            self.model.raise_floor()
            self._floor = self.reference.last_timestamp()
            self.cover.hit("floor", "raised" if self._floor & self.parameters.max_count else "raised at 0")
        else:
            self.model.inject_parity_error(*event.argument)

    def _step(self) -> None:
        self._last.clear()
        self._floor = 0

    def verdict(self, request: Request) -> Verdict:
        """What the device has answered, from the four words that programmed I/O and queue pairs have in common."""
        parameters = self.parameters
        assert request.words is not None, f"nobody has read the verdict on {request}"
        status, *rest = request.words
        field = _VERDICT.__getitem__
        assert field("DONE").extract(status), request
        assert field("REQUEST").extract(status) == request.number, request
        committed, reason = request.committed, request.reason
        assert committed == (reason is None), request
        timestamped = bool(field("TIMESTAMPED").extract(status))
        timestamp = parameters.timestamp(rest[0], rest[1]) if timestamped else None
        key = rest[2] if reason in KEY_REASONS else None
        assert timestamped or rest[:2] == [0, 0], f"timestamp without commit: {request}"
        assert key is not None or rest[2] == 0, f"conflict key without conflict: {request}"
        return Verdict(committed, timestamp, reason, key)

    def request(self, request: Request) -> None:
        parameters = self.parameters
        verdict = self.verdict(request)
        if request.announced:
            self.uncertain.add("keys_validated")
        committed, reason, key = request.committed, request.reason, verdict.conflict_key
        sets = {"reads": request.reads, "writes": request.writes, "commutes": request.commutes}

        before = self.reference.last_timestamp()
        self._classify(request, before)
        snapshot = parameters.timestamp(request.epoch, request.count)
        ahead = (request.epoch, request.count) > parameters.epoch_and_count(before)
        expressible = request.count <= parameters.max_count
        forced = request.forced | ({Reason.BAD_REQUEST} if ahead else set())
        if request.maybe_reset and reason is Reason.RESET:
            forced.add(Reason.RESET)

        # The model, key for key.
        mended = self.model.stats()["parity_errors"]
        doubted = next((key for key in request.reads if self._is_doubtful(key)), None)
        if forced or not expressible:
            # The model knows none of these reasons. It meets the keys that are read, and inserts nothing.
            exact = self.model.commit(snapshot=snapshot if expressible else 0, reads=request.reads)
            if forced:
                first = next(item for item in _PRECEDENCE if item in forced)
                exact = Verdict(False, None, first, None)
        elif request.bad_key is not None:
            exact = self._with_bad_key(request, snapshot)
        else:
            exact = self.model.commit(snapshot=snapshot, **sets)
        mended = self.model.stats()["parity_errors"] - mended
        if self.exact:
            assert verdict == exact, f"{request}: {verdict}, the model says {exact}"

        # The reference STM: no commit that it forbids, no timestamp that it would not give.
        if committed:
            true = self.reference.commit(snapshot=snapshot, **sets)
            assert true == verdict, f"{request}: {verdict}, by exact sets {true}"
        if reason is Reason.CONFLICT:
            assert key in request.reads, f"{request}: conflict with a key that was not read, {key:#x}"

        assert bool(mended) == (doubted is not None)
        if mended and not ahead:
            self.errors.append((ErrorCode.FILTER_PARITY, request.slot, doubted))
        self._count(request, verdict, ahead, bool(mended), snapshot)
        if verdict.timestamp is not None and self.assigned(request, verdict.timestamp):
            undecided, filling = request.company
            if undecided:
                self.cover.hit("rollover", "with requests undecided")
            if filling:
                self.cover.hit("rollover", "with a request half filled")
            if not undecided and not filling:
                self.cover.hit("rollover", "by a request alone")

    def grant(self, request: Request) -> None:
        """A request for the token: its reads are validated, and nothing else happens."""
        verdict = self.verdict(request)
        if not verdict.committed:
            self.request(request)
            return
        assert verdict.timestamp is None, request
        snapshot = self.parameters.timestamp(request.epoch, request.count)
        true = self.reference.commit(snapshot=snapshot, reads=request.reads)
        assert true.committed, f"{request}: granted, by exact sets {true}"

    def guard(self, request: Request) -> None:
        """The holder's guard: the newest timestamp."""
        verdict = self.verdict(request)
        assert verdict == Verdict(True, self.reference.last_timestamp(), None, None), request

    def assigned(self, request: Request, timestamp: int) -> bool:
        """Note what it has written; whether the epoch ended with it."""
        for inserted in (*request.writes, *request.commutes):
            self._last[inserted] = (timestamp, request.slot)
        ended = timestamp & self.parameters.max_count == self.parameters.max_count
        if ended:
            self._step()
        return ended

    def _is_doubtful(self, key: int) -> bool:
        """One of the key's words has bad parity."""
        return any(place in self.model._bad for place in enumerate(self._h3.rows(key)))

    def _with_bad_key(self, request: Request, snapshot: int) -> Verdict:
        """A buffered key of bad parity fails where it stands, unless one before it does."""
        name, index = request.bad_key
        keys = getattr(request, name)
        self.totals["bad_keys"] += 1
        self.errors.append((ErrorCode.KEY_PARITY, request.slot, keys[index]))
        before = request.reads[:index] if name == "reads" else request.reads
        first = self.model.commit(snapshot=snapshot, reads=before)
        if not first.committed:
            self.cover.hit("fault", "key beside a conflict")
            return first
        self.cover.hit("fault", f"key in a {'read' if name == 'reads' else 'write'} set")
        return Verdict(False, None, Reason.PARITY, keys[index])

    def _count(self, request, verdict, ahead, mended, snapshot) -> None:
        """Statistics, errors and coverage."""
        cover = self.cover
        self.totals["keys_validated"] += len(request.reads)
        if ahead:
            self.errors.append((ErrorCode.SNAPSHOT_AHEAD, request.slot, request.count))
        elif mended:
            if verdict.reason is Reason.PARITY:
                cover.hit("fault", "filter word, PARITY")
            elif verdict.committed:
                cover.hit("fault", "filter word, mended without abort")
            elif self._floor > snapshot:
                cover.hit("fault", "filter word, floor decides")
        cover.hit(f"slot of {self.parameters.slots}", request.slot)
        cover.set_sizes(request.reads, request.writes, request.commutes, self.parameters.aperture_depth)
        if verdict.committed:
            self.totals["commits"] += 1
            if verdict.timestamp is not None:
                self.totals["keys_inserted"] += len(request.writes) + len(request.commutes)
                cover.hit("verdict", "COMMIT")
            else:
                cover.hit("verdict", "COMMIT without timestamp")
            if not request.reads and snapshot < self._floor:
                cover.hit("floor", "old snapshot without reads commits")
            return
        self.totals[f"aborts_{verdict.reason.name.lower()}"] += 1
        cover.hit("verdict", verdict.reason.name)
        names = {reason.name for reason in request.forced | ({Reason.BAD_REQUEST} if ahead else set())}
        for pair in (("BAD_REQUEST", "OVERFLOW"), ("BAD_REQUEST", "BUSY"), ("OVERFLOW", "BUSY")):
            if names.issuperset(pair):
                cover.hit("reasons together", " ".join(pair))
        older = request.epoch < self.parameters.epoch_and_count(self.reference.last_timestamp())[0]
        if "BUSY" in names and older:
            cover.hit("reasons together", "BUSY ROLLOVER")
        conflicting = [key for key in request.reads if self._last.get(key, (0, 0))[0] > snapshot]
        if "OVERFLOW" in names and conflicting:
            cover.hit("reasons together", "OVERFLOW CONFLICT")
        if verdict.reason is Reason.CONFLICT:
            key = verdict.conflict_key
            if self._floor > snapshot:
                cover.hit("conflict", "by floor")
            else:
                cover.hit("conflict", "true" if key in conflicting else "false")
            if len(set(conflicting)) > 1:
                cover.hit("conflict", "of several keys the first")
            if key in conflicting and self._last[key][1] == request.slot:
                cover.hit("conflict", "own earlier commit")

    def _classify(self, request: Request, newest: int) -> None:
        """Coverage of the snapshot."""
        epoch, count = self.parameters.epoch_and_count(newest)
        hit = functools.partial(self.cover.hit, "snapshot")
        if request.epoch > epoch:
            hit("ahead in epoch")
        elif request.epoch < epoch:
            hit("previous epoch")
        elif request.count > count:
            hit("ahead in count")
        elif request.count == count:
            hit("newest")
        else:
            hit("older" if request.count else "zero of the epoch")

    def statistics(self, access_errors: int) -> dict[str, int]:
        """By how much each statistic should have grown, apart from clocks."""
        model = self.model.stats()
        inexact = ("clocks", "busy_clocks", "parity_errors", "epoch_steps")
        expected = {name: self.totals[name] for name, _ in STATISTICS if name not in inexact}
        expected["errors"] = access_errors + len(self.errors)
        if self.exact:
            expected["parity_errors"] = model["parity_errors"] + self.totals["bad_keys"]
            expected["epoch_steps"] = model["epoch_steps"]
        return expected


_PRECEDENCE = (
    *(Reason.RESET, Reason.REVOKED, Reason.BAD_REQUEST, Reason.OVERFLOW, Reason.BUSY),
    Reason.IRREVOCABLE,  # of those that a test knows beforehand
)

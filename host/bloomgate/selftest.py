"""Compares a device with the reference model, request by request: ``bloomgate selftest``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional

from bloomgate.backends.model import ModelDevice
from bloomgate.device import Device
from bloomgate.errors import BloomgateError
from bloomgate.queue_pair import QueuePair
from bloomgate.reference import ReferenceSTM
from bloomgate.verdict import Reason, Verdict

__all__ = ["SelftestFailure", "SelftestReport", "selftest"]

#: Keys of a set, usually and sometimes.
_FEW, _MANY = 8, 40


class SelftestFailure(BloomgateError):
    """A device did something else than the model."""


@dataclass
class SelftestReport:
    """What a passed self-test has seen."""

    #: The seed that repeats it.
    seed: int
    #: Operations of all kinds.
    rounds: int
    #: Requests, keys of all their sets.
    requests: int = 0
    keys: int = 0
    #: Times each verdict was seen: COMMIT (with a timestamp), READ_ONLY (without), and each Reason by its name.
    verdicts: Mapping[str, int] = field(default_factory=dict)
    #: CONFLICT verdicts that the exact reference does not give: aliases in the filter, or the floor.
    false_aborts: int = 0
    #: Times each other operation was done: raise_floor, reset, inject_parity_error.
    operations: Mapping[str, int] = field(default_factory=dict)
    #: Epochs that ended.
    epoch_steps: int = 0


def selftest(
    device: Device,
    *,
    seed: Optional[int] = None,
    rounds: int = 2000,
    progress: Optional[Callable[[int, int], None]] = None,
    queue: Optional[QueuePair] = None,
) -> SelftestReport:
    """Run random operations on ``device`` and on a model of its geometry, and compare everything after each.

    A device on which something was committed is reset first. Nobody else may use it meanwhile, and afterwards it is
    of no use for data: what is committed here is not published. It is left open. With timestamps of few bits epochs
    also end by rollover. ``progress`` is called with the rounds done and their number. ``queue``: requests go through
    this queue pair of the device.

    Every commit is also judged by the exact reference STM: none that it would have refused may pass.

    Raises :class:`SelftestFailure` at the first difference, with what was asked and what came.
    """
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    return _Selftest(device, seed, rounds, progress, queue).run()


class _Selftest:
    def __init__(
        self,
        device: Device,
        seed: int,
        rounds: int,
        progress: Optional[Callable[[int, int], None]],
        queue: Optional[QueuePair],
    ) -> None:
        self.device = device
        self.queue = queue
        self.parameters = parameters = device.info().parameters
        self.report = SelftestReport(seed=seed, rounds=rounds)
        self.progress = progress
        self.random = random.Random(seed)
        self.round = 0
        self.verdicts: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        epoch, count = parameters.epoch_and_count(device.last_timestamp())
        if device.stats()["commits"] > 0:
            device.reset()
            epoch, count = parameters.epoch_and_count(device.last_timestamp())
        if count != 0:
            raise SelftestFailure("the self-test cannot begin, because the device is in its last epoch; open a new one")
        self.model = ModelDevice(parameters, initial_epoch=epoch)
        # The device may have counted before.
        self.base = {name: device.stats()[name] - value for name, value in self.model.stats().items()}
        self.reference = ReferenceSTM(parameters.timestamp_bits, epoch)
        # Few enough that they meet again and again, plus their neighbours that differ in one bit only.
        hot = [self.random.randint(0, parameters.max_key) for _ in range(24)]
        hot += [key ^ 1 << self.random.randrange(parameters.key_bits) for key in hot]
        self.hot = [0, parameters.max_key, *hot]

    def run(self) -> SelftestReport:
        self.compare("at the start")
        self.edge_cases()
        choices: list[tuple[Callable[[], None], int]] = [
            (self.any_request, 80),
            (self.likely_commit, 80),
            (self.raise_floor, 2),
            (self.inject_parity_error, 8),
            (self.corrupted_key, 4),
            (self.reset, 1),
        ]
        steps = [step for step, _ in choices]
        weights = [weight for _, weight in choices]
        for number in range(1, self.report.rounds + 1):
            self.round = number
            self.random.choices(steps, weights)[0]()
            if self.progress is not None:
                self.progress(number, self.report.rounds)
        report = self.report
        report.verdicts = dict(self.verdicts)
        report.operations = dict(self.operations)
        report.epoch_steps = self.model.stats()["epoch_steps"]
        return report

    # Operations.

    def edge_cases(self) -> None:
        """What must not depend on luck: every reason a single-process device can give, and the longest request."""
        last = self.model.last_timestamp
        depth = self.parameters.aperture_depth
        key, other = self.hot[0], self.hot[1]
        self.request(last(), (), (), ())
        self.request(last(), [key] * depth, (), ())
        self.request(last(), (), [key, other] * (depth // 2), ())
        self.request(last(), [key], (), [key])
        if last() < self.parameters.max_timestamp:
            self.request(last() + 1, [key], [key], ())
            self.request(self.parameters.max_timestamp, (), (), ())
        if last() > 0:
            self.request(last() - 1, [other, key], [other], ())
        for table in range(self.parameters.K):
            self.inject(table, self.model._h3.rows(key)[table])
        self.request(max(0, last() - 1), [key, key], (), ())
        self.request(last(), [key], (), ())
        self.raise_floor()
        self.request(max(0, last() - 1), [other, key], (), ())

    def any_request(self) -> None:
        """Old, stale, current and future snapshots; any sets."""
        back = self.random.choice((0, 0, 1, 1, 2, 3, 5, 8, self.random.randrange(50)))
        last = self.model.last_timestamp()
        odd = self.random.random()
        if odd < 0.03:
            snapshot = last + self.random.choice((1, 2, self.parameters.max_count + 1))
        elif odd < 0.06:
            snapshot = last - (self.parameters.max_count + 1) * self.random.randint(1, 2)
        else:
            snapshot = last - back
        snapshot = min(max(snapshot, 0), self.parameters.max_timestamp)
        self.request(snapshot, self.keys(), self.keys(), self.keys())

    def likely_commit(self) -> None:
        """A current snapshot, so that timestamps advance."""
        last = self.model.last_timestamp()
        self.request(last, self.keys(), self.keys(), self.keys())

    def raise_floor(self) -> None:
        self.operations["raise_floor"] += 1
        self.device.raise_floor()
        self.model.raise_floor()
        self.compare("after raise_floor()")

    def reset(self) -> None:
        self.operations["reset"] += 1
        epoch, _ = self.parameters.epoch_and_count(self.model.last_timestamp())
        # Sparing with epochs: a device can be asked to begin near the last one.
        initial = self.random.choice((0, 0, epoch, min(epoch + 3, 2**32 - 1)))
        for each in (self.device, self.model, self.reference):
            each.reset(initial)
        self.compare(f"after reset({initial})")

    def inject_parity_error(self) -> None:
        """In a word that is soon met."""
        table = self.random.randrange(self.parameters.K)
        self.inject(table, self.model._h3.rows(self.random.choice(self.hot))[table])

    def corrupted_key(self) -> None:
        """A key of which no word is certain, read by a snapshot just too old for that."""
        key = self.random.choice(self.hot)
        for table, row in enumerate(self.model._h3.rows(key)):
            self.inject(table, row)
        self.request(max(0, self.model.last_timestamp() - 1), [*self.keys(), key][-4:], self.keys(), ())

    def inject(self, table: int, row: int) -> None:
        self.operations["inject_parity_error"] += 1
        self.device.inject_parity_error(table, row)
        self.model.inject_parity_error(table, row)
        self.compare(f"after inject_parity_error({table}, {row})")

    def keys(self) -> list[int]:
        """A set for a request; what the device can buffer is enough for three."""
        size = self.random.choice((0, 1, 1, 2, self.random.randint(0, _FEW)))
        if self.random.random() < 0.02:
            size = _MANY
        size = min(size, self.parameters.aperture_depth // 3)
        spread = self.random.random() < 0.2
        return [
            self.random.randint(0, self.parameters.max_key) if spread else self.random.choice(self.hot)
            for _ in range(size)
        ]

    # Comparisons.

    def request(self, snapshot: int, reads: Sequence[int], writes: Sequence[int], commutes: Sequence[int]) -> None:
        asked = f"commit(snapshot={snapshot}, reads={reads}, writes={writes}, commutes={commutes})"
        if self.queue is None:
            verdict, expected = (
                each.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
                for each in (self.device, self.model)
            )
        else:
            verdict = self.queue.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
            expected = self.model.commit_queued(*self.parameters.epoch_and_count(snapshot), reads, writes, commutes)
        if verdict != expected:
            self.fail(asked, f"the verdict is {verdict}", f"{expected}")
        self.compare(f"after {asked}")
        if verdict.committed:
            self.judge_commit(
                asked,
                verdict,
                self.reference.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes),
            )
        else:
            # Without writes, so that the reference stays as it is.
            self.judge_abort(asked, verdict, self.reference.commit(snapshot=snapshot, reads=reads))
        self.report.requests += 1
        self.report.keys += len(reads) + len(writes) + len(commutes)
        if verdict.reason is not None:
            self.verdicts[verdict.reason.name] += 1
        else:
            self.verdicts["READ_ONLY" if verdict.timestamp is None else "COMMIT"] += 1

    def judge_commit(self, asked: str, verdict: Verdict, exact: Verdict) -> None:
        if not exact.committed:
            self.fail(asked, "it committed", f"{exact}: a missed conflict")
        if exact != verdict:
            self.fail(asked, f"the verdict is {verdict}", f"{exact}, as the reference STM says")

    def judge_abort(self, asked: str, verdict: Verdict, exact: Verdict) -> None:
        if verdict.reason in (Reason.CONFLICT, Reason.PARITY):
            self.report.false_aborts += exact.committed
            if exact.reason in (None, Reason.CONFLICT):
                return
        if exact.reason != verdict.reason:
            self.fail(asked, f"the verdict is {verdict}", f"{exact}, as the reference STM says")

    def compare(self, when: str) -> None:
        last, expected = self.device.last_timestamp(), self.model.last_timestamp()
        if last != expected:
            self.fail(when, f"the last timestamp is {last}", f"{expected}")
        stats = self.device.stats()
        for name, value in self.model.stats().items():
            expected = self.base[name] + value
            if stats[name] != expected:
                self.fail(when, f"the statistic {name} is {stats[name]}", f"{expected}")

    def fail(self, when: str, got: str, expected: str) -> None:
        raise SelftestFailure(
            f"self-test, seed {self.report.seed}, round {self.round}, {when}: {got} and should be {expected}"
        )

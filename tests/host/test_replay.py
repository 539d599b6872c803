"""The replay engine against a second, naive one, and against devices that lie."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bloomgate.backends.model import ModelDevice
from bloomgate.device import Device
from bloomgate.errors import DeviceClosed, ParameterError, RequestTooLarge
from bloomgate.parameters import Parameters
from bloomgate.replay import MAX_CLIENTS, derive_keys, replay
from bloomgate.trace import Record, TraceReader
from bloomgate.urls import open_device
from bloomgate.verdict import Reason, Verdict
from bloomgate.workloads import generate
from hypothesis import given, settings
from hypothesis import strategies as st

# Words of a few locations, so that there are conflicts.
small_words = st.lists(st.integers(0, 9), max_size=4, unique=True).map(tuple)
small_traces = st.lists(st.builds(Record, small_words, small_words), min_size=1, max_size=40)


class Recorded(ModelDevice):
    """Remembers what was asked and answered."""

    def __init__(self, parameters: Parameters, *, initial_epoch: int = 0) -> None:
        super().__init__(parameters, initial_epoch=initial_epoch)
        self.log: list[tuple[int, list[int], list[int], Verdict]] = []

    def commit(
        self, *, snapshot: int, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()
    ) -> Verdict:
        verdict = super().commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        self.log.append((snapshot, list(reads), list(writes), verdict))
        return verdict


def naive(trace: list[Record], clients: int) -> tuple[int, int, list[tuple[int, int]]]:
    """The rule of the replay with an exact decision, written as it is worded, client by client.

    Returns commits, aborts and the submissions in order: (transaction from 0, snapshot). Timestamps count from 1.
    """
    history: list[set[int]] = []  # of commit 1, 2, ...
    decided = commits = aborts = 0
    following = 0
    submissions = []
    # Client -> (transaction, snapshot, decisions so far when the snapshot was taken).
    holding: dict[int, tuple[int, int, int]] = {}
    for client in range(clients):
        if following < len(trace):
            holding[client] = (following, 0, client - clients)
            following += 1
    while holding:
        # Whoever has waited longest; with all clients at work that is exactly clients - 1 other decisions.
        client = min(holding, key=lambda c: holding[c][2])
        transaction, snapshot, since = holding.pop(client)
        if following < len(trace):
            assert decided - since == clients - 1 or since < 0
        submissions.append((transaction, snapshot))
        record = trace[transaction]
        decided += 1
        if any(set(record.reads) & writes for writes in history[snapshot:]):
            aborts += 1
        else:
            commits += 1
            if record.writes:
                history.append(set(record.writes))
            transaction = following
            following += 1
        if transaction < len(trace):
            holding[client] = (transaction, len(history), decided)
    return commits, aborts, submissions


@settings(max_examples=200)
@given(trace=small_traces, clients=st.integers(1, 9))
def test_agrees_with_a_naive_replay(trace: list[Record], clients: int) -> None:
    """On a device with no false aborts every submission is the naive one's, and so are the counts."""
    with Recorded(Parameters()) as device:
        report = replay(device, trace, clients=clients)
        log = device.log
    commits, aborts, submissions = naive(trace, clients)
    assert [snapshot for snapshot, *_ in log] == [snapshot for _, snapshot in submissions]
    assert [(tuple(r), tuple(w)) for _, r, w, _ in log] == [tuple(trace[number]) for number, _ in submissions]
    assert report.ok
    assert (report.commits, report.true_aborts) == (commits, aborts) == (len(trace), aborts)
    assert report.attempts == commits + aborts
    assert (report.false_aborts, report.missed, report.wrong, report.other_aborts) == (0, 0, 0, {})
    assert report.read_only == sum(not record.writes for record in trace)
    assert report.keys == sum(len(trace[number].reads) + len(trace[number].writes) for number, _ in submissions)
    assert report.agreeing == report.compared == report.attempts
    if clients == 1:
        assert aborts == 0


@settings(max_examples=100)
@given(
    trace=st.lists(
        st.builds(
            Record,
            *[st.lists(st.integers(0, 2**61 - 1), max_size=5, unique=True).map(tuple)] * 2,
        )
        | st.builds(Record, small_words, small_words),
        min_size=1,
        max_size=40,
    ),
    clients=st.integers(1, 9),
    timestamp_bits=st.sampled_from([2, 3, 32]),
    key_bits=st.sampled_from([4, 7, 32]),
)
def test_every_kind_of_abort_is_counted(trace: list[Record], clients: int, timestamp_bits: int, key_bits: int) -> None:
    """A filter that aliases and rolls over; each verdict is classified again, by brute force."""
    with Recorded(Parameters(K=1, D=16, timestamp_bits=timestamp_bits, key_bits=key_bits), initial_epoch=3) as device:
        report = replay(device, trace, clients=clients)
        log = device.log
    assert report.ok, report.faults
    assert report.commits == len(trace)
    counts = {"commit": 0, "true": 0, "false": 0, "other": 0}
    history: list[tuple[int, set[int]]] = []
    source = iter(trace)
    waiting = list(itertools.islice(source, clients))
    for snapshot, reads, writes, verdict in log:
        record = waiting.pop(0)
        assert reads == derive_keys(record.reads, key_bits)
        assert writes == derive_keys(record.writes, key_bits)
        exact = any(set(record.reads) & words for timestamp, words in history if timestamp > snapshot)
        if verdict.committed:
            assert not exact
            counts["commit"] += 1
            if verdict.timestamp is not None:
                history.append((verdict.timestamp, set(record.writes)))
            waiting += itertools.islice(source, 1)
        else:
            if verdict.reason is Reason.CONFLICT:
                counts["true" if exact else "false"] += 1
            else:
                assert verdict.reason is Reason.ROLLOVER
                counts["other"] += 1
            waiting.append(record)
    assert counts == {
        "commit": report.commits,
        "true": report.true_aborts,
        "false": report.false_aborts,
        "other": sum(report.other_aborts.values()),
    }


def test_rollover_is_survived_and_counted() -> None:
    trace = list(generate("bank", transactions=300))
    with open_device("model:?timestamp_bits=3") as device:
        report = replay(device, trace)
    assert report.ok, report.faults
    writers = sum(bool(record.writes) for record in trace)
    assert report.epoch_steps == (writers - 1) // 7, "an epoch of 3-bit timestamps holds 7 commits"
    assert report.other_aborts.keys() == {"ROLLOVER"}
    assert report.commits == 300


def test_a_replay_is_deterministic() -> None:
    reports = []
    for _ in range(2):
        with open_device("model:?D=64&K=1&timestamp_bits=6") as device:
            reports.append(replay(device, generate("vacation", transactions=150)))
    assert reports[0] == reports[1]
    assert reports[0].false_aborts > 0
    assert dataclasses.replace(reports[0], keys=0) != reports[1]


def test_one_device_can_replay_several_traces() -> None:
    trace = list(generate("bank", transactions=200))
    with open_device("model:") as device:
        first, second = replay(device, trace), replay(device, trace)
    assert first == second
    assert first.ok


# Devices that lie. Every lie has to show.


class Liar(ModelDevice):
    """Decides like the model, and then changes some of its answers."""

    def __init__(self) -> None:
        super().__init__(Parameters())
        self.rng = random.Random(7)
        self.lies = 0

    def commit(
        self, *, snapshot: int, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()
    ) -> Verdict:
        verdict = super().commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        told = self.lie(verdict, list(reads), list(writes))
        self.lies += told != verdict
        return told

    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        raise NotImplementedError


class CommitsEverything(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.committed:
            return verdict
        return ModelDevice.commit(self, snapshot=self.last_timestamp(), reads=reads, writes=writes)


class CommitsOneConflict(CommitsEverything):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict if self.lies else super().lie(verdict, reads, writes)


class AbortsByChance(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        # Only readers, whose commits leave no trace in the device.
        if verdict.committed and not writes and self.rng.random() < 0.3:
            return Verdict(False, None, Reason.CONFLICT, reads[-1])
        return verdict


class SkipsATimestamp(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.committed and writes and not self.lies:
            return ModelDevice.commit(self, snapshot=self.last_timestamp(), writes=writes)
        return verdict


class RepeatsATimestamp(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.timestamp and verdict.timestamp > 1 and not self.lies:
            return verdict._replace(timestamp=verdict.timestamp - 1)
        return verdict


class InventsATimestamp(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict._replace(timestamp=verdict.timestamp + 5) if verdict.timestamp else verdict


class ForgetsTheTimestamp(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict if self.lies else verdict._replace(timestamp=None)


class GivesReadersTimestamps(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict._replace(timestamp=1) if verdict.committed and not writes else verdict


class NamesALaterKey(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.reason is Reason.CONFLICT and verdict.conflict_key != reads[-1]:
            return verdict._replace(conflict_key=reads[-1])
        return verdict


class NamesTheNextKey(Liar):
    """The first conflicting key is right but for one place."""

    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.reason is Reason.CONFLICT and verdict.conflict_key != reads[-1]:
            assert verdict.conflict_key is not None
            return verdict._replace(conflict_key=reads[reads.index(verdict.conflict_key) + 1])
        return verdict


class NamesNoKey(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict._replace(conflict_key=None)


class AbortsForRollover(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        if verdict.reason is Reason.CONFLICT:
            return Verdict(False, None, Reason.ROLLOVER, None)
        return verdict


class AbortsWithoutReason(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return verdict._replace(reason=None)


class AbortsForEver(Liar):
    def lie(self, verdict: Verdict, reads: list[int], writes: list[int]) -> Verdict:
        return Verdict(False, None, Reason.BUSY, None)


TRACE = list(generate("bank", transactions=200, size=64))


def test_the_trace_can_betray_a_liar() -> None:
    with open_device("model:") as device:
        report = replay(device, TRACE)
    assert report.ok
    assert report.true_aborts > 20
    assert report.read_only > 20
    assert report.false_aborts == 0


@pytest.mark.parametrize("liar", [CommitsEverything, CommitsOneConflict])
def test_a_missed_conflict_is_seen(liar: type[Liar]) -> None:
    with liar() as device:
        report = replay(device, TRACE)
    assert report.missed == device.lies > 0
    assert not report.ok
    assert report.complete
    assert "although the word" in report.faults[0]
    assert report.wrong == 0
    if liar is CommitsOneConflict:
        assert report.missed == 1, "one wrong verdict must not make others look wrong"


def test_false_aborts_are_seen() -> None:
    with AbortsByChance() as device:
        report = replay(device, TRACE)
    assert report.false_aborts == device.lies > 0
    assert report.ok, "an abort too many is legal"
    assert report.false_abort_rate == report.false_aborts / report.attempts


@pytest.mark.parametrize(
    ("liar", "words"),
    [
        (SkipsATimestamp, "was given the timestamp"),
        (RepeatsATimestamp, "was given the timestamp"),
        (InventsATimestamp, "was given the timestamp"),
        (ForgetsTheTimestamp, "was committed without a timestamp"),
        (GivesReadersTimestamps, "writes nothing and was given the timestamp 1"),
        (NamesALaterKey, "which is not among its first"),
        (NamesTheNextKey, "which is not among its first"),
        (NamesNoKey, "was aborted with CONFLICT on None"),
        (AbortsForRollover, "was aborted with ROLLOVER in the epoch of its snapshot"),
        (AbortsWithoutReason, "and reason None"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_verdict_is_seen(liar: type[Liar], words: str) -> None:
    with liar() as device:
        report = replay(device, TRACE)
    assert device.lies > 0
    assert report.wrong > 0
    assert not report.ok
    assert any(words in fault for fault in report.faults), report.faults
    assert len(report.faults) <= 10


def test_a_device_that_never_commits_is_given_up() -> None:
    with AbortsForEver() as device:
        report = replay(device, TRACE)
    assert (report.commits, report.complete, report.ok) == (0, False, False)
    assert report.other_aborts == {"BUSY": report.attempts}
    assert "in a row were aborted, the last one with BUSY" in report.faults[-1]


def test_an_old_epoch_that_is_accepted_is_seen() -> None:
    class IgnoresEpochs(ModelDevice):
        def commit(
            self, *, snapshot: int, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()
        ) -> Verdict:
            epoch_start = self.last_timestamp() & ~self.parameters.max_count
            return super().commit(snapshot=max(snapshot, epoch_start), reads=reads, writes=writes)

    with IgnoresEpochs(Parameters(timestamp_bits=3)) as device:
        report = replay(device, TRACE)
    assert report.wrong > 0
    assert report.missed > 0
    assert "of an epoch before" in " ".join(report.faults)


# Limits and errors.


def test_limit_and_progress() -> None:
    seen: list[int] = []
    with open_device("model:") as device:
        report = replay(device, generate("disjoint", transactions=300), limit=130, progress=seen.append)
    assert report.commits == report.attempts == 130
    assert seen == [64, 128]
    assert report.complete
    assert report.name == "trace"


def test_the_source_is_read_as_it_is_needed() -> None:
    taken = 0

    def source() -> Iterator[Record]:
        nonlocal taken
        for record in generate("disjoint", transactions=100):
            taken += 1
            yield record

    def progress(commits: int) -> None:
        assert taken <= commits + 8

    with open_device("model:") as device:
        replay(device, source(), clients=8, progress=progress)
    assert taken == 100


@pytest.mark.parametrize(
    ("size", "advice"),
    [(9, "aperture_depth=16"), (17, "aperture_depth=32"), (4097, "must be split")],
    ids=["depth 16", "depth 32", "too long"],
)
def test_a_record_that_does_not_fit(size: int, advice: str) -> None:
    trace = [Record((1,), (2,)), Record(tuple(range(8)), ()), Record(tuple(range(size - 1)), (1,))]
    with (
        open_device("model:?aperture_depth=8") as device,
        pytest.raises(RequestTooLarge, match=f"big: record 3 has {size} keys, and the device takes 8 .*{advice}"),
    ):
        replay(device, trace, name="big")


@pytest.mark.parametrize("clients", [0, -1, MAX_CLIENTS + 1])
def test_clients_out_of_range(clients: int) -> None:
    with open_device("model:") as device, pytest.raises(ParameterError, match="clients must be between 1 and"):
        replay(device, TRACE, clients=clients)


def test_limit_out_of_range() -> None:
    with open_device("model:") as device, pytest.raises(ParameterError, match="limit must be at least 1, not 0"):
        replay(device, TRACE, limit=0)


def test_errors_of_the_device_come_through() -> None:
    device = open_device("model:")
    device.close()
    with pytest.raises(DeviceClosed):
        replay(device, TRACE)


def test_clock_cycles_are_those_of_the_replay() -> None:
    class Clocked(ModelDevice):
        """10 clock cycles each request."""

        cycles = 1000

        @property
        def clock_cycles(self) -> int:
            return self.cycles

        def stats(self) -> dict[str, int]:
            return {**super().stats(), "clocks": self.cycles, "busy_clocks": self.cycles // 2}

        def commit(
            self, *, snapshot: int, reads: Sequence[int] = (), writes: Sequence[int] = (), commutes: Sequence[int] = ()
        ) -> Verdict:
            self.cycles += 10
            return super().commit(snapshot=snapshot, reads=reads, writes=writes)

    with Clocked(Parameters()) as device:
        report = replay(device, TRACE)
    assert report.clock_cycles == 10 * report.attempts
    assert report.busy_cycles == 5 * report.attempts
    assert report.cycles_per_key == 10 * report.attempts / report.keys
    with open_device("model:") as timeless:
        report = replay(timeless, TRACE)
    assert (report.clock_cycles, report.cycles_per_key, report.busy_cycles_per_key) == (None, None, None)


# Keys.


@given(words=st.lists(st.integers(0, 2**61 - 1)), key_bits=st.integers(4, 32))
def test_keys_are_in_range_and_depend_on_the_word_alone(words: list[int], key_bits: int) -> None:
    keys = derive_keys(words, key_bits)
    assert all(0 <= key < 2**key_bits for key in keys)
    assert keys == [derive_keys([word], key_bits)[0] for word in words]


@given(segment=st.integers(0, 2**29 - 1), offsets=st.sets(st.integers(0, 2**32 - 1)))
def test_no_two_words_of_a_segment_share_a_key(segment: int, offsets: set[int]) -> None:
    assert len(set(derive_keys([(segment << 32) | offset for offset in offsets]))) == len(offsets)


def test_consecutive_segments_lie_apart() -> None:
    """A thousand small segments with the same offsets share next to no keys."""
    words = [(segment << 32) | offset for segment in range(1000) for offset in range(50)]
    assert len(set(derive_keys(words))) > len(words) - 5
    assert derive_keys([5, 1 << 32]) == [5, 0x9E3779B1]
    assert derive_keys([0x1234_5678], 16) == [0x1234 ^ 0x5678]


# The STAMP traces.

TRACES = ("bayes", "genome", "intruder", "kmeans-lo", "labyrinth", "ssca2", "vacation-lo")


@pytest.fixture
def soft() -> Iterator[Device]:
    with open_device("soft:") as device:
        yield device


@pytest.mark.shared
@pytest.mark.parametrize("name", TRACES)
def test_stamp_traces(shared_dir: Path, soft: Device, name: str) -> None:
    """The figures that issue 2 demands, at default parameters with 8 clients."""
    with TraceReader(shared_dir / "traces" / f"{name}.trace.xz") as reader:
        report = replay(soft, reader, name=name, clients=8)
        assert report.commits == reader.records
    assert report.ok, report.faults
    assert report.missed == 0
    assert report.false_abort_rate <= (0.01 if name == "labyrinth" else 0.001)
    assert not report.other_aborts


@pytest.mark.shared
def test_every_stamp_trace_is_there(shared_dir: Path) -> None:
    assert {path.name for path in (shared_dir / "traces").glob("*.xz")} == {f"{name}.trace.xz" for name in TRACES}


@pytest.mark.shared
@pytest.mark.parametrize("name", TRACES)
def test_no_words_of_a_stamp_trace_share_a_key(shared_dir: Path, name: str) -> None:
    words: set[int] = set()
    with TraceReader(shared_dir / "traces" / f"{name}.trace.xz") as reader:
        for record in reader:
            words.update(record.reads, record.writes)
    assert len(set(derive_keys(words))) == len(words)

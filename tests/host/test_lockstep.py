"""soft: equals model: for every sequence, and neither misses a conflict that the exact reference sees."""

import random

import pytest
from bloomgate import Device, Parameters, Reason, ReferenceSTM, open_device
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.soft import SoftDevice
from bloomgate.h3 import H3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.device_urls import PARAMS, SMALL

LAST_EPOCH = 2**32 - 1

geometries = st.builds(
    Parameters,
    K=st.integers(1, 3) | st.integers(4, 8),
    D=st.just(16),
    timestamp_bits=st.integers(2, 6) | st.just(32),
    key_bits=st.integers(4, 8) | st.just(32),
    aperture_depth=st.sampled_from((16, 32)),
    hash_seed=st.integers(0, 2**32 - 1),
)
initial_epochs = st.sampled_from((0, 0, 0, 1, LAST_EPOCH - 1, LAST_EPOCH))
# Few different keys, so that they meet; but also the top bits of wide ones.
keys = st.lists(st.integers(0, 15) | st.sampled_from((0xFFFFFFFF, 0x80000001, 0x00800100)), max_size=5)
# How far the snapshot is behind the last timestamp, in counts and in epochs.
commits = st.tuples(
    st.just("commit"),
    st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 7, -1)),
    st.sampled_from((0, 0, 0, 0, 0, 0, 1, -1)),
    keys,
    keys,
    keys,
)
others = st.one_of(
    st.tuples(st.just("inject"), st.integers(0, 7), st.integers(0, 15)),
    st.just(("raise_floor",)),
    st.tuples(st.just("reset"), st.sampled_from((0, 0, 3, LAST_EPOCH - 1, LAST_EPOCH))),
)
operations = st.lists(commits | commits | commits | others, max_size=40)


def apply(device: Device, operation: tuple) -> object:
    """Do it, and return all that can be seen afterwards."""
    parameters = device.parameters
    kind, *arguments = operation
    verdict = None
    if kind == "commit":
        counts, epochs, *sets = arguments
        snapshot = device.last_timestamp() - counts - (epochs << parameters.timestamp_bits)
        snapshot = min(max(snapshot, 0), parameters.max_timestamp)
        reads, writes, commutes = ([key & parameters.max_key for key in keys] for keys in sets)
        verdict = device.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        device.publish(verdict.timestamp)
    elif kind == "inject":
        table, row = arguments
        device.inject_parity_error(table % parameters.K, row)
    elif kind == "reset":
        device.reset(*arguments)
    else:
        device.raise_floor()
    stats = {name: value for name, value in device.stats().items() if "clocks" not in name}
    return verdict, device.last_timestamp(), device.published, stats


@settings(max_examples=400)
@given(geometries, initial_epochs, operations)
@example(Parameters(), 0, [("commit", 0, 0, [], [5], [6]), ("commit", 1, 0, [6], [], [])])
def test_soft_equals_model(parameters: Parameters, epoch: int, sequence: list[tuple]) -> None:
    with ModelDevice(parameters, initial_epoch=epoch) as model, SoftDevice(parameters, initial_epoch=epoch) as soft:
        for operation in sequence:
            assert apply(soft, operation) == apply(model, operation), operation


class History:
    """The rule of the filter from the list of all commits, without tables: what the model must compute."""

    def __init__(self, parameters: Parameters) -> None:
        self.rows = H3(parameters).rows
        self.commits: list[tuple[int, int]] = []
        self.floor = 0

    def fails(self, key: int, snapshot: int) -> bool:
        """Whether the floor, or newer commits that together hit all rows of the key, are in the way."""
        newer = [self.rows(other) for timestamp, other in self.commits if timestamp > snapshot]
        return self.floor > snapshot or all(
            any(rows[table] == row for rows in newer) for table, row in enumerate(self.rows(key))
        )


@pytest.mark.parametrize("make", [ModelDevice, SoftDevice])
@settings(max_examples=150)
@given(parameters=geometries, epoch=initial_epochs, sequence=operations)
def test_every_abort_is_explained_and_no_conflict_missed(
    make: type, parameters: Parameters, epoch: int, sequence: list[tuple]
) -> None:
    device, reference = make(parameters, initial_epoch=epoch), ReferenceSTM(parameters.timestamp_bits, epoch)
    history = History(parameters)
    for kind, *arguments in sequence:
        if kind == "inject":
            continue  # see test_no_conflict_is_missed_with_bad_words
        if kind == "raise_floor":
            device.raise_floor()
            history.floor = device.last_timestamp()
            if history.floor & parameters.max_count == 0:
                history.floor = 0
        elif kind == "reset":
            device.reset(*arguments)
            reference.reset(*arguments)
            history.commits.clear()
            history.floor = 0
        else:
            counts, epochs, *sets = arguments
            last = device.last_timestamp()
            snapshot = last - counts - (epochs << parameters.timestamp_bits)
            snapshot = min(max(snapshot, 0), parameters.max_timestamp)
            reads, writes, commutes = ([key & parameters.max_key for key in keys] for keys in sets)
            verdict = device.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
            false_abort = False
            if verdict.reason is Reason.CONFLICT:
                failing = [key for key in reads if history.fails(key, snapshot)]
                assert failing, f"nothing explains {verdict}"
                assert verdict.conflict_key == failing[0]
                false_abort = reference.commit(snapshot=snapshot, reads=reads).committed
            elif verdict.committed:
                assert not any(history.fails(key, snapshot) for key in reads)
            if verdict.committed or not false_abort:
                sets = ((), ()) if verdict.reason is Reason.CONFLICT else (writes, commutes)
                exact = reference.commit(snapshot=snapshot, reads=reads, writes=sets[0], commutes=sets[1])
                assert (exact.committed, exact.timestamp) == (verdict.committed, verdict.timestamp)
                assert exact.reason == verdict.reason
                if exact.reason is Reason.CONFLICT:
                    assert reads.index(verdict.conflict_key) <= reads.index(exact.conflict_key)
            if verdict.timestamp is not None:
                history.commits += [(verdict.timestamp, key) for key in (*writes, *commutes)]
        assert device.last_timestamp() == reference.last_timestamp()
        if device.last_timestamp() & parameters.max_count == 0:
            history.commits.clear()
            history.floor = 0


@pytest.mark.parametrize("backend", PARAMS)
def test_no_conflict_is_missed_with_bad_words(backend, seed: int) -> None:
    """Many bad words, in a filter so small that nearly everything meets one."""
    rng = random.Random(seed)
    with open_device(f"{backend.scheme}:?{SMALL}") as device:
        reference = ReferenceSTM(device.parameters.timestamp_bits)
        commits = parity = 0
        for _ in range(4000 // backend.slowness):
            for _ in range(rng.choice((0, 0, 1, 4))):
                device.inject_parity_error(rng.randrange(2), rng.randrange(16))
            if rng.random() < 0.01:
                device.raise_floor()
            snapshot = max(0, device.last_timestamp() - rng.choice((0, 0, 1, 2)))
            reads, writes, commutes = ([rng.randrange(64) for _ in range(rng.randrange(4))] for _ in range(3))
            verdict = device.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
            if verdict.committed:
                exact = reference.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
                assert exact == verdict, "a missed conflict"
                commits += 1
            parity += verdict.reason is Reason.PARITY
        assert commits > 0
        assert parity > 0
        assert device.stats()["aborts_parity"] == parity


@pytest.mark.parametrize("backend", PARAMS)
def test_a_long_random_sequence_equals_the_model(backend, seed: int) -> None:
    """The geometry of the other contract tests, so that sim: need not compile again."""
    rng = random.Random(seed)
    with open_device(f"{backend.scheme}:?{SMALL}") as device, open_device(f"model:?{SMALL}") as model:
        for _ in range(6000 // backend.slowness):
            kind = rng.choices(("commit", "inject", "raise_floor", "reset"), (90, 7, 2, 1))[0]
            operation = (kind,)
            if kind == "commit":
                sets = [[rng.randrange(64) for _ in range(rng.randrange(6))] for _ in range(3)]
                operation += (rng.choice((0, 0, 1, 2, -1)), rng.choice((0, 0, 0, 1)), *sets)
            elif kind == "inject":
                operation += (rng.randrange(2), rng.randrange(16))
            elif kind == "reset":
                operation += (0,)
            assert apply(device, operation) == apply(model, operation), operation

"""sim: against model:, operation by operation, and from several threads at once."""

import threading

import pytest
from bloomgate import Reason, Verdict
from bloomgate.backends.model import ModelDevice
from bloomgate.selftest import selftest
from bloomgate_sim.device import AxiChannel, SimulatedDevice

from tests.sim.geometries import ALL, DEEP, SMALL

JOIN_SECONDS = 120


@pytest.mark.parametrize("name", sorted(ALL))
def test_random_operations(name, seed):
    with SimulatedDevice(ALL[name]) as device:
        report = selftest(device, seed=seed, rounds=1500)
    # What the run must have met to mean anything.
    assert set(report.verdicts) >= {"COMMIT", "READ_ONLY", "CONFLICT", "PARITY", "BAD_REQUEST", "ROLLOVER"}
    assert report.epoch_steps >= 3
    assert report.operations["inject_parity_error"] > 10


@pytest.mark.parametrize("chance", [0.5, 0.9])
def test_random_operations_on_a_hesitant_bus(chance, seed):
    with SimulatedDevice(SMALL) as device:
        for number, channel in enumerate(AxiChannel):
            device.bus.pause(channel, chance, seed + number)
        selftest(device, seed=seed, rounds=300)


def test_random_operations_around_the_last_epoch(seed):
    with SimulatedDevice(SMALL, initial_epoch=2**32 - 4) as device:
        report = selftest(device, seed=seed, rounds=300)
    assert report.verdicts["ROLLOVER"] > 100, "the device should have been exhausted"


def test_opening_with_an_epoch_is_opening_and_resetting():
    with SimulatedDevice(SMALL, initial_epoch=7) as first, SimulatedDevice(SMALL) as second:
        second.reset(7)
        for device in (first, second):
            assert device.published == device.last_timestamp() == 7 << SMALL.timestamp_bits
            assert device.stats()["epoch_steps"] == 1


def test_the_last_epoch_can_be_the_first():
    with SimulatedDevice(SMALL, initial_epoch=2**32 - 1) as device:
        last = device.last_timestamp()
        assert device.published == last == (2**32 - 1) << SMALL.timestamp_bits
        device.reset()
        assert device.commit(snapshot=last, writes=[1]) == Verdict(False, None, Reason.ROLLOVER, None)
        device.reset()
        assert device.last_timestamp() == last


@pytest.mark.parametrize("size", [255, 256, 257, 512])
def test_sets_longer_than_an_aperture(size):
    with SimulatedDevice(DEEP) as device, ModelDevice(DEEP) as model:
        # The last key alone is in conflict: it is found only if every word has arrived, in order.
        for each in (device, model):
            assert each.commit(snapshot=0, writes=[5000]).timestamp == 1
            each.raise_floor()
        for reads in (range(size), [*range(size - 1), 5000]):
            for snapshot in (0, 1):
                request = {"snapshot": snapshot, "reads": list(reads)}
                assert device.commit(**request) == model.commit(**request)
        writes = [7] * (size // 2)
        request = {"snapshot": 1, "writes": writes, "commutes": [9] * (size - len(writes))}
        assert device.commit(**request) == model.commit(**request)
        assert device.stats()["keys_inserted"] == 1 + size


def test_the_epoch_has_ended_when_its_last_verdict_is_there():
    """However long the insertion takes that comes between."""
    with SimulatedDevice(DEEP) as device:
        for _ in range(DEEP.max_count - 1):
            device.commit(snapshot=0, writes=[1])
        verdict = device.commit(snapshot=0, writes=[2] * DEEP.aperture_depth)
        assert verdict.timestamp == DEEP.max_count
        assert device.last_timestamp() == DEEP.max_count + 1
        for timestamp in range(1, DEEP.max_count + 1):
            device.publish(timestamp)
        assert device.published == DEEP.max_count + 1


def test_threads_share_the_slots():
    """More threads than slots: every request is decided once, and all timestamps are published."""
    threads, requests = 8, 60
    taken: list[int] = []
    failures: list[BaseException] = []
    with SimulatedDevice(SMALL) as device:

        def work(number: int) -> None:
            try:
                for index in range(requests):
                    verdict = device.commit(snapshot=device.published, reads=[number], writes=[number, 1000 + index])
                    if verdict.timestamp is not None:
                        taken.append(verdict.timestamp)
                        device.publish(verdict.timestamp)
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(JOIN_SECONDS)
            assert not worker.is_alive(), "a thread is stuck"
        assert not failures, failures
        stats = device.stats()
        last = device.last_timestamp()
        device.wait_published(last, timeout=JOIN_SECONDS)
        assert device.published == last
    # Timestamps are the integers from 1, without the (epoch, 0) that the device makes itself.
    per_epoch = SMALL.max_count + 1
    assert sorted(taken) == [ts for ts in range(1, last + 1) if ts % per_epoch]
    assert stats["commits"] == len(taken)
    assert sum(value for name, value in stats.items() if name.startswith("aborts")) == threads * requests - len(taken)
    assert stats["aborts_busy"] == stats["aborts_overflow"] == stats["aborts_bad_request"] == 0


def test_resets_while_threads_commit():
    """A reset answers everything in flight, and what was committed can still be published."""
    failures: list[BaseException] = []
    seen: set[object] = set()
    with SimulatedDevice(SMALL) as device:
        stop = threading.Event()

        def work(number: int) -> None:
            try:
                while not stop.is_set():
                    verdict = device.commit(snapshot=device.published, reads=[number], writes=[number])
                    seen.add(verdict.reason)
                    device.publish(verdict.timestamp)
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(5)]
        for worker in workers:
            worker.start()
        for _ in range(20):
            before = device.last_timestamp()
            device.reset()
            assert device.last_timestamp() > before
        stop.set()
        for worker in workers:
            worker.join(JOIN_SECONDS)
            assert not worker.is_alive(), "a thread is stuck"
        assert not failures, failures
        device.wait_published(device.last_timestamp(), timeout=JOIN_SECONDS)
        assert device.published == device.last_timestamp()
        assert seen <= {None, Reason.CONFLICT, Reason.ROLLOVER, Reason.RESET}

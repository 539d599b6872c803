"""Clients in threads: together they are strictly serialisable, and they all come to an end."""

import random
import struct
import sys
import threading
import time

import pytest
from bloomgate import Device, Reason, open_device
from bloomgate.backends.soft import SoftDevice

from tests.serialisability import Transaction, check

CLIENTS = 4
LOCATIONS = 8
PATIENCE = 30


@pytest.fixture(autouse=True)
def _frequent_switches(request: pytest.FixtureRequest):
    """Python threads take turns of 5 ms, in which a whole test would fit, except where a device is slow."""
    before = sys.getswitchinterval()
    backend = request.getfixturevalue("backend") if "backend" in request.fixturenames else None
    if backend is None or backend.slowness == 1:
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Store:
    """Locations with all their versions, and what clients do with a device: the smallest STM that shows opacity."""

    def __init__(self, device: Device) -> None:
        self.device = device
        origin = device.published
        self.versions = {location: [(origin, 0)] for location in range(LOCATIONS)}
        self.reasons: list[Reason] = []

    def read(self, location: int, snapshot: int) -> int:
        return next(value for timestamp, value in reversed(self.versions[location]) if timestamp <= snapshot)

    def install(self, location: int, timestamp: int, value: int) -> None:
        """Append; committers of one location come in the order of timestamps, as the caller sees to."""
        assert self.versions[location][-1][0] < timestamp
        self.versions[location].append((timestamp, value))

    def run(self, name: str, rng: random.Random) -> Transaction:
        """One transaction, tried until it commits."""
        called = time.monotonic_ns()
        reads = rng.sample(range(LOCATIONS), rng.randrange(4))
        writes = rng.sample(range(LOCATIONS), rng.choice((0, 1, 1, 2)))
        adds = rng.sample(sorted(set(range(LOCATIONS)) - {*reads, *writes}), rng.choice((0, 0, 1)))
        while True:
            snapshot = self.device.published
            seen = {location: self.read(location, snapshot) for location in reads}
            verdict = self.device.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=adds)
            if verdict.committed:
                break
            self.reasons.append(verdict.reason)
        place = (snapshot, 1)
        written = {}
        if verdict.timestamp is not None:
            place = (verdict.timestamp, 0)
            written = {location: rng.getrandbits(40) for location in writes}
            # Values are added to what all earlier commits produced, and versions appended in their order.
            self.device.wait_published(verdict.timestamp - 1, timeout=PATIENCE)
            for location in writes:
                self.install(location, verdict.timestamp, written[location])
            for location in adds:
                newest = self.versions[location][-1][1]
                self.install(location, verdict.timestamp, newest + 1)
            self.device.publish(verdict.timestamp)
            self.device.wait_published(verdict.timestamp, timeout=PATIENCE)
        return Transaction(name, called, time.monotonic_ns(), place, seen, written, dict.fromkeys(adds, 1))


def together(*actions) -> None:
    """Run each in a thread; fail if one fails or does not end."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(actions))

    def guarded(action) -> None:
        try:
            start.wait(timeout=PATIENCE)
            action()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=2 * PATIENCE)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a client hangs"


def run_clients(backend, url: str, seed: int, disturb=None) -> tuple[Store, list[Transaction]]:
    transactions = 400 // backend.slowness
    with open_device(url) as device:
        store = Store(device)
        history: list[Transaction] = []

        def client(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            for serial in range(transactions):
                history.append(store.run(f"{number}.{serial}", rng))

        def disturber() -> None:
            rng = random.Random(seed)
            while len(history) < CLIENTS * transactions * 9 // 10:
                disturb(device, rng, len(history))

        actions = [lambda number=number: client(number) for number in range(CLIENTS)]
        together(*actions, *([disturber] if disturb else []))

        assert len(history) == CLIENTS * transactions
        final = check(history, dict.fromkeys(range(LOCATIONS), 0))
        assert final == {location: versions[-1][1] for location, versions in store.versions.items()}
        assert device.published == device.last_timestamp()
        committed = sum(transaction.place[1] == 0 for transaction in history)
        assert device.stats()["commits"] == len(history)
        assert committed > 0
        return store, history


def test_strictly_serialisable(backend, device_url: str, seed: int) -> None:
    store, history = run_clients(backend, device_url, seed)
    timestamps = sorted(transaction.place[0] for transaction in history if transaction.place[1] == 0)
    assert timestamps == list(range(1, len(timestamps) + 1))
    assert set(store.reasons) <= {Reason.CONFLICT}


def test_strictly_serialisable_across_rollovers(backend, small_url: str, seed: int) -> None:
    """15 commits in an epoch."""
    store, history = run_clients(backend, small_url, seed)
    assert max(transaction.place[0] for transaction in history) > 16
    assert set(store.reasons) <= {Reason.CONFLICT, Reason.ROLLOVER}


def test_strictly_serialisable_whatever_happens(backend, small_url: str, seed: int) -> None:
    """Resets, floors and bad words in the middle cause aborts, and nothing else."""
    done = set()

    def disturb(device: Device, rng: random.Random, transactions: int) -> None:
        # Once for each number of transactions, so that the clients get on.
        if transactions in done:
            time.sleep(0)  # lets another thread run; nothing depends on it
            return
        done.add(transactions)
        chance = rng.random()
        if chance < 0.1:
            device.reset()
        elif chance < 0.3:
            device.raise_floor()
        else:
            parameters = device.parameters
            device.inject_parity_error(rng.randrange(parameters.K), rng.randrange(parameters.D))

    store, _ = run_clients(backend, small_url, seed, disturb)
    assert set(store.reasons) <= {Reason.CONFLICT, Reason.ROLLOVER, Reason.PARITY, Reason.RESET}


def test_decisions_are_atomic(backend, device_url: str) -> None:
    """Without a store: of all that read and write one key at one snapshot, exactly one commits."""
    rounds = 200 // backend.slowness
    with open_device(device_url) as device:
        winners: list[int] = []
        next_round = threading.Barrier(CLIENTS)

        def client() -> None:
            for number in range(rounds):
                verdict = device.commit(snapshot=number, reads=[1], writes=[1])
                if verdict.committed:
                    winners.append(verdict.timestamp)
                next_round.wait(timeout=PATIENCE)

        together(*[client] * CLIENTS)
        assert sorted(winners) == list(range(1, rounds + 1))


def test_the_c_code_is_atomic_without_the_gil() -> None:
    """From Python two calls rarely meet in C, where a decision takes a tenth of a microsecond. These do."""
    requests, clients = 100_000, 2
    with SoftDevice() as device:
        request = struct.pack("=QIII2I", 0, 0, 1, 1, 1, 2)
        module, state, counts = device.module, device.state(), []

        def client() -> None:
            counts.append(module.lib.bg_commit_many(state, request * requests, requests))

        together(*[client] * clients)
        assert counts == [requests] * clients
        assert device.last_timestamp() == device.stats()["commits"] == requests * clients
        assert device.stats()["keys_inserted"] == 2 * requests * clients

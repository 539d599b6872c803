"""Without a server, clients that never rest do not keep the turn for themselves."""

import subprocess
import time
from pathlib import Path

import pytest
from bloomgate import open_device
from bloomgate.shm.layout import HEADER
from bloomgate.shm.segment import path_of

from bench import shm as bench_shm
from tests.shm.served import new_name, removed

REQUESTS = 40
LIMIT = 60  # seconds
FOR_EVER = str(2**31 - 1)


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A client that submits and collects as fast as it can, until it is killed."""
    return bench_shm.compiled(tmp_path_factory.mktemp("restless"))


@pytest.mark.parametrize("clients", [1, 3])
def test_clients_that_never_rest_hold_nobody_up(restless: Path, clients: int) -> None:
    with removed(new_name()) as name, open_device(f"shm:{name}") as device:
        slots = [device.parameters.slots - 1 - number for number in range(clients)]
        processes = [
            subprocess.Popen([restless, "run", path_of(name), str(slot), FOR_EVER, "8", "2"]) for slot in slots
        ]
        try:
            end = time.monotonic() + LIMIT
            turns = [0]  # as they follow each other: each client gets its turn, again and again
            while min(map(turns.count, slots)) < (3 if clients > 1 else 1):
                assert time.monotonic() < end, f"turns of {slots}: {turns}"
                turn = device.segment.read(HEADER["turn"]) - 1
                if turn != turns[-1]:
                    turns.append(turn)
            for key in range(REQUESTS):
                verdict = device.commit(snapshot=device.published, reads=[key], writes=[key])
                assert verdict.committed
                device.publish(verdict.timestamp)
                assert time.monotonic() < end
            assert all(process.poll() is None for process in processes), "a client ended"
        finally:
            for process in processes:
                process.kill()
                process.wait()
        verdict = device.commit(snapshot=device.published, writes=[1])
        assert verdict.committed, "they were killed anywhere, also in the mutex"
        device.publish(verdict.timestamp)

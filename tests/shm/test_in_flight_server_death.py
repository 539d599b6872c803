"""A server that is killed while its clients have transactions in flight, and the next one."""

import threading
import time

import pytest
from bloomgate import Reason
from bloomgate.backends.shm import ShmDevice

from tests.device_urls import PARAMS, SMALL, Backend
from tests.shm.served import PATIENCE, ServerProcess, new_name, removed

SERVED = [param for param in PARAMS if param.id != "shm"]


@pytest.mark.parametrize("backend", SERVED)
def test_everything_in_flight_ends_with_its_server(backend: Backend) -> None:
    """Whoever runs is doomed, whoever sleeps wakes, and nobody commits, not even the holder of the token."""
    url = f"{backend.scheme}:?{SMALL}"
    with removed(new_name()) as name:
        server = ServerProcess(name, url)
        try:
            with ShmDevice(name, patience=PATIENCE) as device:
                runner, sleeper, holder = (device.open_slot() for _ in range(3))
                for number, slot in enumerate((runner, sleeper, holder)):
                    slot.begin(device.published)
                    slot.announce([number])
                assert holder.irrevocable(PATIENCE).committed
                woken: list[object] = []
                thread = threading.Thread(target=lambda: woken.append(sleeper.wait(PATIENCE)), daemon=True)
                thread.start()
                deadline = time.monotonic() + PATIENCE
                while not sleeper.parked:
                    assert time.monotonic() < deadline, "nobody sleeps"
                server.kill()
                server = ServerProcess(name, url)
                thread.join(PATIENCE)
                assert woken, "a sleeper was lost with its server"
                assert runner.doomed is not None
                assert runner.commit(writes=[1]).reason is Reason.ROLLOVER
                assert holder.commit(writes=[2]).reason is Reason.ROLLOVER
                # The next server serves the same slots.
                runner.begin(device.published)
                runner.announce([1])
                verdict = device.commit(snapshot=device.last_timestamp(), writes=[1])
                assert verdict.committed
                assert runner.doomed == (1, verdict.timestamp)
        finally:
            server.kill()

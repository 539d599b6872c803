"""Shared arrays on a segment with a server: the device decides, the clients write back among themselves."""

import time

import pytest
from bloomgate import open_device
from bloomgate.shm.array import ArrayMemory

from tests.shm.served import PATIENCE, ServerProcess, new_name, removed
from tests.shm.test_array_transactions import member, output

COUNTS = 100


@pytest.mark.parametrize("behind", ["model:", "soft:"])
def test_members_count_together(behind: str) -> None:
    with removed(new_name()) as name:
        server = ServerProcess(name, f"{behind}?D=256")
        try:
            with open_device(f"shm:{name}") as device:
                memory = ArrayMemory.open(device, "x", 1)
                for process in [member(name, "add", COUNTS) for _ in range(2)]:
                    output(process)
                assert memory.read(memory.first, memory.publication.now()[1])[0] == 2 * COUNTS
        finally:
            server.kill()


def test_the_server_is_killed_and_restarted(seed: int) -> None:
    """No count is lost and none is made twice."""
    with removed(new_name()) as name:
        server = ServerProcess(name, "soft:?D=256")
        try:
            with open_device(f"shm:{name}") as device:
                memory = ArrayMemory.open(device, "x", 1)

                def count() -> int:
                    return int(memory.read(memory.first, memory.publication.now()[1])[0])

                members = [member(name, "add", 1500) for _ in range(2)]
                for part in (1, 2, 3):
                    deadline = time.monotonic() + PATIENCE
                    while count() < part * 500:
                        assert time.monotonic() < deadline, "nobody counts any more"
                        time.sleep(0.002)
                    server.kill()
                    server = ServerProcess(name, "soft:?D=256")
                for process in members:
                    output(process)
                assert count() == 3000
                assert device.published == device.last_timestamp()
        finally:
            server.kill()

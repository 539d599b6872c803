"""``bloomgate serve``: started, stopped, killed and started again while clients go on."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from bloomgate import BloomgateError, Reason, open_device
from bloomgate.backends.shm import ShmDevice
from bloomgate.in_flight import Token
from bloomgate.serve import Server
from bloomgate.shm.segment import path_of

from tests.shm.served import PATIENCE, ROOT, ServerProcess, new_name, removed

CLIENT = """
import sys, bloomgate
device = bloomgate.open_device(sys.argv[1])
print("open", flush=True)
key = int(sys.argv[2])
while True:
    verdict = device.commit(snapshot=device.published, reads=[key], writes=[key])
    device.publish(verdict.timestamp)
    if verdict.timestamp is not None:
        print(verdict.timestamp, flush=True)
"""


def client(name: str, key: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host")}
    command = [sys.executable, "-c", CLIENT, f"shm:{name}", str(key)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "open\n"
    return process


def test_it_says_what_it_does_and_removes_the_segment() -> None:
    with removed(new_name()) as name:
        server = ServerProcess(name, "soft:?K=2&slots=3")
        with open_device(f"shm:{name}") as device:
            assert (device.parameters.K, device.parameters.slots) == (2, 3)
            device.commit(snapshot=0, writes=[1])
        said = server.terminate()
        assert f"shm:{name} with 3 slots, process {server.process.pid}" in said
        assert "stopping; 0 clients, 1 commits, 0 aborts" in said
        assert not os.path.exists(path_of(name))


@pytest.mark.parametrize("url", ["soft:", "model:"])
def test_what_was_in_flight_when_it_died_is_doomed_under_the_next(url: str) -> None:
    with removed(new_name()) as name:
        server = ServerProcess(name, url)
        with open_device(f"shm:{name}") as device:
            reader, sleeper, holder = (device.open_slot() for _ in range(3))
            for slot in (reader, sleeper, holder):
                slot.begin(device.published)
                slot.announce([1])
            sleeper.park()
            holder.request_token()
            assert holder.token is Token.HOLDER
            server.kill()
            server = ServerProcess(name, url)
            assert sleeper._wait_until_woken(PATIENCE)
            assert reader.doomed is not None
            # Also the holder's: its epoch has ended.
            for slot in (reader, holder):
                assert slot.commit(writes=[1]).reason is Reason.ROLLOVER
            reader.begin(device.published)
            assert reader.irrevocable(PATIENCE).committed
            assert reader.commit(writes=[1]).committed
        server.terminate()


def test_a_segment_has_one_server() -> None:
    with removed(new_name()) as name, open_device("soft:") as device, Server(device, name):
        with open_device("soft:") as other:
            with pytest.raises(BloomgateError, match=f"^the segment {name} is served by process {os.getpid()}$"):
                Server(other, name)
    with removed(new_name()) as name, ShmDevice(name), open_device("soft:") as device:
        with pytest.raises(BloomgateError, match="is one without a server"):
            Server(device, name)


def test_clients_wait_for_a_server_that_was_killed(seed: int) -> None:
    """It is killed again and again at random times. No timestamp is given twice, and none is missing in the end."""
    rng = random.Random(seed)
    assigned: list[int] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(name: str, key: int) -> None:
        try:
            with ShmDevice(name, patience=PATIENCE) as device:
                while not stop.is_set():
                    verdict = device.commit(snapshot=device.published, reads=[key], writes=[key, 100 + key])
                    assert verdict.reason in (None, Reason.CONFLICT, Reason.ROLLOVER), verdict
                    if verdict.timestamp is not None:
                        assigned.append(verdict.timestamp)
                        device.publish(verdict.timestamp)
        except BaseException as error:
            failures.append(error)

    with removed(new_name()) as name:
        server = ServerProcess(name, "soft:")
        threads = [threading.Thread(target=work, args=(name, key), daemon=True) for key in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            target = len(assigned) + rng.randrange(1, 200)
            deadline = time.monotonic() + PATIENCE
            while len(assigned) < target and not failures:
                assert time.monotonic() < deadline, "the clients do not go on"
                time.sleep(0.001)
            server.kill()
            server = ServerProcess(name, "soft:")
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a client hangs"
        assert not failures, failures
        with open_device(f"shm:{name}") as device:
            last = device.last_timestamp()
            device.wait_published(last, timeout=PATIENCE)
            assert device.published == last
        assert len(set(assigned)) == len(assigned)
        assert last >> 32 == 5
        server.terminate()


def test_clients_that_are_stopped_or_killed_hold_nobody_up(seed: int) -> None:
    """Through a server: while one is stopped, or after its death, others commit and publish."""
    rng = random.Random(seed)
    with removed(new_name()) as name:
        server = ServerProcess(name, "soft:?slots=4")
        with open_device(f"shm:{name}") as device:
            for number in range(12):
                victim = client(name, number)
                for _ in range(rng.randrange(20)):
                    assert victim.stdout.readline()
                victim.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, victim.pid, os.WSTOPPED)
                for _ in range(20):
                    before = device.last_timestamp()
                    verdict = device.commit(snapshot=before, reads=[1000], writes=[1000])
                    assert verdict.timestamp == before + 1
                    device.publish(verdict.timestamp)
                if number % 2:
                    victim.send_signal(signal.SIGCONT)
                    for _ in range(3):
                        assert victim.stdout.readline()
                victim.kill()
                victim.communicate(timeout=PATIENCE)
                device.wait_published(device.last_timestamp(), timeout=PATIENCE)
                assert device.published == device.last_timestamp()
        server.terminate()

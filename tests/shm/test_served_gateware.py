"""A server with the simulated gateware, which fetches from the clients' windows and completes there by itself."""

import contextlib
import random
import threading
from collections.abc import Iterator

import pytest
from bloomgate import Device, Reason, open_device
from bloomgate.backends.shm import ShmDevice
from bloomgate.serve import Server, server_for
from bloomgate.serve_slots import ServedSlots
from bloomgate.shm.layout import FLIGHT

from tests.device_urls import BACKENDS, SMALL, missing
from tests.shm.served import PATIENCE, new_name, removed

SIM = next(backend for backend in BACKENDS if backend.scheme == "sim")

pytestmark = [
    pytest.mark.xdist_group("sim"),
    pytest.mark.skipif(missing(SIM) is not None, reason=f"sim: needs {missing(SIM)}: make setup"),
]


@contextlib.contextmanager
def served(name: str, unlink: bool = True) -> Iterator[tuple[Device, Server]]:
    """A new gateware that serves the segment in a thread."""
    failures: list[BaseException] = []
    with open_device(f"sim:?{SMALL}") as device:
        server = server_for(device, name)

        def run() -> None:
            try:
                server.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield device, server
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server does not stop"
            server.close(unlink)
            assert not failures, failures


def test_two_clients_get_the_verdicts_of_the_model(seed: int) -> None:
    rng = random.Random(seed)
    with removed(new_name()) as name, served(name) as (gateware, _), open_device(f"model:?{SMALL}") as model:
        before = gateware.bus.memory.statistics()
        with ShmDevice(name) as one, ShmDevice(name) as other:
            for _ in range(150):
                device = rng.choice((one, other))
                last = model.last_timestamp()
                request = {
                    "snapshot": max(0, last + rng.choice((0, 0, 0, -1, -2, 1))),
                    "reads": [rng.randrange(64) for _ in range(rng.randrange(6))],
                    "writes": [rng.randrange(64) for _ in range(rng.randrange(3))],
                    "commutes": [rng.randrange(64) for _ in range(rng.randrange(3))],
                }
                verdict = device.commit(**request)
                assert verdict == model.commit(**request), request
                device.publish(verdict.timestamp)
                assert device.last_timestamp() == model.last_timestamp()
            one.wait_published(one.last_timestamp(), timeout=PATIENCE)
            with one.queue_pair() as queue:
                snapshot = one.last_timestamp()
                tickets = [queue.submit(snapshot=snapshot, reads=[key] * (1 + 100 * key)) for key in (0, 7, 0)]
                assert all(queue.collect(ticket, PATIENCE).committed for ticket in tickets)
        after = gateware.bus.memory.statistics()
        # It was the gateware that fetched: four beats for each entry, and half a beat for each key.
        assert after.read_beats - before.read_beats > 4 * 150 + 350
        assert after.stray_bursts == 0


def test_nobody_sees_a_verdict_before_whom_it_dooms_can(monkeypatch: pytest.MonkeyPatch) -> None:
    armed, seen = threading.Event(), threading.Event()
    tell = ServedSlots.tell

    def late(self: ServedSlots, certain: bool = False) -> None:
        if armed.is_set():
            assert seen.wait(PATIENCE)
        tell(self, certain)

    monkeypatch.setattr(ServedSlots, "tell", late)
    with removed(new_name()) as name, served(name), ShmDevice(name) as device:
        slot = device.open_slot()
        slot.begin(device.published)
        slot.announce([1])
        assert slot.doomed is None
        armed.set()
        try:
            verdict = device.commit(snapshot=device.published, writes=[1])
            word = slot._flight()
        finally:
            seen.set()
        assert next(field for field in FLIGHT if field.name == "DOOMED").extract(word)
        assert slot.doomed == (1, verdict.timestamp)


def test_clients_go_on_with_the_next_gateware() -> None:
    with removed(new_name()) as name:
        with served(name, unlink=False):
            device = ShmDevice(name, patience=PATIENCE)
            assert device.commit(snapshot=0, writes=[1]).timestamp == 1
            device.publish(1)
        with device, served(name):
            assert device.commit(snapshot=1, reads=[1]).reason is Reason.ROLLOVER
            epoch = device.last_timestamp()
            assert epoch == device.published == 16
            assert device.commit(snapshot=epoch, reads=[1], writes=[1]).timestamp == epoch + 1
            with ShmDevice(name) as other:
                assert other.commit(snapshot=epoch, reads=[1]).conflict_key == 1

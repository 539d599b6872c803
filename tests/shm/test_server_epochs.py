"""A server whose device ends more epochs than can be noted behind a commit that nobody has published."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
from bloomgate import PublicationError, Reason, Verdict, open_device
from bloomgate.backends.shm import ShmDevice
from bloomgate.device import Device
from bloomgate.in_flight import Token
from bloomgate.serve import Server
from bloomgate.shm.layout import EPOCH_ENDS
from bloomgate.slots import Slot

from tests.shm.served import PATIENCE, new_name, removed

GEOMETRY = "D=16&timestamp_bits=4&slots=4"
BITS = 4
#: Commits after which the token is not granted in that epoch any more.
NEAR_END = 8


class Running:
    """A server in a thread, and its device."""

    def __init__(self, url: str, name: str) -> None:
        self.device = open_device(url)
        self.server = Server(self.device, name)
        self.reports = 0
        self.thread = threading.Thread(target=self.server.run, args=(self._report,), daemon=True)
        self.thread.start()

    def _report(self) -> None:
        self.reports += self.server.waiting

    def close(self) -> None:
        """As when it is killed: the segment stays."""
        self.server.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server does not stop"
        self.server.close(unlink=False)
        self.device.close()


@contextlib.contextmanager
def asking(slot: Slot) -> Iterator[None]:
    """Another thread asks for the token, and has its answer in the end."""
    thread = threading.Thread(target=slot.request_token, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive(), "no answer"
    assert slot.token_refusal == Verdict(False, None, Reason.ROLLOVER, None)


def leave_no_room(device: Device) -> int:
    """For another end of an epoch. The commit that keeps it."""
    timestamp = device.commit(snapshot=0, writes=[1]).timestamp
    for _ in range(EPOCH_ENDS):
        device.reset()
    assert timestamp == 1
    return timestamp


def commit_near_the_end(device: Device) -> list[int]:
    """From the beginning of an epoch to where the token is not granted any more. The commits, all unpublished."""
    commits = [device.commit(snapshot=device.last_timestamp(), writes=[key]).timestamp for key in range(NEAR_END)]
    first = (EPOCH_ENDS << BITS) + 1
    assert commits == list(range(first, first + NEAR_END))
    return commits


def await_end(running: Running) -> None:
    """Until the server's device has ended the epoch, and the server has looked for room."""
    deadline = time.monotonic() + PATIENCE
    while running.device.last_timestamp() >> BITS == EPOCH_ENDS or not running.reports:
        assert time.monotonic() < deadline, "the server has not waited"
        time.sleep(0.001)


@pytest.mark.parametrize("scheme", ["soft", "model"])
def test_nothing_is_told_of_an_epoch_before_its_beginning_is_noted(scheme: str) -> None:
    """The server waits until clients have published, which they do without it."""
    with removed(new_name()) as name:
        running = Running(f"{scheme}:?{GEOMETRY}", name)
        with ShmDevice(name, patience=PATIENCE) as device:
            commits = [leave_no_room(device), *commit_near_the_end(device)]
            slot = device.open_slot()
            slot.begin(device.last_timestamp())
            with asking(slot):
                await_end(running)
                assert device.last_timestamp() == commits[-1]
                for timestamp in reversed(commits):
                    device.publish(timestamp)
            origin = (EPOCH_ENDS + 1) << BITS
            assert device.published == device.last_timestamp() == origin
            assert device.commit(snapshot=origin, writes=[1]).timestamp == origin + 1
        running.close()


@pytest.mark.parametrize("scheme", ["soft", "model"])
def test_the_next_server_loses_nothing(scheme: str) -> None:
    """One that is stopped while it waits for room. The next does not begin before there is some."""
    url = f"{scheme}:?{GEOMETRY}"
    with removed(new_name()) as name:
        running = Running(url, name)
        with ShmDevice(name, patience=PATIENCE) as device:
            commits = [leave_no_room(device), *commit_near_the_end(device)]
            slot = device.open_slot()
            slot.begin(device.last_timestamp())
            with asking(slot):
                await_end(running)
                running.close()
                with (
                    open_device(url) as other,
                    pytest.raises(PublicationError, match="too many epochs have ended since 0;"),
                ):
                    Server(other, name)
                for timestamp in reversed(commits):
                    device.publish(timestamp)
                running = Running(url, name)
            origin = (EPOCH_ENDS + 1) << BITS
            assert device.published == device.last_timestamp() == origin
            assert device.commit(snapshot=origin, writes=[1]).timestamp == origin + 1
        running.close()


def test_a_verdict_with_which_the_epoch_ends_waits_too() -> None:
    """The commit of the token's holder: another waits for the token, and cannot have it in this epoch."""
    with removed(new_name()) as name:
        running = Running(f"model:?{GEOMETRY}", name)
        with ShmDevice(name, patience=PATIENCE) as device:
            commits = [leave_no_room(device)]
            holder, other = device.open_slot(), device.open_slot()
            for slot in (holder, other):
                slot.begin(device.last_timestamp())
                slot.request_token()
            assert holder.token is Token.HOLDER
            commits += commit_near_the_end(device)
            verdicts: list[Verdict] = []
            thread = threading.Thread(target=lambda: verdicts.append(holder.commit(writes=[1])), daemon=True)
            thread.start()
            await_end(running)
            assert device.last_timestamp() == commits[-1]
            for timestamp in commits:
                device.publish(timestamp)
            thread.join(PATIENCE)
            assert [verdict.timestamp for verdict in verdicts] == [commits[-1] + 1]
            device.publish(commits[-1] + 1)
            assert device.published == device.last_timestamp() == (EPOCH_ENDS + 1) << BITS
        running.close()

"""``published`` in a segment: the same as in one process, and what only several can do to it."""

import contextlib
import os
import random
import time

import pytest
from bloomgate import Parameters, PublicationError, open_device
from bloomgate.backends.shm import ShmDevice, create_segment
from bloomgate.backends.soft import load_native
from bloomgate.publication import Publication
from bloomgate.shm.layout import EPOCH_ENDS, MODE_SERVERLESS, STAMPS, WRITTEN_BACK
from bloomgate.shm.publication import SharedPublication
from bloomgate.shm.segment import remove

from tests.shm.served import serving

LIMIT = 30.0


class Assigned:
    """The device, as a publication sees it."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> int:
        return self.last


class View:
    """A segment with nothing but its publication."""

    def __init__(self, timestamp_bits: int = 32) -> None:
        self.parameters = Parameters(D=16, timestamp_bits=timestamp_bits)
        self.assigned = Assigned()
        self._segment = create_segment(None, self.parameters, MODE_SERVERLESS)
        module = load_native()
        memory = module.ffi.from_buffer("unsigned char[]", self._segment.map, require_writable=True)
        self._handle = module.ffi.gc(module.lib.bg_segment_open(memory), module.lib.bg_segment_close)
        self.publication = SharedPublication(self.parameters, self._segment, self._handle, self.assigned)

    def close(self) -> None:
        del self.publication, self._handle
        self._segment.close()


@pytest.fixture
def view():
    subject = View()
    yield subject
    subject.close()


def test_like_within_one_process(seed: int) -> None:
    """Random orders of publications, resets and rollovers."""
    dice = random.Random(seed)
    view = View(timestamp_bits=3)
    ours = view.publication
    theirs = Publication(view.parameters, 0, view.assigned)
    waiting: list[int] = []
    for _ in range(5000):
        last = view.assigned.last
        if dice.random() < 0.5 and len(waiting) < 6:
            # The device commits; after the last count the epoch ends by itself.
            view.assigned.last = last + 1 if last % 8 < 7 else last + 2
            waiting.append(view.assigned.last)
        elif waiting and dice.random() < 0.8:
            timestamp = waiting.pop(dice.randrange(len(waiting)))
            for publication in (ours, theirs):
                publication.publish(timestamp)
                publication.publish(dice.choice((None, timestamp)))
        elif dice.random() < 0.3 and last % 8 != 7:
            origin = (last // 8 + dice.randint(1, 3)) * 8
            view.assigned.last = origin
            for publication in (ours, theirs):
                publication.epoch_stepped(last, origin)
        assert ours.published == theirs.published
    for timestamp in waiting:
        ours.publish(timestamp)
    ours.wait(view.assigned.last, 0)
    view.close()


def test_never_assigned(view) -> None:
    view.assigned.last = 3
    for operation in (view.publication.publish, view.publication.wait):
        with pytest.raises(PublicationError, match=r"^timestamp 4 was never assigned; the last one is 3$"):
            operation(4)


def test_the_last_epoch_has_no_next() -> None:
    for bits in (2, 32):
        view = View(timestamp_bits=bits)
        top = view.parameters.max_timestamp
        view.assigned.last = top
        view.publication.epoch_stepped(0, top - view.parameters.max_count)
        assert view.publication.published == top - view.parameters.max_count
        if bits == 2:
            for timestamp in (top, top - 1, top - 2):
                view.publication.publish(timestamp)
            assert view.publication.published == top
        view.close()


def test_there_is_room_for_so_many(view) -> None:
    """Publishing beyond it is refused, and can be repeated."""
    publication = view.publication
    view.assigned.last = 2 * WRITTEN_BACK
    refused = []
    for timestamp in range(2, 2 * WRITTEN_BACK + 1):
        try:
            publication.publish(timestamp)
        except PublicationError:
            refused.append(timestamp)
    with pytest.raises(PublicationError, match=f"^timestamp {refused[0]} cannot be published yet"):
        publication.publish(refused[0])
    assert len(refused) > WRITTEN_BACK // 2
    assert refused[0] > WRITTEN_BACK // 4
    publication.publish(1)
    assert publication.published == refused[0] - 1
    for timestamp in refused:
        publication.publish(timestamp)
    assert publication.published == 2 * WRITTEN_BACK


def test_equal_counts_of_two_epochs(view) -> None:
    """All of the old epoch are published after all of the new one."""
    view.assigned.last = (1 << 32) + 500
    view.publication.epoch_stepped(500, 1 << 32)
    for count in range(1, 501):
        view.publication.publish((1 << 32) + count)
    for count in range(500, 0, -1):
        assert view.publication.published == 0
        view.publication.publish(count)
    assert view.publication.published == (1 << 32) + 500


def test_so_many_resets(view) -> None:
    publication = view.publication
    view.assigned.last = 1
    last = 1
    for number in range(1, EPOCH_ENDS + 1):
        origin = number << 32
        view.assigned.last = origin
        publication.epoch_stepped(last, origin)
        publication.epoch_stepped(last, origin)
        last = origin
    with pytest.raises(PublicationError, match="too many resets since 0"):
        publication.epoch_stepped(last, last + (1 << 32))
    publication.publish(1)
    assert publication.published == last
    publication.epoch_stepped(last, last + (1 << 32))
    assert publication.published == last + (1 << 32)


def test_positions(view) -> None:
    publication = view.publication
    assert publication.now() == (0, 1)
    view.assigned.last = 3 * STAMPS
    for timestamp in range(1, 3 * STAMPS + 1):
        publication.publish(timestamp)
        assert publication.now() == (timestamp, timestamp + 1)
    newest = publication.published
    for timestamp in (newest, newest - 1, newest - STAMPS + 100):
        assert publication.position_of(timestamp) == timestamp + 1
    assert publication.position_of(newest + 1) is None
    assert publication.position_of(newest - STAMPS) is None
    assert publication.position_of(0) is None


def test_waiting_ends_with_the_time(view) -> None:
    view.assigned.last = 2
    view.publication.publish(2)
    with pytest.raises(TimeoutError, match=r"^timestamp 2 was not published within 0.01 s; the oldest .* is 1$"):
        view.publication.wait(2, 0.01)
    assert not view.publication.wait_beyond(1, 0.01)
    view.publication.publish(1)
    assert view.publication.wait_beyond(1, LIMIT)


@pytest.fixture
def name():
    chosen = f"test-publication-{os.getpid()}-{time.monotonic_ns()}"
    yield chosen
    remove(chosen)


@pytest.mark.parametrize("commits", [1, 100])
def test_what_a_client_left_is_published_when_it_is_gone(name, commits: int) -> None:
    """More commits than it has ring entries, so that some are only in the claims."""
    with open_device(f"shm:{name}?D=16&queue_entries=4") as other:
        client = ShmDevice(name)
        for key in range(commits):
            assert client.commit(snapshot=client.published, writes=[key]).committed
        last = other.last_timestamp()
        with pytest.raises(TimeoutError):
            other.wait_published(last, 0.05)
        assert other.published == 0
        client.publish(1)
        client.close()
        other.wait_published(last, LIMIT)
        assert other.published == last == commits


@pytest.mark.parametrize("server", [None, "soft:?D=16"], ids=["serverless", "served"])
def test_so_many_resets_of_a_device(server) -> None:
    """One that `published` could not find its way past is refused, and the device goes on."""
    with contextlib.ExitStack() as stack:
        name = "" if server is None else stack.enter_context(serving(server))
        device = stack.enter_context(open_device(f"shm:{name}"))
        device.commit(snapshot=0, writes=[1])
        for _ in range(EPOCH_ENDS):
            device.reset()
        newest = device.last_timestamp()
        assert newest == EPOCH_ENDS << 32
        with pytest.raises(PublicationError, match="nothing was reset: too many epochs have ended since 0"):
            device.reset()
        assert device.last_timestamp() == newest
        assert device.commit(snapshot=newest, writes=[2]).timestamp == newest + 1
        device.publish(newest + 1)
        device.publish(1)
        assert device.published == newest + 1
        device.reset()
        assert device.published == newest + (1 << 32)


def test_who_takes_a_slot_over_publishes_what_was_left(name) -> None:
    client = ShmDevice(name, expected=Parameters(D=16, slots=1, queue_entries=4))
    for key in range(10):
        client.commit(snapshot=0, writes=[key])
    client.close()
    with ShmDevice(name) as successor:
        assert successor.slot == 0
        assert successor.published == 10 == successor.last_timestamp()


def test_a_child_does_not_keep_the_slot_of_its_parent(name) -> None:
    """A client dies whose forked child lives on: its slot is free, and what it left is published."""
    with open_device(f"shm:{name}?D=16") as other:
        alive, end = os.pipe()
        client = os.fork()
        if client == 0:
            device = ShmDevice(name)
            device.commit(snapshot=0, writes=[1])
            if os.fork() == 0:
                os.close(end)
                os.read(alive, 1)  # until the test ends
            os._exit(0)
        os.waitpid(client, 0)
        other.wait_published(1, LIMIT)
        os.close(end)
        os.close(alive)

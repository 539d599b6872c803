"""What a queue pair promises on every device that has one. The device may have been used before, by nobody else now."""

import random
import threading

import pytest
from bloomgate import Device, DeviceClosed, QueueFull, Reason, RequestTooLarge
from bloomgate.backends.model import ModelDevice
from bloomgate.queue_layout import MAX_READ_KEYS, log_area_offset

#: Of the devices: rings wrap after four entries, epochs after 15 commits, chunks and insertions have 64 keys.
GEOMETRY = "K=2&D=16&timestamp_bits=4&key_bits=6&aperture_depth=256&queue_entries=4&buffer_depth=64&request_buffers=2"
#: Seconds for anything.
LIMIT = 60.0


def room(queue) -> int:
    """Keys that one request can have."""
    parameters = queue.port.parameters
    logs = parameters.queue_entries * parameters.aperture_depth * 4
    return (len(queue.port.window) - log_area_offset(parameters) - logs) // 4


class QueuePairContract:
    """A subclass gives the fixture ``device``, with GEOMETRY."""

    #: Keys of a read set that the device validates within a second or so.
    long_reads = MAX_READ_KEYS

    def fresh(self, device: Device) -> int:
        """The newest timestamp, of a device in which nothing conflicts and an epoch has just begun."""
        device.reset()
        return device.last_timestamp()

    def test_answers_come_in_any_order_of_collecting(self, device: Device) -> None:
        self.fresh(device)
        with device.queue_pair() as queue:
            for _ in range(3):  # around the ring
                snapshot = device.last_timestamp()
                tickets = [queue.submit(snapshot=snapshot, reads=[key], writes=[key]) for key in (1, 2, 1, 3)]
                with pytest.raises(
                    QueueFull,
                    match="^all 4 entries are in use; collect a request, or publish what was committed, first$",
                ):
                    queue.submit(snapshot=0)
                verdicts = [queue.collect(tickets[number]) for number in (3, 1, 2, 0)]
                assert [verdict.committed for verdict in verdicts] == [True, True, False, True]
                assert verdicts[2].conflict_key == 1
                assert [verdicts[n].timestamp for n in (3, 1, 0)] == [snapshot + 1, snapshot + 2, snapshot + 3]
                with pytest.raises(ValueError, match="has been collected"):
                    queue.collect(tickets[0])
                for verdict in verdicts:
                    device.publish(verdict.timestamp)

    def test_the_longest_requests(self, device: Device) -> None:
        origin = self.fresh(device)
        with device.queue_pair() as queue:
            longest = room(queue)
            reads = [5] * min(self.long_reads, longest - 1)
            assert queue.commit(snapshot=origin, reads=reads, writes=[1]).timestamp == origin + 1
            assert queue.commit(snapshot=origin, reads=[*reads[:-1], 1]).conflict_key == 1
            if longest < MAX_READ_KEYS:
                message = f"^the window of this queue pair has room for requests of {longest} keys, not {longest + 1}$"
                with pytest.raises(RequestTooLarge, match=message):
                    queue.submit(snapshot=0, reads=[5] * (longest + 1))
            with pytest.raises(RequestTooLarge, match="^a queued request can have 65535 keys in writes, not 65536$"):
                queue.submit(snapshot=0, writes=[5] * 65536)
            before = device.stats()
            many = min(65535, longest // 2)
            assert queue.commit(snapshot=origin + 1, writes=[5] * many, commutes=[6] * many).timestamp == origin + 2
            assert device.stats()["floor_raises"] == before["floor_raises"] + 1
            assert device.stats()["keys_inserted"] == before["keys_inserted"]
            assert queue.commit(snapshot=origin + 1, reads=[9]).reason is Reason.CONFLICT
            assert queue.commit(snapshot=origin + 2, reads=[9]).committed
            long = queue.submit(snapshot=origin + 2, reads=[1] * 257)
            with pytest.raises(QueueFull, match="uses the room for long logs"):
                queue.submit(snapshot=origin + 2, reads=[1] * 257)
            assert queue.collect(long).committed

    def test_validation_ends_with_the_chunk_that_decides(self, device: Device) -> None:
        origin = self.fresh(device)
        with device.queue_pair() as queue:
            queue.commit(snapshot=origin, writes=[1])
            for position, queried in ((0, 64), (63, 64), (64, 128), (130, 150)):
                reads = [9] * 150
                reads[position] = 1
                before = device.stats()["keys_validated"]
                assert queue.commit(snapshot=origin, reads=reads).conflict_key == 1
                assert device.stats()["keys_validated"] == before + queried

    def test_one_after_the_other_is_as_the_model(self, device: Device, seed: int) -> None:
        """Requests of all kinds, several outstanding, with rollovers: the ring's order is the order of decisions."""
        rng = random.Random(seed)
        epoch, _ = device.parameters.epoch_and_count(self.fresh(device))
        seen = set()
        with ModelDevice(device.parameters, initial_epoch=epoch) as model, device.queue_pair() as queue:
            while len(seen) < 4:  # commits, read-only ones, conflicts, rollovers
                outstanding = []
                for _ in range(rng.randint(1, 4)):
                    snapshot = max(0, model.last_timestamp() - rng.choice((0, 0, 0, 1, 20)))
                    sets = [[rng.randrange(64) for _ in range(rng.choice((0, 1, 3, 60)))] for _ in range(3)]
                    request = dict(zip(("reads", "writes", "commutes"), sets, strict=True), snapshot=snapshot)
                    outstanding.append((queue.submit(**request), model.commit(**request), request))
                rng.shuffle(outstanding)
                for ticket, expected, request in outstanding:
                    assert queue.collect(ticket, LIMIT) == expected, request
                    device.publish(expected.timestamp)
                    seen.add("read-only" if expected == (True, None, None, None) else expected.reason)

    def test_threads_share_a_queue_pair_and_the_device(self, device: Device) -> None:
        """As many commits as were told, each with a timestamp of its own, whichever way they came."""
        self.fresh(device)
        timestamps, failures = [], []

        def work(commit) -> None:
            try:
                for _ in range(12):
                    verdict = commit(snapshot=device.last_timestamp(), writes=[1])
                    device.publish(verdict.timestamp)
                    if verdict.reason is not Reason.ROLLOVER:
                        timestamps.append(verdict.timestamp)
            except BaseException as error:
                failures.append(error)

        with device.queue_pair() as one, device.queue_pair() as other:
            ways = (one.commit, one.commit, other.commit, device.commit)
            threads = [threading.Thread(target=work, args=[way]) for way in ways]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
            assert not any(thread.is_alive() for thread in threads)
        assert failures == []
        assert len(set(timestamps)) == len(timestamps) > 12
        assert None not in timestamps

    def test_nothing_is_left_to_the_next_owner(self, device: Device) -> None:
        """Whoever closes forgets what was submitted; the next one begins with an empty ring."""
        self.fresh(device)
        for _ in range(3):
            queue = device.queue_pair()
            queue.submit(snapshot=device.last_timestamp(), writes=[2])
            left = queue.submit(snapshot=device.last_timestamp(), writes=[2])
            queue.close()
            queue.close()
            with device.queue_pair() as new:
                assert new.port.next_index() == 0
                assert new.commit(snapshot=device.last_timestamp(), reads=[3]).committed
        if queue.port.closed:
            with pytest.raises(DeviceClosed):
                queue.collect(left)
            with pytest.raises(DeviceClosed):
                queue.submit(snapshot=0)

    def test_who_waits_for_an_entry_learns_that_there_will_be_none(self, device: Device) -> None:
        """Closing leaves all entries in use."""
        self.fresh(device)
        queue = device.queue_pair()
        for _ in range(4):
            queue.submit(snapshot=device.last_timestamp(), reads=[1])
        ends: list[object] = []

        def wait() -> None:
            try:
                queue.commit(snapshot=0, reads=[1])
            except BaseException as error:
                ends.append(error)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        queue.close()
        if not queue.port.closed:  # its device has nothing to be given back
            device.close()
        thread.join(LIMIT / 2)
        assert [type(end) for end in ends] == [DeviceClosed]

    def test_a_verdict_that_is_not_there_yet(self, device: Device) -> None:
        self.fresh(device)
        with device.queue_pair() as queue:
            ticket = queue.submit(snapshot=device.last_timestamp(), writes=[2])
            while (verdict := queue.poll(ticket)) is None:
                pass
            assert verdict.timestamp == device.last_timestamp()
            device.publish(verdict.timestamp)
            assert device.published == verdict.timestamp

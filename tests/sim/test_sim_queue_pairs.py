"""Queue pairs of sim:, as on every other device, and what only the owner of page 0 can see of them."""

import os

import pytest
from bloomgate import DeviceClosed, DeviceInUse, Reason, Verdict, open_device
from bloomgate.registers import CONTROL_PAGE, QUEUE_RECORD_BYTES

from tests.queue_pair_contract import GEOMETRY, QueuePairContract

URL = f"sim:?{GEOMETRY}&slots=3"


class TestQueuePair(QueuePairContract):
    long_reads = 1 << 10

    @pytest.fixture
    def device(self):
        with open_device(URL) as device:
            yield device
            # No doorbell was dropped, nothing was fetched in vain.
            assert device.error_log() == []


def test_each_slot_has_one() -> None:
    """With a window of its own, that it loses with its owner."""
    records = CONTROL_PAGE.window("QUEUE_RECORDS").offset
    with open_device(URL) as device:
        pairs = [device.queue_pair() for _ in range(device.parameters.slots)]
        with pytest.raises(DeviceInUse, match="all 3 slots have a queue pair"):
            device.queue_pair()
        windows = [device.bus.read(records + QUEUE_RECORD_BYTES * slot, 2) for slot in range(3)]
        assert all(base + size <= other for (base, size), (other, _) in zip(windows, windows[1:], strict=False))
        pairs[1].close()
        with device.queue_pair() as again:
            assert again.commit(snapshot=0, writes=[1]).timestamp == 1
            assert device.bus.read(records + QUEUE_RECORD_BYTES, 2) == windows[1]
    assert all(pair.port.closed for pair in pairs)


def test_a_forked_child_has_none() -> None:
    with open_device(URL) as device, device.queue_pair() as queue:
        ticket = queue.submit(snapshot=0, writes=[1])
        child = os.fork()
        if child == 0:
            try:
                queue.collect(ticket)
            except DeviceClosed:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert queue.collect(ticket).timestamp == 1


def test_a_long_commit_with_the_last_count_ends_the_epoch() -> None:
    """Its floor is raised, and nothing is inserted: whoever waits behind it is decided in the next epoch."""
    ended = set()
    # The one behind is there when the first is decided, or comes later: as the length of a read set has it.
    for reads in range(0, 120, 3):
        with open_device(URL) as device, device.queue_pair() as queue:
            last = device.parameters.max_count
            for _ in range(last - 1):
                device.publish(queue.commit(snapshot=device.published, writes=[1]).timestamp)
            keys = [key % 64 for key in range(device.parameters.buffer_depth + 8)]
            long = queue.submit(snapshot=last - 1, reads=[2] * reads, writes=keys)
            behind = queue.submit(snapshot=last - 1, writes=[3])
            assert queue.collect(long).timestamp == last
            ended.add(queue.collect(behind))
    assert ended == {Verdict(False, None, Reason.ROLLOVER, None)}

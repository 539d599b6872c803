"""Keys of programmed I/O and of queue pairs share one way into the validation pipeline: none may push out another's."""

import pytest
from bloomgate import Reason
from bloomgate_sim.device import SimulatedDevice

from tests.sim.geometries import QUEUES


@pytest.fixture
def device():
    with SimulatedDevice(QUEUES) as device:
        yield device


@pytest.mark.parametrize("writes", [1, 2, 7])
def test_no_key_is_lost_when_a_read_log_arrives_in_any_clock_of_an_insertion(device, writes):
    """Of every latency of memory one makes the first keys arrive when the last ones of the other are inserted."""
    device.commit(snapshot=0, writes=[1])
    with device.queue_pair() as queue:
        for latency in range(100):
            device.bus.memory.latency(latency)
            snapshot = device.last_timestamp()
            written = [1000 * latency + number for number in range(2, 2 + writes)]
            ticket = queue.submit(snapshot=0, reads=[1, *written])
            assert device.commit(snapshot=snapshot, writes=written).committed
            verdict = queue.collect(ticket)
            assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, 1), latency
            for key in written:
                verdict = device.commit(snapshot=snapshot, reads=[key])
                assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, key), latency

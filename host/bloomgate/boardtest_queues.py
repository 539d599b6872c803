"""What ``bloomgate boardtest`` does with a queue pair."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bloomgate.device import Device
from bloomgate.queue_layout import FORMAT, SUBMISSION
from bloomgate.queue_pair import QueuePair
from bloomgate.selftest import SelftestFailure
from bloomgate.verdict import Reason, Verdict
from bloomgate.verdict_words import verdict_of

__all__ = ["bad_entry", "full_ring", "long_request", "requests_per_second", "wake_up_seconds"]

#: Rings that are filled.
_ROUNDS = 5
#: Requests whose waiter sleeps.
_SLEEPS = 10
#: Keys of the longest request.
_LONG = 2000


def _equal(what: str, found: object, right: object) -> None:
    if found != right:
        raise SelftestFailure(f"queue pair, {what}: {found}, and should be {right}")


def full_ring(device: Device, queue: QueuePair) -> int:
    """Fill the ring again and again, so that it wraps, and collect backwards; returns the number of requests.

    Each request reads what the one before it has written, so that only every second one commits.
    """
    entries = device.parameters.queue_entries
    key = device.parameters.max_key
    for _ in range(_ROUNDS):
        _refresh(device)
        snapshot = device.last_timestamp()
        tickets = [
            queue.submit(snapshot=snapshot, reads=[key - number // 2], writes=[key - number // 2])
            for number in range(entries)
        ]
        verdicts = [queue.collect(ticket) for ticket in reversed(tickets)][::-1]
        for number, verdict in enumerate(verdicts):
            if number % 2:
                right = Verdict(False, None, Reason.CONFLICT, key - number // 2)
            else:
                right = Verdict(True, snapshot + 1 + number // 2, None, None)
            # An alias in the filter, or its floor, may refuse what should commit.
            if verdict.reason is not Reason.CONFLICT or number % 2:
                _equal(f"entry {number} of a full ring", verdict, right)
    return _ROUNDS * entries


def _refresh(device: Device) -> None:
    """A full ring must not end the epoch."""
    parameters = device.parameters
    _, count = parameters.epoch_and_count(device.last_timestamp())
    if count + parameters.queue_entries >= parameters.max_count:
        device.reset()


def bad_entry(device: Device, queue: QueuePair) -> None:
    """An entry of another format is refused, and the ring goes on."""
    _refresh(device)
    errors = device.stats()["errors"]
    header = SUBMISSION[0]["FORMAT"]
    index = queue.port.next_index()
    assert index is not None
    queue.port.submit([header.insert(FORMAT + 1), *[0] * (len(SUBMISSION) - 1)])
    payload = queue.port.collect(index, 10.0)
    queue.port.release(index)
    if payload is None:
        raise SelftestFailure("queue pair: a bad entry gets no verdict within 10 s")
    _equal("a bad entry", verdict_of(device.parameters, payload).reason, Reason.BAD_REQUEST)
    _equal("errors after a bad entry", device.stats()["errors"], errors + 1)
    _equal("the entry after it", queue.commit(snapshot=device.last_timestamp()).committed, True)


def long_request(device: Device, queue: QueuePair) -> int:
    """A request longer than a slot page can have, with its only conflict at the end; returns its keys."""
    _refresh(device)
    parameters = device.parameters
    snapshot = device.last_timestamp()
    keys = [0] * max(_LONG, 2 * parameters.buffer_depth)
    queue.commit(snapshot=snapshot, writes=[parameters.max_key])
    verdict = queue.commit(snapshot=device.last_timestamp(), reads=[*keys, parameters.max_key])
    _equal("a long request", verdict.committed, True)
    verdict = queue.commit(snapshot=snapshot, reads=[*keys, parameters.max_key])
    _equal("a long request that is too late", verdict.reason, Reason.CONFLICT)
    return 2 * len(keys)


def requests_per_second(device: Device, queue: QueuePair, requests: int, keys: int) -> float:
    """Of so many keys each, as many outstanding as the ring has entries."""
    entries = device.parameters.queue_entries
    reads: Sequence[int] = [key & device.parameters.max_key for key in range(keys)]
    snapshot = device.last_timestamp()
    outstanding: list[Any] = []
    began = time.monotonic()
    for _ in range(requests):
        if len(outstanding) == entries:
            _equal("throughput", queue.collect(outstanding.pop(0)).committed, True)
        outstanding.append(queue.submit(snapshot=snapshot, reads=reads))
    for ticket in outstanding:
        _equal("throughput", queue.collect(ticket).committed, True)
    return requests / (time.monotonic() - began)


def wake_up_seconds(device: Device, queue: QueuePair) -> float:
    """From the submission to the verdict, of a client that sleeps until the interrupt; the mean."""
    snapshot = device.last_timestamp()
    before, queue.port.spins = queue.port.spins, 0  # type: ignore[attr-defined]
    try:
        began = time.monotonic()
        for _ in range(_SLEEPS):
            _equal("asleep", queue.commit(snapshot=snapshot).committed, True)
        return (time.monotonic() - began) / _SLEEPS
    finally:
        queue.port.spins = before  # type: ignore[attr-defined]

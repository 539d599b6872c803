"""Rings: the C code equals the model, whatever a client writes into its window and its doorbells."""

import contextlib
import random
import struct

import pytest
from bloomgate import Parameters, Reason, open_device
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.model_queue import ModelQueue, first_bad_word
from bloomgate.backends.soft import SoftDevice
from bloomgate.backends.soft_queue import SoftQueue
from bloomgate.h3 import H3
from bloomgate.queue_layout import ENTRY_BYTES, FORMAT, MAX_READ_KEYS, completion_ring_offset, log_area_offset

from tests.queue_pair_contract import GEOMETRY as SMALL_URL
from tests.queue_pair_contract import QueuePairContract
from tests.shm.served import serving

#: Rings wrap after four entries, epochs after 15 commits, chunks and insertions have 64 keys.
SMALL = Parameters(
    K=2, D=16, timestamp_bits=4, key_bits=6, aperture_depth=256, queue_entries=4, buffer_depth=64, request_buffers=2
)
WINDOW = 8192
LOGS = log_area_offset(SMALL)


def entry(rng: random.Random, last: int, window: int) -> list[int]:
    """The words of an entry, most of them legal."""
    back = rng.choice((0, 0, 0, 0, 1, 2, 5, -1))
    epoch, count = SMALL.epoch_and_count(max(0, last - back))
    counts = [rng.choice((0, 1, 2, 3, 7, rng.randrange(64), rng.randrange(300))) for _ in range(3)]
    if rng.random() < 0.5:
        counts = [min(size, 4) for size in counts]
    offsets = [rng.randrange(LOGS, window - 4 * size + 1, 4) for size in counts]
    words = [
        rng.randrange(1 << 16) | FORMAT << 16,
        epoch,
        count,
        offsets[0],
        counts[0],
        offsets[1],
        offsets[2],
        counts[1] | counts[2] << 16,
    ]
    if rng.random() < 0.3:
        word = rng.randrange(8)
        words[word] = rng.choice(
            (
                0,
                1,
                3,
                window,
                window - 4,
                window + 4,
                2**32 - 4,
                2**32 - 1,
                2**20,
                2**20 + 1,
                2**31,
                rng.getrandbits(32),
            )
        )
    return words


def keys(rng: random.Random, size: int) -> bytes:
    """A log; keys of 6 bits, of which now and then one is too wide."""
    wide = rng.random() < 0.1
    values = [rng.choice((0, 1, 2, 3, rng.randrange(64))) for _ in range(size // 4)]
    if wide:
        values[rng.randrange(len(values))] = rng.choice((64, 127, 2**31, 2**32 - 1))
    return struct.pack(f"<{len(values)}I", *values)


def seen(device, queue) -> object:
    ring = bytes(queue.window[completion_ring_offset(SMALL) : LOGS])
    return ring, queue.status(), device.last_timestamp(), dict(device.stats())


def test_the_same_for_any_rings_and_doorbells(seed: int) -> None:
    rng = random.Random(seed)
    reasons: set[object] = set()
    with ModelDevice(SMALL) as model, SoftDevice(SMALL) as soft:
        devices = (model, soft)
        queues = (ModelQueue(model, WINDOW), SoftQueue(soft, WINDOW))
        generation = tail = head = 0
        for _ in range(1500):
            act = rng.random()
            if act < 0.02 or generation == 0:
                generation = rng.choice((0, 1, 2, 65535, rng.randrange(65536)))
                tail = head = 0
                for queue in queues:
                    queue.enable(generation)
            elif act < 0.08:
                # All words of a key that is often read.
                for table, row in enumerate(H3(SMALL).rows(rng.randrange(4))):
                    for device in devices:
                        device.inject_parity_error(table, row)
            elif act < 0.09:
                for device in devices:
                    device.reset()
            elif act < 0.1:
                for device in devices:
                    device.raise_floor()
            elif act < 0.18:
                # A doorbell that nobody should ring.
                words = [rng.choice((generation << 16 | rng.randrange(1 << 16), rng.getrandbits(32))) for _ in range(2)]
                for queue in queues:
                    queue.ring_doorbells(*words)
                head, tail = queues[0]._head, queues[0]._tail
            else:
                batch = rng.randint(1, 4)
                log = keys(rng, WINDOW - LOGS)
                ring = b"".join(struct.pack("<8I", *entry(rng, model.last_timestamp(), WINDOW)) for _ in range(4))
                head = queues[0].status()[1]
                tail = (head + batch) % 65536
                for queue in queues:
                    queue.window[: 4 * ENTRY_BYTES] = ring
                    queue.window[LOGS:] = log
                    queue.ring_doorbells(generation << 16 | head, generation << 16 | tail)
            results = [seen(device, queue) for device, queue in zip(devices, queues, strict=True)]
            assert results[0] == results[1]
        reasons = {name for name, value in model.stats().items() if value}
    assert {"commits", "aborts_conflict", "aborts_bad_request", "aborts_rollover", "aborts_parity"} <= reasons
    assert {"floor_raises", "epoch_steps", "errors", "parity_errors"} <= reasons


@contextlib.contextmanager
def opened(where: str):
    if where.startswith("served by "):
        with serving(f"{where.removeprefix('served by ')}?{SMALL_URL}") as name, open_device(f"shm:{name}") as device:
            yield device
    else:
        with open_device(f"{where}?{SMALL_URL}") as device:
            yield device


@pytest.mark.parametrize("where", ["soft:", "shm:", "served by soft:", "served by model:"])
def test_entries_have_the_completions_of_the_model(where: str, seed: int) -> None:
    """Through the ports that clients use, several entries outstanding, most of them legal."""
    rng = random.Random(seed)
    requests = 300 if where.startswith("served") else 800
    with open_device(f"model:?{SMALL_URL}") as model, opened(where) as device:
        ports = [each.queue_pair().port for each in (model, device)]
        done = 0
        while done < requests:
            if rng.random() < 0.1:
                table, row = rng.randrange(2), rng.randrange(16)
                for each in (model, device):
                    each.inject_parity_error(table, row)
            size = len(ports[0].window)
            assert size == len(ports[1].window)
            batch = rng.randint(1, 4)
            entries = [entry(rng, model.last_timestamp(), size) for _ in range(batch)]
            for words in entries:
                for word in (3, 5, 6):
                    # Not in the rings, which change between the model's decision and the other one.
                    words[word] = max(words[word], LOGS)
                for offset, count in ((3, words[4]), (5, words[7] & 0xFFFF), (6, words[7] >> 16)):
                    if count and first_bad_word(words, size) is None:
                        log = keys(rng, 4 * count)
                        for port in ports:
                            port.window[words[offset] : words[offset] + len(log)] = log
            # All logs first: they may overlap.
            indices = []
            for words in entries:
                for port in ports:
                    index = port.next_index()
                    assert index is not None
                    port.submit(words)
                indices.append(index)
            for words, index in zip(entries, indices, strict=True):
                expected, payload = (port.collect(index, 60.0) for port in ports)
                assert payload == expected, words
                for port in ports:
                    port.release(index)
            done += batch
            assert device.last_timestamp() == model.last_timestamp()
        assert device.stats() == model.stats()
        assert model.stats()["commits"] > 20
        for port in ports:
            port.close()


@pytest.mark.parametrize("word", range(8))
@pytest.mark.parametrize("where", ["model:", "soft:", "shm:"])
def test_a_bad_word_is_a_bad_request(where: str, word: int) -> None:
    size = 4
    with opened(where) as device, device.queue_pair() as queue:
        port = queue.port
        window = len(port.window)
        bad = {
            0: [0, 2 << 16, FORMAT << 16 | 1 << 24, FORMAT << 16 | 1 << 31],
            1: [1, 2**32 - 1],
            2: [1, 2**32 - 1],
            3: [LOGS + 2, window - 4 * size + 4, window, 2**32 - 4, 2**32 - 16],
            4: [MAX_READ_KEYS + 1, 2**32 - 1, (window - LOGS) // 4 + 1],
            5: [LOGS + 1, window, 2**32 - 4],
            6: [LOGS + 3, window, 2**32 - 4],
            7: [0xFFFF_FFFF],
        }[word]
        for value in bad:
            words = [FORMAT << 16, 0, 0, LOGS, size, LOGS, LOGS, size | size << 16]
            if word == 7:
                words[5] = window - 4
            words[word] = value
            before = device.stats()
            index = port.next_index()
            port.submit(words)
            payload = port.collect(index, 60.0)
            port.release(index)
            assert payload is not None
            assert payload[0] >> 4 & 0xF == Reason.BAD_REQUEST, value
            assert device.stats()["errors"] == before["errors"] + 1
            assert device.last_timestamp() == 0


class TestQueuePair(QueuePairContract):
    @pytest.fixture(params=["model:", "soft:", "shm:", "served by soft:", "served by model:"])
    def device(self, request: pytest.FixtureRequest):
        if "model" in request.param:
            self.long_reads = 1 << 10
        with opened(request.param) as device:
            yield device


def test_what_is_submitted_is_decided_when_somebody_else_decides() -> None:
    """Without a server: a client that only submits does not wait for itself."""
    with open_device(f"shm:?{SMALL_URL}") as device, device.queue_pair() as lazy:
        ticket = lazy.submit(snapshot=0, writes=[1])
        assert device.last_timestamp() == 0
        device.commit(snapshot=0, reads=[2])
        assert device.last_timestamp() == 1
        assert lazy.poll(ticket).timestamp == 1

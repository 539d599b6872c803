"""Requests from all slots at once, compared with the model and with the reference STM."""

import random

from cocotb.triggers import gather
from testbench import CHANNELS, FULL, GEOMETRY, Client, bench, client_set, set_pauses

#: Requests of each slot.
LENGTH = 12 if GEOMETRY != "many" else 5
if FULL:
    LENGTH *= 20


def random_snapshot(client: Client) -> tuple[int, int]:
    """Mostly recent, sometimes old, seldom wrong."""
    parameters = client.testbench.parameters
    epoch, count = client.testbench.newest
    choice = random.random()
    if choice < 0.55:
        return epoch, count
    if choice < 0.85:
        return epoch, max(0, count - random.randint(1, 6))
    if choice < 0.90:
        return epoch, 0
    if choice < 0.94:
        return max(0, epoch - 1), random.randint(0, parameters.max_count)
    if choice < 0.97:
        return epoch, random.choice((parameters.max_count, parameters.max_count + 1, 2**32 - 1))
    return epoch + random.choice((1, 2**32 - 1 - epoch)), random.randint(0, count)


def random_sets(parameters, keys: list[int]) -> dict[str, list[int]]:
    """Three sets that fit, of all sizes, with keys in common."""
    depth = parameters.aperture_depth
    total = random.choice((0, 1, 2, 3, random.randint(0, depth), random.randint(0, depth), depth))
    names = ("reads", "writes", "commutes")
    weights = random.choice(((1, 0, 0), (0, 1, 0), (0, 0, 1), (5, 3, 1), (1, 1, 1), (8, 2, 0)))
    sets = {name: [] for name in names}
    for name in random.choices(names, weights, k=total):
        sets[name].append(random.choice(keys))
    return sets


def key_pool(parameters, size: int) -> list[int]:
    edge = [0, 1, parameters.max_key, parameters.max_key - 1]
    return edge + [random.randint(0, parameters.max_key) for _ in range(size)]


async def stream(client: Client, keys: list[int], length: int) -> None:
    for _ in range(length):
        await client.testbench.clocks(random.choice((0, 0, 0, random.randint(0, 60))))
        await client.commit(random_snapshot(client), **random_sets(client.testbench.parameters, keys))


async def all_streams(testbench, keys, length=LENGTH) -> None:
    clients = client_set(testbench)
    await gather(*(stream(client, keys, length) for client in clients))


@bench(cycles=60_000)
async def few_keys(testbench):
    """High contention: true conflicts, repeated keys, keys in several sets."""
    await all_streams(testbench, key_pool(testbench.parameters, 3))


@bench(cycles=60_000)
async def many_keys(testbench):
    """Low contention: what conflicts is an alias, and the model knows which."""
    await all_streams(testbench, key_pool(testbench.parameters, 60))


@bench(cycles=120_000)
async def with_pauses(testbench):
    """The same under pauses on every channel."""
    for level in (0.5, 0.9):
        levels = {channel: random.choice((0, 0.5, level)) for channel in CHANNELS}
        set_pauses(testbench.axi, levels)
        for channel, chosen in levels.items():
            testbench.cover.hit("pauses", f"{channel} {chosen}")
        await all_streams(testbench, key_pool(testbench.parameters, 6), max(1, LENGTH // 4))
    set_pauses(testbench.axi, dict.fromkeys(CHANNELS, 0))

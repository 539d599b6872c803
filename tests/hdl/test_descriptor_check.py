"""Submission entries, right and wrong in every way, against the rules of docs/queues.md."""

import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.queue_layout import FORMAT, MAX_READ_KEYS
from bloomgate.registers import ErrorCode
from bloomgate_hdl.descriptor_check import BEATS, DescriptorCheck

from tests.hdl.simulation import drive, simulate

PARAMETERS = Parameters(D=16, K=1, slots=2, aperture_depth=4, buffer_depth=64)
PAGE = 4096


def entry(**words):
    """Eight words; everything that is not said is right and empty."""
    names = ("header", "epoch", "count", "read_offset", "read_count", "write_offset", "commute_offset", "counts")
    values = dict.fromkeys(names, 0) | {"header": FORMAT << 16} | words
    return [values[name] for name in names]


def first_bad_word(words, size):
    """What must be logged, or None."""
    if words[0] >> 16 != FORMAT:
        return 0
    if words[4] > MAX_READ_KEYS:
        return 4
    for place, keys in ((3, words[4]), (5, words[7] & 0xFFFF), (6, words[7] >> 16)):
        if keys and (words[place] % 4 or words[place] + 4 * keys > size):
            return place
    return None


async def check(ctx, dut, words, base, size):
    """Sends an entry, with other clock cycles in between, and compares what is made of it."""
    drive(ctx, dut, base=base // PAGE, size=size // PAGE)
    for beat in range(BEATS):
        drive(ctx, dut, valid=0, beat=beat, data=0x0123_4567_89AB_CDEF)
        await ctx.tick()
        drive(ctx, dut, valid=1, data=words[2 * beat] | words[2 * beat + 1] << 32)
        if beat < BEATS - 1:
            await ctx.tick()
    order = ctx.get(dut.order)
    expected = first_bad_word(words, size)
    assert order.bad_request == (expected is not None), [hex(word) for word in words]
    if expected is not None:
        assert (order.fault.code, order.fault.word) == (ErrorCode.BAD_DESCRIPTOR, expected)
    else:
        assert order.fault.code == 0
        assert order.header.request == words[0] & 0xFFFF
        assert (order.header.snapshot_epoch, order.header.snapshot_count) == (words[1], words[2])
        assert ctx.get(dut.long) == (words[4] > PARAMETERS.buffer_depth)
        assert order.too_many == ((words[7] & 0xFFFF) + (words[7] >> 16) > PARAMETERS.buffer_depth)
        reads, lane = order.reads, words[3] // 4 % 2
        depth = PARAMETERS.buffer_depth
        assert order.has_reads == (words[4] > 0)
        assert order.many_reads == (words[4] >= 128)
        assert (reads.last_chunk, reads.long) == (max(0, words[4] - 1) // depth, words[4] > depth)
        if words[4]:
            assert reads.address == base + words[3]
            assert (reads.beats, reads.odd) == ((words[4] + lane + 1) // 2, (words[4] + lane) % 2)
        else:
            assert reads.beats == 0
        for log, has, place, keys in (
            (order.writes, order.has_writes, 5, words[7] & 0xFFFF),
            (order.commutes, order.has_commutes, 6, words[7] >> 16),
        ):
            assert has == (keys > 0)
            assert not keys or log.address == base + words[place]
            if 0 < keys <= depth:
                assert (log.count, log.beats) == (keys, (keys + words[place] // 4 % 2 + 1) // 2)
    await ctx.tick()
    return expected


SIZE = 4 * PAGE
TOP = 2**32


@pytest.mark.parametrize(
    "words",
    [
        entry(),
        entry(header=0),
        entry(header=FORMAT << 16 | 1 << 24),
        entry(header=FORMAT + 1 << 16),
        entry(read_count=1, read_offset=SIZE - 4),
        entry(read_count=1, read_offset=SIZE),
        entry(read_count=2, read_offset=SIZE - 4),
        entry(read_count=SIZE // 4),
        entry(read_count=SIZE // 4 + 1),
        entry(read_count=1, read_offset=TOP - 4),
        entry(read_count=2, read_offset=TOP - 4),
        entry(read_count=1, read_offset=2),
        entry(read_count=1, read_offset=1),
        entry(read_count=0, read_offset=TOP - 1),
        entry(read_count=MAX_READ_KEYS),
        entry(read_count=MAX_READ_KEYS + 1),
        entry(read_count=TOP - 1),
        entry(read_count=1 << 31, read_offset=3),
        entry(counts=1, write_offset=SIZE - 4),
        entry(counts=1, write_offset=SIZE),
        entry(counts=0xFFFF, write_offset=0),
        entry(counts=1, write_offset=6),
        entry(counts=0, write_offset=7, commute_offset=7),
        entry(counts=1 << 16, commute_offset=SIZE - 4),
        entry(counts=1 << 16, commute_offset=SIZE),
        entry(counts=1 << 16, commute_offset=5),
        entry(counts=2 << 16 | 2, write_offset=SIZE - 8, commute_offset=SIZE - 4),
    ],
    ids=lambda words: "-".join(f"{word:x}" for word in words),
)
def test_the_corners(words):
    dut = DescriptorCheck(PARAMETERS)

    async def bench(ctx):
        await check(ctx, dut, words, base=0x1000_0000, size=SIZE)

    simulate(dut, bench, clocks=30)


def test_the_largest_window():
    """The last page of the address space, and all of it."""
    dut = DescriptorCheck(PARAMETERS)

    async def bench(ctx):
        for base, size in ((TOP - PAGE, PAGE), (PAGE, TOP - PAGE)):
            assert await check(ctx, dut, entry(read_count=1, read_offset=size - 4), base, size) is None
            assert await check(ctx, dut, entry(read_count=2, read_offset=size - 4), base, size) == 3
        assert await check(ctx, dut, entry(read_count=1), PAGE, 0) == 3
        # More room than a count can have bits.
        for offset, room in ((0, 1 << 23), (4 * MAX_READ_KEYS, 1 << 24)):
            assert await check(ctx, dut, entry(read_count=MAX_READ_KEYS, read_offset=offset), PAGE, room) is None

    simulate(dut, bench, clocks=100)


def test_random_entries(seed):
    rng = random.Random(seed)
    dut = DescriptorCheck(PARAMETERS)
    seen = set()

    async def bench(ctx):
        for _ in range(150):
            size = rng.randint(0, 8) * PAGE
            base = rng.randrange(2**20 - 8) * PAGE
            counts = [rng.choice((0, 1, rng.randint(0, 0xFFFF), size // 4 & 0xFFFF)) for _ in range(2)]
            offsets = [max(0, size - rng.randint(0, 40) + rng.randint(0, 3)) & ~rng.choice((0, 3)) for _ in range(3)]
            words = [
                FORMAT << 16 | rng.getrandbits(16),
                rng.getrandbits(32),
                rng.getrandbits(32),
                offsets[0],
                rng.choice((0, 1, 2, 5, 64, 65, rng.getrandbits(32))),
                *offsets[1:],
                counts[0] | counts[1] << 16,
            ]
            seen.add(await check(ctx, dut, words, base, size))

    simulate(dut, bench, clocks=2000)
    assert {None, 3, 4, 5, 6} <= seen

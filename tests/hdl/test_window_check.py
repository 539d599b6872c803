"""The window check against the set of pages that a burst touches."""

import random

from amaranth.sim import Simulator
from bloomgate_hdl.window_check import WindowCheck

PAGE = 4096


def touched(address, beats):
    """Pages of all bytes of the burst; None for a burst that nobody may make."""
    if address % 8 or not 1 <= beats <= 16 or address % 128 + 8 * beats > 128:
        return None
    return {(address + byte) // PAGE for byte in (0, 8 * beats - 1)}


def cases(rng):
    """Windows at the ends of memory, without pages and of one page, and addresses around their ends."""
    windows = [(0, 0), (0, 1), (5, 5), (5, 6), (5, 9), (0, 1 << 20), ((1 << 20) - 1, 1 << 20), (9, 5)]
    for base, end in windows:
        for page in {0, base - 1, base, base + 1, end - 1, end, (1 << 20) - 1}:
            if not 0 <= page < 1 << 20:
                continue
            for offset in (0, 8, 120, 128, 3968, 4088, rng.randrange(0, PAGE, 8), rng.randrange(PAGE)):
                for beats in (0, 1, 2, 16, 17, rng.randint(1, 16), rng.randrange(32)):
                    yield page * PAGE + offset, beats, base, end
    for _ in range(500):
        base, end = rng.getrandbits(20), rng.randint(0, 1 << 20)
        yield rng.getrandbits(32) & ~7, rng.randint(1, 16), base, end


def test_a_burst_is_allowed_exactly_inside_its_window(seed):
    check = WindowCheck()
    allowed = 0

    async def bench(ctx):
        nonlocal allowed
        for address, beats, base, end in cases(random.Random(seed)):
            ctx.set(check.address, address)
            ctx.set(check.beats, beats)
            ctx.set(check.window, {"base": base, "end": end})
            await ctx.delay(1e-9)
            pages = touched(address, beats)
            expected = pages is not None and all(base <= page < end for page in pages)
            assert ctx.get(check.allowed) == expected, f"{beats} beats at {address:#x} in pages {base:#x}..{end:#x}"
            allowed += expected

    simulator = Simulator(check)
    simulator.add_testbench(bench)
    simulator.run()
    assert allowed > 100

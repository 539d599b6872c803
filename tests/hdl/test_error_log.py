"""The error log against a list."""

import random

from bloomgate.parameters import Parameters
from bloomgate.registers import ERROR_LOG_ENTRIES
from bloomgate_hdl.error_log import ErrorLog

from tests.hdl.simulation import simulate


def test_random_events_from_all_sides(seed):
    rng = random.Random(seed)
    dut = ErrorLog(Parameters(slots=32, D=16, aperture_depth=4))

    def event(valid):
        return {"valid": valid, "code": rng.getrandbits(8), "slot": rng.getrandbits(5), "detail": rng.getrandbits(32)}

    async def bench(ctx):
        assert ctx.get(dut.count) == 0, "reset state"
        entries = []
        for density in (0, 0.3, 1):
            for _ in range(80):
                events = [event(int(rng.random() < density)) for _ in range(3)]
                for port, what in zip((dut.decision, dut.queue, dut.access), events, strict=True):
                    ctx.set(port, what)
                logged = next((what for what in events if what["valid"]), None)
                await ctx.tick()
                assert ctx.get(dut.count) == len(entries), "a clock cycle later"
                assert ctx.get(dut.logged) == (logged is not None)
                for port in (dut.decision, dut.queue, dut.access):
                    ctx.set(port, event(0))
                if logged is not None:
                    entries.append(logged)
                await ctx.tick()
                assert ctx.get(dut.count) == len(entries)
                if entries:
                    age = rng.randrange(min(len(entries), ERROR_LOG_ENTRIES))
                    number = len(entries) - 1 - age
                    words = []
                    for half in range(2):
                        ctx.set(dut.read_word, number % ERROR_LOG_ENTRIES * 2 + half)
                        words.append(ctx.get(dut.read_data))
                    entry = entries[number]
                    assert words == [entry["code"] | entry["slot"] << 8, entry["detail"]]

    simulate(dut, bench, clocks=600)

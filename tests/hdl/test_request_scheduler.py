"""The request scheduler between slots that submit at random and an arbiter that takes its time."""

import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate_hdl.request_scheduler import RequestScheduler
from bloomgate_hdl.slot_port import request_layout

from tests.hdl.simulation import simulate, value_of


class Bench:
    """Slots in front of the scheduler. `pending` is theirs, as is what `request_slot` shows."""

    def __init__(self, slots):
        self.parameters = Parameters(slots=slots, aperture_depth=8, D=16)
        self.layout = request_layout(self.parameters)
        self.dut = RequestScheduler(self.parameters)
        self.pending = set()
        self.requests = {}
        self.clock = 0

    def fill(self, rng, slot):
        """A new request of `slot`, with random contents that show every field."""
        self.pending.add(slot)
        self.requests[slot] = {
            "request": rng.getrandbits(16),
            "kind": rng.randrange(3),
            "snapshot_epoch": rng.getrandbits(32),
            "snapshot_count": rng.getrandbits(32),
            "read_count": rng.randint(0, 8),
            "write_count": rng.randint(0, 8),
            "skip_count": rng.randint(0, 8),
            **{name: rng.getrandbits(1) for name in ("reset", "bad_request", "bus_error", "overflow", "busy")},
        }

    async def step(self, ctx, *, next_=False, reset=False):
        """One clock cycle. Returns the slot whose request was taken from its page, if any."""
        dut = self.dut
        ctx.set(dut.pending, sum(1 << slot for slot in self.pending))
        ctx.set(dut.next, next_)
        ctx.set(dut.reset, reset)
        looked_at = ctx.get(dut.request_slot)
        ctx.set(dut.request, self.requests.get(looked_at, {}))
        taken = looked_at if ctx.get(dut.take) else None
        await ctx.tick()
        self.clock += 1
        if taken is not None:
            assert taken in self.pending, "took a request that is not pending"
            self.pending.remove(taken)
        return taken

    def at_hand(self, ctx):
        """(slot, request), or None."""
        if not ctx.get(self.dut.valid):
            return None
        return ctx.get(self.dut.next_slot), value_of(self.layout, ctx.get(self.dut.next_request))


def test_latency(seed):
    rng = random.Random(seed)
    bench = Bench(4)

    async def run(ctx):
        for _ in range(3):
            await bench.step(ctx)
        assert bench.at_hand(ctx) is None, "reset state"
        bench.fill(rng, 2)
        bench.fill(rng, 0)
        await bench.step(ctx)
        assert bench.at_hand(ctx) is None
        await bench.step(ctx)
        assert bench.at_hand(ctx) == (0, bench.requests[0])
        for _ in range(5):
            await bench.step(ctx)
        assert bench.at_hand(ctx) == (0, bench.requests[0]), "held until it is taken over"
        assert bench.pending == {2}
        clocks = 0
        await bench.step(ctx, next_=True)
        clocks += 1
        while bench.at_hand(ctx) is None:
            await bench.step(ctx)
            clocks += 1
        assert clocks == 3
        assert bench.at_hand(ctx) == (2, bench.requests[2])

    simulate(bench.dut, run, clocks=100)


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_every_request_comes_once_unchanged_in_fair_order_and_marked_by_resets(slots, seed):
    rng = random.Random(seed)
    bench = Bench(slots)

    async def run(ctx):
        outstanding = {}  # slot: [request as it must arrive, taken, takes of others since it was submitted]
        waits = []
        for _ in range(700):
            for slot in range(slots):
                if slot not in outstanding and rng.random() < 0.4:
                    bench.fill(rng, slot)
                    outstanding[slot] = [dict(bench.requests[slot]), False, 0]
            hand = bench.at_hand(ctx)
            if hand is not None:
                slot, request = hand
                assert slot in outstanding, "a request that was not submitted, or twice"
                assert outstanding[slot][1]
                assert request == outstanding[slot][0]
            reset = rng.random() < 0.05
            next_ = hand is not None and rng.random() < 0.4
            taken = await bench.step(ctx, next_=next_, reset=reset)
            if next_:
                del outstanding[hand[0]]
            if taken is not None:
                outstanding[taken][1] = True
                waits.append(outstanding[taken][2])
                for slot, entry in outstanding.items():
                    if slot != taken and not entry[1]:
                        entry[2] += 1
            if reset:
                # The one at hand; those in their pages are marked there, see SlotPages.
                for slot, entry in outstanding.items():
                    entry[0]["reset"] = 1
                    bench.requests[slot]["reset"] = 1
        assert len(waits) > 50
        # At most one request of each other slot, plus the one that was being taken already.
        assert max(waits) <= slots

    simulate(bench.dut, run, clocks=900)

"""The commit arbiter with everything it works with: pages, key log and validation pipeline."""

import random

import pytest
from amaranth.lib import data
from bloomgate.backends.model import ModelDevice
from bloomgate.h3 import H3
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, ErrorCode, Fault
from bloomgate.verdict import Reason, Verdict

from tests.hdl.core import W_TO_WRITE, Core

SMALL = Parameters(K=2, D=16, timestamp_bits=8, key_bits=8, slots=3, aperture_depth=8)
LAST_EPOCH = 2**32 - 1


@pytest.fixture
def core(monkeypatch):
    return lambda parameters=SMALL: Core(parameters, monkeypatch)


def latency(core):
    """Clock cycles from the W handshake of the last submit to the first in which its verdict can be read."""
    handshake = core.submitted[-1] - W_TO_WRITE
    readable = core.decided[-1][0] + 1
    return readable - handshake


# -- time ---------------------------------------------------------------------------------


def test_verdict_within_16_clocks_for_8_keys_in_every_split(core):
    core = core()
    splits = [(reads, writes, 8 - reads - writes) for reads in range(9) for writes in range(9 - reads)]

    async def bench():
        await core.ready()
        last = 0
        for reads, writes, commutes in splits:
            verdict = await core.commit(0, last, [1] * reads, [2] * writes, [3] * commutes)
            assert verdict.committed
            last = verdict.timestamp or last
            assert latency(core) <= 16, (reads, writes, commutes)

    core.run(bench, clocks=4000)


def test_verdict_within_8_clocks_and_1_per_key_for_more_keys(core):
    core = core(Parameters(K=1, D=16, timestamp_bits=8, key_bits=4, slots=1, aperture_depth=512))
    splits = [(n - writes, writes) for n in (9, 10, 11, 16, 33, 64) for writes in (0, 1, n // 2, n)]
    splits += [(100, 101), (511, 1), (512, 0)]

    async def bench():
        await core.ready()
        for reads, writes in splits:
            await core.fill(0, len(core.decided), [1] * reads, [2] * writes)
            for _ in range(20):  # the insertion of the request before may not have the pipeline
                await core.step()
            await core.submit(0)
            await core.wait(len(core.decided) + 1)
            assert latency(core) <= 8 + reads + writes, (reads, writes)

    core.run(bench, clocks=6000)


@pytest.mark.parametrize("writes", [0, 2], ids=["read-only", "with writes"])
def test_requests_of_different_slots_follow_each_other_within_4_clocks(core, writes):
    core = core(Parameters(K=1, D=16, timestamp_bits=8, key_bits=8, slots=4, aperture_depth=16))

    async def bench():
        await core.ready()
        for slot in range(4):
            await core.fill(slot, 0, [0x10 + slot] * 8, [0x20 + slot] * writes)
        for slot in range(4):
            await core.submit(slot)
        await core.wait(4)
        for _ in range(10):
            await core.step()
        keys = sorted(core.queries + core.insertions)
        assert sum(count for _, count in core.queries) == 4 * 8
        assert sum(count for _, count in core.insertions) == 4 * writes
        # Beats of 2 keys: 4 of queries, then, after one that checks the writes, one of insertions.
        clocks = [clock for clock, _ in keys]
        requests = [clocks[start : start + 4 + writes // 2] for start in range(0, len(clocks), 4 + writes // 2)]
        for request in requests:
            assert request[3] - request[0] == 3, "two keys a clock within a request"
        for before, after in zip(requests, requests[1:], strict=False):
            assert after[0] - before[-1] - 1 <= 4
            if writes:
                assert before[4] - before[3] - 2 <= 4, "between validation and insertion"

    core.run(bench, clocks=600)


# -- fairness -----------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_every_slot_is_served_within_as_many_decisions_as_there_are_slots(core, slots):
    """All slots submit again as soon as they have their verdict."""
    core = core(Parameters(K=1, D=16, timestamp_bits=8, key_bits=8, slots=slots, aperture_depth=4))

    async def bench():
        await core.ready()
        for slot in range(slots):
            await core.submit(slot)
        answered = 0
        while len(core.decided) < 12 * slots:
            await core.step()
            while answered < len(core.decided):
                await core.submit(core.decided[answered][1])
                answered += 1
        order = [slot for _, slot in core.decided]
        for start in range(len(order) - slots + 1):
            assert sorted(order[start : start + slots]) == list(range(slots))

    core.run(bench, clocks=3000)


def test_a_slot_that_comes_at_any_time_waits_for_at_most_every_other_and_the_one_in_service(core, seed):
    rng = random.Random(seed)
    slots = 4
    core = core(Parameters(K=1, D=16, timestamp_bits=8, key_bits=8, slots=slots, aperture_depth=4))

    async def bench():
        await core.ready()
        waiting = {}
        seen = 0
        for _ in range(900):
            idle = [slot for slot in range(slots) if slot not in waiting]
            if idle and rng.random() < 0.5:
                slot = rng.choice(idle)
                waiting[slot] = core.clock
                await core.submit(slot)
            else:
                await core.step()
            for clock, slot in core.decided[seen:]:
                # What was decided up to the clock cycle of the submit does not count; a verdict may leave one later.
                submitted = waiting.pop(slot)
                assert sum(submitted + 1 < other < clock for other, _ in core.decided) <= slots
            seen = len(core.decided)
        assert seen > 50

    core.run(bench, clocks=1500)


# -- decisions ----------------------------------------------------------------------------


async def compare_statistics(core, model, more=()):
    """The totals that the model has too."""
    totals = await core.statistics()
    expected = {name: value for name, value in model.stats().items() if name in totals}
    assert {name: totals[name] for name in expected} == expected | dict(more)


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_random_requests_of_all_slots_are_decided_in_one_order(core, bits, seed):
    """The verdicts in the order in which they were given are those of the model, one request after the other."""
    rng = random.Random(seed)
    p = Parameters(K=2, D=16, timestamp_bits=bits, key_bits=8, slots=3, aperture_depth=8)
    core = core(p)

    async def bench():
        await core.ready()
        requests, checked = {}, 0
        with ModelDevice(p) as model:

            async def check():
                nonlocal checked
                while checked < len(core.decided):
                    slot = core.decided[checked][1]
                    checked += 1
                    number, request = requests.pop(slot)
                    assert await core.verdict(slot, number) == model.commit(**request), request

            number = 0
            while number < 70:
                if rng.random() < 0.08:
                    # Faults and a higher floor come between requests.
                    while requests:
                        await core.step()
                        await check()
                    await core.ready()
                    if rng.random() < 0.8:
                        table, row = rng.randrange(p.K), rng.randrange(p.D)
                        await core.inject(Fault.FILTER_WORD, table, row)
                        model.inject_parity_error(table, row)
                    else:
                        await core.command("RAISE_FLOOR")
                        model.raise_floor()
                slot = rng.randrange(p.slots)
                if slot in requests:
                    await core.step()
                    await check()
                    continue
                newest = model.last_timestamp()
                snapshot = max(0, newest - rng.choice((0, 0, 0, 1, 2, 5)) + (rng.random() < 0.05))
                sets = ("reads", "writes", "commutes")
                request = {name: [rng.randrange(24) for _ in range(rng.choice((0, 1, 2)))] for name in sets}
                request["snapshot"] = snapshot
                number += 1
                requests[slot] = (number, request)
                await core.fill(slot, **request)
                await core.submit(slot, number)
                await check()
            while requests:
                await core.step()
                await check()
            await core.ready()
            epoch, count = p.epoch_and_count(model.last_timestamp())
            assert (await core.control("EPOCH"), await core.control("COUNT")) == (epoch, count)
            await compare_statistics(core, model)

    core.run(bench, clocks=6000)


def test_conflict_names_the_first_failing_key_and_a_snapshot_sees_its_own_timestamp(core):
    core = core()

    async def bench():
        await core.ready()
        assert await core.commit(0, 0, writes=[1, 2], commutes=[3]) == Verdict(True, 1, None, None)
        for key in (1, 2, 3):
            assert await core.commit(1, 0, reads=[9, key, 1]) == Verdict(False, None, Reason.CONFLICT, key)
            assert await core.commit(1, 1, reads=[9, key, 1]) == Verdict(True, None, None, None)
        assert await core.commit(2, 0, writes=[1], commutes=[2]) == Verdict(True, 2, None, None)
        assert await core.commit(2, 3, reads=[9]) == Verdict(False, None, Reason.BAD_REQUEST, None)

    core.run(bench, clocks=1500)


@pytest.mark.parametrize("keys", range(1, 9))
def test_every_written_key_is_inserted(core, keys):
    core = core()

    async def bench():
        await core.ready()
        await core.commit(0, 0, writes=range(0x10, 0x10 + keys // 2), commutes=range(0x10 + keys // 2, 0x10 + keys))
        # The next request of another slot is validated right behind the insertion.
        for key in range(0x10, 0x10 + keys):
            assert (await core.commit(1, 0, reads=[key])).conflict_key == key

    core.run(bench, clocks=1500)


def test_an_insertion_is_seen_by_the_request_that_waits_behind_it(core):
    core = core()

    async def bench():
        await core.ready()
        await core.fill(0, 0, writes=range(1, 9))
        await core.fill(1, 0, reads=[8])
        await core.fill(2, 0, reads=[1], writes=[8])
        for slot in range(3):
            await core.submit(slot)
        await core.wait(3)
        assert [slot for _, slot in core.decided] == [0, 1, 2]
        assert await core.verdict(0) == Verdict(True, 1, None, None)
        assert await core.verdict(1) == Verdict(False, None, Reason.CONFLICT, 8)
        assert await core.verdict(2) == Verdict(False, None, Reason.CONFLICT, 1)

    core.run(bench, clocks=500)


# -- parity -------------------------------------------------------------------------------


def test_repair_pass_mends_the_filter_before_the_verdict(core):
    core = core()
    key = 0x35
    row = H3(SMALL).rows(key)[1]

    async def bench():
        await core.ready()
        await core.commit(0, 0, writes=[0x77])
        await core.inject(Fault.FILTER_WORD, 1, row)
        assert (await core.commit(0, 0, reads=[key], writes=[1])).committed, "the other table says it is old"
        assert (await core.statistics())["parity_errors"] == 1
        assert await core.control("ERROR_COUNT") == 1
        window = CONTROL_PAGE.window("ERROR_LOG")
        entry = [await core.read(0, window, half) for half in range(2)]
        assert entry == [ErrorCode.FILTER_PARITY, key]
        await core.commit(0, 0, reads=[key])
        assert (await core.statistics())["parity_errors"] == 1, "mended"
        # Both tables bad: no good answer is left.
        for table, place in enumerate(H3(SMALL).rows(key)):
            await core.inject(Fault.FILTER_WORD, table, place)
        assert await core.commit(0, 0, reads=[5, key]) == Verdict(False, None, Reason.PARITY, key)
        assert await core.commit(0, 0, reads=[key]) == Verdict(False, None, Reason.CONFLICT, key)
        assert (await core.statistics())["parity_errors"] == 3

    core.run(bench, clocks=2500)


@pytest.mark.parametrize("place", ["READ", "WRITE", "COMMUTE"])
def test_a_bad_buffered_key_aborts_its_request_and_no_other(core, place):
    core = core()

    async def bench():
        await core.ready()
        await core.fill(0, 0, reads=[1], writes=[2])
        await core.inject(Fault.NEXT_KEY)
        await core.write(1, SLOT_PAGE.window(f"{place}_APERTURE"), 0x5A)
        await core.fill(1, 0, reads=[3], writes=[4])
        await core.submit(0)
        await core.submit(1)
        await core.wait(2)
        assert await core.verdict(0) == Verdict(False, None, Reason.PARITY, 0x5A)
        assert await core.verdict(1) == Verdict(True, 1, None, None)
        assert (await core.statistics())["parity_errors"] == 1
        assert await core.control("FLOOR") == 0

    core.run(bench, clocks=500)


REFILLS = {
    "reads": ("READ_APERTURE",),
    "writes": ("WRITE_APERTURE",),
    "both": ("READ_APERTURE", "WRITE_APERTURE"),
}


@pytest.mark.parametrize("refill", REFILLS)
@pytest.mark.parametrize("size", [32, 31, 30, 17, 2, 1])
def test_a_slot_refilled_at_once_loses_nothing(core, size, refill):
    """Keys written in every clock cycle from SUBMIT on, so also in the first one in which the slot takes them.

    As many rows as keys: then H3 has a row for each key, and no other key can hide one that is not inserted.
    """
    core = core(Parameters(K=1, D=256, timestamp_bits=8, key_bits=8, slots=2, aperture_depth=32))

    async def bench():
        await core.ready()
        writes = list(range(1, 1 + size))
        await core.fill(0, 0, writes=writes)
        await core.submit(0)
        for key in range(100, 200):
            apertures = REFILLS[refill]
            await core.write(1, SLOT_PAGE.window(apertures[key % len(apertures)]), key)
        assert await core.verdict(0) == Verdict(True, 1, None, None)
        for key in writes:
            assert await core.commit(1, 0, reads=[key]) == Verdict(False, None, Reason.CONFLICT, key)

    core.run(bench, clocks=3000)


@pytest.mark.parametrize("position", range(3))
def test_a_key_lost_at_any_time_is_never_a_missed_conflict(core, position):
    """The buffer loses a key in each clock cycle of a commit: before its check, before its insertion, or after."""
    core = core()
    p = core.parameters
    keys = [0x11, 0x12, 0x13]
    outcomes = set()

    async def bench():
        await core.ready()
        (log,) = [
            ram
            for ram in core.memories
            if ram.depth == p.slots * p.aperture_depth // 2 and isinstance(ram.shape, data.ArrayLayout)
        ]
        place = p.aperture_depth - 1 - position
        last = 0
        for delay in range(16):
            await core.fill(1, last, writes=keys)
            await core.submit(1)
            for _ in range(delay):
                await core.step()
            core.ctx.set(log.data[(p.aperture_depth + place) // 2][place % 2], 0)
            for _ in range(25):
                await core.step()
            verdict = await core.verdict(1)
            if not verdict.committed:
                assert verdict == Verdict(False, None, Reason.PARITY, 0)
                assert await core.control("COUNT") == last
                outcomes.add("before the check")
                continue
            last += 1
            assert verdict.timestamp == last
            raised = await core.control("FLOOR") == last
            outcomes.add("before the insertion" if raised else "after")
            for key in [*keys, 0x99] if raised else keys:
                assert await core.commit(0, last - 1, reads=[key]) == Verdict(False, None, Reason.CONFLICT, key)
            assert (await core.commit(0, last, reads=keys)).committed

    core.run(bench, clocks=4000)
    assert outcomes == {"before the check", "before the insertion", "after"}


# -- epochs -------------------------------------------------------------------------------


def test_rollover(core):
    p = Parameters(K=2, D=16, timestamp_bits=2, key_bits=8, slots=2, aperture_depth=4)
    core = core(p)

    async def bench():
        await core.ready()
        for count in (1, 2, 3):
            assert await core.commit(0, 0, writes=[7]) == Verdict(True, count, None, None)
        await core.fill(1, 3, reads=[7])
        await core.submit(1)
        await core.wait(4)
        assert await core.verdict(1) == Verdict(False, None, Reason.ROLLOVER, None), "the epoch was over by then"
        await core.ready()
        registers = ("EPOCH", "COUNT", "PREVIOUS_EPOCH", "PREVIOUS_COUNT", "FLOOR")
        assert [await core.control(name) for name in registers] == [1, 0, 0, 3, 0]
        snapshot = p.timestamp(1, 0)
        assert (await core.commit(0, snapshot, reads=[7])).committed, "the filter was scrubbed"
        assert (await core.commit(0, snapshot, reads=[7], writes=[7])).timestamp == p.timestamp(1, 1)
        assert (await core.commit(0, p.timestamp(2, 0))).reason is Reason.BAD_REQUEST
        assert (await core.statistics())["epoch_steps"] == 1

    core.run(bench, clocks=1500)


async def restart(core, initial_epoch):
    await core.write(0, CONTROL_PAGE.register("INITIAL_EPOCH"), initial_epoch)
    await core.command("SOFT_RESET")
    await core.step()
    await core.ready()


def test_after_the_last_epoch_everything_is_rollover(core):
    p = Parameters(K=2, D=16, timestamp_bits=2, key_bits=8, slots=2, aperture_depth=4)
    core = core(p)

    async def bench():
        await core.ready()
        await restart(core, LAST_EPOCH)
        assert [await core.control(name) for name in ("EPOCH", "COUNT")] == [LAST_EPOCH, 0]
        for count in (1, 2, 3):
            verdict = await core.commit(0, p.timestamp(LAST_EPOCH, count - 1), reads=[7], writes=[7])
            assert verdict.timestamp == p.timestamp(LAST_EPOCH, count)
        steps = (await core.statistics())["epoch_steps"]
        for _ in range(2):
            status = await core.control("STATUS")
            assert {name for name, bit in status.items() if bit} - {"SETTLED"} == {"READY", "EXHAUSTED"}
            assert [await core.control(name) for name in ("EPOCH", "COUNT")] == [LAST_EPOCH, 3]
            for snapshot in (0, p.max_timestamp):
                for sets in ({}, {"reads": [1]}, {"writes": [1]}):
                    assert (await core.commit(1, snapshot, **sets)).reason is Reason.ROLLOVER
            await restart(core, 5)  # no way back
        assert (await core.statistics())["epoch_steps"] == steps

    core.run(bench, clocks=3000)


@pytest.mark.parametrize("initial", [0, 1, 2, 3, 1000])
def test_soft_reset_steps_to_the_initial_epoch_or_by_one(core, initial):
    core = core()

    async def bench():
        await core.ready()
        await core.commit(0, 0, writes=[1])
        await core.command("RAISE_FLOOR")
        await restart(core, initial)
        expected = max(1, initial)
        registers = ("EPOCH", "COUNT", "PREVIOUS_EPOCH", "PREVIOUS_COUNT", "FLOOR")
        assert [await core.control(name) for name in registers] == [expected, 0, 0, 1, 0]
        assert (await core.commit(0, 1)).reason is Reason.ROLLOVER
        assert (await core.commit(0, SMALL.timestamp(expected, 0), reads=[1])).committed

    core.run(bench, clocks=1000)


@pytest.mark.parametrize("bits", [8, 2], ids=["", "at a rollover"])
def test_reset_in_every_state(core, bits):
    """A reset in each clock cycle of two requests that follow each other, with a third filled but not submitted.

    With 2 bits of count the first of them ends the epoch. What is decided up to the clock cycle of the reset counts,
    everything else is RESET; and the device goes on.
    """
    p = Parameters(K=2, D=16, timestamp_bits=bits, key_bits=8, slots=3, aperture_depth=4)
    core = core(p)
    outcomes = set()

    async def bench():
        await core.ready()
        epoch = 0
        for delay in range(0, 46):
            base = p.timestamp(epoch, 0)
            for count in range(p.max_count - 1 if bits == 2 else 0):
                assert (await core.commit(0, base, writes=[0x60])).timestamp == base + 1 + count
            done = len(core.decided)
            steps = (await core.statistics())["epoch_steps"] if bits == 2 and delay % 9 == 0 else None
            last = await core.control("COUNT")
            await core.inject(Fault.FILTER_WORD, 0, H3(p).rows(0x21)[0])  # so that there is a repair pass
            await core.fill(0, base, reads=[0x21, 0x22], writes=[0x23])
            await core.fill(1, base + last, reads=[0x24], writes=[0x25])
            await core.fill(2, base, reads=[0x26])
            await core.submit(0, 1)
            await core.submit(1, 2)
            for _ in range(delay):
                await core.step()
            await core.command("SOFT_RESET")
            reset_at = core.clock
            await core.wait(done + 2)
            await core.submit(2, 3)
            await core.wait(done + 3)
            await core.ready()
            assert sorted(slot for _, slot in core.decided[done:]) == [0, 1, 2], "each exactly once"
            verdicts = [await core.verdict(slot, slot + 1) for slot in range(3)]
            in_time = {slot for slot, verdict in enumerate(verdicts) if verdict.reason is not Reason.RESET}
            for clock, slot in core.decided[done:]:
                # The command takes effect a clock cycle later, and a verdict leaves up to one after its decision.
                assert clock > reset_at + 1 or slot in in_time, (delay, slot)
                assert clock <= reset_at + 2 or slot not in in_time, (delay, slot)
            assert 2 not in in_time, "it was filled when the reset came"
            outcomes.add(frozenset(in_time))
            # The step of the reset, and one of the rollover if that was due.
            rolled = bits == 2 and 0 in in_time
            last_of_old = 0 if rolled else last + sum(verdict.timestamp is not None for verdict in verdicts)
            if 0 in in_time:
                assert verdicts[0].timestamp == base + last + 1
            epoch = await core.control("EPOCH")
            assert epoch == (base >> bits) + 1 + rolled
            registers = ("COUNT", "PREVIOUS_EPOCH", "PREVIOUS_COUNT", "FLOOR")
            assert [await core.control(name) for name in registers] == [0, epoch - 1, last_of_old, 0]
            if steps is not None:
                assert (await core.statistics())["epoch_steps"] == steps + 1 + rolled
            # It goes on, with an empty filter.
            verdict = await core.commit(2, p.timestamp(epoch, 0), reads=[0x23, 0x25, 0x60])
            assert verdict == Verdict(True, None, None, None)

    core.run(bench, clocks=20000)
    assert outcomes == {frozenset(), frozenset({0}), frozenset({0, 1})}


def test_reset_during_a_scrub_and_requests_meanwhile(core):
    core = core()

    async def bench():
        # The scrub of power-up; a reset in it is another epoch, a reset in a reset is not.
        await core.fill(0, 0, reads=[1])
        await core.submit(0, 9)
        await core.command("SOFT_RESET")
        await core.command("SOFT_RESET")
        await core.submit(1, 4)  # meanwhile
        assert (await core.control("STATUS"))["RESETTING"]
        assert not core.decided
        await core.wait(2)
        await core.ready()
        assert (await core.verdict(0, 9)).reason is Reason.RESET
        assert (await core.verdict(1, 4)).reason is Reason.RESET
        assert await core.control("EPOCH") == 1
        await core.command("SOFT_RESET")
        await core.ready()
        assert await core.control("EPOCH") == 2
        assert (await core.commit(1, SMALL.timestamp(2, 0), writes=[1])).timestamp == SMALL.timestamp(2, 1)

    core.run(bench, clocks=500)


def test_power_up_takes_requests_and_decides_them_after_the_scrub(core):
    core = core(Parameters(K=1, D=64, timestamp_bits=8, key_bits=8, slots=1, aperture_depth=4))

    async def bench():
        await core.fill(0, 0, reads=[1], writes=[2])
        await core.submit(0)
        await core.wait(1)
        assert core.decided[0][0] >= 32, "decided while the filter was being scrubbed"
        assert await core.verdict(0) == Verdict(True, 1, None, None)
        assert (await core.statistics())["parity_errors"] == 0

    core.run(bench, clocks=300)

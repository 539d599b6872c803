"""Announced reads, doom, parking and the irrevocable token, against exact sets, on every device that has them."""

import random
import re
import signal
import threading
from pathlib import Path

import pytest
from bloomgate import Reason, ReferenceSTM, RequestError
from bloomgate.device import MAX_TICKS
from bloomgate.errors import DeviceClosed, DeviceInUse, KeyRangeError, ParameterError, RequestTooLarge
from bloomgate.h3 import H3
from bloomgate.in_flight import FLIGHT_STATISTICS, GRANT_MARGIN, PASSED_OVER, SLOT_COUNTERS, Token, grant_limit

from tests.in_flight_devices import PARAMS, SMALL, opened, slots_of

ROOMY = ""
CROWDED = SMALL


@pytest.fixture(params=PARAMS)
def kind(request):
    return request.param


@pytest.fixture
def device(kind):
    with opened(kind, ROOMY) as device:
        yield device


def committed(device, slot, *writes):
    """A commit of these keys by the slot, with the newest snapshot; its timestamp."""
    slot.begin(device.last_timestamp())
    verdict = slot.commit(writes=writes)
    assert verdict.committed
    device.publish(verdict.timestamp)
    return verdict.timestamp


def keys_that_hide(hidden, parameters):
    """Two keys that together have all rows of the hidden one and are not it; and one that has none of theirs."""
    rows_of = H3(parameters).rows
    rows = rows_of(hidden)
    first = next(key for key in range(2, 1 << 16) if rows_of(key)[0] == rows[0] and rows_of(key)[1] != rows[1])
    second = next(key for key in range(2, 1 << 16) if rows_of(key)[1] == rows[1] and rows_of(key)[0] != rows[0])
    harmless = next(key for key in range(2, 1 << 16) if not set(rows_of(key)) & {*rows_of(first), *rows_of(second)})
    return first, second, harmless


# -- announcing and doom ------------------------------------------------------------------


def test_a_commit_of_an_announced_key_dooms(device):
    reader, writer = device.open_slot(), device.open_slot()
    reader.begin(device.published)
    reader.announce([1, 2, 3])
    assert reader.doomed is None
    timestamp = committed(device, writer, 9, 2, 3)
    assert reader.doomed == (3, timestamp), "the key that is inserted first"
    assert device.conflicts() == [(writer.number, reader.number, 3, timestamp)]
    assert device.conflicts() == []
    verdict = reader.commit(writes=[1])
    assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, 2)
    assert reader.stats()["dooms"] == reader.stats()["aborts_conflict"] == 1


def test_a_key_that_was_committed_before_it_is_announced_dooms(device):
    reader, writer = device.open_slot(), device.open_slot()
    reader.begin(device.published)
    timestamp = committed(device, writer, 5)
    reader.announce([4])
    assert reader.doomed is None
    reader.announce([5])
    assert reader.doomed == (5, timestamp)


def test_nobody_is_doomed_by_their_own_commit_or_by_one_before_the_snapshot(device):
    slot, other = device.open_slot(), device.open_slot()
    committed(device, other, 7)
    slot.begin(device.published)
    slot.announce([7])
    assert slot.doomed is None
    assert slot.commit(writes=[7]).committed
    assert (device.conflicts(), slot.stats().get("dooms", 0)) == ([], 0)
    slot.begin(device.last_timestamp())
    slot.announce([7])
    assert slot.doomed is None


def test_what_was_announced_need_not_be_queried_again(device):
    slot = device.open_slot()
    slot.begin(device.published)
    slot.announce(range(10))
    before = device.stats()["keys_validated"]
    assert slot.commit(reads=[50, 51], writes=[1]).committed
    assert device.stats()["keys_validated"] - before == 2


def test_a_falsely_doomed_transaction_commits(kind):
    with opened(kind, CROWDED) as device:
        reader, writer = device.open_slot(), device.open_slot()
        rows_of = H3(device.parameters).rows
        third = 1
        first, second, _ = keys_that_hide(third, device.parameters)
        reader.begin(device.published)
        reader.announce([first, second])
        timestamp = committed(device, writer, 1)
        assert reader.doomed == (1, timestamp)
        assert reader.commit(writes=[first]).timestamp == timestamp + 1
        # And a key with the rows of the one that was announced is not told apart from it, by a commit neither.
        alias = next(key for key in range(2, 1 << 16) if rows_of(key) == rows_of(third))
        reader.begin(timestamp)
        reader.announce([alias])
        timestamp = committed(device, writer, 1)
        assert reader.doomed == (1, timestamp)
        verdict = reader.commit()
        assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, alias)


def test_a_wake_that_nobody_has_looked_at_outlasts_a_refusal(kind):
    """Only who was doomed falsely can be refused then."""
    with opened(kind, CROWDED) as device:
        sleeper, writer, holder = (device.open_slot() for _ in range(3))
        third = 1
        first, second, harmless = keys_that_hide(third, device.parameters)
        sleeper.begin(device.published)
        sleeper.announce([first, second])
        sleeper.park()
        timestamp = committed(device, writer, third)
        committed(device, writer, harmless)
        holder.begin(device.published)
        holder.announce([first])
        assert holder.irrevocable(60).committed
        assert sleeper.commit(writes=[first]).reason is Reason.IRREVOCABLE
        assert sleeper.last_wake == (1, timestamp)


@pytest.mark.parametrize("geometry", [ROOMY, CROWDED])
def test_random_histories(kind, geometry, seed):
    rng = random.Random(seed)
    roomy = geometry == ROOMY
    with opened(kind, geometry) as device:
        exact = ReferenceSTM(device.parameters.timestamp_bits)
        slots = slots_of(device)[:4]
        max_count = device.parameters.max_count
        most = min(20, device.parameters.aperture_depth // 2)
        # What the test knows of each slot: snapshot, announced keys, parked; None between transactions.
        known = [None] * len(slots)
        holder, guarded = None, set()
        false_dooms = 0
        for step in range(300 if roomy and "sim" in kind else 1500):
            number = rng.randrange(len(slots))
            slot, state = slots[number], known[number]
            keys = [rng.randrange(40) for _ in range(rng.randrange(4))]
            action = rng.choice(("announce", "announce", "commit", "commit", "cancel", "park", "token", "floor", "die"))
            if state is None:
                snapshot = max(0, device.last_timestamp() - rng.choice((0, 0, 1, 3)))
                slot.begin(snapshot)
                known[number] = {"snapshot": snapshot, "log": [], "parked": False, "wakes": slot.last_wake.sequence}
            elif action == "announce" and not state["parked"] and len(state["log"]) < most:
                if holder == number:
                    assert slot.guard(keys) == device.last_timestamp()
                    guarded |= set(keys)
                else:
                    slot.announce(keys)
                    state["log"] += keys
            elif action == "commit" and not state["parked"]:
                writes = [rng.randrange(40) for _ in range(rng.randrange(4))]
                reads = [] if holder == number else keys
                protected = set() if holder in (None, number) else guarded
                verdict = slot.commit(reads=reads, writes=writes)
                if holder == number:
                    assert verdict.committed, f"step {step}: the holder of the token got {verdict}"
                    expected = exact.commit(snapshot=exact.last_timestamp(), writes=writes)
                    holder, guarded = None, set()
                elif set(writes) & protected:
                    assert not verdict.committed
                    expected = None
                else:
                    expected = None
                    if verdict.committed or roomy:
                        expected = exact.commit(snapshot=state["snapshot"], reads=state["log"] + reads, writes=writes)
                if expected is not None and (roomy or verdict.committed):
                    assert verdict == expected, f"step {step}: {verdict}, exactly {expected}"
                device.publish(verdict.timestamp)
                known[number] = None
            elif action == "cancel" and rng.random() < 0.3:
                slot.cancel()
                known[number] = None
                if holder == number:
                    holder, guarded = None, set()
            elif action == "park" and state["log"] and holder != number and rng.random() < 0.5:
                slot.park()
                state["parked"] = slot.parked
            elif action == "token" and holder is None and not state["parked"] and rng.random() < 0.3:
                near_end = device.last_timestamp() % (max_count + 1) >= grant_limit(max_count)
                slot.request_token()
                if near_end:
                    exact.reset()
                    assert slot.token_refusal.reason is Reason.ROLLOVER
                    known[number] = None
                elif slot.token is Token.HOLDER:
                    assert not exact.may_have_changed(state["snapshot"], state["log"])
                    holder, guarded = number, set(state["log"])
                else:
                    assert slot.token is Token.NONE
                    assert not slot.token_refusal.committed
                    known[number] = None
            elif action == "die" and rng.random() < 0.1:
                slot.close()
                slots[number] = device.open_slot(slot.number)
                known[number] = None
                if holder == number:
                    holder, guarded = None, set()
            elif action == "floor" and not roomy and rng.random() < 0.1:
                device.raise_floor()
            # What everybody can see now.
            for other, (watched, its) in enumerate(zip(slots, known, strict=True)):
                if its is None or other == holder:
                    continue
                changed = bool(its["log"]) and exact.may_have_changed(its["snapshot"], its["log"])
                doomed = watched.doomed is not None
                assert doomed or not changed, f"step {step}: slot {other} reads what changed and is not doomed"
                if roomy:
                    assert changed or not doomed, f"step {step}: slot {other} is doomed by nothing"
                false_dooms += doomed and not changed
                if its["parked"]:
                    assert not (doomed and watched.parked), f"step {step}: slot {other} sleeps on"
                    its["parked"] = watched.parked
            assert exact.last_timestamp() == device.last_timestamp()
        assert (false_dooms > 0) is (geometry == CROWDED)


def test_requests_of_a_queue_pair_count_as_those_of_others(device):
    slot, queue = device.open_slot(), device.queue_pair()

    def commit(key):
        return queue.collect(queue.submit(snapshot=device.last_timestamp(), writes=[key]), 60)

    slot.begin(device.published)
    slot.announce([1])
    timestamp = commit(1).timestamp
    assert slot.doomed == (1, timestamp)
    slot.begin(timestamp)
    slot.announce([2])
    slot.request_token()
    verdict = commit(2)
    assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, 2)
    queue.close()


def test_a_commit_of_a_queue_pair_wakes_a_thread(kind, monkeypatch):
    monkeypatch.setattr("bloomgate.backends.soft_slot._SLEEP_NS", 10**12)
    monkeypatch.setattr("bloomgate.backends.shm_slot.SLICE_SECONDS", 1000.0)
    with opened(kind, ROOMY) as device, device.queue_pair() as queue:
        sleeper = device.open_slot()
        park, parked = sleeper.park, threading.Event()
        monkeypatch.setattr(sleeper, "park", lambda: (park(), parked.set()))
        for turn in range(20):
            sleeper.begin(device.last_timestamp())
            sleeper.announce([1])
            parked.clear()
            thread = threading.Thread(target=sleeper.wait, args=(60,))
            thread.start()
            if turn % 2:  # the other half of the times it may not have parked yet
                assert parked.wait(60)
            verdict = queue.collect(queue.submit(snapshot=device.last_timestamp(), writes=[1]), 60)
            device.publish(verdict.timestamp)
            thread.join(50)
            assert not thread.is_alive()


# -- parking ------------------------------------------------------------------------------


def test_a_parked_slot_is_woken_with_the_winners_timestamp(device):
    sleeper, writer = device.open_slot(), device.open_slot()
    sleeper.begin(device.published)
    sleeper.announce([1])
    sleeper.park()
    assert sleeper.parked
    committed(device, writer, 2)
    assert sleeper.parked
    timestamp = committed(device, writer, 1)
    assert not sleeper.parked
    assert sleeper.last_wake == (1, timestamp)


def test_a_commit_between_snapshot_and_parking_wakes_at_once(device):
    sleeper, writer = device.open_slot(), device.open_slot()
    sleeper.begin(device.published)
    sleeper.announce([1])
    timestamp = committed(device, writer, 1)
    sleeper.park()
    assert not sleeper.parked
    assert sleeper.last_wake.timestamp == timestamp


@pytest.mark.parametrize("cause", ["raise_floor", "reset"])
def test_whatever_may_have_changed_any_key_wakes(device, cause):
    sleeper, writer = device.open_slot(), device.open_slot()
    sleeper.begin(device.published)
    sleeper.announce([1])
    committed(device, writer, 2)
    sleeper.park()
    getattr(device, cause)()
    assert not sleeper.parked
    assert sleeper.doomed.key is None


def test_wait_blocks_until_the_change_is_published(device):
    sleeper, writer = device.open_slot(), device.open_slot()
    sleeper.begin(device.published)
    sleeper.announce([1])
    woken = []
    thread = threading.Thread(target=lambda: woken.append(sleeper.wait(60)))
    thread.start()
    writer.begin(device.published)
    verdict = writer.commit(writes=[1])
    device.publish(verdict.timestamp)
    thread.join(60)
    assert woken == [(1, verdict.timestamp)]


def test_wait_gives_up_after_its_timeout_and_the_transaction_goes_on(device, monkeypatch):
    slot = device.open_slot()
    slot.begin(device.published)
    slot.announce([1])
    with pytest.raises(TimeoutError, match="nothing woke the slot within 0.01 s"):
        slot.wait(0.01)
    assert not slot.parked
    monkeypatch.setattr(slot, "_wait_until_woken", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        slot.wait()
    assert not slot.parked
    assert slot.commit(writes=[1]).committed


def wakes_of(slot, device):
    """The slot's wakes and the spurious ones, and the same of the device."""
    return tuple(stats[name] for stats in (slot.stats(), device.stats()) for name in ("wakes", "spurious_wakes"))


@pytest.mark.parametrize(
    ("cause", "spurious"),
    [("hit", 0), ("false hit", 1), ("false hit and hit", 0), ("reset", 1), ("raise_floor", 1), ("token", 0)],
)
def test_a_wake_is_spurious_unless_an_announced_key_has_changed(kind, cause, spurious):
    with opened(kind, CROWDED) as device:
        sleeper, writer, holder = slots_of(device)
        third = 1
        first, second, harmless = keys_that_hide(third, device.parameters)
        sleeper.begin(device.published)
        sleeper.announce([first, second])
        committed(device, writer, harmless)  # so that a floor makes a difference
        wakes = []
        if cause == "token":
            holder.begin(device.published)
            holder.announce([first])
            assert holder.irrevocable(60).committed
            assert sleeper.commit(writes=[first]).reason is Reason.IRREVOCABLE
        thread = threading.Thread(target=lambda: wakes.append(sleeper.wait(60)))
        thread.start()
        while not sleeper.parked:
            assert thread.is_alive()
        if cause == "token":
            holder.cancel()
        elif "hit" in cause:
            # The last key is looked up first.
            writes = {"hit": [second], "false hit": [third], "false hit and hit": [first, third]}[cause]
            timestamp = committed(device, writer, *writes)
        else:
            getattr(device, cause)()
        thread.join(60)
        assert len(wakes) == 1
        if "hit" in cause:
            assert wakes == [(1, timestamp)]
        assert (sleeper.announced, sleeper.doomed, sleeper.parked) == (None, None, False), "the transaction is over"
        assert wakes_of(sleeper, device) == (1, spurious) * 2
        # And the next transaction has only keys of its own.
        others = keys_that_hide(first, device.parameters)[:2]
        sleeper.begin(device.last_timestamp())
        sleeper.announce(others)
        timestamp = committed(device, writer, first)
        assert sleeper.wait(60) == (2, timestamp)
        assert wakes_of(sleeper, device) == (2, spurious + 1) * 2
        assert device.stats()["dooms"] == sleeper.stats()["dooms"] == 1 + (cause != "token")


def test_the_device_has_the_totals_of_its_slots(kind):
    with opened(kind, CROWDED) as device:
        names = {name for name in device.stats() if "clocks" not in name}
        before = {name: device.stats()[name] for name, _ in FLIGHT_STATISTICS}
        assert not any(before.values())
        for turn in range(2):
            slots = slots_of(device)
            reader, sleeper, writer = slots[turn:] + slots[:turn]
            for slot in (reader, sleeper):
                slot.begin(device.published)
                slot.announce([1, 2, 3])
            sleeper.park()
            timestamp = committed(device, writer, 3)
            sleeper.cancel()
            assert reader.commit(writes=[4]).reason is Reason.CONFLICT
            assert device.published == timestamp
            for slot in slots:
                assert {name for name in slot.stats() if "clocks" not in name} == set(SLOT_COUNTERS)
            totals = device.stats()
            assert {name: totals[name] for name in before} == {
                "dooms": 2 * turn + 2,
                "wakes": turn + 1,
                "spurious_wakes": 0,
                "keys_announced": 6 * turn + 6,
            }
            assert set(SLOT_COUNTERS) <= names
            for name in totals.keys() & slots[0].stats().keys():
                assert totals[name] == sum(slot.stats()[name] for slot in slots), name
            for slot in slots:
                slot.close()
            after = device.stats()
            assert {name: after[name] for name in names} == {name: totals[name] for name in names}
            assert after.get("validation_clocks") == totals.get("validation_clocks") != 0
        assert totals["commits"] == totals["aborts_conflict"] == 2


# -- the token ----------------------------------------------------------------------------


def test_the_holder_cannot_be_refused_and_others_are(device):
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    holder.announce([1])
    assert holder.irrevocable(60).committed
    guard = holder.guard([2])
    assert guard == device.last_timestamp()
    for key in (1, 2):
        other.begin(device.published)
        verdict = other.commit(writes=[8, key])
        assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, key)
    assert committed(device, other, 3), "who does not touch the holder's keys proceeds"
    assert holder.doomed is None
    assert holder.commit(writes=[1, 2]).committed
    assert committed(device, other, 1), "the token is free again"


def test_who_was_refused_is_woken_when_the_token_is_free(device):
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    holder.announce([1])
    holder.request_token()
    other.begin(device.published)
    assert other.commit(writes=[1]).reason is Reason.IRREVOCABLE
    other.park()
    assert other.parked
    verdict = holder.commit(writes=[5])
    assert not other.parked
    assert other.last_wake.timestamp == verdict.timestamp


def test_who_was_refused_may_park_until_another_transaction_begins(device):
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    holder.announce([1])
    holder.request_token()

    def is_refused():
        other.begin(device.published)
        assert not other.refused
        assert other.commit(writes=[1]).reason is Reason.IRREVOCABLE
        assert other.refused

    def cannot_park():
        assert not other.refused
        with pytest.raises(RequestError, match="nothing would wake the slot"):
            other.park()
        assert not other.parked

    cannot_park()
    is_refused()
    other.cancel()
    cannot_park()
    is_refused()
    other.park()
    holder.cancel()
    assert other.last_wake.sequence == 1
    other.park()
    assert other.last_wake.sequence == 2, "the token is free: at once"
    committed(device, other, 1)
    cannot_park()


def test_reads_that_are_stale_when_the_token_comes_are_an_ordinary_abort(device):
    slot, other = device.open_slot(), device.open_slot()
    slot.begin(device.published)
    slot.announce([1, 2])
    committed(device, other, 2)
    verdict = slot.irrevocable(60)
    assert (verdict.reason, verdict.conflict_key) == (Reason.CONFLICT, 2)
    assert slot.token is Token.NONE
    assert slot.token_refusal == verdict
    slot.close()
    assert device.open_slot(slot.number).token_refusal is None, "it is another owner"


def aborted(device, slot, times):
    """Makes the slot older by so many aborts."""
    for _ in range(times):
        slot.begin(device.last_timestamp() + 1)
        assert slot.commit().reason is Reason.BAD_REQUEST


def ask(device, slot):
    slot.begin(device.published)
    slot.request_token()


def test_the_token_goes_to_the_oldest(device):
    slots = [device.open_slot() for _ in range(3)]
    aborted(device, slots[2], 2)
    for slot in slots:
        ask(device, slot)
    assert [slot.token for slot in slots] == [Token.HOLDER, Token.WAITING, Token.WAITING]
    slots[0].cancel()
    assert [slot.token for slot in slots] == [Token.NONE, Token.WAITING, Token.HOLDER]


def test_nobody_waits_for_the_token_for_ever(device):
    patient, *pushy = [device.open_slot() for _ in range(3)]
    for slot in pushy:
        aborted(device, slot, 200)
    ask(device, pushy[0])
    ask(device, patient)
    grants = 0
    while patient.token is Token.WAITING:
        ask(device, pushy[1])
        pushy[0].cancel()
        pushy.reverse()
        grants += 1
        assert grants <= 256 // PASSED_OVER + 1


def test_a_dead_holder_is_revoked_and_told(device):
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    holder.announce([1])
    holder.request_token()
    assert device.revoke_token() == holder.number
    assert device.revoke_token() is None
    assert committed(device, other, 1)
    assert holder.commit(writes=[1]).reason is Reason.REVOKED
    holder.begin(device.published)
    assert holder.commit(writes=[1]).committed


def test_the_watchdog_is_off_until_it_is_set(device):
    holder = device.open_slot()
    holder.begin(device.published)
    holder.request_token()
    device.tick(10**6)
    assert holder.token is Token.HOLDER
    device.set_token_watchdog(10**6 + 5)
    device.tick(4)
    assert holder.token is Token.HOLDER
    device.tick(1)
    assert holder.token is Token.REVOKED


def test_the_epoch_does_not_end_under_the_holder(kind):
    with opened(kind, CROWDED) as device:
        holder, other = device.open_slot(), device.open_slot()
        holder.begin(device.published)
        holder.request_token()
        assert holder.token is Token.HOLDER
        for _ in range(13):
            assert committed(device, other, 1)
        other.begin(device.published)
        verdict = other.commit(writes=[1])
        assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, 1)
        assert holder.commit(writes=[1]).timestamp == 14
        device.publish(14)
        assert committed(device, other, 1) == 15
        assert device.published == device.last_timestamp() == 16, "the last count was left for another"


@pytest.mark.parametrize("by", ["request", "commit", "cancel", "begin", "begin anew", "close", "revoke", "watchdog"])
def test_who_asks_for_the_token_near_the_end_of_an_epoch_ends_it(kind, by):
    """At once, or when the token comes free."""
    with opened(kind, CROWDED) as device:
        holder, asking, other = slots_of(device)
        limit = grant_limit(device.parameters.max_count)
        assert 0 < limit < device.parameters.max_count < GRANT_MARGIN
        steps = device.stats()["epoch_steps"]
        asking.begin(device.published)
        asking.announce([1])
        if by != "request":
            holder.begin(device.published)
            assert holder.irrevocable(60).committed
            asking.request_token()
        for _ in range(limit):
            assert committed(device, other, 2)
        last = limit
        other.begin(device.published)
        other.announce([3])
        other.park()
        assert (asking.doomed, other.parked, device.published) == (None, True, limit)
        if by == "request":
            asking.request_token()
        elif by == "commit":
            last = holder.commit(writes=[2]).timestamp
            device.publish(last)
        elif by == "revoke":
            assert device.revoke_token() == holder.number
        elif by == "watchdog":
            device.set_token_watchdog(1)
            device.tick()
        elif by == "begin":
            holder.begin(device.published)
        elif by == "begin anew":
            holder.begin(device.parameters.timestamp(1, 0))
        else:
            getattr(holder, by)()
        origin = device.last_timestamp()
        assert origin == device.parameters.timestamp(1, 0) > last + 1
        assert device.published == origin, "what was committed is all published"
        assert device.stats()["epoch_steps"] == steps + 1
        assert (asking.token, asking.token_refusal.reason) == (Token.NONE, Reason.ROLLOVER)
        assert other.last_wake == (1, origin)
        assert other.doomed == (None, origin)
        if by == "begin":
            assert holder.doomed == (None, origin), "its snapshot is of the epoch before"
        if by == "begin anew":
            assert holder.doomed is None, "the token comes free before the transaction begins"
        asking.begin(device.published)
        asking.announce([1])
        assert asking.irrevocable(60).committed
        assert asking.commit(writes=[1]).timestamp == origin + 1


def test_an_early_end_waits_for_what_is_to_be_published(kind):
    with opened(kind, CROWDED) as device:
        _, asking, other = slots_of(device)
        limit = grant_limit(device.parameters.max_count)
        for _ in range(limit):
            other.begin(device.last_timestamp())
            assert other.commit(writes=[1]).committed
        asking.begin(device.published)
        assert asking.irrevocable(60).reason is Reason.ROLLOVER
        origin = device.last_timestamp()
        other.begin(origin)
        first = other.commit(writes=[1]).timestamp
        device.publish(first)
        for timestamp in range(2, limit + 1):
            device.publish(timestamp)
        assert device.published == 0
        device.publish(1)
        device.wait_published(first, 60)
        assert device.published == first == origin + 1


def test_whoever_asks_for_the_token_goes_on_near_the_end_of_an_epoch(kind):
    """All threads at once, and nobody commits anything else."""
    with opened(kind, CROWDED) as device:
        slots = slots_of(device)
        limit = grant_limit(device.parameters.max_count)
        for _ in range(limit):
            assert committed(device, slots[0], 1)
        together = threading.Barrier(len(slots))
        done, refusals, failures = [], [], []

        def work(slot):
            try:
                together.wait(60)
                while True:
                    slot.begin(device.published)
                    slot.announce([slot.number])
                    verdict = slot.irrevocable(60)
                    if verdict.committed:
                        break
                    refusals.append(verdict.reason)
                device.publish(slot.commit(writes=[slot.number]).timestamp)
                done.append(slot.number)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
            assert not thread.is_alive(), "a thread waits for the token for ever"
        assert not failures, failures
        assert sorted(done) == [slot.number for slot in slots]
        assert set(refusals) == {Reason.ROLLOVER}
        assert device.published == device.last_timestamp() == device.parameters.timestamp(1, len(slots))


@pytest.mark.parametrize("near_end", [False, True])
def test_on_an_exhausted_device_the_token_is_refused_as_a_commit_is(kind, near_end):
    with opened(kind, CROWDED) as device:
        _, asking, other = slots_of(device)
        device.reset((1 << 32) - 1)
        snapshot = device.last_timestamp()
        if near_end:
            for _ in range(grant_limit(device.parameters.max_count)):
                snapshot = committed(device, other, 1)
        else:
            device.reset()
        for _ in range(2):
            asking.begin(snapshot)
            assert asking.irrevocable(60).reason is Reason.ROLLOVER
            asking.begin(snapshot)
            assert asking.commit(writes=[1]).reason is Reason.ROLLOVER
        assert device.last_timestamp() == device.published == snapshot


def test_a_reset_in_the_last_epoch_takes_the_token_away_too(device):
    """The epoch does not end then: the device is exhausted."""
    holder, refused = device.open_slot(), device.open_slot()
    device.reset((1 << 32) - 1)
    for slot in (holder, refused):
        slot.begin(device.last_timestamp())
    holder.announce([1])
    assert holder.irrevocable(60).committed
    assert refused.commit(writes=[1]).reason is Reason.IRREVOCABLE
    refused.park()
    device.reset()
    assert holder.token is Token.REVOKED
    assert not refused.parked
    assert holder.commit(writes=[2]).reason is Reason.REVOKED


def test_another_thread_can_cancel_what_waits(device):
    holder, slot = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    assert holder.irrevocable(60).committed
    for wait, waits in (
        (slot.wait, lambda: slot.parked),
        (slot.irrevocable, lambda: slot.token is Token.WAITING),
    ):
        slot.begin(device.published)
        slot.announce([1])
        raised = []

        def work(wait=wait, raised=raised):
            with pytest.raises(RequestError, match="was cancelled while it waited") as error:
                wait(60)
            raised.append(error.type)

        thread = threading.Thread(target=work)
        thread.start()
        while not waits():
            assert thread.is_alive()
        slot.cancel()
        thread.join(50)
        assert raised == [RequestError]
        committed(device, slot, 2)


# -- what is not allowed ------------------------------------------------------------------


def test_every_slot_is_opened_once(kind):
    with opened(kind, CROWDED) as device:
        first = device.open_slot(1)
        with pytest.raises(DeviceInUse, match=r"^slot 1 .*(is open|in use)"):
            device.open_slot(1)
        for number in (-1, 4, 33, 1 << 32):
            with pytest.raises(DeviceInUse, match=f"^slot {number} .*not one of"):
                device.open_slot(number)
        free = [2, 3] if kind.startswith("shm:") else [0, 2, 3]
        assert [device.open_slot().number for _ in free] == free
        with pytest.raises(DeviceInUse, match=r"^all 4 slots of the \S+.* are (open|in use)"):
            device.open_slot()
        first.close()
        assert device.open_slot().number == 1


def test_misuse_is_refused_with_one_clear_error(device):
    slot = device.open_slot()
    with pytest.raises(RequestError, match="no transaction has begun"):
        slot.announce([1])
    slot.begin(device.published)
    with pytest.raises(RequestError, match="only the holder of the token can guard keys"):
        slot.guard([1])
    with pytest.raises(RequestTooLarge, match="a request can have 512 keys"):
        slot.announce(range(513))
    slot.request_token()
    with pytest.raises(RequestError, match="has asked for the token already"):
        slot.request_token()
    with pytest.raises(RequestError, match="guards its keys"):
        slot.announce([1])
    with pytest.raises(RequestError, match="nobody can change what the holder of the token has read"):
        slot.park()
    other = device.open_slot()
    with pytest.raises(RequestError, match="nothing would wake the slot"):
        other.park()
    other.begin(device.published)
    other.request_token()
    for refused in (other.park, other.commit, lambda: other.announce([1])):
        with pytest.raises(RequestError, match="has asked for the token: wait for the answer"):
            refused()
    other.cancel()
    with pytest.raises(RequestError, match="no transaction has begun"):
        other.commit()


def test_of_two_misuses_at_once_the_same_one_is_refused_everywhere(kind):
    """The keys come first, then the state of the transaction, then the room that announced keys have left."""
    with opened(kind, CROWDED) as device:
        idle, holder, asking = slots_of(device)
        for slot in (holder, asking):
            slot.begin(device.published)
            slot.announce([1])
            slot.request_token()
        assert (holder.token, asking.token) == (Token.HOLDER, Token.WAITING)
        most = device.parameters.aperture_depth
        bad = {KeyRangeError: [1, -1], RequestTooLarge: [1] * (most + 1)}
        for slot, calls in (
            (idle, (slot_call("announce"), slot_call("guard"), slot_call("commit", "writes"))),
            (holder, (slot_call("announce"),)),
            (asking, (slot_call("announce"), slot_call("guard"), slot_call("commit", "reads"))),
        ):
            for call in calls:
                for error, keys in bad.items():
                    with pytest.raises(error):
                        call(slot, keys)
        for slot, call, message in (
            (idle, slot_call("commit", "writes"), "no transaction has begun"),
            (asking, slot_call("announce"), "has asked for the token"),
            (asking, slot_call("commit", "reads"), "has asked for the token"),
        ):
            with pytest.raises(RequestError, match=message) as refused:
                call(slot, [1] * most)  # no room behind what was announced
            assert refused.type is RequestError
        idle.begin(device.published)
        idle.announce([1])
        with pytest.raises(RequestTooLarge):
            idle.announce([1] * most)
        idle.close()
        for call in (slot_call("announce"), slot_call("guard"), slot_call("commit", "writes")):
            with pytest.raises(DeviceClosed):
                call(idle, [-1])
        with pytest.raises(DeviceClosed):
            idle.begin(-1)


def slot_call(name, keyword=None):
    return lambda slot, keys: getattr(slot, name)(**{keyword: keys}) if keyword else getattr(slot, name)(keys)


def test_what_is_no_number_of_ticks_is_refused(kind):
    with opened(kind, CROWDED) as device:
        holder = device.open_slot()
        holder.begin(device.published)
        holder.request_token()
        device.set_token_watchdog(10)
        for ticks in (-1, 1 << 32, 1.5, "1", None):
            for call in (device.set_token_watchdog, device.tick):
                with pytest.raises(ParameterError, match=f"^ticks must be an integer from 0 to {MAX_TICKS}, not"):
                    call(ticks)
        device.tick(9)
        assert holder.token is Token.HOLDER, "nothing has happened"
        device.set_token_watchdog(MAX_TICKS)
        device.tick(MAX_TICKS)
        assert holder.token is Token.REVOKED


def test_the_example_of_the_documentation(capsys):
    text = (Path(__file__).resolve().parents[2] / "docs" / "in-flight.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/in-flight.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out == "[Conflict(winner=1, loser=0, key=2, timestamp=1)]\n"

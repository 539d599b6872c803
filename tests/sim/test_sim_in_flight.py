"""Transactions in flight on the simulated gateware: what only it can do, and what its driver has to get right."""

import sys
import threading
from pathlib import Path

import pytest
from bloomgate import DeviceInUse, Reason, RequestError, driver, flight_registers, programmed_slot
from bloomgate.driver import ErrorEntry, ProgrammedIODevice
from bloomgate.in_flight import Token
from bloomgate.registers import (
    CONFLICT_LOG_ENTRIES,
    CONTROL_PAGE,
    SLOT_PAGE,
    ErrorCode,
    RequestKind,
    slot_page_offset,
)
from bloomgate.verdict_words import verdict_of
from bloomgate_sim.device import SimulatedBus, SimulatedDevice

from tests.sim.geometries import QUEUES, SMALL

JOIN_SECONDS = 120
SUBMIT = SLOT_PAGE.register("SUBMIT")


@pytest.fixture
def device():
    """With epochs that are long enough for a test."""
    with SimulatedDevice(QUEUES) as opened:
        yield opened


def write(device, slot, name, word):
    """A word to the slot's page, past the driver."""
    device.bus.write(slot_page_offset(slot) + SLOT_PAGE.register(name).offset, (word,))


def committed(device, slot, *writes):
    """A commit of these keys by the slot, with the newest snapshot; its timestamp."""
    slot.begin(device.last_timestamp())
    verdict = slot.commit(writes=writes)
    device.publish(verdict.timestamp)
    return verdict.timestamp


# -- what a client must not do ------------------------------------------------------------


@pytest.mark.parametrize("kind", [RequestKind.TOKEN, RequestKind.GUARD, 3])
@pytest.mark.parametrize("begun", [False, True])
def test_a_submission_that_its_state_does_not_allow_is_a_bad_request(device, kind, begun):
    if begun and kind is RequestKind.TOKEN:
        pytest.skip("allowed")
    before = device.stats()
    if begun:
        write(device, 1, "ANNOUNCE", 1)
    word = SUBMIT["KIND"].insert(kind) | 0x77
    write(device, 1, "SUBMIT", word)
    device.bus.step(100)
    words = device.bus.read(slot_page_offset(1), 4)
    assert SLOT_PAGE.register("VERDICT")["REQUEST"].extract(words[0]) == 0x77
    assert verdict_of(QUEUES, words).reason is Reason.BAD_REQUEST
    assert device.error_log() == [ErrorEntry(0, ErrorCode.NOT_IN_FLIGHT, 1, word)]
    after = device.stats()
    assert after["errors"] - before["errors"] == after["aborts_bad_request"] == 1


def test_parking_where_nothing_can_wake_is_an_error_and_no_more(device):
    write(device, 2, "PARK", 1)
    assert device.error_log() == [ErrorEntry(0, ErrorCode.NOT_IN_FLIGHT, 2, 1)]
    slots = [device.open_slot() for _ in range(3)]
    assert not slots[2].parked
    assert committed(device, slots[2], 5)


def test_a_holder_that_asks_again_loses_the_token(device):
    """Not for ever waiting for itself: that is a bad request, and it ends the transaction."""
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    assert holder.irrevocable(60).committed
    write(device, holder.number, "SUBMIT", SUBMIT["KIND"].insert(RequestKind.TOKEN))
    other.begin(device.published)
    assert other.irrevocable(60).committed
    assert holder.token is Token.NONE


# -- generations --------------------------------------------------------------------------

#: Of a slot's filter, see SlotFilter: its tags have 8 bits, and 0 is none.
GENERATIONS = 255


def test_generations_wrap_in_the_middle_of_everything(device):
    """Nothing that was announced is lost by a scrub, during it neither; what is long over does not come back."""
    aperture = SLOT_PAGE.window("READ_APERTURE").offset
    slot, other = device.open_slot(), device.open_slot()
    other.begin(device.published)
    other.announce([1])
    for number in range(GENERATIONS + 10):
        key = 1000 + number
        slot.begin(device.last_timestamp())
        # Past the driver, which would wait until the key is announced: while a scrub goes on it is not.
        device.bus.write(slot_page_offset(slot.number) + aperture, (key,))
        verdict = device.commit(snapshot=device.last_timestamp(), writes=[key])
        device.publish(verdict.timestamp)
        assert slot.doomed == (key, verdict.timestamp)
        # Two generations a turn: this key was announced when the tags were the same, one life ago.
        slot.begin(device.last_timestamp())
        slot.announce([2])
        device.publish(device.commit(snapshot=device.last_timestamp(), writes=[key - GENERATIONS // 2]).timestamp)
        assert slot.doomed is None
    assert other.doomed is None
    timestamp = committed(device, slot, 1)
    assert other.doomed == (1, timestamp)


# -- books --------------------------------------------------------------------------------


def test_the_conflict_log_keeps_the_newest(device):
    reader, writer = device.open_slot(), device.open_slot()
    extra = 7
    for _ in range(CONFLICT_LOG_ENTRIES + extra):
        reader.begin(device.last_timestamp())
        reader.announce([1])
        last = committed(device, writer, 1)
    found = device.conflicts()
    assert [entry.timestamp for entry in found] == list(range(extra + 1, last + 1))
    assert {entry[:3] for entry in found} == {(writer.number, reader.number, 1)}
    assert device.conflicts() == []


def test_whose_transaction_was_not_in_flight_is_not_named_and_not_counted(device):
    reader = device.open_slot()
    with device.queue_pair() as queue:
        for commit in (device.commit, queue.commit):
            reader.begin(device.last_timestamp())
            reader.announce([1])
            timestamp = commit(snapshot=device.last_timestamp(), writes=[1]).timestamp
            device.publish(timestamp)
            assert reader.doomed == (1, timestamp)
            assert device.conflicts() == [(None, reader.number, 1, timestamp)]
    counted = [slot.stats() for slot in (reader, *(device.open_slot() for _ in range(3)))]
    assert [stats.get("dooms", 0) for stats in counted] == [2, 0, 0, 0]
    assert not any(stats["commits"] for stats in counted)


def test_a_queue_pair_is_another_client_than_the_slot_of_its_number(device):
    """The token of slot 0 stands in the way of the queue pair of slot 0."""
    holder = device.open_slot()
    holder.begin(device.published)
    holder.announce([1])
    assert holder.irrevocable(60).committed
    with device.queue_pair() as queue:
        verdict = queue.commit(snapshot=device.last_timestamp(), writes=[3, 1])
        assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, 1)
        assert queue.commit(snapshot=device.last_timestamp(), writes=[3]).committed
    assert holder.commit(writes=[1]).committed


def test_statistics_of_a_slot_outlast_it(device):
    for rounds in (1, 2):
        with device.open_slot() as slot:
            assert slot.number == 0
            committed(device, slot, 1)
            slot.begin(device.last_timestamp() + 1)
            slot.announce([4, 5])
            assert slot.commit().reason is Reason.BAD_REQUEST
            stats = slot.stats()
            assert (stats["commits"], stats["aborts_bad_request"], stats["keys_announced"]) == (
                rounds,
                rounds,
                2 * rounds,
            )
            assert stats["validation_clocks"] > 2 * rounds


def test_a_wake_raises_the_interrupt(device):
    sleeper, writer = device.open_slot(), device.open_slot()
    enable = CONTROL_PAGE.register("INTERRUPT_ENABLE")
    device.bus.write(enable.offset, (enable["WAKE"].mask,))
    sleeper.begin(device.published)
    sleeper.announce([1])
    sleeper.park()
    committed(device, writer, 2)
    assert not device.bus.interrupt
    committed(device, writer, 1)
    assert device.bus.interrupt


# -- the token ----------------------------------------------------------------------------


def test_the_watchdog_of_the_gateware_counts_clock_cycles(device):
    holder, other = device.open_slot(), device.open_slot()
    holder.begin(device.published)
    assert holder.irrevocable(60).committed
    device.bus.step(20_000)
    assert holder.token is Token.HOLDER, "off after power-up"
    device.bus.write(CONTROL_PAGE.register("TOKEN_WATCHDOG").offset, (5_000,))
    holder.cancel()
    holder.begin(device.published)
    assert holder.irrevocable(60).committed
    device.bus.step(4_000)
    assert holder.token is Token.HOLDER
    device.bus.step(1_100)
    assert holder.token is Token.REVOKED
    other.begin(device.published)
    assert other.irrevocable(60).committed
    assert holder.commit(writes=[1]).reason is Reason.REVOKED


def test_a_new_owner_of_the_device_finds_every_slot_free():
    """Also one whose last owner waited for the token, or had it."""
    bus = SimulatedBus(SMALL)
    options = {"backend": "sim", "description": "a test"}
    dead = ProgrammedIODevice(bus, **options)
    holder, waiting = dead.open_slot(), dead.open_slot()
    for slot in (holder, waiting):
        slot.begin(dead.published)
        slot.announce([1])
        slot.request_token()
    assert (holder.token, waiting.token) == (Token.HOLDER, Token.WAITING)
    with ProgrammedIODevice(bus, **options) as device:
        assert device.conflicts() == []
        slots = [device.open_slot() for _ in range(SMALL.slots)]
        for slot in slots:
            slot.begin(device.published)
            assert slot.irrevocable(60).committed
            slot.cancel()
            assert committed(device, slot, 1)


# -- exceptions ---------------------------------------------------------------------------


def test_an_interrupt_at_any_line_of_a_transaction():
    """As a signal handler would raise it; afterwards the slot is as good as new, and everything gets published."""
    files = {
        module.__file__: Path(module.__file__).read_text(encoding="utf-8").splitlines()
        for module in (driver, programmed_slot, flight_registers)
    }

    def interrupted_at(number):
        lines = 0

        def trace(frame, event, argument):
            nonlocal lines
            source = files.get(frame.f_code.co_filename)
            if source is None:
                return None
            if event == "line" and not source[frame.f_lineno - 1].strip().startswith("with "):
                if lines == number:
                    lines += 1
                    raise KeyboardInterrupt
                lines += 1
            return trace

        verdict = None
        sys.settrace(trace)
        try:
            slot.begin(snapshot)
            slot.announce([1])
            slot.request_token()
            slot.guard([2])
            verdict = slot.commit(reads=[3], writes=[1])
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
            if verdict is not None:
                device.publish(verdict.timestamp)
        return False

    with SimulatedDevice(SMALL) as device:
        slot, other = device.open_slot(), device.open_slot()
        number, snapshot = 0, 0
        while interrupted_at(number):
            number += 1
            # Whoever is interrupted ends the transaction, as a handler of exceptions does.
            slot.cancel()
            for each in (slot, other):
                assert each.token is Token.NONE
                assert committed(device, each, 1, 2)
            device.wait_published(device.last_timestamp(), timeout=10)
            device.reset()  # so that nobody ends the epoch by asking for the token, and this one is short
            snapshot = device.published
        assert number > 150


def test_no_slot_is_left_for_a_plain_commit():
    with SimulatedDevice(SMALL) as device:
        slots = [device.open_slot() for _ in range(SMALL.slots)]
        with pytest.raises(DeviceInUse, match="all 3 slots of the device are open: close one"):
            device.commit(snapshot=0)
        slots[1].close()
        assert device.commit(snapshot=0).committed


# -- threads ------------------------------------------------------------------------------


def test_threads_that_take_turns_by_waiting_for_each_other():
    """Each thread waits until it is its turn, as `retry` does; nobody oversleeps."""
    threads, rounds = 3, 12
    failures = []
    turn = {"value": 0}
    key = 7
    with SimulatedDevice(QUEUES) as device:
        lock = threading.Lock()

        def work(number, slot):
            try:
                for _ in range(rounds):
                    while True:
                        slot.begin(device.published)
                        slot.announce([key])
                        with lock:
                            mine = turn["value"] % threads == number
                        if not mine:
                            slot.wait(JOIN_SECONDS)
                            continue
                        verdict = slot.commit(writes=[key])
                        if verdict.committed:
                            with lock:
                                turn["value"] += 1
                            device.publish(verdict.timestamp)
                            break
            except BaseException as error:
                failures.append(error)

        workers = [
            threading.Thread(target=work, args=(number, device.open_slot()), daemon=True) for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(JOIN_SECONDS)
            assert not worker.is_alive(), "a thread sleeps on"
        assert not failures, failures
    assert turn["value"] == threads * rounds


def test_threads_that_all_want_the_token():
    threads, rounds = 3, 8
    failures = []
    inside = []
    with SimulatedDevice(QUEUES) as device:

        def work(number, slot):
            try:
                for _ in range(rounds):
                    slot.begin(device.published)
                    slot.announce([number])
                    while not slot.irrevocable(JOIN_SECONDS).committed:
                        slot.begin(device.published)
                        slot.announce([number])
                    inside.append(number)
                    slot.read_guarded([9], JOIN_SECONDS)
                    assert inside == [number], "two have the token"
                    inside.pop()
                    verdict = slot.commit(writes=[9, number])
                    assert verdict.committed
                    device.publish(verdict.timestamp)
            except BaseException as error:
                failures.append(error)

        workers = [
            threading.Thread(target=work, args=(number, device.open_slot()), daemon=True) for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(JOIN_SECONDS)
            assert not worker.is_alive(), "a thread waits for ever"
        assert not failures, failures
        assert device.last_timestamp() == threads * rounds


def test_a_guard_of_who_lost_the_token_ends_its_transaction(device):
    holder = device.open_slot()
    holder.begin(device.published)
    assert holder.irrevocable(60).committed
    assert device.revoke_token() == holder.number
    with pytest.raises(RequestError, match="only the holder of the token can guard keys"):
        holder.guard([1])
    assert holder.commit().reason is Reason.REVOKED

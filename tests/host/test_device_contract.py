"""What every backend promises. The cases are small enough to be checked by reading them."""

import array
import decimal
import fractions
import gc
import re
import subprocess
import sys
import threading

import pytest
from bloomgate import (
    Device,
    DeviceClosed,
    KeyRangeError,
    ParameterError,
    PublicationError,
    Reason,
    RequestError,
    RequestTooLarge,
    SnapshotRangeError,
    Verdict,
    open_device,
)
from bloomgate.h3 import H3
from bloomgate.in_flight import FLIGHT_STATISTICS
from bloomgate.registers import STATISTICS, VERSION

from tests.device_urls import SMALL


def commit(timestamp):
    return Verdict(True, timestamp, None, None)


READ_ONLY = commit(None)


def abort(reason, key=None):
    return Verdict(False, None, reason, key)


# -- validation ----------------------------------------------------------------------------


def test_timestamps_count_from_one(device: Device) -> None:
    assert device.last_timestamp() == device.published == 0
    assert device.commit(snapshot=0, reads=[1], writes=[1]) == commit(1)
    assert device.commit(snapshot=1, reads=[1], writes=[2], commutes=[3]) == commit(2)
    assert device.commit(snapshot=2, commutes=[3]) == commit(3)
    assert device.last_timestamp() == 3


def test_a_request_without_effects_gets_no_timestamp(device: Device) -> None:
    assert device.commit(snapshot=0, reads=[1, 2, 3]) == READ_ONLY
    assert device.commit(snapshot=0) == READ_ONLY
    assert device.last_timestamp() == 0
    assert device.commit(snapshot=0, writes=[1]) == commit(1)


def test_the_snapshot_is_the_boundary(device: Device) -> None:
    """A commit conflicts with snapshots before it, and not with its own timestamp as a snapshot."""
    for timestamp in range(1, 6):
        assert device.commit(snapshot=0, writes=[timestamp]) == commit(timestamp)
    for key in range(1, 6):
        for snapshot in range(6):
            expected = abort(Reason.CONFLICT, key) if key > snapshot else READ_ONLY
            assert device.commit(snapshot=snapshot, reads=[key]) == expected, (key, snapshot)


def test_the_first_conflicting_key_in_the_order_of_the_request(device: Device) -> None:
    device.commit(snapshot=0, writes=[10, 20])
    assert device.commit(snapshot=0, reads=[30, 20, 10]) == abort(Reason.CONFLICT, 20)
    assert device.commit(snapshot=0, reads=[10, 20, 30]) == abort(Reason.CONFLICT, 10)
    assert device.commit(snapshot=0, reads=[40, 41, 42, 43, 10]) == abort(Reason.CONFLICT, 10)


def test_commutes_are_inserted_like_writes(device: Device) -> None:
    assert device.commit(snapshot=0, commutes=[7]) == commit(1)
    assert device.commit(snapshot=0, reads=[7]) == abort(Reason.CONFLICT, 7)
    assert device.commit(snapshot=0, writes=[8], commutes=[9]) == commit(2)
    assert device.commit(snapshot=1, reads=[9]) == abort(Reason.CONFLICT, 9)
    assert device.commit(snapshot=1, reads=[8]) == abort(Reason.CONFLICT, 8)


def test_writes_and_commutes_never_conflict(device: Device) -> None:
    device.commit(snapshot=0, writes=[1], commutes=[2])
    assert device.commit(snapshot=0, writes=[1], commutes=[2]) == commit(2)
    assert device.commit(snapshot=0, writes=[2], commutes=[1]) == commit(3)


def test_an_abort_inserts_nothing(device: Device) -> None:
    device.commit(snapshot=0, writes=[1])
    assert device.commit(snapshot=0, reads=[1], writes=[2], commutes=[3]) == abort(Reason.CONFLICT, 1)
    assert device.commit(snapshot=0, reads=[2, 3]) == READ_ONLY
    assert device.last_timestamp() == 1


def test_keys_repeat_and_are_in_several_sets(device: Device) -> None:
    assert device.commit(snapshot=0, reads=[5, 5], writes=[5, 5], commutes=[5, 5]) == commit(1)
    assert device.commit(snapshot=0, reads=[6, 5, 5]) == abort(Reason.CONFLICT, 5)
    assert device.commit(snapshot=1, reads=[5, 5], writes=[5]) == commit(2)


def test_every_bit_of_a_key_counts(device: Device) -> None:
    """With the default matrices no two keys share all their rows (see test_h3), so neighbours do not conflict."""
    key = 0x5A5A_0FF0
    device.commit(snapshot=0, writes=[key])
    for bit in range(32):
        assert device.commit(snapshot=0, reads=[key ^ 1 << bit]) == READ_ONLY, bit
        assert device.commit(snapshot=0, reads=[key ^ 1 << bit, key]) == abort(Reason.CONFLICT, key)


def test_extreme_keys(device: Device) -> None:
    top = device.parameters.max_key
    assert device.commit(snapshot=0, writes=[0, top]) == commit(1)
    assert device.commit(snapshot=0, reads=[top]) == abort(Reason.CONFLICT, top)
    assert device.commit(snapshot=0, reads=[0]) == abort(Reason.CONFLICT, 0)
    assert device.commit(snapshot=0, reads=[top - 1, 1]) == READ_ONLY


@pytest.mark.parametrize("sets", ["reads", "writes", "commutes", "all"])
def test_the_largest_request(device: Device, sets: str) -> None:
    depth = device.info().max_request_keys
    assert depth == device.parameters.aperture_depth == 512
    keys = list(range(1000, 1000 + depth))
    if sets == "all":
        verdict = device.commit(snapshot=0, reads=keys[:200], writes=keys[200:400], commutes=keys[400:])
    else:
        verdict = device.commit(snapshot=0, **{sets: keys})
    assert verdict == (READ_ONLY if sets == "reads" else commit(1))
    inserted = {"reads": [], "all": keys[200:]}.get(sets, keys)
    for key in inserted[:: len(inserted) // 8 or 1] + inserted[-1:]:
        assert device.commit(snapshot=0, reads=[key]) == abort(Reason.CONFLICT, key)


def test_a_snapshot_of_the_future_is_a_bad_request(device: Device) -> None:
    assert device.commit(snapshot=1, reads=[1], writes=[1]) == abort(Reason.BAD_REQUEST)
    device.commit(snapshot=0, writes=[1])
    assert device.commit(snapshot=1, reads=[1], writes=[1]) == commit(2)
    assert device.commit(snapshot=3) == abort(Reason.BAD_REQUEST)
    assert device.commit(snapshot=device.parameters.max_timestamp) == abort(Reason.BAD_REQUEST)
    # It comes before a conflict, and nothing was inserted.
    assert device.commit(snapshot=1 << 32, reads=[1]) == abort(Reason.BAD_REQUEST)
    assert device.stats()["errors"] == device.stats()["aborts_bad_request"] == 4


def test_aliases_only_abort(small: Device) -> None:
    """16 rows for 64 keys: a commit of every fourth key or so hits all of a table."""
    small.commit(snapshot=0, writes=list(range(16)))
    verdicts = [small.commit(snapshot=0, reads=[key]) for key in range(64)]
    assert all(not verdict.committed for verdict in verdicts[:16])
    assert all(verdict.conflict_key == key for key, verdict in enumerate(verdicts) if not verdict.committed)
    # The rows of a key are exact: it is an alias if and only if other keys have all its rows.
    rows = H3(small.parameters).rows
    written = [{rows(key)[table] for key in range(16)} for table in range(2)]
    for key, verdict in enumerate(verdicts):
        assert verdict.committed == (rows(key)[0] not in written[0] or rows(key)[1] not in written[1])


# -- epochs --------------------------------------------------------------------------------


def test_rollover(small: Device) -> None:
    """With 4 bits the counts of an epoch are 1 to 15; the last of them ends it."""
    for count in range(1, 16):
        assert small.commit(snapshot=small.published, reads=[1], writes=[1]) == commit(count)
        small.publish(count)
    assert small.last_timestamp() == small.published == 16
    assert small.stats()["epoch_steps"] == 1
    assert small.commit(snapshot=15, reads=[1]) == abort(Reason.ROLLOVER)
    assert small.commit(snapshot=15) == abort(Reason.ROLLOVER)
    assert small.commit(snapshot=17) == abort(Reason.BAD_REQUEST)
    assert small.commit(snapshot=16, reads=[1], writes=[2]) == commit(17)
    assert small.commit(snapshot=16, reads=[2]) == abort(Reason.CONFLICT, 2)


def test_reset_ends_the_epoch(device: Device) -> None:
    device.commit(snapshot=0, writes=[1])
    device.commit(snapshot=0, writes=[2])
    device.reset()
    epoch = 1 << 32
    assert device.last_timestamp() == epoch
    assert device.published == 0  # the two commits are not yet written back
    assert device.commit(snapshot=2, reads=[3]) == abort(Reason.ROLLOVER)
    assert device.commit(snapshot=epoch, reads=[1, 2], writes=[1]) == commit(epoch + 1)
    device.publish(2)
    device.publish(epoch + 1)
    assert device.published == 0
    device.publish(1)
    assert device.published == epoch + 1


@pytest.mark.parametrize(("initial", "epoch"), [(0, 6), (3, 6), (5, 6), (6, 6), (7, 7), (2**32 - 1, 2**32 - 1)])
def test_reset_steps_to_the_initial_epoch_if_it_is_greater(small_url: str, initial: int, epoch: int) -> None:
    with open_device(f"{small_url}&initial_epoch=5") as device:
        assert device.last_timestamp() == device.published == 5 * 16
        assert device.stats()["epoch_steps"] == 1
        device.reset(initial)
        assert device.last_timestamp() == device.published == epoch * 16
        assert device.stats()["epoch_steps"] == 2
        assert device.commit(snapshot=5 * 16) == abort(Reason.ROLLOVER)


@pytest.mark.parametrize("how", ["rollover", "reset"])
def test_after_the_last_epoch_everything_is_refused(small_url: str, how: str) -> None:
    with open_device(f"{small_url}&initial_epoch={2**32 - 1}") as device:
        last = device.last_timestamp()
        if how == "rollover":
            for _ in range(15):
                last += 1
                assert device.commit(snapshot=last - 1, writes=[1]) == commit(last)
                device.publish(last)
            assert last == device.parameters.max_timestamp
        else:
            device.reset()
        for _ in range(2):
            assert device.last_timestamp() == device.published == last
            assert device.commit(snapshot=last, writes=[1]) == abort(Reason.ROLLOVER)
            assert device.commit(snapshot=0) == abort(Reason.ROLLOVER)
            if last < device.parameters.max_timestamp:
                assert device.commit(snapshot=last + 1) == abort(Reason.BAD_REQUEST)
            device.reset(1)
        assert device.stats()["epoch_steps"] == 1


# -- floor and parity ----------------------------------------------------------------------


def test_the_floor_refuses_older_snapshots_that_read(device: Device) -> None:
    device.commit(snapshot=0, writes=[1])
    device.commit(snapshot=0, writes=[1])
    device.raise_floor()
    assert device.commit(snapshot=1, reads=[50, 51]) == abort(Reason.CONFLICT, 50)
    assert device.commit(snapshot=2, reads=[50, 1]) == READ_ONLY
    assert device.commit(snapshot=0, writes=[50]) == commit(3)
    assert device.commit(snapshot=2, reads=[51]) == READ_ONLY
    device.reset()
    assert device.commit(snapshot=device.last_timestamp(), reads=[50]) == READ_ONLY


def corrupt(device: Device, key: int) -> None:
    for table, row in enumerate(H3(device.parameters).rows(key)):
        device.inject_parity_error(table, row)


def test_a_bad_word_reads_as_the_newest_timestamp(device: Device) -> None:
    tables = device.parameters.K
    device.commit(snapshot=0, writes=[1])
    corrupt(device, 2)
    # Older snapshots cannot be sure; the words are good again, but remember.
    assert device.commit(snapshot=0, reads=[3, 2, 3]) == abort(Reason.PARITY, 2)
    assert device.stats()["parity_errors"] == tables
    assert device.commit(snapshot=0, reads=[2]) == abort(Reason.CONFLICT, 2)
    assert device.commit(snapshot=1, reads=[2]) == READ_ONLY
    assert device.stats()["parity_errors"] == tables
    assert device.stats()["errors"] == device.stats()["aborts_parity"] == 1


def test_one_good_word_that_is_old_enough_decides(device: Device) -> None:
    device.commit(snapshot=0, writes=[1])
    rows = H3(device.parameters).rows(2)
    for table in range(device.parameters.K - 1):
        device.inject_parity_error(table, rows[table])
    assert device.commit(snapshot=0, reads=[2]) == READ_ONLY
    assert device.stats()["parity_errors"] == device.parameters.K - 1


def test_bad_words_hide_no_conflict(device: Device) -> None:
    """The injected word is 0, so whoever ignores its parity sees a key that was never written."""
    device.commit(snapshot=0, writes=[1])
    for table, row in enumerate(H3(device.parameters).rows(1)):
        device.inject_parity_error(table, row)
        assert device.commit(snapshot=0, reads=[1]) == abort(Reason.PARITY, 1)


def test_all_reads_meet_the_filter_as_it_was(device: Device) -> None:
    """Twice the same bad key: counted twice, repaired once; also when the request is refused for its snapshot."""
    device.commit(snapshot=0, writes=[1])
    corrupt(device, 2)
    tables = device.parameters.K
    assert device.commit(snapshot=9, reads=[2, 2]) == abort(Reason.BAD_REQUEST)
    stats = device.stats()
    assert (stats["parity_errors"], stats["errors"], stats["keys_validated"]) == (2 * tables, 1, 2)
    assert device.commit(snapshot=0, reads=[2]) == abort(Reason.CONFLICT, 2)


def test_the_first_failing_key_gives_the_reason(device: Device) -> None:
    device.commit(snapshot=0, writes=[1])
    for reads, reason in (([1, 2], Reason.CONFLICT), ([2, 1], Reason.PARITY)):
        corrupt(device, 2)
        assert device.commit(snapshot=0, reads=reads) == abort(reason, reads[0])
    corrupt(device, 2)
    device.raise_floor()
    assert device.commit(snapshot=0, reads=[2]) == abort(Reason.CONFLICT, 2)


def test_insertion_and_the_next_epoch_repair(device: Device) -> None:
    corrupt(device, 1)
    device.commit(snapshot=0, writes=[1])
    assert device.commit(snapshot=0, reads=[1]) == abort(Reason.CONFLICT, 1)
    corrupt(device, 1)
    device.reset()
    assert device.commit(snapshot=device.last_timestamp(), reads=[1]) == READ_ONLY
    assert device.stats()["parity_errors"] == 0


# -- what it says of itself ----------------------------------------------------------------


def test_info(backend, small: Device) -> None:
    info = small.info()
    assert (info.backend, info.version, info.parameters) == (backend.scheme, VERSION, small.parameters)
    assert info.max_request_keys == 16
    assert info.description
    assert (small.parameters.K, small.parameters.D, small.parameters.timestamp_bits) == (2, 16, 4)


def test_statistics(device: Device) -> None:
    clocks = {"clocks", "busy_clocks", "validation_clocks"}
    zero = {name: 0 for name, _ in (*STATISTICS, *FLIGHT_STATISTICS) if name not in clocks}
    assert device.stats().keys() & clocks == (clocks if device.clock_cycles is not None else set())
    without_clocks = {name: value for name, value in device.stats().items() if name not in clocks}
    assert without_clocks == zero
    device.commit(snapshot=0, reads=[1, 1, 2], writes=[3, 3], commutes=[4])
    device.commit(snapshot=0, reads=[9])
    device.commit(snapshot=0, reads=[9, 3, 8], writes=[5])
    device.commit(snapshot=7, reads=[9], writes=[5])
    device.reset()
    device.commit(snapshot=0, reads=[6], writes=[5])
    expected = zero | {
        "commits": 2,
        "aborts_conflict": 1,
        "aborts_bad_request": 1,
        "aborts_rollover": 1,
        "keys_validated": 9,
        "keys_inserted": 3,
        "epoch_steps": 1,
        "errors": 1,
    }
    assert {name: value for name, value in device.stats().items() if name not in clocks} == expected


# -- illegal requests ----------------------------------------------------------------------


def refused(device: Device, error: type, message: str, **request) -> None:
    before = {name: value for name, value in device.stats().items() if "clocks" not in name}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        device.commit(**{"snapshot": 0, **request})
    after = {name: value for name, value in device.stats().items() if "clocks" not in name}
    assert after == before, "a refused request was submitted"


@pytest.mark.parametrize("name", ["reads", "writes", "commutes"])
@pytest.mark.parametrize("key", [-1, 64, 2**32, 2**32 + 1, 2**64, 1.0, "1", None, decimal.Decimal(1), [1]])
def test_a_key_out_of_range(small: Device, name: str, key: object) -> None:
    message = f"a key in {name} must be an integer from 0 to 63, not {key!r}"
    refused(small, KeyRangeError, message, **{name: [1, key, 2]})


@pytest.mark.parametrize("key", [-1, 2**32, 1.0])
def test_a_key_out_of_range_of_32_bits(device: Device, key: object) -> None:
    message = f"a key in reads must be an integer from 0 to 4294967295, not {key!r}"
    refused(device, KeyRangeError, message, reads=[key])


@pytest.mark.parametrize("snapshot", [-1, 2**36, 2**64, 0.0, "0", None, decimal.Decimal(0), fractions.Fraction(0)])
def test_a_snapshot_out_of_range(small: Device, snapshot: object) -> None:
    message = f"snapshot must be an integer from 0 to {2**36 - 1}, not {snapshot!r}"
    refused(small, SnapshotRangeError, message, snapshot=snapshot)


def test_a_snapshot_out_of_range_of_64_bits(device: Device) -> None:
    message = f"snapshot must be an integer from 0 to {2**64 - 1}, not {2**64}"
    refused(device, SnapshotRangeError, message, snapshot=2**64)


@pytest.mark.parametrize("sizes", [(17, 0, 0), (0, 17, 0), (0, 0, 17), (6, 6, 5), (1000, 1000, 1000)])
def test_a_request_too_large(small: Device, sizes: tuple[int, int, int]) -> None:
    message = (
        f"a request can have 16 keys in all its sets together, not {sum(sizes)};"
        " split the transaction or open the device with a larger aperture_depth"
    )
    reads, writes, commutes = ([1] * size for size in sizes)
    refused(small, RequestTooLarge, message, reads=reads, writes=writes, commutes=commutes)


@pytest.mark.parametrize("keys", [None, 5, object])
def test_a_set_must_be_a_sequence(small: Device, keys: object) -> None:
    refused(small, RequestError, f"writes must be a sequence of keys, not {keys!r}", writes=keys)


class Index:
    """An integer in the eyes of Python, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Int(int):
    pass


class OldSequence:
    """A sequence by its methods only."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return (1, 2)[index]


ODD_SETS = {
    "bool": [True, False],
    "int subclass": [Int(3)],
    "index": [Index(3), 5],
    "index too large": [Index(2**70)],
    "index negative": [Index(-1)],
    "tuple": (3, 4),
    "range": range(3, 9),
    "array": array.array("H", [3, 4]),
    "bytes": b"\x03\x04",
    "set": {3},
    "dict": {3: 4},
    "text": "34",
    "old sequence": OldSequence(),
    "memoryview": memoryview(b"\x03\x04"),
    "fraction": [fractions.Fraction(3)],
    "complex": [3j],
    "nested": [(3,)],
    "generator": (key for key in (3, 4)),
}


def outcome(device: Device, request: dict) -> object:
    try:
        verdict = device.commit(**request)
    except RequestError as error:
        return type(error), str(error)
    return [(type(value), value) for value in verdict]


@pytest.mark.parametrize("name", ["reads", "writes", "snapshot"])
@pytest.mark.parametrize("odd", ODD_SETS.values(), ids=ODD_SETS)
def test_odd_types_have_the_outcome_of_the_model(small: Device, name: str, odd: object) -> None:
    if name == "snapshot":
        request = {"snapshot": next(iter(odd)) if isinstance(odd, (list, tuple, range)) else odd}
    else:
        request = {"snapshot": 0, name: odd}
    with open_device(f"model:?{SMALL}") as model:
        for device in (model, small):
            device.commit(snapshot=0, writes=[1, 3])
        assert outcome(small, request) == outcome(model, request)
        assert small.last_timestamp() == model.last_timestamp()


def test_numpy_arrays_are_sequences_of_keys(device: Device) -> None:
    numpy = pytest.importorskip("numpy")
    device.commit(snapshot=0, writes=numpy.array([7, 2**32 - 1], dtype=numpy.uint32))
    verdict = device.commit(snapshot=numpy.uint64(0), reads=numpy.array([9, 7], dtype=numpy.int64))
    assert verdict == abort(Reason.CONFLICT, 7)
    assert type(verdict.conflict_key) is int
    assert not device.commit(snapshot=0, reads=numpy.array([2**32 - 1], dtype=numpy.uint32)).committed


@pytest.mark.parametrize("initial", [-1, 2**32, 1.0, None])
def test_reset_to_an_impossible_epoch(small: Device, initial: object) -> None:
    message = f"initial_epoch must be an integer from 0 to 4294967295, not {initial!r}"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        small.reset(initial)
    assert small.last_timestamp() == 0


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        (2, 0, "table must be an integer from 0 to 1, not 2"),
        (-1, 0, "table must be an integer from 0 to 1, not -1"),
        (0, 16, "row must be an integer from 0 to 15, not 16"),
        (0, None, "row must be an integer from 0 to 15, not None"),
    ],
)
def test_injecting_where_there_is_no_word(small: Device, table: int, row: int, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{message}$"):
        small.inject_parity_error(table, row)


# -- opening, closing, forking -------------------------------------------------------------

OPERATIONS = {
    "commit": lambda device: device.commit(snapshot=0, reads=[1]),
    "commit nothing": lambda device: device.commit(snapshot=0),
    "commit nonsense": lambda device: device.commit(snapshot=-1, reads=[1.5]),
    "last_timestamp": lambda device: device.last_timestamp(),
    "info": lambda device: device.info(),
    "stats": lambda device: device.stats(),
    "reset": lambda device: device.reset(),
    "raise_floor": lambda device: device.raise_floor(),
    "inject": lambda device: device.inject_parity_error(0, 0),
    "publish": lambda device: device.publish(5),
    "wait_published": lambda device: device.wait_published(5, timeout=1),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_closed_device_refuses(small: Device, operation: str) -> None:
    small.close()
    small.close()
    with pytest.raises(DeviceClosed, match=r"^the device is closed; open it again with bloomgate.open_device\(\)$"):
        OPERATIONS[operation](small)


def test_what_a_closed_device_has_published(small: Device) -> None:
    last = small.commit(snapshot=small.published, writes=[1]).timestamp
    small.publish(last)
    small.close()
    gc.collect()
    assert small.published == last


def test_the_context_manager_closes(small_url: str) -> None:
    with open_device(small_url) as device:
        device.commit(snapshot=0, writes=[1])
    with pytest.raises(DeviceClosed):
        device.stats()


def test_closing_while_others_commit(small_url: str) -> None:
    """Each of them gets a verdict or DeviceClosed, and nobody crashes or hangs."""
    device = open_device(small_url)
    everybody = threading.Barrier(4)
    ends: list[object] = []

    def client() -> None:
        everybody.wait(timeout=30)
        try:
            while True:
                device.commit(snapshot=device.last_timestamp(), reads=[1, 2], writes=[3])
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    everybody.wait(timeout=30)
    while device.stats()["keys_validated"] < 20:
        pass
    device.close()
    for thread in threads:
        thread.join(timeout=30)
    assert [type(end) for end in ends] == [DeviceClosed] * 3


def test_two_devices_share_nothing(small_url: str) -> None:
    with open_device(small_url) as one, open_device(small_url) as other:
        one.commit(snapshot=0, writes=[1])
        assert other.last_timestamp() == 0
        assert other.commit(snapshot=0, reads=[1]) == READ_ONLY


FORK = """
import os, sys, threading
from bloomgate import DeviceClosed, open_device
device = open_device(sys.argv[1])
device.commit(snapshot=0, writes=[1])
busy = threading.Event()
stop = threading.Event()
def client():
    while not stop.is_set():
        device.commit(snapshot=device.last_timestamp(), reads=list(range(10)))
        busy.set()
threading.Thread(target=client, daemon=True).start()
busy.wait(30)
for _ in range(20):
    child = os.fork()
    if child == 0:
        try:
            device.commit(snapshot=0, reads=[1])
        except DeviceClosed as error:
            assert str(error) == (
                "the device was opened before a fork; open it again with bloomgate.open_device()"
            ), error
            with open_device(sys.argv[1]) as own:
                own.commit(snapshot=0, writes=[1])
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
assert device.last_timestamp() == 1
print("done")
"""


def test_a_forked_process_has_to_open_its_own(backend, small_url: str) -> None:
    if backend.scheme == "sim":
        pytest.skip("covered by the backends in C and Python; sim: would compile in the child")
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, small_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


# -- publication, as far as it concerns the device -----------------------------------------


def test_publish_and_wait(device: Device) -> None:
    first = device.commit(snapshot=0, writes=[1]).timestamp
    second = device.commit(snapshot=0, writes=[2]).timestamp
    device.publish(None)
    device.wait_published(None)
    device.wait_published(0)
    device.publish(second)
    assert device.published == 0
    with pytest.raises(TimeoutError, match=r"^timestamp 2 was not published within 0 s; the oldest commit"):
        device.wait_published(second, timeout=0)
    device.publish(first)
    assert device.published == 2
    device.wait_published(second)
    with pytest.raises(PublicationError, match=r"^timestamp 3 was never assigned; the last one is 2$"):
        device.publish(3)
    with pytest.raises(PublicationError, match=r"^timestamp 9 was never assigned; the last one is 2$"):
        device.wait_published(9)


def test_wait_published_helps(device: Device) -> None:
    for _ in range(3):
        device.commit(snapshot=0, writes=[1])
    helped: list[int] = []
    device.set_helper(lambda timestamp: helped.append(timestamp) or True)
    device.wait_published(3, timeout=30)
    assert (helped, device.published) == ([1, 2, 3], 3)

"""``published``: contiguous, monotone, across epochs, with helpers and threads."""

import itertools
import linecache
import random
import sys
import threading

import pytest
from bloomgate import Parameters, PublicationError
from bloomgate.publication import Publication

SMALL = Parameters(timestamp_bits=3, D=16)  # counts 1 to 7


class Assigned:
    """The device, as Publication sees it."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self) -> int:
        return self.last


def publication(last: int, origin: int = 0, parameters: Parameters = SMALL) -> Publication:
    return Publication(parameters, origin, Assigned(last))


def test_every_order_gives_the_contiguous_prefix() -> None:
    for order in itertools.permutations(range(1, 6)):
        subject = publication(5)
        done: set[int] = set()
        for timestamp in order:
            subject.publish(timestamp)
            done.add(timestamp)
            prefix = max(n for n in range(6) if set(range(1, n + 1)) <= done)
            assert subject.published == prefix, order


def test_repeated_and_none() -> None:
    subject = publication(3)
    for timestamp in (None, 1, 1, 0, 3, 3, 2, 2, None):
        subject.publish(timestamp)
    assert subject.published == 3
    assert not subject._written_back


def test_never_assigned() -> None:
    subject = publication(3)
    for operation in (subject.publish, subject.wait):
        with pytest.raises(PublicationError, match=r"^timestamp 4 was never assigned; the last one is 3$"):
            operation(4)
    assert subject.published == 0


def test_rollover_needs_no_call() -> None:
    """Publishing the last count of an epoch publishes the empty commit that begins the next."""
    subject = publication(9)
    for timestamp in range(1, 7):
        subject.publish(timestamp)
    assert subject.published == 6
    subject.publish(9)
    assert subject.published == 6
    subject.publish(7)
    assert subject.published == 9


def test_the_last_epoch_has_no_next() -> None:
    top = SMALL.max_timestamp
    subject = publication(top, origin=top - 1)
    subject.publish(top)
    assert subject.published == top


def test_reset_in_the_middle() -> None:
    assigned = Assigned(3)
    subject = Publication(SMALL, 0, assigned)
    subject.publish(1)
    assigned.last = 16
    subject.epoch_stepped(3, 16)
    assigned.last = 17
    subject.publish(17)
    subject.publish(3)
    assert subject.published == 1
    subject.publish(2)
    assert subject.published == 17


def test_reset_with_nothing_open() -> None:
    assigned = Assigned(0)
    subject = Publication(SMALL, 0, assigned)
    for origin in (8, 16, 40):
        before, assigned.last = assigned.last, origin
        subject.epoch_stepped(before, origin)
        assert subject.published == origin
    subject.wait(40, timeout=0)


def test_resets_reported_late() -> None:
    """Another thread can publish in the new epoch before the reset is reported, and resets can change places."""
    assigned = Assigned(25)
    subject = Publication(SMALL, 0, assigned)
    subject.publish(25)
    subject.epoch_stepped(17, 24)
    subject.publish(17)
    assert subject.published == 0
    subject.epoch_stepped(0, 16)
    assert subject.published == 25


def test_wait_times_out() -> None:
    subject = publication(3)
    subject.publish(1)
    with pytest.raises(
        TimeoutError,
        match=r"^timestamp 3 was not published within 0.001 s; the oldest commit not written back is 2$",
    ):
        subject.wait(3, timeout=0.001)


def in_thread(action) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def finish(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive(), "a thread hangs"


def test_wait_is_woken_by_publish() -> None:
    subject = publication(4)
    published: list[int] = []
    entered = threading.Barrier(4)

    def waiter(timestamp: int) -> None:
        entered.wait(timeout=30)
        subject.wait(timestamp)
        published.append(subject.published - timestamp)

    threads = [in_thread(lambda timestamp=timestamp: waiter(timestamp)) for timestamp in (1, 2, 3)]
    entered.wait(timeout=30)
    for timestamp in (3, 2, 1):
        subject.publish(timestamp)
    finish(*threads)
    assert all(difference >= 0 for difference in published)
    assert len(published) == 3


def test_the_helper_finishes_the_oldest_first() -> None:
    subject = publication(7)
    helped: list[int] = []

    def helper(timestamp: int) -> bool:
        helped.append(timestamp)
        return True

    subject.helper = helper
    subject.publish(2)
    subject.publish(4)
    subject.wait(5, timeout=30)
    assert helped == [1, 3, 5]
    assert subject.published == 5


def test_a_helper_that_cannot_is_asked_again() -> None:
    subject = publication(1)
    asked: list[int] = []

    def helper(timestamp: int) -> bool:
        asked.append(timestamp)
        if len(asked) == 3:
            subject.publish(1)  # its owner came back
        return False

    subject.helper = helper
    subject.wait(1, timeout=30)
    assert asked == [1, 1, 1]


def test_a_helper_may_use_the_publication() -> None:
    """It is called without the lock."""
    subject = publication(2)

    def helper(timestamp: int) -> bool:
        other = in_thread(lambda: subject.publish(timestamp))
        finish(other)
        return False

    subject.helper = helper
    subject.wait(2, timeout=30)
    assert subject.published == 2


def test_a_helper_that_fails_shows_it() -> None:
    subject = publication(1)

    def helper(timestamp: int) -> bool:
        raise RuntimeError("disk full")

    subject.helper = helper
    with pytest.raises(RuntimeError, match="^disk full$"):
        subject.wait(1, timeout=30)
    subject.helper = None
    subject.publish(1)
    assert subject.published == 1


def test_a_lock_that_an_exception_left_behind_is_released() -> None:
    """One that comes just before the release, as a trace function can raise there."""
    subject = publication(2)

    def trace(frame, event, argument):
        if frame.f_code is not Publication._advance.__code__:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line == "self._moving.release()":
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            subject.publish(1)
    finally:
        sys.settrace(before)
    assert subject._moving._is_owned(), "nothing was left behind, so that this test shows nothing"
    subject.release_leaked()
    finish(in_thread(lambda: subject.publish(2)))
    assert subject.published == 2
    # Nothing to release is no error.
    subject.release_leaked()


def test_many_threads(seed: int) -> None:
    """Everyone publishes a share in a random order and waits for all; nobody sees ``published`` go back."""
    total, clients = 600, 4
    wide = Parameters(timestamp_bits=5, D=16)
    last = 0
    timestamps = []
    while len(timestamps) < total:
        last += 1
        if last % 32:
            timestamps.append(last)
    subject = Publication(wide, 0, Assigned(last))
    random.Random(seed).shuffle(timestamps)
    failures: list[object] = []

    def client(share: list[int]) -> None:
        seen = 0
        for timestamp in share:
            subject.publish(timestamp)
            now = subject.published
            if now < seen:
                failures.append((seen, now))
            seen = now
        subject.wait(last, timeout=30)

    finish(*(in_thread(lambda n=n: client(timestamps[n::clients])) for n in range(clients)))
    assert not failures
    assert subject.published == last
    assert not subject._written_back

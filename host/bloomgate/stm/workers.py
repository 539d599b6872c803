"""Threads that run calls as transactions; one that waits for a change by ``retry`` waits without a thread."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Optional

from bloomgate.stm.atomic import run_within
from bloomgate.stm.errors import Cancelled, Parked, TransactionTimeout
from bloomgate.stm.limits import NO_LIMITS, Allowance, Limits
from bloomgate.stm.runtime import runtime
from bloomgate.stm.waiting import Parking

__all__ = ["Job", "Workers"]

_QUEUED, _RUNNING, _PARKED, _ENDED = range(4)
#: Seconds after which a transaction that waits for other processes looks again: they wake nobody here.
_SLICE = 0.02


class Job:
    """A call that is run as a transaction, again when that is necessary, and then reported."""

    def __init__(
        self,
        call: Callable[[], Any],
        done: Callable[[Any, Optional[BaseException]], object],
        limits: Limits = NO_LIMITS,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """``done(result, error)`` is called once, in any thread. ``unwanted()``: do not begin (again)."""
        self.call = call
        self._done = done
        self._unwanted = unwanted
        self._allowance = Allowance(limits, parks=True)
        self._cancelled = False
        self._expired = False
        self._state = _ENDED
        self._parking: Optional[Parking] = None
        #: Ends that a cancellation wakes it.
        self._forget: Callable[[], object] = lambda: None

    def _body(self) -> Any:
        result = self.call()
        # The last moment at which it can be taken back.
        self._check()
        return result

    def _check(self) -> None:
        if self._cancelled or self._unwanted():
            raise Cancelled("the transaction was cancelled before it could be committed")


class Workers:
    """At most ``threads`` threads (default: one for each processor), started when there is something to do."""

    def __init__(self, threads: Optional[int] = None, initialise: Callable[[], object] = lambda: None) -> None:
        """``initialise`` is called at the beginning of each thread."""
        if threads is not None and threads < 1:
            raise ValueError(f"workers must be at least 1, not {threads}")
        self._limit = threads or os.cpu_count() or 1
        self._initialise = initialise
        self._numbers = itertools.count(1)
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        # As in token.py: "with" needs a lock whose __enter__ is not Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Job] = deque()
        #: (time.monotonic() in seconds, number, whether it gives up then, ...): of parked jobs, and of others.
        self._deadlines: list[tuple[float, int, bool, Job, Parking]] = []
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have the job run. Jobs begin in the order in which they were submitted; nothing says which one ends first."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the workers are closed")
            self._enqueue(job)

    def cancel(self, job: Job) -> None:
        """Have the job end without an effect, if its commit has not begun; ``done`` gets ``Cancelled`` then."""
        with self._lock:
            job._cancelled = True
            if job._state == _PARKED:
                self._enqueue(job)

    def close(self) -> None:
        """Let running attempts come to their end, and drop everything else. Idempotent."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join()

    def _enqueue(self, job: Job) -> None:
        job._state = _QUEUED
        self._queue.append(job)
        if len(self._queue) <= self._idle:
            self._changed.notify()
        elif len(self._threads) < self._limit and not self._closed:
            thread = threading.Thread(target=self._work, name=f"bloomgate-worker-{next(self._numbers)}", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _work(self) -> None:
        self._initialise()
        while True:
            job = self._take()
            if job is None:
                return
            self._execute(job)

    def _take(self) -> Optional[Job]:
        with self._lock:
            while not self._closed:
                pause = self._expire()
                if self._queue:
                    job = self._queue.popleft()
                    job._state = _RUNNING
                    return job
                self._idle += 1
                self._changed.wait(pause)
                self._idle -= 1
        return None

    def _expire(self) -> Optional[float]:
        """Put the jobs whose time is over into the queue; seconds until the next one's is."""
        while self._deadlines:
            deadline, _, final, job, parking = self._deadlines[0]
            left = deadline - time.monotonic()
            if job._parking is not parking:
                heapq.heappop(self._deadlines)
            elif left > 0:
                return left
            else:
                heapq.heappop(self._deadlines)
                if job._state == _PARKED:
                    job._expired = final
                    self._enqueue(job)
        return None

    def _execute(self, job: Job) -> None:
        result, error = None, None
        try:
            parking = job._parking
            if parking is not None:
                job._parking = None
                parking.leave()
                job._forget()
                job._allowance.check()
                if parking.timestamp is not None:
                    runtime.device.wait_published(parking.timestamp)
                elif job._expired:
                    raise TransactionTimeout("nothing that the transaction waits for has changed in time")
            job._check()
            result = run_within(job._allowance, job._body)
        except Parked as parked:
            self._park(job, parked)
            return
        except BaseException as raised:
            error = raised
        job._state = _ENDED
        job._done(result, error)

    def _park(self, job: Job, parked: Parked) -> None:
        parking = Parking(runtime.waiting, parked.attempt, lambda: self._wake(job, parking))
        with self._lock:
            job._parking = parking
            job._expired = False
            job._state = _PARKED
            job._forget = job._allowance.watch(lambda: self._wake(job, parking))
            if parked.deadline is not None:
                self._wake_at(parked.deadline, True, job, parking)
            if parked.attempt.shared is not None:
                self._wake_at(time.monotonic() + _SLICE, False, job, parking)
            if job._cancelled or job._allowance.cancelled:
                self._enqueue(job)
        parking.enter()

    def _wake_at(self, when: float, final: bool, job: Job, parking: Parking) -> None:
        heapq.heappush(self._deadlines, (when, next(self._numbers), final, job, parking))

    def _wake(self, job: Job, parking: Parking) -> None:
        with self._lock:
            if job._state == _PARKED and job._parking is parking and not self._closed:
                self._enqueue(job)


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child the threads do not exist, and what they were to do is the parent's business."""
    for workers in list(_all):
        workers._renew()


os.register_at_fork(after_in_child=_after_fork)

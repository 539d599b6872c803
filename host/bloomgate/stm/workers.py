"""Threads that run calls as transactions; one that waits for a change by ``retry`` waits without a thread."""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Optional

from bloomgate.stm.atomic import run_within
from bloomgate.stm.errors import Cancelled, Parked, TransactionTimeout
from bloomgate.stm.limits import NO_LIMITS, Allowance, Cancellation, Limits
from bloomgate.stm.runtime import runtime
from bloomgate.stm.waiting import Parking

__all__ = ["Job", "Workers"]

_log = logging.getLogger("bloomgate.stm")

_NEW, _QUEUED, _RUNNING, _PARKED, _ENDED = range(5)
#: Seconds after which to look again for what wakes nobody here, such as a change by another process.
_SLICE = 0.02


def _nothing() -> None:
    """It is not parked."""


class Job:
    """A call that is run as a transaction, again when that is necessary, and then reported."""

    #: Whether it waits for a change without a thread, and whether it may raise ``Serialise``.
    parks = serialises = True
    #: Ends its waiting, besides the limits.
    stop: Optional[Cancellation] = None

    #: Once it has begun.
    _allowance: Optional[Allowance] = None
    _cancelled = False
    _expired = False
    _state = _NEW
    _parking: Optional[Parking] = None

    def __init__(
        self,
        call: Callable[[], Any],
        done: Callable[[Any, Optional[BaseException]], object],
        limits: Limits = NO_LIMITS,
        unwanted: Optional[Callable[[], bool]] = None,
    ) -> None:
        """``done(result, error)`` is called once, in any thread. ``unwanted()``: do not begin (again)."""
        self._call = call
        self._done = done
        self._limits = limits
        self._unwanted = unwanted
        #: Ends that a cancellation wakes it.
        self._forget: Callable[[], object] = _nothing

    @property
    def new(self) -> bool:
        """Whether it has not been submitted."""
        return self._state == _NEW

    @property
    def begun(self) -> bool:
        """Whether the call has been made, perhaps more than once."""
        return self._allowance is not None

    def __call__(self) -> Any:
        """The transaction."""
        result = self._call()
        # The last moment at which it can be taken back.
        self._check()
        return result

    def __repr__(self) -> str:
        """What reports call it."""
        call = self._call
        while isinstance(call, functools.partial):
            call = call.func
        return getattr(call, "__qualname__", repr(call))

    def _check(self) -> None:
        if self._cancelled or (self._unwanted is not None and self._unwanted()):
            raise Cancelled("the transaction was cancelled before it could be committed")

    def _begin(self) -> Allowance:
        if self._allowance is None:
            self._allowance = Allowance(self._limits, self.stop, parks=self.parks, serialises=self.serialises)
        return self._allowance


class Workers:
    """At most ``threads`` threads (default: one for each processor), started when there is something to do."""

    def __init__(
        self, threads: Optional[int] = None, initialise: Callable[[], object] = lambda: None, *, helped: bool = False
    ) -> None:
        """``initialise`` is called at the beginning of each thread. ``helped``: one of them calls :meth:`work`."""
        if threads is not None and threads < 1:
            raise ValueError(f"workers must be at least 1, not {threads}")
        self._limit = threads or os.cpu_count() or 1
        self._initialise = initialise
        self._helped = helped
        self._numbers = itertools.count(1)
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        # As in token.py: "with" needs a lock whose __enter__ is not Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[Job] = deque()
        #: Jobs that have not ended.
        self._open: set[Job] = set()
        #: What each thread is busy with: threading.get_ident() -> job.
        self._busy: dict[int, Job] = {}
        self._parked: set[Job] = set()
        #: (time.monotonic() in seconds, number, whether it gives up then, ...): of parked jobs, and of others.
        self._deadlines: list[tuple[float, int, bool, Job, Parking]] = []
        self._threads: set[threading.Thread] = set()
        #: Those that have nothing to do any more.
        self._gone: set[threading.Thread] = set()
        #: The threads that wait for a job.
        self._idle: set[int] = set()
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

    def work(self) -> None:
        """Have the calling thread be one of them until all jobs have ended, or :meth:`stop` was called."""
        self._serve(True)

    def stop(self) -> None:
        """Begin nothing any more. Idempotent."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
            parked = list(self._parked)
        for job in parked:
            parking = job._parking
            if parking is not None:
                parking.leave()
                job._forget()
            self._parked.discard(job)

    def close(self) -> None:
        """Let running attempts come to their end, and drop everything else. Idempotent."""
        self.stop()
        others = self._threads - {threading.current_thread()}
        with self._lock:
            # Not by join(), which is over for CPython before 3.13 once it has been interrupted. One that was
            # interrupted in its start is not alive, and will find that there is nothing to do.
            while any(thread.is_alive() for thread in others - self._gone):
                # One that was killed at its beginning does not say so.
                self._changed.wait(_SLICE)
        for thread in others & self._gone:
            thread.join()

    def _enqueue(self, job: Job) -> None:
        # An exception can come between any two steps: it is in the queue once more rather than not at all.
        self._queue.append(job)
        job._state = _QUEUED
        self._open.add(job)
        if len(self._queue) <= len(self._idle):
            self._changed.notify()
        elif len(self._threads - self._gone) + self._helped < self._limit and not self._closed:
            self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"bloomgate-worker-{next(self._numbers)}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            # The system has no more.
            self._threads.discard(thread)
            if not (self._threads or self._helped):
                raise

    def _run(self) -> None:
        try:
            self._initialise()
            while not self._closed:
                try:
                    self._serve(False)
                except BaseException as error:
                    # It was thrown into the thread, and not into the call of a job.
                    _log.warning("an exception has interrupted a worker", exc_info=error)
                    job = self._busy.pop(threading.get_ident(), None)
                    if job is not None:
                        self._end(job, None, error)
        finally:
            self._gone.add(threading.current_thread())
            with self._lock:
                if self._queue and not self._closed:
                    # It was killed.
                    self._start()
                self._changed.notify_all()

    def _serve(self, until_all_have_ended: bool) -> None:
        while True:
            job = self._take(until_all_have_ended)
            if job is None:
                return
            self._execute(job)
            self._busy.pop(threading.get_ident(), None)

    def _take(self, until_all_have_ended: bool) -> Optional[Job]:
        me = threading.get_ident()
        with self._lock:
            while not self._closed and (self._queue or self._open or not until_all_have_ended):
                # Also after an exception.
                self._idle.discard(me)
                pause = self._expire()
                if self._queue:
                    job = self._queue[0]
                    self._busy[me] = job
                    self._queue.popleft()
                    if job._state in (_NEW, _QUEUED):
                        job._state = _RUNNING
                        self._open.add(job)
                        return job
                    continue
                self._idle.add(me)
                self._changed.wait(pause)
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
            allowance = job._begin()
            parking = job._parking
            if parking is not None:
                self._parked.discard(job)
                job._parking = None
                parking.leave()
                job._forget()
                allowance.check()
                if parking.timestamp is not None:
                    runtime.device.wait_published(parking.timestamp)
                elif job._expired:
                    raise TransactionTimeout("nothing that the transaction waits for has changed in time")
            job._check()
            result = run_within(allowance, job)
        except Parked as parked:
            self._park(job, allowance, parked)
            return
        except BaseException as raised:
            error = raised
        self._end(job, result, error)

    def _end(self, job: Job, result: Any, error: Optional[BaseException]) -> None:
        with self._lock:
            if job._state == _ENDED:
                return
            job._state = _ENDED
        try:
            job._done(result, error)
        finally:
            with self._lock:
                self._open.discard(job)
                if self._helped and not self._open:
                    self._changed.notify_all()

    def _park(self, job: Job, allowance: Allowance, parked: Parked) -> None:
        parking = Parking(runtime.waiting, parked.attempt, lambda: self._wake(job, parking))
        with self._lock:
            if self._closed:
                return
            job._parking = parking
            job._expired = False
            job._state = _PARKED
            job._forget = allowance.watch(lambda: self._wake(job, parking))
            self._parked.add(job)
            if parked.deadline is not None:
                self._wake_at(parked.deadline, True, job, parking)
            if parked.attempt.shared is not None:
                self._wake_at(time.monotonic() + _SLICE, False, job, parking)
            if job._cancelled or allowance.cancelled:
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

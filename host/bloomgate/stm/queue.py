"""``TransactionQueue``: a bag of calls, each of which runs as a transaction, on as many threads as there are."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from typing import Any, Callable, Optional

from bloomgate.stm.atomic import require_eager, unwrap
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.limits import NO_LIMITS, Cancellation
from bloomgate.stm.workers import Job, Workers

__all__ = ["TransactionQueue"]

_Item = tuple[Callable[..., Any], tuple[Any, ...]]


class TransactionQueue:
    """Calls that run in parallel with a result as if they had run one after the other, in some order.

    A call that waits by ``retry`` waits without a thread: it is as if it came later. After the transaction module of
    PyPy-TM. With ``ordered`` it is the order of the queue exactly: then a call begins when the one before it has ended,
    and only the threads that call :meth:`add` run in parallel with it. One that waits there for what a later one does
    waits until another thread does that, or for its timeout.
    """

    def __init__(self, threads: Optional[int] = None, *, ordered: bool = False) -> None:
        """``threads``: how many run calls (default: one for each processor)."""
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be an integer of at least 1, not {threads!r}")
        self._threads = 1 if ordered else threads or os.cpu_count() or 1
        self._ordered = ordered
        self._numbers = itertools.count()
        # What commits of calls change here they change by hooks, each of which is one step that is not Python: so no
        # exception comes in its middle, and what is in here is exact whatever happens to a run.
        #: What has not been executed, in order.
        self._calls: dict[int, _Item] = {}
        #: A byte for each call that was. A number cannot be counted up in one step.
        self._tally = bytearray()
        self._rest()
        _all.add(self)

    def _rest(self) -> None:
        """Nobody runs it."""
        # As in token.py: "with" needs a lock whose __enter__ is not Python.
        self._lock = threading.RLock()
        self._run: Optional[_Run] = None

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Put a call in. Within a transaction it goes in when that commits, and not at all if it does not.

        Raises TypeError for what is not a function, and for one whose call does nothing but make a coroutine or a
        generator.
        """
        require_eager(function, "add()")
        number = next(self._numbers)
        if here.tx is not None:
            on_commit(self._calls.setdefault, number, (function, args))
            on_commit(self._submit, number)
        else:
            self._calls[number] = function, args
            self._submit(number)

    def _submit(self, number: int) -> None:
        run = self._run
        if run is not None:
            run.submit(number)

    def run(self) -> None:
        """Run what is in the queue, and what that puts in, until it is empty.

        The first exception stops it: calls that are running come to their end, the others stay in the queue, and the
        exception goes to the caller. The call that raised is not put back; its effects are undone. Those that wait, or
        raise meanwhile, are undone and stay in the queue; so does one that was interrupted from outside, by
        KeyboardInterrupt or whatever else is no :class:`Exception`. If all that are left wait, so does it, for what
        other threads do. Raises :class:`~bloomgate.stm.TransactionError` within a transaction, and when it is running
        already.
        """
        if here.tx is not None:
            raise TransactionError("TransactionQueue.run() must be called outside of transactions")
        run = _Run(self)
        try:
            with self._lock:
                before = self._run
                if before is not None and not before.over:
                    raise TransactionError("the TransactionQueue is running already")
                self._run = run
            if before is not None:
                # It was interrupted once more while its calls came to their end.
                before.close()
            while self._calls and not run.over:
                for number in list(self._calls):
                    run.submit(number)
                run.workers.work()
            run.finish()
        except BaseException as error:
            run.stop(error)
        finally:
            run.close()
        if self._run is run:
            self._run = None
        if run.error is not None:
            raise run.error

    def executed(self) -> int:
        """How many calls have been executed, since the queue was made."""
        return len(self._tally)

    def __len__(self) -> int:
        """How many calls have not been executed; while it runs, those that have begun are among them."""
        return len(self._calls)


class _Run:
    """One time that a queue is run."""

    def __init__(self, queue: TransactionQueue) -> None:
        self.queue = queue
        self.workers = Workers(queue._threads, helped=True)
        #: The first one.
        self.error: Optional[BaseException] = None
        #: Ends the waits of calls.
        self.stopped = Cancellation()
        #: What has been submitted and not ended, by number.
        self.jobs: dict[int, _Call] = {}
        #: Whether no call may begin any more.
        self.over = False

    def submit(self, number: int) -> None:
        """Have a call run that is in the queue. Idempotent."""
        with self.queue._lock:
            item = self.queue._calls.get(number)
            if item is None or self.over:
                return
            job = self.jobs.get(number)
            if job is None:
                job = self.jobs[number] = _Call(self, number, *item)
            if job.new:
                self.workers.submit(job)

    def finish(self) -> None:
        """Begin no call any more."""
        with self.queue._lock:
            self.over = True

    def stop(self, error: BaseException, number: Optional[int] = None) -> None:
        """Begin no call any more, and end those that wait. ``number``: of the one that has raised ``error``.

        Only the first one that raises is gone: one after the other, those that raise later would not have begun.
        """
        with self.queue._lock:
            self.over = True
            if self.error is None:
                self.error = error
                if number is not None and isinstance(error, Exception):
                    self.queue._calls.pop(number, None)
        self.workers.stop()
        self.stopped.cancel()

    def close(self) -> None:
        """Let the calls that are running come to their end. Idempotent."""
        self.finish()
        self.workers.close()


class _Call(Job):
    """A call of a queue."""

    serialises = False

    def __init__(self, run: _Run, number: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        call, limits = unwrap(function, args) or (functools.partial(function, *args), NO_LIMITS)
        super().__init__(call, self._ended, limits)
        self.parks = not run.queue._ordered
        self.stop = run.stopped
        self._run = run
        self._number = number

    def __call__(self) -> None:
        """The transaction."""
        super().__call__()
        queue = self._run.queue
        # Not before: output of an irrevocable transaction would wait for it.
        on_commit(queue._calls.pop, self._number)
        on_commit(queue._tally.append, 0)

    def _ended(self, result: Any, error: Optional[BaseException]) -> None:
        if error is not None:
            self._run.stop(error, self._number)
        self._run.jobs.pop(self._number, None)


_all: weakref.WeakSet[TransactionQueue] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child no thread runs a queue. What has not begun still is in it, as in every other container."""
    for queue in list(_all):
        if queue._run is not None:
            for number, job in queue._run.jobs.items():
                if job.begun:
                    queue._calls.pop(number, None)
        queue._rest()


os.register_at_fork(after_in_child=_after_fork)

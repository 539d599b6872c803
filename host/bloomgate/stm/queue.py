"""``TransactionQueue``: a bag of calls, each of which runs as a transaction, on as many threads as there are."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections import deque
from typing import Any, Callable, Optional

from bloomgate.stm.atomic import run as run_transaction
from bloomgate.stm.atomic import unwrap
from bloomgate.stm.context import here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.limits import NO_LIMITS, Cancellation, Limits

__all__ = ["TransactionQueue"]

_Item = tuple[Callable[..., Any], tuple[Any, ...]]


class TransactionQueue:
    """Calls that run in parallel with a result as if they had run one after the other, in some order.

    After the transaction module of PyPy-TM. With ``ordered`` it is the order of the queue exactly: then a call begins
    when the one before it has ended, and only the threads that call :meth:`add` run in parallel with it.
    """

    def __init__(self, threads: Optional[int] = None, *, ordered: bool = False) -> None:
        """``threads``: how many run calls (default: one for each processor)."""
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._threads = 1 if ordered else threads or os.cpu_count() or 1
        self._items: deque[_Item] = deque()
        self._executed = 0
        self._rest()
        _all.add(self)

    def _rest(self) -> None:
        """Nobody runs it."""
        # As in token.py: "with" needs a lock whose __enter__ is not Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._busy = 0
        self._running = False
        self._error: Optional[BaseException] = None
        #: Ends the waits of the calls that are running.
        self._stopped = Cancellation()

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Put a call in. Within a transaction it goes in when that commits, and not at all if it does not."""
        if not callable(function):
            raise TypeError(f"add() needs a function, not {function!r}")
        if here.tx is not None:
            on_commit(self._add, (function, args))
        else:
            self._add((function, args))

    def _add(self, item: _Item) -> None:
        with self._lock:
            self._items.append(item)
            self._changed.notify()

    def run(self) -> None:
        """Run what is in the queue, and what that puts in, until it is empty.

        The first exception stops it: calls that are running come to their end, the others stay in the queue, and the
        exception goes to the caller. The call that raised is not put back; its effects are undone. Those that wait, or
        raise meanwhile, are undone and put back. Raises :class:`~bloomgate.stm.TransactionError` within a transaction,
        and when it is running already.
        """
        if here.tx is not None:
            raise TransactionError("TransactionQueue.run() must be called outside of transactions")
        with self._lock:
            if self._running:
                raise TransactionError("the TransactionQueue is running already")
            self._running = True
            self._error = None
            self._stopped = Cancellation()
        workers: list[threading.Thread] = []
        try:
            for number in range(self._threads - 1):
                worker = threading.Thread(target=self._work, name=f"TransactionQueue-{number + 1}")
                worker.start()
                workers.append(worker)
            self._work()
        except BaseException as error:
            self._stop(error)
        finally:
            for worker in workers:
                worker.join()
            with self._lock:
                self._running = False
                first, self._error = self._error, None
        if first is not None:
            raise first

    def executed(self) -> int:
        """How many calls have been executed, since the queue was made."""
        return self._executed

    def __len__(self) -> int:
        return len(self._items)

    def _work(self) -> None:
        while True:
            item = self._take()
            if item is None:
                return
            committed: list[bool] = []
            try:
                _run(item, committed, self._stopped)
            except BaseException as error:
                self._stop(error, None if committed else item)
            finally:
                with self._lock:
                    self._executed += len(committed)
                    self._busy -= 1
                    if not self._busy:
                        self._changed.notify_all()

    def _take(self) -> Optional[_Item]:
        """The next call; None when there is none and none can come, or after an exception."""
        with self._lock:
            while True:
                if self._error is not None:
                    return None
                if self._items:
                    self._busy += 1
                    return self._items.popleft()
                if not self._busy:
                    self._changed.notify_all()
                    return None
                self._changed.wait()

    def _stop(self, error: BaseException, item: Optional[_Item] = None) -> None:
        """``item``: the call that raised, if it was undone.

        Only the first that raises is gone: one after the other, those that raise later would not have begun.
        """
        with self._lock:
            if self._error is None:
                self._error = error
            elif item is not None:
                self._items.appendleft(item)
            self._changed.notify_all()
        self._stopped.cancel()


def _run(item: _Item, committed: list[bool], stopped: Cancellation) -> None:
    """Run a call within its limits, and until ``stopped`` ends its waiting.

    ``committed`` gets an entry when it is, also if a hook raises afterwards.
    """
    function, args = item

    inner, (timeout, cancel) = unwrap(function, args) or (functools.partial(function, *args), NO_LIMITS)

    def call() -> None:
        inner()
        # Not before: output of an irrevocable transaction would wait for it.
        on_commit(committed.append, True)

    # For the conflict report.
    call.__qualname__ = getattr(function, "__qualname__", repr(function))
    if cancel is None:
        run_transaction(call, (), None, Limits(timeout, stopped))
    else:
        with cancel.joined(stopped) as either:
            run_transaction(call, (), None, Limits(timeout, either))


_all: weakref.WeakSet[TransactionQueue] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child no thread runs a queue. What was in it still is, as in every other container."""
    for queue in list(_all):
        queue._rest()


os.register_at_fork(after_in_child=_after_fork)

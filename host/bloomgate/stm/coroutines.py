"""Transactions that a coroutine awaits: they run on worker threads, while its event loop goes on."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Coroutine
from typing import Any, Callable, Optional, TypeVar

from bloomgate.stm.atomic import nested
from bloomgate.stm.context import here
from bloomgate.stm.errors import Serialise, TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.limits import NO_LIMITS, Limits
from bloomgate.stm.turn import Turn, take_turn
from bloomgate.stm.workers import Job, Workers

__all__ = ["atomic_coroutine", "in_context", "outcome", "resolve", "transact"]

T = TypeVar("T")
Call = Callable[[], Any]

#: For the loops that know nothing of transactions.
_shared = Workers()


def in_context(call: Call) -> Call:
    """``call`` with the context variables of now, in a copy of its own for each attempt."""
    context = contextvars.copy_context()
    return lambda: context.copy().run(call)


def outcome(call: Call) -> tuple[Any, Optional[BaseException]]:
    """The result of a call that has to run on the loop's thread, as a part of a turn that its exception undoes."""

    def part() -> Any:
        tx = here.tx
        assert tx is not None
        return nested(tx, call)

    try:
        return take_turn(part), None
    except BaseException as error:
        return None, error


def resolve(future: asyncio.Future[Any], result: Any, error: Optional[BaseException]) -> None:
    """Set the future, unless it has been cancelled."""
    if future.done():
        return
    if isinstance(error, StopIteration):
        # As if the function were a coroutine.
        cause, error = error, RuntimeError("the transaction raised StopIteration")
        error.__cause__ = cause
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


async def transact(call: Call, limits: Limits = NO_LIMITS) -> Any:
    """The result of ``call``, run as a transaction on a worker of the running loop.

    Within a turn of the loop it begins when that has ended. A cancelled task gets CancelledError when the transaction
    has ended: without an effect, unless its commit had begun.
    """
    loop = asyncio.get_running_loop()
    workers: Workers = getattr(loop, "workers", _shared)
    call = in_context(call)
    ended: asyncio.Future[Any] = loop.create_future()

    def done(result: Any, error: Optional[BaseException]) -> None:
        try:
            if isinstance(error, Serialise):
                loop.call_soon_threadsafe(lambda: resolve(ended, *outcome(call)))
            else:
                loop.call_soon_threadsafe(resolve, ended, result, error)
        except RuntimeError:
            # The loop has been closed, and nobody waits any more.
            if not loop.is_closed():
                raise

    job = Job(call, done, limits)
    if here.tx is None:
        workers.submit(job)
    else:
        on_commit(workers.submit, job)
    cancelled: Optional[asyncio.CancelledError] = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
            workers.cancel(job)
    if cancelled is not None:
        if not ended.cancelled():
            # Seen, so that nobody complains that it was not.
            ended.exception()
        raise cancelled
    return ended.result()


_SUSPENDED = (
    "{} was suspended in the middle of its transaction: an atomic coroutine function can"
    " await other atomic ones, and wait by retry(); await everything else before or after it"
)


def _drive(function: Callable[..., Coroutine[Any, Any, T]], args: Any, kwargs: Any) -> T:
    """The result of a coroutine that never suspends."""
    coroutine = function(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    except (RuntimeError, AttributeError) as error:
        if _needed_loop(error):
            raise TransactionError(_SUSPENDED.format(function.__qualname__)) from error
        raise
    finally:
        coroutine.close()
    raise TransactionError(_SUSPENDED.format(function.__qualname__))


def _needed_loop(error: BaseException) -> bool:
    """Whether asyncio has raised it for lack of a loop: on a worker of a loop that is not ours there is none."""
    if asyncio._get_running_loop() is not None:
        return False
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    # asyncio.sleep() does not find it, Event.wait() takes None for it.
    return where is not None and where.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "asyncio"


def atomic_coroutine(
    function: Callable[..., Coroutine[Any, Any, T]], limits: Limits
) -> Callable[..., Coroutine[Any, Any, T]]:
    """``atomic`` for a coroutine function."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> T:
        tx = here.tx
        if tx is None or isinstance(tx, Turn):
            host: Callable[[Call, Limits], Awaitable[Any]] = transact
            loop = asyncio.get_running_loop()
            alone: T = await getattr(loop, "transact", host)(lambda: _drive(function, args, kwargs), limits)
            return alone
        mark = tx.enter()
        try:
            result = await function(*args, **kwargs)
        except BaseException:
            tx.undo(mark)
            raise
        tx.leave(mark)
        return result

    return wrapper

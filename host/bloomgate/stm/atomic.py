"""Running functions as transactions: ``atomic``, ``retry``, ``or_else``, ``check``."""

from __future__ import annotations

import functools
import inspect
import random
import time
from collections.abc import Generator
from typing import Any, Callable, Optional, TypeVar, Union, overload

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here
from bloomgate.stm.errors import (
    CommitFailed,
    Parked,
    Reentered,
    Restart,
    RetrySignal,
    TransactionError,
    TransactionTimeout,
)
from bloomgate.stm.hooks import finish
from bloomgate.stm.in_place import AGAIN, begin, run_in_place
from bloomgate.stm.limits import NO_LIMITS, Allowance, Cancellation, Limits, limits_of, require_seconds
from bloomgate.stm.runtime import runtime
from bloomgate.verdict import Reason

__all__ = [
    "atomic",
    "check",
    "in_transaction",
    "nested",
    "operation",
    "or_else",
    "require_eager",
    "retry",
    "run",
    "run_within",
    "unwrap",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Aborts after which a transaction asks for the token, which guarantees that its next attempt commits.
PATIENCE = 8
#: Attempts that may fail for another reason than a conflict.
MAX_REFUSALS = 1000
#: Aborts without a pause: most conflicts are over when the attempt is.
EAGER = 2
#: Seconds; the first pause is at most this long, each further one at most twice as long as the one before.
FIRST_PAUSE = 20e-6
LONGEST_PAUSE = 5e-3


@overload
def atomic(function: F) -> F: ...
@overload
def atomic(*, timeout: Optional[float] = None, cancel: Optional[Cancellation] = None) -> Callable[[F], F]: ...
def atomic(
    function: Optional[F] = None, *, timeout: Optional[float] = None, cancel: Optional[Cancellation] = None
) -> Union[F, Callable[[F], F]]:
    """Decorator: every call of ``function`` is a transaction, or part of the one in whose middle it is called.

    The function may be run several times, so that it should touch nothing but transactional variables. An exception
    that leaves it undoes everything that the call did, and goes on to the caller. Of a generator function each step is
    a transaction; because a step cannot be repeated, it runs irrevocably. A coroutine function is one transaction as a
    whole, see :func:`bloomgate.aio.transact`: it may await other atomic ones, and nothing else that suspends it.

    ``timeout``: seconds after which waiting (``retry``, or for an irrevocable transaction) raises
    :class:`~bloomgate.stm.TransactionTimeout`. ``cancel``: makes waiting raise :class:`~bloomgate.stm.Cancelled`.
    """
    if function is None:
        limits = limits_of(timeout, cancel)
        return lambda function: _atomic(function, limits)
    return _atomic(function, NO_LIMITS)


def _atomic(function: F, limits: Limits) -> F:
    if not callable(function):
        raise TypeError(f"atomic must decorate a function, not {function!r}")
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"atomic must decorate a function or coroutine function, not the asynchronous generator {function!r}:"
            " its steps would be suspended in the middle of a transaction"
        )
    wrapper: Any
    if inspect.iscoroutinefunction(function):
        from bloomgate.stm.coroutines import atomic_coroutine

        return atomic_coroutine(function, limits)  # type: ignore[return-value]
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _steps(function(*args, **kwargs), limits)

        # For those who refuse what does nothing when it is called.
        wrapper.__transaction_steps__ = True

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            tx = here.tx
            if tx is not None:
                return nested(tx, function, args, kwargs)
            if limits is NO_LIMITS:
                return _run(function, args, kwargs, None)
            return run_within(Allowance(limits), function, args, kwargs)

        # For those who run it elsewhere than where it is called, such as event loops.
        wrapper.__transaction__ = (function, limits)

    return wrapper  # type: ignore[no-any-return]


def unwrap(
    function: Callable[..., Any], args: Any = (), kwargs: Any = None
) -> Optional[tuple[Callable[[], Any], Limits]]:
    """What a call of an atomic function is a transaction of, and its limits; None for every other function."""
    kwargs = kwargs or {}
    while isinstance(function, functools.partial):
        args, kwargs = (*function.args, *args), {**function.keywords, **kwargs}
        function = function.func
    found = getattr(function, "__transaction__", None)
    if found is None:
        return None
    inner, limits = found
    if hasattr(function, "__self__"):
        args = (function.__self__, *args)
    return functools.partial(inner, *args, **kwargs), limits


def require_eager(function: Callable[..., Any], caller: str) -> None:
    """Raises TypeError for what is not a function, and for one whose call only makes something that does the work."""
    if not callable(function):
        raise TypeError(f"{caller} needs a function, not {function!r}")
    if _is_lazy(function):
        raise TypeError(
            f"{caller} needs a function that does its work when it is called, not {function!r}: an atomic coroutine"
            " function is awaited, see bloomgate.aio, and a generator needs somebody who takes its steps"
        )


def _is_lazy(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if hasattr(function, "__transaction_steps__"):
        return True
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _LAZY)


_LAZY = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR


def operation(method: F) -> F:
    """Decorator for methods of containers: a transaction of its own when called outside of one.

    It has nothing to undo when it raises, so it needs no nested call.
    """

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if here.tx is None:
            return _run(method, args, kwargs, None)
        return method(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def nested(tx: Attempt, function: Callable[..., T], args: Any = (), kwargs: Any = None) -> T:
    """Call ``function`` as a part of ``tx`` that an exception undoes."""
    mark = tx.enter()
    try:
        result = function(*args, **({} if kwargs is None else kwargs))
    except BaseException:
        tx.undo(mark)
        raise
    tx.leave(mark)
    return result


def run(function: Callable[..., T], args: Any = (), kwargs: Any = None, limits: Limits = NO_LIMITS) -> T:
    """Run ``function`` as one transaction, again and again until it commits or raises."""
    if limits is not NO_LIMITS:
        return run_within(Allowance(limits), function, args, kwargs)
    return _run(function, args, {} if kwargs is None else kwargs, None)


def run_within(allowance: Allowance, function: Callable[..., T], args: Any = (), kwargs: Any = None) -> T:
    """The same with limits. Raises :class:`Parked` for a transaction that retries, if the allowance wants that."""
    # Of the transaction that a signal handler has interrupted.
    before, here.allowance = here.allowance, allowance
    try:
        return _run(function, args, {} if kwargs is None else kwargs, allowance)
    finally:
        here.allowance = before


def _run(function: Callable[..., T], args: Any, kwargs: Any, allowance: Optional[Allowance]) -> T:
    try:
        attempt = begin(runtime)
        if attempt is not None:
            # It does not wait, so that it needs no allowance.
            result = run_in_place(attempt, function, args, kwargs)
            if result is not AGAIN:
                return result  # type: ignore[return-value]
        return _run_ordinary(function, args, kwargs, allowance)
    except Reentered:
        # What is held is held by the commit below.
        raise
    except BaseException:
        # Once more: an asynchronous exception may have come between an exception and its clean-up.
        here.tx = None
        runtime.abandon()
        raise


def _run_ordinary(function: Callable[..., T], args: Any, kwargs: Any, allowance: Optional[Allowance]) -> T:
    failures = 0
    refusals = 0
    while True:
        attempt = runtime.begin()
        blocked: Optional[RetrySignal] = None
        committed = False
        try:
            try:
                here.tx = attempt
                if not attempt.registered():
                    raise Restart
                if failures >= PATIENCE:
                    runtime.escalate(attempt, allowance)
                if runtime.profile is not None:
                    runtime.profile.begin(attempt, function)
                result = function(*args, **kwargs)
                # Finalisers that run from here on are not part of the transaction.
                here.tx = None
                if attempt.writes or attempt.commutes:
                    committed = runtime.commit(attempt, allowance)
                else:
                    committed = True
                    if attempt.shared is not None:
                        attempt.shared.committed()
            finally:
                here.tx = None
                runtime.end(attempt)
            if committed:
                mine = attempt.context
                if attempt.verdict is None:
                    mine.read_only += 1
                else:
                    mine.commits += 1
                    if runtime.profile is not None:
                        runtime.profile.committed(attempt)
                if attempt.hooks is not None:
                    finish(attempt, True)
                return result
        except RetrySignal as signal:
            blocked = signal
        except Restart:
            pass
        except BaseException:
            # Once more, for the same reason as in run().
            here.tx = None
            runtime.end(attempt)
            attempt.context.exceptions += 1
            verdict = attempt.verdict
            finish(attempt, committed or (verdict is not None and verdict.committed))
            raise
        finish(attempt, False)
        if blocked is not None:
            allowance = _sleep(attempt, blocked, allowance)
            failures = 0
            continue
        failures += 1
        if not _was_conflict(attempt):
            refusals += 1
            if refusals > MAX_REFUSALS:
                raise CommitFailed(
                    f"the device refused a commit {refusals} times, the last time with {attempt.verdict}"
                )
        if runtime.published() <= attempt.snapshot:
            # What it lost against is decided but not visible yet, and a new attempt would lose again. The same after
            # a reset: there is no snapshot in the new epoch before everything of the old one is written back.
            runtime.catch_up()
        if failures > EAGER:
            time.sleep(random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**failures)))


def _was_conflict(attempt: Attempt) -> bool:
    """Whether the attempt failed because of others; counts and reports it."""
    verdict = attempt.verdict
    conflict = verdict is None or verdict.reason in (Reason.CONFLICT, Reason.PARITY)
    mine = attempt.context
    if conflict:
        mine.conflicts += 1
        if runtime.profile is not None:
            runtime.profile.lost(attempt)
    else:
        mine.other_aborts += 1
    return conflict


def _sleep(attempt: Attempt, signal: RetrySignal, allowance: Optional[Allowance]) -> Optional[Allowance]:
    """Wait until something that ``attempt`` read has changed; returns what the call may still wait."""
    attempt.context.retries += 1
    if not attempt.reads:
        raise TransactionError("retry() needs something to wait for, and the transaction has read nothing")
    if allowance is None and signal.timeout is not None:
        allowance = Allowance()
    if allowance is not None:
        deadline = allowance.deadline(signal.timeout)
        if allowance.parks:
            raise Parked(attempt, deadline)
    timestamp = runtime.waiting.sleep(attempt, allowance)
    if timestamp is None:
        raise TransactionTimeout("nothing that the transaction waits for has changed in time")
    runtime.device.wait_published(timestamp)
    return allowance


def _steps(generator: Generator[Any, Any, Any], limits: Limits) -> Generator[Any, Any, Any]:
    """A generator whose steps are transactions."""

    def step(advance: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
        tx = here.tx
        assert tx is not None
        if not tx.irrevocable:
            runtime.escalate(tx)
            tx.irrevocable = True
            tx.alternatives = 0
        try:
            return False, advance(value)
        except StopIteration as stop:
            return True, stop.value

    advance: Callable[[Any], Any] = generator.send
    value: Any = None
    while True:
        stopped, result = run(step, (advance, value), None, limits) if here.tx is None else step(advance, value)
        if stopped:
            return result
        try:
            value = yield result
            advance = generator.send
        except GeneratorExit:
            generator.close()
            raise
        except BaseException as error:
            value = error
            advance = generator.throw


def in_transaction() -> bool:
    """Whether the caller is in the middle of a transaction."""
    return here.tx is not None


def retry(timeout: Optional[float] = None) -> Any:
    """Give up this attempt, and run the transaction again when something that it has read has changed.

    ``timeout``: seconds, from the first time that this call of the transaction waits; then it raises
    :class:`~bloomgate.stm.TransactionTimeout`.
    """
    tx = here.tx
    if tx is None:
        raise TransactionError("retry() must be called within a transaction")
    require_seconds(timeout)
    if tx.alternatives:
        raise RetrySignal(timeout)
    if tx.irrevocable:
        raise TransactionError(
            "an irrevocable transaction cannot retry(): it runs only once (a coroutine can await an atomic coroutine"
            " function that does)"
        )
    if not tx.repeatable:
        raise TransactionError("an explicit Transaction cannot retry(): use an atomic function, which can be run again")
    raise RetrySignal(timeout)


def check(condition: object) -> None:
    """``retry()`` unless ``condition`` is true: wait until it is."""
    if not condition:
        retry()


def or_else(*alternatives: Callable[[], T]) -> T:
    """The result of the first alternative that does not ``retry()``; what the others did is undone.

    When all of them retry, the transaction waits until something that any of them has read has changed. A transaction
    of its own when called outside of one.
    """
    if not alternatives:
        raise TypeError("or_else() needs at least one function")
    for alternative in alternatives:
        if not callable(alternative):
            raise TypeError(f"or_else() needs functions, which it calls, not {alternative!r}")
    if here.tx is None:
        alone: T = run(or_else, alternatives)
        return alone
    tx = here.tx
    timeouts = []
    outer = tx.alternatives
    for alternative in alternatives:
        mark = tx.enter()
        tx.alternatives = outer + 1
        try:
            result = alternative()
        except RetrySignal as signal:
            tx.undo(mark)
            if signal.timeout is not None:
                timeouts.append(signal.timeout)
        except BaseException:
            tx.undo(mark)
            raise
        else:
            tx.leave(mark)
            return result
        finally:
            # Zero after irrevocable(): then the alternatives around this one cannot be undone, either.
            if tx.alternatives:
                tx.alternatives = outer
    given_up: T = retry(min(timeouts) if timeouts else None)
    return given_up

"""asyncio on transactions: callbacks act as if they ran one after the other, and atomic ones run in parallel.

>>> import bloomgate.aio
>>> bloomgate.aio.run(main())        # instead of asyncio.run(main())

The rule. A callback of the loop, for example a step of a task, is one transaction:

* A callback that is an atomic function runs on a worker thread, in parallel with others, and again if it conflicts.
* Every other callback runs on the loop's thread, one after the other, in the loop's order, once: nobody knows what else
  than transactional variables it changes. It is irrevocable from the first variable that it reads. In a coroutine it is
  the code between one ``await`` and the next.

docs/stm.md has examples, docs/stm-design.md the reasons.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import selectors
import sys
from collections import deque
from collections.abc import Coroutine
from typing import Any, Callable, Optional, TypeVar

from bloomgate.stm.atomic import nested, require_eager, unwrap
from bloomgate.stm.context import here
from bloomgate.stm.coroutines import in_context, outcome
from bloomgate.stm.coroutines import transact as _transact
from bloomgate.stm.errors import Cancelled, Serialise, TransactionError
from bloomgate.stm.limits import NO_LIMITS, Limits
from bloomgate.stm.outbox import Outbox, Outlet, needs_loop, serial, transacting
from bloomgate.stm.turn import take_turn
from bloomgate.stm.workers import Job, Workers

__all__ = ["EventLoop", "Future", "run", "serial", "transact", "transactional"]

T = TypeVar("T")
Callback = Callable[..., object]


def run(main: Coroutine[Any, Any, T], *, debug: Optional[bool] = None, workers: Optional[int] = None) -> T:
    """``asyncio.run(main)`` on an :class:`EventLoop` with ``workers`` threads (default: one for each processor)."""
    if sys.version_info >= (3, 11):
        with asyncio.Runner(debug=debug, loop_factory=lambda: EventLoop(workers=workers)) as runner:
            return runner.run(main)

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return EventLoop(workers=workers)

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        return asyncio.run(main, debug=debug)
    finally:
        asyncio.set_event_loop_policy(before)


async def transact(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """The result of ``function``, run as a transaction on a worker thread while the loop goes on; works on every loop.

    ``retry`` waits without a thread. A cancelled task gets CancelledError when the transaction has ended: without an
    effect, unless its commit had begun. Within a transaction it is a part of that. Raises TypeError for a coroutine
    function: one that is atomic is awaited itself.
    """
    require_eager(function, "transact()")
    if transacting():
        tx = here.tx
        assert tx is not None
        return nested(tx, function, args, kwargs)
    call, limits = unwrap(function, args, kwargs) or (functools.partial(function, *args, **kwargs), NO_LIMITS)
    result: T = await getattr(asyncio.get_running_loop(), "transact", _transact)(call, limits)
    return result


class _Start:
    """Has a worker run an atomic callback, when its turn has come on the loop's thread."""

    def __init__(self, loop: EventLoop, callback: Callback, call: Callable[[], Any], limits: Limits) -> None:
        self._loop = loop
        self._callback = callback
        self._call = call
        self._limits = limits
        #: What its caller can cancel it by.
        self.handle: Optional[asyncio.Handle] = None

    def __call__(self) -> None:
        self._call = in_context(self._call)
        self._loop.workers.submit(Job(self._call, self._done, self._limits, self._unwanted))

    def _unwanted(self) -> bool:
        return self.handle is not None and self.handle.cancelled()

    def _done(self, result: Any, error: Optional[BaseException]) -> None:
        if error is not None and not (isinstance(error, Cancelled) and self._unwanted()):
            self._loop.post(self._finish, error)

    def _finish(self, error: Optional[BaseException]) -> None:
        if isinstance(error, Serialise):
            _, error = outcome(self._call)
        if isinstance(error, Exception):
            self._loop.call_exception_handler(
                {"message": f"Exception in callback {self._callback!r}", "exception": error, "handle": self.handle}
            )
        elif error is not None:
            raise error


class EventLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose callbacks are transactions, as the beginning of this module says.

    Within a transaction on a worker ``call_soon``, ``call_later``, ``call_at``, ``call_soon_threadsafe``, ``stop`` and
    setting a future happen at commit, on the loop's thread, in the order of the commits; what else needs the loop has
    the callback run again there (:func:`serial`).
    """

    def __init__(self, selector: Optional[selectors.BaseSelector] = None, *, workers: Optional[int] = None) -> None:
        """``workers``: threads that run atomic callbacks (default: one for each processor)."""
        super().__init__(selector)
        self._outbox = Outbox(lambda: self._wake(self._outbox.empty))
        try:
            #: Also run what coroutines await, see :func:`transact`.
            self.workers = Workers(workers, functools.partial(asyncio._set_running_loop, self))
        except ValueError:
            super().close()
            raise

    def run_forever(self) -> None:
        """Run until ``stop()``. Raises :class:`~bloomgate.stm.TransactionError` within a transaction."""
        if here.tx is not None:
            raise TransactionError("an event loop cannot run in the middle of a transaction")
        super().run_forever()

    def close(self) -> None:
        """Let transactions that are running come to their end, and drop those that wait or have not begun."""
        if not self.is_running():
            self.workers.close()
        super().close()

    def post(self, callback: Callback, *args: Any) -> None:
        """Call ``callback(*args)`` on the loop's thread, outside of transactions; from any thread. Not when closed.

        It comes after everything that transactions which have committed by now have asked for.
        """
        self._wake(self._append, callback, *args)

    def _append(self, callback: Callback, *args: Any) -> None:
        self._outbox.deliver()
        super().call_soon(callback, *args)

    def _wake(self, callback: Callback, *args: Any) -> None:
        try:
            super().call_soon_threadsafe(callback, *args)
        except RuntimeError:
            if not self.is_closed():
                raise

    # What is scheduled.

    def call_soon(  # type: ignore[override]
        self, callback: Callback, *args: Any, context: Optional[contextvars.Context] = None
    ) -> asyncio.Handle:
        """As in asyncio; at commit within a transaction."""
        prepared = self._prepare(callback, args)
        if transacting():
            return self._put(_known(prepared, asyncio.Handle(prepared[0], prepared[1:], self, context)))
        if self._outbox.waiting:
            # Of transactions that the caller may have seen: they come first.
            self._outbox.deliver()
        return _known(prepared, super().call_soon(*prepared, context=context))

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callback, *args: Any, context: Optional[contextvars.Context] = None
    ) -> asyncio.Handle:
        """As in asyncio; at commit within a transaction."""
        prepared = self._prepare(callback, args)
        if transacting():
            return self._put(_known(prepared, asyncio.Handle(prepared[0], prepared[1:], self, context)))
        return _known(prepared, super().call_soon_threadsafe(*prepared, context=context))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callback, *args: Any, context: Optional[contextvars.Context] = None
    ) -> asyncio.TimerHandle:
        """As in asyncio; scheduled at commit within a transaction."""
        prepared = self._prepare(callback, args)
        if transacting():
            handle = _known(prepared, asyncio.TimerHandle(when, prepared[0], prepared[1:], self, context))
            self._outbox.put(functools.partial(super().call_at, when, self._fire, handle))
            return handle
        return _known(prepared, super().call_at(when, *prepared, context=context))

    def _prepare(self, callback: Callback, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What to call on the loop's thread, and with which arguments."""
        # What transports call on protocols is in one order, whichever of the methods are atomic.
        if not isinstance(getattr(callback, "__self__", None), asyncio.BaseProtocol):
            start = self.starter(callback, args)
            if start is not None:
                return (start,)
        return (take_turn, callback, *args)

    def starter(self, callback: Callback, args: Any, kwargs: Any = None) -> Optional[_Start]:
        """What to call, instead of an atomic function, on the loop's thread; None for any other function."""
        found = unwrap(callback, args, kwargs)
        return None if found is None else _Start(self, callback, *found)

    def _put(self, handle: asyncio.Handle) -> asyncio.Handle:
        self._outbox.put(functools.partial(super().call_soon, self._fire, handle))
        return handle

    @staticmethod
    def _fire(handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            handle._run()

    # What the selector and signals call: all of it comes from the loop's thread.

    def _add_reader(self, fd: Any, callback: Callback, *args: Any) -> Any:
        return super()._add_reader(fd, *self._prepare(callback, args))  # type: ignore[misc]

    def _add_writer(self, fd: Any, callback: Callback, *args: Any) -> Any:
        return super()._add_writer(fd, *self._prepare(callback, args))  # type: ignore[misc]

    def add_signal_handler(self, sig: int, callback: Callback, *args: Any) -> None:  # type: ignore[override]
        """As in asyncio."""
        if transacting():
            serial()
        super().add_signal_handler(sig, *self._prepare(callback, args))

    # What a transaction may ask for.

    def create_future(self) -> Future:
        """A future that a transaction can set."""
        return Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """As in asyncio; has a callback on a worker run again on the loop's thread."""
        if transacting():
            coro.close()
            serial()
        return super().create_task(coro, **options)

    def stop(self) -> None:
        """As in asyncio; at commit within a transaction."""
        if transacting():
            self.call_soon(self.stop)
        else:
            super().stop()


H = TypeVar("H", bound=asyncio.Handle)


def _known(prepared: tuple[Any, ...], handle: H) -> H:
    """Tell an atomic callback by which handle it can be cancelled; in debug mode the handle tells who made it."""
    if isinstance(prepared[0], _Start):
        prepared[0].handle = handle
    made_by = getattr(handle, "_source_traceback", None)
    if made_by:
        # A method of ours; asyncio leaves its own out, too.
        del made_by[-1]
    return handle


class Future(asyncio.Future[Any]):
    """A future of an :class:`EventLoop`: transactions on workers set it at commit, and cannot look at it."""

    def set_result(self, result: Any) -> None:
        """As in asyncio; at commit within a transaction."""
        if transacting():
            self.get_loop().call_soon(self.set_result, result)
        else:
            super().set_result(result)

    def set_exception(self, exception: Any) -> None:
        """As in asyncio; at commit within a transaction."""
        if transacting():
            self.get_loop().call_soon(self.set_exception, exception)
        else:
            super().set_exception(exception)


needs_loop(
    EventLoop, "add_reader", "add_writer", "remove_reader", "remove_writer", "remove_signal_handler", "run_in_executor"
)
needs_loop(Future, "add_done_callback", "cancel", "cancelled", "done", "exception", "remove_done_callback", "result")


# Protocols.

_COMMANDS = frozenset(
    ("abort", "close", "pause_reading", "resume_reading", "set_write_buffer_limits", "write", "write_eof", "writelines")
)
_QUERIES = frozenset(
    ("can_write_eof", "get_extra_info", "get_write_buffer_limits", "get_write_buffer_size", "is_closing", "is_reading")
)
#: Calls of a connection that may wait before its transport stops to read, and before it reads again.
_MANY, _FEW = 64, 16


def transactional(factory: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
    """A factory for ``create_server`` and ``create_connection``: its protocols' methods run as transactions on workers.

    Those of one connection run one after the other, in their order; those of different connections in parallel. What
    they ask of their transport happens at commit. They should change nothing but transactional variables. An exception
    closes the connection, as it does in asyncio.
    """
    return lambda: _Connection(factory())


class _Connection(asyncio.Protocol):
    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._calls: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._task: Optional[asyncio.Task[None]] = None
        self._transport: Optional[asyncio.Transport] = None
        self._paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._call(self._protocol.connection_made, Outlet(transport, self._loop.call_soon, _COMMANDS, _QUERIES))

    def data_received(self, data: bytes) -> None:
        self._call(self._protocol.data_received, data)

    def eof_received(self) -> bool:
        self._call(self._eof)
        # Whether to close is known later.
        return True

    def _eof(self) -> None:
        if not self._protocol.eof_received():
            assert self._transport is not None
            self._loop.call_soon(self._transport.close)

    def pause_writing(self) -> None:
        self._call(self._protocol.pause_writing)

    def resume_writing(self) -> None:
        self._call(self._protocol.resume_writing)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._call(self._protocol.connection_lost, error)

    def _call(self, method: Callback, *args: Any) -> None:
        self._calls.append((method, args))
        if self._task is None:
            self._task = self._loop.create_task(self._work())
        elif len(self._calls) >= _MANY and not self._paused:
            self._reading(False)

    async def _work(self) -> None:
        try:
            while self._calls:
                method, args = self._calls.popleft()
                await transact(method, *args)
                if self._paused and len(self._calls) <= _FEW:
                    self._reading(True)
        except Exception as error:
            assert self._transport is not None
            self._calls.clear()
            self._transport.abort()
            self._loop.call_exception_handler(
                {
                    "message": f"Fatal error: {method!r} failed.",
                    "exception": error,
                    "transport": self._transport,
                    "protocol": self._protocol,
                }
            )
        finally:
            self._task = None

    def _reading(self, wanted: bool) -> None:
        transport = self._transport
        assert transport is not None
        self._paused = not wanted
        if not transport.is_closing():
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()

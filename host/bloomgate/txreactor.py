"""A Twisted reactor whose callbacks act as if they ran one after the other, and whose atomic ones run in parallel.

>>> from bloomgate import txreactor
>>> txreactor.install()                      # before the first import of the reactor
>>> from twisted.internet import reactor

The rule is that of :mod:`bloomgate.aio`, on whose event loop it runs: what the reactor calls is one transaction. An
atomic function given to ``callLater``, ``callFromThread`` or ``callWhenRunning`` runs on a worker, and so do
:func:`deferToTransaction`, the protocols of a :func:`transactional` factory and a :class:`TransactionalResource`. All
else runs on the reactor's thread, in its order, once. Needs Twisted.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import Any, Callable, Optional

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.main import installReactor
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import directlyProvides, providedBy

from bloomgate.aio import EventLoop, serial
from bloomgate.stm import coroutines
from bloomgate.stm.atomic import require_eager, unwrap
from bloomgate.stm.context import here
from bloomgate.stm.coroutines import in_context, outcome
from bloomgate.stm.errors import Serialise, TransactionError
from bloomgate.stm.hooks import on_commit
from bloomgate.stm.limits import NO_LIMITS, Limits
from bloomgate.stm.outbox import Outlet, needs_loop, transacting
from bloomgate.stm.turn import take_turn
from bloomgate.stm.workers import Job

__all__ = ["Reactor", "TransactionalResource", "deferToTransaction", "install", "serial", "transactional"]

_log = Logger(namespace="bloomgate.txreactor")


def install(workers: Optional[int] = None) -> Reactor:
    """Make a :class:`Reactor` the reactor of this process; ``workers``: threads (default: one for each processor).

    Raises ``twisted.internet.error.ReactorAlreadyInstalledError`` when there is one.
    """
    reactor = Reactor(workers)
    installReactor(reactor)
    return reactor


def deferToTransaction(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred:
    """A Deferred with the result of ``function``, run as a transaction on a worker thread.

    ``retry`` waits without a thread. A cancelled Deferred fires at once, as Deferreds do; its transaction ends without
    an effect, unless its commit had begun. Raises :class:`~bloomgate.stm.TransactionError` on any other reactor, and
    TypeError for a coroutine function.
    """
    require_eager(function, "deferToTransaction()")
    known = unwrap(function, args, kwargs) or (functools.partial(function, *args, **kwargs), NO_LIMITS)
    return _installed().run_transaction(*known)


def _installed() -> Reactor:
    from twisted.internet import reactor

    if not isinstance(reactor, Reactor):
        raise TransactionError(
            "the reactor must be that of bloomgate.txreactor.install(), called before its first import,"
            f" not {type(reactor).__name__}"
        )
    return reactor


class _Loop(EventLoop):
    """The same for coroutines that Twisted runs, which await Deferreds."""

    reactor: Reactor

    async def transact(self, call: Callable[[], Any], limits: Limits = NO_LIMITS) -> Any:
        if asyncio.current_task() is not None:
            return await coroutines.transact(call, limits)
        return await self.reactor.run_transaction(call, limits)


class Reactor(AsyncioSelectorReactor):  # type: ignore[misc]
    """Within a transaction on a worker ``callLater``, ``callFromThread``, ``callWhenRunning``, ``stop`` and ``crash``
    happen at commit, on the reactor's thread, in the order of the commits; what else needs the reactor has the
    callback run again there (:func:`serial`).
    """

    def __init__(self, workers: Optional[int] = None) -> None:
        """``workers``: threads that run atomic callbacks (default: one for each processor)."""
        self._loop = _Loop(workers=workers)
        self._loop.reactor = self
        self._loop.set_exception_handler(_log_context)
        super().__init__(self._loop)

    def startRunning(self, *args: Any, **kwargs: Any) -> None:
        """As in Twisted."""
        take_turn(functools.partial(super().startRunning, *args, **kwargs))
        self.addSystemEventTrigger("after", "shutdown", self._loop.workers.close)

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As in Twisted; at commit within a transaction."""
        function, args, kwargs = self._prepare(callable, args, kwargs)
        if transacting():
            return _Later(self, delay, function, args, kwargs).call
        return super().callLater(delay, function, *args, **kwargs)

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """As in Twisted; at commit within a transaction."""
        if transacting():
            self._loop.call_soon(functools.partial(self.callLater, 0, callable, *args, **kwargs))
        else:
            super().callFromThread(callable, *args, **kwargs)

    def callWhenRunning(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As in Twisted; at commit within a transaction."""
        if transacting():
            return self.callFromThread(callable, *args, **kwargs)
        function, args, kwargs = self._prepare(callable, args, kwargs)
        return super().callWhenRunning(function, *args, **kwargs)

    def stop(self) -> None:
        """As in Twisted; at commit within a transaction."""
        if transacting():
            self.callFromThread(self.stop)
        else:
            super().stop()

    def crash(self) -> None:
        """As in Twisted; at commit within a transaction."""
        if transacting():
            self.callFromThread(self.crash)
        else:
            super().crash()

    def run_transaction(self, call: Callable[[], Any], limits: Limits = NO_LIMITS) -> Deferred:
        """What :func:`deferToTransaction` does for a function without arguments."""
        if transacting():
            serial()
        call = in_context(call)
        workers = self._loop.workers
        job: Job
        deferred: Deferred = Deferred(lambda _: workers.cancel(job))

        def done(result: Any, error: Optional[BaseException]) -> None:
            self._loop.post(take_turn, fire, result, error)

        def fire(result: Any, error: Optional[BaseException]) -> None:
            if deferred.called:
                # Cancelled.
                return
            if isinstance(error, Serialise):
                result, error = outcome(call)
            if error is None:
                deferred.callback(result)
            else:
                deferred.errback(Failure(error))

        job = Job(call, done, limits)
        if here.tx is None:
            workers.submit(job)
        else:
            on_commit(workers.submit, job)
        return deferred

    def _prepare(self, function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
        """What to call on the reactor's thread."""
        call = self._loop.starter(function, args, kwargs)
        return (function, args, kwargs) if call is None else (call, (), {})


needs_loop(
    Reactor,
    *(
        *("addReader", "addWriter", "removeReader", "removeWriter", "removeAll", "spawnProcess", "callInThread"),
        *("listenTCP", "connectTCP", "listenUNIX", "connectUNIX", "listenUDP", "listenSSL", "connectSSL"),
        *("addSystemEventTrigger", "removeSystemEventTrigger", "fireSystemEvent", "resolve", "iterate"),
    ),
)


def _log_context(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if error is None:
        _log.error("{message}", message=context["message"])
    else:
        _log.failure(context["message"], Failure(error))


class _Later:
    """A delayed call that a transaction has asked for; scheduled when that commits."""

    def __init__(self, reactor: Reactor, delay: float, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._reactor = reactor
        self._scheduled: Any = None
        self.call = DelayedCall(
            reactor.seconds() + delay, function, args, kwargs, self._cancel, self._reset, seconds=reactor.seconds
        )
        reactor._loop.call_soon(self._schedule)

    def _schedule(self) -> None:
        if self.call.active():
            left = self.call.getTime() - self._reactor.seconds()
            self._scheduled = self._reactor.callLater(max(0.0, left), self._fire)

    def _fire(self) -> None:
        if self.call.getTime() > self._reactor.seconds():
            # It was delayed meanwhile.
            self._schedule()
            return
        self.call.called = 1
        self.call.func(*self.call.args, **self.call.kw)

    def _cancel(self, call: DelayedCall) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()

    def _reset(self, call: DelayedCall) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._schedule()


# Protocols.

_TRANSPORT_COMMANDS = frozenset(
    ("abortConnection", "loseConnection", "loseWriteConnection", "pauseProducing", "resumeProducing")
    + ("setTcpKeepAlive", "setTcpNoDelay", "write", "writeSequence")
)
_TRANSPORT_QUERIES = frozenset(("getHost", "getPeer", "getTcpKeepAlive", "getTcpNoDelay"))
#: Calls of a connection that may wait before its transport stops to read, and before it reads again.
_MANY, _FEW = 64, 16


def transactional(factory: Any) -> WrappingFactory:
    """A factory for ``listenTCP`` and ``connectTCP``: its protocols' methods run as transactions on workers.

    Those of one connection run one after the other, in their order; those of different connections in parallel. What
    they ask of their transport happens at commit. They should change nothing but transactional variables. An exception
    aborts the connection and is logged.
    """
    wrapper = WrappingFactory(factory)
    wrapper.protocol = _Connection
    return wrapper


class _Connection(ProtocolWrapper):  # type: ignore[misc]
    def __init__(self, factory: Any, protocol: Any) -> None:
        super().__init__(factory, protocol)
        self._protocol = protocol
        self._reactor = _installed()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._busy = self._paused = False

    def makeConnection(self, transport: Any) -> None:
        directlyProvides(self, providedBy(transport))
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        outlet = Outlet(transport, self._reactor._loop.call_soon, _TRANSPORT_COMMANDS, _TRANSPORT_QUERIES)
        self._call(self._protocol.makeConnection, outlet)

    def dataReceived(self, data: bytes) -> None:
        self._call(self._protocol.dataReceived, data)

    def connectionLost(self, reason: Any) -> None:
        self.factory.unregisterProtocol(self)
        self._call(self._protocol.connectionLost, reason)

    def _call(self, method: Callable[..., Any], *args: Any) -> None:
        self._calls.append((method, args))
        if not self._busy:
            self._busy = True
            self._next(None)
        elif len(self._calls) >= _MANY and not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _next(self, _: Any) -> None:
        if self._paused and len(self._calls) <= _FEW:
            self._paused = False
            self.transport.resumeProducing()
        if self._calls:
            method, args = self._calls.popleft()
            self._reactor.run_transaction(functools.partial(method, *args)).addCallbacks(self._next, self._failed)
        else:
            self._busy = False

    def _failed(self, failure: Failure) -> None:
        _log.failure("a method of {protocol} failed", failure, protocol=self._protocol)
        self._busy = False
        self._calls.clear()
        self.transport.abortConnection()


# Web resources.

_REQUEST_COMMANDS = frozenset(("addCookie", "finish", "redirect", "setHeader", "setResponseCode", "write"))
_REQUEST_QUERIES = frozenset(
    ("URLPath", "getAllHeaders", "getClientAddress", "getClientIP", "getCookie", "getHeader", "getHost", "getPassword")
    + ("getRequestHostname", "getUser", "isSecure", "prePathURL")
)


class TransactionalResource(Resource):  # type: ignore[misc]
    """A web resource whose ``render`` methods, and those of its children, run as transactions on workers.

    What they ask of the request, such as headers and writing, happens at commit. One that waits by ``retry`` has its
    client wait. They should change nothing but transactional variables. Children are looked up on the reactor's thread.
    """

    def __init__(self, resource: Any) -> None:
        """``resource``: an IResource."""
        super().__init__()
        self._resource = resource
        self.isLeaf = resource.isLeaf

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        """The child that the resource has."""
        child = self._resource.getChildWithDefault(path, request)
        return child if isinstance(child, TransactionalResource) else TransactionalResource(child)

    def render(self, request: Any) -> int:
        """Begin the transaction; the answer is sent when it has ended."""
        reactor = _installed()
        outlet = Outlet(request, reactor._loop.call_soon, _REQUEST_COMMANDS, _REQUEST_QUERIES)
        result = reactor.run_transaction(functools.partial(self._resource.render, outlet))
        gone: list[Any] = []

        def lost(failure: Failure) -> None:
            gone.append(failure)
            result.cancel()

        request.notifyFinish().addErrback(lost)

        def answer(body: Any) -> None:
            if not gone:
                request.render(_Rendered(body))

        result.addBoth(answer).addErrback(request.processingFailed)
        return NOT_DONE_YET  # type: ignore[no-any-return]


class _Rendered:
    """A resource that has been rendered: ``Request.render`` knows what to do with the outcome."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def render(self, request: Any) -> Any:
        if isinstance(self._body, Failure):
            self._body.raiseException()
        return self._body

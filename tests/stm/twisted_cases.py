"""What the Twisted integration promises, each promise a function, on one reactor in one process.

``python tests/stm/twisted_cases.py`` prints one JSON object: case -> "" or the traceback of its failure.
"""

import json
import pathlib
import sys
import threading
import traceback

root = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(root / "host"), str(root)]

from bloomgate import aio, stm, txreactor  # noqa: E402
from bloomgate.stm import TDict, TQueue, TVar, atomic, check, irrevocable  # noqa: E402
from bloomgate.stm.runtime import runtime  # noqa: E402

from tests.stm.core_cases import LIMIT, together  # noqa: E402

txreactor.install(workers=3)

from twisted.internet import defer, endpoints, error, protocol, reactor, task, threads  # noqa: E402
from twisted.logger import globalLogPublisher  # noqa: E402
from twisted.web import client, resource, server  # noqa: E402

MAIN = threading.main_thread()


async def until(condition):
    while not condition():
        await task.deferLater(reactor, 0)


def parked():
    """How many transactions wait for a change."""
    return len(set().union(*runtime.waiting.sleepers.copy().values()))


class Logged:
    """The failures that are logged meanwhile."""

    def __enter__(self):
        self.failures = []
        globalLogPublisher.addObserver(self)
        return self

    def __exit__(self, *error):
        globalLogPublisher.removeObserver(self)

    def __call__(self, event):
        if "log_failure" in event:
            self.failures.append(event["log_failure"].value)


async def case_callbacks_are_transactions():
    x, stop, sums = TVar(0), threading.Event(), set()
    y = TVar(0)

    def turn():
        assert stm.in_transaction()
        assert threading.current_thread() is MAIN
        x.value += 1
        y.value -= 1
        if x.value < 30:
            reactor.callLater(0, turn)
        else:
            stop.set()

    def watch():
        while True:
            sums.add(atomic(lambda: x.value + y.value)())
            if stop.is_set():
                break

    watching = threads.deferToThread(watch)
    reactor.callLater(0, turn)
    await watching
    assert sums == {0}, sums


async def case_atomic_calls_run_in_parallel():
    barrier, names, x = threading.Barrier(3), set(), TDict()

    @atomic
    def call(key):
        barrier.wait(LIMIT)
        names.add(threading.current_thread().name)
        x[key] = 1

    reactor.callLater(0, call, "a")
    reactor.callFromThread(call, key="b")
    reactor.callWhenRunning(call, "c")
    await until(lambda: len(x) == 3)
    assert len(names) == 3
    assert MAIN.name not in names


async def case_what_is_asked_for_comes_in_the_order_of_commits():
    count, turns, log = 40, TVar(0), []

    @atomic
    def call(how):
        turns.value += 1
        if how == 0:
            reactor.callFromThread(log.append, turns.value)
        else:
            reactor.callWhenRunning(log.append, turns.value)

    for number in range(count):
        reactor.callLater(0, call, number % 2)
    await until(lambda: len(log) == count)
    assert log == list(range(1, count + 1)), log


async def case_an_aborted_attempt_asks_for_nothing():
    x, log, attempts = TVar(0), [], []

    @atomic
    def call():
        attempts.append(1)
        value = x.value
        if len(attempts) == 1:
            together(lambda: setattr(x, "value", 5))
        reactor.callFromThread(log.append, ("thread", len(attempts)))
        reactor.callLater(0, log.append, ("later", len(attempts)))
        reactor.callLater(0, log.append, "never").cancel()
        slow = reactor.callLater(LIMIT, log.append, ("reset", len(attempts)))
        assert slow.active()
        slow.reset(0)
        x.value = value + 1

    reactor.callLater(0, call)
    await until(lambda: len(log) == 3)
    assert sorted(log) == [("later", 2), ("reset", 2), ("thread", 2)], log
    assert x.value == 6


async def case_delayed_calls_of_transactions():
    """They can be cancelled, reset and delayed when they have been scheduled."""
    log, calls = [], []

    @atomic
    def call():
        calls.append([reactor.callLater(LIMIT, log.append, number) for number in range(3)])

    reactor.callLater(0, call)
    await until(lambda: calls)
    await until(lambda: len(reactor.getDelayedCalls()) >= 3)
    first, second, third = calls[-1]
    first.cancel()
    second.reset(0.002)
    third.delay(-LIMIT)
    await until(lambda: len(log) == 2)
    assert sorted(log) == [1, 2]
    assert [one.active() for one in calls[-1]] == [0, 0, 0]
    try:
        second.cancel()
    except error.AlreadyCalled:
        pass
    else:
        raise AssertionError("a call that was made can be cancelled")


async def case_exceptions_are_logged():
    x = TVar(0)

    @atomic
    def call():
        x.value = 1
        raise KeyError("atomic")

    def plain():
        x.value = 2
        raise KeyError("plain")

    with Logged() as logged:
        reactor.callLater(0, call)
        reactor.callLater(0, plain)
        await until(lambda: len(logged.failures) == 2)
    assert sorted(failure.args[0] for failure in logged.failures) == ["atomic", "plain"]
    # What is atomic is undone.
    assert x.value == 2


async def case_deferreds():
    x = TVar(0)

    def add(n, most=100):
        x.value += n
        if x.value > most:
            raise ValueError(x.value)
        return x.value

    assert await txreactor.deferToTransaction(add, 3) == 3
    try:
        await txreactor.deferToTransaction(add, 3, most=4)
    except ValueError:
        pass
    assert x.value == 3
    results = await defer.gatherResults([txreactor.deferToTransaction(add, 1) for _ in range(10)])
    assert sorted(results) == list(range(4, 14)), results


async def case_a_coroutine_function_is_awaited_and_not_deferred():
    @atomic
    async def coroutine():
        """Would never be awaited."""

    message = ""
    try:
        txreactor.deferToTransaction(coroutine)
    except TypeError as error:
        message = str(error)
    assert message.startswith("deferToTransaction() needs a function that does its work when it is called"), message


async def case_deferreds_wait_without_threads():
    queue, got = TQueue(), []
    takers = [txreactor.deferToTransaction(queue.get).addCallback(got.append) for _ in range(12)]
    cancelled = txreactor.deferToTransaction(queue.get)
    impatient = txreactor.deferToTransaction(atomic(timeout=0.01)(queue.get))
    try:
        await impatient
    except stm.TransactionTimeout:
        pass
    cancelled.cancel()
    try:
        await cancelled
    except defer.CancelledError:
        pass
    for number in range(12):
        await txreactor.deferToTransaction(queue.put, number)
    await defer.gatherResults(takers)
    assert sorted(got) == list(range(12))


async def case_atomic_coroutine_functions():
    x = TVar(0)

    @atomic
    async def part():
        x.value += 1

    @atomic
    async def whole():
        await part()
        await part()
        return x.value, threading.current_thread() is MAIN

    assert await whole() == (2, False)
    assert await aio.transact(lambda: x.value) == 2
    assert await defer.gatherResults([defer.ensureDeferred(whole()) for _ in range(2)]) == [(4, False), (6, False)] or (
        x.value == 6
    )


async def case_the_rest_runs_on_the_reactors_thread():
    x, log = TVar(0), []

    @atomic
    def call(use):
        x.value += 1
        use()
        log.append(threading.current_thread() is MAIN)

    reactor.callLater(0, call, lambda: reactor.callInThread(lambda: None))
    reactor.callLater(0, call, txreactor.serial)
    reactor.callLater(0, call, lambda: txreactor.deferToTransaction(lambda: None))
    await until(lambda: len(log) == 3)
    assert log == [True, True, True]
    assert x.value == 3


async def case_irrevocable_calls():
    log = []

    @atomic
    def call():
        irrevocable()
        reactor.callLater(0, log.append, threading.current_thread() is MAIN)

    reactor.callLater(0, call)
    await until(lambda: log)
    assert log == [False]


class Votes(protocol.Protocol):
    """Counts bytes of all connections."""

    total, lost = TVar(0), TVar(0)

    def connectionMade(self):
        self.transport.write(b"go")

    def dataReceived(self, data):
        assert threading.current_thread() is not MAIN
        for _ in data:
            self.total.value += 1
            self.transport.write(b"%d " % self.total.value)
            if data.endswith(b"."):
                self.transport.loseConnection()

    def connectionLost(self, reason):
        self.lost.value += 1


class Client(protocol.Protocol):
    def __init__(self, message):
        self.message, self.answer, self.done = message, b"", defer.Deferred()

    def dataReceived(self, data):
        if not self.answer:
            self.transport.write(self.message)
        self.answer += data

    def connectionLost(self, reason):
        self.done.callback(self.answer)


async def case_transactional_protocols():
    factory = txreactor.transactional(protocol.Factory.forProtocol(Votes))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    clients = [await endpoints.connectProtocol(where, Client(b"vote" * 5 + b".")) for _ in range(4)]
    answers = [(await one.done) for one in clients]
    numbers = []
    for answer in answers:
        assert answer.startswith(b"go")
        mine = list(map(int, answer[2:].split()))
        assert mine == sorted(mine)
        numbers += mine
    assert sorted(numbers) == list(range(1, 85)), numbers
    await until(lambda: Votes.lost.value == 4)
    await port.stopListening()


async def case_a_failing_protocol_loses_its_connection():
    x = TVar(0)

    class Broken(protocol.Protocol):
        def connectionMade(self):
            self.transport.write(b"go")

        def dataReceived(self, data):
            x.value += 1
            self.transport.write(b"never")
            raise KeyError("mine")

    factory = txreactor.transactional(protocol.Factory.forProtocol(Broken))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    with Logged() as logged:
        one = await endpoints.connectProtocol(where, Client(b"x"))
        assert await one.done == b"go"
    assert [repr(failure) for failure in logged.failures] == ["KeyError('mine')"]
    assert x.value == 0
    await port.stopListening()


class Hits(resource.Resource):
    isLeaf = True
    hits, open = TVar(0), TVar(False)

    def render_GET(self, request):
        assert threading.current_thread() is not MAIN
        if request.args.get(b"wait"):
            check(self.open.value)
        self.hits.value += 1
        request.setHeader(b"content-type", b"text/plain")
        request.setHeader(b"x-peer", request.getClientAddress().host.encode())
        if request.args.get(b"fail"):
            raise KeyError("mine")
        return b"%d" % self.hits.value

    def render_POST(self, request):
        request.setResponseCode(201)
        request.write(b"written ")
        request.write(b"twice")
        request.finish()
        return server.NOT_DONE_YET

    def render_PUT(self, request):
        # A session is not transactional.
        request.getSession()
        return b"%d" % (threading.current_thread() is MAIN)


async def case_transactional_resources():
    top = resource.Resource()
    top.putChild(b"hits", Hits())
    site = server.Site(txreactor.TransactionalResource(top))
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    base = b"http://127.0.0.1:%d/" % port.getHost().port
    agent = client.Agent(reactor, pool=client.HTTPConnectionPool(reactor, persistent=False))

    async def get(path, method=b"GET"):
        response = await agent.request(method, base + path)
        return response, (await client.readBody(response))

    waiting = defer.ensureDeferred(get(b"hits?wait=1"))
    gone = agent.request(b"GET", base + b"hits?wait=1")
    results = await defer.gatherResults([defer.ensureDeferred(get(b"hits")) for _ in range(8)])
    assert sorted(int(text) for _, text in results) == list(range(1, 9))
    response = results[0][0]
    assert response.headers.getRawHeaders("content-type") == ["text/plain"]
    assert response.headers.getRawHeaders("x-peer") == ["127.0.0.1"]
    assert response.length == 1
    response, text = await get(b"hits", b"POST")
    assert (response.code, text) == (201, b"written twice")
    assert (await get(b"hits", b"PUT"))[1] == b"1"
    assert (await get(b"hits", b"HEAD"))[1] == b""
    assert (await get(b"hits", b"DELETE"))[0].code == 501
    assert (await get(b"nowhere"))[0].code == 404
    with Logged() as logged:
        assert (await get(b"hits?fail=1"))[0].code == 500
    assert [repr(failure) for failure in logged.failures] == ["KeyError('mine')"]
    await until(lambda: parked() == 2)
    gone.cancel()
    gone.addErrback(lambda _: None)
    await until(lambda: parked() == 1)
    Hits.open.value = True
    # Nine hits (HEAD was one), and that of nobody else: who has gone does not count.
    assert (await waiting)[1] == b"10"
    await port.stopListening()


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}


async def main(names):
    outcomes = {}
    for name in names:
        try:
            await defer.ensureDeferred(CASES[name]()).addTimeout(LIMIT, reactor)
            outcomes[name] = ""
        except BaseException:
            outcomes[name] = traceback.format_exc()
    return outcomes


def end(result):
    print(json.dumps(result) if isinstance(result, dict) else result)
    reactor.stop()


if __name__ == "__main__":
    reactor.callWhenRunning(lambda: defer.ensureDeferred(main(sys.argv[1:] or CASES)).addBoth(end))
    reactor.run()

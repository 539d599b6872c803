"""Twisted programs as people write them, which know nothing of transactions, on the reactor of choice.

``python tests/stm/twisted_programs.py default|bloomgate`` prints what must not depend on the reactor, as JSON.
"""

import json
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(root / "host"), str(root)]

if sys.argv[1] == "bloomgate":
    from bloomgate import txreactor

    txreactor.install(workers=2)

from twisted.internet import defer, endpoints, protocol, reactor, task, threads, utils  # noqa: E402
from twisted.protocols import basic  # noqa: E402
from twisted.web import client, resource, server  # noqa: E402

#: Seconds that nothing here takes.
LIMIT = 20


class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Collect(protocol.Protocol):
    """Sends something, and collects the answer until it is as long."""

    def __init__(self, message):
        self.message, self.answer, self.done = message, b"", defer.Deferred()

    def connectionMade(self):
        self.transport.write(self.message)

    def dataReceived(self, data):
        self.answer += data
        if len(self.answer) == len(self.message):
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.done.callback((self.answer == self.message, reason.type.__name__))


@defer.inlineCallbacks
def echo():
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Echo), interface="127.0.0.1")
    where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    messages = [bytes([number]) * 10 ** (number % 6) for number in range(12)]
    protocols = yield defer.gatherResults([endpoints.connectProtocol(where, Collect(text)) for text in messages])
    answers = yield defer.gatherResults([one.done for one in protocols])
    yield port.stopListening()
    return answers


class Chat(basic.LineReceiver):
    """Twisted's own line protocol; the room is a plain list."""

    room = []

    def connectionMade(self):
        self.room.append(self)
        self.sendLine(b"%d here" % len(self.room))

    def lineReceived(self, line):
        for member in self.room:
            member.sendLine(line)

    def connectionLost(self, reason):
        self.room.remove(self)


class Talker(basic.LineReceiver):
    def __init__(self, lines):
        self.lines, self.received, self.done = lines, [], defer.Deferred()

    def lineReceived(self, line):
        self.received.append(line)
        if line.endswith(b"here"):
            for mine in self.lines:
                self.sendLine(mine)
        elif line == self.lines[-1]:
            self.transport.loseConnection()

    def connectionLost(self, reason):
        self.done.callback(self.received)


@defer.inlineCallbacks
def chat():
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(Chat), interface="127.0.0.1")
    where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    received = []
    for name in (b"ada", b"grace"):
        talker = yield endpoints.connectProtocol(where, Talker([name + b" %d" % n for n in range(5)]))
        received.append((yield talker.done))
    while Chat.room:
        yield task.deferLater(reactor, 0.001)
    yield port.stopListening()
    return received


class Counter(resource.Resource):
    isLeaf = True
    hits = 0

    def render_GET(self, request):
        self.hits += 1
        request.setHeader(b"content-type", b"text/plain")
        return b"%s: %d" % (request.args[b"name"][0], self.hits)

    def render_POST(self, request):
        text = request.content.read()
        reactor.callLater(0, self.answer, request, text)
        return server.NOT_DONE_YET

    def answer(self, request, text):
        request.write(text.upper())
        request.finish()


class Broken(resource.Resource):
    def render_GET(self, request):
        raise KeyError("mine")


@defer.inlineCallbacks
def web():
    root = resource.Resource()
    root.putChild(b"counter", Counter())
    root.putChild(b"broken", Broken())
    port = reactor.listenTCP(0, server.Site(root), interface="127.0.0.1")
    base = b"http://127.0.0.1:%d/" % port.getHost().port
    pool = client.HTTPConnectionPool(reactor, persistent=False)
    agent = client.Agent(reactor, pool=pool)
    seen = []
    requests = [(b"GET", b"counter?name=ada"), (b"HEAD", b"counter?name=x"), (b"GET", b"counter?name=alan")]
    for method, path in [*requests, (b"POST", b"counter"), (b"GET", b"broken"), (b"GET", b"nowhere")]:
        body = client.FileBodyProducer(__import__("io").BytesIO(b"posted")) if method == b"POST" else None
        response = yield agent.request(method, base + path, None, body)
        text = yield client.readBody(response)
        kind = response.headers.getRawHeaders("content-type")
        seen.append((response.code, kind, text if response.code == 200 else b""))
    yield port.stopListening()
    return seen


@defer.inlineCallbacks
def order():
    """Calls, loops, threads, a process, a cancelled call; in the order in which they have to come."""
    log = []
    reactor.callWhenRunning(log.append, "running")
    reactor.callLater(0.02, log.append, "later")
    reactor.callLater(0.01, log.append, "sooner")
    never = reactor.callLater(0.005, log.append, "never")
    moved = reactor.callLater(10, log.append, "moved")
    reactor.callLater(0, never.cancel)
    moved.reset(0.03)
    reactor.callFromThread(log.append, "from thread")
    loop = task.LoopingCall(lambda: log.append("tick") or (log.count("tick") == 3 and loop.stop()))
    yield loop.start(0.001)
    log.append((yield threads.deferToThread(pow, 2, 10)))
    out = yield utils.getProcessOutput(sys.executable, ["-c", "print('process')"])
    yield task.deferLater(reactor, 0.05)
    log.append(moved.active())
    try:
        yield task.deferLater(reactor, LIMIT).addTimeout(0.001, reactor)
    except defer.TimeoutError:
        log.append("timeout")
    return sorted(map(str, log)), log.index("sooner") < log.index("later") < log.index("moved"), out


PROGRAMS = {"chat": chat, "echo": echo, "order": order, "web": web}


@defer.inlineCallbacks
def main():
    outcomes = {}
    for name, program in PROGRAMS.items():
        outcome = yield program().addTimeout(LIMIT, reactor).addErrback(repr)
        outcomes[name] = repr(outcome)
    return outcomes


def end(outcomes):
    print(json.dumps(outcomes) if isinstance(outcomes, dict) else outcomes)
    reactor.stop()


if __name__ == "__main__":
    reactor.callWhenRunning(lambda: main().addBoth(end))
    reactor.run()

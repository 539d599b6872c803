"""asyncio protocols whose methods are transactions on workers, over TCP."""

import asyncio
import contextlib
import threading

from bloomgate import aio
from bloomgate.stm import TDict, TVar, atomic

from tests.stm.core_cases import LIMIT


async def server_of(protocol):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(aio.transactional(protocol), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


def run(main, **options):
    return aio.run(asyncio.wait_for(main, LIMIT), **options)


class Votes(asyncio.Protocol):
    """Counts lines of all connections in transactional variables, and answers with the count."""

    def __init__(self) -> None:
        self.rest = TVar(b"")

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.write(b"vote\n")

    def data_received(self, data: bytes) -> None:
        assert threading.current_thread() is not threading.main_thread()
        *lines, self.rest.value = (self.rest.value + data).split(b"\n")
        for line in lines:
            votes[line] = votes.get(line, 0) + 1
            total.value += 1
            self.transport.write(b"%s %d %d\n" % (line, votes[line], total.value))

    def eof_received(self) -> None:
        self.transport.write(b"bye\n")

    def connection_lost(self, error) -> None:
        lost.value += 1


votes: TDict[bytes, int] = TDict()
total, lost = TVar(0), TVar(0)


def test_many_connections(device) -> None:
    clients, rounds = 6, 8
    votes.clear()
    total.value = lost.value = 0

    async def client(address, number: int) -> list[tuple[int, int]]:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readline() == b"vote\n"
        name = b"even" if number % 2 == 0 else b"odd"
        # All at once, in pieces that are no lines.
        text = (name + b"\n") * rounds
        for at in range(0, len(text), 7):
            writer.write(text[at : at + 7])
        answers = []
        for _ in range(rounds):
            word, mine, everybody = (await reader.readline()).split()
            assert word == name
            answers.append((int(mine), int(everybody)))
        writer.write_eof()
        assert await reader.read() == b"bye\n"
        writer.close()
        await writer.wait_closed()
        return answers

    async def main():
        server, address = await server_of(Votes)
        answers = await asyncio.gather(*(client(address, number) for number in range(clients)))
        while lost.value < clients:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        return answers

    answers = run(main(), workers=3)
    for one in answers:
        assert one == sorted(one), "the answers of a connection are in its order"
    # Every number was given once: as if one line after the other had been counted.
    assert sorted(everybody for one in answers for _, everybody in one) == list(range(1, clients * rounds + 1))
    for parity in (0, 1):
        mine = sorted(count for one in answers[parity::2] for count, _ in one)
        assert mine == list(range(1, clients // 2 * rounds + 1))


def test_more_than_the_protocol_can_take(soft, monkeypatch) -> None:
    """The transport stops to read while the protocol lags behind, and goes on."""
    size, paused, go = 4 << 20, [], threading.Event()
    received, lost = TVar(0), TVar(0)
    monkeypatch.setattr(aio, "_MANY", 2)
    monkeypatch.setattr(aio, "_FEW", 1)

    class Slow(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert go.wait(LIMIT)
            received.value += len(data)
            if received.value == size:
                self.transport.write(b"all")

        def connection_lost(self, error) -> None:
            lost.value += 1

    original = aio._Connection._reading

    def reading(self, wanted: bool) -> None:
        paused.append(wanted)
        original(self, wanted)
        # Only when nothing more is read, the protocol is let go on.
        go.set()

    monkeypatch.setattr(aio._Connection, "_reading", reading)

    async def main() -> bytes:
        server, address = await server_of(Slow)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x" * size)
        answer = await reader.readexactly(3)
        writer.close()
        await writer.wait_closed()
        while not lost.value:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        return answer

    assert run(main(), workers=1) == b"all"
    assert paused[:2] == [False, True]


def test_an_exception_closes_the_connection(soft) -> None:
    x, reported, lost = TVar(0), [], TVar(0)

    class Broken(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            x.value += 1
            self.transport.write(b"never sent")
            raise KeyError("mine")

        def connection_lost(self, error) -> None:
            lost.value += 1

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        server, address = await server_of(Broken)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"x")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        while not lost.value:
            await asyncio.sleep(0)
        writer.close()
        server.close()
        await server.wait_closed()

    run(main())
    assert (x.value, lost.value) == (0, 1)
    (context,) = reported
    assert repr(context["exception"]) == "KeyError('mine')"
    assert "data_received" in context["message"]


def test_what_is_asked_of_a_transport(soft) -> None:
    """Queries are answered at once, everything else happens at commit."""
    disturbed, answers, attempts = TVar(0), TVar(None), []

    class Asker(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            attempts.append(1)
            value = disturbed.value
            transport.write(b"attempt %d\n" % len(attempts))
            if len(attempts) == 1:
                other = threading.Thread(target=lambda: setattr(disturbed, "value", value + 1))
                other.start()
                other.join(LIMIT)
            answers.value = (transport.get_extra_info("sockname"), transport.is_closing(), transport.write(b""))
            transport.close()
            disturbed.value += 1

    async def main():
        server, address = await server_of(Asker)
        reader, writer = await asyncio.open_connection(*address)
        received = await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
        return address, received

    address, received = run(main())
    assert received == b"attempt 2\n"
    assert answers.value == (address, False, None)


def test_atomic_methods_of_other_protocols_keep_their_order(soft) -> None:
    """A protocol that is not given to transactional() runs on the loop's thread, atomic methods and others alike."""
    log: list[str] = []

    class Mixed(asyncio.Protocol):
        @atomic
        def connection_made(self, transport) -> None:
            log.append("made")

        def data_received(self, data: bytes) -> None:
            log.append("data")

        @atomic
        def connection_lost(self, error) -> None:
            log.append("lost")

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Mixed, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        writer.close()
        while len(log) < 3:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    run(main())
    assert log == ["made", "data", "lost"]

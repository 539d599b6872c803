"""asyncio programs as people write them, which know nothing of transactions. Each returns what must not depend on who
runs it: ``asyncio.run(program())`` says what is right. Also run by PyPy: ``pypy3 tests/stm/asyncio_programs.py``.
"""

import asyncio
import collections
import concurrent.futures
import contextvars
import pathlib
import signal
import sys

if __name__ == "__main__":
    root = pathlib.Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "host"), str(root)]

#: Seconds that nothing here takes.
LIMIT = 20


async def echo_server():
    """Streams over TCP, many clients at once."""
    served = collections.Counter()

    async def serve(reader, writer):
        while line := await reader.readline():
            served["lines"] += 1
            writer.write(line.upper())
            await writer.drain()
        served["connections"] += 1
        writer.close()
        await writer.wait_closed()

    async def client(number):
        reader, writer = await asyncio.open_connection(*address)
        answers = []
        for word in range(10):
            writer.write(b"client %d word %d\n" % (number, word))
            answers.append(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answers

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    answers = await asyncio.gather(*(client(number) for number in range(8)))
    while served["connections"] < 8:
        await asyncio.sleep(0.001)
    server.close()
    await server.wait_closed()
    return answers, dict(served)


async def chat():
    """A protocol class, with the state of the room in plain attributes."""

    class Room(asyncio.Protocol):
        members = {}
        history = []

        def connection_made(self, transport):
            self.transport, self.buffer, self.name = transport, b"", None

        def data_received(self, data):
            self.buffer += data
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                if self.name is None:
                    self.name = line
                    self.members[line] = self
                    self.transport.write(b"welcome %d\n" % len(self.members))
                else:
                    self.history.append(self.name + b": " + line)
                    for member in self.members.values():
                        member.transport.write(self.history[-1] + b"\n")

        def connection_lost(self, error):
            del self.members[self.name]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Room, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    streams = []
    welcomes = []
    for name in (b"ada", b"grace", b"alan"):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(name + b"\n")
        welcomes.append(await reader.readline())
        streams.append((reader, writer))
    seen = []
    for number, (_, writer) in enumerate(streams):
        writer.write(b"hello %d\nand bye\n" % number)
        seen.append([await reader.readline() for reader, _ in streams for _ in range(2)])
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()
    while Room.members:
        await asyncio.sleep(0.001)
    server.close()
    await server.wait_closed()
    return welcomes, seen, Room.history


async def producers_and_consumers():
    """A bounded queue, an event, a lock, a semaphore; work is lost or done twice if one of them fails."""
    queue, lock, slots = asyncio.Queue(maxsize=3), asyncio.Lock(), asyncio.Semaphore(2)
    done, inside, most = [], 0, 0
    start = asyncio.Event()

    async def produce(number):
        await start.wait()
        for item in range(20):
            await queue.put((number, item))

    async def consume():
        nonlocal inside, most
        while True:
            item = await queue.get()
            async with slots:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1
            async with lock:
                length = len(done)
                await asyncio.sleep(0)
                assert len(done) == length
                done.append(item)
            queue.task_done()

    consumers = [asyncio.create_task(consume()) for _ in range(4)]
    producers = [asyncio.create_task(produce(number)) for number in range(3)]
    start.set()
    await asyncio.gather(*producers)
    await queue.join()
    for consumer in consumers:
        consumer.cancel()
    ends = await asyncio.gather(*consumers, return_exceptions=True)
    return sorted(done), most, [type(end).__name__ for end in ends]


async def callbacks_in_order():
    """The order in which callbacks were scheduled, from callbacks, tasks, timers and done futures."""
    loop = asyncio.get_running_loop()
    log = []
    end = loop.create_future()

    def first(depth):
        log.append(("first", depth))
        if depth:
            loop.call_soon(first, depth - 1)
            loop.call_soon(log.append, ("second", depth))

    async def task(name):
        for step in range(3):
            log.append((name, step))
            await asyncio.sleep(0)

    loop.call_soon(first, 3)
    tasks = [loop.create_task(task(name)) for name in "ab"]
    cancelled = loop.call_soon(log.append, "never")
    cancelled.cancel()
    await asyncio.gather(*tasks)
    # Not before: when a timer is due does not depend on the order of calls. Nor on how long they take.
    now = loop.time()
    loop.call_at(now + 0.02, end.set_result, "end")
    never = loop.call_at(now + 0.015, log.append, "never")
    loop.call_at(now + 0.01, log.append, "timer")
    never.cancel()
    end.add_done_callback(lambda future: log.append(future.result()))
    await end
    await asyncio.sleep(0)
    return log


async def errors_and_timeouts():
    """Exceptions of tasks and of callbacks, time limits, cancellation, shields, context variables."""
    loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda loop, context: reported.append(repr(context["exception"])))
    loop.call_soon(lambda: 1 // 0)
    variable = contextvars.ContextVar("variable", default=0)
    log = []

    async def fail():
        await asyncio.sleep(0)
        raise KeyError("mine")

    async def stubborn():
        try:
            await asyncio.sleep(LIMIT)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        finally:
            log.append("finally")

    async def number(n):
        variable.set(n)
        await asyncio.sleep(0)
        return variable.get()

    outcomes = await asyncio.gather(fail(), number(1), number(2), return_exceptions=True)
    try:
        await asyncio.wait_for(stubborn(), 0.001)
    except asyncio.TimeoutError:  # noqa: UP041  another class before Python 3.11
        log.append("timeout")
    shielded = loop.create_future()
    waiting = asyncio.ensure_future(asyncio.shield(shielded))
    await asyncio.sleep(0)
    waiting.cancel()
    shielded.set_result(1)
    try:
        await waiting
    except asyncio.CancelledError:
        log.append(shielded.result())
    return [repr(outcome) for outcome in outcomes], log, reported, variable.get()


async def outside_world():
    """Threads, a process, a signal."""
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        squares = await asyncio.gather(*(loop.run_in_executor(pool, pow, n, 2) for n in range(5)))
    code = "import sys; sys.stdout.write(sys.stdin.read()[::-1])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    backwards, _ = await asyncio.wait_for(process.communicate(b"bloom"), LIMIT)
    came = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, came.set_result, "signal")
    signal.raise_signal(signal.SIGUSR1)
    try:
        return squares, backwards, process.returncode, await asyncio.wait_for(came, LIMIT)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


PROGRAMS = (
    callbacks_in_order,
    chat,
    echo_server,
    errors_and_timeouts,
    outside_world,
    producers_and_consumers,
)


def main():
    from bloomgate import aio

    for program in PROGRAMS:
        expected = asyncio.run(program())
        assert aio.run(program()) == expected, program


if __name__ == "__main__":
    main()

"""Queue pairs: rings of all slots under load, long read sets, and all that clients, bus and owners can do wrong."""

import random

from bench_requests import key_pool, random_sets, random_snapshot, stream
from bloomgate.h3 import H3
from bloomgate.queue_layout import FORMAT, MAX_READ_KEYS, SUBMISSION, log_area_offset
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, ErrorCode
from bloomgate.verdict import Reason
from cocotb.triggers import gather
from queues import QueueClient, queue_clients
from testbench import CHANNELS, DECERR, FULL, GEOMETRY, SLVERR, Client, bench

#: Requests of each slot.
LENGTH = 12 if GEOMETRY != "many" else 5
if FULL:
    LENGTH *= 20
_RESPONSES = {"SLVERR": SLVERR, "DECERR": DECERR}
_WORDS = {word.name: word for word in SUBMISSION}
_PENDING = CONTROL_PAGE.register("INTERRUPT_PENDING")
_VERDICT = SLOT_PAGE.register("VERDICT")
_COALESCE = CONTROL_PAGE.register("COALESCE")


def choose_memory(testbench, level: float | None = None) -> None:
    """Latency, pauses and order of the memory, all at random."""
    memory, cover = testbench.memory, testbench.cover
    memory.latency = random.choice((0, random.randint(1, 9), random.randint(10, 40)))
    cover.hit("memory latency", "0" if not memory.latency else "1..9" if memory.latency < 10 else "10..40")
    for channel in CHANNELS:
        chosen = random.choice((0, 0.5)) if level is None else level
        memory.stalls[channel] = chosen
        cover.hit("memory pauses", f"{channel} {chosen}")
    memory.reorder = random.random() < 0.5
    cover.hit("memory answers", "reordered" if memory.reorder else "in order")


async def enable_all(testbench, **options) -> list[QueueClient]:
    clients = queue_clients(testbench, **options)
    for client in clients:
        await client.enable(random.randint(1, 2**16 - 1))
    return clients


def check_accesses(testbench, clients) -> None:
    """Nothing was read outside the windows, and nothing written but completions of the slot itself."""
    memory, parameters = testbench.memory, testbench.parameters
    half = log_area_offset(parameters) // 2
    windows = [(client.base, client.base + len(client.window)) for client in clients]
    for burst in memory.reads:
        end = burst.address + 8 * burst.beats
        assert any(base <= burst.address < end <= limit for base, limit in windows), f"{burst} is outside all windows"
    for burst in memory.writes:
        assert burst.beats == 4
        assert burst.address % 32 == 0
        assert any(base + half <= burst.address < base + 2 * half for base, _ in windows), f"{burst} is no completion"
    for number in range(1, memory.most_outstanding + 1):
        testbench.cover.hit("fetches under way", str(number) if number < 4 else "4 or more")


def past_snapshot(client: QueueClient) -> tuple[int, int]:
    """One that is not ahead, whatever a reset does meanwhile."""
    epoch, count = client.testbench.newest
    return epoch, max(0, count - random.randint(0, 3))


async def flow(client: QueueClient, keys: list[int], length: int, choose_snapshot=random_snapshot) -> None:
    """Batches of submissions, collected in their order, now and then several laps of the ring."""
    testbench = client.testbench
    left = length
    entries = client.parameters.queue_entries
    while left:
        for _ in range(random.randint(0, min(client.room, left))):
            sets = random_sets(client.parameters, keys)
            client.prepare(choose_snapshot(client), **sets)
            left -= 1
            testbench.cover.hit("ring index", "first lap" if client.tail <= entries else "later")
        await client.ring()
        for _ in range(random.randint(0, len(client._open))):
            await client.collect()
        await testbench.clocks(random.choice((0, 0, random.randint(0, 40))))
    await client.ring()
    await client.collect_all()


@bench(cycles=120_000)
async def rings(testbench):
    """All slots at once, with few keys and with many, by queue alone."""
    clients = await enable_all(testbench)
    for size in (3, 60):
        choose_memory(testbench)
        keys = key_pool(testbench.parameters, size)
        await gather(*(flow(client, keys, LENGTH) for client in clients))
    check_accesses(testbench, clients)


@bench(cycles=120_000)
async def beside_programmed_io(testbench):
    """Both ways of every slot at the same time."""
    clients = await enable_all(testbench)
    choose_memory(testbench)
    keys = key_pool(testbench.parameters, 8)
    pages = [Client(testbench, slot) for slot in range(testbench.parameters.slots)]
    length = max(1, LENGTH // 2)
    await gather(
        *(flow(client, keys, length) for client in clients), *(stream(client, keys, length) for client in pages)
    )
    check_accesses(testbench, clients)


@bench(cycles=200_000, geometries=("small",))
async def slow_memory(testbench):
    """Pauses of 0.9 on every channel, then on each alone."""
    clients = await enable_all(testbench)
    keys = key_pool(testbench.parameters, 20)
    for slow in (CHANNELS, *((channel,) for channel in CHANNELS)):
        choose_memory(testbench, 0)
        for channel in slow:
            testbench.memory.stalls[channel] = 0.9
            testbench.cover.hit("memory pauses", f"{channel} 0.9")
        await gather(*(flow(client, keys, 2) for client in clients))
    check_accesses(testbench, clients)


@bench(cycles=200_000, geometries=("small",))
async def long_read_sets(testbench):
    """More reads than a chunk has, and more writes than a buffer has, beside short requests of the others."""
    parameters = testbench.parameters
    depth = parameters.buffer_depth
    long, *others = await enable_all(testbench)
    keys = [random.randint(0, parameters.max_key) for _ in range(40)]
    testbench.memory.latency = 5

    async def readers():
        for count in (depth - 1, depth, depth + 1, 2 * depth, 2 * depth + 1, 3 * depth + random.randint(2, depth)):
            reads = [random.choice(keys) for _ in range(count)]
            for snapshot in (testbench.newest, (testbench.newest[0], max(0, testbench.newest[1] - 2))):
                await long.commit(snapshot, reads=reads, writes=random.sample(keys, random.randint(0, 2)))
        for count in (depth - 1, depth, depth + 1):
            # They raise the floor, or just not, and the ones behind meet it.
            writes = [random.choice(keys) for _ in range(count - 1)]
            await long.commit(writes=writes, commutes=[random.choice(keys)])
            if count >= depth:
                name = "all that a buffer has" if count == depth else "more than a buffer has"
                testbench.cover.hit("queued insertions", name)
            await long.commit((testbench.newest[0], max(0, testbench.newest[1] - 1)), reads=keys[:3])

    await gather(readers(), *(flow(client, keys[:10], 8) for client in others))
    check_accesses(testbench, [long, *others])


@bench(cycles=120_000, geometries=("small",))
async def long_beside_short(testbench):
    """A key of the first chunk is written, and then something read by others, while later chunks are validated."""
    parameters = testbench.parameters
    reader, writer, bystander, *_ = await enable_all(testbench)
    h3 = H3(parameters)
    conflicts = 0
    for _ in range(40):
        first, other = (random.randint(0, parameters.max_key) for _ in range(2))
        while set(enumerate(h3.rows(first))) & set(enumerate(h3.rows(other))):
            other = random.randint(0, parameters.max_key)
        chunks = random.randint(2, 6)
        reads = [first] * parameters.buffer_depth + [other] * (chunks - 1) * parameters.buffer_depth
        testbench.newest = await testbench.timestamp()
        reader.prepare(testbench.newest, reads=reads, writes=[first])
        writer.prepare(testbench.newest, writes=[first])
        for _ in range(random.randint(1, bystander.room)):
            bystander.prepare(testbench.newest, reads=random.choice(([], [other])))
        await reader.ring()
        await testbench.clocks(random.randint(0, 40 * chunks))
        await writer.ring()
        await testbench.clocks(random.choice((0, 0, random.randint(0, 40))))
        await bystander.ring()
        for client in (reader, writer, bystander):
            for request in await client.collect_all():
                conflicts += request.reason is Reason.CONFLICT and len(request.reads) > parameters.buffer_depth
    assert conflicts, "nothing was written in the middle of a long request"
    check_accesses(testbench, [reader, writer, bystander])


@bench(cycles=60_000, geometries=("small",))
async def bad_entries(testbench):
    """Every field that can be wrong, each between two requests that are right, beside a slot that is never wrong."""
    parameters = testbench.parameters
    client, other, *_ = await enable_all(testbench)
    size = len(client.window)
    header = _WORDS["HEADER"]
    good = header["FORMAT"].insert(FORMAT)
    cases = {
        "FORMAT": {"HEADER": header["FORMAT"].insert(random.choice([0, FORMAT + 1, 255]))},
        "RESERVED": {"HEADER": good | header["RESERVED"].insert(1 << random.randrange(8))},
        "READ_COUNT": {"READ_COUNT": random.choice((MAX_READ_KEYS + 1, 2**32 - 1)), "READ_OFFSET": 0},
    }
    counts = {"READ": "READ_COUNT", "WRITE": "INSERTION_COUNTS", "COMMUTE": "INSERTION_COUNTS"}
    for log, count in counts.items():
        number = 2 if log == "READ" else _WORDS[count][f"{log}_COUNT"].insert(2)
        for kind, offset in {
            "unaligned": log_area_offset(parameters) + random.randint(1, 3),
            "outside": size + 4 * random.randrange(1000),
            "just outside": size - 4,
            "wraps": 2**32 - 4,
        }.items():
            cases[f"{log}_OFFSET {kind}"] = {f"{log}_OFFSET": offset, count: number}
    order = list(cases)
    random.shuffle(order)

    async def offender():
        for name in order:
            client.prepare(testbench.newest, reads=[1], writes=[2])
            client.prepare(testbench.newest, **cases[name])
            client.prepare(testbench.newest, commutes=[3])
            await client.ring()
            first, wrong, last = await client.collect_all()
            assert (first.reason in (None, Reason.CONFLICT), wrong.reason, last.reason) == (
                True,
                Reason.BAD_REQUEST,
                None,
            )
            testbench.cover.hit("bad entry", name)

    await gather(offender(), flow(other, key_pool(parameters, 5), 30))
    # A log that ends with the window is in it.
    end = {"READ_OFFSET": size - 8, "READ_COUNT": 2}
    client.window[size - 8 :] = bytes(8)
    request = client.prepare(testbench.newest, **end)
    request.reads = [0, 0]
    await client.ring()
    await client.collect()
    # Snapshots and keys that no client of this device can have.
    epoch, count = testbench.newest
    for snapshot in ((epoch, count + 1), (epoch + 1, 0), (epoch, 2**32 - 1)):
        assert (await client.commit(snapshot, reads=[1], writes=[1])).reason is Reason.BAD_REQUEST
        testbench.cover.hit("bad entry", "snapshot ahead")
    wide = parameters.max_key + 1
    for log, sets in {
        "READ": {"reads": [5, 6, wide]},
        "WRITE": {"reads": [5], "writes": [7, wide, 8]},
        "COMMUTE": {"commutes": [wide]},
    }.items():
        assert (await client.commit(**sets)).reason is Reason.BAD_REQUEST
        testbench.cover.hit("bad entry", f"{log} key too wide")
    check_accesses(testbench, [client, other])


@bench(cycles=60_000, geometries=("small",))
async def bus_errors(testbench):
    """SLVERR and DECERR on each kind of fetch, and on completions, beside a slot that meets none."""
    memory = testbench.memory
    client, other, *_ = await enable_all(testbench)

    async def offender():
        for name, response in _RESPONSES.items():
            for kind in ("entry", "READ log", "WRITE log", "COMMUTE log"):
                memory.latency = random.randint(0, 9)
                sets = {"reads": [1] * 9, "writes": [2] * 7, "commutes": [3] * 5}
                request = client.prepare(testbench.newest, **sets)
                if kind == "entry":
                    # The error log says where the entry is, not which beat of it.
                    request.bus_error = client.base + request.index % client.parameters.queue_entries * 32
                    place = request.bus_error + 8 * random.randrange(4)
                else:
                    log = kind.split()[0]
                    offset = request.entry[_WORDS[f"{log}_OFFSET"].word]
                    last = offset + 4 * len(sets[f"{log.lower()}s"]) - 1
                    place = client.base + random.choice((offset, last, (offset + last) // 2)) // 8 * 8
                    request.bus_error = place
                memory.errors.append((place, place + 8, response))
                await client.ring()
                assert (await client.collect()).reason is Reason.BUS_ERROR
                if kind == "entry":
                    # Its number may not have been read.
                    request.number = _VERDICT["REQUEST"].extract(request.words[0])
                testbench.cover.hit("bus error", f"{name} {kind}")
                memory.errors.clear()
                # It can be submitted again.
                assert (await client.commit(writes=[1])).committed

    await gather(offender(), flow(other, key_pool(testbench.parameters, 5), 30))
    for name, response in _RESPONSES.items():
        request = client.prepare(testbench.newest, writes=[4])
        place = client.base + log_area_offset(client.parameters) // 2
        place += request.index % client.parameters.queue_entries * 32
        memory.errors.append((place, place + 8, response))
        await client.ring()
        writes = len(memory.write_answers)
        while len(memory.write_answers) == writes:
            await testbench.clocks(1)
        memory.errors.clear()
        # The completion is lost, but the verdict is kept for the slot.
        assert client.completed(request) is None
        words = await testbench.read(client.record("LAST_VERDICT"), 3)
        request.words = [*words, 0]
        client._open.popleft()
        client.head += 1
        testbench.newest = max(testbench.newest, (words[1], words[2]))
        testbench.access_errors.append((ErrorCode.COMPLETION_ERROR, client.slot, request.index))
        testbench.cover.hit("bus error", f"{name} completion")
        assert (await client.commit(writes=[5])).committed
    check_accesses(testbench, [client, other])


@bench(cycles=60_000, geometries=("small",))
async def doorbells(testbench):
    """Those of an earlier owner, those that nothing explains, and those that come in parts are dropped."""
    client, other, *_ = await enable_all(testbench)
    parameters = testbench.parameters
    entries = parameters.queue_entries
    tail, head = (testbench.slot(client.slot, name) for name in ("SUBMISSION_TAIL", "COMPLETION_HEAD"))

    async def refused(name, address, word, **options):
        before = len(testbench.memory.reads)
        await testbench.write(address, [word], **options)
        testbench.access_errors.append((ErrorCode.BAD_DOORBELL, client.slot, word))
        await testbench.clocks(40)
        assert len(testbench.memory.reads) == before, f"{name}: something was fetched"
        testbench.cover.hit("doorbell refused", name)

    for lap in range(3):
        for _ in range(random.randint(0, entries)):
            await client.commit(writes=[lap])
        client.generation ^= 1
        stale = client.doorbell(client.tail + 1)
        client.generation ^= 1
        await refused("another generation", tail, stale)
        await refused("tail too far", tail, client.doorbell(client.head + entries + 1))
        await refused("tail too far", tail, client.doorbell(client.head + 2**15))
        await refused("tail behind", tail, client.doorbell(client.tail - 1))
        await refused("head beyond the completions", head, client.doorbell(client.tail + 1))
        await refused("head behind", head, client.doorbell(client.head - entries - 1))
    old = client.doorbell(client.tail + 1)
    await client.disable()
    await refused("queue disabled", tail, old)
    await client.enable(client.generation ^ 0x8000)
    await refused("another generation", tail, old)
    assert (await client.commit(writes=[1])).committed
    # A byte of a doorbell is none.
    word = client.doorbell(client.tail + 1)
    address = tail
    before = len(testbench.memory.reads)
    response = await testbench.axi.write(address, word.to_bytes(4, "little")[:2])
    assert response.resp in (0, SLVERR)
    testbench.access_errors.append((ErrorCode.BAD_DOORBELL, client.slot, word & 0xFFFF))
    await testbench.clocks(40)
    assert len(testbench.memory.reads) == before
    testbench.cover.hit("doorbell refused", "partial strobes")
    assert (await client.commit(writes=[1])).committed
    check_accesses(testbench, [client, other])


@bench(cycles=120_000, geometries=("small",))
async def owners(testbench):
    """A queue goes from owner to owner in the middle of things; the others go on."""
    parameters = testbench.parameters
    client, *others = await enable_all(testbench)
    keys = key_pool(parameters, 10)

    async def change():
        for lap in range(12):
            choose_memory(testbench)
            for _ in range(random.randint(0, client.room)):
                client.prepare(random_snapshot(client), **random_sets(parameters, keys))
            if client.tail > client.head:
                await client.ring()
                await testbench.clocks(random.choice((0, 3, 20, 60)))
            decided, waiting = await client.enable((client.generation + 1) % 2**16 or 1)
            name = "with entries in the ring" if waiting else "with requests under way" if decided else "idle"
            testbench.cover.hit("queue restarted", name)
            record = [await testbench.read(client.record(word), 1) for word in ("WINDOW_BASE", "WINDOW_SIZE")]
            # A window does not change under its owner.
            await testbench.write(client.record("WINDOW_BASE"), [0x4000 * lap])
            testbench.access_errors.append((ErrorCode.WINDOW_IN_USE, client.slot, 0x4000 * lap))
            assert record == [await testbench.read(client.record(word), 1) for word in ("WINDOW_BASE", "WINDOW_SIZE")]
            assert not any(client.window[log_area_offset(parameters) // 2 : log_area_offset(parameters)])

    await gather(change(), *(flow(other, keys, LENGTH) for other in others))
    check_accesses(testbench, [client, *others])


@bench(cycles=120_000, geometries=("small", "rollover"))
async def resets(testbench):
    """A soft reset in the middle: what was fetched is answered, what waits in the rings is served after it."""
    testbench.exact = False
    clients = await enable_all(testbench)
    keys = key_pool(testbench.parameters, 6)
    for _ in range(6):
        choose_memory(testbench)

        async def reset():
            await testbench.clocks(random.randint(0, 150))
            busy = any(client.undecided for client in clients)
            testbench.cover.hit("queue reset", "with requests under way" if busy else "idle")
            await testbench.soft_reset()

        await gather(reset(), *(flow(client, keys, 4, past_snapshot) for client in clients))
        await testbench.ready()
        testbench.newest = await testbench.timestamp()
    await testbench.clocks(20)
    testbench.cover.hit("queue reset", "idle")
    await testbench.soft_reset()
    await testbench.ready()
    check_accesses(testbench, clients)


@bench(cycles=60_000, geometries=("small",))
async def hard_reset(testbench):
    """``rst`` in the middle of everything: the queues are disabled, and new owners find nothing of the old ones."""
    clients = queue_clients(testbench)
    keys = key_pool(testbench.parameters, 6)
    for _ in range(4):
        choose_memory(testbench)
        await gather(*(client.enable(random.randint(1, 2**16 - 1)) for client in clients))
        for client in clients:
            for _ in range(random.randint(0, client.room)):
                client.prepare(testbench.newest, **random_sets(testbench.parameters, keys))
            await client.ring()
        await testbench.clocks(random.randint(0, 60))
        await testbench.hard_reset()
        for client in clients:
            client.forget()
        testbench.statistics_before = await testbench.statistics()
        for client in clients:
            assert not (await client.status())["ENABLED"]
        testbench.cover.hit("hard reset", "with queues under way")
    await gather(*(client.enable(1) for client in clients))
    await gather(*(flow(client, keys, 4) for client in clients))
    check_accesses(testbench, clients)


@bench(cycles=60_000, geometries=("rollover",))
async def interrupts(testbench):
    """COMPLETION comes after the entry, with every one, with COUNT of them, or CLOCKS after the first."""
    client, *_ = await enable_all(testbench)
    bit = _PENDING["COMPLETION"].insert(1)
    dut = testbench.dut
    await testbench.set("INTERRUPT_PENDING", 0xFF)
    await testbench.set("INTERRUPT_ENABLE", bit)

    async def pending():
        return bool(await testbench.get("INTERRUPT_PENDING") & bit)

    async def clear():
        await testbench.set("INTERRUPT_PENDING", bit)
        await testbench.clocks(4)
        assert not dut.interrupt.value
        testbench.cover.hit("interrupt", "COMPLETION cleared")

    for latency in (0, 30):
        testbench.memory.latency = latency
        request = client.prepare(testbench.newest, writes=[1])
        await client.ring()
        while not dut.interrupt.value:
            await testbench.clocks(1)
        assert client.completed(request) is not None, "the interrupt came before the completion"
        testbench.cover.hit("interrupt", "COMPLETION line high")
        assert await pending()
        testbench.cover.hit("interrupt", "COMPLETION pending")
        await client.collect()
        await clear()
    # Three make an interrupt.
    await testbench.set("COALESCE", _COALESCE["COUNT"].insert(3))
    for number in range(1, 7):
        await client.commit(writes=[number])
        await testbench.clocks(20 + testbench.memory.latency)
        assert await pending() == (number % 3 == 0)
        if number % 3 == 0:
            await clear()
    # One, a while later.
    await testbench.set("COALESCE", _COALESCE["COUNT"].insert(100) | _COALESCE["CLOCKS"].insert(200))
    await client.commit(writes=[1])
    began = testbench.monitor.cycle
    while not dut.interrupt.value:
        await testbench.clocks(1)
    assert 100 < testbench.monitor.cycle - began <= 250
    await clear()

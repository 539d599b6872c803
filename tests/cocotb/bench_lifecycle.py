"""Power-up, rollover, scrub, soft reset, hard reset, restart, faults and floor."""

import random

import cocotb
from axi3 import OKAY, RawMaster
from bench_requests import key_pool, random_sets
from bloomgate.h3 import H3
from bloomgate.registers import SLOT_PAGE
from bloomgate.verdict import Reason
from cocotb.triggers import gather
from testbench import CHANNELS, FULL, Client, Command, bench, client_set

_BUSY = SLOT_PAGE.register("STATUS")["BUSY"]


async def settled_timestamp(testbench) -> tuple[int, int]:
    """The newest timestamp when nothing is going on any more."""
    await testbench.ready()
    testbench.newest = await testbench.timestamp()
    return testbench.newest


def long_sets(parameters) -> dict[str, list[int]]:
    half = parameters.aperture_depth // 2
    keys = [random.randint(0, parameters.max_key) for _ in range(half)]
    return {"reads": keys, "writes": keys[1:], "commutes": keys[:1]}


@bench(cycles=60_000, geometries=("rollover",))
async def rollover(testbench):
    """Epochs end by a commit alone, while others wait, and while others fill; PREVIOUS_* say where."""
    clients = client_set(testbench)
    first, second, third, _ = clients
    parameters = testbench.parameters

    async def until(count):
        while (await settled_timestamp(testbench))[1] < count:
            await first.commit(reads=[], writes=[random.randint(0, parameters.max_key)])

    async def stepped(epoch):
        assert await settled_timestamp(testbench) == (epoch, 0)
        assert await testbench.read(testbench.control("EPOCH"), 4) == [epoch, 0, epoch - 1, parameters.max_count]
        assert await testbench.get("FLOOR") == 0

    # Alone. What was written in the old epoch conflicts with nothing in the new one.
    await until(parameters.max_count - 1)
    assert (await first.commit(writes=[7])).words[2] == parameters.max_count
    await stepped(1)
    assert (await second.commit((0, parameters.max_count), reads=[7])).reason is Reason.ROLLOVER
    assert (await second.commit((1, 0), reads=[7])).committed

    # With others half filled, and with others undecided: all at once on the last count.
    await until(parameters.max_count - 1)
    half = third.new_request(testbench.newest, reads=[1, 2, 3], writes=[4])
    await third.prepare(half)
    await third.settle()
    half.filled = True
    requests = []
    for client in (first, second):
        request = client.new_request(testbench.newest, reads=[], writes=[client.slot])
        await client.prepare(request)
        await client.settle()
        requests.append(request)
    # Back to back, so that the second is undecided when the first ends the epoch.
    submits = [cocotb.start_soon(client.submit(request)) for client, request in zip(clients, requests, strict=False)]
    for task in submits:
        await task
    await gather(*(client.verdict(request) for client, request in zip(clients, requests, strict=False)))
    await third.submit(half)
    await third.verdict(half)
    reasons = [request.reason for request in (*requests, half)]
    assert sorted(map(str, reasons)) == sorted(map(str, [None, Reason.ROLLOVER, Reason.ROLLOVER]))
    await stepped(2)

    # Requests that come during the scrub wait for it, with the new epoch's snapshot too.
    for delay in range(8, 24, 2):
        await until(parameters.max_count - 1)
        last = first.new_request(testbench.newest, writes=[1])
        epoch = testbench.newest[0]
        late = second.new_request((epoch + 1, 0), reads=[1], writes=[2])
        for client, request in ((first, last), (second, late)):
            await client.prepare(request)
            await client.settle()
        await first.submit(last)
        while not last.decided:
            await testbench.clocks(1)
        await testbench.clocks(delay - 8)
        await second.submit(late)
        await gather(first.verdict(last), second.verdict(late))
        assert late.committed
        assert late.words[1:3] == [epoch + 1, 1]


@bench(cycles=20_000)
async def scrub_of_power_up(testbench):
    """A request that is submitted during the scrub after power-up waits, and finds nothing of the time before."""
    client = Client(testbench, 0)
    keys = list(range(12))
    for _ in range(4):
        await client.commit(writes=keys)
    await testbench.compare()
    # The master's traffic is at rest, so `rst` cuts nothing off.
    await testbench.hard_reset()
    testbench.decisions = 0
    request = client.new_request((0, 0), reads=[])
    client._send(client.address("READ_APERTURE"), keys[:2], 1)
    request.reads = keys[:2]
    await client.submit(request)
    await client.verdict(request)
    assert request.committed
    assert (await client.commit((0, 0), reads=keys)).committed


@bench(cycles=150_000)
async def reset_in_mid_request(testbench):
    """A soft reset in every state of a request: whatever a slot holds gets RESET, and the epoch steps once."""
    clients = client_set(testbench)[:4]
    parameters = testbench.parameters
    await testbench.soft_reset()
    for delay in range(0, 34 if not FULL else 60):
        epoch, _ = await settled_timestamp(testbench)
        requests = []
        for client in clients:
            sets = long_sets(parameters) if client.slot < 2 else random_sets(parameters, key_pool(parameters, 2))
            request = client.new_request(testbench.newest, **sets)
            await client.prepare(request)
            await client.settle()
            request.filled = bool(request.reads or request.writes or request.commutes)
            requests.append(request)
        # The first two are submitted, at most; the reset comes some time later.
        submitted = min(delay % 3, 2)
        for client, request in list(zip(clients, requests, strict=True))[:submitted]:
            await client.submit(request)
        await testbench.clocks(delay // 3 * 2)
        await testbench.soft_reset()
        if delay % 5 == 0:
            # A second reset command while the first is in progress is none.
            await testbench.write(testbench.control("COMMAND"), [1])
        for client, request in list(zip(clients, requests, strict=True))[submitted:]:
            await client.submit(request)
        await gather(*(client.verdict(request) for client, request in zip(clients, requests, strict=True)))
        for request in requests[submitted:]:
            assert request.reason is (
                Reason.RESET if request.filled or Reason.RESET in request.forced else request.reason
            )
        now, _ = await settled_timestamp(testbench)
        assert now > epoch
        # The reset is over for the next request.
        for client in clients[:2]:
            assert (await client.commit(reads=[1], writes=[])).committed
    assert Reason.RESET in {event.reason for event in testbench.events if not isinstance(event, Command)}


@bench(cycles=60_000)
async def submit_during_reset(testbench):
    """What is submitted between the reset command and the new epoch gets RESET; afterwards all is well."""
    clients = client_set(testbench)[:4]
    for _ in range(6):
        epoch, _ = await settled_timestamp(testbench)
        requests = []
        for client in clients[1:]:
            request = client.new_request(testbench.newest)
            await client.write("SNAPSHOT_EPOCH", [request.epoch, request.count])
            requests.append(request)
        resetting = cocotb.start_soon(testbench.soft_reset())
        submits = [
            cocotb.start_soon(client.submit(request, snapshot=False))
            for client, request in zip(clients[1:], requests, strict=True)
        ]
        for task in [resetting, *submits]:
            await task
        for client, request in zip(clients[1:], requests, strict=True):
            await client.verdict(request)
        assert await settled_timestamp(testbench) == (epoch + 1, 0)
        assert (await clients[0].commit(writes=[1])).committed


@bench(cycles=60_000, geometries=("rollover",))
async def reset_at_the_end_of_an_epoch(testbench):
    """A soft reset around the last commit of an epoch, during its scrub too: two steps, in order."""
    client = Client(testbench, 2)
    parameters = testbench.parameters
    for delay in range(0, 20):
        while (await settled_timestamp(testbench))[1] < parameters.max_count - 1:
            await client.commit(writes=[random.randint(0, parameters.max_key)])
        epoch, _ = testbench.newest
        request = client.new_request(testbench.newest, writes=list(range(12)))
        await client.prepare(request)
        await client.settle()
        resetting = None
        submitting = cocotb.start_soon(client.submit(request))
        if delay < 4:
            resetting = cocotb.start_soon(testbench.soft_reset())
        await submitting
        if resetting is None:
            await testbench.clocks(3 * (delay - 4))
            await testbench.soft_reset()
        else:
            await resetting
        await client.verdict(request)
        now, count = await settled_timestamp(testbench)
        assert count == 0
        assert now == epoch + (2 if request.committed else 1)


@bench(cycles=40_000)
async def restart(testbench):
    """INITIAL_EPOCH: where a reset goes, forwards only; the last epoch ends in ROLLOVER for ever."""
    client = Client(testbench, 0)
    for initial, expected in ((0, 1), (100, 100), (50, 101), (101, 102), (0x8000_0000, 0x8000_0000)):
        await client.commit(writes=[1, 2])
        await testbench.soft_reset(initial)
        assert await settled_timestamp(testbench) == (expected, 0)
        assert (await client.commit(reads=[1, 2])).committed
    await testbench.soft_reset(2**32 - 1)
    assert await settled_timestamp(testbench) == (2**32 - 1, 0)
    assert (await client.commit(reads=[1], writes=[1])).committed
    await testbench.soft_reset()
    await testbench.ready()
    assert "EXHAUSTED" in await testbench.status()
    testbench.newest = await testbench.timestamp()
    for _ in range(3):
        request = await client.commit(reads=[], writes=[1])
        assert request.reason is Reason.ROLLOVER
    assert (await client.commit(reads=[3])).reason is Reason.ROLLOVER


@bench(cycles=30_000)
async def chaos(testbench):
    """Streams from all slots, under them soft resets at any time."""
    clients = client_set(testbench)
    keys = key_pool(testbench.parameters, 3)
    running = len(clients)

    async def stream(client):
        nonlocal running
        for _ in range(8 if len(clients) < 8 else 3):
            epoch, count = testbench.newest
            snapshot = epoch, max(0, count - random.randint(0, 2))
            await client.commit(snapshot, **random_sets(testbench.parameters, keys))
        running -= 1

    async def disturb():
        while running:
            await testbench.clocks(random.randint(10, 250))
            await testbench.soft_reset()
            # The next one has to be one: not during this.
            await testbench.ready()

    await gather(disturb(), *(stream(client) for client in clients))


@bench(cycles=20_000, master=False)
async def hard_reset_in_bursts(testbench):
    """``rst`` in the middle of bursts: the bus is silent at once, forgets them, and works again."""
    dut = testbench.dut
    value = 0
    for withheld in range(1, 6 if not FULL else 16):
        for direction in ("write", "read"):
            master = RawMaster(dut)
            # Something to lose.
            assert await master.put(testbench.slot(0, "READ_APERTURE"), [1, 2, 3]) == OKAY
            assert (await master.get(testbench.slot(0, "READ_COUNT")))[0][0] == 3
            assert await master.put(testbench.control("INITIAL_EPOCH"), [77]) == OKAY
            if direction == "write":
                master.write_address(5, testbench.slot(0, "WRITE_APERTURE"), 16)
                for _ in range(16 - withheld):
                    master.write_data(5, 9, last=False)
                await testbench.clocks(18 - withheld + random.randrange(4))
            else:
                master.levels["r"] = random.choice((0, 0.5, 1))
                master.read_address(5, testbench.control("IDENTIFICATION"), 16)
                await testbench.clocks(5 + withheld % 10)
            assert not testbench.monitor.idle
            testbench.cover.hit("hard reset", f"in a {direction} burst")
            testbench.cover.hit("hard reset", "a request half filled")
            master.stop()
            dut.rst.value = 1
            await testbench.clocks(2)
            for name in ("awready", "wready", "bvalid", "arready", "rvalid"):
                assert not getattr(dut, f"s_axi_gp0_{name}").value, f"{name} during reset"
            await testbench.clocks(random.randrange(3))
            dut.rst.value = 0
            await testbench.clocks(random.randrange(1, 4))
            master = RawMaster(dut, {channel: random.choice((0, 0.5)) for channel in CHANNELS})
            assert await master.get(testbench.slot(0, "READ_COUNT"), 2) == [(0, OKAY), (0, OKAY)]
            assert await master.get(testbench.control("INITIAL_EPOCH")) == [(0, OKAY)]
            assert await master.get(testbench.control("EPOCH"), 5) == [(0, OKAY)] * 5
            value = random.getrandbits(32)
            assert await master.put(testbench.slot(0, "SNAPSHOT_COUNT"), [value]) == OKAY
            assert await master.get(testbench.slot(0, "SNAPSHOT_COUNT")) == [(value, OKAY)]
            await testbench.clocks(20)
            assert not master.beats
            assert not master.responses
            master.stop()


@bench(cycles=40_000)
async def hard_reset_in_requests(testbench):
    """``rst`` at any time in a request: all slots are empty and idle, and nothing of the request is left."""
    client, other = client_set(testbench)[:2]
    parameters = testbench.parameters
    for delay in range(0, 24, 2):
        keys = list(range(parameters.aperture_depth // 2))
        request = client.new_request((0, 0), reads=keys, writes=keys)
        await client.prepare(request)
        await client.settle()
        await other.fill(reads=[1], writes=[2])
        await other.settle()
        await client.submit(request)
        await testbench.clocks(delay)
        while not testbench.monitor.idle:
            await testbench.clocks(1)
        if testbench.undecided:
            testbench.cover.hit("hard reset", "a request undecided")
        await testbench.hard_reset()
        for slot in (client, other):
            assert await slot.status() == set()
            assert await slot.read("READ_COUNT", 2) == [0, 0]
            words = await slot.read("VERDICT")
            assert words[0] & 1 == 0
        await testbench.ready()
        assert await testbench.timestamp() == (0, 0)
        # Not even in the filter: with the oldest snapshot every key is as new.
        assert (await client.commit((0, 0), reads=keys)).committed
        # Statistics count from power-up, so the comparison takes them as they are now.
        testbench.statistics_before = await testbench.statistics()
        testbench.events.clear()
        testbench.access_errors.clear()


@bench(cycles=60_000)
async def faults(testbench):
    """Bad parity in the filter and in buffered keys: at worst an abort, counted and logged; mended in passing."""
    parameters = testbench.parameters
    client, other = client_set(testbench)[:2]
    h3 = H3(parameters)
    for round_number in range(12 if not FULL else 200):
        if testbench.newest[1] > parameters.max_count - 4:
            await testbench.soft_reset()
            await settled_timestamp(testbench)
        keys = random.sample(range(min(parameters.max_key, 4096)), 6)
        await other.commit(writes=keys[:3])
        old = testbench.newest
        await other.commit(writes=keys[3:5])
        await testbench.ready()
        snapshot = random.choice((old, testbench.newest, (testbench.newest[0], 0)))
        if round_number % 2:
            for table in random.sample(range(parameters.K), random.randint(1, parameters.K)):
                await testbench.inject_filter_word(table, h3.rows(keys[round_number % 6])[table])
            if random.random() < 0.25:
                await testbench.raise_floor()
        # Twice: the second time all words are good again.
        for _ in range(2):
            await client.commit(snapshot, reads=keys, writes=random.choice(([], keys[:1])))
    # Directed: a word that decides, and one that does not.
    await testbench.soft_reset()
    epoch, _ = await settled_timestamp(testbench)
    await other.commit(writes=[1])
    for table in range(parameters.K):
        await testbench.inject_filter_word(table, h3.rows(77)[table])
    assert (await client.commit((epoch, 0), reads=[77])).reason is Reason.PARITY
    await testbench.inject_filter_word(0, h3.rows(77)[0])
    assert (await client.commit(testbench.newest, reads=[77])).committed
    await testbench.inject_filter_word(0, h3.rows(77)[0])
    await testbench.raise_floor()
    assert (await client.commit((epoch, 0), reads=[77])).reason is Reason.CONFLICT
    # Inserting over a bad word mends it.
    await testbench.inject_filter_word(0, h3.rows(77)[0])
    await other.commit(writes=[77])
    await client.commit(testbench.newest, reads=[77])

    # Keys.
    for name, sets in (
        ("reads", {"reads": [9, 8, 7], "writes": [6]}),
        ("writes", {"reads": [9, 8], "writes": [6, 5]}),
        ("commutes", {"reads": [], "commutes": [6]}),
    ):
        await settled_timestamp(testbench)
        request = client.new_request(testbench.newest, **sets)
        keys = sets[name]
        index = random.randrange(len(keys))
        order = [("reads", sets.get("reads", [])), ("writes", sets.get("writes", []))]
        order.append(("commutes", sets.get("commutes", [])))
        for kind, group in order:
            for position, key in enumerate(group):
                if (kind, position) == (name, index):
                    await testbench.inject_next_key()
                client.send_keys(kind.removesuffix("s"), [key])
                await client.settle()
        request.bad_key = name, index
        await client.submit(request)
        assert (await client.verdict(request)).reason is Reason.PARITY
    # A conflict before the bad key comes first.
    before = await settled_timestamp(testbench)
    await other.commit(writes=[3])
    request = client.new_request(before, reads=[3, 4])
    client.send_keys("read", [3])
    await client.settle()
    await testbench.inject_next_key()
    client.send_keys("read", [4])
    request.bad_key = "reads", 1
    await client.submit(request)
    assert (await client.verdict(request)).reason is Reason.CONFLICT


@bench(cycles=20_000)
async def floor(testbench):
    """RAISE_FLOOR: older snapshots conflict with every read, and only with reads; a new epoch has none."""
    client, other = client_set(testbench)[:2]
    await testbench.raise_floor()
    assert await testbench.get("FLOOR") == 0
    assert (await client.commit((0, 0), reads=[1, 2, 3])).committed
    for _ in range(3):
        await other.commit(writes=[1])
    await testbench.raise_floor()
    assert await testbench.get("FLOOR") == 3
    for count in (0, 2):
        request = await client.commit((0, count), reads=[1000, 1001], writes=[1002])
        assert (request.reason, request.words[3]) == (Reason.CONFLICT, 1000)
        assert (await client.commit((0, count), reads=[])).committed
    assert (await client.commit((0, 3), reads=[1000])).committed
    assert (await client.commit((0, 2), writes=[1000])).committed
    await testbench.soft_reset()
    await settled_timestamp(testbench)
    assert await testbench.get("FLOOR") == 0
    await other.commit(writes=[1])
    await testbench.ready()

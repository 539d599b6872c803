"""Clients that do not keep to the rules: their own requests suffer, in the documented way, and nobody else's."""

import random

import cocotb
from axi3 import INCR, OKAY
from bench_requests import key_pool, random_sets, stream
from bloomgate.registers import CONTROL_PAGE, QUEUE_RECORD_BYTES, SLOT_PAGE, SLOT_RECORD_BYTES, Access, ErrorCode
from bloomgate.verdict import Reason
from cocotb.triggers import gather
from testbench import Client, bench, client_set

BUSY, OVERFLOW, BAD_REQUEST = Reason.BUSY, Reason.OVERFLOW, Reason.BAD_REQUEST
_PENDING = CONTROL_PAGE.register("INTERRUPT_PENDING")


class Abuser(Client):
    """A client with the means to misbehave."""

    def _hit(self, name: str) -> None:
        self.testbench.cover.hit("abuse", name)

    def _error(self, code: ErrorCode, detail: int) -> None:
        self.testbench.access_errors.append((code, self.slot, detail))

    def _keys(self, count: int) -> list[int]:
        return [random.randint(0, self.testbench.parameters.max_key) for _ in range(count)]

    async def busy_writes(self, kinds: list[str]) -> None:
        """Submit a long request and write to the slot before it can be decided."""
        testbench = self.testbench
        depth = testbench.parameters.aperture_depth
        request = self.new_request(testbench.newest, reads=self._keys(depth - 4), writes=self._keys(4))
        await self.prepare(request)
        testbench.filling.pop(self.slot)
        testbench.undecided[self.slot] = request
        words = [request.epoch, request.count, request.number]
        self._send(self.address("SNAPSHOT_EPOCH"), words, INCR)
        junk = random.getrandbits(16)
        names = {"SUBMIT twice": "SUBMIT", "DISCARD while busy": "DISCARD", "snapshot while busy": "SNAPSHOT_COUNT"}
        for kind in kinds:
            self._send(self.address(names.get(kind, "COMMUTE_APERTURE")), [junk], INCR)
            access = kind in ("SUBMIT twice", "DISCARD while busy")
            self._error(ErrorCode.SUBMIT_WHILE_BUSY if access else ErrorCode.WRITE_WHILE_BUSY, junk)
            self._hit(kind)
        await self.settle()
        assert self.slot in testbench.undecided or request.decided > testbench.monitor.write_beats[-1], "not busy long"
        await self.verdict(request)
        assert await self.status() == {"BUSY_ERROR"}

    async def overlong(self, extra: int) -> list[int]:
        """Fill the slot and write ``extra`` keys more; the keys that it has kept."""
        depth = self.testbench.parameters.aperture_depth
        keys = self._keys(depth + extra)
        await self.fill(reads=keys[:depth])
        await self.fill(reads=keys[depth:])
        await self.settle()
        for key in keys[depth:]:
            self._error(ErrorCode.KEY_OVERFLOW, key)
        self._hit("overlong request")
        return keys[:depth]

    async def partial_key(self) -> None:
        """One write of less than a word to an aperture."""
        name = random.choice(("READ_APERTURE", "WRITE_APERTURE", "COMMUTE_APERTURE"))
        window = SLOT_PAGE.window(name)
        offset = 4 * random.randrange(window.size // 4)
        length = random.choice((1, 2))
        await self.settle()
        response = await self.testbench.axi.write(
            self.address(name) + offset + random.randrange(0, 4, length), bytes(length), size=length - 1
        )
        assert response.resp == OKAY
        self._error(ErrorCode.PARTIAL_WRITE, window.offset + offset)

    async def wide_key(self) -> None:
        """A key that has too many bits, if there can be one."""
        bits = self.testbench.parameters.key_bits
        if bits < 32:
            word = random.getrandbits(32) | 1 << random.randrange(bits, 32)
            await self.write("READ_APERTURE", [word])
            self._error(ErrorCode.KEY_RANGE, word)
        else:
            await self.partial_key()

    async def send(self, request) -> None:
        """Submit a request whose keys are in the slot, and have its verdict."""
        await self.submit(request)
        await self.verdict(request)


async def abuse(client: Abuser) -> None:
    """Everything that a client can do wrong, one thing after the other, each with a good request behind it."""
    testbench = client.testbench
    busy_kinds = ["SUBMIT twice", "key while busy", "snapshot while busy", "DISCARD while busy"]
    random.shuffle(busy_kinds)

    async def good():
        assert (await client.status()) == set()
        request = await client.commit(reads=[], writes=[1])
        assert request.committed or request.reason is Reason.ROLLOVER

    # Writes to a busy slot fall on the next request, and only on that one.
    for kind in busy_kinds:
        await client.busy_writes([kind])
        await client.commit(writes=client._keys(2), forced={BUSY})
        await good()
    # DISCARD takes it back.
    await client.busy_writes(["key while busy"])
    await client.write("DISCARD", [0])
    client._hit("DISCARD after an error")
    await good()

    kept = await client.overlong(random.randint(1, 5))
    assert await client.status() == {"OVERFLOW_ERROR"}
    await client.send(client.new_request(testbench.newest, reads=kept, forced={OVERFLOW}))
    await good()
    kept = await client.overlong(1)
    await client.write("DISCARD", [0])
    assert await client.read("READ_COUNT", 2) == [0, 0]
    await good()

    for spoil in (client.partial_key, client.wide_key):
        keys = client._keys(3)
        await client.fill(reads=keys)
        await spoil()
        assert await client.status() == {"BAD_REQUEST_ERROR"}
        await client.send(client.new_request(testbench.newest, reads=keys, forced={BAD_REQUEST}))
        await good()

    # Less than a word of SUBMIT submits, so that there is a verdict.
    request = client.new_request(testbench.newest, writes=[2, 3], forced={BAD_REQUEST})
    await client.prepare(request)
    await client.write("SNAPSHOT_EPOCH", [request.epoch, request.count])
    testbench.filling.pop(client.slot)
    testbench.undecided[client.slot] = request
    response = await testbench.axi.write(client.address("SUBMIT"), request.number.to_bytes(2, "little"), size=1)
    assert response.resp == OKAY
    client._error(ErrorCode.PARTIAL_WRITE, SLOT_PAGE.register("SUBMIT").offset)
    await client.verdict(request)
    await good()

    # Half a request, left or thrown away.
    await client.fill(reads=client._keys(3), writes=client._keys(2))
    await client.write("DISCARD", [random.getrandbits(32)])
    client._hit("DISCARD of a half request")
    await good()
    # Nothing at all, with the snapshot of before.
    request = client.new_request(testbench.newest)
    await client.write("SNAPSHOT_EPOCH", [request.epoch, request.count])
    await client.submit(request, snapshot=False)
    await client.verdict(request)
    client._hit("submit without keys")

    # Several sins in one request: the reason that comes first counts.
    await client.busy_writes(["SUBMIT twice"])
    kept = await client.overlong(2)
    await client.send(client.new_request(testbench.newest, reads=kept, forced={BUSY, OVERFLOW}))
    await client.busy_writes(["key while busy", "SUBMIT twice"])
    await client.partial_key()
    await client.send(client.new_request(testbench.newest, forced={BUSY, BAD_REQUEST}))
    kept = await client.overlong(1)
    await client.wide_key()
    await client.send(client.new_request(testbench.newest, reads=kept, forced={BAD_REQUEST, OVERFLOW}))
    epoch, count = testbench.newest
    await client.commit((epoch, testbench.parameters.max_count), writes=[1])
    await client.commit((epoch + 1, 0), reads=[1])
    # An overlong request that would conflict too.
    keys = client._keys(testbench.parameters.aperture_depth)
    before = testbench.newest
    await client.commit(writes=keys[:2])
    await client.fill(reads=keys)
    await client.fill(reads=keys[:1])
    client._error(ErrorCode.KEY_OVERFLOW, keys[0])
    await client.send(client.new_request(before, reads=keys, forced={OVERFLOW}))
    await good()


@bench(cycles=40_000)
async def others_are_undisturbed(testbench):
    """One slot misbehaves, one stops in the middle, the others work as if they were alone."""
    clients = client_set(testbench)
    abuser = Abuser(testbench, clients[0].slot)
    keys = key_pool(testbench.parameters, 4)
    left = clients[1]
    request = left.new_request((0, 0), **random_sets(testbench.parameters, keys))
    await left.prepare(request)
    testbench.cover.hit("abuse", "abandoned half request")
    await gather(abuse(abuser), *(stream(client, keys, 6) for client in clients[2:6]))
    # It comes back, and its request is complete.
    await left.submit(request)
    await left.verdict(request)


@bench(cycles=20_000)
async def all_abuse(testbench):
    """All slots misbehave at once."""
    await gather(*(abuse(Abuser(testbench, client.slot)) for client in client_set(testbench)[:4]))


@bench(cycles=20_000)
async def busy_across_rollover(testbench):
    """BUSY comes before ROLLOVER."""
    client = Abuser(testbench, 3)
    await client.commit(writes=[1])
    await client.busy_writes(["SUBMIT twice"])
    await testbench.soft_reset()
    # The reset does not take BUSY back: nothing was being filled.
    await testbench.ready()
    await client.commit((0, 1), writes=[1], forced={BUSY})
    await client.commit((0, 1), writes=[1])


@bench(cycles=40_000)
async def refill_at_once(testbench):
    """Keys that pour into a slot while its commit is being inserted: the insertion is of the keys that were decided."""
    depth = testbench.parameters.aperture_depth
    client, other = Abuser(testbench, 0), client_set(testbench)[1]
    for round_number in range(12):
        name = ("READ_APERTURE", "WRITE_APERTURE")[round_number % 2]
        keys = random.sample(range(min(testbench.parameters.max_key, 4096)), depth)
        await testbench.soft_reset()
        await testbench.ready()
        before = testbench.newest = await testbench.timestamp()
        request = client.new_request(before, writes=keys[: depth - round_number // 2 % 2])
        await client.prepare(request)
        await client.settle()
        testbench.filling.pop(client.slot)
        testbench.undecided[client.slot] = request
        client._send(client.address("SNAPSHOT_EPOCH"), [request.epoch, request.count, request.number], INCR)
        # Some come too early, while the slot is busy, and are dropped.
        junk = client._keys(24)
        for start in range(0, len(junk), 8):
            client._send(client.address(name), junk[start : start + 8], INCR)
        await client.settle()
        await client.verdict(request)
        assert request.committed
        kept = sum(await client.read("READ_COUNT", 2))
        assert kept < depth
        for word in junk[: len(junk) - kept]:
            client._error(ErrorCode.WRITE_WHILE_BUSY, word)
        await client.write("DISCARD", [0])
        for key in request.writes:
            verdict = await other.commit(before, reads=[key])
            assert (verdict.reason, verdict.words[3]) == (Reason.CONFLICT, key), f"{name}: {key:#x} was not inserted"


async def page_words(testbench, pages) -> list[int]:
    """All registers that can be read in those pages, apart from what the clock moves."""
    words = []
    for page in pages:
        items = CONTROL_PAGE if page is None else SLOT_PAGE
        for item in items:
            if item.access is not Access.WO:
                address = testbench.control(item.name) if page is None else testbench.slot(page, item.name)
                records = {"SLOT_RECORDS": SLOT_RECORD_BYTES, "QUEUE_RECORDS": QUEUE_RECORD_BYTES}
                size = records[item.name] * testbench.parameters.slots if item.name in records else item.size
                for start in range(0, size, 64):
                    words += await testbench.read(address + start, min(16, (size - start) // 4))
    return words


@bench(cycles=40_000)
async def reads_change_nothing(testbench):
    """Reading every word of every page in the middle of a request: nothing changes, and the request is as it was."""
    parameters = testbench.parameters
    clients = client_set(testbench)
    keys = key_pool(parameters, 3)
    pages = [None, *range(parameters.slots)]
    # Something in every register: errors, a verdict, fills.
    await Abuser(testbench, 0).wide_key()
    await clients[0].write("DISCARD", [0])
    await clients[1].commit(writes=keys[:2])
    await clients[2].commit((0, 0), reads=keys[:2])
    requests = []
    for client in clients[:3]:
        sets = {"reads": keys[:1] + [client.slot], "writes": [keys[client.slot]], "commutes": keys[1:3]}
        request = client.new_request(testbench.newest, **sets)
        await client.prepare(request)
        await client.settle()
        requests.append(request)
    before = await page_words(testbench, pages)
    for page in random.sample(range(parameters.slots + 1), 2):
        address = testbench.control("IDENTIFICATION") + 4096 * page
        for offset in range(0, 4096, 64):
            # Holes answer SLVERR.
            await testbench.axi.read(address + offset, 64)
    testbench.cover.hit("read in mid-request", "half filled")
    assert await page_words(testbench, pages) == before
    # And while it is undecided.
    for client, request in zip(clients, requests, strict=False):
        reading = [
            cocotb.start_soon(testbench.axi.read(client.address("VERDICT") + offset, 64)) for offset in (0, 0x400)
        ]
        submitting = cocotb.start_soon(client.submit(request))
        for task in [*reading, submitting]:
            await task
        testbench.cover.hit("read in mid-request", "undecided")
        await client.verdict(request)
        # A verdict stays until the next one.
        again = [await client.read("VERDICT", 4) for _ in range(3)]
        assert again == [request.words] * 3


@bench(cycles=20_000)
async def interrupts(testbench):
    """Each cause: pending whether enabled or not; the line is a level; writing 1 clears that bit alone."""
    client = Abuser(testbench, 1)
    line = testbench.dut.interrupt
    cover = testbench.cover

    async def cause(name):
        if name == "ERROR":
            await client.partial_key()
            await client.write("DISCARD", [0])
        elif name == "EPOCH":
            await testbench.soft_reset()
            await testbench.ready()
            testbench.newest = await testbench.timestamp()
        else:
            await client.commit(writes=[5])

    for name in ("ERROR", "EPOCH", "VERDICT"):
        bit = _PENDING[name].mask
        await testbench.set("INTERRUPT_PENDING", 7)
        assert await testbench.get("INTERRUPT_PENDING") == 0
        await cause(name)
        assert await testbench.get("INTERRUPT_PENDING") == bit
        cover.hit("interrupt", f"{name} pending")
        assert not line.value
        await testbench.set("INTERRUPT_ENABLE", 7 & ~bit)
        await testbench.clocks(3)
        assert not line.value
        await testbench.set("INTERRUPT_ENABLE", bit)
        await testbench.clocks(3)
        assert line.value
        cover.hit("interrupt", f"{name} line high")
        # Not what clears it: other bits, other byte lanes.
        await testbench.set("INTERRUPT_PENDING", 0xFFFF_FFFF & ~bit)
        response = await testbench.axi.write(testbench.control("INTERRUPT_PENDING") + 1, b"\xff\xff\xff")
        assert response.resp == OKAY
        await testbench.clocks(3)
        assert line.value
        await testbench.set("INTERRUPT_PENDING", bit)
        await testbench.clocks(3)
        assert not line.value
        assert await testbench.get("INTERRUPT_PENDING") == 0
        cover.hit("interrupt", f"{name} cleared")
        # With the enable still set the next cause raises it at once.
        await cause(name)
        await testbench.clocks(3)
        assert line.value
        await testbench.set("INTERRUPT_ENABLE", 0)
        await testbench.clocks(3)
        assert not line.value

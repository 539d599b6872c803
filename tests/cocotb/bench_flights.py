"""Transactions in flight over the real bus: announcing, dooms, wakes and the irrevocable token."""

import random

from bench_requests import key_pool, random_sets, random_snapshot, stream
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, ErrorCode, RequestKind
from bloomgate.verdict import Reason
from cocotb.triggers import gather
from testbench import CHANNELS, FULL, Client, GrantRequest, GuardRequest, Request, bench, client_set, set_pauses

_FLIGHT = SLOT_PAGE.register("FLIGHT")
_KIND = SLOT_PAGE.register("SUBMIT")["KIND"]
_WAKE = CONTROL_PAGE.register("INTERRUPT_PENDING")["WAKE"].mask
#: Transactions of each slot.
LENGTH = 200 if FULL else 10


class FlightClient(Client):
    """A client whose transactions announce what they read."""

    def new_request(self, *arguments, **sets) -> Request:
        request = super().new_request(*arguments, **sets)
        request.announced = True
        return request

    async def begin(self, snapshot: tuple[int, int] | None = None) -> tuple[int, int]:
        """Begin a transaction; its snapshot."""
        snapshot = self.testbench.newest if snapshot is None else snapshot
        await self.write("SNAPSHOT_EPOCH", snapshot)
        await self.write("ANNOUNCE", [1])
        return snapshot

    async def announce(self, keys: list[int]) -> None:
        """Announce keys, and wait until they are."""
        await self.fill(reads=keys)
        await self.until("ANNOUNCING_DONE", 1)

    async def flight(self) -> dict[str, int]:
        """FLIGHT and the doom, from one burst."""
        flight, key, epoch, count = await self.read("FLIGHT", 4)
        fields = {item.name: item.extract(flight) for item in _FLIGHT.fields}
        return {**fields, "key": key, "timestamp": (epoch, count)}

    async def until(self, name: str, value: int) -> dict[str, int]:
        """Poll; the bench's limit in clock cycles ends it."""
        while (state := await self.flight())[name] != value or not state["TOLD"]:
            pass
        return state

    async def ask(self, request: Request, kind: RequestKind) -> None:
        """Submit ``request``, whose keys and snapshot the page has, as ``kind``."""
        await self.settle()
        testbench = self.testbench
        testbench.filling.pop(self.slot, None)
        testbench.undecided[self.slot] = request
        request.submitted = testbench.monitor.cycle
        await self.write("SUBMIT", [request.number | _KIND.insert(kind)])

    async def finish(self, snapshot, announced, **sets) -> Request:
        """Commit the transaction that has begun; ``reads`` of ``sets`` are not announced."""
        request = self.new_request(snapshot, [*announced, *sets.pop("reads", ())], **sets)
        self.testbench.filling[self.slot] = request
        if len(request.reads) > len(announced):
            await self.write("ANNOUNCE", [0])
        await self.fill(request.reads[len(announced) :], request.writes, request.commutes)
        await self.submit(request, snapshot=False)
        return await self.verdict(request)

    async def take_token(self, snapshot, announced) -> GrantRequest:
        """Ask for the token; what becomes of that is to be waited for."""
        self._number = (self._number + 1) % (1 << 16)
        request = GrantRequest(self.slot, self._number, *snapshot, list(announced))
        await self.ask(request, RequestKind.TOKEN)
        return request

    async def guard(self, keys: list[int]) -> tuple[int, int]:
        """As the holder: nobody else changes ``keys`` from now on; the newest timestamp."""
        await self.fill(reads=keys)
        self._number = (self._number + 1) % (1 << 16)
        request = GuardRequest(self.slot, self._number, *self.testbench.newest, list(keys))
        await self.ask(request, RequestKind.GUARD)
        await self.verdict(request)
        assert request.committed
        return request.words[1], request.words[2]


def flight_clients(testbench, count: int) -> list[FlightClient]:
    # Some of the keys are validated more than once, others never.
    testbench.exact = False
    return [FlightClient(testbench, client.slot) for client in client_set(testbench)[:count]]


async def announcing_stream(client: FlightClient, keys: list[int], length: int) -> None:
    """Transactions of all kinds: announced, half announced, not announced, doomed and finished all the same, parked."""
    testbench = client.testbench
    for _ in range(length):
        sets = random_sets(testbench.parameters, keys)
        snapshot = random_snapshot(client)
        if random.random() < 0.2:
            await client.commit(snapshot, **sets)
            continue
        reads = sets.pop("reads")
        cut = random.choice((len(reads), random.randint(0, len(reads))))
        await client.begin(snapshot)
        await client.fill(reads=reads[:cut], eager=random.random() < 0.5)
        await testbench.clocks(random.choice((0, random.randint(0, 80))))
        await client.settle()
        choice = random.random()
        if choice < 0.15:
            await client.write("DISCARD", [0])
            continue
        if choice < 0.3:
            # Waits for a change until it has had enough.
            before = (await client.flight())["WAKE_SEQUENCE"]
            await client.write("PARK", [1])
            await testbench.clocks(random.randint(0, 200))
            await client.write("PARK", [0])
            state = await client.flight()
            assert not state["PARKED"]
            if state["WAKE_SEQUENCE"] != before:
                assert state["DOOMED"]
        state = await client.flight()
        if state["DOOMED"]:
            testbench.cover.hit("flight", "doomed beside others")
        await client.finish(snapshot, reads[:cut], reads=reads[cut:], **sets)


@bench(cycles=80_000)
async def announcing_beside_plain_requests(testbench):
    """No commit that the exact sets forbid, whatever was announced when; under pauses on every channel as well."""
    keys = key_pool(testbench.parameters, 4)
    clients = flight_clients(testbench, testbench.parameters.slots)
    plain = [Client(testbench, client.slot) for client in clients[-1:]]
    for level in (0, 0.5):
        set_pauses(testbench.axi, {channel: random.choice((0, level)) for channel in CHANNELS})
        streams = [announcing_stream(client, keys, LENGTH) for client in clients[:-1]]
        await gather(*streams, *(stream(client, keys, LENGTH) for client in plain))


@bench(cycles=20_000)
async def dooms_and_wakes(testbench):
    """A commit of an announced key dooms its readers, with key and timestamp, and wakes those that are parked."""
    reader, sleeper, writer = flight_clients(testbench, 3)
    hit = testbench.cover.hit
    mine, other = 5, 9
    for client in (reader, sleeper):
        await client.begin()
        await client.announce([other, mine])
        assert not (await client.flight())["DOOMED"]
    snapshot = testbench.newest
    await sleeper.write("PARK", [1])
    before = await sleeper.until("PARKED", 1)
    await testbench.set("INTERRUPT_PENDING", _WAKE)
    assert not await testbench.get("INTERRUPT_PENDING") & _WAKE

    winner = await writer.commit(writes=[mine])
    timestamp = winner.words[1], winner.words[2]
    state = await reader.until("DOOMED", 1)
    assert (state["KEY_KNOWN"], state["key"], state["timestamp"]) == (1, mine, timestamp)
    hit("flight", "doomed")
    state = await sleeper.until("PARKED", 0)
    assert state["WAKE_SEQUENCE"] == (before["WAKE_SEQUENCE"] + 1) % (1 << 16)
    assert state["timestamp"] == timestamp
    assert await testbench.get("INTERRUPT_PENDING") & _WAKE
    hit("flight", "woken")

    # Parked when it was doomed already: woken at once.
    before = (await reader.flight())["WAKE_SEQUENCE"]
    await reader.write("PARK", [1])
    state = await reader.until("PARKED", 0)
    assert state["WAKE_SEQUENCE"] == (before + 1) % (1 << 16)
    hit("flight", "woken while parking")
    request = await reader.finish(snapshot, [other, mine], writes=[mine])
    assert (request.reason, request.words[3]) == (Reason.CONFLICT, mine)
    await sleeper.write("DISCARD", [0])

    # A commit between the snapshot and the announcement.
    await writer.commit(commutes=[mine])
    await reader.begin(snapshot)
    await reader.announce([mine])
    await reader.until("DOOMED", 1)
    hit("flight", "doomed by its announcement")
    await reader.write("DISCARD", [0])
    assert not (await reader.flight())["DOOMED"]


@bench(cycles=20_000)
async def the_irrevocable_token(testbench):
    """Who holds it is not refused; what others commit against its reads is; it goes on to the next, or is revoked."""
    holder, second, other = flight_clients(testbench, 3)
    hit = testbench.cover.hit
    snapshot = await holder.begin()
    await holder.announce([3])
    request = await holder.take_token(snapshot, [3])
    await holder.verdict(request)
    assert request.committed
    assert (await holder.flight())["HOLDER"]
    hit("flight", "granted")

    newest = await holder.guard([4, 5])
    assert newest == testbench.newest
    hit("flight", "guarded")
    for key in (3, 4, 5):
        refused = await other.commit(writes=[11, key], forced={Reason.IRREVOCABLE})
        assert (refused.reason, refused.words[3]) == (Reason.IRREVOCABLE, key)
    hit("flight", "refused")
    assert (await other.commit(reads=[3, 4], writes=[12])).committed

    waiting_snapshot = await second.begin()
    await second.announce([12])
    waiting = await second.take_token(waiting_snapshot, [12])
    await second.until("TOKEN_WAITING", 1)
    assert (await holder.finish(testbench.newest, [], writes=[3, 4])).committed
    await second.verdict(waiting)
    assert waiting.committed
    hit("flight", "granted after a wait")

    await testbench.set("TOKEN_REVOKE", second.slot)
    await second.until("REVOKED", 1)
    revoked = await second.finish(testbench.newest, [], writes=[12], forced={Reason.REVOKED})
    assert revoked.reason is Reason.REVOKED
    hit("flight", "revoked")
    assert (await other.commit(writes=[12])).committed


@bench(cycles=20_000)
async def out_of_place(testbench):
    """What belongs to a transaction in flight, without one: refused, logged, and of no effect on what comes next."""
    client, other = flight_clients(testbench, 2)
    error = ErrorCode.NOT_IN_FLIGHT
    await client.write("PARK", [1])
    testbench.access_errors.append((error, client.slot, 1))
    assert not (await client.flight())["PARKED"]
    for kind in (RequestKind.TOKEN, RequestKind.GUARD, 3):
        await client.write("SNAPSHOT_EPOCH", testbench.newest)
        request = client.new_request(testbench.newest, reads=[1], forced={Reason.BAD_REQUEST})
        testbench.filling[client.slot] = request
        await client.fill(reads=[1])
        await client.ask(request, kind)
        testbench.access_errors.append((error, client.slot, request.number | _KIND.insert(int(kind))))
        await client.verdict(request)
        assert request.reason is Reason.BAD_REQUEST
        assert (await client.commit(writes=[1])).committed
    # Nor does one without the token guard anything.
    snapshot = await client.begin()
    await client.announce([2])
    request = client.new_request(snapshot, reads=[2], forced={Reason.BAD_REQUEST})
    await client.ask(request, RequestKind.GUARD)
    testbench.access_errors.append((error, client.slot, request.number | _KIND.insert(RequestKind.GUARD)))
    await client.verdict(request)
    assert request.reason is Reason.BAD_REQUEST
    assert (await other.commit(writes=[2])).committed

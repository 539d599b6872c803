"""Transactions in flight in the whole core: announcing, dooms, wakes, the irrevocable token."""

import random

import pytest
from bloomgate.backends.model import ModelDevice
from bloomgate.h3 import H3
from bloomgate.in_flight import SLOT_FILTER_ROWS, Conflict, Doom, Token
from bloomgate.parameters import Parameters
from bloomgate.registers import CONFLICT_ENTRY, CONTROL_PAGE, SLOT_PAGE, Fault, RequestKind
from bloomgate.verdict import Reason, Verdict

from tests.hdl.core import Core
from tests.hdl.simulation import fields_of

SMALL = Parameters(K=2, D=16, timestamp_bits=8, key_bits=8, slots=3, aperture_depth=16)


@pytest.fixture
def core(monkeypatch):
    return lambda parameters=SMALL: Core(parameters, monkeypatch)


async def announce(core, slot, on=1):
    await core.write(1 + slot, SLOT_PAGE.register("ANNOUNCE"), on)


async def read_key(core, slot, key):
    await core.write(1 + slot, SLOT_PAGE.window("READ_APERTURE"), key)


async def flight(core, slot):
    return fields_of(SLOT_PAGE.register("FLIGHT"), await core.read(1 + slot, SLOT_PAGE.register("FLIGHT")))


@pytest.mark.parametrize("bits", [4, 12])
def test_verdicts_are_those_of_requests_that_announce_nothing(core, bits, seed):
    """Slots announce, or not, while others commit, and submit at any time. In the order of the verdicts each one is
    that of the model for the whole request at once. With one table, since the false conflict of a key whose rows were
    overwritten by two other keys is none for who has announced it.
    """
    rng = random.Random(seed)
    p = Parameters(K=1, D=16, timestamp_bits=bits, key_bits=8, slots=3, aperture_depth=16)
    core = core(p)
    announced = []

    async def bench():
        await core.ready()
        filling, submitted, checked = {}, {}, 0
        with ModelDevice(p) as model:

            async def check():
                nonlocal checked
                while checked < len(core.decided):
                    slot = core.decided[checked][1]
                    checked += 1
                    request = submitted.pop(slot)
                    assert await core.verdict(slot) == model.commit(**request), (slot, request)

            while checked < 80:
                slot = rng.randrange(p.slots)
                if slot in submitted:
                    await core.step()
                elif slot not in filling:
                    newest = model.last_timestamp()
                    snapshot = max(0, newest - rng.choice((0, 0, 0, 1, 2)))
                    filling[slot] = {"snapshot": snapshot, "reads": [], "writes": []}
                    await core.fill(slot, snapshot)
                    if rng.random() < 0.8:
                        await announce(core, slot)
                        announced.append(slot)
                elif rng.random() < 0.65:
                    key, where = rng.randrange(40), rng.choice(("reads", "reads", "reads", "writes"))
                    if len(filling[slot]["reads"]) + len(filling[slot]["writes"]) < p.aperture_depth:
                        filling[slot][where].append(key)
                        window = "READ_APERTURE" if where == "reads" else "WRITE_APERTURE"
                        await core.write(1 + slot, SLOT_PAGE.window(window), key)
                elif rng.random() < 0.1:
                    # Between requests, so that the model can follow.
                    while submitted:
                        await core.step()
                        await check()
                    if rng.random() < 0.7:
                        table, row = rng.randrange(p.K), rng.randrange(p.D)
                        await core.inject(Fault.FILTER_WORD, table, row)
                        model.inject_parity_error(table, row)
                    else:
                        await core.command("RAISE_FLOOR")
                        model.raise_floor()
                else:
                    submitted[slot] = filling.pop(slot)
                    await core.submit(slot)
                await check()
            while submitted:
                await core.step()
                await check()

    core.run(bench, clocks=12000)
    assert len(announced) > 20


class Lockstep:
    """The core and the model doing the same, one step after the other."""

    def __init__(self, core, model, rng):
        self.core, self.model, self.rng, self.parameters = core, model, rng, core.parameters
        #: The last slot is the one for requests without a transaction in flight.
        self.slots = [model.open_slot() for _ in range(core.parameters.slots - 1)]
        self.wakes = [0] * len(self.slots)
        self.asked = [False] * len(self.slots)
        self.seen = set()

    async def settle(self):
        while not (await self.core.control("STATUS"))["SETTLED"]:
            pass

    def keys(self, most):
        return [self.rng.randrange(self.parameters.max_key + 1) for _ in range(self.rng.randrange(most + 1))]

    async def sets(self, number, reads, writes):
        for name, keys in (("READ", reads), ("WRITE", writes)):
            for key in keys:
                await self.core.write(1 + number, SLOT_PAGE.window(f"{name}_APERTURE"), key)

    async def submit(self, number, kind):
        register = SLOT_PAGE.register("SUBMIT")
        decided = len(self.core.decided)
        await self.core.write(1 + number, register, register["KIND"].insert(kind))
        if kind != RequestKind.TOKEN:
            await self.core.wait(decided + 1)

    async def flight_register(self, number, name):
        return await self.core.read(1 + number, SLOT_PAGE.register(name))

    async def step(self):
        rng, core, p = self.rng, self.core, self.parameters
        number = rng.randrange(len(self.slots))
        slot = self.slots[number]
        state = self.model._in_flight
        in_flight, token = state.is_in_flight(number), slot.token
        newest = self.model.last_timestamp()
        room = p.aperture_depth - len(state.log(number))
        what = rng.choice(self.choices(in_flight, token, state._slots[number].refused, slot.parked))
        self.seen.add(what)
        if what == "begin":
            snapshot = max(0, newest - rng.choice((0, 0, 0, 1)))
            await core.write(1 + number, SLOT_PAGE.register("DISCARD"), 1)
            await core.fill(number, snapshot)
            await announce(core, number)
            slot.begin(snapshot)
        elif what == "announce":
            keys = self.keys(min(3, room))
            await self.sets(number, keys, ())
            slot.announce(keys)
        elif what == "commit":
            reads, writes = self.keys(min(2, room)), []
            writes = self.keys(min(3, room - len(reads)))
            await announce(core, number, 0)
            await self.sets(number, reads, writes)
            await self.submit(number, RequestKind.COMMIT)
            expected = slot.commit(reads=reads, writes=writes)
            await self.settle()
            verdict = await core.verdict(number)
            assert verdict == expected
            self.seen.add(verdict.reason)
        elif what == "other commit":
            request = {"snapshot": newest, "reads": self.keys(1), "writes": self.keys(2)}
            assert await core.commit(p.slots - 1, **request) == self.model.commit(**request)
        elif what == "cancel":
            await core.write(1 + number, SLOT_PAGE.register("DISCARD"), 1)
            slot.cancel()
            self.asked[number] = False
        elif what == "park":
            await core.write(1 + number, SLOT_PAGE.register("PARK"), 1)
            slot.park()
        elif what == "unpark":
            await core.write(1 + number, SLOT_PAGE.register("PARK"), 0)
            slot._unpark()
        elif what == "token":
            await self.submit(number, RequestKind.TOKEN)
            slot.request_token()
            self.asked[number] = True
        elif what == "guard":
            keys = self.keys(min(2, room - 4))
            await self.sets(number, keys, ())
            await self.submit(number, RequestKind.GUARD)
            expected = slot.guard(keys)
            await self.settle()
            verdict = await core.verdict(number)
            assert (verdict.committed, verdict.timestamp) == (True, expected)
        elif what == "floor":
            await core.command("RAISE_FLOOR")
            self.model.raise_floor()
        elif what == "fault":
            table, row = rng.randrange(p.K), rng.randrange(p.D)
            await core.inject(Fault.FILTER_WORD, table, row)
            self.model.inject_parity_error(table, row)
        elif what == "revoke":
            register = CONTROL_PAGE.register("TOKEN_REVOKE")
            await core.write(0, register, state.holder or 0)
            self.model.revoke_token()
        elif what == "reset":
            await core.command("SOFT_RESET")
            self.model.reset()
            await core.ready()
        await core.ready()
        await self.settle()
        for number in range(len(self.slots)):
            await self.compare(number, what)

    def choices(self, in_flight, token, refused, parked):
        choices = ["begin", "other commit"]
        if token is not Token.WAITING:
            if in_flight:
                choices += ["commit", "commit", "cancel"]
            if in_flight and token is not Token.HOLDER:
                choices += ["announce"] * 6
            if in_flight and token is Token.NONE:
                choices += ["token"]
            if (in_flight or refused) and not parked:
                choices += ["park"] * (4 if refused else 2)
            if parked:
                choices += ["unpark"]
        if token is Token.HOLDER:
            choices = ["guard", "guard", "commit", "cancel", "other commit", "other commit"]
            choices += ["revoke"] * (self.rng.random() < 0.3)
        if token is Token.WAITING:
            choices = ["other commit", "cancel"]
        if self.rng.random() < 0.1:
            choices = ["floor", "floor", "fault", "fault"]
            # The model gives the token to who waits before it says that the epoch has ended; the gateware after it.
            if not any(slot.token is Token.WAITING for slot in self.slots):
                choices.append("reset")
        return choices

    async def compare(self, number, what):
        slot, p = self.slots[number], self.parameters
        found = await flight(self.core, number)
        doom, wake, token = slot.doomed, slot.last_wake, slot.token
        where = (what, number)
        assert found["DOOMED"] == (doom is not None), where
        assert found["PARKED"] == slot.parked, where
        assert found["WAKE_SEQUENCE"] == wake.sequence, where
        assert found["TOKEN_WAITING"] == (token is Token.WAITING), where
        assert found["HOLDER"] == (token is Token.HOLDER), where
        assert found["REVOKED"] == (token is Token.REVOKED), where
        assert found["ANNOUNCING_DONE"]
        assert found["TOLD"]
        timestamp = p.timestamp(
            await self.flight_register(number, "DOOM_EPOCH"), await self.flight_register(number, "DOOM_COUNT")
        )
        if doom is not None:
            key = await self.flight_register(number, "DOOM_KEY") if found["KEY_KNOWN"] else None
            assert Doom(key, timestamp) == doom, where
            self.seen.add("doom by key" if key is not None else "doom")
        if wake.sequence != self.wakes[number]:
            self.wakes[number] = wake.sequence
            assert timestamp == wake.timestamp, where
            self.seen.add("wake")
        if self.asked[number] and token is not Token.WAITING:
            self.asked[number] = False
            verdict = await self.core.verdict(number)
            if token is Token.HOLDER:
                assert verdict.committed
                assert verdict.timestamp is None
                self.seen.add("granted")
            else:
                assert verdict == slot.token_refusal, where
                self.seen.add("refused")

    async def conflicts(self):
        """The conflict log drained."""
        core, p = self.core, self.parameters
        head = await core.control("CONFLICT_HEAD")
        window, bank = CONTROL_PAGE.window("BOOKS"), CONTROL_PAGE.register("BOOKS_BANK")
        conflicts = []
        for entry in range(head):
            await core.write(0, bank, entry // 64)
            slots, key, epoch, count = [await core.read(0, window, entry % 64 * 4 + place) for place in range(4)]
            fields = fields_of(CONFLICT_ENTRY.register("SLOTS"), slots)
            conflicts.append(
                Conflict(
                    fields["WINNER"] if fields["WINNER_KNOWN"] else None,
                    fields["LOSER"],
                    key if fields["KEY_KNOWN"] else None,
                    p.timestamp(epoch, count),
                )
            )
        return conflicts


@pytest.mark.parametrize("bits", [5, 12])
def test_every_step_is_the_models(core, bits, seed):
    """Transactions, parking and the token, a step at a time: what the pages show is what bloomgate.in_flight says."""
    rng = random.Random(seed)
    core = core(Parameters(K=2, D=16, timestamp_bits=bits, key_bits=6, slots=4, aperture_depth=16))
    expected = {"doom by key", "doom", "wake", "granted", "guard", "park", Reason.CONFLICT}

    async def bench():
        await core.ready()
        with ModelDevice(core.parameters) as model:
            lockstep = Lockstep(core, model, rng)
            for steps in range(1000):
                await lockstep.step()
                if (steps >= 150 and expected <= lockstep.seen) or await core.control("CONFLICT_HEAD") > 100:
                    break
            assert expected <= lockstep.seen or steps < 150
            assert await lockstep.conflicts() == model.conflicts()
            for slot in lockstep.slots:
                slot.close()

    core.run(bench, clocks=100_000)


def test_nobody_commits_what_the_holder_has_read(core, seed):
    """While one slot has the irrevocable token, others are refused with the first of their write and commute keys that
    is in its slot filter, and nothing of such a request is inserted. All others commit.
    """
    rng = random.Random(seed)
    p = Parameters(K=2, D=64, timestamp_bits=12, key_bits=8, slots=3, aperture_depth=32)
    core = core(p)
    rows_of = H3(p).rows
    banks = [set() for _ in range(p.K)]  # of the holder's slot filter
    holder = 1
    submit = SLOT_PAGE.register("SUBMIT")
    seen = set()

    def guarded(key):
        return all(row % SLOT_FILTER_ROWS in bank for row, bank in zip(rows_of(key), banks, strict=True))

    async def read_on(kind, keys):
        """The holder's next keys, and the request that they belong to."""
        for key in keys:
            await read_key(core, holder, key)
            for row, bank in zip(rows_of(key), banks, strict=True):
                bank.add(row % SLOT_FILTER_ROWS)
        count = len(core.decided) + 1
        await core.write(1 + holder, submit, submit["KIND"].insert(kind))
        await core.wait(count)
        assert (await core.verdict(holder)).committed

    async def other(newest):
        """A request of another slot, its keys in any order; whether it was committed."""
        slot = rng.choice([slot for slot in range(p.slots) if slot != holder])
        adds = [
            (rng.choice(("READ", "WRITE", "COMMUTE")), rng.randrange(p.max_key + 1)) for _ in range(rng.randrange(12))
        ]
        await core.fill(slot, newest)
        if rng.random() < 0.5:
            await announce(core, slot)
        for window, key in adds:
            await core.write(1 + slot, SLOT_PAGE.window(f"{window}_APERTURE"), key)
        changes = [key for window, key in adds if window != "READ"]
        first = next((key for key in changes if guarded(key)), None)
        decided, inserted = len(core.decided), len(core.insertions)
        await core.submit(slot)
        await core.wait(decided + 1)
        verdict = await core.verdict(slot)
        while not (await core.control("STATUS"))["SETTLED"]:
            pass
        seen.add((verdict.committed, bool(changes), first is not None and first != changes[0]))
        if first is not None:
            assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, first)
        else:
            assert verdict.committed
        keys = sum(lanes for _, lanes in core.insertions[inserted:])
        assert keys == (len(changes) if verdict.committed else 0)
        return verdict.timestamp or newest

    async def run():
        await core.ready()
        newest = 0
        await core.fill(holder, newest)
        await announce(core, holder)
        first = [rng.randrange(p.max_key + 1) for _ in range(4)]
        await read_on(RequestKind.TOKEN, first)
        wanted = {(False, True, False), (False, True, True), (True, True, False), (True, False, False)}
        requests = 0
        while not (wanted <= seen and requests >= 15):
            newest = await other(newest)
            requests += 1
            if requests in (5, 10):
                await read_on(RequestKind.GUARD, [rng.randrange(p.max_key + 1)])
        # The holder commits, also what it has read itself; and then nobody is refused.
        await core.write(1 + holder, SLOT_PAGE.window("WRITE_APERTURE"), first[0])
        await core.submit(holder)
        await core.wait(len(core.decided) + 1)
        verdict = await core.verdict(holder)
        assert verdict.committed
        for bank in banks:
            bank.clear()
        newest = verdict.timestamp
        for _ in range(5):
            newest = await other(newest)

    core.run(run, clocks=200_000)


@pytest.mark.parametrize("place", [0, 1])
def test_an_announced_key_of_bad_parity_is_not_taken_as_read(core, place):
    """It may be any key: the commit looks at the log again, as if nothing had been announced."""
    core = core()

    async def bench():
        await core.ready()
        await core.fill(0, 0)
        await announce(core, 0)
        for number in range(3):
            if number == place:
                await core.inject(Fault.NEXT_KEY)
            await read_key(core, 0, 0x50 + number)
        for _ in range(20):
            await core.step()
        assert (await flight(core, 0))["DOOMED"]
        await core.submit(0)
        await core.wait(1)
        assert await core.verdict(0) == Verdict(False, None, Reason.PARITY, 0x50 + place)

    core.run(bench, clocks=500)


def test_nobody_holds_the_token_of_an_epoch_that_a_reset_has_ended(core):
    """Who waits for it may be granted it when the reset takes it from its holder, while other requests are decided."""
    p = Parameters(K=1, D=16, timestamp_bits=8, key_bits=8, slots=6, aperture_depth=32)
    core = core(p)
    submit = SLOT_PAGE.register("SUBMIT")
    outcomes = set()

    async def bench():
        for others, delay in ((0, 0), *((p.slots - 2, delay) for delay in range(0, 40, 5))):
            await core.ready()
            snapshot = p.timestamp(await core.control("EPOCH"), await core.control("COUNT"))
            for slot in (0, 1):
                await core.write(1 + slot, SLOT_PAGE.register("DISCARD"), 1)
                await core.fill(slot, snapshot)
                await announce(core, slot)
                await core.write(1 + slot, submit, submit["KIND"].insert(RequestKind.TOKEN))
                while not (await core.control("STATUS"))["SETTLED"]:
                    pass
            assert (await flight(core, 0))["HOLDER"]
            assert (await flight(core, 1))["TOKEN_WAITING"]
            done = len(core.decided)
            for slot in range(2, 2 + others):
                await core.fill(slot, snapshot, reads=range(31), writes=[7])
            for slot in range(2, 2 + others):
                await core.submit(slot)
            for _ in range(delay):
                await core.step()
            await core.command("SOFT_RESET")
            await core.wait(done + others + 1)
            await core.ready()
            while not (await core.control("STATUS"))["SETTLED"]:
                pass
            assert (await flight(core, 0))["REVOKED"]
            state = await flight(core, 1)
            assert not state["HOLDER"]
            assert not state["TOKEN_WAITING"]
            verdict = await core.verdict(1)
            assert verdict.committed == bool(state["REVOKED"])
            assert verdict.committed or verdict.reason is Reason.ROLLOVER
            outcomes.add(verdict.reason)

    core.run(bench, clocks=60_000)
    assert outcomes == {None, Reason.ROLLOVER}


@pytest.mark.parametrize("count", [11, 12, 13, 40, 101])
@pytest.mark.parametrize("in_flight", [False, True], ids=["plain winner", "winner in flight"])
def test_a_commit_of_many_keys_has_its_verdict_when_few_are_left(core, count, in_flight):
    """So that whoever it dooms knows soon after; and it does not doom itself, though it has not ended before."""
    p = Parameters(K=2, D=256, timestamp_bits=12, key_bits=16, slots=3, aperture_depth=256)
    core = core(p)
    keys = range(100, 100 + count)

    async def bench():
        await core.ready()
        await core.fill(1, 0)
        await announce(core, 1)
        for key in (keys[0], keys[-1]):
            await read_key(core, 1, key)
        await core.fill(0, 0)
        if in_flight:
            await announce(core, 0)
        for key in keys:
            await read_key(core, 0, key)
            await core.write(1, SLOT_PAGE.window("WRITE_APERTURE"), key)
        await core.submit(0)
        await core.wait(1)
        given, slot = core.decided[0]
        assert slot == 0
        # The next transaction of the winner: nothing of its own commit reaches it.
        await core.fill(0, 1)
        await announce(core, 0)
        while not (await core.control("STATUS"))["SETTLED"]:
            pass
        assert sum(keys for _, keys in core.insertions) == count
        assert core.insertions[-1][0] - given <= 7
        assert await core.verdict(0) == Verdict(True, 1, None, None)
        assert (await flight(core, 1))["DOOMED"]
        assert not (await flight(core, 0))["DOOMED"]
        assert await core.control("CONFLICT_HEAD") == 1
        assert await core.read(2, SLOT_PAGE.register("DOOM_KEY")) in (keys[0], keys[-1])

    core.run(bench, clocks=5000)

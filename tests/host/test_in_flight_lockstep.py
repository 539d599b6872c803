"""What happens in flight is the same on every device, for every sequence of operations, false hits included.

Slots die and are opened again; the sequence numbers of wakes wrap, and so do the generations of a segment's slots.
"""

import random
from itertools import pairwise

import pytest
from bloomgate.h3 import H3
from bloomgate.in_flight import Token, grant_limit
from bloomgate.registers import CONFLICT_LOG_ENTRIES
from bloomgate.shm.layout import SLOT_CONTROL

from tests.in_flight_devices import PARAMS, SERVED_GATEWARE, SMALL, opened, slots_of

#: The device that the others are compared with.
SPECIFICATION = "model:"

GEOMETRIES = (
    SMALL,
    "K=2&D=16&timestamp_bits=8&key_bits=6&aperture_depth=16&slots=5",
    "K=2&D=16&timestamp_bits=5&key_bits=6&aperture_depth=16&slots=5",
    "K=3&D=16&timestamp_bits=32&key_bits=8&aperture_depth=32&slots=4",
)
#: What must have happened for a run to mean something; it goes on until it has, within limits.
WANTED = {
    *("aborts_conflict", "aborts_irrevocable", "aborts_revoked", "aborts_parity", "dooms", "guard"),
    *("wakes", "spurious_wakes", "wait that ended with a commit"),
    *("doomed by a later key", "parked after a refusal"),
    *("epoch ended by a request for the token", "epoch ended when the token came free"),
}
#: The step before which the last epoch begins.
LAST_EPOCH_STEP = 350
MOST_ROUNDS = 100
#: For a wait that ends at once.
WAIT_SECONDS = 60
#: Few, so that transactions meet.
KEYS = 16


def state_of(slot):
    """All that can be seen of a slot."""
    return (
        slot.announced,
        slot.doomed,
        slot.parked,
        slot.refused,
        slot.last_wake,
        slot.token,
        slot.token_refusal,
        {name: value for name, value in slot.stats().items() if value and "clocks" not in name},
    )


def visible(device, slots):
    """All that can be seen of the slots, and of the device where it has no clock."""
    return (
        device.last_timestamp(),
        device.published,
        {name: value for name, value in device.stats().items() if "clocks" not in name},
        # The commits of no slot are those of slot 0 where they go through a ring.
        [conflict._replace(winner=conflict.winner or None) for conflict in device.conflicts()],
        [state_of(slot) for slot in slots],
    )


class Sequence:
    """A random sequence of operations that every device is given alike."""

    def __init__(self, rng, parameters):
        self.rng = rng
        self.parameters = parameters
        #: The first so many would have rows of their own.
        self.pool = rng.sample(range(min(parameters.max_key + 1, 256)), KEYS)
        #: Of each slot: what it has announced.
        self.announced = [[] for _ in range(parameters.slots - 1)]
        self.rows_of = H3(parameters).rows
        #: Who waits next, since it has probably been doomed falsely.
        self.misled = None

    def keys(self, most=3):
        return [self.rng.choice(self.pool) for _ in range(self.rng.randrange(most + 1))]

    def false_hit(self, number):
        """A key that has rows of several that the slot has announced, and is none of them; None if there is none."""
        log = self.announced[number]
        banks = [set(bank) for bank in zip(*map(self.rows_of, log), strict=True)]
        hits = [
            key for key in self.pool if all(row in bank for row, bank in zip(self.rows_of(key), banks, strict=True))
        ]
        return next((key for key in hits if log and key not in log), None)

    def snapshot(self, specification):
        ago = self.rng.choice((0, 0, 0, 0, 0, 1, 1, 2, 5, 1 << self.parameters.timestamp_bits, -1))
        return max(0, specification.last_timestamp() - ago)

    def next(self, specification, slots):
        """(which slot or None, name of the method, arguments)."""
        rng, p = self.rng, self.parameters
        number = rng.randrange(len(slots))
        if self.misled is not None:
            number, self.misled = self.misled, None
            if slots[number].doomed is not None:
                return number, "wait", (WAIT_SECONDS,)
        slot = slots[number]
        tokens = [each.token for each in slots]
        left = grant_limit(p.max_count) - p.epoch_and_count(specification.last_timestamp())[1]
        asks = slot.announced is not None and slot.token is Token.NONE and not slot.parked
        if 0 < left <= 3 and Token.HOLDER not in tokens and asks and rng.random() < 0.5:
            return number, "request_token", ()
        if left <= 0 and Token.HOLDER in tokens and rng.random() < 0.5:
            # So that the epoch ends when the token comes free.
            if Token.WAITING in tokens:
                name, *arguments = rng.choice((("commit", [], self.keys(), []), ("cancel",), ("die",)))
                return tokens.index(Token.HOLDER), name, arguments
            if asks:
                return number, "request_token", ()
        if slot.announced and slot.doomed is None and slot.token is Token.NONE and not slot.parked:
            key = self.false_hit(number)
            if key is not None and rng.random() < 0.3:
                self.misled = number
                return None, "commit", (specification.last_timestamp(), (), [key])
        if slot.parked:
            # Most sleep on until something wakes them.
            if rng.random() < 0.5:
                return number, rng.choice(("cancel", "_unpark", "park")), ()
            return None, "commit", (specification.last_timestamp(), (), [rng.choice(self.pool)])
        if rng.random() < 0.2:
            return None, *rng.choice(
                (
                    ("raise_floor", ()),
                    *[("inject_parity_error", (rng.randrange(p.K), rng.randrange(p.D)))] * 8,
                    ("revoke_token", ()),
                    ("set_token_watchdog", (rng.choice((0, 5)),)),
                    ("tick", (rng.randrange(4),)),
                    ("reset", (rng.choice((0, 0, 7)),)),
                    ("commit", (specification.last_timestamp(), self.keys(2), self.keys(1))),
                )
            )
        if rng.random() < 0.03:
            return number, "die", ()
        if slot.announced is None:
            if slot.refused and rng.random() < 0.7:
                return number, "park", ()
            self.announced[number] = []
            return number, "begin", (self.snapshot(specification),)
        if slot.token is Token.WAITING:
            return number, "cancel", ()
        if slot.token is Token.HOLDER and rng.random() < 0.7:
            return number, "guard", (self.keys(),)
        kind = rng.choice(("announce", "announce", "announce", "commit", "commit", "cancel", "park", "token"))
        if kind == "announce" and slot.token is not Token.HOLDER:
            keys = self.keys()
            if slot.announced + len(keys) <= p.aperture_depth // 2 - 2:
                self.announced[number] += keys
                return number, rng.choice(("announce", "announce", "announce_log")), (keys,)
        if kind == "token" and slot.token is Token.NONE:
            return number, "request_token", ()
        if kind == "park" and slot.token is not Token.HOLDER:
            if slot.doomed is not None and rng.random() < 0.7:
                return number, "wait", (WAIT_SECONDS,)
            return number, "park", ()
        if kind == "cancel" and rng.random() < 0.3:
            return number, "cancel", ()
        return number, "commit", (self.keys(2), self.keys(6), self.keys(2))

    def seen(self, before, number, name, arguments, after, last, newest):
        """What is special about a step, by the states of the slots and the newest timestamps before and after it."""
        yield name
        (epoch, count), (epoch_after, _) = map(self.parameters.epoch_and_count, (last, newest))
        if epoch_after != epoch and name != "reset" and count < self.parameters.max_count - 1:
            asks = name == "request_token"
            yield "epoch ended by a request for the token" if asks else "epoch ended when the token came free"
        if name == "wait" and after[number][-1].get("commits", 0) > before[number][-1].get("commits", 0):
            yield "wait that ended with a commit"
        if name == "park" and before[number][3]:
            yield "parked after a refusal"
        if name == "commit" and number is not None:
            for other, (then, now) in enumerate(zip(before, after, strict=True)):
                hits = [key for key in (*arguments[1], *arguments[2]) if key in self.announced[other]]
                if other != number and then[1] is None and now[1] is not None and now[1].key not in (None, *hits[:1]):
                    yield "doomed by a later key"
        yield from (counter for state in after for counter in state[-1])


def perform(device, slots, number, name, arguments):
    if number is None and name == "commit":
        snapshot, reads, writes = arguments
        verdict = device.commit(snapshot=snapshot, reads=reads, writes=writes)
        device.publish(verdict.timestamp)
        return verdict
    target = device if number is None else slots[number]
    if name == "commit":
        reads, writes, commutes = arguments
        verdict = target.commit(reads=reads, writes=writes, commutes=commutes)
        device.publish(verdict.timestamp)
        return verdict
    if name == "die":
        # What a process does that dies, as far as others can see.
        target.close()
        slots[number] = device.open_slot(target.number)
        return None
    return getattr(target, name)(*arguments)


def wind_up(device, slot, wakes):
    """Let counters of the slot wrap soon: the one of its wakes, and the generation of its owner."""
    if hasattr(device, "segment"):
        control = device.segment.layout.slot_control(slot.number)
        device.segment.write(SLOT_CONTROL["generation"], 0xFFFE, base=control)
    slot.begin(device.last_timestamp())
    slot.announce([1])
    device.publish(device.commit(snapshot=device.last_timestamp(), writes=[1]).timestamp)
    for _ in range(wakes):
        slot.park()
    slot.cancel()
    device.conflicts()


@pytest.mark.parametrize("kind", PARAMS[1:])
def test_lockstep(kind, seed):
    rng = random.Random(seed)
    seen = set()
    simulated = "sim:" in kind
    # A round takes seconds there, and what it adds to sim: and to other servers it shows at once.
    wanted = set() if kind == SERVED_GATEWARE else WANTED
    least = 3 if "served" in kind else 4 if simulated else 36
    for rounds, geometry in enumerate((GEOMETRIES[:1] if simulated else GEOMETRIES) * MOST_ROUNDS):
        if rounds >= least and seen >= wanted:
            break
        # Steps between two looks: a host that sees everything at once need not remember anything. A server is asked for
        # each thing, so it is looked at less often.
        every = 8 if "served" in kind or rounds % 2 else 1
        with opened(SPECIFICATION, geometry) as one, opened(kind, geometry) as other:
            slots, others = slots_of(one), slots_of(other)
            # It takes a while through a server, and in the simulation.
            wakes = 0xFFFE if rounds == 0 and "served" not in kind and not simulated else 2
            for device, slot in ((one, slots[0]), (other, others[0])):
                wind_up(device, slot, wakes)
            sequence = Sequence(rng, one.parameters)
            before = [state_of(slot) for slot in slots]
            for step in range(400):
                number, name, arguments = sequence.next(one, slots)
                if step == LAST_EPOCH_STEP:
                    number, name, arguments = None, "reset", ((1 << 32) - 1,)
                last = one.last_timestamp()
                result = perform(one, slots, number, name, arguments)
                assert perform(other, others, number, name, arguments) == result, f"step {step}: {name} {arguments}"
                if step % every == 0:
                    state = visible(one, slots)
                    assert visible(other, others) == state, f"step {step}: after {number}.{name}{arguments}"
                after = [state_of(slot) for slot in slots]
                seen.update(sequence.seen(before, number, name, arguments, after, last, one.last_timestamp()))
                before = after
    assert seen >= wanted, f"the sequences never had {sorted(wanted - seen)}"


@pytest.mark.parametrize("kind", PARAMS[1:])
def test_a_conflict_log_that_nobody_drains(kind, seed):
    """What is left of it when it has overflowed is the same, in the same order: also losers of one commit's keys."""
    rng = random.Random(seed)
    with opened(SPECIFICATION, SMALL) as one, opened(kind, SMALL) as other:
        # On shm: all that is not of a slot goes through a ring.
        both = [
            (device, *slots_of(device), device if by_ring else device.queue_pair())
            for device, by_ring in ((one, False), (other, kind.startswith("shm:")))
        ]
        pool = rng.sample(range(256), KEYS)
        for turn in range(CONFLICT_LOG_ENTRIES):
            announced = [rng.sample(pool, 2) for _ in range(2)]
            keys = rng.sample(pool, rng.randrange(4, 9))
            cut, untouched = rng.randrange(len(keys) + 1), range(rng.randrange(3))
            sets = {"reads": untouched, "writes": keys[:cut], "commutes": keys[cut:]}
            for device, *readers, writer, queue in both:
                snapshot = device.last_timestamp()
                for slot, reads in zip(readers, announced, strict=True):
                    slot.begin(snapshot)
                    slot.announce(reads)
                if turn % 2:
                    verdict = queue.commit(snapshot=snapshot, **sets)
                else:
                    writer.begin(snapshot)
                    verdict = writer.commit(**sets)
                device.publish(verdict.timestamp)
                for slot in readers:
                    slot.cancel()
        # Whose commits are nobody's transactions is told by some devices only.
        entries, others = ([entry._replace(winner=None) for entry in device.conflicts()] for device in (one, other))
        assert len(entries) == CONFLICT_LOG_ENTRIES
        # Not only by slot: the order of the keys is seen.
        assert any(one.timestamp == two.timestamp and one.loser > two.loser for one, two in pairwise(entries))
        assert others == entries

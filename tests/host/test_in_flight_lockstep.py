"""What happens in flight is the same on every device, for every sequence of operations, false hits included.

Slots die and are opened again; the sequence numbers of wakes wrap, and so do the generations of a segment's slots.
"""

import random

import pytest
from bloomgate.in_flight import Token
from bloomgate.shm.layout import SLOT_CONTROL

from tests.in_flight_devices import PARAMS, SMALL, opened, slots_of

#: The device that the others are compared with.
SPECIFICATION = "model:"

GEOMETRIES = (
    SMALL,
    "K=2&D=16&timestamp_bits=8&key_bits=6&aperture_depth=16&slots=5",
    "K=2&D=16&timestamp_bits=5&key_bits=6&aperture_depth=16&slots=5",
    "K=3&D=16&timestamp_bits=32&key_bits=8&aperture_depth=32&slots=4",
)
#: What must have happened for a run to mean something; it goes on until it has, within limits.
WANTED = {"aborts_conflict", "aborts_irrevocable", "aborts_revoked", "aborts_parity", "dooms", "wakes", "guard"}
MOST_ROUNDS = 100


def visible(device, slots):
    """All that can be seen of the slots, and of the device where it has no clock."""
    return (
        device.last_timestamp(),
        {name: value for name, value in device.stats().items() if "clocks" not in name},
        device.conflicts(),
        [
            (
                slot.doomed,
                slot.parked,
                slot.last_wake,
                slot.token,
                slot.token_refusal,
                {name: value for name, value in slot.stats().items() if value and "clocks" not in name},
            )
            for slot in slots
        ],
    )


class Sequence:
    """A random sequence of operations that every device is given alike."""

    def __init__(self, rng, parameters):
        self.rng = rng
        self.parameters = parameters
        #: Of each slot: None between transactions, else how many keys it has announced.
        self.announced = [None] * (parameters.slots - 1)

    def keys(self, most=3):
        return [self.rng.randrange(1 << self.parameters.key_bits) & 0x1F for _ in range(self.rng.randrange(most + 1))]

    def next(self, specification, slots):
        """(which slot or None, name of the method, arguments)."""
        rng, p = self.rng, self.parameters
        number = rng.randrange(len(slots))
        slot = slots[number]
        if slot.parked:
            return number, rng.choice(("cancel", "_unpark")), ()
        if rng.random() < 0.08:
            return None, *rng.choice(
                (
                    ("raise_floor", ()),
                    ("inject_parity_error", (rng.randrange(p.K), rng.randrange(p.D))),
                    ("inject_parity_error", (rng.randrange(p.K), rng.randrange(p.D))),
                    ("revoke_token", ()),
                    ("set_token_watchdog", (rng.choice((0, 5)),)),
                    ("tick", (rng.randrange(4),)),
                    ("reset", (rng.choice((0, 0, 7)),)),
                )
            )
        if self.announced[number] is None:
            snapshot = specification.last_timestamp() - rng.choice((0, 0, 0, 1, 2, 5, 1 << p.timestamp_bits, -1))
            self.announced[number] = 0
            return number, "begin", (max(0, snapshot),)
        if slot.token is Token.WAITING:
            return number, "cancel", ()
        kind = rng.choice(("announce", "announce", "commit", "commit", "commit", "cancel", "park", "token"))
        if rng.random() < 0.03:
            return number, "die", ()
        if kind == "announce":
            keys = self.keys()
            if slot.token is Token.HOLDER:
                return number, "guard", (keys,)
            if self.announced[number] + len(keys) <= p.aperture_depth // 2:
                self.announced[number] += len(keys)
                return number, "announce", (keys,)
        if kind == "token" and slot.token is Token.NONE:
            return number, "request_token", ()
        if kind == "park" and self.announced[number] and slot.token is not Token.HOLDER:
            return number, "park", ()
        if kind == "cancel" and rng.random() < 0.3:
            return number, "cancel", ()
        return number, "commit", (self.keys(2), self.keys(2), self.keys(2))


def perform(device, slots, number, name, arguments):
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
    simulated = kind == "sim:"
    # A server is asked for each thing that is looked at, so less often.
    least, every = (3, 8) if "served" in kind else (2 if simulated else 36, 1)
    for rounds, geometry in enumerate((GEOMETRIES[:1] if simulated else GEOMETRIES) * MOST_ROUNDS):
        if rounds >= least and seen >= WANTED:
            break
        with opened(SPECIFICATION, geometry) as one, opened(kind, geometry) as other:
            slots, others = slots_of(one), slots_of(other)
            # It takes a while through a server, and in the simulation.
            wakes = 0xFFFE if rounds == 0 and "served" not in kind and not simulated else 2
            for device, slot in ((one, slots[0]), (other, others[0])):
                wind_up(device, slot, wakes)
            sequence = Sequence(rng, one.parameters)
            for step in range(400):
                number, name, arguments = sequence.next(one, slots)
                result = perform(one, slots, number, name, arguments)
                assert perform(other, others, number, name, arguments) == result, f"step {step}: {name} {arguments}"
                if step % every == 0:
                    state = visible(one, slots)
                    assert visible(other, others) == state, f"step {step}: after {number}.{name}{arguments}"
                if name in ("commit", "cancel", "die"):
                    sequence.announced[number] = None
                for at, slot in enumerate(slots):
                    # A request for the token that was refused has ended its transaction.
                    if name == "request_token" and at == number and slot.token is Token.NONE:
                        sequence.announced[at] = None
                    elif slot.token_refusal is not None and slot.token is Token.NONE:
                        slot.cancel()
                        others[at].cancel()
                        sequence.announced[at] = None
                seen.update(counter for slot_state in state[3] for counter in slot_state[-1])
                seen.add(name)
    assert seen >= WANTED, f"the sequences never had {sorted(WANTED - seen)}"

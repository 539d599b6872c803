"""What happens in flight is the same on every device, for every sequence of operations, false hits included."""

import random

import pytest
from bloomgate import open_device
from bloomgate.in_flight import Token

from tests import device_urls

#: The device that the others are compared with.
SPECIFICATION = "model"
PARAMS = [param for param in device_urls.PARAMS if param.id in ("soft", "sim")]

GEOMETRIES = (
    # One that sim: is built with for other tests, too.
    "K=2&D=16&timestamp_bits=4&slots=3&aperture_depth=16",
    "K=2&D=16&timestamp_bits=8&key_bits=6&aperture_depth=16&slots=4",
    "K=2&D=16&timestamp_bits=5&key_bits=6&aperture_depth=16&slots=4",
    "K=3&D=16&timestamp_bits=32&key_bits=8&aperture_depth=32&slots=3",
)
#: What must have happened for a run to mean something; it goes on until it has, within limits.
WANTED = {"aborts_conflict", "aborts_irrevocable", "aborts_revoked", "aborts_parity", "dooms", "wakes", "guard"}
MOST_ROUNDS = 200


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
        self.announced = [None] * parameters.slots

    def keys(self, most=3):
        return [self.rng.randrange(1 << self.parameters.key_bits) & 0x1F for _ in range(self.rng.randrange(most + 1))]

    def next(self, specification, slots):
        """(number of the slot or None, name of the method, arguments)."""
        rng, p = self.rng, self.parameters
        number = rng.randrange(p.slots)
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
        return target.commit(reads=reads, writes=writes, commutes=commutes)
    return getattr(target, name)(*arguments)


@pytest.mark.parametrize("backend", PARAMS)
def test_lockstep(backend, seed):
    rng = random.Random(seed)
    scheme, geometries = backend.scheme, GEOMETRIES if backend.slowness == 1 else GEOMETRIES[:1]
    seen = set()
    for done in range(MOST_ROUNDS):
        if done * backend.slowness >= 40 and seen >= WANTED:
            break
        geometry = geometries[done % len(geometries)]
        with open_device(f"{SPECIFICATION}:?{geometry}") as one, open_device(f"{scheme}:?{geometry}") as other:
            slots = [one.open_slot() for _ in range(one.parameters.slots)]
            others = [other.open_slot() for _ in range(one.parameters.slots)]
            sequence = Sequence(rng, one.parameters)
            for step in range(400):
                number, name, arguments = sequence.next(one, slots)
                result = perform(one, slots, number, name, arguments)
                assert perform(other, others, number, name, arguments) == result, f"step {step}: {name} {arguments}"
                state = visible(one, slots)
                assert visible(other, others) == state, f"step {step}: after {number}.{name}{arguments}"
                if name in ("commit", "cancel"):
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

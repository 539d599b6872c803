"""The devices that can open slots, for the tests of transactions in flight. A new one is one more entry of KINDS."""

import contextlib
from collections.abc import Iterator

from bloomgate import Device, open_device

from tests.shm.served import serving

#: What `opened` takes.
KINDS = ("model:", "soft:", "shm:", "shm: served by soft:", "shm: served by model:")


@contextlib.contextmanager
def opened(kind: str, geometry: str) -> Iterator[Device]:
    """A device of that kind and geometry, which is part of a URL."""
    _, served, by = kind.partition(" served by ")
    with contextlib.ExitStack() as stack:
        url = f"shm:{stack.enter_context(serving(f'{by}?{geometry}'))}" if served else f"{kind}?{geometry}"
        yield stack.enter_context(open_device(url))


def slots_of(device: Device) -> list:
    """All slots but number 0, which a client of shm: has for itself: so they have the same numbers on every device."""
    return [device.open_slot(number) for number in range(1, device.parameters.slots)]

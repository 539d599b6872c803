"""The devices that can open slots, for the tests of transactions in flight. A new one is one more entry of KINDS."""

import contextlib
from collections.abc import Iterator

import pytest
from bloomgate import Device, open_device

from tests import device_urls
from tests.shm.served import serving

#: What `opened` takes; the first one is the specification.
KINDS = ("model:", "soft:", "shm:", "shm: served by soft:", "shm: served by model:")
SERVED_GATEWARE = "shm: served by sim:"
#: For ``pytest.fixture(params=...)`` or ``parametrize``: those, and sim: where it can be had.
LEAN_PARAMS = [
    *KINDS,
    *(pytest.param("sim:", id="sim", marks=param.marks) for param in device_urls.PARAMS if param.id == "sim"),
]
#: And a server that has the gateware, where each operation takes milliseconds.
PARAMS = [
    *LEAN_PARAMS,
    *(
        pytest.param(SERVED_GATEWARE, id="served sim", marks=param.marks)
        for param in device_urls.PARAMS
        if param.id == "sim"
    ),
]
#: The one geometry, besides the default, that these tests should use on sim:, which compiles each.
SMALL = "K=2&D=16&timestamp_bits=4&slots=4&aperture_depth=16"


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

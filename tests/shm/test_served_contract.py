"""The contract of a device, on ``shm:`` with a server behind it. Without one it is in tests/host, like the others."""

import pytest
from bloomgate import open_device

from tests.device_urls import SMALL, Backend
from tests.host.test_device_contract import *  # noqa: F403 - the tests themselves
from tests.shm.served import serving

# In these, two devices of one URL must not know each other.
del test_two_devices_share_nothing, test_a_forked_process_has_to_open_its_own  # noqa: F821


@pytest.fixture(params=["model:", "soft:"])
def behind(request: pytest.FixtureRequest) -> str:
    """The device that the server has."""
    return request.param


@pytest.fixture
def backend() -> Backend:
    return Backend("shm")


@pytest.fixture
def device_url(behind: str):
    with serving(behind) as name:
        yield f"shm:{name}"


@pytest.fixture
def device(device_url: str):
    with open_device(device_url) as opened:
        yield opened


@pytest.fixture
def small_url(behind: str):
    with serving(f"{behind}?{SMALL}") as name:
        yield f"shm:{name}?{SMALL}"


@pytest.fixture
def small(small_url: str):
    with open_device(small_url) as opened:
        yield opened

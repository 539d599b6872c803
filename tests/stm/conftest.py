"""The STM on a device of its own for every test."""

import pytest
from bloomgate import stm

from tests.device_urls import PARAMS


@pytest.fixture(params=PARAMS)
def backend(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def device(backend):
    """The process's transactions are decided by a fresh device of each backend."""
    stm.use_device(f"{backend.scheme}:")
    yield stm.runtime.runtime.device
    stm.use_device(None)


@pytest.fixture
def soft():
    """The same on the default device alone, for what does not depend on who decides."""
    stm.use_device("soft:")
    yield stm.runtime.runtime.device
    stm.use_device(None)

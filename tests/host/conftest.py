"""Devices of every backend."""

import pytest
from bloomgate import open_device

from tests.device_urls import PARAMS, SMALL


@pytest.fixture(params=PARAMS)
def backend(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def device_url(backend) -> str:
    return f"{backend.scheme}:"


@pytest.fixture
def device(device_url: str):
    """A device of the default geometry."""
    with open_device(device_url) as opened:
        yield opened


@pytest.fixture
def small_url(device_url: str) -> str:
    return f"{device_url}?{SMALL}"


@pytest.fixture
def small(small_url: str):
    """A device with few keys, few rows and short epochs."""
    with open_device(small_url) as opened:
        yield opened

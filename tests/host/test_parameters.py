"""The geometry: what is derived from it, and what a bad value is told."""

import dataclasses
import re

import pytest
from bloomgate import ParameterError, Parameters

RANGES = {
    "K": (1, 8),
    "D": (4, 65536),
    "timestamp_bits": (2, 32),
    "key_bits": (4, 32),
    "slots": (1, 32),
    "aperture_depth": (4, 4096),
    "queue_entries": (2, 256),
    "request_buffers": (2, 7),
    "buffer_depth": (64, 4096),
    "hash_seed": (0, 2**32 - 1),
}


def test_defaults() -> None:
    assert dataclasses.asdict(Parameters()) == {
        "K": 4,
        "D": 4096,
        "timestamp_bits": 32,
        "key_bits": 32,
        "slots": 16,
        "aperture_depth": 512,
        "queue_entries": 16,
        "request_buffers": 2,
        "buffer_depth": 512,
        "hash_seed": 0xB1006A7E,
    }


def test_every_field_has_a_range() -> None:
    assert set(RANGES) == {field.name for field in dataclasses.fields(Parameters)}


def fitting(name: str, value: int) -> Parameters:
    """With that one value, and a D that a narrow key allows."""
    return Parameters(**{"D": 16, name: value})


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(fitting(name, value), name) == value


@pytest.mark.parametrize("name", RANGES)
def test_beyond_a_range(name: str) -> None:
    low, high = RANGES[name]
    for value in (low - 1, high + 1):
        message = f"{name} must be between {low} and {high}, not {value}"
        with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
            fitting(name, value)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [True, 16.0, "16", None])
def test_not_an_integer(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=f"^{name} must be an integer, not {re.escape(repr(value))}$"):
        Parameters(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("D", 17), ("D", 4095), ("aperture_depth", 511)])
def test_not_a_power_of_two(name: str, value: int) -> None:
    with pytest.raises(ParameterError, match=f"^{name} must be a power of two, not {value}$"):
        Parameters(**{name: value})


def test_more_rows_than_keys() -> None:
    assert Parameters(key_bits=4, D=16).row_bits == 4
    message = "D must be at most 2**key_bits = 16, not 32: a table cannot have more rows than there are keys"
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}$"):
        Parameters(key_bits=4, D=32)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Parameters().K = 5


@pytest.mark.parametrize(("slots", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5), (32, 5)])
def test_slot_bits(slots: int, bits: int) -> None:
    assert Parameters(slots=slots).slot_bits == bits


def test_derived_values() -> None:
    parameters = Parameters(D=16, timestamp_bits=3, key_bits=6)
    assert (parameters.row_bits, parameters.max_count, parameters.max_key) == (4, 7, 63)
    assert parameters.max_timestamp == 2**35 - 1
    assert parameters.timestamp(5, 6) == 46
    assert parameters.epoch_and_count(46) == (5, 6)
    assert Parameters().max_timestamp == 2**64 - 1
    assert Parameters().epoch_and_count(2**64 - 1) == (2**32 - 1, 2**32 - 1)

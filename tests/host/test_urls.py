"""open_device: what a URL can say, and the message for each that says something else."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import bloomgate
import pytest
from bloomgate import DeviceURLError, Parameters, open_device
from bloomgate.urls import ENVIRONMENT, schemes

NAMES = ", ".join([*(field.name for field in dataclasses.fields(Parameters)), "initial_epoch"])
SCHEMES = "model:, soft:, sim:, shm:, uio:, bloomgate:, serial:"


def test_every_parameter() -> None:
    url = (
        "model:?K=3&D=0x20&timestamp_bits=8&key_bits=9&slots=010&aperture_depth=0X40"
        "&hash_seed=0xDEADbeef&initial_epoch=0x10"
    )
    with open_device(url) as device:
        assert device.info().parameters == Parameters(
            K=3, D=32, timestamp_bits=8, key_bits=9, slots=10, aperture_depth=64, hash_seed=0xDEADBEEF
        )
        assert device.last_timestamp() == device.published == 16 << 8


@pytest.mark.parametrize("url", ["model:", "model:?"])
def test_defaults(url: str) -> None:
    with open_device(url) as device:
        assert device.info().parameters == Parameters()
        assert device.last_timestamp() == 0


def test_without_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with open_device() as device:
        assert device.info().backend == "soft"
    monkeypatch.setenv(ENVIRONMENT, "")
    with open_device() as device:
        assert device.info().backend == "soft"
    monkeypatch.setenv(ENVIRONMENT, "model:?K=2")
    with open_device() as device:
        assert (device.info().backend, device.info().parameters.K) == ("model", 2)
    monkeypatch.setenv(ENVIRONMENT, "nonsense")
    with pytest.raises(DeviceURLError, match="'nonsense'"):
        open_device()


BAD = {
    "": f"a device URL must begin with one of {SCHEMES} but this one is ''",
    "soft": f"a device URL must begin with one of {SCHEMES} but this one is 'soft'",
    "fpga:?K=2": f"a device URL must begin with one of {SCHEMES} but this one is 'fpga:?K=2'",
    "Soft:": f"a device URL must begin with one of {SCHEMES} but this one is 'Soft:'",
    ":soft": f"a device URL must begin with one of {SCHEMES} but this one is ':soft'",
    "soft://x": "a soft: URL has nothing but parameters after the colon, e.g. soft:?K=4, but this one is 'soft://x'",
    "soft:K=2": "a soft: URL has nothing but parameters after the colon, e.g. soft:?K=4, but this one is 'soft:K=2'",
    "sim:/dev/x?K=2": (
        "a sim: URL has nothing but parameters after the colon, e.g. sim:?K=4, but this one is 'sim:/dev/x?K=2'"
    ),
    "serial:": "a serial: URL names a port, e.g. serial:/dev/ttyUSB0, but this one is 'serial:'",
    "serial:/dev/null?speed=1": (
        f"a parameter must be one of {NAMES}, baud, not 'speed', in 'serial:/dev/null?speed=1'"
    ),
    "uio:?baud=1": f"a parameter must be one of {NAMES}, not 'baud', in 'uio:?baud=1'",
    "soft:?k=2": f"a parameter must be one of {NAMES}, not 'k', in 'soft:?k=2'",
    "soft:?K=2&": f"a parameter must be one of {NAMES}, not '', in 'soft:?K=2&'",
    "soft:??K=2": f"a parameter must be one of {NAMES}, not '?K', in 'soft:??K=2'",
    "soft:?row_bits=2": f"a parameter must be one of {NAMES}, not 'row_bits', in 'soft:?row_bits=2'",
    "soft:?K=2&D=16&K=2": "K is given twice in 'soft:?K=2&D=16&K=2'",
    "soft:?K": "K must be an integer, decimal or hexadecimal after 0x, not '', in 'soft:?K'",
    "soft:?K=": "K must be an integer, decimal or hexadecimal after 0x, not '', in 'soft:?K='",
    "soft:?K=2=3": "K must be an integer, decimal or hexadecimal after 0x, not '2=3', in 'soft:?K=2=3'",
    "soft:?K=+2": "K must be an integer, decimal or hexadecimal after 0x, not '+2', in 'soft:?K=+2'",
    "soft:?K=-2": "K must be an integer, decimal or hexadecimal after 0x, not '-2', in 'soft:?K=-2'",
    "soft:?K=1_0": "K must be an integer, decimal or hexadecimal after 0x, not '1_0', in 'soft:?K=1_0'",
    "soft:?K=2.0": "K must be an integer, decimal or hexadecimal after 0x, not '2.0', in 'soft:?K=2.0'",
    "soft:?K= 2": "K must be an integer, decimal or hexadecimal after 0x, not ' 2', in 'soft:?K= 2'",
    "soft:?K=٣": "K must be an integer, decimal or hexadecimal after 0x, not '٣', in 'soft:?K=٣'",
    "soft:?D=0x": "D must be an integer, decimal or hexadecimal after 0x, not '0x', in 'soft:?D=0x'",
    "soft:?K=9": "K must be between 1 and 8, not 9, in 'soft:?K=9'",
    "soft:?D=100": "D must be a power of two, not 100, in 'soft:?D=100'",
    "soft:?initial_epoch=0x100000000": (
        "initial_epoch must be between 0 and 4294967295, not 4294967296, in 'soft:?initial_epoch=0x100000000'"
    ),
}


@pytest.mark.parametrize("url", BAD)
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(DeviceURLError, match=f"^{re.escape(BAD[url])}$"):
        open_device(url)


def test_a_url_that_is_no_text() -> None:
    with pytest.raises(DeviceURLError, match="^a device URL must be a string, not 5$"):
        open_device(5)


def test_the_messages_name_every_scheme() -> None:
    assert ", ".join(f"{scheme}:" for scheme in schemes()) == SCHEMES


WITHOUT_SIM = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import bloomgate
try:
    bloomgate.open_device("sim:")
except ImportError as error:
    print(type(error).__name__, error)
except bloomgate.BloomgateError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (
            "bloomgate_sim",
            "sim: needs the simulator, and bloomgate_sim is not installed: pip install 'bloomgate[sim]'",
        ),
        # Not part of the extra: whatever is wrong then must not be disguised.
        ("cffi", None),
    ],
)
def test_sim_without_the_simulator(absent: str, said: str | None) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_SIM, absent], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    if said is not None:
        assert result.stdout == said + "\n"
    else:
        assert "bloomgate[sim]" not in result.stdout


def test_the_public_names() -> None:
    for name in bloomgate.__all__:
        assert getattr(bloomgate, name) is not None
    errors = {
        name
        for name, value in vars(bloomgate.errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert errors <= set(bloomgate.__all__)


def test_the_version_is_that_of_the_package() -> None:
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{bloomgate.__version__}"\n' in text

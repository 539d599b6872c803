"""The promises of core_cases.py, on every backend, and on PyPy."""

import shutil
import subprocess
from pathlib import Path

import pytest
from bloomgate import open_device, stm
from bloomgate.stm import TVar

from tests.stm.core_cases import CASES

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__[5:])
def test_core(case, device) -> None:
    case()


def test_a_device_that_was_given_stays_when_another_cannot_be_opened(soft) -> None:
    x = TVar(0)
    with open_device("soft:") as mine:
        stm.use_device(mine)
        x.value = 1
        with pytest.raises(ValueError, match="nonsense"):
            stm.use_device("nonsense:")
        assert stm.runtime.runtime.device is mine
        x.value += 1
        assert x.value == 2
        stm.use_device(None)


@pytest.mark.timeout(200)
def test_core_on_pypy() -> None:
    pypy = shutil.which("pypy3")
    if pypy is None:
        pytest.skip("no pypy3, so the STM has not been tried on PyPy: apt-get install pypy3")
    result = subprocess.run(
        [pypy, "-B", "-W", "error", str(HERE / "core_cases.py"), "model:", "soft:", "shm:"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr

"""Tests of the host package, once more on PyPy: those that need no simulator, with a pytest for its Python 3.9."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPY = ROOT / "build" / "pypy" / "bin" / "python"
#: What takes long on PyPy (simulators, and model:, which core_cases.py tries); which type of integer a key is; and
#: exceptions of trace functions.
LEFT_OUT = "not sim and not odd_types and not model and not every_line and not killed"
HOST = "device_contract h3 parameters publication serialisability threads urls"
STM = "alone containers core explicit gate guards misuse queue report tutorial"
SHM = "array_transactions array_private"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("folder", "names"), [("host", HOST), ("stm", STM), ("shm", SHM)], ids=["host", "stm", "shm"])
def test_on_pypy(folder: str, names: str) -> None:
    if not PYPY.exists():
        pytest.skip("no PyPy with pytest, so only core_cases.py has run on PyPy: apt-get install pypy3 && make pypy")
    files = [f"tests/{folder}/test_{name}.py" for name in names.split()]
    result = subprocess.run(
        [PYPY, "-B", "-m", "pytest", "-c", "tests/pypy.ini", "--rootdir", "tests", "-k", LEFT_OUT, *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "host")},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert " passed" in result.stdout

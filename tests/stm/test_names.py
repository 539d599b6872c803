"""The public names of the STM are those of the package, and cost nothing until one is used."""

import subprocess
import sys
from pathlib import Path

import bloomgate
import pytest
from bloomgate import stm


def test_every_name_is_exported() -> None:
    for name in stm.__all__:
        assert name in bloomgate.__all__, f"bloomgate does not export {name}"
        assert getattr(bloomgate, name) is getattr(stm, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bloomgate.nothing  # noqa: B018


def test_no_set_up_and_no_import_before_use() -> None:
    code = (
        "import sys, bloomgate; assert 'bloomgate.stm' not in sys.modules;"
        "x = bloomgate.TVar(1); bloomgate.atomic(lambda: setattr(x, 'value', 2))(); print(x.value)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": str(Path(bloomgate.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "2\n"), result.stderr

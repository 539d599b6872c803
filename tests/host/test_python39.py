"""The host package is for the board, where Debian's PyPy is Python 3.9."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

HOST = Path(__file__).resolve().parents[2] / "host" / "bloomgate"
SOURCES = sorted(HOST.rglob("*.py"))

# Compiles every file named on standard input; nothing is written, no package is needed.
COMPILE = """
import sys
for name in sys.stdin.read().splitlines():
    with open(name, "rb") as file:
        compile(file.read(), name, "exec")
print("%d.%d" % sys.version_info[:2])
"""


def test_there_are_sources() -> None:
    assert SOURCES, f"no Python files under {HOST}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOST)))
def test_grammar_is_that_of_python_3_9(path: Path) -> None:
    """A first look with this interpreter, which knows most of the older grammar."""
    ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def pypy3() -> str:
    found = shutil.which("pypy3")
    if found is None:
        pytest.skip("no pypy3, so nothing has run the host package on Python 3.9: apt-get install pypy3")
    return found


def test_pypy_compiles_every_source() -> None:
    result = subprocess.run(
        [pypy3(), "-c", COMPILE],
        input="\n".join(map(str, SOURCES)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_pypy_imports_the_package() -> None:
    """Annotations and defaults are evaluated at import, where newer types would fail."""
    result = subprocess.run(
        [pypy3(), "-B", "-W", "error", "-c", "import bloomgate; print(bloomgate.__name__)"],
        env={"PYTHONPATH": str(HOST.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "bloomgate\n"), result.stderr

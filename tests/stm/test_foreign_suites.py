"""The tests of asyncio and of Twisted themselves, which know nothing of transactions, pass on our event loops."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent / "foreign_suites.py"
ASYNCIO = (
    *("test_buffered_proto", "test_context", "test_events.HandleTests", "test_locks", "test_queues", "test_runners"),
    *("test_server", "test_sock_lowlevel", "test_streams", "test_threads", "test_timeouts", "test_waitfor"),
)
TWISTED = (
    *("twisted.application.test.test_internet", "twisted.internet.test.test_inlinecb", "twisted.test.test_cooperator"),
    *("twisted.test.test_loopback", "twisted.test.test_udp"),
)


def count(kind: str, modules: tuple[str, ...], folder: Path) -> int:
    """How many tests have passed, or were skipped."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), kind, *modules],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (number,) = re.findall(r"^Ran (\d+) tests", result.stdout + result.stderr, re.MULTILINE)
    return int(number)


def is_there(package: str) -> bool:
    parent = package.rpartition(".")[0]
    return (not parent or is_there(parent)) and importlib.util.find_spec(package) is not None


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="asyncio's tests are those of CPython 3.11: run it")
@pytest.mark.skipif(not is_there("test.test_asyncio"), reason="no CPython package test with asyncio's: install it")
def test_asyncio(tmp_path) -> None:
    assert count("asyncio", ASYNCIO, tmp_path) > 250


@pytest.mark.skipif(not is_there("twisted"), reason="no Twisted: pip install twisted")
def test_twisted(tmp_path) -> None:
    assert count("twisted", TWISTED, tmp_path) > 150

"""Forks, and input and output in transactions."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bloomgate import stm
from bloomgate.stm import DeferredOutput, TVar, atomic, forbid_io, irrevocable, or_else, retry

HOST = Path(stm.__file__).resolve().parents[2]

FORK = """
import os, sys, threading
from bloomgate.stm import TDict, TVar, TransactionError, atomic, commute
from bloomgate.stm.decided import Decided
from bloomgate.stm.runtime import runtime

x, y, counter, names = TVar(0), TVar(0), TVar(0), TDict(a=1)
for _ in range(20):
    x.value += 1

@atomic
def fork():
    os.fork()

try:
    fork()
except TransactionError as error:
    assert "cannot fork" in str(error), error
else:
    sys.exit("a fork in a transaction was possible")

# Another thread stands still between the verdict and the write-back.
original, stuck, go = Decided.write_back, threading.Event(), threading.Event()
def stop(self, attempt, timestamp, timeout=None):
    if threading.current_thread().name == "victim":
        stuck.set()
        assert go.wait(30)
    original(self, attempt, timestamp, timeout)
Decided.write_back = stop

@atomic
def both():
    x.value = -1
    y.value = 1
    commute(counter, "add", 1)

victim = threading.Thread(target=both, name="victim")
victim.start()
assert stuck.wait(30)
before = runtime.device
pid = os.fork()
if pid == 0:
    status = 1
    try:
        assert (x.value, y.value, counter.value) == (-1, 1, 1)
        assert runtime.device is not before
        for _ in range(5):
            x.value += 1
        names["b"] = 2
        assert x.value == 4 and dict(names) == {"a": 1, "b": 2}
        done = threading.Thread(target=lambda: setattr(y, "value", 7))
        done.start()
        done.join(30)
        assert y.value == 7
        status = 0
    finally:
        os._exit(status)
_, status = os.waitpid(pid, 0)
go.set()
victim.join(30)
assert status == 0, status
assert (x.value, y.value, counter.value) == (-1, 1, 1)
x.value += 1
assert x.value == 0
"""


@pytest.mark.parametrize("url", ["soft:", "model:"])
def test_fork(url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, "PYTHONPATH": str(HOST), "BLOOMGATE_DEVICE": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


FORBIDDEN = {
    "print": lambda folder: print("x"),
    "open": lambda folder: open(folder / "x", "w").close(),
    "remove": lambda folder: (folder / "y").unlink(missing_ok=True),
    "chmod": lambda folder: os.chmod(folder, 0o700),
    "utime": lambda folder: os.utime(folder),
    "subprocess": lambda folder: subprocess.run(["true"], check=True),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_checking_mode(name: str, soft, tmp_path) -> None:
    if name in ("remove", "chmod", "utime") and sys.implementation.name == "pypy":
        pytest.skip(f"PyPy does not audit os.{name}, so that nobody can find it")
    action = FORBIDDEN[name]
    with forbid_io():
        action(tmp_path)
        with pytest.raises(stm.ForbiddenIO, match=r"irrevocable\(\)"):
            atomic(action)(tmp_path)

        @atomic
        def allowed() -> None:
            irrevocable()
            action(tmp_path)

        allowed()
    atomic(action)(tmp_path)


def test_checking_mode_allows_what_is_deferred(soft, capsys) -> None:
    x = TVar(0)

    @atomic
    def work() -> None:
        x.value += 1
        import colorsys  # noqa: F401  imports read files, too

        print("deferred", file=DeferredOutput(sys.stdout))

    with forbid_io():
        work()
    assert capsys.readouterr().out == "deferred\n"


def test_output_keeps_its_order(soft, tmp_path) -> None:
    stream = io.StringIO()
    output = DeferredOutput(stream)

    @atomic
    def promise() -> str:
        print("before", file=output)
        irrevocable()
        print("after", file=output)
        return stream.getvalue()

    assert promise() == ""
    assert stream.getvalue() == "before\nafter\n"

    @atomic
    def at_once() -> str:
        irrevocable()
        output.write("once\n")
        or_else(lambda: (output.write("undone"), retry()), lambda: None)
        return stream.getvalue()

    assert at_once() == stream.getvalue() == "before\nafter\nonce\n"


def test_output_of_an_aborted_transaction_is_not_written(soft) -> None:
    stream = io.StringIO()
    output = DeferredOutput(stream)

    @atomic
    def fail() -> None:
        output.writelines(["a", "b"])
        output.close()
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue() == ""
    assert not stream.closed


def test_output_closes_its_stream_at_commit(soft, tmp_path) -> None:
    path = tmp_path / "output"

    @atomic
    def work() -> None:
        with output:
            output.writelines(["a", "b"])
        assert not output.closed

    with DeferredOutput(path.open("w")) as output:
        output.write("0")
    assert output.closed
    output = DeferredOutput(path.open("w"))
    work()
    assert output.closed
    assert path.read_text() == "ab"

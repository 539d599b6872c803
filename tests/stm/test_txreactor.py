"""The Twisted integration. Every reactor needs a process of its own."""

import itertools
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("twisted", reason="no Twisted, so its integration has not been tried: pip install twisted")

HERE = Path(__file__).resolve().parent
#: Both files say what is in them.
CASES = re.findall(r"^async def case_(\w+)", (HERE / "twisted_cases.py").read_text(encoding="utf-8"), re.MULTILINE)
PROGRAMS = ("chat", "echo", "order", "web")


def run(script: str, *arguments: str) -> str:
    """What a script prints. Twisted logs the failures that the cases provoke to standard error."""
    result = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    found: dict[str, str] = json.loads(run("twisted_cases.py"))
    return found


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, outcomes) -> None:
    if outcomes[case]:
        pytest.fail(outcomes[case], pytrace=False)


@pytest.fixture(scope="module")
def programs() -> list[dict[str, str]]:
    """What the programs did on Twisted's default reactor, and on ours."""
    return [json.loads(run("twisted_programs.py", reactor)) for reactor in ("default", "bloomgate")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_does_what_it_does_elsewhere(program: str, programs) -> None:
    expected, found = (outcomes[program] for outcomes in programs)
    assert "Failure" not in expected
    assert found == expected


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def connect(port: int, process: subprocess.Popen[str]) -> socket.socket:
    for _ in range(2000):
        assert process.poll() is None, process.communicate()[1]
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError("nobody listens")


def test_the_example_in_the_tutorial() -> None:
    text = (HERE.parents[1] / "docs" / "stm.md").read_text(encoding="utf-8")
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "txreactor.install" in block
    ]
    web, echo = free_port(), free_port()
    assert "8080" in example
    assert "8007" in example
    example = example.replace("8080", str(web)).replace("8007", str(echo)).replace("60, report", "0.01, report")
    with subprocess.Popen(
        [sys.executable, "-u", "-c", example], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            with connect(echo, process) as connection:
                connection.sendall(b"twisted")
                assert connection.recv(100) == b"twisted"
            for number in (2, 3):
                with urllib.request.urlopen(f"http://127.0.0.1:{web}", timeout=20) as answer:
                    assert answer.headers["content-type"] == "text/plain"
                    assert answer.read() == b"hit %d" % number
            lines = iter(process.stdout.readline, "")
            assert "hits: 3\n" in itertools.islice(lines, 2000)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM)


def test_another_reactor_is_refused() -> None:
    code = (
        "from bloomgate import txreactor, TransactionError\n"
        "try: txreactor.deferToTransaction(len, ())\n"
        "except TransactionError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "must be that of bloomgate.txreactor.install(), called before its first import" in result.stdout


def test_closing_lets_transactions_end() -> None:
    """Those that run when the reactor is stopped are committed; those that wait are dropped."""
    code = """
import threading
from bloomgate import txreactor, TVar, atomic, check
txreactor.install(workers=1)
from twisted.internet import reactor
x, never, inside = TVar(0), TVar(0), threading.Event()
@atomic
def waiting():
    check(never.value)
@atomic
def running():
    inside.set()
    assert stopped.wait(20)
    x.value += 1
stopped = threading.Event()
reactor.callLater(0, waiting)
reactor.callLater(0, running)
reactor.callInThread(lambda: (inside.wait(20), reactor.callFromThread(reactor.stop)))
reactor.addSystemEventTrigger("before", "shutdown", stopped.set)
reactor.run()
print(x.value)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "1\n", result.stderr

"""Servers for tests: in a thread of this process, or in one of their own that can be killed."""

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from bloomgate import open_device
from bloomgate.serve import server_for
from bloomgate.shm.segment import remove

ROOT = Path(__file__).resolve().parents[2]
#: Bound of every wait that should be short.
PATIENCE = 60.0


def new_name() -> str:
    """A segment that nobody else uses."""
    return f"test-{os.getpid()}-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def serving(url: str) -> Iterator[str]:
    """The name of a segment that a thread of this process serves with that device."""
    name = new_name()
    with open_device(url) as device, server_for(device, name) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield name
        finally:
            server.stop()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server does not stop"


class ServerProcess:
    """``bloomgate serve`` in a process of its own."""

    def __init__(self, name: str, url: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "host")}
        command = [sys.executable, "-m", "bloomgate", "serve", "--device", url, "--name", name]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line)
            if f"shm:{name}" in line:
                return
        raise AssertionError(f"the server did not start: {''.join(self.lines)}")

    def kill(self) -> None:
        """As the kernel does it: without a chance to clean up."""
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def terminate(self) -> str:
        """What it said, after SIGTERM."""
        self.process.terminate()
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said
        return "".join(self.lines) + said


@contextlib.contextmanager
def removed(name: str) -> Iterator[str]:
    """Remove the segment at the end."""
    try:
        yield name
    finally:
        remove(name)

"""Compiles bank.c, makes segments for it, and judges them afterwards by what is in the file, without bloomgate's C."""

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bloomgate import Parameters
from bloomgate.backends import soft_source
from bloomgate.h3 import matrices
from bloomgate.shm.layout import (
    ARENA,
    HEADER,
    LOCATION_BYTES,
    MODE_SERVERLESS,
    PUBLICATION,
    VERSION_WORDS,
    VERSIONS,
    SegmentLayout,
)
from bloomgate.shm.segment import path_of, remove

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "shm"

ACCOUNTS = 6
INITIAL = 1000
#: Commits of the one who comes when all others are gone.
LAST_COMMITS = 5
#: Seconds after which something that must happen has not.
LIMIT = 30.0

#: Where a client holds the mutex: stopped there, it holds up everybody until it is continued or killed.
IN_MUTEX = frozenset(
    ("LOCKED", "UNLOCKING", "DECIDED", "DELIVERED", "COMPLETION_WRITTEN", "COMPLETION_VISIBLE", "INTENDED", "ASSIGNED")
    + ("HALF_INSERTED", "RING_DISABLED", "RECOVERING", "RECOVERED")
)
#: Passed by holders of the token only.
HOLDERS = frozenset(("TOKEN_TAKEN", "GUARDED", "GUARDS_CLEARED"))
#: Passed only when an epoch ends, or after another client has died in the mutex.
RARE = frozenset(("EPOCH_RECORDED", "EPOCH_INTENDED", "RECOVERING", "RECOVERED"))


def points() -> list[str]:
    """Every place that the C sources name, but for those of transactions in flight: see test_in_flight_members.py."""
    text = soft_source.source() + (ROOT / "tests/shm/bank.c").read_text()
    return sorted(name for name in set(re.findall(r"\bBG_POINT\((\w+)\);", text)) if not name.startswith("FLIGHT_"))


def compile_bank(compiler: str = "cc", *options: str) -> Path:
    """The program; compiled once for each state of the sources."""
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / f"bank-{Path(compiler).name}-{soft_source.source_hash()}-{os.getpid()}"
    if not target.exists():
        source = target.with_suffix(".c")
        source.write_text(soft_source.source())
        flags = [flag for flag in soft_source.COMPILE_ARGUMENTS if flag != "-O3"]
        command = [compiler, *flags, "-O2", "-Wno-unused-function", *options]
        command += [f'-DSOURCE="{source}"', str(ROOT / "tests/shm/bank.c"), "-o", str(target)]
        result = subprocess.run([*command, "-pthread"], capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"
    return target


class Bank:
    """A segment with accounts, and the processes that use it."""

    def __init__(
        self, program: list[str], name: str, parameters: Parameters, pointer_bytes: int, holders: bool
    ) -> None:
        self.program = program
        self.environment = {**os.environ, **({"HOLDERS": "1"} if holders else {})}
        self.path = path_of(name)
        self.members: list[subprocess.Popen[bytes]] = []
        geometry = (parameters.K, parameters.row_bits, parameters.slots, parameters.aperture_depth)
        layout = SegmentLayout(parameters, int(self.ask("bytes", *geometry)))
        with open(self.path, "xb") as file:
            file.truncate(layout.total_bytes)
            for field, value in layout.header_values(MODE_SERVERLESS, pointer_bytes).items():
                member = HEADER[field]
                os.pwrite(file.fileno(), value.to_bytes(member.size, "little"), member.offset)
            fields = dataclasses.astuple(parameters)
            os.pwrite(file.fileno(), struct.pack(f"<{len(fields)}I", *fields), HEADER["geometry"].offset)
        self.ask("format", self.path, ACCOUNTS, INITIAL, *(word for matrix in matrices(parameters) for word in matrix))
        self.raw = Raw(self.path, layout)

    def ask(self, *arguments: object) -> str:
        """What the program prints."""
        command = [*self.program, *map(str, arguments)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True).stdout

    def start(self, seed: int, transfers: int = 1 << 40, *armed: object) -> subprocess.Popen[bytes]:
        """A member; ``armed``: point, countdown, signal."""
        arguments = [self.path, ACCOUNTS, seed, transfers, *armed]
        command = [*self.program, *map(str, arguments)]
        member = subprocess.Popen(command, stderr=subprocess.PIPE, env=self.environment)
        self.members.append(member)
        return member

    def kill(self, member: subprocess.Popen[bytes]) -> None:
        """Kill a member, which must not have found anything wrong."""
        member.kill()
        self.ended(member)

    def died(self, member: subprocess.Popen[bytes]) -> None:
        """A member that waitpid has reported dead."""
        member.returncode = -signal.SIGKILL
        self.ended(member)

    def ended(self, member: subprocess.Popen[bytes]) -> int:
        """Wait for a member's end; its exit status, or minus the signal."""
        _, complaint = member.communicate(timeout=LIMIT)
        self.members.remove(member)
        assert not complaint, complaint.decode()
        return member.returncode

    def progress(self, commits: int) -> None:
        """Wait until so many more commits are published."""
        target = self.raw.position() + commits
        deadline = time.monotonic() + LIMIT
        while self.raw.position() < target:
            assert time.monotonic() < deadline, f"nothing moves any more at position {self.raw.position()}"
            for member in self.members:
                assert member.poll() in (None, -signal.SIGKILL), member.communicate()[1]
            time.sleep(0.0005)

    def judge(self) -> int:
        """All members are gone: what they left is whole. Returns how many commits there were."""
        # One more, who publishes what others have not; with its first commits it also decides what they have submitted.
        assert self.ended(self.start(0, LAST_COMMITS)) == 0
        last = self.raw.last()
        assert self.raw.published() == last, "a timestamp was lost"
        counter, *accounts = self.raw.values(1 + ACCOUNTS)
        # Every commit of a member counts itself once, and there is one epoch.
        assert counter == last, f"{counter} commits were written back of {last}"
        assert sum(accounts) == ACCOUNTS * INITIAL, accounts
        return counter


class Raw:
    """Reads the file of a segment, in Python, when nobody changes it."""

    def __init__(self, path: str, layout: SegmentLayout) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - open as long as the test
        self._layout = layout

    def _word(self, offset: int) -> int:
        return struct.unpack("<Q", os.pread(self._file.fileno(), 8, offset))[0]

    def last(self) -> int:
        return self._word(HEADER["last"].offset)

    def position(self) -> int:
        return self._word(self._layout.publication + PUBLICATION["position"].offset)

    def published(self) -> int:
        stamps = self._layout.publication + PUBLICATION["stamps"].offset
        return self._word(stamps + 8 * (self.position() % PUBLICATION["stamps"].count))

    def values(self, count: int) -> list[int]:
        """The newest values of the first locations; every version must be whole."""
        values = []
        for location in range(count):
            begin = self._layout.arena + ARENA.size + location * LOCATION_BYTES
            versions = {}
            for version in range(VERSIONS):
                words = [self._word(begin + 8 * (version * VERSION_WORDS + n)) for n in range(VERSION_WORDS)]
                tags = {word & (1 << 48) - 1 for word in words}
                assert len(tags) == 1, f"location {location} has a torn version: {tags}"
                tag = tags.pop()
                assert tag <= self.position()
                assert tag == 0 or tag not in versions
                versions[tag] = sum(word >> 48 << 16 * n for n, word in enumerate(words))
            value = versions[max(versions)]
            values.append(value - (1 << 64) if value >> 63 else value)
        return values

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def bank(
    program: list[str], parameters: Parameters, pointer_bytes: int = struct.calcsize("P"), holders: bool = True
) -> Iterator[Bank]:
    """``holders``: some of the transfers are irrevocable. Whoever is stopped then may be in the way of all others."""
    name = f"test-bank-{os.getpid()}-{time.monotonic_ns()}"
    subject = None
    try:
        subject = Bank(program, name, parameters, pointer_bytes, holders)
        yield subject
    finally:
        remove(name)
        if subject is not None:
            for member in subject.members:
                member.kill()
                member.communicate()
            subject.raw.close()

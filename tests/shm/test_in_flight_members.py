"""Processes with transactions in flight are killed, at every step that the C code names and in every state."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bloomgate import Device, Parameters, Reason, open_device
from bloomgate.backends import soft_build, soft_source
from bloomgate.backends.shm import ShmDevice
from bloomgate.in_flight import Token, grant_limit
from cffi import FFI

from tests.shm.bank import IN_MUTEX, RARE
from tests.shm.in_flight_member import KEYS, LIMIT
from tests.shm.served import ROOT, new_name, removed, serving

#: A small filter, so that there are false dooms too.
SMALL = Parameters(D=64, slots=16, queue_entries=2, aperture_depth=16)
#: Epochs that end all the time, most of them early, for who asks for the token.
SHORT = Parameters(D=64, slots=16, queue_entries=2, aperture_depth=16, timestamp_bits=5)
#: Where somebody can die while such an epoch ends.
ENDING = ("EPOCH_INTENDED", "FLIGHT_EPOCH_ENDING")

#: At its countdown-th passage of the point that BLOOMGATE_POINT names, the process dies as if it had been killed.
DEADLY = """
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void bg_at_point(const char *name) {
    static long countdown = -1;
    const char *armed = getenv("BLOOMGATE_POINT");
    if (armed == NULL || strncmp(armed, name, strlen(name)) != 0 || armed[strlen(name)] != ':')
        return;
    if (countdown < 0)
        countdown = atol(armed + strlen(name) + 1);
    if (countdown-- == 0)
        kill(getpid(), SIGKILL);
}
#define BG_POINT(name) bg_at_point(#name)
"""


def points() -> list[str]:
    """Where somebody with a transaction in flight can die while others depend on what it does."""
    named = set(re.findall(r"\bBG_POINT\((\w+)\);", soft_source.source()))
    wanted = {name for name in named if name.startswith("FLIGHT_")} | named & IN_MUTEX - RARE - {"RING_DISABLED"}
    return sorted(wanted - set(ENDING))


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler: apt install gcc")
    builder = FFI()
    builder.cdef(soft_source.DECLARATIONS)
    builder.set_source(soft_source.MODULE, DEADLY + soft_source.source())
    target = tmp_path_factory.mktemp("deadly") / "_soft_core.so"
    soft_build.compile_module(target, [*soft_build.c_compiler(), "-O0"], builder)
    return target


class Group:
    """Processes on one segment, and what they say they have done. This process commits too, so that not all sleep."""

    def __init__(self, device: Device, name: str, folder: Path) -> None:
        self.device, self.name, self.folder = device, name, folder
        self.commits: list[dict[str, object]] = []
        self.members: dict[Path, subprocess.Popen[str]] = {}

    def start(self, seed: int, module: str = "", point: str = "") -> Path:
        """A member; the name of its log."""
        log = self.folder / f"{seed}-{len(list(self.folder.iterdir()))}"
        log.touch()
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'host'}:{ROOT}", "BLOOMGATE_POINT": point}
        command = [sys.executable, "-m", "tests.shm.in_flight_member", self.name, str(log), str(seed), module]
        self.members[log] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        return log

    def died(self, log: Path) -> None:
        """Wait until a member has died, of SIGKILL."""
        member = self.members.pop(log)
        deadline = time.monotonic() + 2 * LIMIT
        while member.poll() is None:
            assert time.monotonic() < deadline, f"{log} does not come to its point"
            self.commit()
        _, complaint = member.communicate(timeout=LIMIT)
        assert member.returncode == -signal.SIGKILL, complaint

    def progress(self, lines: int) -> None:
        """Wait until all members have done so much more."""
        targets = {log: len(log.read_bytes().splitlines()) + lines for log in self.members}
        deadline = time.monotonic() + 2 * LIMIT
        while targets:
            assert time.monotonic() < deadline, f"members do not go on: {targets}"
            for log, target in list(targets.items()):
                assert self.members[log].poll() is None, self.members[log].communicate()[1]
                if len(log.read_bytes().splitlines()) >= target:
                    del targets[log]
            self.commit()

    def commit(self) -> None:
        """Change some key."""
        key = len(self.commits) % KEYS
        verdict = self.device.commit(snapshot=self.device.published, writes=[key])
        if verdict.committed:
            self.device.publish(verdict.timestamp)
            self.commits.append({"reads": {}, "writes": [key], "timestamp": verdict.timestamp})
        time.sleep(0.002)

    def judge(self) -> int:
        """Nothing that anybody had read was changed before its commit; how many commits are known."""
        said = [json.loads(line) for log in self.folder.iterdir() for line in log.read_text().splitlines()]
        said += self.commits
        commits = {entry["timestamp"]: entry for entry in said if "timestamp" in entry}
        assert len(commits) == sum("timestamp" in entry for entry in said), "a timestamp was assigned twice"
        for timestamp, entry in commits.items():
            for key, seen in entry["reads"].items():
                for between in range(seen + 1, timestamp):
                    writes = commits.get(between, {}).get("writes", ())
                    assert int(key) not in writes, f"{entry} has read {key}, which {between} changed"
        return len(commits)

    def close(self) -> None:
        for member in self.members.values():
            member.kill()
            member.communicate(timeout=LIMIT)
        self.members.clear()


@contextlib.contextmanager
def group(device: Device, name: str, folder: Path) -> Iterator[Group]:
    subject = Group(device, name, folder)
    try:
        yield subject
    finally:
        subject.close()


@pytest.mark.parametrize("parameters", [SMALL, SHORT], ids=["", "short epochs"])
def test_death_at_every_step(deadly: Path, tmp_path: Path, parameters: Parameters, seed: int) -> None:
    dice = random.Random(seed)
    with (
        removed(new_name()) as name,
        ShmDevice(name, expected=parameters) as device,
        group(device, name, tmp_path) as subject,
    ):
        for _ in range(2):
            subject.start(dice.getrandbits(32))
        steps = [*ENDING] * 3 if parameters is SHORT else points()
        dice.shuffle(steps)
        for point in steps:
            subject.died(
                subject.start(
                    dice.getrandbits(32), str(deadly), f"{point}:{dice.randrange(5 if point in ENDING else 20)}"
                )
            )
            subject.progress(5)
        subject.close()
        device.wait_published(device.last_timestamp(), LIMIT)
        assert subject.judge() > 5 * len(steps)


#: Where a process can die while it decides for another one, and while it tells it.
DECIDING = ("INTENDED", "ASSIGNED", "HALF_INSERTED", "DECIDED", "FLIGHT_EMPTYING", "FLIGHT_RELEASING", "FLIGHT_DECIDED")
DELIVERING = ("COMPLETION_WRITTEN", "COMPLETION_VISIBLE", "DELIVERED")


def test_death_while_deciding_for_another(deadly: Path) -> None:
    """Whatever of it was done: the holder's commit has its verdict, its transaction is over, and the token is free."""
    code = """
import sys
from pathlib import Path
from bloomgate.backends import soft
soft._loaded = soft._import_file(Path(sys.argv[2]))
import bloomgate
device = bloomgate.open_device(sys.argv[1])
device.commit(snapshot=0, writes=[9])
"""
    for point in (*DECIDING, *DELIVERING):
        # Before, it takes its slot over, and its own commit comes first, which is of no slot in flight.
        countdown = 0 if point == "FLIGHT_RELEASING" else 1
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "host"), "BLOOMGATE_POINT": f"{point}:{countdown}"}
        with removed(new_name()) as name, ShmDevice(name, expected=SMALL) as device:
            slot, next_one = device.open_slot(), device.open_slot()
            slot.begin(0)
            slot.announce([1])
            slot.request_token()
            next_one.begin(0)
            next_one.request_token()
            ticket = slot._queue.submit(snapshot=0, writes=[1])
            command = [sys.executable, "-c", code, f"shm:{name}", str(deadly)]
            process = subprocess.run(command, env=environment, timeout=LIMIT, check=False)
            assert process.returncode == -signal.SIGKILL, f"nobody came to {point}"
            assert next_one._wait_until_answered(LIMIT)
            assert (slot.announced, slot.token, next_one.token) == (None, Token.NONE, Token.HOLDER), point
            assert slot._queue.collect(ticket, LIMIT).timestamp == 2, point
            device.publish(2)
            device.wait_published(2, LIMIT)
            assert next_one.commit(writes=[2]).timestamp == 3, point


def test_nobody_sees_a_verdict_before_the_end_of_the_epoch_that_follows_it(deadly: Path) -> None:
    """The holder's commit, near the end of the epoch, with another slot waiting; who has decided it is gone."""
    code = """
import sys
from pathlib import Path
from bloomgate.backends import soft
soft._loaded = soft._import_file(Path(sys.argv[2]))
import bloomgate
bloomgate.open_device(sys.argv[1]).commit(snapshot=0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host"), "BLOOMGATE_POINT": "DELIVERED:1"}
    with removed(new_name()) as name, ShmDevice(name, expected=SHORT) as device:
        holder, waiting = device.open_slot(), device.open_slot()
        for slot in (holder, waiting):
            slot.begin(0)
            slot.request_token()
        for _ in range(grant_limit(SHORT.max_count)):
            device.publish(device.commit(snapshot=device.published, writes=[1]).timestamp)
        ticket = holder._queue.submit(snapshot=0, writes=[2])
        command = [sys.executable, "-c", code, f"shm:{name}", str(deadly)]
        process = subprocess.run(command, env=environment, timeout=LIMIT, check=False)
        assert process.returncode == -signal.SIGKILL
        origin = SHORT.timestamp(1, 0)
        assert device.last_timestamp() == origin, "nobody has had the mutex since"
        device.publish(holder._queue.collect(ticket, LIMIT).timestamp)
        assert waiting._wait_until_answered(LIMIT)
        assert waiting.token_refusal.reason is Reason.ROLLOVER
        assert device.published == device.last_timestamp() == origin


@pytest.fixture(params=["without a server", "served by soft:", "served by model:"])
def segment(request: pytest.FixtureRequest) -> Iterator[str]:
    _, served, by = request.param.partition("served by ")
    if served:
        with serving(by) as name:
            yield name
    else:
        with removed(new_name()) as name:
            yield name


def test_death_at_random(segment: str, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    with open_device(f"shm:{segment}") as device, group(device, segment, tmp_path) as subject:
        for _ in range(6):
            while len(subject.members) < 3:
                subject.start(dice.getrandbits(32))
            subject.progress(3)
            victim = dice.choice(list(subject.members))
            subject.members[victim].kill()
            subject.died(victim)
        subject.close()
        device.wait_published(device.last_timestamp(), LIMIT)
        assert subject.judge() > 0


STATES = {
    "holding the token": "slot.request_token()",
    "waiting for the token": "first = device.open_slot(); first.begin(0); first.request_token(); slot.request_token()",
    "parked": "slot.park()",
    "announcing": "slot.announce(range(100, 200))",
    "committing": "slot._queue.submit(snapshot=0, writes=[1])",
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_dead_process_had_in_flight_holds_nobody_up(segment: str, state: str) -> None:
    code = f"""
import bloomgate, os, signal, sys
device = bloomgate.open_device(sys.argv[1])
slot = device.open_slot()
slot.begin(0)
slot.announce([1, 2])
{STATES[state]}
print(slot.number, slot.token.name, flush=True)
signal.pause()
"""
    with open_device(f"shm:{segment}") as device:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "host")}
        command = [sys.executable, "-c", code, f"shm:{segment}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        number, token = process.stdout.readline().split()
        other, sleeper = device.open_slot(), device.open_slot()
        sleeper.begin(device.published)
        if state.endswith("the token"):
            assert token == ("HOLDER" if state.startswith("holding") else "WAITING")
            if token == "HOLDER":
                verdict = sleeper.commit(writes=[1])
                assert (verdict.reason, verdict.conflict_key) == (Reason.IRREVOCABLE, 1)
                sleeper.park()
                assert sleeper.parked
        process.kill()
        process.communicate(timeout=LIMIT)
        # Who was refused is woken, and goes on; the token is for others.
        assert sleeper._wait_until_woken(LIMIT)
        sleeper.begin(device.last_timestamp())
        assert sleeper.irrevocable(LIMIT).committed
        sleeper.cancel()
        other.begin(device.last_timestamp())
        verdict = other.commit(writes=[1])
        assert verdict.committed
        device.publish(verdict.timestamp)
        device.wait_published(verdict.timestamp, LIMIT)
        # A new owner of the dead one's slot finds nothing.
        again = device.open_slot(int(number))
        assert (again.announced, again.doomed, again.parked, again.token) == (None, None, False, Token.NONE)
        device.conflicts()
        other.begin(device.published)
        assert other.commit(writes=[1, 2, 150]).committed
        assert device.conflicts() == []

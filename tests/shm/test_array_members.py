"""A bank over several processes that are killed and stopped, at every named step and at random.

BLOOMGATE_KILLS sets how often members are killed or stopped at random (default 150); ``make crashes`` is a campaign.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from bloomgate import Parameters

from tests.shm.bank import HOLDERS, IN_MUTEX, LAST_COMMITS, LIMIT, RARE, Bank, bank, compile_bank, points

KILLS = int(os.environ.get("BLOOMGATE_KILLS", "150"))
#: Small rings and a small filter, so that everything is used again and again.
SMALL = Parameters(D=64, slots=8, queue_entries=2, aperture_depth=16, buffer_depth=64)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: apt install gcc")


@pytest.fixture(scope="module")
def program():
    target = compile_bank()
    yield [str(target)]
    target.unlink()
    target.with_suffix(".c").unlink()


def wait_for(member: subprocess.Popen[bytes]) -> int:
    """Its status when it has died or stopped, as waitpid gives it."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        pid, status = os.waitpid(member.pid, os.WUNTRACED | os.WNOHANG)
        if pid:
            return status
        time.sleep(0.0005)
    raise AssertionError("the member never came to its point")


def test_members_without_accidents(program, seed: int) -> None:
    with bank(program, SMALL) as subject:
        members = [subject.start(seed + number, 2000) for number in range(4)]
        for member in members:
            assert subject.ended(member) == 0
        assert subject.judge() == 8000 + LAST_COMMITS


@pytest.mark.parametrize(
    ("point", "which"),
    [(name, signal.SIGKILL) for name in points() if name not in RARE]
    + [(name, signal.SIGSTOP) for name in points() if name not in RARE | HOLDERS],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_at_every_step(program, point: str, which: signal.Signals, seed: int) -> None:
    """Others go on, whoever has died there; and, if it held no mutex, whoever is stopped there."""
    dice = random.Random(seed)
    with bank(program, SMALL, holders=which == signal.SIGKILL) as subject:
        others = [subject.start(dice.getrandbits(32)) for _ in range(2)]
        for countdown in (0, 2, dice.randrange(50)):
            if point in ("DRAINED", "SETTLED", "RING_DISABLED"):  # once in the life of a client
                countdown = 0
            if point == "RECORD_COPIED":  # only who helps comes there
                countdown = 0
            member = subject.start(dice.getrandbits(32), 1 << 40, point, countdown, int(which))
            status = wait_for(member)
            if which == signal.SIGKILL:
                assert os.WTERMSIG(status) == signal.SIGKILL
                subject.died(member)
            else:
                assert os.WSTOPSIG(status) == signal.SIGSTOP
                if point not in IN_MUTEX:
                    subject.progress(50)
                member.send_signal(signal.SIGCONT)
            # Long enough that what it left is used again.
            subject.progress(50)
            if member in subject.members:
                subject.kill(member)
        for member in others:
            subject.kill(member)
        assert subject.judge() > 100


def test_at_random(program, seed: int) -> None:
    dice = random.Random(seed)
    names = points()
    with bank(program, SMALL) as subject:
        accidents = 0
        while accidents < KILLS:
            while len(subject.members) < 4:
                armed: tuple[object, ...] = ()
                if dice.random() < 0.3:
                    armed = (dice.choice(names), dice.randrange(100), int(signal.SIGKILL))
                subject.start(dice.getrandbits(32), 1 << 40, *armed)
            time.sleep(dice.random() * 0.01)
            accidents += one_accident(subject, dice)
        for member in list(subject.members):
            member.send_signal(signal.SIGCONT)
            subject.kill(member)
        assert subject.judge() > 0


def one_accident(subject: Bank, dice: random.Random) -> int:
    """Something happens to somebody. Returns how many have died or were stopped."""
    victim = dice.choice(subject.members)
    if victim.poll() is not None:  # at its point
        subject.ended(victim)
    elif dice.random() < 0.5:
        subject.kill(victim)
    else:
        victim.send_signal(signal.SIGSTOP)
        time.sleep(dice.random() * 0.01)
        victim.send_signal(dice.choice([signal.SIGCONT, signal.SIGKILL]))
    return 1

"""The same C code on the processor of the Parallella: compiled for ARMv7 and run under qemu-arm.

qemu emulates LDREXD and STREXD by compare and swap, and the order of memory accesses of the host may be stronger than
ARM's: this shows that the code is complete and right for a 32-bit ARM, not that no barrier is missing. For that the
code uses C11 atomics only, and the test looks that none of them became a call to a library with locks.
"""

import os
import random
import re
import shutil
import signal
import subprocess

import pytest

from tests.shm.bank import LAST_COMMITS, bank, compile_bank
from tests.shm.test_array_members import SMALL, wait_for

COMPILER, EMULATOR = "arm-linux-gnueabihf-gcc", "qemu-arm"

pytestmark = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {COMPILER} and {EMULATOR}: apt install gcc-arm-linux-gnueabihf qemu-user",
)


@pytest.fixture(scope="module")
def binary():
    target = compile_bank(COMPILER, "-march=armv7-a", "-mfpu=neon", "-static")
    yield target
    target.unlink()
    target.with_suffix(".c").unlink()


def test_atomics_are_instructions(binary) -> None:
    listing = subprocess.run(
        ["arm-linux-gnueabihf-objdump", "-d", str(binary)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    main = listing[listing.index("<main>:") :]
    for instruction in ("ldrexd", "strexd", "dmb"):
        assert instruction in main
    assert not re.search(r"<__atomic_(load|store|exchange|compare|fetch)", listing)


def test_members_without_accidents(binary, seed: int) -> None:
    with bank([EMULATOR, str(binary)], SMALL, pointer_bytes=4) as subject:
        members = [subject.start(seed + number, 300) for number in range(3)]
        for member in members:
            assert subject.ended(member) == 0
        assert subject.judge() == 900 + LAST_COMMITS


def test_deaths_outside_of_the_mutex(binary, seed: int) -> None:
    """qemu-arm has no robust mutexes: whoever dies in one there would hold it for ever."""
    dice = random.Random(seed)
    with bank([EMULATOR, str(binary)], SMALL, pointer_bytes=4) as subject:
        others = [subject.start(dice.getrandbits(32), 50000) for _ in range(2)]
        for point in ("REDO_BEGUN", "REDO_WRITTEN", "VERDICT_TAKEN", "INSTALLING", "INSTALLED", "STAMPED"):
            member = subject.start(dice.getrandbits(32), 1 << 40, point, dice.randrange(5), int(signal.SIGKILL))
            assert os.WTERMSIG(wait_for(member)) == signal.SIGKILL
            subject.died(member)
            subject.progress(20)
        # They end by themselves, since a signal could come while they hold the mutex.
        for member in others:
            assert subject.ended(member) == 0
        assert subject.judge() > 100

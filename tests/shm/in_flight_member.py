"""A process with transactions in flight that is to be killed: ``python -m tests.shm.in_flight_member ...``.

``SEGMENT LOG SEED [MODULE]``: random transactions until it is killed. Every commit is a line of JSON in LOG. MODULE:
the compiled C code with points at which BLOOMGATE_POINT kills it.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import bloomgate
from bloomgate import Reason
from bloomgate.backends import soft
from bloomgate.in_flight import Token
from bloomgate.slots import Slot

#: Few, so that everybody meets everybody.
KEYS = 8
#: Seconds after which something that must happen has not.
LIMIT = 30.0


class Member:
    def __init__(self, segment: str, log: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.device = bloomgate.open_device(f"shm:{segment}")
        self.slot: Slot = self.device.open_slot()
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        #: What the transaction has read, and as of when.
        self.reads: dict[int, int] = {}

    def keys(self, most: int) -> list[int]:
        return self.dice.sample(range(KEYS), self.dice.randint(1, most))

    def begin(self) -> None:
        self.snapshot = self.device.published
        self.slot.begin(self.snapshot)
        self.reads = dict.fromkeys(self.keys(2), self.snapshot)
        self.slot.announce(list(self.reads))

    def commit(self) -> bloomgate.Verdict:
        reads = [] if self.slot.token is Token.HOLDER else self.keys(2)
        writes = self.keys(2)
        verdict = self.slot.commit(reads=reads, writes=writes)
        if verdict.committed:
            self.reads.update(dict.fromkeys(reads, self.snapshot))
            self.say(reads=self.reads, writes=writes, timestamp=verdict.timestamp)
            self.device.publish(verdict.timestamp)
        return verdict

    def say(self, **what: object) -> None:
        os.write(self.log, (json.dumps(what) + "\n").encode())

    def go_on(self) -> None:
        self.begin()
        choice = self.dice.randrange(4)
        if choice == 0:
            self.slot.wait(LIMIT)
            self.say(woken=self.slot.last_wake.timestamp)
        elif choice == 1:
            if self.slot.irrevocable(LIMIT).committed:
                more = self.keys(2)
                guard = self.slot.read_guarded(more, LIMIT)
                self.reads.update({key: guard for key in more if key not in self.reads})
                verdict = self.commit()
                assert verdict.committed, f"the holder of the token got {verdict}"
        elif self.commit().reason is Reason.IRREVOCABLE:
            self.slot.wait(LIMIT)


def main(segment: str, log: str, seed: str, module: str = "") -> None:
    if module:
        soft._loaded = soft._import_file(Path(module))
    member = Member(segment, log, int(seed))
    while True:
        member.go_on()


if __name__ == "__main__":
    main(*sys.argv[1:])

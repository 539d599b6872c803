"""A long reader that always loses wins at last, through its age and the irrevocable token, within a stated bound."""

import random

import pytest
from bloomgate import Reason
from bloomgate.in_flight import OLDEST, PASSED_OVER, Token

from tests.in_flight_devices import LEAN_PARAMS, opened

#: Keys that the reader reads, one after the other. After each of them every writer commits one.
READS = 40
WRITERS = 4
#: Attempts of the reader before it asks for the token.
IN_VAIN = 3
#: Grants to others before the reader's turn. Each that passes it over makes it PASSED_OVER older; when it is OLDEST,
#: nobody is older, and the next in cyclic order behind the last holder is preferred: at worst each rival once more.
BOUND = OLDEST // PASSED_OVER + 1 + WRITERS


class Writers:
    """Many short transactions, of which each changes one key that the reader reads."""

    def __init__(self, device, rng):
        self.device, self.rng = device, rng
        self.slots = [device.open_slot() for _ in range(WRITERS)]
        self.commits = self.refusals = 0

    def commit(self):
        for slot in self.slots:
            if slot.token is not Token.NONE:
                continue  # a rival of the reader
            slot.begin(self.device.last_timestamp())
            verdict = slot.commit(writes=[self.rng.randrange(READS)])
            self.device.publish(verdict.timestamp)
            self.commits += verdict.committed
            self.refusals += verdict.reason is Reason.IRREVOCABLE
            assert verdict.committed or verdict.reason is Reason.IRREVOCABLE


@pytest.fixture(params=LEAN_PARAMS)
def device(request):
    with opened(request.param, "") as device:
        yield device


def test_a_long_reader_finishes(device, seed):
    reader = device.open_slot()
    writers = Writers(device, random.Random(seed))
    for _ in range(IN_VAIN):
        reader.begin(device.last_timestamp())
        for key in range(READS):
            reader.announce([key])
            writers.commit()
        assert reader.doomed is not None
        assert reader.commit(writes=[1000]).reason is Reason.CONFLICT

    # Two rivals want the token all the time, and both are as old as can be.
    rivals = writers.slots[:2]
    for rival in rivals:
        for _ in range(OLDEST):
            rival.begin(device.last_timestamp() + 1)
            assert rival.commit().reason is Reason.BAD_REQUEST
        rival.begin(device.last_timestamp())
        rival.request_token()
    reader.begin(device.last_timestamp())
    reader.request_token()
    grants = 0
    while reader.token is not Token.HOLDER:
        (holder,) = [rival for rival in rivals if rival.token is Token.HOLDER]
        writers.commit()
        holder.cancel()  # so that it is as old as before
        holder.begin(device.last_timestamp())
        holder.request_token()
        grants += 1
        assert grants <= BOUND
    # From here on it cannot fail, in whatever order others commit; and they do, but for what it has read.
    before = writers.commits
    for key in range(READS):
        reader.read_guarded([key], 60)
        writers.commit()
    assert reader.commit(writes=[1000]).committed
    assert writers.commits > before
    assert writers.refusals > 0

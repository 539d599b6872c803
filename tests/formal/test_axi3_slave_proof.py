"""Proofs of the AXI3 slave, and mutations of the gateware that they must catch.

The arithmetic is proved without a bound. The proofs of the channels are bounded: no sequence of that many clocks from
power-up breaks a property. Every clock more costs several times the time of the last one, so `make test` stops where
the first bursts are answered; `make formal` goes on.
"""

import pytest

from tests.formal import mutations, sby
from tests.formal.axi3_slave_properties import AddressProperties, ReadProperties, WriteProperties
from tests.formal.mutations import Mutation

pytestmark = pytest.mark.formal

full = pytest.mark.skipif(not sby.FULL, reason=sby.FULL_REASON)


def test_arithmetic():
    """Complete: the harness has no state."""
    sby.prove(AddressProperties(), "axi3_address", depth=1)


@pytest.mark.slow
def test_reads():
    sby.prove(ReadProperties(), "axi3_read", depth=8, timeout=250)


@pytest.mark.slow
def test_writes():
    sby.prove(WriteProperties(), "axi3_write", depth=7, timeout=250)


@pytest.mark.slow
def test_writes_of_plain_bursts():
    sby.prove(WriteProperties(plain=True), "axi3_write_plain", depth=9, timeout=250)


@full
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("harness", "plain", "depth"),
    [(ReadProperties, False, 9), (ReadProperties, True, 11), (WriteProperties, False, 9), (WriteProperties, True, 11)],
)
def test_further(harness, plain, depth):
    name = f"axi3_{harness.__name__.lower()}_{'plain' if plain else 'any'}_{depth}"
    sby.prove(harness(plain=plain), name, depth=depth, timeout=3000)


@pytest.mark.parametrize(
    ("harness", "depth"), [(AddressProperties, 1), (ReadProperties, 12), (WriteProperties, 12)], ids=["a", "r", "w"]
)
def test_not_vacuous(harness, depth):
    """Wraps, refusals, errors and full queues are all within reach of the assumptions."""
    sby.prove(harness(), f"axi3_cover_{harness.__name__.lower()}", mode="cover", depth=depth, timeout=250)


WRITE, READ, ADDRESS = (
    f"tests.formal.axi3_slave_properties:{name}" for name in ("WriteProperties", "ReadProperties", "AddressProperties")
)

CASES = [
    (
        WRITE,
        7,
        Mutation(
            "ID of data ignored",
            "axi3_write_channel.py",
            "(word.id != place.id)",
            "0",
            "data of another burst would be written to this one's address",
        ),
    ),
    (
        READ,
        8,
        Mutation(
            "last one early",
            "burst_sequencer.py",
            "beat.last.eq(left == 0)",
            "beat.last.eq(left == 1)",
            "the CPU would wait for a beat that never comes",
        ),
    ),
    (
        ADDRESS,
        1,
        Mutation(
            "wrap too early",
            "burst_address.py",
            "self.mask.eq(span),",
            "self.mask.eq(span >> 1),",
            "a wrapping burst would go to wrong addresses",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "answer to every beat",
            "axi3_write_channel.py",
            "finished.eq(transfer & final)",
            "finished.eq(transfer)",
            "B would come before the last beat, and more than once",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "write without strobes",
            "axi3_write_channel.py",
            " & word.strobe.any()",
            "",
            "a beat that writes nothing would reach a key aperture",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "lanes ignored",
            "axi3_write_channel.py",
            "(word.strobe & ~place.lanes).any()",
            "0",
            "bytes outside the beat would be written",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "wrong WLAST tolerated",
            "axi3_write_channel.py",
            "(word.last != place.last)",
            "0",
            "a burst of the wrong length would be answered OKAY",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "refusal forgotten",
            "axi3_write_channel.py",
            "m.d.sync += was_refused.eq(refused & ~finished)",
            "m.d.sync += was_refused.eq(0)",
            "a refused write would be answered OKAY",
        ),
    ),
    (
        WRITE,
        7,
        Mutation(
            "half the region's address decoded",
            "burst_sequencer.py",
            "outside.eq(request.address[self._region_width :] != self._base >> self._region_width)",
            "outside.eq(request.address[self._region_width + 1 :] != self._base >> (self._region_width + 1))",
            "an access beside the region would hit a register",
        ),
    ),
    (
        ADDRESS,
        1,
        Mutation(
            "page boundary ignored",
            "burst_address.py",
            " & ~last[PAGE_BITS]",
            "",
            "a burst of one slot's owner would reach the next slot's page",
        ),
    ),
    (
        READ,
        9,
        Mutation(
            "answer not held",
            "response_queue.py",
            "load.eq(~self.o.valid | self.o.ready)",
            "load.eq(1)",
            "a beat that the CPU is not ready for would be lost",
        ),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harness", "depth", "mutation"),
    [
        pytest.param(harness, depth, *parameter.values, id=parameter.id, marks=parameter.marks)
        for (harness, depth, _), parameter in zip(
            CASES, mutations.parameters([case[2] for case in CASES], short=3), strict=True
        )
    ],
)
def test_mutation_is_caught(harness, depth, mutation):
    mutations.check_caught(mutation, harness, depth=depth, timeout=250)

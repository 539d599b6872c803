"""Proofs of the memory master, and mutations of the gateware that they must catch.

That a burst stays in its window is proved without a bound, and so is what an AR or AW has to do with its command:
every burst's address was checked by `WindowCheck`. The proofs of the channels are bounded, as those of the slave are.
"""

import pytest

from tests.formal import mutations, sby
from tests.formal.memory_master_properties import CompletionProperties, ReadProperties, WindowProperties
from tests.formal.mutations import Mutation

pytestmark = pytest.mark.formal

full = pytest.mark.skipif(not sby.FULL, reason=sby.FULL_REASON)

#: Clocks, in `make test` and in `make formal`.
DEPTHS = {ReadProperties: (10, 14), CompletionProperties: (11, 14)}


def test_windows():
    """Complete: the harness has no state."""
    sby.prove(WindowProperties(), "memory_window", depth=1)


@pytest.mark.parametrize("harness", DEPTHS)
def test_channels(harness):
    sby.prove(harness(), f"memory_{harness.__name__.lower()}", depth=DEPTHS[harness][0], timeout=250)


@full
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("harness", DEPTHS)
def test_further(harness):
    sby.prove(harness(), f"memory_{harness.__name__.lower()}_further", depth=DEPTHS[harness][1], timeout=3000)


@pytest.mark.parametrize(
    ("harness", "depth"), [(WindowProperties, 1), (ReadProperties, 14), (CompletionProperties, 18)]
)
def test_not_vacuous(harness, depth):
    """Refusals, errors, full queues and answers that are interleaved are all within reach of the assumptions."""
    sby.prove(harness(), f"memory_cover_{harness.__name__.lower()}", mode="cover", depth=depth, timeout=250)


WINDOW, READ, COMPLETION = (
    f"tests.formal.memory_master_properties:{harness.__name__}"
    for harness in (WindowProperties, ReadProperties, CompletionProperties)
)

CASES = [
    (
        WINDOW,
        1,
        Mutation(
            "one page too many",
            "window_check.py",
            "(page < self.window.end)",
            "(page <= self.window.end)",
            "a slot's owner would read the page behind its window",
        ),
    ),
    (
        READ,
        8,
        Mutation(
            "refused command is read",
            "read_master.py",
            "addresses.i.valid.eq(taken & check.allowed)",
            "addresses.i.valid.eq(taken)",
            "the window would be checked and ignored",
        ),
    ),
    (
        COMPLETION,
        10,
        Mutation(
            "written before B",
            "completion_writer.py",
            "answered.eq((self.response.valid & self.response.ready) | refuse)",
            "answered.eq((self.data.valid & self.data.ready & self.data.payload.last) | refuse)",
            "an interrupt would come before the completion can be seen",
        ),
    ),
    (
        WINDOW,
        1,
        Mutation(
            "block of 17 beats",
            "window_check.py",
            "beat_of_block + self.beats <= MAX_BEATS",
            "beat_of_block + self.beats <= MAX_BEATS + 1",
            "a burst at the end of a page would cross 4 KiB",
        ),
    ),
    (
        READ,
        9,
        Mutation(
            "refusal overtakes",
            "read_master.py",
            "refuse.eq(refusing & (unanswered == 1))",
            "refuse.eq(refusing)",
            "a refusal would be taken for the answer to an earlier command, and collide with a beat",
        ),
    ),
    (
        READ,
        8,
        Mutation(
            "hold ignored",
            "read_master.py",
            "~refusing & ~self.hold &",
            "~refusing &",
            "a port would be reset with bursts under way",
        ),
    ),
    (
        READ,
        10,
        Mutation(
            "no bound",
            "read_master.py",
            "(unanswered != self._outstanding)",
            "1",
            "the counters would overflow",
        ),
    ),
    (
        READ,
        8,
        Mutation(
            "ID of the next command",
            "read_master.py",
            "beat.id.eq(arrived.id)",
            "beat.id.eq(command.id)",
            "one slot's keys would end up in another's request",
        ),
    ),
    (
        READ,
        8,
        Mutation(
            "a beat too many",
            "read_master.py",
            "length.eq(command.beats - 1)",
            "length.eq(command.beats)",
            "a beat that nobody has room for would come, from behind the window at its end",
        ),
    ),
    (
        READ,
        9,
        Mutation(
            "ready a clock late",
            "stream_queue.py",
            "self.i.ready.eq(next_level != self._depth)",
            "self.i.ready.eq(level != self._depth)",
            "an address that waits for ARREADY would be overwritten",
        ),
    ),
    (
        COMPLETION,
        9,
        Mutation(
            "last one early",
            "completion_writer.py",
            "self.data.payload.last.eq(beat == _BEATS - 1)",
            "self.data.payload.last.eq(beat == _BEATS - 2)",
            "the memory would wait for beats for ever",
        ),
    ),
    (
        COMPLETION,
        9,
        Mutation(
            "address not held",
            "completion_writer.py",
            "with m.If(self.address.ready):",
            "with m.If(self.address.valid):",
            "a burst would have data and no address when AWREADY is late",
        ),
    ),
    (
        COMPLETION,
        9,
        Mutation(
            "data not held",
            "completion_writer.py",
            "with m.If(self.data.valid & self.data.ready):",
            "with m.If(self.data.valid):",
            "a word of a completion would be lost when WREADY is late",
        ),
    ),
    (
        COMPLETION,
        8,
        Mutation(
            "any address",
            "completion_writer.py",
            " & (command.address[:_LINE_BITS] == 0)",
            "",
            "a completion would be spread over two cache lines",
        ),
    ),
    (
        COMPLETION,
        8,
        Mutation(
            "hold of completions ignored",
            "completion_writer.py",
            "~refusing & ~self.hold &",
            "~refusing &",
            "a port would be reset with bursts under way",
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

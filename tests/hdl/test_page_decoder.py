"""The page decoder between a bus that uses every clock cycle and pages that answer late."""

import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import (
    CONTROL_PAGE,
    PAGE_BYTES,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    SLOT_RECORD_BYTES,
    page_count,
    region_bytes,
)
from bloomgate_hdl.page_decoder import PageDecoder
from bloomgate_hdl.register_port import READ_LATENCY

from tests.hdl.simulation import drive, simulate

PAGE_WORDS = PAGE_BYTES // 4
#: Records in the control page: what has them, and their bytes.
RECORDS = {"slots": ("SLOT_RECORDS", SLOT_RECORD_BYTES), "queues": ("QUEUE_RECORDS", QUEUE_RECORD_BYTES)}
QUEUE_WORDS = {
    SLOT_PAGE.register(name).word for name in ("COMPLETION_HEAD", "SUBMISSION_TAIL", "SUBMISSION_HEAD", "QUEUE_STATUS")
}


def target(parameters, address, *, write=False):
    """("control", word), ("slots" or "queues", slot, word), or None, straight from the register map.

    Slot records can only be read, so a write to them is the control page's to refuse.
    """
    page, word = divmod(address, PAGE_WORDS)
    if page == 0:
        for where, (name, record_bytes) in RECORDS.items():
            window = CONTROL_PAGE.window(name)
            place = word * 4 - window.offset
            if 0 <= place < window.size and not (write and where == "slots"):
                slot, byte = divmod(place, record_bytes)
                return (where, slot, byte // 4) if slot < parameters.slots else None
        return ("control", word)
    if page >= page_count(parameters):
        return None
    return ("queues" if word in QUEUE_WORDS else "slots", page - 1, word)


def content(where):
    """What the test's pages hold, different everywhere, and whether they refuse."""
    if where[0] == "control":
        return 0x1000_0000 + where[1], where[1] % 7 == 0
    first = 0x2000_0000 if where[0] == "slots" else 0x3000_0000
    return first + where[1] * PAGE_WORDS + where[2], (where[1] + where[2]) % 5 == 0


@pytest.mark.parametrize("slots", [1, 2, 5, 16, 32])
def test_random_accesses_in_every_clock(slots, seed):
    rng = random.Random(seed)
    parameters = Parameters(slots=slots, D=16, aperture_depth=4)
    dut = PageDecoder(parameters)
    words = region_bytes(parameters) // 4
    bus, control = dut.bus, dut.control
    by_slot = {"slots": dut.slots, "queues": dut.queues}
    corners = [page * PAGE_WORDS + word for page in range(words // PAGE_WORDS) for word in (0, 1, PAGE_WORDS - 1)]
    corners += [PAGE_WORDS + word + n for word in QUEUE_WORDS for n in (-1, 0, 1)]
    for name, record_bytes in RECORDS.values():
        window = CONTROL_PAGE.window(name)
        ends = (0, window.size // 4, slots * record_bytes // 4)
        corners += [window.word + place + n for place in ends for n in (-1, 0)]

    async def bench(ctx):
        history = []  # what was read, newest first
        in_pages = []  # what the decoder showed the pages: {"control": (word,), "slots": (slot, word), ...}
        written = None
        for _ in range(500):
            # Answers to earlier clock cycles.
            if len(history) >= READ_LATENCY:
                for name, shown in in_pages[READ_LATENCY - 1].items():
                    data, error = content((name, *shown))
                    drive(ctx, getattr(dut, name), read_data=data, read_error=error)
                where = target(parameters, history[READ_LATENCY - 1])
                if where is None:
                    assert ctx.get(bus.read_error), f"{history[READ_LATENCY - 1]:#x} is no page"
                else:
                    assert (ctx.get(bus.read_data), bool(ctx.get(bus.read_error))) == content(where)
            refuses = dict.fromkeys(("control", *by_slot), 0)
            if written is not None:
                where = target(parameters, written, write=True)
                if where is not None:
                    refuses[where[0]] = int(rng.random() < 0.5)
            for name, error in refuses.items():
                drive(ctx, getattr(dut, name), write_error=error)
            if written is not None:
                assert ctx.get(bus.write_error) == (where is None or any(refuses.values()))

            write = rng.random() < 0.7
            write_address, read_address = (
                rng.choice(corners) % words if rng.random() < 0.5 else rng.randrange(words) for _ in range(2)
            )
            values = {"write_data": rng.getrandbits(32), "write_strobe": rng.randint(1, 15)}
            drive(ctx, bus, write_valid=write, write_address=write_address, **values)
            drive(ctx, bus, read_valid=1, read_address=read_address)
            where = target(parameters, write_address, write=True) if write else None
            for name in ("control", *by_slot):
                port = getattr(dut, name)
                mine = where is not None and where[0] == name
                assert ctx.get(port.write_valid) == mine, (name, hex(write_address))
                if mine:
                    assert {each: ctx.get(getattr(port, each)) for each in values} == values
                    address = (port.write_slot, port.write_word) if name in by_slot else (port.write_address,)
                    assert tuple(map(ctx.get, address)) == where[1:]
            in_pages.insert(
                0,
                {
                    "control": (ctx.get(control.read_address),),
                    **{name: (ctx.get(port.read_slot), ctx.get(port.read_word)) for name, port in by_slot.items()},
                },
            )
            history.insert(0, read_address)
            written = write_address if write else None
            await ctx.tick()

    simulate(dut, bench, clocks=600)

"""The page decoder between a bus that uses every clock cycle and two pages that answer late."""

import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, PAGE_BYTES, SLOT_RECORD_BYTES, page_count, region_bytes
from bloomgate_hdl.page_decoder import PageDecoder
from bloomgate_hdl.register_port import READ_LATENCY

from tests.hdl.simulation import drive, simulate

PAGE_WORDS = PAGE_BYTES // 4
RECORDS = CONTROL_PAGE.window("SLOT_RECORDS")
RECORD_WORDS = SLOT_RECORD_BYTES // 4


def target(parameters, address):
    """("control", word), ("slots", slot, word) for a read, or None, straight from the register map."""
    page, word = divmod(address, PAGE_WORDS)
    if page == 0:
        place = word * 4 - RECORDS.offset
        if 0 <= place < RECORDS.size:
            slot, byte = divmod(place, SLOT_RECORD_BYTES)
            return ("slots", slot, byte // 4) if slot < parameters.slots else None
        return ("control", word)
    return ("slots", page - 1, word) if page < page_count(parameters) else None


def content(where):
    """What the test's pages hold, different everywhere, and whether they refuse."""
    if where[0] == "control":
        return 0x1000_0000 + where[1], where[1] % 7 == 0
    return 0x2000_0000 + where[1] * PAGE_WORDS + where[2], (where[1] + where[2]) % 5 == 0


@pytest.mark.parametrize("slots", [1, 2, 5, 16, 32])
def test_random_accesses_in_every_clock(slots, seed):
    rng = random.Random(seed)
    parameters = Parameters(slots=slots, D=16, aperture_depth=4)
    dut = PageDecoder(parameters)
    words = region_bytes(parameters) // 4
    bus, control, slot_port = dut.bus, dut.control, dut.slots
    corners = [page * PAGE_WORDS + word for page in range(words // PAGE_WORDS) for word in (0, 1, PAGE_WORDS - 1)]
    corners += [RECORDS.word - 1, RECORDS.word, RECORDS.word + 32 * RECORD_WORDS - 1, RECORDS.word + 32 * RECORD_WORDS]
    corners += [RECORDS.word + slots * RECORD_WORDS + n for n in (-1, 0) if slots < 32]

    async def bench(ctx):
        history = []  # what was read, newest first
        in_pages = []  # what the decoder showed the pages: (control word, slot, slot word)
        written = None
        for _ in range(500):
            # Answers to earlier clock cycles.
            if len(history) >= READ_LATENCY:
                control_word, slot, slot_word = in_pages[READ_LATENCY - 1]
                data, error = content(("control", control_word))
                drive(ctx, control, read_data=data, read_error=error)
                data, error = content(("slots", slot, slot_word))
                drive(ctx, slot_port, read_data=data, read_error=error)
                where = target(parameters, history[READ_LATENCY - 1])
                if where is None:
                    assert ctx.get(bus.read_error), f"{history[READ_LATENCY - 1]:#x} is no page"
                else:
                    assert (ctx.get(bus.read_data), bool(ctx.get(bus.read_error))) == content(where)
            control_error = slots_error = False
            if written is not None:
                page = written // PAGE_WORDS
                control_error, slots_error = page == 0 and rng.random() < 0.5, page > 0 and rng.random() < 0.5
            control_error &= written is not None
            drive(ctx, control, write_error=control_error)
            drive(ctx, slot_port, write_error=slots_error and page < page_count(parameters))
            if written is not None:
                nowhere = written // PAGE_WORDS >= page_count(parameters)
                assert ctx.get(bus.write_error) == (nowhere or control_error or slots_error)

            write = rng.random() < 0.7
            write_address, read_address = (
                rng.choice(corners) if rng.random() < 0.5 else rng.randrange(words) for _ in range(2)
            )
            values = {"write_data": rng.getrandbits(32), "write_strobe": rng.randint(1, 15)}
            drive(ctx, bus, write_valid=write, write_address=write_address, **values)
            drive(ctx, bus, read_valid=1, read_address=read_address)
            page, word = divmod(write_address, PAGE_WORDS)
            to_control, to_slots = ctx.get(control.write_valid), ctx.get(slot_port.write_valid)
            assert to_control == (write and page == 0)
            assert to_slots == (write and 0 < page < page_count(parameters))
            if to_control:
                assert {name: ctx.get(getattr(control, name)) for name in values} == values
                assert ctx.get(control.write_address) == word
            if to_slots:
                assert {name: ctx.get(getattr(slot_port, name)) for name in values} == values
                assert (ctx.get(slot_port.write_slot), ctx.get(slot_port.write_word)) == (page - 1, word)
            shown = (ctx.get(control.read_address), ctx.get(slot_port.read_slot), ctx.get(slot_port.read_word))
            in_pages.insert(0, shown)
            history.insert(0, read_address)
            written = write_address if write else None
            await ctx.tick()

    simulate(dut, bench, clocks=600)

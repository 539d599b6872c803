# amaranth: UnusedElaboratable=no
"""The read multiplexer against the register map it is made from."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from bloomgate.registers import CONTROL_PAGE, PAGE_BYTES, SLOT_PAGE, Access, Register
from bloomgate_hdl.read_mux import ReadMux


@pytest.mark.parametrize("page", [CONTROL_PAGE, SLOT_PAGE], ids=lambda page: page.name)
def test_every_word_of_the_page(page):
    dut = ReadMux(page)
    items = {item.word + n: item for item in page for n in range(item.size // 4)}

    async def bench(ctx):
        for number, item in enumerate(page):
            if item.access is not Access.WO:
                ctx.set(getattr(dut, item.name), 0x8000_0001 + 0x0101_0100 * number)
        for word in range(PAGE_BYTES // 4):
            ctx.set(dut.word, word)
            item = items.get(word)
            assert ctx.get(dut.error) == (item is None), f"word {word:#x}"
            readable = item is not None and item.access is not Access.WO
            expected = ctx.get(getattr(dut, item.name)) if readable else 0
            assert ctx.get(dut.data) == expected, f"word {word:#x}"

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("page", [CONTROL_PAGE, SLOT_PAGE], ids=lambda page: page.name)
def test_drive_puts_fields_where_the_register_map_has_them(page):
    m = Module()
    m.submodules.dut = dut = ReadMux(page)
    readable = [item for item in page if item.access is not Access.WO]
    values, fields = {}, {}
    for item in readable:
        if isinstance(item, Register) and item.fields:
            fields[item] = {field.name: Signal(field.width, name=field.name) for field in item.fields}
            values[item.name] = fields[item]
        else:
            values[item.name] = item.word + 1
    m.d.comb += dut.drive(values)

    async def bench(ctx):
        for item in readable:
            ctx.set(dut.word, item.word)
            if item not in fields:
                assert ctx.get(dut.data) == item.word + 1
                continue
            for field in item.fields:
                for value in (1, (1 << field.width) - 1):
                    ctx.set(fields[item][field.name], value)
                    assert ctx.get(dut.data) == field.insert(value)
                ctx.set(fields[item][field.name], 0)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()


def test_drive_refuses_what_does_not_fit_the_page():
    dut = ReadMux(SLOT_PAGE)
    values = {
        item.name: {field.name: 0 for field in item.fields} if isinstance(item, Register) and item.fields else 0
        for item in SLOT_PAGE
        if item.access is not Access.WO
    }
    dut.drive(values)
    with pytest.raises(ValueError, match=r"page SLOT needs values for \[.*READ_COUNT.*\], not \[\]"):
        dut.drive({})
    with pytest.raises(ValueError, match="page SLOT needs values"):
        dut.drive(values | {"SUBMIT": 0})
    with pytest.raises(ValueError, match=r"STATUS needs values for its fields, not \['BUSY'\]"):
        dut.drive(values | {"STATUS": {"BUSY": 0}})

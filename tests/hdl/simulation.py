"""What the tests of Components share: a simulation that cannot run for ever, and expectations spread over clocks."""

from collections.abc import Callable

from amaranth.sim import Simulator
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, Register
from bloomgate_hdl.register_port import READ_LATENCY, WRITE_ERROR_LATENCY

__all__ = ["PageBus", "drive", "fields_of", "simulate", "value_of"]

#: Of no importance, 100 MHz.
CLOCK_PERIOD = 1e-8


def simulate(dut, *benches: Callable, clocks: int, background: tuple[Callable, ...] = ()) -> None:
    """Runs `dut` until all `benches` have ended, which must be within `clocks` clock cycles.

    `background` benches, such as monitors, do not keep the simulation alive. They must not wait with `repeat` or
    `until`, which warn when they are abandoned.
    """

    async def limit(ctx):
        await ctx.delay(clocks * CLOCK_PERIOD)
        raise AssertionError(f"the test has not ended after {clocks} clock cycles: something it waits for never came")

    simulator = Simulator(dut)
    simulator.add_clock(CLOCK_PERIOD)
    for bench in (limit, *background):
        simulator.add_testbench(bench, background=True)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()


def drive(ctx, interface, **values) -> None:
    """Sets several inputs at once."""
    for name, value in values.items():
        ctx.set(getattr(interface, name), value)


def value_of(layout, value) -> dict:
    """The members of a struct `value` that ctx.get() gave, as a dict of plain numbers."""
    return {name: int(getattr(value, name)) for name, _ in layout}


def fields_of(register: Register, word: int) -> dict[str, int]:
    """The fields of a register's word; asserts that all other bits are 0."""
    fields = {field.name: field.extract(word) for field in register.fields}
    rest = word & ~sum(field.mask for field in register.fields)
    assert rest == 0, f"{register.name} reads as {word:#010x}: bits outside its fields are set"
    return fields


class PageBus:
    """Word accesses to a page by the names of the register map, one write and one read per clock cycle.

    `address` is what the accesses need beside word and data: `slot` for a SlotPortSignature, else `page`.
    """

    def __init__(self, ctx, bus):
        self._ctx = ctx
        self._bus = bus
        self._by_slot = hasattr(bus, "write_slot")

    def _address(self, direction: str, item, place: int | None, index: int) -> None:
        ctx, bus = self._ctx, self._bus
        word = item if isinstance(item, int) else item.word + index
        if self._by_slot:
            ctx.set(getattr(bus, f"{direction}_slot"), place or 0)
            ctx.set(getattr(bus, f"{direction}_word"), word)
        else:
            ctx.set(getattr(bus, f"{direction}_address"), (place or 0) * 1024 + word)

    def offer_write(self, item, data: int, place: int | None = None, *, index: int = 0, strobe: int = 0b1111) -> None:
        """Drives a write, to be taken by the next tick."""
        self._address("write", item, place, index)
        drive(self._ctx, self._bus, write_data=data, write_strobe=strobe, write_valid=1)

    def withdraw_write(self) -> None:
        self._ctx.set(self._bus.write_valid, 0)

    async def write(self, item, data: int, place: int | None = None, *, index: int = 0, strobe: int = 0b1111) -> bool:
        """Writes a word in one clock cycle. True if it was refused."""
        assert WRITE_ERROR_LATENCY == 1
        self.offer_write(item, data, place, index=index, strobe=strobe)
        await self._ctx.tick()
        self.withdraw_write()
        return bool(self._ctx.get(self._bus.write_error))

    async def read(self, item, place: int | None = None, *, index: int = 0) -> int:
        """The word there; asserts that the read is not refused."""
        data, error = await self.read_raw(item, place, index=index)
        assert not error, f"the read of {item if isinstance(item, int) else item.name} was refused"
        return data

    async def read_raw(self, item, place: int | None = None, *, index: int = 0) -> tuple[int, bool]:
        """The word there, and whether the read was refused."""
        self._address("read", item, place, index)
        if hasattr(self._bus, "read_valid"):
            self._ctx.set(self._bus.read_valid, 1)
        await self._ctx.tick()
        if hasattr(self._bus, "read_valid"):
            self._ctx.set(self._bus.read_valid, 0)
        # Another address must not disturb an answer on its way.
        self._address("read", 0x3FF, place, 0)
        for _ in range(READ_LATENCY - 1):
            await self._ctx.tick()
        return self._ctx.get(self._bus.read_data), bool(self._ctx.get(self._bus.read_error))

    async def fields(self, page_register: str, place: int | None = None) -> dict[str, int]:
        """The fields of a register of the control page, or of the page of slot `place`."""
        if self._by_slot or place:
            register = SLOT_PAGE.register(page_register)
        else:
            register = CONTROL_PAGE.register(page_register)
        return fields_of(register, await self.read(register, place))

"""The control page, addressed by the register map alone."""

import itertools
import random

import pytest
from bloomgate.parameters import Parameters
from bloomgate.registers import (
    CONTROL_PAGE,
    IDENTIFICATION,
    PAGE_BYTES,
    VERSION,
    Access,
    Fault,
    Register,
)
from bloomgate_hdl.control_page import ControlPage

from tests.hdl.simulation import PageBus, drive, simulate

PARAMETERS = Parameters(
    K=3,
    D=128,
    timestamp_bits=20,
    key_bits=24,
    slots=5,
    aperture_depth=64,
    queue_entries=32,
    request_buffers=3,
    buffer_depth=128,
    hash_seed=0xCAFE_F00D,
)
STROBES = ("soft_reset", "raise_floor", "latch_statistics", "inject_filter_word", "inject_next_key")
CAUSES = {
    "ERROR": "error_logged",
    "EPOCH": "epoch_stepped",
    "VERDICT": "decided",
    "COMPLETION": "completed",
    "WAKE": "woke",
}
COMMAND = CONTROL_PAGE.register("COMMAND")
FAULT_INJECTION = CONTROL_PAGE.register("FAULT_INJECTION")


def strobes(ctx, dut):
    return {name for name in STROBES if ctx.get(getattr(dut, name))}


def masked(strobe):
    return sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)


@pytest.mark.parametrize("uncached", [False, True])
def test_constants(uncached):
    dut = ControlPage(PARAMETERS, uncached=uncached)

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        assert await bus.read(CONTROL_PAGE.register("IDENTIFICATION")) == IDENTIFICATION
        assert await bus.read(CONTROL_PAGE.register("HASH_SEED")) == 0xCAFE_F00D
        version = await bus.fields("VERSION")
        assert (version["MAJOR"], version["MINOR"], version["PATCH"]) == VERSION
        assert await bus.fields("GEOMETRY") == {"K": 3, "LOG2_D": 7, "TIMESTAMP_BITS": 20, "KEY_BITS": 24}
        assert await bus.fields("CAPACITY") == {"SLOTS": 5, "APERTURE_DEPTH": 64}
        queues = {"LOG2_ENTRIES": 5, "REQUEST_BUFFERS": 3, "UNCACHED": int(uncached), "BUFFER_DEPTH": 128}
        assert await bus.fields("QUEUE_CAPACITY") == queues

    simulate(dut, bench, clocks=100)


@pytest.mark.parametrize("parameters", [Parameters(), Parameters(K=8, D=65536, slots=32, aperture_depth=4096)])
def test_the_largest_geometries_fit_their_fields(parameters):
    dut = ControlPage(parameters)

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        geometry, capacity = await bus.fields("GEOMETRY"), await bus.fields("CAPACITY")
        assert (geometry["K"], geometry["LOG2_D"]) == (parameters.K, parameters.row_bits)
        assert (geometry["TIMESTAMP_BITS"], geometry["KEY_BITS"]) == (32, 32)
        assert (capacity["SLOTS"], capacity["APERTURE_DEPTH"]) == (parameters.slots, parameters.aperture_depth)

    simulate(dut, bench, clocks=100)


def test_state_is_shown(seed):
    rng = random.Random(seed)
    dut = ControlPage(PARAMETERS)
    widths = {"epoch": 32, "count": 20, "previous_epoch": 32, "previous_count": 20, "floor": 20}

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        for _ in range(6):
            flags = {
                name: rng.getrandbits(1)
                for name in ("ready", "scrubbing", "resetting", "exhausted", "fault_pending", "settled")
            }
            words = {name: rng.getrandbits(width) for name, width in widths.items()}
            ctx.set(dut.state, {**flags, **words})
            assert await bus.fields("STATUS") == {name.upper(): value for name, value in flags.items()}
            for name, value in words.items():
                assert await bus.read(CONTROL_PAGE.register(name.upper())) == value
            for port, name, width in (
                ("error_count", "ERROR_COUNT", 32),
                ("statistics_sequence", "STATISTICS_SEQUENCE", 32),
                ("conflict_head", "CONFLICT_HEAD", 16),
            ):
                value = rng.getrandbits(width)
                ctx.set(getattr(dut, port), value)
                assert await bus.read(CONTROL_PAGE.register(name)) == value

    simulate(dut, bench, clocks=200)


def test_windows():
    """The statistics come from block RAM, which answers a clock cycle later than the error log."""
    dut = ControlPage(PARAMETERS)

    async def error_log(ctx):
        while True:
            ctx.set(dut.error_data, 0xA5A5_0000 + ctx.get(dut.error_word))
            await ctx.changed(dut.error_word)

    async def statistics(ctx):
        async for _, _, word in ctx.tick().sample(dut.statistics_word):
            ctx.set(dut.statistics_data, 0x5A5A_0000 + word)

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        for name, tag in (("ERROR_LOG", 0xA5A5_0000), ("STATISTICS", 0x5A5A_0000)):
            window = CONTROL_PAGE.window(name)
            for index in range(window.size // 4):
                assert await bus.read(window, index=index) == tag + index

    simulate(dut, bench, clocks=400, background=(error_log, statistics))


def test_the_books_are_shown_bank_by_bank(seed):
    rng = random.Random(seed)
    dut = ControlPage(PARAMETERS)
    window = CONTROL_PAGE.window("BOOKS")
    bank_words = window.size // 4
    bank_register = CONTROL_PAGE.register("BOOKS_BANK")

    async def answer(ctx):
        """A block RAM: the word that is asked for in one clock cycle is there in the next one."""
        async for _, _, word in ctx.tick().sample(dut.books_word):
            ctx.set(dut.books_data, 0xA5A5_0000 + word)

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        for bank in (0, 3, 1, 2):
            await bus.write(bank_register, bank)
            assert await bus.read(bank_register) == bank
            for index in (0, bank_words - 1, *(rng.randrange(bank_words) for _ in range(4))):
                assert await bus.read(window, index=index) == 0xA5A5_0000 + bank * bank_words + index
        assert not await bus.write(bank_register, 0xFFFF_FF01, strobe=0b1110)
        assert await bus.read(bank_register) == 2

    simulate(dut, bench, clocks=200, background=(answer,))


def test_the_token(seed):
    rng = random.Random(seed)
    dut = ControlPage(PARAMETERS)
    revoke, watchdog = CONTROL_PAGE.register("TOKEN_REVOKE"), CONTROL_PAGE.register("TOKEN_WATCHDOG")

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        assert ctx.get(dut.token.watchdog) == await bus.read(watchdog) == 0, "off after power-up"
        for _ in range(10):
            state = {"held": rng.getrandbits(1), "waiting": rng.getrandbits(1), "grants": rng.getrandbits(16)}
            drive(ctx, dut.token, holder=rng.randrange(5), **state)
            fields = {name.upper(): value for name, value in state.items()}
            assert await bus.fields("TOKEN") == fields | {"HOLDER": ctx.get(dut.token.holder)}
            limit = rng.getrandbits(32)
            await bus.write(watchdog, limit)
            await ctx.tick()
            assert ctx.get(dut.token.watchdog) == await bus.read(watchdog) == limit
            for slot in range(8):
                for strobe in (0b1111, 0b0001):
                    refused = await bus.write(revoke, slot, strobe=strobe)
                    assert refused == (strobe != 0b1111)
                    await ctx.tick()
                    # Not from a slot that is not its holder, so that a late command does not hit the next one.
                    assert ctx.get(dut.token.revoke) == (slot == ctx.get(dut.token.holder) and not refused)
                    await ctx.tick()
                    assert not ctx.get(dut.token.revoke)

    simulate(dut, bench, clocks=600)


def test_holes_are_refused_and_what_is_write_only_reads_as_zero():
    dut = ControlPage(PARAMETERS)
    items = {item.word + n: item for item in CONTROL_PAGE for n in range(item.size // 4)}

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        await bus.write(FAULT_INJECTION, 0xFFFF_FFFC)
        for word in range(PAGE_BYTES // 4):
            item = items.get(word)
            if item is not None and item.name in ("SLOT_RECORDS", "QUEUE_RECORDS"):
                continue  # PageDecoder sends these elsewhere
            data, refused = await bus.read_raw(word)
            assert refused == (item is None)
            if item is None or item.access is Access.WO:
                assert data == 0
            # Writes, with all bits 0 so that nothing happens.
            writable = item is not None and item.access in (Access.RW, Access.WO, Access.W1C)
            assert await bus.write(word, 0) == (not writable)
            assert strobes(ctx, dut) == set()

    simulate(dut, bench, clocks=4000)


def test_commands_are_strobes_two_clocks_after_the_write():
    dut = ControlPage(PARAMETERS)
    names = [field.name for field in COMMAND.fields]

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        for chosen in itertools.product((0, 1), repeat=len(names)):
            word = sum(COMMAND[name].insert(bit) for name, bit in zip(names, chosen, strict=True))
            bus.offer_write(COMMAND, word)
            assert strobes(ctx, dut) == set()
            await ctx.tick()
            bus.withdraw_write()
            assert not ctx.get(dut.bus.write_error)
            assert strobes(ctx, dut) == set()
            await ctx.tick()
            assert strobes(ctx, dut) == {name.lower() for name, bit in zip(names, chosen, strict=True) if bit}
            await ctx.tick()
            assert strobes(ctx, dut) == set()
        for field in FAULT_INJECTION.fields:
            assert field.name in ("KIND", "TABLE", "ROW")
        for kind in range(4):
            place = (kind, 0x50 + kind)
            word = FAULT_INJECTION["KIND"].insert(kind) | FAULT_INJECTION["TABLE"].insert(place[0])
            await bus.write(FAULT_INJECTION, word | FAULT_INJECTION["ROW"].insert(place[1]))
            await ctx.tick()
            expected = {Fault.FILTER_WORD: {"inject_filter_word"}, Fault.NEXT_KEY: {"inject_next_key"}}
            assert strobes(ctx, dut) == expected.get(kind, set())
            # The other kind must not disturb a fault that still waits for the arbiter.
            if kind == Fault.FILTER_WORD:
                last_place = place
            if kind >= Fault.FILTER_WORD:
                assert (ctx.get(dut.inject_table), ctx.get(dut.inject_row)) == last_place
            await ctx.tick()
            assert strobes(ctx, dut) == set()

    simulate(dut, bench, clocks=200)


@pytest.mark.parametrize("strobe", range(1, 15))
def test_partial_writes_are_honoured_byte_by_byte_but_a_command_needs_the_whole_word(strobe):
    dut = ControlPage(PARAMETERS)
    initial_epoch = CONTROL_PAGE.register("INITIAL_EPOCH")

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        for register in (COMMAND, FAULT_INJECTION):
            assert await bus.write(register, 0xFFFF_FFF1, strobe=strobe), "refused"
            assert strobes(ctx, dut) == set()
        assert not await bus.write(initial_epoch, 0x1122_3344)
        assert not await bus.write(initial_epoch, 0xAABB_CCDD, strobe=strobe)
        await ctx.tick()
        mask = masked(strobe)
        assert ctx.get(dut.initial_epoch) == 0xAABB_CCDD & mask | 0x1122_3344 & ~mask
        assert await bus.read(initial_epoch) == ctx.get(dut.initial_epoch)
        # Interrupts: all causes pending, then acknowledged through some of the bytes; all are in the first one.
        drive(ctx, dut, **dict.fromkeys(CAUSES.values(), 1))
        await ctx.tick()
        drive(ctx, dut, **dict.fromkeys(CAUSES.values(), 0))
        assert not await bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING"), 0xFFFF_FFFF, strobe=strobe)
        assert not await bus.write(CONTROL_PAGE.register("INTERRUPT_ENABLE"), 0xFFFF_FFFF, strobe=strobe)
        first = strobe & 1
        assert await bus.fields("INTERRUPT_PENDING") == dict.fromkeys(CAUSES, 1 - first)
        assert await bus.fields("INTERRUPT_ENABLE") == dict.fromkeys(CAUSES, first)

    simulate(dut, bench, clocks=100)


def test_interrupts_against_a_model(seed):
    rng = random.Random(seed)
    dut = ControlPage(PARAMETERS)
    registers = {name: CONTROL_PAGE.register(f"INTERRUPT_{name}") for name in ("PENDING", "ENABLE")}
    fields = {name: registers["PENDING"][name] for name in CAUSES}

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        assert await bus.read(registers["PENDING"]) == 0, "reset state"
        assert await bus.read(registers["ENABLE"]) == 0, "reset state"
        pending = enabled = 0
        written_before = (None, 0)
        for _ in range(500):
            assert registers["ENABLE"].fields[0].lsb == fields["ERROR"].lsb
            causes = {name: int(rng.random() < 0.1) for name in CAUSES}
            drive(ctx, dut, **{CAUSES[name]: bit for name, bit in causes.items()})
            written = sum(fields[name].insert(bit) for name, bit in causes.items())
            offered = rng.choice((None, None, "PENDING", "ENABLE")), rng.getrandbits(len(CAUSES))
            if offered[0] is not None:
                bus.offer_write(registers[offered[0]], offered[1])
            # A write takes effect a clock cycle later than it is taken.
            (target, data), written_before = written_before, offered
            acknowledged = data if target == "PENDING" else 0
            level = pending & enabled != 0
            await ctx.tick()
            bus.withdraw_write()
            # One clock cycle behind, since it comes from a flip-flop.
            assert ctx.get(dut.interrupt) == level
            # A cause in the clock cycle of its acknowledgement stays.
            pending = pending & ~acknowledged | written
            enabled = data if target == "ENABLE" else enabled
        drive(ctx, dut, **dict.fromkeys(CAUSES.values(), 0))
        await ctx.tick()
        target, data = written_before
        pending = pending & ~data if target == "PENDING" else pending
        enabled = data if target == "ENABLE" else enabled
        assert await bus.read(registers["PENDING"]) == pending
        assert await bus.read(registers["ENABLE"]) == enabled

    simulate(dut, bench, clocks=600)


def test_reads_have_no_side_effects():
    dut = ControlPage(PARAMETERS)

    async def bench(ctx):
        bus = PageBus(ctx, dut.bus)
        drive(ctx, dut, **dict.fromkeys(CAUSES.values(), 1))
        await bus.write(CONTROL_PAGE.register("INTERRUPT_ENABLE"), (1 << len(CAUSES)) - 1)
        drive(ctx, dut, **dict.fromkeys(CAUSES.values(), 0))
        for _ in range(2):
            for item in CONTROL_PAGE:
                if isinstance(item, Register):
                    await bus.read(item)
                    assert strobes(ctx, dut) == set()
        assert await bus.fields("INTERRUPT_PENDING") == dict.fromkeys(CAUSES, 1)
        assert ctx.get(dut.interrupt)

    simulate(dut, bench, clocks=300)

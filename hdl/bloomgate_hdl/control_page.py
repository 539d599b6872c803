"""Page 0: what the device is and how it fares, for its one owner."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.registers import CONTROL_PAGE, IDENTIFICATION, VERSION, Access, Fault, Register

from bloomgate_hdl.books import BOOKS_WORD_BITS
from bloomgate_hdl.flight_port import TokenSignature
from bloomgate_hdl.read_mux import ReadMux
from bloomgate_hdl.register_decode import PAGE_WORD_BITS, selects
from bloomgate_hdl.register_port import RegisterPortSignature

__all__ = ["ControlPage", "state_layout"]

#: Names of the interrupt causes, from bit 0 on.
CAUSES = ("ERROR", "EPOCH", "VERDICT", "COMPLETION", "WAKE")


def state_layout(parameters: Parameters) -> data.StructLayout:
    """What the page shows of the arbiter."""
    count_bits = parameters.timestamp_bits
    return data.StructLayout(
        {
            "ready": 1,
            "scrubbing": 1,
            "resetting": 1,
            "exhausted": 1,
            "fault_pending": 1,
            "settled": 1,
            "epoch": EPOCH_BITS,
            "count": count_bits,
            "previous_epoch": EPOCH_BITS,
            "previous_count": count_bits,
            "floor": count_bits,
        }
    )


class ControlPage(wiring.Component):
    """Registers of the control page, except SLOT_RECORDS and QUEUE_RECORDS, which PageDecoder finds elsewhere.

    A write of less than a word is honoured for the bytes it has, but a command needs the whole word; other writes are
    refused. Latency: a write takes effect 2 clock cycles after it; reads as in register_port. Reset state: no
    interrupt enabled or pending, INITIAL_EPOCH 0.
    """

    def __init__(self, parameters: Parameters, *, uncached: bool = False):
        """``uncached``: the co-processor reaches memory past the processors' caches."""
        self._parameters = parameters
        self._uncached = uncached
        error_log = CONTROL_PAGE.window("ERROR_LOG")
        statistics = CONTROL_PAGE.window("STATISTICS")
        super().__init__(
            {
                "bus": In(RegisterPortSignature(PAGE_WORD_BITS)),
                "state": In(state_layout(parameters)),
                #: Strobes for the interrupt causes.
                "error_logged": In(1),
                "epoch_stepped": In(1),
                "decided": In(1),
                "completed": In(1),
                "woke": In(1),
                #: Level high while an enabled cause is pending.
                "interrupt": Out(1),
                #: Strobes from COMMAND.
                "soft_reset": Out(1),
                "raise_floor": Out(1),
                "latch_statistics": Out(1),
                "initial_epoch": Out(EPOCH_BITS),
                #: COALESCE, see CompletionInterrupt.
                "coalesce_count": Out(16),
                "coalesce_clocks": Out(16),
                #: Strobes from FAULT_INJECTION, and where the fault goes.
                "inject_filter_word": Out(1),
                "inject_next_key": Out(1),
                "inject_table": Out(range(parameters.K)),
                "inject_row": Out(parameters.row_bits),
                #: The irrevocable token.
                "token": Out(TokenSignature(parameters)),
                #: See Books.
                "conflict_head": In(16),
                "books_word": Out(BOOKS_WORD_BITS),
                "books_data": In(32),
                #: See ErrorLog and Statistics.
                "error_count": In(32),
                "error_word": Out(range(error_log.size // 4)),
                "error_data": In(32),
                "statistics_sequence": In(32),
                "statistics_word": Out(range(statistics.size // 4)),
                "statistics_data": In(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        bus = self.bus
        register = CONTROL_PAGE.register

        # --- Writes -----------------------------------------------------------------------------------------------
        # They come late in the clock cycle, so a register first; but whether they are honoured has to be said at once.
        valid = Signal()
        word = Signal.like(bus.write_address)
        written = Signal.like(bus.write_data)
        strobes = Signal.like(bus.write_strobe)
        m.d.sync += [
            valid.eq(bus.write_valid),
            word.eq(bus.write_address),
            written.eq(bus.write_data),
            strobes.eq(bus.write_strobe),
        ]
        whole = strobes.all()
        byte_mask = Cat(strobe.replicate(8) for strobe in strobes)

        def writes_to(name):
            return valid & selects(register(name), word)

        def field(name, field_name):
            part = register(name)[field_name]
            return written[part.lsb : part.lsb + part.width]

        writable = [
            item
            for item in CONTROL_PAGE
            if isinstance(item, Register) and item.access in (Access.RW, Access.WO, Access.W1C)
        ]
        honoured = Signal()
        for item in writable:
            with m.If(selects(item, bus.write_address)):
                m.d.comb += honoured.eq(bus.write_strobe.all() if item.access is Access.WO else 1)
        m.d.sync += bus.write_error.eq(bus.write_valid & ~honoured)

        interrupt_bits = len(register("INTERRUPT_ENABLE").fields)
        pending = Signal(interrupt_bits)
        enabled = Signal(interrupt_bits)
        causes = Cat(self.error_logged, self.epoch_stepped, self.decided, self.completed, self.woke)
        acknowledged = Signal(interrupt_bits)
        with m.If(writes_to("INTERRUPT_PENDING")):
            m.d.comb += acknowledged.eq(written & byte_mask)
        m.d.sync += [
            pending.eq(pending & ~acknowledged | causes),
            self.interrupt.eq((pending & enabled).any()),
        ]
        coalesce = Cat(self.coalesce_count, self.coalesce_clocks)
        for name, target in (
            ("INTERRUPT_ENABLE", enabled),
            ("INITIAL_EPOCH", self.initial_epoch),
            ("COALESCE", coalesce),
            ("TOKEN_WATCHDOG", self.token.watchdog),
        ):
            for byte, strobe in enumerate(strobes):
                part = slice(8 * byte, 8 * byte + 8)
                with m.If(writes_to(name) & strobe):
                    m.d.sync += target[part].eq(written[part])

        bank = Signal(register("BOOKS_BANK")["BANK"].width)
        with m.If(writes_to("BOOKS_BANK") & strobes[0]):
            m.d.sync += bank.eq(field("BOOKS_BANK", "BANK"))

        command = writes_to("COMMAND") & whole
        inject = writes_to("FAULT_INJECTION") & whole
        kind = field("FAULT_INJECTION", "KIND")
        m.d.sync += [
            self.soft_reset.eq(command & field("COMMAND", "SOFT_RESET")),
            self.raise_floor.eq(command & field("COMMAND", "RAISE_FLOOR")),
            self.latch_statistics.eq(command & field("COMMAND", "LATCH_STATISTICS")),
            self.inject_filter_word.eq(inject & (kind == Fault.FILTER_WORD.value)),
            self.inject_next_key.eq(inject & (kind == Fault.NEXT_KEY.value)),
            self.token.revoke.eq(
                writes_to("TOKEN_REVOKE") & whole & (field("TOKEN_REVOKE", "HOLDER") == self.token.holder)
            ),
        ]
        with m.If(inject & (kind == Fault.FILTER_WORD.value)):
            m.d.sync += [
                self.inject_table.eq(field("FAULT_INJECTION", "TABLE")),
                self.inject_row.eq(field("FAULT_INJECTION", "ROW")),
            ]

        # --- Reads ------------------------------------------------------------------------------------------------
        read_word = Signal.like(bus.read_address)
        m.d.sync += read_word.eq(bus.read_address)
        m.d.comb += [
            self.error_word.eq(read_word - CONTROL_PAGE.window("ERROR_LOG").word),
            # Block RAM answers a clock cycle later than the others, so it is asked a clock cycle before.
            self.statistics_word.eq(bus.read_address - CONTROL_PAGE.window("STATISTICS").word),
            self.books_word.eq(Cat(bus.read_address[: len(self.books_word) - len(bank)], bank)),
        ]
        state = self.state
        values = {
            "IDENTIFICATION": IDENTIFICATION,
            "VERSION": dict(zip(("MAJOR", "MINOR", "PATCH"), VERSION, strict=True)),
            "GEOMETRY": {
                "K": p.K,
                "LOG2_D": p.row_bits,
                "TIMESTAMP_BITS": p.timestamp_bits,
                "KEY_BITS": p.key_bits,
            },
            "CAPACITY": {"SLOTS": p.slots, "APERTURE_DEPTH": p.aperture_depth},
            "HASH_SEED": p.hash_seed,
            "QUEUE_CAPACITY": {
                "LOG2_ENTRIES": (p.queue_entries - 1).bit_length(),
                "REQUEST_BUFFERS": p.request_buffers,
                "UNCACHED": int(self._uncached),
                "BUFFER_DEPTH": p.buffer_depth,
            },
            "STATUS": {
                "READY": state.ready,
                "SCRUBBING": state.scrubbing,
                "RESETTING": state.resetting,
                "EXHAUSTED": state.exhausted,
                "FAULT_PENDING": state.fault_pending,
                "SETTLED": state.settled,
            },
            "EPOCH": state.epoch,
            "COUNT": state.count,
            "PREVIOUS_EPOCH": state.previous_epoch,
            "PREVIOUS_COUNT": state.previous_count,
            "FLOOR": state.floor,
            "INITIAL_EPOCH": self.initial_epoch,
            "STATISTICS_SEQUENCE": self.statistics_sequence,
            "INTERRUPT_PENDING": dict(zip(CAUSES, pending, strict=True)),
            "INTERRUPT_ENABLE": dict(zip(CAUSES, enabled, strict=True)),
            "ERROR_COUNT": self.error_count,
            "COALESCE": {"COUNT": self.coalesce_count, "CLOCKS": self.coalesce_clocks},
            "TOKEN": {
                "HELD": self.token.held,
                "WAITING": self.token.waiting,
                "HOLDER": self.token.holder,
                "GRANTS": self.token.grants,
            },
            "TOKEN_WATCHDOG": self.token.watchdog,
            "CONFLICT_HEAD": self.conflict_head,
            "BOOKS_BANK": {"BANK": bank},
            "BOOKS": self.books_data,
            "ERROR_LOG": self.error_data,
            "STATISTICS": self.statistics_data,
            "SLOT_RECORDS": 0,
            "QUEUE_RECORDS": 0,
        }
        m.submodules.read_mux = read_mux = ReadMux(CONTROL_PAGE)
        m.d.comb += [read_mux.word.eq(read_word), read_mux.drive(values)]
        m.d.sync += [bus.read_data.eq(read_mux.data), bus.read_error.eq(read_mux.error)]
        return m

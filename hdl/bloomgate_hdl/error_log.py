"""The last errors, for the host to read."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import Parameters
from bloomgate.registers import ERROR_LOG_ENTRIES

__all__ = ["ErrorLog", "error_layout"]


def error_layout(parameters: Parameters) -> data.StructLayout:
    """An error event: ``valid`` for one clock cycle, and what goes into the log."""
    return data.StructLayout({"valid": 1, "code": 8, "slot": parameters.slot_bits, "detail": 32})


class ErrorLog(wiring.Component):
    """A ring of ERROR_LOG_ENTRIES entries that is never full: the newest overwrites the oldest.

    Takes one event a clock cycle. Of several, the arbiter's is kept, since a client cannot repeat it at will, else that
    of a queue; the others show in the ``errors`` statistic only. Latency: 1 clock cycle. Reset state: count 0.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        super().__init__(
            {
                #: Errors found when a request is decided.
                "decision": In(error_layout(parameters)),
                #: Errors found in doorbells, and in writing completions.
                "queue": In(error_layout(parameters)),
                #: Errors found in other bus accesses.
                "access": In(error_layout(parameters)),
                #: Strobe: an entry is being written.
                "logged": Out(1),
                #: Entries written so far, modulo 2**32.
                "count": Out(32),
                #: Word of the ring to read, and its value in the same clock cycle: CODE and slot, then DETAIL.
                "read_word": In(range(2 * ERROR_LOG_ENTRIES)),
                "read_data": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"code": 8, "slot": 8, "detail": 32})
        ram = memory.Memory(shape=entry, depth=ERROR_LOG_ENTRIES, init=[])
        m.submodules.ram = ram
        write = ram.write_port()
        read = ram.read_port(domain="comb")
        # A register first, since errors come late in the clock cycle.
        event = Signal(error_layout(self._parameters))
        m.d.sync += event.eq(Mux(self.decision.valid, self.decision, Mux(self.queue.valid, self.queue, self.access)))
        m.d.comb += [
            self.logged.eq(event.valid),
            write.en.eq(event.valid),
            write.addr.eq(self.count),
            write.data.code.eq(event.code),
            write.data.slot.eq(event.slot),
            write.data.detail.eq(event.detail),
            read.addr.eq(self.read_word[1:]),
            self.read_data.eq(Mux(self.read_word[0], read.data.detail, Cat(read.data.code, read.data.slot))),
        ]
        with m.If(event.valid):
            m.d.sync += self.count.eq(self.count + 1)
        return m

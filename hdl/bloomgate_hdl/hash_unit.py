"""The H3 hash of one key per clock."""

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.h3 import matrices
from bloomgate.parameters import Parameters

__all__ = ["HashUnit"]


class HashUnit(wiring.Component):
    """Row numbers of a key in the K tables: H3 (Carter & Wegman 1979) with the matrices of :mod:`bloomgate.h3`.

    Each row bit is the XOR of about half the key bits: two levels of LUT6.

    Latency: 1 clock cycle. Throughput: one key per clock cycle while ``advance`` is high. Reset state: rows are 0.
    """

    def __init__(self, parameters: Parameters):
        self._matrices = matrices(parameters)
        super().__init__(
            {
                #: Key to hash, key_bits wide.
                "key": In(parameters.key_bits),
                #: Take ``key`` at the end of this clock cycle; otherwise ``rows`` keeps its value.
                "advance": In(1),
                #: Row number in each table, for the key taken last; row_bits wide each.
                "rows": Out(data.ArrayLayout(parameters.row_bits, parameters.K)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        with m.If(self.advance):
            for table, matrix in enumerate(self._matrices):
                for row_bit in range(len(self.rows[table])):
                    mask = sum(1 << key_bit for key_bit, word in enumerate(matrix) if word >> row_bit & 1)
                    m.d.sync += self.rows[table][row_bit].eq((self.key & mask).xor())
        return m

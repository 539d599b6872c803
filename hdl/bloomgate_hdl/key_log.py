"""The buffered keys of all slots."""

from amaranth.hdl import Cat, Module
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.parity import is_bad, parity_of, protected_bits

__all__ = ["KeyLog"]


class KeyLog(wiring.Component):
    """aperture_depth keys for each slot, written one and read two at a time.

    A word holds LANES consecutive positions of one slot, so that a simple-dual-port block RAM (72 bits wide) feeds
    both lanes. Each key has its own parity. What a position means is the business of writer and reader.

    Latency: 1 clock cycle from address to keys. Throughput: one write and one read per clock cycle.
    Reset state: contents are kept; the outputs are undefined until the first read.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        self._word_index_bits = (parameters.aperture_depth // LANES - 1).bit_length()
        super().__init__(
            {
                #: Strobe: store ``write_key``.
                "write": In(1),
                "write_slot": In(parameters.slot_bits),
                #: Position within the slot, in keys.
                "write_position": In(range(parameters.aperture_depth)),
                "write_key": In(parameters.key_bits),
                #: Store it with bad parity (fault injection).
                "write_bad": In(1),
                #: Take a new read address at the end of this clock cycle; otherwise the outputs keep their value.
                "read": In(1),
                "read_slot": In(parameters.slot_bits),
                #: Position divided by LANES.
                "read_word": In(self._word_index_bits),
                #: The keys at positions ``read_word * LANES`` and up.
                "keys": Out(data.ArrayLayout(parameters.key_bits, LANES)),
                #: Whether each was read with bad parity.
                "bad": Out(LANES),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self._parameters
        word_bits = protected_bits(p.key_bits)
        lane_bits = (LANES - 1).bit_length()
        ram = memory.Memory(
            shape=data.ArrayLayout(word_bits, LANES),
            depth=p.slots * p.aperture_depth // LANES,
            init=[],
        )
        m.submodules.ram = ram
        write = ram.write_port(granularity=1)
        read = ram.read_port()
        parity = parity_of(self.write_key)
        m.d.comb += [
            write.addr.eq(Cat(self.write_position[lane_bits:], self.write_slot)),
            read.addr.eq(Cat(self.read_word, self.read_slot)),
            read.en.eq(self.read),
        ]
        for lane in range(LANES):
            m.d.comb += [
                write.en[lane].eq(self.write & (self.write_position[:lane_bits] == lane)),
                write.data[lane].eq(Cat(self.write_key, parity ^ self.write_bad.replicate(len(parity)))),
                self.keys[lane].eq(read.data[lane][: p.key_bits]),
                self.bad[lane].eq(is_bad(read.data[lane], p.key_bits)),
            ]
        return m

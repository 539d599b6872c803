"""State that each slot has of its own: bits in vectors of flip-flops, words in LUT RAM."""

from amaranth.hdl import Const, Mux
from amaranth.lib import memory

__all__ = ["PerSlot"]


class PerSlot:
    """Builds such state in a module that is being elaborated. No Component: it has neither ports nor state."""

    def __init__(self, m, slots: int):
        self._m = m
        self._slots = slots

    def one_hot(self, slot, enable):
        """A bit for each slot: ``enable`` for ``slot``, 0 for the others."""
        return Mux(enable, Const(1, self._slots) << slot, 0)[: self._slots]

    def words(self, name: str, shape) -> memory.Memory:
        """A word of ``shape`` for each slot, submodule ``name``. LUT RAM: it has one write port."""
        ram = memory.Memory(shape=shape, depth=self._slots, init=[])
        self._m.submodules[name] = ram
        return ram

    def word(self, ram: memory.Memory, slot):
        """The word of ``slot`` in ``ram``, in the same clock cycle."""
        port = ram.read_port(domain="comb")
        self._m.d.comb += port.addr.eq(slot)
        return port.data

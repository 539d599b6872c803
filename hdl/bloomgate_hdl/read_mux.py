"""From the values of a page's registers to the word that a read returns."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.registers import Access, Page, Register

from bloomgate_hdl.register_decode import PAGE_WORD_BITS, selects

__all__ = ["ReadMux"]


class ReadMux(wiring.Component):
    """Selects among the readable items of a page; what is write-only reads as 0, a hole is an error.

    The component has an input for each readable register or window, named as in the register map: for a register
    with fields a 32-bit word made by :meth:`word_of`. Latency: 0 clock cycles.
    """

    def __init__(self, page: Page):
        self._page = page
        super().__init__(
            {
                #: Word offset in the page.
                "word": In(PAGE_WORD_BITS),
                #: The value there.
                "data": Out(32),
                #: There is nothing there.
                "error": Out(1),
                **{item.name: In(32) for item in page if item.access is not Access.WO},
            }
        )

    def drive(self, values: dict):
        """Assignments that connect ``values``, which has one entry for each readable item.

        The entry of a register with fields is a dict with one entry for each field.
        """
        assignments = []
        readable = [item for item in self._page if item.access is not Access.WO]
        if {item.name for item in readable} != set(values):
            raise ValueError(
                f"page {self._page.name} needs values for {sorted(item.name for item in readable)},"
                f" not {sorted(values)}"
            )
        for item in readable:
            target = getattr(self, item.name)
            value = values[item.name]
            if not isinstance(value, dict):
                assignments.append(target.eq(value))
                continue
            assert isinstance(item, Register)
            if {field.name for field in item.fields} != set(value):
                raise ValueError(f"{item.name} needs values for its fields, not {sorted(value)}")
            for field in item.fields:
                part = target[field.lsb : field.lsb + field.width]
                assignments.append(part.eq(value[field.name]))
        return assignments

    def elaborate(self, platform):
        m = Module()
        selected = {item.name: selects(item, self.word) for item in self._page}
        # The widest next to each other, so that a bit that few items have takes few multiplexers. Number 0 reads as 0.
        readable = [item for item in self._page if item.access is not Access.WO]
        numbered = sorted(readable, key=_width, reverse=True)
        number = Signal(len(numbered).bit_length())
        m.d.comb += [
            self.error.eq(~Cat(selected.values()).any()),
            number.eq(reduce(or_, (Mux(selected[item.name], index, 0) for index, item in enumerate(numbered, 1)))),
            self.data.eq(_choose(number, [Const(0, 32), *(getattr(self, item.name) for item in numbered)])),
        ]
        return m


def _width(item) -> int:
    """Bits of the item's words that are used."""
    fields = item.fields if isinstance(item, Register) else ()
    return max((field.lsb + field.width for field in fields), default=32)


def _choose(number, values):
    """The value with that number, by a tree of multiplexers: a LUT6 is one of four, and a sum of products larger."""
    if len(values) == 1:
        return values[0]
    pairs = [values[index : index + 2] for index in range(0, len(values), 2)]
    return _choose(number[1:], [Mux(number[0], pair[-1], pair[0]) for pair in pairs])

"""The local side of the AXI slave: word accesses that never stall."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["READ_LATENCY", "WRITE_ERROR_LATENCY", "RegisterPortSignature"]

#: Clocks from `read_valid` to `read_data` and `read_error`.
READ_LATENCY = 2

#: Clocks from `write_valid` to `write_error`.
WRITE_ERROR_LATENCY = 1


class RegisterPortSignature(wiring.Signature):
    """One write and one read of a 32-bit word per clock; written from the initiator's side.

    The target takes every access in the clock in which it is offered and answers after a fixed
    number of clocks, so neither direction has a ready. Reads have no side effects: the initiator
    may issue a read whose data it never uses. A write and a read of the same word in the same
    clock may return the old or the new value.

    Parameters
    ----------
    address_width: bits of the word addresses, that is log2 of the decoded region in bytes less 2.
    """

    def __init__(self, address_width):
        self.address_width = address_width
        super().__init__(
            {
                #: Write `write_data` in this clock.
                "write_valid": Out(1),
                #: Word address within the decoded region.
                "write_address": Out(address_width),
                #: The word to write.
                "write_data": Out(32),
                #: One bit for each byte of `write_data`; never 0 while `write_valid`.
                "write_strobe": Out(4),
                #: The write of the previous clock was refused. Ignored if there was none.
                "write_error": In(1),
                #: Read in this clock.
                "read_valid": Out(1),
                #: Word address within the decoded region.
                "read_address": Out(address_width),
                #: The word read `READ_LATENCY` clocks ago. Ignored if there was no read.
                "read_data": In(32),
                #: The read of `READ_LATENCY` clocks ago was refused. Ignored if there was none.
                "read_error": In(1),
            }
        )

    def __eq__(self, other):
        return isinstance(other, RegisterPortSignature) and self.members == other.members

    def __repr__(self):
        return f"RegisterPortSignature({self.address_width})"

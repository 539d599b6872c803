"""AXI3 as the Zynq-7000's general purpose, high performance and ACP ports speak it.

Source: ARM IHI 0022 (AXI3 chapters: 4-bit AxLEN, 2-bit AxLOCK, WID, bursts of 1 to 16 beats) and
UG585 chapter 5 (M_AXI_GP: 32 bit data, 12-bit IDs; S_AXI_ACP: 64 bit data, 3-bit IDs, AxUSER).
"""

from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Axi3Signature", "Burst", "Response", "address_layout", "write_data_layout"]


class Burst(enum.Enum, shape=2):
    """AxBURST, IHI 0022 A3.4.1. The fourth code, 0b11, is reserved."""

    #: Every beat at the same address, for FIFOs.
    FIXED = 0
    #: Each beat one transfer size above the previous one.
    INCR = 1
    #: Like INCR, but wraps at a boundary of burst length times transfer size.
    WRAP = 2


class Response(enum.Enum, shape=2):
    """BRESP and RRESP, IHI 0022 A3.4.4."""

    #: Done; for an exclusive access: not done exclusively.
    OKAY = 0
    #: Exclusive access done.
    EXOKAY = 1
    #: The access reached a subordinate, which refused it.
    SLVERR = 2
    #: There is nothing at this address.
    DECERR = 3


class Axi3Signature(wiring.Signature):
    """The five channels of AXI3 with the member names of the standard, initiator's side.

    Parameters
    ----------
    address_width: bits of AxADDR (32 on every Zynq port).
    data_width: bits of xDATA, a multiple of 8 (32 on GP, 64 on HP and ACP).
    id_width: bits of every xID (12 on M_AXI_GP, 6 on HP, 3 on ACP).
    user_width: bits of AWUSER and ARUSER; 0 leaves both out. Only the ACP has them
        (5 bits; bit 0 asks for coherence).
    """

    def __init__(self, address_width, data_width, id_width, user_width=0):
        if data_width % 8 or not data_width:
            raise ValueError(f"data_width must be a positive multiple of 8, not {data_width!r}")
        self.address_width = address_width
        self.data_width = data_width
        self.id_width = id_width
        self.user_width = user_width
        members = {
            #: ID of the write burst.
            "awid": Out(id_width),
            #: Byte address of the first beat; need not be aligned to the transfer size.
            "awaddr": Out(address_width),
            #: Number of beats less one.
            "awlen": Out(4),
            #: Bytes in a beat, as a power of two.
            "awsize": Out(3),
            #: `Burst`; a plain number here, because a master can also drive the reserved code.
            "awburst": Out(2),
            #: 0 normal, 1 exclusive, 2 locked.
            "awlock": Out(2),
            #: Memory attributes (bufferable, cacheable, read allocate, write allocate).
            "awcache": Out(4),
            #: Privileged, non-secure, instruction.
            "awprot": Out(3),
            #: The write address is valid; held until `awready`.
            "awvalid": Out(1),
            #: The write address is taken in this clock.
            "awready": In(1),
            #: ID of the write burst that this beat belongs to (AXI3 only).
            "wid": Out(id_width),
            #: Write data.
            "wdata": Out(data_width),
            #: One bit for each byte of `wdata`: write it.
            "wstrb": Out(data_width // 8),
            #: Last beat of the burst.
            "wlast": Out(1),
            #: The write data is valid; held until `wready`.
            "wvalid": Out(1),
            #: The write data is taken in this clock.
            "wready": In(1),
            #: ID of the write burst that is answered.
            "bid": In(id_width),
            #: `Response` to the whole burst.
            "bresp": In(2),
            #: The write response is valid; held until `bready`.
            "bvalid": In(1),
            #: The write response is taken in this clock.
            "bready": Out(1),
            #: ID of the read burst.
            "arid": Out(id_width),
            #: Byte address of the first beat; need not be aligned to the transfer size.
            "araddr": Out(address_width),
            #: Number of beats less one.
            "arlen": Out(4),
            #: Bytes in a beat, as a power of two.
            "arsize": Out(3),
            #: `Burst`; a plain number, see `awburst`.
            "arburst": Out(2),
            #: 0 normal, 1 exclusive, 2 locked.
            "arlock": Out(2),
            #: Memory attributes, see `awcache`.
            "arcache": Out(4),
            #: Privileged, non-secure, instruction.
            "arprot": Out(3),
            #: The read address is valid; held until `arready`.
            "arvalid": Out(1),
            #: The read address is taken in this clock.
            "arready": In(1),
            #: ID of the read burst that this beat belongs to.
            "rid": In(id_width),
            #: Read data.
            "rdata": In(data_width),
            #: `Response` to this beat.
            "rresp": In(2),
            #: Last beat of the burst.
            "rlast": In(1),
            #: The read data is valid; held until `rready`.
            "rvalid": In(1),
            #: The read data is taken in this clock.
            "rready": Out(1),
        }
        if user_width:
            #: Sideband of the write address; on the ACP bit 0 asks for coherence.
            members["awuser"] = Out(user_width)
            #: Sideband of the read address.
            members["aruser"] = Out(user_width)
        super().__init__(members)

    def __eq__(self, other):
        return isinstance(other, Axi3Signature) and self.members == other.members

    def __repr__(self):
        return f"Axi3Signature({self.address_width}, {self.data_width}, {self.id_width}, user_width={self.user_width})"


def address_layout(id_width):
    """The fields of AW or AR that a subordinate without caches, locks and protection looks at."""
    return data.StructLayout({"id": id_width, "address": 32, "length": 4, "size": 3, "burst": 2})


def write_data_layout(id_width):
    """The fields of a 32-bit W beat."""
    return data.StructLayout({"id": id_width, "data": 32, "strobe": 4, "last": 1})

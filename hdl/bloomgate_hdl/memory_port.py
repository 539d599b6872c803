"""The ports of the Zynq-7000 through which the co-processor reaches memory, and how to address each.

Source: UG585 chapter 5 (S_AXI_HP) and 3.5 (S_AXI_ACP: AxUSER and AxCACHE of coherent accesses).
"""

import dataclasses

from amaranth.lib import data

from bloomgate_hdl.axi3 import Axi3Signature, Response

__all__ = [
    "ACP",
    "BEAT_BITS",
    "HP",
    "MAX_BEATS",
    "WRITE_ADDRESS",
    "WRITE_DATA",
    "WRITE_RESPONSE",
    "MemoryPort",
    "read_address_layout",
    "read_data_layout",
]

#: Bits of a data beat.
BEAT_BITS = 64
#: Beats that an AXI3 burst can have.
MAX_BEATS = 16


@dataclasses.dataclass(frozen=True)
class MemoryPort:
    """A 64-bit port of the PS7 that the fabric initiates, with the attributes of every access."""

    #: Bits of the IDs.
    id_width: int
    #: Bits of AxUSER; 0 without it.
    user_width: int
    #: AxCACHE.
    cache: int
    #: AxPROT.
    prot: int
    #: AxUSER.
    user: int = 0

    @property
    def signature(self):
        """The AXI3 port, the fabric's side."""
        return Axi3Signature(32, BEAT_BITS, self.id_width, user_width=self.user_width)


#: Coherent with the processors' caches: AxUSER[0] and AxCACHE[1] ask the snoop control unit to look into them. Secure
#: (AxPROT[1] = 0), as Linux on this device is: the security state is part of a cache line's tag, and a non-secure
#: access would miss what the processors wrote.
ACP = MemoryPort(id_width=3, user_width=5, cache=0b1111, prot=0b000, user=0b00001)

#: Past the caches, normal memory: only for memory that the processors map uncached.
HP = MemoryPort(id_width=6, user_width=0, cache=0b0011, prot=0b000)


#: What changes from write burst to write burst on AW: all have ID 0.
WRITE_ADDRESS = data.StructLayout({"address": 32, "length": 4})
#: The fields of W but for the ID, which is 0, and the strobes, which are all high.
WRITE_DATA = data.StructLayout({"data": BEAT_BITS, "last": 1})
#: The fields of B but for the ID, which is 0.
WRITE_RESPONSE = data.StructLayout({"response": Response})


def read_address_layout(ids):
    """What changes from read burst to read burst on AR, for IDs below ``ids``."""
    return data.StructLayout({"id": range(ids), "address": 32, "length": 4})


def read_data_layout(ids):
    """The fields of R, for IDs below ``ids``."""
    return data.StructLayout({"id": range(ids), "data": BEAT_BITS, "response": Response, "last": 1})

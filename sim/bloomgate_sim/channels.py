"""The channels of AXI3."""

from enum import IntEnum

__all__ = ["AxiChannel"]


class AxiChannel(IntEnum):
    """A channel of AXI3, as ``axi_master.h`` numbers them."""

    AW = 0
    W = 1
    B = 2
    AR = 3
    R = 4

"""Counts of what is somewhere: up when something comes, down when something goes."""

from amaranth.hdl import Cat, Mux

__all__ = ["up_down"]


def up_down(count, comes, goes):
    """``count + comes - goes`` for a number that comes and at most one that goes, in one carry chain.

    Written as that sum, Yosys makes it two chains and inverters: for five bits, 15 LUTs in place of 6.
    """
    if len(comes) == 1:
        return count + Cat(comes ^ goes, goes & ~comes).as_signed()
    return count + Mux(goes, comes - 1, comes)

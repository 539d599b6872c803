"""Counts of what is somewhere: up when something comes, down when something goes."""

from amaranth.hdl import Cat, Mux

__all__ = ["up_down"]


def up_down(count, comes, goes, *, number=None):
    """``count + number - goes`` if ``comes``, else ``count - goes``, for flags ``comes`` and ``goes``; one carry chain.

    Written as that sum, Yosys makes it two chains and inverters: for five bits, 15 LUTs in place of 6.
    """
    if number is None:
        return count + Cat(comes ^ goes, goes & ~comes).as_signed()
    # The flags may be late, so they choose between numbers that are there before.
    return count + Mux(comes, Mux(goes, number - 1, number), Mux(goes, -1, 0))

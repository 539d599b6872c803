"""The boards that the co-processor is built for."""

from amaranth_boards.ebaz4205 import EBAZ4205Platform
from amaranth_boards.microzed_z010 import MicroZedZ010Platform
from amaranth_boards.redpitaya_125_14 import RedPitaya14Platform

from bloomgate_hdl.platform.board import ZynqBoard
from bloomgate_hdl.platform.parallella import Parallella7010, Parallella7020

__all__ = ["BOARDS", "board_named"]


class Ebaz4205(ZynqBoard, EBAZ4205Platform):
    """Control card of an Ebit E9+ miner."""

    name = "ebaz4205"


class MicroZed7010(ZynqBoard, MicroZedZ010Platform):
    """Avnet MicroZed with a Zynq-7010."""

    name = "microzed-7010"


class RedPitaya(ZynqBoard, RedPitaya14Platform):
    """Red Pitaya STEMlab 125-14."""

    name = "redpitaya-125-14"


#: Every board by name, the Parallella first.
BOARDS = {board.name: board for board in (Parallella7010, Parallella7020, Ebaz4205, MicroZed7010, RedPitaya)}


def board_named(name):
    """A new platform object for a board. Raises ValueError with the names there are."""
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]()

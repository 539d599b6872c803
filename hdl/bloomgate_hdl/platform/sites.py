"""Where the sites of a device are, from prjxray's database."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sites", "read_sites"]

#: A tile of block RAM is as high as five of slices, and listed at the lowest of them.
_RAM_CENTRE = 2


@dataclass(frozen=True)
class Sites:
    """Slices and block RAMs (36 kbit) of a device, and where all other sites are. Coordinates in tiles."""

    slices: list[str]
    rams: list[str]
    at: dict[str, tuple[int, int]]
    #: Slices whose LUTs can be RAM.
    with_memory: set[str]


def numbers(site: str) -> tuple[int, int]:
    """X and Y from the name of a site: ``SLICE_X3Y4`` has (3, 4)."""
    found = re.fullmatch(r".*_X(\d+)Y(\d+)", site)
    if found is None:
        raise ValueError(f"{site} is no name of a site")
    return int(found[1]), int(found[2])


def read_sites(database: Path, device: str) -> Sites:
    """From ``DEVICE/tilegrid.json`` of the database. Raises OSError if there is none."""
    at: dict[str, tuple[int, int]] = {}
    slices, rams, with_memory = [], [], set()
    for tile in json.loads((database / device / "tilegrid.json").read_text()).values():
        x, y = tile["grid_x"], tile["grid_y"]
        for site, kind in tile["sites"].items():
            at[site] = (x, y)
            if kind.startswith("SLICE"):
                slices.append(site)
                if kind == "SLICEM":
                    with_memory.add(site)
            elif site.startswith("RAMB36"):
                at[site] = (x, y - _RAM_CENTRE)
                rams.append(site)
    return Sites(sorted(slices, key=numbers), sorted(rams, key=numbers), at, with_memory)

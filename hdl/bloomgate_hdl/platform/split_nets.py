"""Several drivers in place of one, for nets with many users on long paths.

nextpnr-xilinx joins a branch of a net with more than 40 users to the nearest other branch, whatever way that took. So
users on long paths get drivers of their own, each for not more than that: copies of the flip-flop or LUT with the same
inputs. They are put near the users; annealing moves them on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bloomgate_hdl.platform.placed_design import MANY_USERS, POSITIONS, PlacedDesign

__all__ = ["split_nets"]


class _FreePositions:
    """Positions in slices where anything can be put: without flip-flops, LUTs, and whatever is not in positions."""

    def __init__(self, design: PlacedDesign) -> None:
        taken = set()
        for slice_, bels in design.slices.items():
            none = slice_ in design.rigid or any(bel.endswith("FF") for bel in bels)
            for letter in POSITIONS:
                if none or any(bel.startswith(letter) for bel in bels):
                    taken.add((slice_, letter))
        self._free = {(slice_, letter) for slice_ in design.sites.slices for letter in POSITIONS} - taken
        self._at = design.sites.at

    def take(self, near: tuple[float, float], whole: bool) -> tuple[str, str]:
        """The nearest one. With ``whole`` nothing else goes into its slice, as a flip-flop brings its control along."""
        x, y = near
        slice_, letter = min(
            self._free, key=lambda free: (abs(self._at[free[0]][0] - x) + abs(self._at[free[0]][1] - y), free)
        )
        self._free -= {(slice_, other) for other in (POSITIONS if whole else letter)}
        return slice_, letter


@dataclass(frozen=True)
class _Site:
    """All users of a net in one site. They stay on one net: in a slice they may share a pin."""

    x: int
    y: int
    users: tuple[tuple[str, str], ...]


def _groups(sites: Sequence[_Site]) -> Iterator[Sequence[_Site]]:
    """Sites that are near each other, with MANY_USERS at most: parts along the longer side, and so on."""
    count = -(-sum(len(site.users) for site in sites) // MANY_USERS)
    if count <= 1 or len(sites) == 1:
        yield sites
        return
    wide = max(site.x for site in sites) - min(site.x for site in sites)
    high = max(site.y for site in sites) - min(site.y for site in sites)
    ordered = sorted(sites, key=lambda site: ((site.x, site.y) if wide > high else (site.y, site.x), site.users))
    half = len(ordered) * (count // 2) // count or 1
    yield from _groups(ordered[:half])
    yield from _groups(ordered[half:])


def _can_leave(design: PlacedDesign, ff: str) -> bool:
    """Whether what a flip-flop stores can go to another slice too: a 6LUT has an output of its own for that."""
    source, port = design.graph.driver.get(design.net(ff, "D"), ("", ""))
    return (
        not source
        or design.site[source] != design.site[ff]
        or (design.cells[source]["type"] == "SLICE_LUTX" and port == "O6")
    )


def split_nets(
    design: PlacedDesign,
    longest: Sequence[float],
    limit: float,
    luts: int,
    wires: dict[tuple[str, str], float],
    logic: dict[str, dict[tuple[str, str], float]],
) -> tuple[int, int]:
    """Give users on paths longer than ``limit`` their own drivers. Returns the flip-flops and LUTs that are new.

    Parameters
    ----------
    design: is changed.
    longest: the longest path through each arc of the design's graph, in ns.
    luts: how many LUTs there may be more; nets on the longest paths go first.
    wires, logic: of timing_graph; they get what is new.
    """
    cells, graph = design.cells, design.graph
    critical: dict[int, dict[str, float]] = defaultdict(dict)
    for arc, path in zip(graph.arcs, longest, strict=True):
        if arc.users > MANY_USERS and path > limit:
            sites = critical[graph.bits[arc.start]]
            sites[design.site[arc.sink]] = max(sites.get(design.site[arc.sink], 0.0), path)
    free = _FreePositions(design)
    next_bit = 1 + max(bit for net in design.module["netnames"].values() for bit in net["bits"])
    names = {bit: name for name, net in design.module["netnames"].items() for bit in net["bits"]}
    new_ffs = new_luts = 0
    for bit, long in sorted(critical.items(), key=lambda net: (-max(net[1].values()), net[0])):
        driver, port = graph.driver[bit]
        kind = cells[driver]["type"]
        is_ff = kind == "SLICE_FFX" and cells[driver]["attributes"].get("X_ORIG_TYPE") in ("FDRE", "FDSE")
        is_ff = is_ff and _can_leave(design, driver)
        is_lut = kind == "SLICE_LUTX" and port == "O6" and not design.is_memory(driver)
        if not is_ff and not is_lut:
            continue
        users: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for cell, pin in graph.users[bit]:
            users[design.site[cell]].append((cell, pin))
        # What is in the driver's own slice may have it without a wire outside.
        groups = list(
            _groups([_Site(*design.sites.at[site], tuple(users[site])) for site in long if site != design.site[driver]])
        )
        if is_lut and new_luts + len(groups) > luts:
            continue
        for number, group in enumerate(groups):
            if not group:
                continue
            near = (sum(site.x for site in group) / len(group), sum(site.y for site in group) / len(group))
            slice_, letter = free.take(near, whole=is_ff)
            name = f"{driver}$copy{number}"
            cell = cells[driver]
            cells[name] = {
                **cell,
                "attributes": {key: value for key, value in cell["attributes"].items() if not key.startswith("CONSTR_")}
                | {"NEXTPNR_BEL": f"{slice_}/{letter}{'FF' if is_ff else '6LUT'}"},
                "connections": {**cell["connections"], port: [next_bit]},
            }
            design.module["netnames"][f"{names[bit]}$copy{number}"] = {
                "hide_name": 0,
                "bits": [next_bit],
                "attributes": {},
            }
            for sink, pin in (user for site in group for user in site.users):
                cells[sink]["connections"] = {**cells[sink]["connections"], pin: [next_bit]}
            wires |= {(name, pin): 0.5 for pin in cell["connections"]}
            logic[name] = logic.get(driver, {})
            next_bit += 1
            new_ffs, new_luts = new_ffs + is_ff, new_luts + is_lut
    return new_ffs, new_luts

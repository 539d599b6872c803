"""Clock cycles that the gateware takes: from data beat to filter, from submission to verdict, between requests.

Measured in the simulated gateware at its default geometry, from its AXI port and its probe output. Nothing here depends
on the machine, and nothing was measured on silicon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amaranth.lib import data
from bloomgate import Parameters
from bloomgate.registers import BASE_ADDRESS, SLOT_PAGE, slot_page_offset
from bloomgate_hdl.top import probe_layout
from bloomgate_sim.device import Burst, SimulatedBus

from bench.report import Figure, at_least, at_most

PARAMETERS = Parameters()
BURST_BEATS = 16


@dataclass(frozen=True)
class Shape:
    """Keys in the three sets of a request."""

    reads: int
    writes: int
    commutes: int = 0

    @property
    def keys(self) -> int:
        return self.reads + self.writes + self.commutes


def _key_bursts(slot: int, shape: Shape, first_key: int) -> Iterator[Burst]:
    """The keys of a request, all different, in bursts as long as they come."""
    key = first_key
    for window, keys in (
        ("READ_APERTURE", shape.reads),
        ("WRITE_APERTURE", shape.writes),
        ("COMMUTE_APERTURE", shape.commutes),
    ):
        address = BASE_ADDRESS + slot_page_offset(slot) + SLOT_PAGE.window(window).offset
        while keys:
            beats = min(keys, BURST_BEATS)
            yield Burst(address, data=list(range(key, key + beats)))
            key += beats
            keys -= beats


def _submit_burst(slot: int, snapshot: int) -> Burst:
    """Snapshot and submission, which is the last beat."""
    epoch, count = PARAMETERS.epoch_and_count(snapshot)
    offset = SLOT_PAGE.register("SNAPSHOT_EPOCH").offset
    return Burst(BASE_ADDRESS + slot_page_offset(slot) + offset, data=[epoch, count, 0])


class Bench:
    """A simulated device, probed."""

    def __init__(self) -> None:
        self.bus = SimulatedBus(PARAMETERS)
        self.bus.step(PARAMETERS.D)  # the scrub after power-up
        self._layout = probe_layout(PARAMETERS)
        self._next_key = 1
        self._commits = 0

    def fill(self, slot: int, shape: Shape) -> list[Burst]:
        bursts = list(_key_bursts(slot, shape, self._next_key))
        self._next_key += shape.keys
        for burst in bursts:
            self.bus.run([burst])
        return bursts

    def submit(self, slots: list[int], shape: Shape) -> list[Burst]:
        """Submit what these slots were filled with; the events are then in :meth:`events`."""
        self.bus.record()
        bursts = [_submit_burst(slot, self._commits) for slot in slots]
        self.bus.run(bursts)
        self.bus.step(PARAMETERS.aperture_depth + 2 * shape.keys * len(slots) + 64)
        if shape.writes or shape.commutes:
            self._commits += len(slots)
        return bursts

    def events(self) -> list[tuple[int, data.Const]]:
        return [(clock, self._layout.from_bits(probe)) for clock, probe in self.bus.recorded()]

    def latency(self, shape: Shape) -> int:
        """Clock cycles from the handshake of SUBMIT's data beat to the first one in which the verdict can be read."""
        self.fill(0, shape)
        (burst,) = self.submit([0], shape)
        (decided,) = [clock for clock, probe in self.events() if probe.decided]
        return decided + 1 - burst.data_clocks[-1]

    def gaps(self, shape: Shape) -> tuple[int, float]:
        """Most clock cycles without a key between two requests; clock cycles per request, all things counted.

        A request of each slot waits behind a long one, so that they follow each other without the bus in the way.
        """
        slots = list(range(PARAMETERS.slots))
        self.fill(slots[0], Shape(PARAMETERS.aperture_depth, 0))
        for slot in slots[1:]:
            self.fill(slot, shape)
        self.submit(slots, shape)
        if shape.writes or shape.commutes:
            self._commits -= 1  # the long one writes nothing
        events = self.events()
        decisions = [clock for clock, probe in events if probe.decided]
        last_key = 0
        starts, gaps = [], []
        for clock, probe in events:
            validates = probe.queries or probe.checks
            if validates and (not starts or decisions[len(starts) - 1] < clock):
                starts.append(clock)
                gaps.append(clock - last_key - 1)
            if validates or probe.insertions:
                last_key = clock
        assert len(starts) == len(decisions) == len(slots)
        return max(gaps[1:]), (starts[-1] - starts[1]) / (len(starts) - 2)


def _splits(keys: int) -> Iterator[Shape]:
    for reads in range(keys + 1):
        for writes in range(keys - reads + 1):
            yield Shape(reads, writes, keys - reads - writes)


def run() -> list[Figure]:
    """All of it: some seconds."""
    bench = Bench()
    figures = []

    bursts = [
        Burst(
            BASE_ADDRESS + slot_page_offset(0) + SLOT_PAGE.window("READ_APERTURE").offset,
            data=list(range(index * BURST_BEATS, (index + 1) * BURST_BEATS)),
        )
        for index in range(8)
    ]
    bench.bus.run(bursts)
    # Counted from the second burst on: the first one's data waits a clock cycle for its address to be decoded.
    clocks = bursts[-1].data_clocks[-1] - bursts[1].data_clocks[0] + 1
    figures.append(
        Figure(
            "gateware.keys_taken",
            (len(bursts) - 1) * BURST_BEATS / clocks,
            "keys/clock",
            at_least(1),
            {"bursts": len(bursts) - 1, "beats": BURST_BEATS},
        )
    )
    bench.submit([0], Shape(len(bursts) * BURST_BEATS, 0))
    queries = [(clock, probe.queries.bit_count()) for clock, probe in bench.events() if probe.queries]
    figures.append(
        Figure(
            "gateware.keys_queried",
            sum(keys for _, keys in queries) / (queries[-1][0] - queries[0][0] + 1),
            "keys/clock",
            at_least(1),
            {"reads": len(bursts) * BURST_BEATS},
        )
    )

    latencies = {shape: bench.latency(shape) for shape in _splits(8)}
    figures.append(
        Figure("gateware.verdict_of_8_keys", max(latencies.values()), "clocks", at_most(16), {"splits": len(latencies)})
    )
    longer = [Shape(keys - writes, writes) for keys in (9, 16, 63, 512) for writes in (0, 1, keys // 2, keys)]
    figures.append(
        Figure(
            "gateware.verdict_beyond_1_per_key",
            max(bench.latency(shape) - shape.keys for shape in longer),
            "clocks",
            at_most(8),
            {"keys": "9 to 512"},
        )
    )

    for shape in (Shape(8, 0), Shape(6, 2), Shape(0, 8), Shape(1, 1)):
        gap, sustained = bench.gaps(shape)
        parameters = {"reads": shape.reads, "writes": shape.writes, "slots": PARAMETERS.slots}
        label = f"{shape.reads}r{shape.writes}w"
        figures.append(Figure(f"gateware.lost_between_requests.{label}", gap, "clocks", at_most(4), parameters))
        figures.append(Figure(f"gateware.request_sustained.{label}", sustained, "clocks/request", None, parameters))
    return figures

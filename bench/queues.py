"""Clock cycles that queued requests take: from doorbell to completion, between completions, and beats of the memory.

Measured in the simulated gateware at its default geometry, from its AXI ports and its probe output. Nothing here
depends on the machine, and nothing was measured on silicon. A latency is that of the simulated memory: clock cycles
from an address to the first beat of its answer, beyond the one that AXI needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.lib import data
from bloomgate import Parameters
from bloomgate.registers import BASE_ADDRESS
from bloomgate_hdl.top import probe_layout
from bloomgate_sim.device import AxiChannel, Burst, SimulatedBus
from bloomgate_sim.rings import SlotRings, doorbell_word

from bench.report import Figure, at_least, at_most

PARAMETERS = Parameters()
MEMORY_BASE = 0x1000_0000
WINDOW_BYTES = 1 << 18
#: The write log of a request has keys from this one on.
FIRST_WRITE = 0x1000
#: RVALID withheld, of all clock cycles.
WITHHELD = 0.1
SEED = 1


@dataclass(frozen=True)
class Shape:
    """Keys in the three logs of a request."""

    reads: int
    writes: int = 0
    commutes: int = 0

    @property
    def keys(self) -> int:
        return self.reads + self.writes + self.commutes

    @property
    def label(self) -> str:
        return f"{self.reads}r{self.writes}w" + (f"{self.commutes}c" if self.commutes else "")


class Bench:
    """A simulated device with memory, probed."""

    def __init__(self, parameters: Parameters = PARAMETERS) -> None:
        self.parameters = parameters
        self.bus = SimulatedBus(parameters)
        self.bus.step(parameters.D)  # the scrub after power-up
        self._layout = probe_layout(parameters)
        memory = memoryview(bytearray(parameters.slots * WINDOW_BYTES))
        self.bus.memory.attach(memory, MEMORY_BASE)
        self.rings = []
        for slot in range(parameters.slots):
            window = memory[slot * WINDOW_BYTES : (slot + 1) * WINDOW_BYTES]
            self.rings.append(SlotRings(self.bus, parameters, slot, window, MEMORY_BASE + slot * WINDOW_BYTES))
            self.rings[-1].open()
        self._commits = 0

    def close(self) -> None:
        self.bus.close()

    def _enter(self, slot: int, shape: Shape) -> None:
        """A request that commits, since nobody writes what all read; its doorbell is not rung."""
        firsts = ((0x10000, shape.reads), (FIRST_WRITE, shape.writes), (0x2000, shape.commutes))
        keys = [range(first, first + count) for first, count in firsts]
        snapshot = self.parameters.epoch_and_count(self._commits)
        self.rings[slot].submit(snapshot=snapshot, reads=keys[0], writes=keys[1], commutes=keys[2], ring=False)

    def _doorbell(self, slot: int) -> Burst:
        rings = self.rings[slot]
        return Burst(BASE_ADDRESS + rings.page("SUBMISSION_TAIL"), data=[doorbell_word(rings.generation, rings.tail)])

    def _finish(self, slots: list[int], shape: Shape, each: int) -> None:
        """Read the completions, all of which must be commits."""
        for slot in slots:
            for _ in range(each):
                found = self.rings[slot].collect(1_000_000, clocks=1000)
                assert found.verdict.committed, found
            self.rings[slot].ring_head()
        if shape.writes or shape.commutes:
            self._commits += len(slots) * each

    def _events(self) -> list[tuple[int, data.Const]]:
        return [(clock, self._layout.from_bits(probe)) for clock, probe in self.bus.recorded()]

    def latency(self, shape: Shape) -> int:
        """Clock cycles from the handshake of the doorbell's data beat to that of the completion's last beat."""
        self._enter(0, shape)
        doorbell = self._doorbell(0)
        self.bus.record()
        self.bus.run([doorbell])
        self._finish([0], shape, 1)
        (completed,) = [clock for clock, probe in self._events() if probe.completed]
        return completed - doorbell.data_clocks[-1]

    def sustained(self, shape: Shape, slots: int, *, each: int | None = None) -> list[int]:
        """Clock numbers of the completions of rings that were filled beforehand."""
        each = each or self.parameters.queue_entries
        chosen = list(range(slots))
        for slot in chosen:
            for _ in range(each):
                self._enter(slot, shape)
        self.bus.record()
        self.bus.run([self._doorbell(slot) for slot in chosen])
        self._finish(chosen, shape, each)
        return [clock for clock, probe in self._events() if probe.completed]

    def clocks_per_request(self, shape: Shape, slots: int, **options: int) -> float:
        """Between completions, from when all buffers have been filled once."""
        clocks = self.sustained(shape, slots, **options)
        skipped = self.parameters.request_buffers
        return (clocks[-1] - clocks[skipped]) / (len(clocks) - 1 - skipped)

    def share_of_beats(self, shape: Shape, slots: int, *, each: int) -> float:
        """Data beats per clock cycle in which the memory did not withhold one, in the middle of a long run."""
        chosen = list(range(slots))
        for slot in chosen:
            for _ in range(each):
                self._enter(slot, shape)
        self.bus.run([self._doorbell(slot) for slot in chosen])
        beats = len(chosen) * each * (4 + -(-shape.reads // 2) + -(-shape.writes // 2) + -(-shape.commutes // 2))
        self.bus.step(beats // 8)
        before = self.bus.memory.statistics()
        self.bus.step(beats // 2)
        after = self.bus.memory.statistics()
        self._finish(chosen, shape, each)
        return (after.read_beats - before.read_beats) / (after.open_clocks - before.open_clocks)

    def slow_memory(self, latency: int, withheld: float) -> None:
        self.bus.memory.latency(latency)
        self.bus.memory.pause(AxiChannel.R, withheld, SEED)


def run() -> list[Figure]:
    """All of it: some seconds."""
    bench = Bench()
    slots = PARAMETERS.slots
    figures = []

    for shape, claim in (
        (Shape(64), 1.65),
        (Shape(56, 8), 1.65),
        (Shape(48, 12, 4), 1.65),
        (Shape(512), 1.9),
        (Shape(504, 8), 1.9),
        (Shape(4096), 1.9),
    ):
        each = PARAMETERS.queue_entries if shape.keys < 512 else 2
        clocks = bench.clocks_per_request(shape, slots, each=each)
        parameters = {"reads": shape.reads, "writes": shape.writes, "commutes": shape.commutes, "slots": slots}
        name = f"queues.keys_sustained.{shape.label}"
        figures.append(Figure(name, shape.keys / clocks, "keys/clock", at_least(claim), parameters))
    for shape in (Shape(8), Shape(6, 2), Shape(4, 4), Shape(4, 2, 2), Shape(0, 8)):
        for used in (4, slots):
            name = f"queues.request_sustained.{shape.label}.{used}_slots"
            clocks = bench.clocks_per_request(shape, used)
            figures.append(Figure(name, clocks, "clocks/request", at_most(24), {"slots": used}))

    shapes = [Shape(1), Shape(2), Shape(8), Shape(6, 2), Shape(4, 2, 2), Shape(5, 2, 1), Shape(1, 1, 1), Shape(0, 8)]
    shapes += [Shape(0, 0, 1), Shape(64), Shape(48, 16), Shape(33, 31), Shape(512)]
    for latency in (0, 10, 30):
        bench.slow_memory(latency, 0)
        beyond = max(bench.latency(shape) - 2 * latency - shape.keys / 2 for shape in shapes)
        parameters = {"latency": latency, "keys": "1 to 512"}
        figures.append(
            Figure(f"queues.doorbell_to_completion.latency_{latency}", beyond, "clocks", at_most(24), parameters)
        )

    bench.slow_memory(30, WITHHELD)
    for shape, each in ((Shape(64), 8), (Shape(56, 8), 8), (Shape(512), 2), (Shape(4096), 1)):
        share = bench.share_of_beats(shape, slots, each=each)
        parameters = {"latency": 30, "withheld": WITHHELD, "slots": slots}
        figures.append(Figure(f"queues.beats_delivered.{shape.label}", share, "1", at_least(0.85), parameters))
    bench.close()
    return figures

"""The memory behind the simulated gateware's AXI3 master port: host memory, with the faults and delays of a bus."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from bloomgate_sim.channels import AxiChannel

__all__ = ["MemoryStatistics", "SimulatedMemory"]

_CHANCES = 65536
_SEED_MASK = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class MemoryStatistics:
    """What has passed the memory port since power-up. See ``axi_memory.h``."""

    clocks: int
    #: Clocks in which RVALID was not withheld: the memory could have delivered a beat, had it been asked in time.
    open_clocks: int
    read_beats: int
    read_bursts: int
    write_beats: int
    write_bursts: int
    #: Bursts with an address where nothing is attached.
    stray_bursts: int
    #: Most read bursts that were unanswered at once.
    most_reads: int


class SimulatedMemory:
    """Host memory at bus addresses, as S_AXI_ACP shows it to the gateware. Where nothing is attached, DECERR answers.

    An attribute of a :class:`~bloomgate_sim.device.SimulatedBus`. A breach of AXI3 by the gateware ends the simulation:
    every later access to the bus raises :class:`~bloomgate_sim.device.ProtocolError`.
    """

    def __init__(self, ffi: Any, library: Any, opened: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        """``opened``: gives the simulation for the time of one call. Raises what it raises."""
        self._ffi = ffi
        self._library = library
        self._opened = opened
        #: By bus address, so that the memory lives as long as the simulation may touch it.
        self._attached: dict[int, Any] = {}

    def attach(self, buffer: Any, base: int) -> None:
        """Let a writable buffer be the memory at bus address ``base``.

        Both addresses and the size must be multiples of 8 bytes, and the buffer must not move or shrink until it is
        detached. Other threads and processes may use it meanwhile: the gateware's beats are single 64-bit accesses.
        Raises :class:`ValueError` if it does not fit, :class:`~bloomgate.errors.DeviceClosed`.
        """
        view = self._ffi.from_buffer(buffer, require_writable=True)
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_attach, simulation, base, view, len(view))
            self._attached[base] = view

    def detach(self, base: int) -> None:
        """Take away what was attached at ``base``. Raises :class:`ValueError` if nothing was."""
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_detach, simulation, base)
            del self._attached[base]

    def latency(self, clocks: int) -> None:
        """Clocks from an address to the first beat of its answer, beyond the one that AXI needs."""
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_latency, simulation, clocks)

    def pause(self, channel: AxiChannel, probability: float, seed: int) -> None:
        """Hesitate on a channel: in each clock with that probability READY (AW, W, AR) or VALID (B, R) stays low."""
        chance = int(probability * _CHANCES)
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_pause, simulation, channel, chance, seed & _SEED_MASK)

    def reorder(self, on: bool, seed: int = 0) -> None:
        """Answer IDs in a random order, beat by beat, or everything in the order of the addresses."""
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_reorder, simulation, on, seed & _SEED_MASK)

    def fail(self, first: int, end: int, response: int) -> None:
        """Answer beats at ``first <= address < end`` with 2 (SLVERR) or 3 (DECERR). Other responses: ValueError."""
        if response == 0:
            raise ValueError("response must be 2 or 3, not 0: heal() forgets all failures")
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_fail, simulation, first, end, response)

    def heal(self) -> None:
        """Forget all that :meth:`fail` was told."""
        with self._opened() as simulation:
            self._call(self._library.bloomgate_memory_fail, simulation, 0, 0, 0)

    def statistics(self) -> MemoryStatistics:
        """The sums; the difference of two is of the time between."""
        sums = self._ffi.new("bloomgate_memory_statistics *")
        with self._opened() as simulation:
            self._library.bloomgate_memory_sums(simulation, sums)
        return MemoryStatistics(*(getattr(sums, item.name) for item in dataclasses.fields(MemoryStatistics)))

    def _call(self, function: Any, simulation: Any, *arguments: Any) -> None:
        if function(simulation, *arguments) != self._library.BLOOMGATE_OK:
            text: Any = self._ffi.string(self._library.bloomgate_message(simulation))
            raise ValueError(text.decode())

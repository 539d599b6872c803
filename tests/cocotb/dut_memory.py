"""Memory behind the master port of the device under test: the shared model, on cocotb's signals."""

from __future__ import annotations

import random

import cocotb
from bloomgate_hdl.memory_port import ACP
from cocotb.triggers import RisingEdge

from tests.memory_model import INPUTS, MemoryModel

__all__ = ["Memory"]

PREFIX = "m_axi_memory"


class Memory(MemoryModel):
    """Answers the device under test from power-up on. Whatever it gets wrong is an AssertionError of the test."""

    def __init__(self, dut) -> None:
        super().__init__(seed=random.getrandbits(64), cache=ACP.cache, prot=ACP.prot, user=ACP.user)
        self._dut = dut

    def start(self) -> None:
        for name in INPUTS:
            self._signal(name).value = 0
        self._task = cocotb.start_soon(self._run())

    def _signal(self, name: str):
        return getattr(self._dut, f"{PREFIX}_{name}")

    async def _run(self) -> None:
        address = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "user")
        # Payloads are only looked at with their VALID, since most clock cycles have none.
        channels = {
            f"{channel}valid": [(f"{channel}{name}", self._signal(f"{channel}{name}")) for name in names]
            for channel, names in {"aw": address, "ar": address, "w": ("id", "data", "strb", "last")}.items()
        }
        valids = [(name, self._signal(name), payload) for name, payload in channels.items()]
        ready = [(name, self._signal(name)) for name in ("bready", "rready")]
        idle = {name: 0 for payload in channels.values() for name, _ in payload}
        inputs = {name: self._signal(name) for name in INPUTS}
        driven = dict.fromkeys(INPUTS, 0)
        reset = self._dut.rst
        edge = RisingEdge(self._dut.clk)
        while True:
            await edge
            if reset.value:
                self.reset()
                answer = dict.fromkeys(INPUTS, 0)
            else:
                bus = dict(idle)
                for name, valid, payload in valids:
                    bus[name] = int(valid.value)
                    if bus[name]:
                        bus.update((part, int(signal.value)) for part, signal in payload)
                for name, signal in ready:
                    bus[name] = int(signal.value)
                answer = self.clock(bus)
            for name, value in answer.items():
                if value != driven[name]:
                    inputs[name].value = value
                    driven[name] = value

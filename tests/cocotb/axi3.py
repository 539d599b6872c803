"""AXI3 for cocotb: cocotbext-axi with the AXI3 differences, a raw master for illegal traffic, and a monitor.

cocotbext-axi speaks AXI4. AXI3 has 4-bit AxLEN, 2-bit AxLOCK and WID; :func:`make_master` supplies them. It cannot be
made to break the protocol, so :class:`RawMaster` drives each channel as it is told. :class:`Monitor` watches either.
Source: ARM IHI 0022.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest import mock

import cocotb
import cocotbext.axi.axi_master as axi_master
from bloomgate.registers import BASE_ADDRESS, PAGE_BYTES
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiMaster
from cocotbext.axi.axi_channels import AxiARBus, AxiAWBus, AxiBBus, AxiRBus
from cocotbext.axi.stream import define_stream

__all__ = [
    "CHANNELS",
    "DECERR",
    "FIXED",
    "INCR",
    "OKAY",
    "SLVERR",
    "WRAP",
    "Monitor",
    "RawMaster",
    "ReadBurst",
    "WriteBurst",
    "beat_addresses",
    "beat_lanes",
    "is_legal",
    "make_master",
    "set_pauses",
]

PREFIX = "s_axi_gp0"
FIXED, INCR, WRAP = 0, 1, 2
OKAY, EXOKAY, SLVERR, DECERR = range(4)
CHANNELS = ("aw", "w", "b", "ar", "r")
MAX_BEATS = 16

# -- cocotbext-axi -----------------------------------------------------------------------------------------------------

_Axi3WBus, _, _Axi3WSource, _, _ = define_stream(
    "Axi3W",
    signals=["wid", "wdata", "wlast", "wvalid", "wready"],
    optional_signals=["wstrb"],
    signal_widths={"wlast": 1},
)


class _Axi3AWSource(axi_master.AxiAWSource):
    _signal_widths = {**axi_master.AxiAWSource._signal_widths, "awlen": 4, "awlock": 2}
    #: AWID of the burst whose data the master sends next.
    current_id = 0

    async def send(self, transaction):
        assert transaction.awlen < MAX_BEATS
        type(self).current_id = transaction.awid
        await super().send(transaction)


class _WSource(_Axi3WSource):
    async def send(self, transaction):
        # The master hands over an address, then its data, so these belong together.
        transaction.wid = _Axi3AWSource.current_id
        await super().send(transaction)


class _Axi3ARSource(axi_master.AxiARSource):
    _signal_widths = {**axi_master.AxiARSource._signal_widths, "arlen": 4, "arlock": 2}


def pauses(probability: float) -> Iterator[bool]:
    """For cocotbext-axi: pause with that probability in each clock cycle."""
    generator = random.Random(random.getrandbits(64))
    while True:
        yield generator.random() < probability


def make_master(dut) -> AxiMaster:
    """A cocotbext-axi master that speaks AXI3. It knows no reset: start it when the reset is over."""
    logging.getLogger("cocotb").setLevel(logging.WARNING)
    bus = AxiBus.from_channels(
        aw=AxiAWBus.from_prefix(dut, PREFIX),
        w=_Axi3WBus.from_prefix(dut, PREFIX),
        b=AxiBBus.from_prefix(dut, PREFIX),
        ar=AxiARBus.from_prefix(dut, PREFIX),
        r=AxiRBus.from_prefix(dut, PREFIX),
    )
    changed = {"AxiAWSource": _Axi3AWSource, "AxiWSource": _WSource, "AxiARSource": _Axi3ARSource}
    with mock.patch.multiple(axi_master, **changed):
        return AxiMaster(bus, dut.clk, max_burst_len=MAX_BEATS)


def set_pauses(master: AxiMaster, levels: dict[str, float]) -> None:
    """Pause the named channels of a cocotbext-axi master."""
    channels = {
        "aw": master.write_if.aw_channel,
        "w": master.write_if.w_channel,
        "b": master.write_if.b_channel,
        "ar": master.read_if.ar_channel,
        "r": master.read_if.r_channel,
    }
    for name, level in levels.items():
        if level:
            channels[name].set_pause_generator(pauses(level))
        else:
            channels[name].clear_pause_generator()
            channels[name].pause = False


# -- Raw master --------------------------------------------------------------------------------------------------------


class RawMaster:
    """Drives what it is given, legal or not. Answers gather in ``responses`` and ``beats``, in order of arrival."""

    def __init__(self, dut, levels: dict[str, float] | None = None) -> None:
        self._dut = dut
        self.levels = dict.fromkeys(CHANNELS, 0.0) | (levels or {})
        self._queues = {"aw": deque(), "w": deque(), "ar": deque()}
        #: (BID, BRESP) of each write response.
        self.responses: list[tuple[int, int]] = []
        #: (RID, RDATA, RRESP, RLAST) of each read beat.
        self.beats: list[tuple[int, int, int, int]] = []
        self._signals = {
            "aw": ("awid", "awaddr", "awlen", "awsize", "awburst", "awlock"),
            "w": ("wid", "wdata", "wstrb", "wlast"),
            "ar": ("arid", "araddr", "arlen", "arsize", "arburst", "arlock"),
        }
        for name in ("awcache", "awprot", "arcache", "arprot"):
            self._signal(name).value = 0
        self._tasks = [cocotb.start_soon(self._send(channel)) for channel in self._queues]
        self._tasks.append(cocotb.start_soon(self._receive("b", ("bid", "bresp"), self.responses)))
        self._tasks.append(cocotb.start_soon(self._receive("r", ("rid", "rdata", "rresp", "rlast"), self.beats)))

    def stop(self) -> None:
        """Let go of the bus, in the middle of whatever it is."""
        for task in self._tasks:
            task.cancel()
        for name in ("awvalid", "wvalid", "bready", "arvalid", "rready"):
            self._signal(name).value = 0

    def _signal(self, name: str):
        return getattr(self._dut, f"{PREFIX}_{name}")

    def write_address(self, identifier, address, beats=1, size=2, burst=INCR, lock=0) -> None:
        self._queues["aw"].append((identifier, address, beats - 1, size, burst, lock))

    def write_data(self, identifier, data, strobe=0b1111, last=True) -> None:
        self._queues["w"].append((identifier, data, strobe, int(last)))

    def read_address(self, identifier, address, beats=1, size=2, burst=INCR, lock=0) -> None:
        self._queues["ar"].append((identifier, address, beats - 1, size, burst, lock))

    def write(self, identifier, address, words, size=2, burst=INCR, strobes=None, lock=0) -> None:
        """A burst of as many beats as there are ``words``, with the byte lanes that the standard says."""
        self.write_address(identifier, address, len(words), size, burst, lock)
        lanes = beat_lanes(address, len(words), size, burst)
        for index, word in enumerate(words):
            strobe = lanes[index] if strobes is None else strobes[index]
            self.write_data(identifier, word, strobe, index == len(words) - 1)

    @property
    def busy(self) -> bool:
        return any(self._queues.values())

    async def _send(self, channel):
        queue = self._queues[channel]
        valid, ready = self._signal(f"{channel}valid"), self._signal(f"{channel}ready")
        signals = [self._signal(name) for name in self._signals[channel]]
        valid.value = 0
        edge = RisingEdge(self._dut.clk)
        active = False
        while True:
            await edge
            if active and ready.value:
                active = False
                valid.value = 0
            if not active and queue and random.random() >= self.levels[channel]:
                for signal, value in zip(signals, queue.popleft(), strict=True):
                    signal.value = value
                valid.value = 1
                active = True

    async def _receive(self, channel, names, into):
        valid, ready = self._signal(f"{channel}valid"), self._signal(f"{channel}ready")
        signals = [self._signal(name) for name in names]
        ready.value = 0
        taking = False
        edge = RisingEdge(self._dut.clk)
        while True:
            await edge
            if taking and valid.value:
                into.append(tuple(int(signal.value) for signal in signals))
            taking = random.random() >= self.levels[channel]
            ready.value = int(taking)

    async def put(self, address, words, **options) -> int:
        """Write a burst and wait for its BRESP."""
        self.write(random.getrandbits(12), address, words, **options)
        return (await self.take_responses(1))[0][1]

    async def get(self, address, beats=1, **options) -> list[tuple[int, int]]:
        """Read a burst; (RDATA, RRESP) of each beat."""
        self.read_address(random.getrandbits(12), address, beats, **options)
        return [(word, response) for _, word, response, _ in await self.take_beats(beats)]

    async def take_responses(self, count: int) -> list[tuple[int, int]]:
        """Wait for ``count`` write responses and remove them."""
        return await self._take(self.responses, count)

    async def take_beats(self, count: int) -> list[tuple[int, int, int, int]]:
        """Wait for ``count`` read beats and remove them."""
        return await self._take(self.beats, count)

    async def _take(self, source, count):
        edge = RisingEdge(self._dut.clk)
        while len(source) < count:
            await edge
        taken = source[:count]
        del source[:count]
        return taken


def beat_addresses(address: int, beats: int, size: int, burst: int) -> list[int]:
    """Byte address of each beat, IHI 0022 A3.4.1."""
    unit = 1 << size
    if burst == FIXED:
        return [address] * beats
    aligned = address // unit * unit
    if burst == INCR:
        return [address] + [aligned + index * unit for index in range(1, beats)]
    span = unit * beats
    lower = address // span * span
    return [lower + (address - lower + index * unit) % span for index in range(beats)]


def beat_lanes(address: int, beats: int, size: int, burst: int) -> list[int]:
    """The byte lanes of a 32-bit bus that each beat may use."""
    lanes = []
    for place in beat_addresses(address, beats, size, burst):
        unit = 1 << size
        first = place % 4
        end = min(place // unit * unit % 4 + unit, 4)
        lanes.append(sum(1 << lane for lane in range(first, end)))
    return lanes


# -- Monitor -----------------------------------------------------------------------------------------------------------


@dataclass
class WriteBurst:
    """An address that was taken, and what has come of it."""

    identifier: int
    address: int
    beats: int
    size: int
    burst: int
    #: Clock cycles.
    taken: int
    legal: bool = True


@dataclass
class ReadBurst(WriteBurst):
    received: int = 0


def is_legal(address: int, beats: int, size: int, burst: int) -> bool:
    """IHI 0022 A3.4.1, for a 32-bit port."""
    if size > 2 or burst > WRAP:
        return False
    if burst == WRAP:
        return beats in (2, 4, 8, 16) and address % (1 << size) == 0
    if burst == INCR:
        first = address // (1 << size) * (1 << size)
        return first % PAGE_BYTES + (beats << size) <= PAGE_BYTES
    return True


@dataclass
class Monitor:
    """Checks the slave's side of the protocol in every clock cycle, and keeps the books.

    B and R hold valid and payload until ready; there is one B for each write burst and the right number of beats for
    each read burst, with the right ID, in order, and RLAST on the last one only.
    """

    dut: object
    cover: object
    cycle: int = 0
    #: Clock cycles of the write beats taken, newest last.
    write_beats: deque = field(default_factory=lambda: deque(maxlen=64))
    writes: deque = field(default_factory=deque)
    reads: deque = field(default_factory=deque)
    write_bursts: int = 0
    #: Clock cycles in which a write beat waited although its address was there and no response was waiting.
    stalls: int = 0
    #: AW bursts whose last beat has been taken.
    finished: int = 0

    def start(self) -> None:
        self._task = cocotb.start_soon(self._run())

    def forget(self) -> None:
        """A hard reset: nothing will be answered."""
        self.writes.clear()
        self.reads.clear()
        self.finished = 0
        self._held = {"b": None, "r": None}

    def _signal(self, name: str):
        return getattr(self.dut, f"{PREFIX}_{name}")

    async def _run(self):
        signal = self._signal
        handshakes = {name: (signal(f"{name}valid"), signal(f"{name}ready")) for name in CHANNELS}
        address_names = ("id", "addr", "len", "size", "burst")
        addresses = {name: [signal(name + part) for part in address_names] for name in ("aw", "ar")}
        payloads = {
            "b": [signal("bid"), signal("bresp")],
            "r": [signal(f"r{n}") for n in ("id", "data", "resp", "last")],
        }
        last = signal("wlast")
        self._held = {"b": None, "r": None}
        reset = self.dut.rst
        edge = RisingEdge(self.dut.clk)
        while True:
            await edge
            self.cycle += 1
            if reset.value:
                self.forget()
                continue
            for name in ("aw", "ar"):
                valid, ready = handshakes[name]
                if valid.value and ready.value:
                    self._take_address(name, [int(part.value) for part in addresses[name]])
            valid, ready = handshakes["w"]
            if valid.value:
                if ready.value:
                    self.write_beats.append(self.cycle)
                    self.finished += bool(last.value)
                elif len(self.writes) > self.finished and not handshakes["b"][0].value:
                    self.stalls += 1
            for name in ("b", "r"):
                valid, ready = handshakes[name]
                held = self._held[name]
                if valid.value:
                    payload = tuple(int(part.value) for part in payloads[name])
                    assert held in (None, payload), f"{name.upper()} changed before it was taken: {held} to {payload}"
                    if ready.value:
                        self._held[name] = None
                        self._take_answer(name, payload)
                    else:
                        self._held[name] = payload
                else:
                    assert held is None, f"{name.upper()}VALID fell before {name.upper()}READY"

    def _take_address(self, name, values):
        identifier, address, length, size, burst = values
        legal = is_legal(address, length + 1, size, burst)
        kind = WriteBurst if name == "aw" else ReadBurst
        open_bursts = self.writes if name == "aw" else self.reads
        open_bursts.append(kind(identifier, address, length + 1, size, burst, self.cycle, legal))
        if legal and address >= BASE_ADDRESS:
            direction = "write" if name == "aw" else "read"
            self.cover.burst(direction, burst, size, length + 1, address)
            self.cover.outstanding(direction, len(open_bursts), len({entry.identifier for entry in open_bursts}))
        if name == "aw":
            self.write_bursts += 1

    def _take_answer(self, name, payload):
        if name == "b":
            assert self.writes, f"BID {payload[0]:#x} answers nothing"
            burst = self.writes.popleft()
            self.finished -= 1
            assert payload[0] == burst.identifier, f"BID {payload[0]:#x}, AWID was {burst.identifier:#x}"
            assert payload[1] != EXOKAY
            return
        assert self.reads, f"RID {payload[0]:#x} answers nothing"
        burst = self.reads[0]
        burst.received += 1
        identifier, _, response, last = payload
        assert identifier == burst.identifier, f"RID {identifier:#x}, ARID was {burst.identifier:#x}"
        assert response != EXOKAY
        assert last == (burst.received == burst.beats), f"RLAST {last} on beat {burst.received} of {burst.beats}"
        if last:
            self.reads.popleft()

    @property
    def idle(self) -> bool:
        return not self.writes and not self.reads

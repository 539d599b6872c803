"""The ``sim:`` device: the programmed-I/O driver over the AXI port of the compiled gateware."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import cffi
from bloomgate.driver import POLLS_PER_ACCESS, ProgrammedIODevice, RegisterBus
from bloomgate.errors import BloomgateError, BusError, DeviceClosed, DeviceTimeout
from bloomgate.parameters import Parameters
from bloomgate.queue_port import QueuePort
from bloomgate.registers import BASE_ADDRESS

from bloomgate_sim.build import library
from bloomgate_sim.channels import AxiChannel
from bloomgate_sim.memory import SimulatedMemory
from bloomgate_sim.queue import SimulatedQueue

__all__ = ["AxiChannel", "Burst", "BusError", "ProtocolError", "SimulatedBus", "SimulatedDevice"]

#: Clocks within which a single bus access must be answered.
ACCESS_CLOCKS = 20_000
#: Clocks within which the device must finish anything that the driver waits for: six seconds of simulation.
PATIENCE_CLOCKS = 2_000_000

_WORD_BYTES = 4
_ALL_STROBES = 0xF

_ffi = cffi.FFI()
for _name in ("axi_master.h", "axi_memory.h"):
    _text = Path(__file__).with_name(_name).read_text(encoding="utf-8")
    _ffi.cdef(re.sub(r'(?m)^(#.*|extern "C" \{|\}$)', "", _text))


class ProtocolError(BloomgateError):
    """The gateware broke a rule of AXI3: a bug in it."""


@dataclasses.dataclass
class Burst:
    """One AXI3 burst, legal or not, and what came of it. See ``axi_master.h``."""

    #: Byte address of the first beat, on the bus: the control page is at ``BASE_ADDRESS``.
    address: int
    #: Words to write, one for each beat; None for a read.
    data: Optional[Sequence[int]] = None
    #: AxLEN + 1; by default 1 for a read, and the beats of ``data`` for a write.
    length: Optional[int] = None
    #: AxID, and for writes also WID unless ``wid`` says otherwise; 12 bits.
    id: int = 0
    wid: Optional[int] = None
    #: AxSIZE, log2 of the bytes in a beat.
    size: int = 2
    #: AxBURST: 0 FIXED, 1 INCR, 2 WRAP.
    burst: int = 1
    lock: int = 0
    cache: int = 0
    prot: int = 0
    #: WSTRB of each beat; by default all bytes.
    strobes: Optional[Sequence[int]] = None
    #: Bit n is WLAST on beat n; by default the last of ``data``.
    last: Optional[int] = None
    #: Begin only when every earlier burst of the call is answered.
    barrier: bool = False

    #: What was read.
    words: list[int] = dataclasses.field(default_factory=list, init=False)
    #: RRESP of each beat, or BRESP: 0 OKAY, 1 EXOKAY, 2 SLVERR, 3 DECERR.
    responses: list[int] = dataclasses.field(default_factory=list, init=False)
    #: Clock number of the handshake of the address.
    address_clock: int = dataclasses.field(default=-1, init=False)
    #: Clock numbers of the handshakes of the data beats.
    data_clocks: list[int] = dataclasses.field(default_factory=list, init=False)
    #: Clock number of the handshake of B, or of the last beat of R.
    response_clock: int = dataclasses.field(default=-1, init=False)


class SimulatedBus(RegisterBus):
    """The gateware just after power-up, an AXI3 master in the place of M_AXI_GP0 and memory in that of S_AXI_ACP.

    Offsets are from the control page. Simulated time passes only in its methods. Any thread may call them, one at a
    time is served.
    """

    unit = "clock cycles"
    patience = PATIENCE_CLOCKS
    stands_still = True

    def __init__(self, parameters: Parameters, *, poll_interval: int = 0, access_clocks: int = ACCESS_CLOCKS) -> None:
        """``poll_interval``: idle clocks between two polls. ``access_clocks``: the bound for one access.

        Raises :class:`~bloomgate.errors.CompilerMissing`.
        """
        self.poll_interval = poll_interval
        self.access_clocks = access_clocks
        self._lock = threading.Lock()
        loaded: Any = _ffi.dlopen(str(library(parameters)))
        self._library = loaded
        created = loaded.bloomgate_create()
        if created == _ffi.NULL:
            raise MemoryError("no memory for the simulated device")
        self._simulation: Any = _ffi.gc(created, loaded.bloomgate_destroy)
        self._last_clock = 0
        #: What the gateware's master port reaches.
        self.memory = SimulatedMemory(_ffi, loaded, self._opened)

    def read(self, offset: int, words: int) -> list[int]:
        target = _ffi.new("uint32_t[]", words)
        with self._lock:
            simulation = self._require_open()
            self._check(
                self._library.bloomgate_read(simulation, BASE_ADDRESS + offset, target, words, self.access_clocks),
                "read",
            )
        return list(_ffi.unpack(target, words))

    def write(self, offset: int, values: Sequence[int]) -> None:
        source = _ffi.new("uint32_t[]", values)
        with self._lock:
            simulation = self._require_open()
            self._check(
                self._library.bloomgate_write(
                    simulation, BASE_ADDRESS + offset, source, len(values), self.access_clocks
                ),
                "write",
            )

    def poll(self, offset: int, words: int, mask: int, value: int) -> list[int]:
        target = _ffi.new("uint32_t[]", words)
        with self._lock:
            simulation = self._require_open()
            status = self._library.bloomgate_poll(
                simulation,
                BASE_ADDRESS + offset,
                target,
                words,
                mask,
                value,
                POLLS_PER_ACCESS,
                self.poll_interval,
                POLLS_PER_ACCESS * (self.access_clocks + self.poll_interval),
            )
            if status != self._library.BLOOMGATE_NO_MATCH:
                self._check(status, "read")
        return list(_ffi.unpack(target, words))

    def run(self, bursts: Sequence[Burst], limit: Optional[int] = None) -> None:
        """Do bursts with any attributes, up to 8 outstanding, and fill in what came of them.

        ``limit``: clocks, by default the bound for one access for each of them. Raises
        :class:`~bloomgate.errors.DeviceTimeout`, :class:`ProtocolError`; SLVERR and DECERR are results.
        """
        items = _ffi.new("bloomgate_burst[]", len(bursts))
        for item, burst in zip(items, bursts, strict=True):
            _fill(item, burst)
        with self._lock:
            simulation = self._require_open()
            clocks = self.access_clocks * len(bursts) if limit is None else limit
            self._check(self._library.bloomgate_run(simulation, items, len(bursts), clocks), "burst")
        for item, burst in zip(items, bursts, strict=True):
            _collect(item, burst)

    def step(self, clocks: int) -> None:
        """Let ``clocks`` clock cycles pass with an idle bus."""
        with self._lock:
            self._check(self._library.bloomgate_step(self._require_open(), clocks), "step")

    def pause(self, channel: AxiChannel, probability: float, seed: int) -> None:
        """Hesitate on a channel: in each clock with that probability do not raise VALID (AW, W, AR) or READY (B, R)."""
        chance = int(probability * 65536)
        with self._lock:
            simulation = self._require_open()
            self._check(self._library.bloomgate_pause(simulation, channel, chance, seed & (2**63 - 1)), "pause")

    def record(self, on: bool = True) -> None:
        """Begin to record the probe output of the top level, or stop; forgets what was recorded before."""
        with self._lock:
            self._library.bloomgate_record(self._require_open(), on)

    def recorded(self) -> list[tuple[int, int]]:
        """(clock number, probe) of every clock since then in which the probe was not 0; see ``probe_layout``."""
        with self._lock:
            simulation = self._require_open()
            count = self._library.bloomgate_recorded(simulation, _ffi.NULL, 0)
            events = _ffi.new("bloomgate_event[]", count)
            self._library.bloomgate_recorded(simulation, events, count)
        return [(event.clock, event.probe) for event in events]

    @property
    def interrupt(self) -> bool:
        """The interrupt line."""
        with self._lock:
            return bool(self._library.bloomgate_interrupt(self._require_open()))

    def open_queue(self, slot: int, parameters: Parameters) -> QueuePort:
        return SimulatedQueue(self, parameters, slot)

    def now(self) -> float:
        return self.clock_cycles

    @property
    def clock_cycles(self) -> int:
        with self._lock:
            if self._simulation is not None:
                self._last_clock = self._library.bloomgate_clocks(self._simulation)
            return self._last_clock

    def close(self) -> None:
        with self._lock:
            if self._simulation is not None:
                self._last_clock = self._library.bloomgate_clocks(self._simulation)
                _ffi.release(self._simulation)
                self._simulation = None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """The simulation, for one call."""
        with self._lock:
            yield self._require_open()

    def _require_open(self) -> Any:
        if self._simulation is None:
            raise DeviceClosed("the simulated device is closed; open it again with bloomgate.open_device()")
        return self._simulation

    def _check(self, status: int, what: str) -> None:
        names = self._library
        if status == names.BLOOMGATE_OK:
            return
        if status in (names.BLOOMGATE_SLVERR, names.BLOOMGATE_DECERR):
            name = "SLVERR" if status == names.BLOOMGATE_SLVERR else "DECERR"
            address = names.bloomgate_refused_address(self._simulation)
            raise BusError(f"the {what} at {address:#010x} was answered {name}: see docs/registers.md")
        text: Any = _ffi.string(names.bloomgate_message(self._simulation))
        message = text.decode()
        if status == names.BLOOMGATE_TIMEOUT:
            raise DeviceTimeout(f"the simulated device hangs: {message}; open it again")
        if status == names.BLOOMGATE_PROTOCOL:
            raise ProtocolError(f"the gateware broke a rule of AXI3: {message}")
        raise ValueError(message)


def _fill(item: Any, burst: Burst) -> None:
    """The C struct of a burst."""
    item.write = burst.data is not None
    item.barrier = burst.barrier
    item.id = burst.id
    item.wid = burst.id if burst.wid is None else burst.wid
    item.address = burst.address
    item.size = burst.size
    item.burst = burst.burst
    item.lock = burst.lock
    item.cache = burst.cache
    item.prot = burst.prot
    data = burst.data if burst.data is not None else ()
    beats = len(data)
    item.length = burst.length if burst.length is not None else max(1, beats)
    item.beats = beats
    item.last = burst.last if burst.last is not None else 1 << beats >> 1
    item.data[0:beats] = list(data)
    item.strobe[0:beats] = list(burst.strobes) if burst.strobes is not None else [_ALL_STROBES] * beats


def _collect(item: Any, burst: Burst) -> None:
    """What came of a burst, from its C struct."""
    write = burst.data is not None
    burst.words = [] if write else list(item.data[0 : item.length])
    burst.responses = list(item.response[0 : 1 if write else item.length])
    burst.address_clock = item.address_clock
    burst.data_clocks = list(item.data_clock[0 : item.beats if write else item.length])
    burst.response_clock = item.response_clock


class SimulatedDevice(ProgrammedIODevice):
    """The gateware as a device: every request passes its AXI port, and time is counted in its clocks."""

    def __init__(
        self,
        parameters: Optional[Parameters] = None,
        *,
        initial_epoch: int = 0,
        poll_interval: int = 0,
    ) -> None:
        """Raises :class:`~bloomgate.errors.CompilerMissing` when the gateware cannot be compiled."""
        parameters = Parameters() if parameters is None else parameters
        self._require_epoch(initial_epoch)
        #: The bus, for what the driver does not do. It is the driver's: leave the slots alone that threads are using.
        self.bus = SimulatedBus(parameters, poll_interval=poll_interval)
        super().__init__(
            self.bus,
            backend="sim",
            description="the gateware, compiled to native code (CXXRTL) and driven through its AXI port",
            expected=parameters,
            initial_epoch=initial_epoch,
        )

    @property
    def clock_cycles(self) -> int:
        return self.bus.clock_cycles

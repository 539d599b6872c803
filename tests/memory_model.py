"""Memory behind the co-processor's AXI3 port, clock by clock, for any simulator: what it answers and what it checks.

A bench samples the bus before each clock edge, hands the values to :meth:`MemoryModel.clock` and drives what comes back
after the edge. Written from IHI 0022 (AXI3), not from the gateware.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CHANNELS", "DECERR", "INPUTS", "OKAY", "OUTPUTS", "SLVERR", "Burst", "MemoryModel"]

OKAY, EXOKAY, SLVERR, DECERR = range(4)
CHANNELS = ("aw", "w", "b", "ar", "r")
BEAT_BYTES = 8
PAGE_BYTES = 4096

_ADDRESS = ("id", "addr", "len", "size", "burst", "lock", "cache", "prot")
#: What the master drives, without AxUSER.
OUTPUTS = (
    *(f"{channel}{name}" for channel in ("aw", "ar") for name in ("valid", *_ADDRESS)),
    *("wvalid", "wid", "wdata", "wstrb", "wlast", "bready", "rready"),
)
#: What the memory drives.
INPUTS = ("awready", "wready", "bvalid", "bid", "bresp", "arready", "rvalid", "rid", "rdata", "rresp", "rlast")


@dataclass(eq=False)
class Burst:
    """A burst whose address was taken."""

    identifier: int
    address: int
    beats: int
    #: Number of the clock of the address handshake.
    taken: int
    #: Words written so far.
    data: list[int] = field(default_factory=list)
    #: Read beats delivered so far.
    delivered: int = 0
    #: First clock in which an answer may be seen.
    ready: int = 0


class MemoryModel:
    """Regions of memory with latency, hesitation, reordering between IDs and injected errors.

    Latency 0: the first read beat is there in the clock after the address was taken, and B in the clock after the last
    of address and data. In each clock and on each channel, with a probability, READY (AW, W, AR) is low or VALID (B, R)
    is not raised. With ``reorder`` every read beat and every B is of an ID chosen at random; else the answers come in
    the order of the addresses.

    Any breach of AXI3 by the master, or of what the ACP demands of it (whole beats, all strobes), is an AssertionError.
    """

    def __init__(self, *, seed: int, cache: int, prot: int, user: int | None) -> None:
        self._random = random.Random(seed)
        self._attributes = {"cache": cache, "prot": prot}
        if user is not None:
            self._attributes["user"] = user
        #: Clocks from the address handshake to the first beat, less one.
        self.latency = 0
        #: Probabilities by channel.
        self.stalls = dict.fromkeys(CHANNELS, 0.0)
        self.reorder = False
        #: (first address, address behind the last, response).
        self.errors: list[tuple[int, int, int]] = []
        self._regions: list[tuple[int, bytearray]] = []
        #: Clocks seen.
        self.now = 0
        #: All bursts, in the order of their addresses; nothing is ever removed.
        self.reads: list[Burst] = []
        self.writes: list[Burst] = []
        #: (clock, ID, RRESP) of every read beat taken, (clock, ID, BRESP) of every B taken.
        self.read_beats: list[tuple[int, int, int]] = []
        self.write_answers: list[tuple[int, int, int]] = []
        #: Most read bursts that were open at once.
        self.most_outstanding = 0
        self.reset()

    def attach(self, base: int, size: int) -> bytearray:
        """Put zeroed memory at an address; returns it."""
        region = bytearray(size)
        self._regions.append((base, region))
        return region

    def reset(self) -> None:
        """Forget what is under way, as the port does when the whole fabric is configured anew."""
        self._open_reads: deque[Burst] = deque()
        self._open_writes: deque[Burst] = deque()
        #: W bursts, (WID, data of each beat, complete), that came before their address or with it.
        self._data: deque[tuple[int, list[int]]] = deque()
        self._unfinished: tuple[int, list[int]] | None = None
        self._complete: deque[Burst] = deque()
        self._held: dict[str, tuple[int, ...]] = {}
        self._driven = dict.fromkeys(INPUTS, 0)
        self._current: Burst | None = None
        self._offered: dict[str, int] = {}
        self._answered: Burst | None = None

    @property
    def idle(self) -> bool:
        """Nothing is unanswered."""
        return not (self._open_reads or self._open_writes or self._complete or self._data or self._unfinished)

    # -- One clock -----------------------------------------------------------------------------------------------------

    def clock(self, bus: Mapping[str, int]) -> dict[str, int]:
        """Takes the master's outputs as they were before the edge; returns its inputs after it."""
        self._check_held(bus)
        driven = self._driven
        if bus["arvalid"] and driven["arready"]:
            burst = self._take_address("ar", bus)
            self.reads.append(burst)
            self._open_reads.append(burst)
            self.most_outstanding = max(self.most_outstanding, len(self._open_reads))
        if bus["awvalid"] and driven["awready"]:
            burst = self._take_address("aw", bus)
            self.writes.append(burst)
            self._open_writes.append(burst)
        if bus["wvalid"] and driven["wready"]:
            self._take_data(bus)
        if driven["rvalid"] and bus["rready"]:
            self._read_beat_taken()
        if driven["bvalid"] and bus["bready"]:
            assert self._answered is not None
            self.write_answers.append((self.now, driven["bid"], driven["bresp"]))
            self._complete.remove(self._answered)
            self._answered = None
        self._match_data()
        self.now += 1

        driven = {name: int(not self._stalled(name[:-5])) for name in ("awready", "wready", "arready")}
        driven |= self._answer_reads() | self._answer_writes()
        self._driven = driven
        return driven

    def _stalled(self, channel: str) -> bool:
        chance = self.stalls[channel]
        return chance > 0 and self._random.random() < chance

    def _check_held(self, bus: Mapping[str, int]) -> None:
        """IHI 0022 A3.2.1: VALID and its payload stay until READY."""
        for channel, names in (("aw", _ADDRESS), ("ar", _ADDRESS), ("w", ("id", "data", "strb", "last"))):
            payload = tuple(bus[channel + name] for name in names)
            if channel in self._held:
                held = self._held.pop(channel)
                assert bus[f"{channel}valid"], f"{channel.upper()}VALID fell before {channel.upper()}READY"
                assert payload == held, f"{channel.upper()} changed before it was taken: {held} to {payload}"
            if bus[f"{channel}valid"] and not self._driven[f"{channel}ready"]:
                self._held[channel] = payload

    def _take_address(self, channel: str, bus: Mapping[str, int]) -> Burst:
        address, beats = bus[f"{channel}addr"], bus[f"{channel}len"] + 1
        assert (bus[f"{channel}size"], bus[f"{channel}burst"], bus[f"{channel}lock"]) == (3, 1, 0)
        for name, value in self._attributes.items():
            assert bus[channel + name] == value, f"{channel}{name} is {bus[channel + name]:#x}, not {value:#x}"
        assert address % BEAT_BYTES == 0, f"{channel}addr is unaligned: {address:#x}"
        assert beats <= 16
        assert address % PAGE_BYTES + beats * BEAT_BYTES <= PAGE_BYTES, f"{beats} beats at {address:#x} cross 4 KiB"
        ready = self.now + 1 + self.latency
        return Burst(bus[f"{channel}id"], address, beats, self.now, ready=ready)

    def _take_data(self, bus: Mapping[str, int]) -> None:
        identifier, words = self._unfinished or (bus["wid"], [])
        assert bus["wid"] == identifier, f"WID changed within a burst from {identifier} to {bus['wid']}"
        assert bus["wstrb"] == 0xFF, f"partial strobes: {bus['wstrb']:#04x}"
        words.append(bus["wdata"])
        self._unfinished = None if bus["wlast"] else (identifier, words)
        if bus["wlast"]:
            self._data.append((identifier, words))
        # What has an address already must not be longer than it said.
        if self._open_writes and not bus["wlast"] and not self._data:
            assert len(words) < self._open_writes[0].beats, "WLAST is missing"

    def _match_data(self) -> None:
        """The data of write bursts comes in the order of their addresses, one burst after the other."""
        while self._open_writes and self._data:
            burst = self._open_writes.popleft()
            identifier, burst.data = self._data.popleft()
            assert identifier == burst.identifier, f"WID {identifier} for AWID {burst.identifier}"
            assert len(burst.data) == burst.beats, f"WLAST on beat {len(burst.data)} of {burst.beats}"
            burst.ready = self.now + 1 + self.latency
            self._complete.append(burst)

    # -- Answers -------------------------------------------------------------------------------------------------------

    def _choose(self, bursts: deque[Burst]) -> Burst | None:
        """The burst to answer in this clock: the oldest of its ID, and of all IDs unless they are reordered."""
        oldest: dict[int, Burst] = {}
        for burst in bursts:
            oldest.setdefault(burst.identifier, burst)
        ready = [burst for burst in oldest.values() if burst.ready <= self.now]
        if not ready:
            return None
        if self.reorder:
            return self._random.choice(ready)
        return ready[0] if ready[0] is bursts[0] else None

    def _answer_reads(self) -> dict[str, int]:
        if self._current is not None:
            # Held until it is taken (IHI 0022 A3.2.1), also if the memory changes meanwhile.
            return self._offered
        if not self._stalled("r"):
            self._current = self._choose(self._open_reads)
        burst = self._current
        if burst is None:
            # Nobody may look at the payload.
            noise = {name: self._random.getrandbits(bits) for name, bits in (("rid", 3), ("rdata", 64), ("rlast", 1))}
            return {"rvalid": 0, "rresp": self._random.getrandbits(2), **noise}
        address = burst.address + burst.delivered * BEAT_BYTES
        response = self._response(address)
        self._offered = {
            "rvalid": 1,
            "rid": burst.identifier,
            "rdata": self._random.getrandbits(64) if response != OKAY else self._load(address),
            "rresp": response,
            "rlast": int(burst.delivered + 1 == burst.beats),
        }
        return self._offered

    def _read_beat_taken(self) -> None:
        burst = self._current
        assert burst is not None
        self.read_beats.append((self.now, burst.identifier, self._driven["rresp"]))
        burst.delivered += 1
        if burst.delivered == burst.beats:
            self._open_reads.remove(burst)
        self._current = None

    def _answer_writes(self) -> dict[str, int]:
        if self._answered is None and not self._stalled("b"):
            self._answered = self._choose(self._complete)
            if self._answered is not None:
                self._driven["bresp"] = self._store(self._answered)
        burst = self._answered
        if burst is None:
            return {"bvalid": 0, "bid": self._random.getrandbits(3), "bresp": self._random.getrandbits(2)}
        return {"bvalid": 1, "bid": burst.identifier, "bresp": self._driven["bresp"]}

    # -- Contents ------------------------------------------------------------------------------------------------------

    def _place(self, address: int) -> tuple[bytearray, int] | None:
        for base, region in self._regions:
            if base <= address < base + len(region):
                return region, address - base
        return None

    def _response(self, address: int) -> int:
        for first, end, response in self.errors:
            if first <= address < end:
                return response
        return OKAY if self._place(address) is not None else DECERR

    def _load(self, address: int) -> int:
        place = self._place(address)
        assert place is not None
        region, offset = place
        return int.from_bytes(region[offset : offset + BEAT_BYTES], "little")

    def _store(self, burst: Burst) -> int:
        """Writes a burst unless some of it has an error; returns BRESP."""
        addresses = [burst.address + index * BEAT_BYTES for index in range(burst.beats)]
        response = max(map(self._response, addresses))
        if response == OKAY:
            for address, word in zip(addresses, burst.data, strict=True):
                place = self._place(address)
                assert place is not None
                region, offset = place
                region[offset : offset + BEAT_BYTES] = word.to_bytes(BEAT_BYTES, "little")
        return response

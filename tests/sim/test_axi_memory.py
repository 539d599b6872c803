"""The simulator's memory, in lockstep with the model of the hdl and cocotb tests, and the rules that it checks."""

import contextlib
import random
import re
import subprocess
from collections import deque
from pathlib import Path

import bloomgate_sim
import cffi
import pytest
from bloomgate.errors import DeviceClosed
from bloomgate_sim.build import _compiler
from bloomgate_sim.channels import AxiChannel
from bloomgate_sim.device import SimulatedBus
from bloomgate_sim.memory import SimulatedMemory

from tests.memory_model import DECERR, INPUTS, OUTPUTS, SLVERR, MemoryModel
from tests.sim.geometries import SMALL

SOURCES = Path(bloomgate_sim.__file__).parent
BASE, SIZE = 0x2000_0000, 0x4000
#: A master that asks for nothing and takes everything.
QUIET = dict.fromkeys((*OUTPUTS, "awuser", "aruser"), 0) | {"bready": 1, "rready": 1}
#: A legal burst on AW or AR.
BURST = {"valid": 1, "id": 0, "addr": BASE, "len": 3, "size": 3, "burst": 1} | {
    "lock": 0,
    "cache": 15,
    "prot": 0,
    "user": 1,
}


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """The compiled memory alone, with its interface."""
    library = tmp_path_factory.mktemp("memory") / "memory.so"
    sources = [Path(__file__).with_name("memory_harness.cpp"), SOURCES / "axi_memory.cpp"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    subprocess.run([_compiler()[0], *flags, *map(str, sources), "-o", str(library)], check=True, timeout=120)
    ffi = cffi.FFI()
    for name in ("axi_master.h", "axi_memory.h"):
        ffi.cdef(re.sub(r'(?m)^(#.*|extern "C" \{|\}$)', "", (SOURCES / name).read_text()))
    ffi.cdef("""
        bloomgate_simulation *harness_create(void);
        void harness_destroy(bloomgate_simulation *simulation);
        void harness_drive(bloomgate_simulation *simulation, uint64_t *inputs);
        const char *harness_sample(bloomgate_simulation *simulation, const uint64_t *outputs);
    """)
    return ffi, ffi.dlopen(str(library))


class Memory:
    """One memory under test."""

    def __init__(self, harness):
        self.ffi, self.library = harness
        self.simulation = self.ffi.gc(self.library.harness_create(), self.library.harness_destroy)
        self.control = SimulatedMemory(self.ffi, self.library, lambda: contextlib.nullcontext(self.simulation))
        self.contents = bytearray(SIZE)
        self.control.attach(self.contents, BASE)
        self._inputs = self.ffi.new("uint64_t[]", len(INPUTS))

    def drive(self):
        self.library.harness_drive(self.simulation, self._inputs)
        return dict(zip(INPUTS, self._inputs, strict=True))

    def sample(self, **outputs):
        """What rule was broken, or ""."""
        values = QUIET | outputs
        order = [values[name] for name in (*OUTPUTS, "awuser", "aruser")]
        return self.ffi.string(self.library.harness_sample(self.simulation, order)).decode()

    def clock(self, **outputs):
        inputs = self.drive()
        return inputs, self.sample(**outputs)


@pytest.fixture
def memory(harness):
    return Memory(harness)


def burst(channel, **changes):
    return {channel + name: value for name, value in (BURST | changes).items()}


def beat(**changes):
    return {"wvalid": 1, "wid": 0, "wdata": 0, "wstrb": 0xFF, "wlast": 0} | {f"w{k}": v for k, v in changes.items()}


class Traffic:
    """A random master that keeps the rules; READY comes in order to each channel."""

    def __init__(self, rng):
        self.rng = rng
        self.queues = {"aw": deque(), "w": deque(), "ar": deque()}
        for _ in range(150):
            beats = rng.randint(1, 16)
            place = {
                "id": rng.randrange(8),
                "addr": BASE + rng.randrange(0, SIZE + 0x1000, 128) + 8 * rng.randint(0, 16 - beats),
                "len": beats - 1,
            }
            if rng.random() < 0.7:
                self.queues["ar"].append(burst("ar", **place))
            else:
                self.queues["aw"].append(burst("aw", **place))
                for number in range(beats):
                    last = int(number + 1 == beats)
                    self.queues["w"].append(beat(id=place["id"], data=rng.getrandbits(64), last=last))
        self.offered = {}

    def outputs(self):
        for channel, queue in self.queues.items():
            if channel not in self.offered and queue and self.rng.random() < 0.6:
                self.offered[channel] = queue.popleft()
        outputs = dict(QUIET)
        for values in self.offered.values():
            outputs |= values
        return outputs | {"bready": self.rng.getrandbits(1), "rready": self.rng.getrandbits(1)}

    def taken(self, inputs):
        for channel in list(self.offered):
            if inputs[f"{channel}ready"]:
                del self.offered[channel]

    @property
    def finished(self):
        return not (self.offered or any(self.queues.values()))


@pytest.mark.parametrize("latency", [0, 1, 30])
def test_lockstep_with_the_model(memory, seed, latency):
    rng = random.Random(seed)
    model = MemoryModel(seed=0, cache=15, prot=0, user=1)
    model.latency = latency
    memory.control.latency(latency)
    contents = model.attach(BASE, SIZE)
    contents[:] = memory.contents[:] = rng.randbytes(SIZE)
    for first, end, response in ((BASE + 0x800, BASE + 0x840, SLVERR), (BASE + 0x1008, BASE + 0x1010, DECERR)):
        model.errors.append((first, end, response))
        memory.control.fail(first, end, response)
    traffic = Traffic(rng)
    expected = model.clock(QUIET)
    for _ in range(20_000):
        outputs = traffic.outputs()
        inputs = memory.drive()
        names = ["awready", "wready", "arready", "bvalid", "rvalid"]
        names += ["bid", "bresp"] * inputs["bvalid"] + ["rid", "rresp", "rlast"] * inputs["rvalid"]
        names += ["rdata"] * (inputs["rvalid"] and inputs["rresp"] == 0)
        assert {name: inputs[name] for name in names} == {name: expected[name] for name in names}
        assert memory.sample(**outputs) == ""
        expected = model.clock(outputs)
        traffic.taken(inputs)
        if traffic.finished and model.idle:
            break
    else:
        raise AssertionError("some bursts were never answered")
    assert memory.contents == contents
    sums = memory.control.statistics()
    assert (sums.read_bursts, sums.write_bursts) == (len(model.reads), len(model.writes))
    assert sums.read_beats == len(model.read_beats) == sum(burst.beats for burst in model.reads)
    assert sums.write_beats == sum(burst.beats for burst in model.writes)
    assert sums.most_reads == model.most_outstanding
    stray = [burst for burst in (*model.reads, *model.writes) if burst.address >= BASE + SIZE]
    assert sums.stray_bursts == len(stray) > 0
    assert sums.open_clocks == sums.clocks


def test_pauses_and_reordering(memory, seed):
    """Any mixture ends with the right contents, every ID in order, and RVALID withheld as often as asked."""
    rng = random.Random(seed)
    for channel in AxiChannel:
        memory.control.pause(channel, 0.5, rng.getrandbits(32))
    memory.control.latency(5)
    memory.control.reorder(True, rng.getrandbits(32))
    memory.contents[:] = rng.randbytes(SIZE)
    traffic = Traffic(rng)
    traffic.queues["aw"].clear()
    traffic.queues["w"].clear()
    asked = {identifier: deque() for identifier in range(8)}
    for outputs in traffic.queues["ar"]:
        for number in range(outputs["arlen"] + 1):
            asked[outputs["arid"]].append((outputs["araddr"] + 8 * number, int(number == outputs["arlen"])))
    order = []
    for _ in range(50_000):
        outputs = traffic.outputs() | {"rready": 1}
        inputs = memory.drive()
        assert memory.sample(**outputs) == ""
        if inputs["rvalid"]:
            address, last = asked[inputs["rid"]].popleft()
            assert inputs["rlast"] == last
            inside = address < BASE + SIZE
            assert inputs["rresp"] == (0 if inside else DECERR)
            if inside:
                offset = address - BASE
                assert inputs["rdata"] == int.from_bytes(memory.contents[offset : offset + 8], "little")
            order.append(inputs["rid"])
        traffic.taken(inputs)
        if traffic.finished and not any(asked.values()):
            break
    else:
        raise AssertionError("some beats never came")
    assert sum(a != b for a, b in zip(order, order[1:], strict=False)) > len(traffic.queues)
    sums = memory.control.statistics()
    assert 0.4 < sums.open_clocks / sums.clocks < 0.6


RULES = {
    "AR at 0x20000000 is no INCR of 8-byte beats": burst("ar", size=2),
    "AW at 0x20000000 is no INCR of 8-byte beats": burst("aw", burst=2),
    "AR at 0x20000008 is no INCR of 8-byte beats": burst("ar", addr=BASE + 8, lock=1),
    "AR at 0x20000000 is no coherent, secure access": burst("ar", user=0),
    "AW at 0x20000000 is no coherent, secure access": burst("aw", prot=2),
    "AW at 0x20000010 is no coherent, secure access": burst("aw", addr=BASE + 16, cache=3),
    "AR at 0x20000004 is unaligned": burst("ar", addr=BASE + 4),
    "AR at 0x20000FF0 crosses 4 KiB with 4 beats": burst("ar", addr=BASE + 0xFF0),
    "a W beat has partial strobes": beat(strb=0x7F),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_rule(memory, rule):
    assert memory.clock(**RULES[rule])[1] == rule


def test_rules_over_several_clocks(harness):
    def last_of(*clocks, pause=None):
        memory = Memory(harness)
        if pause is not None:
            # Never ready in the first clocks, for a seed that is known to begin so.
            memory.control.pause(pause, 0.99, 1)
        *before, last = clocks
        for outputs in before:
            assert memory.clock(**outputs)[1] == ""
        return memory.clock(**last)[1]

    assert last_of(beat(id=1), beat(id=2)) == "WID changed within a burst"
    early = "WLAST on the wrong beat of the burst at 0x20000000"
    assert last_of(burst("aw"), beat(last=1)) == early
    assert last_of(burst("aw", len=0), beat()) == early
    assert last_of(beat(id=1, last=1), burst("aw", id=2, len=0)) == "WID 1 for AWID 2"
    for channel, name in ((AxiChannel.AW, "aw"), (AxiChannel.AR, "ar")):
        changed = f"{name.upper()} changed before it was taken"
        assert last_of(burst(name), burst(name, addr=BASE + 64), pause=channel) == changed
        assert last_of(burst(name), {}, pause=channel) == changed
        assert last_of(burst(name), burst(name), pause=channel) == ""
    assert last_of(beat(data=1), beat(data=2), pause=AxiChannel.W) == "W changed before it was taken"


def test_what_cannot_be_attached(memory):
    for base, size in ((BASE + SIZE + 4, 64), (BASE + SIZE, 12), (BASE + SIZE, 0)):
        with pytest.raises(ValueError, match="multiple of 8"):
            memory.control.attach(bytearray(size), base)
    with pytest.raises(ValueError, match="there is memory at 0x20000000 already"):
        memory.control.attach(bytearray(64), BASE + SIZE - 8)
    with pytest.raises(ValueError, match=r"must end at or before 2\*\*32, not at 0x100000038"):
        memory.control.attach(bytearray(64), 2**32 - 8)
    with pytest.raises(BufferError):
        memory.control.attach(bytes(64), 0)
    with pytest.raises(ValueError, match="there is no memory at 0x00000008"):
        memory.control.detach(8)
    with pytest.raises(ValueError, match="a response must be 0, 2 or 3, not 1"):
        memory.control.fail(0, 8, 1)
    with pytest.raises(ValueError, match="at most 65000 / 65536"):
        memory.control.pause(AxiChannel.R, 0.999, 0)


def test_detached_memory_answers_decerr(memory):
    memory.control.detach(BASE)
    memory.clock(**burst("ar", len=0))
    inputs, _ = memory.clock()
    assert (inputs["rvalid"], inputs["rresp"]) == (1, DECERR)
    memory.control.attach(memory.contents, BASE)
    memory.clock(**burst("ar", len=0))
    inputs, _ = memory.clock()
    assert (inputs["rvalid"], inputs["rresp"]) == (1, 0)


def test_memory_of_a_simulated_device():
    bus = SimulatedBus(SMALL)
    bus.memory.attach(bytearray(64), BASE)
    before = bus.memory.statistics().clocks
    bus.step(10)
    assert bus.memory.statistics().clocks == before + 10
    bus.close()
    with pytest.raises(DeviceClosed):
        bus.memory.latency(1)

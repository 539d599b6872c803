"""What must hold of the AXI3 slave, whatever its master and its registers do.

The master is free but for one rule, that it holds a valid and its payload until ready: it sends illegal bursts, wrong
IDs, strobes and WLASTs, more or fewer beats than it promised, and data before addresses. The registers answer what
they like when they like, and a reset may come at any time.

`WriteProperties` and `ReadProperties` run a reference beside the slave, clock by clock. When it does something follows
from the latencies in the docstring of `Axi3Slave`, and what it does from the formulas of IHI 0022 A3.4.1, computed
afresh for every beat from the burst's first address and the number of the beat. The slave must do the same in the same
clock, so that the proofs also hold it to its latency, its throughput and its capacity. They are bounded.
`AddressProperties` is the arithmetic alone, without state, and so without a bound.
"""

from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In
from bloomgate_hdl.axi3 import Axi3Signature
from bloomgate_hdl.axi3_slave import Axi3Slave
from bloomgate_hdl.burst_address import BurstAddress, BurstMask, byte_lanes
from bloomgate_hdl.register_port import READ_LATENCY

ID_WIDTH = 2
BASE = 0x43C0_0000
SIZE = 0x2000

FIXED, INCR, WRAP, RESERVED = range(4)
OKAY, EXOKAY, SLVERR, DECERR = range(4)

#: Addresses and beats that wait, and answers that may be under way: what the slave promises, and no more.
ADDRESSES, BEATS, ANSWERS = 4, 2, 4

#: Clocks without progress that the slave may take while data and readiness are offered.
STALL_LIMIT = 6

BURST = data.StructLayout({"id": ID_WIDTH, "addr": 32, "len": 4, "size": 3, "burst": 2})
ANSWER = data.StructLayout({"id": ID_WIDTH, "resp": 2})
READ_BEAT = data.StructLayout({"id": ID_WIDTH, "data": 32, "resp": 2, "last": 1})
BEAT = data.StructLayout({"id": ID_WIDTH, "data": 32, "strb": 4, "last": 1})


def held_by_master(m, bus, prefix, layout):
    """Assumes that the master holds a channel until it is taken; returns its payload and its handshake."""
    valid, ready = getattr(bus, prefix + "valid"), getattr(bus, prefix + "ready")
    payload = Signal(layout, name=f"{prefix}_payload")
    before = Signal(layout, name=f"{prefix}_before")
    pending = Signal(name=f"{prefix}_pending")
    for field in layout.members:
        m.d.comb += payload[field].eq(getattr(bus, prefix + field))
    m.d.sync += [pending.eq(valid & ~ready), before.eq(payload)]
    with m.If(pending):
        m.d.comb += [Assume(valid), Assume(payload.as_value() == before.as_value())]
    return payload, valid & ready


def held_by_slave(m, bus, prefix, fields):
    """Asserts that the slave holds a channel until it is taken; returns its handshake."""
    valid, ready = getattr(bus, prefix + "valid"), getattr(bus, prefix + "ready")
    pending = Signal(name=f"{prefix}_pending")
    m.d.sync += pending.eq(valid & ~ready)
    with m.If(pending):
        m.d.comb += Assert(valid)
    for field in fields:
        now = getattr(bus, prefix + field)
        before = Signal.like(now, name=f"{prefix}{field}_before")
        m.d.sync += before.eq(now)
        with m.If(pending):
            m.d.comb += Assert(now == before)
    return valid & ready


def queue(m, name, layout, depth, payload, valid, wanted):
    """A reference of what waits behind a bus input; returns whether something waits, the oldest, and ready."""
    m.submodules[name] = storage = memory.Memory(shape=layout, depth=depth, init=[])
    write, read = storage.write_port(), storage.read_port(domain="comb")
    level = Signal(range(depth + 1), name=f"{name}_level")
    next_level = Signal.like(level, name=f"{name}_next_level")
    ready = Signal(name=f"{name}_ready")
    put = valid & ready
    get = wanted & (level != 0)
    m.d.comb += [next_level.eq(level + put - get), write.en.eq(put), write.data.eq(payload)]
    m.d.sync += [
        level.eq(next_level),
        ready.eq(next_level != depth),
        write.addr.eq(write.addr + put),
        read.addr.eq(read.addr + get),
    ]
    return level != 0, read.data, ready


def answers(m, name, layout, depth, payload, put, get):
    """A reference of what waits before a bus output; returns whether something waits, and the oldest."""
    items = [Signal(layout, name=f"{name}_{place}") for place in range(depth)]
    level = Signal(range(depth + 1), name=f"{name}_level")
    m.d.sync += level.eq(level + put - get)
    m.d.comb += Assert(~put | (level != depth))
    for place, item in enumerate(items):
        with m.If(put & (level == place + get)):
            m.d.sync += item.eq(payload)
        with m.Elif(get & (place + 1 < depth)):
            m.d.sync += item.eq(items[(place + 1) % depth])
    return level != 0, items[0]


def judge(m, burst, number, prefix):
    """IHI 0022 A3.4.1 for beat `number`, counted from 0, of `burst`: byte address, lanes and response of the form."""
    size_bytes = Signal(8, name=f"{prefix}_size_bytes")
    total_bytes = Signal(12, name=f"{prefix}_total_bytes")
    aligned = Signal(32, name=f"{prefix}_aligned")
    boundary = Signal(32, name=f"{prefix}_boundary")
    final = Signal(33, name=f"{prefix}_final")
    straight = Signal(33, name=f"{prefix}_straight")
    address = Signal(32, name=f"{prefix}_address")
    lanes = Signal(4, name=f"{prefix}_lanes")
    response = Signal(2, name=f"{prefix}_response")
    m.d.comb += [
        size_bytes.eq(1 << burst.size),
        total_bytes.eq((burst.len + 1) << burst.size),
        aligned.eq(burst.addr & ~(size_bytes - 1)),
        boundary.eq(burst.addr & ~(total_bytes - 1)),
        final.eq(aligned + (burst.len << burst.size)),
        straight.eq(aligned + (number << burst.size)),
    ]
    with m.If((burst.burst == FIXED) | (number == 0)):
        m.d.comb += address.eq(burst.addr)
    with m.Elif((burst.burst == WRAP) & (straight >= boundary + total_bytes)):
        m.d.comb += address.eq(straight - total_bytes)
    with m.Else():
        m.d.comb += address.eq(straight)
    top = (address & ~(size_bytes - 1)) + size_bytes - 1
    for lane in range(4):
        # Only for at most 4 bytes a beat, but there are no lanes to judge otherwise.
        m.d.comb += lanes[lane].eq((lane >= address[:2]) & (lane <= top[:2]))
    bad_wrap = ~burst.len.matches(1, 3, 7, 15) | (burst.addr != aligned)
    with m.If((burst.addr < BASE) | (burst.addr >= BASE + SIZE)):
        m.d.comb += response.eq(DECERR)
    with m.Elif((burst.burst == RESERVED) | (burst.size > 2) | ((burst.burst == WRAP) & bad_wrap)):
        m.d.comb += response.eq(SLVERR)
    with m.Elif((burst.burst == INCR) & (final[12:] != burst.addr[12:])):
        m.d.comb += response.eq(SLVERR)
    with m.Else():
        m.d.comb += response.eq(OKAY)
    return address, lanes, response


class _Properties(wiring.Component):
    """The ports that both harnesses leave free, and the slave."""

    #: The master.
    bus: In(Axi3Signature(32, 32, ID_WIDTH))
    #: The registers' answer to a write.
    write_error: In(1)
    #: The registers' answers to a read.
    read_data: In(32)
    read_error: In(1)

    def __init__(self, *, plain=False):
        """With `plain` the master's addresses are all of one legal INCR of words, of any length.

        Without arithmetic a bounded proof gets further: into bursts that follow one another with full queues.
        """
        self._plain = plain
        super().__init__()

    def _assume_plain(self, m, address):
        if self._plain:
            m.d.comb += Assume((address.addr == BASE + 64) & (address.size == 2) & (address.burst == INCR))

    def _slave(self, m):
        m.submodules.slave = slave = Axi3Slave(base=BASE, size=SIZE, id_width=ID_WIDTH)
        wiring.connect(m, wiring.flipped(self.bus), slave.bus)
        m.d.comb += [
            slave.registers.write_error.eq(self.write_error),
            slave.registers.read_data.eq(self.read_data),
            slave.registers.read_error.eq(self.read_error),
        ]
        return slave

    def _limit_stall(self, m, stalled):
        """Asserts that `stalled` is never high for `STALL_LIMIT` clocks in a row."""
        clocks = Signal(range(STALL_LIMIT))
        with m.If(stalled):
            m.d.comb += Assert(clocks != STALL_LIMIT - 1)
            m.d.sync += clocks.eq(clocks + 1)
        with m.Else():
            m.d.sync += clocks.eq(0)


class WriteProperties(_Properties):
    """AW, W and B.

    * Every write to the registers is one that a beat deserves, in the clock after the beat was taken or could first be
      written, with its address, in the page of its burst, its data and strobes; there is no other. So nothing of an
      illegal burst is written.
    * Every AW gets exactly one B, in order, with its ID, 3 clocks after the last beat, with DECERR, SLVERR or OKAY as
      the burst and the registers' answers deserve.
    * The slave takes addresses and beats while its queues have places.
    * While addresses wait for their B, data is offered and BREADY is high, a beat or a B passes at least every
      `STALL_LIMIT` clocks.
    * `idle` exactly if nothing waits.
    """

    def elaborate(self, platform):
        m = Module()
        slave = self._slave(m)
        bus, port = self.bus, slave.registers
        m.d.comb += Assume(~bus.arvalid)

        address, take_address = held_by_master(m, bus, "aw", BURST)
        self._assume_plain(m, address)
        word, take_word = held_by_master(m, bus, "w", BEAT)
        take_answer = held_by_slave(m, bus, "b", ("id", "resp"))

        # A beat meets its place in the burst.
        fetch = Signal()
        step = Signal()
        final = Signal()
        active = Signal()
        burst = Signal(BURST)
        number = Signal(4)
        unanswered = Signal(range(ANSWERS + 1))
        has_burst, next_burst, address_ready = queue(m, "bursts", BURST, ADDRESSES, address, bus.awvalid, fetch)
        possible = active & (unanswered != ANSWERS)
        has_beat, beat, word_ready = queue(m, "beats", BEAT, BEATS, word, bus.wvalid, possible)
        m.d.comb += [
            Assert(bus.awready == address_ready),
            Assert(bus.wready == word_ready),
            step.eq(possible & has_beat),
            final.eq(beat.last | (number == burst.len)),
            fetch.eq(~active | (step & final)),
        ]
        m.d.sync += unanswered.eq(unanswered + (step & final) - take_answer)
        with m.If(fetch):
            m.d.sync += [active.eq(has_burst), burst.eq(next_burst), number.eq(0)]
        with m.Elif(step):
            m.d.sync += number.eq(number + 1)

        # What the beat deserves.
        was_faulty = Signal()
        faulty = Signal()
        written = Signal()
        byte_address, lanes, response = judge(m, burst, number, "reference")
        m.d.comb += [
            faulty.eq(
                was_faulty | (beat.id != burst.id) | (beat.last != (number == burst.len)) | (beat.strb & ~lanes).any()
            ),
            written.eq(step & (response == OKAY) & ~faulty & beat.strb.any()),
            Assert(port.write_valid == written),
        ]
        with m.If(step):
            m.d.sync += was_faulty.eq(faulty & ~final)
        with m.If(port.write_valid):
            full_address = BASE | (port.write_address << 2)
            m.d.comb += [
                Assert(full_address[12:32] == burst.addr[12:]),
                Assert(full_address[2:32] == byte_address[2:]),
                Assert(port.write_data == beat.data),
                Assert(port.write_strobe == beat.strb),
            ]

        # One clock later the registers have answered.
        wrote = Signal()
        finished = Signal()
        answer = Signal(ANSWER)
        refused = Signal()
        was_refused = Signal()
        deserved = Signal(ANSWER)
        m.d.sync += [
            wrote.eq(written),
            finished.eq(step & final),
            answer.id.eq(burst.id),
            answer.resp.eq(Mux((response == OKAY) & faulty, SLVERR, response)),
            was_refused.eq(refused & ~finished),
        ]
        m.d.comb += [
            refused.eq(was_refused | (wrote & self.write_error)),
            deserved.id.eq(answer.id),
            deserved.resp.eq(Mux((answer.resp == OKAY) & refused, SLVERR, answer.resp)),
        ]
        has_answer, next_answer = answers(m, "answers", ANSWER, ANSWERS, deserved, finished, take_answer)
        m.d.comb += Assert(bus.bvalid == has_answer)
        with m.If(bus.bvalid):
            m.d.comb += [Assert(bus.bid == next_answer.id), Assert(bus.bresp == next_answer.resp)]

        waiting = has_burst | active | (unanswered != 0)
        self._limit_stall(m, waiting & bus.wvalid & bus.bready & ~(take_word | take_answer))
        m.d.comb += Assert(slave.idle == ~(waiting | has_beat))

        # What the proof must not be vacuous about.
        wrapped = Signal()
        with m.If(port.write_valid & (number == 3)):
            m.d.sync += wrapped.eq((byte_address < burst.addr) & (burst.len == 3))
        m.d.comb += [
            Cover(take_answer & wrapped & (bus.bresp == OKAY)),
            Cover(take_answer & (bus.bresp == DECERR)),
            Cover(finished & (answer.resp == SLVERR) & was_refused),
            Cover(finished & (answer.resp == OKAY) & (deserved.resp == SLVERR)),
            Cover((unanswered == ANSWERS) & has_burst & active & has_beat),
            Cover(take_address & active & has_burst & take_answer),
        ]
        return m


class ReadProperties(_Properties):
    """AR and R.

    * Every AR gets ARLEN + 1 beats, in order, with its ID, RLAST exactly on the last, DECERR, SLVERR or OKAY as the
      burst and the registers' answer deserve, and the word that the registers gave for the address of that beat;
      `READ_LATENCY` + 1 clocks after that was read.
    * The registers are read exactly for the beats that deserve it, one per clock while there are places.
    * The slave takes addresses while its queue has places.
    * While addresses wait for their last beat and RREADY is high, there is a beat at least every `STALL_LIMIT` clocks.
    * `idle` exactly if nothing waits.
    """

    def elaborate(self, platform):
        m = Module()
        slave = self._slave(m)
        bus, port = self.bus, slave.registers
        m.d.comb += [Assume(~bus.awvalid), Assume(~bus.wvalid)]

        address, _ = held_by_master(m, bus, "ar", BURST)
        self._assume_plain(m, address)
        take_beat = held_by_slave(m, bus, "r", ("id", "data", "resp", "last"))

        # One beat of one burst after the other.
        fetch = Signal()
        step = Signal()
        final = Signal()
        active = Signal()
        burst = Signal(BURST)
        number = Signal(4)
        untaken = Signal(range(ANSWERS + 1))
        has_burst, next_burst, address_ready = queue(m, "bursts", BURST, ADDRESSES, address, bus.arvalid, fetch)
        m.d.comb += [
            Assert(bus.arready == address_ready),
            step.eq(active & (untaken != ANSWERS)),
            final.eq(number == burst.len),
            fetch.eq(~active | (step & final)),
        ]
        m.d.sync += untaken.eq(untaken + step - take_beat)
        with m.If(fetch):
            m.d.sync += [active.eq(has_burst), burst.eq(next_burst), number.eq(0)]
        with m.Elif(step):
            m.d.sync += number.eq(number + 1)

        byte_address, _, response = judge(m, burst, number, "reference")
        m.d.comb += Assert(port.read_valid == (step & (response == OKAY)))
        with m.If(port.read_valid):
            m.d.comb += Assert((BASE | (port.read_address << 2))[2:32] == byte_address[2:])

        # READ_LATENCY clocks later the registers have answered.
        valid, beat = step, Signal(READ_BEAT, name="beat_0")
        m.d.comb += [beat.id.eq(burst.id), beat.resp.eq(response), beat.last.eq(final)]
        for clock in range(READ_LATENCY):
            valid_before, beat_before = valid, beat
            valid = Signal(name=f"valid_{clock + 1}")
            beat = Signal(READ_BEAT, name=f"beat_{clock + 1}")
            m.d.sync += [valid.eq(valid_before), beat.eq(beat_before)]
        deserved = Signal(READ_BEAT)
        m.d.comb += deserved.eq(beat)
        with m.If(beat.resp == OKAY):
            m.d.comb += [deserved.data.eq(self.read_data), deserved.resp.eq(Mux(self.read_error, SLVERR, OKAY))]
        has_beat, next_beat = answers(m, "beats", READ_BEAT, ANSWERS, deserved, valid, take_beat)
        m.d.comb += Assert(bus.rvalid == has_beat)
        with m.If(bus.rvalid):
            m.d.comb += [
                Assert(bus.rid == next_beat.id),
                Assert(bus.rdata == next_beat.data),
                Assert(bus.rresp == next_beat.resp),
                Assert(bus.rlast == next_beat.last),
            ]

        waiting = has_burst | active | (untaken != 0)
        self._limit_stall(m, waiting & bus.rready & ~bus.rvalid)
        m.d.comb += Assert(slave.idle == ~waiting)

        # What the proof must not be vacuous about.
        wrapped = Signal()
        lasts = Signal(2)
        with m.If(port.read_valid & (number == 3)):
            m.d.sync += wrapped.eq((byte_address < burst.addr) & (burst.len == 3))
        with m.If(take_beat & bus.rlast):
            m.d.sync += lasts.eq(lasts + 1)
        m.d.comb += [
            Cover(take_beat & wrapped & bus.rlast & (bus.rresp == OKAY)),
            Cover(take_beat & (bus.rresp == DECERR) & ~bus.rlast),
            Cover(valid & (beat.resp == OKAY) & (deserved.resp == SLVERR)),
            Cover((untaken == ANSWERS) & has_burst & active & take_beat),
            Cover((lasts == 2) & slave.idle),
        ]
        return m


class AddressProperties(wiring.Component):
    """The arithmetic of `BurstMask`, `BurstAddress` and `byte_lanes`, for any beat of any burst.

    From the address that the standard gives to beat n, they get its lanes and the address of beat n + 1, if the burst
    is legal; and `BurstMask` calls legal what the standard does. There is no state, so a proof of depth 1
    says it of bursts of any length.
    """

    #: Any burst.
    burst: In(BURST)
    #: Any beat of it but the last.
    number: In(4)

    def elaborate(self, platform):
        m = Module()
        m.submodules.burst_mask = burst_mask = BurstMask()
        m.submodules.burst_address = burst_address = BurstAddress()
        here, lanes, response = judge(m, self.burst, self.number, "here")
        following, _, _ = judge(m, self.burst, self.number + 1, "following")
        in_region = response != DECERR
        legal = in_region & burst_mask.legal
        m.d.comb += [
            burst_mask.address.eq(self.burst.addr),
            burst_mask.length.eq(self.burst.len),
            burst_mask.size.eq(self.burst.size),
            burst_mask.burst.eq(self.burst.burst),
            burst_address.address.eq(here),
            burst_address.size.eq(self.burst.size),
            burst_address.mask.eq(burst_mask.mask),
            Assert(~in_region | (burst_mask.legal == (response == OKAY))),
            Cover(legal & (self.burst.burst == WRAP) & (self.number < self.burst.len) & (following < here)),
            Cover(legal & (self.burst.burst == INCR) & (self.number == 14) & (self.burst.len == 15)),
            Cover(legal & (self.burst.burst == FIXED) & (self.burst.addr[:2] == 3) & (self.burst.size == 2)),
            Cover(in_region & ~burst_mask.legal),
        ]
        with m.If(legal & (self.number <= self.burst.len)):
            m.d.comb += Assert(byte_lanes(here[:2], self.burst.size[:2]) == lanes)
        with m.If(legal & (self.number < self.burst.len)):
            m.d.comb += [
                Assert(burst_address.next_address == following[:12]),
                Assert(following[12:] == here[12:]),
            ]
        return m

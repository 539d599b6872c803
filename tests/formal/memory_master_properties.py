"""What must hold of the memory master, whatever commands it gets and whatever the memory answers.

Commands and completions are free: they can lie outside their windows, have any number of beats and come at any time.
So are READY and the answers of the memory, which keeps three rules only: it holds a valid and its payload until ready,
it answers each burst with the right number of beats and the bursts of an ID in order, and it answers nothing else. A
reset may come at any time.

`WindowProperties` is the arithmetic alone, without state, and so without a bound. `ReadProperties` and
`CompletionProperties` run a reference beside the halves of the master, clock by clock, so that they also hold these to
their latency and throughput; these proofs are bounded.
"""

from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In
from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.completion_writer import CompletionWriter, completion_layout
from bloomgate_hdl.memory_port import WRITE_RESPONSE, read_data_layout
from bloomgate_hdl.read_master import ReadMaster, fetch_layout
from bloomgate_hdl.window_check import WindowCheck, window_layout

from tests.formal.axi3_slave_properties import answers

#: Small, so that all of them are met soon.
IDS = 2
OUTSTANDING = 4
SLOT_BITS = 1

BEAT_BYTES = 8
PAGE_BYTES = 4096
MAX_BEATS = 16
#: An aligned block that no burst leaves, as `WindowCheck` promises.
BLOCK_BYTES = 128


def inside(m, address, beats, window, name):
    """All bytes of a burst are in the window, and the burst is legal AXI3 of whole beats; by plain arithmetic."""
    end = Signal(34, name=f"{name}_end")
    legal = Signal(name=f"{name}_legal")
    m.d.comb += [
        end.eq(address + beats * BEAT_BYTES),
        legal.eq(
            (address % BEAT_BYTES == 0)
            & (beats >= 1)
            & (beats <= MAX_BEATS)
            & (address // PAGE_BYTES == (end - 1) // PAGE_BYTES)
            & (address >= window.base * PAGE_BYTES)
            & (end <= window.end * PAGE_BYTES)
        ),
    ]
    return legal, end


def held(m, channel, name):
    """Asserts that the master holds a stream until it is taken; returns its handshake."""
    pending = Signal(name=f"{name}_pending")
    payload = channel.payload.as_value()
    before = Signal.like(payload, name=f"{name}_before")
    m.d.sync += [pending.eq(channel.valid & ~channel.ready), before.eq(payload)]
    with m.If(pending):
        m.d.comb += [Assert(channel.valid), Assert(payload == before)]
    return channel.valid & channel.ready


def held_by_memory(m, channel, name):
    """Assumes that the memory holds a stream until it is taken; returns its handshake."""
    pending = Signal(name=f"{name}_pending")
    payload = channel.payload.as_value()
    before = Signal.like(payload, name=f"{name}_before")
    m.d.sync += [pending.eq(channel.valid & ~channel.ready), before.eq(payload)]
    with m.If(pending):
        m.d.comb += [Assume(channel.valid), Assume(payload == before)]
    return channel.valid & channel.ready


def awake(m):
    """High from the second clock after a reset on, when the first handshake may be."""
    signal = Signal()
    m.d.sync += signal.eq(1)
    return signal


class WindowProperties(wiring.Component):
    """`WindowCheck` allows exactly the legal bursts in the window that do not leave their block of 128 bytes."""

    address: In(32)
    beats: In(range(MAX_BEATS + 1))
    window: In(window_layout())

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = WindowCheck()
        legal, end = inside(m, self.address, self.beats, self.window, "burst")
        one_block = self.address // BLOCK_BYTES == (end - 1) // BLOCK_BYTES
        m.d.comb += [
            check.address.eq(self.address),
            check.beats.eq(self.beats),
            check.window.eq(self.window),
            Assert(check.allowed == (legal & one_block)),
            Cover(check.allowed & (self.beats == MAX_BEATS) & (self.window.end == 1 << 20)),
            Cover(legal & ~one_block),
            Cover(~legal & (self.address // PAGE_BYTES == self.window.end)),
        ]
        return m


class ReadProperties(wiring.Component):
    """AR and R.

    * Every AR is the oldest command that has had none and is allowed, offered in the clock after it was taken or after
      the one before it was; all its bytes are in its window, and it is held until taken.
    * Every beat of R is handed out in the next clock, once and unchanged, with the ID that it came with; nothing else
      is, but one refusal for each command that is not allowed, after everything before it is answered.
    * RREADY is high except in the first clock after a reset.
    * A command is taken exactly while there is a place for it: never with `hold`, never more than `OUTSTANDING`
      unanswered, none behind a refusal.
    * `busy` and `idle` say which IDs have unanswered commands.
    """

    #: Any commands.
    fetch: In(stream.Signature(fetch_layout(IDS)))
    hold: In(1)
    #: Any memory.
    address_ready: In(1)
    data: In(stream.Signature(read_data_layout(IDS)))

    def elaborate(self, platform):
        m = Module()
        m.submodules.master = master = ReadMaster(ids=IDS, outstanding=OUTSTANDING)
        wiring.connect(m, wiring.flipped(self.fetch), master.fetch)
        wiring.connect(m, wiring.flipped(self.data), master.data)
        m.d.comb += [master.hold.eq(self.hold), master.address.ready.eq(self.address_ready)]
        ready = awake(m)

        # What may come from the memory: of each ID the bursts in order, each with its beats.
        take_address = held(m, master.address, "ar")
        take_beat = held_by_memory(m, self.data, "r")
        bursts = data.StructLayout({"length": 4})
        arrived = self.data.payload
        for identifier in range(IDS):
            number = Signal(4, name=f"number_{identifier}")
            burst = Signal(bursts, name=f"burst_{identifier}")
            mine = self.data.valid & (arrived.id == identifier)
            last = number == burst.length
            m.d.comb += burst.length.eq(master.address.payload.length)
            is_open, oldest = answers(
                m,
                f"open_{identifier}",
                bursts,
                OUTSTANDING,
                burst,
                take_address & (master.address.payload.id == identifier),
                take_beat & mine & arrived.last,
            )
            last = number == oldest.length
            with m.If(mine):
                m.d.comb += [Assume(is_open), Assume(arrived.last == last)]
            with m.If(take_beat & mine):
                m.d.sync += number.eq(Mux(last, 0, number + 1))

        # Commands and what they deserve.
        command = self.fetch.payload
        legal, end = inside(m, command.address, command.beats, command.window, "command")
        allowed = Signal()
        taken = Signal()
        unanswered = Signal(range(OUTSTANDING + 1))
        refusing = Signal()
        refused_id = Signal(range(IDS))
        waiting = Signal(range(OUTSTANDING + 1))
        answered = Signal()
        beat = master.beat
        m.d.comb += [
            allowed.eq(legal & (command.address // BLOCK_BYTES == (end - 1) // BLOCK_BYTES)),
            taken.eq(self.fetch.valid & master.fetch.ready),
            answered.eq(beat.valid & beat.last),
            Assert(
                master.fetch.ready == (ready & (waiting != 2) & ~refusing & ~self.hold & (unanswered != OUTSTANDING))
            ),
            Assert(master.data.ready == ready),
        ]
        m.d.sync += [
            unanswered.eq(unanswered + taken - answered),
            waiting.eq(waiting + (taken & allowed) - take_address),
        ]
        is_waiting, oldest = answers(
            m, "commands", fetch_layout(IDS), OUTSTANDING, command, taken & allowed, take_address
        )
        request = master.address.payload
        oldest_legal, _ = inside(m, request.address, request.length + 1, oldest.window, "request")
        m.d.comb += Assert(master.address.valid == is_waiting)
        with m.If(master.address.valid):
            m.d.comb += [
                Assert(request.id == oldest.id),
                Assert(request.address == oldest.address),
                Assert(request.length + 1 == oldest.beats),
                Assert(oldest_legal),
            ]

        # Beats.
        came = Signal()
        before = Signal(read_data_layout(IDS))
        alone = Signal()
        m.d.sync += [came.eq(take_beat), before.eq(arrived), alone.eq(refusing & (unanswered == 1))]
        m.d.comb += [
            Assert(beat.valid == (came | alone)),
            Assert(~(came & alone)),
        ]
        with m.If(taken & ~allowed):
            m.d.sync += [refusing.eq(1), refused_id.eq(command.id)]
        with m.Elif(refusing & (unanswered == 1)):
            m.d.sync += refusing.eq(0)
        with m.If(came):
            m.d.comb += [
                Assert(beat.id == before.id),
                Assert(beat.data == before.data),
                Assert(beat.response == before.response),
                Assert(beat.last == before.last),
                Assert(~beat.refused),
            ]
        with m.If(alone):
            m.d.comb += [Assert(beat.id == refused_id), Assert(beat.last), Assert(beat.refused)]

        # Books.
        for identifier in range(IDS):
            count = Signal(range(OUTSTANDING + 1), name=f"count_{identifier}")
            m.d.sync += count.eq(count + (taken & (command.id == identifier)) - (answered & (beat.id == identifier)))
            m.d.comb += Assert(master.busy[identifier] == (count != 0))
        m.d.comb += Assert(master.idle == (unanswered == 0))

        ended = Signal()
        m.d.sync += ended.eq(answered)
        m.d.comb += [
            Cover(alone & (unanswered == 1)),
            Cover(answered & (beat.response == Response.DECERR) & (unanswered == OUTSTANDING)),
            Cover(came & ~beat.last & (waiting == 1)),
            Cover(take_beat & came & (arrived.id != before.id) & ~before.last),
            Cover(master.idle & ended),
        ]
        return m


class CompletionProperties(wiring.Component):
    """AW, W and B.

    * AW and the first W are offered in the clock after their completion was taken, the other beats each in the clock
      after the one before it; both are held until taken. There are four beats, of the words and the sequence of that
      completion, WLAST on the last. All bytes are in the window of the completion, and the line is aligned.
    * So a burst's data never waits behind another's address, and no data comes without an address.
    * Every completion has one `written`, in order, in the clock after its B, with its slot and BRESP; or refused, after
      everything before it.
    * BREADY is high except in the first clock after a reset.
    * A completion is taken exactly while there is a place for it; `idle` if none is unanswered.
    """

    #: Any completions.
    completion: In(stream.Signature(completion_layout(SLOT_BITS)))
    hold: In(1)
    #: Any memory.
    address_ready: In(1)
    data_ready: In(1)
    response: In(stream.Signature(WRITE_RESPONSE))

    def elaborate(self, platform):
        m = Module()
        m.submodules.writer = writer = CompletionWriter(slot_bits=SLOT_BITS, outstanding=OUTSTANDING)
        wiring.connect(m, wiring.flipped(self.completion), writer.completion)
        wiring.connect(m, wiring.flipped(self.response), writer.response)
        m.d.comb += [
            writer.hold.eq(self.hold),
            writer.address.ready.eq(self.address_ready),
            writer.data.ready.eq(self.data_ready),
        ]
        ready = awake(m)
        take_address = held(m, writer.address, "aw")
        take_data = held(m, writer.data, "w")
        take_response = held_by_memory(m, self.response, "b")

        # The burst that is being sent.
        command = self.completion.payload
        legal, _ = inside(m, command.address, 4, command.window, "command")
        allowed = Signal()
        taken = Signal()
        current = Signal(completion_layout(SLOT_BITS))
        addressing = Signal()
        left = Signal(3)
        sent = Signal()
        m.d.comb += [
            allowed.eq(legal & (command.address % 32 == 0)),
            taken.eq(self.completion.valid & writer.completion.ready),
            Assert(writer.address.valid == addressing),
            Assert(writer.data.valid == (left != 0)),
            sent.eq(
                (addressing | (left != 0)) & (~addressing | take_address) & ((left == 0) | (take_data & (left == 1)))
            ),
        ]
        with m.If(taken):
            m.d.comb += Assert(~addressing & (left == 0))
            m.d.sync += [current.eq(command), addressing.eq(allowed), left.eq(Mux(allowed, 4, 0))]
        with m.Else():
            m.d.sync += [addressing.eq(addressing & ~take_address), left.eq(left - take_data)]
        request = writer.address.payload
        request_legal, _ = inside(m, request.address, request.length + 1, current.window, "request")
        with m.If(writer.address.valid):
            m.d.comb += [Assert(request.address == current.address), Assert(request.length == 3), Assert(request_legal)]
        with m.If(writer.data.valid):
            m.d.comb += [
                Assert(writer.data.payload.last == (left == 1)),
                Assert(writer.data.payload.data[32:] == current.sequence),
                Assert(writer.data.payload.data[:32] == current.words[(4 - left)[:2]]),
            ]

        # Answers: B may come for what is addressed and sent.
        unwritten = Signal(range(OUTSTANDING + 1))
        m.d.sync += unwritten.eq(unwritten + sent - take_response)
        with m.If(self.response.valid):
            m.d.comb += Assume(unwritten != 0)
        unanswered = Signal(range(OUTSTANDING + 2))
        refusing = Signal()
        refuse = Signal()
        refused = Signal()
        came = Signal()
        response = Signal(Response)
        written = writer.written
        m.d.comb += refuse.eq(refusing & (unanswered == 1))
        m.d.sync += [
            unanswered.eq(unanswered + taken - written.valid),
            refusing.eq((refusing & ~refuse) | (taken & ~allowed)),
            refused.eq(refuse),
            came.eq(take_response),
            response.eq(self.response.payload.response),
        ]
        slots = data.StructLayout({"slot": SLOT_BITS})
        slot = Signal(slots)
        m.d.comb += slot.slot.eq(command.slot)
        _, oldest = answers(m, "slots", slots, OUTSTANDING + 1, slot, taken, written.valid)
        #: Places for slots, which are free one clock before `written`.
        places = Signal(range(OUTSTANDING + 1))
        m.d.sync += places.eq(places + taken - (take_response | refuse))
        m.d.comb += [
            Assert(
                writer.completion.ready
                == (ready & ~addressing & (left == 0) & ~refusing & ~self.hold & (places != OUTSTANDING))
            ),
            Assert(writer.response.ready == ready),
            Assert(written.valid == (came | refused)),
            Assert(~(came & refused)),
            Assert(writer.idle == (unanswered == 0)),
            Assert(unwritten <= OUTSTANDING),
        ]
        with m.If(written.valid):
            m.d.comb += [Assert(written.slot == oldest.slot), Assert(written.refused == refused)]
        with m.If(came):
            m.d.comb += Assert(written.response == response)

        m.d.comb += [
            Cover(refused & (unanswered == 1)),
            Cover(came & (response == Response.SLVERR) & addressing),
            Cover(taken & (places == 1)),
            Cover(addressing & (left == 1)),
            Cover(writer.address.valid & (left == 4) & (unwritten == 1)),
        ]
        return m

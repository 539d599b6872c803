"""The reading half of the memory master: AR and R."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.memory_port import BEAT_BITS, MAX_BEATS, read_address_layout, read_data_layout
from bloomgate_hdl.stream_queue import StreamQueue
from bloomgate_hdl.up_down import up_down
from bloomgate_hdl.window_check import WindowCheck, window_layout

__all__ = ["ReadMaster", "burst_layout", "fetch_layout", "fetched_layout"]

#: Bursts that can be under way by default: 16 of 4 beats cover a latency of 64 clocks.
_OUTSTANDING = 16


def burst_layout(ids):
    """A burst to read."""
    return data.StructLayout(
        {
            #: AXI ID, which comes back with the beats.
            "id": range(ids),
            #: Byte address of the first beat, a multiple of 8.
            "address": 32,
            #: Beats to read: 1 to 16, within an aligned block of 128 bytes.
            "beats": range(MAX_BEATS + 1),
        }
    )


def fetch_layout(ids):
    """A command: one burst to read, and where its slot may read."""
    return data.StructLayout({**burst_layout(ids).members, "window": window_layout()})


def fetched_layout(ids):
    """A beat that has come, or the answer to a refused command."""
    return data.StructLayout(
        {
            #: There is one in this clock.
            "valid": 1,
            #: ID of its command.
            "id": range(ids),
            #: The eight bytes, the lowest address in the lowest byte. Undefined with an error or a refusal.
            "data": BEAT_BITS,
            #: It is the last of its burst.
            "last": 1,
            #: RRESP of this beat: OKAY, or SLVERR or DECERR from the bus.
            "response": Response,
            #: The command was refused and nothing read: the only beat of its command, with `last`.
            "refused": 1,
        }
    )


class ReadMaster(wiring.Component):
    """Turns commands into read bursts and hands out what comes back, by ID.

    Every command is answered: by exactly its number of beats, the last one marked, or, if `WindowCheck` does not
    allow it, by one refusal and no access. The answers of an ID come in the order of its commands; those of different
    IDs come in any order and may be interleaved beat by beat (IHI 0022 A5.3). Nobody can stop a beat: a command must
    only be given when there is room for all of its beats.

    A refused command waits until everything before it is answered, and no other command is taken until it is: it
    keeps the order of its ID, and whoever makes commands checks them first, so it is rare.

    Latency in clocks: command to ARVALID 1; RVALID to `beat` 1. Throughput: one command per clock while ARREADY is
    high, and one beat per clock; RREADY is always high.

    Timing: AR leaves from LUT RAM and its valid one LUT behind flip-flops, R goes to flip-flops, and no path leads from
    a bus input to `fetch.ready`.

    Reset: AR and RREADY low for the reset and one clock after it, every burst forgotten, which wedges the port of the
    PS7: first raise `hold`, then wait for `idle`.

    Parameters
    ----------
    ids: number of AXI IDs in use; commands have IDs below it.
    outstanding: commands that can be unanswered; a power of two.
    """

    def __init__(self, *, ids, outstanding=_OUTSTANDING):
        self._ids = ids
        self._outstanding = outstanding
        super().__init__(
            {
                #: Bursts to read. May be withdrawn while `hold`.
                "fetch": In(stream.Signature(fetch_layout(ids))),
                #: What comes back. A beat per clock, which cannot be refused.
                "beat": Out(fetched_layout(ids)),
                #: Bit n: commands of ID n were taken and are not answered; falls one clock after the last answer.
                "busy": Out(ids),
                #: Take no command.
                "hold": In(1),
                #: No command that was taken is unanswered. Together with `hold` it stays so.
                "idle": Out(1),
                #: AR.
                "address": Out(stream.Signature(read_address_layout(ids))),
                #: R.
                "data": In(stream.Signature(read_data_layout(ids))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = WindowCheck()
        # Two places are a skid buffer: full throughput, and ARREADY is seen by `level` only.
        m.submodules.addresses = addresses = StreamQueue(read_address_layout(self._ids), 2)
        connect(m, addresses.o, flipped(self.address))

        command = self.fetch.payload
        beat = self.beat
        #: Commands that are not answered.
        unanswered = Signal(range(self._outstanding + 1))
        #: A refused command waits for its turn.
        refusing = Signal()
        taken = Signal()
        answered = Signal()
        m.d.comb += [
            check.address.eq(command.address),
            check.beats.eq(command.beats),
            check.window.eq(command.window),
            self.fetch.ready.eq(addresses.i.ready & ~refusing & ~self.hold & (unanswered != self._outstanding)),
            taken.eq(self.fetch.valid & self.fetch.ready),
            addresses.i.valid.eq(taken & check.allowed),
            addresses.i.payload.id.eq(command.id),
            addresses.i.payload.address.eq(command.address),
            addresses.i.payload.length.eq(command.beats - 1),
            answered.eq(beat.valid & beat.last),
            self.idle.eq(unanswered == 0),
        ]
        m.d.sync += unanswered.eq(up_down(unanswered, taken, answered))

        # Everything before it is answered when the refused command is the only one: then no beat can come.
        refuse = Signal()
        refused_id = Signal(range(self._ids))
        m.d.comb += refuse.eq(refusing & (unanswered == 1))
        with m.If(taken & ~check.allowed):
            m.d.sync += [refusing.eq(1), refused_id.eq(command.id)]
        with m.Elif(refuse):
            m.d.sync += refusing.eq(0)

        arrived = self.data.payload
        m.d.sync += [
            self.data.ready.eq(1),
            beat.valid.eq((self.data.valid & self.data.ready) | refuse),
            beat.id.eq(arrived.id),
            beat.data.eq(arrived.data),
            beat.last.eq(arrived.last),
            beat.response.eq(arrived.response),
            beat.refused.eq(refuse),
        ]
        with m.If(refuse):
            m.d.sync += [beat.id.eq(refused_id), beat.last.eq(1), beat.response.eq(Response.OKAY)]

        for identifier in range(self._ids):
            count = Signal(range(self._outstanding + 1), name=f"unanswered_{identifier}")
            m.d.sync += count.eq(up_down(count, taken & (command.id == identifier), answered & (beat.id == identifier)))
            m.d.comb += self.busy[identifier].eq(count != 0)
        return m

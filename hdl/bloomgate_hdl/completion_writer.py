"""The writing half of the memory master: completions, by AW, W and B."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from bloomgate.queue_layout import COMPLETION, ENTRY_BYTES
from bloomgate.registers import WORD_BYTES

from bloomgate_hdl.axi3 import Response
from bloomgate_hdl.memory_port import WRITE_ADDRESS, WRITE_DATA, WRITE_RESPONSE
from bloomgate_hdl.stream_queue import StreamQueue
from bloomgate_hdl.up_down import up_down
from bloomgate_hdl.window_check import WindowCheck, window_layout

__all__ = ["CompletionWriter", "completion_layout", "written_layout"]

#: Completions whose B can be awaited by default.
_OUTSTANDING = 8
_BEATS = len(COMPLETION)
_WORD_BITS = 8 * WORD_BYTES
#: log2 of the bytes of an entry, which is a cache line.
_LINE_BITS = (ENTRY_BYTES - 1).bit_length()


def completion_layout(slot_bits):
    """A completion to write."""
    return data.StructLayout(
        {
            #: Whose it is; comes back in `written`.
            "slot": slot_bits,
            #: Byte address of the entry, a multiple of 32.
            "address": 32,
            #: The pages that the slot owns.
            "window": window_layout(),
            #: SEQUENCE, the high word of every beat.
            "sequence": _WORD_BITS,
            #: The low words of the beats, in the order of `COMPLETION`.
            "words": data.ArrayLayout(_WORD_BITS, _BEATS),
        }
    )


def written_layout(slot_bits):
    """The fate of a completion."""
    return data.StructLayout(
        {
            #: There is one in this clock.
            "valid": 1,
            #: Its slot.
            "slot": slot_bits,
            #: BRESP: OKAY, or SLVERR or DECERR from the bus.
            "response": Response,
            #: The completion was refused and nothing written.
            "refused": 1,
        }
    )


class CompletionWriter(wiring.Component):
    """Writes each completion as one burst of four beats, all strobes high, and says when memory has it.

    Every completion gets one `written`, in order: after its B, or, if `WindowCheck` does not allow the burst, after
    those before it, with `refused` and without an access. So an interrupt raised at `written` never comes before the
    entry (IHI 0022 A6.2: with B the write is visible to every initiator). All have AXI ID 0.

    Only whole aligned cache lines with all strobes are written: the ACP corrupts L1 lines with partial strobes in
    bursts of this form (UG585 3.5.1). A completion that would straddle lines is refused.

    Latency in clocks: completion to AWVALID and first WVALID 1, so to the last beat 4; B to `written` 1. Throughput:
    one completion in 5 clocks. BREADY is always high.

    Timing: bus outputs come from flip-flops, B goes to flip-flops, and no path leads from a bus input to
    `completion.ready`.

    Reset: as of `ReadMaster`; use `hold` and `idle`.

    Parameters
    ----------
    slot_bits: of a slot number.
    outstanding: completions that can wait for their B; a power of two.
    """

    def __init__(self, *, slot_bits, outstanding=_OUTSTANDING):
        self._slot_bits = slot_bits
        self._outstanding = outstanding
        super().__init__(
            {
                #: Completions to write. May be withdrawn while `hold`.
                "completion": In(stream.Signature(completion_layout(slot_bits))),
                #: What became of them. One per clock, which cannot be refused.
                "written": Out(written_layout(slot_bits)),
                #: Take no completion.
                "hold": In(1),
                #: No completion that was taken awaits its `written`. Together with `hold` it stays so.
                "idle": Out(1),
                #: AW.
                "address": Out(stream.Signature(WRITE_ADDRESS)),
                #: W.
                "data": Out(stream.Signature(WRITE_DATA)),
                #: B.
                "response": In(stream.Signature(WRITE_RESPONSE)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = WindowCheck()
        #: Whose completions await their B, oldest first.
        m.submodules.slots = slots = StreamQueue(self._slot_bits, self._outstanding)

        command = self.completion.payload
        #: Completions without a `written`, which is one clock behind `slots`.
        unanswered = Signal(range(self._outstanding + 2))
        #: A refused completion waits for its turn.
        refusing = Signal()
        taken = Signal()
        m.d.comb += [
            check.address.eq(command.address),
            check.beats.eq(_BEATS),
            check.window.eq(command.window),
            self.completion.ready.eq(~self.address.valid & ~self.data.valid & ~refusing & ~self.hold & slots.i.ready),
            taken.eq(self.completion.valid & self.completion.ready),
            slots.i.valid.eq(taken),
            slots.i.payload.eq(command.slot),
            self.idle.eq(unanswered == 0),
        ]
        m.d.sync += unanswered.eq(up_down(unanswered, taken, self.written.valid))

        # A burst of four beats that starts on a line is within one block of `WindowCheck`.
        allowed = Signal()
        m.d.comb += allowed.eq(check.allowed & (command.address[:_LINE_BITS] == 0))
        word = Signal(_WORD_BITS)
        later_words = [Signal(_WORD_BITS, name=f"word_{beat}") for beat in range(1, _BEATS)]
        sequence = Signal(_WORD_BITS)
        # Rests at the last one, so that one multiplexer finds the first word and those behind it.
        beat = Signal(range(_BEATS), init=_BEATS - 1)
        next_word = Array([*later_words, command.words[0]])[beat]
        m.d.comb += [
            self.address.payload.length.eq(_BEATS - 1),
            self.data.payload.data.eq(Cat(word, sequence)),
            self.data.payload.last.eq(beat == _BEATS - 1),
        ]
        with m.If(taken):
            m.d.sync += [
                self.address.valid.eq(allowed),
                self.address.payload.address.eq(command.address),
                self.data.valid.eq(allowed),
                word.eq(next_word),
                [later.eq(command.words[index]) for index, later in enumerate(later_words, 1)],
                sequence.eq(command.sequence),
                beat.eq(beat + allowed),
            ]
        with m.Else():
            with m.If(self.address.ready):
                m.d.sync += self.address.valid.eq(0)
            with m.If(self.data.valid & self.data.ready):
                last = self.data.payload.last
                m.d.sync += [self.data.valid.eq(~last), word.eq(next_word), beat.eq(beat + ~last)]

        # Everything before it is answered when the refused completion is the only one: then no B can come.
        refuse = Signal()
        m.d.comb += refuse.eq(refusing & (unanswered == 1))
        with m.If(taken & ~allowed):
            m.d.sync += refusing.eq(1)
        with m.Elif(refuse):
            m.d.sync += refusing.eq(0)

        answered = Signal()
        m.d.comb += [
            answered.eq((self.response.valid & self.response.ready) | refuse),
            slots.o.ready.eq(answered),
        ]
        m.d.sync += [
            self.response.ready.eq(1),
            self.written.valid.eq(answered),
            self.written.slot.eq(slots.o.payload),
            self.written.response.eq(self.response.payload.response),
            self.written.refused.eq(refuse),
        ]
        with m.If(refuse):
            m.d.sync += self.written.response.eq(Response.OKAY)
        return m

"""The co-processor's access to memory: an AXI3 master for one 64-bit port of the PS7."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from bloomgate_hdl.axi3 import Burst
from bloomgate_hdl.completion_writer import CompletionWriter, completion_layout, written_layout
from bloomgate_hdl.memory_port import ACP, BEAT_BITS, MemoryPort
from bloomgate_hdl.read_master import ReadMaster, fetch_layout, fetched_layout

__all__ = ["MemoryMaster"]

_BEAT_SIZE = (BEAT_BITS // 8 - 1).bit_length()
#: AWID and WID.
_WRITE_ID = 0


class MemoryMaster(wiring.Component):
    """A `ReadMaster` and a `CompletionWriter` on the five channels of one port; see there for latencies.

    All bursts are INCR of whole 8-byte beats with all strobes, WID is AWID, and the attributes are those of the port.
    No access is exclusive or locked, which coherent accesses must not be (UG585 3.5.1). Reads and writes do not wait
    for each other.

    Parameters
    ----------
    slot_bits: of a slot number.
    ids: number of AXI IDs that reads use.
    port: which port of the PS7 `bus` is for.
    """

    def __init__(self, *, slot_bits, ids, port: MemoryPort = ACP):
        if not 0 < ids <= 1 << port.id_width:
            raise ValueError(
                f"ids must be 1 to {1 << port.id_width} for a port with {port.id_width}-bit IDs, not {ids!r}"
            )
        self._slot_bits = slot_bits
        self._ids = ids
        self._port = port
        super().__init__(
            {
                #: As in `ReadMaster`.
                "fetch": In(stream.Signature(fetch_layout(ids))),
                #: As in `ReadMaster`.
                "beat": Out(fetched_layout(ids)),
                #: As in `ReadMaster`.
                "busy": Out(ids),
                #: As in `CompletionWriter`.
                "completion": In(stream.Signature(completion_layout(slot_bits))),
                #: As in `CompletionWriter`.
                "written": Out(written_layout(slot_bits)),
                #: Take no command and no completion.
                "hold_reads": In(1),
                "hold_writes": In(1),
                #: Nothing that was taken is unanswered.
                "reads_idle": Out(1),
                "writes_idle": Out(1),
                #: To the PS7.
                "bus": Out(port.signature),
            }
        )

    def elaborate(self, platform):
        m = Module()
        port, bus = self._port, self.bus
        m.submodules.reader = reader = ReadMaster(ids=self._ids)
        m.submodules.writer = writer = CompletionWriter(slot_bits=self._slot_bits)
        connect(m, flipped(self.fetch), reader.fetch)
        connect(m, flipped(self.completion), writer.completion)
        m.d.comb += [
            self.beat.eq(reader.beat),
            self.busy.eq(reader.busy),
            self.written.eq(writer.written),
            reader.hold.eq(self.hold_reads),
            writer.hold.eq(self.hold_writes),
            self.reads_idle.eq(reader.idle),
            self.writes_idle.eq(writer.idle),
        ]
        for prefix, channel, identifier in (
            ("aw", writer.address, _WRITE_ID),
            ("ar", reader.address, reader.address.payload.id),
        ):
            fields = {
                "id": identifier,
                "addr": channel.payload.address,
                "len": channel.payload.length,
                "size": _BEAT_SIZE,
                "burst": Burst.INCR,
                "lock": 0,
                "cache": port.cache,
                "prot": port.prot,
                "valid": channel.valid,
                **({"user": port.user} if port.user_width else {}),
            }
            m.d.comb += [getattr(bus, prefix + name).eq(value) for name, value in fields.items()]
            m.d.comb += channel.ready.eq(getattr(bus, prefix + "ready"))
        m.d.comb += [
            bus.wid.eq(_WRITE_ID),
            bus.wdata.eq(writer.data.payload.data),
            bus.wstrb.eq(~0),
            bus.wlast.eq(writer.data.payload.last),
            bus.wvalid.eq(writer.data.valid),
            writer.data.ready.eq(bus.wready),
            writer.response.payload.response.eq(bus.bresp),
            writer.response.valid.eq(bus.bvalid),
            bus.bready.eq(writer.response.ready),
            reader.data.payload.id.eq(bus.rid),
            reader.data.payload.data.eq(bus.rdata),
            reader.data.payload.response.eq(bus.rresp),
            reader.data.payload.last.eq(bus.rlast),
            reader.data.valid.eq(bus.rvalid),
            bus.rready.eq(reader.data.ready),
        ]
        return m

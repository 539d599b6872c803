"""The processing system of a Zynq-7000 as a Component: the one place that instantiates the PS7 primitive.

Port names and widths are those of the primitive (UG585 chapter 2 and appendix B; Yosys' ``cells_xtra.v`` for xc7).
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bloomgate_hdl import memory_port
from bloomgate_hdl.axi3 import Axi3Signature

__all__ = ["ACP", "GP", "HP", "PS7", "EmioI2cSignature"]

#: M_AXI_GP0 and M_AXI_GP1: the processors are the initiator.
GP = Axi3Signature(32, 32, 12)
#: S_AXI_ACP: the fabric is the initiator; AxUSER[0] asks for coherence.
ACP = memory_port.ACP.signature
#: S_AXI_HP0..3: the fabric is the initiator.
HP = memory_port.HP.signature

#: Bits of AxSIZE at the primitive; it transfers at most 8 bytes a beat, so the third bit of AXI is not there.
_SIZE_BITS = 2

#: Inputs that nothing drives and that must not be 0: an idle serial line is high, an SPI controller that is not
#: selected sees its select high. Card detect and write protect stay 0, that is present and writable, as in the stock
#: design: a controller that has no such pin on the MIO reads these.
_IDLE_HIGH = {
    "EMIOI2C1SCLI": 1,
    "EMIOI2C1SDAI": 1,
    "EMIOSPI0SSIN": 1,
    "EMIOSPI1SSIN": 1,
    "EMIOUART0RX": 1,
    "EMIOUART1RX": 1,
    "EMIOCAN0PHYRX": 1,
    "EMIOCAN1PHYRX": 1,
}

#: The other inputs that nothing drives, tied to 0: an input of the fabric that is left open reads 1.
_IDLE_LOW = {
    "DDRARB": 4,
    "EMIOGPIOI": 64,
    "EMIOSRAMINTIN": 1,
    "EMIOTRACECLK": 1,
    "EMIOWDTCLKI": 1,
    "EVENTEVENTI": 1,
    "FCLKCLKTRIGN": 4,
    "FPGAIDLEN": 1,
    "FTMDTRACEINATID": 4,
    "FTMDTRACEINCLOCK": 1,
    "FTMDTRACEINDATA": 32,
    "FTMDTRACEINVALID": 1,
    "FTMTF2PDEBUG": 32,
    "FTMTF2PTRIG": 4,
    "FTMTP2FTRIGACK": 4,
    **{
        f"DMA{channel}{name}": bits
        for channel in range(4)
        for name, bits in {"ACLK": 1, "DAREADY": 1, "DRLAST": 1, "DRTYPE": 2, "DRVALID": 1}.items()
    },
    **{
        f"EMIOENET{port}{name}": bits
        for port in range(2)
        for name, bits in {
            "EXTINTIN": 1,
            "GMIICOL": 1,
            "GMIICRS": 1,
            "GMIIRXCLK": 1,
            "GMIIRXD": 8,
            "GMIIRXDV": 1,
            "GMIIRXER": 1,
            "GMIITXCLK": 1,
            "MDIOI": 1,
        }.items()
    },
    **{f"EMIOPJTAG{name}": 1 for name in ("TCK", "TDI", "TMS")},
    **{
        f"EMIOSDIO{port}{name}": bits
        for port in range(2)
        for name, bits in {"CDN": 1, "CLKFB": 1, "CMDI": 1, "DATAI": 4, "WP": 1}.items()
    },
    **{f"EMIOSPI{port}{name}": 1 for port in range(2) for name in ("MI", "SCLKI", "SI")},
    **{f"EMIOTTC{port}CLKI": 3 for port in range(2)},
    **{f"EMIOUART{port}{name}": 1 for port in range(2) for name in ("CTSN", "DCDN", "DSRN", "RIN")},
    **{f"EMIOUSB{port}VBUSPWRFAULT": 1 for port in range(2)},
}


class EmioI2cSignature(wiring.Signature):
    """An I2C controller of the PS on its way to pads, controller's side; each line is driven or released."""

    def __init__(self):
        super().__init__(
            {
                #: Level of the clock line.
                "scl_i": In(1),
                #: Drive the clock line low; else release it.
                "scl_low": Out(1),
                #: Level of the data line.
                "sda_i": In(1),
                #: Drive the data line low; else release it.
                "sda_low": Out(1),
            }
        )

    def __eq__(self, other):
        return isinstance(other, EmioI2cSignature)


class PS7(wiring.Component):
    """The processing system. All its AXI ports that are in use run on the clock of ``sync``.

    A member that is left unconnected is tied off: AXI ports driven by the fabric see no valid and no ready, interrupts
    are low. To bring a memory master to life connect it to ``acp`` or ``hp0``; nothing else has to change.
    ``gp0`` and ``gp1`` must each have a responder, or the first access of a processor hangs it (UG585 5.1.1).

    DDR, MIO, PS_CLK, PS_POR_B and PS_SRST_B are pads of the PS that the bitstream has no say in; they are left open.
    """

    #: Initiated by the processors at 0x4000_0000 to 0x7FFF_FFFF.
    gp0: Out(GP)
    #: Initiated by the processors at 0x8000_0000 to 0xBFFF_FFFF.
    gp1: Out(GP)
    #: Memory through the snoop control unit and the L2 cache.
    acp: In(ACP)
    #: Memory past the caches.
    hp0: In(HP)
    #: IRQ_F2P[15:0], level high. Bit 0 is interrupt 61 of the GIC.
    interrupts: In(16)
    #: FCLK_CLK0, before its global buffer.
    clock: Out(1)
    #: FCLK_RESET0_N, asynchronous to everything, active low.
    reset_n: Out(1)
    #: I2C0, when software routes it to EMIO.
    i2c0: Out(EmioI2cSignature())

    def elaborate(self, platform):
        m = Module()
        ports = {}
        for name, idle in _IDLE_HIGH.items():
            ports[f"i_{name}"] = Const(idle, 1)
        for name, width in _IDLE_LOW.items():
            ports[f"i_{name}"] = Const(0, width)

        ports.update(_initiator_ports("MAXIGP0", self.gp0, m))
        ports.update(_initiator_ports("MAXIGP1", self.gp1, m))
        ports.update(_target_ports("SAXIACP", self.acp))
        ports.update(_target_ports("SAXIHP0", self.hp0, {"RDISSUECAP1EN": 1, "WRISSUECAP1EN": 1}))
        for index in range(2):
            ports.update(_idle_target_ports(f"SAXIGP{index}", Axi3Signature(32, 32, 6)))
        for index in range(1, 4):
            ports.update(_idle_target_ports(f"SAXIHP{index}", HP, {"RDISSUECAP1EN": 1, "WRISSUECAP1EN": 1}))

        # Interrupts 16 to 19 are the private ones of the processors (UG585 7.2.2); nobody uses them.
        ports["i_IRQF2P"] = Cat(self.interrupts, Const(0, 4))

        clocks = Signal(4)
        resets_n = Signal(4)
        ports["o_FCLKCLK"] = clocks
        ports["o_FCLKRESETN"] = resets_n
        m.d.comb += [self.clock.eq(clocks[0]), self.reset_n.eq(resets_n[0])]

        for line in ("scl", "sda"):
            level = Signal(name=f"i2c0_{line}_o")
            drive = Signal(name=f"i2c0_{line}_drive")
            # The controller's TN is 1 when it drives (UG585 table 20-3 calls it the inverted tristate).
            ports[f"o_EMIOI2C0{line.upper()}O"] = level
            ports[f"o_EMIOI2C0{line.upper()}TN"] = drive
            ports[f"i_EMIOI2C0{line.upper()}I"] = getattr(self.i2c0, f"{line}_i")
            m.d.comb += getattr(self.i2c0, f"{line}_low").eq(drive & ~level)

        m.submodules.ps7 = Instance("PS7", a_keep=1, **ports)
        return m


def _members(signature):
    """Name and member of every signal of an AXI port."""
    yield from signature.members.items()


def _initiator_ports(prefix, bus, m):
    """Connections of an AXI port that the PS initiates."""
    ports = {f"i_{prefix}ACLK": ClockSignal("sync")}
    for name, member in _members(bus.signature):
        signal = getattr(bus, name)
        if member.flow == In:
            ports[f"i_{prefix}{name.upper()}"] = signal
        elif name in ("awsize", "arsize"):
            narrow = Signal(_SIZE_BITS, name=f"{prefix.lower()}_{name}")
            m.d.comb += signal.eq(narrow)
            ports[f"o_{prefix}{name.upper()}"] = narrow
        else:
            ports[f"o_{prefix}{name.upper()}"] = signal
    return ports


def _target_ports(prefix, bus, extra=None):
    """Connections of an AXI port that the fabric initiates; ``extra`` are further inputs, tied to 0."""
    ports = {f"i_{prefix}ACLK": ClockSignal("sync")}
    # Seen from inside this Component the signature is flipped: the fabric's outputs are inputs.
    for name, member in _members(bus.signature):
        signal = getattr(bus, name)
        if member.flow == Out:
            ports[f"o_{prefix}{name.upper()}"] = signal
        else:
            ports[f"i_{prefix}{name.upper()}"] = signal[:_SIZE_BITS] if name in ("awsize", "arsize") else signal
    for name, width in {"AWQOS": 4, "ARQOS": 4, **(extra or {})}.items():
        ports[f"i_{prefix}{name}"] = Const(0, width)
    return ports


def _idle_target_ports(prefix, signature, extra=None):
    """Tie-offs of an AXI port that the fabric would initiate, with a clock that stands still."""
    ports = {f"i_{prefix}ACLK": Const(0, 1)}
    for name, member in _members(signature):
        if member.flow == Out:
            width = _SIZE_BITS if name in ("awsize", "arsize") else member.shape
            ports[f"i_{prefix}{name.upper()}"] = Const(0, width)
    for name, width in {"AWQOS": 4, "ARQOS": 4, **(extra or {})}.items():
        ports[f"i_{prefix}{name}"] = Const(0, width)
    return ports

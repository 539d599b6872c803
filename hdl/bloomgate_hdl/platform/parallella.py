"""The Parallella of Adapteva, with a Zynq-7010 (P1600, P1601) or a Zynq-7020 (P1602)."""

from amaranth.build import Attrs, Connector, Pins, PinsN, Resource, Subsignal
from amaranth.hdl import Const, Instance, Signal

from bloomgate_hdl.platform.board import ZynqBoard

__all__ = ["Parallella7010", "Parallella7020"]

# Pins: parallella-hw, boards/parallella-I/constraints/parallella_z70x0_loc.xdc (sections I2C, Epiphany, GPIO).
_LVCMOS25 = Attrs(IOSTANDARD="LVCMOS25")

#: GPIO pairs that are bonded on both parts: positive and negative pin.
_GPIO_PAIRS = (
    ("T16", "U17"),
    ("V16", "W16"),
    ("P15", "P16"),
    ("U18", "U19"),
    ("P14", "R14"),
    ("T14", "T15"),
    ("U14", "U15"),
    ("W14", "Y14"),
    ("U13", "V13"),
    ("V12", "W13"),
    ("T12", "U12"),
    ("T11", "T10"),
)


class _Parallella(ZynqBoard):
    package = "clg400"
    speed = "1"
    constraints = "parallella.xdc"
    fclk0_source = "the boot loader in the QSPI flash (parallella-hw, ps7_init.tcl): FCLK0 100 MHz"
    resources = [
        # Power management chip at 0x68, HDMI transmitter at 0x39; I2C0 of the PS by way of EMIO, open drain.
        Resource("i2c", 0, Subsignal("scl", Pins("N18", dir="io")), Subsignal("sda", Pins("N17", dir="io")), _LVCMOS25),
        Resource("epiphany_reset", 0, PinsN("G14", dir="o"), Attrs(IOSTANDARD="LVCMOS25", DRIVE="4")),
    ]
    connectors = [
        # P1600 has no connector for these pins; P1602 has twelve more pairs, on pins that the xc7z010 does not bond.
        Connector(
            "gpio",
            0,
            {
                f"{pair}{sign}": pin
                for pair, pins in enumerate(_GPIO_PAIRS)
                for sign, pin in zip("pn", pins, strict=True)
            },
        ),
    ]

    def take_pads(self):
        i2c = self.request("i2c", 0, dir="-")
        return {
            "scl": i2c.scl.io,
            "sda": i2c.sda.io,
            "epiphany_reset_n": self.request("epiphany_reset", 0, dir="-").io,
        }

    def wire_pads(self, m, ps7, pads):
        # A bitstream without this bridge lets Linux's i2c0 and isl9305 probes time out.
        for line in ("scl", "sda"):
            released = Signal(name=f"{line}_released")
            m.d.comb += released.eq(~getattr(ps7.i2c0, f"{line}_low"))
            m.submodules[f"{line}_buffer"] = Instance(
                "IOBUF",
                i_I=Const(0, 1),
                i_T=released,
                o_O=getattr(ps7.i2c0, f"{line}_i"),
                io_IO=pads[line],
            )
        # The Epiphany's links end nowhere in this design, so the chip stays in reset. Active low at the pin.
        m.submodules.epiphany_reset_buffer = Instance("OBUF", i_I=Const(0, 1), o_O=pads["epiphany_reset_n"])


class Parallella7010(_Parallella):
    """P1600 (microserver) and P1601 (desktop)."""

    name = "parallella-7010"
    device = "xc7z010"


class Parallella7020(_Parallella):
    """P1602 (embedded)."""

    name = "parallella-7020"
    device = "xc7z020"

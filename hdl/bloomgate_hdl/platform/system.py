"""The top level for a board: PS7, clock, reset, co-processor, and whatever the board's pins need."""

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import connect

from bloomgate_hdl.memory_port import ACP, HP
from bloomgate_hdl.platform.decerr_responder import DecerrResponder
from bloomgate_hdl.platform.ps7 import PS7
from bloomgate_hdl.top import Bloomgate

__all__ = ["CLOCK_NET", "System"]

#: Name of the net behind the global buffer, which carries the clock constraint.
CLOCK_NET = "fclk0"


class System(Elaboratable):
    """The co-processor on M_AXI_GP0 with its interrupt on IRQ_F2P[0], everything on the clock FCLK_CLK0.

    ``memory_port`` is where it reaches memory: `ACP` is S_AXI_ACP, `HP` is S_AXI_HP0. The other one stays silent.

    An elaboratable and no Component, since its ports are the pads that the board's platform object hands out.

    Reset: FCLK_RESET0_N, asserted at once and released two clock edges after its end. It must only be asserted while no
    burst is outstanding (Linux does so around programming): a burst that loses its subordinate wedges the port.
    """

    def __init__(self, board, parameters, pads, memory_port=ACP):
        self._board = board
        self._parameters = parameters
        self._memory_port = memory_port
        #: What ``board.take_pads()`` returned; the ports of the top level.
        self._pads = pads

    def elaborate(self, platform):
        m = Module()
        m.submodules.ps7 = ps7 = PS7()
        m.submodules.core = core = Bloomgate(self._parameters, memory_port=self._memory_port)
        m.submodules.gp1 = gp1 = DecerrResponder()

        clock = Signal(name=CLOCK_NET, attrs={"keep": 1})
        m.domains.sync = ClockDomain()
        m.submodules.clock_buffer = Instance("BUFG", i_I=ps7.clock, o_O=clock)
        m.d.comb += ClockSignal("sync").eq(clock)
        m.submodules.reset_synchronizer = ResetSynchronizer(~ps7.reset_n, domain="sync")

        # No register stage in between: slave and master take bus inputs into LUT RAM and flip-flops and drive outputs
        # from such, and the build's timing check holds both ends of these paths against the PS7's own delays.
        connect(m, ps7.gp0, core.axi)
        connect(m, core.memory, {ACP: ps7.acp, HP: ps7.hp0}[self._memory_port])
        connect(m, ps7.gp1, gp1.bus)
        m.d.comb += ps7.interrupts[0].eq(core.interrupt)
        self._board.wire_pads(m, ps7, self._pads)
        return m

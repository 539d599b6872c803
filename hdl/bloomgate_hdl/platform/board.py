"""What a board has to say for the co-processor to be built for it."""

from amaranth.vendor import XilinxPlatform

__all__ = ["ZynqBoard"]


class ZynqBoard(XilinxPlatform):
    """A board with a Zynq-7000. Clock and reset come from the PS, so the core needs none of its pins.

    Subclasses that do have pins to take care of request them in ``take_pads`` and drive them in ``wire_pads``, and
    name a file of ``constraints/`` that places every one of them.
    """

    #: Name on the command line and in file names.
    name: str
    #: File in ``constraints/`` with the site of every pad, or None for a board without any.
    constraints: str | None = None
    #: Frequency of FCLK_CLK0 in Hz that the build must meet.
    fclk0 = 100e6
    #: Who says that FCLK_CLK0 has that frequency.
    fclk0_source = "whatever loads the PS must set it; Linux: fclk-enable and assigned-clock-rates"

    @property
    def part(self):
        """Name of the part as the vendor writes it, with package and speed grade."""
        return f"{self.device}{self.package}-{self.speed}"

    def take_pads(self):
        """Request every pad that the design uses. Returns the ports by name."""
        return {}

    def wire_pads(self, m, ps7, pads):
        """Connect what ``take_pads`` returned."""

"""The co-processor on a board: PS7, clock and reset, pads, and the way from there to a bitstream."""

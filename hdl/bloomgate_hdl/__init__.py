"""bloomgate's gateware in Amaranth HDL: one Component a file, all widths from one Parameters object."""

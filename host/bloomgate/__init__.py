"""bloomgate: software transactions whose commits are decided by an FPGA, or by a model of one."""

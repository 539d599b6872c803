# For every board: the one clock of the design.
#
# FCLK_CLK0 = 100 MHz, as the boot loader in the Parallella's QSPI flash sets it (parallella-hw, ps7_init.tcl). On other
# boards it is up to whatever loads the PS. `fclk0` is the net behind the global buffer (platform/system.py).
create_clock -name fclk0 -period 10.000 [get_nets fclk0]

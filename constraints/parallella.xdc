# Pins of the Parallella (P1600, P1601, P1602). Same on the xc7z010 and the xc7z020.
#
# LOC: https://github.com/parallella/parallella-hw boards/parallella-I/constraints/parallella_z70x0_loc.xdc
# Names are those that the platform class gives its pads (hdl/bloomgate_hdl/platform/parallella.py). The build compares
# both, since nextpnr-xilinx ignores a name that it does not know and puts the pad on any free pin.

# LOC "Configuration Pins". They describe the board's supplies to Vivado; nextpnr-xilinx skips them.
set_property CFGBVS VCCO [current_design]
set_property CONFIG_VOLTAGE 3.3 [current_design]

# LOC "I2C": I2C_SCL and I2C_SDA. Only ever driven low or released (platform/parallella.py).
set_property PACKAGE_PIN N18 [get_ports {i2c_0__scl__io}]
set_property IOSTANDARD LVCMOS25 [get_ports {i2c_0__scl__io}]
set_property PACKAGE_PIN N17 [get_ports {i2c_0__sda__io}]
set_property IOSTANDARD LVCMOS25 [get_ports {i2c_0__sda__io}]

# LOC "Epiphany Interface": DSP_RESET_N[0], active low; 4 mA as there.
set_property PACKAGE_PIN G14 [get_ports {epiphany_reset_0__io}]
set_property IOSTANDARD LVCMOS25 [get_ports {epiphany_reset_0__io}]
set_property DRIVE 4 [get_ports {epiphany_reset_0__io}]

// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A kernel module for the tests: while it is loaded, the device has no driver. What the removal of a device-tree overlay
 * does to the driver, which a kernel without a user interface for overlays cannot show.
 */
#include <linux/device.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static struct device *device;

static int __init unbind_init(void)
{
	device = bus_find_device_by_name(&platform_bus_type, NULL, "43c00000.bloomgate");
	if (!device)
		return -ENODEV;
	device_release_driver(device);
	return 0;
}
module_init(unbind_init);

static void __exit unbind_exit(void)
{
	if (device_attach(device) != 1)
		pr_err("unbind: BUG: the driver does not take the device back\n");
	put_device(device);
}
module_exit(unbind_exit);

MODULE_DESCRIPTION("takes the co-processor away from its driver");
MODULE_LICENSE("Dual MIT/GPL");

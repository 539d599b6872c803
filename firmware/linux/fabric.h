/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Whether an access to the fabric is answered, by the PS that is before it: one that is not stalls the processor for
 * ever. What the fabric is configured with cannot be told without an access.
 */
#ifndef BLOOMGATE_FABRIC_H
#define BLOOMGATE_FABRIC_H

#include <linux/bits.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/fpga/fpga-mgr.h>
#include <linux/mfd/syscon.h>
#include <linux/of.h>
#include <linux/regmap.h>

/* Registers of SLCR (UG585 appendix B.28) that must have these bits, and of them only these. */
static const struct {
	unsigned int offset;
	u32 mask, wanted;
	const char *otherwise;
} fabric_conditions[] = {
	/* LVL_SHFTR_EN, FPGA_RST_CTRL, FPGA0_THR_STA */
	{0x900, 0xF, 0xF, "its level shifters are off"},
	{0x240, BIT(0), 0, "it is held in reset"},
	{0x17C, BIT(16), BIT(16), "FCLK0 is stopped; fclk-enable in the device tree keeps it running"},
};

/* The node's parent is the fpga-region of the whole fabric, whose manager has read PCFG_DONE, or has configured it. */
static inline int fabric_is_configured(struct device *device)
{
#if IS_REACHABLE(CONFIG_FPGA)
	struct device_node *region = of_get_parent(device->of_node);
	struct device_node *node = of_parse_phandle(region, "fpga-mgr", 0);
	struct fpga_manager *manager;
	bool configured;

	of_node_put(region);
	if (!node)
		return dev_err_probe(device, -EINVAL, "the device tree names no manager of the fabric\n");
	manager = of_fpga_mgr_get(node);
	of_node_put(node);
	if (IS_ERR(manager))
		return dev_err_probe(device, -EPROBE_DEFER, "the manager of the fabric is not there yet\n");
	configured = manager->state == FPGA_MGR_STATE_OPERATING;
	fpga_mgr_put(manager);
	return configured ? 0 : dev_err_probe(device, -ENODEV, "the fabric is not configured\n");
#else
	return dev_err_probe(device, -ENODEV, "this kernel cannot tell whether the fabric is configured: CONFIG_FPGA\n");
#endif
}

/* 0, or an error that was reported. */
static inline int fabric_answers(struct device *device)
{
	struct regmap *slcr = syscon_regmap_lookup_by_compatible("xlnx,zynq-slcr");
	unsigned int i;

	if (IS_ERR(slcr))
		return dev_err_probe(device, PTR_ERR(slcr), "there is no SLCR to look at\n");
	for (i = 0; i < ARRAY_SIZE(fabric_conditions); i++) {
		u32 word;
		int error = regmap_read(slcr, fabric_conditions[i].offset, &word);

		if (error)
			return dev_err_probe(device, error, "SLCR cannot be read\n");
		if ((word & fabric_conditions[i].mask) != fabric_conditions[i].wanted)
			return dev_err_probe(device, -ENODEV, "the fabric is not accessed: %s\n",
					     fabric_conditions[i].otherwise);
	}
	return fabric_is_configured(device);
}

#endif

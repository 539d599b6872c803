#include "fabric.h"

#include "mmu.h"
#include "watchdog.h"
#include "zynq.h"

enum bloomgate_pl_state fabric_state(void)
{
    /* In the order in which a boot loader makes them true. PCFG_DONE, level shifters and resets as Linux's zynq-fpga.c
     * sets them; an FCLK0 that somebody has stopped stalls the bus just the same. */
    if (!(read32(DEVCFG_INT_STS) & DEVCFG_PCFG_DONE))
        return BLOOMGATE_PL_STATE_NOT_CONFIGURED;
    if ((read32(SLCR_LVL_SHFTR_EN) & SLCR_LVL_SHFTR_ALL) != SLCR_LVL_SHFTR_ALL)
        return BLOOMGATE_PL_STATE_LEVEL_SHIFTERS_OFF;
    if (read32(SLCR_FPGA_RST_CTRL))
        return BLOOMGATE_PL_STATE_IN_RESET;
    if (!(read32(SLCR_FPGA0_THR_STA) & SLCR_FPGA0_THR_RUNNING))
        return BLOOMGATE_PL_STATE_CLOCK_STOPPED;
    return BLOOMGATE_PL_STATE_READY;
}

const char *fabric_state_name(enum bloomgate_pl_state state)
{
    switch (state) {
    case BLOOMGATE_PL_STATE_READY:
        return "ready";
    case BLOOMGATE_PL_STATE_NOT_CONFIGURED:
        return "not configured; load a bitstream";
    case BLOOMGATE_PL_STATE_LEVEL_SHIFTERS_OFF:
        return "level shifters off; say connect";
    case BLOOMGATE_PL_STATE_IN_RESET:
        return "in reset; say connect";
    case BLOOMGATE_PL_STATE_CLOCK_STOPPED:
        return "FCLK0 is stopped";
    }
    return "unknown";
}

enum bloomgate_pl_state fabric_open(void)
{
    enum bloomgate_pl_state state = fabric_state();

    if (state == BLOOMGATE_PL_STATE_READY) {
        watchdog_arm();
        mmu_map_fabric(true);
    }
    return state;
}

void fabric_close(void)
{
    mmu_map_fabric(false);
    watchdog_disarm();
}

bool fabric_connect(void)
{
    if (!(read32(DEVCFG_INT_STS) & DEVCFG_PCFG_DONE))
        return false;
    /* In this order: zynq-fpga.c, zynq_fpga_ops_write_complete(). */
    slcr_write(SLCR_LVL_SHFTR_EN, SLCR_LVL_SHFTR_ALL);
    slcr_write(SLCR_FPGA_RST_CTRL, 0);
    return true;
}

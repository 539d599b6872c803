#include "watchdog.h"

#include "zynq.h"

/* The watchdog counts CPU_1x, 111 MHz as the stock boot loader sets it, divided by 4096, from this times 4096 and 4095:
 * 2.1 s. Nothing that the monitor does in one go takes a tenth of that. */
#define COUNT 13u

void watchdog_arm(void)
{
    slcr_write(SLCR_REBOOT_STATUS, (read32(SLCR_REBOOT_STATUS) & ~REBOOT_MARK) | REBOOT_MARK_ACCESS);
    write32(SWDT_MODE, SWDT_MODE_KEY);
    write32(SWDT_CONTROL, SWDT_CONTROL_KEY | COUNT << SWDT_CONTROL_COUNT_SHIFT | SWDT_CONTROL_PRESCALE_4096);
    write32(SWDT_RESTART, SWDT_RESTART_KEY);
    write32(SWDT_MODE, SWDT_MODE_KEY | SWDT_MODE_PULSE_16 | SWDT_MODE_RESET | SWDT_MODE_ENABLE);
    __asm__ volatile("dsb" : : : "memory");
}

void watchdog_disarm(void)
{
    write32(SWDT_MODE, SWDT_MODE_KEY);
    slcr_write(SLCR_REBOOT_STATUS, read32(SLCR_REBOOT_STATUS) & ~REBOOT_MARK);
}

bool watchdog_has_bitten(uint32_t reboot_status)
{
    if ((reboot_status & REBOOT_MARK) != REBOOT_MARK_ACCESS)
        return false;
    slcr_write(SLCR_REBOOT_STATUS, reboot_status & ~(REBOOT_MARK | REBOOT_SWDT));
    return reboot_status & REBOOT_SWDT;
}

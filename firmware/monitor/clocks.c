#include "clocks.h"

#include "text.h"
#include "zynq.h"

/* UG585 section 25.6 and the SLCR's registers: a PLL multiplies PS_CLK unless it is bypassed. */
#define PLL_BYPASS_FORCE (1u << 4)
#define PLL_FDIV(word) ((word) >> 12 & 0x7F)
#define CLK_SOURCE(word) ((word) >> 4 & 3)
#define CLK_DIVISOR0(word) ((word) >> 8 & 0x3F)
#define CLK_DIVISOR1(word) ((word) >> 20 & 0x3F)

#define TIMER_ENABLE 1u

static uint32_t pll_hz(uint32_t control)
{
    uint32_t word = read32(control);

    return word & PLL_BYPASS_FORCE ? PS_CLOCK_HZ : PS_CLOCK_HZ * PLL_FDIV(word);
}

/* A divisor of 0 divides by 1. */
static uint32_t divided(uint32_t hz, uint32_t divisor)
{
    return divisor > 1 ? divide(hz, divisor) : hz;
}

static uint32_t source_hz(uint32_t control)
{
    static const uint32_t plls[] = {SLCR_IO_PLL_CTRL, SLCR_IO_PLL_CTRL, SLCR_ARM_PLL_CTRL, SLCR_DDR_PLL_CTRL};

    return pll_hz(plls[CLK_SOURCE(control)]);
}

uint32_t clock_uart_hz(void)
{
    uint32_t control = read32(SLCR_UART_CLK_CTRL);

    return divided(source_hz(control), CLK_DIVISOR0(control));
}

uint32_t clock_fclk0_hz(void)
{
    uint32_t control = read32(SLCR_FPGA0_CLK_CTRL);

    return divided(divided(source_hz(control), CLK_DIVISOR0(control)), CLK_DIVISOR1(control));
}

void clock_begin(void)
{
    write32(GLOBAL_TIMER_CONTROL, read32(GLOBAL_TIMER_CONTROL) | TIMER_ENABLE);
}

uint32_t clock_now(void)
{
    return read32(GLOBAL_TIMER_LOW);
}

uint32_t clock_ticks_per_ms(void)
{
    /* The processor runs at half the PLL's frequency (6:2:1 or 4:2:1 mode) and the timer at half the processor's. */
    return divide(pll_hz(SLCR_ARM_PLL_CTRL), 4 * 1000);
}

/* Registers of the Zynq-7000 processing system that the monitor uses. Source: UG585 (Zynq-7000 TRM), appendix B. */
#ifndef ZYNQ_H
#define ZYNQ_H

#include <stdint.h>

/* UART1, the console of the Parallella on MIO8 and MIO9. */
#define UART1_CONTROL 0xE0001000u
#define UART1_MODE 0xE0001004u
#define UART1_BAUDGEN 0xE0001018u
#define UART1_STATUS 0xE000102Cu
#define UART1_FIFO 0xE0001030u
#define UART1_BAUDDIV 0xE0001034u
#define UART_CONTROL_RX_RESET 0x01u
#define UART_CONTROL_TX_RESET 0x02u
#define UART_CONTROL_RX_ENABLE 0x04u
#define UART_CONTROL_TX_ENABLE 0x10u
#define UART_MODE_8N1 0x20u
#define UART_STATUS_RX_EMPTY 0x02u
#define UART_STATUS_TX_EMPTY 0x08u
#define UART_STATUS_TX_FULL 0x10u
#define UART_STATUS_TX_ACTIVE 0x800u

/* System-level control. A write needs SLCR_UNLOCK first. */
#define SLCR_UNLOCK 0xF8000008u
#define SLCR_UNLOCK_KEY 0xDF0Du
#define SLCR_ARM_PLL_CTRL 0xF8000100u
#define SLCR_DDR_PLL_CTRL 0xF8000104u
#define SLCR_IO_PLL_CTRL 0xF8000108u
#define SLCR_APER_CLK_CTRL 0xF800012Cu
#define SLCR_APER_CLK_UART1 (1u << 21)
#define SLCR_UART_CLK_CTRL 0xF8000154u
#define SLCR_UART_CLK_UART1 (1u << 1)
#define SLCR_FPGA0_CLK_CTRL 0xF8000170u
#define SLCR_FPGA0_THR_STA 0xF800017Cu
#define SLCR_FPGA0_THR_RUNNING (1u << 16)
#define SLCR_PSS_RST_CTRL 0xF8000200u
#define SLCR_PSS_RST_SOFT 1u
#define SLCR_UART_RST_CTRL 0xF8000228u
#define SLCR_UART_RST_UART1 0x0Au
#define SLCR_FPGA_RST_CTRL 0xF8000240u
#define SLCR_REBOOT_STATUS 0xF8000258u
#define SLCR_PSS_IDCODE 0xF8000530u
#define SLCR_MIO_PIN_08 0xF8000720u
#define SLCR_MIO_PIN_09 0xF8000724u
#define SLCR_LVL_SHFTR_EN 0xF8000900u
#define SLCR_LVL_SHFTR_ALL 0x0Fu

/* REBOOT_STATUS: who reset the system last, and bits that software keeps over every reset but power-on. */
#define REBOOT_SWDT (1u << 16)
#define REBOOT_AWDT0 (1u << 17)
#define REBOOT_AWDT1 (1u << 18)
#define REBOOT_SOFTWARE (1u << 19)
#define REBOOT_DEBUGGER (1u << 20)
#define REBOOT_PIN (1u << 21)
#define REBOOT_POWER_ON (1u << 22)
/* Xilinx's first-stage boot loader uses 31:28 for its own state, so the monitor's mark is in 27:24. */
#define REBOOT_MARK (0xFu << 24)
#define REBOOT_MARK_ACCESS (0xAu << 24)

/* System watchdog: resets the whole system, so also what an access without an answer has wedged. */
#define SWDT_MODE 0xF8005000u
#define SWDT_CONTROL 0xF8005004u
#define SWDT_RESTART 0xF8005008u
#define SWDT_MODE_KEY (0xABCu << 12)
#define SWDT_MODE_ENABLE 0x01u
#define SWDT_MODE_RESET 0x02u
#define SWDT_MODE_PULSE_16 0x30u
#define SWDT_CONTROL_KEY (0x248u << 14)
#define SWDT_CONTROL_COUNT_SHIFT 2
#define SWDT_CONTROL_PRESCALE_4096 3u
#define SWDT_RESTART_KEY 0x1999u

/* Device configuration. */
#define DEVCFG_INT_STS 0xF800700Cu
#define DEVCFG_PCFG_DONE (1u << 2)

/* Global timer of the Cortex-A9 MPCore (its TRM, chapter 4): half the processor's clock. */
#define GLOBAL_TIMER_LOW 0xF8F00200u
#define GLOBAL_TIMER_CONTROL 0xF8F00208u

/* The processor's view of the fabric: the two general-purpose AXI masters. */
#define GP_FIRST 0x40000000u
#define GP_LAST 0xBFFFFFFFu

/* 33.33 MHz crystal of the Parallella (parallella-hw, ps7_init.tcl), and of most Zynq boards. */
#define PS_CLOCK_HZ 33333333u

/* One 32-bit load or store: device memory wants whole words (docs/board.md), and a compiler may split or merge what C
 * writes. For registers that certainly answer; see access.h for the others. */
static inline uint32_t read32(uint32_t address)
{
    uint32_t word;
    __asm__ volatile("ldr %0, [%1]" : "=r"(word) : "r"(address) : "memory");
    return word;
}

static inline void write32(uint32_t address, uint32_t word)
{
    __asm__ volatile("str %0, [%1]" : : "r"(word), "r"(address) : "memory");
}

static inline void slcr_write(uint32_t address, uint32_t word)
{
    write32(SLCR_UNLOCK, SLCR_UNLOCK_KEY);
    write32(address, word);
}

#endif

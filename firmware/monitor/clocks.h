/* Clock frequencies, from what the boot loader has set, and time. */
#ifndef CLOCKS_H
#define CLOCKS_H

#include <stdint.h>

/* Let the global timer run. */
void clock_begin(void);

/* Ticks of the global timer; wraps. */
uint32_t clock_now(void);

/* Ticks of the global timer in a millisecond. */
uint32_t clock_ticks_per_ms(void);

/* Reference clock of the UARTs, and FCLK0, the clock of the fabric, in Hz. */
uint32_t clock_uart_hz(void);
uint32_t clock_fclk0_hz(void);

#endif

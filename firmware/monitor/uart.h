/* The console: UART1, 115200 bits/s, 8N1, polled. */
#ifndef UART_H
#define UART_H

#include <stdint.h>

/* Set it up, whoever ran before: U-Boot, or only the BootROM. */
void uart_begin(void);

/* The next byte received, or -1. */
int uart_receive(void);

void uart_send(uint8_t byte);

/* Wait until the last byte has left. */
void uart_flush(void);

#endif

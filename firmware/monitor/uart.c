#include "uart.h"

#include "bloomgate_serial.h"
#include "clocks.h"
#include "text.h"
#include "zynq.h"

/* MIO_PIN: level 3 multiplexer 7 is UART1; the I/O type and pull-up are the board's and stay. */
#define MIO_FUNCTION 0xFEu
#define MIO_FUNCTION_UART 0xE0u
#define MIO_TRISTATE 1u

static void set_bits(uint32_t address, uint32_t mask, uint32_t bits)
{
    uint32_t word = read32(address);

    if ((word & mask) != bits)
        slcr_write(address, (word & ~mask) | bits);
}

void uart_begin(void)
{
    uint32_t divisor, best = 1, best_divisor = 4, best_error = UINT32_MAX, clock;

    /* Of no effect after U-Boot, necessary after the BootROM. */
    set_bits(SLCR_APER_CLK_CTRL, SLCR_APER_CLK_UART1, SLCR_APER_CLK_UART1);
    set_bits(SLCR_UART_CLK_CTRL, SLCR_UART_CLK_UART1, SLCR_UART_CLK_UART1);
    set_bits(SLCR_UART_RST_CTRL, SLCR_UART_RST_UART1, 0);
    if (read32(UART1_CONTROL) & UART_CONTROL_TX_ENABLE) {
        uart_flush();
    } else {
        /* Nobody has used it, so that nobody has given it pins: those of the Parallella. */
        set_bits(SLCR_MIO_PIN_08, MIO_FUNCTION | MIO_TRISTATE, MIO_FUNCTION_UART);
        set_bits(SLCR_MIO_PIN_09, MIO_FUNCTION | MIO_TRISTATE, MIO_FUNCTION_UART | MIO_TRISTATE);
    }

    /* Baud rate = clock / (generator * (divisor + 1)), divisor 4 to 255 (UG585 section 19.2.3). */
    clock = clock_uart_hz();
    for (divisor = 4; divisor <= 255; divisor++) {
        uint32_t unit = BLOOMGATE_SERIAL_BAUD * (divisor + 1);
        uint32_t generator = divide(clock + unit / 2, unit);
        uint32_t rate = generator * unit, error = rate > clock ? rate - clock : clock - rate;

        if (generator >= 1 && generator <= 0xFFFF && error < best_error) {
            best = generator;
            best_divisor = divisor;
            best_error = error;
        }
    }
    write32(UART1_CONTROL, 0);
    write32(UART1_MODE, UART_MODE_8N1);
    write32(UART1_BAUDGEN, best);
    write32(UART1_BAUDDIV, best_divisor);
    write32(UART1_CONTROL, UART_CONTROL_RX_RESET | UART_CONTROL_TX_RESET);
    while (read32(UART1_CONTROL) & (UART_CONTROL_RX_RESET | UART_CONTROL_TX_RESET))
        ;
    write32(UART1_CONTROL, UART_CONTROL_RX_ENABLE | UART_CONTROL_TX_ENABLE);
}

int uart_receive(void)
{
    if (read32(UART1_STATUS) & UART_STATUS_RX_EMPTY)
        return -1;
    return (int)(read32(UART1_FIFO) & 0xFF);
}

void uart_send(uint8_t byte)
{
    while (read32(UART1_STATUS) & UART_STATUS_TX_FULL)
        ;
    write32(UART1_FIFO, byte);
}

void uart_flush(void)
{
    while ((read32(UART1_STATUS) & (UART_STATUS_TX_EMPTY | UART_STATUS_TX_ACTIVE)) != UART_STATUS_TX_EMPTY)
        ;
}

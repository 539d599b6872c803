#include "text.h"

#include "uart.h"

void print(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n')
            uart_send('\r');
        uart_send((uint8_t)*text);
    }
}

void print_line(const char *text)
{
    print(text);
    print("\n");
}

void print_hex(uint32_t word)
{
    print("0x");
    for (int shift = 28; shift >= 0; shift -= 4)
        uart_send((uint8_t)"0123456789ABCDEF"[word >> shift & 0xF]);
}

void print_decimal(uint32_t number)
{
    char digits[11];
    char *first = digits + sizeof digits - 1;

    *first = '\0';
    do {
        uint32_t rest = divide(number, 10);
        *--first = (char)('0' + (number - 10 * rest));
        number = rest;
    } while (number);
    print(first);
}

char *next_word(char **line)
{
    char *word, *end;

    for (word = *line; *word == ' '; word++)
        ;
    for (end = word; *end && *end != ' '; end++)
        ;
    *line = *end ? end + 1 : end;
    *end = '\0';
    return word;
}

bool equal(const char *one, const char *other)
{
    while (*one && *one == *other) {
        one++;
        other++;
    }
    return *one == *other;
}

static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit |= 0x20;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : 16;
}

bool parse_number(const char *text, uint32_t *number)
{
    uint32_t base = 10, value = 0;

    if (text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text += 2;
    }
    if (!*text)
        return false;
    for (; *text; text++) {
        uint32_t digit = (uint32_t)digit_value(*text);
        if (digit >= base || value > divide(UINT32_MAX - digit, base))
            return false;
        value = base * value + digit;
    }
    *number = value;
    return true;
}

uint32_t divide(uint32_t number, uint32_t by)
{
    uint32_t quotient = 0, rest = 0;

    for (int bit = 31; bit >= 0; bit--) {
        bool carry = rest >> 31;
        rest = rest << 1 | (number >> bit & 1);
        if (carry || rest >= by) {
            rest -= by;
            quotient |= 1u << bit;
        }
    }
    return quotient;
}

/* The compiler calls these for what it wants copied and cleared. */
void *memcpy(void *to, const void *from, size_t bytes)
{
    uint8_t *target = to;
    const uint8_t *source = from;

    while (bytes--)
        *target++ = *source++;
    return to;
}

void *memset(void *to, int byte, size_t bytes)
{
    uint8_t *target = to;

    while (bytes--)
        *target++ = (uint8_t)byte;
    return to;
}

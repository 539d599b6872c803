/* Text on the console, and the arithmetic that the Cortex-A9 has no instruction for. */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void print(const char *text);
void print_hex(uint32_t word);
void print_decimal(uint32_t number);
void print_line(const char *text);

/* The next word of a line, of the characters between spaces; "" at its end. The line is cut into pieces. */
char *next_word(char **line);

bool equal(const char *one, const char *other);

/* Decimal, or hexadecimal after 0x. False for anything else, and for what does not fit in 32 bits. */
bool parse_number(const char *text, uint32_t *number);

/* number / by, rounded down; by is not 0. */
uint32_t divide(uint32_t number, uint32_t by);

#endif

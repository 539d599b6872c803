/* The console: commands for a person with a terminal program. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

/* Say who we are, how the last reset came about, and what is in the fabric. */
void console_identify(uint32_t reboot_status);

void console_prompt(void);

/* A byte that was typed. */
void console_receive(uint8_t byte);

/* Forget the line that is being typed: what follows is not from the same hand. */
void console_forget(void);

#endif

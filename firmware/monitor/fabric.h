/* The way to the fabric. An access to it that nobody answers (not configured, level shifters off, in reset, no clock)
 * stalls the processor for ever: UG585, and docs/board.md. So every access goes through here. */
#ifndef FABRIC_H
#define FABRIC_H

#include <stdbool.h>
#include <stdint.h>

#include "bloomgate_serial.h"

/* Whether the fabric would answer, as the processing system's registers say. Accesses nothing in the fabric. */
enum bloomgate_pl_state fabric_state(void);
const char *fabric_state_name(enum bloomgate_pl_state state);

/* Before a few accesses, and after them. Looks at the state; if it is READY, maps the fabric and arms the watchdog, else
 * the fabric stays unmapped and must not be accessed. */
enum bloomgate_pl_state fabric_open(void);
void fabric_close(void);

/* Connect a configured fabric: level shifters on, resets off. True if it is configured. */
bool fabric_connect(void);

#endif

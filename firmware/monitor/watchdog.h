/* The system watchdog, for the time in which an access may have no answer. */
#ifndef WATCHDOG_H
#define WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

/* Reset the system in about two seconds, and leave a mark that says why, unless watchdog_disarm() comes first. */
void watchdog_arm(void);
void watchdog_disarm(void);

/* Whether the last reset was its bite across an access. Forgets it, so that the next start does not report it again. */
bool watchdog_has_bitten(uint32_t reboot_status);

#endif

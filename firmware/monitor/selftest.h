/* The self-test of the core: a few requests whose verdicts are known. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stdbool.h>

/* Says what it does on the console. The device is reset first, and afterwards of no use for data that it served before.
 * The fabric must be open. */
bool selftest(void);

/* Identification, version and geometry on one line of the console. False if this is not bloomgate. */
bool selftest_identify(void);

#endif

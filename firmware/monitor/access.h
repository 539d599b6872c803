/* Accesses that may be answered by an abort, and what to do about the ones that nobody expected. */
#ifndef ACCESS_H
#define ACCESS_H

#include <stdbool.h>
#include <stdint.h>

/* A data abort, as the processor reported it. */
struct fault {
    uint32_t address; /* of the access */
    uint32_t status;  /* DFSR: ARM ARM table B3-23 */
};

/* Why the monitor began again; kind 0 is the first beginning. */
struct crash {
    const char *kind;
    uint32_t pc, status, address;
};

/* Take asynchronous aborts from now on. True if one was pending, from before the monitor. */
bool access_begin(void);

/* One 32-bit access. False, and the fault in access_fault(), if it was aborted: MMU fault, SLVERR or DECERR. */
bool access_read(uint32_t address, uint32_t *word);
bool access_write(uint32_t address, uint32_t word);

/* The last abort of access_read() and access_write(). */
struct fault access_fault(void);

/* What the fault is called, by its DFSR. */
const char *fault_name(uint32_t status);

#endif

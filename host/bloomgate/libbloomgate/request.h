/* What programmed I/O and queue pairs have in common. Internal. */
#ifndef BLOOMGATE_REQUEST_H
#define BLOOMGATE_REQUEST_H

#include "bloomgate.h"

/* The largest value of so many bits, 1 to 32. */
static inline uint32_t bloomgate_largest(uint32_t bits)
{
    return UINT32_MAX >> (32u - bits);
}

/* BLOOMGATE_OK, or what keeps a request from being submitted. */
int bloomgate_request_check(const struct bloomgate_geometry *geometry, const struct bloomgate_request *request);

/* What the four words of a verdict say. */
void bloomgate_decision_of(const struct bloomgate_geometry *geometry, const uint32_t *words,
                           struct bloomgate_decision *decision);

#endif

/* Deadlines on the monotonic clock. Internal. */
#ifndef BLOOMGATE_CLOCK_H
#define BLOOMGATE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Nanoseconds since some fixed moment. */
static inline uint64_t bloomgate_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t bloomgate_deadline(uint32_t milliseconds)
{
    return bloomgate_now() + (uint64_t)milliseconds * 1000000u;
}

#endif

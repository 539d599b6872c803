/* SPDX-License-Identifier: MIT */
/*
 * What programs and the kernel module agree on.
 *
 * /dev/bloomgate-slotN is a slot and /dev/bloomgate-control is page 0. Each can be open once. mmap at these offsets:
 */
#ifndef BLOOMGATE_UAPI_H
#define BLOOMGATE_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The register page, 4096 bytes, device memory. */
#define BLOOMGATE_MAP_PAGE 0x0
/* A slot's buffer for rings and logs, `buffer_bytes` long: cached, coherent with the co-processor. */
#define BLOOMGATE_MAP_BUFFER 0x10000

struct bloomgate_info {
    /* IDENTIFICATION, VERSION, GEOMETRY, CAPACITY, HASH_SEED of page 0. */
    __u32 identity[5];
    /* QUEUE_CAPACITY. */
    __u32 queue_capacity;
    /* Of the slot's queue; doorbells carry it. 0 for page 0. */
    __u32 generation;
    __u32 buffer_bytes;
    /* The newest timestamp. */
    __u32 epoch, count;
};

#define BLOOMGATE_GET_INFO _IOR('B', 1, struct bloomgate_info)
/*
 * The slot's queue begins anew: what is fetched comes to its end, the rest is forgotten, both rings are cleared, indices
 * are 0, and the generation is another. Fails with ENODEV where there are no queues, and with EBUSY if the
 * co-processor does not come to rest.
 */
#define BLOOMGATE_RESTART_QUEUE _IO('B', 2)

/*
 * Waiting without polling: read() arms the interrupt and brings a __u32, the number of wake-ups so far; look at the
 * ring or at VERDICT; if there is nothing yet, poll() waits until the number changes. What is decided between the two is
 * not lost, since it changes the number too.
 */

#endif

/* What the two ways to a queue have in common. Internal. */
#ifndef BLOOMGATE_QUEUE_H
#define BLOOMGATE_QUEUE_H

#include "bloomgate.h"

/* Bytes that a window needs at least: rings, and room for the keys of a request beside each entry. */
size_t bloomgate_queue_bytes(const struct bloomgate_geometry *geometry);

/*
 * The queue is enabled for the owner `generation`, and its rings are empty. The rest of the struct, but for what is
 * mapped, is set here.
 */
void bloomgate_queue_begin(struct bloomgate_queue *queue, const struct bloomgate_window *page,
                           const struct bloomgate_geometry *geometry, uint32_t generation);

/* Every word of both rings becomes 0. */
void bloomgate_queue_clear(struct bloomgate_queue *queue);

/*
 * Waiting on the interrupt: `arm` before the last look at the completion, so that one that comes after the look ends
 * the `nap`. A nap can end for no reason.
 */
int bloomgate_uio_queue_arm(const struct bloomgate_queue *queue);
int bloomgate_uio_queue_nap(const struct bloomgate_queue *queue, int milliseconds);
int bloomgate_module_queue_arm(const struct bloomgate_queue *queue);
int bloomgate_module_queue_nap(const struct bloomgate_queue *queue, int milliseconds);

/* Disable a queue of UIO, and wait until nothing of it is on the bus. */
int bloomgate_uio_queue_stop(const struct bloomgate_queue *queue);

#endif

#define _DEFAULT_SOURCE /* clock_gettime, munmap */

#include "queue.h"

#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "barrier.h"
#include "bloomgate_queues.h"
#include "bloomgate_registers.h"
#include "clock.h"
#include "request.h"

/* Some ten microseconds of looks at a cache line, or some hundred at uncached memory. */
#define SPINS 2000u
/*
 * The longest nap. Threads that wait for one queue share a file, and those of one process an interrupt: one may take
 * what would have woken another, which then looks again after this time.
 */
#define NAP_MILLISECONDS 20

_Static_assert(sizeof((struct bloomgate_queue *)0)->released * 8 == 256, "room for the largest ring");

static uint32_t place_of(const struct bloomgate_queue *queue, uint32_t index)
{
    return index & (queue->geometry.queue_entries - 1);
}

static uint32_t following(uint32_t index)
{
    return (index + 1) & BLOOMGATE_RING_INDEX_MASK;
}

static volatile uint32_t *submission_at(const struct bloomgate_queue *queue, uint32_t index)
{
    return queue->memory + place_of(queue, index) * (BLOOMGATE_ENTRY_BYTES / 4);
}

static const volatile struct bloomgate_completion *completion_at(const struct bloomgate_queue *queue, uint32_t index)
{
    return (const volatile struct bloomgate_completion *)queue->memory + queue->geometry.queue_entries +
           place_of(queue, index);
}

/* The log that each entry has for a request of up to aperture_depth keys: its offset. */
static uint32_t log_of(const struct bloomgate_queue *queue, uint32_t index)
{
    return 2 * queue->geometry.queue_entries * BLOOMGATE_ENTRY_BYTES +
           place_of(queue, index) * queue->geometry.aperture_depth * 4;
}

size_t bloomgate_queue_bytes(const struct bloomgate_geometry *geometry)
{
    return (size_t)geometry->queue_entries * (2 * BLOOMGATE_ENTRY_BYTES + geometry->aperture_depth * 4);
}

void bloomgate_queue_clear(struct bloomgate_queue *queue)
{
    for (uint32_t i = 0; i < 2 * queue->geometry.queue_entries * (BLOOMGATE_ENTRY_BYTES / 4); i++) {
        queue->memory[i] = 0;
    }
}

void bloomgate_queue_begin(struct bloomgate_queue *queue, const struct bloomgate_window *page,
                           const struct bloomgate_geometry *geometry, uint32_t generation)
{
    queue->spins = SPINS;
    queue->page = *page;
    queue->geometry = *geometry;
    queue->owner = generation << BLOOMGATE_SEQUENCE_GENERATION_SHIFT;
    queue->head = queue->tail = 0;
    for (size_t i = 0; i < sizeof queue->released / sizeof *queue->released; i++) {
        queue->released[i] = 0;
    }
}

void bloomgate_queue_abandon(struct bloomgate_queue *queue)
{
    if (queue->memory != NULL) {
        munmap((void *)(uintptr_t)queue->memory, queue->bytes);
        queue->memory = NULL;
    }
    /* The module's file is that of the page, which stays. */
    if (queue->control.words != NULL && queue->file >= 0) {
        close(queue->file);
    }
    queue->file = -1;
}

int bloomgate_queue_close(struct bloomgate_queue *queue)
{
    int status = BLOOMGATE_OK;
    if (queue->memory != NULL && queue->control.words != NULL) {
        status = bloomgate_uio_queue_stop(queue);
    }
    bloomgate_queue_abandon(queue);
    return status;
}

int bloomgate_queue_put(struct bloomgate_queue *queue, uint32_t offset, const uint32_t *words, size_t count)
{
    if (offset % 4 != 0 || offset > queue->bytes || count > (queue->bytes - offset) / 4) {
        return BLOOMGATE_E_RANGE;
    }
    volatile uint32_t *to = queue->memory + offset / 4;
    for (size_t i = 0; i < count; i++) {
        to[i] = words[i];
    }
    return BLOOMGATE_OK;
}

int bloomgate_announce(struct bloomgate_queue *queue, uint32_t position, const uint32_t *keys, size_t count)
{
    uint32_t depth = queue->geometry.aperture_depth;
    if (position > depth || count > depth - position) {
        return BLOOMGATE_E_RANGE;
    }
    uint32_t size = depth * 4 > BLOOMGATE_ENTRY_BYTES ? depth * 4 : BLOOMGATE_ENTRY_BYTES;
    uint32_t rings = 2 * queue->geometry.queue_entries * BLOOMGATE_ENTRY_BYTES;
    uint32_t log = (rings + size - 1) / size * size;
    int status = bloomgate_queue_put(queue, log + position * 4, keys, count);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    /* The keys are there before the tail says so. */
    bloomgate_store_barrier();
    queue->page.words[BLOOMGATE_SLOT_ANNOUNCED_TAIL / 4] = position + (uint32_t)count;
    return BLOOMGATE_OK;
}

int bloomgate_queue_next(const struct bloomgate_queue *queue)
{
    uint32_t used = (queue->tail - queue->head) & BLOOMGATE_RING_INDEX_MASK;
    return used == queue->geometry.queue_entries ? BLOOMGATE_E_FULL : (int)queue->tail;
}

int bloomgate_queue_enter(struct bloomgate_queue *queue, const uint32_t *words)
{
    int index = bloomgate_queue_next(queue);
    if (index < 0) {
        return index;
    }
    volatile uint32_t *entry = submission_at(queue, queue->tail);
    for (uint32_t i = 0; i < BLOOMGATE_ENTRY_BYTES / 4; i++) {
        entry[i] = words[i];
    }
    queue->tail = following(queue->tail);
    /* Entry and logs are there before the doorbell says so. */
    bloomgate_store_barrier();
    queue->page.words[BLOOMGATE_SLOT_COMPLETION_HEAD / 4] = queue->owner | queue->head;
    queue->page.words[BLOOMGATE_SLOT_SUBMISSION_TAIL / 4] = queue->owner | queue->tail;
    return BLOOMGATE_OK;
}

/* Whether a completion is there; then the four words of the verdict. */
static bool completed(const struct bloomgate_queue *queue, uint32_t index, uint32_t *verdict)
{
    const volatile struct bloomgate_completion *completion = completion_at(queue, index);
    uint32_t sequence = queue->owner | following(index) << BLOOMGATE_SEQUENCE_NUMBER_SHIFT;
    for (uint32_t beat = 0; beat < BLOOMGATE_COMPLETION_BEATS; beat++) {
        if (completion->beats[beat].sequence != sequence) {
            return false;
        }
    }
    /* The payloads that these sequences vouch for, and then what the caller reads by the verdict. */
    bloomgate_load_barrier();
    for (uint32_t beat = 0; beat < BLOOMGATE_COMPLETION_BEATS; beat++) {
        verdict[beat] = completion->beats[beat].payload;
    }
    bloomgate_load_barrier();
    return true;
}

int bloomgate_queue_wait(const struct bloomgate_queue *queue, uint32_t index, uint32_t milliseconds, uint32_t *verdict)
{
    uint32_t looks = milliseconds == 0 ? 1 : 1 + queue->spins;
    for (uint32_t look = 0; look < looks; look++) {
        if (completed(queue, index, verdict)) {
            return BLOOMGATE_OK;
        }
    }
    bool uio = queue->control.words != NULL;
    uint64_t deadline = bloomgate_deadline(milliseconds);
    for (;;) {
        uint64_t now = bloomgate_now();
        if (now >= deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
        int status = uio ? bloomgate_uio_queue_arm(queue) : bloomgate_module_queue_arm(queue);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        if (completed(queue, index, verdict)) {
            return BLOOMGATE_OK;
        }
        uint64_t left = (deadline - now) / 1000000u + 1;
        int nap = left < NAP_MILLISECONDS ? (int)left : NAP_MILLISECONDS;
        status = uio ? bloomgate_uio_queue_nap(queue, nap) : bloomgate_module_queue_nap(queue, nap);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        if (completed(queue, index, verdict)) {
            return BLOOMGATE_OK;
        }
    }
}

void bloomgate_queue_release(struct bloomgate_queue *queue, uint32_t index)
{
    uint32_t place = place_of(queue, index);
    queue->released[place / 32] |= 1u << place % 32;
    while (queue->head != queue->tail) {
        place = place_of(queue, queue->head);
        if (!(queue->released[place / 32] >> place % 32 & 1)) {
            return;
        }
        queue->released[place / 32] &= ~(1u << place % 32);
        queue->head = following(queue->head);
    }
}

int bloomgate_submit(struct bloomgate_queue *queue, const struct bloomgate_request *request, uint32_t *index)
{
    int next = bloomgate_queue_next(queue);
    if (next < 0) {
        return next;
    }
    int status = bloomgate_request_check(&queue->geometry, request);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint32_t reads = log_of(queue, (uint32_t)next);
    uint32_t writes = reads + 4 * (uint32_t)request->read_count;
    uint32_t commutes = writes + 4 * (uint32_t)request->write_count;
    bloomgate_queue_put(queue, reads, request->reads, request->read_count);
    bloomgate_queue_put(queue, writes, request->writes, request->write_count);
    bloomgate_queue_put(queue, commutes, request->commutes, request->commute_count);
    struct bloomgate_submission entry = {
        .header = BLOOMGATE_ENTRY_FORMAT << BLOOMGATE_SUBMISSION_HEADER_FORMAT_SHIFT | (uint32_t)next,
        .snapshot_epoch = (uint32_t)(request->snapshot >> queue->geometry.timestamp_bits),
        .snapshot_count = (uint32_t)request->snapshot & bloomgate_largest(queue->geometry.timestamp_bits),
        .read_offset = reads,
        .read_count = (uint32_t)request->read_count,
        .write_offset = writes,
        .commute_offset = commutes,
        .insertion_counts =
            (uint32_t)request->write_count << BLOOMGATE_SUBMISSION_INSERTION_COUNTS_WRITE_COUNT_SHIFT |
            (uint32_t)request->commute_count << BLOOMGATE_SUBMISSION_INSERTION_COUNTS_COMMUTE_COUNT_SHIFT,
    };
    *index = (uint32_t)next;
    return bloomgate_queue_enter(queue, (const uint32_t *)&entry);
}

int bloomgate_collect(struct bloomgate_queue *queue, uint32_t index, uint32_t milliseconds,
                      struct bloomgate_decision *decision)
{
    uint32_t verdict[BLOOMGATE_COMPLETION_BEATS];
    int status = bloomgate_queue_wait(queue, index, milliseconds, verdict);
    if (status == BLOOMGATE_OK) {
        bloomgate_decision_of(&queue->geometry, verdict, decision);
        bloomgate_queue_release(queue, index);
    }
    return status;
}

#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include "bloomgate.h"

#include "bloomgate_registers.h"
#include "clock.h"

/* Far longer than a scrub or a reset takes. */
#define PATIENCE_MILLISECONDS 5000u

#define FIELD(word, name) (((word) & BLOOMGATE_CONTROL_##name##_MASK) >> BLOOMGATE_CONTROL_##name##_SHIFT)

static int read_word(const struct bloomgate_window *control, uint32_t offset, uint32_t *word)
{
    return bloomgate_read(control, offset, word, 1);
}

/* Read until the word, masked, is `value`. */
static int await(const struct bloomgate_window *control, uint32_t offset, uint32_t mask, uint32_t value, uint32_t *word)
{
    uint64_t deadline = bloomgate_deadline(PATIENCE_MILLISECONDS);
    for (;;) {
        int status = read_word(control, offset, word);
        if (status != BLOOMGATE_OK || (*word & mask) == value) {
            return status;
        }
        if (bloomgate_now() > deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
    }
}

int bloomgate_identify(const struct bloomgate_window *control, struct bloomgate_geometry *geometry)
{
    uint32_t words[5], queue_capacity = 0;
    int status = bloomgate_read(control, BLOOMGATE_CONTROL_IDENTIFICATION, words, 5);
    if (status == BLOOMGATE_OK) {
        status = bloomgate_geometry_of(words, 0, geometry);
    }
    /* Gateware before queue pairs has no such register, and an access to it is an abort. */
    if (status == BLOOMGATE_OK && (geometry->major != 0 || geometry->minor >= 2)) {
        status = read_word(control, BLOOMGATE_CONTROL_QUEUE_CAPACITY, &queue_capacity);
    }
    return status == BLOOMGATE_OK ? bloomgate_geometry_of(words, queue_capacity, geometry) : status;
}

int bloomgate_geometry_of(const uint32_t *words, uint32_t queue_capacity, struct bloomgate_geometry *geometry)
{
    if (words[0] != BLOOMGATE_IDENTIFICATION) {
        return BLOOMGATE_E_IDENTIFICATION;
    }
    *geometry = (struct bloomgate_geometry){
        .major = FIELD(words[1], VERSION_MAJOR),
        .minor = FIELD(words[1], VERSION_MINOR),
        .patch = FIELD(words[1], VERSION_PATCH),
        .tables = FIELD(words[2], GEOMETRY_K),
        .log2_rows = FIELD(words[2], GEOMETRY_LOG2_D),
        .timestamp_bits = FIELD(words[2], GEOMETRY_TIMESTAMP_BITS),
        .key_bits = FIELD(words[2], GEOMETRY_KEY_BITS),
        .slots = FIELD(words[3], CAPACITY_SLOTS),
        .aperture_depth = FIELD(words[3], CAPACITY_APERTURE_DEPTH),
        .hash_seed = words[4],
    };
    if (FIELD(queue_capacity, QUEUE_CAPACITY_REQUEST_BUFFERS) != 0) {
        geometry->queue_entries = 1u << FIELD(queue_capacity, QUEUE_CAPACITY_LOG2_ENTRIES);
        geometry->request_buffers = FIELD(queue_capacity, QUEUE_CAPACITY_REQUEST_BUFFERS);
        geometry->buffer_depth = FIELD(queue_capacity, QUEUE_CAPACITY_BUFFER_DEPTH);
        geometry->uncached = FIELD(queue_capacity, QUEUE_CAPACITY_UNCACHED);
    }
    if (geometry->major != BLOOMGATE_VERSION_MAJOR) {
        return BLOOMGATE_E_VERSION;
    }
    if (geometry->timestamp_bits == 0 || geometry->timestamp_bits > 32 || geometry->key_bits == 0 ||
        geometry->key_bits > 32 || geometry->slots == 0 || geometry->aperture_depth == 0) {
        return BLOOMGATE_E_GEOMETRY;
    }
    return BLOOMGATE_OK;
}

int bloomgate_last_timestamp(const struct bloomgate_window *control, const struct bloomgate_geometry *geometry,
                             uint64_t *timestamp)
{
    uint64_t deadline = bloomgate_deadline(PATIENCE_MILLISECONDS);
    uint32_t last_count = (uint32_t)((UINT64_C(1) << geometry->timestamp_bits) - 1);
    for (;;) {
        uint32_t words[2], again;
        int status = bloomgate_read(control, BLOOMGATE_CONTROL_EPOCH, words, 2);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        status = read_word(control, BLOOMGATE_CONTROL_EPOCH, &again);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        /* The epoch may end between the words, or just be ending, unless it is the last that there can be. */
        if (words[0] == again && (words[1] != last_count || again == UINT32_MAX)) {
            *timestamp = ((uint64_t)words[0] << geometry->timestamp_bits) + words[1];
            return BLOOMGATE_OK;
        }
        if (bloomgate_now() > deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
    }
}

int bloomgate_statistics(const struct bloomgate_window *control, uint64_t *values)
{
    uint32_t sequence;
    int status = read_word(control, BLOOMGATE_CONTROL_STATISTICS_SEQUENCE, &sequence);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint32_t command = BLOOMGATE_CONTROL_COMMAND_LATCH_STATISTICS_MASK;
    status = bloomgate_write(control, BLOOMGATE_CONTROL_COMMAND, &command, 1);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint32_t wanted = sequence + 1;
    status = await(control, BLOOMGATE_CONTROL_STATISTICS_SEQUENCE, UINT32_MAX, wanted, &sequence);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint32_t words[2 * BLOOMGATE_STATISTICS];
    status = bloomgate_read(control, BLOOMGATE_CONTROL_STATISTICS, words, 2 * BLOOMGATE_STATISTICS);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    for (size_t i = 0; i < BLOOMGATE_STATISTICS; i++) {
        values[i] = words[2 * i] | (uint64_t)words[2 * i + 1] << 32;
    }
    return BLOOMGATE_OK;
}

int bloomgate_error_log(const struct bloomgate_window *control, struct bloomgate_error *entries, size_t *count)
{
    uint32_t words[2 * BLOOMGATE_ERROR_LOG_ENTRIES];
    uint32_t total, before;
    int status = read_word(control, BLOOMGATE_CONTROL_ERROR_COUNT, &total);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint64_t deadline = bloomgate_deadline(PATIENCE_MILLISECONDS);
    do { /* An entry written meanwhile may have been read in halves. */
        before = total;
        status = bloomgate_read(control, BLOOMGATE_CONTROL_ERROR_LOG, words, 2 * BLOOMGATE_ERROR_LOG_ENTRIES);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        status = read_word(control, BLOOMGATE_CONTROL_ERROR_COUNT, &total);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        if (bloomgate_now() > deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
    } while (total != before);
    *count = total < BLOOMGATE_ERROR_LOG_ENTRIES ? total : BLOOMGATE_ERROR_LOG_ENTRIES;
    for (size_t i = 0; i < *count; i++) {
        uint32_t number = total - (uint32_t)*count + (uint32_t)i;
        const uint32_t *entry = words + 2 * (number % BLOOMGATE_ERROR_LOG_ENTRIES);
        entries[i] = (struct bloomgate_error){
            .number = number, .code = entry[0] & 0xFF, .slot = entry[0] >> 8 & 0xFF, .detail = entry[1]};
    }
    return BLOOMGATE_OK;
}

int bloomgate_interrupt_enable(const struct bloomgate_window *control, uint32_t causes)
{
    return bloomgate_write(control, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, &causes, 1);
}

int bloomgate_interrupt_take(const struct bloomgate_window *control, uint32_t *causes)
{
    int status = read_word(control, BLOOMGATE_CONTROL_INTERRUPT_PENDING, causes);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    /* Only what was seen: a cause that has come since stays pending. */
    return bloomgate_write(control, BLOOMGATE_CONTROL_INTERRUPT_PENDING, causes, 1);
}

int bloomgate_reset(const struct bloomgate_window *control, uint32_t initial_epoch)
{
    uint32_t before, epoch;
    int status = read_word(control, BLOOMGATE_CONTROL_EPOCH, &before);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    status = bloomgate_write(control, BLOOMGATE_CONTROL_INITIAL_EPOCH, &initial_epoch, 1);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint32_t command = BLOOMGATE_CONTROL_COMMAND_SOFT_RESET_MASK;
    status = bloomgate_write(control, BLOOMGATE_CONTROL_COMMAND, &command, 1);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    uint64_t deadline = bloomgate_deadline(PATIENCE_MILLISECONDS);
    for (;;) {
        uint32_t state;
        status = read_word(control, BLOOMGATE_CONTROL_STATUS, &state);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        status = read_word(control, BLOOMGATE_CONTROL_EPOCH, &epoch);
        if (status != BLOOMGATE_OK) {
            return status;
        }
        uint32_t over = BLOOMGATE_CONTROL_STATUS_READY_MASK | BLOOMGATE_CONTROL_STATUS_EXHAUSTED_MASK;
        uint32_t transition = BLOOMGATE_CONTROL_STATUS_SCRUBBING_MASK | BLOOMGATE_CONTROL_STATUS_RESETTING_MASK;
        if ((state & over) && !(state & transition) &&
            (epoch != before || (state & BLOOMGATE_CONTROL_STATUS_EXHAUSTED_MASK))) {
            return BLOOMGATE_OK;
        }
        if (bloomgate_now() > deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
    }
}

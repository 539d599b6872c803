#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include "bloomgate.h"

#include "barrier.h"
#include "bloomgate_registers.h"
#include "clock.h"
#include "request.h"

/* Far longer than every other slot's largest request together. */
#define DEFAULT_MILLISECONDS 1000u
/* Polls between two looks at the clock. */
#define POLLS 64u
/* At the newest timestamp, for as long as an epoch is ending: far longer than that takes. */
#define LOOKS 1000u

#define SLOT_FIELD(word, name) (((word) & BLOOMGATE_SLOT_##name##_MASK) >> BLOOMGATE_SLOT_##name##_SHIFT)

static uint32_t load(const struct bloomgate_slot *slot, uint32_t offset)
{
    return slot->window.words[offset / 4];
}

static void store(const struct bloomgate_slot *slot, uint32_t offset, uint32_t value)
{
    slot->window.words[offset / 4] = value;
}

static int await(const struct bloomgate_slot *slot, uint32_t offset, uint32_t mask, uint32_t value)
{
    uint64_t deadline = bloomgate_deadline(slot->milliseconds);
    for (;;) {
        for (unsigned int poll = 0; poll < POLLS; poll++) {
            if ((load(slot, offset) & mask) == value) {
                return BLOOMGATE_OK;
            }
        }
        if (bloomgate_now() > deadline) {
            return BLOOMGATE_E_TIMEOUT;
        }
    }
}

int bloomgate_slot_open(struct bloomgate_slot *slot, const struct bloomgate_window *window,
                        const struct bloomgate_geometry *geometry)
{
    if (window->bytes < BLOOMGATE_PAGE_BYTES) {
        return BLOOMGATE_E_RANGE;
    }
    *slot = (struct bloomgate_slot){
        .window = *window, .geometry = *geometry, .milliseconds = DEFAULT_MILLISECONDS};
    int status = await(slot, BLOOMGATE_SLOT_STATUS, BLOOMGATE_SLOT_STATUS_BUSY_MASK, 0);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    store(slot, BLOOMGATE_SLOT_DISCARD, 0);
    /* The next number differs from the one that the page shows now. */
    slot->request = SLOT_FIELD(load(slot, BLOOMGATE_SLOT_VERDICT), VERDICT_REQUEST);
    return BLOOMGATE_OK;
}

/* Any word of an aperture appends, so a set that is longer than the aperture begins at its start again. */
static void fill(const struct bloomgate_slot *slot, uint32_t aperture, uint32_t bytes, const uint32_t *keys,
                 size_t count)
{
    for (size_t i = 0; i < count; i++) {
        store(slot, aperture + (uint32_t)(4 * i % bytes), keys[i]);
    }
}

/* The verdict block, which is complete. */
static void collect(struct bloomgate_slot *slot, struct bloomgate_decision *decision)
{
    bloomgate_load_barrier();
    uint32_t words[4];
    for (uint32_t i = 0; i < 4; i++) {
        words[i] = load(slot, BLOOMGATE_SLOT_VERDICT + 4 * i);
    }
    /* What the caller reads next must not have been read before the verdict. */
    bloomgate_load_barrier();
    bloomgate_decision_of(&slot->geometry, words, decision);
    slot->submitted = 0;
}

int bloomgate_settle(struct bloomgate_slot *slot, struct bloomgate_decision *decision)
{
    uint32_t mask = BLOOMGATE_SLOT_VERDICT_DONE_MASK | BLOOMGATE_SLOT_VERDICT_REQUEST_MASK;
    uint32_t value = BLOOMGATE_SLOT_VERDICT_DONE_MASK | slot->request << BLOOMGATE_SLOT_VERDICT_REQUEST_SHIFT;
    int status = await(slot, BLOOMGATE_SLOT_VERDICT, mask, value);
    if (status == BLOOMGATE_OK) {
        collect(slot, decision);
    }
    return status;
}

/* Begins a transaction with a snapshot of that epoch, and waits until the slot is doomed and was told why. */
static int be_doomed(const struct bloomgate_slot *slot, uint32_t epoch)
{
    uint32_t told = BLOOMGATE_SLOT_FLIGHT_TOLD_MASK, doomed = BLOOMGATE_SLOT_FLIGHT_DOOMED_MASK;
    store(slot, BLOOMGATE_SLOT_DISCARD, 0);
    /* Else what is meant for the transaction before may come upon this one. */
    int status = await(slot, BLOOMGATE_SLOT_FLIGHT, told, told);
    if (status == BLOOMGATE_OK) {
        store(slot, BLOOMGATE_SLOT_SNAPSHOT_EPOCH, epoch);
        store(slot, BLOOMGATE_SLOT_SNAPSHOT_COUNT, 0);
        store(slot, BLOOMGATE_SLOT_ANNOUNCE, BLOOMGATE_SLOT_ANNOUNCE_ON_MASK);
        status = await(slot, BLOOMGATE_SLOT_FLIGHT, told | doomed, told | doomed);
    }
    return status;
}

int bloomgate_slot_newest(struct bloomgate_slot *slot, uint64_t *timestamp)
{
    if (slot->submitted) {
        return BLOOMGATE_E_UNSETTLED;
    }
    for (unsigned int looks = 0; looks < LOOKS; looks++) {
        /* A snapshot of another epoch dooms at once, and the doom has the newest timestamp. */
        int status = be_doomed(slot, UINT32_MAX);
        if (status == BLOOMGATE_E_TIMEOUT) {
            status = be_doomed(slot, 0);
        }
        uint32_t epoch = load(slot, BLOOMGATE_SLOT_DOOM_EPOCH), count = load(slot, BLOOMGATE_SLOT_DOOM_COUNT);
        store(slot, BLOOMGATE_SLOT_DISCARD, 0);
        *timestamp = ((uint64_t)epoch << slot->geometry.timestamp_bits) + count;
        /* After its last count an epoch is just ending, unless it is the last that there can be. */
        if (status != BLOOMGATE_OK || count != bloomgate_largest(slot->geometry.timestamp_bits) ||
            epoch == UINT32_MAX) {
            return status;
        }
    }
    return BLOOMGATE_E_TIMEOUT;
}

int bloomgate_commit(struct bloomgate_slot *slot, const struct bloomgate_request *request,
                     struct bloomgate_decision *decision)
{
    if (slot->submitted) {
        return BLOOMGATE_E_UNSETTLED;
    }
    int status = bloomgate_request_check(&slot->geometry, request);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    fill(slot, BLOOMGATE_SLOT_READ_APERTURE, BLOOMGATE_SLOT_READ_APERTURE_BYTES, request->reads, request->read_count);
    fill(slot, BLOOMGATE_SLOT_WRITE_APERTURE, BLOOMGATE_SLOT_WRITE_APERTURE_BYTES, request->writes,
         request->write_count);
    fill(slot, BLOOMGATE_SLOT_COMMUTE_APERTURE, BLOOMGATE_SLOT_COMMUTE_APERTURE_BYTES, request->commutes,
         request->commute_count);
    slot->request = (slot->request + 1) & (BLOOMGATE_SLOT_SUBMIT_REQUEST_MASK >> BLOOMGATE_SLOT_SUBMIT_REQUEST_SHIFT);
    /* A redo log in shared memory is complete before the request can be decided. */
    bloomgate_store_barrier();
    store(slot, BLOOMGATE_SLOT_SNAPSHOT_EPOCH, (uint32_t)(request->snapshot >> slot->geometry.timestamp_bits));
    store(slot, BLOOMGATE_SLOT_SNAPSHOT_COUNT, (uint32_t)request->snapshot & bloomgate_largest(slot->geometry.timestamp_bits));
    slot->submitted = 1;
    store(slot, BLOOMGATE_SLOT_SUBMIT, slot->request << BLOOMGATE_SLOT_SUBMIT_REQUEST_SHIFT);
    return bloomgate_settle(slot, decision);
}

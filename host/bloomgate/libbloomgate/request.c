#include "request.h"

#include "bloomgate_registers.h"

#define FIELD(word, name) (((word) & BLOOMGATE_SLOT_VERDICT_##name##_MASK) >> BLOOMGATE_SLOT_VERDICT_##name##_SHIFT)

static int check_set(const uint32_t *keys, size_t count, uint32_t max_key, size_t *room)
{
    if (count > *room) {
        return BLOOMGATE_E_TOO_LARGE;
    }
    *room -= count;
    for (size_t i = 0; i < count; i++) {
        if (keys[i] > max_key) {
            return BLOOMGATE_E_KEY;
        }
    }
    return BLOOMGATE_OK;
}

int bloomgate_request_check(const struct bloomgate_geometry *geometry, const struct bloomgate_request *request)
{
    uint32_t max_key = bloomgate_largest(geometry->key_bits);
    size_t room = geometry->aperture_depth;
    if (request->snapshot >> geometry->timestamp_bits > UINT32_MAX) {
        return BLOOMGATE_E_SNAPSHOT;
    }
    int status = check_set(request->reads, request->read_count, max_key, &room);
    if (status == BLOOMGATE_OK) {
        status = check_set(request->writes, request->write_count, max_key, &room);
    }
    if (status == BLOOMGATE_OK) {
        status = check_set(request->commutes, request->commute_count, max_key, &room);
    }
    return status;
}

void bloomgate_decision_of(const struct bloomgate_geometry *geometry, const uint32_t *words,
                           struct bloomgate_decision *decision)
{
    *decision = (struct bloomgate_decision){
        .committed = FIELD(words[0], COMMITTED), .timestamped = 0, .timestamp = 0, .reason = 0, .key = 0};
    if (!decision->committed) {
        decision->reason = FIELD(words[0], REASON);
        if (BLOOMGATE_KEY_REASONS >> decision->reason & 1) {
            decision->key = words[3];
        }
    } else if (FIELD(words[0], TIMESTAMPED)) {
        decision->timestamped = 1;
        decision->timestamp = ((uint64_t)words[1] << geometry->timestamp_bits) + words[2];
    }
}

/* Rings, from the side that decides: doorbells, descriptors, completions. model_queue.py is the specification.
 *
 * A window and a doorbell belong to a client that may write anything there at any time. So nothing is read twice that
 * has to be the same both times, except keys, where a second value can only harm the client itself.
 */

#define RING_INDICES 0x10000u
#define ENTRY_WORDS 8u
#define NO_BAD_WORD ENTRY_WORDS

/* One slot, as this process sees it. */
typedef struct bg_ring {
    struct bg_slot_control *control;
    unsigned char *window;
    uint64_t window_bytes;
    uint32_t entries;
    uint32_t slot;          /* NOBODY in a device of this process, where rings have nothing to do with slots in flight */
    _Atomic uint64_t *last; /* where others read the newest timestamp, or NULL */
    bg_publication *publication; /* of its segment, or NULL */
    struct bg_slot_control *controls; /* of slot 0, where others read what happens in flight, or NULL */
} bg_ring;

/* flight.c */
static void tell_flight(bg_device *device, bg_publication *publication, struct bg_slot_control *controls);

static inline uint32_t steps(uint32_t from, uint32_t to) {
    return (to - from) % RING_INDICES;
}

static inline uint32_t get(const _Atomic uint32_t *word) {
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline void put(_Atomic uint32_t *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Where in a ring an index is; a ring has a power of two of entries. */
static inline uint32_t place_of(const bg_ring *ring, uint32_t index) {
    return index & (ring->entries - 1);
}

static inline _Atomic uint32_t *submission_at(const bg_ring *ring, uint32_t index) {
    return (_Atomic uint32_t *)(ring->window + place_of(ring, index) * BG_ENTRY_BYTES);
}

static inline _Atomic uint32_t *completion_at(const bg_ring *ring, uint32_t index) {
    return (_Atomic uint32_t *)(ring->window + (ring->entries + place_of(ring, index)) * BG_ENTRY_BYTES);
}

/* `owner` is GENERATION in its place, bits 31:16. */
static inline uint32_t sequence_of(uint32_t owner, uint32_t index) {
    return owner | ((index + 1) % RING_INDICES);
}

static inline uint32_t owner_of(uint32_t word) {
    return word & ~(RING_INDICES - 1);
}

/* Whether whoever rang a doorbell may do so: the word has the generation of an enabled queue. */
static bool from_owner(const bg_ring *ring, uint32_t word) {
    uint32_t status = get(&ring->control->status);
    return (status & 1) != 0 && word >> 16 == status >> 16;
}

/* The two doorbells; false if refused. */
static bool ring_head(const bg_ring *ring, uint32_t word) {
    struct bg_slot_control *control = ring->control;
    uint32_t index = word % RING_INDICES;
    if (!from_owner(ring, word) || steps(index, get(&control->submission_head)) > ring->entries) {
        put(&control->bad_doorbells, get(&control->bad_doorbells) + 1);
        return false;
    }
    put(&control->head, index);
    return true;
}

static bool ring_tail(const bg_ring *ring, uint32_t word) {
    struct bg_slot_control *control = ring->control;
    uint32_t index = word % RING_INDICES;
    if (!from_owner(ring, word) || steps(get(&control->submission_head), index) > ring->entries ||
        steps(get(&control->head), index) > ring->entries) {
        put(&control->bad_doorbells, get(&control->bad_doorbells) + 1);
        return false;
    }
    put(&control->tail, index);
    return true;
}

/* Looks at the doorbells in memory, where one counts when its word has changed. Returns how many were refused. */
static uint32_t poll_doorbells(const bg_ring *ring) {
    struct bg_slot_control *control = ring->control;
    uint32_t refused = 0;
    /* Acquire, with the release in bg_submit(): the entry and its logs are there, and the head below is at least as new
     * as the one that made room for the entry. */
    uint32_t tail = atomic_load_explicit(&control->submission_tail, memory_order_acquire);
    uint32_t head = get(&control->completion_head);
    if (head != get(&control->seen_head)) {
        put(&control->seen_head, head);
        refused += !ring_head(ring, head);
    }
    if (tail != get(&control->seen_tail)) {
        put(&control->seen_tail, tail);
        refused += !ring_tail(ring, tail);
    }
    return refused;
}

static inline bool pending(const bg_ring *ring) {
    return get(&ring->control->submission_head) != get(&ring->control->tail);
}

/* Whether a log lies in the window, for entry words that say where. */
static bool inside(const bg_ring *ring, uint32_t offset, uint32_t count) {
    return count == 0 || (offset % sizeof(uint32_t) == 0 &&
                          (uint64_t)offset + (uint64_t)count * sizeof(uint32_t) <= ring->window_bytes);
}

/* The first word of an entry that is not what it must be, or NO_BAD_WORD. */
static uint32_t first_bad_word(const bg_ring *ring, const uint32_t *words) {
    if (words[0] >> 16 != BG_ENTRY_FORMAT && (words[0] >> 16 != BG_ENTRY_FORMAT_IN_FLIGHT || ring->controls == NULL))
        return 0;
    if (words[4] <= BG_MAX_READ_KEYS && !inside(ring, words[3], words[4]))
        return 3;
    if (words[4] > BG_MAX_READ_KEYS)
        return 4;
    if (!inside(ring, words[5], words[7] & 0xffff))
        return 5;
    if (!inside(ring, words[6], words[7] >> 16))
        return 6;
    return NO_BAD_WORD;
}

static uint32_t verdict_word(const bg_verdict *verdict, uint32_t request) {
    uint32_t word = BG_VERDICT_DONE | request << BG_VERDICT_REQUEST_SHIFT;
    if (verdict->code == BG_COMMIT)
        return word | BG_VERDICT_COMMITTED | BG_VERDICT_TIMESTAMPED;
    if (verdict->code == BG_READ_ONLY)
        return word | BG_VERDICT_COMMITTED;
    return word | verdict->code << BG_VERDICT_REASON_SHIFT;
}

/* Writes the completion of the oldest submission that has none, and only then counts it as decided. */
static void complete(const bg_ring *ring, const bg_verdict *verdict, uint32_t request) {
    struct bg_slot_control *control = ring->control;
    uint32_t index = get(&control->submission_head);
    uint32_t sequence = sequence_of(owner_of(get(&control->status)), index);
    bool timestamped = verdict->code == BG_COMMIT;
    bool key = verdict->code == BG_REASON_CONFLICT || verdict->code == BG_REASON_PARITY ||
               verdict->code == BG_REASON_IRREVOCABLE;
    _Atomic uint32_t *entry = completion_at(ring, index);
    put(entry, verdict_word(verdict, request));
    put(entry + 2, timestamped ? verdict->epoch : 0);
    put(entry + 4, timestamped ? verdict->count : 0);
    put(entry + 6, key ? verdict->key : 0);
    BG_POINT(COMPLETION_WRITTEN);
    /* With the acquire fence in completed(): who sees the sequence sees the payload, and what was stored before. */
    atomic_thread_fence(memory_order_release);
    for (uint32_t beat = 0; beat < BG_COMPLETION_BEATS; beat++)
        put(entry + 2 * beat + 1, sequence);
    BG_POINT(COMPLETION_VISIBLE);
    atomic_store_explicit(&control->submission_head, (index + 1) % RING_INDICES, memory_order_release);
}

/* Whether the completion of a submission is there; then its payload. */
static inline bool completed(const bg_ring *ring, uint32_t owner, uint32_t index, uint32_t *payload) {
    _Atomic uint32_t *entry = completion_at(ring, index);
    uint32_t sequence = sequence_of(owner, index);
#pragma GCC unroll 4
    for (uint32_t beat = 0; beat < BG_COMPLETION_BEATS; beat++)
        if (get(entry + 2 * beat + 1) != sequence)
            return false;
    atomic_thread_fence(memory_order_acquire); /* with the release fence in complete() */
#pragma GCC unroll 4
    for (uint32_t beat = 0; beat < BG_COMPLETION_BEATS; beat++)
        payload[beat] = get(entry + 2 * beat);
    return true;
}

/* The epoch's last commit is decided, and its verdict may have been seen before the epoch ends. */
static bool is_ending(bg_device *device, bg_publication *publication) {
    return device->epoch != UINT32_MAX && (device->last == device->max_count || ends_epoch(device, publication));
}

static void tell_newest(bg_device *device, const bg_ring *ring) {
    if (ring->last == NULL)
        return;
    uint64_t newest = is_ending(device, ring->publication) ? ((uint64_t)device->epoch + 1) << device->timestamp_bits
                                                           : last_timestamp(device);
    atomic_store_explicit(ring->last, newest, memory_order_release);
}

/* Delivers the verdict that the intent record has, unless that was done before its holder died. */
static void deliver(bg_device *device, const bg_ring *ring) {
    if (get(&ring->control->submission_head) == device->intent.index)
        complete(ring, &device->intent.verdict, device->intent.request);
}

/* Decides the next submission of a slot, if there is one. `device` is locked. */
static bool serve_one(bg_device *device, const bg_ring *ring) {
    if (!pending(ring))
        return false;
    uint32_t index = get(&ring->control->submission_head);
    uint32_t words[ENTRY_WORDS];
    for (uint32_t i = 0; i < ENTRY_WORDS; i++)
        words[i] = get(submission_at(ring, index) + i);
    const char *window = (const char *)ring->window;
    bg_request request = {
        .epoch = words[1],
        .count = words[2],
        .reads = {words[4] ? window + words[3] : window, words[4]},
        .writes = {words[7] & 0xffff ? window + words[5] : window, words[7] & 0xffff},
        .commutes = {words[7] >> 16 ? window + words[6] : window, words[7] >> 16},
        .chunk = device->buffer_depth,
        .capacity = device->buffer_depth,
        .client = ring->slot + 1,
        .slot = ring->slot,
        .index = index,
        .number = words[0] & 0xffff,
    };
    bg_verdict verdict = {.code = BG_REASON_BAD_REQUEST};
    if (first_bad_word(ring, words) != NO_BAD_WORD ||
        (words[0] >> 16 == BG_ENTRY_FORMAT_IN_FLIGHT && !take_transaction(device, ring->slot, &request))) {
        device->statistics[BG_STATISTIC_ERRORS]++;
        abort_with(device, &verdict, BG_REASON_BAD_REQUEST);
    } else {
        request.wide = too_wide(device, request.writes.keys, 0, request.writes.count) ||
                       too_wide(device, request.commutes.keys, 0, request.commutes.count);
        verdict = decide(device, &request);
    }
    if (verdict.code != BG_COMMIT)
        intend_delivery(device, &request, &verdict);
    BG_POINT(DECIDED);
    if (request.in_flight)
        slot_decided(device, ring->slot, &verdict);
    BG_POINT(FLIGHT_DECIDED);
    tell_newest(device, ring);
    tell_flight(device, ring->publication, ring->controls);
    deliver(device, ring);
    BG_POINT(DELIVERED);
    finish_commit(device);
    end_epoch_early(device, ring->publication);
    tell_newest(device, ring);
    tell_flight(device, ring->publication, ring->controls);
    return true;
}

/* Ends the ownership of a slot, and begins another unless `generation` is 0. What was not decided is forgotten. */
static void enable_ring(const bg_ring *ring, uint32_t generation) {
    struct bg_slot_control *control = ring->control;
    put(&control->status, 0);
    BG_POINT(RING_DISABLED);
    for (uint32_t index = 0; index < ring->entries; index++)
        for (uint32_t word = 0; word < ENTRY_WORDS; word++)
            put(completion_at(ring, index) + word, 0);
    /* What an earlier owner left there is gone, even if generations have come round: a doorbell that is seen to be as it was
     * is none. */
    put(&control->submission_tail, generation << 16);
    put(&control->completion_head, generation << 16);
    put(&control->seen_tail, generation << 16);
    put(&control->seen_head, generation << 16);
    put(&control->submission_head, 0);
    put(&control->tail, 0);
    put(&control->head, 0);
    if (generation != 0)
        atomic_store_explicit(&control->status, generation << 16 | 1, memory_order_release);
}

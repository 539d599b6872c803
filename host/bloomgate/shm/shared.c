/* A segment: the device that its clients share without a server, and what they and a server use together.
 *
 * Without a server whoever wants a verdict takes the mutex and decides: its own submissions, and now and then one of each
 * other slot (client.c says when). The mutex is robust. A holder can be killed at any instruction; recover() then finishes
 * what the intent record says, and raises the floor to the last timestamp, which makes the state of the filter irrelevant.
 *
 * Behind in_flight.c, redo.c and ring.c.
 */

typedef struct bg_segment {
    unsigned char *base;
    struct bg_header *header;
    bg_publication *publication;
    bg_device *device; /* NULL with a server */
    uint32_t slots;
    uint32_t pid;
    int file;          /* its locks say which slots have an owner that lives; -1: all have */
    uint32_t own_slot; /* this client's; BG_NO_SLOT: none */
    bg_ring rings[BG_MAX_SLOTS];
} bg_segment;

/* flight.c */
static void tell_all_again(bg_segment *segment);
static void bury_holder(bg_segment *segment);

/* Where things are in a mapped segment. NULL without memory. */
static bg_segment *bg_segment_open(void *base) {
    bg_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return NULL;
    struct bg_header *header = base;
    segment->base = base;
    segment->header = header;
    segment->publication = (bg_publication *)(segment->base + header->publication);
    if (header->device_bytes != 0)
        segment->device = (bg_device *)(segment->base + header->device);
    segment->slots = header->geometry[BG_GEOMETRY_SLOTS];
    segment->pid = (uint32_t)getpid();
    segment->file = -1;
    segment->own_slot = BG_NO_SLOT;
    for (uint32_t slot = 0; slot < segment->slots; slot++)
        segment->rings[slot] = (bg_ring){
            .control = (struct bg_slot_control *)(segment->base + header->slot_controls) + slot,
            .window = segment->base + header->windows + slot * header->window_bytes,
            .window_bytes = header->window_bytes,
            .entries = header->geometry[BG_GEOMETRY_QUEUE_ENTRIES],
            .slot = slot,
            .last = &header->last,
            .publication = segment->publication,
            .controls = (struct bg_slot_control *)(segment->base + header->slot_controls),
        };
    return segment;
}

/* The client owns that slot now, with a lock of that open file. */
static void bg_segment_own(bg_segment *segment, int file, uint32_t slot) {
    segment->file = file;
    segment->own_slot = slot;
}

static void bg_segment_close(bg_segment *segment) {
    free(segment);
}

/* Prepares a new segment, which is all zeros behind its header. Returns success. */
static int bg_segment_format(bg_segment *segment, const uint32_t *matrices) {
    struct bg_header *header = segment->header;
    segment->publication->position = 1;
    segment->publication->stamps[1 % BG_STAMPS] = header->origin;
    header->last = header->origin;
    if (segment->device == NULL)
        return 1;
    return bg_device_init(segment->device, header->geometry[BG_GEOMETRY_K],
                          (uint32_t)__builtin_ctz(header->geometry[BG_GEOMETRY_D]),
                          header->geometry[BG_GEOMETRY_TIMESTAMP_BITS], header->geometry[BG_GEOMETRY_KEY_BITS],
                          header->geometry[BG_GEOMETRY_SLOTS], header->geometry[BG_GEOMETRY_APERTURE_DEPTH], header->geometry[BG_GEOMETRY_BUFFER_DEPTH],
                          matrices, 1);
}

/* Futexes. A sleeper sets `asleep`, looks once more, and sleeps unless `word` has changed meanwhile; who makes something
 * true that is waited for changes it and then looks at `asleep`. The fences of both are sequentially consistent, so one
 * of them sees the other. */

static void wake(_Atomic uint32_t *asleep, _Atomic uint32_t *word) {
    atomic_thread_fence(memory_order_seq_cst);
    if (get(asleep) == 0)
        return;
    atomic_fetch_add_explicit(word, 1, memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void sleep_on(_Atomic uint32_t *word, uint32_t seen, uint64_t ns) {
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &time, NULL, 0);
}

/* The mutex. */

/* What serve_one() has begun to do with a verdict that it had noted. */
static void deliver_again(bg_device *device, const bg_ring *ring) {
    if (device->intent.in_flight)
        slot_decided(device, ring->slot, &device->intent.verdict);
    deliver(device, ring);
}

/* Makes the state whole after its holder died at any instruction. Can itself be cut short and begun again. */
static void recover(bg_segment *segment) {
    bg_device *device = segment->device;
    size_t size = (size_t)device->tables * device->rows;
    device->bad_words = 0;
    for (size_t where = 0; where < size; where++)
        device->bad_words += bad_of(device)[where];
    recover_token(device);
    const bg_ring *ring = &segment->rings[device->intent.slot % segment->slots];
    switch (device->intent.kind) {
    case INTENT_COMMIT:
        /* Assigned or not, nobody else has the timestamp; keys may be missing in the filter. */
        device->last = device->intent.verdict.count;
        device->floor = device->last;
        tell_newest(device, ring);
        deliver_again(device, ring);
        finish_commit(device);
        break;
    case INTENT_DELIVERY:
        deliver_again(device, ring);
        finish_commit(device);
        break;
    case INTENT_EPOCH:
        bg_epoch_end(segment->publication, device->timestamp_bits,
                     ((uint64_t)device->intent.old_epoch << device->timestamp_bits) + device->intent.old_last,
                     (uint64_t)device->intent.new_epoch << device->timestamp_bits);
        step_epoch(device);
        break;
    default:
        break;
    }
    if (device->last == device->max_count && !device->exhausted)
        end_epoch(device, 0, false); /* killed between its last commit and its end */
    recover_flight(device);
    end_epoch_early(device, segment->publication);
    tell_newest(device, ring);
    tell_all_again(segment);
}

/* Whether the caller has the mutex now; `ns` 0 only tries. */
static bool take_mutex(bg_segment *segment, uint64_t ns) {
    pthread_mutex_t *mutex = &segment->device->lock;
    int failure;
    if (ns == 0) {
        failure = pthread_mutex_trylock(mutex);
    } else {
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        ns += (uint64_t)end.tv_nsec;
        end.tv_sec += (time_t)(ns / 1000000000);
        end.tv_nsec = (long)(ns % 1000000000);
        failure = pthread_mutex_timedlock(mutex, &end);
    }
    if (failure == EOWNERDEAD) {
        BG_POINT(RECOVERING);
        recover(segment);
        BG_POINT(RECOVERED);
        pthread_mutex_consistent(mutex);
        failure = 0;
    }
    if (failure != 0)
        return false;
    put(&segment->header->decider_pid, segment->pid);
    BG_POINT(LOCKED);
    bury_holder(segment);
    return true;
}

static void give_mutex(bg_segment *segment) {
    if (end_epoch_early(segment->device, segment->publication))
        tell_newest(segment->device, &segment->rings[0]);
    tell_flight(segment->device, segment->publication, segment->rings[0].control);
    BG_POINT(UNLOCKING);
    pthread_mutex_unlock(&segment->device->lock);
}

/* For bg_sharing: completes what a dead holder has begun, if the mutex is free. */
static void recover_dead(void *segment) {
    if (take_mutex(segment, 0))
        give_mutex(segment);
}

/* Decides one submission of every slot that has any, beginning behind where the last round ended. */
static void serve_round(bg_segment *segment) {
    uint32_t first = get(&segment->header->next_slot);
    for (uint32_t i = 0; i < segment->slots; i++) {
        const bg_ring *ring = &segment->rings[(first + i) % segment->slots];
        segment->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
        if (serve_one(segment->device, ring))
            put(&segment->header->next_slot, (ring->slot + 1) % segment->slots);
    }
}

/* What Python does to the device. Each takes up to `ns` for the mutex, and returns success. */

/* This one -1, and does nothing, if the epoch's end could not be noted. */
static int bg_segment_reset(bg_segment *segment, uint32_t initial_epoch, uint64_t ns) {
    bg_device *device = segment->device;
    if (!take_mutex(segment, ns))
        return 0;
    if (!has_room_for_end(segment->publication)) {
        give_mutex(segment);
        return -1;
    }
    uint64_t before = last_timestamp(device);
    if (intend_epoch(device, initial_epoch, true)) {
        bg_epoch_end(segment->publication, device->timestamp_bits, before,
                     (uint64_t)device->intent.new_epoch << device->timestamp_bits);
        BG_POINT(EPOCH_RECORDED);
        step_epoch(device);
    }
    tell_newest(device, &segment->rings[0]);
    give_mutex(segment);
    return 1;
}

static int bg_segment_raise_floor(bg_segment *segment, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    raise_floor(segment->device, NOBODY);
    give_mutex(segment);
    return 1;
}

static int bg_segment_inject(bg_segment *segment, uint32_t table, uint32_t row, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    make_bad(segment->device, table, row);
    give_mutex(segment);
    return 1;
}

static int bg_segment_stats(bg_segment *segment, uint64_t *statistics, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    copy_statistics(segment->device, statistics);
    give_mutex(segment);
    return 1;
}

/* Decides all that a slot has submitted. */
static int bg_segment_drain(bg_segment *segment, uint32_t slot, uint64_t ns) {
    const bg_ring *ring = &segment->rings[slot];
    if (!take_mutex(segment, ns))
        return 0;
    segment->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (serve_one(segment->device, ring))
        ;
    give_mutex(segment);
    return 1;
}

static int bg_segment_enable(bg_segment *segment, uint32_t slot, uint32_t generation, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    enable_ring(&segment->rings[slot], generation);
    give_mutex(segment);
    return 1;
}

/* The newest timestamp once a commit has this completion: behind the last one of an epoch comes the next epoch's first. */
static uint64_t newest_by(const uint32_t *payload, uint32_t timestamp_bits) {
    uint64_t timestamp = ((uint64_t)payload[1] << timestamp_bits) + payload[2];
    uint64_t counts = UINT64_MAX >> (64 - timestamp_bits);
    return timestamp + ((timestamp & counts) == counts && payload[1] != UINT32_MAX);
}

/* At least as new as any timestamp that somebody has seen. Gateware writes completions itself, and its server counts them
 * later: so those that are there and not counted yet are looked at. */
static uint64_t bg_segment_last(bg_segment *segment) {
    uint64_t newest = 0;
    for (uint32_t slot = 0; segment->device == NULL && slot < segment->slots; slot++) {
        const bg_ring *ring = &segment->rings[slot];
        uint32_t payload[BG_COMPLETION_BEATS];
        /* Acquire, with the release in bg_serve_collect(): what is counted is in `last`, which is read behind it. */
        uint32_t index = atomic_load_explicit(&ring->control->submission_head, memory_order_acquire);
        uint32_t owner = owner_of(get(&ring->control->status));
        for (uint32_t i = 0; i < ring->entries && completed(ring, owner, index, payload); i++) {
            if ((payload[0] & BG_VERDICT_TIMESTAMPED) != 0) {
                uint64_t timestamp = newest_by(payload, segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS]);
                newest = timestamp > newest ? timestamp : newest;
            }
            index = (index + 1) % RING_INDICES;
        }
    }
    uint64_t last = atomic_load_explicit(&segment->header->last, memory_order_acquire);
    return newest > last ? newest : last;
}

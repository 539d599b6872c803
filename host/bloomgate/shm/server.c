/* The server of a segment: one process decides for all clients, with a device of its own.
 *
 * Behind client.c. bg_serve() does it all for soft:; for other devices Python takes submissions one by one and answers
 * them.
 */

/* Rounds over the slots in which nothing was found before the server sleeps. */
#define IDLE_ROUNDS 2000
/* Requests after which it looks for signals, and for a token whose holder is gone. */
#define MOST_DECIDED 4096

/* Whether a client has written a command that is not carried out. */
static bool commanded(const bg_ring *ring) {
    return atomic_load_explicit(&ring->control->command, memory_order_acquire) != get(&ring->control->done);
}

/* The first slot with something to do, looking at the doorbells from `first` on; `slots` if there is none. */
static uint32_t find_work(bg_segment *segment, bg_device *device, uint32_t first) {
    for (uint32_t i = 0; i < segment->slots; i++) {
        const bg_ring *ring = &segment->rings[(first + i) % segment->slots];
        uint32_t refused = poll_doorbells(ring);
        if (device != NULL)
            device->statistics[BG_STATISTIC_ERRORS] += refused;
        if (pending(ring) || commanded(ring))
            return ring->slot;
    }
    return segment->slots;
}

/* Sleeps until a doorbell rings, for at most `ns`. */
static void await_doorbell(bg_segment *segment, bg_device *device, uint64_t ns) {
    struct bg_header *header = segment->header;
    uint32_t seen = get(&header->doorbell_sequence);
    put(&header->server_asleep, 1);
    atomic_thread_fence(memory_order_seq_cst); /* with the one in wake() */
    if (find_work(segment, device, 0) == segment->slots)
        sleep_on(&header->doorbell_sequence, seen, ns);
    put(&header->server_asleep, 0);
}

/* The next slot with something to do, in turns; -1 if nothing came within `ns`. */
static int next_work(bg_segment *segment, bg_device *device, uint64_t ns) {
    uint32_t slot = segment->slots;
    for (uint32_t round = 0; round < IDLE_ROUNDS && slot == segment->slots; round++) {
        slot = find_work(segment, device, get(&segment->header->next_slot));
        if (slot == segment->slots)
            relax();
    }
    if (slot == segment->slots) {
        await_doorbell(segment, device, ns);
        slot = find_work(segment, device, get(&segment->header->next_slot));
    }
    if (slot == segment->slots)
        return -1;
    put(&segment->header->next_slot, (slot + 1) % segment->slots);
    return (int)slot;
}

static void wake_client(const bg_ring *ring) {
    wake(&ring->control->asleep, &ring->control->wake);
}

/* Decides what clients submit, with `device`, until one of them has a command, whose slot is returned; -1 after `ns`
 * without work, or after much of it. */
static int bg_serve(bg_segment *segment, bg_device *device, uint64_t ns) {
    for (uint32_t decided = 0; decided < MOST_DECIDED; decided++) {
        int slot = next_work(segment, device, ns);
        if (slot < 0)
            return -1;
        const bg_ring *ring = &segment->rings[slot];
        if (commanded(ring))
            return slot;
        pthread_mutex_lock(&device->lock);
        serve_one(device, ring);
        pthread_mutex_unlock(&device->lock);
        wake_sleepers(device);
        wake_client(ring);
    }
    return -1;
}

static void bg_serve_last(bg_segment *segment, uint64_t last) {
    atomic_store_explicit(&segment->header->last, last, memory_order_release);
}

/* For a device that fetches and completes by itself. */

/* The doorbells that count: GENERATION | INDEX of COMPLETION_HEAD and of SUBMISSION_TAIL. Returns how many submissions have
 * no completion. */
static uint32_t bg_serve_doorbells(bg_segment *segment, uint32_t slot, uint32_t *words) {
    const bg_ring *ring = &segment->rings[slot];
    uint32_t owner = owner_of(get(&ring->control->status));
    words[0] = owner | get(&ring->control->head);
    words[1] = owner | get(&ring->control->tail);
    return steps(get(&ring->control->submission_head), get(&ring->control->tail));
}

/* Counts the completions that the device has written for a slot, and wakes its owner. */
static void bg_serve_collect(bg_segment *segment, uint32_t slot) {
    const bg_ring *ring = &segment->rings[slot];
    struct bg_slot_control *control = ring->control;
    uint32_t bits = segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS];
    uint32_t payload[BG_COMPLETION_BEATS];
    bool found = false;
    while (pending(ring) && completed(ring, owner_of(get(&control->status)), get(&control->submission_head), payload)) {
        uint64_t newest = newest_by(payload, bits);
        if ((payload[0] & BG_VERDICT_TIMESTAMPED) != 0 && newest > segment->header->last)
            bg_serve_last(segment, newest);
        uint32_t counted = (get(&control->submission_head) + 1) % RING_INDICES;
        atomic_store_explicit(&control->submission_head, counted, memory_order_release);
        found = true;
    }
    if (found)
        wake_client(ring);
}

/* Decides all that a slot has submitted. */
static void bg_serve_drain(bg_segment *segment, bg_device *device, uint32_t slot) {
    const bg_ring *ring = &segment->rings[slot];
    pthread_mutex_lock(&device->lock);
    device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (serve_one(device, ring))
        ;
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
}

/* Begins to serve a segment that may have had a server before, whose device is gone: what it decided and did not deliver
 * is nobody's, and later timestamps begin at `origin`, in a later epoch. Returns success, else there is no room to note all
 * that before more is published; it can be done again. */
static int bg_serve_begin(bg_segment *segment, bg_sharing *sharing, uint64_t origin) {
    bg_publication *publication = segment->publication;
    for (uint32_t slot = 0; slot < segment->slots; slot++)
        bg_serve_collect(segment, slot); /* the server died between a completion and its index */
    uint64_t last = segment->header->last;
    if (origin <= last)
        return 1;
    for (uint64_t next = bg_published(publication); (next = successor(publication, sharing->timestamp_bits, next)) != 0 &&
                                                    next <= last;) {
        bg_redo_entry copy[BG_REDO_ENTRIES];
        uint32_t owner, count;
        if (!is_origin(sharing->timestamp_bits, next) &&
            find_owner(sharing, next, &owner, copy, &count) == NOBODY_FOUND &&
            !bg_publish(publication, sharing->timestamp_bits, next))
            return 0;
    }
    if (!bg_epoch_end(publication, sharing->timestamp_bits, last, origin))
        return 0;
    atomic_store_explicit(&segment->header->last, origin, memory_order_release);
    return 1;
}

/* Takes the next submission of a slot: its words, of which a ninth is the first bad one. The caller answers it before it
 * takes another. False if there is none. */
static int bg_serve_take_of(bg_segment *segment, uint32_t slot, uint32_t *words) {
    const bg_ring *ring = &segment->rings[slot];
    if (!pending(ring))
        return 0;
    for (uint32_t i = 0; i < ENTRY_WORDS; i++)
        words[i] = get(submission_at(ring, get(&ring->control->submission_head)) + i);
    words[ENTRY_WORDS] = first_bad_word(ring, words);
    return 1;
}

/* The same for whichever slot is next. Returns the slot, or -1 after `ns` without work, or -2 - slot for a slot with a
 * command. */
static int bg_serve_take(bg_segment *segment, uint64_t ns, uint32_t *words) {
    int slot = next_work(segment, NULL, ns);
    if (slot >= 0 && commanded(&segment->rings[slot]))
        return -2 - slot;
    return slot >= 0 && bg_serve_take_of(segment, (uint32_t)slot, words) ? slot : -1;
}

/* Answers what was taken; `code` as in bg_verdict. `last`: the newest timestamp of the device now. */
static void bg_serve_answer(bg_segment *segment, uint32_t slot, uint32_t code, uint32_t request, uint64_t timestamp,
                            uint32_t key, uint64_t last) {
    const bg_ring *ring = &segment->rings[slot];
    uint32_t bits = segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS];
    bg_verdict verdict = {
        .code = code,
        .epoch = (uint32_t)(timestamp >> bits),
        .count = (uint32_t)(timestamp & (UINT64_MAX >> (64 - bits))),
        .key = key,
    };
    bg_serve_last(segment, last);
    complete(ring, &verdict, request);
    wake_client(ring);
}

/* The command of a slot and its arguments. */
static uint64_t bg_serve_command(bg_segment *segment, uint32_t slot, uint64_t *arguments) {
    struct bg_slot_control *control = segment->rings[slot].control;
    uint32_t command = atomic_load_explicit(&control->command, memory_order_acquire);
    for (uint32_t i = 0; i < 3; i++)
        arguments[i] = control->argument[i];
    return command;
}

static void bg_serve_done(bg_segment *segment, uint32_t slot, uint32_t command, uint64_t result) {
    struct bg_slot_control *control = segment->rings[slot].control;
    control->result[0] = result;
    atomic_store_explicit(&control->done, command, memory_order_release);
    wake_client(&segment->rings[slot]);
}

static void bg_serve_enable(bg_segment *segment, uint32_t slot, uint32_t generation) {
    enable_ring(&segment->rings[slot], generation);
}

/* The other side: a client has the server do something and waits for it. Returns success. */
static int bg_call(bg_client *client, uint32_t kind, const uint64_t *arguments, uint64_t ns, uint64_t *result) {
    struct bg_slot_control *control = client->ring.control;
    uint64_t end = now_ns() + ns;
    if (kind != 0) { /* 0: go on waiting for the command that was begun */
        uint32_t command = (get(&control->done) & ~UINT32_C(0xff)) + 0x100 + kind;
        for (uint32_t i = 0; i < 3; i++)
            control->argument[i] = arguments[i];
        atomic_store_explicit(&control->command, command, memory_order_release);
        wake(&client->segment->header->server_asleep, &client->segment->header->doorbell_sequence);
    }
    for (;;) {
        uint32_t seen = get(&control->wake);
        put(&control->asleep, 1);
        atomic_thread_fence(memory_order_seq_cst);
        bool done = atomic_load_explicit(&control->done, memory_order_acquire) == get(&control->command);
        uint64_t now = now_ns();
        if (!done && now < end)
            sleep_on(&control->wake, seen, end - now);
        if (done || now >= end) {
            put(&control->asleep, 0);
            *result = control->result[0];
            return done;
        }
    }
}

/* Queue pairs, from the side of the client. One client owns one slot; any of its threads may collect, and one at a time
 * submits or releases.
 *
 * Behind ring.c and shared.c.
 */

/* Looks at the completion before a waiter yields the processor, and yields before it sleeps. */
#define COLLECT_SPINS 400
#define COLLECT_YIELDS 20
/* Of that many looks without a server, one tries the mutex. */
#define LOOKS_PER_TRY 8

enum { PRIVATE, SERVERLESS, SERVED };

typedef struct bg_client {
    bg_ring ring;
    uint32_t generation;
    uint32_t tail; /* index of the next submission */
    uint32_t head; /* index of the oldest one that is not released */
    int kind;
    bg_device *device;   /* who decides, unless a server does */
    bg_segment *segment; /* NULL for a device of this process */
    struct bg_redo *redo;
    bool released[BG_MAX_QUEUE_ENTRIES];
} bg_client;

/* A client of a device in this process, with a window that the caller provides: zeroed, aligned to 64 bytes. */
static bg_client *bg_client_new(bg_device *device, void *control, void *window, uint64_t window_bytes,
                                uint32_t entries) {
    bg_client *client = calloc(1, sizeof *client);
    if (client != NULL)
        *client = (bg_client){
            .ring = {.control = control, .window = window, .window_bytes = window_bytes, .entries = entries},
            .kind = PRIVATE,
            .device = device,
        };
    return client;
}

/* The client that owns a slot of a segment. */
static bg_client *bg_client_of(bg_segment *segment, uint32_t slot) {
    bg_client *client = calloc(1, sizeof *client);
    if (client != NULL)
        *client = (bg_client){
            .ring = segment->rings[slot],
            .kind = segment->device != NULL ? SERVERLESS : SERVED,
            .device = segment->device,
            .segment = segment,
            .redo = (struct bg_redo *)(segment->base + segment->header->redo) + slot * segment->rings[slot].entries,
        };
    return client;
}

static void bg_client_free(bg_client *client) {
    free(client);
}

/* The queue has been enabled for this client. */
static void bg_client_begin(bg_client *client, uint32_t generation) {
    client->generation = generation;
    client->tail = client->head = 0;
    memset(client->released, 0, sizeof client->released);
}

/* The index that the next submission gets, or -1 while all entries are in use. */
static int bg_next(const bg_client *client) {
    return steps(client->head, client->tail) == client->ring.entries ? -1 : (int)client->tail;
}

/* Submits: the words of an entry, whose logs are complete, and what is to be installed if it commits. Returns its index,
 * or -1 while all entries are in use. Does not wait, and nothing is decided before bg_collect() without a server. */
static int bg_submit(bg_client *client, const uint32_t *words, uint32_t kind, const void *entries, uint32_t count) {
    const bg_ring *ring = &client->ring;
    uint32_t index = client->tail;
    if (steps(client->head, index) == ring->entries)
        return -1;
    if (client->redo != NULL)
        bg_redo_write(&client->redo[index % ring->entries], sequence_of(client->generation, index), kind, entries,
                      count);
    BG_POINT(REDO_WRITTEN);
    _Atomic uint32_t *entry = submission_at(ring, index);
    for (uint32_t i = 0; i < ENTRY_WORDS; i++)
        put(entry + i, words[i]);
    client->released[index % ring->entries] = false;
    client->tail = (index + 1) % RING_INDICES;
    BG_POINT(ENTRY_WRITTEN);
    put(&ring->control->completion_head, client->generation << 16 | client->head);
    /* Release, with the acquire in poll_doorbells(). */
    atomic_store_explicit(&ring->control->submission_tail, client->generation << 16 | client->tail,
                          memory_order_release);
    BG_POINT(DOORBELL_RUNG);
    if (client->kind == SERVED)
        wake(&client->segment->header->server_asleep, &client->segment->header->doorbell_sequence);
    return (int)index;
}

/* Takes the mutex, decides until the completion is there, and gives it back. */
static bool decide_until(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    const bg_ring *ring = &client->ring;
    if (!take_mutex(client->segment, ns))
        return false;
    bool served = true;
    bool done;
    client->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (!(done = completed(ring, client->generation, index, payload)) && served) {
        served = serve_one(client->device, ring);
        serve_round(client->segment);
    }
    give_mutex(client->segment);
    return done;
}

static bool collect_private(bg_client *client, uint32_t index, uint32_t *payload) {
    const bg_ring *ring = &client->ring;
    pthread_mutex_lock(&client->device->lock);
    client->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (serve_one(client->device, ring))
        ;
    pthread_mutex_unlock(&client->device->lock);
    return completed(ring, client->generation, index, payload);
}

static bool collect_serverless(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    for (uint32_t look = 0; look < COLLECT_SPINS + COLLECT_YIELDS; look++) {
        if (look % LOOKS_PER_TRY == 0 && decide_until(client, index, 0, payload))
            return true;
        if (completed(&client->ring, client->generation, index, payload))
            return true;
        if (look < COLLECT_SPINS)
            relax();
        else
            sched_yield();
    }
    return decide_until(client, index, ns, payload);
}

static bool collect_served(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    struct bg_slot_control *control = client->ring.control;
    uint64_t end = now_ns() + ns;
    for (uint32_t look = 0; look < COLLECT_SPINS + COLLECT_YIELDS; look++) {
        if (look < COLLECT_SPINS)
            relax();
        else
            sched_yield();
        if (completed(&client->ring, client->generation, index, payload))
            return true;
    }
    for (;;) {
        uint32_t seen = get(&control->wake);
        put(&control->asleep, 1);
        atomic_thread_fence(memory_order_seq_cst); /* with the one in wake() */
        bool done = completed(&client->ring, client->generation, index, payload);
        uint64_t now = now_ns();
        if (!done && now < end)
            sleep_on(&control->wake, seen, end - now);
        if (done || now >= end) {
            put(&control->asleep, 0);
            return done;
        }
    }
}

/* The payload of a submission's completion, four words. Waits up to `ns` (0: looks only, but does decide without a
 * server). Returns success. */
static int bg_collect(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    if (completed(&client->ring, client->generation, index, payload))
        return 1;
    if (client->kind == PRIVATE)
        return collect_private(client, index, payload);
    if (ns == 0)
        return client->kind == SERVERLESS && decide_until(client, index, 0, payload);
    return client->kind == SERVERLESS ? collect_serverless(client, index, ns, payload)
                                      : collect_served(client, index, ns, payload);
}

/* The caller has what it needs of a submission that it has collected: its entries, its logs and, if it was BG_REDO_ARRAY,
 * its redo record may be used again. Entries come free in the order of submission; one that commits without a redo
 * record only when there is room to remember whose it is. */
static void bg_release(bg_client *client, uint32_t index) {
    const bg_ring *ring = &client->ring;
    client->released[index % ring->entries] = true;
    while (client->head != client->tail && client->released[client->head % ring->entries]) {
        _Atomic uint32_t *entry = completion_at(ring, client->head);
        uint32_t verdict = get(entry);
        if (client->redo != NULL && (verdict & BG_VERDICT_TIMESTAMPED) != 0 &&
            client->redo[client->head % ring->entries].kind == BG_REDO_MANUAL) {
            uint32_t bits = client->segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS];
            uint64_t timestamp = ((uint64_t)get(entry + 2) << bits) + get(entry + 4);
            if (!bg_claim(client->segment->publication, timestamp, ring->slot))
                return;
        }
        client->released[client->head % ring->entries] = false;
        client->head = (client->head + 1) % RING_INDICES;
        put(&ring->control->released, client->head);
    }
}

/* For tests: what a slot page and page 0 can do, as the gateware would have it. */

static void bg_raw_enable(bg_client *client, uint32_t generation) {
    enable_ring(&client->ring, generation);
}

static void bg_raw_doorbells(bg_client *client, uint32_t head, uint32_t tail) {
    pthread_mutex_lock(&client->device->lock);
    client->device->statistics[BG_STATISTIC_ERRORS] += !ring_head(&client->ring, head);
    client->device->statistics[BG_STATISTIC_ERRORS] += !ring_tail(&client->ring, tail);
    while (serve_one(client->device, &client->ring))
        ;
    pthread_mutex_unlock(&client->device->lock);
}

/* QUEUE_STATUS, SUBMISSION_HEAD. */
static void bg_raw_status(bg_client *client, uint32_t *status) {
    status[0] = get(&client->ring.control->status);
    status[1] = get(&client->ring.control->submission_head);
}

/* Queue pairs, from the side of the client. One client owns one slot; any of its threads may collect, and one at a time
 * submits or releases.
 *
 * Behind ring.c and shared.c.
 */

/* Looks at the completion before a waiter yields the processor, and yields before it sleeps. */
#define COLLECT_SPINS 400
#define COLLECT_YIELDS 20
/* Without a server one client has the turn: it decides without delay, with the filter in its cache, and for the others too
 * now and then. The others leave it alone while it goes on, for so many naps of so many nanoseconds; then one of them takes
 * the turn. Handing the mutex and the filter to and fro for every request would halve what all of them get. */
#define NAP_NS 100000
#define NAPS_IN_TURN 200
/* A client that does something else for longer than this between two requests is in nobody's way, and takes no nap. */
#define REST_NS 2000
/* Requests of the client that has the turn between two rounds over the others. */
#define OWN_REQUESTS 64
/* Pauses of a client that waits: in which one with the turn gets on, if it works at all; and between attempts at the mutex
 * before it sleeps on it. */
#define PAUSE 32
#define TRIES 40

enum { PRIVATE, SERVERLESS, SERVED };

typedef struct bg_client {
    bg_ring ring;
    uint32_t owner; /* the generation, in bits 31:16 */
    uint32_t tail; /* index of the next submission */
    uint32_t head; /* index of the oldest one that is not released */
    int kind;
    bg_device *device;   /* who decides, unless a server does */
    bg_segment *segment; /* NULL for a device of this process */
    struct bg_redo *redo;
    bg_publication *publication;
    uint32_t timestamp_bits;
    bool released[BG_MAX_QUEUE_ENTRIES];
    uint32_t naps; /* since the turn was last seen to change */
    uint32_t turn; /* as it was then */
    uint64_t contended; /* when it last had a verdict while another client had the turn */
} bg_client;

/* A client of a device in this process, with a window that the caller provides: zeroed, aligned to 64 bytes. */
static bg_client *bg_client_new(bg_device *device, void *control, void *window, uint64_t window_bytes,
                                uint32_t entries) {
    bg_client *client = calloc(1, sizeof *client);
    if (client != NULL)
        *client = (bg_client){
            .ring = {.control = control, .window = window, .window_bytes = window_bytes, .entries = entries, .slot = NOBODY},
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
            .publication = segment->publication,
            .timestamp_bits = segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS],
            .redo = (struct bg_redo *)(segment->base + segment->header->redo) + slot * segment->rings[slot].entries,
        };
    return client;
}

static void bg_client_free(bg_client *client) {
    free(client);
}

/* The queue has been enabled for this client. */
static void bg_client_begin(bg_client *client, uint32_t generation) {
    client->owner = generation << 16;
    client->tail = client->head = 0;
    put(&client->ring.control->submitting, 0); /* who owned the slot before may have died there */
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
        bg_redo_write(&client->redo[place_of(ring, index)], sequence_of(client->owner, index), kind, entries,
                      count);
    BG_POINT(REDO_WRITTEN);
    /* Not atomic: nobody looks at it before the doorbell. */
    memcpy(ring->window + place_of(ring, index) * BG_ENTRY_BYTES, words, BG_ENTRY_BYTES);
    client->tail = (index + 1) % RING_INDICES;
    BG_POINT(ENTRY_WRITTEN);
    put(&ring->control->completion_head, client->owner | client->head);
    /* Release, with the acquire in poll_doorbells(). */
    atomic_store_explicit(&ring->control->submission_tail, client->owner | client->tail,
                          memory_order_release);
    BG_POINT(DOORBELL_RUNG);
    if (client->kind == SERVED)
        wake(&client->segment->header->server_asleep, &client->segment->header->doorbell_sequence);
    return (int)index;
}

/* Takes the mutex, decides until the completion is there, and gives it back. */
static bool decide_until(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    const bg_ring *ring = &client->ring;
    struct bg_header *header = client->segment->header;
    if (!take_mutex(client->segment, ns))
        return false;
    bool for_others = get(&header->turn) != ring->slot + 1 || index % OWN_REQUESTS == 0;
    bool served = true;
    bool done;
    put(&header->turn, ring->slot + 1);
    client->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (!(done = completed(ring, client->owner, index, payload)) && served)
        served = serve_one(client->device, ring);
    if (for_others)
        serve_round(client->segment);
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
    wake_sleepers(client->device);
    return completed(ring, client->owner, index, payload);
}

static void pause_a_while(void) {
    for (uint32_t i = 0; i < PAUSE; i++)
        relax();
}

static bool is_anothers_turn(const bg_client *client) {
    uint32_t turn = get(&client->segment->header->turn);
    return turn != client->ring.slot + 1 && turn - 1 < client->segment->slots;
}

/* Waits while another client has the turn and goes on, up to `ns`. Whether the completion came meanwhile. */
static bool await_turn(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    const bg_segment *segment = client->segment;
    uint64_t end = 0;
    const struct timespec nap = {.tv_nsec = NAP_NS};
    while (is_anothers_turn(client)) {
        uint32_t turn = get(&segment->header->turn);
        const struct bg_slot_control *control = segment->rings[(turn - 1) % segment->slots].control;
        uint32_t decided = get(&control->submission_head);
        if (turn != client->turn) {
            client->turn = turn;
            client->naps = 0;
        }
        pause_a_while();
        if (completed(&client->ring, client->owner, index, payload))
            return true;
        if (get(&control->submission_head) == decided || client->naps == NAPS_IN_TURN)
            return false;
        if (end == 0)
            end = now_ns() + ns;
        else if (now_ns() >= end)
            return false;
        client->naps++;
        nanosleep(&nap, NULL);
        if (completed(&client->ring, client->owner, index, payload))
            return true;
    }
    return false;
}

static bool collect_serverless(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    if (is_anothers_turn(client)) {
        bool done = now_ns() - client->contended < REST_NS ? await_turn(client, index, ns, payload)
                                                           : decide_until(client, index, 0, payload);
        client->contended = now_ns();
        if (done)
            return true;
    }
    for (uint32_t attempt = 0; attempt < TRIES; attempt++) {
        if (decide_until(client, index, 0, payload))
            return true;
        pause_a_while();
        if (completed(&client->ring, client->owner, index, payload))
            return true;
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
        if (completed(&client->ring, client->owner, index, payload))
            return true;
    }
    for (;;) {
        uint32_t seen = get(&control->wake);
        put(&control->asleep, 1);
        atomic_thread_fence(memory_order_seq_cst); /* with the one in wake() */
        bool done = completed(&client->ring, client->owner, index, payload);
        uint64_t now = now_ns();
        if (!done && now < end)
            sleep_on(&control->wake, seen, end - now);
        if (done || now >= end) {
            put(&control->asleep, 0);
            return done;
        }
    }
}

/* What bg_collect() does when the completion is not there yet. */
static __attribute__((noinline)) bool await_completion(bg_client *client, uint32_t index, uint64_t ns,
                                                       uint32_t *payload) {
    if (client->kind == PRIVATE)
        return collect_private(client, index, payload);
    if (ns == 0)
        return client->kind == SERVERLESS && decide_until(client, index, 0, payload);
    return client->kind == SERVERLESS ? collect_serverless(client, index, ns, payload)
                                      : collect_served(client, index, ns, payload);
}

/* The payload of a submission's completion, four words. Waits up to `ns` (0: looks only, but does decide without a
 * server). Returns success. */
static int bg_collect(bg_client *client, uint32_t index, uint64_t ns, uint32_t *payload) {
    return completed(&client->ring, client->owner, index, payload) ||
           await_completion(client, index, ns, payload);
}

/* Frees the oldest entry, whose completion has that payload. False while there is no room to remember whose commit it is:
 * one without a redo record, and earlier ones are not published. */
static inline bool free_oldest(bg_client *client, const uint32_t *payload) {
    const bg_ring *ring = &client->ring;
    if ((payload[0] & BG_VERDICT_TIMESTAMPED) != 0 && client->redo != NULL &&
        client->redo[place_of(ring, client->head)].kind == BG_REDO_MANUAL) {
        uint64_t timestamp = ((uint64_t)payload[1] << client->timestamp_bits) + payload[2];
        if (!bg_claim(client->publication, timestamp, ring->slot))
            return false;
    }
    client->head = (client->head + 1) % RING_INDICES;
    return true;
}

/* The caller has what it needs of a submission that it has collected: its entries, its logs and, if it was BG_REDO_ARRAY,
 * its redo record may be used again. Entries come free in the order of submission. */
static void bg_release(bg_client *client, uint32_t index) {
    const bg_ring *ring = &client->ring;
    uint32_t payload[BG_COMPLETION_BEATS];
    client->released[place_of(ring, index)] = true;
    while (client->head != client->tail && client->released[place_of(ring, client->head)] &&
           completed(ring, client->owner, client->head, payload)) {
        uint32_t place = place_of(ring, client->head);
        if (!free_oldest(client, payload))
            return;
        client->released[place] = false;
    }
}

/* Both for the oldest submission, for a client that collects its requests in their order and does not use bg_release().
 * Returns 0 also while the entry cannot be freed. */
static int bg_take(bg_client *client, uint64_t ns, uint32_t *payload) {
    return bg_collect(client, client->head, ns, payload) && free_oldest(client, payload);
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
    wake_sleepers(client->device);
}

/* QUEUE_STATUS, SUBMISSION_HEAD. */
static void bg_raw_status(bg_client *client, uint32_t *status) {
    status[0] = get(&client->ring.control->status);
    status[1] = get(&client->ring.control->submission_head);
}

/* Guards: locations that one client has read and nobody else may change until it has ended.
 *
 * That client holds the token, a lock on the file of the segment that the kernel releases when it dies. It sets a bit for
 * each location that it reads; nobody submits a change of these. A client says that it is submitting, looks at the bits, and
 * rings its doorbell; the holder sets the bit, looks who is submitting, and has everything decided that was submitted
 * before. The fences of both are sequentially consistent, so that one of them sees the other.
 *
 * Behind redo.c, shared.c and client.c.
 */

/* Between two looks whether others have decided. */
#define SETTLING_NAP_NS 50000

static struct bg_guards *guards_of(bg_client *client) {
    return (struct bg_guards *)(client->segment->base + client->segment->header->guards);
}

/* Whether a change of one of these is guarded by another client. Between begin_submission() and end_submission(). */
static bool is_guarded(bg_client *client, const bg_redo_entry *entries, uint32_t count) {
    struct bg_guards *guards = guards_of(client);
    if (!get(&guards->active))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (entries[i].location / 64 < BG_GUARD_WORDS &&
            load(guards->bits[entries[i].location / 64]) >> entries[i].location % 64 & 1)
            return true;
    return false;
}

static void begin_submission(bg_client *client) {
    put(&client->ring.control->submitting, 1);
    atomic_thread_fence(memory_order_seq_cst); /* with the one in bg_guard() */
}

static void end_submission(bg_client *client) {
    atomic_store_explicit(&client->ring.control->submitting, 0, memory_order_release);
}

/* Guards a location: what is submitted from now on does not change it. Only the holder of the token calls this. */
static void bg_guard(bg_client *client, uint64_t location) {
    struct bg_guards *guards = guards_of(client);
    put(&guards->holder, client->ring.slot);
    atomic_store_explicit(&guards->active, 1, memory_order_release);
    atomic_fetch_or(&guards->bits[location / 64], UINT64_C(1) << location % 64);
    BG_POINT(GUARDED);
    atomic_thread_fence(memory_order_seq_cst); /* with the one in begin_submission() */
}

/* Has everything decided that a slot has submitted until now. Waits until `end`; returns success. */
static bool settle(bg_client *client, bg_sharing *sharing, uint32_t slot, uint64_t end) {
    const struct timespec nap = {.tv_nsec = SETTLING_NAP_NS};
    const bg_ring *ring = &client->segment->rings[slot];
    while (atomic_load_explicit(&ring->control->submitting, memory_order_acquire) && !is_abandoned(sharing, slot)) {
        if (now_ns() >= end)
            return false;
        nanosleep(&nap, NULL);
    }
    uint32_t doorbell = get(&ring->control->submission_tail);
    for (;;) {
        uint32_t head = atomic_load_explicit(&ring->control->submission_head, memory_order_acquire);
        /* The ring has another owner, who begins when all is decided; or it has passed the doorbell. */
        if (!from_owner(ring, doorbell) || steps(doorbell % RING_INDICES, head) < RING_INDICES / 2)
            return true;
        uint64_t now = now_ns();
        if (now >= end)
            return false;
        if (client->kind == SERVERLESS)
            bg_segment_drain(client->segment, slot, end - now);
        else
            nanosleep(&nap, NULL);
    }
}

/* Has everything decided that was submitted before the newest guard. Takes up to about `ns`; returns success. */
static int bg_guard_settle(bg_client *client, bg_sharing *sharing, uint64_t ns) {
    uint64_t end = now_ns() + ns;
    for (uint32_t slot = 0; slot < client->segment->slots; slot++)
        if (!settle(client, sharing, slot, end))
            return 0;
    return 1;
}

/* Whether there are guards. */
static int bg_guards_active(bg_client *client) {
    return (int)atomic_load_explicit(&guards_of(client)->active, memory_order_acquire);
}

/* Removes all guards, of the holder that had set them: itself, or one that has died. Only the holder of the token calls this.
 * What that one has submitted has no reads to be validated, and so it has to be decided before. Takes up to about `ns`;
 * returns success. */
static int bg_guards_clear(bg_client *client, bg_sharing *sharing, uint64_t ns) {
    struct bg_guards *guards = guards_of(client);
    if (!get(&guards->active))
        return 1;
    if (!settle(client, sharing, get(&guards->holder) % client->segment->slots, now_ns() + ns))
        return 0;
    for (uint32_t word = 0; word < BG_GUARD_WORDS; word++)
        if (load(guards->bits[word]) != 0)
            store(guards->bits[word], 0);
    BG_POINT(GUARDS_CLEARED);
    atomic_store_explicit(&guards->active, 0, memory_order_release);
    return 1;
}

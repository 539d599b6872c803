/* Guards: locations that one client has read and nobody else may change until it has ended.
 *
 * That client holds the token, a lock on the file of the segment that the kernel releases when it dies. It sets a bit for
 * each location that it reads; nobody submits a change of these. A client says that it is submitting, looks at the bits, and
 * rings its doorbell; the holder sets the bit, looks who is submitting, and has everything decided that was submitted
 * before. The fences of both are sequentially consistent, so that one of them sees the other.
 *
 * Behind redo.c, shared.c and client.c.
 */

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
    put(&guards->active, 1);
    atomic_fetch_or(&guards->bits[location / 64], UINT64_C(1) << location % 64);
    BG_POINT(GUARDED);
    atomic_thread_fence(memory_order_seq_cst); /* with the one in begin_submission() */
}

/* Whether everything is decided that a slot submitted before the newest guard. */
static bool is_settled(bg_client *client, bg_sharing *sharing, uint32_t slot) {
    const bg_ring *ring = &client->segment->rings[slot];
    if (atomic_load_explicit(&ring->control->submitting, memory_order_acquire) && !is_abandoned(sharing, slot))
        return false;
    uint32_t doorbell = get(&ring->control->submission_tail);
    return !from_owner(ring, doorbell) || get(&ring->control->submission_head) == doorbell % RING_INDICES;
}

/* Whether everything is decided that was submitted before the newest guard. Waits up to `ns` for the mutex of the device, if
 * it has no server. */
static int bg_guard_settled(bg_client *client, bg_sharing *sharing, uint64_t ns) {
    for (uint32_t slot = 0; slot < client->segment->slots; slot++) {
        if (is_settled(client, sharing, slot))
            continue;
        if (client->kind != SERVERLESS || !bg_segment_drain(client->segment, slot, ns) ||
            !is_settled(client, sharing, slot))
            return 0;
    }
    atomic_thread_fence(memory_order_acquire);
    return 1;
}

/* Whether there are guards; if their holder is dead, whoever takes the token removes them. */
static int bg_guards_active(bg_client *client) {
    return (int)atomic_load_explicit(&guards_of(client)->active, memory_order_acquire);
}

/* Removes all of them. Only the holder of the token calls this. */
static void bg_guards_clear(bg_client *client) {
    struct bg_guards *guards = guards_of(client);
    for (uint32_t word = 0; word < BG_GUARD_WORDS; word++)
        if (load(guards->bits[word]) != 0)
            store(guards->bits[word], 0);
    atomic_store_explicit(&guards->active, 0, memory_order_release);
}

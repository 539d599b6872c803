/* Transactions in flight between processes. Without a server the owner of a slot takes the mutex and does what it wants to
 * (backends/in_flight.c); with one it has the server do it. Commits go through the ring, so that they are delivered and
 * published whoever dies.
 *
 * What others do to a slot they tell it by FLIGHT, a word of the slot control, before anybody can see the verdict that did
 * it. Its owner looks at that word and sleeps until it changes.
 *
 * Behind shared.c and client.c.
 */

static uint32_t flight_word(const bg_slot_state *state) {
    uint32_t word = state->wake_sequence << BG_FLIGHT_WAKE_SEQUENCE_SHIFT;
    if (state->in_flight)
        word |= BG_FLIGHT_IN_FLIGHT;
    if (state->doomed)
        word |= BG_FLIGHT_DOOMED;
    if (state->parked)
        word |= BG_FLIGHT_PARKED;
    if (state->token == TOKEN_WAITING)
        word |= BG_FLIGHT_TOKEN_WAITING;
    if (state->token == TOKEN_HOLDER)
        word |= BG_FLIGHT_HOLDER;
    if (state->token == TOKEN_REVOKED)
        word |= BG_FLIGHT_REVOKED;
    return word;
}

static void tell_slot(struct bg_slot_control *control, uint32_t word) {
    if (get(&control->flight) == word)
        return;
    atomic_store_explicit(&control->flight, word, memory_order_release);
    BG_POINT(FLIGHT_TOLD);
    wake(&control->asleep, &control->wake);
}

/* Tells the slots what has happened to them since the last time. The device is locked. */
static void tell_flight(bg_device *device, bg_publication *publication, struct bg_slot_control *controls) {
    bg_flight *flight = &device->flight;
    uint32_t news = flight->news;
    bool ending = is_ending(device, publication);
    if (controls == NULL || (flight->told == news && !ending))
        return;
    for (uint32_t slot = 0; slot < flight->count; slot++) {
        uint32_t word = flight_word(slot_of(device, slot));
        if (ending && slot_of(device, slot)->in_flight)
            word |= BG_FLIGHT_DOOMED; /* that it will be, before anybody who asks gets an answer */
        tell_slot(&controls[slot], word);
    }
    in_this_order();
    flight->told = ending ? news - 1 : news;
}

/* For take_mutex(), when somebody has died: all is told again, and whoever sleeps looks, since the one who died may have
 * been about to wake it. */
static void tell_all_again(bg_segment *segment) {
    segment->device->flight.told = segment->device->flight.news - 1;
    for (uint32_t slot = 0; slot < segment->slots; slot++)
        wake(&segment->rings[slot].control->asleep, &segment->rings[slot].control->wake);
}

/* For take_mutex(): a token whose holder is gone comes free. */
static void bury_holder(bg_segment *segment) {
    uint32_t holder = segment->device->flight.holder;
    if (holder != NOBODY && has_no_owner(segment->file, segment->own_slot, holder))
        cancel(segment->device, holder);
}

/* What Python does without a server. Each takes up to `ns` for the mutex, and returns success. */

/* The owner's operation; what it submitted before comes first. */
static int bg_segment_operate(bg_segment *segment, uint32_t slot, uint32_t operation, const uint32_t *words,
                              uint32_t count, bg_slot_answer *answer, uint64_t ns) {
    const bg_ring *ring = &segment->rings[slot];
    if (!take_mutex(segment, ns))
        return 0;
    segment->device->statistics[BG_STATISTIC_ERRORS] += poll_doorbells(ring);
    while (serve_one(segment->device, ring))
        ;
    BG_POINT(FLIGHT_BEGUN);
    operate(segment->device, segment->publication, slot, operation, words, count, answer);
    tell_newest(segment->device, ring);
    give_mutex(segment);
    return 1;
}

/* For a new owner, when everything of the one before is decided: ends its transaction. */
static int bg_segment_clear(bg_segment *segment, uint32_t slot, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    cancel(segment->device, slot);
    give_mutex(segment);
    return 1;
}

static int bg_segment_conflicts(bg_segment *segment, bg_conflict *taken, uint32_t *count, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    *count = take_conflicts(segment->device, taken);
    give_mutex(segment);
    return 1;
}

/* `holder`: the slot that had the token, or NOBODY. */
static int bg_segment_revoke(bg_segment *segment, uint32_t *holder, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    *holder = revoke_token(segment->device);
    give_mutex(segment);
    return 1;
}

static int bg_segment_watchdog(bg_segment *segment, uint64_t ticks, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    segment->device->flight.watchdog = ticks;
    give_mutex(segment);
    return 1;
}

static int bg_segment_tick(bg_segment *segment, uint64_t ticks, uint64_t ns) {
    if (!take_mutex(segment, ns))
        return 0;
    tick(segment->device, ticks);
    give_mutex(segment);
    return 1;
}

/* What Python does with or without a server. */

/* FLIGHT of the client's slot. */
static uint32_t bg_flight_word(const bg_client *client) {
    return atomic_load_explicit(&client->ring.control->flight, memory_order_acquire);
}

/* Sleeps until FLIGHT is not `seen` any more, or for `ns`. May return early. */
static void bg_flight_sleep(bg_client *client, uint32_t seen, uint64_t ns) {
    struct bg_slot_control *control = client->ring.control;
    uint32_t turn = get(&control->wake);
    put(&control->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst); /* with the one in wake() */
    if (bg_flight_word(client) == seen)
        sleep_on(&control->wake, turn, ns);
    put(&control->asleep, 0);
}

/* What a server does. */

/* With a device in C. */
static void bg_serve_tell(bg_segment *segment, bg_device *device) {
    pthread_mutex_lock(&device->lock);
    tell_flight(device, segment->publication, segment->rings[0].control);
    pthread_mutex_unlock(&device->lock);
}

/* With another one: what FLIGHT of a slot is now. */
static void bg_serve_tell_slot(bg_segment *segment, uint32_t slot, uint32_t word) {
    tell_slot(segment->rings[slot].control, word);
}

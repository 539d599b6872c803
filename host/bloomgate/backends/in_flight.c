/* In-flight transactions: announced reads, doom, parking and the irrevocable token. bloomgate/in_flight.py says what
 * they mean; this is the same in C, included in soft_core.c. Everything is called with the device's lock held, and its
 * state lies in the device without pointers, as the rest does.
 *
 * The slot filters are stored by rows, as in the gateware: a word holds one bit for each slot, so that one look per
 * table answers for all slots.
 *
 * In shared memory a process can die at any instruction. What is stored last of a change is what makes it count, so that
 * recover_flight() can tell; and what a slot was told (shm/flight.c) it was told behind the change.
 */

enum { TOKEN_NONE, TOKEN_WAITING, TOKEN_HOLDER, TOKEN_REVOKED };

static void slot_decided(bg_device *device, uint32_t slot, const bg_verdict *verdict);
/* shm/publication.c */
typedef struct bg_publication bg_publication;
static bool has_room_for_end(bg_publication *publication);
static bool bg_epoch_end(bg_publication *publication, uint32_t timestamp_bits, uint64_t last, uint64_t origin);

static bg_slot_state *slot_of(bg_device *device, uint32_t slot) {
    return &device->flight.slots[slot];
}

static uint32_t *log_of(bg_device *device, uint32_t slot) {
    uint8_t *end = bad_of(device) + (size_t)device->tables * device->rows;
    return (uint32_t *)end + (size_t)slot * device->aperture_depth;
}

static uint32_t *present(bg_device *device, const rows_of_key *rows, uint32_t table) {
    uint32_t row = rows->word[table / TABLES_PER_WORD] >> (table % TABLES_PER_WORD * 16) & (BG_SLOT_FILTER_ROWS - 1);
    return &device->flight.present[table][row];
}

/* The slots in whose filter a key may be, a bit each. */
static uint32_t slots_with(bg_device *device, uint32_t key) {
    rows_of_key rows = hash(device, key);
    uint32_t slots = UINT32_MAX;
    for (uint32_t table = 0; table < device->tables; table++)
        slots &= *present(device, &rows, table);
    return slots;
}

static void enter(bg_device *device, uint32_t slot, uint32_t key) {
    rows_of_key rows = hash(device, key);
    for (uint32_t table = 0; table < device->tables; table++)
        *present(device, &rows, table) |= (uint32_t)1 << slot;
}

static void leave(bg_device *device, uint32_t slot) {
    for (uint32_t table = 0; table < device->tables; table++)
        for (uint32_t row = 0; row < BG_SLOT_FILTER_ROWS; row++)
            device->flight.present[table][row] &= ~((uint32_t)1 << slot);
}

static void log_conflict(bg_device *device, uint32_t winner, uint32_t loser, bool known, uint32_t key) {
    bg_conflict *entry = &device->flight.conflicts[device->flight.conflict_head++ % BG_CONFLICT_LOG_ENTRIES];
    *entry = (bg_conflict){winner, loser, known, key, device->epoch, device->last};
}

static void wake_slot(bg_device *device, bg_slot_state *state, uint32_t epoch, uint32_t count) {
    state->wake_epoch = epoch;
    state->wake_count = count;
    state->wake_sequence = (state->wake_sequence + 1) & 0xffff;
    BG_POINT(FLIGHT_WAKING);
    in_this_order();
    state->parked = 0;
    state->statistics[BG_SLOT_STATISTIC_WAKES]++;
    device->flight.news++;
}

static void doom(bg_device *device, uint32_t slot, uint32_t winner, bool known, uint32_t key) {
    bg_slot_state *state = slot_of(device, slot);
    if (state->token == TOKEN_HOLDER)
        return;
    state->revalidate = 1;
    if (state->doomed)
        return;
    state->doom_key_known = known;
    state->doom_key = key;
    state->doom_epoch = device->epoch;
    state->doom_count = device->last;
    in_this_order();
    state->doomed = 1;
    state->statistics[BG_SLOT_STATISTIC_DOOMS]++;
    log_conflict(device, winner, slot, known, key);
    BG_POINT(FLIGHT_DOOMED);
    if (state->parked)
        wake_slot(device, state, device->epoch, device->last);
    device->flight.news++;
}

static void empty_slot(bg_device *device, uint32_t slot) {
    bg_slot_state *state = slot_of(device, slot);
    if (state->entered)
        leave(device, slot);
    BG_POINT(FLIGHT_EMPTYING);
    state->entered = state->in_flight = state->logged = state->revalidate = 0;
    state->doomed = state->parked = state->refused = 0;
}

/* Every older snapshot conflicts from now on, so any key may have changed; `winner` has committed that, or NOBODY. */
static void raise_floor(bg_device *device, uint32_t winner) {
    device->floor = device->last;
    for (uint32_t slot = 0; slot < device->flight.count; slot++)
        if (slot != winner && slot_of(device, slot)->entered)
            doom(device, slot, winner, false, 0);
}

static void fault_was_injected(bg_device *device) {
    for (uint32_t slot = 0; slot < device->flight.count; slot++)
        if (slot_of(device, slot)->logged)
            slot_of(device, slot)->revalidate = 1;
}

/* So near its end that the token is not granted in this epoch. */
static bool is_near_end(const bg_device *device) {
    return device->last >= device->grant_limit && !device->exhausted;
}

/* The next holder of a free token. The one who asks may be refused instead, and then another is next. */
static void grant(bg_device *device) {
    bg_flight *flight = &device->flight;
    while (flight->holder == NOBODY && !is_near_end(device)) {
        uint32_t chosen = NOBODY;
        for (uint32_t step = 1; step <= flight->count; step++) {
            uint32_t slot = (flight->last_holder + step) % flight->count;
            if (slot_of(device, slot)->token == TOKEN_WAITING &&
                (chosen == NOBODY || slot_of(device, slot)->age > slot_of(device, chosen)->age))
                chosen = slot;
        }
        if (chosen == NOBODY)
            return;
        for (uint32_t slot = 0; slot < flight->count; slot++) {
            bg_slot_state *other = slot_of(device, slot);
            if (slot != chosen && other->token == TOKEN_WAITING)
                other->age = other->age + BG_PASSED_OVER > BG_OLDEST ? BG_OLDEST : other->age + BG_PASSED_OVER;
        }
        flight->last_holder = chosen;
        flight->news++;
        bg_slot_state *state = slot_of(device, chosen);
        bg_request so_far = {
            .epoch = state->epoch,
            .count = state->count,
            .reads = {(const char *)log_of(device, chosen), state->logged},
            .chunk = UINT32_MAX,
            .capacity = UINT32_MAX,
        };
        bg_verdict verdict = examine(device, &so_far);
        if (verdict.code == BG_COMMIT) {
            flight->held_for = 0;
            state->logged = 0;
            flight->holder = chosen;
            BG_POINT(FLIGHT_GRANTING);
            in_this_order();
            state->token = TOKEN_HOLDER;
        } else {
            state->refusal = verdict;
            in_this_order();
            state->token = TOKEN_NONE;
            slot_decided(device, chosen, &verdict);
        }
    }
}

/* Whether somebody waits for the free token so near the end of the epoch that it is to end at once. `publication`: where
 * that has to be noted, which takes room; NULL in a device of this process. */
static bool ends_epoch(bg_device *device, bg_publication *publication) {
    if (!is_near_end(device) || device->flight.holder != NOBODY)
        return false;
    for (uint32_t slot = 0; slot < device->flight.count; slot++)
        if (slot_of(device, slot)->token == TOKEN_WAITING)
            return publication == NULL || has_room_for_end(publication);
    return false;
}

/* Then ends it. Returns whether it has. Nothing is half done, so that there is no other intent. */
static bool end_epoch_early(bg_device *device, bg_publication *publication) {
    if (!ends_epoch(device, publication))
        return false;
    uint64_t last = last_timestamp(device);
    if (intend_epoch(device, 0, false)) {
        if (publication != NULL)
            bg_epoch_end(publication, device->timestamp_bits, last,
                         (uint64_t)device->intent.new_epoch << device->timestamp_bits);
        BG_POINT(FLIGHT_EPOCH_ENDING);
        step_epoch(device);
    }
    return true;
}

/* For the caller's `published`: the last timestamp of an epoch that ended early since it was `epoch`, and the first one
 * after it; both 0 if none did. */
static void store_epoch_end(const bg_device *device, uint32_t epoch, uint64_t *timestamps) {
    bool early = device->epoch != epoch && device->previous_last != device->max_count;
    timestamps[0] = early ? ((uint64_t)device->previous_epoch << device->timestamp_bits) + device->previous_last : 0;
    timestamps[1] = early ? (uint64_t)device->epoch << device->timestamp_bits : 0;
}

/* `epoch`, `count`: the newest timestamp when the token came free. */
static void release_token_at(bg_device *device, uint32_t state_after, uint32_t epoch, uint32_t count) {
    bg_flight *flight = &device->flight;
    slot_of(device, flight->holder)->token = state_after;
    BG_POINT(FLIGHT_RELEASING);
    in_this_order();
    flight->holder = NOBODY;
    flight->news++;
    for (uint32_t slot = 0; slot < flight->count; slot++)
        if (slot_of(device, slot)->refused && slot_of(device, slot)->parked)
            wake_slot(device, slot_of(device, slot), epoch, count);
    grant(device);
}

static void release_token(bg_device *device, uint32_t state_after) {
    release_token_at(device, state_after, device->epoch, device->last);
}

static uint32_t revoke_token(bg_device *device) {
    uint32_t holder = device->flight.holder;
    if (holder != NOBODY)
        release_token(device, TOKEN_REVOKED);
    return holder;
}

static void epoch_has_ended(bg_device *device, bool by_reset) {
    uint32_t revoked = by_reset ? device->flight.holder : NOBODY;
    if (revoked != NOBODY)
        slot_of(device, revoked)->token = TOKEN_REVOKED;
    for (uint32_t slot = 0; slot < device->flight.count; slot++)
        if (slot_of(device, slot)->in_flight)
            doom(device, slot, NOBODY, false, 0);
    if (revoked != NOBODY) /* before the epoch ended */
        release_token_at(device, TOKEN_REVOKED, device->previous_epoch, device->previous_last);
    grant(device);
}

static void slot_decided(bg_device *device, uint32_t slot, const bg_verdict *verdict) {
    bg_slot_state *state = slot_of(device, slot);
    uint32_t code = verdict->code;
    empty_slot(device, slot);
    if (code == BG_COMMIT || code == BG_READ_ONLY) {
        state->age = 0;
        state->statistics[BG_SLOT_STATISTIC_COMMITS]++;
    } else {
        state->age += state->age < BG_OLDEST;
        state->statistics[bg_abort_slot_statistic[code]]++;
    }
    if (code == BG_REASON_IRREVOCABLE) {
        state->refused = 1;
        log_conflict(device, device->flight.holder, slot, true, verdict->key);
    }
    if (state->token == TOKEN_HOLDER && code != BG_REASON_BUS_ERROR)
        release_token(device, TOKEN_NONE);
    if (state->token == TOKEN_REVOKED)
        state->token = TOKEN_NONE;
    device->flight.news++;
}

/* Whether the holder of the token stands in the way of a request that may commit otherwise. */
static bool is_refused(bg_device *device, const bg_request *request, bg_verdict *verdict) {
    uint32_t holder = device->flight.holder;
    if (holder == NOBODY || holder + 1 == request->client)
        return false;
    const key_set *sets[] = {&request->writes, &request->commutes};
    /* Near the end of the epoch every key does: the last counts are the holder's. */
    bool all = device->last >= device->max_count - 2;
    uint32_t position = request->reads.count;
    for (int set = 0; set < 2; set++)
        for (uint32_t i = 0; i < sets[set]->count; i++, position++) {
            uint32_t key = key_at(sets[set]->keys, i);
            if (all || slots_with(device, key) >> holder & 1) {
                verdict->key = key;
                verdict->position = position;
                return true;
            }
        }
    return false;
}

/* Of the keys that a request writes and commutes, these are committed at once, by their numbers from `first` to `last`,
 * up or down: whoever announced one is doomed, by the one that comes first. */
static void look_up_beat(bg_device *device, const bg_request *request, uint32_t first, uint32_t last) {
    uint32_t winner = request->client - 1, writes = request->writes.count;
    uint32_t keys[BG_LANES], hits[BG_LANES], count = 0, any = 0;
    for (uint32_t number = first;; number += first < last ? 1 : UINT32_MAX) {
        keys[count] = number < writes ? key_at(request->writes.keys, number)
                                      : key_at(request->commutes.keys, number - writes);
        hits[count] = slots_with(device, keys[count]);
        any |= hits[count++];
        if (number == last)
            break;
    }
    if (any == 0)
        return;
    for (uint32_t slot = 0; slot < device->flight.count; slot++)
        for (uint32_t lane = 0; lane < count; lane++)
            if (hits[lane] >> slot & 1 && slot != winner && slot_of(device, slot)->in_flight)
                doom(device, slot, winner, true, keys[lane]);
}

/* One log of a queue pair, `count` keys from `number` on, whose first key is in this lane of a word in memory. */
static void look_up_log(bg_device *device, const bg_request *request, uint32_t number, uint32_t count, uint32_t lane) {
    for (uint32_t end = number + count; number < end; lane = 0) {
        uint32_t room = BG_LANES - lane, keys = end - number < room ? end - number : room;
        look_up_beat(device, request, number, number + keys - 1);
        number += keys;
    }
}

/* A commit was numbered. Its keys come as insertion_beats() and queued_insertion_beats() say. */
static void look_up(bg_device *device, const bg_request *request) {
    uint32_t reads = request->reads.count, writes = request->writes.count, keys = writes + request->commutes.count;
    if (request->capacity != UINT32_MAX) {
        look_up_log(device, request, 0, writes, reads % BG_LANES);
        look_up_log(device, request, writes, keys - writes, (reads + writes) % BG_LANES);
        return;
    }
    uint32_t words = (keys + BG_LANES - 1) / BG_LANES;
    for (uint32_t turn = 0; turn < words; turn++) {
        uint32_t word = turn % 2 != 0 ? turn / 2 : words - 1 - turn / 2, end = (word + 1) * BG_LANES;
        look_up_beat(device, request, (end < keys ? end : keys) - 1, word * BG_LANES);
    }
}

/* After a process died while it changed the state: who has the token. Granting ends with the slot's word, and releasing
 * begins with it. */
static void recover_token(bg_device *device) {
    bg_flight *flight = &device->flight;
    if (flight->holder != NOBODY && slot_of(device, flight->holder)->token != TOKEN_HOLDER)
        flight->holder = NOBODY;
}

/* And the rest, when the decision is finished. The floor dooms whoever has announced anything, but for the holder of the
 * token, whose keys nobody could commit. Nobody who waits sleeps on; spurious wakes do no harm. */
static void recover_flight(bg_device *device) {
    bg_flight *flight = &device->flight;
    raise_floor(device, NOBODY);
    for (uint32_t slot = 0; slot < flight->count; slot++)
        if (slot_of(device, slot)->parked)
            wake_slot(device, slot_of(device, slot), device->epoch, device->last);
    grant(device);
    flight->news++;
}

/* -- what a slot can do, see class Slot -------------------------------------------------------------------------- */

static void announce(bg_device *device, uint32_t slot, const uint32_t *keys, uint32_t count) {
    bg_slot_state *state = slot_of(device, slot);
    state->entered |= count != 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t met = 0;
        log_of(device, slot)[state->logged++] = keys[i];
        BG_POINT(FLIGHT_ANNOUNCING);
        enter(device, slot, keys[i]);
        if (newer_with_parity(device, keys[i], state->count, &met) || device->floor > state->count)
            doom(device, slot, NOBODY, true, keys[i]);
        else if (met)
            state->revalidate = 1;
    }
    state->statistics[BG_SLOT_STATISTIC_KEYS_ANNOUNCED] += count;
}

/* Whether a slot can have so many keys more. */
static bool has_room(bg_device *device, uint32_t slot, uint64_t keys) {
    return slot_of(device, slot)->logged + keys <= device->aperture_depth;
}

/* Makes a request with the sets of a commit into the commit of the slot's transaction. What was announced goes before the
 * reads, in the slot's log. False if there is no transaction, or it has not so many keys. */
static bool take_transaction(bg_device *device, uint32_t slot, bg_request *request) {
    bg_slot_state *state = slot_of(device, slot);
    uint32_t *log = log_of(device, slot);
    uint32_t announced = state->logged, reads = request->reads.count;
    if (!state->in_flight || state->token == TOKEN_WAITING ||
        !has_room(device, slot, (uint64_t)reads + request->writes.count + request->commutes.count))
        return false;
    memcpy(log + announced, request->reads.keys, reads * sizeof *log);
    if (state->token == TOKEN_HOLDER || state->token == TOKEN_REVOKED)
        request->reads.count = 0;
    else if (state->revalidate)
        request->reads = (key_set){(const char *)log, announced + reads};
    else
        request->reads = (key_set){(const char *)(log + announced), reads};
    request->epoch = state->epoch;
    request->count = state->count;
    request->chunk = request->capacity = UINT32_MAX;
    request->client = slot + 1;
    request->revoked = state->token == TOKEN_REVOKED;
    request->in_flight = true;
    return true;
}

/* `words`: three counts and the keys of the three sets. False if there is no such transaction. */
static bool commit_of_slot(bg_device *device, uint32_t slot, const uint32_t *words, bg_verdict *verdict) {
    const char *keys = (const char *)(words + 3);
    size_t before_writes = words[0] * sizeof *words, before_commutes = before_writes + words[1] * sizeof *words;
    bg_request request = {
        .reads = {keys, words[0]},
        .writes = {keys + before_writes, words[1]},
        .commutes = {keys + before_commutes, words[2]},
    };
    if (!take_transaction(device, slot, &request))
        return false;
    *verdict = decide(device, &request);
    slot_decided(device, slot, verdict);
    finish_commit(device);
    return true;
}

static void park(bg_device *device, uint32_t slot) {
    bg_slot_state *state = slot_of(device, slot);
    state->parked = 1;
    if (state->doomed)
        wake_slot(device, state, state->doom_epoch, state->doom_count);
    else if (state->refused && device->flight.holder == NOBODY)
        wake_slot(device, state, device->epoch, device->last);
}

static void cancel(bg_device *device, uint32_t slot) {
    empty_slot(device, slot);
    if (slot_of(device, slot)->token == TOKEN_HOLDER)
        release_token(device, TOKEN_NONE);
    slot_of(device, slot)->token = TOKEN_NONE;
    slot_of(device, slot)->refusal.code = BG_COMMIT;
    device->flight.news++;
}

/* What the slot's state allows; the keys have been checked. Returns whether it has happened. */
static bool perform(bg_device *device, bg_publication *publication, uint32_t slot, uint32_t operation,
                    const uint32_t *words, uint32_t count, bg_verdict *verdict) {
    bg_slot_state *state = slot_of(device, slot);
    switch (operation) {
    case BG_SLOT_BEGIN:
        cancel(device, slot);
        end_epoch_early(device, publication);
        state->epoch = words[0];
        state->count = words[1];
        state->in_flight = 1;
        if (state->epoch != device->epoch)
            doom(device, slot, NOBODY, false, 0);
        return true;
    case BG_SLOT_ANNOUNCE:
        if (!state->in_flight || state->token == TOKEN_HOLDER || state->token == TOKEN_WAITING ||
            !has_room(device, slot, count))
            return false;
        announce(device, slot, words, count);
        return true;
    case BG_SLOT_COMMIT:
        return commit_of_slot(device, slot, words, verdict);
    case BG_SLOT_CANCEL:
        cancel(device, slot);
        return true;
    case BG_SLOT_PARK:
        if (!(state->in_flight || state->refused) || state->token == TOKEN_HOLDER || state->token == TOKEN_WAITING)
            return false;
        park(device, slot);
        return true;
    case BG_SLOT_UNPARK:
        state->parked = 0;
        return true;
    case BG_SLOT_TOKEN:
        if (!state->in_flight || state->token != TOKEN_NONE)
            return false;
        state->token = TOKEN_WAITING;
        grant(device);
        return true;
    case BG_SLOT_GUARD:
        if (state->token != TOKEN_HOLDER)
            return false;
        state->entered |= count != 0;
        for (uint32_t i = 0; i < count; i++)
            enter(device, slot, words[i]);
        state->statistics[BG_SLOT_STATISTIC_KEYS_ANNOUNCED] += count;
        return true;
    case BG_SLOT_COUNT_SPURIOUS_WAKE:
        state->statistics[BG_SLOT_STATISTIC_SPURIOUS_WAKES]++;
        return true;
    }
    return true;
}

/* One operation of a slot, and the slot's state behind it. */
static void operate(bg_device *device, bg_publication *publication, uint32_t slot, uint32_t operation,
                    const uint32_t *words, uint32_t count, bg_slot_answer *answer) {
    uint32_t epoch = device->epoch;
    memset(answer, 0, sizeof *answer);
    answer->refused = !perform(device, publication, slot, operation, words, count, &answer->verdict);
    end_epoch_early(device, publication);
    store_epoch_end(device, epoch, answer->epoch_end);
    if (operation != BG_SLOT_STATE)
        device->flight.news++;
    answer->state = *slot_of(device, slot);
    answer->epoch = device->epoch;
    answer->last = device->last;
    answer->news = device->flight.news;
}

/* Lets time pass for the watchdog. */
static void tick(bg_device *device, uint64_t ticks) {
    bg_flight *flight = &device->flight;
    if (flight->holder == NOBODY)
        return;
    flight->held_for += ticks;
    if (flight->watchdog != 0 && flight->held_for >= flight->watchdog)
        revoke_token(device);
}

/* Takes the oldest conflicts that the host has not seen. */
static uint32_t take_conflicts(bg_device *device, bg_conflict *taken) {
    bg_flight *flight = &device->flight;
    if (flight->conflict_head - flight->conflict_tail > BG_CONFLICT_LOG_ENTRIES)
        flight->conflict_tail = flight->conflict_head - BG_CONFLICT_LOG_ENTRIES;
    uint32_t count = 0;
    while (flight->conflict_tail != flight->conflict_head)
        taken[count++] = flight->conflicts[flight->conflict_tail++ % BG_CONFLICT_LOG_ENTRIES];
    return count;
}

/* -- the same for a device of this process, as Python calls it ---------------------------------------------------- */

static void bg_token_watchdog(bg_device *device, uint64_t ticks) {
    pthread_mutex_lock(&device->lock);
    device->flight.watchdog = ticks;
    pthread_mutex_unlock(&device->lock);
}

/* `timestamps`: as store_epoch_end() has them. */
static void bg_tick(bg_device *device, uint64_t ticks, uint64_t *timestamps) {
    pthread_mutex_lock(&device->lock);
    uint32_t epoch = device->epoch;
    tick(device, ticks);
    end_epoch_early(device, NULL);
    store_epoch_end(device, epoch, timestamps);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
}

/* The slot that had the token, or NOBODY. */
static uint32_t bg_revoke_token(bg_device *device, uint64_t *timestamps) {
    pthread_mutex_lock(&device->lock);
    uint32_t epoch = device->epoch;
    uint32_t holder = revoke_token(device);
    end_epoch_early(device, NULL);
    store_epoch_end(device, epoch, timestamps);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
    return holder;
}

static void bg_slot_operate(bg_device *device, uint32_t slot, uint32_t operation, const uint32_t *words,
                            uint32_t count, bg_slot_answer *answer) {
    pthread_mutex_lock(&device->lock);
    operate(device, NULL, slot, operation, words, count, answer);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
}

/* Sleeps until the device's news are not `seen` any more, or for `ns` nanoseconds. Who changes the news looks for
 * sleepers afterwards; one of the two sees the other, since both fences are sequentially consistent. */
static void bg_slot_sleep(bg_device *device, uint32_t seen, uint64_t ns) {
    struct timespec duration = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    atomic_fetch_add(&device->flight.sleepers, 1);
    syscall(SYS_futex, &device->flight.news, FUTEX_WAIT, seen, &duration, NULL, 0);
    atomic_fetch_sub(&device->flight.sleepers, 1);
}

static uint32_t bg_conflicts(bg_device *device, bg_conflict *taken) {
    pthread_mutex_lock(&device->lock);
    uint32_t count = take_conflicts(device, taken);
    pthread_mutex_unlock(&device->lock);
    return count;
}

/* Transactions on shared locations, as Python calls them: submission, decision, publication, release.
 *
 * The request and all that is known about it lie in one buffer of the caller. Calls that were made already do nothing, so
 * that whoever is interrupted by an exception of Python's begins again with the same buffer, and loses nothing.
 *
 * Behind redo.c, shared.c, client.c and guards.c.
 */

enum { STAGE_NEW, STAGE_SUBMITTED, STAGE_DECIDED, STAGE_PUBLISHED, STAGE_DONE };

typedef struct {
    uint64_t snapshot;
    uint64_t timestamp; /* of the commit; 0: none */
    uint32_t stage;
    uint32_t index;
    uint32_t payload[BG_COMPLETION_BEATS]; /* the verdict */
    uint32_t reads;
    uint32_t writes;
    uint32_t commutes;
    uint32_t entries;
    /* then the redo entries, then the keys: reads, writes, commutes */
} bg_commit_header;

_Static_assert(sizeof(bg_commit_header) == 56 && sizeof(bg_commit_header) % sizeof(uint64_t) == 0, "as Python packs it");

/* A view of the segment for a client that has opened its `file`; it owns no slot yet. NULL without memory. */
static bg_sharing *bg_sharing_new(bg_segment *segment, int file) {
    bg_sharing *sharing = malloc(sizeof *sharing);
    if (sharing == NULL)
        return NULL;
    bg_sharing_open(sharing, segment->base, file, BG_NO_SLOT);
    if (segment->device != NULL) {
        sharing->recover = recover_dead;
        sharing->device = segment;
    }
    return sharing;
}

static void bg_sharing_free(bg_sharing *sharing) {
    free(sharing);
}

/* The client owns that slot now. */
static void bg_sharing_own(bg_sharing *sharing, uint32_t slot) {
    sharing->slot = slot;
}

/* The newest timestamp of a slot that may not be published; 0 if there is none. All its requests are decided. */
static uint64_t bg_unpublished_of(bg_sharing *sharing, uint32_t slot) {
    uint64_t published = bg_published(sharing->publication);
    uint64_t newest = 0;
    for (uint32_t place = 0; place < sharing->queue_entries; place++) {
        bg_completion *completion =
            (bg_completion *)(sharing->completions + slot * sharing->window_bytes + place * BG_ENTRY_BYTES);
        uint64_t timestamp =
            ((load(completion->beats[1]) & UINT32_MAX) << sharing->timestamp_bits) + (load(completion->beats[2]) & UINT32_MAX);
        if ((load(completion->beats[0]) & BG_VERDICT_TIMESTAMPED) && timestamp > published && timestamp > newest)
            newest = timestamp;
    }
    for (uint32_t i = 0; i < BG_CLAIMS; i++) {
        uint64_t timestamp = load(sharing->publication->claims[slot * BG_CLAIMS + i]);
        if (timestamp > published && timestamp > newest)
            newest = timestamp;
    }
    return newest;
}

static bg_location *location_at(bg_sharing *sharing, uint64_t location) {
    return &sharing->locations[location];
}

enum { RING_FULL, SUBMITTED, REFUSED };

/* Submits a request whose keys fit into the log of its ring entry, unless all ring entries are in use, or it changes what
 * the holder of the token has read; the caller may be that `holder`. */
static int bg_transact_submit(bg_client *client, void *buffer, int holder) {
    bg_commit_header *commit = buffer;
    if (commit->stage != STAGE_NEW)
        return SUBMITTED;
    const bg_redo_entry *entries = (const bg_redo_entry *)(commit + 1);
    const uint32_t *keys = (const uint32_t *)(entries + commit->entries);
    uint32_t count = commit->reads + commit->writes + commit->commutes;
    uint32_t bits = client->segment->header->geometry[BG_GEOMETRY_TIMESTAMP_BITS];
    int index = bg_next(client);
    if (index < 0)
        return RING_FULL;
    begin_submission(client);
    BG_POINT(SUBMITTING);
    if (!holder && is_guarded(client, entries, commit->entries)) {
        end_submission(client);
        return REFUSED;
    }
    uint32_t log = 2 * client->ring.entries * BG_ENTRY_BYTES +
                   (uint32_t)index % client->ring.entries * client->segment->header->geometry[BG_GEOMETRY_APERTURE_DEPTH] *
                       sizeof(uint32_t);
    memcpy(client->ring.window + log, keys, count * sizeof *keys);
    uint32_t words[BG_ENTRY_BYTES / sizeof(uint32_t)] = {
        (uint32_t)BG_ENTRY_FORMAT << 16 | (uint32_t)index,
        (uint32_t)(commit->snapshot >> bits),
        (uint32_t)(commit->snapshot & UINT64_MAX >> (64 - bits)),
        log,
        commit->reads,
        log + commit->reads * (uint32_t)sizeof *keys,
        log + (commit->reads + commit->writes) * (uint32_t)sizeof *keys,
        commit->commutes << 16 | commit->writes,
    };
    commit->index = (uint32_t)index;
    commit->stage = STAGE_SUBMITTED;
    bg_submit(client, words, BG_REDO_ARRAY, entries, commit->entries);
    end_submission(client);
    return SUBMITTED;
}

/* The timestamp in the payload of a completion; 0: none. */
static uint64_t timestamp_in(const bg_sharing *sharing, const uint32_t *payload) {
    if (!(payload[0] & BG_VERDICT_TIMESTAMPED))
        return 0;
    return ((uint64_t)payload[1] << sharing->timestamp_bits) + payload[2];
}

/* From the submission to the verdict. Waits up to about `ns`; returns whether it is there, else call it again. */
static int bg_transact_decide(bg_client *client, bg_sharing *sharing, void *buffer, uint64_t ns) {
    bg_commit_header *commit = buffer;
    if (commit->stage == STAGE_SUBMITTED) {
        if (!bg_collect(client, commit->index, ns, commit->payload))
            return 0;
        commit->timestamp = timestamp_in(sharing, commit->payload);
        commit->stage = STAGE_DECIDED;
        BG_POINT(VERDICT_TAKEN);
    }
    return 1;
}

/* The timestamp of a commit, also while another thread is in one of these functions with it; 0 while it has none. What is
 * published in the segment has one here. */
static uint64_t bg_transact_timestamp(bg_client *client, bg_sharing *sharing, const void *buffer) {
    const bg_commit_header *commit = buffer;
    uint32_t payload[BG_COMPLETION_BEATS];
    if (commit->stage == STAGE_NEW || !completed(&client->ring, client->owner, commit->index, payload))
        return 0;
    return timestamp_in(sharing, payload);
}

/* From the submission to the publication. Waits up to about `ns` in each stage; returns whether it is done, else call it
 * again. Any thread. */
static int bg_transact(bg_client *client, bg_sharing *sharing, void *buffer, uint64_t ns) {
    bg_commit_header *commit = buffer;
    const bg_redo_entry *entries = (const bg_redo_entry *)(commit + 1);
    if (!bg_transact_decide(client, sharing, buffer, ns))
        return 0;
    if (commit->stage == STAGE_DECIDED) {
        if (commit->timestamp != 0 && !finish(sharing, commit->timestamp, entries, commit->entries, ns))
            return 0;
        commit->stage = STAGE_PUBLISHED;
        BG_POINT(PUBLISHED);
    }
    return 1;
}

/* Gives the ring entry back. */
static void bg_transact_release(bg_client *client, void *buffer) {
    bg_commit_header *commit = buffer;
    if (commit->stage == STAGE_PUBLISHED) {
        bg_release(client, commit->index);
        commit->stage = STAGE_DONE;
    }
}

/* A turn: for some time others begin nothing new on shared data, so that a transaction that always loses can win. It is
 * only a courtesy, which ends with the time even if who has it is dead or stopped. */

#define TURN_SLOT_BITS 8

/* Nanoseconds that another client's turn still lasts. */
static uint64_t bg_turn_of_others(bg_sharing *sharing) {
    uint64_t turn = load(sharing->publication->turn);
    if (turn == 0 || (turn & ((1 << TURN_SLOT_BITS) - 1)) == sharing->slot)
        return 0;
    uint64_t now = now_ns();
    return turn > now ? turn - now : 0;
}

/* Takes the turn, or prolongs the own one, for so long. Returns success. */
static int bg_turn_take(bg_sharing *sharing, uint64_t ns) {
    uint64_t turn = load(sharing->publication->turn);
    if (bg_turn_of_others(sharing) > 0)
        return 0;
    uint64_t end = (now_ns() + ns) >> TURN_SLOT_BITS << TURN_SLOT_BITS;
    return swap(&sharing->publication->turn, turn, end | sharing->slot);
}

/* Ends the own turn, if there is one. */
static void bg_turn_end(bg_sharing *sharing) {
    uint64_t turn = load(sharing->publication->turn);
    if (turn != 0 && (turn & ((1 << TURN_SLOT_BITS) - 1)) == sharing->slot)
        swap(&sharing->publication->turn, turn, 0);
}

/* For Python, which knows locations by their numbers. */

static uint64_t bg_sharing_now(bg_sharing *sharing, uint64_t *timestamp) {
    bg_moment moment = bg_now(sharing->publication);
    *timestamp = moment.timestamp;
    return moment.position;
}

static uint64_t bg_sharing_published(bg_sharing *sharing) {
    return bg_published(sharing->publication);
}

static uint64_t bg_sharing_position_of(bg_sharing *sharing, uint64_t timestamp) {
    return bg_position_of(sharing->publication, timestamp);
}

static int bg_sharing_publish(bg_sharing *sharing, uint64_t timestamp) {
    return bg_publish(sharing->publication, sharing->timestamp_bits, timestamp);
}

static int bg_sharing_has_room_for_end(bg_sharing *sharing) {
    return has_room_for_end(sharing->publication);
}

static int bg_sharing_epoch_end(bg_sharing *sharing, uint64_t last, uint64_t origin) {
    return bg_epoch_end(sharing->publication, sharing->timestamp_bits, last, origin);
}

static int bg_sharing_wait(bg_sharing *sharing, uint64_t timestamp, uint64_t ns) {
    return bg_wait_published(sharing, timestamp, ns);
}

static int bg_sharing_wait_position(bg_sharing *sharing, uint64_t position, uint64_t ns) {
    return bg_wait_position(sharing, position, ns);
}

static uint32_t bg_sharing_helps(bg_sharing *sharing) {
    return sharing->helps;
}

static uint64_t bg_sharing_read(bg_sharing *sharing, uint64_t location, uint64_t position, uint64_t *value) {
    return bg_array_read(location_at(sharing, location), position, value);
}

static uint64_t bg_sharing_newest(bg_sharing *sharing, uint64_t location) {
    return bg_array_newest(location_at(sharing, location));
}

/* `values` NULL: all of them 0. */
static void bg_sharing_initialise(bg_sharing *sharing, uint64_t location, uint64_t count, const uint64_t *values) {
    for (uint64_t i = 0; i < count; i++)
        bg_array_initialise(location_at(sharing, location + i), values == NULL ? 0 : values[i]);
}

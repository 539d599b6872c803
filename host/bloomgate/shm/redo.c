/* Redo records, and finishing the commits of others: a client writes what its commit will install into shared memory
 * before it submits the request, so that anybody can write it back who waits for it.
 */

#include <fcntl.h>
#include <stddef.h>

#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif

/* Looks at `position` before a waiter helps, and helping looks before it yields and then sleeps. */
#define SPINS 200
#define YIELDS 20
#define SHORTEST_SLEEP_NS 50000
#define LONGEST_SLEEP_NS 5000000

typedef struct bg_redo bg_redo;

/* One beat of a completion entry. */
typedef struct {
    _Atomic uint64_t beats[BG_COMPLETION_BEATS];
} bg_completion;

/* A client's view of the shared data in a segment. */
typedef struct {
    bg_publication *publication;
    bg_redo *redo;
    bg_location *locations;
    uint64_t location_count;
    unsigned char *completions; /* of slot 0 */
    size_t window_bytes;
    uint32_t slots;
    uint32_t queue_entries;
    uint32_t timestamp_bits;
    int file;      /* carries the lock of the own slot; -1: all slots have owners that live */
    uint32_t slot; /* the own one; BG_NO_SLOT: none */
    /* Called by who waits for others, before it sleeps: completes a decision that somebody died in the middle of. */
    void (*recover)(void *device);
    void *device;
    _Atomic uint32_t helps; /* commits of others that this client has finished */
} bg_sharing;

#define BG_NO_SLOT UINT32_MAX

static void bg_sharing_open(bg_sharing *sharing, unsigned char *base, int file, uint32_t slot) {
    struct bg_header *header = (struct bg_header *)base;
    sharing->publication = (bg_publication *)(base + header->publication);
    sharing->redo = (bg_redo *)(base + header->redo);
    sharing->locations = (bg_location *)(base + header->arena + sizeof(struct bg_arena));
    sharing->location_count = header->locations;
    sharing->slots = header->geometry[BG_GEOMETRY_SLOTS];
    sharing->queue_entries = header->geometry[BG_GEOMETRY_QUEUE_ENTRIES];
    sharing->timestamp_bits = header->geometry[BG_GEOMETRY_TIMESTAMP_BITS];
    sharing->window_bytes = (size_t)header->window_bytes;
    sharing->completions = base + header->windows + (size_t)sharing->queue_entries * BG_ENTRY_BYTES;
    sharing->file = file;
    sharing->slot = slot;
    sharing->recover = NULL;
    sharing->device = NULL;
    sharing->helps = 0;
}

/* Fill a record. Only the owner of its slot calls this, when the ring entry's last commit is published, or was none of
 * REDO_ARRAY; and before it writes the submission entry. */
static void bg_redo_write(bg_redo *record, uint32_t sequence, uint32_t kind, const bg_redo_entry *entries,
                          uint32_t count) {
    uint64_t serial = load(record->serial) | 1; /* an owner that died here has left it odd */
    atomic_store(&record->serial, serial);
    atomic_thread_fence(memory_order_seq_cst);
    BG_POINT(REDO_BEGUN);
    store(record->sequence, sequence);
    store(record->kind, kind);
    store(record->count, count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t what = (uint64_t)entries[i].operation << 32 | entries[i].location;
        atomic_store_explicit(&record->entries[2 * i], what, memory_order_relaxed);
        atomic_store_explicit(&record->entries[2 * i + 1], entries[i].operand, memory_order_relaxed);
    }
    atomic_store(&record->serial, serial + 1);
}

/* Whether a completion entry is the commit of that timestamp; then its SEQUENCE. */
static bool is_commit(const bg_sharing *sharing, bg_completion *completion, uint64_t timestamp, uint32_t *sequence) {
    uint64_t beats[BG_COMPLETION_BEATS];
    for (int beat = 0; beat < BG_COMPLETION_BEATS; beat++)
        beats[beat] = load(completion->beats[beat]);
    *sequence = (uint32_t)(beats[0] >> 32);
    for (int beat = 1; beat < BG_COMPLETION_BEATS; beat++)
        if ((uint32_t)(beats[beat] >> 32) != *sequence)
            return false;
    return (beats[0] & BG_VERDICT_TIMESTAMPED) &&
           (beats[1] & UINT32_MAX) == timestamp >> sharing->timestamp_bits &&
           (beats[2] & UINT32_MAX) == (timestamp & UINT64_MAX >> (64 - sharing->timestamp_bits));
}

enum owner { NOBODY_FOUND, MANUAL, ARRAY };

/* Whose commit that timestamp is. For ARRAY, `copy` gets its entries; it has room for BG_REDO_ENTRIES. */
static enum owner find_owner(const bg_sharing *sharing, uint64_t timestamp, uint32_t *slot, bg_redo_entry *copy,
                             uint32_t *count) {
    for (*slot = 0; *slot < sharing->slots; ++*slot)
        for (uint32_t place = 0; place < sharing->queue_entries; place++) {
            bg_redo *record = &sharing->redo[*slot * sharing->queue_entries + place];
            bg_completion *completion =
                (bg_completion *)(sharing->completions + *slot * sharing->window_bytes + place * BG_ENTRY_BYTES);
            uint32_t sequence;
            /* The serial number is read before the completion and after the copy: in between, the record was one
             * request's alone, and has the same sequence as the completion only if that is the request's. */
            uint64_t serial = load(record->serial);
            if (serial % 2 || !is_commit(sharing, completion, timestamp, &sequence) ||
                load(record->sequence) != sequence)
                continue;
            uint32_t kind = load(record->kind);
            *count = load(record->count);
            if (*count > BG_REDO_ENTRIES)
                continue;
            for (uint32_t i = 0; i < *count; i++) {
                uint64_t what = load(record->entries[2 * i]);
                copy[i].location = (uint32_t)what;
                copy[i].operation = (uint32_t)(what >> 32);
                copy[i].operand = load(record->entries[2 * i + 1]);
            }
            if (load(record->serial) != serial)
                continue;
            BG_POINT(RECORD_COPIED);
            return kind == BG_REDO_ARRAY ? ARRAY : MANUAL;
        }
    for (*slot = 0; *slot < sharing->slots; ++*slot)
        if (is_claimed(sharing->publication, timestamp, *slot))
            return MANUAL;
    return NOBODY_FOUND;
}

/* Whether the kernel says that nobody owns a slot. `file` carries the lock of the slot `own`; -1: nobody is known to. */
static bool has_no_owner(int file, uint32_t own, uint32_t slot) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
    if (file < 0 || slot == own)
        return false;
    return fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

static bool is_abandoned(const bg_sharing *sharing, uint32_t slot) {
    return has_no_owner(sharing->file, sharing->slot, slot);
}

static void install_all(const bg_sharing *sharing, uint64_t tag, const bg_redo_entry *entries, uint32_t count) {
    for (uint32_t begin = 0, end; begin < count; begin = end) {
        for (end = begin + 1; end < count && entries[end].location == entries[begin].location; end++)
            ;
        if (entries[begin].location < sharing->location_count)
            install(&sharing->locations[entries[begin].location], tag, &entries[begin], end - begin);
    }
}

/* Finish the oldest commit that is not published. False if that cannot be done now. */
static bool bg_help(bg_sharing *sharing) {
    bg_redo_entry copy[BG_REDO_ENTRIES];
    uint32_t slot, count;
    bg_moment here = advance(sharing->publication, sharing->timestamp_bits);
    uint64_t next = successor(sharing->publication, sharing->timestamp_bits, here.timestamp);
    if (next == 0 || is_origin(sharing->timestamp_bits, next))
        return false;
    switch (find_owner(sharing, next, &slot, copy, &count)) {
    case ARRAY:
        install_all(sharing, here.position + 1, copy, count);
        break;
    case MANUAL:
        if (!is_abandoned(sharing, slot))
            return false;
        break;
    default:
        return false;
    }
    step(sharing->publication, here, next);
    advance(sharing->publication, sharing->timestamp_bits);
    sharing->helps++;
    return true;
}

/* Wait until `timestamp` is published, and help. `entries`: those of that commit, if it is the caller's of REDO_ARRAY.
 * False after so many nanoseconds. */
static bool finish(bg_sharing *sharing, uint64_t timestamp, const bg_redo_entry *entries, uint32_t count,
                   uint64_t timeout) {
    bg_publication *publication = sharing->publication;
    uint64_t deadline = 0;
    uint64_t patience = SHORTEST_SLEEP_NS;
    for (uint32_t looks = 0;; looks++) {
        bg_moment here = bg_now(publication);
        if (here.timestamp >= timestamp)
            return true;
        if (entries != NULL && successor(publication, sharing->timestamp_bits, here.timestamp) == timestamp) {
            install_all(sharing, here.position + 1, entries, count);
            BG_POINT(INSTALLED);
            step(publication, here, timestamp);
            advance(publication, sharing->timestamp_bits); /* it may have been the last one of its epoch */
            return true;
        }
        if (looks < SPINS) {
            relax();
            continue;
        }
        if (bg_help(sharing) || bg_now(publication).position != here.position)
            continue;
        if (looks < SPINS + YIELDS) {
            sched_yield();
            continue;
        }
        uint64_t now = now_ns();
        if (deadline == 0)
            deadline = now + timeout < now ? UINT64_MAX : now + timeout;
        if (now >= deadline)
            return false;
        if (sharing->recover != NULL)
            sharing->recover(sharing->device);
        sleep_on_position(publication, here.position, patience < deadline - now ? patience : deadline - now);
        patience = 2 * patience < LONGEST_SLEEP_NS ? 2 * patience : LONGEST_SLEEP_NS;
    }
}

static bool bg_wait_published(bg_sharing *sharing, uint64_t timestamp, uint64_t timeout) {
    return finish(sharing, timestamp, NULL, 0, timeout);
}

/* Wait until something is published after `position`. False after so many nanoseconds. */
static bool bg_wait_position(bg_sharing *sharing, uint64_t position, uint64_t timeout) {
    uint64_t deadline = now_ns() + timeout;
    while (load(sharing->publication->position) == position) {
        uint64_t now = now_ns();
        if (now >= deadline)
            return false;
        uint64_t patience = deadline - now < LONGEST_SLEEP_NS ? deadline - now : LONGEST_SLEEP_NS;
        sleep_on_position(sharing->publication, position, patience);
        bg_help(sharing);
    }
    return true;
}

/* Which commits have been written back, for all processes: the PUBLICATION part of the segment.
 *
 * Everything here may be done by several processes at once, and any of them may stop at any instruction for ever, or for
 * years. So every word that more than one may write carries a number that only grows, and changes only by a compare and
 * swap from an older number to a newer one: who is late finds a newer number and does nothing. Only 64-bit compare and
 * swap is needed (LDREXD and STREXD on ARMv7). docs/shm.md has the argument.
 *
 * Behind the definitions of layout.py.
 */

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(_Atomic uint64_t) == 8, "64-bit words change at once");

typedef struct bg_publication bg_publication;

/* A place in the order of publication and the timestamp that was published there. */
typedef struct {
    uint64_t position;
    uint64_t timestamp;
} bg_moment;

#define load(word) atomic_load_explicit(&(word), memory_order_acquire)
#define store(word, value) atomic_store_explicit(&(word), (value), memory_order_release)

static inline bool swap(_Atomic uint64_t *word, uint64_t before, uint64_t after) {
    return atomic_compare_exchange_strong(word, &before, after);
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* The newest one. */
static bg_moment bg_now(bg_publication *publication) {
    for (;;) {
        bg_moment moment;
        moment.position = load(publication->position);
        moment.timestamp = load(publication->stamps[moment.position % BG_STAMPS]);
        /* A stamp is replaced by the one that many positions later, just before `position` gets there. */
        if (load(publication->position) - moment.position < BG_STAMPS - 1)
            return moment;
    }
}

static uint64_t bg_published(bg_publication *publication) {
    return bg_now(publication).timestamp;
}

/* Where a timestamp was published; 0 if that is not known any more. */
static uint64_t bg_position_of(bg_publication *publication, uint64_t timestamp) {
    uint64_t newest = load(publication->position);
    for (uint64_t position = newest; position > 0 && newest - position < BG_STAMPS - 1; position--) {
        uint64_t stamp = load(publication->stamps[position % BG_STAMPS]);
        if (stamp > timestamp)
            continue;
        if (stamp == timestamp && load(publication->position) - position < BG_STAMPS - 1)
            return position;
        break;
    }
    return 0;
}

/* What comes after `timestamp` in the order of publication: the next commit, or the beginning of an epoch. 0 after the
 * last commit of the last epoch. */
static uint64_t successor(bg_publication *publication, uint32_t timestamp_bits, uint64_t timestamp) {
    if (timestamp == UINT64_MAX >> (BG_EPOCH_BITS - timestamp_bits))
        return 0;
    if (timestamp < load(publication->newest_end))
        for (uint32_t i = 0; i < BG_EPOCH_ENDS; i++) {
            _Atomic uint64_t *end = &publication->epoch_ends[2 * i];
            if (load(end[0]) != timestamp)
                continue;
            uint64_t origin = load(end[1]);
            if (load(end[0]) == timestamp && origin > timestamp)
                return origin;
        }
    return timestamp + 1; /* after the last count of an epoch this is the first timestamp of the next */
}

static bool is_origin(uint32_t timestamp_bits, uint64_t timestamp) {
    return (timestamp & UINT64_MAX >> (64 - timestamp_bits)) == 0;
}

/* Everything up to `next` has been written back: publish it, `here` being the moment before. */
static void step(bg_publication *publication, bg_moment here, uint64_t next) {
    _Atomic uint64_t *stamp = &publication->stamps[(here.position + 1) % BG_STAMPS];
    uint64_t before = load(*stamp);
    if (before < next)
        swap(stamp, before, next);
    BG_POINT(STAMPED);
    if (swap(&publication->position, here.position, here.position + 1) && atomic_load(&publication->asleep) &&
        atomic_exchange(&publication->asleep, 0))
        syscall(SYS_futex, &publication->position, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Where a timestamp may be in `written_back`. They are scattered, so that those of two epochs are not in each other's way
 * even if their counts are the same. An entry is free when its timestamp is published. */
static _Atomic uint64_t *mark_at(bg_publication *publication, uint64_t timestamp, uint32_t probe) {
    uint64_t mixed = (timestamp + probe * UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
    return &publication->written_back[(mixed >> 40) % BG_WRITTEN_BACK];
}

static bool is_marked(bg_publication *publication, uint64_t timestamp) {
    if (timestamp > load(publication->newest_mark))
        return false;
    for (uint32_t probe = 0; probe < BG_PROBES; probe++)
        if (load(*mark_at(publication, timestamp, probe)) == timestamp)
            return true;
    return false;
}

/* Move over all that needs nobody any more; the moment after that. */
static bg_moment advance(bg_publication *publication, uint32_t timestamp_bits) {
    for (;;) {
        bg_moment here = bg_now(publication);
        uint64_t next = successor(publication, timestamp_bits, here.timestamp);
        if (next == 0 || (!is_origin(timestamp_bits, next) && !is_marked(publication, next)))
            return here;
        step(publication, here, next);
    }
}

/* A commit of REDO_MANUAL has been written back. False if there are so many that there is no room for it now. */
static bool bg_publish(bg_publication *publication, uint32_t timestamp_bits, uint64_t timestamp) {
    uint64_t newest = load(publication->newest_mark);
    while (newest < timestamp && !swap(&publication->newest_mark, newest, timestamp))
        newest = load(publication->newest_mark);
    /* The oldest one needs no room. */
    bg_moment here = bg_now(publication);
    if (successor(publication, timestamp_bits, here.timestamp) == timestamp)
        step(publication, here, timestamp);
    bool marked = timestamp <= bg_published(publication) || is_marked(publication, timestamp);
    for (uint32_t probe = 0; probe < BG_PROBES && !marked; probe++) {
        _Atomic uint64_t *mark = mark_at(publication, timestamp, probe);
        uint64_t before = load(*mark);
        /* Who comes late replaces one that is published by another one that is: no timestamp comes back. */
        marked = before <= bg_published(publication) && swap(mark, before, timestamp);
    }
    if (marked)
        advance(publication, timestamp_bits);
    return marked;
}

/* Remember whose commit it is: its completion entry is about to be used again. Only the owner of the slot calls this, one
 * thread at a time. False if it has too many. */
static bool bg_claim(bg_publication *publication, uint64_t timestamp, uint32_t slot) {
    uint64_t published = bg_published(publication);
    for (uint32_t i = 0; i < BG_CLAIMS; i++) {
        _Atomic uint64_t *claim = &publication->claims[slot * BG_CLAIMS + (timestamp + i) % BG_CLAIMS];
        if (load(*claim) <= published) {
            store(*claim, timestamp);
            return true;
        }
    }
    return timestamp <= published;
}

/* Whether a slot has claimed a timestamp. */
static bool is_claimed(bg_publication *publication, uint64_t timestamp, uint32_t slot) {
    for (uint32_t i = 0; i < BG_CLAIMS; i++)
        if (load(publication->claims[slot * BG_CLAIMS + (timestamp + i) % BG_CLAIMS]) == timestamp)
            return true;
    return false;
}

/* Whether one more end of an epoch can be noted. */
static bool has_room_for_end(bg_publication *publication) {
    uint64_t count = load(publication->epoch_end_count);
    return count < BG_EPOCH_ENDS ||
           load(publication->epoch_ends[2 * (count % BG_EPOCH_ENDS) + 1]) <= bg_published(publication);
}

/* An epoch ended before its time. One caller at a time; may be repeated. False if too many are unpublished. */
static bool bg_epoch_end(bg_publication *publication, uint32_t timestamp_bits, uint64_t last, uint64_t origin) {
    for (uint32_t i = 0; i < BG_EPOCH_ENDS; i++)
        if (load(publication->epoch_ends[2 * i]) == last && load(publication->epoch_ends[2 * i + 1]) == origin)
            goto recorded;
    if (!has_room_for_end(publication))
        return false;
    uint64_t count = load(publication->epoch_end_count);
    _Atomic uint64_t *end = &publication->epoch_ends[2 * (count % BG_EPOCH_ENDS)];
    store(end[0], UINT64_MAX);
    store(end[1], origin);
    store(end[0], last);
    store(publication->epoch_end_count, count + 1);
recorded:
    if (load(publication->newest_end) <= last)
        store(publication->newest_end, last + 1);
    advance(publication, timestamp_bits);
    return true;
}

/* Sleep until `position` is not `seen` any more, or for at most so long. May return early. */
static void sleep_on_position(bg_publication *publication, uint64_t seen, uint64_t nanoseconds) {
    /* The kernel's, not the C library's, whose time_t may be wider. */
    struct {
        long seconds;
        long nanoseconds;
    } patience = {(long)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    atomic_store(&publication->asleep, 1);
    syscall(SYS_futex, &publication->position, FUTEX_WAIT, (uint32_t)seen, &patience, NULL, 0);
}

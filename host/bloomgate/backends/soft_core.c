/* soft:, the decisions of the gateware in C11. Bit-exact with model.py, which says what they are and why.
 *
 * soft_source.py puts in front of this file what Python defines: the BG_* codes, limits and positions, and
 * bg_abort_statistic. H3 matrices arrive at run time. Every bg_ function that takes a device is safe to call from any
 * thread, as long as the device is not freed meanwhile; the Python side sees to that.
 *
 * The state of a device has no pointers, so that it can lie in memory which processes map at different addresses
 * (shm/shared.c). There its holder can be killed at any instruction. What makes that harmless is the intent record.
 */

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* No slot: an unknown winner, a token that nobody holds. */
#define NOBODY UINT32_MAX
/* A row number needs 16 bits, so one 64-bit word holds the rows of this many tables. */
#define TABLES_PER_WORD 4
#define HASH_WORDS ((BG_MAX_TABLES + TABLES_PER_WORD - 1) / TABLES_PER_WORD)
#define KEY_BYTES 4

typedef struct {
    uint32_t code; /* a Reason, or BG_COMMIT or BG_READ_ONLY */
    uint32_t epoch;
    uint32_t count; /* of the commit timestamp */
    uint32_t key;   /* the first failing one */
    uint32_t position;
} bg_verdict;

/* What the device knows of one slot; see class _Slot in in_flight.py. */
typedef struct {
    uint32_t in_flight;
    uint32_t epoch; /* of the snapshot */
    uint32_t count;
    uint32_t logged;  /* announced keys */
    uint32_t entered; /* the slot's filter is not empty */
    uint32_t revalidate;
    uint32_t doomed;
    uint32_t doom_key_known;
    uint32_t doom_key;
    uint32_t doom_epoch;
    uint32_t doom_count;
    uint32_t parked;
    uint32_t refused;
    uint32_t wake_sequence;
    uint32_t wake_epoch;
    uint32_t wake_count;
    uint32_t token;
    uint32_t age;
    bg_verdict refusal; /* of the last request for the token; BG_COMMIT when it was not refused */
    uint64_t statistics[BG_SLOT_STATISTICS];
} bg_slot_state;

typedef struct {
    uint32_t winner; /* NOBODY when it is not known */
    uint32_t loser;
    uint32_t key_known;
    uint32_t key;
    uint32_t epoch;
    uint32_t count;
} bg_conflict;

typedef struct {
    uint32_t count; /* slots */
    uint32_t holder;
    uint32_t last_holder;
    uint32_t conflict_head; /* conflicts ever logged */
    uint32_t conflict_tail; /* and taken by the host */
    _Atomic uint32_t news;  /* changes when a slot's state may have changed; a futex */
    uint32_t told;          /* the news that other processes have been told, see shm/flight.c */
    _Atomic uint32_t sleepers;
    uint64_t watchdog;
    uint64_t held_for;
    bg_slot_state slots[BG_MAX_SLOTS];
    bg_conflict conflicts[BG_CONFLICT_LOG_ENTRIES];
    uint32_t present[BG_MAX_TABLES][BG_SLOT_FILTER_ROWS]; /* a bit for each slot */
} bg_flight;

/* What an operation of a slot gives back. */
typedef struct {
    bg_verdict verdict;
    bg_slot_state state;
    uint32_t epoch; /* the newest timestamp */
    uint32_t last;
    uint32_t news;
    uint64_t epoch_end[2]; /* see store_epoch_end() */
    uint32_t refused; /* the state does not allow it; nothing has happened */
} bg_slot_answer;

typedef struct bg_device {
    pthread_mutex_t lock;
    /* geometry */
    uint32_t tables;
    uint32_t rows;
    uint32_t timestamp_bits;
    uint32_t max_count;
    uint32_t grant_limit; /* from this count on the token is not granted, see in_flight.py */
    uint32_t max_key;
    uint32_t aperture_depth;
    uint32_t buffer_depth;
    uint64_t max_timestamp;
    uint32_t hash_words;
    /* what is being done, so that another can finish it; see begin_commit(), intend_delivery() and end_epoch() */
    struct {
        uint32_t kind;
        uint32_t slot;
        uint32_t index;
        uint32_t request;
        uint32_t in_flight;
        bg_verdict verdict;
        uint32_t old_epoch;
        uint32_t old_last;
        uint32_t new_epoch;
        uint32_t by_reset;
    } intent;
    /* state */
    uint32_t epoch;
    uint32_t last;
    uint32_t previous_epoch;
    uint32_t previous_last;
    uint32_t floor;
    bool exhausted;
    uint32_t bad_words; /* words with bad parity: nearly always 0, and then nobody looks at `bad` */
    uint64_t statistics[BG_STATISTICS];
    /* H3 by bytes: the XOR of one entry for each byte of a key holds its row in each table, 16 bits a table. */
    uint64_t hash[HASH_WORDS][KEY_BYTES][256];
    bg_flight flight;
    /* [table][row], behind them a byte for each: whether its parity is bad; then each slot's announced keys */
    uint32_t words[];
} bg_device;

/* Kinds of intent. */
enum { INTENT_NONE, INTENT_COMMIT, INTENT_DELIVERY, INTENT_EPOCH };

/* A set of keys, native 32-bit words at any address. */
typedef struct {
    const char *keys;
    uint32_t count;
} key_set;

typedef struct {
    uint32_t epoch; /* of the snapshot */
    uint32_t count;
    key_set reads;
    key_set writes;
    key_set commutes;
    uint32_t chunk;    /* keys that are validated without a look at the outcome */
    uint32_t capacity; /* keys that are inserted one by one; more raise the floor */
    bool wide;         /* a key of the writes or commutes is wider than key_bits */
    uint32_t client;   /* the slot it is from + 1; 0 when it is from none */
    bool revoked;      /* that slot has lost the token */
    /* where it came from, for the intent record */
    uint32_t slot;
    uint32_t index;
    uint32_t number;
    bool in_flight; /* it is the commit of its slot's transaction in flight */
} bg_request;

/* in_flight.c */
static bool is_refused(bg_device *device, const bg_request *request, bg_verdict *verdict);
static void look_up(bg_device *device, const bg_request *request);
static void epoch_has_ended(bg_device *device, bool by_reset);
static uint32_t revoke_token(bg_device *device);
static void grant(bg_device *device);
static void raise_floor(bg_device *device, uint32_t winner);
static void fault_was_injected(bg_device *device);

/* Wakes the threads that wait for news of their slots. */
static void wake_sleepers(bg_device *device) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&device->flight.sleepers, memory_order_relaxed) != 0)
        syscall(SYS_futex, &device->flight.news, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* What precedes the keys of a request of bg_commit: reads, then writes, then commutes. */
typedef struct {
    uint64_t snapshot;
    uint32_t reads;
    uint32_t writes;
    uint32_t commutes;
} request_header;

/* The header without the padding that C puts after it. */
#define HEADER_BYTES 20

static uint32_t key_at(const char *keys, size_t index) {
    uint32_t key; /* copied, because a Python bytes object promises no alignment */
    memcpy(&key, keys + index * sizeof key, sizeof key);
    return key;
}

typedef struct {
    uint64_t word[HASH_WORDS];
} rows_of_key;

static inline rows_of_key hash(const bg_device *device, uint32_t key) {
    rows_of_key rows = {{0}};
    for (uint32_t i = 0; i < device->hash_words; i++)
        rows.word[i] = device->hash[i][0][key & 0xff] ^ device->hash[i][1][key >> 8 & 0xff] ^
                       device->hash[i][2][key >> 16 & 0xff] ^ device->hash[i][3][key >> 24];
    return rows;
}

/* Where the word of a key is, in one table. */
static inline size_t place(const bg_device *device, const rows_of_key *rows, uint32_t table) {
    uint32_t row = rows->word[table / TABLES_PER_WORD] >> (table % TABLES_PER_WORD * 16) & 0xffff;
    return (size_t)table * device->rows + row;
}

/* Whether the parity of each word is bad, [table][row]. */
static inline uint8_t *bad_of(bg_device *device) {
    return (uint8_t *)(device->words + (size_t)device->tables * device->rows);
}

/* Whether all words of a key are newer than `snapshot`, in a filter without bad words. */
static inline bool newer(const bg_device *device, uint32_t key, uint32_t snapshot) {
    rows_of_key rows = hash(device, key);
    for (uint32_t table = 0; table < device->tables; table++)
        if (device->words[place(device, &rows, table)] <= snapshot)
            return false;
    return true;
}

/* The same where words can be bad; adds their number to `*met`. */
static bool newer_with_parity(bg_device *device, uint32_t key, uint32_t snapshot, uint32_t *met) {
    rows_of_key rows = hash(device, key);
    bool all = true;
    for (uint32_t table = 0; table < device->tables; table++) {
        size_t where = place(device, &rows, table);
        uint32_t word = device->words[where];
        if (bad_of(device)[where]) {
            word = device->last;
            ++*met;
        }
        if (word <= snapshot)
            all = false;
    }
    return all;
}

static void write_word(bg_device *device, size_t where, uint32_t count) {
    device->words[where] = count;
    if (bad_of(device)[where]) {
        bad_of(device)[where] = 0;
        device->bad_words--;
    }
}

static void make_bad(bg_device *device, uint32_t table, uint32_t row) {
    size_t where = (size_t)table * device->rows + row;
    device->words[where] = 0;
    if (!bad_of(device)[where]) {
        bad_of(device)[where] = 1;
        device->bad_words++;
    }
    fault_was_injected(device);
}

static void insert(bg_device *device, uint32_t key) {
    rows_of_key rows = hash(device, key);
    for (uint32_t table = 0; table < device->tables; table++)
        write_word(device, place(device, &rows, table), device->last);
}

static void repair(bg_device *device, uint32_t key) {
    rows_of_key rows = hash(device, key);
    for (uint32_t table = 0; table < device->tables; table++) {
        size_t where = place(device, &rows, table);
        if (bad_of(device)[where])
            write_word(device, where, device->last);
    }
}

/* Stores before the call are done before stores after it, in the eyes of whoever finds the state of a dead process: a
 * process is killed between two instructions, so only the compiler could reorder them. */
static inline void in_this_order(void) {
    atomic_signal_fence(memory_order_seq_cst);
}

/* The step of the epoch that the intent record describes. Doing it twice is doing it once. */
static void step_epoch(bg_device *device) {
    size_t size = (size_t)device->tables * device->rows;
    device->previous_epoch = device->intent.old_epoch;
    device->previous_last = device->intent.old_last;
    device->epoch = device->intent.new_epoch;
    device->last = 0;
    device->floor = 0;
    memset(device->words, 0, size * sizeof *device->words);
    memset(bad_of(device), 0, size);
    device->bad_words = 0;
    device->statistics[BG_STATISTIC_EPOCH_STEPS]++;
    epoch_has_ended(device, device->intent.by_reset);
    in_this_order();
    device->intent.kind = INTENT_NONE;
}

/* Notes that the epoch is about to end. False after the last one, which only exhausts the device. */
static bool intend_epoch(bg_device *device, uint32_t initial_epoch, bool by_reset) {
    device->intent.kind = INTENT_NONE;
    if (device->epoch == UINT32_MAX) {
        device->exhausted = true;
        if (by_reset)
            revoke_token(device);
        grant(device); /* refuses it to whoever waits for it */
        return false;
    }
    in_this_order();
    device->intent.by_reset = by_reset;
    device->intent.old_epoch = device->epoch;
    device->intent.old_last = device->last;
    device->intent.new_epoch = device->epoch + 1 < initial_epoch ? initial_epoch : device->epoch + 1;
    in_this_order();
    device->intent.kind = INTENT_EPOCH;
    in_this_order();
    BG_POINT(EPOCH_INTENDED);
    return true;
}

static void end_epoch(bg_device *device, uint32_t initial_epoch, bool by_reset) {
    if (intend_epoch(device, initial_epoch, by_reset))
        step_epoch(device);
}

static uint64_t last_timestamp(const bg_device *device) {
    return ((uint64_t)device->epoch << device->timestamp_bits) + device->last;
}

/* Notes that a submission is about to get this verdict. */
static void intend(bg_device *device, uint32_t kind, const bg_request *request, const bg_verdict *verdict) {
    device->intent.slot = request->slot;
    device->intent.index = request->index;
    device->intent.request = request->number;
    device->intent.in_flight = request->in_flight;
    device->intent.verdict = *verdict;
    in_this_order();
    device->intent.kind = kind;
    in_this_order();
}

/* The verdict is COMMIT with the next timestamp; finish_commit() follows when it is delivered. */
static void begin_commit(bg_device *device, const bg_request *request) {
    bg_verdict verdict = {.code = BG_COMMIT, .epoch = device->epoch, .count = device->last + 1};
    intend(device, INTENT_COMMIT, request, &verdict);
}

/* The verdict is another one, which must not be decided again when it may have been seen. */
static void intend_delivery(bg_device *device, const bg_request *request, const bg_verdict *verdict) {
    intend(device, INTENT_DELIVERY, request, verdict);
}

/* Ends what begin_commit() began, and the epoch if that was its last count. */
static void finish_commit(bg_device *device) {
    in_this_order();
    if (device->last == device->max_count && device->intent.kind == INTENT_COMMIT)
        end_epoch(device, 0, false);
    else
        device->intent.kind = INTENT_NONE;
}

static void abort_with(bg_device *device, bg_verdict *verdict, uint32_t reason) {
    device->statistics[bg_abort_statistic[reason]]++;
    verdict->code = reason;
}

/* One chunk of the read set: keys `from` to `end` - 1. Sets code, key and position at the first key that fails, if
 * none has failed yet; adds the bad words met. */
static void validate(bg_device *device, const bg_request *request, uint32_t from, uint32_t end, bg_verdict *verdict,
                     uint32_t *met) {
    const char *keys = request->reads.keys;
    uint32_t snapshot = request->count;
    uint32_t before = *met;
    if (device->bad_words == 0) {
        uint32_t failing = from;
        if (device->floor <= snapshot)
            while (failing < end && !newer(device, key_at(keys, failing), snapshot))
                failing++;
        if (failing < end)
            *verdict = (bg_verdict){.code = BG_REASON_CONFLICT, .key = key_at(keys, failing), .position = failing};
        return;
    }
    for (uint32_t i = from; i < end; i++) {
        uint32_t met_before = *met;
        bool fails = newer_with_parity(device, key_at(keys, i), snapshot, met);
        if ((fails || device->floor > snapshot) && verdict->code == BG_COMMIT) {
            bool parity = device->floor <= snapshot && *met > met_before;
            uint32_t code = parity ? BG_REASON_PARITY : BG_REASON_CONFLICT;
            *verdict = (bg_verdict){.code = code, .key = key_at(keys, i), .position = i};
        }
    }
    if (*met > before)
        for (uint32_t i = from; i < end; i++)
            repair(device, key_at(keys, i));
}

/* Whether a set has a key wider than key_bits. */
static bool too_wide(const bg_device *device, const char *keys, uint32_t from, uint32_t end) {
    uint32_t all = 0;
    if (device->max_key != UINT32_MAX)
        for (uint32_t i = from; i < end; i++)
            all |= key_at(keys, i);
    return all > device->max_key; /* because max_key + 1 is a power of two */
}

static void insert_all(bg_device *device, const key_set *set) {
    for (uint32_t i = 0; i < set->count; i++)
        insert(device, key_at(set->keys, i));
}

/* What is to be said against a request; BG_COMMIT if nothing is. */
static bg_verdict examine(bg_device *device, const bg_request *request) {
    uint64_t snapshot = (uint64_t)request->epoch << 32 | request->count;
    bool ahead = snapshot > ((uint64_t)device->epoch << 32 | device->last);
    bool rollover = request->epoch < device->epoch || device->exhausted;
    bool wide = request->wide;
    bg_verdict verdict = {.code = BG_COMMIT};
    uint32_t met = 0;
    uint32_t validated = 0;

    while (validated < request->reads.count) {
        uint32_t left = request->reads.count - validated;
        uint32_t end = validated + (left < request->chunk ? left : request->chunk);
        validate(device, request, validated, end, &verdict, &met);
        wide |= too_wide(device, request->reads.keys, validated, end);
        validated = end;
        if (verdict.code != BG_COMMIT || wide || ahead || rollover)
            break;
    }
    device->statistics[BG_STATISTIC_KEYS_VALIDATED] += validated;
    device->statistics[BG_STATISTIC_PARITY_ERRORS] += met;
    device->statistics[BG_STATISTIC_ERRORS] += ahead || wide || met;

    if (request->revoked)
        abort_with(device, &verdict, BG_REASON_REVOKED);
    else if (ahead || wide)
        abort_with(device, &verdict, BG_REASON_BAD_REQUEST);
    else if (rollover)
        abort_with(device, &verdict, BG_REASON_ROLLOVER);
    else if (verdict.code != BG_COMMIT)
        abort_with(device, &verdict, verdict.code);
    else if (is_refused(device, request, &verdict))
        abort_with(device, &verdict, BG_REASON_IRREVOCABLE);
    return verdict;
}

/* Decides; the caller delivers the verdict and then calls finish_commit(). */
static bg_verdict decide(bg_device *device, const bg_request *request) {
    uint32_t insertions = request->writes.count + request->commutes.count;
    bg_verdict verdict = examine(device, request);
    if (verdict.code != BG_COMMIT)
        return verdict;
    device->statistics[BG_STATISTIC_COMMITS]++;
    if (insertions == 0) {
        verdict.code = BG_READ_ONLY;
        return verdict;
    }
    begin_commit(device, request);
    BG_POINT(INTENDED);
    device->last++;
    verdict.epoch = device->epoch;
    verdict.count = device->last;
    BG_POINT(ASSIGNED);
    if (insertions > request->capacity) {
        raise_floor(device, request->client - 1);
        device->statistics[BG_STATISTIC_FLOOR_RAISES]++;
    } else {
        insert_all(device, &request->writes);
        BG_POINT(HALF_INSERTED);
        insert_all(device, &request->commutes);
        device->statistics[BG_STATISTIC_KEYS_INSERTED] += insertions;
        look_up(device, request);
    }
    return verdict;
}

/* Whether the request could be put on the wire. Python tells the caller what is wrong with it. */
static bool legal(const bg_device *device, const request_header *header, const char *keys) {
    uint64_t size = (uint64_t)header->reads + header->writes + header->commutes;
    return header->snapshot <= device->max_timestamp && size <= device->aperture_depth &&
           !too_wide(device, keys, 0, (uint32_t)size);
}

static size_t words_bytes(uint32_t tables, uint32_t row_bits) {
    return ((size_t)tables << row_bits) * (sizeof(uint32_t) + 1);
}

static uint64_t bg_device_bytes(uint32_t tables, uint32_t row_bits, uint32_t slots, uint32_t aperture_depth) {
    return sizeof(bg_device) + words_bytes(tables, row_bits) + (size_t)slots * aperture_depth * sizeof(uint32_t);
}

/* A new device in zeroed memory. `shared`: between processes, of which any may be killed. Returns success. */
static int bg_device_init(bg_device *device, uint32_t tables, uint32_t row_bits, uint32_t timestamp_bits,
                          uint32_t key_bits, uint32_t slots, uint32_t aperture_depth, uint32_t buffer_depth,
                          const uint32_t *matrices, int shared) {
    device->tables = tables;
    device->rows = (uint32_t)1 << row_bits;
    device->timestamp_bits = timestamp_bits;
    device->max_count = UINT32_MAX >> (32 - timestamp_bits);
    uint32_t margin = device->max_count / 2 < BG_GRANT_MARGIN ? device->max_count / 2 : BG_GRANT_MARGIN;
    device->grant_limit = device->max_count - margin;
    device->max_key = UINT32_MAX >> (32 - key_bits);
    device->flight.count = slots;
    device->flight.holder = NOBODY;
    device->flight.last_holder = slots - 1;
    device->aperture_depth = aperture_depth;
    device->buffer_depth = buffer_depth;
    device->max_timestamp = UINT64_MAX >> (32 - timestamp_bits);
    device->hash_words = (tables + TABLES_PER_WORD - 1) / TABLES_PER_WORD;
    for (uint32_t table = 0; table < tables; table++)
        for (uint32_t bit = 0; bit < key_bits; bit++) {
            uint64_t word = matrices[table * key_bits + bit];
            for (uint32_t value = 0; value < 256; value++)
                if (value >> bit % 8 & 1)
                    device->hash[table / TABLES_PER_WORD][bit / 8][value] ^= word << (table % TABLES_PER_WORD * 16);
        }
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes) != 0)
        return 0;
    int failed = 0;
    if (shared)
        failed = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) != 0 ||
                 pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) != 0;
    failed = failed || pthread_mutex_init(&device->lock, &attributes) != 0;
    pthread_mutexattr_destroy(&attributes);
    return !failed;
}

static bg_device *bg_new(uint32_t tables, uint32_t row_bits, uint32_t timestamp_bits, uint32_t key_bits,
                         uint32_t slots, uint32_t aperture_depth, uint32_t buffer_depth, const uint32_t *matrices) {
    bg_device *device = calloc(1, bg_device_bytes(tables, row_bits, slots, aperture_depth));
    if (device != NULL && !bg_device_init(device, tables, row_bits, timestamp_bits, key_bits, slots, aperture_depth,
                                          buffer_depth, matrices, 0)) {
        free(device);
        return NULL;
    }
    return device;
}

static void bg_free(bg_device *device) {
    pthread_mutex_destroy(&device->lock);
    free(device);
}

/* An answer is a commit timestamp, or a multiple of 2**timestamp_bits, which no commit timestamp is: then the code is
 * a Reason, BG_READ_ONLY or BG_ILLEGAL, and `position` is that of the first failing key. */
static uint64_t answer(const bg_device *device, uint32_t code, uint32_t position) {
    return ((uint64_t)code | (uint64_t)position << BG_CODE_BITS) << device->timestamp_bits;
}

static uint64_t bg_commit(bg_device *device, const char *request) {
    request_header header;
    memcpy(&header, request, HEADER_BYTES);
    const char *keys = request + HEADER_BYTES;
    if (!legal(device, &header, keys))
        return answer(device, BG_ILLEGAL, 0);
    const char *writes = keys + (size_t)header.reads * sizeof(uint32_t);
    bg_request sets = {
        .epoch = (uint32_t)(header.snapshot >> device->timestamp_bits),
        .count = (uint32_t)header.snapshot & device->max_count,
        .reads = {keys, header.reads},
        .writes = {writes, header.writes},
        .commutes = {writes + (size_t)header.writes * sizeof(uint32_t), header.commutes},
        .chunk = UINT32_MAX,
        .capacity = UINT32_MAX,
    };
    pthread_mutex_lock(&device->lock);
    bg_verdict verdict = decide(device, &sets);
    finish_commit(device);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
    if (verdict.code == BG_COMMIT)
        return ((uint64_t)verdict.epoch << device->timestamp_bits) + verdict.count;
    return answer(device, verdict.code, verdict.position);
}

#if defined(Py_PYTHON_H) && !defined(PYPY_VERSION)
/* bg_commit as a Python function of the request, for one device. cffi releases the GIL around every call, which wakes
 * the threads that wait for it in the middle of somebody's commit; a decision is shorter than such a switch. `owner` is
 * a tuple of the device's address and the object that keeps it alive. */
static PyObject *commit_with_gil(PyObject *owner, PyObject *request) {
    bg_device *device = PyLong_AsVoidPtr(PyTuple_GetItem(owner, 0));
    const char *bytes = PyBytes_AsString(request);
    return bytes == NULL ? NULL : PyLong_FromUnsignedLongLong(bg_commit(device, bytes));
}

static PyMethodDef commit_method = {"commit", commit_with_gil, METH_O, NULL};

__attribute__((visibility("default"))) PyObject *bg_committer(PyObject *owner) {
    return PyCFunction_NewEx(&commit_method, owner, NULL);
}
#endif

/* Decides `count` requests that lie one behind the other; returns how many committed. For benchmarks. */
static uint64_t bg_commit_many(bg_device *device, const char *requests, uint64_t count) {
    uint64_t commits = 0;
    for (uint64_t i = 0; i < count; i++) {
        request_header header;
        memcpy(&header, requests, HEADER_BYTES);
        uint64_t result = bg_commit(device, requests);
        commits += (result & device->max_count) != 0 || result == answer(device, BG_READ_ONLY, 0);
        requests += HEADER_BYTES + ((uint64_t)header.reads + header.writes + header.commutes) * sizeof(uint32_t);
    }
    return commits;
}

static uint64_t bg_last_timestamp(bg_device *device) {
    pthread_mutex_lock(&device->lock);
    uint64_t result = last_timestamp(device);
    pthread_mutex_unlock(&device->lock);
    return result;
}

/* Stores the last timestamp before and after. */
static void bg_reset(bg_device *device, uint32_t initial_epoch, uint64_t *timestamps) {
    pthread_mutex_lock(&device->lock);
    timestamps[0] = last_timestamp(device);
    end_epoch(device, initial_epoch, true);
    timestamps[1] = last_timestamp(device);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
}

static void bg_raise_floor(bg_device *device) {
    pthread_mutex_lock(&device->lock);
    raise_floor(device, NOBODY);
    pthread_mutex_unlock(&device->lock);
    wake_sleepers(device);
}

static void bg_inject_parity_error(bg_device *device, uint32_t table, uint32_t row) {
    pthread_mutex_lock(&device->lock);
    make_bad(device, table, row);
    pthread_mutex_unlock(&device->lock);
}

/* What the device has counted, and behind it what all slots have counted of transactions in flight. */
static void copy_statistics(const bg_device *device, uint64_t *statistics) {
    memcpy(statistics, device->statistics, sizeof device->statistics);
    for (uint32_t i = 0; i < BG_FLIGHT_STATISTICS; i++) {
        uint64_t *total = &statistics[BG_STATISTICS + i];
        *total = 0;
        for (uint32_t slot = 0; slot < device->flight.count; slot++)
            *total += device->flight.slots[slot].statistics[BG_FIRST_FLIGHT_STATISTIC + i];
    }
}

static void bg_stats(bg_device *device, uint64_t *statistics) {
    pthread_mutex_lock(&device->lock);
    copy_statistics(device, statistics);
    pthread_mutex_unlock(&device->lock);
}

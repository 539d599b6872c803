/* soft:, the decisions of the gateware in C11. Bit-exact with model.py, which says what they are and why.
 *
 * soft_source.py puts in front of this file what Python defines: the BG_* codes, limits and positions, and
 * bg_abort_statistic. H3 matrices arrive at run time. Every function that takes a device is safe to call from any
 * thread, as long as the device is not freed meanwhile; the Python side sees to that.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A row number needs 16 bits, so one 64-bit word holds the rows of this many tables. */
#define TABLES_PER_WORD 4
#define HASH_WORDS ((BG_MAX_TABLES + TABLES_PER_WORD - 1) / TABLES_PER_WORD)
#define KEY_BYTES 4

typedef struct bg_device {
    pthread_mutex_t lock;
    /* geometry */
    uint32_t tables;
    uint32_t rows;
    uint32_t timestamp_bits;
    uint32_t max_count;
    uint32_t max_key;
    uint32_t aperture_depth;
    uint64_t max_timestamp;
    uint32_t hash_words;
    /* state */
    uint32_t epoch;
    uint32_t last;
    uint32_t previous_epoch;
    uint32_t previous_last;
    uint32_t floor;
    bool exhausted;
    uint32_t bad_words; /* words with bad parity: nearly always 0, and then nobody looks at `bad` */
    uint64_t statistics[BG_STATISTICS];
    uint32_t *words; /* [table][row] */
    uint8_t *bad;    /* [table][row] */
    /* H3 by bytes: the XOR of one entry for each byte of a key holds its row in each table, 16 bits a table. */
    uint64_t hash[HASH_WORDS][KEY_BYTES][256];
} bg_device;

/* What precedes the keys of a request: reads, then writes, then commutes, as native 32-bit words. */
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

/* Whether all words of a key are newer than `snapshot`, in a filter without bad words. */
static inline bool newer(const bg_device *device, uint32_t key, uint32_t snapshot) {
    rows_of_key rows = hash(device, key);
    for (uint32_t table = 0; table < device->tables; table++)
        if (device->words[place(device, &rows, table)] <= snapshot)
            return false;
    return true;
}

/* The same where words can be bad; adds their number to `*met`. */
static bool newer_with_parity(const bg_device *device, uint32_t key, uint32_t snapshot, uint32_t *met) {
    rows_of_key rows = hash(device, key);
    bool all = true;
    for (uint32_t table = 0; table < device->tables; table++) {
        size_t where = place(device, &rows, table);
        uint32_t word = device->words[where];
        if (device->bad[where]) {
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
    if (device->bad[where]) {
        device->bad[where] = 0;
        device->bad_words--;
    }
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
        if (device->bad[where])
            write_word(device, where, device->last);
    }
}

static void end_epoch(bg_device *device, uint32_t initial_epoch) {
    size_t size = (size_t)device->tables * device->rows;
    if (device->epoch == UINT32_MAX) {
        device->exhausted = true;
        return;
    }
    device->previous_epoch = device->epoch;
    device->previous_last = device->last;
    device->epoch++;
    if (device->epoch < initial_epoch)
        device->epoch = initial_epoch;
    device->last = 0;
    device->floor = 0;
    memset(device->words, 0, size * sizeof *device->words);
    memset(device->bad, 0, size * sizeof *device->bad);
    device->bad_words = 0;
    device->statistics[BG_STATISTIC_EPOCH_STEPS]++;
}

static uint64_t last_timestamp(const bg_device *device) {
    return ((uint64_t)device->epoch << device->timestamp_bits) + device->last;
}

/* An answer is a commit timestamp, or a multiple of 2**timestamp_bits, which no commit timestamp is: then the code is
 * a Reason, BG_READ_ONLY or BG_ILLEGAL, and `index` is the position of the first failing key. */
static uint64_t answer(const bg_device *device, uint32_t code, uint32_t index) {
    return ((uint64_t)code | (uint64_t)index << BG_CODE_BITS) << device->timestamp_bits;
}

static uint64_t abort_with(bg_device *device, uint32_t reason, uint32_t index) {
    device->statistics[bg_abort_statistic[reason]]++;
    return answer(device, reason, index);
}

static uint64_t decide(bg_device *device, const request_header *header, const char *keys) {
    uint32_t epoch = (uint32_t)(header->snapshot >> device->timestamp_bits);
    uint32_t snapshot = (uint32_t)header->snapshot & device->max_count;
    uint32_t insertions = header->writes + header->commutes;
    uint32_t failing = header->reads; /* position of the first failing key */
    uint32_t reason = BG_REASON_CONFLICT;
    uint32_t met = 0;

    if (device->bad_words == 0) {
        if (device->floor > snapshot)
            failing = 0;
        else
            for (failing = 0; failing < header->reads; failing++)
                if (newer(device, key_at(keys, failing), snapshot))
                    break;
    } else {
        for (uint32_t i = 0; i < header->reads; i++) {
            uint32_t before = met;
            bool fails = newer_with_parity(device, key_at(keys, i), snapshot, &met);
            if ((fails || device->floor > snapshot) && failing == header->reads) {
                failing = i;
                if (device->floor <= snapshot && met > before)
                    reason = BG_REASON_PARITY;
            }
        }
        if (met)
            for (uint32_t i = 0; i < header->reads; i++)
                repair(device, key_at(keys, i));
    }

    bool bad_request = header->snapshot > last_timestamp(device);
    device->statistics[BG_STATISTIC_KEYS_VALIDATED] += header->reads;
    device->statistics[BG_STATISTIC_PARITY_ERRORS] += met;
    device->statistics[BG_STATISTIC_ERRORS] += bad_request || met;

    if (bad_request)
        return abort_with(device, BG_REASON_BAD_REQUEST, 0);
    if (epoch < device->epoch || device->exhausted)
        return abort_with(device, BG_REASON_ROLLOVER, 0);
    if (failing < header->reads)
        return abort_with(device, reason, failing);

    device->statistics[BG_STATISTIC_COMMITS]++;
    if (insertions == 0)
        return answer(device, BG_READ_ONLY, 0);
    device->last++;
    uint64_t timestamp = last_timestamp(device);
    for (uint32_t i = 0; i < insertions; i++)
        insert(device, key_at(keys, header->reads + i));
    device->statistics[BG_STATISTIC_KEYS_INSERTED] += insertions;
    if (device->last == device->max_count)
        end_epoch(device, 0);
    return timestamp;
}

/* Whether the request could be put on the wire. Python tells the caller what is wrong with it. */
static bool legal(const bg_device *device, const request_header *header, const char *keys) {
    uint64_t size = (uint64_t)header->reads + header->writes + header->commutes;
    uint32_t all = 0;
    if (header->snapshot > device->max_timestamp || size > device->aperture_depth)
        return false;
    if (device->max_key != UINT32_MAX)
        for (uint64_t i = 0; i < size; i++)
            all |= key_at(keys, i);
    return all <= device->max_key; /* because max_key + 1 is a power of two */
}

static bg_device *bg_new(uint32_t tables, uint32_t row_bits, uint32_t timestamp_bits, uint32_t key_bits,
                         uint32_t aperture_depth, const uint32_t *matrices) {
    bg_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return NULL;
    device->tables = tables;
    device->rows = (uint32_t)1 << row_bits;
    device->timestamp_bits = timestamp_bits;
    device->max_count = UINT32_MAX >> (32 - timestamp_bits);
    device->max_key = UINT32_MAX >> (32 - key_bits);
    device->aperture_depth = aperture_depth;
    device->max_timestamp = UINT64_MAX >> (32 - timestamp_bits);
    device->hash_words = (tables + TABLES_PER_WORD - 1) / TABLES_PER_WORD;
    for (uint32_t table = 0; table < tables; table++)
        for (uint32_t bit = 0; bit < key_bits; bit++) {
            uint64_t word = matrices[table * key_bits + bit];
            for (uint32_t value = 0; value < 256; value++)
                if (value >> bit % 8 & 1)
                    device->hash[table / TABLES_PER_WORD][bit / 8][value] ^= word << (table % TABLES_PER_WORD * 16);
        }
    device->words = calloc((size_t)tables << row_bits, sizeof *device->words);
    device->bad = calloc((size_t)tables << row_bits, sizeof *device->bad);
    if (device->words == NULL || device->bad == NULL || pthread_mutex_init(&device->lock, NULL) != 0) {
        free(device->words);
        free(device->bad);
        free(device);
        return NULL;
    }
    return device;
}

static void bg_free(bg_device *device) {
    pthread_mutex_destroy(&device->lock);
    free(device->words);
    free(device->bad);
    free(device);
}

static uint64_t bg_commit(bg_device *device, const char *request) {
    request_header header;
    memcpy(&header, request, HEADER_BYTES);
    if (!legal(device, &header, request + HEADER_BYTES))
        return answer(device, BG_ILLEGAL, 0);
    pthread_mutex_lock(&device->lock);
    uint64_t result = decide(device, &header, request + HEADER_BYTES);
    pthread_mutex_unlock(&device->lock);
    return result;
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
    end_epoch(device, initial_epoch);
    timestamps[1] = last_timestamp(device);
    pthread_mutex_unlock(&device->lock);
}

static void bg_raise_floor(bg_device *device) {
    pthread_mutex_lock(&device->lock);
    device->floor = device->last;
    pthread_mutex_unlock(&device->lock);
}

static void bg_inject_parity_error(bg_device *device, uint32_t table, uint32_t row) {
    size_t where = (size_t)table * device->rows + row;
    pthread_mutex_lock(&device->lock);
    device->words[where] = 0;
    if (!device->bad[where]) {
        device->bad[where] = 1;
        device->bad_words++;
    }
    pthread_mutex_unlock(&device->lock);
}

static void bg_stats(bg_device *device, uint64_t *statistics) {
    pthread_mutex_lock(&device->lock);
    memcpy(statistics, device->statistics, sizeof device->statistics);
    pthread_mutex_unlock(&device->lock);
}

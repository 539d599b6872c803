/* Locations of shared arrays: 64-bit words with a few versions each, which every process may write and read.
 *
 * A version is VERSION_WORDS words of 64 bits, each with a piece of the value and, as its tag, the position in the order
 * of publication of the commit that wrote it; tag 0 is no version. Commits are installed one after the other: `position`
 * is p while the commit that will have position p + 1 is, by whoever comes first, perhaps by several at once.
 * docs/shm.md has the argument why this is right.
 */

#define PIECE_BITS (64 - BG_TAG_BITS)
#define TAG_MASK (UINT64_MAX >> PIECE_BITS)

typedef struct {
    _Atomic uint64_t words[BG_VERSIONS][BG_VERSION_WORDS];
} bg_location;

/* What an operation does to the value before; the operations of one transaction on one location follow each other. */
typedef struct {
    uint32_t location;
    uint32_t operation;
    uint64_t operand;
} bg_redo_entry;

static inline uint64_t tagged(uint64_t value, uint32_t piece, uint64_t tag) {
    return value >> (piece * PIECE_BITS) << BG_TAG_BITS | tag;
}

static inline double as_double(uint64_t word) {
    double number;
    memcpy(&number, &word, sizeof number);
    return number;
}

static inline uint64_t as_word(double number) {
    uint64_t word;
    memcpy(&word, &number, sizeof word);
    return word;
}

static uint64_t evaluate(const bg_redo_entry *entry, uint64_t value) {
    uint64_t operand = entry->operand;
    switch (entry->operation) {
    case BG_OPERATION_SET:
        return operand;
    case BG_OPERATION_ADD:
        return value + operand;
    case BG_OPERATION_MIN_SIGNED:
        return (int64_t)operand < (int64_t)value ? operand : value;
    case BG_OPERATION_MAX_SIGNED:
        return (int64_t)operand > (int64_t)value ? operand : value;
    case BG_OPERATION_MIN_UNSIGNED:
        return operand < value ? operand : value;
    case BG_OPERATION_MAX_UNSIGNED:
        return operand > value ? operand : value;
    case BG_OPERATION_ADD_DOUBLE:
        return as_word(as_double(value) + as_double(operand));
    case BG_OPERATION_MIN_DOUBLE:
        return as_double(operand) < as_double(value) ? operand : value;
    case BG_OPERATION_MAX_DOUBLE:
        return as_double(operand) > as_double(value) ? operand : value;
    default:
        return value;
    }
}

/* Give a location the version of the commit at position `tag`, made of the version before by `count` operations. All
 * commits before that are installed. Idempotent; does nothing when later commits are being installed. */
static void install(bg_location *location, uint64_t tag, const bg_redo_entry *entries, uint32_t count) {
    uint64_t seen[BG_VERSIONS][BG_VERSION_WORDS];
    uint64_t oldest = UINT64_MAX;
    uint64_t newest = 0;
    uint64_t value = 0;
    int target = -1;
    bool begun = false;

    for (int version = 0; version < BG_VERSIONS; version++) {
        bool mine = false;
        for (int piece = 0; piece < BG_VERSION_WORDS; piece++) {
            uint64_t word = seen[version][piece] = load(location->words[version][piece]);
            if ((word & TAG_MASK) > tag)
                return;
            mine = mine || (word & TAG_MASK) == tag;
        }
        if (mine || (!begun && (seen[version][0] & TAG_MASK) < oldest)) {
            oldest = seen[version][0] & TAG_MASK;
            target = version;
            begun = begun || mine;
        }
    }
    /* Apart from the target, nothing changes until all of this commit is installed. */
    for (int version = 0; version < BG_VERSIONS; version++)
        if (version != target && (seen[version][0] & TAG_MASK) >= newest) {
            newest = seen[version][0] & TAG_MASK;
            value = 0;
            for (int piece = 0; piece < BG_VERSION_WORDS; piece++)
                value |= seen[version][piece] >> BG_TAG_BITS << (piece * PIECE_BITS);
        }
    for (uint32_t i = 0; i < count; i++)
        value = evaluate(&entries[i], value);
    for (int piece = 0; piece < BG_VERSION_WORDS; piece++)
        if ((seen[target][piece] & TAG_MASK) < tag) {
            BG_POINT(INSTALLING);
            swap(&location->words[target][piece], seen[target][piece], tagged(value, piece, tag));
        }
}

/* The value at a position that was the newest before this call, or later. Returns the position of the commit that wrote
 * it, or 0 when that version is gone. */
static uint64_t bg_array_read(bg_location *location, uint64_t position, uint64_t *value) {
    for (;;) {
        uint64_t words[BG_VERSION_WORDS];
        uint64_t found = 0;
        int best = 0;
        for (int version = 0; version < BG_VERSIONS; version++) {
            uint64_t candidate[BG_VERSION_WORDS];
            bool whole = true;
            for (int piece = 0; piece < BG_VERSION_WORDS; piece++) {
                candidate[piece] = load(location->words[version][piece]);
                whole = whole && (candidate[piece] & TAG_MASK) == (candidate[0] & TAG_MASK);
            }
            if (whole && (candidate[0] & TAG_MASK) > found && (candidate[0] & TAG_MASK) <= position) {
                found = candidate[0] & TAG_MASK;
                best = version;
                memcpy(words, candidate, sizeof words);
            }
        }
        if (found == 0)
            return 0;
        /* Versions are replaced oldest first: if this one is still there, so is every newer one. */
        bool still = true;
        for (int piece = 0; piece < BG_VERSION_WORDS; piece++)
            still = still && load(location->words[best][piece]) == words[piece];
        if (!still)
            continue;
        *value = 0;
        for (int piece = 0; piece < BG_VERSION_WORDS; piece++)
            *value |= words[piece] >> BG_TAG_BITS << (piece * PIECE_BITS);
        return found;
    }
}

/* The newest tag that a location has, be it published or not. */
static uint64_t bg_array_newest(bg_location *location) {
    uint64_t newest = 0;
    for (int version = 0; version < BG_VERSIONS; version++)
        for (int piece = 0; piece < BG_VERSION_WORDS; piece++) {
            uint64_t tag = load(location->words[version][piece]) & TAG_MASK;
            newest = tag > newest ? tag : newest;
        }
    return newest;
}

/* The initial value, older than every commit. Before anybody else knows the location. */
static void bg_array_initialise(bg_location *location, uint64_t value) {
    for (uint32_t piece = 0; piece < BG_VERSION_WORDS; piece++)
        store(location->words[0][piece], tagged(value, piece, 1));
}

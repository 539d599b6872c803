/* One client of a bank in shared memory, to be killed and stopped: transfers between accounts until it is told to end.
 *
 * bank bytes TABLES ROW_BITS SLOTS APERTURE_DEPTH: print the size of the device part.
 * bank format SEGMENT ACCOUNTS INITIAL MATRIX_WORD...: prepare a segment that has a header and else is zeros.
 * bank SEGMENT ACCOUNTS SEED TRANSFERS [POINT COUNTDOWN SIGNAL]: be a client.
 *
 * Location 0 counts the commits, by a commuting update; the accounts follow. Each transfer reads two accounts, writes
 * them, and counts itself. Every few transfers all accounts are read at one snapshot, and their sum must be that of the
 * first time. With HOLDERS in the environment every eighth transfer is that of a holder of the token: it guards both accounts,
 * and must commit. POINT is one of the places that the sources name with BG_POINT: at its COUNTDOWN-th passage the process
 * sends itself SIGNAL. Exits with 0 after so many transfers, and with 1 and a message when something is wrong.
 *
 * Behind -DSOURCE='"..."', the C source of the host package.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *armed_point = "";
static long countdown;
static int armed_signal;

static void at_point(const char *name) {
    if (strcmp(name, armed_point) == 0 && countdown-- == 0)
        kill(getpid(), armed_signal);
}

#define BG_POINT(name) at_point(#name)

#include SOURCE

#include <sys/mman.h>
#include <sys/stat.h>

#define SECOND 1000000000ull
#define COUNTER 0u
#define ALL_EVERY 8
#define KEY_BIT 0x80000000u

static uint64_t state;

static uint32_t any(uint32_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % limit;
}

static void fail(const char *what) {
    fprintf(stderr, "bank: %s\n", what);
    exit(1);
}

static unsigned char *map_segment(const char *path, int *file) {
    struct stat about;
    *file = open(path, O_RDWR);
    if (*file < 0 || fstat(*file, &about) != 0)
        fail("no segment");
    void *base = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    if (base == MAP_FAILED)
        fail("cannot map the segment");
    return base;
}

/* As SlotPort does it. */
static bg_client *own_slot(bg_segment *segment, bg_sharing *sharing, int file) {
    for (uint32_t slot = 0; slot < segment->slots; slot++) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
        if (fcntl(file, F_OFD_GETLK + 1, &lock) != 0)
            continue;
        struct bg_slot_control *control = segment->rings[slot].control;
        uint32_t generation = control->generation % 0xffff + 1;
        control->owner_pid = (uint32_t)getpid();
        while (!bg_segment_drain(segment, slot, SECOND))
            ;
        BG_POINT(DRAINED);
        uint64_t newest = bg_unpublished_of(sharing, slot);
        while (newest != 0 && !bg_wait_published(sharing, newest, SECOND))
            ;
        bg_sharing_own(sharing, slot);
        BG_POINT(SETTLED);
        control->generation = generation;
        while (!bg_segment_enable(segment, slot, generation, SECOND))
            ;
        bg_client *client = bg_client_of(segment, slot);
        bg_client_begin(client, generation);
        return client;
    }
    fail("no free slot");
    return NULL;
}

static struct {
    bg_commit_header header;
    bg_redo_entry entries[3];
    uint32_t keys[5];
} request;

/* Whether the snapshot still had all that it reads. */
static bool check_sum(bg_sharing *sharing, uint32_t accounts, int64_t *expected) {
    bg_moment now = bg_now(sharing->publication);
    int64_t sum = 0;
    for (uint32_t account = 1; account <= accounts; account++) {
        uint64_t value;
        if (bg_array_read(&sharing->locations[account], now.position, &value) == 0)
            return false;
        sum += (int64_t)value;
    }
    if (*expected == -1)
        *expected = sum;
    if (sum != *expected)
        fail("the sum of a snapshot is wrong");
    return true;
}

/* As class Guards does it: whether this client has the token now. */
static bool take_token(bg_client *client, bg_sharing *sharing) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = BG_TOKEN_LOCK, .l_len = 1};
    if (fcntl(sharing->file, F_OFD_GETLK + 1, &lock) != 0)
        return false;
    BG_POINT(TOKEN_TAKEN);
    if (!bg_guards_clear(client, sharing, 60 * SECOND))
        fail("guards could not be removed within a minute");
    return true;
}

static void give_token(bg_client *client, bg_sharing *sharing) {
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = BG_TOKEN_LOCK, .l_len = 1};
    if (!bg_guards_clear(client, sharing, 60 * SECOND))
        fail("guards could not be removed within a minute");
    fcntl(sharing->file, F_OFD_GETLK + 1, &lock);
}

/* Everything that has been submitted on the location so far is published, and nothing else will be. */
static void guard(bg_client *client, bg_sharing *sharing, uint32_t location) {
    uint64_t begin = now_ns();
    bg_guard(client, location);
    while (!bg_guard_settle(client, sharing, SECOND / 10))
        if (now_ns() - begin > 60 * SECOND)
            fail("a guard took more than a minute");
    if (!bg_wait_published(sharing, bg_segment_last(client->segment), 60 * SECOND))
        fail("a publication took more than a minute");
}

/* Submits the request; if it is no holder's, when no guard is in its way any more. */
static void submit(bg_client *client, bg_sharing *sharing, bool holder) {
    uint64_t begin = now_ns();
    for (;;) {
        int outcome = bg_transact_submit(client, &request, holder);
        if (outcome == SUBMITTED)
            return;
        if (outcome != REFUSED || holder)
            fail("the ring is full");
        if (take_token(client, sharing)) /* its holder has ended, or is dead */
            give_token(client, sharing);
        if (now_ns() - begin > 60 * SECOND)
            fail("a guard was in the way for more than a minute");
        sched_yield();
    }
}

static bool transfer(bg_client *client, bg_sharing *sharing, uint32_t accounts) {
    uint32_t from = 1 + any(accounts);
    uint32_t to = 1 + any(accounts - 1);
    to += to >= from;
    uint64_t amount = any(100);
    uint64_t rich, poor;
    bool holder = getenv("HOLDERS") != NULL && any(8) == 0 && take_token(client, sharing);
    if (holder) {
        guard(client, sharing, from);
        guard(client, sharing, to);
    }
    bg_moment now = bg_now(sharing->publication);
    if (bg_array_read(&sharing->locations[from], now.position, &rich) == 0 ||
        bg_array_read(&sharing->locations[to], now.position, &poor) == 0) {
        if (holder)
            fail("what a holder has guarded is gone");
        return false;
    }
    request.header = (bg_commit_header){.snapshot = now.timestamp, .reads = 2, .writes = 2, .commutes = 1, .entries = 3};
    request.entries[0] = (bg_redo_entry){from, BG_OPERATION_SET, rich - amount};
    request.entries[1] = (bg_redo_entry){to, BG_OPERATION_SET, poor + amount};
    request.entries[2] = (bg_redo_entry){COUNTER, BG_OPERATION_ADD, 1};
    request.keys[0] = request.keys[2] = KEY_BIT | from;
    request.keys[1] = request.keys[3] = KEY_BIT | to;
    request.keys[4] = KEY_BIT | COUNTER;
    if (holder) {
        request.header.snapshot = bg_segment_last(client->segment);
        request.header.reads = 0;
        memmove(request.keys, request.keys + 2, 3 * sizeof *request.keys);
    }
    uint64_t begin = now_ns();
    submit(client, sharing, holder);
    while (!bg_transact(client, sharing, &request, SECOND / 10))
        if (now_ns() - begin > 60 * SECOND)
            fail("a commit took more than a minute");
    bg_transact_release(client, &request);
    if (holder) {
        give_token(client, sharing);
        if (request.header.timestamp == 0)
            fail("the commit of a holder was refused");
    }
    if (request.header.timestamp != 0)
        return true;
    /* What it lost against may belong to somebody who is dead: as the STM does, publish it before the next attempt. */
    if (!bg_wait_published(sharing, bg_segment_last(client->segment), 60 * SECOND))
        fail("a publication took more than a minute");
    return false;
}

static void format(int count, char **arguments) {
    int file;
    static uint32_t matrices[BG_MAX_TABLES * 32];
    bg_segment *segment = bg_segment_open(map_segment(arguments[2], &file));
    bg_sharing *sharing = bg_sharing_new(segment, file);
    for (int i = 5; i < count; i++)
        matrices[i - 5] = (uint32_t)strtoul(arguments[i], NULL, 10);
    if (!bg_segment_format(segment, matrices))
        fail("cannot format the segment");
    bg_array_initialise(&sharing->locations[COUNTER], 0);
    for (int account = 1; account <= atoi(arguments[3]); account++)
        bg_array_initialise(&sharing->locations[account], strtoull(arguments[4], NULL, 10));
}

int main(int count, char **arguments) {
    int file;
    if (count == 6 && strcmp(arguments[1], "bytes") == 0) {
        uint64_t bytes = bg_device_bytes((uint32_t)atoi(arguments[2]), (uint32_t)atoi(arguments[3]),
                                         (uint32_t)atoi(arguments[4]), (uint32_t)atoi(arguments[5]));
        printf("%llu\n", (unsigned long long)bytes);
        return 0;
    }
    if (count > 5 && strcmp(arguments[1], "format") == 0) {
        format(count, arguments);
        return 0;
    }
    if (count < 5)
        fail("SEGMENT ACCOUNTS SEED TRANSFERS [POINT COUNTDOWN SIGNAL]");
    uint32_t accounts = (uint32_t)atoi(arguments[2]);
    state = strtoull(arguments[3], NULL, 10);
    long transfers = atol(arguments[4]);
    if (count == 8) {
        armed_point = arguments[5];
        countdown = atol(arguments[6]);
        armed_signal = atoi(arguments[7]);
    }
    bg_segment *segment = bg_segment_open(map_segment(arguments[1], &file));
    bg_sharing *sharing = bg_sharing_new(segment, file);
    bg_client *client = own_slot(segment, sharing, file);
    int64_t sum = -1;
    for (long done = 0; done < transfers;) {
        done += transfer(client, sharing, accounts);
        if (any(ALL_EVERY) == 0)
            check_sum(sharing, accounts, &sum);
    }
    return 0;
}

/* One client of a segment, for bench/shm.py. Behind -DSOURCE='"..."', the C source of the host package.
 *
 * shm run SEGMENT SLOT REQUESTS READS WRITES: submit, collect and see published so many; prints when it began and ended, in
 *     nanoseconds, and how many committed.
 * shm path SEGMENT REQUESTS READS WRITES: the same one after the other with the server in this process; the client's part
 *     is in the functions path_*, whose instructions are to be counted.
 * shm whole SEGMENT REQUESTS READS WRITES: the same without a server, where the client decides.
 */

#include SOURCE

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define WORDS 8

static uint32_t log_offset;
static uint32_t written; /* keys of all requests so far */

static bg_sharing *sharing;
static uint32_t kind; /* of redo record: BG_REDO_MANUAL where the path is counted, else what others can finish */

static bg_segment *attach(const char *path) {
    struct stat about;
    int file = open(path, O_RDWR);
    if (file < 0 || fstat(file, &about) != 0)
        exit(2);
    void *base = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (base == MAP_FAILED)
        exit(2);
    bg_segment *segment = bg_segment_open(base);
    sharing = bg_sharing_new(segment, file);
    return segment;
}

/* An entry whose snapshot is the newest, with keys that nobody else uses. */
static void prepare(bg_client *client, uint32_t reads, uint32_t writes, uint32_t *words) {
    uint32_t place = client->tail % client->ring.entries;
    uint32_t offset = log_offset + place * (reads + writes) * 4;
    uint32_t *keys = (uint32_t *)(client->ring.window + offset);
    uint64_t snapshot = bg_segment_last(client->segment);
    for (uint32_t i = 0; i < reads + writes; i++)
        keys[i] = (client->ring.slot << 27) + (written++ & 0x7ffffff);
    uint32_t entry[WORDS] = {BG_ENTRY_FORMAT << 16, (uint32_t)(snapshot >> 32), (uint32_t)snapshot, offset, reads,
                             offset + 4 * reads,    offset,                     writes};
    memcpy(words, entry, sizeof entry);
}

static __attribute__((noinline)) int path_submit(bg_client *client, const uint32_t *words) {
    return bg_submit(client, words, kind, NULL, 0);
}

static __attribute__((noinline)) int path_complete(bg_client *client, uint32_t *payload) {
    return bg_take(client, 1000000000, payload);
}

static bool request(bg_client *client, bg_device *server, uint32_t reads, uint32_t writes) {
    uint32_t words[WORDS], payload[BG_COMPLETION_BEATS];
    prepare(client, reads, writes, words);
    int index = path_submit(client, words);
    if (server != NULL) {
        poll_doorbells(&client->ring);
        serve_one(server, &client->ring);
    }
    if (index < 0)
        exit(3);
    /* Commits that others have not published can be in the way. */
    while (!path_complete(client, payload))
        sched_yield();
    if (payload[0] & BG_VERDICT_TIMESTAMPED) {
        uint64_t timestamp = ((uint64_t)payload[1] << 32) + payload[2];
        bg_redo_entry nothing;
        if (kind == BG_REDO_MANUAL)
            bg_publish(client->segment->publication, 32, timestamp);
        else
            while (!finish(sharing, timestamp, &nothing, 0, 1000000000))
                ;
    }
    return payload[0] & BG_VERDICT_COMMITTED;
}

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    bg_segment *segment = attach(arguments[2]);
    bool run = strcmp(arguments[1], "run") == 0;
    uint32_t slot = run ? (uint32_t)atoi(arguments[3]) : 0;
    uint32_t requests = (uint32_t)atoi(arguments[count - 3]);
    uint32_t reads = (uint32_t)atoi(arguments[count - 2]);
    uint32_t writes = (uint32_t)atoi(arguments[count - 1]);
    bg_client *client = bg_client_of(segment, slot);
    bg_sharing_own(sharing, slot);
    kind = run ? BG_REDO_ARRAY : BG_REDO_MANUAL;
    bg_device *server = NULL;
    if (strcmp(arguments[1], "path") == 0) {
        client->kind = SERVED;
        server = segment->device;
    }
    log_offset = 2 * client->ring.entries * BG_ENTRY_BYTES;
    if (!bg_segment_enable(segment, slot, 1, 1000000000))
        return 3;
    bg_client_begin(client, 1);
    uint64_t begin = now_ns(), commits = 0;
    for (uint32_t i = 0; i < requests; i++)
        commits += request(client, server, reads, writes);
    printf("%llu %llu %llu\n", (unsigned long long)begin, (unsigned long long)now_ns(), (unsigned long long)commits);
    return 0;
}

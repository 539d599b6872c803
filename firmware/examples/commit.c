/*
 * One slot of the co-processor from C: says what the device is, commits, sees a conflict, and counts.
 *
 *     cc -std=c11 -I host/bloomgate/include -I host/bloomgate/libbloomgate firmware/examples/commit.c \
 *        host/bloomgate/libbloomgate/[a-z]*.c -o commit
 *     ./commit 3
 *
 * The second argument is a folder that is put before the paths of the system, for tests.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bloomgate.h"
#include "bloomgate_registers.h"

static void require(int status, const char *what)
{
    if (status != BLOOMGATE_OK) {
        fprintf(stderr, "commit: %s: %s\n", what,
                status == BLOOMGATE_E_SYSTEM ? strerror(errno) : bloomgate_message(status));
        exit(EXIT_FAILURE);
    }
}

static void show(const char *what, const struct bloomgate_decision *decision)
{
    if (!decision->committed) {
        printf("%s: abort, reason %" PRIu32 ", key %" PRIu32 "\n", what, decision->reason, decision->key);
    } else if (decision->timestamped) {
        printf("%s: commit at %" PRIu64 "\n", what, decision->timestamp);
    } else {
        printf("%s: commit without a timestamp\n", what);
    }
}

int main(int count, char **words)
{
    const char *number = count > 1 ? words[1] : "0", *root = count > 2 ? words[2] : "";
    char name[32];
    snprintf(name, sizeof name, "bloomgate-slot%s", number);

    struct bloomgate_window control, page;
    struct bloomgate_geometry geometry;
    struct bloomgate_slot slot;
    require(bloomgate_uio_open(&control, root, "bloomgate-control"), "page 0");
    require(bloomgate_identify(&control, &geometry), "page 0");
    printf("version %" PRIu32 ".%" PRIu32 ".%" PRIu32 ", %" PRIu32 " slots, %" PRIu32 " keys a request\n",
           geometry.major, geometry.minor, geometry.patch, geometry.slots, geometry.aperture_depth);
    require(bloomgate_uio_open(&page, root, name), name);
    require(bloomgate_slot_open(&slot, &page, &geometry), name);

    uint64_t snapshot;
    require(bloomgate_last_timestamp(&control, &geometry, &snapshot), "last timestamp");

    const uint32_t mine[] = {10, 11, 12}, counter[] = {13};
    struct bloomgate_request request = {.snapshot = snapshot,
                                        .reads = mine,
                                        .read_count = 3,
                                        .writes = mine,
                                        .write_count = 2,
                                        .commutes = counter,
                                        .commute_count = 1};
    struct bloomgate_decision decision;
    require(bloomgate_commit(&slot, &request, &decision), "commit");
    show("first", &decision);
    /* The same snapshot again: keys 10 and 11 have been overwritten since. */
    require(bloomgate_commit(&slot, &request, &decision), "commit");
    show("stale", &decision);
    request = (struct bloomgate_request){.snapshot = snapshot + 1, .reads = mine, .read_count = 3};
    require(bloomgate_commit(&slot, &request, &decision), "commit");
    show("read-only", &decision);

    uint64_t statistics[BLOOMGATE_STATISTICS];
    require(bloomgate_statistics(&control, statistics), "statistics");
    printf("commits %" PRIu64 ", conflicts %" PRIu64 "\n", statistics[BLOOMGATE_STATISTIC_COMMITS],
           statistics[BLOOMGATE_STATISTIC_ABORTS_CONFLICT]);
    bloomgate_close(&page);
    bloomgate_close(&control);
    return EXIT_SUCCESS;
}

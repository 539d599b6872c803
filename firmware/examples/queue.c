/*
 * Several requests at once on a slot of its own, through the kernel module and libbloomgate.
 *
 *     cc queue.c -lbloomgate -o queue && ./queue 3
 *
 * The second argument, if there is one, stands before every path of the system; it is for tests.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bloomgate.h"

#define REQUESTS 4
/* Far longer than any request takes. */
#define MILLISECONDS 1000

static void require(int status, const char *what)
{
    if (status != BLOOMGATE_OK) {
        fprintf(stderr, "%s: %s\n", what, bloomgate_message(status));
        exit(1);
    }
}

int main(int count, char **words)
{
    const char *slot = count > 1 ? words[1] : "0", *root = count > 2 ? words[2] : "";
    char name[32];
    snprintf(name, sizeof name, "bloomgate-slot%s", slot);

    struct bloomgate_window page;
    struct bloomgate_geometry geometry;
    struct bloomgate_queue queue;
    uint64_t newest;
    require(bloomgate_module_open(&page, root, name), name);
    require(bloomgate_module_info(&page, &geometry, &newest), "what it is");
    require(bloomgate_module_queue_open(&queue, &page, &geometry), "a queue pair");

    /* All read key 0 and write it, so that the first commits and the others are too late. */
    uint32_t key = 0, indices[REQUESTS];
    struct bloomgate_request request = {
        .snapshot = newest, .reads = &key, .read_count = 1, .writes = &key, .write_count = 1};
    for (int i = 0; i < REQUESTS; i++) {
        require(bloomgate_submit(&queue, &request, &indices[i]), "submit");
    }
    for (int i = 0; i < REQUESTS; i++) {
        struct bloomgate_decision decision;
        require(bloomgate_collect(&queue, indices[i], MILLISECONDS, &decision), "collect");
        if (decision.timestamped) {
            printf("%d: commit at %" PRIu64 "\n", i, decision.timestamp);
        } else {
            printf("%d: abort, reason %" PRIu32 "\n", i, decision.reason);
        }
    }
    require(bloomgate_queue_close(&queue), "close");
    bloomgate_close(&page);
    return 0;
}

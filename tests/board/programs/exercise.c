/*
 * Does with libbloomgate what standard input says, a line each, and answers with a line each.
 *
 *     exercise ROOT SLOT
 *
 * A line is a letter and numbers; the answer begins with the status that the library returned:
 *     c SNAPSHOT READS WRITES COMMUTES KEY...   commit (sizes of the sets, then their keys)
 *     t, n                                     last timestamp, as page 0 and as the slot's page tell it
 *     s                                        statistics
 *     e                                        error log: number, code, slot, detail of each entry
 *     r EPOCH                                  reset
 *     i CAUSES, u, w MILLISECONDS, p           enable, unmask, wait for, and take interrupts
 *     x OFFSET, b OFFSET                       read a word, or one byte, of the slot's page
 *     Q, P SPINS, E                            open a queue on the slot, set its spins, close it
 *     S SNAPSHOT ...                           submit: the rest as for c; the index
 *     C INDEX MILLISECONDS                     collect
 *     A, N MILLISECONDS                        arm, nap; whether the nap ended before its time was over
 */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bloomgate.h"
#include "bloomgate_registers.h"
#include "clock.h"
#include "queue.h"

#define MAX_KEYS 8192

static struct bloomgate_window control, page;
static struct bloomgate_geometry geometry;
static struct bloomgate_slot slot;
static struct bloomgate_queue queue;
static const char *root;
static uint32_t slot_number;

static uint64_t number(void)
{
    char *word = strtok(NULL, " \n");
    return word == NULL ? 0 : strtoull(word, NULL, 10);
}

/* What the rest of a line asks for, until the next one. */
static struct bloomgate_request request_of_line(void)
{
    static uint32_t keys[MAX_KEYS];
    struct bloomgate_request request = {.snapshot = number()};
    request.read_count = (size_t)number();
    request.write_count = (size_t)number();
    request.commute_count = (size_t)number();
    size_t total = request.read_count + request.write_count + request.commute_count;
    for (size_t i = 0; i < total && i < MAX_KEYS; i++) {
        keys[i] = (uint32_t)number();
    }
    request.reads = keys;
    request.writes = request.reads + request.read_count;
    request.commutes = request.writes + request.write_count;
    return request;
}

static void print_decision(int status, const struct bloomgate_decision *decision)
{
    printf("%d", status);
    if (status == BLOOMGATE_OK) {
        printf(" %" PRIu32 " %" PRIu32 " %" PRIu64 " %" PRIu32 " %" PRIu32, decision->committed, decision->timestamped,
               decision->timestamp, decision->reason, decision->key);
    }
}

static void commit(void)
{
    struct bloomgate_request request = request_of_line();
    struct bloomgate_decision decision;
    print_decision(bloomgate_commit(&slot, &request, &decision), &decision);
}

static void submit(void)
{
    struct bloomgate_request request = request_of_line();
    uint32_t index;
    int status = bloomgate_submit(&queue, &request, &index);
    printf("%d", status);
    if (status == BLOOMGATE_OK) {
        printf(" %" PRIu32, index);
    }
}

static void collect(void)
{
    uint32_t index = (uint32_t)number();
    struct bloomgate_decision decision;
    print_decision(bloomgate_collect(&queue, index, (uint32_t)number(), &decision), &decision);
}

static void nap(void)
{
    uint32_t milliseconds = (uint32_t)number();
    uint64_t over = bloomgate_deadline(milliseconds);
    int status = bloomgate_uio_queue_nap(&queue, (int)milliseconds);
    printf("%d %d", status, bloomgate_now() < over);
}

static void statistics(void)
{
    uint64_t values[BLOOMGATE_STATISTICS] = {0};
    printf("%d", bloomgate_statistics(&control, values));
    for (size_t i = 0; i < BLOOMGATE_STATISTICS; i++) {
        printf(" %" PRIu64, values[i]);
    }
}

static void error_log(void)
{
    struct bloomgate_error entries[BLOOMGATE_ERROR_LOG_ENTRIES];
    size_t count = 0;
    printf("%d", bloomgate_error_log(&control, entries, &count));
    for (size_t i = 0; i < count; i++) {
        printf(" %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32, entries[i].number, entries[i].code, entries[i].slot,
               entries[i].detail);
    }
}

static void obey(char letter)
{
    uint64_t timestamp = 0;
    uint32_t word = 0;
    int status;
    switch (letter) {
    case 'c':
        commit();
        return;
    case 't':
        status = bloomgate_last_timestamp(&control, &geometry, &timestamp);
        printf("%d %" PRIu64, status, timestamp);
        return;
    case 'n':
        status = bloomgate_slot_newest(&slot, &timestamp);
        printf("%d %" PRIu64, status, timestamp);
        return;
    case 's':
        statistics();
        return;
    case 'e':
        error_log();
        return;
    case 'r':
        printf("%d", bloomgate_reset(&control, (uint32_t)number()));
        return;
    case 'i':
        printf("%d", bloomgate_interrupt_enable(&control, (uint32_t)number()));
        return;
    case 'u':
        printf("%d", bloomgate_uio_unmask(&control));
        return;
    case 'w':
        status = bloomgate_uio_wait(&control, (int)number(), &word);
        printf("%d %" PRIu32, status, word);
        return;
    case 'p':
        status = bloomgate_interrupt_take(&control, &word);
        printf("%d %" PRIu32, status, word);
        return;
    case 'x':
        status = bloomgate_read(&page, (uint32_t)number(), &word, 1);
        printf("%d %" PRIu32, status, word);
        return;
    case 'b':
        printf("%d", *((volatile uint8_t *)page.words + number()));
        return;
    case 'Q':
        printf("%d", bloomgate_uio_queue_open(&queue, root, &control, slot_number, &page, &geometry));
        return;
    case 'P':
        queue.spins = (uint32_t)number();
        printf("0");
        return;
    case 'S':
        submit();
        return;
    case 'C':
        collect();
        return;
    case 'A':
        printf("%d", bloomgate_uio_queue_arm(&queue));
        return;
    case 'N':
        nap();
        return;
    case 'E':
        printf("%d", bloomgate_queue_close(&queue));
        return;
    default:
        printf("what is %c?", letter);
    }
}

int main(int count, char **words)
{
    static char line[16 * MAX_KEYS];
    char name[32];
    if (count != 3) {
        return 2;
    }
    root = words[1];
    slot_number = (uint32_t)atoi(words[2]);
    snprintf(name, sizeof name, "bloomgate-slot%s", words[2]);
    int status = bloomgate_uio_open(&control, root, "bloomgate-control");
    if (status == BLOOMGATE_OK) {
        status = bloomgate_identify(&control, &geometry);
    }
    if (status == BLOOMGATE_OK) {
        status = bloomgate_uio_open(&page, root, name);
    }
    if (status == BLOOMGATE_OK) {
        status = bloomgate_slot_open(&slot, &page, &geometry);
    }
    if (status != BLOOMGATE_OK) {
        fprintf(stderr, "exercise: %s\n", bloomgate_message(status));
        return 1;
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        obey(*strtok(line, " \n"));
        putchar('\n');
    }
    bloomgate_close(&page);
    bloomgate_close(&control);
    return 0;
}

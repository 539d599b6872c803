#define _DEFAULT_SOURCE      /* flock */
#define _FILE_OFFSET_BITS 64 /* without it readdir fails on 32-bit processors where a file system has wide offsets */

#include "bloomgate.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bloomgate_registers.h"
#include "clock.h"
#include "queue.h"

#define CONTROL_NODE "bloomgate-control"
#define SLOT_NODE "bloomgate-slot"
/* Far longer than the requests that a queue can have fetched take. */
#define REST_MILLISECONDS 1000u
/* The causes that end a nap, of queue pairs and of parked slots, which share the interrupt. */
#define WAKING (BLOOMGATE_CONTROL_INTERRUPT_ENABLE_COMPLETION_MASK | BLOOMGATE_CONTROL_INTERRUPT_ENABLE_WAKE_MASK)

/* The first line of a file in sysfs, without its end; false when it cannot be read. */
static bool first_line(char *text, size_t size, const char *root, const char *folder, const char *entry,
                       const char *name)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s%s/%s/%s", root, folder, entry, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return false;
    }
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool read = fgets(text, (int)size, file) != NULL;
    fclose(file);
    if (read) {
        text[strcspn(text, "\n")] = '\0';
    }
    return read;
}

int bloomgate_fabric_ready(const char *root)
{
    char text[64];
    if (first_line(text, sizeof text, root, "/sys/class/fpga_manager", "fpga0", "state")) {
        /* The driver reads PCFG_DONE, so this also holds for what a boot loader has configured. */
        return strcmp(text, "operating") == 0 ? BLOOMGATE_OK : BLOOMGATE_E_FABRIC;
    }
    if (first_line(text, sizeof text, root, "/sys/class/xdevcfg", "xdevcfg/device", "prog_done")) {
        return strcmp(text, "1") == 0 ? BLOOMGATE_OK : BLOOMGATE_E_FABRIC;
    }
    return BLOOMGATE_E_FABRIC;
}

/* The physical address of the page that a node is named after; false for another name. */
static bool address_of(const char *name, uint64_t *address)
{
    *address = BLOOMGATE_BASE_ADDRESS;
    if (strcmp(name, CONTROL_NODE) == 0) {
        return true;
    }
    if (strncmp(name, SLOT_NODE, strlen(SLOT_NODE)) != 0) {
        return false;
    }
    const char *digits = name + strlen(SLOT_NODE);
    size_t length = strspn(digits, "0123456789");
    if (length == 0 || length > 2 || digits[length] != '\0') {
        return false;
    }
    *address += bloomgate_slot_page((uint32_t)strtoul(digits, NULL, 10));
    return true;
}

static bool number_in(const char *root, const char *entry, const char *name, uint64_t *number)
{
    char text[32];
    if (!first_line(text, sizeof text, root, "/sys/class/uio", entry, name)) {
        return false;
    }
    *number = strtoull(text, NULL, 0);
    return true;
}

/* The entry of /sys/class/uio with that name: "uio7". */
static int find_node(char *entry, size_t size, const char *root, const char *name)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/sys/class/uio", root);
    if (length < 0 || (size_t)length >= sizeof path) {
        return BLOOMGATE_E_NO_NODE;
    }
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return BLOOMGATE_E_NO_NODE;
    }
    int status = BLOOMGATE_E_NO_NODE;
    for (struct dirent *found = readdir(folder); found != NULL; found = readdir(folder)) {
        char text[64];
        if (found->d_name[0] != '.' && strlen(found->d_name) < size &&
            first_line(text, sizeof text, root, "/sys/class/uio", found->d_name, "name") && strcmp(text, name) == 0) {
            strcpy(entry, found->d_name);
            status = BLOOMGATE_OK;
            break;
        }
    }
    closedir(folder);
    return status;
}

/* The file of an entry of /sys/class/uio; negative, with errno, if it cannot be opened. */
static int open_node(const char *root, const char *entry)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/dev/%s", root, entry);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(path, O_RDWR | O_CLOEXEC);
}

int bloomgate_uio_open(struct bloomgate_window *window, const char *root, const char *name)
{
    *window = (struct bloomgate_window){.words = NULL, .bytes = 0, .file = -1};
    char entry[32];
    uint64_t expected, address, size;
    if (!address_of(name, &expected)) {
        return BLOOMGATE_E_NO_NODE;
    }
    int status = find_node(entry, sizeof entry, root, name);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    if (!number_in(root, entry, "maps/map0/addr", &address) || address != expected ||
        !number_in(root, entry, "maps/map0/size", &size) || size < BLOOMGATE_PAGE_BYTES) {
        return BLOOMGATE_E_NO_NODE;
    }
    status = bloomgate_fabric_ready(root);
    if (status != BLOOMGATE_OK) {
        return status;
    }

    int file = open_node(root, entry);
    if (file < 0) {
        return BLOOMGATE_E_SYSTEM;
    }
    /* Of the open file, so that the kernel releases it when the process dies. */
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        status = errno == EWOULDBLOCK ? BLOOMGATE_E_IN_USE : BLOOMGATE_E_SYSTEM;
        close(file);
        return status;
    }
    /* The offset of a UIO mapping is the number of the map in pages; map 0 is the register page. */
    void *words = mmap(NULL, BLOOMGATE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (words == MAP_FAILED) {
        int reason = errno;
        close(file);
        errno = reason;
        return BLOOMGATE_E_SYSTEM;
    }
    *window = (struct bloomgate_window){.words = words, .bytes = BLOOMGATE_PAGE_BYTES, .file = file};
    return BLOOMGATE_OK;
}

void bloomgate_close(struct bloomgate_window *window)
{
    if (window->words != NULL) {
        munmap((void *)(uintptr_t)window->words, window->bytes);
        window->words = NULL;
    }
    if (window->file >= 0) {
        close(window->file);
        window->file = -1;
    }
    window->bytes = 0;
}

int bloomgate_uio_unmask(const struct bloomgate_window *control)
{
    uint32_t on = 1;
    return write(control->file, &on, sizeof on) == (ssize_t)sizeof on ? BLOOMGATE_OK : BLOOMGATE_E_SYSTEM;
}

int bloomgate_uio_wait(const struct bloomgate_window *control, int milliseconds, uint32_t *interrupts)
{
    struct pollfd waiting = {.fd = control->file, .events = POLLIN};
    int ready = poll(&waiting, 1, milliseconds);
    if (ready < 0) {
        return BLOOMGATE_E_SYSTEM;
    }
    if (ready == 0) {
        return BLOOMGATE_E_TIMEOUT;
    }
    return read(control->file, interrupts, sizeof *interrupts) == (ssize_t)sizeof *interrupts ? BLOOMGATE_OK
                                                                                             : BLOOMGATE_E_SYSTEM;
}

/* Queues. The window of a slot belongs to the owner of page 0. */

static uint32_t record_of(uint32_t slot, uint32_t offset)
{
    return BLOOMGATE_CONTROL_QUEUE_RECORDS + slot * BLOOMGATE_QUEUE_RECORD_BYTES + offset;
}

static int set_record(const struct bloomgate_queue *queue, uint32_t offset, uint32_t word)
{
    return bloomgate_write(&queue->control, record_of(queue->slot, offset), &word, 1);
}

static int get_record(const struct bloomgate_queue *queue, uint32_t offset, uint32_t *word)
{
    return bloomgate_read(&queue->control, record_of(queue->slot, offset), word, 1);
}

/* Write QUEUE_CONTROL, and wait until it is in effect: then nothing of the owner before is on the bus. */
static int control_queue(const struct bloomgate_queue *queue, uint32_t control, uint32_t enabled)
{
    uint32_t mask = BLOOMGATE_QUEUE_QUEUE_STATUS_ENABLED_MASK | BLOOMGATE_QUEUE_QUEUE_STATUS_DRAINING_MASK;
    uint64_t deadline = bloomgate_deadline(REST_MILLISECONDS);
    int status = set_record(queue, BLOOMGATE_QUEUE_QUEUE_CONTROL, control);
    while (status == BLOOMGATE_OK) {
        uint32_t word;
        status = get_record(queue, BLOOMGATE_QUEUE_QUEUE_STATUS, &word);
        if (status != BLOOMGATE_OK || (word & mask) == enabled) {
            return status;
        }
        if (bloomgate_now() > deadline) {
            status = BLOOMGATE_E_TIMEOUT;
        }
    }
    return status;
}

int bloomgate_uio_queue_stop(const struct bloomgate_queue *queue)
{
    return control_queue(queue, 0, 0);
}

/* A stopped queue gets its window and an owner: the one after the last, so that nothing of that one is taken for his. */
static int start_queue(struct bloomgate_queue *queue, uint32_t base, const struct bloomgate_window *page,
                       const struct bloomgate_geometry *geometry)
{
    uint32_t word, shift = BLOOMGATE_QUEUE_QUEUE_STATUS_GENERATION_SHIFT;
    int status = get_record(queue, BLOOMGATE_QUEUE_QUEUE_STATUS, &word);
    uint32_t generation = ((word >> shift) + 1) & (BLOOMGATE_QUEUE_QUEUE_STATUS_GENERATION_MASK >> shift);
    bloomgate_queue_begin(queue, page, geometry, generation == 0 ? 1 : generation);
    bloomgate_queue_clear(queue);
    if (status == BLOOMGATE_OK) {
        status = set_record(queue, BLOOMGATE_QUEUE_WINDOW_BASE, base);
    }
    if (status == BLOOMGATE_OK) {
        status = set_record(queue, BLOOMGATE_QUEUE_WINDOW_SIZE, (uint32_t)queue->bytes);
    }
    return status != BLOOMGATE_OK
               ? status
               : control_queue(queue, BLOOMGATE_QUEUE_QUEUE_CONTROL_ENABLE_MASK | queue->owner,
                               BLOOMGATE_QUEUE_QUEUE_STATUS_ENABLED_MASK);
}

int bloomgate_uio_queue_open(struct bloomgate_queue *queue, const char *root, const struct bloomgate_window *control,
                             uint32_t slot, const struct bloomgate_window *page,
                             const struct bloomgate_geometry *geometry)
{
    *queue = (struct bloomgate_queue){.memory = NULL, .file = -1, .control = *control, .slot = slot};
    char name[32], entry[32];
    uint64_t base, size;
    if (geometry->queue_entries == 0) {
        return BLOOMGATE_E_MEMORY;
    }
    if (!geometry->uncached) {
        return BLOOMGATE_E_COHERENCE;
    }
    snprintf(name, sizeof name, SLOT_NODE "%" PRIu32, slot);
    int status = find_node(entry, sizeof entry, root, name);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    if (!number_in(root, entry, "maps/map1/addr", &base) || base > UINT32_MAX ||
        !number_in(root, entry, "maps/map1/size", &size) || size > SIZE_MAX ||
        size < bloomgate_queue_bytes(geometry)) {
        return BLOOMGATE_E_MEMORY;
    }
    status = bloomgate_uio_queue_stop(queue);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    /* A file of the queue's own: each counts the interrupts that it has seen. */
    status = find_node(entry, sizeof entry, root, CONTROL_NODE);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    queue->file = open_node(root, entry);
    /* The offset is the number of the map in pages. */
    void *memory = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, page->file, sysconf(_SC_PAGESIZE));
    if (queue->file < 0 || memory == MAP_FAILED) {
        status = BLOOMGATE_E_SYSTEM;
    }
    if (memory != MAP_FAILED) {
        queue->memory = memory;
        queue->bytes = (size_t)size;
    }
    if (status == BLOOMGATE_OK) {
        status = start_queue(queue, (uint32_t)base, page, geometry);
    }
    if (status != BLOOMGATE_OK) {
        int reason = errno;
        bloomgate_queue_abandon(queue);
        errno = reason;
    }
    return status;
}

int bloomgate_uio_queue_arm(const struct bloomgate_queue *queue)
{
    uint32_t cause = WAKING, on = 1;
    int status = bloomgate_write(&queue->control, BLOOMGATE_CONTROL_INTERRUPT_ENABLE, &cause, 1);
    if (status != BLOOMGATE_OK) {
        return status;
    }
    return write(queue->file, &on, sizeof on) == (ssize_t)sizeof on ? BLOOMGATE_OK : BLOOMGATE_E_SYSTEM;
}

int bloomgate_uio_queue_nap(const struct bloomgate_queue *queue, int milliseconds)
{
    uint32_t count, cause = WAKING;
    struct pollfd waiting = {.fd = queue->file, .events = POLLIN};
    int ready = poll(&waiting, 1, milliseconds);
    if (ready <= 0) {
        return ready == 0 || errno == EINTR ? BLOOMGATE_OK : BLOOMGATE_E_SYSTEM;
    }
    if (read(queue->file, &count, sizeof count) != (ssize_t)sizeof count) {
        return BLOOMGATE_E_SYSTEM;
    }
    /* Now it is masked. What it has told is cleared, and that has arrived before anybody looks at memory. */
    int status = bloomgate_write(&queue->control, BLOOMGATE_CONTROL_INTERRUPT_PENDING, &cause, 1);
    return status == BLOOMGATE_OK ? bloomgate_read(&queue->control, BLOOMGATE_CONTROL_INTERRUPT_PENDING, &count, 1)
                                  : status;
}

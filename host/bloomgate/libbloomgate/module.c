#define _DEFAULT_SOURCE
#define _FILE_OFFSET_BITS 64

#include "bloomgate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bloomgate_registers.h"
#include "bloomgate_uapi.h"
#include "queue.h"

int bloomgate_module_open(struct bloomgate_window *window, const char *root, const char *name)
{
    *window = (struct bloomgate_window){.words = NULL, .bytes = 0, .file = -1};
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/dev/%s", root, name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return BLOOMGATE_E_NO_NODE;
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) {
        return errno == EBUSY ? BLOOMGATE_E_IN_USE : errno == ENOENT ? BLOOMGATE_E_NO_NODE : BLOOMGATE_E_SYSTEM;
    }
    void *words = mmap(NULL, BLOOMGATE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, BLOOMGATE_MAP_PAGE);
    if (words == MAP_FAILED) {
        int reason = errno;
        close(file);
        errno = reason;
        return BLOOMGATE_E_SYSTEM;
    }
    *window = (struct bloomgate_window){.words = words, .bytes = BLOOMGATE_PAGE_BYTES, .file = file};
    return BLOOMGATE_OK;
}

int bloomgate_module_info(const struct bloomgate_window *window, struct bloomgate_geometry *geometry,
                          uint64_t *timestamp)
{
    struct bloomgate_info info;
    if (ioctl(window->file, BLOOMGATE_GET_INFO, &info) != 0) {
        return BLOOMGATE_E_SYSTEM;
    }
    int status = bloomgate_geometry_of(info.identity, info.queue_capacity, geometry);
    if (status == BLOOMGATE_OK) {
        *timestamp = ((uint64_t)info.epoch << geometry->timestamp_bits) + info.count;
    }
    return status;
}

int bloomgate_module_queue_open(struct bloomgate_queue *queue, const struct bloomgate_window *page,
                                const struct bloomgate_geometry *geometry)
{
    *queue = (struct bloomgate_queue){.memory = NULL, .file = -1};
    struct bloomgate_info info;
    if (geometry->queue_entries == 0) {
        return BLOOMGATE_E_MEMORY;
    }
    if (geometry->uncached) {
        return BLOOMGATE_E_COHERENCE;
    }
    /* In this order: the generation is that of the new beginning. */
    if (ioctl(page->file, BLOOMGATE_RESTART_QUEUE) != 0) {
        return errno == ENODEV ? BLOOMGATE_E_MEMORY : errno == EBUSY ? BLOOMGATE_E_TIMEOUT : BLOOMGATE_E_SYSTEM;
    }
    if (ioctl(page->file, BLOOMGATE_GET_INFO, &info) != 0) {
        return BLOOMGATE_E_SYSTEM;
    }
    if (info.buffer_bytes < bloomgate_queue_bytes(geometry)) {
        return BLOOMGATE_E_MEMORY;
    }
    void *memory =
        mmap(NULL, info.buffer_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, page->file, BLOOMGATE_MAP_BUFFER);
    if (memory == MAP_FAILED) {
        return BLOOMGATE_E_SYSTEM;
    }
    queue->memory = memory;
    queue->bytes = info.buffer_bytes;
    queue->file = page->file;
    bloomgate_queue_begin(queue, page, geometry, info.generation);
    return BLOOMGATE_OK;
}

/* read() enables the interrupt and says which wake-up has been seen; poll() waits for another. */

int bloomgate_module_queue_arm(const struct bloomgate_queue *queue)
{
    uint32_t seen;
    return read(queue->file, &seen, sizeof seen) == (ssize_t)sizeof seen ? BLOOMGATE_OK : BLOOMGATE_E_SYSTEM;
}

int bloomgate_module_queue_nap(const struct bloomgate_queue *queue, int milliseconds)
{
    struct pollfd waiting = {.fd = queue->file, .events = POLLIN};
    return poll(&waiting, 1, milliseconds) >= 0 || errno == EINTR ? BLOOMGATE_OK : BLOOMGATE_E_SYSTEM;
}

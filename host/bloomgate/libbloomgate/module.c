#define _DEFAULT_SOURCE
#define _FILE_OFFSET_BITS 64

#include "bloomgate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bloomgate_registers.h"
#include "bloomgate_uapi.h"

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
    int status = bloomgate_geometry_of(info.identity, geometry);
    if (status == BLOOMGATE_OK) {
        *timestamp = ((uint64_t)info.epoch << geometry->timestamp_bits) + info.count;
    }
    return status;
}

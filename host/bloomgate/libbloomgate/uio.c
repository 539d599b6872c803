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

#define CONTROL_NODE "bloomgate-control"
#define SLOT_NODE "bloomgate-slot"

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

    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/dev/%s", root, entry);
    if (length < 0 || (size_t)length >= sizeof path) {
        return BLOOMGATE_E_NO_NODE;
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
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

/*
 * Stands in for the UIO driver and the bus under a program that uses libbloomgate, by LD_PRELOAD.
 *
 * A node below $BLOOMGATE_SHIM_ROOT/dev is opened as the file that it is there, so that permissions and locks are
 * real. Mapping it gives a window without any access rights; each fault in it is decoded, sent over the socket
 * $BLOOMGATE_SHIM_SOCKET to whoever simulates the bus, and completed with the answer. An instruction that is not one
 * 32-bit load or store ends the program: the registers know no other. An access that the bus answers with an error
 * ends it with SIGBUS, as Linux does.
 *
 * A node's second map is memory: the file $BLOOMGATE_SHIM_MEMORY at the map's physical address.
 *
 * poll, read and write on a node's file behave as uio_pdrv_genirq does for its interrupt; a second connection to the
 * same socket carries it.
 */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "decode.h"

enum { LOAD, STORE, INTERRUPT };

struct message {
    uint32_t kind, address, value;
};
struct answer {
    uint32_t failed, value;
};

#define NODES 64

static struct node {
    int file; /* 0: a free entry */
    int interrupt;
    uint32_t address;
    uint8_t *window;
    size_t bytes;
    unsigned long memory, memory_bytes; /* the second map, if there is one */
} nodes[NODES];

static int bus = -1;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void die(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
    _exit(99);
}

static int connected(void)
{
    const char *path = getenv("BLOOMGATE_SHIM_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || strlen(path) >= sizeof address.sun_path) {
        die("uio_shim: BLOOMGATE_SHIM_SOCKET is not usable\n");
    }
    strcpy(address.sun_path, path);
    int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made < 0 || connect(made, (struct sockaddr *)&address, sizeof address) != 0) {
        die("uio_shim: nobody simulates the bus\n");
    }
    return made;
}

static void transfer(int file, void *data, size_t size, bool out)
{
    for (size_t done = 0; done < size;) {
        char *at = (char *)data + done;
        /* By number: `read` and `write` are this library's own. */
        ssize_t step = syscall(out ? SYS_write : SYS_read, file, at, size - done);
        if (step <= 0 && errno != EINTR) {
            die("uio_shim: the simulated bus has gone\n");
        }
        done += step > 0 ? (size_t)step : 0;
    }
}

static void on_fault(int number, siginfo_t *info, void *data)
{
    uint8_t *fault = info->si_addr;
    for (struct node *node = nodes; node < nodes + NODES; node++) {
        if (node->window == NULL || fault < node->window || fault >= node->window + node->bytes) {
            continue;
        }
        struct access access;
        if (!decode(data, &access) || (fault - node->window) % 4) {
            char text[100];
            snprintf(text, sizeof text, "uio_shim: no aligned access of 32 bits to a register: pc %#lx\n",
                     (unsigned long)program_counter(data));
            die(text);
        }
        struct message message = {access.store ? STORE : LOAD, node->address + (uint32_t)(fault - node->window),
                                  access.store ? access.value : 0};
        struct answer answer;
        while (atomic_flag_test_and_set(&busy)) {
            sched_yield();
        }
        transfer(bus, &message, sizeof message, true);
        transfer(bus, &answer, sizeof answer, false);
        atomic_flag_clear(&busy);
        if (answer.failed) {
            raise(SIGBUS);
        }
        finish(data, &access, answer.value);
        return;
    }
    /* A fault of the program's own. */
    signal(number, SIG_DFL);
}

/* The number in a file of the node's folder in sysfs; 0 if there is none. */
static unsigned long attribute(const char *root, const char *node, const char *name)
{
    char path[PATH_MAX], text[32] = "";
    snprintf(path, sizeof path, "%s/sys/class/uio/%s/maps/%s", root, node, name);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return 0;
    }
    if (fgets(text, sizeof text, file) == NULL) {
        die("uio_shim: a map without an address\n");
    }
    fclose(file);
    return strtoul(text, NULL, 0);
}

static struct node *node_of(int file)
{
    for (struct node *node = nodes; file > 0 && node < nodes + NODES; node++) {
        if (node->file == file) {
            return node;
        }
    }
    return NULL;
}

static int opened(const char *path, int flags, int mode)
{
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    const char *root = getenv("BLOOMGATE_SHIM_ROOT");
    char prefix[PATH_MAX];
    if (file <= 0 || root == NULL || snprintf(prefix, sizeof prefix, "%s/dev/uio", root) < 0 ||
        strncmp(path, prefix, strlen(prefix)) != 0) {
        return file;
    }
    struct node *node = nodes;
    while (node->file != 0) {
        if (++node == nodes + NODES) {
            die("uio_shim: too many nodes\n");
        }
    }
    const char *name = path + strlen(prefix) - strlen("uio");
    node->address = (uint32_t)attribute(root, name, "map0/addr");
    node->bytes = attribute(root, name, "map0/size");
    node->memory = attribute(root, name, "map1/addr");
    node->memory_bytes = attribute(root, name, "map1/size");
    node->interrupt = -1;
    node->file = file;
    if (bus < 0) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
        sigaction(SIGSEGV, &action, NULL);
        bus = connected();
    }
    return file;
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    return opened(path, flags | O_LARGEFILE, mode);
}

int close(int file)
{
    struct node *node = node_of(file);
    if (node != NULL) {
        if (node->interrupt >= 0) {
            syscall(SYS_close, node->interrupt);
        }
        *node = (struct node){0};
    }
    return (int)syscall(SYS_close, file);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mmap");
    }
    struct node *node = node_of(file);
    if (node == NULL) {
        return real(address, bytes, protection, flags, file, offset);
    }
    /* An offset of so many pages is the number of the map. */
    if (offset == sysconf(_SC_PAGESIZE) && bytes == node->memory_bytes && (flags & MAP_SHARED)) {
        const char *path = getenv("BLOOMGATE_SHIM_MEMORY");
        int memory = path == NULL ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
        void *at = real(NULL, bytes, protection, MAP_SHARED, memory, (off_t)node->memory);
        syscall(SYS_close, memory);
        return at;
    }
    if (offset != 0 || bytes != node->bytes || protection != (PROT_READ | PROT_WRITE) || !(flags & MAP_SHARED)) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    /* Of the node's file, so that /proc/self/maps names the node, as on a board. */
    node->window = real(NULL, bytes, PROT_NONE, MAP_PRIVATE, file, 0);
    return node->window;
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int file, off64_t offset)
{
    static void *(*real)(void *, size_t, int, int, int, off64_t);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "mmap64");
    }
    return node_of(file) == NULL ? real(address, bytes, protection, flags, file, offset)
                                 : mmap(address, bytes, protection, flags, file, (off_t)offset);
}

/* The connection that carries a node's interrupt: counts come in, and each word that goes out unmasks. */
static int interrupt_of(struct node *node)
{
    if (node->interrupt < 0) {
        node->interrupt = connected();
        struct message message = {INTERRUPT, node->address, 0};
        transfer(node->interrupt, &message, sizeof message, true);
    }
    return node->interrupt;
}

int poll(struct pollfd *waiting, nfds_t count, int milliseconds)
{
    static int (*real)(struct pollfd *, nfds_t, int);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "poll");
    }
    struct node *node = count == 1 ? node_of(waiting->fd) : NULL;
    if (node == NULL) {
        return real(waiting, count, milliseconds);
    }
    struct pollfd instead = {.fd = interrupt_of(node), .events = waiting->events};
    int ready = real(&instead, 1, milliseconds);
    waiting->revents = instead.revents;
    return ready;
}

ssize_t read(int file, void *to, size_t size)
{
    struct node *node = node_of(file);
    if (node == NULL) {
        return (ssize_t)syscall(SYS_read, file, to, size);
    }
    ssize_t got = (ssize_t)syscall(SYS_read, interrupt_of(node), to, size);
    /* The newest count. */
    while (got == (ssize_t)size && recv(node->interrupt, to, size, MSG_DONTWAIT) == (ssize_t)size) {
    }
    return got;
}

ssize_t write(int file, const void *from, size_t size)
{
    struct node *node = node_of(file);
    return (ssize_t)syscall(SYS_write, node == NULL ? file : interrupt_of(node), from, size);
}

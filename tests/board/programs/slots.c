/*
 * The kernel module's devices, one after the other: what each file gives, and what it refuses. Prints a line for each
 * step that went as it should; ends with status 1 and a message at the first that did not.
 */
#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bloomgate.h"
#include "bloomgate_queues.h"
#include "bloomgate_registers.h"
#include "bloomgate_uapi.h"

#define SLOT "/dev/bloomgate-slot3"
#define SLOT_NUMBER 3
#define NEXT_SLOT "/dev/bloomgate-slot4"

static void require(int right, const char *what)
{
    if (!right) {
        printf("failed: %s (%s)\n", what, strerror(errno));
        exit(1);
    }
    printf("ok: %s\n", what);
    fflush(stdout);
}

static void *map(int file, size_t bytes, off_t offset)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, offset);
    return at == MAP_FAILED ? NULL : at;
}

/* A commit by programmed I/O through the mapped page; its timestamp. */
static uint64_t commit(void *page, uint64_t snapshot)
{
    struct bloomgate_window window = {.words = page, .bytes = BLOOMGATE_PAGE_BYTES, .file = -1};
    struct bloomgate_geometry geometry = {.timestamp_bits = 32, .key_bits = 32, .slots = 16, .aperture_depth = 512};
    struct bloomgate_slot slot;
    struct bloomgate_decision decision;
    uint32_t keys[] = {7, 8, 9};
    require(bloomgate_slot_open(&slot, &window, &geometry) == BLOOMGATE_OK, "the slot is taken over");
    struct bloomgate_request request = {.snapshot = snapshot, .writes = keys, .write_count = 3};
    require(bloomgate_commit(&slot, &request, &decision) == BLOOMGATE_OK && decision.timestamped, "a commit");
    return decision.timestamp;
}

/* Whether the slot's queue is off and has no window, as page 0 says. */
static int at_rest(void)
{
    int control = open("/dev/bloomgate-control", O_RDWR);
    volatile uint32_t *page = map(control, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
    require(page != NULL, "page 0 is looked at");
    volatile uint32_t *record = page + (BLOOMGATE_CONTROL_QUEUE_RECORDS + SLOT_NUMBER * BLOOMGATE_QUEUE_RECORD_BYTES) / 4;
    uint32_t size = record[BLOOMGATE_QUEUE_WINDOW_SIZE / 4];
    uint32_t enabled = record[BLOOMGATE_QUEUE_QUEUE_STATUS / 4] & BLOOMGATE_QUEUE_QUEUE_STATUS_ENABLED_MASK;
    munmap((void *)(uintptr_t)page, BLOOMGATE_PAGE_BYTES);
    close(control);
    return size == 0 && enabled == 0;
}

static long free_kib(void)
{
    long kib = -1;
    FILE *file = fopen("/proc/meminfo", "r");
    for (char line[128]; kib < 0 && file != NULL && fgets(line, sizeof line, file) != NULL;) {
        sscanf(line, "MemFree: %ld", &kib);
    }
    require(kib >= 0, "the system says how much memory is free");
    fclose(file);
    return kib;
}

/* What the last close leaves: nothing that reaches memory, and no memory that is lost. */
static void open_and_close(size_t buffer_bytes)
{
    enum { TIMES = 64 };
    int file = open(SLOT, O_RDWR);
    require(file >= 0 && !at_rest(), "an open slot reaches its buffer");
    close(file);
    require(at_rest(), "a closed one reaches nothing");
    long before = free_kib();
    for (int time = 0; time < TIMES; time++) {
        file = open(SLOT, O_RDWR);
        if (file < 0 || close(file) != 0) {
            require(0, "a slot opens again and again");
        }
    }
    long lost = before - free_kib();
    require(lost < (long)(TIMES / 2 * buffer_bytes / 1024), "every buffer was freed");
}

/* Queue pairs on the slot, as a program uses them: several outstanding, asleep, and begun anew. */
static void use_queues(void)
{
    struct bloomgate_window page, control;
    struct bloomgate_geometry geometry;
    struct bloomgate_queue queue;
    struct bloomgate_decision decision;
    uint64_t newest;
    uint32_t indices[4], key = 5, generation = 0, errors[2];
    require(bloomgate_module_open(&page, "", "bloomgate-slot3") == BLOOMGATE_OK, "the slot opens for the library");
    require(bloomgate_module_info(&page, &geometry, &newest) == BLOOMGATE_OK, "which learns what it is");
    require(bloomgate_module_open(&control, "", "bloomgate-control") == BLOOMGATE_OK, "page 0 opens");
    bloomgate_read(&control, BLOOMGATE_CONTROL_ERROR_COUNT, &errors[0], 1);
    for (int owner = 0; owner < 3; owner++) {
        require(bloomgate_module_queue_open(&queue, &page, &geometry) == BLOOMGATE_OK, "a queue is opened");
        require(queue.owner != generation, "by another owner than before");
        uint32_t sum = 0;
        for (size_t i = 0; i < 2 * geometry.queue_entries * BLOOMGATE_ENTRY_BYTES / 4; i++) {
            sum |= queue.memory[i];
        }
        require(sum == 0, "who finds empty rings");
        generation = queue.owner;
        queue.spins = owner == 1 ? 0 : queue.spins;
        for (int round = 0; round < 12; round++) {
            for (int i = 0; i < 4; i++) {
                struct bloomgate_request request = {.snapshot = newest, .reads = &key, .read_count = 1};
                request.writes = i == 0 ? &key : NULL;
                request.write_count = i == 0;
                if (bloomgate_submit(&queue, &request, &indices[i]) != BLOOMGATE_OK) {
                    require(0, "a request is submitted");
                }
            }
            for (int i = 3; i >= 0; i--) {
                int status = bloomgate_collect(&queue, indices[i], 30000, &decision);
                int right = i == 0 ? decision.timestamp == newest + 1 : decision.reason == BLOOMGATE_REASON_CONFLICT;
                if (status != BLOOMGATE_OK || !right) {
                    printf("round %d, request %d: status %d, reason %u\n", round, i, status, (unsigned)decision.reason);
                    require(0, "a request is decided");
                }
            }
            newest++;
        }
        require(bloomgate_queue_next(&queue) == 48, "every request was decided as it should be");
        struct bloomgate_request left = {.snapshot = newest};
        bloomgate_submit(&queue, &left, &indices[0]);
        require(bloomgate_queue_close(&queue) == BLOOMGATE_OK, "the queue is closed");
    }
    bloomgate_read(&control, BLOOMGATE_CONTROL_ERROR_COUNT, &errors[1], 1);
    require(errors[0] == errors[1], "no doorbell was dropped, no fetch failed");
    bloomgate_close(&control);
    bloomgate_close(&page);
}

/*
 * A sleeper who looks at memory only when it is woken. The library's looks again by itself after some milliseconds, and
 * would not show that a wake-up is lost; nor would poll(), which looks again when its time is over: so this is epoll.
 * Another thread submits, when the sleeper sleeps.
 */
struct night {
    struct bloomgate_queue *queue;
    struct bloomgate_request request;
    pid_t sleeper;
    /* Nights that have begun, and the request of the last. */
    atomic_int begun;
    uint32_t index;
};

enum { NIGHTS = 8 };

/* The state of a thread of this process, as in /proc: 'S' while it sleeps. */
static char state_of(pid_t thread)
{
    char path[64], text[128] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)thread);
    int file = open(path, O_RDONLY);
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    const char *name_end = got > 0 ? strrchr(text, ')') : NULL;
    return name_end == NULL ? '?' : name_end[2];
}

static void *submit_at_night(void *argument)
{
    struct night *night = argument;
    for (int number = 1; number <= NIGHTS; number++) {
        while (atomic_load(&night->begun) < number || state_of(night->sleeper) != 'S') {
            usleep(1000);
        }
        if (bloomgate_submit(night->queue, &night->request, &night->index) != BLOOMGATE_OK) {
            require(0, "a request is submitted");
        }
    }
    return NULL;
}

static void sleep_until_woken(void)
{
    struct bloomgate_window page;
    struct bloomgate_geometry geometry;
    struct bloomgate_queue queue;
    struct night night = {.queue = &queue, .sleeper = getpid()};
    pthread_t submitter;
    require(bloomgate_module_open(&page, "", "bloomgate-slot3") == BLOOMGATE_OK, "the slot opens for a sleeper");
    require(bloomgate_module_info(&page, &geometry, &night.request.snapshot) == BLOOMGATE_OK, "who learns what it is");
    require(bloomgate_module_queue_open(&queue, &page, &geometry) == BLOOMGATE_OK, "and opens a queue");
    require(pthread_create(&submitter, NULL, submit_at_night, &night) == 0, "that a thread submits to");
    int night_watch = epoll_create1(0);
    struct epoll_event woken = {.events = EPOLLIN};
    struct pollfd now = {.fd = queue.file, .events = POLLIN};
    for (int number = 1; number <= NIGHTS; number++) {
        uint32_t seen, verdict[BLOOMGATE_COMPLETION_BEATS];
        /* A cause from before may wake at once: it is taken here. */
        do {
            require(read(queue.file, &seen, sizeof seen) == sizeof seen, "waiting is armed");
        } while (poll(&now, 1, 100) != 0);
        require(epoll_ctl(night_watch, EPOLL_CTL_ADD, queue.file, &woken) == 0, "the sleeper is to be woken");
        atomic_store(&night.begun, number);
        require(epoll_wait(night_watch, &woken, 1, 30000) == 1, "a completion wakes who sleeps");
        require(epoll_ctl(night_watch, EPOLL_CTL_DEL, queue.file, NULL) == 0, "and no other night");
        require(bloomgate_queue_wait(&queue, night.index, 0, verdict) == BLOOMGATE_OK, "and is there");
        bloomgate_queue_release(&queue, night.index);
    }
    pthread_join(submitter, NULL);
    close(night_watch);
    require(bloomgate_queue_close(&queue) == BLOOMGATE_OK, "the sleeper's queue is closed");
    bloomgate_close(&page);
}

static sigjmp_buf on_bus_error;

static void bus_error(int number)
{
    (void)number;
    siglongjmp(on_bus_error, 1);
}

/* Whether a load ends with SIGBUS. */
static int gone(const volatile uint32_t *word)
{
    if (sigsetjmp(on_bus_error, 1)) {
        return 1;
    }
    (void)*word;
    return 0;
}

/* The driver loses the device while a slot is open and mapped and its owner sleeps: as when an overlay is removed. */
static void lose_the_device(void)
{
    struct bloomgate_info info;
    int file = open(SLOT, O_RDWR);
    require(ioctl(file, BLOOMGATE_GET_INFO, &info) == 0, "a slot is open");
    volatile uint32_t *page = map(file, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
    volatile uint32_t *buffer = map(file, info.buffer_bytes, BLOOMGATE_MAP_BUFFER);
    require(page != NULL && buffer != NULL, "and mapped");
    signal(SIGBUS, bus_error);
    require(!gone(page) && !gone(buffer), "and there");
    int watch = epoll_create1(0);
    struct epoll_event woken = {.events = EPOLLIN};
    uint32_t count;
    require(read(file, &count, sizeof count) == sizeof count, "waiting is armed");
    require(epoll_ctl(watch, EPOLL_CTL_ADD, file, &woken) == 0, "for one who sleeps");
    pid_t sleeper = fork();
    if (sleeper == 0) {
        uint32_t seen;
        int other = open(NEXT_SLOT, O_RDWR);
        struct pollfd woken = {.fd = other, .events = POLLIN};
        if (read(other, &seen, sizeof seen) != sizeof seen || system("insmod /unbind.ko") != 0) {
            _exit(1);
        }
        _exit(poll(&woken, 1, 30000) == 1 && woken.revents & POLLHUP ? 0 : 2);
    }
    require(epoll_wait(watch, &woken, 1, 30000) == 1 && woken.events & EPOLLHUP, "the device is lost, which wakes");
    close(watch);
    int status;
    waitpid(sleeper, &status, 0);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "and whoever comes later does not sleep");
    require(gone(page) && gone(buffer), "nothing is mapped any more");
    require(ioctl(file, BLOOMGATE_GET_INFO, &info) < 0 && errno == ENODEV, "no question is answered");
    require(ioctl(file, BLOOMGATE_RESTART_QUEUE) < 0 && errno == ENODEV, "no queue begins");
    require(map(file, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE) == NULL, "nothing can be mapped");
    require(open(NEXT_SLOT, O_RDWR) < 0 && errno == ENOENT, "no slot can be opened");
    munmap((void *)(uintptr_t)page, BLOOMGATE_PAGE_BYTES);
    munmap((void *)(uintptr_t)buffer, info.buffer_bytes);
    close(file);
    require(system("rmmod unbind") == 0, "the device comes back");
    file = open(SLOT, O_RDWR);
    page = map(file, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
    require(page != NULL && ioctl(file, BLOOMGATE_GET_INFO, &info) == 0, "and its slots open again");
    commit((void *)(uintptr_t)page, ((uint64_t)info.epoch << 32) + info.count);
    munmap((void *)(uintptr_t)page, BLOOMGATE_PAGE_BYTES);
    close(file);
}

/* What a user who is only in the group of slot 3 may open; the nodes have the owners that the udev rule gives them. */
static void use_as_another(void)
{
    enum { USER = 1000, SLOT_GROUP = 1003, OTHER_GROUP = 1004 };
    require(chown(SLOT, 0, SLOT_GROUP) == 0 && chmod(SLOT, 0660) == 0, "slot 3 is given to its group");
    require(chown(NEXT_SLOT, 0, OTHER_GROUP) == 0 && chmod(NEXT_SLOT, 0660) == 0, "and slot 4 to another");
    pid_t child = fork();
    if (child == 0) {
        if (setgid(SLOT_GROUP) != 0 || setuid(USER) != 0) {
            _exit(1);
        }
        int other = open(NEXT_SLOT, O_RDWR) >= 0 || errno != EACCES;
        int control = open("/dev/bloomgate-control", O_RDWR) >= 0 || errno != EACCES;
        int mine = open(SLOT, O_RDWR);
        void *page = mine < 0 ? NULL : map(mine, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
        _exit(other || control || page == NULL ? 2 : 0);
    }
    int status;
    waitpid(child, &status, 0);
    require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "its user opens slot 3, and neither slot 4 nor page 0");
}

int main(void)
{
    struct bloomgate_info info, again;
    int file = open(SLOT, O_RDWR);
    require(file >= 0, "a slot opens");
    require(open(SLOT, O_RDWR) < 0 && errno == EBUSY, "and not twice");
    require(ioctl(file, BLOOMGATE_GET_INFO, &info) == 0, "it says what it is");
    require(info.identity[0] == BLOOMGATE_IDENTIFICATION && info.generation != 0, "it is bloomgate's");
    require(info.buffer_bytes >= 65536, "it has a buffer");

    uint32_t *buffer = map(file, info.buffer_bytes, BLOOMGATE_MAP_BUFFER);
    require(buffer != NULL, "the buffer is mapped");
    uint32_t sum = 0;
    for (size_t i = 0; i < info.buffer_bytes / 4; i++) {
        sum |= buffer[i];
        buffer[i] = (uint32_t)i;
    }
    require(sum == 0, "the buffer was empty");
    require(map(file, info.buffer_bytes + 4096, BLOOMGATE_MAP_BUFFER) == NULL, "nothing behind the buffer is mapped");
    require(map(file, 8192, BLOOMGATE_MAP_PAGE) == NULL, "nor the next slot's page");
    require(map(file, 4096, 4096) == NULL, "nor by its offset");
    require(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED, "nor privately");
    void *page = map(file, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
    require(page != NULL, "the page is mapped");

    uint64_t snapshot = ((uint64_t)info.epoch << 32) + info.count;
    uint64_t timestamp = commit(page, snapshot);
    require(timestamp == snapshot + 1, "the timestamp is the next one");

    uint32_t seen;
    struct pollfd waiting = {.fd = file, .events = POLLIN};
    require(read(file, &seen, sizeof seen) == sizeof seen, "waiting is armed");
    timestamp = commit(page, timestamp);
    require(poll(&waiting, 1, 30000) == 1 && waiting.revents & POLLIN, "a verdict is there to wake");
    uint32_t later;
    require(read(file, &later, sizeof later) == sizeof later && later != seen, "and is counted");
    /* The cause of the arming before may come once more; then there is quiet. */
    while (poll(&waiting, 1, 200) == 1) {
        require(read(file, &later, sizeof later) == sizeof later, "read again");
    }
    require(poll(&waiting, 1, 0) == 0, "without a verdict there is nothing to wake for");

    int other = open(NEXT_SLOT, O_RDWR), control = open("/dev/bloomgate-control", O_RDWR);
    require(other >= 0 && control >= 0, "other slots and page 0 are files of their own");
    require(map(control, 4096, BLOOMGATE_MAP_BUFFER) == NULL, "page 0 has no buffer");
    require(ioctl(control, BLOOMGATE_GET_INFO, &again) == 0 && again.count == info.count + 2, "page 0 has counted");
    close(other);
    close(control);

    /* The mappings hold the slot; the last of them lets it go. */
    close(file);
    require(open(SLOT, O_RDWR) < 0 && errno == EBUSY, "a mapping holds the slot");
    munmap(page, BLOOMGATE_PAGE_BYTES);
    munmap(buffer, info.buffer_bytes);
    file = open(SLOT, O_RDWR);
    require(file >= 0, "the last unmapping has let it go");
    require(ioctl(file, BLOOMGATE_GET_INFO, &again) == 0 && again.generation != info.generation, "to another owner");
    buffer = map(file, again.buffer_bytes, BLOOMGATE_MAP_BUFFER);
    require(buffer != NULL && buffer[1] == 0 && buffer[again.buffer_bytes / 4 - 1] == 0, "who finds nothing");
    close(file);
    munmap(buffer, again.buffer_bytes);

    open_and_close(info.buffer_bytes);

    /* An owner that is killed. */
    int ready[2];
    require(pipe(ready) == 0, "a pipe");
    pid_t child = fork();
    if (child == 0) {
        file = open(SLOT, O_RDWR);
        map(file, BLOOMGATE_PAGE_BYTES, BLOOMGATE_MAP_PAGE);
        map(file, info.buffer_bytes, BLOOMGATE_MAP_BUFFER);
        char letter = file >= 0 ? 'y' : 'n';
        if (write(ready[1], &letter, 1) != 1) {
            _exit(1);
        }
        pause();
        _exit(0);
    }
    char letter = 0;
    require(read(ready[0], &letter, 1) == 1 && letter == 'y', "another process owns the slot");
    require(open(SLOT, O_RDWR) < 0 && errno == EBUSY, "alone");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    file = open(SLOT, O_RDWR);
    require(file >= 0, "its death frees the slot");
    close(file);
    require(at_rest(), "which reaches nothing any more");
    use_as_another();
    use_queues();
    sleep_until_woken();
    lose_the_device();
    puts("done");
    return 0;
}

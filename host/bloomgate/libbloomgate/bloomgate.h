/*
 * libbloomgate: programmed I/O and queue pairs with the co-processor, from C11 on Linux and without any other library.
 *
 * A program maps the pages that it may use (one UIO node each), opens a slot, and commits:
 *
 *     struct bloomgate_window control, page;
 *     struct bloomgate_geometry geometry;
 *     struct bloomgate_slot slot;
 *     struct bloomgate_decision decision;
 *
 *     bloomgate_uio_open(&control, "", "bloomgate-control");
 *     bloomgate_identify(&control, &geometry);
 *     bloomgate_uio_open(&page, "", "bloomgate-slot3");
 *     bloomgate_slot_open(&slot, &page, &geometry);
 *     bloomgate_commit(&slot, &(struct bloomgate_request){.snapshot = 0, .writes = keys, .write_count = 2}, &decision);
 *
 * Functions return BLOOMGATE_OK or a negative `enum bloomgate_status`. No function allocates memory, and none waits
 * without a limit. The structs belong to the caller; what is marked "private" only the library touches. One thread at
 * a time may use a slot or a window; different ones are independent.
 *
 * A timestamp is epoch * 2^timestamp_bits + count. The register map is in bloomgate_registers.h.
 */
#ifndef BLOOMGATE_H
#define BLOOMGATE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. */
enum bloomgate_status {
    BLOOMGATE_OK = 0,
    /* The system refused; errno says why. */
    BLOOMGATE_E_SYSTEM = -1,
    /* There is no UIO node of that name, or it is not at the address that the name stands for. */
    BLOOMGATE_E_NO_NODE = -2,
    /* Another process has the page open. */
    BLOOMGATE_E_IN_USE = -3,
    /* The fabric is not configured, or nothing tells that it is: an access could stall the processor for ever. */
    BLOOMGATE_E_FABRIC = -4,
    /* An access outside the window, or not at a multiple of 4. */
    BLOOMGATE_E_RANGE = -5,
    /* IDENTIFICATION does not read "BLMG". */
    BLOOMGATE_E_IDENTIFICATION = -6,
    /* The gateware speaks another major version of the register interface. */
    BLOOMGATE_E_VERSION = -7,
    /* The gateware has a geometry that this library cannot use. */
    BLOOMGATE_E_GEOMETRY = -8,
    /* A key does not fit in key_bits. Nothing was submitted. */
    BLOOMGATE_E_KEY = -9,
    /* A snapshot is larger than any timestamp. Nothing was submitted. */
    BLOOMGATE_E_SNAPSHOT = -10,
    /* A request has more keys than the slot can buffer. Nothing was submitted. */
    BLOOMGATE_E_TOO_LARGE = -11,
    /* The device did not answer in time. A request that was submitted may still commit: bloomgate_settle. */
    BLOOMGATE_E_TIMEOUT = -12,
    /* An earlier request of the slot is not settled. */
    BLOOMGATE_E_UNSETTLED = -13,
    /* The slot has no memory that the co-processor reaches, or too little for a queue pair of this geometry. */
    BLOOMGATE_E_MEMORY = -14,
    /* The gateware reaches memory through the caches and this way maps it past them, or the other way round. */
    BLOOMGATE_E_COHERENCE = -15,
    /* All entries of the ring are in use. Nothing was submitted. */
    BLOOMGATE_E_FULL = -16,
};

/* One line on a status, for people. */
const char *bloomgate_message(int status);

/* --- Windows: mapped registers ------------------------------------------------------------------------------- */

/* A range of 32-bit registers in this process. */
struct bloomgate_window {
    volatile uint32_t *words;
    size_t bytes;
    /* Of the UIO node; -1 without one. */
    int file;
};

/*
 * Every access is one aligned 32-bit load or store, in the order of the addresses. Offsets are bytes from the start of
 * the window. `bloomgate_poll` reads `count` words again and again, at most `polls` times, until the first one,
 * masked, is `value`.
 */
int bloomgate_read(const struct bloomgate_window *window, uint32_t offset, uint32_t *to, size_t count);
int bloomgate_write(const struct bloomgate_window *window, uint32_t offset, const uint32_t *from, size_t count);
int bloomgate_poll(const struct bloomgate_window *window, uint32_t offset, uint32_t *to, size_t count, uint32_t mask,
                   uint32_t value, unsigned int polls);

/*
 * Whether an access to the fabric is answered: BLOOMGATE_OK when Linux says that it is configured (fpga_manager, or
 * xdevcfg on old Xilinx kernels). `root` is put before every path of the system: "" on a board.
 */
int bloomgate_fabric_ready(const char *root);

/*
 * Map the page of the UIO node with that name: "bloomgate-control", or "bloomgate-slot" and a number. Checks first
 * that the fabric is configured and that the node is at the page's address. The page stays locked (flock) until
 * bloomgate_close or the end of the process.
 */
int bloomgate_uio_open(struct bloomgate_window *window, const char *root, const char *name);
void bloomgate_close(struct bloomgate_window *window);

/*
 * The same with the kernel module (firmware/linux): its device of that name, /dev/bloomgate-slot3. The module sees to
 * it that the fabric is there and that a page is open once. `bloomgate_module_info` says what the device is, also to
 * the owner of a slot, who cannot read page 0; `timestamp` is the newest one.
 */
struct bloomgate_geometry;
int bloomgate_module_open(struct bloomgate_window *window, const char *root, const char *name);
int bloomgate_module_info(const struct bloomgate_window *window, struct bloomgate_geometry *geometry,
                          uint64_t *timestamp);

/*
 * UIO masks the interrupt when it comes and when the driver starts: unmask, then wait. `bloomgate_uio_wait` stores the
 * number of interrupts since the start of the driver, or returns BLOOMGATE_E_TIMEOUT.
 */
int bloomgate_uio_unmask(const struct bloomgate_window *control);
int bloomgate_uio_wait(const struct bloomgate_window *control, int milliseconds, uint32_t *interrupts);

/* --- The control page --------------------------------------------------------------------------------------- */

/* What the gateware was built as. */
struct bloomgate_geometry {
    uint32_t major, minor, patch;
    uint32_t tables, log2_rows, timestamp_bits, key_bits, slots, aperture_depth, hash_seed;
    /* Of queue pairs; all 0 where the gateware has none. */
    uint32_t queue_entries, request_buffers, buffer_depth;
    /* 1: the gateware reaches memory past the processors' caches, which is right for UIO and not for the module. */
    uint32_t uncached;
};

/* One entry of the error log; `code` is an enum bloomgate_error_code. */
struct bloomgate_error {
    uint32_t number, code, slot, detail;
};

int bloomgate_identify(const struct bloomgate_window *control, struct bloomgate_geometry *geometry);
/* The same from the words that bloomgate_identify reads: IDENTIFICATION to HASH_SEED, and QUEUE_CAPACITY. */
int bloomgate_geometry_of(const uint32_t *words, uint32_t queue_capacity, struct bloomgate_geometry *geometry);
/* The newest timestamp assigned. */
int bloomgate_last_timestamp(const struct bloomgate_window *control, const struct bloomgate_geometry *geometry,
                             uint64_t *timestamp);
/* `values` has room for BLOOMGATE_STATISTICS; all are as of one clock. */
int bloomgate_statistics(const struct bloomgate_window *control, uint64_t *values);
/* `entries` has room for BLOOMGATE_ERROR_LOG_ENTRIES; oldest first. */
int bloomgate_error_log(const struct bloomgate_window *control, struct bloomgate_error *entries, size_t *count);
/* Enable these causes (bits of INTERRUPT_ENABLE) and no others. */
int bloomgate_interrupt_enable(const struct bloomgate_window *control, uint32_t causes);
/* Store the pending causes and clear them, so that the line falls. */
int bloomgate_interrupt_take(const struct bloomgate_window *control, uint32_t *causes);
/* Ends the epoch; waits until the device decides requests again. */
int bloomgate_reset(const struct bloomgate_window *control, uint32_t initial_epoch);

/* --- Slots -------------------------------------------------------------------------------------------------- */

/* A slot and its page; all private but `milliseconds`. */
struct bloomgate_slot {
    struct bloomgate_window window;
    struct bloomgate_geometry geometry;
    uint32_t request;
    uint32_t submitted;
    /* How long bloomgate_commit and bloomgate_settle wait; 1000 after bloomgate_slot_open. */
    uint32_t milliseconds;
};

/* A request: three sets of keys, and the snapshot that the transaction has seen. */
struct bloomgate_request {
    uint64_t snapshot;
    const uint32_t *reads;
    size_t read_count;
    const uint32_t *writes;
    size_t write_count;
    const uint32_t *commutes;
    size_t commute_count;
};

/* The verdict on a request. */
struct bloomgate_decision {
    /* 1: COMMIT, 0: ABORT. */
    uint32_t committed;
    /* 1: the commit has a timestamp; 0 for one that wrote and commuted nothing. */
    uint32_t timestamped;
    uint64_t timestamp;
    /* Of an abort: an enum bloomgate_reason. */
    uint32_t reason;
    /* The first failing key, after a reason in BLOOMGATE_KEY_REASONS: CONFLICT, PARITY and IRREVOCABLE. */
    uint32_t key;
};

/* Take a slot over: waits for the verdict of an earlier owner's request, and drops what was filled but not submitted. */
int bloomgate_slot_open(struct bloomgate_slot *slot, const struct bloomgate_window *window,
                        const struct bloomgate_geometry *geometry);

/*
 * The newest timestamp assigned, as the slot's own page tells it to those who have no page 0. Counts as a doom of the
 * slot. Needs gateware of version 0.3 or newer.
 */
int bloomgate_slot_newest(struct bloomgate_slot *slot, uint64_t *timestamp);

/*
 * Submit a request and wait for its verdict. After BLOOMGATE_E_TIMEOUT the request may yet be decided: the slot
 * refuses others until bloomgate_settle has the verdict. If that is a commit with a timestamp, nothing was written
 * under it, and it must be published as an empty commit, or it holds back `published` for ever.
 */
int bloomgate_commit(struct bloomgate_slot *slot, const struct bloomgate_request *request,
                     struct bloomgate_decision *decision);
int bloomgate_settle(struct bloomgate_slot *slot, struct bloomgate_decision *decision);

/* --- Queue pairs --------------------------------------------------------------------------------------------- */

/*
 * The rings of a slot and the memory that the co-processor reaches for it: requests are submitted now and collected
 * later, several at a time, and cost one doorbell each. A window that is used by a slot (above) can have a queue too.
 *
 * Any number of threads may wait for verdicts of a queue while one submits or releases.
 */
struct bloomgate_queue {
    /* Looks at a completion before a waiter sleeps on the interrupt. */
    uint32_t spins;
    /* All of the slot's window: rings, then room for logs. Write there with 32-bit stores (bloomgate_queue_put). */
    volatile uint32_t *memory;
    size_t bytes;
    /* The rest is private. */
    struct bloomgate_window page, control;
    struct bloomgate_geometry geometry;
    uint32_t slot, owner, head, tail;
    uint32_t released[8];
    int file;
};

/*
 * Begin a queue pair on a slot whose page is mapped; what was in its rings is forgotten. Close it before the page.
 *
 * With the kernel module, memory is cached and coherent. With UIO the caller needs page 0 too, to which the window
 * belongs, and memory is uncached: each word that the processor reads or writes is an access to DDR.
 */
int bloomgate_module_queue_open(struct bloomgate_queue *queue, const struct bloomgate_window *page,
                                const struct bloomgate_geometry *geometry);
int bloomgate_uio_queue_open(struct bloomgate_queue *queue, const char *root, const struct bloomgate_window *control,
                             uint32_t slot, const struct bloomgate_window *page,
                             const struct bloomgate_geometry *geometry);
/* Requests that are not decided are decided or forgotten. BLOOMGATE_E_TIMEOUT: the device does not come to rest. */
int bloomgate_queue_close(struct bloomgate_queue *queue);
/* In a forked child: give back what it has of the queue, which stays its parent's. */
void bloomgate_queue_abandon(struct bloomgate_queue *queue);

/*
 * Submit a request of at most aperture_depth keys; `index` names it. Nothing waits; BLOOMGATE_E_FULL until an earlier
 * one is collected.
 */
int bloomgate_submit(struct bloomgate_queue *queue, const struct bloomgate_request *request, uint32_t *index);
/*
 * The verdict on a request, once, and its entry is free again. Looks `spins` times, then sleeps, for `milliseconds` in
 * all; 0 looks once. BLOOMGATE_E_TIMEOUT: not yet.
 */
int bloomgate_collect(struct bloomgate_queue *queue, uint32_t index, uint32_t milliseconds,
                      struct bloomgate_decision *decision);

/*
 * Announces keys of the slot's transaction in flight by its log in memory, which has `position` keys already (see
 * docs/queues.md). BLOOMGATE_E_RANGE for more keys than it can have. Before SUBMIT, wait for ANNOUNCING_DONE.
 */
int bloomgate_announce(struct bloomgate_queue *queue, uint32_t position, const uint32_t *keys, size_t count);

/*
 * What these are made of, for logs that lie in the window already and for requests of any length.
 *
 * `put` copies words to a byte offset of the window. `next` is the index that the next submission gets, or
 * BLOOMGATE_E_FULL. `enter` submits the eight words of an entry (struct bloomgate_submission), whose logs are complete.
 * `wait` stores the four words of a verdict, and can be called again. `release`: entry and logs may be used again;
 * entries come free in the order of their submission.
 */
int bloomgate_queue_put(struct bloomgate_queue *queue, uint32_t offset, const uint32_t *words, size_t count);
int bloomgate_queue_next(const struct bloomgate_queue *queue);
int bloomgate_queue_enter(struct bloomgate_queue *queue, const uint32_t *words);
int bloomgate_queue_wait(const struct bloomgate_queue *queue, uint32_t index, uint32_t milliseconds, uint32_t *verdict);
void bloomgate_queue_release(struct bloomgate_queue *queue, uint32_t index);

#ifdef __cplusplus
}
#endif

#endif

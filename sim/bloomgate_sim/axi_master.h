/* The C interface of a compiled device: an AXI3 master and a clock around the gateware.
 *
 * Read twice: by axi_master.cpp, and as cffi declarations by device.py, which drops the lines that begin with '#'.
 * One thread at a time may use a simulation; different simulations are independent.
 */
#ifndef BLOOMGATE_AXI_MASTER_H
#define BLOOMGATE_AXI_MASTER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* What a call returns. */
enum {
    BLOOMGATE_OK = 0,
    /* bloomgate_poll: the words never matched. */
    BLOOMGATE_NO_MATCH = 1,
    /* A burst was answered SLVERR or DECERR; see bloomgate_refused_address. */
    BLOOMGATE_SLVERR = 2,
    BLOOMGATE_DECERR = 3,
    /* The clock limit was reached with a burst unanswered. Every later access gets this, too. */
    BLOOMGATE_TIMEOUT = 4,
    /* The gateware broke a rule of AXI3; see bloomgate_message. Every later access gets this, too. */
    BLOOMGATE_PROTOCOL = 5,
    /* The caller asked for what the master cannot do; see bloomgate_message. Nothing was done. */
    BLOOMGATE_USAGE = 6
};

/* Channels, for bloomgate_pause. */
enum { BLOOMGATE_AW = 0, BLOOMGATE_W = 1, BLOOMGATE_B = 2, BLOOMGATE_AR = 3, BLOOMGATE_R = 4 };

/* One burst, with every attribute that AXI3 has, legal or not. */
typedef struct bloomgate_burst {
    /* -- what to do -- */
    uint32_t write;      /* 1: AW, W and B; 0: AR and R */
    uint32_t barrier;    /* begin only when every earlier burst of the call is answered */
    uint32_t id;         /* AWID or ARID, 12 bits */
    uint32_t wid;        /* WID; equal to id in a legal burst */
    uint32_t address;    /* byte address of the first beat */
    uint32_t length;     /* AxLEN + 1: 1 to 16 */
    uint32_t size;       /* AxSIZE: log2 of the bytes in a beat */
    uint32_t burst;      /* AxBURST: 0 FIXED, 1 INCR, 2 WRAP */
    uint32_t lock;       /* AxLOCK */
    uint32_t cache;      /* AxCACHE */
    uint32_t prot;       /* AxPROT */
    uint32_t beats;      /* beats of write data to send; equal to length in a legal burst */
    uint32_t last;       /* bit n: WLAST on beat n; 1 << (length - 1) in a legal burst */
    uint32_t data[16];   /* write data, or what was read */
    uint32_t strobe[16]; /* WSTRB of each beat */
    /* -- what came of it -- */
    uint32_t response[16];   /* RRESP of each beat; BRESP in response[0] */
    uint32_t answered;       /* 1: B, or the last beat of R, has come */
    uint64_t address_clock;  /* clock number of the AW or AR handshake */
    uint64_t data_clock[16]; /* clock numbers of the W or R handshakes */
    uint64_t response_clock; /* clock number of the handshake of B, or of the last beat of R */
} bloomgate_burst;

typedef struct bloomgate_simulation bloomgate_simulation;

/* A device just after power-up: reset for 8 clocks. NULL when there is no memory for it. */
bloomgate_simulation *bloomgate_create(void);
void bloomgate_destroy(bloomgate_simulation *simulation);

/* Clocks since power-up. */
uint64_t bloomgate_clocks(const bloomgate_simulation *simulation);
/* The interrupt line. */
int bloomgate_interrupt(bloomgate_simulation *simulation);
/* What went wrong in the call before. */
const char *bloomgate_message(const bloomgate_simulation *simulation);
/* Byte address of the first burst (write) or beat (read) that was refused in the call before. */
uint32_t bloomgate_refused_address(const bloomgate_simulation *simulation);

/* Hesitate on one channel: in each clock, with a probability of chance / 65536, do not raise VALID (AW, W, AR) or
 * READY (B, R). */
int bloomgate_pause(bloomgate_simulation *simulation, int channel, uint32_t chance, uint64_t seed);

/* The probe output in a clock in which it was not 0. */
typedef struct bloomgate_event {
    uint64_t clock;
    uint32_t probe;
} bloomgate_event;
/* Begin to record the probe output, or stop; what was recorded before is forgotten. */
void bloomgate_record(bloomgate_simulation *simulation, int on);
/* Copy what was recorded, as far as there is room; returns how much there is. */
uint32_t bloomgate_recorded(const bloomgate_simulation *simulation, bloomgate_event *events, uint32_t room);

/* Let clocks pass with an idle bus. */
int bloomgate_step(bloomgate_simulation *simulation, uint64_t clocks);

/* Do the bursts, addresses in order, up to 8 outstanding; returns when all are answered or after `limit` clocks. */
int bloomgate_run(bloomgate_simulation *simulation, bloomgate_burst *bursts, uint32_t count, uint64_t limit);

/* Whole words at rising addresses, in bursts of up to 16 beats that do not cross a 4 KiB boundary. */
int bloomgate_write(bloomgate_simulation *simulation, uint32_t address, const uint32_t *words, uint32_t count,
                    uint64_t limit);
int bloomgate_read(bloomgate_simulation *simulation, uint32_t address, uint32_t *words, uint32_t count,
                   uint64_t limit);

/* Read until (words[0] & mask) == value, at most `attempts` times, with `interval` idle clocks between. */
int bloomgate_poll(bloomgate_simulation *simulation, uint32_t address, uint32_t *words, uint32_t count,
                   uint32_t mask, uint32_t value, uint32_t attempts, uint32_t interval, uint64_t limit);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

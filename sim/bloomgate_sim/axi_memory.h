/* The C interface of the memory behind the gateware's AXI3 master port.
 *
 * Read twice: by axi_memory.hpp, and as cffi declarations by memory.py, which drops the lines that begin with '#'.
 * Calls return the status codes of axi_master.h.
 */
#ifndef BLOOMGATE_AXI_MEMORY_H
#define BLOOMGATE_AXI_MEMORY_H

#include "axi_master.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Sums since power-up. */
typedef struct bloomgate_memory_statistics {
    uint64_t clocks;
    /* Clocks in which RVALID was not withheld: the memory could deliver a beat if it had been asked in time. */
    uint64_t open_clocks;
    uint64_t read_beats;
    uint64_t read_bursts;
    uint64_t write_beats;
    uint64_t write_bursts;
    /* Bursts with an address where nothing is attached. */
    uint64_t stray_bursts;
    /* Most read bursts that were unanswered at once. */
    uint64_t most_reads;
} bloomgate_memory_statistics;

/* Let `size` bytes at `data` be the memory at bus address `base`; all three are multiples of 8. The bytes must stay
 * where they are until they are detached. Other threads and processes may use them at any time: every beat is read and
 * written as one 64-bit word. */
int bloomgate_memory_attach(bloomgate_simulation *simulation, uint32_t base, void *data, uint64_t size);
/* Take away what was attached at `base`. */
int bloomgate_memory_detach(bloomgate_simulation *simulation, uint32_t base);

/* Clocks from the address of a read to its first beat, and from the last of address and data of a write to B, beyond
 * the one that AXI needs. */
int bloomgate_memory_latency(bloomgate_simulation *simulation, uint32_t clocks);
/* Hesitate on one channel: in each clock, with a probability of chance / 65536, READY (AW, W, AR) is low, or VALID (B,
 * R) is not raised. */
int bloomgate_memory_pause(bloomgate_simulation *simulation, int channel, uint32_t chance, uint64_t seed);
/* 1: each beat of R and each B is of an ID chosen at random among those that are ready; 0: in the order of addresses. */
int bloomgate_memory_reorder(bloomgate_simulation *simulation, int on, uint64_t seed);
/* Answer beats from `first` to before `end` with a response, 2 (SLVERR) or 3 (DECERR); 0 forgets all such ranges. */
int bloomgate_memory_fail(bloomgate_simulation *simulation, uint32_t first, uint64_t end, int response);

void bloomgate_memory_sums(bloomgate_simulation *simulation, bloomgate_memory_statistics *statistics);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif

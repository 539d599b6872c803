/* One register access, found in the instruction that faulted. */
#ifndef DECODE_H
#define DECODE_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

struct access {
    bool store;
    /* Of a store. */
    uint32_t value;
    /* Of a load: the register's number, as the processor counts. */
    unsigned int target;
    /* Bytes of the instruction. */
    unsigned int length;
    /* A base register that the access moves, and where to. */
    bool moves_base;
    unsigned int base;
    uint32_t base_after;
};

/* False for anything but one load or store of 32 bits between a register, or a constant, and memory. */
bool decode(const ucontext_t *context, struct access *access);

/* Make it so that the instruction has been executed, and a load has brought `loaded`. */
void finish(ucontext_t *context, const struct access *access, uint32_t loaded);

/* Where the instruction is. */
uintptr_t program_counter(const ucontext_t *context);

#endif

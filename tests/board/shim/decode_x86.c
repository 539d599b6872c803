/* x86-64: MOV between a 32-bit register, or a constant, and memory (Intel SDM volume 2, "MOV"). */
#define _GNU_SOURCE

#include "decode.h"

#include <string.h>

/* Where the kernel stores the registers, in the order in which instructions count them. */
static const int places[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

uintptr_t program_counter(const ucontext_t *context)
{
    return (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
}

/* Bytes of ModRM, SIB and displacement; 0 for a register operand. */
static unsigned int operand_length(const uint8_t *modrm)
{
    unsigned int mode = modrm[0] >> 6, base = modrm[0] & 7, length = 1;
    if (mode == 3) {
        return 0;
    }
    if (base == 4) {
        length++;
        base = modrm[1] & 7;
    }
    if (mode == 1) {
        return length + 1;
    }
    return mode == 2 || base == 5 ? length + 4 : length;
}

bool decode(const ucontext_t *context, struct access *access)
{
    const uint8_t *start = (const uint8_t *)program_counter(context), *at = start;
    unsigned int rex = 0;
    if ((*at & 0xF0) == 0x40) {
        rex = *at++;
    }
    uint8_t code = *at++;
    unsigned int length = operand_length(at), number = (at[0] >> 3 & 7) | (rex & 4) << 1;
    if (length == 0 || rex & 8) {
        return false;
    }
    access->moves_base = false;
    access->target = number;
    access->store = code != 0x8B;
    access->value = (uint32_t)context->uc_mcontext.gregs[places[number]];
    if (code == 0xC7 && (at[0] >> 3 & 7) == 0) {
        memcpy(&access->value, at + length, sizeof access->value);
        length += 4;
    } else if (code != 0x8B && code != 0x89) {
        return false;
    }
    access->length = (unsigned int)(at - start) + length;
    return true;
}

void finish(ucontext_t *context, const struct access *access, uint32_t loaded)
{
    if (!access->store) {
        context->uc_mcontext.gregs[places[access->target]] = loaded; /* a 32-bit result clears the upper half */
    }
    context->uc_mcontext.gregs[REG_RIP] += access->length;
}

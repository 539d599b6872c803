/* ARMv7, in both instruction sets: A32 and T32 (ARM ARM, DDI 0406C, A8.8.62 LDR and A8.8.203 STR). */
#include "decode.h"

#define THUMB (1u << 5)

static uint32_t *registers(ucontext_t *context)
{
    /* arm_r0 to arm_pc are neighbours. */
    return (uint32_t *)&context->uc_mcontext.arm_r0;
}

static uint32_t reg(const ucontext_t *context, unsigned int number)
{
    return registers((ucontext_t *)context)[number];
}

uintptr_t program_counter(const ucontext_t *context)
{
    return context->uc_mcontext.arm_pc;
}

static void transfer(const ucontext_t *context, struct access *access, bool load, unsigned int rt)
{
    access->store = !load;
    access->target = rt;
    access->value = reg(context, rt);
}

static void move_base(const ucontext_t *context, struct access *access, unsigned int rn, uint32_t offset, bool up)
{
    access->moves_base = true;
    access->base = rn;
    access->base_after = up ? reg(context, rn) + offset : reg(context, rn) - offset;
}

static bool decode_a32(const ucontext_t *context, struct access *access)
{
    uint32_t code = *(const uint32_t *)program_counter(context);
    access->length = 4;
    bool by_register = code >> 25 & 1;
    if ((code >> 26 & 3) != 1 || code >> 28 == 15 || (by_register && (code >> 4 & 1))) {
        return false;
    }
    bool pre = code >> 24 & 1, up = code >> 23 & 1, byte = code >> 22 & 1, write_back = code >> 21 & 1;
    unsigned int rn = code >> 16 & 15, rt = code >> 12 & 15;
    if (byte || rt == 15 || rn == 15) {
        return false;
    }
    transfer(context, access, code >> 20 & 1, rt);
    if (!pre || write_back) {
        if (by_register) {
            return false;
        }
        move_base(context, access, rn, code & 0xFFF, up);
    }
    return true;
}

static bool decode_t32(const ucontext_t *context, struct access *access)
{
    const uint16_t *at = (const uint16_t *)program_counter(context);
    uint32_t code = at[0];
    if (code >> 11 < 0x1D) {
        access->length = 2;
        /* STR and LDR with 5 bits of offset, then those with a register. */
        if ((code & 0xF000) == 0x6000 || (code & 0xF600) == 0x5000) {
            transfer(context, access, code & 0x0800, code & 7);
            return true;
        }
        return false;
    }
    access->length = 4;
    uint32_t second = at[1];
    unsigned int rn = code & 15, rt = second >> 12;
    if ((code & 0xFF60) != 0xF840 || rn == 15 || rt == 15) {
        return false;
    }
    transfer(context, access, code & 0x10, rt);
    if (code & 0x80) { /* 12 bits of offset */
        return true;
    }
    if (second & 0x800) { /* 8 bits of offset, with or without write-back */
        if (second & 0x100) {
            move_base(context, access, rn, second & 0xFF, second & 0x200);
        }
        return true;
    }
    return (second & 0xFC0) == 0; /* a register */
}

bool decode(const ucontext_t *context, struct access *access)
{
    access->moves_base = false;
    return context->uc_mcontext.arm_cpsr & THUMB ? decode_t32(context, access) : decode_a32(context, access);
}

/* What the end of an instruction does to ITSTATE, the conditions of the next ones (A2.5.2). */
static uint32_t after_it(uint32_t cpsr)
{
    uint32_t state = (cpsr >> 8 & 0xFC) | (cpsr >> 25 & 3);
    state = state & 7 ? (state & 0xE0) | (state << 1 & 0x1F) : 0;
    return (cpsr & ~0x0600FC00u) | (state & 0xFC) << 8 | (state & 3) << 25;
}

void finish(ucontext_t *context, const struct access *access, uint32_t loaded)
{
    if (access->moves_base) {
        registers(context)[access->base] = access->base_after;
    }
    if (!access->store) {
        registers(context)[access->target] = loaded;
    }
    if (context->uc_mcontext.arm_cpsr & THUMB) {
        context->uc_mcontext.arm_cpsr = after_it(context->uc_mcontext.arm_cpsr);
    }
    context->uc_mcontext.arm_pc += access->length;
}

#include "access.h"

#include "zynq.h"

/* DFSR: the fault status is in bits 10 and 3:0; bit 12 tells SLVERR from DECERR (Cortex-A9 TRM, 4.3.13). */
#define DFSR_STATUS 0x40Fu
#define DFSR_SLVERR (1u << 12)
#define STATUS_EXTERNAL 0x008u
#define STATUS_EXTERNAL_ASYNCHRONOUS 0x406u

/* As start.S numbers them. */
static const char *const kinds[] = {"undefined instruction", "prefetch abort", "data abort", "unexpected exception"};
#define PREFETCH_ABORT 1u
#define DATA_ABORT 2u

/* What start.S has pushed. */
struct exception_frame {
    uint32_t r0, r1, r2, r3, r12, pc;
};

static volatile struct fault last_fault;
static volatile bool expected, aborted;

_Noreturn void restart(const struct crash *crash);

static bool asynchronous(uint32_t status)
{
    return (status & DFSR_STATUS) == STATUS_EXTERNAL_ASYNCHRONOUS;
}

/* Called by start.S, on the stack of the exception. */
void exception(uint32_t kind, struct exception_frame *frame)
{
    static struct crash crash;
    uint32_t status = 0, address = 0;

    if (kind == DATA_ABORT) {
        __asm__ volatile("mrc p15, 0, %0, c5, c0, 0" : "=r"(status));  /* DFSR */
        __asm__ volatile("mrc p15, 0, %0, c6, c0, 0" : "=r"(address)); /* DFAR */
        if (expected) {
            last_fault.status = status;
            /* A store is on its way when the processor goes on, so that its abort is asynchronous and has no address.
             * It comes back to where it was interrupted; a synchronous one must not meet its access again. */
            if (!asynchronous(status)) {
                last_fault.address = address;
                frame->pc += 4;
            }
            aborted = true;
            return;
        }
    } else if (kind == PREFETCH_ABORT) {
        __asm__ volatile("mrc p15, 0, %0, c5, c0, 1" : "=r"(status)); /* IFSR */
        __asm__ volatile("mrc p15, 0, %0, c6, c0, 2" : "=r"(address)); /* IFAR */
    }
    crash = (struct crash){kinds[kind], frame->pc, status, address};
    restart(&crash);
}

static void expect(uint32_t address)
{
    aborted = false;
    last_fault.address = address;
    expected = true;
    __asm__ volatile("" : : : "memory");
}

/* Waits until everything is answered. True if nothing was aborted. */
static bool settle(void)
{
    __asm__ volatile("dsb\n\tisb" : : : "memory");
    expected = false;
    return !aborted;
}

bool access_begin(void)
{
    expect(0);
    __asm__ volatile("cpsie a\n\tisb" : : : "memory");
    return !settle();
}

bool access_read(uint32_t address, uint32_t *word)
{
    expect(address);
    *word = read32(address);
    return settle();
}

bool access_write(uint32_t address, uint32_t word)
{
    expect(address);
    write32(address, word);
    return settle();
}

struct fault access_fault(void)
{
    return (struct fault){last_fault.address, last_fault.status};
}

const char *fault_name(uint32_t status)
{
    switch (status & DFSR_STATUS) {
    case STATUS_EXTERNAL:
    case STATUS_EXTERNAL_ASYNCHRONOUS:
        return status & DFSR_SLVERR ? "SLVERR" : "DECERR";
    case 0x001:
        return "alignment fault";
    case 0x005:
    case 0x007:
        return "nothing is mapped there";
    default:
        return "data abort";
    }
}

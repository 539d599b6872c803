#include "mmu.h"

#include "zynq.h"

/* ARM ARM, B3.5.1, short descriptors. Everything is for privileged code only (AP = 01) in domain 0. */
#define SECTION_DEVICE 0x00000416u /* shareable device memory, never executed */
#define PAGE_TABLE 0x00000001u
#define PAGE_MEMORY 0x00000052u /* normal memory, not cached, executable */
#define DOMAIN_0_CLIENT 1u
#define SCTLR_MMU 1u

#define MIB_SHIFT 20
#define PAGE_SHIFT 12

struct range {
    uint32_t first, last;
};

/* UG585 table 4-1. Reserved ranges and the static memories, which the Parallella does not have, are left out. */
static const struct range system[] = {
    {0x00000000u, 0x3FFFFFFFu}, /* DDR, and on-chip memory after the BootROM */
    {0xE0000000u, 0xE02FFFFFu}, /* I/O peripherals */
    {0xF8000000u, 0xF8FFFFFFu}, /* SLCR, PS system and processor private registers */
    {0xFC000000u, 0xFDFFFFFFu}, /* Quad-SPI, linear */
    {0xFFF00000u, 0xFFFFFFFFu}, /* on-chip memory */
};
static const struct range fabric = {GP_FIRST, GP_LAST};

static uint32_t sections[4096] __attribute__((aligned(1 << 14)));
/* Of the MiB that the monitor is in: its pages only, so that the rest of it is never fetched speculatively. */
static uint32_t pages[256] __attribute__((aligned(1 << 10)));

extern char __image_start[], __image_end[];

static void map(struct range range, uint32_t attributes)
{
    for (uint32_t mib = range.first >> MIB_SHIFT; mib <= range.last >> MIB_SHIFT; mib++)
        sections[mib] = attributes ? mib << MIB_SHIFT | attributes : 0;
}

static void forget_translations(void)
{
    __asm__ volatile("dsb\n\tmcr p15, 0, %0, c8, c7, 0\n\tdsb\n\tisb" : : "r"(0) : "memory"); /* TLBIALL */
}

void mmu_enable(void)
{
    uint32_t start = (uint32_t)__image_start, end = (uint32_t)__image_end, sctlr;

    for (unsigned i = 0; i < sizeof system / sizeof *system; i++)
        map(system[i], SECTION_DEVICE);
    for (uint32_t page = start; page < end; page += 1u << PAGE_SHIFT)
        pages[page >> PAGE_SHIFT & 0xFF] = page | PAGE_MEMORY;
    sections[start >> MIB_SHIFT] = (uint32_t)pages | PAGE_TABLE;

    __asm__ volatile("mcr p15, 0, %0, c2, c0, 2" : : "r"(0));               /* TTBCR: TTBR0 for everything */
    __asm__ volatile("mcr p15, 0, %0, c2, c0, 0" : : "r"(sections));        /* TTBR0, walks not cached */
    __asm__ volatile("mcr p15, 0, %0, c3, c0, 0" : : "r"(DOMAIN_0_CLIENT)); /* DACR */
    forget_translations();
    __asm__ volatile("mrc p15, 0, %0, c1, c0, 0" : "=r"(sctlr));
    __asm__ volatile("mcr p15, 0, %0, c1, c0, 0\n\tisb" : : "r"(sctlr | SCTLR_MMU) : "memory");
}

void mmu_map_fabric(bool on)
{
    map(fabric, on ? SECTION_DEVICE : 0);
    forget_translations();
}

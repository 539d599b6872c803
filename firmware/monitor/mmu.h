/* The page table: what exists, one to one, and everything else a fault. */
#ifndef MMU_H
#define MMU_H

#include <stdbool.h>
#include <stdint.h>

/* Turn the MMU on: the monitor as memory, memory and registers of the processing system as devices, the fabric not at
 * all. Accesses to what is not mapped are data aborts instead of a bus that nobody answers. */
void mmu_enable(void);

/* Map the windows of M_AXI_GP0 and M_AXI_GP1, or take them away. */
void mmu_map_fabric(bool on);

#endif

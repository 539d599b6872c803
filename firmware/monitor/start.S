/* Entry and exceptions. Entered by U-Boot's `go`, with MMU and caches on, or by the BootROM, with both off. */
/* PL310 level 2 cache controller (its TRM, chapter 3), at its place in the Zynq (UG585 appendix B). */
#define L2_CONTROL 0xF8F02100
#define L2_SYNC 0xF8F02730
#define L2_CLEAN_INVALIDATE_WAY 0xF8F027FC

#define MODE_ABORT 0x17
#define MODE_UNDEFINED 0x1B
#define MODE_SUPERVISOR 0x13

        .arm
        .syntax unified

        .section .text.start, "ax"
        .global _start
_start:
        cpsid   aif, #MODE_SUPERVISOR

        /* What U-Boot has loaded and changed must be in memory before the caches go off. 32 KiB, 4 ways, lines of 32
         * bytes (UG585 section 3.2), cleaned by set and way: way in bits 31:30, set in 12:5. */
        mrc     p15, 0, r0, c1, c0, 0
        bic     r0, r0, #(1 << 2)               /* SCTLR.C */
        mcr     p15, 0, r0, c1, c0, 0
        dsb
        mov     r0, #0
1:      mcr     p15, 0, r0, c7, c14, 2          /* DCCISW */
        add     r0, r0, #(1 << 5)
        tst     r0, #(1 << 13)
        beq     1b
        bic     r0, r0, #(1 << 13)
        adds    r0, r0, #(1 << 30)
        bcc     1b
        dsb

        ldr     r1, =L2_CONTROL
        ldr     r0, [r1]
        tst     r0, #1
        beq     3f
        ldr     r2, =L2_CLEAN_INVALIDATE_WAY
        ldr     r0, =0xFFFF
        str     r0, [r2]
2:      ldr     r0, [r2]
        lsls    r0, r0, #16
        bne     2b
        ldr     r2, =L2_SYNC
        str     r0, [r2]
        str     r0, [r1]
        dsb

3:      mrc     p15, 0, r0, c1, c0, 0
        bic     r0, r0, #(1 << 0)               /* M */
        bic     r0, r0, #(1 << 1)               /* A */
        bic     r0, r0, #(1 << 2)               /* C */
        bic     r0, r0, #(1 << 11)              /* Z: no prediction, so no speculative fetches */
        bic     r0, r0, #(1 << 12)              /* I */
        bic     r0, r0, #(1 << 13)              /* V: vectors at VBAR */
        bic     r0, r0, #(3 << 28)              /* TRE, AFE: page tables as mmu.c writes them */
        bic     r0, r0, #(1 << 30)              /* TE: exceptions in ARM state */
        mcr     p15, 0, r0, c1, c0, 0
        isb
        mov     r0, #0
        mcr     p15, 0, r0, c8, c7, 0           /* TLBIALL */
        mcr     p15, 0, r0, c7, c5, 0           /* ICIALLU */
        mcr     p15, 0, r0, c7, c5, 6           /* BPIALL */
        dsb
        isb

        ldr     r0, =__bss_start
        ldr     r1, =__bss_end
        mov     r2, #0
4:      cmp     r0, r1
        strlo   r2, [r0], #4
        blo     4b

        ldr     r0, =vectors
        mcr     p15, 0, r0, c12, c0, 0          /* VBAR */
        isb
        mov     r0, #0
        b       enter

/* Begin again after an exception that nobody expected; r0 is passed to monitor_main(). */
        .text
        .global restart
restart:
enter:
        cpsid   aif, #MODE_ABORT
        ldr     sp, =__exception_stack_end
        cpsid   aif, #MODE_UNDEFINED
        ldr     sp, =__exception_stack_end
        cpsid   aif, #MODE_SUPERVISOR
        ldr     sp, =__stack_end
        bl      monitor_main
5:      b       5b

        .balign 32
        .global vectors
vectors:
        b       _start                          /* reset */
        b       undefined
        b       unexpected                      /* supervisor call */
        b       prefetch_abort
        b       data_abort
        b       unexpected
        b       unexpected                      /* interrupts are never enabled */
        b       unexpected

/* Each handler gets its kind and a pointer to r0-r3, r12 and the address to return to, which it may change. The
 * exceptions that come with one have another distance between LR and the instruction (ARM ARM, B1.8.3). */
        .macro  handler name, kind, distance
\name:
        sub     lr, lr, #\distance
        push    {r0-r3, r12, lr}
        mov     r0, #\kind
        mov     r1, sp
        bl      exception
        ldm     sp!, {r0-r3, r12, pc}^
        .endm

        handler undefined, 0, 4
        handler prefetch_abort, 1, 4
        handler data_abort, 2, 8
        handler unexpected, 3, 4

        .section .note.GNU-stack, "", %progbits

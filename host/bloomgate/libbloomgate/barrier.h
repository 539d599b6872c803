/*
 * Memory barriers between normal memory and device registers. Internal.
 *
 * ARMv7 keeps the order of accesses to one device among themselves, and nothing else: DMB is what orders them against
 * the redo log and the shared data that go with a request. The scope is the full system, since the other side is not
 * in the inner shareable domain of the processors.
 *
 * x86 maps registers uncached, where only a store before a load may change order; a compiler must still be told.
 * SFENCE and LFENCE also order write-combining and streaming accesses, in case the window or the log uses them.
 */
#ifndef BLOOMGATE_BARRIER_H
#define BLOOMGATE_BARRIER_H

#if defined(__arm__) || defined(__aarch64__)

/* Everything stored before is visible before any store after. */
static inline void bloomgate_store_barrier(void)
{
    __asm__ volatile("dmb sy" ::: "memory");
}

/* Nothing after is loaded before what was loaded before. */
static inline void bloomgate_load_barrier(void)
{
    __asm__ volatile("dmb sy" ::: "memory");
}

#elif defined(__x86_64__) || defined(__i386__)

static inline void bloomgate_store_barrier(void)
{
    __asm__ volatile("sfence" ::: "memory");
}

static inline void bloomgate_load_barrier(void)
{
    __asm__ volatile("lfence" ::: "memory");
}

#else
#error "libbloomgate has no barriers for this processor"
#endif

#endif

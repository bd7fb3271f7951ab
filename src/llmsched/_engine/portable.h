/* What differs between compilers and systems, in one place. With GCC and Clang it is an instruction; anywhere else, and
   with LLMSCHED_PLAIN_C (`tools/checked plain` tests that), it is written out in C11. The answers are the same.

   Mind MSVC elsewhere too: no variable-length arrays, no attributes or builtins; `long` and the constants of an enum
   have 32 bits there. */
#ifndef LLMSCHED_PORTABLE_H
#define LLMSCHED_PORTABLE_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && !defined(LLMSCHED_PLAIN_C)
#define LLMSCHED_GNU_C 1
#else
#define LLMSCHED_GNU_C 0
#endif

#if LLMSCHED_GNU_C && defined(__linux__)
#include <sys/mman.h>
#endif

/* Constants that do not fit in an enum. */
#define LLMSCHED_UNKNOWN ((int64_t)0x3FFFFFFFFFFFFFFF)
#define LLMSCHED_NOBODY ((int64_t)0x4000000000000000)
#define LLMSCHED_ANY (LLMSCHED_NOBODY - 1)
#define LLMSCHED_ENOUGH ((int64_t)0x40000000000000)

/* Prefetching. The empty assembly: GCC takes a function that only prefetches for one that does nothing, and drops the
   call. */
#if LLMSCHED_GNU_C
#define llmsched_prefetch(address) do { __builtin_prefetch(address); __asm__ volatile (""); } while (0)
#define llmsched_prefetch_to_write(address) do { __builtin_prefetch(address, 1); __asm__ volatile (""); } while (0)
#else
#define llmsched_prefetch(address) ((void)(address))
#define llmsched_prefetch_to_write(address) ((void)(address))
#endif

/* The place of the lowest bit that is set; one is. */
static inline int llmsched_lowest_bit(uint64_t bits) {
#if LLMSCHED_GNU_C
    return __builtin_ctzll(bits);
#else
    int at = 0;
    for (int width = 32; width > 0; width /= 2)
        if ((bits & (((uint64_t)1 << width) - 1)) == 0) {
            bits >>= width;
            at += width;
        }
    return at;
#endif
}

/* All bits up to the highest one that is set; one is. */
static inline uint32_t llmsched_bits_up_to(uint32_t most) {
#if LLMSCHED_GNU_C
    return 0xffffffffu >> __builtin_clz(most);
#else
    for (int width = 1; width < 32; width *= 2) most |= most >> width;
    return most;
#endif
}

/* Whole numbers of 128 bits. */
typedef struct { uint64_t high, low; } llmsched_wide;

static inline llmsched_wide llmsched_wide_sum(llmsched_wide a, llmsched_wide b) {
    llmsched_wide sum;
    sum.low = a.low + b.low;
    sum.high = a.high + b.high + (sum.low < a.low);
    return sum;
}

/* a b modulo 2^128 */
static inline llmsched_wide llmsched_wide_product(llmsched_wide a, llmsched_wide b) {
    llmsched_wide product;
#if LLMSCHED_GNU_C && defined(__SIZEOF_INT128__)
    unsigned __int128 low = (unsigned __int128)a.low * b.low;
    product.low = (uint64_t)low;
    product.high = (uint64_t)(low >> 64);
#else
    uint64_t first = a.low >> 32, second = a.low & 0xffffffffu, third = b.low >> 32, fourth = b.low & 0xffffffffu;
    uint64_t outer = first * fourth + (second * fourth >> 32), inner = second * third + (outer & 0xffffffffu);
    product.low = a.low * b.low;
    product.high = first * third + (outer >> 32) + (inner >> 32);
#endif
    product.high += a.high * b.low + a.low * b.high;
    return product;
}

/* The nearest double, ties to even. */
static inline double llmsched_wide_to_double(llmsched_wide a) {
    int shift = 0;
    uint64_t lost = 0;
    for (; a.high > 0; shift++) { /* a bit that was shifted out stays as the lowest one, so that it is rounded once */
        lost |= a.low & 1;
        a.low = a.low >> 1 | a.high << 63;
        a.high >>= 1;
    }
    return ldexp((double)(a.low | lost), shift);
}

/* Whether an entry of the waiting heap (waiting_heap.pxd) comes before another. */
typedef struct { int32_t who, tie; int64_t key; } llmsched_entry;

static inline int llmsched_entry_less(const void *a, const void *b) {
#if LLMSCHED_GNU_C && defined(__SIZEOF_INT128__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    __int128 x, y; /* in memory an entry is one number, the key its upper half */
    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x < y;
#else
    llmsched_entry x, y;
    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    if (x.key != y.key) return x.key < y.key;
    if (x.tie != y.tie) return x.tie < y.tie;
    return (uint32_t)x.who < (uint32_t)y.who;
#endif
}

/* Memory. `free` frees all of it, so where aligned memory has a `free` of its own it is not aligned. */
static inline void *llmsched_aligned(size_t alignment, size_t bytes) {
#if LLMSCHED_GNU_C && !defined(_WIN32)
    return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#else
    (void)alignment;
    return malloc(bytes);
#endif
}

/* For large arrays that are read out of order: in huge pages where the system has them, so that an address costs no
   walk through page tables. */
static inline void *llmsched_allocate(size_t bytes) {
#if LLMSCHED_GNU_C && defined(MADV_HUGEPAGE)
    const size_t page = (size_t)1 << 21;
    if (bytes >= 2 * page) {
        void *block = llmsched_aligned(page, bytes);
        if (block != NULL) madvise(block, bytes, MADV_HUGEPAGE);
        return block;
    }
#endif
    return malloc(bytes);
}

/* A larger block in place of one of which `used` bytes are used, on whole cache lines. NULL: there is none, and the old
   one stays. */
static inline void *llmsched_enlarge(void *block, size_t used, size_t bytes) {
    void *larger = llmsched_aligned(64, bytes);
    if (larger == NULL) return NULL;
    if (block != NULL) memcpy(larger, block, used);
    free(block);
    return larger;
}

#endif

# Memory for large arrays that are read out of order: in huge pages where the system has them, so that an address costs
# no walk through page tables. `free` frees it.

cdef extern from * nogil:
    """
    #include <stdlib.h>
    #include <string.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif

    static void *llmsched_allocate(size_t bytes) {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        const size_t page = (size_t)1 << 21;
        if (bytes >= 2 * page) {
            void *block = aligned_alloc(page, (bytes + page - 1) / page * page);
            if (block != NULL) madvise(block, bytes, MADV_HUGEPAGE);
            return block;
        }
    #endif
        return malloc(bytes);
    }

    static void *llmsched_enlarge(void *block, size_t used, size_t bytes) {
        void *larger = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (larger == NULL) return NULL;
        if (block != NULL) memcpy(larger, block, used);
        free(block);
        return larger;
    }
    """
    void* allocate "llmsched_allocate" (size_t bytes) noexcept
    # A larger block in place of one of which so many bytes are used, on whole cache lines. NULL: there is none, and the
    # old one stays.
    void* enlarge "llmsched_enlarge" (void* block, size_t used, size_t bytes) noexcept

cdef extern from * nogil:
    """
    /* volatile: GCC takes a function that only prefetches for one that does nothing, and drops the call */
    #define llmsched_prefetch(address) do { __builtin_prefetch(address); __asm__ volatile (""); } while (0)
    #define llmsched_prefetch_to_write(address) do { __builtin_prefetch(address, 1); __asm__ volatile (""); } while (0)
    """
    void prefetch "llmsched_prefetch" (const void* address) noexcept
    void prefetch_to_write "llmsched_prefetch_to_write" (const void* address) noexcept

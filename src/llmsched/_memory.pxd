# Memory for large arrays that are read out of order: in huge pages where the system has them, so that an address costs
# no walk through page tables. `free` frees it.

cdef extern from * nogil:
    """
    #include <stdlib.h>
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
    """
    void* allocate "llmsched_allocate" (size_t bytes) noexcept

# Memory for large arrays, and having it there before it is read. `free` frees it.

cdef extern from "llmsched/_engine/portable.h" nogil:
    void* allocate "llmsched_allocate" (size_t bytes) noexcept
    void* aligned "llmsched_aligned" (size_t alignment, size_t bytes) noexcept
    # A larger block in place of one of which so many bytes are used, on whole cache lines. NULL: there is none, and the
    # old one stays.
    void* enlarge "llmsched_enlarge" (void* block, size_t used, size_t bytes) noexcept
    void prefetch "llmsched_prefetch" (const void* address) noexcept
    void prefetch_to_write "llmsched_prefetch_to_write" (const void* address) noexcept

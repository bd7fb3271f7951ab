# A request occupies whole blocks of cache.

from libc.stdint cimport int64_t


cdef inline int64_t whole_blocks(int64_t tokens, int64_t block) noexcept nogil:
    # Tokens of the blocks that hold so many; tokens >= 0.
    return tokens if block == 1 else (tokens + block - 1) // block * block

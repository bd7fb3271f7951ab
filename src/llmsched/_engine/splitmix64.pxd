# splitmix64 (Vigna), the stream of model.md section 5. One 64-bit state, seeded by the user's seed.

from libc.stdint cimport uint64_t


cdef inline uint64_t splitmix64_mix(uint64_t z) noexcept nogil:
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef inline uint64_t splitmix64_next(uint64_t* state) noexcept nogil:
    state[0] += <uint64_t>0x9E3779B97F4A7C15ULL
    return splitmix64_mix(state[0])


cdef inline uint64_t splitmix64_at(uint64_t state, uint64_t k) noexcept nogil:
    # the k-th output (from 0) of a stream that starts in this state, without drawing those before it
    return splitmix64_mix(state + (k + 1) * <uint64_t>0x9E3779B97F4A7C15ULL)


cdef inline uint64_t splitmix64_below(uint64_t* state, uint64_t k) noexcept nogil:
    # floor(x k / 2^32), x the upper 32 bits of the next output; k < 2^31
    return ((splitmix64_next(state) >> 32) * k) >> 32


cdef inline double splitmix64_unit(uint64_t* state) noexcept nogil:
    # a double in [0, 1) from the upper 53 bits
    return <double>(splitmix64_next(state) >> 11) * (1.0 / 9007199254740992.0)

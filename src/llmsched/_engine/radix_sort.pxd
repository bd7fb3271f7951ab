# A radix sort of indices by key and rank: the admission order in O(n), whatever the keys are.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from llmsched._engine.allocation cimport allocate
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    DIGIT_BITS = 11
    DIGITS = 2048  # 1 << DIGIT_BITS
    FEW = 32        # that are sorted by insertion: counting digits takes longer


cdef inline int64_t double_key(double x) noexcept nogil:
    # An integer that orders as the (finite) double does; -0.0 and 0.0 give the same.
    cdef int64_t bits
    x = x + 0.0
    memcpy(&bits, &x, sizeof(bits))
    return bits if bits >= 0 else bits ^ <int64_t>0x7FFFFFFFFFFFFFFFLL


cdef inline int sort_places(const int64_t* keys, const int32_t* rank, int32_t* places, int64_t n) noexcept nogil:
    # places[0:n] becomes 0..n-1 in ascending order of keys; ties go by rank, or by index where that is NULL.
    # n > 0. OK or NO_MEMORY.
    cdef uint64_t lowest = biased(keys[0]), span = lowest, key, half = <uint32_t>-1
    cdef uint64_t* pairs = NULL
    cdef uint64_t* other = NULL
    cdef int64_t i
    cdef int status = OK
    for i in range(n):
        key = biased(keys[i])
        lowest = min(lowest, key)
        span = max(span, key)
    span -= lowest
    pairs = <uint64_t*>allocate(n * sizeof(uint64_t))
    if (span >> DIGIT_BITS) != 0:
        other = <uint64_t*>allocate(n * sizeof(uint64_t))
    if pairs == NULL or (other == NULL and (span >> DIGIT_BITS) != 0):
        status = NO_MEMORY
    else:
        # Half a key and an index are one word. Keys become distances from the smallest: the bits tell the passes.
        for i in range(n):
            pairs[i if rank == NULL else rank[i]] = (biased(keys[i]) - lowest) << 32 | <uint64_t>i
        sort_pairs(pairs, other, places, n, min(span, half))
        if (span >> 32) != 0:
            for i in range(n):
                pairs[i] = ((biased(keys[places[i]]) - lowest) >> 32) << 32 | <uint64_t>places[i]
            sort_pairs(pairs, other, places, n, span >> 32)
    free(pairs)
    free(other)
    return status


cdef inline uint64_t biased(int64_t key) noexcept nogil:
    return <uint64_t>key ^ (<uint64_t>1 << 63)


cdef inline void sort_pairs(
    uint64_t* pairs, uint64_t* other, int32_t* places, int64_t n, uint64_t span
) noexcept nogil:
    # Stably, by the upper halves, which are at most `span`; the lower ones go to places[]. Both arrays are scratch.
    cdef int32_t counts[DIGITS]
    cdef int64_t i
    cdef int32_t total, count
    cdef int shift = 32
    cdef uint64_t digit, most
    cdef uint64_t* swap
    if n <= FEW:
        sort_few(pairs, places, n)
        return
    while True:
        most = min(span >> (shift - 32), <uint64_t>(DIGITS - 1))  # no digit is larger
        memset(counts, 0, (most + 1) * sizeof(int32_t))
        for i in range(n):
            counts[(pairs[i] >> shift) & (DIGITS - 1)] += 1
        total = 0
        for digit in range(most + 1):
            count = counts[digit]
            counts[digit] = total
            total += count
        if (span >> (shift - 32)) < DIGITS:
            break
        for i in range(n):
            digit = (pairs[i] >> shift) & (DIGITS - 1)
            other[counts[digit]] = pairs[i]
            counts[digit] += 1
        swap = pairs
        pairs = other
        other = swap
        shift += DIGIT_BITS
    for i in range(n):
        digit = (pairs[i] >> shift) & (DIGITS - 1)
        places[counts[digit]] = <int32_t><uint32_t>pairs[i]
        counts[digit] += 1


cdef inline void sort_few(uint64_t* pairs, int32_t* places, int64_t n) noexcept nogil:
    # The same by insertion.
    cdef int64_t i, k
    cdef uint64_t pair
    for i in range(n):
        pair = pairs[i]
        k = i
        while k > 0 and pairs[k - 1] >> 32 > pair >> 32:
            pairs[k] = pairs[k - 1]
            k -= 1
        pairs[k] = pair
    for i in range(n):
        places[i] = <int32_t><uint32_t>pairs[i]

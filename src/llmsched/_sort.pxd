# A stable radix sort of (key, place) pairs: the admission order in O(n), whatever the keys are.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef enum:
    DIGIT_BITS = 11
    DIGITS = 2048  # 1 << DIGIT_BITS


cdef inline int64_t double_key(double x) noexcept nogil:
    # An integer that orders as the (finite) double does; -0.0 and 0.0 give the same.
    cdef int64_t bits
    x = x + 0.0
    memcpy(&bits, &x, sizeof(bits))
    return bits if bits >= 0 else bits ^ <int64_t>0x7FFFFFFFFFFFFFFFLL


cdef inline int sort_places(const int64_t* keys, int32_t* places, int64_t n) noexcept nogil:
    # Stably reorders places[0:n] so that keys[places[.]] ascends; ties keep their order. 0, or -1 without memory.
    cdef uint64_t lowest, span, digit
    cdef int64_t i, total, count
    cdef int shift
    cdef uint64_t* key_from = NULL
    cdef uint64_t* key_to = NULL
    cdef int32_t* place_from = places
    cdef int32_t* place_to = NULL
    cdef int32_t* counts = NULL
    cdef void* swap
    if n < 2:
        return 0
    # Keys become unsigned distances from the smallest: their bits tell how many passes it takes.
    lowest = <uint64_t>keys[0] ^ (<uint64_t>1 << 63)
    span = lowest
    for i in range(n):
        digit = <uint64_t>keys[i] ^ (<uint64_t>1 << 63)
        if digit < lowest:
            lowest = digit
        if digit > span:
            span = digit
    span -= lowest
    if span == 0:
        return 0
    key_from = <uint64_t*>malloc(n * sizeof(uint64_t))
    key_to = <uint64_t*>malloc(n * sizeof(uint64_t))
    place_to = <int32_t*>malloc(n * sizeof(int32_t))
    counts = <int32_t*>malloc(DIGITS * sizeof(int32_t))
    if key_from != NULL and key_to != NULL and place_to != NULL and counts != NULL:
        for i in range(n):
            key_from[i] = (<uint64_t>keys[places[i]] ^ (<uint64_t>1 << 63)) - lowest
        shift = 0
        while shift < 64 and (span >> shift) != 0:
            for i in range(DIGITS):
                counts[i] = 0
            for i in range(n):
                counts[(key_from[i] >> shift) & (DIGITS - 1)] += 1
            total = 0
            for i in range(DIGITS):
                count = counts[i]
                counts[i] = <int32_t>total
                total += count
            if (span >> shift) < DIGITS:  # the last pass: nobody reads the keys again
                for i in range(n):
                    digit = (key_from[i] >> shift) & (DIGITS - 1)
                    place_to[counts[digit]] = place_from[i]
                    counts[digit] += 1
            else:
                for i in range(n):
                    digit = (key_from[i] >> shift) & (DIGITS - 1)
                    key_to[counts[digit]] = key_from[i]
                    place_to[counts[digit]] = place_from[i]
                    counts[digit] += 1
            swap = key_from
            key_from = key_to
            key_to = <uint64_t*>swap
            swap = place_from
            place_from = place_to
            place_to = <int32_t*>swap
            shift += DIGIT_BITS
        if place_from != places:
            memcpy(places, place_from, n * sizeof(int32_t))
            place_to = place_from
        total = 0
    else:
        total = -1
    free(key_from)
    free(key_to)
    free(place_to)
    free(counts)
    return <int>total

# The wheel: when running requests will leave by themselves (complete, or reach their cap), a hashed timing wheel.
#
# A bucket is a list of requests in order of admission number. A request due more than a revolution ahead shares its
# bucket with earlier ones and is passed over until its round comes; when a look at a bucket finds nobody due, the wheel
# notes until when that holds for all of them.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from llmsched._engine.request cimport NONE, Request
from llmsched._engine.status cimport NO_MEMORY, OK

cdef extern from "llmsched/_engine/portable.h" nogil:
    int lowest_bit "llmsched_lowest_bit" (uint64_t x) noexcept

cdef enum:
    LARGEST_WHEEL = 4096


cdef struct Bucket:
    int32_t head        # its first request, or NONE
    int32_t tail        # its last request


cdef struct Wheel:
    Bucket* buckets     # a power of two of them, >= 64
    uint64_t* filled    # one bit per bucket: has requests
    int64_t mask        # buckets - 1
    int64_t idle_until  # nobody is due before this round


cdef inline int wheel_init(Wheel* wheel, int64_t longest) noexcept nogil:
    # `longest` is the most rounds a request can run. OK or NO_MEMORY.
    cdef int64_t size = 64
    while size <= longest and size < LARGEST_WHEEL:
        size *= 2
    wheel.mask = size - 1
    wheel.idle_until = 0
    wheel.buckets = <Bucket*>malloc(size * sizeof(Bucket))
    wheel.filled = <uint64_t*>malloc(size // 64 * sizeof(uint64_t))
    if wheel.buckets == NULL or wheel.filled == NULL:
        return NO_MEMORY
    memset(wheel.buckets, 0xFF, size * sizeof(Bucket))
    memset(wheel.filled, 0, size // 64 * sizeof(uint64_t))
    return OK


cdef inline void wheel_free(Wheel* wheel) noexcept nogil:
    free(wheel.buckets)
    free(wheel.filled)
    wheel.buckets = NULL
    wheel.filled = NULL


cdef inline void wheel_add(Wheel* wheel, Request* requests, int32_t p, int64_t due) noexcept nogil:
    cdef int64_t bucket = due & wheel.mask
    cdef int32_t last = wheel.buckets[bucket].tail
    if due < wheel.idle_until:
        wheel.idle_until = due
    requests[p].next = NONE
    requests[p].previous = last
    wheel.buckets[bucket].tail = p
    if last == NONE:
        wheel.buckets[bucket].head = p
        wheel.filled[bucket >> 6] |= <uint64_t>1 << (bucket & 63)
    else:
        requests[last].next = p


cdef inline void wheel_remove(Wheel* wheel, Request* requests, int32_t p, int64_t due) noexcept nogil:
    cdef int64_t bucket = due & wheel.mask
    cdef int32_t before = requests[p].previous, after = requests[p].next
    if before == NONE:
        wheel.buckets[bucket].head = after
    else:
        requests[before].next = after
    if after == NONE:
        wheel.buckets[bucket].tail = before
    else:
        requests[after].previous = before
    if wheel.buckets[bucket].head == NONE:
        wheel.filled[bucket >> 6] &= ~(<uint64_t>1 << (bucket & 63))


cdef inline int32_t wheel_take(Wheel* wheel, int64_t bucket) noexcept nogil:
    # Empties a bucket; returns the first request of the chain that was in it, or NONE.
    cdef int32_t first = wheel.buckets[bucket].head
    wheel.buckets[bucket].head = wheel.buckets[bucket].tail = NONE
    wheel.filled[bucket >> 6] &= ~(<uint64_t>1 << (bucket & 63))
    return first


cdef inline int64_t wheel_next(const Wheel* wheel, int64_t now) noexcept nogil:
    # The first round >= now in which somebody may be due. Needs at least one request in the wheel.
    cdef int64_t bucket = now & wheel.mask
    cdef int64_t word = bucket >> 6, words = (wheel.mask + 1) >> 6
    cdef uint64_t bits = wheel.filled[word] >> (bucket & 63)
    cdef int64_t ahead
    if now < wheel.idle_until:
        return wheel.idle_until
    if bits:
        return now + lowest_bit(bits)
    ahead = 64 - (bucket & 63)
    while True:
        word = (word + 1) & (words - 1)
        bits = wheel.filled[word]
        if bits:
            return now + ahead + lowest_bit(bits)
        ahead += 64

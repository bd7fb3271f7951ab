# The profile: the cache that running requests are believed to occupy in future rounds (model.md, section 4).
#
# A running request with birth b (the round in which it would have had no tokens) occupies s - b + r + 1 tokens in
# round r until its believed last round. Between two believed last rounds the sum U(r) only grows, so the capacity need
# only be tested there: at the points. They are kept in ascending order of round, each with U written out, so that
# testing and admitting a request are one pass over the points up to its own last round, in plain loops that compilers
# vectorise. Rounds up to the present one drop off the front; requests that outlive their belief are not in the profile
# at all (they count in the coming round only, which the engine tests by itself). With blocks of cache, occupancy steps
# up a block when the last one is full, which depends on where in its block a request is: its residue.

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.status cimport NO_MEMORY, OK

cdef extern from "llmsched/_engine/memory_profile.h" nogil:
    int64_t earliest_start(const int64_t* round, const int64_t* load, int64_t n, int64_t slack, int64_t start) noexcept
    int64_t earliest_start_until(
        const int64_t* round, const int64_t* load, int64_t n, int64_t slack, int64_t start, int64_t end, int64_t* upto
    ) noexcept
    int64_t change_load_until(
        int64_t* load, int64_t* count, const int64_t* round, int64_t n, int64_t offset, int64_t sign, int64_t end
    ) noexcept
    void change_load(
        int64_t* load, int64_t* count, const int64_t* round, int64_t n, int64_t offset, int64_t sign) noexcept


cdef enum:
    FEW = 128   # up to so many points are all passed over: that is faster than to search where to stop


cdef struct Profile:
    int64_t* round      # round[first:last]: believed last rounds, strictly ascending
    int64_t* load       # U(round) + round at each of them
    int64_t* count      # requests believed to run in that round or later: count[residue * allocated + point]
    int64_t block       # tokens in a block of cache
    int64_t first
    int64_t last
    int64_t allocated   # points that there is memory for
    int64_t scanned     # points looked at, for the work counters


cdef inline int profile_init(Profile* profile, int64_t block) noexcept nogil:
    # OK or NO_MEMORY.
    profile.first = profile.last = profile.scanned = 0
    profile.block = block
    profile.allocated = 256
    profile.round = <int64_t*>malloc((2 + block) * profile.allocated * sizeof(int64_t))
    if profile.round == NULL:
        return NO_MEMORY
    profile.load = profile.round + profile.allocated
    profile.count = profile.load + profile.allocated
    return OK


cdef inline void profile_free(Profile* profile) noexcept nogil:
    free(profile.round)
    profile.round = NULL


cdef inline void profile_expire(Profile* profile, int64_t now) noexcept nogil:
    # Forget the points that are not in the future of round `now`.
    while profile.first < profile.last and profile.round[profile.first] <= now:
        profile.first += 1
    if profile.first == profile.last:
        profile.first = profile.last = 0


cdef inline int64_t profile_find_after(const Profile* profile, int64_t low, int64_t end) noexcept nogil:
    # The first point after round `end`, searched from point `low` on; in sums, as no branch here can be foretold.
    cdef int64_t size = profile.last - low, half, right
    while size > 0:
        half = size >> 1
        right = profile.round[low + half] <= end
        low += (half + 1) * right
        size = half - right * (1 - (size & 1))
    return low


cdef inline int64_t profile_load(const Profile* profile, int64_t at, int64_t round) noexcept nogil:
    # U(round), `at` being the first point at or after it: the same requests run there as at the point.
    cdef int64_t load, residue
    cdef int64_t block = profile.block
    if at == profile.last:
        return 0
    load = profile.load[at] - profile.round[at]
    if block == 1:
        return load - profile.count[at] * (profile.round[at] - round)
    for residue in range(block):
        load -= profile.count[residue * profile.allocated + at] * (
            whole_blocks(residue + profile.round[at], block) - whole_blocks(residue + round, block)
        )
    return load


cdef inline int64_t profile_earliest(
    Profile* profile, int64_t now, int64_t held, int64_t remaining, int64_t capacity
) noexcept nogil:
    # The first round >= now in which a request that holds `held` tokens (s + g) and is believed to run `remaining`
    # rounds can start, if nothing leaves or enters meanwhile: U(r) + held + (r - start) + 1 <= capacity in every future
    # round r up to its last. Only rounds after `start` are tested here. Needs an expired profile and
    # held + remaining <= capacity.
    cdef int64_t start = now, at = profile.first, upto, end
    cdef int64_t slack = capacity - held - 1
    if profile.last - at <= FEW:
        end = start + remaining - 1
        profile.scanned += profile.last - at
        start = earliest_start_until(
            profile.round + at, profile.load + at, profile.last - at, slack, start, end, &upto
        )
        at += upto
        if start + remaining - 1 == end:
            if at == profile.last or remaining == 1:
                return start
            if profile_load(profile, at, end) + held + remaining <= capacity:
                return start
            start = profile.round[at] + 1 - (remaining - 1)
    while True:
        # Every round r up to `end` must satisfy U(r) + r - slack <= start, or have passed: r <= start.
        end = start + remaining - 1
        upto = profile_find_after(profile, at, end)
        if upto > at:
            profile.scanned += upto - at
            start = earliest_start(profile.round + at, profile.load + at, upto - at, slack, start)
            at = upto
            if start + remaining - 1 > end:
                continue
        # What is left is its own last round, between two points (or on one, which was tested).
        if at == profile.last or remaining == 1:
            return start
        if profile_load(profile, at, end) + held + remaining <= capacity:
            return start
        # U grows up to the next point: its last round must lie behind that.
        start = profile.round[at] + 1 - (remaining - 1)


cdef inline int64_t profile_last_over(Profile* profile, int64_t capacity) noexcept nogil:
    # The last round in which what is believed exceeds the capacity, or -1.
    cdef int64_t at = profile.last - 1
    while at >= profile.first and profile.load[at] - profile.round[at] <= capacity:
        at -= 1
    profile.scanned += profile.last - 1 - at
    return profile.round[at] if at >= profile.first else -1


cdef inline int profile_reserve(Profile* profile) noexcept nogil:
    # One more point must fit behind the last. OK or NO_MEMORY.
    cdef int64_t n = profile.last - profile.first
    cdef int64_t allocated = profile.allocated
    cdef int64_t* arrays = profile.round
    cdef int64_t* old = profile.round
    cdef int64_t k
    if profile.last < allocated:
        return OK
    if 2 * n > allocated:
        allocated *= 2
        arrays = <int64_t*>malloc((2 + profile.block) * allocated * sizeof(int64_t))
        if arrays == NULL:
            return NO_MEMORY
    for k in range(2 + profile.block):
        memmove(arrays + k * allocated, old + k * profile.allocated + profile.first, n * sizeof(int64_t))
    if arrays != old:
        free(old)
    profile.round = arrays
    profile.load = arrays + allocated
    profile.count = profile.load + allocated
    profile.allocated = allocated
    profile.first = 0
    profile.last = n
    return OK


cdef inline int profile_add(Profile* profile, int64_t offset, int64_t end) noexcept nogil:
    # A request with s - birth = offset is believed to run up to round `end`. OK or NO_MEMORY.
    cdef int64_t at, load, k
    cdef int64_t* array
    if profile_reserve(profile) == NO_MEMORY:
        return NO_MEMORY
    if profile.block == 1 and profile.last - profile.first <= FEW:
        at = profile.first + change_load_until(
            profile.load + profile.first, profile.count + profile.first, profile.round + profile.first,
            profile.last - profile.first, offset + 1, 1, end,
        )
        profile.scanned += profile.last - profile.first
        if at < profile.last and profile.round[at] == end:
            return OK
        load = profile_load(profile, at, end) + end + offset + 1 + end
        k = 1
        if at < profile.last:
            k += profile.count[at]
            memmove(profile.round + at + 1, profile.round + at, (profile.last - at) * sizeof(int64_t))
            memmove(profile.load + at + 1, profile.load + at, (profile.last - at) * sizeof(int64_t))
            memmove(profile.count + at + 1, profile.count + at, (profile.last - at) * sizeof(int64_t))
        profile.round[at] = end
        profile.load[at] = load
        profile.count[at] = k
        profile.last += 1
        return OK
    at = profile_find_after(profile, profile.first, end - 1)
    if at == profile.last or profile.round[at] != end:
        load = profile_load(profile, at, end) + end
        for k in range(2 + profile.block):
            array = profile.round + k * profile.allocated
            memmove(array + at + 1, array + at, (profile.last - at) * sizeof(int64_t))
        profile.round[at] = end
        profile.load[at] = load
        for k in range(profile.block):
            array = profile.count + k * profile.allocated
            array[at] = array[at + 1] if at < profile.last else OK
        profile.last += 1
    profile_change(profile, at + 1, offset + 1, 1)
    return OK


cdef inline void profile_remove(Profile* profile, int64_t offset, int64_t end) noexcept nogil:
    # A request leaves before the end that was believed. Its point stays: U is right there, and may be tested.
    if profile.block == 1 and profile.last - profile.first <= FEW:
        change_load_until(
            profile.load + profile.first, profile.count + profile.first, profile.round + profile.first,
            profile.last - profile.first, offset + 1, -1, end,
        )
        profile.scanned += profile.last - profile.first
        return
    profile_change(profile, profile_find_after(profile, profile.first, end), offset + 1, -1)


cdef inline void profile_change(Profile* profile, int64_t upto, int64_t offset, int64_t sign) noexcept nogil:
    # A request that occupies offset + r tokens in round r enters (sign 1) or leaves (-1) the points before `upto`.
    cdef int64_t first = profile.first, n = upto - profile.first, residue, k
    cdef int64_t* count
    profile.scanned += n
    if profile.block == 1:
        change_load(profile.load + first, profile.count + first, profile.round + first, n, offset, sign)
        return
    residue = offset % profile.block
    if residue < 0:
        residue += profile.block
    count = profile.count + residue * profile.allocated
    for k in range(first, upto):  # whole blocks
        profile.load[k] += whole_blocks(offset + profile.round[k], profile.block) * sign
        count[k] += sign

# How fast requests are admitted (model.md, section 4): `slices` and `rate_limit` spread admissions over the rounds
# since the batch was last filled from nothing. Counted per round, so that a place that nobody took is lost.

from libc.math cimport ceil, floor
from libc.stdint cimport INT64_MAX, int64_t

from llmsched._core cimport Engine, Problem
from llmsched._engine.request cimport Request


cdef inline int64_t slice_of(const Engine* engine, const Request* r) noexcept nogil:
    return min(r.bound, engine.problem.memory)


cdef inline bint other_slice(const Engine* engine, const Request* r) noexcept nogil:
    # Whether those that run keep it out until the last of them has left.
    return engine.problem.slices and slice_of(engine, r) != engine.pace.slice


cdef inline int64_t places_left(const Engine* engine, int64_t* wake) noexcept nogil:
    # How many more may start in this round. If none, `wake` is lowered to when one may again, or a round before.
    cdef const Problem* problem = engine.problem
    cdef int64_t length = engine.pace.slice, width = engine.pace.slice_width
    cdef int64_t t, admitted = 0, left = INT64_MAX, later, place, taken
    cdef double after
    if engine.running == 0:
        return <int64_t>ceil(problem.rate_limit) if problem.rate_limit > 0 else left
    t = engine.round - engine.pace.start
    later = t + 1
    if engine.pace.round == engine.round:
        admitted = engine.pace.admitted_this_round
    if problem.slices:  # the places of one length of time repeat
        taken = (t % length * width + length - 1) // length
        place = ((t % length + 1) * width + length - 1) // length
        left = place - taken - admitted
        later = max(later, t - t % length + place * length // width)
    if problem.rate_limit > 0:
        after = ceil(<double>(t + 1) * problem.rate_limit)
        left = min(left, <int64_t>(after - ceil(<double>t * problem.rate_limit)) - admitted)
        if after < 9e15 * problem.rate_limit:
            later = max(later, <int64_t>floor(after / problem.rate_limit) - 1)
    if left <= 0:
        wake[0] = min(wake[0], engine.pace.start + later)
        return 0
    return left


cdef inline void note_admission(Engine* engine, const Request* r) noexcept nogil:
    # Before the request counts as running.
    cdef int64_t length, memory = engine.problem.memory
    if engine.running == 0:
        engine.pace.start = engine.round
        length = slice_of(engine, r)
        if engine.problem.slices and length != engine.pace.slice:
            engine.pace.slice = length
            engine.pace.slice_width = staggered_width(memory, min(length, memory - length), length)
    if engine.running == 0 or engine.pace.round != engine.round:
        engine.pace.admitted_this_round = 0
    engine.pace.round = engine.round
    engine.pace.admitted_this_round += 1


cdef inline int64_t staggered_width(int64_t memory, int64_t prompt, int64_t length) noexcept nogil:
    # As in simulation/staggered.py.
    cdef int64_t low = 1, high = 2 * memory // length + 1, middle, peak
    while high - low > 1:
        middle = low + (high - low) // 2
        peak = prompt * middle + (length * middle + length + middle - greatest_divisor(length, middle)) // 2
        if peak <= memory:
            low = middle
        else:
            high = middle
    return low


cdef inline int64_t greatest_divisor(int64_t a, int64_t b) noexcept nogil:
    cdef int64_t rest
    while b > 0:
        rest = a % b
        a = b
        b = rest
    return a

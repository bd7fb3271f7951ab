# Whether a run goes on: what it cost so far, when something last changed for good, and why it cannot.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine, Problem, Work
from llmsched._engine.request cimport NONE
from llmsched._engine.status cimport Status


cdef inline int64_t steps_spent(const Engine* engine) noexcept nogil:
    # Steps so far, some 100 ns each.
    cdef const Work* work = &engine.work
    cdef int64_t scanned = engine.profile.scanned + engine.belief.scanned
    return work.rounds_stepped + work.admissions + work.feasibility_tests + (scanned >> 4) + engine.ticks


cdef inline void changed(Engine* engine) noexcept nogil:
    # Something changed for good: a completion, an arrival, the rise of a bound.
    engine.last_change = engine.round
    engine.admissions_then = engine.work.admissions


cdef inline bint stalled(const Engine* engine) noexcept nogil:
    cdef const Problem* problem = engine.problem
    cdef int64_t admissions = engine.work.admissions - engine.admissions_then
    if engine.round - engine.last_change >= problem.stall_limit:
        return True
    return problem.may_cycle and admissions >= problem.admissions_start + problem.admissions_factor * engine.unfinished


cdef inline bint note_failure(Engine* engine, int32_t index, Status why) noexcept nogil:
    # The run cannot go on, because of this request. Of several the smallest index is kept: whether that is this one.
    if engine.failed != NONE and index >= engine.failed:
        return False
    engine.failed = index
    engine.failure = why
    return True

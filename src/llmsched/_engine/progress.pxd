# Whether a run goes on: what it cost so far, and when something last changed for good.

from libc.stdint cimport int64_t

from llmsched._core cimport Engine, Problem, Work


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

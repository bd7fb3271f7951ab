"""Policies of one's own at compiled speed: functions in C that decide what the methods of a Python policy would."""

from libc.stdint cimport int32_t, int64_t

import numpy as np

from llmsched._core cimport (
    FINISHED, RUNNING, Engine, Methods, Problem, engine_advance, engine_free, engine_start,
)
from llmsched._engine.policy_formulas cimport use_methods
from llmsched._engine.request cimport NONE
from llmsched.simulation._compiled cimport fill_problem

from llmsched.policy import named
from llmsched.simulation.problem import problem_of


# Multi-level feedback: less than 64 tokens generated, less than 512, the rest; each is first come first served.

cdef int64_t level(int64_t generated) noexcept nogil:
    return (generated >= 64) + (generated >= 512)


cdef double by_level(const Engine* engine, int32_t index, int32_t p, void* context) noexcept nogil:
    return level(0 if p == NONE else engine.requests[p].kept) * 1e9 + engine.joined[index]


cdef int32_t highest_level(const Engine* engine, void* context) noexcept nogil:
    # Who leaves: of the highest level the one that began to wait last.
    cdef int32_t p = engine.oldest, worst = NONE
    cdef int64_t its_level, worst_level = -1
    cdef double joined, worst_joined = 0
    while p != NONE:
        its_level = level(engine.round - engine.requests[p].birth)
        joined = engine.joined[engine.requests[p].index]
        if its_level > worst_level or (its_level == worst_level and joined > worst_joined):
            worst, worst_level, worst_joined = p, its_level, joined
        p = engine.requests[p].newer
    return worst


# Half full: nobody starts beside others once more than half of the cache is taken.

cdef bint half_is_free(const Engine* engine, int32_t p, void* context) noexcept nogil:
    return 2 * (engine.need + engine.requests[p].prompt + engine.requests[p].kept + 1) <= engine.problem.memory


def simulate(workload, policy, int64_t memory, seed=0, **machine):
    """Completion, start and evictions of each request: `policy`, but feedback decides who starts and who leaves."""
    cdef Methods methods = Methods(admission_key=by_level, is_feasible=NULL, victim=highest_level, context=NULL)
    return run(workload, policy, memory, seed, methods, machine)


def simulate_half_full(workload, policy, int64_t memory, seed=0, **machine):
    """The same: `policy`, but nobody starts beside others once half of the cache is taken."""
    cdef Methods methods = Methods(admission_key=NULL, is_feasible=half_is_free, victim=NULL, context=NULL)
    return run(workload, policy, memory, seed, methods, machine)


cdef run(workload, policy, int64_t memory, seed, Methods methods, machine):
    cdef Problem c_problem
    cdef Engine engine
    cdef int status
    n = len(workload)
    completion, start, evictions = np.empty(n), np.empty(n), np.zeros(n, np.int64)
    problem = problem_of(workload, named(policy), memory, seed, **machine)
    fill_problem(&c_problem, problem, completion, start, evictions)
    use_methods(&c_problem, methods)
    with nogil:
        status = engine_start(&engine, &c_problem)
        while status == RUNNING:
            status = engine_advance(&engine, 1 << 40)
        engine_free(&engine)
    if status != FINISHED:
        raise RuntimeError(f"not finished: {status}")
    return completion, start, evictions

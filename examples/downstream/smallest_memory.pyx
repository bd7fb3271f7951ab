"""How small may the cache be? A bisection over M, each step a whole simulation, with no Python in the loop."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t

import numpy as np

from llmsched._core cimport (
    FINISHED, RUNNING, Engine, Problem, engine_advance, engine_free, engine_start, sum_of_differences,
)
from llmsched.simulation._compiled cimport fill_problem

from llmsched.simulation.problem import problem_of


def smallest_memory(workload, policy, double mean_latency, int64_t most, seed=0):
    """The least M (tokens, up to `most`) at which the policy's mean latency is at most `mean_latency` rounds.

    Takes mean latency to fall as M grows, which is nearly so. Returns None if even `most` is too little.
    """
    cdef Problem c_problem
    cdef int64_t low = workload.extent.request, high = most, middle, n = len(workload)
    cdef bint good
    problem = problem_of(workload, policy, most, seed)
    completion, start, evictions = np.empty(n), np.empty(n), np.zeros(n, np.int64)
    fill_problem(&c_problem, problem, completion, start, evictions)
    with nogil:
        c_problem.memory = c_problem.capacity = high
        good = mean(&c_problem) <= mean_latency
        while good and low < high:
            middle = (low + high) // 2
            c_problem.memory = c_problem.capacity = middle
            if mean(&c_problem) <= mean_latency:
                high = middle
            else:
                low = middle + 1
    return high if good else None


cdef double mean(const Problem* problem) noexcept nogil:
    # Mean latency of one simulation; infinity if it does not finish.
    cdef Engine engine
    cdef int64_t i
    cdef int status
    for i in range(problem.n):
        problem.evictions[i] = 0
    status = engine_start(&engine, problem)
    while status == RUNNING:
        status = engine_advance(&engine, 1 << 40)
    engine_free(&engine)
    if status != FINISHED:
        return INFINITY
    return sum_of_differences(problem.completion, problem.arrival, problem.n) / problem.n

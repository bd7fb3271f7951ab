"""Many simulations in one call, without the GIL: the engine driven through `_core.pxd`, as anybody's Cython code may."""

from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from llmsched._core cimport (
    NO_MEMORY, RUNNING, STOPPED, Engine, Task, engine_advance, engine_free, engine_start, fill_task, sum_of_differences,
)

cdef enum:
    STEPS_PER_LOOK = 100_000    # about 10 ms: how often a worker looks whether it shall stop
    FAILED = -2                 # the run was stopped from outside


cdef struct Totals:
    # What is left of one simulation; the same names as in `TOTALS`.
    double total_latency
    double max_latency
    double makespan
    int64_t rounds
    int64_t evictions
    int64_t evicted_requests
    int64_t wasted_tokens
    int64_t peak_memory
    int64_t unfinished
    int64_t status


#: One record per simulation: what `run_many` returns.
TOTALS = np.dtype(
    [
        ("total_latency", "f8"), ("max_latency", "f8"), ("makespan", "f8"), ("rounds", "i8"), ("evictions", "i8"),
        ("evicted_requests", "i8"), ("wasted_tokens", "i8"), ("peak_memory", "i8"), ("unfinished", "i8"),
        ("status", "i8"),
    ]
)
OUT_OF_MEMORY = NO_MEMORY


cdef class Stop:
    """A flag that tells running workers to give up."""

    cdef volatile int raised

    def set(self):
        self.raised = 1


def run_many(list problems, list seeds, Stop stop not None, list kept=None):
    """Simulate each problem with its seed, one after another.

    Returns an array of `TOTALS`, or None if `stop` was set. Into `kept`, a list, go (completion, start, evictions) of
    each; without it the arrays are shared and forgotten. Raises MemoryError if there is none for the arrays.
    """
    cdef Task task
    cdef int64_t k, jobs = len(problems), largest = max([1] + [len(problem.output) for problem in problems])
    cdef Totals[::1] totals
    cdef int status
    table = np.zeros(jobs, TOTALS)
    if jobs == 0:
        return table
    totals = table.view(TOTALS)
    last = None
    completion = start = evictions = None
    for k in range(jobs):
        problem = problems[k]
        n = len(problem.output)
        if n == 0:
            if kept is not None:
                kept.append((np.empty(0), np.empty(0), np.empty(0, np.int64)))
            continue
        if kept is not None or completion is None:
            size = largest if kept is None else n
            completion, start, evictions = np.empty(size), np.empty(size), np.zeros(size, np.int64)
            last = None
        if kept is not None:
            kept.append((completion, start, evictions))
        if problem is not last:
            fill_task(&task, problem, completion, start, evictions)
            last = problem
        task.seeded = seeds[k] is not None
        task.seed = seeds[k] or 0
        with nogil:
            memset(task.evictions, 0, task.n * sizeof(int64_t))
            status = run_one(&task, &totals[k], stop)
        if status == FAILED:
            return None
    return table


cdef int run_one(const Task* task, Totals* totals, Stop stop) noexcept nogil:
    cdef Engine engine
    cdef int status = engine_start(&engine, task)
    while status == RUNNING:
        if stop.raised:
            engine_free(&engine)
            return FAILED
        status = engine_advance(&engine, STEPS_PER_LOOK)
    totals.status = status
    totals.rounds = engine.round
    totals.unfinished = engine.left
    totals.wasted_tokens = engine.wasted_tokens
    totals.peak_memory = engine.peak_memory
    engine_free(&engine)
    if totals.unfinished == 0:
        add_up(task, totals)
    return status


cdef void add_up(const Task* task, Totals* totals) noexcept nogil:
    # The totals of a finished run, as Result computes them.
    cdef int64_t i
    cdef double latency
    totals.total_latency = sum_of_differences(task.completion, task.arrival, task.n)
    for i in range(task.n):
        latency = task.completion[i] - task.arrival[i]
        totals.max_latency = max(totals.max_latency, latency)
        totals.makespan = max(totals.makespan, task.completion[i])
        totals.evictions += task.evictions[i]
        totals.evicted_requests += task.evictions[i] > 0

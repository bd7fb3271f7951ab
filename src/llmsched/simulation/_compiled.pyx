"""The Python border of the engine: problems in, outcomes out; one run at a time, or many in one call without the GIL.

It drives the engine through `_core.pxd`, as anybody's Cython code may.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from llmsched._engine.belief cimport BELIEF_HISTORY, BELIEF_RATIO, BELIEF_TABLE
from llmsched._engine.formula cimport (
    FORMULA_CELLS, NAMES, Formula, Instruction, formula_begin, formula_tokens, formula_value,
)
from llmsched._core cimport (
    EVICT_ALL, EVICT_BOUND, EVICT_NEWEST, EVICT_PRIORITY, EVICT_PROGRESS, EVICT_RANDOM, FINISHED, NO_MEMORY,
    ORDER_ARRIVAL, ORDER_AREA, ORDER_BOUND, ORDER_KEYS, ORDER_QUEUE, ORDER_TABLE, REFINE_DOUBLE, REFINE_NONE,
    REFINE_PROGRESS, REFINE_UPPER, RESUME_RECOMPUTE, RESUME_RESTART, RESUME_SWAP, RESERVE_BELIEVED, RESERVE_BOUND,
    RESERVE_MOVING, RESERVE_NONE, RUNNING, Attempt, Chunk, Engine, Segment, Task, engine_advance, engine_free,
    engine_start, sum_of_differences,
)

from ..formula import NAMES as FORMULA_NAMES
from .outcome import Outcome
from .timeline import Piece, merged
from .token_log import Tokens

cdef enum:
    STEPS_PER_LOOK = 100_000    # about 10 ms: how often a run looks at signals, or whether it shall stop
    FAILED = -2                 # the run was stopped from outside


# A problem as the engine reads it -------------------------------------------------------------------------------------

cdef dict ORDERS = {
    "arrival": ORDER_ARRIVAL, "queue": ORDER_QUEUE, "bound": ORDER_BOUND, "area": ORDER_AREA, "table": ORDER_TABLE,
}
cdef dict RESERVES = {"none": RESERVE_NONE, "bound": RESERVE_BOUND}
cdef dict MOVING = {"conditional": BELIEF_TABLE, "ratio": BELIEF_RATIO, "history": BELIEF_HISTORY}
cdef dict EVICTS = {
    "bound": EVICT_BOUND, "progress": EVICT_PROGRESS, "newest": EVICT_NEWEST, "all": EVICT_ALL, "random": EVICT_RANDOM,
    "priority": EVICT_PRIORITY,
}
cdef dict REFINES = {
    "none": REFINE_NONE, "progress": REFINE_PROGRESS, "double": REFINE_DOUBLE, "upper": REFINE_UPPER,
}


cdef dict RESUMES = {"restart": RESUME_RESTART, "recompute": RESUME_RECOMPUTE, "swap": RESUME_SWAP}


cdef const int64_t* integers(const int64_t[::1] column) noexcept:
    return NULL if column is None or column.shape[0] == 0 else &column[0]


cdef const double* reals(const double[::1] column) noexcept:
    return NULL if column.shape[0] == 0 else &column[0]


cdef int fill_task(Task* task, problem, completion, start, evictions) except -1:
    memset(task, 0, sizeof(Task))
    fill_rules(task, problem)
    fill_requests(task, problem)
    fill_outputs(task, completion, start, evictions)
    return 0


cdef int fill_rules(Task* task, problem) except -1:
    # What many problems share: the policy and the machine.
    policy = problem.policy
    task.order = ORDER_KEYS
    if isinstance(policy.order, str):
        task.order = ORDERS.get(policy.order, ORDER_KEYS)
    task.reserve = RESERVE_MOVING if policy.reserve in MOVING else RESERVES.get(policy.reserve, RESERVE_BELIEVED)
    task.evict = EVICTS[policy.evict]
    task.refine = REFINES[policy.refine]
    task.cap = REFINE_NONE if policy.cap == "none" else REFINES[policy.cap_refine]
    task.peak = policy.hold == "peak" and policy.reserve != "none"
    task.skip = policy.fill == "skip"
    task.resume = RESUMES[policy.resume]
    task.pause = policy.pause == "overflow"
    task.longest_prompt = policy.tie == "prompt"
    task.headroom = policy.headroom
    task.beliefs.kind = MOVING.get(policy.reserve, BELIEF_TABLE)
    task.beliefs.clip = policy.clip
    task.beliefs.window = policy.window
    if problem.ratio is not None:
        task.beliefs.ratio, task.beliefs.least, task.beliefs.step = problem.ratio
    task.beta = policy.beta
    task.clocked = problem.clock is not None
    if task.clocked:
        task.clock.base = problem.clock.base
        task.clock.per_request = problem.clock.per_request
        task.clock.per_context_token = problem.clock.per_context_token
        task.clock.per_prompt_token = problem.clock.per_prompt_token
        task.clock.per_swapped_token = problem.clock.per_swapped_token
        task.clock.context_all = problem.clock.context == "all"
    return 0


cdef int fill_requests(Task* task, problem) except -1:
    # What no two problems need have in common. The arrays belong to the problem.
    task.n = len(problem.output)
    task.prompt = integers(problem.prompt)
    task.output = integers(problem.output)
    task.arrival = reals(problem.arrival)
    task.bound = integers(problem.bound)
    task.upper = integers(problem.upper)
    task.levels = integers(problem.levels)
    task.believed = NULL if task.reserve == RESERVE_MOVING else integers(problem.believed)
    task.beliefs.upper = integers(problem.believed)
    task.beliefs.row = integers(problem.classes)
    if problem.lengths is not None:
        task.beliefs.table = integers(problem.lengths.reshape(-1))
        task.beliefs.width = problem.lengths.shape[1]
    task.keys = NULL
    task.real_keys = NULL
    if task.order == ORDER_TABLE:
        task.keys = integers(problem.keys)
    if task.order == ORDER_KEYS:
        if problem.keys.dtype == np.float64:
            task.real_keys = reals(problem.keys)
        else:
            task.keys = integers(problem.keys)
    task.max_batch = problem.max_batch
    task.block = problem.block
    task.prefill_budget = problem.prefill_budget if problem.chunked else 0
    task.memory = problem.memory
    task.capacity = problem.capacity
    task.seeded = problem.seed is not None
    task.seed = problem.seed or 0
    task.max_rounds = problem.max_rounds
    task.stall_limit = problem.stall_limit
    task.may_cycle = problem.may_cycle
    return 0


cdef int fill_outputs(Task* task, double[::1] completion, double[::1] start, int64_t[::1] evictions) except -1:
    if completion.shape[0] > 0:
        task.completion = &completion[0]
        task.start = &start[0]
        task.evictions = &evictions[0]
    return 0


# One run --------------------------------------------------------------------------------------------------------------


def run(problem, record=(), progress=None):
    """Simulate `problem`; the same as `reference.run`, with `Outcome.work` counted. Raises MemoryError."""
    cdef Task task
    cdef Engine engine
    cdef int status
    n = len(problem.output)
    if n > 0x7FFFFFFF:
        raise MemoryError(f"{n} requests are more than one simulation can hold")
    completion, start, evictions = output_arrays(n)
    memset(&engine, 0, sizeof(Engine))
    fill_task(&task, problem, completion, start, evictions)
    task.record_timeline = "timeline" in record
    task.record_tokens = "tokens" in record
    try:
        with nogil:
            status = FINISHED if task.n == 0 else engine_start(&engine, &task)
            if status == RUNNING:
                status = engine_advance(&engine, STEPS_PER_LOOK)
        while status == RUNNING:
            PyErr_CheckSignals()
            if progress is not None:
                progress(n - engine.left, n)
            with nogil:
                status = engine_advance(&engine, STEPS_PER_LOOK)
        if status == NO_MEMORY:
            raise MemoryError(f"no memory to simulate {n} requests")
        return Outcome(
            completion=completion,
            start=start,
            evictions=evictions,
            rounds=engine.round,
            peak_memory=engine.peak_memory,
            wasted_tokens=engine.wasted_tokens,
            unfinished=engine.left,
            timeline=timeline(&engine, problem.clock) if task.record_timeline and engine.left == 0 else None,
            tokens=tokens(&engine) if task.record_tokens and engine.left == 0 else None,
            work=work(&engine),
        )
    finally:
        engine_free(&engine)


cdef timeline(const Engine* engine, clock):
    columns = [()] * len(Piece._fields)
    if engine.segments_size > 0:
        segments = np.asarray(<Segment[:engine.segments_size]>engine.segments)
        columns = [segments[name] for name in Piece._fields]
    return merged(columns, clock)


cdef tokens(const Engine* engine):
    ends = np.empty(0)
    columns = [np.empty(0, np.int64)] * 5
    if engine.attempts_size > 0:
        ends = np.array(<double[:engine.round]>engine.round_end)
        attempts = np.asarray(<Attempt[:engine.attempts_size]>engine.attempts)
        columns = [attempts[name].copy() for name in ("request", "first_round", "rounds", "kept", "generated")]
    if engine.chunks_size > 0:
        chunks = np.asarray(<Chunk[:engine.chunks_size]>engine.chunks)
        columns += [chunks[name].copy() for name in ("chunk_request", "chunk_round", "chunk_tokens")]
    return Tokens(ends, *columns)


cdef dict work(const Engine* engine):
    return {
        "rounds_stepped": engine.work.rounds_stepped,
        "rounds_skipped": engine.round - engine.work.rounds_stepped,
        "admissions": engine.work.admissions,
        "feasibility_tests": engine.work.feasibility_tests,
        "points_scanned": engine.profile.scanned + engine.belief.scanned,
        "heap_operations": engine.heap.operations + engine.line.operations + engine.ties.operations,
    }


# Many runs ------------------------------------------------------------------------------------------------------------


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
    cdef int64_t k, jobs = len(problems)
    cdef int status = FINISHED
    cdef Totals[::1] totals
    cdef Task* tasks
    table = np.zeros(jobs, TOTALS)
    if jobs == 0:
        return table
    totals = table.view(TOTALS)
    tasks = <Task*>calloc(jobs, sizeof(Task))
    if tasks == NULL:
        raise MemoryError(f"no memory for {jobs} simulations")
    try:
        _shared = fill_tasks(tasks, problems, seeds, kept)  # the arrays that tasks point into
        with nogil:  # once for all of them: taking the GIL back can mean to wait for whoever has it
            for k in range(jobs):
                if tasks[k].n > 0 and status != FAILED:
                    memset(tasks[k].evictions, 0, tasks[k].n * sizeof(int64_t))
                    status = run_one(&tasks[k], &totals[k], stop)
    finally:
        free(tasks)
    return None if status == FAILED else table


cdef tuple fill_tasks(Task* tasks, list problems, list seeds, list kept):
    # Returns the arrays that all write to, where what they write is not kept.
    cdef int64_t k
    cdef Task* task
    arrays = () if kept is not None else output_arrays(max([1] + [len(problem.output) for problem in problems]))
    last = None
    for k in range(len(problems)):
        problem = problems[k]
        task = &tasks[k]
        if last is not None:
            task[0] = tasks[k - 1]
        if last is None or problem.policy is not last.policy or problem.clock is not last.clock:
            fill_rules(task, problem)
        if problem is not last:
            fill_requests(task, problem)
        if kept is not None:
            arrays = output_arrays(task.n)
            kept.append(arrays)
        if kept is not None or last is None:
            fill_outputs(task, arrays[0], arrays[1], arrays[2])
        task.seeded = seeds[k] is not None
        task.seed = seeds[k] or 0
        last = problem
    return arrays


cdef tuple output_arrays(int64_t n):
    return np.empty(n), np.empty(n), np.zeros(n, np.int64)


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


# Formulas -------------------------------------------------------------------------------------------------------------


def formula_values(formula, columns, int64_t n):
    """The value of a `llmsched.formula.Formula` for each of `n` requests; NaN where it has none.

    `columns` maps each name that it reads to an array of n doubles. ValueError if one has another length.
    """
    cdef Formula program = formula_of(formula)
    cdef const double* column[<int>NAMES]
    cdef double cells[FORMULA_CELLS]
    cdef double[::1] result = np.empty(n)
    cdef const double[::1] given
    cdef int32_t read[<int>NAMES]
    cdef int64_t i, k, size = 0
    places = list(FORMULA_NAMES)
    for name in formula.reads:
        given = columns[name]
        if given.shape[0] != n:
            raise ValueError(f"{name} has {given.shape[0]} values, expected {n}")
        read[size] = places.index(name)
        column[size] = reals(given)
        size += 1
    formula_begin(&program, cells)
    with nogil:
        for i in range(n):
            for k in range(size):
                cells[read[k]] = column[k][i]
            result[i] = formula_value(&program, cells)
    return result.base


def whole_tokens(const double[::1] values):
    """`formula.whole_tokens` of each of the values of a reserve."""
    cdef int64_t[::1] result = np.empty(values.shape[0], np.int64)
    cdef int64_t i
    for i in range(values.shape[0]):
        result[i] = formula_tokens(values[i])
    return result.base


cdef Formula formula_of(formula) except *:
    # What the engine reads of a formula, which must outlive it.
    cdef Formula program
    cdef const int[::1] code = formula.code
    cdef const double[::1] constants = formula.constants
    program.code = <const Instruction*>&code[0] if code.shape[0] > 0 else NULL
    program.size = code.shape[0] // 4
    program.constants = reals(constants)
    program.constants_size = constants.shape[0]
    program.result = formula.result
    return program

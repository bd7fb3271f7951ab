"""The Python border of the engine: problems in, outcomes out; one run at a time, or many in one call without the GIL.

It drives the engine through `_core.pxd`, as anybody's Cython code may.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

import numpy as np

from llmsched._engine.belief cimport BELIEF_TABLE, belief_kind
from llmsched._engine.eviction_rules cimport EVICT_FORMULA, eviction_rule, is_ranked
from llmsched._engine.formula cimport (
    FOR_EVICT, FOR_ORDER, FOR_RESERVE, FORMULA_CELLS, NAMES, PLACES, Formula, Instruction, formula_begin,
    formula_tokens, formula_value,
)
from llmsched._engine.status cimport BOUND_PASSED, FORMULA_FAILED, NOBODY_DRAWN
from llmsched._core cimport (
    FINISHED, NO_MEMORY, ORDER_ARRIVAL, ORDER_AREA, ORDER_BOUND, ORDER_FORMULA, ORDER_KEYS, ORDER_OVER_TIME,
    ORDER_QUEUE, ORDER_TABLE, REFINE_DOUBLE, REFINE_NONE, REFINE_PROGRESS, REFINE_UPPER, RESUME_RECOMPUTE,
    RESUME_RESTART, RESUME_SWAP, RESERVE_BOUND, RESERVE_COLUMN, RESERVE_MOVING, RESERVE_NONE, RUNNING, Attempt, Chunk,
    Engine, Problem, Segment, engine_advance, engine_free, engine_start, sum_of_differences,
)

from ..formula_names import NAMES as FORMULA_NAMES
from ..policy import CHOICES, EVICTION_RULES, RESERVES, check_words
from .endless import bound_passed, nobody_drawn
from .limits import LARGEST_BOUND, MOST_VAIN_DRAWS, STALL_FACTOR, STALL_START
from .outcome import Outcome
from .timeline import Piece, merged
from .token_log import Tokens

cdef enum:
    STEPS_PER_LOOK = 100_000    # about 10 ms: how often a run looks at signals, or whether it shall stop
    FAILED = -2                 # the run was stopped from outside


# A problem as the engine reads it -------------------------------------------------------------------------------------

# Word of a policy field -> what the core calls it. Where the keys of an order never change, they are all that it reads,
# but for arrivals, which it has anyway.
cdef dict CORE_ORDERS = {
    "arrival": ORDER_ARRIVAL, "queue": ORDER_QUEUE, "bound": ORDER_BOUND, "area": ORDER_AREA, "table": ORDER_TABLE,
    **{word: ORDER_KEYS for word in ("upper", "point", "output", "volume", "priority")},
}
cdef dict CORE_RESERVES = {
    "none": RESERVE_NONE, "bound": RESERVE_BOUND, "column": RESERVE_COLUMN, "moving": RESERVE_MOVING,
}
cdef dict CORE_RULES = {word: eviction_rule(word) for word in EVICTION_RULES}
cdef dict CORE_BELIEFS = {word: belief_kind(word) for word, rule in RESERVES.items() if rule.kind == "moving"}
cdef dict CORE_REFINES = {
    "none": REFINE_NONE, "progress": REFINE_PROGRESS, "double": REFINE_DOUBLE, "upper": REFINE_UPPER,
}
cdef dict CORE_RESUMES = {"restart": RESUME_RESTART, "recompute": RESUME_RECOMPUTE, "swap": RESUME_SWAP}
cdef dict CORE_HOLDS = {"growth": (False, False), "peak": (True, False), "rising": (True, True)}  # peak, rising
cdef dict FLAGS = {  # field -> which of its words sets the flag of that name, see fill_rules()
    "cap": {"none": False, "bound": True, "advised": True},
    "fill": {"break": False, "skip": True},
    "pause": {"none": False, "overflow": True},
    "shed": {"none": False, "lottery": True},
    "slices": {"none": False, "staggered": True},
    "slots": {"ahead": False, "processed": True},
    "prefixes": {"none": False, "cached": True},
    "prompts": {"processed": False, "moved": True},
}

cdef dict CORE_TIES = {"drawn": (False, False), "prompt": (True, False), "last": (False, True)}  # longest_prompt, last
cdef dict NAME_NUMBERS = {name: k for k, name in enumerate(FORMULA_NAMES)}

check_words("_compiled.CORE_TIES", CORE_TIES, CHOICES["tie"])
check_words("_compiled.CORE_ORDERS", CORE_ORDERS, CHOICES["order"])
check_words("_compiled.CORE_REFINES", CORE_REFINES, CHOICES["refine"] + CHOICES["cap_refine"])
check_words("_compiled.CORE_HOLDS", CORE_HOLDS, CHOICES["hold"])
check_words("_compiled.CORE_RESUMES", CORE_RESUMES, CHOICES["resume"])
for field, words in FLAGS.items():
    check_words(f"_compiled.FLAGS, {field}", words, CHOICES[field])
check_words(
    "_engine/eviction_rules.pxd, is_ranked",
    [word for word, rule in CORE_RULES.items() if is_ranked(rule)],
    [word for word, rule in EVICTION_RULES.items() if rule.ranks],
)


cdef const int64_t* integers(const int64_t[::1] column) noexcept:
    if column is None or column.shape[0] == 0:
        return NULL
    return &column[0]


cdef const uint8_t* flags(const uint8_t[::1] column) noexcept:
    if column is None or column.shape[0] == 0:
        return NULL
    return &column[0]


cdef const double* reals(const double[::1] column) noexcept:
    if column.shape[0] == 0:
        return NULL
    return &column[0]


cdef int fill_problem(Problem* c_problem, problem, completion, start, evictions) except -1:
    memset(c_problem, 0, sizeof(Problem))
    fill_rules(c_problem, problem)
    fill_requests(c_problem, problem)
    fill_outputs(c_problem, completion, start, evictions)
    return 0


cdef int fill_rules(Problem* c_problem, problem) except -1:
    # What many problems share: the policy and the machine.
    policy = problem.policy
    formulas = policy.formulas
    c_problem.order = CORE_ORDERS.get(policy.order, ORDER_KEYS) if isinstance(policy.order, str) else ORDER_KEYS
    c_problem.reserve = RESERVE_COLUMN if "reserve" in formulas else CORE_RESERVES[RESERVES[policy.reserve].kind]
    c_problem.evict = EVICT_FORMULA if "evict" in formulas else CORE_RULES[policy.evict]
    fill_formulas(c_problem, formulas)
    c_problem.refine = CORE_REFINES[policy.refine]
    c_problem.cap = CORE_REFINES[policy.cap_refine] if FLAGS["cap"][policy.cap] else REFINE_NONE
    c_problem.shed = FLAGS["shed"][policy.shed] and c_problem.cap == REFINE_NONE
    if c_problem.shed:
        c_problem.cap = REFINE_PROGRESS
    c_problem.peak, c_problem.rising = CORE_HOLDS[policy.hold] if c_problem.reserve != RESERVE_NONE else (False, False)
    c_problem.skip = FLAGS["fill"][policy.fill]
    c_problem.resume = CORE_RESUMES[policy.resume]
    c_problem.pause = FLAGS["pause"][policy.pause]
    c_problem.longest_prompt, c_problem.last_of_equals = CORE_TIES[policy.tie]
    c_problem.as_processed = FLAGS["slots"][policy.slots]
    c_problem.whole_prompt = policy.reserve == "prompt"
    c_problem.chunk = policy.chunk
    c_problem.cached_prefixes = c_problem.as_processed and FLAGS["prefixes"][policy.prefixes]
    c_problem.prompts_moved = FLAGS["prompts"][policy.prompts]
    c_problem.headroom = policy.headroom
    c_problem.rate_limit = policy.rate_limit
    c_problem.slices = FLAGS["slices"][policy.slices]
    c_problem.one_by_one = c_problem.slices or c_problem.cached_prefixes
    c_problem.one_by_one = c_problem.one_by_one or (c_problem.as_processed and c_problem.prompts_moved)
    c_problem.paced = c_problem.slices or policy.rate_limit > 0
    c_problem.beliefs.kind = CORE_BELIEFS.get(policy.reserve, BELIEF_TABLE)  # the table for an order, if for anything
    c_problem.beliefs.clip = policy.clip
    c_problem.beliefs.window = policy.window
    if problem.ratio is not None:
        c_problem.beliefs.ratio, c_problem.beliefs.least, c_problem.beliefs.step = problem.ratio
    c_problem.beta = policy.beta
    c_problem.clocked = problem.clock is not None
    if c_problem.clocked:
        c_problem.clock.base = problem.clock.base
        c_problem.clock.per_request = problem.clock.per_request
        c_problem.clock.per_context_token = problem.clock.per_context_token
        c_problem.clock.per_prompt_token = problem.clock.per_prompt_token
        c_problem.clock.per_swapped_token = problem.clock.per_swapped_token
        c_problem.clock.context_all = problem.clock.context == "all"
    return 0


cdef int fill_formulas(Problem* c_problem, formulas) except -1:
    # Those that are computed in the run. The others are values of the problem.
    c_problem.computes_formulas = c_problem.belief_changes = c_problem.reads_joined = False
    computed = {}
    if "order" in formulas:
        if formulas["order"].changes_over_time:
            c_problem.order = ORDER_OVER_TIME
            computed[<int>FOR_ORDER] = formulas["order"]
        elif formulas["order"].changes_by_leaving:
            c_problem.order = ORDER_FORMULA
            computed[<int>FOR_ORDER] = formulas["order"]
    if "evict" in formulas:
        computed[<int>FOR_EVICT] = formulas["evict"]
    if "reserve" in formulas and formulas["reserve"].changes_by_leaving:
        c_problem.belief_changes = True
        computed[<int>FOR_RESERVE] = formulas["reserve"]
    memset(c_problem.formulas, 0, <int>PLACES * sizeof(Formula))
    for place, formula in computed.items():
        c_problem.formulas[<int>place] = formula_of(formula)
        c_problem.computes_formulas = True
        if "joined" in formula.reads:
            c_problem.reads_joined = True
    return 0


cdef int fill_requests(Problem* c_problem, problem) except -1:
    # What no two problems need have in common. The arrays belong to the Python object.
    c_problem.n = len(problem.output)
    c_problem.prompt = integers(problem.prompt)
    c_problem.output = integers(problem.output)
    c_problem.arrival = reals(problem.arrival)
    c_problem.turn_before = c_problem.next_turn = NULL
    c_problem.think = NULL
    if c_problem.cached_prefixes:
        c_problem.name_ids = integers(problem.names.ids)
        c_problem.name_first = integers(problem.names.first)
        c_problem.name_size = integers(problem.names.size)
        c_problem.name_stride = problem.names.stride
        c_problem.hashed = problem.names.hashed
    c_problem.bound = integers(problem.bound)
    c_problem.upper = integers(problem.upper)
    c_problem.capped = flags(None if problem.capped is None else problem.capped.view(np.uint8))
    c_problem.levels = integers(problem.levels)
    if c_problem.reserve != RESERVE_MOVING:
        c_problem.believed = integers(problem.believed)
    c_problem.beliefs.upper = integers(problem.believed)
    c_problem.beliefs.row = integers(problem.classes)
    if problem.lengths is not None:
        c_problem.beliefs.table = integers(problem.lengths.reshape(-1))
        c_problem.beliefs.width = problem.lengths.shape[1]
    c_problem.keys = NULL
    c_problem.real_keys = NULL
    if c_problem.order == ORDER_TABLE:
        c_problem.keys = integers(problem.keys)
    memset(c_problem.columns, 0, sizeof(c_problem.columns))
    for name, column in problem.columns.items():
        c_problem.columns[<int>NAME_NUMBERS[name]] = reals(column)
    if c_problem.order == ORDER_KEYS or c_problem.order == ORDER_FORMULA:
        if problem.keys.dtype == np.float64:
            c_problem.real_keys = reals(problem.keys)
        else:
            c_problem.keys = integers(problem.keys)
    c_problem.max_batch = problem.max_batch
    c_problem.block = problem.block
    c_problem.prefill_budget = problem.prefill_budget if problem.prefill_budget < LARGEST_BOUND else 0
    c_problem.memory = problem.memory
    c_problem.capacity = problem.capacity
    c_problem.seeded = problem.seed is not None
    c_problem.seed = problem.seed or 0
    c_problem.max_rounds = problem.max_rounds
    c_problem.stall_limit = problem.stall_limit
    c_problem.may_cycle = problem.may_cycle
    c_problem.admissions_start, c_problem.admissions_factor = STALL_START, STALL_FACTOR
    c_problem.largest_bound, c_problem.most_vain_draws = LARGEST_BOUND, MOST_VAIN_DRAWS
    return 0


cdef close_loop(Problem* c_problem, problem, arrival):
    # Turns arrive when those before them are done, which `arrival` will say. Returns what has to outlive the run.
    cdef int64_t i, before
    cdef int64_t[::1] after = np.full(len(arrival), -1, np.int64)
    cdef const int64_t[::1] turn_before = problem.turn_before
    for i in range(after.shape[0]):
        before = turn_before[i]
        if before >= 0:
            after[before] = i
    c_problem.turn_before = integers(turn_before)
    c_problem.next_turn = integers(after)
    c_problem.think = reals(problem.think)
    c_problem.arrival = c_problem.arrives = changing_reals(arrival)
    return after.base


cdef int64_t* changing(int64_t[::1] column) noexcept:
    if column is None or column.shape[0] == 0:
        return NULL
    return &column[0]


cdef double* changing_reals(double[::1] column) noexcept:
    if column.shape[0] == 0:
        return NULL
    return &column[0]


cdef int fill_outputs(Problem* c_problem, double[::1] completion, double[::1] start, int64_t[::1] evictions) except -1:
    if completion.shape[0] > 0:
        c_problem.completion = &completion[0]
        c_problem.start = &start[0]
        c_problem.evictions = &evictions[0]
    return 0


cdef void fill_with(double* values, double value, int64_t n) noexcept:
    cdef int64_t i
    for i in range(n):
        values[i] = value


# One run --------------------------------------------------------------------------------------------------------------


def run(problem, record=(), progress=None):
    """Simulate `problem`; the same as `reference.run`, with `Outcome.work` counted. Raises MemoryError."""
    cdef Problem c_problem
    cdef Engine engine
    cdef int status
    n = len(problem.output)
    if n > 0x7FFFFFFF:
        raise MemoryError(f"{n} requests are more than one simulation can hold")
    completion, start, evictions = output_arrays(n)
    arrival = problem.arrival.copy() if problem.think is not None else None
    cached = np.zeros(n, np.int64) if problem.names is not None else None
    memset(&engine, 0, sizeof(Engine))
    fill_problem(&c_problem, problem, completion, start, evictions)
    # As they stay of those that do not complete, or start, before a run is stopped.
    fill_with(c_problem.completion, NAN, c_problem.n)
    fill_with(c_problem.start, NAN, c_problem.n)
    c_problem.cached = changing(cached)
    if arrival is not None:
        _next_turn = close_loop(&c_problem, problem, arrival)
    c_problem.record_timeline = "timeline" in record
    c_problem.record_tokens = "tokens" in record
    try:
        with nogil:
            status = FINISHED if c_problem.n == 0 else engine_start(&engine, &c_problem)
            if status == RUNNING:
                status = engine_advance(&engine, STEPS_PER_LOOK)
        while status == RUNNING:
            PyErr_CheckSignals()
            if progress is not None:
                progress(n - engine.unfinished, n)
            with nogil:
                status = engine_advance(&engine, STEPS_PER_LOOK)
        if status == NO_MEMORY:
            raise MemoryError(f"no memory to simulate {n} requests")
        if status in FAILURES:
            raise_failure(&engine, problem.policy, engine.failed)
        return Outcome(
            completion=completion,
            start=start,
            evictions=evictions,
            rounds=engine.round,
            peak_memory=engine.peak_memory,
            wasted_tokens=engine.wasted_tokens,
            unfinished=engine.unfinished,
            timeline=timeline(&engine, problem.clock) if c_problem.record_timeline else None,
            tokens=tokens(&engine) if c_problem.record_tokens and engine.unfinished == 0 else None,
            work=work(&engine),
            idle=engine.idle,
            arrival=arrival,
            cached=cached,
        )
    finally:
        engine_free(&engine)


cdef raise_failure(const Engine* engine, policy, request):
    # Why an engine cannot go on, because of the `request`, as it is called. Raises FormulaValueError or
    # NotFinishedError.
    if engine.failure == BOUND_PASSED:
        raise bound_passed(policy, request, engine.round, engine.unfinished)
    if engine.failure == NOBODY_DRAWN:
        raise nobody_drawn(policy, engine.round, engine.unfinished)
    raise_formula_error(engine, policy.formulas, request)


cdef raise_formula_error(const Engine* engine, formulas, request):
    # Computes the value that there is none of once more, by the evaluator that says why. Raises FormulaValueError, of
    # the `request`, as it is called.
    places = {<int>FOR_ORDER: "order", <int>FOR_RESERVE: "reserve", <int>FOR_EVICT: "evict"}
    formula = formulas[places[<int>engine.failed_place]]
    values = {name: engine.failed_values[<int>k] for k, name in enumerate(FORMULA_NAMES)}
    formula.value(values, request)
    raise AssertionError(f"the engines do not agree on {formula!r} for {values}")


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
        "points_scanned": engine.profile.scanned + engine.belief.scanned + (
            engine.pool.looked_up if engine.pool != NULL else 0
        ),
        "heap_operations": engine.heap.operations + engine.tree.operations + engine.ties.operations,
    }


# Many runs ------------------------------------------------------------------------------------------------------------


cdef struct Totals:
    # What is left of one simulation; the same names as in `TOTALS`.
    double total_latency
    double max_latency
    double makespan
    double idle
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
        ("total_latency", "f8"), ("max_latency", "f8"), ("makespan", "f8"), ("idle", "f8"), ("rounds", "i8"),
        ("evictions", "i8"), ("evicted_requests", "i8"), ("wasted_tokens", "i8"), ("peak_memory", "i8"),
        ("unfinished", "i8"), ("status", "i8"),
    ]
)
OUT_OF_MEMORY = NO_MEMORY
FAILURES = (FORMULA_FAILED, BOUND_PASSED, NOBODY_DRAWN)  # within a round: `run` says more


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
    cdef Problem* c_problems
    table = np.zeros(jobs, TOTALS)
    if jobs == 0:
        return table
    totals = table.view(TOTALS)
    c_problems = <Problem*>calloc(jobs, sizeof(Problem))
    if c_problems == NULL:
        raise MemoryError(f"no memory for {jobs} simulations")
    try:
        _shared = fill_problems(c_problems, problems, seeds, kept)  # the arrays that c_problems point into
        with nogil:  # once for all of them: taking the GIL back can mean to wait for whoever has it
            for k in range(jobs):
                if c_problems[k].n > 0 and status != FAILED:
                    memset(c_problems[k].evictions, 0, c_problems[k].n * sizeof(int64_t))
                    status = run_one(&c_problems[k], &totals[k], stop)
    finally:
        free(c_problems)
    return None if status == FAILED else table


cdef tuple fill_problems(Problem* c_problems, list problems, list seeds, list kept):
    # Returns the arrays that all write to, where what they write is not kept.
    cdef int64_t k
    cdef Problem* c_problem
    arrays = () if kept is not None else output_arrays(max([1] + [len(problem.output) for problem in problems]))
    last = None
    for k in range(len(problems)):
        problem = problems[k]
        c_problem = &c_problems[k]
        if last is not None:
            c_problem[0] = c_problems[k - 1]
        if last is None or problem.policy is not last.policy or problem.clock is not last.clock:
            fill_rules(c_problem, problem)
        if problem is not last:
            fill_requests(c_problem, problem)
        if kept is not None:
            arrays = output_arrays(c_problem.n)
            kept.append(arrays)
        if kept is not None or last is None:
            fill_outputs(c_problem, arrays[0], arrays[1], arrays[2])
        c_problem.seeded = seeds[k] is not None
        c_problem.seed = seeds[k] or 0
        last = problem
    return arrays


cdef tuple output_arrays(int64_t n):
    return np.empty(n), np.empty(n), np.zeros(n, np.int64)


cdef int run_one(const Problem* c_problem, Totals* totals, Stop stop) noexcept nogil:
    cdef Engine engine
    cdef int status = engine_start(&engine, c_problem)
    while status == RUNNING:
        if stop.raised:
            engine_free(&engine)
            return FAILED
        status = engine_advance(&engine, STEPS_PER_LOOK)
    totals.status = status
    totals.rounds = engine.round
    totals.idle = engine.idle
    totals.unfinished = engine.unfinished
    totals.wasted_tokens = engine.wasted_tokens
    totals.peak_memory = engine.peak_memory
    engine_free(&engine)
    if totals.unfinished == 0:
        add_up(c_problem, totals)
    return status


cdef void add_up(const Problem* c_problem, Totals* totals) noexcept nogil:
    # The totals of a finished run, as Result computes them.
    cdef int64_t i
    cdef double latency
    totals.total_latency = sum_of_differences(c_problem.completion, c_problem.arrival, c_problem.n)
    for i in range(c_problem.n):
        latency = c_problem.completion[i] - c_problem.arrival[i]
        totals.max_latency = max(totals.max_latency, latency)
        totals.makespan = max(totals.makespan, c_problem.completion[i])
        totals.evictions += c_problem.evictions[i]
        totals.evicted_requests += c_problem.evictions[i] > 0


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
    cdef int64_t i, k, size = 0
    for name in formula.reads:
        given = columns[name]
        if given.shape[0] != n:
            raise ValueError(f"{name} has {given.shape[0]} values, expected {n}")
        column[size] = reals(given)
        size += 1
    formula_begin(&program, cells)
    with nogil:
        for i in range(n):
            for k in range(size):
                cells[program.reads[k]] = column[k][i]
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
    names = list(FORMULA_NAMES)
    program.reads_size = len(formula.reads)
    for k, name in enumerate(formula.reads):
        program.reads[<int>k] = names.index(name)
    return program

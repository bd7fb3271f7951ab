# The formulas of a policy, for the requests of a run: what they read of a request as it stands, and what becomes of
# those that wait. Where one has no value the run ends, with the request of the smallest index that has none in that
# round.

from libc.stdint cimport INT64_MIN, int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from llmsched._core cimport ORDER_FORMULA, ORDER_OVER_TIME, Engine, Methods, Problem
from llmsched._engine.check cimport check
from llmsched._engine.eviction_order cimport rank_of
from llmsched._engine.eviction_rules cimport EVICT_FORMULA
from llmsched._engine.formula cimport (
    FOR_EVICT, FOR_ORDER, FOR_RESERVE, FORMULA_CELLS, NAME_BOUND, NAME_EVICTIONS, NAME_GENERATED, NAME_JOINED, NAMES,
    PLACES, Formula, FormulaPlace, formula_begin, formula_tokens, formula_value,
)
from llmsched._engine.progress cimport note_failure
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.request cimport NONE, Request
from llmsched._engine.rounds cimport now
from llmsched._engine.splitmix64 cimport splitmix64_below
from llmsched._engine.status cimport FORMULA_FAILED, NO_MEMORY, OK
from llmsched._engine.waiting_heap cimport Entry, heap_order


cdef inline void use_methods(Problem* problem, Methods methods) noexcept nogil:
    # Let these decide, of a problem that is filled already. With fill="skip" `is_feasible` needs an `admission_key`.
    problem.methods = methods
    problem.computes_formulas = problem.reads_joined = True
    if methods.admission_key != NULL:
        problem.order = ORDER_OVER_TIME
    if methods.is_feasible != NULL:
        problem.capacity = problem.memory
        check(not problem.skip or problem.order == ORDER_OVER_TIME)
    if methods.victim != NULL:
        problem.evict = EVICT_FORMULA


cdef inline int formulas_init(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY. Nothing is kept where no formula is computed in the run.
    cdef const Problem* problem = engine.problem
    cdef int64_t n = problem.n, k
    if not problem.computes_formulas:
        return OK
    engine.cells = <double*>malloc(<int>PLACES * FORMULA_CELLS * sizeof(double))
    if engine.cells == NULL:
        return NO_MEMORY
    for k in range(<int>PLACES):
        formula_begin(&problem.formulas[k], engine.cells + k * FORMULA_CELLS)
    if problem.reads_joined:
        engine.joined = <double*>malloc(n * sizeof(double))
        if engine.joined == NULL:
            return NO_MEMORY
        for k in range(n):
            engine.joined[k] = 0.0 if problem.arrival == NULL else problem.arrival[k]
    if problem.belief_changes:
        engine.believed = <int64_t*>malloc(n * sizeof(int64_t))
        if engine.believed == NULL:
            return NO_MEMORY
        if n > 0:
            memcpy(engine.believed, problem.believed, n * sizeof(int64_t))
    return OK


cdef inline void formulas_free(Engine* engine) noexcept nogil:
    free(engine.cells)
    free(engine.joined)
    free(engine.believed)


cdef inline double value_for(
    Engine* engine, FormulaPlace place, int32_t p, int32_t index, int64_t generated
) noexcept nogil:
    # The formula's value for the request with this index, whose number is p, or NONE where it never ran. 0, and
    # engine.failed, where it has none.
    cdef const Problem* problem = engine.problem
    cdef const Formula* formula = &problem.formulas[<int>place]
    cdef double* cells = engine.cells + <int>place * FORMULA_CELLS
    cdef int32_t name
    cdef int64_t k
    cdef double value
    if place == FOR_ORDER and problem.methods.admission_key != NULL:
        value = problem.methods.admission_key(engine, index, p, problem.methods.context)
        if value != value and note_failure(engine, index, FORMULA_FAILED):
            engine.failed_place = place
        return value if value == value else 0.0
    for k in range(formula.reads_size):
        name = formula.reads[k]
        if problem.columns[name] != NULL:
            cells[name] = problem.columns[name][index]
        elif name == NAME_BOUND:
            cells[name] = <double>(problem.bound[index] if p == NONE else engine.requests[p].bound)
        elif name == NAME_GENERATED:
            cells[name] = <double>generated
        elif name == NAME_JOINED:
            cells[name] = engine.joined[index]
        elif name == NAME_EVICTIONS:
            cells[name] = <double>problem.evictions[index]
        else:
            cells[name] = now(engine)
    value = formula_value(formula, cells)
    if value == value:
        return value
    if note_failure(engine, index, FORMULA_FAILED):
        engine.failed_place = place
        memcpy(engine.failed_values, cells, <int>NAMES * sizeof(double))
    return 0.0


cdef inline void begin_to_wait(Engine* engine, int32_t p) noexcept nogil:
    # It just left the batch: what formulas say of it as long as it waits.
    cdef const Problem* problem = engine.problem
    cdef const Request* r = &engine.requests[p]
    if problem.reads_joined:
        engine.joined[r.index] = now(engine)
    if problem.order == ORDER_FORMULA:  # join() computes the key; here it is seen that there is one
        value_for(engine, FOR_ORDER, p, r.index, r.kept)
    if problem.belief_changes:
        engine.believed[r.index] = formula_tokens(value_for(engine, FOR_RESERVE, p, r.index, r.kept))


cdef inline void order_anew(Engine* engine) noexcept nogil:
    # With an order that changes over time: all who wait, by their values in this round.
    cdef Entry* entry
    cdef int64_t k
    cdef int32_t index
    for k in range(engine.heap.size):
        entry = &engine.heap.entries[k]
        if entry.who < 0:
            index = engine.order[~entry.who]
            entry.key = double_key(value_for(engine, FOR_ORDER, NONE, index, 0))
        else:
            index = engine.requests[entry.who].index
            entry.key = double_key(value_for(engine, FOR_ORDER, entry.who, index, engine.requests[entry.who].kept))
        if engine.problem.urgent != NULL and engine.problem.urgent[index]:
            entry.key = INT64_MIN
    engine.ticks += engine.heap.size >> 1
    heap_order(&engine.heap)


cdef inline int32_t first_by_formula(Engine* engine) noexcept nogil:
    # Who leaves next by a formula: one of those for whom it is smallest. Needs a running request. NONE: engine.failed.
    cdef int32_t p = engine.oldest, last = NONE
    cdef int64_t longest = 0, equals = 0, drawn = 0
    cdef double least = 0, value
    cdef const Request* r
    if engine.problem.methods.victim != NULL:
        return engine.problem.methods.victim(engine, engine.problem.methods.context)
    while p != NONE:
        r = &engine.requests[p]
        value = value_for(engine, FOR_EVICT, p, r.index, engine.round - r.birth)
        if equals == 0 or value < least or (value == least and engine.problem.longest_prompt and r.prompt > longest):
            least = value
            longest = r.prompt
            equals = 0
            last = p
        if value == least and (r.prompt == longest or not engine.problem.longest_prompt):
            equals += 1
            if rank_of(engine, p) > rank_of(engine, last):
                last = p
        p = r.newer
    engine.ticks += engine.running >> 1
    if engine.failed != NONE:
        return NONE
    if engine.problem.last_of_equals:
        return last
    if engine.problem.seeded and equals > 1:
        drawn = splitmix64_below(&engine.stream, equals)
    p = engine.oldest
    while True:
        r = &engine.requests[p]
        if (r.prompt == longest or not engine.problem.longest_prompt) and \
                value_for(engine, FOR_EVICT, p, r.index, engine.round - r.birth) == least:
            if drawn == 0:
                return p
            drawn -= 1
        p = r.newer

# Who leaves when the coming round does not fit (model.md, section 5).

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine, Problem
from llmsched._engine.batch cimport leave
from llmsched._engine.belief cimport ratio_learn
from llmsched._engine.check cimport check
from llmsched._engine.eviction_order cimport first_in_rank
from llmsched._engine.eviction_rules cimport EVICT_ALL, EVICT_FORMULA, EVICT_NEWEST, EVICT_RANDOM, is_ranked
from llmsched._engine.policy_formulas cimport first_by_formula
from llmsched._engine.progress cimport note_failure
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport due, too_full
from llmsched._engine.splitmix64 cimport splitmix64_unit
from llmsched._engine.status cimport NO_MEMORY, NOBODY_DRAWN, OK
from llmsched._engine.timing_wheel cimport wheel_remove
from llmsched._engine.waiting cimport join


cdef inline int overflow(Engine* engine) noexcept nogil:
    # Evicts until the coming round fits. OK or NO_MEMORY.
    while too_full(engine):
        if evict_next(engine) == NO_MEMORY:
            return NO_MEMORY
        if engine.failed != NONE:
            return OK
    ratio_learn(&engine.belief, engine.round, engine.problem.headroom)
    return OK


cdef inline int evict_next(Engine* engine) noexcept nogil:
    # Whoever the rule names next; perhaps nobody, and engine.failed. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int32_t p
    if is_ranked(problem.evict):
        return evict(engine, first_in_rank(engine))
    if problem.evict == EVICT_FORMULA:
        p = first_by_formula(engine)
        return OK if p == NONE else evict(engine, p)
    if problem.evict == EVICT_NEWEST:
        return evict(engine, engine.newest)
    if problem.evict == EVICT_ALL:
        while engine.oldest != NONE:
            if evict(engine, engine.oldest) == NO_MEMORY:
                return NO_MEMORY
        return OK
    check(problem.evict == EVICT_RANDOM)
    return evict_drawn(engine)


cdef inline int evict_drawn(Engine* engine) noexcept nogil:
    # One pass: each of those that run with chance beta. After too many draws that name nobody, in passes one after the
    # other in which nobody left, engine.failed. OK or NO_MEMORY.
    cdef int32_t newer, p = engine.oldest
    cdef int64_t running = engine.running
    while p != NONE:
        newer = engine.requests[p].newer
        if splitmix64_unit(&engine.stream) < engine.problem.beta and evict(engine, p) == NO_MEMORY:
            return NO_MEMORY
        p = newer
    engine.ticks += 1 + (running >> 4)
    engine.vain_draws = engine.vain_draws + running if engine.running == running else 0
    if engine.vain_draws >= engine.problem.most_vain_draws:
        note_failure(engine, engine.requests[engine.oldest].index, NOBODY_DRAWN)
    return OK


cdef inline int evict(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    if p == engine.prefilling:
        engine.prefilling = NONE
    elif not engine.problem.as_processed:
        wheel_remove(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))
    if leave(engine, p, engine.problem.refine) == NO_MEMORY:
        return NO_MEMORY
    engine.requests[p].next = engine.evicted
    engine.evicted = p
    return OK


cdef inline int rejoin(Engine* engine) noexcept nogil:
    # Those evicted for overflow in this round wait again.
    cdef int32_t p = engine.evicted
    while p != NONE:
        if join(engine, engine.requests[p].place, p) == NO_MEMORY:
            return NO_MEMORY
        engine.waiting += 1
        p = engine.requests[p].next
    engine.evicted = NONE
    return OK

# The place of a running request in the eviction order (model.md, section 5): in a list of equals, or by admission.

from libc.stdint cimport int32_t, int64_t, uint64_t

from llmsched._core cimport Engine
from llmsched._engine.eviction_rules cimport eviction_key, is_ranked
from llmsched._engine.eviction_ties cimport (
    Equals, ties_add, ties_count_longest, ties_find_longest, ties_first, ties_remove,
)
from llmsched._engine.request cimport NONE, Request
from llmsched._engine.splitmix64 cimport splitmix64_below
from llmsched._engine.status cimport OK


cdef inline int64_t eviction_key_of(const Engine* engine, int32_t p) noexcept nogil:
    return eviction_key(engine.problem.evict, &engine.requests[p], engine.problem.levels)


cdef inline int enter_eviction_order(Engine* engine, int32_t p) noexcept nogil:
    # For a request that starts to run. OK or NO_MEMORY.
    cdef Request* r = &engine.requests[p]
    if is_ranked(engine.problem.evict):
        return ties_add(&engine.ties, engine.requests, p, eviction_key_of(engine, p))
    r.newer = NONE
    r.older = engine.newest
    if engine.newest == NONE:
        engine.oldest = p
    else:
        engine.requests[engine.newest].newer = p
    engine.newest = p
    return OK


cdef inline void leave_eviction_order(Engine* engine, int32_t p) noexcept nogil:
    cdef int32_t older, newer
    if is_ranked(engine.problem.evict):
        ties_remove(&engine.ties, engine.requests, p)
        return
    newer = engine.requests[p].newer
    older = engine.requests[p].older
    if older == NONE:
        engine.oldest = newer
    else:
        engine.requests[older].newer = newer
    if newer == NONE:
        engine.newest = older
    else:
        engine.requests[newer].older = older


cdef inline int32_t first_in_rank(Engine* engine) noexcept nogil:
    # Who leaves next by a rule that ranks: one of the equals with the smallest key. Needs a running request.
    cdef const Equals* equals = ties_first(&engine.ties)
    cdef uint64_t drawn = 0, size = equals.size
    if engine.problem.longest_prompt:
        size = ties_count_longest(equals, engine.requests)
    if engine.problem.seeded and size > 1:
        drawn = splitmix64_below(&engine.stream, size)
    if engine.problem.longest_prompt:
        drawn = ties_find_longest(equals, engine.requests, drawn)
    return equals.members[drawn]

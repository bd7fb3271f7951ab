# The place of a running request in the eviction order (model.md, section 5): in a list of equals, or by admission.

from libc.stdint cimport int32_t, int64_t, uint64_t

from llmsched._core cimport Engine, Problem
from llmsched._engine.eviction_rules cimport eviction_key
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
    if engine.in_lists:
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
    if engine.in_lists:
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


cdef inline int32_t rank_of(const Engine* engine, int32_t p) noexcept nogil:
    # By which tie="last" chooses: the largest.
    cdef int32_t i = engine.requests[p].index
    if engine.driven or engine.fed:
        return engine.rank[i]
    return i if engine.last_rank == NULL else engine.last_rank[i]


cdef inline int32_t last_of(const Engine* engine, const Equals* equals) noexcept nogil:
    cdef int32_t k, last = equals.members[0]
    for k in range(1, equals.size):
        if rank_of(engine, equals.members[k]) > rank_of(engine, last):
            last = equals.members[k]
    return last


cdef inline int32_t first_of_running(Engine* engine) noexcept nogil:
    # The same where they are in no lists: equals are drawn from in order of admission.
    cdef const Problem* problem = engine.problem
    cdef int64_t least = 0, key, longest = 0, equals = 0, drawn = 0
    cdef int32_t p = engine.oldest, last = NONE
    cdef const Request* r
    while p != NONE:
        r = &engine.requests[p]
        key = eviction_key_of(engine, p)
        if equals == 0 or key < least or (key == least and problem.longest_prompt and r.prompt > longest):
            least = key
            longest = r.prompt
            equals = 0
            last = p
        if key == least and (r.prompt == longest or not problem.longest_prompt):
            equals += 1
            if rank_of(engine, p) > rank_of(engine, last):
                last = p
        p = r.newer
    engine.ticks += engine.running >> 3
    if problem.last_of_equals:
        return last
    if problem.seeded and equals > 1:
        drawn = splitmix64_below(&engine.stream, equals)
    p = engine.oldest
    while True:
        r = &engine.requests[p]
        if eviction_key_of(engine, p) == least and (r.prompt == longest or not problem.longest_prompt):
            if drawn == 0:
                return p
            drawn -= 1
        p = r.newer


cdef inline int32_t first_in_rank(Engine* engine) noexcept nogil:
    # Who leaves next by a rule that ranks: one of the equals with the smallest key. Needs a running request.
    cdef const Equals* equals
    cdef uint64_t drawn = 0, size
    if engine.problem.as_processed:
        return first_of_running(engine)
    equals = ties_first(&engine.ties)
    size = equals.size
    if engine.problem.last_of_equals:
        return last_of(engine, equals)
    if engine.problem.longest_prompt:
        size = ties_count_longest(equals, engine.requests)
    if engine.problem.seeded and size > 1:
        drawn = splitmix64_below(&engine.stream, size)
    if engine.problem.longest_prompt:
        drawn = ties_find_longest(equals, engine.requests, drawn)
    return equals.members[drawn]

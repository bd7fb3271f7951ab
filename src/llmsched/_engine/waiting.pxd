# The waiting set: who joins it, who is first in it, and what is believed of a request in it.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc

from llmsched._core cimport ORDER_OVER_TIME, RESERVE_COLUMN, RESERVE_MOVING, RESERVE_NONE, Engine, Problem
from llmsched._engine.admission_order cimport admission_key, look_ahead
from llmsched._engine.allocation cimport enlarge
from llmsched._engine.belief cimport belief_length, belief_make
from llmsched._engine.moves cimport reserve_moves
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.rising_peak cimport rising_make
from llmsched._engine.status cimport NO_MEMORY
from llmsched._engine.waiting_heap cimport Entry, entry_less, heap_drop, heap_push
from llmsched._engine.waiting_tree cimport tree_add, tree_withdraw


cdef inline int32_t make_request(Engine* engine, int64_t place) noexcept nogil:
    # The request at this place, which never ran; its number, or NONE: no memory.
    cdef const Problem* problem = engine.problem
    cdef int32_t p = engine.free_request
    cdef int32_t i = engine.order[place]
    cdef Request* block
    cdef Request* r
    cdef int64_t* kept
    cdef int64_t* shed_at
    cdef Prefill* prefills
    if p != NONE:
        engine.free_request = engine.requests[p].next
    else:
        if engine.requests_made == engine.requests_allocated:
            engine.requests_allocated = 2 * engine.requests_allocated + 64
            block = <Request*>enlarge(
                engine.requests, engine.requests_made * sizeof(Request), engine.requests_allocated * sizeof(Request)
            )
            if block == NULL:
                return NONE
            engine.requests = block
            if problem.record_tokens:
                kept = <int64_t*>realloc(engine.kept, engine.requests_allocated * sizeof(int64_t))
                if kept == NULL:
                    return NONE
                engine.kept = kept
            if problem.shed:
                shed_at = <int64_t*>realloc(engine.shed_at, engine.requests_allocated * sizeof(int64_t))
                if shed_at == NULL:
                    return NONE
                engine.shed_at = shed_at
            if problem.rising and rising_make(engine, engine.requests_allocated) == NO_MEMORY:
                return NONE
            if engine.driven and reserve_moves(engine) == NO_MEMORY:
                return NONE
            if problem.prefill_budget > 0 or problem.as_processed:
                prefills = <Prefill*>realloc(engine.prefills, engine.requests_allocated * sizeof(Prefill))
                if prefills == NULL:
                    return NONE
                engine.prefills = prefills
            if engine.pool != NULL and engine.pool.allocate_for(engine, engine.requests_allocated) == NO_MEMORY:
                return NONE
        p = engine.requests_made
        engine.requests_made += 1
    r = &engine.requests[p]
    r.prompt = problem.prompt[i]
    r.output = problem.output[i]
    r.bound = problem.bound[i] if problem.bound != NULL else problem.believed[i] if problem.believed != NULL else 1
    r.birth = r.kept = 0
    r.index = i
    r.place = <int32_t>place
    r.next = r.equals = r.equals_at = NONE
    r.previous = NEVER_RAN
    if engine.tracks_beliefs and belief_make(&engine.belief, p) == NO_MEMORY:
        return NONE
    look_ahead(engine, place)
    return p


cdef inline Entry entry_of(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # How a request that joins the waiting set compares; p is its number, or NONE where it has none yet.
    cdef Entry entry
    entry.who = ~<int32_t>place if p == NONE else p
    entry.key = admission_key(engine, place, p)
    entry.tie = 0
    if engine.rank != NULL:
        entry.tie = engine.rank[engine.order[place] if p == NONE else engine.requests[p].index]
    return entry


cdef inline bint waits_in_tree(const Problem* problem) noexcept nogil:
    # Whether waiting requests are in engine.tree, not in engine.heap.
    return problem.skip and problem.order != ORDER_OVER_TIME and not problem.one_by_one


cdef inline int join(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # The request starts to wait; p is its number, or NONE. OK or NO_MEMORY.
    cdef const Request* r
    cdef int64_t length, demand
    if waits_in_tree(engine.problem):
        if p == NONE:
            p = make_request(engine, place)
            if p == NONE:
                return NO_MEMORY
        r = &engine.requests[p]
        length = r.kept + 1 if engine.redrawn else believed_length(engine, p)  # the least, where it is drawn anew
        demand = demand_of(engine, p, length)
        if engine.problem.reserve == RESERVE_NONE:  # only the coming round counts: what it holds then
            demand = r.prompt + r.kept + 1
        return tree_add(&engine.tree, entry_of(engine, place, p), r.prompt + r.kept, demand)
    return heap_push(&engine.heap, entry_of(engine, place, p))


cdef inline int32_t first_waiting(Engine* engine) noexcept nogil:
    # The first in admission order, of those that never ran and those that did. Needs waiting > 0. NONE: no memory.
    cdef Entry* top = &engine.heap.entries[0]
    if engine.in_place and engine.fresh < engine.arrived:
        if engine.head == NONE:
            engine.head = make_request(engine, engine.fresh)
            if engine.head == NONE:
                return NONE
            engine.head_entry = entry_of(engine, engine.fresh, engine.head)
        if engine.heap.size == 0 or entry_less(engine.head_entry, top[0]):
            return engine.head
    if top.who < 0:
        top.who = make_request(engine, ~top.who)
    return top.who


cdef inline int32_t take_waiting(Engine* engine, int32_t index) noexcept nogil:
    # Takes a request out of the waiting set; its number, or NONE where it has none yet.
    cdef int32_t p
    cdef int64_t k = 0
    engine.tested = NONE
    if waits_in_tree(engine.problem):
        return tree_withdraw(&engine.tree, engine.requests, index)
    while True:  # it is there
        p = engine.heap.entries[k].who
        if p == ~index or (p >= 0 and engine.requests[p].index == index):
            heap_drop(&engine.heap, k)
            return max(p, NONE)
        k += 1


cdef inline int64_t believed_length(Engine* engine, int32_t p) noexcept nogil:
    # L of a waiting request (model.md, section 4).
    cdef const Problem* problem = engine.problem
    cdef const Request* r = &engine.requests[p]
    cdef int64_t length = r.bound
    if problem.reserve == RESERVE_MOVING:
        return belief_length(
            &engine.belief, r.index, problem.memory - r.prompt, r.kept, engine.belief.known[p], engine.round
        )
    if problem.belief_changes:
        length = engine.believed[r.index]
    elif problem.reserve == RESERVE_COLUMN and problem.bound != NULL:
        length = problem.believed[r.index]
    length = max(length, r.kept + 1)
    return min(length, problem.memory - r.prompt)


cdef inline int64_t demand_of(const Engine* engine, int32_t p, int64_t length) noexcept nogil:
    # What one that is believed to reach `length` asks for: the tokens to come, or, with hold="peak", all it will hold.
    return length + (engine.requests[p].prompt if engine.problem.peak else -engine.requests[p].kept)

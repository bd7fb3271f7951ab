# Rounds with slots="processed" (model.md, section 7): who leaves at a cap, who is served, who completes. What a
# round serves of one request is in slots_as_processed.pxd.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport REFINE_NONE, Engine, Problem
from llmsched._engine.batch cimport complete, leave
from llmsched._engine.check cimport check
from llmsched._engine.overflow cimport evict_next
from llmsched._engine.progress cimport stalled
from llmsched._engine.recording cimport pass_rounds
from llmsched._engine.request cimport NONE, Prefill, Request
from llmsched._engine.slots_as_processed cimport (
    begin_round, next_tokens, pass_over, process, rounds_alike, serve, slots_for, take_slots,
)
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.waiting cimport join


cdef inline int make_room_as_processed(Engine* engine) noexcept nogil:
    # Who leaves at a cap, and until there are slots for those that run. OK, NO_MEMORY or Engine.failure.
    engine.ticks += engine.running >> 4
    begin_round(engine)
    if engine.problem.cap != REFINE_NONE and caps_as_processed(engine) == NO_MEMORY:
        return NO_MEMORY
    if serve_running(engine) == NO_MEMORY:
        return NO_MEMORY
    return engine.failure if engine.failed != NONE else OK


cdef inline int caps_as_processed(Engine* engine) noexcept nogil:
    # Those that reached õ, or what the lottery drew, leave and wait again. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int32_t newer, p = engine.oldest
    cdef const Request* r
    cdef int64_t limit
    while p != NONE:
        r = &engine.requests[p]
        newer = r.newer
        if problem.capped == NULL or problem.capped[r.index]:
            limit = engine.shed_at[p] if problem.shed else r.bound
            if engine.round - r.birth >= limit:
                if leave(engine, p, problem.cap) == NO_MEMORY or join(engine, r.place, p) == NO_MEMORY:
                    return NO_MEMORY
                engine.waiting += 1
        p = newer
    return OK


cdef inline int serve_running(Engine* engine) noexcept nogil:
    # Serves those that run, first admitted first. Until there are slots for it, others leave, or it itself does: then
    # nobody else is served. OK or NO_MEMORY.
    cdef int32_t p = engine.oldest
    cdef int64_t tokens
    while p != NONE and engine.budget_left > 0:
        tokens = next_tokens(engine, engine.prefills[p].to_prefill)
        while engine.prefills[p].runs and engine.need + slots_for(engine, p, tokens) > engine.problem.memory:
            if evict_next(engine) == NO_MEMORY:
                return NO_MEMORY
            if engine.failed != NONE:
                return OK
        if not engine.prefills[p].runs:
            return OK
        if serve(engine, p, tokens) == NO_MEMORY:
            return NO_MEMORY
        p = engine.requests[p].newer
    return OK


cdef inline int run_served(Engine* engine) noexcept nogil:
    # The round passes, and all that are like it: who was served to the last of its tokens gets the next one. OK or
    # NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int64_t rounds
    cdef int32_t p
    if process(engine) == NO_MEMORY:
        return NO_MEMORY
    rounds = 1 if engine.driven or (problem.may_cycle and stalled(engine)) else rounds_alike(engine)
    check(rounds > 0)
    rounds = pass_rounds(engine, rounds)
    if rounds == NO_MEMORY:
        return NO_MEMORY
    engine.round += rounds
    if rounds > 1:  # then each of them is granted a token in each
        p = engine.oldest
        while p != NONE:
            if take_slots(engine, p, rounds - 1) == NO_MEMORY:
                return NO_MEMORY
            engine.prefills[p].granted = rounds
            p = engine.requests[p].newer
    engine.peak_memory = max(engine.peak_memory, engine.need)
    return pass_over(engine) if engine.generating < engine.running else OK


cdef inline int departures_as_processed(Engine* engine) noexcept nogil:
    # At the end of a round: who reached o completes. OK or NO_MEMORY.
    cdef int32_t newer, p = engine.oldest
    cdef Prefill* f
    while p != NONE:
        f = &engine.prefills[p]
        newer = engine.requests[p].newer
        f.cached += f.granted
        if f.granted > 0 and f.to_prefill == 0 and engine.round - engine.requests[p].birth == engine.requests[p].output:
            f.granted = 0
            if complete(engine, p) == NO_MEMORY:
                return NO_MEMORY
        f.granted = 0
        p = newer
    return OK

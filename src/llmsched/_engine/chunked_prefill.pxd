# Chunked prefill (model.md, section 7): a round processes so many tokens and no more, one for each request that
# generates and the rest of prompts and kept tokens.
#
# As nobody is admitted while the budget is spent, no more than one request is ever left with something to prefill, the
# one admitted last. It runs as any other, but generates nothing: every such round it is as if it had been
# admitted a round later. It enters the wheel once it is known when it will be done.

from libc.stdint cimport int32_t, int64_t

from llmsched._engine.belief cimport belief_postpone
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.check cimport check
from llmsched._core cimport RESUME_SWAP, Engine, Problem
from llmsched._engine.eviction_order cimport eviction_key_of
from llmsched._engine.eviction_ties cimport ties_add, ties_remove
from llmsched._engine.memory_profile cimport profile_add, profile_expire, profile_last_over, profile_remove
from llmsched._engine.recording cimport record_chunk
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.rising_peak cimport rising_queue
from llmsched._engine.rounds cimport due, residue
from llmsched._engine.timing_wheel cimport wheel_add
from llmsched._engine.status cimport NO_MEMORY, OK


cdef extern from *:
    bint unlikely(bint condition) noexcept nogil  # Cython's own: keeps what it guards out of the way of the plain model


cdef inline int prefill_begin(Engine* engine) noexcept nogil:
    # What the coming round does for those that run already. OK or NO_MEMORY.
    engine.budget_used = engine.running
    if engine.prefilling == NONE:
        return OK
    engine.budget_used += engine.prefills[engine.prefilling].to_prefill - 1
    return prefill_chunk(engine, engine.prefilling, engine.budget - (engine.running - 1))


cdef inline int prefill_enter(Engine* engine, int32_t p, int64_t kept) noexcept nogil:
    # What it does for a request that was just admitted with `kept` tokens. OK or NO_MEMORY.
    cdef const Request* r = &engine.requests[p]
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t most = engine.budget - engine.budget_used
    f.first_round = engine.round
    if engine.problem.resume == RESUME_SWAP and r.previous != NEVER_RAN:
        engine.swapped += r.prompt + kept - f.to_prefill
    elif engine.problem.prompts_moved and r.previous == NEVER_RAN:
        f.to_prefill = 0
    else:
        f.to_prefill = r.prompt + kept
    engine.budget_used += max(f.to_prefill, <int64_t>1)
    return prefill_chunk(engine, p, most)


cdef inline int prefill_chunk(Engine* engine, int32_t p, int64_t most) noexcept nogil:
    # Up to `most` of a request's tokens; if that is all, it generates in the coming round. OK or NO_MEMORY.
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t chunk = min(f.to_prefill, most)
    check(most > 0)
    f.to_prefill -= chunk
    engine.prefilled += chunk
    if f.to_prefill > 0:
        engine.prefilling = p
    else:
        if engine.prefilling == p:
            engine.prefilling = NONE
        wheel_add(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))
    return record_chunk(engine, p, chunk) if engine.problem.record_tokens and chunk > 0 else OK


cdef inline int postpone(Engine* engine, int32_t p) noexcept nogil:
    # After a round in which this running request, which is not in the wheel, generated nothing, but grew with all the
    # others. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + engine.round - r.birth  # a token too many
    cdef int64_t key = eviction_key_of(engine, p) if engine.in_lists else 0
    engine.used -= 1
    engine.need -= whole_blocks(held + 1, problem.block) - whole_blocks(held, problem.block)
    if problem.block > 1:
        engine.residues[residue(problem, r)] -= 1
    r.birth += 1
    if problem.block > 1:
        engine.residues[residue(problem, r)] += 1
    if engine.in_lists and eviction_key_of(engine, p) != key:
        ties_remove(&engine.ties, engine.requests, p)
        if ties_add(&engine.ties, engine.requests, p, eviction_key_of(engine, p)) == NO_MEMORY:
            return NO_MEMORY
    r.believed_end += 1
    if problem.rising and rising_queue(engine, p) == NO_MEMORY:
        return NO_MEMORY
    if engine.tracks_beliefs:
        belief_postpone(&engine.belief, p)
        engine.tested = NONE
    if not engine.profiled:
        return OK
    profile_expire(&engine.profile, engine.round)
    if r.believed_end - 1 > engine.round:
        profile_remove(&engine.profile, r.prompt - (r.birth - 1), r.believed_end - 1)
    if r.believed_end > engine.round and profile_add(&engine.profile, r.prompt - r.birth, r.believed_end) == NO_MEMORY:
        return NO_MEMORY
    note_blocked_until(engine)
    return OK


cdef inline void note_blocked_until(Engine* engine) noexcept nogil:
    # What is believed has changed: until when does it exceed C? As long as that is to come, nobody is admitted.
    engine.tested = NONE
    engine.blocked_until = profile_last_over(&engine.profile, engine.problem.capacity) - 1

# Chunked prefill (model.md, section 7): a round processes so many tokens and no more, one for each request that
# generates and the rest of prompts and kept tokens.
#
# As nobody is admitted while the budget is spent, no more than one request is ever left with something to prefill, the
# one admitted last: the slow one. It runs as any other, but generates nothing: every such round it is as if it had been
# admitted a round later. It enters the wheel once it is known when it will be done.

from libc.stdint cimport int32_t, int64_t

from llmsched._engine.belief cimport belief_postpone
from llmsched._engine.check cimport check
from llmsched._core cimport EVICT_PROGRESS, RESUME_SWAP, Engine, Task
from llmsched._engine.eviction_order cimport line_up, step_out
from llmsched._engine.memory_profile cimport profile_add, profile_expire, profile_last_over, profile_remove
from llmsched._engine.recording cimport record_chunk
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.rounds cimport due, in_blocks, residue
from llmsched._engine.timing_wheel cimport wheel_add


cdef extern from *:
    bint unlikely(bint condition) noexcept nogil  # Cython's own: keeps what it guards out of the way of the plain model


cdef inline int prefill_begin(Engine* engine) noexcept nogil:
    # What the coming round does for those that run already. 0, or -1 without memory.
    engine.spent = engine.running
    if engine.slow == NONE:
        return 0
    engine.spent += engine.prefills[engine.slow].left - 1
    return prefill_chunk(engine, engine.slow, engine.budget - (engine.running - 1))


cdef inline int prefill_enter(Engine* engine, int32_t p, int64_t kept) noexcept nogil:
    # What it does for a request that was just admitted with `kept` tokens. 0, or -1 without memory.
    cdef const Request* r = &engine.requests[p]
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t most = engine.budget - engine.spent
    f.since = engine.round
    if engine.task.resume == RESUME_SWAP and r.previous != NEVER_RAN:
        engine.swapped += r.prompt + kept - f.left
    else:
        f.left = r.prompt + kept
    engine.spent += max(f.left, <int64_t>1)
    return prefill_chunk(engine, p, most)


cdef inline int prefill_chunk(Engine* engine, int32_t p, int64_t most) noexcept nogil:
    # Up to `most` of a request's tokens; if that is all, it generates in the coming round. 0, or -1 without memory.
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t chunk = min(f.left, most)
    check(most > 0)
    f.left -= chunk
    engine.prefilled += chunk
    if f.left > 0:
        engine.slow = p
    else:
        if engine.slow == p:
            engine.slow = NONE
        wheel_add(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))
    return record_chunk(engine, p, chunk) if engine.task.record_tokens and chunk > 0 else 0


cdef inline int postpone(Engine* engine) noexcept nogil:
    # After a round in which the slow one generated nothing, but grew with all the others. 0, or -1 without memory.
    cdef const Task* task = engine.task
    cdef Request* r = &engine.requests[engine.slow]
    cdef int64_t held = r.prompt + engine.round - r.birth  # a token too many
    engine.used -= 1
    engine.need -= in_blocks(task, held + 1) - in_blocks(task, held)
    if task.block > 1:
        engine.residues[residue(task, r)] -= 1
    r.birth += 1
    if task.block > 1:
        engine.residues[residue(task, r)] += 1
    if task.evict == EVICT_PROGRESS:
        step_out(engine, engine.slow)
        if line_up(engine, engine.slow) < 0:
            return -1
    r.mark += 1
    if engine.believes:
        belief_postpone(&engine.belief, engine.slow)
        engine.tested = NONE
    if not engine.profiled:
        return 0
    profile_expire(&engine.profile, engine.round)
    if r.mark - 1 > engine.round:
        profile_remove(&engine.profile, r.prompt - (r.birth - 1), r.mark - 1)
    if r.mark > engine.round and profile_add(&engine.profile, r.prompt - r.birth, r.mark) < 0:
        return -1
    note_crowd(engine)
    return 0


cdef inline void note_crowd(Engine* engine) noexcept nogil:
    # What is believed has changed: until when does it exceed C? As long as that is to come, nobody is admitted.
    engine.tested = NONE
    engine.lone_end = profile_last_over(&engine.profile, engine.task.capacity) - 1

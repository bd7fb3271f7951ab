# Entering and leaving the batch.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport (
    REFINE_DOUBLE, REFINE_NONE, REFINE_PROGRESS, REFINE_UPPER, RESUME_RESTART, RESUME_SWAP, Engine, Problem, Refine,
)
from llmsched._engine.allocation cimport prefetch, prefetch_to_write
from llmsched._engine.belief cimport belief_add, belief_remove
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.check cimport check
from llmsched._engine.chunked_prefill cimport note_blocked_until, prefill_enter, unlikely
from llmsched._engine.eviction_order cimport enter_eviction_order, leave_eviction_order
from llmsched._engine.fed_arrivals cimport note_completed
from llmsched._engine.lottery cimport lottery_length
from llmsched._engine.memory_profile cimport profile_add, profile_expire, profile_remove
from llmsched._engine.moves cimport note_move
from llmsched._engine.pace cimport note_admission
from llmsched._engine.policy_formulas cimport begin_to_wait
from llmsched._engine.progress cimport changed, note_failure
from llmsched._engine.recording cimport record_attempt
from llmsched._engine.request cimport NEVER_RAN, NONE, Request
from llmsched._engine.rising_peak cimport rising_add, rising_remove
from llmsched._engine.rounds cimport due, now, residue
from llmsched._engine.slots_as_processed cimport admit_as_processed, stop_as_processed
from llmsched._engine.status cimport BOUND_PASSED, NO_MEMORY, OK
from llmsched._engine.timing_wheel cimport wheel_add
from llmsched._engine.waiting cimport believed_length


cdef inline int admit(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t length = believed_length(engine, p)
    engine.work.admissions += 1
    if r.previous == NEVER_RAN:
        problem.start[r.index] = now(engine)
    if problem.cap != REFINE_NONE:  # it may leave soon
        prefetch_to_write(&problem.evictions[r.index])
        if engine.rank != NULL:
            prefetch(&engine.rank[r.index])
    if unlikely(engine.notes_admissions):
        note_admitted(engine, p)
    engine.tested = NONE
    engine.accepted_held = -1
    if unlikely(problem.as_processed):
        if admit_as_processed(engine, p) == NO_MEMORY:
            return NO_MEMORY
    elif admit_ahead(engine, p, length) == NO_MEMORY:
        return NO_MEMORY
    return enter_eviction_order(engine, p) if engine.may_overflow else OK


cdef inline void note_admitted(Engine* engine, int32_t p) noexcept nogil:
    # What few policies, and few who call, need to know of an admission.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    if problem.paced:
        note_admission(engine, r)
    if problem.shed:
        engine.shed_at[p] = lottery_length(engine, r, r.kept)
    if problem.record_tokens:
        engine.kept[p] = r.kept
    if engine.driven:
        note_move(engine, p)


cdef inline int admit_ahead(Engine* engine, int32_t p, int64_t length) noexcept nogil:
    # With slots="ahead": it holds all its tokens from now on. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t kept = r.kept, held = r.prompt + kept
    r.birth = engine.round - kept
    r.believed_end = r.birth + length - 1
    if engine.running == 0 and r.prompt + length > problem.capacity:
        engine.blocked_until = r.believed_end
    engine.running += 1
    engine.used += held
    engine.need += whole_blocks(held + 1, problem.block)
    engine.prompts += r.prompt
    if problem.peak:
        engine.reserved += whole_blocks(r.prompt + length, problem.block)
        if problem.rising and rising_add(engine, p) == NO_MEMORY:
            return NO_MEMORY
    if problem.block > 1:
        engine.residues[residue(problem, r)] += 1
    if unlikely(engine.prefills != NULL):
        if prefill_enter(engine, p, kept) == NO_MEMORY:
            return NO_MEMORY
    else:
        if unlikely(problem.prompts_moved) and r.previous == NEVER_RAN:
            held = 0
        if problem.resume == RESUME_SWAP and r.previous != NEVER_RAN:
            engine.swapped += held
        else:
            engine.prefilled += held
        wheel_add(&engine.wheel, engine.requests, p, due(engine, r))
    if engine.tracks_beliefs and belief_add(&engine.belief, r, p, engine.round, length - kept) == NO_MEMORY:
        return NO_MEMORY
    if engine.profiled and r.believed_end > engine.round:
        return profile_add(&engine.profile, r.prompt - r.birth, r.believed_end)
    return OK


cdef inline int stop_running(Engine* engine, int32_t p) noexcept nogil:
    # What completing and leaving have in common. The request is out of the wheel already. OK or NO_MEMORY.
    if engine.may_overflow:
        leave_eviction_order(engine, p)
    return stop_as_processed(engine, p) if unlikely(engine.problem.as_processed) else stop_ahead(engine, p)


cdef inline int stop_ahead(Engine* engine, int32_t p) noexcept nogil:
    # With slots="ahead": what it held is free. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + engine.round - r.birth
    engine.running -= 1
    engine.used -= held
    engine.need -= whole_blocks(held + 1, problem.block)
    engine.prompts -= r.prompt
    if problem.peak:
        if problem.rising:
            rising_remove(engine, p)
        else:
            engine.reserved -= whole_blocks(r.prompt + r.believed_end - r.birth + 1, problem.block)
            check(engine.reserved >= 0)
    if problem.block > 1:
        engine.residues[residue(problem, r)] -= 1
    if problem.record_tokens and record_attempt(engine, p) == NO_MEMORY:
        return NO_MEMORY
    if engine.tracks_beliefs:
        belief_remove(&engine.belief, p, engine.round - r.birth, engine.round - r.birth == r.output)
        engine.tested = NONE
    if engine.profiled and r.believed_end > engine.round:  # earlier than believed
        profile_expire(&engine.profile, engine.round)
        profile_remove(&engine.profile, r.prompt - r.birth, r.believed_end)
        engine.tested = NONE
        if unlikely(engine.delays):
            note_blocked_until(engine)
    if engine.running == 0:
        engine.blocked_until = NONE
    return OK


cdef inline int complete(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    engine.problem.completion[engine.requests[p].index] = now(engine)
    if unlikely(engine.notes_completed) and note_completed(engine, engine.requests[p].index) == NO_MEMORY:
        return NO_MEMORY
    engine.requests[p].next = engine.free_request
    engine.free_request = p
    engine.unfinished -= 1
    changed(engine)
    return OK


cdef inline int leave(Engine* engine, int32_t p, Refine rule) noexcept nogil:
    # It leaves before completing. The request is out of the wheel already. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t generated = engine.round - r.birth
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    problem.evictions[r.index] += 1
    if unlikely(engine.driven):
        engine.leavers[engine.evictions_this_round] = p
    engine.evictions_this_round += 1
    if problem.bound != NULL:
        refine(engine, r, rule, generated)
    r.previous = NONE
    if problem.resume == RESUME_RESTART:
        r.kept = 0
        engine.wasted_tokens += generated
    else:
        r.kept = generated
        if problem.resume == RESUME_SWAP:
            engine.swapped += r.prompt + generated
            if engine.prefills != NULL:
                engine.swapped -= engine.prefills[p].to_prefill
    if engine.cells != NULL:
        begin_to_wait(engine, p)
    return OK


cdef inline void refine(Engine* engine, Request* r, Refine rule, int64_t generated) noexcept nogil:
    # Where õ would pass the largest the run has failed, and õ stays.
    cdef int64_t old = r.bound
    if rule == REFINE_PROGRESS:
        r.bound = max(old, generated + 1)
    elif rule == REFINE_UPPER and old < engine.problem.upper[r.index]:
        r.bound = engine.problem.upper[r.index]
    elif rule == REFINE_DOUBLE or rule == REFINE_UPPER:
        if unlikely(old > engine.problem.largest_bound // 2):
            note_failure(engine, r.index, BOUND_PASSED)
        else:
            r.bound = max(2 * old, generated + 1) if rule == REFINE_DOUBLE else 2 * old
    if min(r.bound, engine.problem.memory) > old:  # a rise beyond M changes no believed length
        changed(engine)

# Slots of the cache that are taken as tokens are processed (model.md, section 7): what a round serves.
#
# Running requests are in one list, in order of admission, whatever the eviction rule. Every round is looked at: each
# serves those that run one by one, and what it may process of them depends on those before.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine, Problem
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.check cimport check
from llmsched._engine.recording cimport record_attempt_until, record_chunk
from llmsched._engine.request cimport NONE, Prefill, Request
from llmsched._engine.status cimport NO_MEMORY, OK


cdef inline void begin_round(Engine* engine) noexcept nogil:
    engine.budget_left = engine.budget
    engine.alone = engine.running + engine.waiting == 1


cdef inline int64_t next_tokens(const Engine* engine, int64_t unprocessed) noexcept nogil:
    # How many tokens the round may process of a request that has so many to process.
    cdef int64_t most = max(unprocessed, <int64_t>1)
    if not engine.alone:
        most = min(most, engine.problem.chunk)
    return min(most, engine.budget_left)


cdef inline int64_t slots_for(const Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # Slots, in whole blocks, that so many more tokens of a running request take.
    cdef int64_t cached = engine.prefills[p].cached, block = engine.problem.block
    return whole_blocks(cached + tokens, block) - whole_blocks(cached, block)


cdef inline bint has_slots(const Engine* engine, int64_t held) noexcept nogil:
    # Whether a waiting request that has so many tokens to process may start, while others run.
    cdef const Problem* problem = engine.problem
    cdef int64_t tokens
    if engine.running >= problem.max_batch or engine.budget_left == 0:
        return False
    tokens = max(held, <int64_t>1) if problem.whole_prompt else next_tokens(engine, held)
    return engine.need + whole_blocks(tokens, problem.block) <= problem.capacity


cdef inline void serve(Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    engine.need += slots_for(engine, p, tokens)
    engine.budget_left -= tokens
    engine.prefills[p].granted = tokens


cdef inline void give_back(Engine* engine, int32_t p) noexcept nogil:
    # It stops running: its slots, and what the round was to process of it.
    cdef Prefill* f = &engine.prefills[p]
    engine.need -= whole_blocks(f.cached + f.granted, engine.problem.block)
    engine.budget_left += f.granted
    f.cached = f.granted = 0
    f.runs = False


cdef inline int process(Engine* engine) noexcept nogil:
    # What the round processes of prompts, in order of admission; how many it serves, and their context. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int32_t p = engine.oldest
    cdef int64_t chunk
    cdef Prefill* f
    engine.served = engine.served_context = 0
    while p != NONE:
        f = &engine.prefills[p]
        if f.granted > 0:
            engine.served += 1
            engine.served_context += f.cached
            if not problem.clock.context_all:
                engine.served_context -= min(f.cached, engine.requests[p].prompt)
            chunk = min(f.to_prefill, f.granted)
            f.to_prefill -= chunk
            engine.prefilled += chunk
            if problem.record_tokens and chunk > 0 and record_chunk(engine, p, chunk) == NO_MEMORY:
                return NO_MEMORY
        p = engine.requests[p].newer
    return OK


cdef inline int pass_over(Engine* engine) noexcept nogil:
    # After a round, for those that got no token in it: all is as if they had been admitted a round later. An attempt
    # has a token in each round after its prefill, so one that lacks one ends, and the next begins. OK or NO_MEMORY.
    cdef int32_t p = engine.oldest
    cdef Prefill* f
    while p != NONE:
        f = &engine.prefills[p]
        if f.granted == 0 or f.to_prefill > 0:
            engine.requests[p].birth += 1
        if f.granted == 0 and f.to_prefill == 0:
            if engine.problem.record_tokens:
                if engine.round - 1 > f.first_round and record_attempt_until(engine, p, engine.round - 1) == NO_MEMORY:
                    return NO_MEMORY
                engine.kept[p] = engine.round - engine.requests[p].birth
            f.first_round = engine.round
        p = engine.requests[p].newer
    return OK

# Slots of the cache that are taken as tokens are processed (model.md, section 7): what a round serves.
#
# Running requests are in one list, in order of admission, whatever the eviction rule. A round serves them one by one,
# and what it may process of one depends on those before. Where all of them generate, the rounds until somebody
# completes, arrives, or finds no slots are alike, and pass at once.

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from llmsched._core cimport ORDER_OVER_TIME, BlockPool, Engine, Problem
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.chunked_prefill cimport unlikely
from llmsched._engine.recording cimport record_attempt, record_attempt_until, record_chunk
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.rounds cimport due, next_arrival, round_of
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    ROUNDS_PER_LOOK = 65536     # that pass at once where each costs time


cdef inline void begin_round(Engine* engine) noexcept nogil:
    engine.budget_left = engine.budget
    engine.alone = engine.running + engine.waiting == 1
    engine.served_requests = engine.served_context = engine.generating = 0
    engine.first_chunk = NONE


cdef inline int64_t next_tokens(const Engine* engine, int64_t unprocessed) noexcept nogil:
    # How many tokens the round may process of a request that has so many to process.
    cdef int64_t most = max(unprocessed, <int64_t>1)
    if not engine.alone:
        most = min(most, engine.problem.chunk)
    return min(most, engine.budget_left)


cdef inline int64_t slots_for(const Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # Slots, in whole blocks, that so many more tokens of a running request take.
    cdef int64_t lacking = tokens - engine.prefills[p].room, block = engine.problem.block
    if lacking <= 0:
        return 0
    return block if lacking <= block else whole_blocks(lacking, block)  # mostly one, and divisions are slow


cdef inline int take_slots(Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int64_t slots
    cdef Prefill* f = &engine.prefills[p]
    if tokens < f.room:  # no block is taken, and none is full then
        f.room -= tokens
        return OK
    slots = slots_for(engine, p, tokens)
    if unlikely(engine.pool != NULL) and engine.pool.take_blocks(engine, p, f.cached + f.granted, tokens) == NO_MEMORY:
        return NO_MEMORY
    engine.need += slots
    f.room += slots - tokens
    return OK


cdef inline bint has_slots(const Engine* engine, int64_t held, bint at_once) noexcept nogil:
    # Whether a waiting request of so many tokens may start, while others run; `at_once`: it needs slots for all of
    # them, as it comes with its cache.
    cdef const Problem* problem = engine.problem
    cdef int64_t tokens
    if engine.running >= problem.max_batch or engine.budget_left == 0:
        return False
    tokens = max(held, <int64_t>1) if problem.whole_prompt or at_once else next_tokens(engine, held)
    return engine.need + whole_blocks(tokens, problem.block) <= problem.capacity


cdef inline bint may_start(const Engine* engine, int32_t p) noexcept nogil:
    # Whether a waiting request may, while others run. It need not process what is in the cache of it, and takes no
    # slots for what others hold.
    cdef const Problem* problem = engine.problem
    cdef const Request* r = &engine.requests[p]
    cdef int64_t hits, held, left, tokens
    if engine.pool == NULL:
        return has_slots(engine, r.prompt + r.kept, problem.prompts_moved and r.previous == NEVER_RAN)
    if engine.running >= problem.max_batch or engine.budget_left == 0:
        return False
    if engine.need + problem.block > problem.capacity:  # it takes a block at least
        return False
    hits = engine.pool.hits_of(engine, p, &held)
    left = r.prompt + r.kept - hits * problem.block
    tokens = max(left, <int64_t>1) if problem.whole_prompt else next_tokens(engine, left)
    tokens = whole_blocks(tokens, problem.block) + (hits - held) * problem.block
    return engine.need + tokens <= problem.capacity


cdef inline int64_t context_of(const Engine* engine, int32_t p) noexcept nogil:
    # Tokens of it that were in the cache as the round began, as far as the clock charges for them.
    cdef int64_t cached = engine.prefills[p].cached
    return cached if engine.problem.clock.context_all else cached - min(cached, engine.requests[p].prompt)


cdef inline int serve(Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # OK or NO_MEMORY.
    cdef Prefill* f = &engine.prefills[p]
    if take_slots(engine, p, tokens) == NO_MEMORY:
        return NO_MEMORY
    engine.budget_left -= tokens
    f.granted = tokens
    engine.served_requests += 1
    engine.served_context += context_of(engine, p)
    if f.to_prefill == 0:
        engine.generating += 1
    elif engine.first_chunk == NONE:
        engine.first_chunk = p
    return OK


cdef inline void give_back(Engine* engine, int32_t p) noexcept nogil:
    # It stops running: its slots, and what the round was to process of it. It still is in the list.
    cdef Prefill* f = &engine.prefills[p]
    if unlikely(engine.pool != NULL):
        engine.pool.give_back(engine, p)
    engine.need -= f.cached + f.granted + f.room
    if f.granted > 0:
        engine.budget_left += f.granted
        engine.served_requests -= 1
        engine.served_context -= context_of(engine, p)
        if f.to_prefill == 0:
            engine.generating -= 1
    if engine.first_chunk == p:  # the next one, or one after it
        engine.first_chunk = engine.requests[p].newer
    f.cached = f.granted = f.room = 0
    f.runs = False


cdef inline int process(Engine* engine) noexcept nogil:
    # What the round processes of prompts, in order of admission. OK or NO_MEMORY.
    cdef int32_t p = engine.first_chunk
    cdef int64_t chunk
    cdef Prefill* f
    while p != NONE:
        f = &engine.prefills[p]
        if f.to_prefill > 0 and f.granted > 0:
            chunk = min(f.to_prefill, f.granted)
            f.to_prefill -= chunk
            engine.prefilled += chunk
            if f.to_prefill == 0:
                engine.generating += 1
            if engine.problem.record_tokens and record_chunk(engine, p, chunk) == NO_MEMORY:
                return NO_MEMORY
        p = engine.requests[p].newer
    return OK


cdef inline bint nobody_starts(const Engine* engine) noexcept nogil:
    # Whether no waiting request starts until somebody leaves or arrives: it does not fit, and those that run only grow.
    # With prefixes="cached" that is known of the first one alone, whose hits are watched, and until the block that it
    # misses is named. Hits that are forgotten meanwhile have to be processed, which takes no fewer slots.
    cdef const Problem* problem = engine.problem
    cdef const BlockPool* pool = engine.pool
    if problem.order == ORDER_OVER_TIME or problem.paced or problem.methods.is_feasible != NULL:
        return False
    if pool == NULL:
        return True
    if not engine.in_order:
        return False
    if engine.running >= problem.max_batch or engine.need + problem.block > problem.capacity:
        return True
    if pool.watched_for == NONE or pool.looks_on:
        return False
    return problem.whole_prompt or pool.watched_size == pool.watched_held  # a chunk takes no more for lost hits


cdef inline int64_t rounds_alike(Engine* engine) noexcept nogil:
    # How many rounds are like the coming one, which is decided: at least one, that itself.
    cdef const Problem* problem = engine.problem
    cdef int64_t rounds = problem.max_rounds - engine.round, left
    cdef int32_t p = engine.oldest
    if engine.prefilled > 0 or engine.evictions_this_round > 0 or engine.generating < engine.running:
        return 1
    if problem.block > 1 and problem.record_timeline:
        return 1
    if engine.waiting > 0 and not nobody_starts(engine):
        return 1
    if problem.may_cycle:  # nor need the count of admissions be looked at, of which there are none
        rounds = min(rounds, <int64_t>ROUNDS_PER_LOOK)
    left = engine.last_change + problem.stall_limit - engine.round
    rounds = min(rounds, left)
    if problem.clocked:
        rounds = min(rounds, <int64_t>ROUNDS_PER_LOOK)
    elif engine.arrived < problem.n:
        left = round_of(engine, next_arrival(engine)) - engine.round
        rounds = min(rounds, left)
    if problem.block > 1:
        memset(engine.residues, 0, problem.block * sizeof(int64_t))
    while p != NONE:
        if engine.prefills[p].cached < engine.requests[p].prompt:  # the last token of a prompt that came with its cache
            return 1  # after it the context, as far as it is what was generated, is no larger
        left = due(engine, &engine.requests[p]) + 1 - engine.round
        rounds = min(rounds, left)
        if problem.block > 1:
            engine.residues[engine.prefills[p].room] += 1
        p = engine.requests[p].newer
    if rounds <= 1:
        return 1
    rounds = rounds_with_slots(engine, rounds)
    if unlikely(engine.pool != NULL) and engine.waiting > 0 and engine.pool.misses:
        rounds = engine.pool.rounds_until_named(engine, rounds)
    return rounds


cdef inline int64_t rounds_with_slots(const Engine* engine, int64_t rounds) noexcept nogil:
    # In how many of so many rounds those that run find slots, each for a token more; `residues` counts them by room.
    cdef const Problem* problem = engine.problem
    cdef int64_t left, k
    if problem.block == 1:
        left = 1 + (problem.memory - engine.need) // engine.running
        return min(rounds, left)
    left = engine.need  # of the coming round; in the one after it those take a block whose last one is full, and so on
    for k in range(rounds - 1):
        left += problem.block * engine.residues[k % problem.block]
        if left > problem.memory:
            return k + 1
    return rounds


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


cdef inline int admit_as_processed(Engine* engine, int32_t p) noexcept nogil:
    # It holds nothing yet, or what is in the cache of it, and is served. OK or NO_MEMORY.
    cdef Request* r = &engine.requests[p]
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t hits = 0
    if unlikely(engine.pool != NULL):
        hits = engine.pool.hold_hits(engine, p)
        if hits == NO_MEMORY:
            return NO_MEMORY
        if r.previous == NEVER_RAN and engine.problem.cached != NULL:
            engine.problem.cached[r.index] = hits * engine.problem.block
    r.birth = engine.round - r.kept
    f.first_round = engine.round
    f.granted = f.room = 0
    if unlikely(engine.problem.prompts_moved) and r.previous == NEVER_RAN:
        f.cached = max(r.prompt, <int64_t>1) - 1
        f.to_prefill = 0
        f.room = whole_blocks(f.cached, engine.problem.block) - f.cached
        engine.need += f.cached + f.room
    else:
        f.cached = hits * engine.problem.block
        f.to_prefill = r.prompt + r.kept - f.cached
    f.runs = True
    r.previous = NONE  # it ran
    engine.running += 1
    return serve(engine, p, next_tokens(engine, f.to_prefill))


cdef inline int stop_as_processed(Engine* engine, int32_t p) noexcept nogil:
    # What it held is free. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    engine.running -= 1
    give_back(engine, p)
    if engine.tracks_beliefs:
        engine.belief.known[p] = max(engine.belief.known[p], engine.round - engine.requests[p].birth)
    if problem.record_tokens and engine.round > engine.prefills[p].first_round:
        return record_attempt(engine, p)
    return OK

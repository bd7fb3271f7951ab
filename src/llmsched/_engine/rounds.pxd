# How rounds pass: time, and the cache that a batch takes while nothing but itself changes.

from libc.math cimport INFINITY, ceil
from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport REFINE_NONE, Clock, Engine, Problem
from llmsched._engine.request cimport NONE, Request

# Time ----------------------------------------------------------------------------------------------------------------


cdef inline double now(const Engine* engine) noexcept nogil:
    if engine.problem.clocked:
        return engine.time
    return engine.epoch + <double>(engine.round - engine.epoch_round)


cdef inline double arrival_of(const Engine* engine, int64_t place) noexcept nogil:
    return 0.0 if engine.problem.arrival == NULL else engine.problem.arrival[engine.order[place]]


cdef inline int64_t next_place(const Engine* engine) noexcept nogil:
    # Who arrives next. Needs arrived < n.
    return engine.arrived if engine.by_arrival == NULL else engine.by_arrival[engine.arrived]


cdef inline double next_arrival(const Engine* engine) noexcept nogil:
    return arrival_of(engine, next_place(engine))


cdef inline int64_t round_of(const Engine* engine, double time) noexcept nogil:
    # The first round after this one that starts at `time` or later, by the same sums as now().
    cdef double rounds = ceil(time - engine.epoch)
    cdef int64_t k
    if rounds > 9e15:
        return NEVER
    k = max(<int64_t>rounds, engine.round - engine.epoch_round + 1)
    while k - 1 > engine.round - engine.epoch_round and engine.epoch + <double>(k - 1) >= time:
        k -= 1
    while engine.epoch + <double>k < time:
        k += 1
    return engine.epoch_round + k


cdef inline int64_t due(const Engine* engine, const Request* r) noexcept nogil:
    # The last round of a running request if nobody evicts it: its output, its cap or what the lottery drew is reached.
    cdef int64_t length = r.output
    cdef int64_t limit
    if engine.problem.cap != REFINE_NONE and (engine.problem.capped == NULL or engine.problem.capped[r.index]):
        limit = engine.shed_at[r - engine.requests] if engine.problem.shed else r.bound
        length = min(length, limit)
    return r.birth + length - 1


cdef inline int64_t earliest_due(const Engine* engine) noexcept nogil:
    # The round in which the first of all running requests is due.
    cdef int64_t bucket, round, earliest = NEVER
    cdef int32_t p
    for bucket in range(engine.wheel.mask + 1):
        p = engine.wheel.buckets[bucket].head
        while p != NONE:
            round = due(engine, &engine.requests[p])
            if round < earliest:
                earliest = round
            p = engine.requests[p].next
    return earliest


cdef inline int64_t charged_context(const Engine* engine) noexcept nogil:
    # Tokens of context that the clock charges the coming round for.
    if engine.problem.as_processed:
        return engine.served_context
    return engine.used if engine.problem.clock.context_all else engine.used - engine.prompts


cdef inline int64_t run_rounds(Engine* engine, int64_t rounds) noexcept nogil:
    # Lets time pass: up to `rounds` rounds, or with a clock until somebody arrives. Returns how many.
    cdef const Clock* clock = &engine.problem.clock
    cdef double fixed, duration, arrival, time
    cdef int64_t context, requests, k
    if not engine.problem.clocked:
        if engine.problem.record_tokens:
            for k in range(rounds):
                engine.round_end[engine.round + k] = engine.epoch + <double>(engine.round + k + 1 - engine.epoch_round)
        return rounds
    arrival = next_arrival(engine) if engine.arrived < engine.problem.n else INFINITY
    requests = engine.served_requests if engine.problem.as_processed else engine.running
    fixed = clock.base + clock.per_request * <double>requests
    context = charged_context(engine)
    time = engine.time
    for k in range(rounds):
        duration = fixed + clock.per_context_token * <double>context
        if k == 0:
            duration += clock.per_prompt_token * <double>engine.prefilled
            duration += clock.per_swapped_token * <double>engine.swapped
        time += duration
        if engine.problem.record_tokens:
            engine.round_end[engine.round + k] = time
        if arrival <= time:
            rounds = k + 1
            break
        context += engine.running
    engine.time = time
    return rounds


# The cache -----------------------------------------------------------------------------------------------------------


cdef inline int64_t residue(const Problem* problem, const Request* r) noexcept nogil:
    # Where a running request is in its last block: in round t it occupies this plus t tokens, modulo the block.
    cdef int64_t place = (r.prompt - r.birth + 1) % problem.block
    return place if place >= 0 else place + problem.block


cdef inline int64_t growing(const Engine* engine, int64_t round) noexcept nogil:
    # The residue of those that take a new block in the round after this one: their last block is full in it.
    return (engine.problem.block - round % engine.problem.block) % engine.problem.block


cdef inline void grow(Engine* engine, int64_t rounds) noexcept nogil:
    # The need of the coming round, and the peak, after `rounds` rounds. engine.round counts them already.
    cdef int64_t block = engine.problem.block
    cdef int64_t k, peak
    if block == 1:
        engine.need += rounds * engine.running
        peak = engine.need - engine.running
    else:
        peak = engine.need
        k = (rounds - 1) // block
        engine.need += k * block * engine.running
        for k in range(engine.round - rounds + k * block, engine.round):
            peak = engine.need
            engine.need += block * engine.residues[growing(engine, k)]
    if peak > engine.peak_memory:
        engine.peak_memory = peak


cdef inline int64_t rounds_that_fit(const Engine* engine) noexcept nogil:
    # How many rounds run before the cache overflows, if nothing leaves or enters. At least one, as the coming one fits.
    cdef const Problem* problem = engine.problem
    cdef int64_t periods = (problem.memory - engine.need) // (problem.block * engine.running)
    cdef int64_t need, k = 0
    if problem.block == 1:
        return periods + 1
    need = engine.need + periods * problem.block * engine.running
    for k in range(problem.block):
        need += problem.block * engine.residues[growing(engine, engine.round + k)]
        if need > problem.memory:
            break
    return periods * problem.block + k + 1


cdef inline bint too_full(const Engine* engine) noexcept nogil:
    # Whether less than `headroom` tokens are free for each running request. One alone always has enough.
    cdef const Problem* problem = engine.problem
    cdef int64_t block = problem.block, tokens, rest, k
    if problem.headroom == 1:
        return engine.need > problem.memory
    if engine.running <= 1:
        return False
    tokens = engine.used + problem.headroom * engine.running
    for k in range(block if block > 1 else 0):
        rest = (k + engine.round + problem.headroom - 1) % block
        tokens += engine.residues[k] * ((block - rest) % block)
    return tokens > problem.memory

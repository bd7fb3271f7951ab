# What a run writes down on request: segments of the timeline, attempts, the ends of rounds. Each function returns OK or
# NO_MEMORY.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from llmsched._core cimport Attempt, Chunk, Engine, Problem, Segment
from llmsched._engine.request cimport Request
from llmsched._engine.rounds cimport charged_context, now, run_rounds
from llmsched._engine.status cimport NO_MEMORY, OK


cdef inline int new_segment(Engine* engine) noexcept nogil:
    # Makes the last segment the one that the coming rounds belong to: as it is, where nothing but the cache grew since,
    # else a new one of no rounds yet. OK or NO_MEMORY.
    cdef Segment* last
    cdef Segment* block
    cdef int64_t context = charged_context(engine) if engine.problem.clocked else OK
    cdef int64_t batch = engine.served_requests if engine.problem.as_processed else engine.running
    cdef int64_t grown
    if engine.segments_size > 0 and engine.evictions_this_round == 0:
        last = &engine.segments[engine.segments_size - 1]
        grown = last.rounds * last.batch
        if (
            last.epoch == engine.epoch and last.batch == batch and last.waiting == engine.waiting
            and last.memory + grown == engine.need
            and (not engine.problem.clocked or last.context + grown == context)
            and (not engine.problem.clocked or engine.prefilled + engine.swapped == 0)
        ):
            return OK
    if engine.segments_size == engine.segments_allocated:
        engine.segments_allocated = max(2 * engine.segments_allocated, <int64_t>256)
        block = <Segment*>realloc(engine.segments, engine.segments_allocated * sizeof(Segment))
        if block == NULL:
            return NO_MEMORY
        engine.segments = block
    last = &engine.segments[engine.segments_size]
    engine.segments_size += 1
    memset(last, 0, sizeof(Segment))
    last.epoch = engine.epoch
    last.time = now(engine)
    last.memory = engine.need
    last.batch = batch
    last.waiting = engine.waiting
    last.evictions = engine.evictions_this_round
    if engine.problem.clocked:
        last.context = context
        last.prefilled = engine.prefilled
        last.swapped = engine.swapped
    return OK


cdef inline int record_attempt(Engine* engine, int32_t p) noexcept nogil:
    # A running request completes or leaves. OK or NO_MEMORY.
    return record_attempt_until(engine, p, engine.round)


cdef inline int record_attempt_until(Engine* engine, int32_t p, int64_t round) noexcept nogil:
    # The same where this is the first round without it.
    cdef const Request* r = &engine.requests[p]
    cdef Attempt* attempt
    cdef Attempt* block
    if engine.attempts_size == engine.attempts_allocated:
        engine.attempts_allocated = max(2 * engine.attempts_allocated, <int64_t>256)
        block = <Attempt*>realloc(engine.attempts, engine.attempts_allocated * sizeof(Attempt))
        if block == NULL:
            return NO_MEMORY
        engine.attempts = block
    attempt = &engine.attempts[engine.attempts_size]
    engine.attempts_size += 1
    attempt.request = r.index
    attempt.kept = engine.kept[p]
    attempt.first_round = r.birth + attempt.kept if engine.prefills == NULL else engine.prefills[p].first_round
    attempt.rounds = round - attempt.first_round
    attempt.generated = engine.round - r.birth
    return OK


cdef inline int record_chunk(Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # Some of a request's tokens are prefilled in the coming round. OK or NO_MEMORY.
    cdef Chunk* block
    if engine.chunks_size == engine.chunks_allocated:
        engine.chunks_allocated = max(2 * engine.chunks_allocated, <int64_t>256)
        block = <Chunk*>realloc(engine.chunks, engine.chunks_allocated * sizeof(Chunk))
        if block == NULL:
            return NO_MEMORY
        engine.chunks = block
    engine.chunks[engine.chunks_size].chunk_request = engine.requests[p].index
    engine.chunks[engine.chunks_size].chunk_round = engine.round
    engine.chunks[engine.chunks_size].chunk_tokens = tokens
    engine.chunks_size += 1
    return OK


cdef inline int reserve_round_ends(Engine* engine, int64_t rounds) noexcept nogil:
    # Room for the ends of the coming rounds. OK or NO_MEMORY.
    cdef double* block
    if engine.round + rounds > engine.round_end_allocated:
        engine.round_end_allocated = 2 * (engine.round + rounds) + 256
        block = <double*>realloc(engine.round_end, engine.round_end_allocated * sizeof(double))
        if block == NULL:
            return NO_MEMORY
        engine.round_end = block
    return OK


cdef inline int64_t pass_rounds(Engine* engine, int64_t rounds) noexcept nogil:
    # Lets time pass, and writes down what is asked for: up to `rounds` rounds, or with a clock until somebody arrives.
    # Returns how many, or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    if problem.record_tokens and reserve_round_ends(engine, rounds) == NO_MEMORY:
        return NO_MEMORY
    if problem.record_timeline and new_segment(engine) == NO_MEMORY:
        return NO_MEMORY
    rounds = run_rounds(engine, rounds)
    engine.ticks += rounds >> 4 if problem.clocked else OK
    if problem.record_timeline:
        engine.segments[engine.segments_size - 1].rounds += rounds
    return rounds

# What a run writes down on request: segments of the timeline, attempts, the ends of rounds. Each function returns 0, or
# -1 without memory.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from llmsched._core cimport Attempt, Chunk, Engine, Segment
from llmsched._engine.request cimport Request
from llmsched._engine.rounds cimport charged_context, now


cdef inline int new_segment(Engine* engine) noexcept nogil:
    # Makes the last segment the one that the coming rounds belong to: as it is, where nothing but the cache grew since,
    # else a new one of no rounds yet. 0, or -1 without memory.
    cdef Segment* last
    cdef Segment* block
    cdef int64_t context = charged_context(engine) if engine.task.clocked else 0
    cdef int64_t grown
    if engine.segments_size > 0 and engine.leavers == 0:
        last = &engine.segments[engine.segments_size - 1]
        grown = last.rounds * last.batch
        if (
            last.epoch == engine.epoch and last.batch == engine.running and last.waiting == engine.waiting
            and last.memory + grown == engine.need
            and (not engine.task.clocked or last.context + grown == context)
            and (not engine.task.clocked or engine.prefilled + engine.swapped == 0)
        ):
            return 0
    if engine.segments_size == engine.segments_room:
        engine.segments_room = max(2 * engine.segments_room, <int64_t>256)
        block = <Segment*>realloc(engine.segments, engine.segments_room * sizeof(Segment))
        if block == NULL:
            return -1
        engine.segments = block
    last = &engine.segments[engine.segments_size]
    engine.segments_size += 1
    memset(last, 0, sizeof(Segment))
    last.epoch = engine.epoch
    last.time = now(engine)
    last.memory = engine.need
    last.batch = engine.running
    last.waiting = engine.waiting
    last.evictions = engine.leavers
    if engine.task.clocked:
        last.context = context
        last.prefilled = engine.prefilled
        last.swapped = engine.swapped
    return 0


cdef inline int record_attempt(Engine* engine, int32_t p) noexcept nogil:
    # A running request completes or leaves. 0, or -1 without memory.
    cdef const Request* r = &engine.requests[p]
    cdef Attempt* attempt
    cdef Attempt* block
    if engine.attempts_size == engine.attempts_room:
        engine.attempts_room = max(2 * engine.attempts_room, <int64_t>256)
        block = <Attempt*>realloc(engine.attempts, engine.attempts_room * sizeof(Attempt))
        if block == NULL:
            return -1
        engine.attempts = block
    attempt = &engine.attempts[engine.attempts_size]
    engine.attempts_size += 1
    attempt.request = r.index
    attempt.kept = engine.kept[p]
    attempt.first_round = r.birth + attempt.kept if engine.prefills == NULL else engine.prefills[p].since
    attempt.rounds = engine.round - attempt.first_round
    attempt.generated = engine.round - r.birth
    return 0


cdef inline int record_chunk(Engine* engine, int32_t p, int64_t tokens) noexcept nogil:
    # Some of a request's tokens are prefilled in the coming round. 0, or -1 without memory.
    cdef Chunk* block
    if engine.chunks_size == engine.chunks_room:
        engine.chunks_room = max(2 * engine.chunks_room, <int64_t>256)
        block = <Chunk*>realloc(engine.chunks, engine.chunks_room * sizeof(Chunk))
        if block == NULL:
            return -1
        engine.chunks = block
    engine.chunks[engine.chunks_size].chunk_request = engine.requests[p].index
    engine.chunks[engine.chunks_size].chunk_round = engine.round
    engine.chunks[engine.chunks_size].chunk_tokens = tokens
    engine.chunks_size += 1
    return 0


cdef inline int reserve_round_ends(Engine* engine, int64_t rounds) noexcept nogil:
    # Room for the ends of the coming rounds. 0, or -1 without memory.
    cdef double* block
    if engine.round + rounds > engine.round_end_room:
        engine.round_end_room = 2 * (engine.round + rounds) + 256
        block = <double*>realloc(engine.round_end, engine.round_end_room * sizeof(double))
        if block == NULL:
            return -1
        engine.round_end = block
    return 0

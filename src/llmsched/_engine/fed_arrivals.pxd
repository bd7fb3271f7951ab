# Arrivals of an engine that is fed: a router sends requests one after the other, in order of arrival, and may want to
# see what the engine does meanwhile. So it runs only as far as nothing that is yet to be sent could change.
#
# The queue, of indices, holds from engine.arrived on the requests that were sent and have not joined, then index 0,
# nobody's, whose arrival is the time up to which all arrivals are known: the engine sees it as one more arrival, at
# which it stops. A round that ends later is in progress: who completes with it is still there.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, realloc
from libc.string cimport memmove, memset

from llmsched._core cimport Engine
from llmsched._engine.closed_loop cimport begin_to_think
from llmsched._engine.rounds cimport next_arrival, now
from llmsched._engine.shared_queue cimport is_offered
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    FEW = 64    # requests that are gone and worth moving the others for
    AHEAD = 64  # places behind the last that look_ahead() may fetch


cdef inline double known_until(const Engine* engine) noexcept nogil:
    # The time before which no request will arrive that was not sent yet.
    return engine.problem.arrival[0]


cdef inline double next_round_begins(const Engine* engine) noexcept nogil:
    # Where nobody is there and nobody is known to come, that is known_until(), or later.
    if engine.running == 0 and engine.waiting == 0 and not is_offered(engine):
        return max(now(engine), next_arrival(engine))
    return now(engine)


cdef inline bint stands_still(const Engine* engine) noexcept nogil:
    # Whether it has nothing to do before known_until().
    if engine.unfinished == 0:
        return True
    return engine.in_progress and engine.ends > known_until(engine)


cdef inline int32_t** queue_of(Engine* engine) noexcept nogil:
    # Where those that wait and never ran need no heap, they stay in the queue: it is the order of admission.
    return &engine.order if engine.in_place else &engine.by_arrival


cdef inline int queue_init(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int32_t** queue = queue_of(engine)
    engine.queue_allocated = FEW
    queue[0] = <int32_t*>calloc(FEW + AHEAD, sizeof(int32_t))
    if queue[0] == NULL:
        return NO_MEMORY
    engine.queue_size = 1
    return OK


cdef inline int64_t queued(const Engine* engine) noexcept nogil:
    # Requests that were sent and have not joined.
    return engine.queue_size - 1 - engine.arrived


cdef inline int queue_add(Engine* engine, int32_t index) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int32_t** queue = queue_of(engine)
    cdef int64_t gone = engine.fresh if engine.in_place else engine.arrived
    cdef int32_t* block
    if gone > 0 and (gone == engine.queue_size - 1 or (gone >= FEW and 2 * gone >= engine.queue_size)):
        engine.queue_size -= gone
        memmove(queue[0], queue[0] + gone, engine.queue_size * sizeof(int32_t))
        engine.arrived -= gone
        engine.fresh -= gone if engine.in_place else OK
    if engine.queue_size == engine.queue_allocated:
        block = <int32_t*>realloc(queue[0], (2 * engine.queue_allocated + AHEAD) * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        memset(block + engine.queue_allocated, 0, (engine.queue_allocated + AHEAD) * sizeof(int32_t))
        queue[0] = block
        engine.queue_allocated *= 2
    queue[0][engine.queue_size - 1] = index
    queue[0][engine.queue_size] = 0
    engine.queue_size += 1
    engine.unfinished += 1
    return OK


cdef inline int note_completed(Engine* engine, int32_t index) noexcept nogil:
    # For whoever feeds the engine, or, in a closed loop, for the turn after it. OK or NO_MEMORY.
    cdef int32_t* block
    if not engine.fed:
        begin_to_think(engine, index)
        return OK
    if engine.completed_size == engine.completed_allocated:
        block = <int32_t*>realloc(engine.completed, (2 * engine.completed_allocated + FEW) * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        engine.completed = block
        engine.completed_allocated = 2 * engine.completed_allocated + FEW
    engine.completed[engine.completed_size] = index
    engine.completed_size += 1
    return OK

# Arrivals of an engine that is fed: a router sends requests one after the other, in order of arrival, and may want to see
# what the engine does meanwhile. So it runs only as far as nothing that is yet to be sent could change.
#
# engine.by_arrival[engine.arrived:engine.queue_size] are the requests that were sent and have not joined, then index 0,
# nobody's, whose arrival is the time up to which all arrivals are known: the engine sees it as one more arrival, at
# which it stops. A round that ends later is in progress: who completes with it is still there.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

from llmsched._core cimport Engine
from llmsched._engine.rounds cimport next_arrival, now
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    FEW = 64    # requests that joined and are worth moving the others for


cdef inline double known_until(const Engine* engine) noexcept nogil:
    # The time before which no request will arrive that was not sent yet.
    return engine.problem.arrival[0]


cdef inline double next_round_begins(const Engine* engine) noexcept nogil:
    # Where nobody is there and nobody is known to come, that is known_until(), or later.
    if engine.running == 0 and engine.waiting == 0:
        return max(now(engine), next_arrival(engine))
    return now(engine)


cdef inline bint stands_still(const Engine* engine) noexcept nogil:
    # Whether it has nothing to do before known_until().
    if engine.unfinished == 0:
        return True
    return engine.in_progress and engine.ends > known_until(engine)


cdef inline int queue_init(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY.
    engine.queue_allocated = FEW
    engine.by_arrival = <int32_t*>realloc(NULL, FEW * sizeof(int32_t))
    if engine.by_arrival == NULL:
        return NO_MEMORY
    engine.by_arrival[0] = 0
    engine.queue_size = 1
    return OK


cdef inline int64_t queued(const Engine* engine) noexcept nogil:
    # Requests that were sent and have not joined.
    return engine.queue_size - 1 - engine.arrived


cdef inline int queue_add(Engine* engine, int32_t index) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int32_t* block
    if engine.arrived >= FEW and 2 * engine.arrived >= engine.queue_size or queued(engine) == 0:
        engine.queue_size -= engine.arrived
        memmove(engine.by_arrival, engine.by_arrival + engine.arrived, engine.queue_size * sizeof(int32_t))
        engine.arrived = 0
    if engine.queue_size == engine.queue_allocated:
        block = <int32_t*>realloc(engine.by_arrival, 2 * engine.queue_allocated * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        engine.by_arrival = block
        engine.queue_allocated *= 2
    engine.by_arrival[engine.queue_size - 1] = index
    engine.by_arrival[engine.queue_size] = 0
    engine.queue_size += 1
    engine.unfinished += 1
    return OK


cdef inline int note_completed(Engine* engine, int32_t index) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int32_t* block
    if engine.completed_size == engine.completed_allocated:
        block = <int32_t*>realloc(engine.completed, (2 * engine.completed_allocated + FEW) * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        engine.completed = block
        engine.completed_allocated = 2 * engine.completed_allocated + FEW
    engine.completed[engine.completed_size] = index
    engine.completed_size += 1
    return OK

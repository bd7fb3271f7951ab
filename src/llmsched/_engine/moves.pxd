# Who was admitted in a round, and who left: for an engine that is driven from outside.

from libc.stdint cimport int32_t
from libc.stdlib cimport realloc

from llmsched._core cimport Engine
from llmsched._engine.status cimport NO_MEMORY, OK


cdef inline void note_move(Engine* engine, int32_t p) noexcept nogil:
    # It was admitted.
    engine.admitted[engine.admitted_size] = p
    engine.admitted_size += 1


cdef inline int reserve_moves(Engine* engine) noexcept nogil:
    # Each request is admitted, and leaves, at most once in a round. OK or NO_MEMORY.
    cdef int32_t* block = <int32_t*>realloc(engine.admitted, engine.requests_allocated * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    engine.admitted = block
    block = <int32_t*>realloc(engine.leavers, engine.requests_allocated * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    engine.leavers = block
    return OK

# Replicas run, as far as arrivals are known, and those who completed with it are written down.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine, engine_advance
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.request cimport NONE
from llmsched._engine.status cimport FINISHED, NO_MEMORY, OK, RUNNING, WAITING
from llmsched._engine.waiting_heap cimport Entry, heap_push
from llmsched.fleet._fleet cimport AGAIN, STEPS_PER_LOOK, Completed, FleetState, Pool, Replica
from llmsched.fleet._parts.foresight cimport look_again
from llmsched.fleet._parts.slots cimport free_slot, grown, id_of


cdef inline int advance(FleetState* fleet, int32_t k) noexcept nogil:
    # As far as arrivals are known. OK, AGAIN, or what is wrong: then it is `failed`.
    cdef Engine* engine = &fleet.replicas[k].engine
    cdef int status = engine_advance(engine, STEPS_PER_LOOK)
    if engine.completed_size > 0 and collect(fleet, k) == NO_MEMORY:
        return NO_MEMORY
    look_again(fleet, k)
    if status == WAITING or status == FINISHED:
        return OK
    if status == RUNNING:
        return AGAIN
    fleet.failed = k
    return status


cdef inline int collect(FleetState* fleet, int32_t k) noexcept nogil:
    # What became of those who completed; their slots are free then. OK or NO_MEMORY.
    cdef Replica* replica = &fleet.replicas[k]
    cdef Pool* pool = &fleet.pools[replica.pool]
    cdef int64_t j, id
    cdef int32_t s
    cdef Completed* done
    for j in range(replica.engine.completed_size):
        s = replica.engine.completed[j]
        id = id_of(pool, s)
        if fleet.completion != NULL:
            if not pool.lent:
                fleet.completion[id] = pool.rules.completion[s]
                fleet.start[id] = pool.rules.start[s]
                fleet.evictions[id] = pool.rules.evictions[s]
                if fleet.cached != NULL and pool.rules.cached_prefixes:
                    fleet.cached[id] = pool.rules.cached[s]
            if fleet.next_turn != NULL and fleet.next_turn[id] != NONE:
                if comes(fleet, fleet.next_turn[id], pool.rules.completion[s] + fleet.think[fleet.next_turn[id]]):
                    return NO_MEMORY
        else:
            if fleet.done_size == fleet.done_allocated:
                fleet.done_allocated = 2 * fleet.done_allocated + 1024
                if not grown(<void**>&fleet.done, fleet.done_allocated * sizeof(Completed)):
                    return NO_MEMORY
            done = &fleet.done[fleet.done_size]
            done.id = id
            done.arrival = pool.rules.arrival[s]
            done.start = pool.rules.start[s]
            done.completion = pool.rules.completion[s]
            done.evictions = pool.rules.evictions[s]
            done.output = pool.rules.output[s]
            done.replica = k
            fleet.done_size += 1
        if fleet.sees_work:
            replica.believed -= pool.work[s]
        if not fleet.record_tokens and not pool.lent:  # else the log names requests by their slots
            free_slot(pool, s)
    fleet.completed_requests += replica.engine.completed_size
    replica.engine.completed_size = 0
    return OK


cdef inline int comes(FleetState* fleet, int64_t id, double time) noexcept nogil:
    # It is known when this request arrives. OK or NO_MEMORY.
    fleet.arrives[id] = time
    return heap_push(&fleet.coming, Entry(<int32_t>id, <int32_t>id, double_key(time)))

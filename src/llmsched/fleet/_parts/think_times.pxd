# Think times (model.md, section 3): completions decide when the next turns come, so replicas run in order of time.

from libc.math cimport INFINITY, nextafter
from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine
from llmsched._engine.fed_arrivals cimport next_round_begins
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.waiting_heap cimport Entry, heap_pop, heap_push
from llmsched.fleet._fleet cimport AGAIN, FleetState
from llmsched.fleet._parts.running cimport advance, comes
from llmsched.fleet._parts.sending cimport know, send_one


cdef inline double goes_on(const Engine* engine) noexcept nogil:
    # When its round in progress ends, or just after its next one begins.
    return engine.ends if engine.in_progress else nextafter(next_round_begins(engine), INFINITY)


cdef inline int watch(FleetState* fleet, int32_t k) noexcept nogil:
    # When a replica goes on, if nothing comes: as its round in progress ends, or just after its next one begins. OK
    # or NO_MEMORY.
    cdef const Engine* engine = &fleet.replicas[k].engine
    if engine.unfinished == 0:
        return OK
    return heap_push(&fleet.events, Entry(k, k, double_key(goes_on(engine))))


cdef inline int next_event(FleetState* fleet) noexcept nogil:
    # The next request is sent, or, if that comes first, a replica runs on by a round: nothing that is yet to come
    # may arrive before the time up to which they have run. OK, AGAIN, or what is wrong.
    cdef Entry entry
    cdef int status
    cdef int64_t id
    cdef double time
    while fleet.events.size > 0:
        entry = fleet.events.entries[0]
        time = goes_on(&fleet.replicas[entry.who].engine)
        if fleet.replicas[entry.who].engine.unfinished == 0 or double_key(time) != entry.key:
            heap_pop(&fleet.events)  # something came meanwhile
            continue
        if fleet.coming.size > 0 and entry.key > fleet.coming.entries[0].key:
            break
        if know(fleet, time) == NO_MEMORY:
            return NO_MEMORY
        status = advance(fleet, entry.who)
        if status != OK:
            return status
        heap_pop(&fleet.events)
        return watch(fleet, entry.who)
    id = fleet.coming.entries[0].who
    heap_pop(&fleet.coming)
    status = send_one(fleet, id)
    if status == OK:
        fleet.sent += 1
        return watch(fleet, fleet.replica_of[id])
    if status == AGAIN and comes(fleet, id, fleet.arrives[id]) == NO_MEMORY:
        return NO_MEMORY
    return status

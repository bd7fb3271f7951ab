# A request is sent: what came before is known, a replica is chosen, and its engine learns of it, with a delay later.

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memmove

from llmsched._core cimport engine_feed
from llmsched._engine.fed_arrivals cimport queued
from llmsched._engine.request cimport NONE
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched.fleet._fleet cimport LONGEST_QUEUE, FleetState, Replica, Sent
from llmsched.fleet._parts.foresight cimport see_sent
from llmsched.fleet._parts.routing cimport choose
from llmsched.fleet._parts.running cimport advance
from llmsched.fleet._parts.slots cimport fill_slot, grown


cdef inline int know(FleetState* fleet, double time) noexcept nogil:
    # All arrivals before this time are known, and those that were sent are seen. OK or NO_MEMORY.
    cdef const Sent* sent
    cdef int k
    fleet.known = time
    for k in range(fleet.pools_size):
        if fleet.pools[k].allocated > 0:
            (<double*>fleet.pools[k].rules.arrival)[0] = time
    while fleet.in_flight_first < fleet.in_flight_size:
        sent = &fleet.in_flight[fleet.in_flight_first]
        if fleet.pools[fleet.replicas[sent.replica].pool].rules.arrival[sent.slot] > time:
            break
        if deliver(fleet, sent.replica, sent.slot) == NO_MEMORY:
            return NO_MEMORY
        fleet.in_flight_first += 1
    if 2 * fleet.in_flight_first > fleet.in_flight_size:
        fleet.in_flight_size -= fleet.in_flight_first
        memmove(fleet.in_flight, fleet.in_flight + fleet.in_flight_first, fleet.in_flight_size * sizeof(Sent))
        fleet.in_flight_first = 0
    return OK


cdef inline int send_one(FleetState* fleet, int64_t i) noexcept nogil:
    # OK, AGAIN, or what is wrong.
    cdef int32_t k = NONE
    cdef int status
    fleet.asked = fleet.base + i
    if know(fleet, fleet.arrival[i] - fleet.delay) == NO_MEMORY:
        return NO_MEMORY
    if fleet.piled != NONE:
        status = advance(fleet, fleet.piled)
        if status != OK:
            return status
        fleet.piled = NONE
    status = choose(fleet, i, &k)
    if status != OK:
        return status
    fleet.drawn = False
    if hand_over(fleet, i, k) == NO_MEMORY:
        return NO_MEMORY
    fleet.replica_of[i] = k
    if fleet.session_of != NULL:
        fleet.session_table[fleet.session_of[i]] = k
    return OK


cdef inline int hand_over(FleetState* fleet, int64_t i, int32_t k) noexcept nogil:
    # OK or NO_MEMORY.
    cdef Replica* replica = &fleet.replicas[k]
    cdef int32_t s = fill_slot(fleet, i, replica.pool, replica.sent)
    if s == NONE:
        return NO_MEMORY
    replica.sent += 1
    if fleet.delay == 0:
        return deliver(fleet, k, s)
    if fleet.in_flight_size == fleet.in_flight_allocated:
        fleet.in_flight_allocated = 2 * fleet.in_flight_allocated + 1024
        if not grown(<void**>&fleet.in_flight, fleet.in_flight_allocated * sizeof(Sent)):
            return NO_MEMORY
    fleet.in_flight[fleet.in_flight_size].replica = k
    fleet.in_flight[fleet.in_flight_size].slot = s
    fleet.in_flight_size += 1
    return OK


cdef inline int deliver(FleetState* fleet, int32_t k, int32_t s) noexcept nogil:
    # The engine learns of a request that was sent, and the router sees it. OK or NO_MEMORY.
    if fleet.sees_work:
        fleet.replicas[k].believed += fleet.pools[fleet.replicas[k].pool].work[s]
    if queued(&fleet.replicas[k].engine) >= LONGEST_QUEUE:
        fleet.piled = k
    see_sent(fleet, k, s)
    return engine_feed(&fleet.replicas[k].engine, s)

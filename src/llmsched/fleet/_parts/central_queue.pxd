# The central queue: a request stays in it until a replica admits it.

from libc.math cimport INFINITY, nextafter
from libc.stdint cimport INT64_MAX, int32_t, int64_t

from llmsched._core cimport Engine, engine_idle_until
from llmsched._engine.fed_arrivals cimport stands_still
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport now
from llmsched._engine.shared_queue cimport is_offered, shared_add
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.waiting cimport entry_of
from llmsched._engine.waiting_heap cimport Entry
from llmsched.fleet._fleet cimport AGAIN, ROUNDS_PER_LOOK, FleetState, Replica
from llmsched.fleet._parts.routing cimport pool_fits
from llmsched.fleet._parts.running cimport advance
from llmsched.fleet._parts.sending cimport know
from llmsched.fleet._parts.slots cimport fill_slot, free_slot, grown


cdef inline bint is_idle(const Engine* engine) noexcept nogil:
    return engine.running == 0 and engine.waiting == 0


cdef inline int queue_one(FleetState* fleet, int64_t i) noexcept nogil:
    # A request comes into the queue, after all rounds that begin before. OK, AGAIN, or what is wrong.
    cdef int32_t k, s, row
    cdef int which
    cdef Entry entry
    cdef int status = serve_queue(fleet, fleet.arrival[i])
    if status == OK and fleet.queue.heap.size == 0:  # so far replicas ran on by themselves
        status = know(fleet, fleet.arrival[i])
        for k in range(fleet.replicas_size):
            if status == OK and not stands_still(&fleet.replicas[k].engine):
                status = advance(fleet, k)
    if status != OK:
        return status
    row = new_row(fleet)
    if row == NONE:
        return NO_MEMORY
    for which in range(fleet.pools_size):
        s = fill_slot(fleet, i, which, 0)
        if s == NONE:
            return NO_MEMORY
        fleet.queue.indices[<int64_t>row * fleet.pools_size + which] = s if pool_fits(fleet, i, which) else ~s
    s = fleet.queue.indices[<int64_t>row * fleet.pools_size]
    entry = entry_of(&fleet.replicas[0].engine, max(s, ~s), NONE)  # all order alike, and replica 0 is of pool 0
    entry.who = row
    fleet.queue_time = fleet.arrival[i]
    return shared_add(&fleet.queue, entry)


cdef inline int32_t new_row(FleetState* fleet) noexcept nogil:
    # A row of the queue; NONE: no memory.
    cdef int32_t row = fleet.free_row
    cdef int64_t width = fleet.pools_size * sizeof(int32_t)
    if row != NONE:
        fleet.free_row = fleet.queue.indices[<int64_t>row * fleet.pools_size]
        return row
    if fleet.rows == fleet.rows_allocated:
        if not grown(<void**>&fleet.queue.indices, (2 * fleet.rows_allocated + 1024) * width):
            return NONE
        fleet.rows_allocated = 2 * fleet.rows_allocated + 1024
    fleet.rows += 1
    return fleet.rows - 1


cdef inline int serve_queue(FleetState* fleet, double before) noexcept nogil:
    # Every round that begins before that time while somebody is in the queue. OK, AGAIN, or what is wrong.
    cdef int64_t rounds = 0
    cdef double begins = 0.0
    cdef int32_t k = NONE
    cdef int status
    while fleet.queue.heap.size > 0:
        status = next_to_ask(fleet, before, &k, &begins)
        if status != OK or begins >= before:
            return status
        if rounds == ROUNDS_PER_LOOK:
            return AGAIN
        rounds += 1
        fleet.queue_time = begins
        if is_idle(&fleet.replicas[k].engine) and begins > now(&fleet.replicas[k].engine):
            engine_idle_until(&fleet.replicas[k].engine, begins)
        (<double*>fleet.pools[fleet.replicas[k].pool].rules.arrival)[0] = nextafter(begins, INFINITY)
        status = advance(fleet, k)
        give_away(fleet, k)
        if status != OK:
            return status
    return OK


cdef inline int next_to_ask(FleetState* fleet, double before, int32_t* chosen, double* begins) noexcept nogil:
    # Who begins the next round, with the fewest requests of those who do so then, and when; not before `before`
    # where that is too late. Rounds that end then are over. OK, AGAIN, or what is wrong.
    cdef Engine* engine
    cdef int64_t least
    cdef int32_t k
    cdef int status
    while True:
        begins[0] = INFINITY
        for k in range(fleet.replicas_size):
            begins[0] = min(begins[0], may_ask_at(fleet, k))
        if begins[0] >= before:
            return OK
        chosen[0] = NONE
        least = INT64_MAX
        for k in range(fleet.replicas_size):
            engine = &fleet.replicas[k].engine
            if may_ask_at(fleet, k) > begins[0]:
                continue
            if engine.in_progress:
                (<double*>fleet.pools[fleet.replicas[k].pool].rules.arrival)[0] = begins[0]
                status = advance(fleet, k)
                if status != OK:
                    return status
                if is_idle(engine) and not is_offered(engine):
                    continue
            if engine.running + engine.waiting < least:
                least = engine.running + engine.waiting
                chosen[0] = k
        if chosen[0] != NONE:
            return OK


cdef inline double may_ask_at(FleetState* fleet, int32_t k) noexcept nogil:
    # When a replica begins its next round, or could.
    cdef const Engine* engine = &fleet.replicas[k].engine
    if engine.in_progress:
        return engine.ends
    if is_idle(engine):
        return max(now(engine), fleet.queue_time) if is_offered(engine) else INFINITY
    return now(engine)


cdef inline void give_away(FleetState* fleet, int32_t k) noexcept nogil:
    # Those that a replica took are its own; nothing of them is left elsewhere.
    cdef Replica* replica = &fleet.replicas[k]
    cdef int64_t j, id
    cdef int32_t s, row
    cdef int which
    for j in range(fleet.queue.taken_size):
        row = fleet.queue.taken[j]
        for which in range(fleet.pools_size):
            s = fleet.queue.indices[<int64_t>row * fleet.pools_size + which]
            if which != replica.pool:
                free_slot(&fleet.pools[which], max(s, ~s))
                continue
            id = fleet.pools[which].ids[s]
            if id >= fleet.base:  # of an earlier chunk, whoever asked for completions learns it there
                fleet.replica_of[id - fleet.base] = k
        replica.sent += 1
        fleet.queue.indices[<int64_t>row * fleet.pools_size] = fleet.free_row
        fleet.free_row = row
    fleet.queue.taken_size = 0

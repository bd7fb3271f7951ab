# Until when what a router sees of a replica cannot change: its engine need not run for a look before that.
#
# For all routers that is so while a round is in progress, or nobody is there. One that counts requests sees completions
# alone, and none comes before the first of those that run, or of those that came since, has had its rounds. How long
# these last at least is known as long as nobody leaves early: where the cache has room for all until then.

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport REFINE_NONE, Engine, Problem
from llmsched._engine.fed_arrivals cimport queue_of
from llmsched._engine.rounds cimport charged_context, now
from llmsched._engine.timing_wheel cimport wheel_next
from llmsched.fleet._fleet cimport FleetState, Look, Pool, Replica


cdef inline bint may_foresee(const Problem* problem) noexcept nogil:
    # Whether a request leaves only as it completes or for overflow, and rounds last by who runs in them.
    return (
        problem.cap == REFINE_NONE and not problem.as_processed and problem.prefill_budget == 0
        and not problem.computes_formulas
    )


cdef inline double not_before(double time, int64_t rounds, double shortest) noexcept nogil:
    # A time before the end of so many rounds of at least that length, of which the first begins then or later. Each of
    # the sums that lead to it may be rounded down, by 2**-53 of itself.
    cdef double end = time + <double>rounds * shortest
    return end - end * (<double>rounds + 8) * 2.3e-16


cdef inline double shortest_round(const Engine* engine) noexcept nogil:
    # What the next rounds last at least, if nobody leaves.
    cdef const Problem* problem = engine.problem
    cdef double fixed
    if not problem.clocked:
        return 1.0
    fixed = problem.clock.base + problem.clock.per_request * <double>max(engine.running, <int64_t>1)
    return fixed + problem.clock.per_context_token * <double>charged_context(engine)


cdef inline int64_t rounds_to_the_limit(const Engine* engine) noexcept nogil:
    # After this one, before the run may have to stop.
    cdef const Problem* problem = engine.problem
    return min(problem.max_rounds, engine.last_change + problem.stall_limit) - engine.round - 1


cdef inline void look_again(FleetState* fleet, int32_t k) noexcept nogil:
    # The engine ran: what the router sees now, and until when.
    cdef Replica* replica = &fleet.replicas[k]
    cdef Engine* engine = &replica.engine
    cdef Look* look = &fleet.looks[k]
    cdef int64_t j
    look.requests = engine.unfinished
    look.begins = engine.ends if engine.in_progress else -INFINITY
    look.unchanged_until = look.begins if engine.unfinished > 0 else INFINITY
    replica.room = -1
    if not fleet.pools[replica.pool].foresees or engine.waiting > 0:
        return
    replica.ahead = rounds_to_the_limit(engine)
    replica.shortest = shortest_round(engine)
    if engine.unfinished == 0:
        look.begins = now(engine)
        replica.room = engine.problem.memory
    elif engine.in_progress:
        replica.ahead = min(replica.ahead, wheel_next(&engine.wheel, engine.round) - engine.round)
        replica.room = engine.problem.memory - engine.need - engine.running * (replica.ahead + engine.problem.block)
        look.unchanged_until = max(look.begins, not_before(look.begins, replica.ahead, replica.shortest))
        for j in range(engine.arrived, engine.queue_size - 1):
            foresee(replica, look, engine.problem, queue_of(engine)[0][j])
        if replica.room < 0:
            look.unchanged_until = look.begins


cdef inline void see_sent(FleetState* fleet, int32_t k, int32_t s) noexcept nogil:
    # A request came, which is in slot s, and the engine did not run.
    cdef Replica* replica = &fleet.replicas[k]
    cdef Look* look = &fleet.looks[k]
    look.requests += 1
    if replica.room >= 0:
        if look.unchanged_until == INFINITY:  # it is the first there
            replica.ahead = min(replica.ahead, fleet.pools[replica.pool].rules.output[s])
        foresee(replica, look, &fleet.pools[replica.pool].rules, s)
    if replica.room < 0:
        look.unchanged_until = look.begins


cdef inline void foresee(Replica* replica, Look* look, const Problem* rules, int32_t s) noexcept nogil:
    # A request has not joined those that run: when it completes at the earliest, and what it takes until then.
    cdef int64_t rounds = min(replica.ahead, rules.output[s])
    cdef double end = not_before(max(look.begins, rules.arrival[s]), rounds, replica.shortest)
    look.unchanged_until = min(look.unchanged_until, end)
    replica.room -= rules.prompt[s] + replica.ahead + 1 + rules.block

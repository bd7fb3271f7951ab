# What a router sees of a replica, as one number: the smaller, the better.

from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport Engine
from llmsched._engine.fed_arrivals cimport queued
from llmsched._engine.formula cimport (
    NAME_BELIEVED_WORK, NAME_CACHED, NAME_FREE, NAME_MEMORY, NAME_REQUESTS, NAME_RUNNING, NAME_SPEED, NAME_USED,
    NAME_WAITING, NAMES, formula_value,
)
from llmsched._engine.prefix_cache cimport tokens_cached
from llmsched._engine.request cimport NONE
from llmsched.fleet._fleet cimport (
    BELIEVED_WORK, IDLE, REQUESTS, USED, WAITING_REQUESTS, FleetState, Replica,
)


cdef inline int64_t work_left(const Replica* replica) noexcept nogil:
    # What is believed of the requests that are there, less what those that run have generated; at least 0.
    return max(replica.believed - generated_by_running(&replica.engine), <int64_t>0)


cdef inline int64_t generated_by_running(const Engine* engine) noexcept nogil:
    # Tokens, as of the start of the round in progress.
    cdef int64_t generated = 0
    cdef int32_t p = engine.oldest
    if not engine.problem.as_processed:
        return engine.used - engine.prompts
    while p != NONE:
        generated += engine.round - engine.requests[p].birth
        if engine.in_progress and engine.prefills[p].granted > 0 and engine.prefills[p].to_prefill == 0:
            generated -= 1
        p = engine.requests[p].newer
    return generated


cdef inline double score_of(FleetState* fleet, int64_t i, int32_t k) noexcept nogil:
    # The smaller, the better; NaN where a formula has no value.
    cdef const Replica* replica = &fleet.replicas[k]
    cdef const Engine* engine = &replica.engine
    cdef int64_t requests = fleet.looks[k].requests
    cdef int64_t waiting
    if fleet.rule == IDLE:
        return 1.0 if requests > 0 else 0.0
    if fleet.score == REQUESTS:
        return <double>requests
    waiting = engine.waiting + queued(engine)
    if fleet.score == WAITING_REQUESTS:
        return <double>waiting
    if fleet.score == USED:
        return <double>engine.need
    if fleet.score == BELIEVED_WORK:
        return <double>work_left(replica)
    for name in range(<int>NAMES):
        if fleet.request_columns[name] != NULL:
            fleet.cells[name] = fleet.request_columns[name][i]
    fleet.cells[<int>NAME_MEMORY] = <double>engine.problem.memory
    fleet.cells[<int>NAME_REQUESTS] = <double>requests
    fleet.cells[<int>NAME_RUNNING] = <double>engine.running
    fleet.cells[<int>NAME_WAITING] = <double>waiting
    fleet.cells[<int>NAME_USED] = <double>engine.need
    fleet.cells[<int>NAME_FREE] = <double>(engine.problem.memory - engine.need)
    fleet.cells[<int>NAME_SPEED] = replica.speed
    if fleet.sees_cached:
        fleet.cells[<int>NAME_CACHED] = <double>tokens_cached(engine, &fleet.pools[replica.pool].source, i)
    if fleet.sees_work:
        fleet.cells[<int>NAME_BELIEVED_WORK] = <double>work_left(replica)
    return formula_value(&fleet.formula, fleet.cells)

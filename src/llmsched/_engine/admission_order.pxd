# In which order requests are looked at: the initial admission order, and that of arrivals. OK or NO_MEMORY.

from libc.stdint cimport INT64_MIN, int32_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from llmsched._core cimport (
    ORDER_ARRIVAL, ORDER_AREA, ORDER_BOUND, ORDER_FORMULA, ORDER_KEYS, ORDER_OVER_TIME, ORDER_QUEUE, ORDER_TABLE,
    Engine, Problem,
)
from llmsched._engine.allocation cimport allocate, prefetch, prefetch_to_write
from llmsched._engine.belief cimport length_of_class
from llmsched._engine.check cimport check
from llmsched._engine.formula cimport FOR_ORDER
from llmsched._engine.numpy_permutation cimport permutation
from llmsched._engine.policy_formulas cimport value_for
from llmsched._engine.radix_sort cimport double_key, sort_places
from llmsched._engine.request cimport NEVER_RAN, NONE
from llmsched._engine.rounds cimport arrival_of, now
from llmsched._engine.status cimport NO_MEMORY, OK


cdef enum:
    LOOK_AHEAD = 16     # how many places ahead of its turn a request's numbers are fetched


cdef inline int64_t area_key(int64_t prompt, int64_t bound) noexcept nogil:
    return double_key(<double>(prompt + bound) * <double>bound)


cdef inline int64_t admission_key(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # The key of a request that joins the waiting set, the smallest first; p is its number, or NONE where it never ran.
    cdef const Problem* problem = engine.problem
    cdef int32_t i
    if engine.rank == NULL:
        return place
    i = engine.order[place] if p == NONE else engine.requests[p].index
    if problem.urgent != NULL and problem.urgent[i]:
        return INT64_MIN
    if problem.order == ORDER_BOUND:
        return problem.bound[i] if p == NONE else engine.requests[p].bound
    if problem.order == ORDER_AREA:
        if p == NONE:
            return area_key(problem.prompt[i], problem.bound[i])
        return area_key(engine.requests[p].prompt, engine.requests[p].bound)
    if problem.order == ORDER_TABLE:
        return length_of_class(&engine.belief, i, 0 if p == NONE else engine.belief.known[p])
    if problem.order == ORDER_FORMULA:
        if p == NONE or engine.requests[p].previous == NEVER_RAN:
            return double_key(problem.real_keys[i])
        return double_key(value_for(engine, FOR_ORDER, p, i, engine.requests[p].kept))
    if problem.order == ORDER_OVER_TIME:
        return 0  # order_anew() says, in every round
    if problem.order == ORDER_KEYS:  # of an engine that is driven: a simulation knows the places of all
        return problem.keys[i] if problem.real_keys == NULL else double_key(problem.real_keys[i])
    if problem.order == ORDER_ARRIVAL:
        return double_key(problem.arrival[i])
    check(problem.order == ORDER_QUEUE)
    if p == NONE or engine.requests[p].previous == NEVER_RAN:
        return double_key(arrival_of(engine, place))
    return double_key(now(engine))


cdef inline int order_requests(Engine* engine) noexcept nogil:
    # Fills order[]: the initial admission order, by key, ties by rank.
    cdef const Problem* problem = engine.problem
    cdef int64_t i, n = problem.n
    cdef int status = OK
    cdef int64_t* converted = NULL
    cdef const int64_t* keys = problem.bound if problem.order == ORDER_BOUND else problem.keys
    cdef const double* reals = problem.arrival
    if problem.order == ORDER_KEYS or problem.order == ORDER_FORMULA:
        reals = problem.real_keys
    engine.order = <int32_t*>allocate(n * sizeof(int32_t))
    engine.rank = <int32_t*>allocate(n * sizeof(int32_t))
    if engine.order == NULL or engine.rank == NULL:
        return NO_MEMORY
    if problem.seeded:
        permutation(problem.seed, engine.rank, n)
    else:
        for i in range(n):
            engine.rank[i] = <int32_t>i
    if problem.next_turn != NULL:  # nobody knows in which order they arrive: every place is an index
        for i in range(n):
            engine.order[i] = <int32_t>i
    if problem.last_of_equals:
        engine.last_rank = <int32_t*>allocate(n * sizeof(int32_t))
        if engine.last_rank == NULL:
            return NO_MEMORY
        memcpy(engine.last_rank, engine.rank, n * sizeof(int32_t))
    if problem.next_turn != NULL:
        return OK
    if keys == NULL and (reals != NULL or problem.order == ORDER_AREA):
        converted = <int64_t*>allocate(n * sizeof(int64_t))
        if converted == NULL:
            return NO_MEMORY
        for i in range(n):
            if problem.order == ORDER_AREA:
                converted[i] = area_key(problem.prompt[i], problem.bound[i])
            else:
                converted[i] = double_key(reals[i])
        keys = converted
    if keys != NULL:
        status = sort_places(keys, engine.rank, engine.order, n)
    else:
        for i in range(n):
            engine.order[engine.rank[i]] = <int32_t>i
    free(converted)
    if problem.order == ORDER_KEYS or problem.order == ORDER_ARRIVAL:  # a place never changes and says it all
        free(engine.rank)
        engine.rank = NULL
    return status


cdef inline int order_arrivals(Engine* engine) noexcept nogil:
    # Decides where waiting requests are kept. Where they arrive in the order of their places (all at once, or admission
    # is by arrival) those that never left need no heap: they are a range of places.
    cdef const Problem* problem = engine.problem
    cdef int64_t i, place, n = problem.n
    cdef bint together = True
    cdef int64_t* keys
    cdef int status
    if problem.arrival != NULL:
        for i in range(1, n):
            if problem.arrival[i] != problem.arrival[0]:
                together = False
                break
    engine.in_place = not problem.skip and problem.order != ORDER_OVER_TIME and (
        together or problem.order == ORDER_ARRIVAL or problem.order == ORDER_QUEUE
    )
    if together or problem.order == ORDER_ARRIVAL or problem.order == ORDER_QUEUE:
        return OK
    keys = <int64_t*>allocate(n * sizeof(int64_t))
    engine.by_arrival = <int32_t*>allocate(n * sizeof(int32_t))
    if keys == NULL or engine.by_arrival == NULL:
        free(keys)
        return NO_MEMORY
    for place in range(n):
        keys[place] = double_key(problem.arrival[engine.order[place]])
    status = sort_places(keys, NULL, engine.by_arrival, n)
    free(keys)
    return status


cdef inline void look_ahead(const Engine* engine, int64_t place) noexcept nogil:
    # Bring the numbers of a request near whose turn comes soon: in the workload's order they are a cache miss each.
    cdef const Problem* problem = engine.problem
    cdef int32_t i
    if place + LOOK_AHEAD >= problem.n:
        return
    i = engine.order[place + LOOK_AHEAD]
    prefetch(&problem.prompt[i])
    prefetch(&problem.output[i])
    if problem.bound != NULL:
        prefetch(&problem.bound[i])
    if problem.believed != NULL:
        prefetch(&problem.believed[i])
    if engine.rank != NULL:
        prefetch(&engine.rank[i])
    prefetch_to_write(&problem.start[i])
    prefetch_to_write(&problem.completion[i])

# In which order requests are looked at: the initial admission order, and that of arrivals. 0, or -1 without memory.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free

from llmsched._core cimport ORDER_ARRIVAL, ORDER_AREA, ORDER_BOUND, ORDER_KEYS, ORDER_QUEUE, Engine, Task
from llmsched._engine.allocation cimport allocate, prefetch, prefetch_to_write
from llmsched._engine.numpy_permutation cimport permutation
from llmsched._engine.radix_sort cimport double_key, sort_places


cdef enum:
    LOOK_AHEAD = 16     # how many places ahead of its turn a request's numbers are fetched


cdef inline int64_t area_key(int64_t prompt, int64_t bound) noexcept nogil:
    return double_key(<double>(prompt + bound) * <double>bound)


cdef inline int order_requests(Engine* engine) noexcept nogil:
    # Fills order[]: the initial admission order, by key, ties by rank.
    cdef const Task* task = engine.task
    cdef int64_t i, n = task.n
    cdef int status = 0
    cdef int64_t* converted = NULL
    cdef const int64_t* keys = task.bound if task.order == ORDER_BOUND else task.keys
    cdef const double* reals = task.real_keys if task.order == ORDER_KEYS else task.arrival
    engine.order = <int32_t*>allocate(n * sizeof(int32_t))
    engine.rank = <int32_t*>allocate(n * sizeof(int32_t))
    if engine.order == NULL or engine.rank == NULL:
        return -1
    if task.seeded:
        permutation(task.seed, engine.rank, n)
    else:
        for i in range(n):
            engine.rank[i] = <int32_t>i
    if keys == NULL and (reals != NULL or task.order == ORDER_AREA):
        converted = <int64_t*>allocate(n * sizeof(int64_t))
        if converted == NULL:
            return -1
        for i in range(n):
            converted[i] = area_key(task.prompt[i], task.bound[i]) if task.order == ORDER_AREA else double_key(reals[i])
        keys = converted
    if keys != NULL:
        status = sort_places(keys, engine.rank, engine.order, n)
    else:
        for i in range(n):
            engine.order[engine.rank[i]] = <int32_t>i
    free(converted)
    if task.order == ORDER_KEYS or task.order == ORDER_ARRIVAL:  # a place never changes and says it all
        free(engine.rank)
        engine.rank = NULL
    return status


cdef inline int order_arrivals(Engine* engine) noexcept nogil:
    # Decides where waiting requests are kept. Where they arrive in the order of their places (all at once, or admission
    # is by arrival) those that never left need no heap: they are a range of places.
    cdef const Task* task = engine.task
    cdef int64_t p, n = task.n
    cdef bint together = True
    cdef int64_t* keys
    cdef int status
    if task.arrival != NULL:
        for p in range(1, n):
            if task.arrival[p] != task.arrival[0]:
                together = False
                break
    engine.in_place = not task.skip and (together or task.order == ORDER_ARRIVAL or task.order == ORDER_QUEUE)
    if together or task.order == ORDER_ARRIVAL or task.order == ORDER_QUEUE:
        return 0
    keys = <int64_t*>allocate(n * sizeof(int64_t))
    engine.by_arrival = <int32_t*>allocate(n * sizeof(int32_t))
    if keys == NULL or engine.by_arrival == NULL:
        free(keys)
        return -1
    for p in range(n):
        keys[p] = double_key(task.arrival[engine.order[p]])
    status = sort_places(keys, NULL, engine.by_arrival, n)
    free(keys)
    return status


cdef inline void look_ahead(const Engine* engine, int64_t place) noexcept nogil:
    # Bring the numbers of a request near whose turn comes soon: in the workload's order they are a cache miss each.
    cdef const Task* task = engine.task
    cdef int32_t i
    if place + LOOK_AHEAD >= task.n:
        return
    i = engine.order[place + LOOK_AHEAD]
    prefetch(&task.prompt[i])
    prefetch(&task.output[i])
    if task.bound != NULL:
        prefetch(&task.bound[i])
    if task.believed != NULL:
        prefetch(&task.believed[i])
    if engine.rank != NULL:
        prefetch(&engine.rank[i])
    prefetch_to_write(&task.start[i])
    prefetch_to_write(&task.completion[i])

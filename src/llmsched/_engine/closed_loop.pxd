# Sessions whose turns arrive a think time after the one before them completed (model.md, section 3).
#
# Every place is an index then, as nobody knows in which order they will arrive. engine.by_arrival[arrived..n-1] are
# those that are known to come, in order: first turns at the start, and each other one as the turn before it completes.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memmove

from llmsched._core cimport Engine, Problem
from llmsched._engine.allocation cimport allocate
from llmsched._engine.radix_sort cimport double_key, sort_places
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport now
from llmsched._engine.status cimport NO_MEMORY, OK


cdef inline int first_turns(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int64_t i, k, n = problem.n
    cdef int64_t* keys = <int64_t*>allocate(n * sizeof(int64_t))
    cdef int32_t* sorted_turns = <int32_t*>allocate(n * sizeof(int32_t))
    cdef int status = NO_MEMORY
    engine.by_arrival = <int32_t*>allocate(n * sizeof(int32_t))
    if keys != NULL and sorted_turns != NULL and engine.by_arrival != NULL:
        for i in range(n):
            keys[i] = double_key(problem.arrival[i])
        status = sort_places(keys, NULL, sorted_turns, n)
    if status == OK:
        engine.arrived = n
        for k in range(n - 1, -1, -1):
            if problem.turn_before[sorted_turns[k]] == NONE:
                engine.arrived -= 1
                engine.by_arrival[engine.arrived] = sorted_turns[k]
    free(keys)
    free(sorted_turns)
    return status


cdef inline void begin_to_think(Engine* engine, int64_t index) noexcept nogil:
    # This request has just completed: it is known now when the next turn of its session arrives.
    cdef const Problem* problem = engine.problem
    cdef int64_t turn = problem.next_turn[index], low = engine.arrived, high = problem.n, middle
    cdef double time
    if turn == NONE:
        return
    time = now(engine) + problem.think[turn]
    problem.arrives[turn] = time
    while low < high:  # behind those that arrive no later
        middle = low + (high - low) // 2
        if problem.arrives[engine.by_arrival[middle]] <= time:
            low = middle + 1
        else:
            high = middle
    memmove(engine.by_arrival + engine.arrived - 1, engine.by_arrival + engine.arrived,
            (low - engine.arrived) * sizeof(int32_t))
    engine.arrived -= 1
    engine.by_arrival[low - 1] = <int32_t>turn

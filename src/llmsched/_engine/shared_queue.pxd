# A queue that several engines share: a central queue before a fleet (docs/background/fleets.md). Its requests are
# rows, in the order of admission, and have an index in the problem of each kind of engine. Whoever can admit the first
# as a round begins takes it; who fills the queue says when which round begins.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from llmsched._core cimport ORDER_QUEUE, Engine, SharedQueue
from llmsched._engine.progress cimport changed
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport now
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.waiting cimport entry_of, make_request
from llmsched._engine.waiting_heap cimport Entry, heap_free, heap_pop, heap_push


cdef inline void shared_free(SharedQueue* queue) noexcept nogil:
    heap_free(&queue.heap)
    free(queue.indices)
    free(queue.first)
    free(queue.taken)
    memset(queue, 0, sizeof(SharedQueue))


cdef inline void note_first(SharedQueue* queue) noexcept nogil:
    # The first is another one.
    cdef int kind
    cdef int32_t index
    queue.version += 1
    for kind in range(queue.kinds):
        index = 0
        if queue.heap.size > 0:
            index = queue.indices[<int64_t>queue.heap.entries[0].who * queue.kinds + kind]
        queue.first[kind] = max(index, 0)


cdef inline int shared_add(SharedQueue* queue, Entry entry) noexcept nogil:
    # The row entry.who begins to wait. OK or NO_MEMORY.
    if heap_push(&queue.heap, entry) == NO_MEMORY:
        return NO_MEMORY
    if queue.heap.entries[0].who == entry.who:
        note_first(queue)
    return OK


cdef inline bint is_offered(const Engine* engine) noexcept nogil:
    # Whether the first of the queue is one that this engine could hold.
    return engine.shared != NULL and engine.shared.first[engine.kind] != 0


cdef inline int32_t offered(Engine* engine) noexcept nogil:
    # The number of the request that is_offered(); NONE: no memory.
    if engine.offered != NONE:
        if engine.offered_version == engine.shared.version:
            return engine.offered
        engine.requests[engine.offered].next = engine.free_request
        engine.free_request = engine.offered
        engine.tested = NONE
    engine.offered = make_request(engine, engine.shared.first[engine.kind])
    engine.offered_version = engine.shared.version
    return engine.offered


cdef inline Entry offered_entry(Engine* engine, int32_t p) noexcept nogil:
    # How the request that is offered() compares with those that wait here: as one that arrives now.
    cdef Entry entry = entry_of(engine, engine.requests[p].place, NONE)
    if engine.problem.order == ORDER_QUEUE:
        entry.key = double_key(now(engine))
    return entry


cdef inline int take_offered(Engine* engine) noexcept nogil:
    # The request that is offered() is this engine's from now on. OK or NO_MEMORY.
    cdef SharedQueue* queue = engine.shared
    cdef int32_t* block
    if queue.taken_size == queue.taken_allocated:
        block = <int32_t*>realloc(queue.taken, (2 * queue.taken_allocated + 64) * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        queue.taken = block
        queue.taken_allocated = 2 * queue.taken_allocated + 64
    queue.taken[queue.taken_size] = queue.heap.entries[0].who
    queue.taken_size += 1
    heap_pop(&queue.heap)
    note_first(queue)
    engine.offered = NONE
    engine.unfinished += 1
    changed(engine)
    return OK

# The place of a running request in the eviction order (model.md, section 5): a list of equals, or by admission.

from libc.stdint cimport int32_t

from llmsched._core cimport EVICT_BOUND, EVICT_PRIORITY, EVICT_PROGRESS, Engine
from llmsched._engine.request cimport NONE, Request
from llmsched._engine.eviction_ties cimport ties_add, ties_remove


cdef inline int line_up(Engine* engine, int32_t p) noexcept nogil:
    # A request that starts to run takes its place in the eviction order. 0, or -1 without memory.
    cdef Request* r = &engine.requests[p]
    if engine.task.evict == EVICT_BOUND:
        return ties_add(&engine.ties, engine.requests, p, r.bound)
    if engine.task.evict == EVICT_PROGRESS:  # fewest tokens: the latest birth
        return ties_add(&engine.ties, engine.requests, p, -r.birth)
    if engine.task.evict == EVICT_PRIORITY:
        return ties_add(&engine.ties, engine.requests, p, -engine.task.levels[r.index])
    r.peers = NONE
    r.peer_at = engine.newest
    if engine.newest == NONE:
        engine.oldest = p
    else:
        engine.requests[engine.newest].peers = p
    engine.newest = p
    return 0


cdef inline void step_out(Engine* engine, int32_t p) noexcept nogil:
    # It gives its place up.
    cdef int32_t older, newer
    if engine.task.evict in (EVICT_BOUND, EVICT_PROGRESS, EVICT_PRIORITY):
        ties_remove(&engine.ties, engine.requests, p)
        return
    newer = engine.requests[p].peers
    older = engine.requests[p].peer_at
    if older == NONE:
        engine.oldest = newer
    else:
        engine.requests[older].peers = newer
    if newer == NONE:
        engine.newest = older
    else:
        engine.requests[newer].peer_at = older

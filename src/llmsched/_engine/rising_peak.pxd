# hold="rising" (model.md, section 4): a running request reserves what it was believed to reach at its admission, and
# once it has outgrown that, what it occupies. The sum of all reservations without looking at every request: those
# within their belief are a constant, those that outgrew it grow by a token a round each.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, realloc

from llmsched._core cimport Engine, Problem
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.request cimport NONE, Request
from llmsched._engine.rounds cimport residue
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.waiting_heap cimport Entry, heap_free, heap_pop, heap_push


cdef inline int rising_init(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY.
    engine.rising.residues = <int64_t*>calloc(engine.problem.block, sizeof(int64_t))
    return OK if engine.rising.residues != NULL else NO_MEMORY


cdef inline void rising_free(Engine* engine) noexcept nogil:
    free(engine.rising.within_until)
    free(engine.rising.residues)
    heap_free(&engine.rising.queue)


cdef inline int rising_make(Engine* engine, int64_t count) noexcept nogil:
    # Notes for so many requests. OK or NO_MEMORY.
    cdef int64_t* block = <int64_t*>realloc(engine.rising.within_until, count * sizeof(int64_t))
    if block == NULL:
        return NO_MEMORY
    engine.rising.within_until = block
    return OK


cdef inline int rising_add(Engine* engine, int32_t p) noexcept nogil:
    # A request was admitted. OK or NO_MEMORY.
    cdef const Request* r = &engine.requests[p]
    engine.rising.within += whole_blocks(r.prompt + r.believed_end - r.birth + 1, engine.problem.block)
    return rising_queue(engine, p)


cdef inline int rising_queue(Engine* engine, int32_t p) noexcept nogil:
    # Notes until when it stays within its belief, after that was set or moved. OK or NO_MEMORY.
    cdef Entry entry
    entry.key = engine.requests[p].believed_end
    entry.tie = 0
    entry.who = p
    engine.rising.within_until[p] = entry.key
    return heap_push(&engine.rising.queue, entry)


cdef inline void rising_remove(Engine* engine, int32_t p) noexcept nogil:
    # A running request stops.
    cdef const Request* r = &engine.requests[p]
    if engine.rising.within_until[p] != NONE:
        engine.rising.within -= whole_blocks(r.prompt + r.believed_end - r.birth + 1, engine.problem.block)
        engine.rising.within_until[p] = NONE
        return
    engine.rising.outgrown -= 1
    engine.rising.outgrown_base -= r.prompt - r.birth + 1
    engine.rising.residues[residue(engine.problem, r)] -= 1


cdef inline int64_t rising_reserved(Engine* engine) noexcept nogil:
    # What all that run have reserved in the coming round.
    cdef const Problem* problem = engine.problem
    cdef const Request* r
    cdef Entry top
    cdef int64_t reserved, to_block_end, k
    while engine.rising.queue.size > 0 and engine.rising.queue.entries[0].key < engine.round:
        top = engine.rising.queue.entries[0]
        heap_pop(&engine.rising.queue)
        if engine.rising.within_until[top.who] != top.key:  # it left, or its belief moved
            continue
        r = &engine.requests[top.who]
        engine.rising.within_until[top.who] = NONE
        engine.rising.within -= whole_blocks(r.prompt + r.believed_end - r.birth + 1, problem.block)
        engine.rising.outgrown += 1
        engine.rising.outgrown_base += r.prompt - r.birth + 1
        engine.rising.residues[residue(problem, r)] += 1
    reserved = engine.rising.within + engine.rising.outgrown_base + engine.rising.outgrown * engine.round
    if problem.block > 1:
        for k in range(problem.block):
            to_block_end = (problem.block - (k + engine.round) % problem.block) % problem.block
            reserved += engine.rising.residues[k] * to_block_end
    return reserved

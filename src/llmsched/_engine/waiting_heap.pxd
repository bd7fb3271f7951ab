# The waiting set: a heap of entries, smallest (key, tie) on top. Four children to a node, one cache line a family.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from llmsched._engine.allocation cimport aligned
from llmsched._engine.check cimport check
from llmsched._engine.status cimport NO_MEMORY, OK

cdef extern from "llmsched/_engine/portable.h" nogil:
    bint llmsched_entry_less(const void* a, const void* b) noexcept

cdef enum:
    LINE = 64
    BEFORE_ROOT = 3     # unused entries before the root, so that the families lie on cache lines


cdef struct Entry:
    # Most significant field last: llmsched_entry_less may take it for one number of 128 bits.
    int32_t who     # a request's number, or ~place of one that never ran; no two waiting requests differ in this alone
    int32_t tie     # rank, or 0 where keys are distinct; never negative
    int64_t key     # the admission order's key: as of when it joined, or of the last heap_order()


cdef struct Heap:
    Entry* entries      # entries[0:size] is a heap
    int64_t size
    int64_t allocated   # entries that there is memory for
    int64_t operations  # entries moved, for the work counters


cdef inline void heap_free(Heap* heap) noexcept nogil:
    if heap.entries != NULL:
        free(heap.entries - BEFORE_ROOT)
    heap.entries = NULL


cdef inline bint entry_less(Entry a, Entry b) noexcept nogil:
    return llmsched_entry_less(&a, &b)


cdef inline int heap_reserve(Heap* heap) noexcept nogil:
    # Memory for one more entry. OK or NO_MEMORY.
    cdef int64_t larger
    cdef Entry* entries
    if heap.size < heap.allocated:
        return OK
    larger = heap.allocated + heap.allocated // 2 + 64
    entries = <Entry*>aligned(LINE, (larger + BEFORE_ROOT) * sizeof(Entry))
    if entries == NULL:
        return NO_MEMORY
    entries += BEFORE_ROOT
    if heap.entries != NULL:
        memcpy(entries, heap.entries, heap.size * sizeof(Entry))
    heap_free(heap)
    heap.entries = entries
    heap.allocated = larger
    return OK


cdef inline int heap_push(Heap* heap, Entry entry) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int64_t at, parent
    if heap_reserve(heap) == NO_MEMORY:
        return NO_MEMORY
    at = heap.size
    heap.size += 1
    while at > 0:
        parent = (at - 1) >> 2
        heap.operations += 1
        if not entry_less(entry, heap.entries[parent]):
            break
        heap.entries[at] = heap.entries[parent]
        at = parent
    heap.entries[at] = entry
    return OK


cdef inline void heap_order(Heap* heap) noexcept nogil:
    # Makes a heap of the entries after any of their keys changed.
    cdef Entry* e = heap.entries
    cdef Entry entry
    cdef int64_t at, k
    for k in range(1, heap.size):
        entry = e[k]
        at = k
        while at > 0 and entry_less(entry, e[(at - 1) >> 2]):
            e[at] = e[(at - 1) >> 2]
            at = (at - 1) >> 2
        e[at] = entry


cdef inline void heap_drop(Heap* heap, int64_t at) noexcept nogil:
    # Drops the entry at this place, wherever it is: seldom enough to order the heap anew.
    heap.size -= 1
    heap.entries[at] = heap.entries[heap.size]
    heap_order(heap)


cdef inline void heap_pop(Heap* heap) noexcept nogil:
    # Drops the top. Needs size > 0.
    cdef Entry* e = heap.entries
    cdef int64_t at = 0, child, other, k
    cdef Entry last
    check(heap.size > 0)
    heap.size -= 1
    last = e[heap.size]
    while True:
        child = 4 * at + 1
        if child >= heap.size:
            break
        heap.operations += 1
        if child + 4 <= heap.size:  # the least of four by sums: comparisons of random keys make bad branches
            other = child + 2 + entry_less(e[child + 3], e[child + 2])
            child += entry_less(e[child + 1], e[child])
            child += (other - child) * entry_less(e[other], e[child])
        else:
            for k in range(child + 1, heap.size):
                if entry_less(e[k], e[child]):
                    child = k
        if not entry_less(e[child], last):
            break
        e[at] = e[child]
        at = child
    e[at] = last

# The waiting set: a binary heap of entries, smallest (key, tie) on top.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc


cdef struct Entry:
    int64_t key     # the admission order's key when it joined; it cannot change while the request waits
    int32_t tie     # rank, or 0 where keys are already distinct
    int32_t place   # the request's place in the initial admission order


cdef struct Heap:
    Entry* entries      # entries[0:size] is a heap (or ascending, see heap_insert_sorted); never both in one run
    int64_t size
    int64_t capacity
    int64_t operations  # entries moved, for the work counters


cdef inline bint entry_less(const Entry* a, const Entry* b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.tie < b.tie)


cdef inline int heap_reserve(Heap* heap) noexcept nogil:
    # Room for one more entry. 0, or -1 without memory.
    cdef int64_t capacity
    cdef Entry* entries
    if heap.size < heap.capacity:
        return 0
    capacity = 64 if heap.capacity == 0 else heap.capacity + heap.capacity // 2
    entries = <Entry*>realloc(heap.entries, capacity * sizeof(Entry))
    if entries == NULL:
        return -1
    heap.entries = entries
    heap.capacity = capacity
    return 0


cdef inline int heap_push(Heap* heap, Entry entry) noexcept nogil:
    # 0, or -1 without memory.
    cdef int64_t at, parent
    if heap_reserve(heap) < 0:
        return -1
    at = heap.size
    heap.size += 1
    while at > 0:
        parent = (at - 1) >> 1
        heap.operations += 1
        if not entry_less(&entry, &heap.entries[parent]):
            break
        heap.entries[at] = heap.entries[parent]
        at = parent
    heap.entries[at] = entry
    return 0


cdef inline void heap_pop(Heap* heap) noexcept nogil:
    # Drops the top. Needs size > 0.
    cdef int64_t at = 0, child
    cdef Entry last
    heap.size -= 1
    last = heap.entries[heap.size]
    while True:
        child = 2 * at + 1
        if child >= heap.size:
            break
        heap.operations += 1
        if child + 1 < heap.size and entry_less(&heap.entries[child + 1], &heap.entries[child]):
            child += 1
        if not entry_less(&heap.entries[child], &last):
            break
        heap.entries[at] = heap.entries[child]
        at = child
    heap.entries[at] = last


cdef inline int heap_insert_sorted(Heap* heap, Entry entry) noexcept nogil:
    # Keeps the entries ascending instead: fill="skip" walks them all in order. 0, or -1 without memory.
    cdef int64_t low = 0, high = heap.size, middle, at
    if heap_reserve(heap) < 0:
        return -1
    while low < high:
        middle = (low + high) >> 1
        if entry_less(&entry, &heap.entries[middle]):
            high = middle
        else:
            low = middle + 1
    at = heap.size
    while at > low:
        heap.entries[at] = heap.entries[at - 1]
        at -= 1
    heap.entries[low] = entry
    heap.size += 1
    heap.operations += 1
    return 0

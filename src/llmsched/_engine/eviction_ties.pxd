# Who is evicted when the cache overflows (model.md, section 5): running requests in lists of equals, one list per
# eviction key, smallest key first. The order inside a list is part of the model: joiners go to the end, the last takes
# the place of one that leaves, and the victim is drawn by its place.

from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from llmsched._engine.request cimport NONE, Request
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    SIZE_CLASSES = 30       # member arrays hold 4 << class requests
    CHUNK_BYTES = 65536


cdef struct Equals:
    int64_t key
    int32_t* members    # members[0:size]: places of running requests
    int32_t size
    int32_t size_class
    int32_t heap_at     # its place in the heap of lists; the next free list's number while unused


cdef struct Ties:
    Equals* lists
    int32_t lists_made
    int32_t lists_allocated
    int32_t free_list           # a list to use again, or NONE
    int32_t* heap               # heap[0:heap_size]: numbers of the lists in use, smallest key on top
    int32_t heap_size
    int32_t* table              # open addressing: key -> number of its list, or NONE; at most half full
    int64_t table_mask
    void* free_arrays[SIZE_CLASSES]
    void* chunks                # all memory for member arrays, chained through the first word
    char* chunk_at
    char* chunk_end
    int64_t operations          # lists moved, for the work counters


cdef inline int ties_init(Ties* ties) noexcept nogil:
    # OK or NO_MEMORY.
    memset(ties, 0, sizeof(Ties))
    ties.free_list = NONE
    ties.lists_allocated = 16
    ties.table_mask = 63
    ties.lists = <Equals*>malloc(ties.lists_allocated * sizeof(Equals))
    ties.heap = <int32_t*>malloc(ties.lists_allocated * sizeof(int32_t))
    ties.table = <int32_t*>malloc((ties.table_mask + 1) * sizeof(int32_t))
    if ties.lists == NULL or ties.heap == NULL or ties.table == NULL:
        return NO_MEMORY
    memset(ties.table, 0xFF, (ties.table_mask + 1) * sizeof(int32_t))
    return OK


cdef inline void ties_free(Ties* ties) noexcept nogil:
    cdef void* chunk = ties.chunks
    cdef void* after
    while chunk != NULL:
        after = (<void**>chunk)[0]
        free(chunk)
        chunk = after
    free(ties.lists)
    free(ties.heap)
    free(ties.table)
    ties.lists = NULL
    ties.heap = NULL
    ties.table = NULL
    ties.chunks = NULL


# Member arrays ------------------------------------------------------------------------------------------------------


cdef inline int32_t* array_take(Ties* ties, int32_t size_class) noexcept nogil:
    # An array of 4 << size_class places, NULL: no memory.
    cdef int64_t size = <int64_t>16 << size_class
    cdef int64_t chunk_size
    cdef void* array = ties.free_arrays[size_class]
    cdef char* chunk
    if array != NULL:
        ties.free_arrays[size_class] = (<void**>array)[0]
        return <int32_t*>array
    if ties.chunk_end - ties.chunk_at < size:
        chunk_size = CHUNK_BYTES if size + 16 < CHUNK_BYTES else size + 16
        chunk = <char*>malloc(chunk_size)
        if chunk == NULL:
            return NULL
        (<void**>chunk)[0] = ties.chunks
        ties.chunks = chunk
        ties.chunk_at = chunk + 16
        ties.chunk_end = chunk + chunk_size
    array = ties.chunk_at
    ties.chunk_at += size
    return <int32_t*>array


cdef inline void array_return(Ties* ties, int32_t* array, int32_t size_class) noexcept nogil:
    (<void**>array)[0] = ties.free_arrays[size_class]
    ties.free_arrays[size_class] = array


# The heap of lists --------------------------------------------------------------------------------------------------


cdef inline void heap_set(Ties* ties, int32_t at, int32_t number) noexcept nogil:
    ties.heap[at] = number
    ties.lists[number].heap_at = at


cdef inline void heap_up(Ties* ties, int32_t at, int32_t number) noexcept nogil:
    cdef int32_t parent
    cdef int64_t key = ties.lists[number].key
    while at > 0:
        parent = (at - 1) >> 1
        ties.operations += 1
        if ties.lists[ties.heap[parent]].key <= key:
            break
        heap_set(ties, at, ties.heap[parent])
        at = parent
    heap_set(ties, at, number)


cdef inline void heap_down(Ties* ties, int32_t at, int32_t number) noexcept nogil:
    cdef int32_t child
    cdef int64_t key = ties.lists[number].key
    while True:
        child = 2 * at + 1
        if child >= ties.heap_size:
            break
        ties.operations += 1
        if child + 1 < ties.heap_size and ties.lists[ties.heap[child + 1]].key < ties.lists[ties.heap[child]].key:
            child += 1
        if ties.lists[ties.heap[child]].key >= key:
            break
        heap_set(ties, at, ties.heap[child])
        at = child
    heap_set(ties, at, number)


cdef inline void heap_delete(Ties* ties, int32_t at) noexcept nogil:
    cdef int32_t last
    ties.heap_size -= 1
    if at == ties.heap_size:
        return
    last = ties.heap[ties.heap_size]
    if at > 0 and ties.lists[last].key < ties.lists[ties.heap[(at - 1) >> 1]].key:
        heap_up(ties, at, last)
    else:
        heap_down(ties, at, last)


# From a key to its list ---------------------------------------------------------------------------------------------


cdef inline int64_t table_home(const Ties* ties, int64_t key) noexcept nogil:
    return <int64_t>((<uint64_t>key * <uint64_t>0x9E3779B97F4A7C15ULL) >> 32) & ties.table_mask


cdef inline int64_t table_find(const Ties* ties, int64_t key) noexcept nogil:
    # Where the key's list is, or the empty place where it would go.
    cdef int64_t at = table_home(ties, key)
    while ties.table[at] != NONE and ties.lists[ties.table[at]].key != key:
        at = (at + 1) & ties.table_mask
    return at


cdef inline void table_delete(Ties* ties, int64_t at) noexcept nogil:
    # Moves later entries of the run back, so that no search meets a hole before its key.
    cdef int64_t hole = at, home
    ties.table[hole] = NONE
    while True:
        at = (at + 1) & ties.table_mask
        if ties.table[at] == NONE:
            return
        home = table_home(ties, ties.lists[ties.table[at]].key)
        if ((at - home) & ties.table_mask) >= ((at - hole) & ties.table_mask):
            ties.table[hole] = ties.table[at]
            ties.table[at] = NONE
            hole = at


cdef inline int lists_grow(Ties* ties) noexcept nogil:
    # Memory for twice as many lists, and a table that is at most half full. OK or NO_MEMORY.
    cdef int32_t larger = 2 * ties.lists_allocated, k
    cdef void* block
    block = realloc(ties.lists, larger * sizeof(Equals))
    if block == NULL:
        return NO_MEMORY
    ties.lists = <Equals*>block
    block = realloc(ties.heap, larger * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    ties.heap = <int32_t*>block
    ties.lists_allocated = larger
    if 2 * larger <= ties.table_mask + 1:
        return OK
    block = realloc(ties.table, 2 * (ties.table_mask + 1) * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    ties.table = <int32_t*>block
    ties.table_mask = 2 * ties.table_mask + 1
    memset(ties.table, 0xFF, (ties.table_mask + 1) * sizeof(int32_t))
    for k in range(ties.heap_size):
        ties.table[table_find(ties, ties.lists[ties.heap[k]].key)] = ties.heap[k]
    return OK


# Joining, leaving, choosing -----------------------------------------------------------------------------------------


cdef inline int ties_add(Ties* ties, Request* requests, int32_t p, int64_t key) noexcept nogil:
    # Request p starts to run with this eviction key. OK or NO_MEMORY.
    cdef int64_t at = table_find(ties, key)
    cdef int32_t number = ties.table[at]
    cdef Equals* equals
    cdef int32_t* members
    if number == NONE:
        if ties.free_list == NONE and ties.lists_made == ties.lists_allocated:
            if lists_grow(ties) == NO_MEMORY:
                return NO_MEMORY
            at = table_find(ties, key)
        members = array_take(ties, 0)
        if members == NULL:
            return NO_MEMORY
        if ties.free_list != NONE:
            number = ties.free_list
            ties.free_list = ties.lists[number].heap_at
        else:
            number = ties.lists_made
            ties.lists_made += 1
        equals = &ties.lists[number]
        equals.key = key
        equals.size = equals.size_class = 0
        equals.members = members
        ties.table[at] = number
        ties.heap_size += 1
        heap_up(ties, ties.heap_size - 1, number)
    equals = &ties.lists[number]
    if equals.size == 4 << equals.size_class:
        members = array_take(ties, equals.size_class + 1)
        if members == NULL:
            return NO_MEMORY
        memcpy(members, equals.members, equals.size * sizeof(int32_t))
        array_return(ties, equals.members, equals.size_class)
        equals.members = members
        equals.size_class += 1
    equals.members[equals.size] = p
    requests[p].equals = number
    requests[p].equals_at = equals.size
    equals.size += 1
    return OK


cdef inline void ties_remove(Ties* ties, Request* requests, int32_t p) noexcept nogil:
    cdef int32_t number = requests[p].equals, at = requests[p].equals_at, last
    cdef Equals* equals = &ties.lists[number]
    equals.size -= 1
    last = equals.members[equals.size]
    equals.members[at] = last
    requests[last].equals_at = at
    if equals.size == 0:
        table_delete(ties, table_find(ties, equals.key))
        heap_delete(ties, equals.heap_at)
        array_return(ties, equals.members, equals.size_class)
        equals.heap_at = ties.free_list
        ties.free_list = number


cdef inline const Equals* ties_first(const Ties* ties) noexcept nogil:
    # The list with the smallest key. Needs a running request.
    return &ties.lists[ties.heap[0]]


cdef inline int64_t longest_prompt(const Equals* equals, const Request* requests) noexcept nogil:
    cdef int64_t longest = -1
    cdef int32_t k
    for k in range(equals.size):
        longest = max(longest, requests[equals.members[k]].prompt)
    return longest


cdef inline int32_t ties_count_longest(const Equals* equals, const Request* requests) noexcept nogil:
    # How many of the members have the longest prompt.
    cdef int64_t longest = longest_prompt(equals, requests)
    cdef int32_t k, found = 0
    for k in range(equals.size):
        found += requests[equals.members[k]].prompt == longest
    return found


cdef inline int32_t ties_find_longest(const Equals* equals, const Request* requests, int64_t which) noexcept nogil:
    # The place in the list of the `which`-th (from 0) of these.
    cdef int64_t longest = longest_prompt(equals, requests)
    cdef int32_t k
    for k in range(equals.size):
        if requests[equals.members[k]].prompt == longest:
            if which == 0:
                return k
            which -= 1
    return NONE

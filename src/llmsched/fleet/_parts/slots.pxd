# The pool of requests of replicas of one kind. The numbers of a request lie in a slot from the time it is sent until it
# completes, or where all requests are at hand from the start, the slots are they themselves.

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from llmsched._core cimport Engine, Problem
from llmsched._engine.allocation cimport enlarge
from llmsched._engine.formula cimport NAMES
from llmsched._engine.request cimport NONE
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched.fleet._fleet cimport SPARE, Column, FleetState, Pool


cdef inline void** pointer_in(Problem* problem, int64_t place) noexcept nogil:
    return <void**>(<char*>problem + place)


cdef inline bint grown(void** block, int64_t size) noexcept nogil:
    # Whether there was memory to make the block that large.
    cdef void* larger = realloc(block[0], size)
    if larger != NULL:
        block[0] = larger
    return larger != NULL


cdef inline void lay_out(Pool* pool, bint sees_work) noexcept:
    # Which columns there are. Where slots are the pool's own their values of eight bytes lie side by side, one record
    # for each slot: its numbers are `stride` apart, so that each column is an array of which every stride-th value
    # counts. What is first here is what every request needs: a cache line, for most policies.
    cdef Problem* source = &pool.source
    cdef int k
    add_column(pool, <char*>&source.arrival - <char*>source, 8, True, True)
    add_column(pool, <char*>&source.prompt - <char*>source, 8, True, True)
    add_column(pool, <char*>&source.output - <char*>source, 8, True, True)
    add_column(pool, <char*>&source.completion - <char*>source, 8, False, True)
    add_column(pool, <char*>&source.start - <char*>source, 8, False, True)
    add_column(pool, <char*>&source.evictions - <char*>source, 8, False, True)
    add_column(pool, <char*>&pool.ids - <char*>&pool.rules, 8, False, True)
    add_column(pool, <char*>&pool.work - <char*>&pool.rules, 8, False, sees_work)
    add_column(pool, <char*>&source.bound - <char*>source, 8, True, source.bound != NULL)
    add_column(pool, <char*>&source.upper - <char*>source, 8, True, source.upper != NULL)
    add_column(pool, <char*>&source.believed - <char*>source, 8, True, source.believed != NULL)
    add_column(pool, <char*>&source.beliefs.upper - <char*>source, 8, True, source.beliefs.upper != NULL)
    add_column(pool, <char*>&source.beliefs.row - <char*>source, 8, True, source.beliefs.row != NULL)
    add_column(pool, <char*>&source.keys - <char*>source, 8, True, source.keys != NULL)
    add_column(pool, <char*>&source.real_keys - <char*>source, 8, True, source.real_keys != NULL)
    add_column(pool, <char*>&source.levels - <char*>source, 8, True, source.levels != NULL)
    add_column(pool, <char*>&source.name_first - <char*>source, 8, True, source.name_first != NULL)
    add_column(pool, <char*>&source.name_size - <char*>source, 8, True, source.name_size != NULL)
    add_column(pool, <char*>&source.capped - <char*>source, 1, True, source.capped != NULL)
    for k in range(<int>NAMES):
        add_column(pool, <char*>&source.columns[k] - <char*>source, 8, True, source.columns[k] != NULL)
    add_column(pool, <char*>&pool.joined - <char*>&pool.rules, 8, False, pool.rules.reads_joined)
    add_column(pool, <char*>&pool.believed - <char*>&pool.rules, 8, False, pool.rules.belief_changes)
    add_column(pool, <char*>&source.numbers - <char*>source, 8, False, pool.draws)
    add_column(pool, <char*>&source.cached - <char*>source, 8, False, pool.rules.cached_prefixes)
    pool.stride = 8
    while pool.stride < pool.columns_size:
        pool.stride *= 2


cdef inline void add_column(Pool* pool, int64_t place, int64_t size, bint copied, bint used) noexcept:
    cdef Column* column = &pool.columns[pool.columns_size]
    if used:
        column.place = place
        column.size = size
        column.copied = copied
        pool.columns_size += 1


cdef inline int64_t id_of(const Pool* pool, int32_t s) noexcept nogil:
    # Which request is in this slot.
    return s - 1 if pool.lent else pool.ids[s]


cdef inline void free_slot(Pool* pool, int32_t s) noexcept nogil:
    # Nobody is in it.
    pool.rank[s] = pool.free_slot
    pool.free_slot = s


cdef inline int32_t fill_slot(FleetState* fleet, int64_t i, int which, int64_t number) noexcept nogil:
    # The slot of a pool in which a request is from now on, with its draws; NONE: no memory.
    cdef Pool* pool = &fleet.pools[which]
    cdef int32_t s = pool.free_slot
    cdef const Column* column
    cdef int j
    if pool.lent:
        s = <int32_t>(i + 1)
        (<double*>pool.rules.arrival)[s] = fleet.arrival[i]
    elif s != NONE:
        pool.free_slot = pool.rank[s]
    else:
        if pool.made >= pool.allocated and more_slots(fleet, which) == NO_MEMORY:
            return NONE
        s = <int32_t>(pool.made * pool.stride)
        pool.made += 1
    if not pool.lent:
        for j in range(pool.columns_size):
            column = &pool.columns[j]
            if not column.copied:
                continue
            if column.size == 8:
                (<int64_t*>column.slots)[s] = (<const int64_t*>column.source)[i]
            else:
                column.slots[s] = column.source[i]
        pool.rules.evictions[s] = 0
        pool.ids[s] = fleet.base + i
        pool.rank[s] = <int32_t>((fleet.base + i if fleet.rank == NULL else fleet.rank[i]) & 0x7FFFFFFF)
    if pool.draws:
        (<int64_t*>pool.rules.numbers)[s] = number
    if pool.joined != NULL:
        pool.joined[s] = fleet.arrival[i]
    if pool.believed != NULL:
        pool.believed[s] = pool.source.believed[i]
    if fleet.sees_work:
        pool.work[s] = fleet.work[i]
    return s


cdef inline int lend(FleetState* fleet, int which, int64_t n) noexcept nogil:
    # The slots are the requests of the source, all of them, and what becomes of each goes where `keep_into` said.
    # Slot 0 is nobody's: only its arrival is ever looked at. OK or NO_MEMORY.
    cdef Pool* pool = &fleet.pools[which]
    cdef Problem* rules = &pool.rules
    cdef const Column* column
    cdef int64_t size = n + 1 + SPARE, s
    cdef int k
    for k in range(pool.columns_size):
        column = &pool.columns[k]
        pointer_in(rules, column.place)[0] = <void*>(column.source - column.size if column.copied else NULL)
    rules.arrival = <double*>calloc(size, sizeof(double))
    rules.numbers = <int64_t*>calloc(size, sizeof(int64_t))
    rules.completion, rules.start, rules.evictions = fleet.completion - 1, fleet.start - 1, fleet.evictions - 1
    rules.cached = fleet.cached - 1 if fleet.cached != NULL else NULL
    pool.lent = True
    pool.allocated = n
    pool.order = <int32_t*>calloc(size, sizeof(int32_t))
    pool.rank = <int32_t*>calloc(size, sizeof(int32_t))
    if rules.arrival == NULL or rules.numbers == NULL or pool.order == NULL or pool.rank == NULL:
        return NO_MEMORY
    if rules.reads_joined and not grown(<void**>&pool.joined, size * sizeof(double)):
        return NO_MEMORY
    if rules.belief_changes and not grown(<void**>&pool.believed, size * sizeof(int64_t)):
        return NO_MEMORY
    if fleet.sees_work and not grown(<void**>&pool.work, size * sizeof(int64_t)):
        return NO_MEMORY
    for s in range(1, n + 1):
        pool.order[s] = <int32_t>s
        pool.rank[s] = <int32_t>((s - 1 if fleet.rank == NULL else fleet.rank[s - 1]) & 0x7FFFFFFF)
    for k in range(fleet.replicas_size):
        if fleet.replicas[k].pool == which:
            share_slots(&fleet.replicas[k].engine, pool, True)
    return OK


cdef inline int more_slots(FleetState* fleet, int which) noexcept nogil:
    # Room for more slots than ever before. OK or NO_MEMORY.
    cdef Pool* pool = &fleet.pools[which]
    cdef int64_t larger = 2 * pool.allocated + 1024, record = 8 * pool.stride, numbers = larger * pool.stride, s
    cdef bint first = pool.allocated == 0
    cdef int k
    cdef void* block
    if numbers + SPARE > 0x7FFFFFFF:
        return NO_MEMORY
    block = enlarge(pool.records, pool.allocated * record, larger * record)
    if block == NULL:
        return NO_MEMORY
    pool.records = <char*>block
    if place_columns(pool, numbers) == NO_MEMORY:
        return NO_MEMORY
    if not grown(<void**>&pool.order, (numbers + SPARE) * sizeof(int32_t)):
        return NO_MEMORY
    if not grown(<void**>&pool.rank, numbers * sizeof(int32_t)):
        return NO_MEMORY
    memset(pool.order + numbers, 0, SPARE * sizeof(int32_t))
    for s in range(pool.allocated * pool.stride, numbers):
        pool.order[s] = <int32_t>s
    if first:
        pool.made = 1  # slot 0 is nobody's
        (<double*>pool.rules.arrival)[0] = 0.0
    pool.allocated = larger
    for k in range(fleet.replicas_size):
        if fleet.replicas[k].pool == which:
            share_slots(&fleet.replicas[k].engine, pool, first)
    return OK


cdef inline int place_columns(Pool* pool, int64_t numbers) noexcept nogil:
    # Where each is now: within the records, or by itself where its values are smaller. OK or NO_MEMORY.
    cdef char* next_one = pool.records
    cdef void** pointer
    cdef int k
    for k in range(pool.columns_size):
        pointer = pointer_in(&pool.rules, pool.columns[k].place)
        if pool.columns[k].size == 8:
            pointer[0] = next_one
            next_one += 8
        elif not grown(pointer, numbers):
            return NO_MEMORY
        pool.columns[k].slots = <char*>pointer[0]
    return OK


cdef inline void share_slots(Engine* engine, const Pool* pool, bint first) noexcept nogil:
    # Tell an engine where the slots are now.
    if not engine.in_place:
        engine.order = pool.order
    engine.rank = pool.rank
    if first:
        free(engine.joined)
        free(engine.believed)
    engine.joined = pool.joined
    engine.believed = pool.believed
    engine.belief.rules.upper = pool.rules.beliefs.upper
    engine.belief.rules.row = pool.rules.beliefs.row
    engine.belief.rules.numbers = pool.rules.numbers


cdef inline void free_pool(Pool* pool) noexcept nogil:
    cdef int k
    if pool.lent:
        free(<void*>pool.rules.arrival)
        free(<void*>pool.rules.numbers)
        free(pool.work)
        free(pool.joined)
        free(pool.believed)
    for k in range(pool.columns_size if pool.allocated > 0 and not pool.lent else 0):
        if pool.columns[k].size < 8:
            free(pointer_in(&pool.rules, pool.columns[k].place)[0])
    free(pool.records)
    free(pool.order)
    free(pool.rank)

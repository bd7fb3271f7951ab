# The blocks of a cache that remembers what they hold (model.md, section 7; readable: simulation/prefix_cache.py).
#
# A block has a number. Those that hold the same tokens have the same name and are a chain, in the order in which they
# were named; a table finds the first of each chain. Free blocks with a name are a list, the one that was freed first at
# its beginning; free ones without are another, or have no number yet.
#
# Who is first in the queue may wait for many rounds, and be tested in each. So its hits are watched: what is named,
# forgotten, held and given back changes them as it happens, and no block is looked up again for nothing.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from llmsched._core cimport BlockPool, CacheBlock, Engine, NamePlace, Problem
from llmsched._engine.check cimport check
from llmsched._engine.request cimport NONE, BlocksHeld, Request
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum:
    FEWEST = 256    # places of a table, blocks of a pool


cdef inline void pool_free(Engine* engine) noexcept nogil:
    cdef int64_t p
    if engine.pool == NULL:
        return
    for p in range(engine.pool.holders_allocated):
        free(engine.pool.held_by[p].blocks)
    free(engine.pool.held_by)
    free(engine.pool.watched)
    free(engine.pool.blocks)
    free(engine.pool.table)
    free(engine.pool)


cdef inline int allocate_for(Engine* engine, int64_t requests) noexcept nogil:
    # Room for what so many requests hold. OK or NO_MEMORY.
    cdef BlockPool* pool = engine.pool
    cdef BlocksHeld* block = <BlocksHeld*>realloc(pool.held_by, requests * sizeof(BlocksHeld))
    if block == NULL:
        return NO_MEMORY
    memset(block + pool.holders_allocated, 0, (requests - pool.holders_allocated) * sizeof(BlocksHeld))
    pool.held_by = block
    pool.holders_allocated = requests
    return OK


# Names ----------------------------------------------------------------------------------------------------------------


cdef inline int64_t block_name(const Problem* problem, int64_t index, int64_t j) noexcept nogil:
    # What block j of a request is called: as `BlockNames` in workloads/block_names.py, or for itself alone.
    cdef int64_t h, stretch
    if j < problem.name_size[index]:
        if problem.hashed == problem.block:  # as mostly, and divisions are slow
            return problem.name_ids[problem.name_first[index] + j] * problem.name_stride
        h = ((j + 1) * problem.block - 1) // problem.hashed
        stretch = problem.name_ids[problem.name_first[index] + h]
        return stretch * problem.name_stride + j - h * problem.hashed // problem.block
    if problem.numbers != NULL:
        index = problem.numbers[index]
    return (<int64_t>1 << 62) + (index << 31) + j


cdef inline uint32_t hash_of(int64_t name) noexcept nogil:
    # Its last bits say where the table is searched for it first.
    cdef uint64_t z = <uint64_t>name * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(z ^ (z >> 32))


cdef inline int64_t place_of(const BlockPool* pool, int64_t name) noexcept nogil:
    # The place of the table where it is, or where it would be.
    cdef uint32_t hash = hash_of(name)
    cdef int64_t k = hash & pool.mask
    while pool.table[k].block != 0:
        if pool.table[k].hash == hash and pool.blocks[pool.table[k].block - 1].name == name:
            return k
        k = (k + 1) & pool.mask
    return k


cdef inline int64_t place_of_first(const BlockPool* pool, int32_t b) noexcept nogil:
    # The place where this block is, the first of its name.
    cdef int64_t k = hash_of(pool.blocks[b].name) & pool.mask
    while pool.table[k].block != b + 1:
        check(pool.table[k].block != 0)
        k = (k + 1) & pool.mask
    return k


cdef inline int32_t block_called(const BlockPool* pool, int64_t name) noexcept nogil:
    # The block of that name, of several the one that was named first, or NONE.
    return pool.table[place_of(pool, name)].block - 1


cdef inline int larger_table(BlockPool* pool) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int64_t k, to, size = pool.mask + 1
    cdef NamePlace* old = pool.table
    cdef NamePlace* table = <NamePlace*>calloc(2 * size, sizeof(NamePlace))
    if table == NULL:
        return NO_MEMORY
    pool.table = table
    pool.mask = 2 * size - 1
    for k in range(size):
        if old[k].block != 0:
            to = old[k].hash & pool.mask
            while table[to].block != 0:
                to = (to + 1) & pool.mask
            table[to] = old[k]
    free(old)
    return OK


cdef inline int call(BlockPool* pool, int32_t b, int64_t name) noexcept nogil:
    # The block is full, and has this name from now on. OK or NO_MEMORY.
    cdef CacheBlock* block = &pool.blocks[b]
    cdef CacheBlock* first
    cdef int64_t k
    if 2 * pool.names > pool.mask and larger_table(pool) == NO_MEMORY:
        return NO_MEMORY
    if pool.misses and name == pool.missing:
        pool.looks_on = True
    k = place_of(pool, name)
    block.name = name
    block.named = True
    block.next_alike = NONE
    block.last_alike = b
    if pool.table[k].block == 0:
        block.previous_alike = NONE
        pool.table[k].block = b + 1
        pool.table[k].hash = hash_of(name)
        pool.names += 1
        return OK
    first = &pool.blocks[pool.table[k].block - 1]
    block.previous_alike = first.last_alike
    pool.blocks[first.last_alike].next_alike = b
    first.last_alike = b
    return OK


cdef inline void unwatch(BlockPool* pool, int64_t size) noexcept nogil:
    # Of the watched hits only so many are left.
    cdef CacheBlock* block
    while pool.watched_size > size:
        pool.watched_size -= 1
        block = &pool.blocks[pool.watched[pool.watched_size]]
        block.hit = 0
        pool.watched_held -= block.holders > 0
    pool.misses = False


cdef inline void stop_watching(BlockPool* pool) noexcept nogil:
    unwatch(pool, 0)
    pool.watched_for = NONE
    pool.looks_on = False


cdef inline void forget_name(BlockPool* pool, int32_t b) noexcept nogil:
    # The block has no name any more.
    cdef CacheBlock* block = &pool.blocks[b]
    cdef int64_t k, hole, home
    if block.hit > 0:
        unwatch(pool, block.hit - 1)
        pool.looks_on = True
    block.named = False
    if block.previous_alike != NONE:
        pool.blocks[block.previous_alike].next_alike = block.next_alike
        if block.next_alike != NONE:
            pool.blocks[block.next_alike].previous_alike = block.previous_alike
        else:
            pool.blocks[block_called(pool, block.name)].last_alike = block.previous_alike
        return
    hole = place_of_first(pool, b)
    if block.next_alike != NONE:
        pool.blocks[block.next_alike].previous_alike = NONE
        pool.blocks[block.next_alike].last_alike = block.last_alike
        pool.table[hole].block = block.next_alike + 1
        return
    pool.names -= 1
    k = hole  # those behind it move up, as far as each is not before its home
    while True:
        k = (k + 1) & pool.mask
        if pool.table[k].block == 0:
            break
        home = pool.table[k].hash & pool.mask
        if ((k - home) & pool.mask) >= ((k - hole) & pool.mask):
            pool.table[hole] = pool.table[k]
            hole = k
    pool.table[hole].block = 0


# Blocks ---------------------------------------------------------------------------------------------------------------


cdef inline void leave_free_list(BlockPool* pool, int32_t b) noexcept nogil:
    cdef CacheBlock* block = &pool.blocks[b]
    if block.before == NONE:
        pool.first_free = block.after
    else:
        pool.blocks[block.before].after = block.after
    if block.after == NONE:
        pool.last_free = block.before
    else:
        pool.blocks[block.after].before = block.before


cdef inline int32_t take_block(BlockPool* pool, int64_t most) noexcept nogil:
    # A free block of a cache with `most` of them, one of which is free: one without a name, else the one that was freed
    # first. NONE: no memory.
    cdef int32_t b = pool.nameless
    cdef int64_t larger
    cdef CacheBlock* block
    if b != NONE:
        pool.nameless = pool.blocks[b].after
    elif pool.made < most:
        if pool.made == pool.allocated:
            larger = min(most, 2 * pool.allocated + FEWEST)
            block = <CacheBlock*>realloc(pool.blocks, larger * sizeof(CacheBlock))
            if block == NULL:
                return NONE
            pool.blocks = block
            pool.allocated = larger
        b = <int32_t>pool.made
        pool.made += 1
        pool.blocks[b].named = False
        pool.blocks[b].hit = 0
    else:
        b = pool.first_free
        check(b != NONE)
        leave_free_list(pool, b)
        forget_name(pool, b)
    pool.blocks[b].holders = 1
    return b


cdef inline int keep_block(BlocksHeld* held, int32_t b) noexcept nogil:
    # OK or NO_MEMORY.
    cdef int32_t* block
    if held.size == held.allocated:
        block = <int32_t*>realloc(held.blocks, (2 * held.allocated + 16) * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        held.blocks = block
        held.allocated = 2 * held.allocated + 16
    held.blocks[held.size] = b
    held.size += 1
    return OK


cdef inline int64_t most_hits(const Engine* engine, int32_t p) noexcept nogil:
    # The last token is always processed, as its answer is wanted.
    cdef const Request* r = &engine.requests[p]
    return (max(r.prompt + r.kept, <int64_t>1) - 1) // engine.problem.block


cdef inline bint watch(BlockPool* pool, int32_t p, int64_t most) noexcept nogil:
    # The hits of this request, up to so many, are watched from now on, and no longer those of another. Whether there is
    # memory for it.
    cdef int32_t* larger
    stop_watching(pool)
    if most > pool.watched_allocated:
        larger = <int32_t*>realloc(pool.watched, most * sizeof(int32_t))
        if larger == NULL:
            return False
        pool.watched = larger
        pool.watched_allocated = most
    pool.watched_for = p
    pool.looks_on = True
    return True


cdef inline bint look_on(const Engine* engine, int32_t p, int64_t most) noexcept nogil:
    # More hits of the watched request. False where a block is one twice, which cannot be watched.
    cdef BlockPool* pool = engine.pool
    cdef int64_t name, j
    cdef int32_t b
    pool.looks_on = pool.misses = False
    for j in range(pool.watched_size, most):
        name = block_name(engine.problem, engine.requests[p].index, j)
        b = block_called(pool, name)
        pool.looked_up += 1
        if b == NONE:
            pool.misses = True
            pool.missing = name
            return True
        if pool.blocks[b].hit > 0:
            return False
        pool.blocks[b].hit = <int32_t>(j + 1)
        pool.watched[j] = b
        pool.watched_size = j + 1
        pool.watched_held += pool.blocks[b].holders > 0
    return True


cdef inline int64_t hits_of(const Engine* engine, int32_t p, int64_t* held) noexcept nogil:
    # How many blocks of a waiting request are in the cache; `held` becomes how many of these others hold.
    cdef BlockPool* pool = engine.pool
    cdef int64_t most = most_hits(engine, p), j
    cdef int32_t b
    if pool.watched_for == p or (not engine.problem.skip and watch(pool, p, most)):
        if not pool.looks_on or look_on(engine, p, most):
            held[0] = pool.watched_held
            return pool.watched_size
        stop_watching(pool)
    held[0] = 0
    for j in range(most):
        b = block_called(pool, block_name(engine.problem, engine.requests[p].index, j))
        pool.looked_up += 1
        if b == NONE:
            return j
        held[0] += pool.blocks[b].holders > 0
    return most


cdef inline int64_t tokens_cached(const Engine* engine, const Problem* source, int64_t index) noexcept nogil:
    # Tokens of a request of `source`, which did not come yet, that are in the cache.
    cdef int64_t most, j
    if engine.pool == NULL:
        return 0
    most = (max(source.prompt[index], <int64_t>1) - 1) // source.block
    most = min(most, source.name_size[index])
    for j in range(most):
        if block_called(engine.pool, block_name(source, index, j)) == NONE:
            return j * source.block
    return most * source.block


cdef inline int64_t hold_hits(Engine* engine, int32_t p) noexcept nogil:
    # A request that is admitted holds those of its blocks that are in the cache. How many, or NO_MEMORY.
    cdef BlockPool* pool = engine.pool
    cdef int64_t held, j, hits = hits_of(engine, p, &held)
    cdef bint watched = pool.watched_for == p
    cdef int32_t b
    for j in range(hits):
        b = pool.watched[j] if watched else block_called(
            pool, block_name(engine.problem, engine.requests[p].index, j)
        )
        if pool.blocks[b].holders == 0:
            leave_free_list(pool, b)
            engine.need += engine.problem.block
            pool.watched_held += pool.blocks[b].hit > 0
        pool.blocks[b].holders += 1
        if keep_block(&pool.held_by[p], b) == NO_MEMORY:
            return NO_MEMORY
    if watched:
        stop_watching(pool)
    return hits


cdef inline int take_blocks(Engine* engine, int32_t p, int64_t before, int64_t tokens) noexcept nogil:
    # It processes so many tokens after the first `before`: the blocks for them, and names for those that are full then.
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef BlockPool* pool = engine.pool
    cdef BlocksHeld* held = &pool.held_by[p]
    cdef int64_t j
    cdef int32_t b
    while held.size * problem.block < before + tokens:
        b = take_block(pool, problem.memory // problem.block)
        if b == NONE or keep_block(held, b) == NO_MEMORY:
            return NO_MEMORY
    for j in range(before // problem.block, (before + tokens) // problem.block):
        if call(pool, held.blocks[j], block_name(problem, engine.requests[p].index, j)) == NO_MEMORY:
            return NO_MEMORY
    return OK


cdef inline int64_t rounds_until_named(const Engine* engine, int64_t rounds) noexcept nogil:
    # How many rounds pass, at most so many, until a request that runs, and generates a token in each, names the block
    # that the watched one misses.
    cdef const Problem* problem = engine.problem
    cdef int32_t p = engine.oldest
    cdef int64_t index, processed, j
    while p != NONE:
        index = engine.requests[p].index
        processed = engine.prefills[p].cached + engine.prefills[p].granted
        j = processed // problem.block
        # What it alone can name nobody else misses.
        while j < problem.name_size[index] and (j + 1) * problem.block - processed < rounds:
            if block_name(problem, index, j) == engine.pool.missing:
                rounds = (j + 1) * problem.block - processed
            j += 1
        p = engine.requests[p].newer
    return rounds


cdef inline void give_back(Engine* engine, int32_t p) noexcept nogil:
    # It holds nothing any more: engine.need, from which all of its blocks will be taken, gets those back that others
    # hold.
    cdef BlockPool* pool = engine.pool
    cdef BlocksHeld* held = &pool.held_by[p]
    cdef int32_t b
    cdef CacheBlock* block
    while held.size > 0:
        held.size -= 1
        b = held.blocks[held.size]
        block = &pool.blocks[b]
        block.holders -= 1
        if block.holders > 0:
            engine.need += engine.problem.block
            continue
        pool.watched_held -= block.hit > 0
        if not block.named:
            block.after = pool.nameless
            pool.nameless = b
            continue
        block.before = pool.last_free
        block.after = NONE
        if pool.last_free == NONE:
            pool.first_free = b
        else:
            pool.blocks[pool.last_free].after = b
        pool.last_free = b


# A pool --------------------------------------------------------------------------------------------------------------


cdef inline int pool_init(Engine* engine) noexcept nogil:
    # OK or NO_MEMORY.
    cdef BlockPool* pool = <BlockPool*>calloc(1, sizeof(BlockPool))
    engine.pool = pool
    if pool == NULL:
        return NO_MEMORY
    pool.first_free = pool.last_free = pool.nameless = pool.watched_for = NONE
    pool.allocate_for, pool.hits_of, pool.hold_hits = &allocate_for, &hits_of, &hold_hits
    pool.take_blocks, pool.give_back = &take_blocks, &give_back
    pool.rounds_until_named = &rounds_until_named
    pool.table = <NamePlace*>calloc(FEWEST, sizeof(NamePlace))
    pool.mask = FEWEST - 1
    return NO_MEMORY if pool.table == NULL else OK

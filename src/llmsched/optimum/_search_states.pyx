"""The states of one round of the exact search (`exact_search`): their successors, bounds, dominance and pruning.

A state is the set of requests that wait, and the memory that those that run will take in this and the coming rounds.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

import sys

import numpy as np

from llmsched._engine.check cimport check

cdef enum:
    NO_MEMORY = -1          # the status of what could not allocate
    MOST_REQUESTS = 50
    MOST_PRICES = 32        # prices that states are tried with at a time
    DIGESTS = 7             # states in a chunk
    MOST_COMPARED = 500     # states of its set that a new one is compared with: some that could go may stay
    NODES_PER_LOOK = 1 << 18    # sets of starts, some hundredths of a second: how often to ask whether it is late

cdef extern from "llmsched/_engine/portable.h" nogil:
    int lowest_bit "llmsched_lowest_bit" (uint64_t set) noexcept


cdef struct State:
    uint64_t waiting    # bit j: request j has yet to start
    double bound        # what the prices tried so far say that the sum of starts cannot get below; inf: it can go
    int32_t total       # sum of the starts so far
    int32_t parent      # the state of the round before that it follows from
    int32_t price       # number of the price that gives the bound
    bint solved         # whether its own relaxation has been solved


cdef struct Digest:
    # A summary of a state, which shows at once that most others neither dominate it nor are dominated.
    uint64_t levels     # eight numbers of seven bits that are no larger where all memory taken is no larger
    int32_t total
    int32_t state


cdef struct Chunk:
    # Some states of one set, two cache lines.
    uint64_t waiting
    int32_t next        # chunk with the same hash, or -1
    int32_t count
    Digest[DIGESTS] digests


cdef class Rules:
    """The instance as the states see it: requests in order, so that of equal ones the first has the lower number."""

    cdef int requests
    cdef int span               # the longest output
    cdef int64_t memory
    cdef int32_t[:, ::1] footprint  # [j, k] memory that j takes in its k-th round, counted from 0
    cdef int32_t[::1] output
    cdef int64_t[::1] release
    cdef int32_t[::1] twin      # the equal request before j, which starts first, or -1
    cdef int shift              # so many bits less, and a number of tokens fits in seven

    def __init__(self, prompt, output, release, twin, memory):
        self.requests, self.span = len(output), int(output.max())
        check(self.requests <= MOST_REQUESTS)
        self.memory = memory
        k = np.arange(self.span, dtype=np.int32)
        self.footprint = np.where(k < output[:, None], prompt[:, None] + 1 + k, 0).astype(np.int32)
        self.output = output.astype(np.int32)
        self.release = release.astype(np.int64)
        self.twin = np.asarray(twin, dtype=np.int32)
        self.shift = max(0, memory.bit_length() - 7)


cdef struct Step:
    # What `follow` knows of its round: of prices p (rows of `count` numbers), requests j and coming rounds k.
    int count
    int64_t now
    double limit                # of the bounds of states that may be added
    int64_t goal                # of the total of a complete schedule
    const double* least         # [j, p] the cheapest start of j from now on
    const double* dearer        # [j, p] starting now, above the cheapest start
    const double* later         # [j, p] the cheapest start after now
    const double* delta         # [j, p] starting now, above that: what a start now adds to a bound of the next round
    const double* rate          # [k, p] price of a token in round now + k
    const double* tail          # [p] price of all memory from now on
    const double* tail_next     # [p] and after now
    uint64_t released           # requests that can start now
    int32_t parent
    int64_t nodes               # sets of starts looked at
    Py_ssize_t most_states      # there may be
    bint late


cdef struct Best:
    int64_t total               # of the best complete schedule, or -1
    int32_t parent              # the state from which its last requests start


cdef class States:
    """The states of one round, and a hash table of them by the set of requests that wait."""

    cdef readonly Py_ssize_t size
    cdef readonly object best       # (sum of starts, parent) of the best complete schedule that `follow` met, or None
    cdef Rules rules
    cdef State* states
    cdef int32_t* taken             # [state, k] memory taken in this round and the coming ones
    cdef Py_ssize_t allocated       # states that there is memory for
    cdef Chunk* chunks              # chunks[:chunks_used] hold the digests of all states that `follow` compares
    cdef Py_ssize_t chunks_used, chunks_allocated
    cdef int32_t* heads             # first chunk of each hash, or -1
    cdef int64_t hash_slots         # a power of two
    cdef bint table_valid           # whether the chunks are those of the states as they are
    cdef object late                # asked now and then whether it is
    cdef object error               # what it raised
    cdef int32_t* scratch           # a row of `taken` for each request that a set of starts can hold

    def __cinit__(self, Rules rules):
        self.rules = rules
        self.best = None
        self.scratch = <int32_t*>malloc(rules.requests * rules.span * sizeof(int32_t))
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.states)
        free(self.taken)
        free(self.chunks)
        free(self.heads)
        free(self.scratch)

    def begin(self):
        """The first state: everybody waits, nothing is taken."""
        cdef State* state
        if self.reserve() < 0:
            raise MemoryError
        state = &self.states[0]
        state.waiting = (<uint64_t>1 << self.rules.requests) - 1
        state.total = 0
        state.bound = -INFINITY
        state.parent = -1
        state.price = 0
        state.solved = False
        memset(self.taken, 0, self.rules.span * sizeof(int32_t))
        self.size = 1

    # What Python looks at

    def bounds(self):
        """(states,) what Σ starts cannot get below from each state."""
        cdef double[::1] found = np.empty(self.size)
        cdef Py_ssize_t i
        for i in range(self.size):
            found[i] = self.states[i].bound
        return found.base

    def trail(self):
        """(states,) sets of waiting requests, and (states,) parents: enough to retrace a schedule."""
        cdef uint64_t[::1] waiting = np.empty(self.size, np.uint64)
        cdef int32_t[::1] parent = np.empty(self.size, np.int32)
        cdef Py_ssize_t i
        for i in range(self.size):
            waiting[i] = self.states[i].waiting
            parent[i] = self.states[i].parent
        return waiting.base, parent.base

    def lowest(self):
        """The state of least bound, its set of waiting requests, and its (span,) memory taken.

        Marks it as solved. None if its relaxation has been solved already, or there is no state.
        """
        cdef Py_ssize_t i, k = 0
        cdef int32_t[::1] taken
        if not self.size:
            return None
        for i in range(1, self.size):
            if self.states[i].bound < self.states[k].bound:
                k = i
        if self.states[k].solved:
            return None
        self.states[k].solved = True
        taken = np.empty(self.rules.span, np.int32)
        memcpy(&taken[0], self.taken + k * self.rules.span, self.rules.span * sizeof(int32_t))
        return self.states[k].waiting, taken.base

    def price_counts(self, int prices):
        """(prices,) of how many states each price gives the bound."""
        cdef int64_t[::1] found = np.zeros(prices, np.int64)
        cdef Py_ssize_t i
        for i in range(self.size):
            found[self.states[i].price] += 1
        return found.base

    def renumber_prices(self, const int32_t[::1] number):
        """Give the prices other numbers: price p becomes number[p]."""
        cdef Py_ssize_t i
        for i in range(self.size):
            self.states[i].price = number[self.states[i].price]

    # Bounds

    def raise_bounds(self, const double[:, ::1] least, const double[:, ::1] rate, const double[::1] tail, int first):
        """Try prices: least (requests, prices), rate (span, prices), tail (prices,). `first`: number of the first."""
        cdef int count = tail.shape[0], span = self.rules.span, p
        cdef double b[MOST_PRICES]
        cdef Py_ssize_t i
        cdef State* state
        check(count <= MOST_PRICES)
        with nogil:
            for i in range(self.size):
                state = &self.states[i]
                bound_by_prices(b, count, state, self.taken + i * span, span, &least[0, 0], &rate[0, 0], &tail[0])
                for p in range(count):
                    if b[p] > state.bound:
                        state.bound = b[p]
                        state.price = first + p

    def prune(self, double limit, Py_ssize_t ties=sys.maxsize):
        """Drop the states that are bounded by more than the limit, and of those bounded by just that all but `ties`."""
        cdef Py_ssize_t i, kept = 0, before = self.size
        cdef int span = self.rules.span
        cdef double bound
        with nogil:
            for i in range(before):
                bound = self.states[i].bound
                if bound > limit or bound == limit and ties <= 0:
                    continue
                ties -= bound == limit
                if kept < i:
                    self.states[kept] = self.states[i]
                    memcpy(self.taken + kept * span, self.taken + i * span, span * sizeof(int32_t))
                kept += 1
            self.size = kept
            self.table_valid = self.table_valid and kept == before

    # What follows

    def follow(self, States before, Py_ssize_t first, int64_t now, double limit, int64_t goal, Py_ssize_t most_states,
               late, least, dearer, later, delta, rate, tail, tail_next):
        """Add what follows from `before`, from its state `first` on, by starting requests in round `now`.

        Only states with bounds up to the limit, and complete schedules with sums of starts up to the goal. The columns
        are as in `Step`. Stops when there are more than `most_states`, or when `late()` says so; returns the state to
        go on with: the same again where not all that follows from it was added.
        """
        cdef Step step
        cdef Best best
        cdef const double[:, ::1] least_ = least, dearer_ = dearer, later_ = later, delta_ = delta, rate_ = rate
        cdef const double[::1] tail_ = tail, tail_next_ = tail_next
        cdef Py_ssize_t i = first, end = before.size
        cdef int j, failed = 0
        step.count, step.now, step.limit, step.goal = tail_.shape[0], now, limit, goal
        step.most_states, step.nodes, step.late = most_states, 0, False
        self.late, self.error = late, None
        check(step.count <= MOST_PRICES)
        step.least, step.dearer, step.later = &least_[0, 0], &dearer_[0, 0], &later_[0, 0]
        step.delta, step.rate, step.tail, step.tail_next = &delta_[0, 0], &rate_[0, 0], &tail_[0], &tail_next_[0]
        step.released = 0
        for j in range(self.rules.requests):
            if self.rules.release[j] <= now:
                step.released |= <uint64_t>1 << j
        best.total = -1
        with nogil:
            if not self.table_valid:
                failed = self.rebuild_table()
            while not failed and i < end:
                failed = self.expand(before, i, &step, &best)
                if self.must_stop(&step):
                    break
                i += 1
        if failed:
            raise MemoryError
        if self.error is not None:
            raise self.error
        self.best = (best.total, best.parent) if best.total >= 0 else None
        return i

    cdef bint must_stop(self, const Step* step) noexcept nogil:
        return step.late or self.size > step.most_states

    cdef bint is_late(self) noexcept with gil:
        try:
            return self.late()
        except BaseException as error:  # also Ctrl-C
            self.error = error
            return True

    cdef int expand(self, States before, Py_ssize_t i, Step* step, Best* best) noexcept nogil:
        # All sets of requests that can start now from one state. 0 or NO_MEMORY.
        cdef State* state = &before.states[i]
        cdef int span = self.rules.span, count = step.count, p, j
        cdef const int32_t* taken = before.taken + i * span
        cdef double here[MOST_PRICES]
        cdef double after[MOST_PRICES]
        cdef uint64_t rest
        step.parent = <int32_t>i
        bound_by_prices(here, count, state, taken, span, step.least, step.rate, step.tail)
        for p in range(count):
            # Nobody starts: the memory of this round that is not taken is lost, and who waits starts later.
            after[p] = here[p] - taken[0] * step.rate[p] + step.tail[p] - step.tail_next[p]
        rest = state.waiting
        while rest:
            j = lowest_bit(rest)
            rest &= rest - 1
            for p in range(count):
                after[p] += step.later[j * count + p] - step.least[j * count + p]
        return self.branch(0, step, best, state.waiting, state.waiting & step.released, state.total, taken, here, after)

    cdef int branch(self, int depth, Step* step, Best* best, uint64_t waiting, uint64_t candidates, int64_t total,
                    const int32_t* taken, const double* here, const double* after) noexcept nogil:
        # Add the state in which nobody else starts, then those in which some of the `candidates` do, the lowest first.
        cdef int count = step.count, span = self.rules.span, j, k, p, excluded, o
        cdef int64_t memory = self.rules.memory
        cdef uint64_t rest = candidates, startable = 0
        cdef const int32_t* footprint
        cdef int32_t* taken_then = self.scratch + depth * span
        cdef double here_then[MOST_PRICES]
        cdef double after_then[MOST_PRICES]
        step.nodes += 1
        if step.nodes % NODES_PER_LOOK == 0:
            step.late = self.is_late()
        if self.add(step, best, waiting, total, taken, after) < 0:
            return NO_MEMORY
        while rest:  # who cannot start now cannot when others have started besides
            j = lowest_bit(rest)
            rest &= rest - 1
            footprint = &self.rules.footprint[j, 0]
            excluded = 0
            for p in range(count):
                excluded |= here[p] + step.dearer[j * count + p] > step.limit
            if excluded:
                continue
            o = self.rules.output[j]
            for k in range(o):
                excluded |= taken[k] + footprint[k] > memory
            if not excluded:
                startable |= <uint64_t>1 << j
        rest = startable
        while rest:
            j = lowest_bit(rest)
            rest &= rest - 1
            if self.rules.twin[j] >= 0 and waiting >> self.rules.twin[j] & 1:
                continue
            footprint = &self.rules.footprint[j, 0]
            for k in range(span):
                taken_then[k] = taken[k] + footprint[k]
            for p in range(count):
                here_then[p] = here[p] + step.dearer[j * count + p]
                after_then[p] = after[p] + step.delta[j * count + p]
            if self.must_stop(step):
                return 0
            if self.branch(depth + 1, step, best, waiting & ~(<uint64_t>1 << j), rest, total + step.now, taken_then,
                           here_then, after_then) < 0:
                return NO_MEMORY
        return 0

    cdef int add(self, Step* step, Best* best, uint64_t waiting, int64_t total, const int32_t* taken,
                 const double* after) noexcept nogil:
        # A state of the next round, unless it cannot win. 0 or NO_MEMORY.
        cdef int p, price = 0, over = 0
        cdef int32_t* row
        cdef State* state
        if not waiting:
            if total <= step.goal:
                best.total, best.parent = total, step.parent
                step.goal = total - 1
                step.limit = min(step.limit, <double>step.goal)
            return 0
        if taken[0] == 0 and not waiting & ~step.released:
            return 0  # idle, with nobody to come: everything could happen a round earlier
        for p in range(step.count):
            over |= after[p] > step.limit
        if over:
            return 0
        if self.reserve() < 0:
            return NO_MEMORY
        # Written to the end of the columns; it stays there if no other state dominates it.
        state = &self.states[self.size]
        row = self.taken + self.size * self.rules.span
        memcpy(row, taken + 1, (self.rules.span - 1) * sizeof(int32_t))
        row[self.rules.span - 1] = 0
        state.waiting, state.total, state.parent, state.solved = waiting, <int32_t>total, step.parent, False
        for p in range(1, step.count):
            if after[p] > after[price]:
                price = p
        state.bound, state.price = after[price], price
        return self.insert(<int32_t>self.size)

    cdef int insert(self, int32_t i) noexcept nogil:
        # Count state i, unless a state with the same set is at least as good in the sum of starts and in every round's
        # memory; those that are no better go: their bounds become inf. 0 or NO_MEMORY.
        cdef const State* new = &self.states[i]
        cdef int span = self.rules.span, m, compared = 0
        cdef const int32_t* row = self.taken + i * span
        cdef uint64_t levels = self.levels(row)
        cdef int32_t* head = &self.heads[self.hash_slot(new.waiting)]
        cdef int32_t at = head[0]
        cdef Chunk* chunk
        cdef Chunk* open_chunk = NULL
        cdef Digest* digest
        while at >= 0 and compared < MOST_COMPARED:
            chunk = &self.chunks[at]
            at = chunk.next
            if chunk.waiting != new.waiting:
                continue
            compared += chunk.count
            m = 0
            while m < chunk.count:
                digest = &chunk.digests[m]
                if digest.total <= new.total and no_higher(digest.levels, levels):
                    if nowhere_less(row, self.taken + digest.state * <int64_t>span, span):
                        return 0
                if digest.total >= new.total and no_higher(levels, digest.levels):
                    if nowhere_less(self.taken + digest.state * <int64_t>span, row, span):
                        self.states[digest.state].bound = INFINITY
                        chunk.count -= 1
                        digest[0] = chunk.digests[chunk.count]
                        continue
                m += 1
            if chunk.count < DIGESTS:
                open_chunk = chunk
        if open_chunk == NULL:
            if self.reserve_chunk() < 0:
                return NO_MEMORY
            open_chunk = &self.chunks[self.chunks_used]
            open_chunk.waiting, open_chunk.next, open_chunk.count = new.waiting, head[0], 0
            head[0] = <int32_t>self.chunks_used
            self.chunks_used += 1
        digest = &open_chunk.digests[open_chunk.count]
        digest.levels, digest.total, digest.state = levels, new.total, i
        open_chunk.count += 1
        self.size = max(self.size, <Py_ssize_t>i + 1)
        return 0

    cdef uint64_t levels(self, const int32_t* row) noexcept nogil:
        cdef uint64_t found = 0
        cdef int k
        for k in range(8):
            found = found << 8 | <uint64_t>(row[k * self.rules.span // 8] >> self.rules.shift)
        return found

    cdef int64_t hash_slot(self, uint64_t waiting) noexcept nogil:
        return <int64_t>((waiting * <uint64_t>0x9E3779B97F4A7C15) >> 20) & (self.hash_slots - 1)

    cdef int reserve(self) noexcept nogil:
        # Room for one more state. 0 or NO_MEMORY.
        cdef Py_ssize_t enough = max(1024, 2 * self.allocated)
        if self.size < self.allocated:
            return 0
        if resize(<void**>&self.states, enough * sizeof(State)) < 0:
            return NO_MEMORY
        if resize(<void**>&self.taken, enough * self.rules.span * sizeof(int32_t)) < 0:
            return NO_MEMORY
        self.allocated = enough
        return 0

    cdef int reserve_chunk(self) noexcept nogil:
        # Room for one more chunk. 0 or NO_MEMORY.
        cdef Py_ssize_t enough = max(1024, 2 * self.chunks_allocated)
        if self.chunks_used < self.chunks_allocated:
            return 0
        if resize(<void**>&self.chunks, enough * sizeof(Chunk)) < 0:
            return NO_MEMORY
        self.chunks_allocated = enough
        return 0

    cdef int rebuild_table(self) noexcept nogil:
        # The chunks anew, of the states that there are. 0 or NO_MEMORY.
        cdef Py_ssize_t i
        self.hash_slots = 1 << 16
        while self.hash_slots < self.size:
            self.hash_slots *= 2
        if resize(<void**>&self.heads, self.hash_slots * sizeof(int32_t)) < 0:
            return NO_MEMORY
        memset(self.heads, 0xFF, self.hash_slots * sizeof(int32_t))
        self.chunks_used = 0
        self.table_valid = True
        for i in range(self.size):
            if self.insert(<int32_t>i) < 0:
                return NO_MEMORY
        return 0


cdef int resize(void** memory, size_t size) noexcept nogil:
    # 0 or NO_MEMORY; what was there stays.
    cdef void* grown = realloc(memory[0], size)
    if grown == NULL:
        return NO_MEMORY
    memory[0] = grown
    return 0


cdef bint no_higher(uint64_t a, uint64_t b) noexcept nogil:
    # Whether each of a's eight numbers of seven bits is at most b's.
    return ((b | <uint64_t>0x8080808080808080) - a) & <uint64_t>0x8080808080808080 == <uint64_t>0x8080808080808080


cdef void bound_by_prices(double* bound, int count, const State* state, const int32_t* taken, int span,
                          const double* least, const double* rate, const double* tail) noexcept nogil:
    # What each price says that the sum of starts cannot get below. All terms are multiples of 2⁻¹⁶: sums are exact.
    cdef uint64_t rest = state.waiting
    cdef int j, k, p
    cdef double x
    for p in range(count):
        bound[p] = state.total - tail[p]
    while rest:
        j = lowest_bit(rest)
        rest &= rest - 1
        for p in range(count):
            bound[p] += least[j * count + p]
    for k in range(span):
        if taken[k]:
            x = taken[k]
            for p in range(count):
                bound[p] += x * rate[k * count + p]


cdef bint nowhere_less(const int32_t* a, const int32_t* b, int span) noexcept nogil:
    # Whether a is nowhere less than b.
    cdef int k
    for k in range(span):
        if a[k] < b[k]:
            return False
    return True

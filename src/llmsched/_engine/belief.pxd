# Beliefs that move while a request runs (model.md, section 8): by a table of lengths, by SGLang's ratio, or drawn from
# the lengths of the last completed requests. Here feasibility is a look at the whole batch instead of a profile.
#
# A look that finds no room says from which round on there may be some if nothing else happens, so that quiet rounds are
# still jumped over: believed lengths of the table only rise, and the ratio falls in a known way. Draws are new in every
# round, and so is that look.

from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.splitmix64 cimport splitmix64_at
from llmsched._engine.request cimport Request
from llmsched._engine.status cimport NO_MEMORY, OK

cdef enum BeliefKind:
    BELIEF_TABLE
    BELIEF_RATIO
    BELIEF_HISTORY


cdef inline int belief_kind(str reserve) except -1:
    # Of a `reserve` whose beliefs move. ValueError: there is none.
    if reserve == "conditional":
        return BELIEF_TABLE
    if reserve == "ratio":
        return BELIEF_RATIO
    if reserve == "history":
        return BELIEF_HISTORY
    raise ValueError(f"the compiled engine knows no moving beliefs {reserve!r}: add them to _engine/belief.pxd")


cdef extern from "llmsched/_engine/portable.h" nogil:
    const int64_t ENOUGH "LLMSCHED_ENOUGH"  # more tokens than any cache has, and far from what 64 bits hold
    ctypedef struct Wide "llmsched_wide":
        uint64_t high, low
    Wide wide_sum "llmsched_wide_sum" (Wide a, Wide b) noexcept
    double wide_to_double "llmsched_wide_to_double" (Wide a) noexcept


cdef struct BeliefRules:
    # What a Problem says of them. Arrays as there: one value per request, or NULL where nothing reads it.
    BeliefKind kind
    const int64_t* table        # row, tokens seen -> length; rows never fall
    const int64_t* row          # of each request
    int64_t width               # of a row; beyond it, the last number
    const int64_t* upper        # u, for BELIEF_RATIO and BELIEF_HISTORY
    const int64_t* numbers      # which draws are a request's own; NULL: those of its index
    double ratio                # r at the start,
    double least                # in the end,
    double step                 # and what it loses in a round
    int64_t clip
    int64_t window              # completed requests remembered


cdef struct Member:
    # A running request.
    int64_t offset      # s - birth: in round t it holds offset + t tokens
    int64_t birth       # the round in which it would have had no tokens: g = t - birth
    int64_t known       # the most tokens that an earlier attempt generated
    int64_t most        # M - s
    int64_t first_round  # of this attempt
    int64_t remaining        # tokens that it is believed to generate yet, where `Belief.round` says when
    int32_t who         # its number
    int32_t index       # in the workload


cdef struct Point:
    int64_t remaining
    int64_t held


cdef struct Belief:
    int64_t scanned     # members looked at, for the work counters
    BeliefRules rules
    int64_t memory      # M
    int64_t block
    Member* members     # members[0:size], in no order
    int64_t size
    int64_t allocated   # members that there is memory for; of points twice as many, the second half for sorting
    int64_t* known      # request number -> the most tokens it generated in attempts that ended
    int32_t* place      # request number -> its place in members, while it runs
    int64_t requests_allocated
    Point* points       # of the members, largest `remaining` first, where `round` is the present one
    int64_t round       # NEVER: points are of no use
    int64_t tightest    # the round in which the cache was fullest in the last look that found no room
    double ratio_start  # r was this
    int64_t ratio_round  # in this round
    int64_t* recent     # the last completed lengths: a ring
    int64_t* sorted     # the same, ascending
    int64_t lengths_seen
    uint64_t seed
    int64_t drawn_round
    uint64_t stream     # of `drawn_round`


cdef inline int belief_init(
    Belief* belief, const BeliefRules* rules, int64_t memory, int64_t block, uint64_t seed
) noexcept nogil:
    # OK or NO_MEMORY.
    memset(belief, 0, sizeof(Belief))
    belief.rules = rules[0]
    belief.memory = memory
    belief.block = block
    belief.seed = seed
    belief.round = NEVER
    belief.tightest = belief.drawn_round = -1
    belief.ratio_start = rules.ratio
    if rules.kind == BELIEF_HISTORY:
        belief.recent = <int64_t*>malloc(2 * rules.window * sizeof(int64_t))
        if belief.recent == NULL:
            return NO_MEMORY
        belief.sorted = belief.recent + rules.window
    return OK


cdef inline void belief_free(Belief* belief) noexcept nogil:
    free(belief.members)
    free(belief.points)
    free(belief.known)
    free(belief.place)
    free(belief.recent)


cdef inline int belief_make(Belief* belief, int32_t p) noexcept nogil:
    # Request number p is of one that never ran. OK or NO_MEMORY.
    cdef int64_t larger = 2 * <int64_t>p + 64
    cdef void* block
    if p >= belief.requests_allocated:
        block = realloc(belief.known, larger * sizeof(int64_t))
        if block == NULL:
            return NO_MEMORY
        belief.known = <int64_t*>block
        block = realloc(belief.place, larger * sizeof(int32_t))
        if block == NULL:
            return NO_MEMORY
        belief.place = <int32_t*>block
        belief.requests_allocated = larger
    belief.known[p] = 0
    return OK


# What is believed ----------------------------------------------------------------------------------------------------


cdef inline int64_t length_of_class(const Belief* belief, int64_t i, int64_t known) noexcept nogil:
    cdef const BeliefRules* rules = &belief.rules
    cdef int64_t length = rules.table[rules.row[i] * rules.width + min(known, rules.width - 1)]
    return max(length, known + 1)


cdef inline int64_t drawn_length(Belief* belief, int64_t i, int64_t known, int64_t round) noexcept nogil:
    # One of the last completed lengths above `known`: always the same for a request in a round.
    cdef int64_t size = min(belief.lengths_seen, belief.rules.window)
    cdef const int64_t* first = belief.sorted
    cdef int64_t n = size, half, longer
    while n > 0:  # `first` becomes the first above `known`; without branches, which nobody could foresee
        half = (n + 1) >> 1
        first += half * (first[half - 1] <= known)
        n -= half
    longer = size - (first - <const int64_t*>belief.sorted)
    if longer == 0:
        return belief.rules.upper[i]
    if belief.drawn_round != round:
        belief.drawn_round = round
        belief.stream = splitmix64_at(belief.seed, round)
    if belief.rules.numbers != NULL:
        i = belief.rules.numbers[i]
    return first[((splitmix64_at(belief.stream, i) >> 32) * <uint64_t>longer) >> 32]


cdef inline int64_t belief_length(
    Belief* belief, int64_t i, int64_t most, int64_t generated, int64_t known, int64_t round
) noexcept nogil:
    # L of request i, which may reach `most` = M - s tokens, has `generated` and once had `known`.
    cdef int64_t length
    if belief.rules.kind == BELIEF_RATIO:
        length = max(belief.rules.upper[i], generated + 1)
    else:
        known = max(known, generated)
        if belief.rules.kind == BELIEF_TABLE:
            length = length_of_class(belief, i, known)
        else:
            length = max(drawn_length(belief, i, known, round), known + 1)
    return min(length, most)


cdef inline int64_t remaining_length(Belief* belief, const Member* m, int64_t round) noexcept nogil:
    cdef int64_t generated = round - m.birth
    return belief_length(belief, m.index, m.most, generated, m.known, round) - generated


# Entering and leaving the batch --------------------------------------------------------------------------------------


cdef inline int belief_add(
    Belief* belief, const Request* r, int32_t p, int64_t round, int64_t remaining
) noexcept nogil:
    # Request number p is admitted, and believed to generate so many more tokens. OK or NO_MEMORY.
    cdef int64_t larger = 2 * belief.allocated + 64, at
    cdef Member* m
    cdef void* block
    if belief.size == belief.allocated:
        block = realloc(belief.members, larger * sizeof(Member))
        if block == NULL:
            return NO_MEMORY
        belief.members = <Member*>block
        block = realloc(belief.points, 2 * larger * sizeof(Point))
        if block == NULL:
            return NO_MEMORY
        belief.points = <Point*>block
        belief.allocated = larger
    if belief.round == round:  # the points stay right for those that are looked at next
        at = belief.size
        while at > 0 and belief.points[at - 1].remaining < remaining:
            at -= 1
        memmove(belief.points + at + 1, belief.points + at, (belief.size - at) * sizeof(Point))
        belief.points[at].remaining = remaining
        belief.points[at].held = r.prompt + round - r.birth
    m = &belief.members[belief.size]
    m.offset = r.prompt - r.birth
    m.birth = r.birth
    m.known = belief.known[p]
    m.most = belief.memory - r.prompt
    m.first_round = round
    m.remaining = remaining
    m.who = p
    m.index = r.index
    belief.place[p] = <int32_t>belief.size
    belief.size += 1
    return OK


cdef inline void belief_remove(Belief* belief, int32_t p, int64_t generated, bint completes) noexcept nogil:
    # It stops running with so many tokens.
    cdef int32_t at = belief.place[p]
    belief.size -= 1
    belief.members[at] = belief.members[belief.size]
    belief.place[belief.members[at].who] = at
    belief.known[p] = max(belief.known[p], generated)
    belief.round = NEVER
    if completes and belief.rules.kind == BELIEF_HISTORY:
        remember(belief, generated)


cdef inline void belief_postpone(Belief* belief, int32_t p) noexcept nogil:
    # It generated nothing in the last round: all is as if it had been admitted a round later.
    cdef Member* m = &belief.members[belief.place[p]]
    m.birth += 1
    m.offset -= 1
    belief.round = NEVER


cdef inline int64_t first_at_least(const int64_t* sorted, int64_t n, int64_t length) noexcept nogil:
    cdef int64_t low = 0, middle
    while low < n:
        middle = (low + n) >> 1
        if sorted[middle] < length:
            low = middle + 1
        else:
            n = middle
    return low


cdef inline void remember(Belief* belief, int64_t length) noexcept nogil:
    # A request completed with this length; the oldest of a full window is forgotten.
    cdef int64_t window = belief.rules.window
    cdef int64_t slot = belief.lengths_seen % window, size = min(belief.lengths_seen, window), at
    cdef int64_t* sorted = belief.sorted
    if belief.lengths_seen >= window:
        size -= 1
        at = first_at_least(sorted, size + 1, belief.recent[slot])
        memmove(sorted + at, sorted + at + 1, (size - at) * sizeof(int64_t))
    at = first_at_least(sorted, size, length)
    memmove(sorted + at + 1, sorted + at, (size - at) * sizeof(int64_t))
    sorted[at] = length
    belief.recent[slot] = length
    belief.lengths_seen += 1


# SGLang's ratio ------------------------------------------------------------------------------------------------------


cdef inline double ratio_at(const Belief* belief, int64_t round) noexcept nogil:
    return max(belief.ratio_start - belief.rules.step * <double>(round - belief.ratio_round), belief.rules.least)


cdef inline void ratio_restart(Belief* belief, int64_t round) noexcept nogil:
    # Nothing ran.
    belief.ratio_start = belief.rules.ratio
    belief.ratio_round = round


cdef inline void ratio_learn(Belief* belief, int64_t round, int64_t headroom) noexcept nogil:
    # The cache overflowed, and these remain.
    cdef Wide lengths = Wide(0, 1), length = Wide(0, 0)
    cdef int64_t generated = headroom * belief.size, k
    cdef const Member* m
    if belief.rules.kind != BELIEF_RATIO:
        return
    for k in range(belief.size):
        m = &belief.members[k]
        generated += round - m.birth
        length.low = <uint64_t>(round - m.birth + remaining_length(belief, m, round))
        lengths = wide_sum(lengths, length)
    belief.ratio_start = min(1.0, <double>generated / wide_to_double(lengths))
    belief.ratio_round = round


cdef inline int64_t ratio_earliest(
    Belief* belief, int64_t round, int64_t held, int64_t remaining, int64_t capacity
) noexcept nogil:
    # The first round in which a request that holds and may still generate so much fits, as far as can be known: this
    # one, or a later one before which it does not.
    cdef const BeliefRules* rules = &belief.rules
    cdef int64_t tokens = whole_blocks(held + min(remaining, rules.clip), belief.block), fresh = 0, before = 0, rest, k
    cdef double room, share, rounds
    cdef const Member* m
    belief.scanned += belief.size
    for k in range(belief.size):
        m = &belief.members[k]
        rest = min(remaining_length(belief, m, round), rules.clip)
        if m.first_round == round:
            tokens += whole_blocks(m.offset + round + rest, belief.block)
            fresh += rest
        else:
            tokens += whole_blocks(m.offset + round, belief.block)
            before += rest
    if <double>tokens + ratio_at(belief, round) * <double>before <= <double>capacity:
        return round
    # From the next round on r counts for all that run. What they still may generate shrinks, but what they hold grows
    # by as much, and r <= 1: so r must fall to `share` first. A token of slack covers every rounding.
    room = <double>(capacity - tokens + fresh) + 1 + 1e-12 * <double>capacity
    share = room / <double>(before + fresh)
    if belief.block > 1:
        return round + 1
    if share < rules.least:
        return NEVER
    if share >= belief.ratio_start:
        return round + 1
    if rules.step <= 0:
        return NEVER
    rounds = (belief.ratio_start - share) / rules.step - 1
    return max(round + 1, belief.ratio_round + <int64_t>min(rounds, 1e15))


# Feasibility (model.md, section 4) -----------------------------------------------------------------------------------


cdef inline void sort_points(Point* points, Point* scratch, int64_t n) noexcept nogil:
    # Largest `remaining` first: runs of four by insertion, then merged.
    cdef int64_t start = 0, width = 4, at, k, i, j, middle, end, first, take_scratch
    cdef Point point
    while start < n:
        for k in range(start + 1, min(start + width, n)):
            point = points[k]
            at = k
            while at > start and points[at - 1].remaining < point.remaining:
                points[at] = points[at - 1]
                at -= 1
            points[at] = point
        start += width
    while width < n:
        start = 0
        while start + width < n:
            middle = j = start + width
            end = min(middle + width, n)
            if points[middle - 1].remaining < points[middle].remaining:
                memcpy(scratch, points + start, width * sizeof(Point))
                i = 0
                k = start
                while i < width and j < end:  # without branches on what nobody could foresee
                    first = scratch[i].remaining >= points[j].remaining
                    take_scratch = -<int64_t>first
                    points[k].remaining = (scratch[i].remaining & take_scratch) | (points[j].remaining & ~take_scratch)
                    points[k].held = (scratch[i].held & take_scratch) | (points[j].held & ~take_scratch)
                    i += first
                    j += 1 - first
                    k += 1
                memcpy(points + k, scratch + i, (width - i) * sizeof(Point))
            start = end
        width *= 2


cdef inline int64_t until_room(
    const Belief* belief, int64_t round, int64_t d, int64_t tokens, int64_t held, int64_t remaining, int64_t capacity
) noexcept nogil:
    # The batch and a candidate take `tokens` > C when d more tokens are generated, the candidate, unless it is done by
    # then, not rounded up to blocks: the first round in which it may fit at that point, all else as it is.
    if belief.rules.kind == BELIEF_HISTORY:
        return round + 1
    return round + (min(tokens - capacity, d) if remaining >= d else d)


cdef inline int64_t belief_earliest(
    Belief* belief, int64_t round, int64_t held, int64_t remaining, int64_t capacity
) noexcept nogil:
    # The first round in which a request that holds and will generate so much fits, as far as can be known: this one, or
    # a later one before which it does not. Needs a running request.
    cdef int64_t n = belief.size, k, i, at, d, sum, tokens, rough, worst = 0, earliest = round, wake
    cdef Member* m
    cdef Point* points = belief.points
    cdef bint counted
    if belief.rules.kind == BELIEF_RATIO:
        return ratio_earliest(belief, round, held, remaining, capacity)
    belief.scanned += n
    if belief.round != round:
        # First the point that was the tightest last time: it mostly still is.
        d = max(belief.tightest - round + 1, <int64_t>1)
        tokens = held + d if remaining >= d else 0
        for k in range(n):
            m = &belief.members[k]
            m.remaining = remaining_length(belief, m, round)
            tokens += whole_blocks(m.offset + round + d, belief.block) if m.remaining >= d else 0
            if tokens > capacity and belief.rules.kind == BELIEF_HISTORY:
                break  # how much too much it is does not matter then
        if tokens > capacity:
            return until_room(belief, round, d, tokens, held, remaining, capacity)
        for k in range(n):
            m = &belief.members[k]
            points[k].remaining = m.remaining
            points[k].held = m.offset + round
        sort_points(points, points + belief.allocated, n)
        belief.round = round
    sum = 0
    counted = False
    at = 0
    for k in range(1, n + 2):
        if not counted and (at == n or remaining >= points[at].remaining):
            d = remaining
            sum += held
            counted = True
        else:
            d = points[at].remaining
            sum += points[at].held
            at += 1
        tokens = sum + k * d
        if belief.block > 1 and tokens <= capacity < tokens + k * (belief.block - 1):
            tokens = held + d if counted else 0
            rough = whole_blocks(tokens, belief.block) - tokens
            for i in range(at):
                tokens += whole_blocks(points[i].held + d, belief.block)
            if tokens + rough <= capacity:
                continue
            tokens = max(tokens, capacity + 1)
        if tokens > capacity:
            wake = until_room(belief, round, d, tokens, held, remaining, capacity)
            earliest = max(earliest, wake)
            if tokens > worst:
                worst = tokens
                belief.tightest = round + d - 1
            if tokens > ENOUGH:
                break
    return earliest

# The router: who takes a request.

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport HOT_BYTES
from llmsched._engine.allocation cimport prefetch
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.request cimport NONE
from llmsched._engine.splitmix64 cimport splitmix64_below
from llmsched._engine.status cimport FORMULA_FAILED, OK
from llmsched.fleet._fleet cimport FEW_REPLICAS, MOST_FETCHED, RANDOM, ROUND_ROBIN, FleetState, Pool
from llmsched.fleet._parts.running cimport advance
from llmsched.fleet._parts.scores cimport score_of


cdef inline int choose(FleetState* fleet, int64_t i, int32_t* chosen) noexcept nogil:
    # Who takes this request. OK, AGAIN, or what is wrong.
    cdef int64_t first = 0, size = fleet.replicas_size, j
    cdef const int32_t* among = fleet.members
    cdef int which = 0
    cdef int status
    if fleet.session_of != NULL and fleet.session_table[fleet.session_of[i]] != NONE:
        chosen[0] = fleet.session_table[fleet.session_of[i]]
        if fleet.every_fits or fits(fleet, i, chosen[0]):
            return OK
    if fleet.class_of != NULL:
        which = fleet.class_of[2 * i]
        first = fleet.first_member[which]
        size = fleet.first_member[fleet.class_of[2 * i + 1] + 1] - first
        among += first
    if not fleet.every_fits:
        size = those_that_fit(fleet, i, among, size)
        if size == 0:  # none of those for its class: then of all
            size = those_that_fit(fleet, i, fleet.members, fleet.replicas_size)
        among = fleet.fitting
    if size == 1:
        chosen[0] = among[0]
        return OK
    if fleet.rule == RANDOM:
        chosen[0] = among[splitmix64_below(&fleet.stream, size)]
        return OK
    if fleet.rule == ROUND_ROBIN:
        chosen[0] = among[fleet.turns[which] % size]
        fleet.turns[which] += 1
        return OK
    if 0 < fleet.choices < size:
        if not fleet.drawn:
            draw(fleet, among, size)
        among = fleet.compared
        size = fleet.choices
    fetch_those_that_run(fleet, among, size)
    for j in range(size):
        if fleet.looks[among[j]].unchanged_until <= fleet.known:
            status = advance(fleet, among[j])
            if status != OK:
                return status
    return choose_least(fleet, i, among, size, chosen)


cdef inline void fetch_those_that_run(const FleetState* fleet, const int32_t* among, int64_t size) noexcept nogil:
    # Of many replicas an engine is far away. All that it will touch for sure is asked for at once.
    cdef const char* engine
    cdef int64_t j, line
    if fleet.replicas_size <= FEW_REPLICAS or size > MOST_FETCHED:
        return
    for j in range(size):
        if fleet.looks[among[j]].unchanged_until <= fleet.known:
            engine = <const char*>&fleet.replicas[among[j]].engine
            for line in range(0, HOT_BYTES, 64):
                prefetch(engine + line)


cdef inline bint fits(FleetState* fleet, int64_t i, int32_t k) noexcept nogil:
    # Whether it is there, and can hold the request.
    if not fleet.replicas[k].since <= fleet.arrival[i] < fleet.replicas[k].until:
        return False
    return pool_fits(fleet, i, fleet.replicas[k].pool)


cdef inline bint pool_fits(FleetState* fleet, int64_t i, int which) noexcept nogil:
    cdef const Pool* pool = &fleet.pools[which]
    return whole_blocks(pool.source.prompt[i] + pool.source.output[i], pool.rules.block) <= pool.rules.memory


cdef inline int64_t those_that_fit(FleetState* fleet, int64_t i, const int32_t* among, int64_t size) noexcept nogil:
    cdef int64_t j, found = 0
    for j in range(size):
        if fits(fleet, i, among[j]):
            fleet.fitting[found] = among[j]
            found += 1
    return found


cdef inline void draw(FleetState* fleet, const int32_t* among, int64_t size) noexcept nogil:
    # As many different ones as are to be compared, each draw repeated until it names a new one.
    cdef int64_t found = 0, j
    cdef int32_t k
    while found < fleet.choices:
        k = among[splitmix64_below(&fleet.stream, size)]
        for j in range(found):
            if fleet.compared[j] == k:
                break
        else:
            fleet.compared[found] = k
            found += 1
    fleet.drawn = True


cdef inline int choose_least(
    FleetState* fleet, int64_t i, const int32_t* among, int64_t size, int32_t* chosen
) noexcept nogil:
    # The one with the smallest score; of equals one that is drawn, or the first. OK or FORMULA_FAILED.
    cdef double least = INFINITY, score
    cdef int64_t j, equals = 0, which = 0
    for j in range(size):
        score = score_of(fleet, i, among[j])
        if score != score:
            return FORMULA_FAILED
        fleet.scores[j] = score
        if score < least:
            least = score
            equals = 0
        equals += score == least
    if equals > 1 and fleet.seeded:
        which = splitmix64_below(&fleet.stream, equals)
    for j in range(size):
        if fleet.scores[j] == least:
            chosen[0] = among[j]
            if which == 0:
                return OK
            which -= 1
    return OK

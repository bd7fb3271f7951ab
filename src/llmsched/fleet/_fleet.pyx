"""Many engines behind a router: requests are sent one after the other, and no Python is in the loop.

An engine runs only as far as the router has to see it, or as what it was sent piles up (`_engine/fed_arrivals.pxd`).
Engines of the same kind share a pool of slots: the numbers of a request lie in one from the time it is sent until it
completes. So memory, and the part of it that is in use, are those of the requests that are there, however many come.
Where all requests are at hand from the start, the slots are they themselves, and nothing is copied.
"""

import dataclasses

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, nextafter
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove, memset

import numpy as np

from llmsched._core cimport (
    Engine, Problem, SharedQueue, engine_advance, engine_feed, engine_free, engine_idle_until, engine_open_fed,
)
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.fed_arrivals cimport next_round_begins, queued, stands_still
from llmsched._engine.formula cimport (
    FORMULA_CELLS, NAME_BELIEVED_WORK, NAME_CACHED, NAME_FREE, NAME_MEMORY, NAME_REQUESTS, NAME_RUNNING, NAME_SPEED,
    NAME_USED, NAME_WAITING, NAMES, Formula, formula_begin, formula_value,
)
from llmsched._engine.prefix_cache cimport tokens_cached
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport now
from llmsched._engine.shared_queue cimport is_offered, shared_add, shared_free
from llmsched._engine.splitmix64 cimport splitmix64_below
from llmsched._engine.status cimport FINISHED, FORMULA_FAILED, NO_MEMORY, OK, RUNNING, WAITING
from llmsched._engine.waiting cimport entry_of
from llmsched._engine.waiting_heap cimport Entry, Heap, heap_free, heap_pop, heap_push
from llmsched.simulation._compiled cimport fill_problem, formula_of, raise_failure, timeline, tokens
from llmsched.simulation._compiled cimport work as work_of

from ..formula_names import NAMES as FORMULA_NAMES

cdef enum:
    COLUMNS = 48                # arrays of a pool, at most
    WRITTEN = 5                 # the first of them, which are not copied
    STEPS_PER_LOOK = 100_000    # how often a run looks at signals
    REQUESTS_PER_LOOK = 20_000
    ROUNDS_PER_LOOK = 20_000    # of those in which a replica asks the central queue
    FEW_REPLICAS = 64           # more of them have to share the processor's cache, and look ahead so many rounds only
    SMALL_WHEEL = 255
    LONGEST_QUEUE = 256         # requests that may pile up before their engine runs on, whether it is looked at or not
    SPARE = 64                  # slots behind the last, which look_ahead() may fetch
    AGAIN = 16                  # beside Status: a look at signals is due, then the same again

cdef enum Rule:
    RANDOM
    ROUND_ROBIN
    LEAST
    IDLE
    CENTRAL

cdef enum Score:
    REQUESTS
    WAITING_REQUESTS
    USED
    BELIEVED_WORK
    FORMULA

cdef dict RULES = {"random": RANDOM, "round-robin": ROUND_ROBIN, "least": LEAST, "idle": IDLE, "central": CENTRAL}
cdef dict SCORES = {
    "requests": REQUESTS, "waiting": WAITING_REQUESTS, "used": USED, "believed_work": BELIEVED_WORK,
}


cdef struct Column:
    int64_t place       # of the pointer to it, in bytes from the start of a Problem
    int64_t size        # of a value in bytes, 8 or 1
    bint copied         # from the source, as a request is sent:
    const char* source  # from here
    char* slots         # to here


cdef struct Pool:
    # The requests of replicas of one kind. `rules` points to slots, `source` to what they are copied from.
    Problem rules
    Problem source
    Column columns[COLUMNS]
    int columns_size
    bint lent               # the slots are the requests, each the one after its id; but for arrivals and numbers
    int64_t allocated
    int64_t made            # slots that were ever used, with slot 0, which is nobody's
    int32_t free_slot       # chain of those to use again, or NONE
    int32_t* following      # of the chain
    int64_t* ids            # slot -> which request is in it
    int64_t* work           # and what is believed of its work
    int32_t* order
    int32_t* rank
    double* joined
    int64_t* believed


cdef struct Replica:
    Engine engine
    int32_t pool
    int64_t sent            # requests so far
    int64_t believed        # work of those that are not complete, as it was believed when they came
    double speed
    double since            # it takes requests from here
    double until            # to here


cdef struct Sent:
    int32_t replica
    int32_t slot


cdef struct Completed:
    # A request that is done; the same names as in `COMPLETED`.
    int64_t id
    double arrival
    double start
    double completion
    int64_t evictions
    int64_t output
    int64_t replica


#: One record per request that completed: what `Fleet.completions` returns.
COMPLETED = np.dtype(
    [
        ("id", "i8"), ("arrival", "f8"), ("start", "f8"), ("completion", "f8"), ("evictions", "i8"), ("output", "i8"),
        ("replica", "i8"),
    ]
)


cdef inline void** pointer_in(Problem* problem, int64_t place) noexcept nogil:
    return <void**>(<char*>problem + place)


cdef bint grown(void** block, int64_t size) noexcept nogil:
    # Whether there was memory to make the block that large.
    cdef void* larger = realloc(block[0], size)
    if larger != NULL:
        block[0] = larger
    return larger != NULL


cdef void lay_out(Pool* pool) noexcept:
    # Which columns there are: those that the engine writes, and those that the source has.
    cdef Problem* source = &pool.source
    cdef int k
    add_column(pool, <void**>&source.completion, 8, False)
    add_column(pool, <void**>&source.start, 8, False)
    add_column(pool, <void**>&source.evictions, 8, False)
    add_column(pool, <void**>&source.numbers, 8, False)
    add_column(pool, <void**>&source.cached, 8, False)
    add_column(pool, <void**>&source.arrival, 8, True)
    add_column(pool, <void**>&source.prompt, 8, True)
    add_column(pool, <void**>&source.output, 8, True)
    add_column(pool, <void**>&source.bound, 8, source.bound != NULL)
    add_column(pool, <void**>&source.upper, 8, source.upper != NULL)
    add_column(pool, <void**>&source.believed, 8, source.believed != NULL)
    add_column(pool, <void**>&source.beliefs.upper, 8, source.beliefs.upper != NULL)
    add_column(pool, <void**>&source.beliefs.row, 8, source.beliefs.row != NULL)
    add_column(pool, <void**>&source.keys, 8, source.keys != NULL)
    add_column(pool, <void**>&source.real_keys, 8, source.real_keys != NULL)
    add_column(pool, <void**>&source.levels, 8, source.levels != NULL)
    add_column(pool, <void**>&source.name_first, 8, source.name_first != NULL)
    add_column(pool, <void**>&source.name_size, 8, source.name_size != NULL)
    add_column(pool, <void**>&source.capped, 1, source.capped != NULL)
    for k in range(<int>NAMES):
        add_column(pool, <void**>&source.columns[k], 8, source.columns[k] != NULL)


cdef void add_column(Pool* pool, void** pointer, int64_t size, bint copied) noexcept:
    cdef Column* column = &pool.columns[pool.columns_size]
    cdef bint written = pool.columns_size < WRITTEN
    if copied or written:
        column.place = <char*>pointer - <char*>&pool.source
        column.size = size
        column.copied = copied
        pool.columns_size += 1


cdef class Fleet:
    """Replicas and a router.

    `problems` has a problem without requests for each kind of replica, `kinds` the kind of each. `router` is a
    router.Router, `groups` has the replicas of each class of requests, `longest` is the longest output, `lives` from
    when to when each replica takes requests. Nothing that is given here is checked.
    """

    cdef Pool* pools
    cdef int pools_size
    cdef Replica* replicas
    cdef int replicas_size
    cdef Rule rule
    cdef Score score
    cdef int choices
    cdef double delay
    cdef Formula formula
    cdef double cells[FORMULA_CELLS]
    cdef bint looks             # the router looks at replicas before it chooses,
    cdef bint sees_work         # and at what is believed of their work,
    cdef bint sees_cached       # or at what of the request is in their caches
    cdef bint seeded
    cdef uint64_t stream
    cdef bint record_tokens
    cdef int classes
    cdef int32_t* members       # replicas by class of requests, one class after the other
    cdef int32_t* first_member  # class -> where its replicas begin; one more for the end
    cdef int64_t* turns         # class -> requests so far; for ROUND_ROBIN
    cdef int32_t* fitting       # replicas in which the request at hand fits, where not all do
    cdef int32_t* compared      # and those that were drawn to be compared
    cdef double* scores
    cdef bint drawn             # they are drawn already for the request at hand
    cdef int32_t* session_table  # session -> the replica that took it last, or NONE
    cdef int64_t sessions
    cdef Sent* in_flight        # with a delay, in order of arrival: sent, and not seen by the router yet
    cdef int64_t in_flight_first, in_flight_size, in_flight_allocated
    cdef int32_t piled          # the replica whose queue is long, or NONE
    cdef SharedQueue queue      # of CENTRAL: its kinds are pools, its indices slots;
    cdef int32_t rows, rows_allocated, free_row  # that were ever used; chain of those to use again, or NONE
    cdef double queue_time      # and the time up to which it is as it is
    # the chunk of requests at hand
    cdef int64_t base           # id of its first
    cdef bint every_fits        # no request is too large for a replica
    cdef const double* arrival
    cdef const int64_t* work
    cdef const int64_t* rank    # breaks ties; NULL: the id
    cdef const int32_t* class_of  # the first and the last class of each
    cdef const int64_t* session_of
    cdef const double* request_columns[<int>NAMES]
    cdef int32_t* replica_of
    # where requests go that complete: to arrays by id, or else into a list
    cdef double* completion
    cdef double* start
    cdef int64_t* evictions
    cdef int64_t* cached        # or NULL
    # think times (model.md, section 3): which requests are known to come, by arrival, and when each replica goes on
    cdef const int64_t* next_turn   # or NULL
    cdef const double* think
    cdef double* arrives
    cdef Heap coming
    cdef Heap events
    cdef Completed* done
    cdef int64_t done_size, done_allocated
    cdef readonly int64_t completed_requests
    cdef int64_t sent
    cdef int64_t asked          # id of the request that a replica is chosen for
    cdef readonly int32_t failed  # the replica that cannot go on, or NONE
    cdef list problems
    cdef object router, source, outputs

    def __cinit__(self, list problems, list kinds, router, seed, int64_t longest, record, list speeds, list groups,
                  list lives):
        cdef int k
        cdef int64_t wheel
        cdef double[::1] reals = np.empty(0)
        cdef int64_t[::1] whole = np.empty(0, np.int64)
        cdef Pool* pool
        self.problems = problems
        self.router = router
        self.failed = self.piled = self.free_row = NONE
        self.pools_size = len(problems)
        self.replicas_size = len(kinds)
        self.classes = len(groups)
        self.pools = <Pool*>calloc(self.pools_size, sizeof(Pool))
        self.replicas = <Replica*>calloc(self.replicas_size, sizeof(Replica))
        self.fitting = <int32_t*>calloc(self.replicas_size, sizeof(int32_t))
        self.compared = <int32_t*>calloc(self.replicas_size, sizeof(int32_t))
        self.scores = <double*>calloc(self.replicas_size, sizeof(double))
        self.members = <int32_t*>calloc(self.replicas_size, sizeof(int32_t))
        self.first_member = <int32_t*>calloc(self.classes + 1, sizeof(int32_t))
        self.turns = <int64_t*>calloc(self.classes, sizeof(int64_t))
        if not (
            self.pools and self.replicas and self.fitting and self.compared and self.scores and self.members
            and self.first_member and self.turns
        ):
            raise MemoryError(f"no memory for {len(kinds)} replicas")
        for k, replica in enumerate(replica for group in groups for replica in group):
            self.members[k] = replica
        for k in range(self.classes):
            self.first_member[k + 1] = self.first_member[k] + <int32_t>len(groups[k])
        self.seeded = seed is not None
        self.stream = seed or 0
        self.set_router(router)
        self.record_tokens = "tokens" in record
        for k in range(self.pools_size):
            pool = &self.pools[k]
            fill_problem(&pool.rules, problems[k], reals, reals, whole)
            pool.rules.record_timeline = "timeline" in record
            pool.rules.record_tokens = self.record_tokens
            pool.rules.admissions_start = INT64_MAX // 4  # rounds say that it never ends: see problem.stall_limit
            pool.free_slot = NONE
        if self.rule == CENTRAL:
            self.queue.kinds = self.pools_size
            self.queue.first = <int32_t*>calloc(self.pools_size, sizeof(int32_t))
            if self.queue.first == NULL:
                raise MemoryError(f"no memory for {len(kinds)} replicas")
        wheel = min(longest, <int64_t>SMALL_WHEEL) if self.replicas_size > FEW_REPLICAS else longest
        for k in range(self.replicas_size):
            self.replicas[k].pool = kinds[k]
            self.replicas[k].speed = speeds[k]
            self.replicas[k].since, self.replicas[k].until = lives[k]
            if engine_open_fed(
                &self.replicas[k].engine, &self.pools[<int>kinds[k]].rules, wheel,
                &self.queue if self.rule == CENTRAL else NULL, kinds[k],
            ) == NO_MEMORY:
                raise MemoryError(f"no memory for {len(kinds)} replicas")
        for k in range(self.pools_size):
            self.pools[k].rules.n = INT64_MAX

    cdef set_router(self, router):
        self.rule = RULES[router.rule]
        self.score = FORMULA if router.formula is not None else SCORES[router.score]
        self.choices = router.choices or 0
        self.delay = router.delay
        self.looks = self.rule == LEAST or self.rule == IDLE
        self.sees_work = router.sees_work
        self.sees_cached = router.sees_cached
        if router.formula is not None:
            self.formula = formula_of(router.formula)
            formula_begin(&self.formula, self.cells)

    def __dealloc__(self):
        cdef int k, j
        for k in range(self.replicas_size if self.replicas != NULL else 0):
            if self.pools[self.replicas[k].pool].allocated > 0:  # these are the pool's
                self.replicas[k].engine.rank = NULL
                if not self.replicas[k].engine.in_place:
                    self.replicas[k].engine.order = NULL
                self.replicas[k].engine.joined = NULL
                self.replicas[k].engine.believed = NULL
            engine_free(&self.replicas[k].engine)
        for k in range(self.pools_size if self.pools != NULL else 0):
            if self.pools[k].lent:
                free(<void*>self.pools[k].rules.arrival)
                free(<void*>self.pools[k].rules.numbers)
            for j in range(self.pools[k].columns_size if self.pools[k].allocated > 0 and not self.pools[k].lent else 0):
                free(pointer_in(&self.pools[k].rules, self.pools[k].columns[j].place)[0])
            free(self.pools[k].following)
            free(self.pools[k].ids)
            free(self.pools[k].work)
            free(self.pools[k].order)
            free(self.pools[k].rank)
            free(self.pools[k].joined)
            free(self.pools[k].believed)
        free(self.pools)
        free(self.replicas)
        free(self.fitting)
        free(self.compared)
        free(self.scores)
        free(self.members)
        free(self.first_member)
        free(self.turns)
        free(self.session_table)
        free(self.done)
        free(self.in_flight)
        shared_free(&self.queue)
        heap_free(&self.coming)
        heap_free(&self.events)

    # Requests come ----------------------------------------------------------------------------------------------------

    def take(
        self, list problems, const double[::1] arrival, const int64_t[::1] work, int32_t[::1] replica, rank=None,
        const int32_t[:, ::1] classes=None, session=None, int64_t sessions=0, columns=(), bint every_fits=True,
        bint all_of_them=False,
    ):
        """The next chunk of requests, in order of arrival: a problem for each kind of replica, and what routers read.

        With `all_of_them` no others come, and results go where `keep_into` said.
        `columns` maps names of formulas to arrays, `replica` is where it will say who took which.
        """
        cdef double[::1] reals_out = np.empty(0)
        cdef int64_t[::1] whole_out = np.empty(0, np.int64)
        cdef int k, j
        self.base = self.sent
        self.source = (problems, arrival, work, replica, rank, classes, session, columns)
        for k in range(self.pools_size):
            fill_problem(&self.pools[k].source, problems[k], reals_out, reals_out, whole_out)
            if self.pools[k].columns_size == 0:
                lay_out(&self.pools[k])
            self.pools[k].rules.name_ids = self.pools[k].source.name_ids
            self.pools[k].rules.name_stride = self.pools[k].source.name_stride
            self.pools[k].rules.hashed = self.pools[k].source.hashed
            for j in range(self.pools[k].columns_size):
                self.pools[k].columns[j].source = <const char*>pointer_in(
                    &self.pools[k].source, self.pools[k].columns[j].place)[0]
        self.arrival = &arrival[0]
        self.work = &work[0] if self.sees_work else NULL
        self.replica_of = &replica[0]
        self.rank = integers(rank)
        self.session_of = integers(session)
        self.class_of = NULL if classes is None else &classes[0, 0]
        self.every_fits = every_fits
        for k, name in enumerate(FORMULA_NAMES):
            self.request_columns[k] = reals(columns[name]) if name in columns else NULL
        if all_of_them and self.rule != CENTRAL and arrival.shape[0] < 0x7FFFFFFF - SPARE:
            for k in range(self.pools_size):
                if self.lend(k, arrival.shape[0]) == NO_MEMORY:
                    raise MemoryError(f"no memory for {arrival.shape[0]} requests")
        if sessions > self.sessions:
            if not grown(<void**>&self.session_table, sessions * sizeof(int32_t)):
                raise MemoryError(f"no memory for {sessions} sessions")
            memset(self.session_table + self.sessions, 0xFF, (sessions - self.sessions) * sizeof(int32_t))
            self.sessions = sessions

    def keep_into(self, double[::1] completion, double[::1] start, int64_t[::1] evictions, int64_t[::1] cached=None):
        """Where results go, by id. Without it `completions` hands them over."""
        self.outputs = (completion, start, evictions, cached)
        self.cached = NULL if cached is None else &cached[0]
        self.completion = &completion[0]
        self.start = &start[0]
        self.evictions = &evictions[0]

    def completions(self):
        """Those who completed since the last call, an array with one record for each."""
        result = np.empty(self.done_size, COMPLETED)
        if self.done_size > 0:
            result[:] = np.asarray(<Completed[:self.done_size]>self.done)
        self.done_size = 0
        return result

    def send(self, int64_t upto):
        """Send requests up to the one with this id. True if that is done, False to be called again."""
        cdef int64_t last = min(upto, self.sent + REQUESTS_PER_LOOK)
        cdef int status = OK
        with nogil:
            while self.sent < last and status == OK:
                if self.rule == CENTRAL:
                    status = self.queue_one(self.sent - self.base)
                else:
                    status = self.send_one(self.sent - self.base)
                self.sent += status == OK
        PyErr_CheckSignals()
        self.check_status(status)
        return self.sent == upto

    def close_loop(self, const int64_t[::1] turn_before, const int64_t[::1] next_turn, const double[::1] think,
                   double[::1] arrival):
        """Of the requests that were taken, turns arrive when those before them are done: `arrival` will say when."""
        cdef int64_t i
        self.outputs += (next_turn, think, arrival)
        self.next_turn, self.think, self.arrives = &next_turn[0], &think[0], &arrival[0]
        for i in range(turn_before.shape[0]):
            if turn_before[i] == NONE and self.comes(i, arrival[i]) == NO_MEMORY:
                raise MemoryError(f"no memory for {turn_before.shape[0]} requests")

    def send_turns(self, int64_t upto):
        """Send all requests, as they come. True if that is done, False to be called again."""
        cdef int64_t _event
        cdef int status = OK
        with nogil:
            for _event in range(REQUESTS_PER_LOOK):
                if self.sent == upto or status != OK:
                    break
                status = self.next_event()
        PyErr_CheckSignals()
        self.check_status(status)
        return self.sent == upto

    cdef int comes(self, int64_t id, double time) noexcept nogil:
        # It is known when this request arrives. OK or NO_MEMORY.
        self.arrives[id] = time
        return heap_push(&self.coming, Entry(<int32_t>id, <int32_t>id, double_key(time)))

    cdef int watch(self, int32_t k) noexcept nogil:
        # When a replica goes on, if nothing comes: as its round in progress ends, or just after its next one begins. OK
        # or NO_MEMORY.
        cdef const Engine* engine = &self.replicas[k].engine
        if engine.unfinished == 0:
            return OK
        return heap_push(&self.events, Entry(k, k, double_key(goes_on(engine))))

    cdef int next_event(self) noexcept nogil:
        # The next request is sent, or, if that comes first, a replica runs on by a round: nothing that is yet to come
        # may arrive before the time up to which they have run. OK, AGAIN, or what is wrong.
        cdef Entry entry
        cdef int status
        cdef int64_t id
        cdef double time
        while self.events.size > 0:
            entry = self.events.entries[0]
            time = goes_on(&self.replicas[entry.who].engine)
            if self.replicas[entry.who].engine.unfinished == 0 or double_key(time) != entry.key:
                heap_pop(&self.events)  # something came meanwhile
                continue
            if self.coming.size > 0 and entry.key > self.coming.entries[0].key:
                break
            if self.know(time) == NO_MEMORY:
                return NO_MEMORY
            status = self.advance(entry.who)
            if status != OK:
                return status
            heap_pop(&self.events)
            return self.watch(entry.who)
        id = self.coming.entries[0].who
        heap_pop(&self.coming)
        status = self.send_one(id)
        if status == OK:
            self.sent += 1
            return self.watch(self.replica_of[id])
        if status == AGAIN and self.comes(id, self.arrives[id]) == NO_MEMORY:
            return NO_MEMORY
        return status

    def finish(self):
        """No more requests come. True if all have completed, False to be called again."""
        cdef int status = OK
        cdef int k
        with nogil:
            status = self.serve_queue(INFINITY) if self.rule == CENTRAL else OK
            if status == OK:
                status = self.know(INFINITY)
            for k in range(self.replicas_size if status == OK else 0):
                status = self.advance(k)
                if status != OK:
                    break
        PyErr_CheckSignals()
        self.check_status(status)
        return status == OK

    cdef int check_status(self, int status) except -1:
        cdef Replica* replica
        if status == NO_MEMORY:
            raise MemoryError(f"no memory for the requests of {self.replicas_size} replicas")
        if status == FORMULA_FAILED and self.failed == NONE:
            values = {name: self.cells[<int>k] for k, name in enumerate(FORMULA_NAMES)}
            self.router.formula.value(values, self.asked)
            raise AssertionError(f"the engines do not agree on {self.router.formula!r} for {values}")
        if self.failed != NONE and self.replicas[self.failed].engine.failed != NONE:
            replica = &self.replicas[self.failed]
            policy = self.problems[replica.pool].policy
            id = id_of(&self.pools[replica.pool], replica.engine.failed)
            raise_failure(&replica.engine, policy, id if self.rank == NULL else self.rank[<int64_t>id])
        if status != OK and status != AGAIN:
            raise Stopped(self.failed)
        return 0

    cdef int know(self, double time) noexcept nogil:
        # All arrivals before this time are known, and those that were sent are seen. OK or NO_MEMORY.
        cdef const Sent* sent
        cdef int k
        for k in range(self.pools_size):
            if self.pools[k].allocated > 0:
                (<double*>self.pools[k].rules.arrival)[0] = time
        while self.in_flight_first < self.in_flight_size:
            sent = &self.in_flight[self.in_flight_first]
            if self.pools[self.replicas[sent.replica].pool].rules.arrival[sent.slot] > time:
                break
            if self.deliver(sent.replica, sent.slot) == NO_MEMORY:
                return NO_MEMORY
            self.in_flight_first += 1
        if 2 * self.in_flight_first > self.in_flight_size:
            self.in_flight_size -= self.in_flight_first
            memmove(self.in_flight, self.in_flight + self.in_flight_first, self.in_flight_size * sizeof(Sent))
            self.in_flight_first = 0
        return OK

    cdef int send_one(self, int64_t i) noexcept nogil:
        # OK, AGAIN, or what is wrong.
        cdef int32_t k = NONE
        cdef int status
        self.asked = self.base + i
        if self.know(self.arrival[i] - self.delay) == NO_MEMORY:
            return NO_MEMORY
        if self.piled != NONE:
            status = self.advance(self.piled)
            if status != OK:
                return status
            self.piled = NONE
        status = self.choose(i, &k)
        if status != OK:
            return status
        self.drawn = False
        if self.hand_over(i, k) == NO_MEMORY:
            return NO_MEMORY
        self.replica_of[i] = k
        if self.session_of != NULL:
            self.session_table[self.session_of[i]] = k
        return OK

    cdef int32_t fill_slot(self, int64_t i, int which, int64_t number) noexcept nogil:
        # The slot of a pool in which a request is from now on, with its draws; NONE: no memory.
        cdef Pool* pool = &self.pools[which]
        cdef int32_t s = pool.free_slot
        cdef const Column* column
        cdef int j
        if pool.lent:
            s = <int32_t>(i + 1)
            (<double*>pool.rules.arrival)[s] = self.arrival[i]
        elif s != NONE:
            pool.free_slot = pool.following[s]
        else:
            if pool.made >= pool.allocated and self.more_slots(which) == NO_MEMORY:
                return NONE
            s = <int32_t>pool.made
            pool.made += 1
        if not pool.lent:
            for j in range(WRITTEN, pool.columns_size):
                column = &pool.columns[j]
                if column.size == 8:
                    (<int64_t*>column.slots)[s] = (<const int64_t*>column.source)[i]
                else:
                    column.slots[s] = column.source[i]
            pool.rules.evictions[s] = 0
            pool.ids[s] = self.base + i
            pool.order[s] = s
            pool.rank[s] = <int32_t>((self.base + i if self.rank == NULL else self.rank[i]) & 0x7FFFFFFF)
        (<int64_t*>pool.rules.numbers)[s] = number
        if pool.joined != NULL:
            pool.joined[s] = self.arrival[i]
        if pool.believed != NULL:
            pool.believed[s] = pool.source.believed[i]
        if self.sees_work:
            pool.work[s] = self.work[i]
        return s

    cdef int hand_over(self, int64_t i, int32_t k) noexcept nogil:
        # OK or NO_MEMORY.
        cdef Replica* replica = &self.replicas[k]
        cdef int32_t s = self.fill_slot(i, replica.pool, replica.sent)
        if s == NONE:
            return NO_MEMORY
        replica.sent += 1
        if self.delay == 0:
            return self.deliver(k, s)
        if self.in_flight_size == self.in_flight_allocated:
            self.in_flight_allocated = 2 * self.in_flight_allocated + 1024
            if not grown(<void**>&self.in_flight, self.in_flight_allocated * sizeof(Sent)):
                return NO_MEMORY
        self.in_flight[self.in_flight_size].replica = k
        self.in_flight[self.in_flight_size].slot = s
        self.in_flight_size += 1
        return OK

    cdef int deliver(self, int32_t k, int32_t s) noexcept nogil:
        # The engine learns of a request that was sent, and the router sees it. OK or NO_MEMORY.
        if self.sees_work:
            self.replicas[k].believed += self.pools[self.replicas[k].pool].work[s]
        if queued(&self.replicas[k].engine) >= LONGEST_QUEUE:
            self.piled = k
        return engine_feed(&self.replicas[k].engine, s)

    cdef int lend(self, int which, int64_t n) noexcept nogil:
        # The slots are the requests of the source, all of them, and what becomes of each goes where `keep_into` said.
        # Slot 0 is nobody's: only its arrival is ever looked at. OK or NO_MEMORY.
        cdef Pool* pool = &self.pools[which]
        cdef Problem* rules = &pool.rules
        cdef const Column* column
        cdef int64_t size = n + 1 + SPARE, s
        cdef int k
        for k in range(pool.columns_size):
            column = &pool.columns[k]
            pointer_in(rules, column.place)[0] = <void*>(column.source - column.size if column.copied else NULL)
        rules.arrival = <double*>calloc(size, sizeof(double))
        rules.numbers = <int64_t*>calloc(size, sizeof(int64_t))
        rules.completion, rules.start, rules.evictions = self.completion - 1, self.start - 1, self.evictions - 1
        rules.cached = self.cached - 1 if self.cached != NULL else NULL
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
        if self.sees_work and not grown(<void**>&pool.work, size * sizeof(int64_t)):
            return NO_MEMORY
        for s in range(1, n + 1):
            pool.order[s] = <int32_t>s
            pool.rank[s] = <int32_t>((s - 1 if self.rank == NULL else self.rank[s - 1]) & 0x7FFFFFFF)
        for k in range(self.replicas_size):
            if self.replicas[k].pool == which:
                share_slots(&self.replicas[k].engine, pool, True)
        return OK

    cdef int more_slots(self, int which) noexcept nogil:
        # Room for more slots than ever before. OK or NO_MEMORY.
        cdef Pool* pool = &self.pools[which]
        cdef int64_t larger = 2 * pool.allocated + 1024, size = larger + SPARE
        cdef bint first = pool.allocated == 0
        cdef int j, k
        if larger > 0x7FFFFFFF:
            return NO_MEMORY
        for j in range(pool.columns_size):
            if not grown(pointer_in(&pool.rules, pool.columns[j].place), size * pool.columns[j].size):
                return NO_MEMORY
            pool.columns[j].slots = <char*>pointer_in(&pool.rules, pool.columns[j].place)[0]
        if not (
            grown(<void**>&pool.following, size * sizeof(int32_t)) and grown(<void**>&pool.ids, size * sizeof(int64_t))
            and grown(<void**>&pool.work, size * sizeof(int64_t)) and grown(<void**>&pool.order, size * sizeof(int32_t))
            and grown(<void**>&pool.rank, size * sizeof(int32_t))
        ):
            return NO_MEMORY
        if pool.rules.reads_joined and not grown(<void**>&pool.joined, size * sizeof(double)):
            return NO_MEMORY
        if pool.rules.belief_changes and not grown(<void**>&pool.believed, size * sizeof(int64_t)):
            return NO_MEMORY
        memset(pool.order + pool.allocated, 0, (size - pool.allocated) * sizeof(int32_t))
        if first:
            pool.made = 1  # slot 0 is nobody's
            (<double*>pool.rules.arrival)[0] = 0.0
        pool.allocated = larger
        for k in range(self.replicas_size):
            if self.replicas[k].pool == which:
                share_slots(&self.replicas[k].engine, pool, first)
        return OK

    # Engines run ------------------------------------------------------------------------------------------------------

    cdef int advance(self, int32_t k) noexcept nogil:
        # As far as arrivals are known. OK, AGAIN, or what is wrong: then it is `failed`.
        cdef Engine* engine = &self.replicas[k].engine
        cdef int status = engine_advance(engine, STEPS_PER_LOOK)
        if engine.completed_size > 0 and self.collect(k) == NO_MEMORY:
            return NO_MEMORY
        if status == WAITING or status == FINISHED:
            return OK
        if status == RUNNING:
            return AGAIN
        self.failed = k
        return status

    cdef int collect(self, int32_t k) noexcept nogil:
        # What became of those who completed; their slots are free then. OK or NO_MEMORY.
        cdef Replica* replica = &self.replicas[k]
        cdef Pool* pool = &self.pools[replica.pool]
        cdef int64_t j, id
        cdef int32_t s
        cdef Completed* done
        for j in range(replica.engine.completed_size):
            s = replica.engine.completed[j]
            id = id_of(pool, s)
            if self.completion != NULL:
                if not pool.lent:
                    self.completion[id] = pool.rules.completion[s]
                    self.start[id] = pool.rules.start[s]
                    self.evictions[id] = pool.rules.evictions[s]
                    if self.cached != NULL and pool.rules.cached_prefixes:
                        self.cached[id] = pool.rules.cached[s]
                if self.next_turn != NULL and self.next_turn[id] != NONE:
                    if self.comes(self.next_turn[id], pool.rules.completion[s] + self.think[self.next_turn[id]]):
                        return NO_MEMORY
            else:
                if self.done_size == self.done_allocated:
                    self.done_allocated = 2 * self.done_allocated + 1024
                    if not grown(<void**>&self.done, self.done_allocated * sizeof(Completed)):
                        return NO_MEMORY
                done = &self.done[self.done_size]
                done.id = id
                done.arrival = pool.rules.arrival[s]
                done.start = pool.rules.start[s]
                done.completion = pool.rules.completion[s]
                done.evictions = pool.rules.evictions[s]
                done.output = pool.rules.output[s]
                done.replica = k
                self.done_size += 1
            if self.sees_work:
                replica.believed -= pool.work[s]
            if not self.record_tokens and not pool.lent:  # else the log names requests by their slots
                free_slot(pool, s)
        self.completed_requests += replica.engine.completed_size
        replica.engine.completed_size = 0
        return OK

    # The central queue ------------------------------------------------------------------------------------------------

    cdef int queue_one(self, int64_t i) noexcept nogil:
        # A request comes into the queue, after all rounds that begin before. OK, AGAIN, or what is wrong.
        cdef int32_t k, s, row
        cdef int which
        cdef Entry entry
        cdef int status = self.serve_queue(self.arrival[i])
        if status == OK and self.queue.heap.size == 0:  # so far replicas ran on by themselves
            status = self.know(self.arrival[i])
            for k in range(self.replicas_size):
                if status == OK and not stands_still(&self.replicas[k].engine):
                    status = self.advance(k)
        if status != OK:
            return status
        row = self.new_row()
        if row == NONE:
            return NO_MEMORY
        for which in range(self.pools_size):
            s = self.fill_slot(i, which, 0)
            if s == NONE:
                return NO_MEMORY
            self.queue.indices[<int64_t>row * self.pools_size + which] = s if self.pool_fits(i, which) else ~s
        s = self.queue.indices[<int64_t>row * self.pools_size]
        entry = entry_of(&self.replicas[0].engine, max(s, ~s), NONE)  # all order alike, and replica 0 is of pool 0
        entry.who = row
        self.queue_time = self.arrival[i]
        return shared_add(&self.queue, entry)

    cdef int32_t new_row(self) noexcept nogil:
        # A row of the queue; NONE: no memory.
        cdef int32_t row = self.free_row
        cdef int64_t width = self.pools_size * sizeof(int32_t)
        if row != NONE:
            self.free_row = self.queue.indices[<int64_t>row * self.pools_size]
            return row
        if self.rows == self.rows_allocated:
            if not grown(<void**>&self.queue.indices, (2 * self.rows_allocated + 1024) * width):
                return NONE
            self.rows_allocated = 2 * self.rows_allocated + 1024
        self.rows += 1
        return self.rows - 1

    cdef int serve_queue(self, double before) noexcept nogil:
        # Every round that begins before that time while somebody is in the queue. OK, AGAIN, or what is wrong.
        cdef int64_t rounds = 0
        cdef double begins = 0.0
        cdef int32_t k = NONE
        cdef int status
        while self.queue.heap.size > 0:
            status = self.next_to_ask(before, &k, &begins)
            if status != OK or begins >= before:
                return status
            if rounds == ROUNDS_PER_LOOK:
                return AGAIN
            rounds += 1
            self.queue_time = begins
            if is_idle(&self.replicas[k].engine) and begins > now(&self.replicas[k].engine):
                engine_idle_until(&self.replicas[k].engine, begins)
            (<double*>self.pools[self.replicas[k].pool].rules.arrival)[0] = nextafter(begins, INFINITY)
            status = self.advance(k)
            self.give_away(k)
            if status != OK:
                return status
        return OK

    cdef int next_to_ask(self, double before, int32_t* chosen, double* begins) noexcept nogil:
        # Who begins the next round, with the fewest requests of those who do so then, and when; not before `before`
        # where that is too late. Rounds that end then are over. OK, AGAIN, or what is wrong.
        cdef Engine* engine
        cdef int64_t least
        cdef int32_t k
        cdef int status
        while True:
            begins[0] = INFINITY
            for k in range(self.replicas_size):
                begins[0] = min(begins[0], self.may_ask_at(k))
            if begins[0] >= before:
                return OK
            chosen[0] = NONE
            least = INT64_MAX
            for k in range(self.replicas_size):
                engine = &self.replicas[k].engine
                if self.may_ask_at(k) > begins[0]:
                    continue
                if engine.in_progress:
                    (<double*>self.pools[self.replicas[k].pool].rules.arrival)[0] = begins[0]
                    status = self.advance(k)
                    if status != OK:
                        return status
                    if is_idle(engine) and not is_offered(engine):
                        continue
                if engine.running + engine.waiting < least:
                    least = engine.running + engine.waiting
                    chosen[0] = k
            if chosen[0] != NONE:
                return OK

    cdef inline double may_ask_at(self, int32_t k) noexcept nogil:
        # When a replica begins its next round, or could.
        cdef const Engine* engine = &self.replicas[k].engine
        if engine.in_progress:
            return engine.ends
        if is_idle(engine):
            return max(now(engine), self.queue_time) if is_offered(engine) else INFINITY
        return now(engine)

    cdef void give_away(self, int32_t k) noexcept nogil:
        # Those that a replica took are its own; nothing of them is left elsewhere.
        cdef Replica* replica = &self.replicas[k]
        cdef int64_t j, id
        cdef int32_t s, row
        cdef int which
        for j in range(self.queue.taken_size):
            row = self.queue.taken[j]
            for which in range(self.pools_size):
                s = self.queue.indices[<int64_t>row * self.pools_size + which]
                if which != replica.pool:
                    free_slot(&self.pools[which], max(s, ~s))
                    continue
                id = self.pools[which].ids[s]
                if id >= self.base:  # of an earlier chunk, whoever asked for completions learns it there
                    self.replica_of[id - self.base] = k
            replica.sent += 1
            self.queue.indices[<int64_t>row * self.pools_size] = self.free_row
            self.free_row = row
        self.queue.taken_size = 0

    # The router -------------------------------------------------------------------------------------------------------

    cdef int choose(self, int64_t i, int32_t* chosen) noexcept nogil:
        # Who takes this request. OK, AGAIN, or what is wrong.
        cdef int64_t first = 0, size = self.replicas_size, j
        cdef const int32_t* among = self.members
        cdef int which = 0
        cdef int status
        if self.session_of != NULL and self.session_table[self.session_of[i]] != NONE:
            chosen[0] = self.session_table[self.session_of[i]]
            if self.every_fits or self.fits(i, chosen[0]):
                return OK
        if self.class_of != NULL:
            which = self.class_of[2 * i]
            first = self.first_member[which]
            size = self.first_member[self.class_of[2 * i + 1] + 1] - first
            among += first
        if not self.every_fits:
            size = self.those_that_fit(i, among, size)
            if size == 0:  # none of those for its class: then of all
                size = self.those_that_fit(i, self.members, self.replicas_size)
            among = self.fitting
        if size == 1:
            chosen[0] = among[0]
            return OK
        if self.rule == RANDOM:
            chosen[0] = among[splitmix64_below(&self.stream, size)]
            return OK
        if self.rule == ROUND_ROBIN:
            chosen[0] = among[self.turns[which] % size]
            self.turns[which] += 1
            return OK
        if 0 < self.choices < size:
            if not self.drawn:
                self.draw(among, size)
            among = self.compared
            size = self.choices
        for j in range(size):
            if not stands_still(&self.replicas[among[j]].engine):
                status = self.advance(among[j])
                if status != OK:
                    return status
        return self.choose_least(i, among, size, chosen)

    cdef bint fits(self, int64_t i, int32_t k) noexcept nogil:
        # Whether it is there, and can hold the request.
        if not self.replicas[k].since <= self.arrival[i] < self.replicas[k].until:
            return False
        return self.pool_fits(i, self.replicas[k].pool)

    cdef bint pool_fits(self, int64_t i, int which) noexcept nogil:
        cdef const Pool* pool = &self.pools[which]
        return whole_blocks(pool.source.prompt[i] + pool.source.output[i], pool.rules.block) <= pool.rules.memory

    cdef int64_t those_that_fit(self, int64_t i, const int32_t* among, int64_t size) noexcept nogil:
        cdef int64_t j, found = 0
        for j in range(size):
            if self.fits(i, among[j]):
                self.fitting[found] = among[j]
                found += 1
        return found

    cdef void draw(self, const int32_t* among, int64_t size) noexcept nogil:
        # As many different ones as are to be compared, each draw repeated until it names a new one.
        cdef int64_t found = 0, j
        cdef int32_t k
        while found < self.choices:
            k = among[splitmix64_below(&self.stream, size)]
            for j in range(found):
                if self.compared[j] == k:
                    break
            else:
                self.compared[found] = k
                found += 1
        self.drawn = True

    cdef int choose_least(self, int64_t i, const int32_t* among, int64_t size, int32_t* chosen) noexcept nogil:
        # The one with the smallest score; of equals one that is drawn, or the first. OK or FORMULA_FAILED.
        cdef double least = INFINITY, score
        cdef int64_t j, equals = 0, which = 0
        for j in range(size):
            score = self.score_of(i, among[j])
            if score != score:
                return FORMULA_FAILED
            self.scores[j] = score
            if score < least:
                least = score
                equals = 0
            equals += score == least
        if equals > 1 and self.seeded:
            which = splitmix64_below(&self.stream, equals)
        for j in range(size):
            if self.scores[j] == least:
                chosen[0] = among[j]
                if which == 0:
                    return OK
                which -= 1
        return OK

    cdef double score_of(self, int64_t i, int32_t k) noexcept nogil:
        # The smaller, the better; NaN where a formula has no value.
        cdef const Replica* replica = &self.replicas[k]
        cdef const Engine* engine = &replica.engine
        cdef int64_t waiting = engine.waiting + queued(engine)
        if self.rule == IDLE:
            return 1.0 if engine.running + waiting > 0 else 0.0
        if self.score == REQUESTS:
            return <double>(engine.running + waiting)
        if self.score == WAITING_REQUESTS:
            return <double>waiting
        if self.score == USED:
            return <double>engine.need
        if self.score == BELIEVED_WORK:
            return <double>work_left(replica)
        for name in range(<int>NAMES):
            if self.request_columns[name] != NULL:
                self.cells[name] = self.request_columns[name][i]
        self.cells[<int>NAME_MEMORY] = <double>engine.problem.memory
        self.cells[<int>NAME_REQUESTS] = <double>(engine.running + waiting)
        self.cells[<int>NAME_RUNNING] = <double>engine.running
        self.cells[<int>NAME_WAITING] = <double>waiting
        self.cells[<int>NAME_USED] = <double>engine.need
        self.cells[<int>NAME_FREE] = <double>(engine.problem.memory - engine.need)
        self.cells[<int>NAME_SPEED] = replica.speed
        if self.sees_cached:
            self.cells[<int>NAME_CACHED] = <double>tokens_cached(engine, &self.pools[replica.pool].source, i)
        if self.sees_work:
            self.cells[<int>NAME_BELIEVED_WORK] = <double>work_left(replica)
        return formula_value(&self.formula, self.cells)

    # What happened ----------------------------------------------------------------------------------------------------

    def outcome(self, int k):
        """Of one replica: rounds, peak_memory, wasted_tokens, idle, end, timeline, tokens (slots made ids), work."""
        cdef Replica* replica = &self.replicas[k]
        cdef Engine* engine = &replica.engine
        cdef Pool* pool = &self.pools[replica.pool]
        problem = self.problems[replica.pool]
        log = None
        if self.record_tokens:
            log = tokens(engine)
            if pool.lent:
                log = dataclasses.replace(log, request=log.request - 1, chunk_request=log.chunk_request - 1)
            elif pool.made > 1:
                ids = np.asarray(<int64_t[:pool.made]>pool.ids)
                log = dataclasses.replace(log, request=ids[log.request], chunk_request=ids[log.chunk_request])
        return {
            "rounds": engine.round,
            "peak_memory": engine.peak_memory,
            "wasted_tokens": engine.wasted_tokens,
            "idle": engine.idle,
            "end": now(engine),
            "timeline": timeline(engine, problem.clock) if pool.rules.record_timeline else None,
            "tokens": log,
            "work": work_of(engine),
        }

    def view(self, int k):
        """What the router saw of a replica when it last looked: requests, running, used, believed_work."""
        cdef const Engine* engine = &self.replicas[k].engine
        requests = engine.running + engine.waiting + queued(engine)
        return requests, engine.running, engine.need, work_left(&self.replicas[k])

    def unfinished(self, int k):
        """(rounds, requests that did not complete) of a replica."""
        return self.replicas[k].engine.round, self.replicas[k].engine.unfinished

    @property
    def slots(self):
        """Requests that were ever there at once, in all pools: what the memory that is held grows with. 0 where they
        are all at hand."""
        return sum(max(self.pools[k].made - 1, 0) for k in range(self.pools_size))


class Stopped(Exception):  # noqa: N818 (for run.py, which says it in words)
    """A replica makes no progress. Its number is the argument."""


cdef inline bint is_idle(const Engine* engine) noexcept nogil:
    return engine.running == 0 and engine.waiting == 0


cdef inline int64_t id_of(const Pool* pool, int32_t s) noexcept nogil:
    # Which request is in this slot.
    return s - 1 if pool.lent else pool.ids[s]


cdef inline void free_slot(Pool* pool, int32_t s) noexcept nogil:
    # Nobody is in it.
    pool.following[s] = pool.free_slot
    pool.free_slot = s


cdef inline double goes_on(const Engine* engine) noexcept nogil:
    # When its round in progress ends, or just after its next one begins.
    return engine.ends if engine.in_progress else nextafter(next_round_begins(engine), INFINITY)


cdef inline int64_t work_left(const Replica* replica) noexcept nogil:
    # What is believed of the requests that are there, less what those that run have generated; at least 0.
    return max(replica.believed - generated_by_running(&replica.engine), <int64_t>0)


cdef int64_t generated_by_running(const Engine* engine) noexcept nogil:
    # Tokens, as of the start of the round in progress.
    cdef int64_t generated = 0
    cdef int32_t p = engine.oldest
    if not engine.problem.as_processed:
        return engine.used - engine.prompts
    while p != NONE:
        generated += engine.round - engine.requests[p].birth
        if engine.in_progress and engine.prefills[p].granted > 0 and engine.prefills[p].to_prefill == 0:
            generated -= 1
        p = engine.requests[p].newer
    return generated


cdef void share_slots(Engine* engine, const Pool* pool, bint first) noexcept nogil:
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


cdef const int64_t* integers(const int64_t[::1] column) noexcept:
    if column is None:
        return NULL
    return &column[0]


cdef const double* reals(const double[::1] column) noexcept:
    return &column[0]

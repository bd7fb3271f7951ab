"""Many engines behind a router: requests are sent one after the other, and no Python is in the loop.

An engine runs only as far as the router has to see it, or as what it was sent piles up (`_engine/fed_arrivals.pxd`).
Engines of the same kind share a pool of slots: the numbers of a request lie in one from the time it is sent until it
completes. So memory, and the part of it that is in use, are those of the requests that are there, however many come.
Where all requests are at hand from the start, the slots are they themselves, and nothing is copied.

This is the border to Python; what runs is in `_parts/`, on the data of `_fleet.pxd`.
"""

import dataclasses

from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import numpy as np

from llmsched._core cimport RESERVE_MOVING, Engine, engine_free, engine_open_fed
from llmsched._engine.formula cimport formula_begin
from llmsched._engine.request cimport NONE
from llmsched._engine.rounds cimport now
from llmsched._engine.shared_queue cimport shared_free
from llmsched._engine.status cimport FORMULA_FAILED, NO_MEMORY, OK
from llmsched._engine.waiting_heap cimport heap_free
from llmsched.fleet._parts.central_queue cimport queue_one, serve_queue
from llmsched.fleet._parts.foresight cimport look_again, may_foresee
from llmsched.fleet._parts.running cimport advance, comes
from llmsched.fleet._parts.sending cimport know, send_one
from llmsched.fleet._parts.slots cimport free_pool, grown, id_of, lay_out, lend, pointer_in
from llmsched.fleet._parts.think_times cimport next_event
from llmsched.simulation._compiled cimport fill_problem, formula_of, raise_failure, timeline, tokens
from llmsched.simulation._compiled cimport work as work_of

from ..formula_names import NAMES as FORMULA_NAMES

cdef dict RULES = {"random": RANDOM, "round-robin": ROUND_ROBIN, "least": LEAST, "idle": IDLE, "central": CENTRAL}
cdef dict SCORES = {
    "requests": REQUESTS, "waiting": WAITING_REQUESTS, "used": USED, "believed_work": BELIEVED_WORK,
}

#: One record per request that completed: what `Fleet.completions` returns.
COMPLETED = np.dtype(
    [
        ("id", "i8"), ("arrival", "f8"), ("start", "f8"), ("completion", "f8"), ("evictions", "i8"), ("output", "i8"),
        ("replica", "i8"),
    ]
)


cdef class Fleet:
    """Replicas and a router.

    `problems` has a problem without requests for each kind of replica, `kinds` the kind of each. `router` is a
    router.Router, `groups` has the replicas of each class of requests, `longest` is the longest output, `lives` from
    when to when each replica takes requests. Nothing that is given here is checked.
    """

    cdef FleetState fleet
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
        self.fleet.failed = self.fleet.piled = self.fleet.free_row = NONE
        self.fleet.pools_size = len(problems)
        self.fleet.replicas_size = len(kinds)
        self.fleet.classes = len(groups)
        if not made_room(&self.fleet):
            raise MemoryError(f"no memory for {len(kinds)} replicas")
        for k, replica in enumerate(replica for group in groups for replica in group):
            self.fleet.members[k] = replica
        for k in range(self.fleet.classes):
            self.fleet.first_member[k + 1] = self.fleet.first_member[k] + <int32_t>len(groups[k])
        self.fleet.seeded = seed is not None
        self.fleet.stream = seed or 0
        self.set_router(router)
        self.fleet.record_tokens = "tokens" in record
        for k in range(self.fleet.pools_size):
            pool = &self.fleet.pools[k]
            fill_problem(&pool.rules, problems[k], reals, reals, whole)
            pool.rules.record_timeline = "timeline" in record
            pool.rules.record_tokens = self.fleet.record_tokens
            pool.rules.admissions_start = INT64_MAX // 4  # rounds say that it never ends: see problem.stall_limit
            pool.free_slot = NONE
            pool.draws = pool.rules.shed or pool.rules.reserve == RESERVE_MOVING or pool.rules.cached_prefixes
            pool.foresees = router.counts_requests and may_foresee(&pool.rules)
        if self.fleet.rule == CENTRAL:
            self.fleet.queue.kinds = self.fleet.pools_size
            self.fleet.queue.first = <int32_t*>calloc(self.fleet.pools_size, sizeof(int32_t))
            if self.fleet.queue.first == NULL:
                raise MemoryError(f"no memory for {len(kinds)} replicas")
        wheel = min(longest, <int64_t>SMALL_WHEEL) if self.fleet.replicas_size > FEW_REPLICAS else longest
        for k in range(self.fleet.replicas_size):
            self.fleet.replicas[k].pool = kinds[k]
            self.fleet.replicas[k].speed = speeds[k]
            self.fleet.replicas[k].since, self.fleet.replicas[k].until = lives[k]
            if engine_open_fed(
                &self.fleet.replicas[k].engine, &self.fleet.pools[<int>kinds[k]].rules, wheel,
                &self.fleet.queue if self.fleet.rule == CENTRAL else NULL, kinds[k],
            ) == NO_MEMORY:
                raise MemoryError(f"no memory for {len(kinds)} replicas")
            look_again(&self.fleet, k)
        for k in range(self.fleet.pools_size):
            self.fleet.pools[k].rules.n = INT64_MAX

    cdef set_router(self, router):
        self.fleet.rule = RULES[router.rule]
        self.fleet.score = FORMULA if router.formula is not None else SCORES[router.score]
        self.fleet.choices = router.choices or 0
        self.fleet.delay = router.delay
        self.fleet.sees_work = router.sees_work
        self.fleet.sees_cached = router.sees_cached
        if router.formula is not None:
            self.fleet.formula = formula_of(router.formula)
            formula_begin(&self.fleet.formula, self.fleet.cells)

    def __dealloc__(self):
        cdef int k
        for k in range(self.fleet.replicas_size if self.fleet.replicas != NULL else 0):
            if self.fleet.pools[self.fleet.replicas[k].pool].allocated > 0:  # these are the pool's
                self.fleet.replicas[k].engine.rank = NULL
                if not self.fleet.replicas[k].engine.in_place:
                    self.fleet.replicas[k].engine.order = NULL
                self.fleet.replicas[k].engine.joined = NULL
                self.fleet.replicas[k].engine.believed = NULL
            engine_free(&self.fleet.replicas[k].engine)
        for k in range(self.fleet.pools_size if self.fleet.pools != NULL else 0):
            free_pool(&self.fleet.pools[k])
        free(self.fleet.pools)
        free(self.fleet.replicas)
        free(self.fleet.fitting)
        free(self.fleet.compared)
        free(self.fleet.scores)
        free(self.fleet.members)
        free(self.fleet.first_member)
        free(self.fleet.looks)
        free(self.fleet.turns)
        free(self.fleet.session_table)
        free(self.fleet.done)
        free(self.fleet.in_flight)
        shared_free(&self.fleet.queue)
        heap_free(&self.fleet.coming)
        heap_free(&self.fleet.events)

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
        cdef int64_t k
        cdef int j
        self.fleet.base = self.fleet.sent
        self.source = (problems, arrival, work, replica, rank, classes, session, columns)
        for k in range(self.fleet.pools_size):
            fill_problem(&self.fleet.pools[k].source, problems[k], reals_out, reals_out, whole_out)
            if self.fleet.pools[k].columns_size == 0:
                lay_out(&self.fleet.pools[k], self.fleet.sees_work)
            self.fleet.pools[k].rules.name_ids = self.fleet.pools[k].source.name_ids
            self.fleet.pools[k].rules.name_stride = self.fleet.pools[k].source.name_stride
            self.fleet.pools[k].rules.hashed = self.fleet.pools[k].source.hashed
            for j in range(self.fleet.pools[k].columns_size):
                if self.fleet.pools[k].columns[j].copied:
                    self.fleet.pools[k].columns[j].source = <const char*>pointer_in(
                        &self.fleet.pools[k].source, self.fleet.pools[k].columns[j].place)[0]
        self.fleet.arrival = &arrival[0]
        self.fleet.work = &work[0] if self.fleet.sees_work else NULL
        self.fleet.replica_of = &replica[0]
        self.fleet.rank = integers(rank)
        self.fleet.session_of = integers(session)
        self.fleet.class_of = NULL
        if classes is not None:
            self.fleet.class_of = &classes[0, 0]
        self.fleet.every_fits = every_fits
        for k, name in enumerate(FORMULA_NAMES):
            self.fleet.request_columns[k] = reals(columns[name]) if name in columns else NULL
        if all_of_them and self.fleet.rule != CENTRAL and arrival.shape[0] < 0x7FFFFFFF - SPARE:
            for k in range(self.fleet.pools_size):
                if lend(&self.fleet, k, arrival.shape[0]) == NO_MEMORY:
                    raise MemoryError(f"no memory for {arrival.shape[0]} requests")
        if sessions > self.fleet.sessions:
            if not grown(<void**>&self.fleet.session_table, sessions * sizeof(int32_t)):
                raise MemoryError(f"no memory for {sessions} sessions")
            for k in range(self.fleet.sessions, sessions):
                self.fleet.session_table[k] = NONE
            self.fleet.sessions = sessions

    def keep_into(self, double[::1] completion, double[::1] start, int64_t[::1] evictions, int64_t[::1] cached=None):
        """Where results go, by id. Without it `completions` hands them over."""
        self.outputs = (completion, start, evictions, cached)
        self.fleet.cached = NULL if cached is None else &cached[0]
        self.fleet.completion = &completion[0]
        self.fleet.start = &start[0]
        self.fleet.evictions = &evictions[0]

    def completions(self):
        """Those who completed since the last call, an array with one record for each."""
        result = np.empty(self.fleet.done_size, COMPLETED)
        cdef uint8_t[::1] bytes_of = result.view(np.uint8)
        if self.fleet.done_size > 0:
            memcpy(&bytes_of[0], self.fleet.done, self.fleet.done_size * sizeof(Completed))
        self.fleet.done_size = 0
        return result

    def send(self, int64_t upto):
        """Send requests up to the one with this id. True if that is done, False to be called again."""
        cdef int64_t last = min(upto, self.fleet.sent + REQUESTS_PER_LOOK)
        cdef int status = OK
        with nogil:
            while self.fleet.sent < last and status == OK:
                if self.fleet.rule == CENTRAL:
                    status = queue_one(&self.fleet, self.fleet.sent - self.fleet.base)
                else:
                    status = send_one(&self.fleet, self.fleet.sent - self.fleet.base)
                self.fleet.sent += status == OK
        PyErr_CheckSignals()
        self.check_status(status)
        return self.fleet.sent == upto

    def close_loop(self, const int64_t[::1] turn_before, const int64_t[::1] next_turn, const double[::1] think,
                   double[::1] arrival):
        """Of the requests that were taken, turns arrive when those before them are done: `arrival` will say when."""
        cdef int64_t i
        cdef int k
        for k in range(self.fleet.pools_size):  # replicas run in order of time, whatever the router sees
            self.fleet.pools[k].foresees = False
        for k in range(self.fleet.replicas_size):
            look_again(&self.fleet, k)
        self.outputs += (next_turn, think, arrival)
        self.fleet.next_turn, self.fleet.think, self.fleet.arrives = &next_turn[0], &think[0], &arrival[0]
        for i in range(turn_before.shape[0]):
            if turn_before[i] == NONE and comes(&self.fleet, i, arrival[i]) == NO_MEMORY:
                raise MemoryError(f"no memory for {turn_before.shape[0]} requests")

    def send_turns(self, int64_t upto):
        """Send all requests, as they come. True if that is done, False to be called again."""
        cdef int64_t _event
        cdef int status = OK
        with nogil:
            for _event in range(REQUESTS_PER_LOOK):
                if self.fleet.sent == upto or status != OK:
                    break
                status = next_event(&self.fleet)
        PyErr_CheckSignals()
        self.check_status(status)
        return self.fleet.sent == upto

    def finish(self):
        """No more requests come. True if all have completed, False to be called again."""
        cdef int status = OK
        cdef int k
        with nogil:
            status = serve_queue(&self.fleet, INFINITY) if self.fleet.rule == CENTRAL else OK
            if status == OK:
                status = know(&self.fleet, INFINITY)
            for k in range(self.fleet.replicas_size if status == OK else 0):
                status = advance(&self.fleet, k)
                if status != OK:
                    break
        PyErr_CheckSignals()
        self.check_status(status)
        return status == OK

    cdef int check_status(self, int status) except -1:
        cdef Replica* replica
        if status == NO_MEMORY:
            raise MemoryError(f"no memory for the requests of {self.fleet.replicas_size} replicas")
        if status == FORMULA_FAILED and self.fleet.failed == NONE:
            values = {name: self.fleet.cells[<int>k] for k, name in enumerate(FORMULA_NAMES)}
            self.router.formula.value(values, self.fleet.asked)
            raise AssertionError(f"the engines do not agree on {self.router.formula!r} for {values}")
        if self.fleet.failed != NONE and self.fleet.replicas[self.fleet.failed].engine.failed != NONE:
            replica = &self.fleet.replicas[self.fleet.failed]
            policy = self.problems[replica.pool].policy
            id = id_of(&self.fleet.pools[replica.pool], replica.engine.failed)
            raise_failure(&replica.engine, policy, id if self.fleet.rank == NULL else self.fleet.rank[<int64_t>id])
        if status != OK and status != AGAIN:
            raise Stopped(self.fleet.failed)
        return 0

    # What happened ----------------------------------------------------------------------------------------------------

    def outcome(self, int k):
        """Of one replica: rounds, peak_memory, wasted_tokens, idle, end, timeline, tokens (slots made ids), work."""
        cdef Replica* replica = &self.fleet.replicas[k]
        cdef Engine* engine = &replica.engine
        cdef Pool* pool = &self.fleet.pools[replica.pool]
        problem = self.problems[replica.pool]
        log = None
        if self.fleet.record_tokens:
            log = tokens(engine)
            if pool.lent:
                log = dataclasses.replace(log, request=log.request - 1, chunk_request=log.chunk_request - 1)
            elif pool.made > 1:
                ids = np.asarray(<int64_t[:(pool.made - 1) * pool.stride + 1]>pool.ids)
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

    def unfinished(self, int k):
        """(rounds, requests that did not complete) of a replica."""
        return self.fleet.replicas[k].engine.round, self.fleet.replicas[k].engine.unfinished

    @property
    def slots(self):
        """Requests that were ever there at once, in all pools: what the memory that is held grows with. 0 where they
        are all at hand."""
        return sum(max(self.fleet.pools[k].made - 1, 0) for k in range(self.fleet.pools_size))

    @property
    def completed_requests(self):
        """How many requests have completed."""
        return self.fleet.completed_requests

    @property
    def failed(self):
        """The replica that cannot go on, or -1."""
        return self.fleet.failed


cdef bint made_room(FleetState* fleet) noexcept:
    # Whether there was memory for so many pools, replicas and classes.
    fleet.pools = <Pool*>calloc(fleet.pools_size, sizeof(Pool))
    fleet.replicas = <Replica*>calloc(fleet.replicas_size, sizeof(Replica))
    fleet.looks = <Look*>calloc(fleet.replicas_size, sizeof(Look))
    fleet.fitting = <int32_t*>calloc(fleet.replicas_size, sizeof(int32_t))
    fleet.compared = <int32_t*>calloc(fleet.replicas_size, sizeof(int32_t))
    fleet.scores = <double*>calloc(fleet.replicas_size, sizeof(double))
    fleet.members = <int32_t*>calloc(fleet.replicas_size, sizeof(int32_t))
    fleet.first_member = <int32_t*>calloc(fleet.classes + 1, sizeof(int32_t))
    fleet.turns = <int64_t*>calloc(fleet.classes, sizeof(int64_t))
    return (
        fleet.pools != NULL and fleet.replicas != NULL and fleet.looks != NULL and fleet.fitting != NULL
        and fleet.compared != NULL and fleet.scores != NULL and fleet.members != NULL and fleet.first_member != NULL
        and fleet.turns != NULL
    )


class Stopped(Exception):  # noqa: N818 (for run.py, which says it in words)
    """A replica makes no progress. Its number is the argument."""


cdef const int64_t* integers(const int64_t[::1] column) noexcept:
    if column is None:
        return NULL
    return &column[0]


cdef const double* reals(const double[::1] column) noexcept:
    return &column[0]

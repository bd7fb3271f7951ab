"""The engine driven from outside, a round at a time: requests in as they come, decisions out (see live.py).

Requests lie in arrays that grow to as many as were ever there at once; who is gone makes room for another.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memset

import numpy as np

from llmsched._core cimport (
    ORDER_KEYS, RESERVE_MOVING, UNKNOWN, Engine, Problem, engine_arrive, engine_cancel, engine_decide, engine_delay,
    engine_end_round, engine_finish, engine_free, engine_generate, engine_hasten, engine_open,
    engine_turn_back, engine_withdraw,
)
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.formula cimport FOR_ORDER, FOR_RESERVE, NAMES, formula_tokens
from llmsched._engine.policy_formulas cimport value_for
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.request cimport NONE
from llmsched._engine.status cimport NO_MEMORY
from llmsched._engine.waiting_heap cimport Entry, Heap, heap_drop, heap_free, heap_pop, heap_push
from llmsched.simulation._compiled cimport fill_problem, formula_of, raise_failure, raise_formula_error

from ..formula_names import NAMES as FORMULA_NAMES

cdef enum State:
    FREE
    TO_ARRIVE
    WAITING
    RUNNING

cdef enum:
    COLUMNS = 32            # arrays of a slot, at most
    ARRIVALS_BITS = 39      # of a level: the arrivals seen so far; the priority is above them


cdef struct Slot:
    # What the engine does not keep of a request, by its index.
    State state
    int32_t number      # while it runs, the engine's for it
    int64_t admission   # admissions before its last one
    int32_t next        # of the free ones, or NONE


cdef struct Column:
    void** place        # who points to the array
    int64_t size        # of a value
    bint engines        # the engine frees it


cdef struct Turn:
    int64_t admission
    int32_t slot


cdef int by_admission(const void* a, const void* b) noexcept nogil:
    return -1 if (<const Turn*>a).admission < (<const Turn*>b).admission else 1


cdef class Driven:
    """An engine without a workload. `problem` is one without requests; nothing that is given here is checked."""

    cdef Engine engine
    cdef Problem problem
    cdef Heap to_arrive
    cdef Column columns[COLUMNS]
    cdef int columns_size
    cdef Slot* slots
    cdef Turn* turns
    cdef int64_t allocated      # slots that there is memory for
    cdef int32_t made           # and those that were ever used
    cdef int32_t free_slot
    cdef int64_t latest_level   # arrivals at times of their own, so far
    cdef double latest          # the last of these times
    cdef bint by_level          # order="priority"
    cdef bint order_by_value, reserve_by_value  # a formula is computed for a request as it comes
    cdef int64_t* prompt
    cdef int64_t* output
    cdef double* arrival
    cdef int64_t* bound
    cdef int64_t* upper
    cdef int64_t* believed
    cdef int64_t* keys
    cdef double* real_keys
    cdef uint8_t* capped
    cdef int64_t* levels
    cdef int64_t* numbers
    cdef uint8_t* urgent
    cdef int64_t* rows
    cdef double* values[<int>NAMES]
    cdef double* completion
    cdef double* start
    cdef int64_t* evictions
    cdef object source          # the problem it was made of
    cdef list ids                   # by slot

    def __cinit__(self, source):
        cdef double[::1] reals = np.empty(0)
        cdef int64_t[::1] whole = np.empty(0, np.int64)
        memset(&self.engine, 0, sizeof(Engine))
        self.source = source
        self.ids = []
        self.free_slot = NONE
        self.latest = -1.0
        fill_problem(&self.problem, source, reals, reals, whole)
        self.problem.clocked = True  # time is what decide() is told
        formulas = source.policy.formulas
        for place, name in ((<int>FOR_ORDER, "order"), (<int>FOR_RESERVE, "reserve")):
            if name in formulas and not (name == "order" and formulas[name].changes_over_time):
                self.problem.formulas[<int>place] = formula_of(formulas[name])
                self.problem.computes_formulas = True
                self.problem.reads_joined |= "joined" in formulas[name].reads
        self.order_by_value = "order" in formulas and not formulas["order"].changes_over_time
        self.reserve_by_value = "reserve" in formulas
        self.by_level = source.policy.order == "priority"
        if engine_open(&self.engine, &self.problem) == NO_MEMORY:
            raise MemoryError("no memory for a scheduler")
        self.lay_out()

    def __dealloc__(self):
        cdef int k
        for k in range(self.columns_size):
            if not self.columns[k].engines:
                free(self.columns[k].place[0])
        heap_free(&self.to_arrive)
        engine_free(&self.engine)

    cdef lay_out(self):
        # Which arrays there are: those that the policy reads.
        source = self.source
        self.column(<void**>&self.slots, sizeof(Slot))
        self.column(<void**>&self.turns, sizeof(Turn))
        self.column(<void**>&self.prompt, sizeof(int64_t))
        self.column(<void**>&self.output, sizeof(int64_t))
        self.column(<void**>&self.arrival, sizeof(double))
        self.column(<void**>&self.numbers, sizeof(int64_t))
        self.column(<void**>&self.urgent, sizeof(uint8_t))
        self.column(<void**>&self.completion, sizeof(double))
        self.column(<void**>&self.start, sizeof(double))
        self.column(<void**>&self.evictions, sizeof(int64_t))
        self.column(<void**>&self.engine.order, sizeof(int32_t), engines=True)
        self.column(<void**>&self.engine.rank, sizeof(int32_t), engines=True)
        if source.bound is not None:
            self.column(<void**>&self.bound, sizeof(int64_t))
        if source.upper is not None:
            self.column(<void**>&self.upper, sizeof(int64_t))
        if source.believed is not None:
            self.column(<void**>&self.believed, sizeof(int64_t))
        if source.capped is not None:
            self.column(<void**>&self.capped, sizeof(uint8_t))
        if source.levels is not None or self.by_level:
            self.column(<void**>&self.levels, sizeof(int64_t))
        if source.classes is not None:
            self.column(<void**>&self.rows, sizeof(int64_t))
        if self.order_by_value:
            self.column(<void**>&self.real_keys, sizeof(double))
        elif self.problem.order == ORDER_KEYS and not self.by_level:
            self.column(<void**>&self.keys, sizeof(int64_t))
        if self.problem.reads_joined:
            self.column(<void**>&self.engine.joined, sizeof(double), engines=True)
        if self.problem.belief_changes:
            self.column(<void**>&self.engine.believed, sizeof(int64_t), engines=True)
        for k, name in enumerate(FORMULA_NAMES):
            if name in source.columns:
                self.column(<void**>&self.values[<int>k], sizeof(double))

    cdef void column(self, void** place, int64_t size, bint engines=False) noexcept:
        self.columns[self.columns_size].place = place
        self.columns[self.columns_size].size = size
        self.columns[self.columns_size].engines = engines
        self.columns_size += 1

    cdef int more(self) except -1:
        # Room for more slots than ever before.
        cdef int64_t larger = 2 * self.allocated + 256
        cdef void* block
        cdef int k
        for k in range(self.columns_size):
            block = realloc(self.columns[k].place[0], larger * self.columns[k].size)
            if block == NULL:
                raise MemoryError(f"no memory for {larger} requests")
            self.columns[k].place[0] = block
        self.allocated = larger
        self.problem.prompt = self.prompt
        self.problem.output = self.output
        self.problem.arrival = self.arrival
        self.problem.numbers = self.numbers
        self.problem.urgent = self.urgent
        self.problem.completion = self.completion
        self.problem.start = self.start
        self.problem.evictions = self.evictions
        self.problem.bound = self.bound
        self.problem.upper = self.upper
        self.problem.capped = self.capped
        self.problem.levels = self.levels
        self.problem.real_keys = self.real_keys
        self.problem.keys = self.levels if self.by_level else self.keys
        self.problem.believed = self.believed if self.problem.reserve != RESERVE_MOVING else NULL
        self.engine.belief.rules.upper = self.believed
        self.engine.belief.rules.row = self.rows
        self.engine.belief.rules.numbers = self.numbers
        for k in range(<int>NAMES):
            self.problem.columns[k] = self.values[k]
        return 0

    def submit(
        self, request, int64_t number, int64_t tie, int64_t prompt, double arrival, int64_t bound, int64_t upper,
        int64_t believed, int64_t key, bint capped, int64_t priority, int64_t row, values,
    ):
        """A request that arrives then; returns its slot. `values` are those of the columns that formulas read."""
        cdef int32_t s = self.free_slot
        cdef Entry entry
        cdef int k
        if s == NONE:
            if self.made == self.allocated:
                self.more()
            s = self.made
        self.prompt[s] = prompt
        self.output[s] = UNKNOWN
        self.arrival[s] = arrival
        self.numbers[s] = number
        self.evictions[s] = 0
        self.urgent[s] = False
        self.engine.order[s] = s
        self.engine.rank[s] = <int32_t>tie
        if self.bound != NULL:
            self.bound[s] = bound
        if self.upper != NULL:
            self.upper[s] = upper
        if self.believed != NULL:
            self.believed[s] = believed
        if self.capped != NULL:
            self.capped[s] = capped
        if self.levels != NULL:
            self.levels[s] = priority  # until it arrives
        if self.rows != NULL:
            self.rows[s] = row
        if self.keys != NULL:
            self.keys[s] = key
        for k, name in enumerate(FORMULA_NAMES):
            if self.values[k] != NULL:
                self.values[k][s] = values[name]
        self.compute(s, request)
        entry.key = double_key(arrival)
        entry.tie = 0
        entry.who = s
        if heap_push(&self.to_arrive, entry) == NO_MEMORY:
            raise MemoryError("no memory for one more request")
        if s == self.made:
            self.made += 1
            self.ids.append(request)
            self.problem.n = self.engine.arrived = self.made
        else:
            self.free_slot = self.slots[s].next
        self.slots[s].state = TO_ARRIVE
        self.slots[s].number = NONE
        self.ids[s] = request
        return s

    cdef int compute(self, int32_t s, request) except -1:
        # What formulas say of a request as it comes.
        cdef double value
        if self.engine.joined != NULL:
            self.engine.joined[s] = self.arrival[s]
        if self.order_by_value:
            self.real_keys[s] = value_for(&self.engine, FOR_ORDER, NONE, s, 0)
        if self.reserve_by_value:
            value = value_for(&self.engine, FOR_RESERVE, NONE, s, 0)
            self.believed[s] = formula_tokens(value)
            if self.engine.believed != NULL:
                self.engine.believed[s] = self.believed[s]
        if self.engine.failed != NONE:
            self.engine.failed = NONE
            raise_formula_error(&self.engine, self.source.policy.formulas, request)
        return 0

    cdef int arrive(self, double now) except -1:
        cdef int64_t upto = double_key(now)
        cdef int32_t s
        while self.to_arrive.size > 0 and self.to_arrive.entries[0].key <= upto:
            s = self.to_arrive.entries[0].who
            heap_pop(&self.to_arrive)
            if self.levels != NULL:
                if self.arrival[s] > self.latest:
                    self.latest = self.arrival[s]
                    self.latest_level += 1
                self.levels[s] = self.levels[s] * (<int64_t>1 << ARRIVALS_BITS) + self.latest_level
            self.slots[s].state = WAITING
            if engine_arrive(&self.engine, s) == NO_MEMORY:
                raise MemoryError("no memory for one more request")
        return 0

    def decide(self, double now):
        """(ids that start, ids that leave before, id -> tokens that it processes) in the round that starts now; None:
        see `too_large`. The last is empty unless slots are taken as tokens are processed."""
        cdef int64_t k
        cdef int32_t s, p
        cdef int status
        # with slots="processed" what the coming round takes is known when it is decided: a slot more at most, each
        if self.engine.need + self.problem.as_processed * self.problem.block > self.problem.memory and \
                self.largest() >= 0:
            return None
        self.arrive(now)
        status = engine_decide(&self.engine, now)
        if status == NO_MEMORY:
            raise MemoryError("no memory to decide a round")
        if self.engine.failed != NONE:
            raise_failure(&self.engine, self.source.policy, self.ids[self.engine.failed])
        left = []
        for k in range(self.engine.evictions_this_round):
            s = self.engine.requests[self.engine.leavers[k]].index
            self.slots[s].state = WAITING
            self.slots[s].number = NONE
            left.append(self.ids[s])
        admitted = []
        for k in range(self.engine.admitted_size):
            p = self.engine.admitted[k]
            s = self.engine.requests[p].index
            self.slots[s].state = RUNNING
            self.slots[s].number = p
            self.slots[s].admission = self.engine.work.admissions - self.engine.admitted_size + k
            admitted.append(self.ids[s])
        processed = {}
        p = self.engine.oldest if self.problem.as_processed else NONE
        while p != NONE:
            if self.engine.prefills[p].granted > 0:
                processed[self.ids[self.engine.requests[p].index]] = self.engine.prefills[p].granted
            p = self.engine.requests[p].newer
        return admitted, left, processed

    cdef int64_t largest(self) noexcept:
        # The slot of a running request for which the whole cache is not enough, or NONE.
        cdef int32_t s
        cdef int64_t coming = 0 if self.problem.as_processed else 1
        for s in range(self.made):
            if self.slots[s].state == RUNNING and whole_blocks(
                self.prompt[s] + self.generated_of(s) + coming, self.problem.block
            ) > self.problem.memory:
                return s
        return NONE

    def too_large(self):
        """(id, number, prompt, tokens generated) of a running request that the whole cache cannot hold."""
        cdef int32_t s = <int32_t>self.largest()
        return self.ids[s], self.numbers[s], self.prompt[s], self.generated_of(s)

    cdef int64_t generated_of(self, int32_t s) noexcept:
        return self.engine.round - self.engine.requests[self.slots[s].number].birth

    def advance(self, list finished, list delayed):
        """The round ran: the running requests in these slots completed with it, and those got no token."""
        cdef int64_t k, n
        cdef int status
        if engine_generate(&self.engine) == NO_MEMORY:
            raise MemoryError("no memory to run a round")
        n = self.in_turn(delayed)
        for k in range(n):
            status = engine_delay(&self.engine, self.slots[self.turns[k].slot].number)
            if status == NO_MEMORY:
                raise MemoryError("no memory to run a round")
        n = self.in_turn(finished)
        for k in range(n):
            if engine_finish(&self.engine, self.slots[self.turns[k].slot].number) == NO_MEMORY:
                raise MemoryError("no memory to run a round")
            self.release(self.turns[k].slot)
        if engine_end_round(&self.engine) == NO_MEMORY:
            raise MemoryError("no memory to run a round")

    cdef int64_t in_turn(self, list which) except -1:
        # Puts these slots into turns[], those admitted first first.
        cdef int64_t k, n = len(which)
        for k in range(n):
            self.turns[k].slot = which[k]
            self.turns[k].admission = self.slots[self.turns[k].slot].admission
        if n > 1:
            qsort(self.turns, n, sizeof(Turn), by_admission)
        return n

    def cancel(self, int32_t s):
        """The request in this slot goes away, wherever it is."""
        cdef int64_t k
        if self.slots[s].state == RUNNING:
            if engine_cancel(&self.engine, self.slots[s].number) == NO_MEMORY:
                raise MemoryError("no memory to cancel a request")
        elif self.slots[s].state == WAITING:
            engine_withdraw(&self.engine, s)
        else:
            for k in range(self.to_arrive.size):
                if self.to_arrive.entries[k].who == s:
                    heap_drop(&self.to_arrive, k)
                    break
        self.release(s)

    def turn_back(self, int32_t s):
        """The running request in this slot waits again."""
        if engine_turn_back(&self.engine, self.slots[s].number) == NO_MEMORY:
            raise MemoryError("no memory for one more request that waits")
        self.slots[s].state = WAITING
        self.slots[s].number = NONE

    def hasten(self, int32_t s):
        """The request in this slot goes before all others from now on."""
        if not self.urgent[s]:
            self.urgent[s] = True
            if self.slots[s].state == WAITING and engine_hasten(&self.engine, s) == NO_MEMORY:
                raise MemoryError("no memory for one more request that waits")

    cdef void release(self, int32_t s) noexcept:
        self.slots[s].state = FREE
        self.slots[s].next = self.free_slot
        self.free_slot = s
        self.ids[s] = None

    def is_running(self, int32_t s):
        """Whether the request in this slot is in the batch."""
        return self.slots[s].state == RUNNING

    def generated(self, int32_t s):
        """Tokens that the running request in this slot generated, those kept from earlier attempts included."""
        return self.generated_of(s)

    @property
    def running(self):
        """Requests in the batch."""
        return self.engine.running

    @property
    def waiting(self):
        """Requests that wait, those yet to arrive not counted."""
        return self.engine.waiting

    @property
    def need(self):
        """Tokens of cache that the coming round takes, in whole blocks."""
        return self.engine.need

    @property
    def rounds(self):
        """Rounds that ran."""
        return self.engine.round

    @property
    def work(self):
        """What it cost so far, in steps and bytes that do not depend on the machine."""
        cdef int64_t slot = 0
        cdef int k
        for k in range(self.columns_size):
            slot += self.columns[k].size
        return {
            "rounds": self.engine.work.rounds_stepped,
            "admissions": self.engine.work.admissions,
            "feasibility_tests": self.engine.work.feasibility_tests,
            "points_scanned": self.engine.profile.scanned + self.engine.belief.scanned,
            "heap_operations": self.engine.heap.operations + self.engine.tree.operations + self.engine.ties.operations,
            "bytes": (
                self.allocated * slot + self.engine.requests_allocated * 72
                + (self.engine.heap.allocated + self.engine.rising.queue.allocated + self.to_arrive.allocated) * 16
                + self.engine.tree.nodes_allocated * 1024 + self.engine.ties.lists_allocated * 28
                + self.engine.profile.allocated * 8 * (2 + self.problem.block)
                + self.engine.belief.allocated * 96
            ),
        }

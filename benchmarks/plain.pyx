# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Yardstick B: the loop a good programmer writes in an afternoon. Every round, every running request gets its token.

No rounds are skipped and nothing is remembered between rounds but the state itself. The waiting set is a binary heap;
everything about the batch is a pass over it. An admission is tested in one of two ways:

- `sweep=False`: as the paper writes it. For the believed completion point of each running request, add up everybody.
- `sweep=True`: the batch is also kept sorted by believed completion, and one pass back through it gives all the sums.

Agrees with the reference engine on hsf, amax and amin (and on whatever else differs from them by its order, reserve,
bound and seed alone) when all requests arrive at 0, a round lasts 1, and memory is the only limit to the batch.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

import numpy as np


cdef struct Request:
    int64_t prompt
    int64_t output
    int64_t bound       # õ
    int64_t key         # admission order
    int64_t rank        # breaks its ties
    int64_t generated   # tokens so far
    int64_t end         # the round it is believed to complete in
    int64_t tie_key     # its list of equals
    int64_t tie_place   # its place in that list


cdef struct Simulation:
    Request* requests
    int64_t* waiting        # a binary heap of requests by (key, rank)
    int64_t waits
    int64_t* running        # in order of admission
    int64_t runs
    int64_t* by_end         # sweep=True: the same requests by `end`
    int64_t* evicted        # in this round
    int64_t memory
    int64_t round
    int64_t used            # sum of prompt + generated over the batch
    bint sweep
    bint by_bound           # evict="bound", else "progress"


def run(problem, const int64_t[::1] rank, bint sweep):
    """Simulate a `llmsched.simulation.problem.Problem`; `rank` breaks admission ties (smaller first).

    Returns (completion, start, evictions, rounds, peak_memory, wasted_tokens), arrays of int64.
    """
    policy = problem.policy
    if (
        policy.margin or policy.fill != "break" or policy.cap != "none" or policy.resume != "restart"
        or policy.reserve == "none" or policy.evict not in ("bound", "progress")
        or policy.refine not in ("none", "progress") or problem.arrival.any()
        or (problem.keys is None and policy.order != "bound") or policy.pause != "none"
        or problem.clock is not None or problem.block != 1 or problem.max_batch < len(problem.output)
        or problem.chunked
        or (problem.keys is not None and problem.keys.dtype != np.int64)
    ):
        raise ValueError(f"the plain loop is for hsf, amax and amin with all arriving at 0, not {policy}")
    cdef int64_t n = len(problem.output)
    cdef const int64_t[::1] prompt = problem.prompt
    cdef const int64_t[::1] output = problem.output
    cdef const int64_t[::1] bound = problem.bound if problem.believed is None else problem.believed
    cdef const int64_t[::1] keys = bound if problem.keys is None else problem.keys
    completion_array, start_array = np.zeros(n, np.int64), np.full(n, -1, np.int64)
    evictions_array = np.zeros(n, np.int64)
    cdef int64_t[::1] completion = completion_array
    cdef int64_t[::1] start = start_array
    cdef int64_t[::1] evictions = evictions_array
    cdef Simulation s
    cdef Request* r
    cdef int64_t i, k, kept, evicted, peak = 0, wasted = 0, left = n
    cdef bint seeded = problem.seed is not None
    cdef bint refines = policy.refine == "progress" and problem.bound is not None
    cdef bint ordered_by_bound = problem.keys is None
    cdef uint64_t stream = problem.seed or 0

    s.memory, s.sweep, s.by_bound = problem.memory, sweep, policy.evict == "bound"
    s.round = s.used = s.waits = s.runs = 0
    s.requests = <Request*>calloc(n + 1, sizeof(Request))
    s.waiting = <int64_t*>calloc(4 * n + 4, sizeof(int64_t))
    if s.requests == NULL or s.waiting == NULL:
        free(s.requests)
        free(s.waiting)
        raise MemoryError
    s.running, s.by_end, s.evicted = s.waiting + n + 1, s.waiting + 2 * n + 2, s.waiting + 3 * n + 3
    try:
        with nogil:
            for i in range(n):
                r = &s.requests[i]
                r.prompt, r.output, r.bound, r.key, r.rank = prompt[i], output[i], bound[i], keys[i], rank[i]
                push(&s, i)
            while left > 0:
                # overflow: evict until the coming round fits
                evicted = 0
                while s.used + s.runs > s.memory:
                    i = victim(&s, seeded, &stream)
                    r = &s.requests[i]
                    evictions[i] += 1
                    wasted += r.generated
                    stop(&s, i)
                    for k in range(s.runs):
                        if s.running[k] == i:
                            break
                    remove(s.running, &s.runs, k)
                    if refines:
                        r.bound = max(r.bound, r.generated + 1)
                        if ordered_by_bound:
                            r.key = r.bound
                    r.generated = 0
                    s.evicted[evicted] = i
                    evicted += 1
                # admission; those just evicted come back after it
                admit_what_fits(&s, start)
                for k in range(evicted):
                    push(&s, s.evicted[k])
                if s.runs == 0:
                    admit_what_fits(&s, start)
                # generation
                s.used += s.runs
                peak = max(peak, s.used)
                s.round += 1
                kept = 0
                for k in range(s.runs):
                    i = s.running[k]
                    r = &s.requests[i]
                    r.generated += 1
                    if r.generated == r.output:
                        completion[i] = s.round
                        left -= 1
                        stop(&s, i)
                    else:
                        s.running[kept] = i
                        kept += 1
                s.runs = kept
        return completion_array, start_array, evictions_array, s.round, peak, wasted
    finally:
        free(s.requests)
        free(s.waiting)


# Admission -----------------------------------------------------------------------------------------------------------


cdef void admit_what_fits(Simulation* s, int64_t[::1] start) noexcept nogil:
    cdef int64_t i
    cdef Request* r
    while s.waits > 0:
        i = s.waiting[0]
        r = &s.requests[i]
        r.end = s.round + min(r.bound, s.memory - r.prompt)
        if s.runs > 0 and not fits(s, i):
            return
        pop(s)
        if start[i] < 0:
            start[i] = s.round
        s.used += r.prompt
        if s.sweep:
            insert_by_end(s, i)
        join_equals(s, i)
        s.running[s.runs] = i
        s.runs += 1


cdef bint fits(Simulation* s, int64_t candidate) noexcept nogil:
    cdef const Request* c = &s.requests[candidate]
    cdef int64_t k
    cdef bint ok
    if s.used + s.runs + c.prompt + 1 > s.memory:  # not even in the coming round
        return False
    if s.sweep:
        insert_by_end(s, candidate)
        ok = sweep_fits(s)
        remove_by_end(s, candidate)
        return ok
    for k in range(s.runs):
        if need_at(s, c, believed_end(s, &s.requests[s.running[k]])) > s.memory:
            return False
    return need_at(s, c, c.end) <= s.memory


cdef inline int64_t believed_end(const Simulation* s, const Request* r) noexcept nogil:
    return max(r.end, s.round + 1)  # unfinished: at least one more token


cdef int64_t need_at(const Simulation* s, const Request* candidate, int64_t end) noexcept nogil:
    # Cache that the batch and the candidate need in the round that ends at `end`.
    cdef const Request* r
    cdef int64_t k, need = 0, ahead = end - s.round
    if candidate.end >= end:
        need = candidate.prompt + ahead
    for k in range(s.runs):
        r = &s.requests[s.running[k]]
        if believed_end(s, r) >= end:
            need += r.prompt + r.generated + ahead
    return need


cdef bint sweep_fits(const Simulation* s) noexcept nogil:
    # The same for the requests in by_end (the candidate is one of them), from the latest end back.
    cdef int64_t k, end, held = 0, count = 0
    cdef const Request* r
    for k in range(s.runs, -1, -1):
        r = &s.requests[s.by_end[k]]
        end = believed_end(s, r)
        held += r.prompt + r.generated
        count += 1
        # among equal ends the last one looked at has the whole sum, the others less
        if held + count * (end - s.round) > s.memory:
            return False
    return True


cdef void insert_by_end(Simulation* s, int64_t i) noexcept nogil:
    cdef int64_t k = s.runs, end = s.requests[i].end
    while k > 0 and s.requests[s.by_end[k - 1]].end > end:
        s.by_end[k] = s.by_end[k - 1]
        k -= 1
    s.by_end[k] = i


cdef void remove_by_end(Simulation* s, int64_t i) noexcept nogil:
    cdef int64_t k = 0
    while s.by_end[k] != i:
        k += 1
    while k < s.runs:
        s.by_end[k] = s.by_end[k + 1]
        k += 1


cdef void remove(int64_t* array, int64_t* size, int64_t k) noexcept nogil:
    size[0] -= 1
    while k < size[0]:
        array[k] = array[k + 1]
        k += 1


# Who leaves ----------------------------------------------------------------------------------------------------------


cdef void join_equals(Simulation* s, int64_t i) noexcept nogil:
    # At the end of the list of running requests with the same key.
    cdef Request* r = &s.requests[i]
    cdef int64_t k
    r.tie_key = r.bound if s.by_bound else -s.round
    r.tie_place = 0
    for k in range(s.runs):
        r.tie_place += s.requests[s.running[k]].tie_key == r.tie_key


cdef void stop(Simulation* s, int64_t i) noexcept nogil:
    # Out of its list of equals, where the last takes its place; s.running is the caller's to mend.
    cdef Request* r = &s.requests[i]
    cdef Request* last = r
    cdef Request* other
    cdef int64_t k
    s.used -= r.prompt + r.generated
    for k in range(s.runs):
        other = &s.requests[s.running[k]]
        if other.tie_key == r.tie_key and other.tie_place > last.tie_place:
            last = other
    last.tie_place = r.tie_place
    r.tie_place = -1
    if s.sweep:
        k = 0
        while s.by_end[k] != i:
            k += 1
        while k < s.runs - 1:
            s.by_end[k] = s.by_end[k + 1]
            k += 1


cdef int64_t victim(const Simulation* s, bint seeded, uint64_t* stream) noexcept nogil:
    cdef int64_t k, smallest = s.requests[s.running[0]].tie_key, size = 0, place = 0
    cdef const Request* r
    cdef uint64_t z
    for k in range(s.runs):
        smallest = min(smallest, s.requests[s.running[k]].tie_key)
    for k in range(s.runs):
        size += s.requests[s.running[k]].tie_key == smallest
    if seeded and size > 1:  # splitmix64
        stream[0] += <uint64_t>0x9E3779B97F4A7C15ULL
        z = stream[0]
        z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
        z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EBULL
        place = <int64_t>((((z ^ (z >> 31)) >> 32) * <uint64_t>size) >> 32)
    for k in range(s.runs):
        r = &s.requests[s.running[k]]
        if r.tie_key == smallest and r.tie_place == place:
            return s.running[k]
    return -1


# The waiting set -----------------------------------------------------------------------------------------------------


cdef inline bint before(const Simulation* s, int64_t i, int64_t j) noexcept nogil:
    cdef const Request* a = &s.requests[i]
    cdef const Request* b = &s.requests[j]
    return a.key < b.key or (a.key == b.key and a.rank < b.rank)


cdef void push(Simulation* s, int64_t i) noexcept nogil:
    cdef int64_t at = s.waits, parent
    s.waits += 1
    while at > 0:
        parent = (at - 1) // 2
        if not before(s, i, s.waiting[parent]):
            break
        s.waiting[at] = s.waiting[parent]
        at = parent
    s.waiting[at] = i


cdef void pop(Simulation* s) noexcept nogil:
    cdef int64_t at = 0, child, last
    s.waits -= 1
    last = s.waiting[s.waits]
    while 2 * at + 1 < s.waits:
        child = 2 * at + 1
        if child + 1 < s.waits and before(s, s.waiting[child + 1], s.waiting[child]):
            child += 1
        if not before(s, s.waiting[child], last):
            break
        s.waiting[at] = s.waiting[child]
        at = child
    s.waiting[at] = last

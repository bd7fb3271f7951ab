"""The compiled engine: model.md, jumping over the rounds in which nothing can change.

Between two events (arrival, completion, cap, overflow, or the round at which the next candidate fits) every running
request grows by one token and that is all: such rounds are one addition. `reference.py` is the same engine, readable.
"""

from libc.math cimport fabs
from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from llmsched._engine.admission cimport admission
from llmsched._engine.admission_order cimport order_arrivals, order_requests
from llmsched._engine.batch cimport complete, leave, stop_running
from llmsched._engine.belief cimport BELIEF_HISTORY, belief_free, belief_init, ratio_restart
from llmsched._engine.check cimport check
from llmsched._engine.chunked_prefill cimport postpone, prefill_begin, unlikely
from llmsched._engine.closed_loop cimport first_turns
from llmsched._engine.eviction_rules cimport is_ranked
from llmsched._engine.eviction_ties cimport ties_free, ties_init
from llmsched._engine.fed_arrivals cimport known_until, next_round_begins, queue_add, queue_init
from llmsched._engine.memory_profile cimport profile_free, profile_init
from llmsched._engine.overflow cimport overflow, rejoin
from llmsched._engine.policy_formulas cimport formulas_free, formulas_init
from llmsched._engine.prefix_cache cimport pool_free, pool_init
from llmsched._engine.progress cimport changed, stalled, steps_spent
from llmsched._engine.recording cimport pass_rounds
from llmsched._engine.request cimport NEVER_RAN, NONE, Request
from llmsched._engine.rising_peak cimport rising_free, rising_init
from llmsched._engine.rounds cimport due, earliest_due, grow, next_arrival, next_place, now, round_of, rounds_that_fit
from llmsched._engine.rounds_as_processed cimport departures_as_processed, make_room_as_processed, run_served
from llmsched._engine.shared_queue cimport is_offered
from llmsched._engine.status cimport FINISHED, NO_MEMORY, OK, RUNNING, STOPPED, WAITING
from llmsched._engine.timing_wheel cimport wheel_add, wheel_free, wheel_init, wheel_next, wheel_remove, wheel_take
from llmsched._engine.waiting cimport join, take_waiting
from llmsched._engine.waiting_heap cimport heap_free
from llmsched._engine.waiting_tree cimport tree_free, tree_init

cdef enum:
    ROUNDS_PER_EVENT = 65536        # with a clock each round costs time: how many pass before steps are counted


# Starting and ending ------------------------------------------------------------------------------------------------


cdef int engine_start(Engine* engine, const Problem* problem) noexcept nogil:
    # Sorts the requests and sets everything up. RUNNING, or NO_MEMORY. Call engine_free in either case.
    cdef int64_t i, longest = 0
    for i in range(problem.n):
        if problem.output[i] > longest:
            longest = problem.output[i]
    if prepare(engine, problem, longest) == NO_MEMORY:
        return NO_MEMORY
    engine.unfinished = problem.n
    if order_requests(engine) == NO_MEMORY:
        return NO_MEMORY
    if problem.next_turn != NULL:
        engine.notes_completed = True
        if first_turns(engine) == NO_MEMORY:
            return NO_MEMORY
    elif order_arrivals(engine) == NO_MEMORY:
        return NO_MEMORY
    engine.may_overflow = can_overflow(problem)
    if engine.may_overflow and ties_init(&engine.ties) == NO_MEMORY:
        return NO_MEMORY
    return RUNNING


cdef int prepare(Engine* engine, const Problem* problem, int64_t longest) noexcept nogil:
    # An engine without requests yet, of which none runs for more than `longest` rounds. OK or NO_MEMORY.
    memset(engine, 0, sizeof(Engine))
    engine.problem = problem
    engine.capped = engine.evicted = engine.tested = engine.oldest = engine.newest = NONE
    engine.head = engine.free_request = engine.prefilling = NONE
    engine.blocked_until = engine.failed = engine.offered = NONE
    engine.budget = problem.prefill_budget if problem.prefill_budget > 0 else INT64_MAX
    engine.delays = problem.prefill_budget > 0
    engine.stream = problem.seed if problem.seeded else OK
    engine.profiled = (problem.reserve == RESERVE_BOUND or problem.reserve == RESERVE_COLUMN) and not problem.peak
    engine.tracks_beliefs = problem.reserve == RESERVE_MOVING or problem.order == ORDER_TABLE
    engine.redrawn = problem.reserve == RESERVE_MOVING and problem.beliefs.kind == BELIEF_HISTORY
    engine.in_lists = is_ranked(problem.evict) and not problem.as_processed
    engine.in_order = not (problem.rising or problem.skip or problem.order == ORDER_OVER_TIME)
    engine.tests_more = problem.paced or problem.as_processed or problem.methods.is_feasible != NULL
    engine.passes_otherwise = problem.as_processed
    engine.notes_admissions = problem.paced or problem.shed or problem.record_tokens
    engine.demand_decides = (
        (problem.peak or problem.reserve == RESERVE_NONE) and not engine.redrawn and problem.prefill_budget == 0
        and not problem.as_processed
    )
    tree_init(&engine.tree, not engine.demand_decides, problem.block)
    if formulas_init(engine) == NO_MEMORY:
        return NO_MEMORY
    if wheel_init(&engine.wheel, longest) == NO_MEMORY:
        return NO_MEMORY
    if engine.profiled and profile_init(&engine.profile, problem.block) == NO_MEMORY:
        return NO_MEMORY
    if engine.tracks_beliefs:
        if belief_init(&engine.belief, &problem.beliefs, problem.memory, problem.block, engine.stream) == NO_MEMORY:
            return NO_MEMORY
    if problem.rising and rising_init(engine) == NO_MEMORY:
        return NO_MEMORY
    if problem.cached_prefixes and pool_init(engine) == NO_MEMORY:
        return NO_MEMORY
    if problem.block > 1:
        engine.residues = <int64_t*>calloc(problem.block, sizeof(int64_t))
        if engine.residues == NULL:
            return NO_MEMORY
    return OK


cdef void engine_free(Engine* engine) noexcept nogil:
    free(engine.order)
    free(engine.rank)
    free(engine.last_rank)
    free(engine.by_arrival)
    free(engine.requests)
    free(engine.kept)
    free(engine.shed_at)
    rising_free(engine)
    free(engine.prefills)
    free(engine.chunks)
    free(engine.residues)
    free(engine.segments)
    free(engine.attempts)
    free(engine.round_end)
    free(engine.admitted)
    free(engine.leavers)
    free(engine.completed)
    formulas_free(engine)
    heap_free(&engine.heap)
    tree_free(&engine.tree)
    wheel_free(&engine.wheel)
    profile_free(&engine.profile)
    belief_free(&engine.belief)
    ties_free(&engine.ties)
    pool_free(engine)
    memset(engine, 0, sizeof(Engine))


cdef bint can_overflow(const Problem* problem) noexcept nogil:
    # Whether some request may outgrow what is believed of it. If none can, no round ever needs more than M.
    cdef int64_t i
    cdef const int64_t* belief = problem.bound if problem.reserve == RESERVE_BOUND else problem.believed
    if problem.reserve == RESERVE_NONE or problem.reserve == RESERVE_MOVING:
        return True
    if problem.belief_changes or problem.methods.is_feasible != NULL:
        return True
    if problem.as_processed:  # and running requests are served in order of admission
        return True
    if problem.prefill_budget > 0:  # prefill may take longer than is believed
        return True
    for i in range(problem.n):
        if belief[i] < problem.output[i]:
            return True
    return False


# One event: the round at which something happens, then all quiet rounds after it -------------------------------------


cdef int engine_advance(Engine* engine, int64_t steps) noexcept nogil:
    # Simulates for about `steps` steps: rounds looked at, requests tested or admitted, points passed. A Status.
    cdef const Problem* problem = engine.problem
    cdef int64_t wake
    cdef int status
    steps += steps_spent(engine)
    while engine.unfinished > 0 or is_offered(engine):
        if unlikely(engine.fed):
            status = end_round_in_progress(engine)
            if status != OK:
                return status
        if engine.round >= problem.max_rounds or stalled(engine):
            return STOPPED
        if steps_spent(engine) >= steps:
            return RUNNING
        engine.evictions_this_round = engine.prefilled = engine.swapped = 0
        if engine.arrived < problem.n and arrivals(engine) == NO_MEMORY:
            return NO_MEMORY
        status = decide(engine, &wake)
        if unlikely(status != OK):
            return status
        check(engine.running > 0)
        check(engine.need <= problem.memory)
        if unlikely(engine.passes_otherwise):
            if pass_otherwise(engine, wake) == NO_MEMORY:
                return NO_MEMORY
        elif run_quiet(engine, quiet_rounds(engine, wake)) == NO_MEMORY or departures(engine) == NO_MEMORY:
            return NO_MEMORY
    return FINISHED


cdef inline int decide(Engine* engine, int64_t* wake) noexcept nogil:
    # Who leaves and who starts in this round, among those that arrived; `wake` becomes the round in which the next one
    # may start, if nothing else happens. OK, NO_MEMORY or Engine.failure.
    cdef int status
    engine.work.rounds_stepped += 1
    status = make_room_as_processed(engine) if unlikely(engine.problem.as_processed) else make_room(engine)
    if unlikely(status != OK):
        return status
    wake[0] = NEVER
    while True:
        if not (engine.problem.pause and engine.evicted != NONE) and admission(engine, wake) == NO_MEMORY:
            return NO_MEMORY
        if unlikely(engine.failed != NONE):
            return engine.failure
        if engine.evicted == NONE:
            return OK
        if rejoin(engine) == NO_MEMORY:
            return NO_MEMORY
        wake[0] = engine.round + 1
        if engine.running > 0:  # else those that were just evicted may start again
            return OK


cdef inline int make_room(Engine* engine) noexcept nogil:
    # Who leaves at a cap, and for overflow. OK, NO_MEMORY or Engine.failure.
    if engine.capped != NONE and caps(engine) == NO_MEMORY:
        return NO_MEMORY
    if engine.may_overflow and engine.need > engine.problem.memory:
        if overflow(engine) == NO_MEMORY:
            return NO_MEMORY
    if unlikely(engine.failed != NONE):
        return engine.failure
    return prefill_begin(engine) if unlikely(engine.prefills != NULL) else OK


cdef int pass_otherwise(Engine* engine, int64_t wake) noexcept nogil:
    # What was decided runs, where that is not run_quiet() and departures(). OK or NO_MEMORY.
    if engine.fed:
        return run_until_known(engine, wake)
    return NO_MEMORY if run_served(engine) == NO_MEMORY else departures_as_processed(engine)


cdef inline int run_quiet(Engine* engine, int64_t rounds) noexcept nogil:
    # So many rounds pass, or with a clock those until somebody arrives. OK or NO_MEMORY.
    check(rounds > 0)
    rounds = pass_rounds(engine, rounds)
    return NO_MEMORY if rounds == NO_MEMORY else generate(engine, rounds)


cdef inline int generate(Engine* engine, int64_t rounds) noexcept nogil:
    # Who runs and has its prompt behind it generated a token in each of so many rounds. OK or NO_MEMORY.
    engine.round += rounds
    engine.used += rounds * engine.running
    grow(engine, rounds)
    return postpone(engine, engine.prefilling) if unlikely(engine.prefilling != NONE) else OK


cdef int arrivals(Engine* engine) noexcept nogil:
    cdef double time = now(engine)
    if engine.running == 0 and engine.waiting == 0 and next_arrival(engine) > time and not is_offered(engine):
        time = next_arrival(engine)
        engine_idle_until(engine, time)
    while engine.arrived < engine.problem.n and next_arrival(engine) <= time:
        if not engine.in_place and join(engine, next_place(engine), NONE) == NO_MEMORY:
            return NO_MEMORY
        engine.arrived += 1
        engine.waiting += 1
        changed(engine)
    return OK


cdef void engine_idle_until(Engine* engine, double time) noexcept nogil:
    # No round begins before that time. Nobody runs or waits.
    engine.idle += time - now(engine)
    engine.epoch = engine.time = time
    engine.epoch_round = engine.round
    ratio_restart(&engine.belief, engine.round)


cdef int caps(Engine* engine) noexcept nogil:
    # Those that reached õ in the last round leave and wait again.
    cdef int32_t after, p = engine.capped
    engine.capped = NONE
    while p != NONE:
        after = engine.requests[p].next
        if leave(engine, p, engine.problem.cap) == NO_MEMORY or join(engine, engine.requests[p].place, p) == NO_MEMORY:
            return NO_MEMORY
        engine.waiting += 1
        p = after
    return OK


cdef inline int64_t quiet_rounds(const Engine* engine, int64_t wake) noexcept nogil:
    # How many rounds run before the engine must look again; at least one.
    cdef const Problem* problem = engine.problem
    cdef int64_t upto, limit
    if unlikely(engine.prefills != NULL) and engine.prefilled > 0:
        return 1  # the next one has more to spare for prompts
    upto = wheel_next(&engine.wheel, engine.round) + 1
    upto = min(upto, wake)
    upto = min(upto, problem.max_rounds)
    limit = engine.last_change + problem.stall_limit
    upto = min(upto, limit)
    if problem.may_cycle and stalled(engine):
        upto = engine.round + 1
    if engine.may_overflow:
        limit = engine.round + rounds_that_fit(engine)
        upto = min(upto, limit)
    if problem.clocked:
        limit = engine.round + ROUNDS_PER_EVENT
        upto = min(upto, limit)
    if problem.block > 1 and problem.record_timeline:
        upto = engine.round + 1  # blocks are taken in steps: every round is a segment of its own
    if engine.arrived < problem.n and not problem.clocked:
        limit = round_of(engine, next_arrival(engine))
        upto = min(upto, limit)
    return upto - engine.round


cdef inline int departures(Engine* engine) noexcept nogil:
    # At the end of a round: who reached o completes; who reached the cap will leave at the start of the next round.
    # OK or NO_MEMORY.
    cdef int64_t last = engine.round - 1
    cdef int64_t bucket = last & engine.wheel.mask
    cdef int32_t after, p, chain = NONE
    cdef bint anybody = False
    cdef Request* r
    if not (engine.wheel.filled[bucket >> 6] >> (bucket & 63)) & 1:
        return OK
    p = wheel_take(&engine.wheel, bucket)
    while p != NONE:
        r = &engine.requests[p]
        after = r.next
        if due(engine, r) != last:  # a later revolution
            wheel_add(&engine.wheel, engine.requests, p, last)
            p = after
            continue
        anybody = True
        if r.birth + r.output - 1 == last:
            if complete(engine, p) == NO_MEMORY:
                return NO_MEMORY
        else:
            r.next = NONE
            if chain == NONE:
                engine.capped = p
            else:
                engine.requests[chain].next = p
            chain = p
        p = after
    if not anybody:
        engine.wheel.idle_until = earliest_due(engine)
    return OK


# Fed: arrivals come one after the other, as a router sends them; see fed_arrivals.pxd ---------------------------------


cdef int engine_open_fed(
    Engine* engine, const Problem* problem, int64_t longest, SharedQueue* shared, int kind
) noexcept nogil:
    # Sets an engine up that has no requests yet, whose timing wheel looks `longest` rounds ahead. OK or NO_MEMORY. Call
    # engine_free in either case. It is fed, or takes requests from the queue `shared`, of whose engines it is a kind.
    #
    # Whoever feeds it owns `problem`, which several engines may share, with arrays that may grow: values are there when
    # a request is fed, whose index may be used again once it is in engine.completed. Index 0 is nobody's: its arrival
    # is the time up to which all arrivals are known, and engine_advance returns WAITING where it cannot go on without
    # knowing more. engine.rank maps every index to what breaks its ties, and unless `in_place` engine.order to itself;
    # `n` is INT64_MAX.
    if prepare(engine, problem, longest) == NO_MEMORY:
        return NO_MEMORY
    engine.shared = shared
    engine.kind = kind
    engine.in_order = engine.in_order and shared == NULL
    engine.in_place = shared == NULL and not problem.skip and (
        problem.order == ORDER_ARRIVAL or problem.order == ORDER_QUEUE
    )
    if queue_init(engine) == NO_MEMORY:
        return NO_MEMORY
    engine.fed = engine.passes_otherwise = engine.notes_completed = engine.may_overflow = True
    return ties_init(&engine.ties)


cdef int engine_feed(Engine* engine, int32_t index) noexcept nogil:
    # The next to arrive. OK or NO_MEMORY.
    return queue_add(engine, index)


cdef int run_until_known(Engine* engine, int64_t wake) noexcept nogil:
    # The rounds that were decided pass, up to the one that ends where arrivals are no longer known: that one is in
    # progress, and so is the last of them if they end before. OK or NO_MEMORY.
    cdef int64_t rounds
    engine.in_progress = True
    if engine.problem.as_processed:
        if run_served(engine) == NO_MEMORY:
            return NO_MEMORY
        engine.ends = now(engine)
        return OK
    rounds = pass_rounds(engine, quiet_rounds(engine, wake))
    if rounds == NO_MEMORY or (rounds > 1 and generate(engine, rounds - 1) == NO_MEMORY):
        return NO_MEMORY
    engine.ends = engine.time if engine.problem.clocked else now(engine) + 1
    return OK


cdef int end_round_in_progress(Engine* engine) noexcept nogil:
    # Ends the round in progress, if it is known to be over. OK if the next round may begin, WAITING or NO_MEMORY.
    cdef double known = known_until(engine)
    if engine.in_progress:
        if engine.ends > known:
            return WAITING
        engine.in_progress = False
        if engine.problem.as_processed:
            if departures_as_processed(engine) == NO_MEMORY:
                return NO_MEMORY
        elif generate(engine, 1) == NO_MEMORY or departures(engine) == NO_MEMORY:
            return NO_MEMORY
    return WAITING if next_round_begins(engine) >= known else OK


# Driven from outside, a round at a time: outputs are not known before they are there ----------------------------------


cdef int engine_open(Engine* engine, const Problem* problem) noexcept nogil:
    # Sets an engine up that has no requests yet. OK or NO_MEMORY. Call engine_free in either case.
    #
    # Whoever drives it owns `problem` and may change it between calls: `n` and the arrays grow as requests come, whose
    # index, below n, may be used again once they are gone. engine.order maps every index to itself, engine.rank to what
    # breaks its ties; outputs are UNKNOWN and `problem.clocked` is true, as time is what engine_decide is told.
    if prepare(engine, problem, 1) == NO_MEMORY:  # a small wheel, as only caps are known: every round looks into it
        return NO_MEMORY
    engine.driven = engine.notes_admissions = engine.may_overflow = True
    return ties_init(&engine.ties)


cdef int engine_arrive(Engine* engine, int32_t index) noexcept nogil:
    # A request, whose values are all there, begins to wait. OK or NO_MEMORY.
    if join(engine, index, NONE) == NO_MEMORY:
        return NO_MEMORY
    engine.waiting += 1
    engine.unfinished += 1
    return OK


cdef int engine_decide(Engine* engine, double time) noexcept nogil:
    # Decides the coming round, which starts at that time. engine.leavers[0:evictions_this_round] are the numbers of
    # requests that leave, engine.admitted[0:admitted_size] of those that start then. OK, NO_MEMORY or Engine.failure.
    cdef int64_t wake
    cdef int status
    engine.time = time
    engine.evictions_this_round = engine.prefilled = engine.swapped = engine.admitted_size = 0
    if engine.running == 0 and engine.waiting == 0:
        ratio_restart(&engine.belief, engine.round)
    status = decide(engine, &wake)
    if status == OK:
        check(engine.need <= engine.problem.memory)
    return status


cdef int engine_generate(Engine* engine) noexcept nogil:
    # The round that was decided runs. Then say engine_delay and engine_finish of whom that concerns, first of those who
    # were admitted first, and at last engine_end_round. OK or NO_MEMORY.
    return run_served(engine) if engine.problem.as_processed else generate(engine, 1)


cdef int engine_delay(Engine* engine, int32_t p) noexcept nogil:
    # A running request generated nothing in the round that ran. Not with slots="processed": the engine knows who was
    # served. OK or NO_MEMORY.
    cdef Request* r = &engine.requests[p]
    if p == engine.prefilling:
        return OK
    engine.delays = True
    wheel_remove(&engine.wheel, engine.requests, p, due(engine, r))
    if postpone(engine, p) == NO_MEMORY:
        return NO_MEMORY
    wheel_add(&engine.wheel, engine.requests, p, due(engine, r))
    return OK


cdef int engine_finish(Engine* engine, int32_t p) noexcept nogil:
    # A running request completed with the round that ran. OK or NO_MEMORY.
    cdef Request* r = &engine.requests[p]
    take_out(engine, p)
    r.output = engine.round - r.birth
    return complete(engine, p)


cdef int engine_end_round(Engine* engine) noexcept nogil:
    # Notes who reached the cap. OK or NO_MEMORY.
    return departures_as_processed(engine) if engine.problem.as_processed else departures(engine)


cdef int engine_cancel(Engine* engine, int32_t p) noexcept nogil:
    # A running request goes away, between two rounds. OK or NO_MEMORY.
    take_out(engine, p)
    engine.requests[p].output = NONE  # it did not complete
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    forget(engine, p)
    return OK


cdef int engine_turn_back(Engine* engine, int32_t p) noexcept nogil:
    # A running request could not be run: it waits again, with the tokens it has, as if it had not been admitted. OK or
    # NO_MEMORY.
    cdef Request* r = &engine.requests[p]
    cdef int64_t kept = engine.round - r.birth
    take_out(engine, p)
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    r.kept = kept
    r.previous = NEVER_RAN if kept == 0 and engine.problem.evictions[r.index] == 0 else NONE
    engine.waiting += 1
    return join(engine, r.place, p)


cdef void engine_withdraw(Engine* engine, int32_t index) noexcept nogil:
    # A waiting request goes away.
    cdef int32_t p = take_waiting(engine, index)
    engine.waiting -= 1
    if p >= 0:
        forget(engine, p)
    else:
        engine.unfinished -= 1


cdef int engine_hasten(Engine* engine, int32_t index) noexcept nogil:
    # A waiting request, which is `urgent` now, takes its new place. OK or NO_MEMORY.
    return join(engine, index, take_waiting(engine, index))


cdef inline void forget(Engine* engine, int32_t p) noexcept nogil:
    # It will not come back.
    engine.requests[p].next = engine.free_request
    engine.free_request = p
    engine.unfinished -= 1


cdef inline void take_out(Engine* engine, int32_t p) noexcept nogil:
    # Of the wheel, or of wherever else a running request may be.
    cdef int32_t* link = &engine.capped
    if engine.problem.as_processed:
        return
    if p == engine.prefilling:
        engine.prefilling = NONE
        return
    while link[0] != NONE:
        if link[0] == p:
            link[0] = engine.requests[p].next
            return
        link = &engine.requests[link[0]].next
    wheel_remove(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))


# Sums -----------------------------------------------------------------------------------------------------------------


cdef double sum_of_differences(const double* a, const double* b, int64_t n) noexcept nogil:
    cdef double total = 0, lost = 0, term, grown
    cdef int64_t i
    for i in range(n):
        term = a[i] if b == NULL else a[i] - b[i]
        grown = total + term
        lost += (total - grown) + term if fabs(total) >= fabs(term) else (term - grown) + total
        total = grown
    return total + lost


def total_difference(const double[::1] a, const double[::1] b):
    """The sum of a - b, compensated (Neumaier): the same bits everywhere. Arrays of equal length."""
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"arrays of {a.shape[0]} and {b.shape[0]} numbers")
    return sum_of_differences(&a[0], &b[0], a.shape[0]) if a.shape[0] else 0.0

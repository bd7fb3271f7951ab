"""The compiled engine: model.md, jumping over the rounds in which nothing can change.

Between two events (arrival, completion, cap, overflow, or the round at which the next candidate fits) every running
request grows by one token and that is all: such rounds are one addition. `reference.py` is the same engine, readable.
"""

from libc.math cimport fabs
from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport INT64_MAX, int32_t, int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from llmsched._engine.admission_order cimport admission_key, look_ahead, order_arrivals, order_requests
from llmsched._engine.allocation cimport enlarge, prefetch, prefetch_to_write
from llmsched._engine.belief cimport (
    BELIEF_HISTORY, belief_add, belief_earliest, belief_free, belief_init, belief_length, belief_make, belief_remove,
    ratio_learn, ratio_restart,
)
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.check cimport check
from llmsched._engine.chunked_prefill cimport note_blocked_until, postpone, prefill_begin, prefill_enter, unlikely
from llmsched._engine.eviction_order cimport enter_eviction_order, first_in_rank, leave_eviction_order
from llmsched._engine.eviction_rules cimport EVICT_ALL, EVICT_FORMULA, EVICT_NEWEST, EVICT_RANDOM, is_ranked
from llmsched._engine.eviction_ties cimport ties_free, ties_init
from llmsched._engine.fed_arrivals cimport (
    known_until, next_round_begins, note_completed, queue_add, queue_init,
)
from llmsched._engine.lottery cimport lottery_length
from llmsched._engine.memory_profile cimport (
    profile_add, profile_earliest, profile_expire, profile_free, profile_init, profile_remove,
)
from llmsched._engine.pace cimport note_admission, other_slice, places_left
from llmsched._engine.policy_formulas cimport (
    begin_to_wait, first_by_formula, formulas_free, formulas_init, order_anew,
)
from llmsched._engine.recording cimport new_segment, record_attempt, reserve_round_ends
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.rising_peak cimport (
    rising_add, rising_free, rising_init, rising_make, rising_remove, rising_reserved,
)
from llmsched._engine.rounds cimport (
    due, earliest_due, grow, next_arrival, next_place, now, residue, round_of, rounds_that_fit,
    run_rounds, too_full,
)
from llmsched._engine.slots_as_processed cimport (
    begin_round, give_back, has_slots, next_tokens, pass_over, process, rounds_alike, serve, slots_for, take_slots,
)
from llmsched._engine.splitmix64 cimport splitmix64_unit
from llmsched._engine.status cimport FINISHED, FORMULA_FAILED, NO_MEMORY, OK, RUNNING, STOPPED, WAITING
from llmsched._engine.timing_wheel cimport wheel_add, wheel_free, wheel_init, wheel_next, wheel_remove, wheel_take
from llmsched._engine.tree_node cimport Node
from llmsched._engine.waiting_heap cimport Entry, entry_less, heap_drop, heap_free, heap_pop, heap_push
from llmsched._engine.waiting_tree cimport (
    tree_add, tree_choose, tree_first, tree_free, tree_init, tree_least, tree_remove, tree_settle, tree_shrink,
    tree_update, tree_withdraw,
)

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
    if order_requests(engine) == NO_MEMORY or order_arrivals(engine) == NO_MEMORY:
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
    engine.blocked_until = engine.failed = NONE
    engine.budget = problem.prefill_budget if problem.prefill_budget > 0 else INT64_MAX
    engine.delays = problem.prefill_budget > 0
    engine.stream = problem.seed if problem.seeded else OK
    engine.profiled = (problem.reserve == RESERVE_BOUND or problem.reserve == RESERVE_COLUMN) and not problem.peak
    engine.tracks_beliefs = problem.reserve == RESERVE_MOVING or problem.order == ORDER_TABLE
    engine.redrawn = problem.reserve == RESERVE_MOVING and problem.beliefs.kind == BELIEF_HISTORY
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
    free(engine.left)
    free(engine.completed)
    formulas_free(engine)
    heap_free(&engine.heap)
    tree_free(&engine.tree)
    wheel_free(&engine.wheel)
    profile_free(&engine.profile)
    belief_free(&engine.belief)
    ties_free(&engine.ties)
    memset(engine, 0, sizeof(Engine))


cdef bint can_overflow(const Problem* problem) noexcept nogil:
    # Whether some request may outgrow what is believed of it. If none can, no round ever needs more than M.
    cdef int64_t i
    cdef const int64_t* belief = problem.bound if problem.reserve == RESERVE_BOUND else problem.believed
    if problem.reserve == RESERVE_NONE or problem.reserve == RESERVE_MOVING:
        return True
    if problem.belief_changes or problem.methods.is_feasible != NULL:
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
    cdef int64_t wake, rounds
    cdef int status
    steps += steps_spent(engine)
    if problem.as_processed:
        return advance_as_processed(engine, steps)
    while engine.unfinished > 0:
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
        rounds = quiet_rounds(engine, wake)
        check(rounds > 0)
        if problem.record_tokens and reserve_round_ends(engine, rounds) == NO_MEMORY:
            return NO_MEMORY
        if problem.record_timeline and new_segment(engine) == NO_MEMORY:
            return NO_MEMORY
        rounds = run_rounds(engine, rounds)
        engine.ticks += rounds >> 4 if problem.clocked else OK
        if problem.record_timeline:
            engine.segments[engine.segments_size - 1].rounds += rounds
        if unlikely(engine.fed):  # the last of these rounds is in progress, until its end is known to have come
            engine.in_progress = True
            if rounds > 1 and generate(engine, rounds - 1) == NO_MEMORY:
                return NO_MEMORY
            engine.ends = engine.time if problem.clocked else now(engine) + 1
            continue
        if generate(engine, rounds) == NO_MEMORY or departures(engine) == NO_MEMORY:
            return NO_MEMORY
    return FINISHED


cdef inline int decide(Engine* engine, int64_t* wake) noexcept nogil:
    # Who leaves and who starts in this round, among those that arrived; `wake` becomes the round in which the next one
    # may start, if nothing else happens. OK, NO_MEMORY or FORMULA_FAILED.
    engine.work.rounds_stepped += 1
    if engine.capped != NONE and caps(engine) == NO_MEMORY:
        return NO_MEMORY
    if engine.may_overflow and engine.need > engine.problem.memory:
        if overflow(engine) == NO_MEMORY:
            return NO_MEMORY
    if unlikely(engine.failed != NONE):
        return FORMULA_FAILED
    if unlikely(engine.prefills != NULL) and prefill_begin(engine) == NO_MEMORY:
        return NO_MEMORY
    wake[0] = NEVER
    if not (engine.problem.pause and engine.evicted != NONE) and admission(engine, wake) == NO_MEMORY:
        return NO_MEMORY
    if unlikely(engine.failed != NONE):
        return FORMULA_FAILED
    if engine.evicted != NONE:
        if rejoin(engine) == NO_MEMORY:
            return NO_MEMORY
        wake[0] = engine.round + 1
        if engine.running == 0 and admission(engine, wake) == NO_MEMORY:
            return NO_MEMORY
        if unlikely(engine.failed != NONE):
            return FORMULA_FAILED
    return OK


cdef inline int generate(Engine* engine, int64_t rounds) noexcept nogil:
    # So many rounds pass: who runs and has its prompt behind it generates a token in each. OK or NO_MEMORY.
    engine.round += rounds
    engine.used += rounds * engine.running
    grow(engine, rounds)
    return postpone(engine, engine.prefilling) if unlikely(engine.prefilling != NONE) else OK


cdef inline int64_t steps_spent(const Engine* engine) noexcept nogil:
    # Steps so far, some 100 ns each.
    cdef const Work* work = &engine.work
    cdef int64_t scanned = engine.profile.scanned + engine.belief.scanned
    return work.rounds_stepped + work.admissions + work.feasibility_tests + (scanned >> 4) + engine.ticks


cdef inline void changed(Engine* engine) noexcept nogil:
    # Something changed for good: a completion, an arrival, the rise of a bound.
    engine.last_change = engine.round
    engine.admissions_then = engine.work.admissions


cdef inline bint stalled(const Engine* engine) noexcept nogil:
    cdef const Problem* problem = engine.problem
    cdef int64_t admissions = engine.work.admissions - engine.admissions_then
    if engine.round - engine.last_change >= problem.stall_limit:
        return True
    return problem.may_cycle and admissions >= problem.admissions_start + problem.admissions_factor * engine.unfinished


cdef int arrivals(Engine* engine) noexcept nogil:
    cdef double time = now(engine)
    if engine.running == 0 and engine.waiting == 0 and next_arrival(engine) > time:
        engine.idle += next_arrival(engine) - time
        engine.epoch = engine.time = time = next_arrival(engine)
        engine.epoch_round = engine.round
        ratio_restart(&engine.belief, engine.round)
    while engine.arrived < engine.problem.n and next_arrival(engine) <= time:
        if not engine.in_place and join(engine, next_place(engine), NONE) == NO_MEMORY:
            return NO_MEMORY
        engine.arrived += 1
        engine.waiting += 1
        changed(engine)
    return OK


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


cdef int rejoin(Engine* engine) noexcept nogil:
    # Those evicted for overflow in this round wait again.
    cdef int32_t p = engine.evicted
    while p != NONE:
        if join(engine, engine.requests[p].place, p) == NO_MEMORY:
            return NO_MEMORY
        engine.waiting += 1
        p = engine.requests[p].next
    engine.evicted = NONE
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


cdef int departures(Engine* engine) noexcept nogil:
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


# Entering and leaving the batch --------------------------------------------------------------------------------------


cdef int admission(Engine* engine, int64_t* wake) noexcept nogil:
    # Admits what is feasible; lowers `wake` to the round at which the next one may be, if nothing else happens.
    cdef int32_t p
    if engine.problem.rising:
        engine.reserved = rising_reserved(engine)
    if engine.profiled:
        profile_expire(&engine.profile, engine.round)
    if waits_in_tree(engine.problem):
        return admission_skipping(engine, wake)
    if engine.problem.order == ORDER_OVER_TIME or engine.problem.skip:
        return admission_one_by_one(engine, wake)
    while engine.waiting > 0:
        p = first_waiting(engine)
        if p == NONE:
            return NO_MEMORY
        if not feasible(engine, p, wake):
            return OK
        if p == engine.head:
            engine.head = NONE
            engine.fresh += 1
        else:
            heap_pop(&engine.heap)
        engine.waiting -= 1
        if admit(engine, p) == NO_MEMORY:
            return NO_MEMORY
    return OK


cdef int admission_one_by_one(Engine* engine, int64_t* wake) noexcept nogil:
    # The same by an order that changes with every round, or, with fill="skip", in slices: all who wait are looked at.
    # OK or NO_MEMORY.
    cdef int64_t waiting = engine.heap.size, refused = 0, k
    cdef bint fits
    cdef int32_t p
    cdef Entry entry
    if engine.problem.order == ORDER_OVER_TIME:
        order_anew(engine)
    if engine.failed != NONE:
        return OK
    while engine.heap.size > 0:
        p = first_waiting(engine)
        if p == NONE:
            return NO_MEMORY
        fits = feasible(engine, p, wake)
        if not fits and not engine.problem.skip:
            break
        entry = engine.heap.entries[0]
        heap_pop(&engine.heap)
        if fits:
            engine.waiting -= 1
            if admit(engine, p) == NO_MEMORY:
                return NO_MEMORY
        else:  # into a place that the heap no longer needs
            refused += 1
            engine.heap.entries[waiting - refused] = entry
    for k in range(refused):
        engine.heap.entries[k] = engine.heap.entries[waiting - refused + k]
    for k in range(refused // 2):  # they were refused in ascending order, and stand the other way round
        entry = engine.heap.entries[k]
        engine.heap.entries[k] = engine.heap.entries[refused - 1 - k]
        engine.heap.entries[refused - 1 - k] = entry
    engine.heap.size += refused
    if engine.heap.size > 0:
        wake[0] = engine.round + 1
    return OK


cdef int admission_skipping(Engine* engine, int64_t* wake) noexcept nogil:
    # The same with fill="skip": whoever is feasible, in order.
    cdef int status = OK
    cdef int64_t room, places, k
    if unlikely(engine.driven) and engine.waiting > 0:
        if tree_settle(&engine.tree) == NO_MEMORY:
            return NO_MEMORY
        k = tree_first(&engine.tree)
        if engine.problem.urgent[engine.requests[k].index] and not feasible(engine, <int32_t>k, wake):
            return OK  # nobody passes it
    # Once somebody outgrows what was set aside, the coming round may lack room that seems to be there.
    if engine.demand_decides and (engine.need <= engine.reserved or not engine.problem.peak):
        room = engine.problem.capacity - (engine.reserved if engine.problem.peak else engine.need)
        places = engine.problem.max_batch - engine.running
        if engine.problem.paced:
            places = min(places, places_left(engine, wake))
        if tree_choose(&engine.tree, engine.requests, room, places, engine.running == 0) == NO_MEMORY:
            return NO_MEMORY
        engine.work.feasibility_tests += engine.tree.tests
        engine.waiting -= engine.tree.chosen_size
        for k in range(engine.tree.chosen_size):
            if admit(engine, engine.tree.chosen[k]) == NO_MEMORY:
                return NO_MEMORY
        if engine.problem.paced and engine.waiting > 0:
            places_left(engine, wake)
        return OK
    if tree_settle(&engine.tree) == NO_MEMORY:
        return NO_MEMORY
    engine.refused_held = engine.refused_demand = INT64_MAX
    engine.accepted_held = -1
    if engine.tree.root != NONE:
        k = engine.tree.nodes[engine.tree.root].used
        admit_tested(engine, engine.tree.root, engine.tree.height, 0, k, wake, &status)
        tree_shrink(&engine.tree)
    return status


cdef int64_t admit_tested(
    Engine* engine, int32_t which, int32_t level, int64_t start, int64_t end, int64_t* wake, int* status
) noexcept nogil:
    # The same where each has to be tested, for these items of a node of the tree. Returns how many items are no more.
    # Where one that held the least and asked for the least would not fit, nobody does.
    cdef Node* node = &engine.tree.nodes[which]
    cdef int64_t held, demand, middle, gone = 0, admitted = engine.work.admissions
    cdef int32_t p
    if status[0] == NO_MEMORY or not tree_least(&engine.tree, node, start, end, &held, &demand):
        return 0
    if end - start > 1:
        engine.tree.operations += 1
        if somebody_fits(engine, held, demand, wake):
            middle = (start + end) // 2
            gone = admit_tested(engine, which, level, start, middle, wake, status)
            gone += admit_tested(engine, which, level, middle - gone, end - gone, wake, status)
    elif level > 0:
        end = engine.tree.nodes[node.child[start]].used
        admit_tested(engine, node.child[start], level - 1, 0, end, wake, status)
        if engine.work.admissions > admitted:
            gone = tree_update(&engine.tree, node, start)
    else:
        p = <int32_t>node.rest[start]
        if engine.redrawn:
            demand = demand_of(engine, p, believed_length(engine, p))
        if somebody_fits(engine, engine.requests[p].prompt + engine.requests[p].kept, demand, wake):
            tree_remove(&engine.tree, node, start)
            engine.waiting -= 1
            status[0] = admit(engine, p)
    return gone


cdef inline int32_t first_waiting(Engine* engine) noexcept nogil:
    # The first in admission order, of those that never ran and those that did. Needs waiting > 0. NONE: no memory.
    cdef Entry* top = &engine.heap.entries[0]
    if engine.in_place and engine.fresh < engine.arrived:
        if engine.head == NONE:
            engine.head = make_request(engine, engine.fresh)
            if engine.head == NONE:
                return NONE
            engine.head_entry = entry_of(engine, engine.fresh, engine.head)
        if engine.heap.size == 0 or entry_less(engine.head_entry, top[0]):
            return engine.head
    if top.who < 0:
        top.who = make_request(engine, ~top.who)
    return top.who


cdef int32_t make_request(Engine* engine, int64_t place) noexcept nogil:
    # The request at this place, which never ran; its number, or NONE: no memory.
    cdef const Problem* problem = engine.problem
    cdef int32_t p = engine.free_request
    cdef int32_t i = engine.order[place]
    cdef Request* block
    cdef Request* r
    cdef int64_t* kept
    cdef int64_t* shed_at
    cdef Prefill* prefills
    if p != NONE:
        engine.free_request = engine.requests[p].next
    else:
        if engine.requests_made == engine.requests_allocated:
            engine.requests_allocated = 2 * engine.requests_allocated + 64
            block = <Request*>enlarge(
                engine.requests, engine.requests_made * sizeof(Request), engine.requests_allocated * sizeof(Request)
            )
            if block == NULL:
                return NONE
            engine.requests = block
            if problem.record_tokens:
                kept = <int64_t*>realloc(engine.kept, engine.requests_allocated * sizeof(int64_t))
                if kept == NULL:
                    return NONE
                engine.kept = kept
            if problem.shed:
                shed_at = <int64_t*>realloc(engine.shed_at, engine.requests_allocated * sizeof(int64_t))
                if shed_at == NULL:
                    return NONE
                engine.shed_at = shed_at
            if problem.rising and rising_make(engine, engine.requests_allocated) == NO_MEMORY:
                return NONE
            if engine.driven and reserve_moves(engine) == NO_MEMORY:
                return NONE
            if problem.prefill_budget > 0 or problem.as_processed:
                prefills = <Prefill*>realloc(engine.prefills, engine.requests_allocated * sizeof(Prefill))
                if prefills == NULL:
                    return NONE
                engine.prefills = prefills
        p = engine.requests_made
        engine.requests_made += 1
    r = &engine.requests[p]
    r.prompt = problem.prompt[i]
    r.output = problem.output[i]
    r.bound = problem.bound[i] if problem.bound != NULL else problem.believed[i] if problem.believed != NULL else 1
    r.birth = r.kept = 0
    r.index = i
    r.place = <int32_t>place
    r.next = r.equals = r.equals_at = NONE
    r.previous = NEVER_RAN
    if engine.tracks_beliefs and belief_make(&engine.belief, p) == NO_MEMORY:
        return NONE
    look_ahead(engine, place)
    return p


cdef inline Entry entry_of(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # How a request that joins the waiting set compares; p is its number, or NONE where it has none yet.
    cdef Entry entry
    entry.who = ~<int32_t>place if p == NONE else p
    entry.key = admission_key(engine, place, p)
    entry.tie = 0
    if engine.rank != NULL:
        entry.tie = engine.rank[engine.order[place] if p == NONE else engine.requests[p].index]
    return entry


cdef inline bint waits_in_tree(const Problem* problem) noexcept nogil:
    # Whether waiting requests are in engine.tree, not in engine.heap.
    return problem.skip and problem.order != ORDER_OVER_TIME and not problem.slices


cdef inline int join(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # The request starts to wait; p is its number, or NONE. OK or NO_MEMORY.
    cdef const Request* r
    cdef int64_t length, demand
    if waits_in_tree(engine.problem):
        if p == NONE:
            p = make_request(engine, place)
            if p == NONE:
                return NO_MEMORY
        r = &engine.requests[p]
        length = r.kept + 1 if engine.redrawn else believed_length(engine, p)  # the least, where it is drawn anew
        demand = demand_of(engine, p, length)
        if engine.problem.reserve == RESERVE_NONE:  # only the coming round counts: what it holds then
            demand = r.prompt + r.kept + 1
        return tree_add(&engine.tree, entry_of(engine, place, p), r.prompt + r.kept, demand)
    return heap_push(&engine.heap, entry_of(engine, place, p))


cdef inline int64_t believed_length(Engine* engine, int32_t p) noexcept nogil:
    # L of a waiting request (model.md, section 4).
    cdef const Problem* problem = engine.problem
    cdef const Request* r = &engine.requests[p]
    cdef int64_t length = r.bound
    if problem.reserve == RESERVE_MOVING:
        return belief_length(
            &engine.belief, r.index, problem.memory - r.prompt, r.kept, engine.belief.known[p], engine.round
        )
    if problem.belief_changes:
        length = engine.believed[r.index]
    elif problem.reserve == RESERVE_COLUMN and problem.bound != NULL:
        length = problem.believed[r.index]
    length = max(length, r.kept + 1)
    return min(length, problem.memory - r.prompt)


cdef inline int64_t demand_of(const Engine* engine, int32_t p, int64_t length) noexcept nogil:
    # What one that is believed to reach `length` asks for: the tokens to come, or, with hold="peak", all it will hold.
    return length + (engine.requests[p].prompt if engine.problem.peak else -engine.requests[p].kept)


cdef inline bint coming_round_is_full(const Engine* engine, int64_t held) noexcept nogil:
    # Whether the coming round has no room for one more, of `held` tokens: its need only grows until somebody leaves.
    if engine.running >= engine.problem.max_batch or engine.budget_used >= engine.budget:
        return True
    return engine.need + held + 1 > engine.problem.capacity


cdef inline bint room_for(const Engine* engine, int64_t tokens) noexcept nogil:
    # With hold="peak": whether as many can be set aside beside what is. That changes when somebody leaves.
    return engine.reserved + whole_blocks(tokens, engine.problem.block) <= engine.problem.capacity


cdef inline int64_t earliest_start(Engine* engine, int64_t held, int64_t length) noexcept nogil:
    # The first round in which a request of `held` tokens with `length` to come is feasible, should nothing else happen.
    if engine.problem.reserve == RESERVE_MOVING:
        return belief_earliest(&engine.belief, engine.round, held, length, engine.problem.capacity)
    if held + length > engine.problem.capacity:
        return NEVER  # only alone, and then it is feasible anyway
    if engine.blocked_until >= engine.round:
        return engine.blocked_until + 1
    return profile_earliest(&engine.profile, engine.round, held, length, engine.problem.capacity)


cdef inline bint feasible(Engine* engine, int32_t p, int64_t* wake) noexcept nogil:
    # Whether p may start now. If not, `wake` is lowered to the round at which it may, should nothing else happen.
    cdef const Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + r.kept
    engine.work.feasibility_tests += 1
    if engine.running == 0:
        return True
    if engine.problem.paced and (other_slice(engine, r) or places_left(engine, wake) == 0):
        return False
    if unlikely(engine.problem.as_processed):
        if not has_slots(engine, held) or engine.problem.methods.is_feasible == NULL:
            return has_slots(engine, held)
    elif coming_round_is_full(engine, held):
        return False
    if unlikely(engine.problem.methods.is_feasible != NULL):
        wake[0] = engine.round + 1
        return engine.problem.methods.is_feasible(engine, p, engine.problem.methods.context)
    if engine.problem.peak:
        if engine.redrawn:
            wake[0] = engine.round + 1
        return room_for(engine, r.prompt + believed_length(engine, p))
    if engine.problem.reserve == RESERVE_NONE:
        return True
    if engine.tested != p or engine.earliest <= engine.round:
        engine.tested = p
        engine.earliest = earliest_start(engine, held, believed_length(engine, p) - r.kept)
    if engine.earliest > engine.round:
        wake[0] = min(wake[0], engine.earliest)
        return False
    return True


cdef inline bint somebody_fits(Engine* engine, int64_t held, int64_t demand, int64_t* wake) noexcept nogil:
    # The same of a request, or the best of several, that holds `held` tokens and asks for `demand`. Who holds no
    # less than one refused in this round, and asks for no less, does not fit either, now or before that one; who holds
    # no more than one that would fit since the last admission, and asks for no more, fits too.
    cdef int64_t earliest
    engine.work.feasibility_tests += 1
    if engine.running == 0:
        return True
    if engine.problem.paced and places_left(engine, wake) == 0:
        return False
    if unlikely(engine.problem.as_processed):
        return has_slots(engine, held)
    if coming_round_is_full(engine, held):
        return False
    if engine.problem.peak:
        if engine.redrawn:
            wake[0] = engine.round + 1
        return room_for(engine, demand)  # that is all it is believed to need: see join()
    if engine.problem.reserve == RESERVE_NONE:
        return True
    if held >= engine.refused_held and demand >= engine.refused_demand:
        return False
    if held <= engine.accepted_held and demand <= engine.accepted_demand:
        return True
    earliest = earliest_start(engine, held, demand)
    if earliest <= engine.round:
        engine.accepted_held = held
        engine.accepted_demand = demand
        return True
    wake[0] = min(wake[0], earliest)
    if held <= engine.refused_held and demand <= engine.refused_demand:
        engine.refused_held = held
        engine.refused_demand = demand
    return False


cdef int admit(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t length = believed_length(engine, p)
    cdef int64_t kept = r.kept
    engine.work.admissions += 1
    if r.previous == NEVER_RAN:
        problem.start[r.index] = now(engine)
    if problem.cap != REFINE_NONE:  # it may leave soon
        prefetch_to_write(&problem.evictions[r.index])
        if engine.rank != NULL:
            prefetch(&engine.rank[r.index])
    if problem.paced:
        note_admission(engine, r)
    if unlikely(problem.as_processed):
        return admit_as_processed(engine, p)
    r.birth = engine.round - kept
    r.believed_end = r.birth + length - 1
    if engine.running == 0 and r.prompt + length > problem.capacity:
        engine.blocked_until = r.believed_end
    engine.running += 1
    engine.used += r.prompt + kept
    engine.need += whole_blocks(r.prompt + kept + 1, problem.block)
    engine.prompts += r.prompt
    if problem.peak:
        engine.reserved += whole_blocks(r.prompt + length, problem.block)
    if problem.rising and rising_add(engine, p) == NO_MEMORY:
        return NO_MEMORY
    if problem.shed:
        engine.shed_at[p] = lottery_length(engine, r, kept)
    if unlikely(engine.prefills != NULL):
        if prefill_enter(engine, p, kept) == NO_MEMORY:
            return NO_MEMORY
    else:
        if problem.resume == RESUME_SWAP and r.previous != NEVER_RAN:
            engine.swapped += r.prompt + kept
        else:
            engine.prefilled += r.prompt + kept
        wheel_add(&engine.wheel, engine.requests, p, due(engine, r))
    if problem.block > 1:
        engine.residues[residue(problem, r)] += 1
    if problem.record_tokens:
        engine.kept[p] = kept
    if unlikely(engine.driven):
        note_move(engine, p)
    engine.tested = NONE
    engine.accepted_held = -1
    if engine.tracks_beliefs and belief_add(&engine.belief, r, p, engine.round, length - kept) == NO_MEMORY:
        return NO_MEMORY
    if engine.profiled and r.believed_end > engine.round:
        if profile_add(&engine.profile, r.prompt - r.birth, r.believed_end) == NO_MEMORY:
            return NO_MEMORY
    return enter_eviction_order(engine, p) if engine.may_overflow else OK


cdef int stop_running(Engine* engine, int32_t p) noexcept nogil:
    # What completing and leaving have in common. The request is out of the wheel already. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + engine.round - r.birth
    if unlikely(problem.as_processed):
        return stop_as_processed(engine, p)
    engine.running -= 1
    engine.used -= held
    engine.need -= whole_blocks(held + 1, problem.block)
    engine.prompts -= r.prompt
    if problem.rising:
        rising_remove(engine, p)
    elif problem.peak:
        engine.reserved -= whole_blocks(r.prompt + r.believed_end - r.birth + 1, problem.block)
        check(engine.reserved >= 0)
    if problem.block > 1:
        engine.residues[residue(problem, r)] -= 1
    if problem.record_tokens and record_attempt(engine, p) == NO_MEMORY:
        return NO_MEMORY
    if engine.tracks_beliefs:
        belief_remove(&engine.belief, p, engine.round - r.birth, engine.round - r.birth == r.output)
        engine.tested = NONE
    if engine.profiled and r.believed_end > engine.round:  # earlier than believed
        profile_expire(&engine.profile, engine.round)
        profile_remove(&engine.profile, r.prompt - r.birth, r.believed_end)
        engine.tested = NONE
        if unlikely(engine.delays):
            note_blocked_until(engine)
    if engine.running == 0:
        engine.blocked_until = NONE
    if engine.may_overflow:
        leave_eviction_order(engine, p)
    return OK


cdef int complete(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    engine.problem.completion[engine.requests[p].index] = now(engine)
    if unlikely(engine.fed) and note_completed(engine, engine.requests[p].index) == NO_MEMORY:
        return NO_MEMORY
    engine.requests[p].next = engine.free_request
    engine.free_request = p
    engine.unfinished -= 1
    changed(engine)
    return OK


cdef int leave(Engine* engine, int32_t p, Refine rule) noexcept nogil:
    # It leaves before completing. The request is out of the wheel already. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef int64_t generated = engine.round - r.birth
    if stop_running(engine, p) == NO_MEMORY:
        return NO_MEMORY
    problem.evictions[r.index] += 1
    if unlikely(engine.driven):
        engine.left[engine.evictions_this_round] = p
    engine.evictions_this_round += 1
    if problem.bound != NULL:
        refine(engine, r, rule, generated)
    r.previous = NONE
    if problem.resume == RESUME_RESTART:
        r.kept = 0
        engine.wasted_tokens += generated
    else:
        r.kept = generated
        if problem.resume == RESUME_SWAP:
            engine.swapped += r.prompt + generated
            if engine.prefills != NULL:
                engine.swapped -= engine.prefills[p].to_prefill
    if engine.cells != NULL:
        begin_to_wait(engine, p)
    return OK


cdef inline void refine(Engine* engine, Request* r, Refine rule, int64_t generated) noexcept nogil:
    cdef int64_t old = r.bound, largest = engine.problem.largest_bound
    cdef int64_t doubled = 2 * old if old < largest // 2 else largest
    if rule == REFINE_PROGRESS:
        r.bound = max(old, generated + 1)
    elif rule == REFINE_DOUBLE:
        r.bound = max(doubled, generated + 1)
    elif rule == REFINE_UPPER:
        r.bound = engine.problem.upper[r.index]
        if old >= r.bound:
            r.bound = doubled
    if min(r.bound, engine.problem.memory) > old:  # a rise beyond M changes no believed length
        changed(engine)


# Overflow: who leaves ------------------------------------------------------------------------------------------------


cdef inline int evict(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    if p == engine.prefilling:
        engine.prefilling = NONE
    elif not engine.problem.as_processed:
        wheel_remove(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))
    if leave(engine, p, engine.problem.refine) == NO_MEMORY:
        return NO_MEMORY
    engine.requests[p].next = engine.evicted
    engine.evicted = p
    return OK


cdef int overflow(Engine* engine) noexcept nogil:
    # Evicts until the coming round fits. OK or NO_MEMORY.
    while too_full(engine):
        if evict_next(engine) == NO_MEMORY:
            return NO_MEMORY
        if engine.failed != NONE:
            return OK
    ratio_learn(&engine.belief, engine.round, engine.problem.headroom)
    return OK


cdef inline int evict_next(Engine* engine) noexcept nogil:
    # Whoever the rule names next; with a formula, perhaps nobody and engine.failed. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int32_t p, newer
    if is_ranked(problem.evict):
        return evict(engine, first_in_rank(engine))
    if problem.evict == EVICT_FORMULA:
        p = first_by_formula(engine)
        return OK if p == NONE else evict(engine, p)
    if problem.evict == EVICT_NEWEST:
        return evict(engine, engine.newest)
    if problem.evict == EVICT_ALL:
        while engine.oldest != NONE:
            if evict(engine, engine.oldest) == NO_MEMORY:
                return NO_MEMORY
        return OK
    check(problem.evict == EVICT_RANDOM)
    p = engine.oldest
    while p != NONE:
        newer = engine.requests[p].newer
        if splitmix64_unit(&engine.stream) < problem.beta and evict(engine, p) == NO_MEMORY:
            return NO_MEMORY
        p = newer
    return OK


# Slots that are taken as tokens are processed: round by round ---------------------------------------------------------


cdef int advance_as_processed(Engine* engine, int64_t steps) noexcept nogil:
    # engine_advance() with slots="processed"; see slots_as_processed.pxd.
    cdef const Problem* problem = engine.problem
    cdef int status
    while engine.unfinished > 0:
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
        status = decide_as_processed(engine)
        if status != OK:
            return status
        check(engine.running > 0)
        check(engine.need <= problem.memory)
        if run_served(engine) == NO_MEMORY:
            return NO_MEMORY
        if unlikely(engine.fed):
            engine.in_progress = True
            engine.ends = now(engine)
        elif departures_as_processed(engine) == NO_MEMORY:
            return NO_MEMORY
    return FINISHED


cdef int decide_as_processed(Engine* engine) noexcept nogil:
    # decide() with slots="processed". OK, NO_MEMORY or FORMULA_FAILED.
    cdef const Problem* problem = engine.problem
    cdef int64_t wake = NEVER  # nobody reads it: every round is looked at
    engine.work.rounds_stepped += 1
    engine.ticks += engine.running >> 4
    begin_round(engine)
    if problem.cap != REFINE_NONE and caps_as_processed(engine) == NO_MEMORY:
        return NO_MEMORY
    if serve_running(engine) == NO_MEMORY:
        return NO_MEMORY
    if engine.failed != NONE:
        return FORMULA_FAILED
    if not (problem.pause and engine.evicted != NONE) and admission(engine, &wake) == NO_MEMORY:
        return NO_MEMORY
    if engine.failed != NONE:
        return FORMULA_FAILED
    if engine.evicted != NONE:
        if rejoin(engine) == NO_MEMORY:
            return NO_MEMORY
        if engine.running == 0 and admission(engine, &wake) == NO_MEMORY:
            return NO_MEMORY
        if engine.failed != NONE:
            return FORMULA_FAILED
    return OK


cdef int caps_as_processed(Engine* engine) noexcept nogil:
    # Those that reached õ, or what the lottery drew, leave and wait again. OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int32_t newer, p = engine.oldest
    cdef const Request* r
    cdef int64_t limit
    while p != NONE:
        r = &engine.requests[p]
        newer = r.newer
        if problem.capped == NULL or problem.capped[r.index]:
            limit = engine.shed_at[p] if problem.shed else r.bound
            if engine.round - r.birth >= limit:
                if leave(engine, p, problem.cap) == NO_MEMORY or join(engine, r.place, p) == NO_MEMORY:
                    return NO_MEMORY
                engine.waiting += 1
        p = newer
    return OK


cdef int serve_running(Engine* engine) noexcept nogil:
    # Serves those that run, first admitted first. Until there are slots for it, others leave, or it itself does: then
    # nobody else is served. OK or NO_MEMORY.
    cdef int32_t p = engine.oldest
    cdef int64_t tokens
    while p != NONE and engine.budget_left > 0:
        tokens = next_tokens(engine, engine.prefills[p].to_prefill)
        while engine.prefills[p].runs and engine.need + slots_for(engine, p, tokens) > engine.problem.memory:
            if evict_next(engine) == NO_MEMORY:
                return NO_MEMORY
            if engine.failed != NONE:
                return OK
        if not engine.prefills[p].runs:
            return OK
        serve(engine, p, tokens)
        p = engine.requests[p].newer
    return OK


cdef int admit_as_processed(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef Request* r = &engine.requests[p]
    cdef Prefill* f = &engine.prefills[p]
    cdef int64_t kept = r.kept
    if r.previous == NEVER_RAN:
        problem.start[r.index] = now(engine)
        r.previous = NONE
    r.birth = engine.round - kept
    if problem.shed:
        engine.shed_at[p] = lottery_length(engine, r, kept)
    if problem.record_tokens:
        engine.kept[p] = kept
    f.first_round = engine.round
    f.to_prefill = r.prompt + kept
    f.cached = f.granted = f.room = 0
    f.runs = True
    engine.running += 1
    engine.accepted_held = -1
    if unlikely(engine.driven):
        note_move(engine, p)
    serve(engine, p, next_tokens(engine, f.to_prefill))
    return enter_eviction_order(engine, p)


cdef int stop_as_processed(Engine* engine, int32_t p) noexcept nogil:
    # OK or NO_MEMORY.
    cdef const Problem* problem = engine.problem
    engine.running -= 1
    give_back(engine, p)
    if engine.tracks_beliefs:
        engine.belief.known[p] = max(engine.belief.known[p], engine.round - engine.requests[p].birth)
    leave_eviction_order(engine, p)
    if problem.record_tokens and engine.round > engine.prefills[p].first_round:
        return record_attempt(engine, p)
    return OK


cdef int run_served(Engine* engine) noexcept nogil:
    # The round passes, and all that are like it: who was served to the last of its tokens gets the next one. OK or
    # NO_MEMORY.
    cdef const Problem* problem = engine.problem
    cdef int64_t rounds
    cdef int32_t p
    if process(engine) == NO_MEMORY:
        return NO_MEMORY
    rounds = 1 if engine.driven or (problem.may_cycle and stalled(engine)) else rounds_alike(engine)
    check(rounds > 0)
    if problem.record_tokens and reserve_round_ends(engine, rounds) == NO_MEMORY:
        return NO_MEMORY
    if problem.record_timeline and new_segment(engine) == NO_MEMORY:
        return NO_MEMORY
    rounds = run_rounds(engine, rounds)
    engine.ticks += rounds >> 4 if problem.clocked else OK
    if problem.record_timeline:
        engine.segments[engine.segments_size - 1].rounds += rounds
    engine.round += rounds
    if rounds > 1:  # then each of them is granted a token in each
        p = engine.oldest
        while p != NONE:
            take_slots(engine, p, rounds - 1)
            engine.prefills[p].granted = rounds
            p = engine.requests[p].newer
    engine.peak_memory = max(engine.peak_memory, engine.need)
    return pass_over(engine) if engine.generating < engine.running else OK


cdef int departures_as_processed(Engine* engine) noexcept nogil:
    # At the end of a round: who reached o completes. OK or NO_MEMORY.
    cdef int32_t newer, p = engine.oldest
    cdef Prefill* f
    while p != NONE:
        f = &engine.prefills[p]
        newer = engine.requests[p].newer
        f.cached += f.granted
        if f.granted > 0 and f.to_prefill == 0 and engine.round - engine.requests[p].birth == engine.requests[p].output:
            f.granted = 0
            if complete(engine, p) == NO_MEMORY:
                return NO_MEMORY
        f.granted = 0
        p = newer
    return OK


# Fed: arrivals come one after the other, as a router sends them; see fed_arrivals.pxd ----------------------------------


cdef int engine_open_fed(Engine* engine, const Problem* problem, int64_t longest) noexcept nogil:
    # Sets an engine up that has no requests yet, of which none will run for more than `longest` rounds. OK or NO_MEMORY.
    # Call engine_free in either case.
    #
    # Whoever feeds it owns `problem`, which several engines may share, with arrays that may grow: values are there when
    # a request is fed, whose index may be used again once it is in engine.completed. Index 0 is nobody's: its arrival
    # is the time up to which all arrivals are known, and engine_advance returns WAITING where it cannot go on without
    # knowing more. engine.order maps every index to itself, engine.rank to what breaks its ties; `n` is INT64_MAX.
    if prepare(engine, problem, longest) == NO_MEMORY or queue_init(engine) == NO_MEMORY:
        return NO_MEMORY
    engine.fed = engine.may_overflow = True
    return ties_init(&engine.ties)


cdef int engine_feed(Engine* engine, int32_t index) noexcept nogil:
    # The next to arrive. OK or NO_MEMORY.
    return queue_add(engine, index)


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
    engine.driven = engine.may_overflow = True
    return ties_init(&engine.ties)


cdef int engine_arrive(Engine* engine, int32_t index) noexcept nogil:
    # A request, whose values are all there, begins to wait. OK or NO_MEMORY.
    if join(engine, index, NONE) == NO_MEMORY:
        return NO_MEMORY
    engine.waiting += 1
    engine.unfinished += 1
    return OK


cdef int engine_decide(Engine* engine, double time) noexcept nogil:
    # Decides the coming round, which starts at that time. engine.left[0:evictions_this_round] are the numbers of
    # requests that leave, engine.admitted[0:admitted_size] of those that start then. OK, NO_MEMORY or FORMULA_FAILED.
    cdef int64_t wake
    cdef int status
    engine.time = time
    engine.evictions_this_round = engine.prefilled = engine.swapped = engine.admitted_size = 0
    if engine.running == 0 and engine.waiting == 0:
        ratio_restart(&engine.belief, engine.round)
    status = decide_as_processed(engine) if engine.problem.as_processed else decide(engine, &wake)
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


cdef int32_t take_waiting(Engine* engine, int32_t index) noexcept nogil:
    # Takes a request out of the waiting set; its number, or NONE where it has none yet.
    cdef int32_t p
    cdef int64_t k = 0
    engine.tested = NONE
    if waits_in_tree(engine.problem):
        return tree_withdraw(&engine.tree, engine.requests, index)
    while True:  # it is there
        p = engine.heap.entries[k].who
        if p == ~index or (p >= 0 and engine.requests[p].index == index):
            heap_drop(&engine.heap, k)
            return max(p, NONE)
        k += 1


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


cdef inline void note_move(Engine* engine, int32_t p) noexcept nogil:
    # It was admitted.
    engine.admitted[engine.admitted_size] = p
    engine.admitted_size += 1


cdef int reserve_moves(Engine* engine) noexcept nogil:
    # Each request is admitted, and leaves, at most once in a round. OK or NO_MEMORY.
    cdef int32_t* block = <int32_t*>realloc(engine.admitted, engine.requests_allocated * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    engine.admitted = block
    block = <int32_t*>realloc(engine.left, engine.requests_allocated * sizeof(int32_t))
    if block == NULL:
        return NO_MEMORY
    engine.left = block
    return OK


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

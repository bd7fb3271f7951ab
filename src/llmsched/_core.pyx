"""The compiled engine: model.md, jumping over the rounds in which nothing can change.

Between two events (arrival, completion, cap, overflow, or the round at which the next candidate fits) every running
request grows by one token and that is all: such rounds are one addition. `reference.py` is the same engine, readable.
"""

from libc.math cimport fabs
from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

from llmsched._engine.belief cimport (
    BELIEF_HISTORY, belief_add, belief_earliest, belief_free, belief_init, belief_length, belief_make, belief_remove,
    length_of_class, ratio_learn, ratio_restart,
)
from llmsched._engine.check cimport check
from llmsched._engine.eviction_order cimport line_up, step_out
from llmsched._engine.waiting_heap cimport Entry, entry_less, heap_free, heap_pop, heap_push
from llmsched._engine.waiting_tree cimport (
    line_add, line_choose, line_free, line_init, line_least, line_remove, line_settle, line_shrink, line_update,
)
from llmsched._engine.allocation cimport enlarge, prefetch, prefetch_to_write
from llmsched._engine.tree_node cimport Node
from llmsched._engine.admission_order cimport area_key, look_ahead, order_arrivals, order_requests
from llmsched._engine.chunked_prefill cimport note_crowd, postpone, prefill_begin, prefill_enter, unlikely
from llmsched._engine.memory_profile cimport (
    profile_add, profile_earliest, profile_expire, profile_free, profile_init, profile_remove,
)
from llmsched._engine.splitmix64 cimport splitmix64_below, splitmix64_unit
from llmsched._engine.request cimport NEVER_RAN, NONE, Prefill, Request
from llmsched._engine.recording cimport new_segment, record_attempt, reserve_round_ends
from llmsched._engine.rounds cimport (
    arrival_of, due, earliest_due, grow, in_blocks, next_arrival, next_place, now, residue, round_of, rounds_that_fit,
    run_rounds, too_full,
)
from llmsched._engine.radix_sort cimport double_key
from llmsched._engine.eviction_ties cimport Peers, ties_count_longest, ties_find_longest, ties_first, ties_free, ties_init
from llmsched._engine.timing_wheel cimport wheel_add, wheel_free, wheel_init, wheel_next, wheel_remove, wheel_take

cdef enum:
    ROUNDS_PER_EVENT = 65536        # with a clock rounds cost time: the engine comes up for air


# Starting and ending ------------------------------------------------------------------------------------------------


cdef int engine_start(Engine* engine, const Task* task) noexcept nogil:
    # Sorts the requests and sets everything up. RUNNING, or NO_MEMORY. Call engine_free in either case.
    cdef int64_t i, n = task.n, longest = 0
    memset(engine, 0, sizeof(Engine))
    engine.task = task
    engine.left = n
    engine.capped = engine.evicted = engine.tested = engine.oldest = engine.newest = NONE
    engine.head = engine.free_request = engine.slow = NONE
    engine.lone_end = NONE
    engine.budget = task.prefill_budget if task.prefill_budget > 0 else INT64_MAX
    engine.stream = task.seed if task.seeded else 0
    engine.profiled = (task.reserve == RESERVE_BOUND or task.reserve == RESERVE_BELIEVED) and not task.peak
    engine.believes = task.reserve == RESERVE_MOVING or task.order == ORDER_TABLE
    engine.redrawn = task.reserve == RESERVE_MOVING and task.beliefs.kind == BELIEF_HISTORY
    engine.limited = (task.peak or task.reserve == RESERVE_NONE) and not engine.redrawn and task.prefill_budget == 0
    line_init(&engine.line, not engine.limited, task.block)
    for i in range(n):
        if task.output[i] > longest:
            longest = task.output[i]
    if order_requests(engine) < 0 or order_arrivals(engine) < 0 or wheel_init(&engine.wheel, longest) < 0:
        return NO_MEMORY
    if engine.profiled and profile_init(&engine.profile, task.block) < 0:
        return NO_MEMORY
    if engine.believes and belief_init(&engine.belief, &task.beliefs, task.memory, task.block, engine.stream) < 0:
        return NO_MEMORY
    if task.block > 1:
        engine.residues = <int64_t*>calloc(task.block, sizeof(int64_t))
        if engine.residues == NULL:
            return NO_MEMORY
    engine.overflows = can_overflow(task)
    if engine.overflows and ties_init(&engine.ties) < 0:
        return NO_MEMORY
    return RUNNING


cdef void engine_free(Engine* engine) noexcept nogil:
    free(engine.order)
    free(engine.rank)
    free(engine.by_arrival)
    free(engine.requests)
    free(engine.kept)
    free(engine.prefills)
    free(engine.chunks)
    free(engine.residues)
    free(engine.segments)
    free(engine.attempts)
    free(engine.round_end)
    heap_free(&engine.heap)
    line_free(&engine.line)
    wheel_free(&engine.wheel)
    profile_free(&engine.profile)
    belief_free(&engine.belief)
    ties_free(&engine.ties)
    memset(engine, 0, sizeof(Engine))


cdef bint can_overflow(const Task* task) noexcept nogil:
    # Whether some request may outgrow what is believed of it. If none can, no round ever needs more than M.
    cdef int64_t i
    cdef const int64_t* belief = task.bound if task.reserve == RESERVE_BOUND else task.believed
    if task.reserve == RESERVE_NONE or task.reserve == RESERVE_MOVING:
        return True
    if task.prefill_budget > 0:  # prefill may take longer than is believed
        return True
    for i in range(task.n):
        if belief[i] < task.output[i]:
            return True
    return False


# One event: the round at which something happens, then all quiet rounds after it -------------------------------------


cdef int engine_advance(Engine* engine, int64_t steps) noexcept nogil:
    # Simulates for about `steps` steps: rounds looked at, requests tested or admitted, points passed. A Status.
    cdef const Task* task = engine.task
    cdef int64_t wake, rounds
    steps += spent(engine)
    while engine.left > 0:
        if engine.round >= task.max_rounds or stalled(engine):
            return STOPPED
        if spent(engine) >= steps:
            return RUNNING
        engine.work.rounds_stepped += 1
        engine.leavers = engine.prefilled = engine.swapped = 0
        if engine.arrived < task.n and arrivals(engine) < 0:
            return NO_MEMORY
        if engine.capped != NONE and caps(engine) < 0:
            return NO_MEMORY
        if engine.overflows and engine.need > task.memory:
            if overflow(engine) < 0:
                return NO_MEMORY
        if unlikely(engine.prefills != NULL) and prefill_begin(engine) < 0:
            return NO_MEMORY
        wake = NEVER
        if not (task.pause and engine.evicted != NONE) and admission(engine, &wake) < 0:
            return NO_MEMORY
        if engine.evicted != NONE:
            if rejoin(engine) < 0:
                return NO_MEMORY
            wake = engine.round + 1
            if engine.running == 0 and admission(engine, &wake) < 0:
                return NO_MEMORY
        check(engine.running > 0)
        check(engine.need <= task.memory)
        rounds = quiet_rounds(engine, wake)
        check(rounds > 0)
        if task.record_tokens and reserve_round_ends(engine, rounds) < 0:
            return NO_MEMORY
        if task.record_timeline and new_segment(engine) < 0:
            return NO_MEMORY
        rounds = run_rounds(engine, rounds)
        engine.ticks += rounds >> 4 if task.clocked else 0
        if task.record_timeline:
            engine.segments[engine.segments_size - 1].rounds += rounds
        engine.round += rounds
        engine.used += rounds * engine.running
        grow(engine, rounds)
        if unlikely(engine.slow != NONE) and postpone(engine) < 0:
            return NO_MEMORY
        if departures(engine) < 0:
            return NO_MEMORY
    return FINISHED


cdef inline int64_t spent(const Engine* engine) noexcept nogil:
    # Steps so far, some 100 ns each.
    cdef const Work* work = &engine.work
    cdef int64_t scanned = engine.profile.scanned + engine.belief.scanned
    return work.rounds_stepped + work.admissions + work.feasibility_tests + (scanned >> 4) + engine.ticks


cdef inline void changed(Engine* engine) noexcept nogil:
    # Something changed for good: a completion, an arrival, the rise of a bound.
    engine.last_change = engine.round
    engine.admissions_then = engine.work.admissions


cdef inline bint stalled(const Engine* engine) noexcept nogil:
    cdef int64_t in_vain = engine.work.admissions - engine.admissions_then
    if engine.round - engine.last_change >= engine.task.stall_limit:
        return True
    return engine.task.may_cycle and in_vain >= 1000 + 100 * engine.left  # problem.admission_limit


cdef int arrivals(Engine* engine) noexcept nogil:
    cdef double time = now(engine)
    if engine.running == 0 and engine.waiting == 0 and next_arrival(engine) > time:
        engine.epoch = engine.time = time = next_arrival(engine)
        engine.epoch_round = engine.round
        ratio_restart(&engine.belief, engine.round)
    while engine.arrived < engine.task.n and next_arrival(engine) <= time:
        if not engine.in_place and join(engine, next_place(engine), NONE) < 0:
            return -1
        engine.arrived += 1
        engine.waiting += 1
        changed(engine)
    return 0


cdef int caps(Engine* engine) noexcept nogil:
    # Those that reached õ in the last round leave and wait again.
    cdef int32_t after, p = engine.capped
    engine.capped = NONE
    while p != NONE:
        after = engine.requests[p].next
        if leave(engine, p, engine.task.cap) < 0 or join(engine, engine.requests[p].place, p) < 0:
            return -1
        engine.waiting += 1
        p = after
    return 0


cdef int rejoin(Engine* engine) noexcept nogil:
    # Those evicted for overflow in this round wait again.
    cdef int32_t p = engine.evicted
    while p != NONE:
        if join(engine, engine.requests[p].place, p) < 0:
            return -1
        engine.waiting += 1
        p = engine.requests[p].next
    engine.evicted = NONE
    return 0


cdef inline int64_t quiet_rounds(const Engine* engine, int64_t wake) noexcept nogil:
    # How many rounds run before the engine must look again; at least one.
    cdef const Task* task = engine.task
    cdef int64_t upto, limit
    if unlikely(engine.prefills != NULL) and engine.prefilled > 0:
        return 1  # the next one has more to spare for prompts
    upto = wheel_next(&engine.wheel, engine.round) + 1
    upto = min(upto, wake)
    upto = min(upto, task.max_rounds)
    limit = engine.last_change + task.stall_limit
    upto = min(upto, limit)
    if task.may_cycle and stalled(engine):
        upto = engine.round + 1
    if engine.overflows:
        limit = engine.round + rounds_that_fit(engine)
        upto = min(upto, limit)
    if task.clocked:
        limit = engine.round + ROUNDS_PER_EVENT
        upto = min(upto, limit)
    if task.block > 1 and task.record_timeline:
        upto = engine.round + 1  # blocks are taken in steps: every round is a segment of its own
    if engine.arrived < task.n and not task.clocked:
        limit = round_of(engine, next_arrival(engine))
        upto = min(upto, limit)
    return upto - engine.round


cdef int departures(Engine* engine) noexcept nogil:
    # At the end of a round: who reached o completes; who reached the cap will leave at the start of the next round.
    # 0, or -1 without memory.
    cdef int64_t last = engine.round - 1
    cdef int64_t bucket = last & engine.wheel.mask
    cdef int32_t after, p, chain = NONE
    cdef bint anybody = False
    cdef Request* r
    if not (engine.wheel.filled[bucket >> 6] >> (bucket & 63)) & 1:
        return 0
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
            if complete(engine, p) < 0:
                return -1
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
    return 0


# Entering and leaving the batch --------------------------------------------------------------------------------------


cdef int admission(Engine* engine, int64_t* wake) noexcept nogil:
    # Admits what is feasible; lowers `wake` to the round at which the next one may be, if nothing else happens.
    cdef int32_t p
    if engine.profiled:
        profile_expire(&engine.profile, engine.round)
    if engine.task.skip:
        return admission_skipping(engine, wake)
    while engine.waiting > 0:
        p = first_waiting(engine)
        if p == NONE:
            return -1
        if not feasible(engine, p, wake):
            return 0
        if p == engine.head:
            engine.head = NONE
            engine.fresh += 1
        else:
            heap_pop(&engine.heap)
        engine.waiting -= 1
        if admit(engine, p) < 0:
            return -1
    return 0


cdef int admission_skipping(Engine* engine, int64_t* wake) noexcept nogil:
    # The same with fill="skip": whoever is feasible, in order.
    cdef int status = 0
    cdef int64_t room, places, k
    # Once somebody outgrows what was set aside, the coming round may lack room that seems to be there.
    if engine.limited and (engine.need <= engine.reserved or not engine.task.peak):
        room = engine.task.capacity - (engine.reserved if engine.task.peak else engine.need)
        places = engine.task.max_batch - engine.running
        if line_choose(&engine.line, engine.requests, room, places, engine.running == 0) < 0:
            return -1
        engine.work.feasibility_tests += engine.line.tests
        engine.waiting -= engine.line.chosen_size
        for k in range(engine.line.chosen_size):
            if admit(engine, engine.line.chosen[k]) < 0:
                return -1
        return 0
    if line_settle(&engine.line) < 0:
        return -1
    engine.refused_held = engine.refused_length = INT64_MAX
    engine.accepted_held = -1
    if engine.line.first != NONE:
        k = engine.line.nodes[engine.line.first].used
        admit_tested(engine, engine.line.first, engine.line.height, 0, k, wake, &status)
        line_shrink(&engine.line)
    return status


cdef int64_t admit_tested(
    Engine* engine, int32_t which, int32_t level, int64_t start, int64_t end, int64_t* wake, int* status
) noexcept nogil:
    # The same where each has to be tested, for these items of a node of the line. Returns how many items are no more.
    # Where one that held the least and had the least to come would not fit, nobody does.
    cdef Node* node = &engine.line.nodes[which]
    cdef int64_t held, length, middle, gone = 0, admitted = engine.work.admissions
    cdef int32_t p
    if status[0] < 0 or not line_least(&engine.line, node, start, end, &held, &length):
        return 0
    if end - start > 1:
        engine.line.operations += 1
        if somebody_fits(engine, held, length, wake):
            middle = (start + end) // 2
            gone = admit_tested(engine, which, level, start, middle, wake, status)
            gone += admit_tested(engine, which, level, middle - gone, end - gone, wake, status)
    elif level > 0:
        end = engine.line.nodes[node.child[start]].used
        admit_tested(engine, node.child[start], level - 1, 0, end, wake, status)
        if engine.work.admissions > admitted:
            gone = line_update(&engine.line, node, start)
    else:
        p = <int32_t>node.rest[start]
        if engine.redrawn:
            length = in_line(engine, p, believed_length(engine, p))
        if somebody_fits(engine, engine.requests[p].prompt + engine.requests[p].mark, length, wake):
            line_remove(&engine.line, node, start)
            engine.waiting -= 1
            status[0] = admit(engine, p)
    return gone


cdef inline int32_t first_waiting(Engine* engine) noexcept nogil:
    # The first in admission order, of those that never ran and those that did. Needs waiting > 0. NONE without memory.
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
    # The request at this place, which never ran; its number, or NONE without memory.
    cdef const Task* task = engine.task
    cdef int32_t p = engine.free_request
    cdef int32_t i = engine.order[place]
    cdef Request* block
    cdef Request* r
    cdef int64_t* kept
    cdef Prefill* prefills
    if p != NONE:
        engine.free_request = engine.requests[p].next
    else:
        if engine.requests_made == engine.requests_room:
            engine.requests_room = 2 * engine.requests_room + 64
            block = <Request*>enlarge(
                engine.requests, engine.requests_made * sizeof(Request), engine.requests_room * sizeof(Request)
            )
            if block == NULL:
                return NONE
            engine.requests = block
            if task.record_tokens:
                kept = <int64_t*>realloc(engine.kept, engine.requests_room * sizeof(int64_t))
                if kept == NULL:
                    return NONE
                engine.kept = kept
            if task.prefill_budget > 0:
                prefills = <Prefill*>realloc(engine.prefills, engine.requests_room * sizeof(Prefill))
                if prefills == NULL:
                    return NONE
                engine.prefills = prefills
        p = engine.requests_made
        engine.requests_made += 1
    r = &engine.requests[p]
    r.prompt = task.prompt[i]
    r.output = task.output[i]
    r.bound = task.bound[i] if task.bound != NULL else task.believed[i] if task.believed != NULL else 1
    r.birth = r.mark = 0
    r.index = i
    r.place = <int32_t>place
    r.next = r.peers = r.peer_at = NONE
    r.previous = NEVER_RAN
    if engine.believes and belief_make(&engine.belief, p) < 0:
        return NONE
    look_ahead(engine, place)
    return p


cdef inline Entry entry_of(const Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # How a request that joins the waiting set compares; p is its number, or NONE where it has none yet.
    cdef const Task* task = engine.task
    cdef Entry entry
    cdef int32_t i
    cdef bint fresh
    entry.who = ~<int32_t>place if p == NONE else p
    if engine.rank == NULL:
        entry.key = place
        entry.tie = 0
        return entry
    i = engine.order[place] if p == NONE else engine.requests[p].index
    entry.tie = engine.rank[i]
    if task.order == ORDER_BOUND:
        entry.key = task.bound[i] if p == NONE else engine.requests[p].bound
    elif task.order == ORDER_AREA:
        if p == NONE:
            entry.key = area_key(task.prompt[i], task.bound[i])
        else:
            entry.key = area_key(engine.requests[p].prompt, engine.requests[p].bound)
    elif task.order == ORDER_TABLE:
        entry.key = length_of_class(&engine.belief, i, 0 if p == NONE else engine.belief.known[p])
    else:
        fresh = p == NONE or engine.requests[p].previous == NEVER_RAN
        entry.key = double_key(arrival_of(engine, place) if fresh else now(engine))
    return entry


cdef inline int join(Engine* engine, int64_t place, int32_t p) noexcept nogil:
    # The request starts to wait; p is its number, or NONE. 0, or -1 without memory.
    cdef const Request* r
    cdef int64_t length
    if engine.task.skip:
        if p == NONE:
            p = make_request(engine, place)
            if p == NONE:
                return -1
        r = &engine.requests[p]
        length = r.mark + 1 if engine.redrawn else believed_length(engine, p)  # the least, where it is drawn anew
        # With reserve="none" all that counts is the coming round: what it holds then.
        length = r.prompt + r.mark + 1 if engine.task.reserve == RESERVE_NONE else in_line(engine, p, length)
        return line_add(&engine.line, entry_of(engine, place, p), r.prompt + r.mark, length)
    return heap_push(&engine.heap, entry_of(engine, place, p))


cdef inline int64_t believed_length(Engine* engine, int32_t p) noexcept nogil:
    # L of a waiting request (model.md, section 4).
    cdef const Task* task = engine.task
    cdef const Request* r = &engine.requests[p]
    cdef int64_t length = r.bound
    if task.reserve == RESERVE_MOVING:
        return belief_length(
            &engine.belief, r.index, task.memory - r.prompt, r.mark, engine.belief.known[p], engine.round
        )
    if task.reserve == RESERVE_BELIEVED and task.bound != NULL:
        length = task.believed[r.index]
    length = max(length, r.mark + 1)
    return min(length, task.memory - r.prompt)


cdef inline int64_t in_line(const Engine* engine, int32_t p, int64_t length) noexcept nogil:
    # What a line of requests knows of one believed to reach `length`: what will come, or, with hold="peak", all.
    return length + (engine.requests[p].prompt if engine.task.peak else -engine.requests[p].mark)


cdef inline bint crowded(const Engine* engine, int64_t held) noexcept nogil:
    # Whether the coming round has no room for one more, of `held` tokens: its need only grows until somebody leaves.
    if engine.running >= engine.task.max_batch or engine.spent >= engine.budget:
        return True
    return engine.need + held + 1 > engine.task.capacity


cdef inline bint room_for(const Engine* engine, int64_t tokens) noexcept nogil:
    # With hold="peak": whether as many can be set aside beside what is. That changes when somebody leaves.
    return engine.reserved + in_blocks(engine.task, tokens) <= engine.task.capacity


cdef inline int64_t earliest_start(Engine* engine, int64_t held, int64_t length) noexcept nogil:
    # The first round in which a request of `held` tokens with `length` to come is feasible, should nothing else happen.
    if engine.task.reserve == RESERVE_MOVING:
        return belief_earliest(&engine.belief, engine.round, held, length, engine.task.capacity)
    if held + length > engine.task.capacity:
        return NEVER  # only alone, and then it is feasible anyway
    if engine.lone_end >= engine.round:
        return engine.lone_end + 1
    return profile_earliest(&engine.profile, engine.round, held, length, engine.task.capacity)


cdef inline bint feasible(Engine* engine, int32_t p, int64_t* wake) noexcept nogil:
    # Whether p may start now. If not, `wake` is lowered to the round at which it may, should nothing else happen.
    cdef const Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + r.mark
    engine.work.feasibility_tests += 1
    if engine.running == 0:
        return True
    if crowded(engine, held):
        return False
    if engine.task.peak:
        if engine.redrawn:
            wake[0] = engine.round + 1
        return room_for(engine, r.prompt + believed_length(engine, p))
    if engine.task.reserve == RESERVE_NONE:
        return True
    if engine.tested != p or engine.earliest <= engine.round:
        engine.tested = p
        engine.earliest = earliest_start(engine, held, believed_length(engine, p) - r.mark)
    if engine.earliest > engine.round:
        wake[0] = min(wake[0], engine.earliest)
        return False
    return True


cdef inline bint somebody_fits(Engine* engine, int64_t held, int64_t length, int64_t* wake) noexcept nogil:
    # The same of a request, or the best of several, that holds `held` tokens and has `length` to come. Who holds no
    # less than one refused in this round, and has no less to come, does not fit either, now or before that one; who
    # holds no more than one that would fit since the last admission, and has no more to come, fits too.
    cdef int64_t earliest
    engine.work.feasibility_tests += 1
    if engine.running == 0:
        return True
    if crowded(engine, held):
        return False
    if engine.task.peak:
        if engine.redrawn:
            wake[0] = engine.round + 1
        return room_for(engine, length)  # that is all it is believed to need: see join()
    if engine.task.reserve == RESERVE_NONE:
        return True
    if held >= engine.refused_held and length >= engine.refused_length:
        return False
    if held <= engine.accepted_held and length <= engine.accepted_length:
        return True
    earliest = earliest_start(engine, held, length)
    if earliest <= engine.round:
        engine.accepted_held = held
        engine.accepted_length = length
        return True
    wake[0] = min(wake[0], earliest)
    if held <= engine.refused_held and length <= engine.refused_length:
        engine.refused_held = held
        engine.refused_length = length
    return False


cdef int admit(Engine* engine, int32_t p) noexcept nogil:
    # 0, or -1 without memory.
    cdef const Task* task = engine.task
    cdef Request* r = &engine.requests[p]
    cdef int64_t length = believed_length(engine, p)
    cdef int64_t kept = r.mark
    engine.work.admissions += 1
    if r.previous == NEVER_RAN:
        task.start[r.index] = now(engine)
    if task.cap != REFINE_NONE:  # it may leave soon
        prefetch_to_write(&task.evictions[r.index])
        if engine.rank != NULL:
            prefetch(&engine.rank[r.index])
    r.birth = engine.round - kept
    r.mark = r.birth + length - 1
    if engine.running == 0 and r.prompt + length > task.capacity:
        engine.lone_end = r.mark
    engine.running += 1
    engine.used += r.prompt + kept
    engine.need += in_blocks(task, r.prompt + kept + 1)
    engine.prompts += r.prompt
    if task.peak:
        engine.reserved += in_blocks(task, r.prompt + length)
    if unlikely(engine.prefills != NULL):
        if prefill_enter(engine, p, kept) < 0:
            return -1
    else:
        if task.resume == RESUME_SWAP and r.previous != NEVER_RAN:
            engine.swapped += r.prompt + kept
        else:
            engine.prefilled += r.prompt + kept
        wheel_add(&engine.wheel, engine.requests, p, due(engine, r))
    if task.block > 1:
        engine.residues[residue(task, r)] += 1
    if task.record_tokens:
        engine.kept[p] = kept
    engine.tested = NONE
    engine.accepted_held = -1
    if engine.believes and belief_add(&engine.belief, r, p, engine.round, length - kept) < 0:
        return -1
    if engine.profiled and r.mark > engine.round:
        if profile_add(&engine.profile, r.prompt - r.birth, r.mark) < 0:
            return -1
    return line_up(engine, p) if engine.overflows else 0


cdef int stop_running(Engine* engine, int32_t p) noexcept nogil:
    # What completing and leaving have in common. The request is out of the wheel already. 0, or -1 without memory.
    cdef const Task* task = engine.task
    cdef Request* r = &engine.requests[p]
    cdef int64_t held = r.prompt + engine.round - r.birth
    engine.running -= 1
    engine.used -= held
    engine.need -= in_blocks(task, held + 1)
    engine.prompts -= r.prompt
    if task.peak:
        engine.reserved -= in_blocks(task, r.prompt + r.mark - r.birth + 1)
        check(engine.reserved >= 0)
    if task.block > 1:
        engine.residues[residue(task, r)] -= 1
    if task.record_tokens and record_attempt(engine, p) < 0:
        return -1
    if engine.believes:
        belief_remove(&engine.belief, p, engine.round - r.birth, engine.round - r.birth == r.output)
        engine.tested = NONE
    if engine.profiled and r.mark > engine.round:  # earlier than believed
        profile_expire(&engine.profile, engine.round)
        profile_remove(&engine.profile, r.prompt - r.birth, r.mark)
        engine.tested = NONE
        if unlikely(engine.prefills != NULL):
            note_crowd(engine)
    if engine.running == 0:
        engine.lone_end = NONE
    if engine.overflows:
        step_out(engine, p)
    return 0


cdef int complete(Engine* engine, int32_t p) noexcept nogil:
    # 0, or -1 without memory.
    if stop_running(engine, p) < 0:
        return -1
    engine.task.completion[engine.requests[p].index] = now(engine)
    engine.requests[p].next = engine.free_request
    engine.free_request = p
    engine.left -= 1
    changed(engine)
    return 0


cdef int leave(Engine* engine, int32_t p, Refine rule) noexcept nogil:
    # It leaves before completing. The request is out of the wheel already. 0, or -1 without memory.
    cdef const Task* task = engine.task
    cdef Request* r = &engine.requests[p]
    cdef int64_t generated = engine.round - r.birth
    if stop_running(engine, p) < 0:
        return -1
    task.evictions[r.index] += 1
    engine.leavers += 1
    if task.bound != NULL:
        refine(engine, r, rule, generated)
    r.previous = NONE
    if task.resume == RESUME_RESTART:
        r.mark = 0
        engine.wasted_tokens += generated
    else:
        r.mark = generated
        if task.resume == RESUME_SWAP:
            engine.swapped += r.prompt + generated
            if engine.prefills != NULL:
                engine.swapped -= engine.prefills[p].left
    return 0


cdef inline void refine(Engine* engine, Request* r, Refine rule, int64_t generated) noexcept nogil:
    cdef int64_t old = r.bound
    cdef int64_t largest = <int64_t>1 << 62  # problem.LARGEST_BOUND
    cdef int64_t doubled = 2 * old if old < largest // 2 else largest
    if rule == REFINE_PROGRESS:
        r.bound = max(old, generated + 1)
    elif rule == REFINE_DOUBLE:
        r.bound = max(doubled, generated + 1)
    elif rule == REFINE_UPPER:
        r.bound = engine.task.upper[r.index]
        if old >= r.bound:
            r.bound = doubled
    if min(r.bound, engine.task.memory) > old:  # a rise beyond M changes no believed length
        changed(engine)


# Overflow: who leaves ------------------------------------------------------------------------------------------------


cdef inline int evict(Engine* engine, int32_t p) noexcept nogil:
    # 0, or -1 without memory.
    if p == engine.slow:
        engine.slow = NONE
    else:
        wheel_remove(&engine.wheel, engine.requests, p, due(engine, &engine.requests[p]))
    if leave(engine, p, engine.task.refine) < 0:
        return -1
    engine.requests[p].next = engine.evicted
    engine.evicted = p
    return 0


cdef int overflow(Engine* engine) noexcept nogil:
    # Evicts until the coming round fits. 0, or -1 without memory.
    cdef const Task* task = engine.task
    cdef const Peers* equals
    cdef int32_t p, newer
    cdef uint64_t drawn, size
    while too_full(engine):
        if task.evict == EVICT_NEWEST:
            if evict(engine, engine.newest) < 0:
                return -1
        elif task.evict == EVICT_ALL:
            while engine.oldest != NONE:
                if evict(engine, engine.oldest) < 0:
                    return -1
        elif task.evict == EVICT_RANDOM:
            p = engine.oldest
            while p != NONE:
                newer = engine.requests[p].peers
                if splitmix64_unit(&engine.stream) < task.beta and evict(engine, p) < 0:
                    return -1
                p = newer
        else:
            equals = ties_first(&engine.ties)
            size = equals.size if not task.longest_prompt else ties_count_longest(equals, engine.requests)
            drawn = 0
            if task.seeded and size > 1:
                drawn = splitmix64_below(&engine.stream, size)
            if task.longest_prompt:
                drawn = ties_find_longest(equals, engine.requests, drawn)
            if evict(engine, equals.members[drawn]) < 0:
                return -1
    ratio_learn(&engine.belief, engine.round, task.headroom)
    return 0


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

# Who starts in a round: those that are feasible, in admission order (model.md, section 4).

from libc.stdint cimport INT64_MAX, int32_t, int64_t

from llmsched._core cimport ORDER_OVER_TIME, Engine
from llmsched._engine.batch cimport admit
from llmsched._engine.chunked_prefill cimport unlikely
from llmsched._engine.feasibility cimport feasible, somebody_fits
from llmsched._engine.memory_profile cimport profile_expire
from llmsched._engine.pace cimport places_left
from llmsched._engine.policy_formulas cimport order_anew
from llmsched._engine.request cimport NONE
from llmsched._engine.rising_peak cimport rising_reserved
from llmsched._engine.shared_queue cimport is_offered, offered, offered_entry, take_offered
from llmsched._engine.status cimport NO_MEMORY, OK
from llmsched._engine.tree_node cimport Node
from llmsched._engine.waiting cimport believed_length, demand_of, first_waiting, waits_in_tree
from llmsched._engine.waiting_heap cimport Entry, entry_less, heap_pop
from llmsched._engine.waiting_tree cimport (
    tree_choose, tree_first, tree_least, tree_remove, tree_settle, tree_shrink, tree_update,
)


cdef inline int admission(Engine* engine, int64_t* wake) noexcept nogil:
    # Admits what is feasible; lowers `wake` to the round at which the next one may be, if nothing else happens.
    cdef int32_t p
    if engine.profiled:
        profile_expire(&engine.profile, engine.round)
    if not engine.in_order:
        if engine.problem.rising:
            engine.reserved = rising_reserved(engine)
        if engine.shared != NULL:
            return admission_from_shared(engine, wake)
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


cdef inline int admission_from_shared(Engine* engine, int64_t* wake) noexcept nogil:
    # The same of those that wait here and in the queue that is shared, whoever is first; of that queue nobody after the
    # first that is not feasible. OK or NO_MEMORY.
    cdef bint asks = True
    cdef int32_t own, other
    while True:
        other = NONE
        if asks and is_offered(engine):
            other = offered(engine)
            if other == NONE:
                return NO_MEMORY
        if engine.waiting == 0 and other == NONE:
            return OK
        own = NONE
        if engine.waiting > 0 and (other == NONE or entry_less(engine.heap.entries[0], offered_entry(engine, other))):
            own = first_waiting(engine)
        if not feasible(engine, other if own == NONE else own, wake):
            if own != NONE:
                return OK
            asks = False
            continue
        if own != NONE:
            heap_pop(&engine.heap)
            engine.waiting -= 1
        elif take_offered(engine) == NO_MEMORY:
            return NO_MEMORY
        if admit(engine, other if own == NONE else own) == NO_MEMORY:
            return NO_MEMORY


cdef inline int admission_one_by_one(Engine* engine, int64_t* wake) noexcept nogil:
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


cdef inline int admission_skipping(Engine* engine, int64_t* wake) noexcept nogil:
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


cdef inline int64_t admit_tested(
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

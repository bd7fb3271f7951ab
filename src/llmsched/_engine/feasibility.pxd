# Whether a waiting request may start now, and if not, when (model.md, section 4).

from libc.stdint cimport INT64_MAX as NEVER
from libc.stdint cimport int32_t, int64_t

from llmsched._core cimport RESERVE_MOVING, RESERVE_NONE, Engine
from llmsched._engine.belief cimport belief_earliest
from llmsched._engine.blocks cimport whole_blocks
from llmsched._engine.chunked_prefill cimport unlikely
from llmsched._engine.memory_profile cimport profile_earliest
from llmsched._engine.pace cimport other_slice, places_left
from llmsched._engine.request cimport Request
from llmsched._engine.slots_as_processed cimport has_slots, may_start
from llmsched._engine.waiting cimport believed_length


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
    if unlikely(engine.tests_more):
        if engine.problem.paced and (other_slice(engine, r) or places_left(engine, wake) == 0):
            return False
        if engine.problem.as_processed:
            if not may_start(engine, p) or engine.problem.methods.is_feasible == NULL:
                return may_start(engine, p)  # asked twice, it is a function of its own, out of the plain model's way
        elif coming_round_is_full(engine, held):
            return False
        if engine.problem.methods.is_feasible != NULL:
            wake[0] = engine.round + 1
            return engine.problem.methods.is_feasible(engine, p, engine.problem.methods.context)
    elif coming_round_is_full(engine, held):
        return False
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
    if unlikely(engine.tests_more):
        if engine.problem.paced and places_left(engine, wake) == 0:
            return False
        if engine.problem.as_processed:
            return has_slots(engine, held, False)
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

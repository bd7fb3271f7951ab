# cython: language_level=3
"""The first of the two schedulers in Cython: the same function, compiled."""

from operator import attrgetter

from llmsched.testing import Decision

in_order = attrgetter("arrival", "rank")


def first_come(state):
    """First come, first served, 1 % of the cache kept free; where it overflows the newest leave."""
    cdef long long need = state.need, memory = state.memory, tokens
    cdef list batch = list(state.running), evict = [], admit = []
    while need > memory:
        evict.append(batch.pop())
        need -= evict[-1].tokens
    for request in sorted(state.waiting, key=in_order):
        tokens = request.tokens
        if need + tokens > (99 * memory // 100 if batch or admit else memory):
            break
        need += tokens
        admit.append(request)
    return Decision(tuple(admit), tuple(evict))

"""Two schedulers as functions from state to decision. The first is equal to the policy `fcfs`; the second to
`amin`, except that of equal bounds the one admitted first leaves, where the policy draws one."""

from llmsched.testing import Decision


def first_come(state):
    """First come, first served, 1 % of the cache kept free; where it overflows the newest leave. The policy `fcfs`."""
    batch, evict, admit, need = list(state.running), [], [], state.need
    while need > state.memory:
        evict.append(batch.pop())
        need -= evict[-1].tokens
    for request in sorted(state.waiting, key=lambda r: (r.arrival, r.rank)):
        limit = 99 * state.memory // 100 if batch or admit else state.memory
        if need + request.tokens > limit:
            break
        need += request.tokens
        admit.append(request)
    return Decision(tuple(admit), tuple(evict))


def adaptive_minimum(state):
    """A_min (arXiv 2508.14544, Algorithm 2): start from the lower bound, evict the smallest bound, and raise it."""
    batch, evict, admit = list(state.running), [], []
    while sum(r.tokens for r in batch) > state.memory:
        evict.append(min(batch, key=bound))
        batch.remove(evict[-1])
    for request in sorted(state.waiting, key=lambda r: (bound(r), r.rank)):
        if not fits([*batch, request], state):
            break
        batch.append(request)
        admit.append(request)
    return Decision(tuple(admit), tuple(evict))


def bound(request):
    """õ: the lower bound, or one token more than it had when it was last evicted."""
    return max(request.lower, request.reached + 1)


def fits(batch, state):
    """Whether the cache holds the batch in every round to come, if all reach their bound and end there (Eq. 3)."""
    left = [(min(max(bound(r), r.generated + 1), state.memory - r.prompt) - r.generated, r) for r in batch]

    def need(d):
        return sum(-(-(r.prompt + r.generated + d) // state.block) * state.block for k, r in left if k >= d)

    return all(need(d) <= state.memory for d in {k for k, _ in left})

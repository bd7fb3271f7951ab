# The rules by which requests are evicted when the cache overflows: the values of policy.EVICTION_RULES (model.md,
# section 5). A rule that ranks running requests is complete with what stands here; one that does not needs its own
# branch of overflow() in _core.pyx too.

from libc.stdint cimport int64_t

from llmsched._engine.check cimport check
from llmsched._engine.request cimport Request

cdef enum Evict:
    EVICT_BOUND
    EVICT_PROGRESS
    EVICT_NEWEST
    EVICT_ALL
    EVICT_RANDOM
    EVICT_PRIORITY
    EVICT_FORMULA   # not a word: see policy_formulas.pxd


cdef inline int eviction_rule(str name) except -1:
    # The rule of that name. ValueError: there is none.
    if name == "bound":
        return EVICT_BOUND
    if name == "progress":
        return EVICT_PROGRESS
    if name == "newest":
        return EVICT_NEWEST
    if name == "all":
        return EVICT_ALL
    if name == "random":
        return EVICT_RANDOM
    if name == "priority":
        return EVICT_PRIORITY
    raise ValueError(f"the compiled engine knows no eviction rule {name!r}: add it to _engine/eviction_rules.pxd")


cdef inline bint is_ranked(Evict rule) noexcept nogil:
    # Whether it ranks running requests by a key. If not, they are kept in order of admission.
    return rule == EVICT_BOUND or rule == EVICT_PROGRESS or rule == EVICT_PRIORITY


cdef inline int64_t eviction_key(Evict rule, const Request* r, const int64_t* levels) noexcept nogil:
    # The smallest leaves first. It may not change while all that run grow by a token.
    if rule == EVICT_BOUND:
        return r.bound
    if rule == EVICT_PROGRESS:  # fewest tokens: the latest birth
        return -r.birth
    check(rule == EVICT_PRIORITY)
    return -levels[r.index]

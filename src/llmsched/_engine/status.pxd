# What a function that can fail returns.

cdef enum Status:
    NO_MEMORY = -1
    RUNNING = 0     # the budget of steps is used up: call again
    FINISHED = 1    # every request completed
    STOPPED = 2     # max_rounds reached, or nothing changed for stall_limit rounds
    WAITING = 4     # of an engine that is fed: what comes next depends on arrivals that are not known yet
    FORMULA_FAILED = 3  # a formula of the policy has no value for some request: see Engine.failed
    BOUND_PASSED = 5    # õ of some request would pass Problem.largest_bound: see Engine.failed
    NOBODY_DRAWN = 6    # by EVICT_RANDOM, in too many draws

cdef enum:
    OK = 0          # of one that needs no more than memory

# One request inside the engine: a cache line, in the order in which requests are first considered for admission.

from libc.stdint cimport int32_t, int64_t


cdef struct Request:
    int64_t prompt      # s
    int64_t output      # o
    int64_t bound       # õ where the policy reads it, else the believed length
    int64_t birth       # while it runs: the round in which it would have had no tokens; g = round - birth
    int64_t mark        # while it waits: tokens kept, g; while it runs: the last round it is believed to run in
    int32_t index       # its place in the workload
    int32_t rank        # breaks admission ties
    int32_t next        # the next request in its bucket of the wheel, or in the chain of those that just left; or -1
    int32_t previous    # the one before it in its bucket, or -1; NEVER_RAN before its first admission
    int32_t peers       # its list of equals, or the next newer running request, or -1
    int32_t peer_at     # its place in that list, or the next older running request, or -1


cdef enum:
    NONE = -1
    NEVER_RAN = -2

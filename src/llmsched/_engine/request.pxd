# One request inside the engine, from its first turn at the head of the queue until it completes: a cache line each.

from libc.stdint cimport int32_t, int64_t


cdef struct Request:
    int64_t prompt      # s
    int64_t output      # o
    int64_t bound       # õ where the policy reads it, else the believed length
    int64_t birth       # while it runs: the round in which it would have had no tokens; g = round - birth
    int64_t mark        # while it waits: tokens kept, g; while it runs: the last round it is believed to run in
    int32_t index       # its place in the workload
    int32_t place       # its place in the initial admission order
    int32_t next        # the next in its bucket of the wheel, of those that just left, or of the free ones; or NONE
    int32_t previous    # the one before it in its bucket, or NONE; NEVER_RAN before its first admission
    int32_t peers       # its list of equals, or the next newer running request, or NONE
    int32_t peer_at     # its place in that list, or the next older running request, or NONE


cdef struct Prefill:
    # What chunked prefill needs to know of it besides.
    int64_t left        # tokens still to be prefilled; with resume="swap" kept while it waits
    int64_t since       # round of its last admission


cdef enum:
    NONE = -1
    NEVER_RAN = -2

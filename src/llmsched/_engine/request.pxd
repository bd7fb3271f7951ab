# One request inside the engine, from its first turn at the head of the queue until it completes: a cache line each.

from libc.stdint cimport int32_t, int64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* In C, for unions without a name: fields of which one is of use at a time share their place in the cache line. */
    typedef struct {
        int64_t prompt, output, bound, birth;
        union { int64_t kept, believed_end; };
        int32_t index, place, next, previous;
        union { int32_t equals, newer; };
        union { int32_t equals_at, older; };
    } llmsched_request;
    _Static_assert(sizeof(llmsched_request) == 64, "a request takes a cache line");
    """
    ctypedef struct Request "llmsched_request":
        int64_t prompt          # s
        int64_t output          # o
        int64_t bound           # õ where the policy reads it, else the believed length
        int64_t birth           # while it runs: the round in which it would have had no tokens; g = round - birth
        int64_t kept            # while it waits: the tokens it has, g
        int64_t believed_end    # while it runs: the last round that it is believed to run in
        int32_t index           # in the workload
        int32_t place           # in the initial admission order
        int32_t next            # in its bucket of the wheel, of those that just left, or of the free ones; or NONE
        int32_t previous        # the one before it in its bucket, or NONE; NEVER_RAN before its first admission
        int32_t equals          # where the eviction rule ranks: its list of equals,
        int32_t equals_at       # and its place there
        int32_t newer           # where it does not: the running request admitted next after it, or NONE,
        int32_t older           # and the one admitted just before it, or NONE


cdef struct Prefill:
    # What chunked prefill, and slots that are taken as tokens are processed, need to know of it besides.
    int64_t to_prefill  # tokens still to be prefilled; with resume="swap" kept while it waits
    int64_t first_round  # of this attempt
    int64_t cached      # slots="processed": tokens in the cache as the round began,
    int64_t granted     # those that the round adds to them,
    int64_t room        # and slots of its last block that are free after it
    bint runs


cdef struct BlocksHeld:
    # Of a running request with prefixes="cached": the blocks that it holds, in order.
    int32_t* blocks
    int64_t size
    int64_t allocated


cdef enum:
    NONE = -1
    NEVER_RAN = -2

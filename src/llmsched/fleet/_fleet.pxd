# The compiled fleet's data dictionary. What is done with it: _parts/.

from libc.stdint cimport int32_t, int64_t, uint64_t

from llmsched._core cimport Engine, Problem, SharedQueue
from llmsched._engine.formula cimport FORMULA_CELLS, NAMES, Formula
from llmsched._engine.waiting_heap cimport Heap

cdef enum:
    COLUMNS = 48                # arrays of a pool, at most
    STEPS_PER_LOOK = 100_000    # how often a run looks at signals
    REQUESTS_PER_LOOK = 20_000
    ROUNDS_PER_LOOK = 20_000    # of those in which a replica asks the central queue
    FEW_REPLICAS = 64           # more of them have to share the processor's cache, and look ahead so many rounds only
    SMALL_WHEEL = 255
    MOST_FETCHED = 4            # of them whose engines are fetched ahead
    LONGEST_QUEUE = 256         # requests that may pile up before their engine runs on, whether it is looked at or not
    SPARE = 64                  # slots behind the last, which look_ahead() may fetch
    AGAIN = 16                  # beside Status: a look at signals is due, then the same again

cdef enum Rule:
    RANDOM
    ROUND_ROBIN
    LEAST
    IDLE
    CENTRAL

cdef enum Score:
    REQUESTS
    WAITING_REQUESTS
    USED
    BELIEVED_WORK
    FORMULA


cdef struct Column:
    int64_t place       # of the pointer to it, in bytes from the start of a Problem
    int64_t size        # of a value in bytes, 8 or 1
    bint copied         # from the source, as a request is sent:
    const char* source  # from here
    char* slots         # to here


cdef struct Pool:
    # The requests of replicas of one kind. `rules` points to slots, `source` to what they are copied from.
    Problem rules
    Problem source
    Column columns[COLUMNS]
    int columns_size
    char* records           # all columns, a record of `stride` times 8 bytes for each slot
    int64_t stride          # slots are numbered 0, stride, 2 * stride, ...
    bint lent               # the slots are the requests, each the one after its id; but for arrivals and numbers
    int64_t allocated
    bint draws              # the policy draws by the number of a request
    bint foresees           # its replicas run no more often than the counts of their requests change
    int64_t made            # slots that were ever used, with slot 0, which is nobody's
    int32_t free_slot       # chain of those to use again, or NONE
    int64_t* ids            # slot -> which request is in it
    int64_t* work           # and what is believed of its work
    int32_t* order          # slot -> itself
    int32_t* rank           # what breaks ties; of a free slot the next one of the chain
    double* joined
    int64_t* believed


cdef struct Replica:
    Engine engine
    int32_t pool
    int64_t sent            # requests so far
    int64_t believed        # work of those that are not complete, as it was believed when they came
    double speed
    double since            # it takes requests from here
    double until            # to here
    int64_t room            # tokens of cache left when all who are there have had `ahead` rounds; negative: not known
    int64_t ahead           # rounds before Look.unchanged_until, at most
    double shortest         # what they last at least


cdef struct Look:
    # What a router that counts requests sees of a replica: few bytes, so that those of a thousand are near.
    double unchanged_until  # before that it need not run to be seen; see foresight.pxd
    double begins           # no round begins earlier than that one
    int64_t requests        # that are not complete


cdef struct Sent:
    int32_t replica
    int32_t slot


cdef struct Completed:
    # A request that is done; the same names as in `COMPLETED`.
    int64_t id
    double arrival
    double start
    double completion
    int64_t evictions
    int64_t output
    int64_t replica


cdef struct FleetState:
    # Replicas and a router.
    Pool* pools
    int pools_size
    Replica* replicas
    int replicas_size
    Rule rule
    Score score
    int choices
    double delay
    Formula formula
    double cells[FORMULA_CELLS]
    Look* looks             # of each replica
    bint sees_work          # the router looks at what is believed of their work,
    bint sees_cached        # or at what of the request is in their caches
    bint seeded
    uint64_t stream
    bint record_tokens
    int classes
    int32_t* members        # replicas by class of requests, one class after the other
    int32_t* first_member   # class -> where its replicas begin; one more for the end
    int64_t* turns          # class -> requests so far; for ROUND_ROBIN
    int32_t* fitting        # replicas in which the request at hand fits, where not all do
    int32_t* compared       # and those that were drawn to be compared
    double* scores
    bint drawn              # they are drawn already for the request at hand
    int32_t* session_table  # session -> the replica that took it last, or NONE
    int64_t sessions
    Sent* in_flight         # with a delay, in order of arrival: sent, and not seen by the router yet
    int64_t in_flight_first, in_flight_size, in_flight_allocated
    int32_t piled           # the replica whose queue is long, or NONE
    SharedQueue queue       # of CENTRAL: its kinds are pools, its indices slots;
    int32_t rows, rows_allocated, free_row  # that were ever used; chain of those to use again, or NONE
    double queue_time       # and the time up to which it is as it is
    # the chunk of requests at hand
    double known            # up to when all arrivals are known
    int64_t base            # id of its first
    bint every_fits         # no request is too large for a replica
    const double* arrival
    const int64_t* work
    const int64_t* rank     # breaks ties; NULL: the id
    const int32_t* class_of  # the first and the last class of each
    const int64_t* session_of
    const double* request_columns[<int>NAMES]
    int32_t* replica_of
    # where requests go that complete: to arrays by id, or else into a list
    double* completion
    double* start
    int64_t* evictions
    int64_t* cached         # or NULL
    # think times (model.md, section 3): which requests are known to come, by arrival, and when each replica goes on
    const int64_t* next_turn  # or NULL
    const double* think
    double* arrives
    Heap coming
    Heap events
    Completed* done
    int64_t done_size, done_allocated
    int64_t completed_requests
    int64_t sent
    int64_t asked           # id of the request that a replica is chosen for
    int32_t failed          # the replica that cannot go on, or NONE

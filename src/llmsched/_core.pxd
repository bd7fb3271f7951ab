# The compiled engine's data dictionary. Other people's Cython code can drive it without Python in the loop:
#     engine_start(&engine, &problem); while engine_advance(&engine, steps) == RUNNING: ...; engine_free(&engine)
# or, as requests come and nobody knows how long they will run, decide one round after the other: see engine_open.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t

from llmsched._engine.belief cimport Belief, BeliefRules
from llmsched._engine.waiting_heap cimport Entry, Heap
from llmsched._engine.waiting_tree cimport WaitingTree
from llmsched._engine.memory_profile cimport Profile
from llmsched._engine.request cimport BlocksHeld, Prefill, Request
from llmsched._engine.eviction_rules cimport Evict
from llmsched._engine.eviction_ties cimport Ties
from llmsched._engine.formula cimport NAMES, PLACES, Formula, FormulaPlace
from llmsched._engine.status cimport FINISHED, NO_MEMORY, RUNNING, STOPPED, Status
from llmsched._engine.timing_wheel cimport Wheel

cdef extern from "llmsched/_engine/portable.h" nogil:
    # the output of a request that whoever drives the engine will say has finished
    const int64_t UNKNOWN "LLMSCHED_UNKNOWN"

cdef enum Order:
    ORDER_KEYS      # by `keys` or `real_keys`
    ORDER_ARRIVAL
    ORDER_QUEUE
    ORDER_BOUND
    ORDER_AREA      # by (s + õ)·õ, as a double
    ORDER_TABLE     # by the believed length of the table
    ORDER_FORMULA   # by a formula, computed as a request begins to wait; `real_keys` are its values at the start
    ORDER_OVER_TIME  # by a formula whose values change as requests wait

cdef enum Reserve:
    RESERVE_NONE
    RESERVE_BOUND
    RESERVE_COLUMN      # see `believed`
    RESERVE_MOVING      # see `beliefs`

cdef enum Refine:
    REFINE_NONE
    REFINE_PROGRESS
    REFINE_DOUBLE
    REFINE_UPPER

cdef enum Resume:
    RESUME_RESTART
    RESUME_RECOMPUTE
    RESUME_SWAP


cdef struct Clock:
    # Seconds; see clock.py.
    double base
    double per_request
    double per_context_token
    double per_prompt_token
    double per_swapped_token
    bint context_all


cdef struct Engine  # see below


cdef struct Methods:
    # A policy of one's own at compiled speed: what a subclass of Policy decides in Python (policy.METHODS), here in C.
    # NULL: as the fields say. `context` is handed to each. They may read all of the engine, and change nothing.
    # Whoever runs is the chain engine.oldest, requests[p].newer, ... of requests, in order of admission, unless the
    # policy's field `evict` ranks (is_ranked); requests[p].index is its place in the columns of the problem, and
    # engine.round - requests[p].birth what it has generated.
    double (*admission_key)(const Engine* engine, int32_t index, int32_t p, void* context) noexcept nogil
    # The smallest is admitted first; asked in every round. p is NONE where the request never ran, else requests[p].kept
    # is what it has generated. engine.joined[index] is when it last began to wait, now(engine) what time it is.
    bint (*is_feasible)(const Engine* engine, int32_t p, void* context) noexcept nogil
    # Whether it may start beside those that run. Not asked where nobody runs, or the coming round has no room.
    int32_t (*victim)(const Engine* engine, void* context) noexcept nogil
    # Who leaves, of those that run; asked again until the coming round fits.
    void* context


cdef struct Problem:
    # What to simulate. Arrays hold one value per request, in the workload's order, and outlive the run; nothing here is
    # checked: values must satisfy model.md section 1 (s >= 0, o >= 1, s + o <= memory, bounds >= 1, sums below 2**53).
    int64_t n
    const int64_t* prompt
    const int64_t* output
    const double* arrival       # NULL: all arrive at 0
    const int64_t* turn_before  # for a closed loop, see closed_loop.pxd: after whose completion it arrives, or NONE;
    const int64_t* next_turn    # NULL: all arrive at `arrival`. And the other way round,
    const double* think         # how long after,
    double* arrives             # and `arrival`, which the engine changes
    const int64_t* bound        # õ at the start; NULL where the policy never reads it
    const int64_t* upper        # for REFINE_UPPER on caps, else NULL
    const int64_t* believed     # for RESERVE_COLUMN, else NULL
    const int64_t* numbers      # index -> which draws are a request's own; NULL: those of its index
    const uint8_t* urgent       # by index: who goes before everybody else; only of an engine that is driven, else NULL
    BeliefRules beliefs         # for RESERVE_MOVING; the table for ORDER_TABLE too
    const int64_t* keys         # for ORDER_KEYS: these, or
    const double* real_keys     # these (finite)
    const uint8_t* capped       # whom a cap stops; NULL: everybody
    const int64_t* levels       # for EVICT_PRIORITY: the largest leaves first; else NULL
    Formula formulas[<int>PLACES]   # by FormulaPlace; of use for ORDER_FORMULA, ORDER_OVER_TIME, EVICT_FORMULA, and
    bint belief_changes         # where the one of `reserve` changes `believed` as a request leaves the batch
    bint computes_formulas      # any of these
    bint reads_joined           # one of them reads `joined`
    Methods methods             # set by use_methods()
    const double* columns[<int>NAMES]  # name -> what it is of each request, where that never changes, else NULL
    int64_t memory              # M
    int64_t capacity            # C while anything runs
    Order order
    Reserve reserve
    Evict evict
    Refine refine               # on overflow
    Refine cap                  # on reaching õ; REFINE_NONE: no cap
    bint peak                   # hold="peak" or "rising", and a reserve
    bint rising                 # hold="rising"
    bint shed                   # shed="lottery"; then `cap` is REFINE_PROGRESS
    bint skip                   # fill="skip"
    Resume resume
    bint pause                  # pause="overflow"
    bint longest_prompt         # tie="prompt"
    bint last_of_equals         # tie="last"
    bint as_processed           # slots="processed"; see slots_as_processed.pxd
    bint whole_prompt           # reserve="prompt"
    bint cached_prefixes        # prefixes="cached", with as_processed; see prefix_cache.pxd
    bint prompts_moved          # prompts="moved": who never ran comes with the cache of its prompt
    const int64_t* name_ids     # then, what blocks are called (BlockNames in workloads/block_names.py): ids,
    const int64_t* name_first   # by index: where its own begin,
    const int64_t* name_size    # and how many of its blocks others may ask for
    int64_t name_stride
    int64_t hashed              # tokens that an id stands for
    int64_t chunk               # with as_processed: most tokens of one request in a round that has others
    int64_t headroom            # tokens to be free for each that remains after an overflow
    double rate_limit           # admissions a round; 0: no limit
    bint slices                 # slices="staggered"; then `bound` is there
    bint one_by_one             # with `skip` each request is tested for itself, as its tokens do not say it all
    bint paced                  # either of them
    int64_t max_batch
    int64_t block               # tokens in a block of cache; memory is a multiple of it
    int64_t prefill_budget      # most tokens that a round processes; 0: no limit
    bint clocked                # False: a round lasts 1
    Clock clock
    bint seeded                 # False: ties go to the smaller index or the first of equals, nothing is drawn
    uint64_t seed
    double beta
    int64_t max_rounds
    int64_t stall_limit
    bint may_cycle              # see problem.admission_limit, which is of these two numbers
    int64_t admissions_start
    int64_t admissions_factor
    int64_t largest_bound       # a run ends in which õ would pass it
    int64_t most_vain_draws     # for EVICT_RANDOM: one in which so many draws in a row, of whole passes, name nobody
    bint record_timeline        # keep segments
    bint record_tokens          # keep attempts and the ends of rounds
    double* completion          # outputs, one value per request, unset for those that did not get so far
    double* start
    int64_t* evictions          # set to 0 by the caller
    int64_t* cached             # with cached_prefixes: tokens in the cache at the first admission; or NULL


cdef struct Segment:
    # Rounds between which nothing but the cache grew; see timeline.py.
    double epoch
    double time
    int64_t rounds
    int64_t memory
    int64_t batch
    int64_t waiting
    int64_t evictions
    int64_t context
    int64_t prefilled
    int64_t swapped


cdef struct Attempt:
    # A stay in the batch; see token_log.py.
    int64_t request
    int64_t first_round
    int64_t rounds
    int64_t kept
    int64_t generated


cdef struct Chunk:
    # Tokens that were prefilled in a round; see token_log.py.
    int64_t chunk_request
    int64_t chunk_round
    int64_t chunk_tokens


cdef struct Work:
    # What the run cost, in steps that do not depend on the machine.
    int64_t rounds_stepped      # rounds in which the engine looked
    int64_t feasibility_tests   # admissions tested
    int64_t admissions


cdef struct Rising:
    # hold="rising": what running requests have reserved; see rising_peak.pxd.
    int64_t* within_until   # the last round in which it is within its belief; NONE once it outgrew that, or left
    Heap queue              # requests by that round; entries of those that left or moved are passed over
    int64_t within          # tokens reserved by those within their belief, in whole blocks
    int64_t outgrown        # how many are not
    int64_t outgrown_base   # their sum of s - birth + 1: with the round added for each, what they occupy
    int64_t* residues       # they by (s - birth + 1) mod block


cdef struct CacheBlock:
    # With prefixes="cached". Numbers of blocks, or NONE.
    int64_t name
    int32_t holders         # requests that hold it
    bint named
    int32_t before          # in the list of free blocks with a name; of those without only the one after it
    int32_t after
    int32_t previous_alike  # of the same name, named before it,
    int32_t next_alike      # and after it;
    int32_t last_alike      # of the first of them, the last
    int32_t hit             # its place among the watched hits, from 1 on; 0: it is none of them


cdef struct NamePlace:
    # A place of the table of names: the first block of a name, plus 1, or 0; and the hash of that name, so that others
    # need not look at the block.
    int32_t block
    uint32_t hash


cdef struct BlockPool:
    CacheBlock* blocks
    int64_t made            # that were ever taken
    int64_t allocated
    int32_t nameless        # chain of free blocks without a name
    int32_t first_free      # list of those with one
    int32_t last_free
    NamePlace* table        # of names
    int64_t mask
    int64_t names           # in the table
    BlocksHeld* held_by     # by number of a request
    int64_t holders_allocated
    int32_t watched_for     # the waiting request whose hits are kept as they change, or NONE
    int32_t* watched        # they, in order
    int64_t watched_size
    int64_t watched_held    # how many of them requests hold
    int64_t watched_allocated
    bint misses             # the next one was not there: it is called
    int64_t missing         # so
    bint looks_on           # there may be more by now
    int64_t looked_up       # blocks, so far
    # What is done with it, called through here: whatever the compiler would put in their place stood in the way of a
    # run without a pool. See prefix_cache.pxd.
    int (*allocate_for)(Engine* engine, int64_t requests) noexcept nogil
    int64_t (*hits_of)(const Engine* engine, int32_t p, int64_t* held) noexcept nogil
    int64_t (*hold_hits)(Engine* engine, int32_t p) noexcept nogil
    int (*take_blocks)(Engine* engine, int32_t p, int64_t before, int64_t tokens) noexcept nogil
    int64_t (*rounds_until_named)(const Engine* engine, int64_t rounds) noexcept nogil
    void (*give_back)(Engine* engine, int32_t p) noexcept nogil


cdef struct Pace:
    # Of admissions; see pace.pxd.
    int64_t start       # the last round in which somebody was admitted while nobody ran
    int64_t round       # the last round in which somebody was admitted, and how many were
    int64_t admitted_this_round
    int64_t slice       # with slices: õ of those that run, at most M,
    int64_t slice_width  # and how many of them may run


cdef struct SharedQueue:
    # Requests that wait for whichever of several engines can admit them first; see shared_queue.pxd.
    Heap heap           # rows, in the order of admission
    int32_t* indices    # row, kind -> its index in the problem of that kind, or ~it where that cannot hold it
    int kinds
    int32_t* first      # kind -> that index of the first that waits; 0 where there is none, or it cannot hold it
    int64_t version     # of `first`
    int32_t* taken      # rows that engines took, for whoever fills it to take away
    int64_t taken_size
    int64_t taken_allocated


cdef enum:
    HOT_BYTES = 576     # of an engine


cdef struct Engine:
    # First what nearly every round reads or writes, whatever the policy: HOT_BYTES of it, so that of a thousand engines
    # that take turns few cache lines are fetched for each.
    const Problem* problem
    int32_t* order          # the initial admission order: place -> index in the workload
    int32_t* rank           # breaks admission ties, by index; NULL where places never change
    int32_t* by_arrival     # places in order of arrival; NULL where that is 0..n-1
    Request* requests       # requests that run, ran, or are next to run; the others are but a place
    int32_t free_request    # chain of requests to use again
    # time
    int64_t round           # rounds that ran
    double epoch            # time of the last idle jump; without a clock now is epoch + (round - epoch_round)
    int64_t epoch_round
    double time             # with a clock: when the round starts
    int64_t prompts         # sum of s over running requests
    int64_t prefilled       # tokens that the clock charges this round for
    int64_t swapped
    int64_t last_change     # round of the last completion, arrival or rise of a bound
    int64_t admissions_then
    int64_t ticks           # steps spent on rounds under a clock and on passing over a queue
    # who is where
    int64_t arrived         # requests that joined so far
    int64_t unfinished      # requests not complete
    int64_t waiting
    int64_t running
    int64_t used            # tokens that running requests hold: sum of s + g
    int64_t need            # tokens of cache that the coming round takes: in whole blocks
    bint in_place           # waiting requests that never ran are places fresh..arrived-1, not in the heap
    int32_t head            # the request made of place `fresh`, or NONE
    int64_t fresh
    Entry head_entry        # how it compares with the heap's top
    Heap heap               # all others that wait, unless fill="skip": see `tree`
    Wheel wheel
    int32_t capped          # chain of requests that reached their cap in the last round
    int32_t evicted         # chain of requests evicted for overflow in this round
    int32_t prefilling      # the running request that is still to prefill, or NONE
    int32_t failed          # the request because of which the run cannot go on, or NONE
    int64_t budget          # most tokens that a round processes
    int64_t budget_used     # tokens that the coming round has to process for those that run
    Prefill* prefills       # with a budget: what it needs to know of each request; else NULL
    double* cells           # of the formulas, FORMULA_CELLS each; NULL where none is computed
    int64_t blocked_until   # nobody is admitted up to this round, as those that run are believed to outgrow C
    int64_t accepted_held   # see refused_held
    int32_t tested          # the request whose earliest start is known, or NONE
    bint in_order           # nobody passes the first that waits, and nothing is to be reckoned before it is tested
    bint tests_more         # `pace`, slots or methods may keep a request out
    bint notes_admissions   # `pace`, `shed_at`, `kept` or `admitted` is told of admissions
    bint passes_otherwise   # rounds do not pass until something happens: `fed`, or slots="processed"
    bint may_overflow       # some request may outgrow its belief
    bint in_lists           # running requests are in lists of equals, as the rule ranks; if not, in one of all:
    int32_t oldest          # the first that was admitted of them,
    int32_t newest          # and the last
    # driven from outside
    bint driven
    bint notes_completed    # completions decide what comes: of a closed loop, or one that is
    # fed: arrivals are not known before they come
    bint fed
    bint in_progress        # the last round that was decided has not ended yet,
    double ends             # and when it does
    int64_t queue_size      # of by_arrival, with index 0 last
    int64_t queue_allocated
    SharedQueue* shared     # or NULL: whom it takes from it never waited here
    int32_t* completed      # indices of requests that completed, for whoever feeds it to take away
    int64_t completed_size
    int64_t completed_allocated
    # outcome
    double idle             # time in which no round ran
    int64_t peak_memory
    int64_t evictions_this_round  # requests that left in this round before completing
    Work work
    # what is believed
    bint profiled           # the policy looks ahead round by round, so that the profile is kept
    bint tracks_beliefs     # beliefs move, or a table orders: so `belief` is kept
    Profile profile         # its last field is asked for in every round, as is the first one of
    Belief belief
    bint redrawn            # what is believed of waiting requests differs from round to round
    int64_t* believed       # by index: what it is believed to reach, where a formula changes that; else NULL
    double* joined          # by index: when it last began to wait, where a formula reads it; else NULL
    Status failure          # of the one that `failed`, and of a formula that has no value which it is, and what it read
    FormulaPlace failed_place
    double failed_values[<int>NAMES]
    # who waits
    int32_t requests_made
    int32_t requests_allocated
    int32_t* last_rank      # as `rank` with tie="last", always; else NULL
    WaitingTree tree        # with fill="skip": all who wait
    bint demand_decides     # with fill="skip": what it asks for says whether a request is feasible, not what it holds
    int64_t earliest        # of the one that was tested
    int64_t refused_held    # with fill="skip": the easiest request that was refused in this round
    int64_t refused_demand
    int64_t accepted_demand  # and one that would fit, with accepted_held, which is -1 until there is one
    Pace pace
    int32_t kind            # which of the shared queue's kinds it is,
    int32_t offered         # the request made of the first, or NONE, and of which version of it
    int64_t offered_version
    # who runs
    int64_t* residues       # with blocks: running requests by (s - birth + 1) mod block; else NULL
    int64_t reserved        # hold="peak": tokens of cache that running requests were believed to need, in whole blocks
    Rising rising
    int64_t* shed_at        # with shed="lottery": tokens at which each request is stopped
    bint delays             # some round may pass without a token for a running request
    int64_t budget_left     # slots="processed": tokens that the round may still process,
    bint alone              # whether only one request ran or waited as it began,
    int64_t served_requests  # how many requests it serves,
    int64_t served_context  # the tokens of these that were in the cache as it began, as far as the clock charges,
    int64_t generating      # how many of them get a token,
    int32_t first_chunk     # and the first of them with a part of its prompt left, or NONE
    BlockPool* pool         # prefixes="cached", else NULL
    # overflow
    int64_t vain_draws      # with EVICT_RANDOM: draws since a pass in which somebody left
    Ties ties
    uint64_t stream         # state of splitmix64
    int64_t wasted_tokens
    # of a round that is driven
    int32_t* admitted       # in this round: numbers of requests
    int64_t admitted_size
    int32_t* leavers        # leavers[0:evictions_this_round] too
    # what is recorded
    int64_t* kept           # with record_tokens: tokens that each request had at its last admission
    Segment* segments
    int64_t segments_size
    int64_t segments_allocated
    Attempt* attempts
    int64_t attempts_size
    int64_t attempts_allocated
    Chunk* chunks
    int64_t chunks_size
    int64_t chunks_allocated
    double* round_end       # one per round that ran
    int64_t round_end_allocated


cdef int engine_start(Engine* engine, const Problem* problem) noexcept nogil
cdef int engine_advance(Engine* engine, int64_t steps) noexcept nogil
cdef void engine_free(Engine* engine) noexcept nogil

cdef int engine_open_fed(
    Engine* engine, const Problem* problem, int64_t longest, SharedQueue* shared, int kind
) noexcept nogil
cdef int engine_feed(Engine* engine, int32_t index) noexcept nogil
cdef void engine_idle_until(Engine* engine, double time) noexcept nogil

cdef int engine_open(Engine* engine, const Problem* problem) noexcept nogil
cdef int engine_arrive(Engine* engine, int32_t index) noexcept nogil
cdef int engine_decide(Engine* engine, double time) noexcept nogil
cdef int engine_generate(Engine* engine) noexcept nogil
cdef int engine_delay(Engine* engine, int32_t p) noexcept nogil
cdef int engine_finish(Engine* engine, int32_t p) noexcept nogil
cdef int engine_end_round(Engine* engine) noexcept nogil
cdef int engine_cancel(Engine* engine, int32_t p) noexcept nogil
cdef int engine_turn_back(Engine* engine, int32_t p) noexcept nogil
cdef int engine_hasten(Engine* engine, int32_t index) noexcept nogil
cdef void engine_withdraw(Engine* engine, int32_t index) noexcept nogil

# The sum of a[i] - b[i], compensated, so that its value does not depend on how anybody's library adds. b NULL: zeros.
cdef double sum_of_differences(const double* a, const double* b, int64_t n) noexcept nogil

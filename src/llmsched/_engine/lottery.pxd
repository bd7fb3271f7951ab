# shed="lottery" (model.md, section 3): after how many tokens a request that outgrew its bound is stopped. One draw for
# each stay in the batch, from a stream of its own, so that nothing depends on the order of draws.

from libc.math cimport ceil
from libc.stdint cimport int32_t, int64_t, uint64_t

from llmsched._core cimport Engine
from llmsched._engine.request cimport Request
from llmsched._engine.splitmix64 cimport splitmix64_at, splitmix64_mix

cdef inline int64_t lottery_length(const Engine* engine, const Request* r, int64_t kept) noexcept nogil:
    # The tokens at which r, admitted with `kept`, is stopped. It survives from i tokens to j with chance (s+i)/(s+j).
    cdef int64_t least = max(r.bound, kept + 1)
    cdef uint64_t stream = splitmix64_mix(~engine.problem.seed if engine.problem.seeded else ~<uint64_t>0)
    cdef int64_t number = r.index if engine.problem.numbers == NULL else engine.problem.numbers[r.index]
    cdef uint64_t drawn = splitmix64_at(splitmix64_at(stream, engine.problem.evictions[r.index]), number)
    cdef double u = <double>((drawn >> 11) + 1) * (1.0 / 9007199254740992.0)
    cdef double held = ceil(<double>(r.prompt + least) / u)
    if held > 9e15:
        return <int64_t>1 << 62
    return max(least, <int64_t>held - r.prompt - 1)

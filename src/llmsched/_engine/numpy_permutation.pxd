# The ranks that break admission ties: numpy.random.default_rng(seed).permutation(n), bit for bit, without Python.
#
# After NumPy's SeedSequence (M. E. O'Neill's seed_seq_fe), PCG64 (XSL-RR) and Generator.shuffle.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include "llmsched/_engine/portable.h"

    enum { LLMSCHED_DRAWS_AHEAD = 64 };
    typedef struct { llmsched_wide state, increment; uint32_t spare; int has_spare; } llmsched_pcg64;

    static uint32_t llmsched_hash(uint32_t value, uint32_t *constant, uint32_t multiplier) {
        value ^= *constant;
        *constant *= multiplier;
        value *= *constant;
        return value ^ (value >> 16);
    }

    static void llmsched_pcg64_step(llmsched_pcg64 *rng) {
        const llmsched_wide multiplier = {2549297995355413924ULL, 4865540595714422341ULL};
        rng->state = llmsched_wide_sum(llmsched_wide_product(rng->state, multiplier), rng->increment);
    }

    /* default_rng(seed) for one seed of at most 64 bits: two words of entropy, mixed into a pool of four. */
    static void llmsched_pcg64_seed(llmsched_pcg64 *rng, uint64_t seed) {
        uint32_t pool[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
        uint64_t word[4];
        uint32_t constant = 0x43b0d7e5u, mixed;
        for (int i = 0; i < 4; i++) pool[i] = llmsched_hash(pool[i], &constant, 0x931e8875u);
        for (int from = 0; from < 4; from++)
            for (int to = 0; to < 4; to++)
                if (from != to) {
                    mixed = 0xca01f9ddu * pool[to] - 0x4973f715u * llmsched_hash(pool[from], &constant, 0x931e8875u);
                    pool[to] = mixed ^ (mixed >> 16);
                }
        constant = 0x8b51f9ddu;
        for (int i = 0; i < 4; i++) {
            word[i] = llmsched_hash(pool[(2 * i) & 3], &constant, 0x58f38dedu);
            word[i] |= (uint64_t)llmsched_hash(pool[(2 * i + 1) & 3], &constant, 0x58f38dedu) << 32;
        }
        rng->has_spare = 0;
        rng->state.high = rng->state.low = 0;
        rng->increment.high = word[2] << 1 | word[3] >> 63;
        rng->increment.low = word[3] << 1 | 1;
        llmsched_pcg64_step(rng);
        rng->state = llmsched_wide_sum(rng->state, (llmsched_wide){word[0], word[1]});
        llmsched_pcg64_step(rng);
    }

    static uint32_t llmsched_pcg64_next32(llmsched_pcg64 *rng) {
        uint64_t folded;
        unsigned turn;
        if (rng->has_spare) {
            rng->has_spare = 0;
            return rng->spare;
        }
        llmsched_pcg64_step(rng);
        folded = rng->state.high ^ rng->state.low;
        turn = (unsigned)(rng->state.high >> 58);
        folded = (folded >> turn) | (folded << ((64 - turn) & 63));
        rng->has_spare = 1;
        rng->spare = (uint32_t)(folded >> 32);
        return (uint32_t)folded;
    }

    /* rank[0:n] = default_rng(seed).permutation(n), n < 2^31 */
    static void llmsched_permutation(uint64_t seed, int32_t *rank, int64_t n) {
        llmsched_pcg64 rng;
        llmsched_pcg64_seed(&rng, seed);
        for (int64_t i = 0; i < n; i++) rank[i] = (int32_t)i;
        /* The draws do not depend on what is shuffled: they go ahead, so that memory is there when its turn comes. */
        uint32_t drawn[LLMSCHED_DRAWS_AHEAD];
        for (int64_t last = n - 1; last > 0; last -= LLMSCHED_DRAWS_AHEAD) {
            int64_t draws = last < LLMSCHED_DRAWS_AHEAD ? last : LLMSCHED_DRAWS_AHEAD;
            for (int64_t k = 0; k < draws; k++) {
                uint32_t most = (uint32_t)(last - k), mask = llmsched_bits_up_to(most);
                do drawn[k] = llmsched_pcg64_next32(&rng) & mask; while (drawn[k] > most);
                llmsched_prefetch_to_write(&rank[drawn[k]]);
            }
            for (int64_t k = 0; k < draws; k++) {
                int32_t other = rank[drawn[k]];
                rank[drawn[k]] = rank[last - k];
                rank[last - k] = other;
            }
        }
    }
    """
    void permutation "llmsched_permutation" (uint64_t seed, int32_t* rank, int64_t n) noexcept

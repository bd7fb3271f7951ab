/* The loops over believed completion points (see memory_profile.pxd), in C so that one portable binary holds versions
   for the vector units that machines have. Integers only: every version gives the same answer. */
#ifndef LLMSCHED_PROFILE_H
#define LLMSCHED_PROFILE_H
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define LLMSCHED_VECTOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LLMSCHED_VECTOR
#endif

/* The first start >= `start` at which no point stands in the way: each has passed (round <= start) or has room
   (load - slack <= start). */
LLMSCHED_VECTOR static int64_t earliest_start(const int64_t *restrict round, const int64_t *restrict load, int64_t n,
                                              int64_t slack, int64_t start) {
    for (int64_t k = 0; k < n; k++) {
        int64_t wait = load[k] - slack;
        wait = wait < round[k] ? wait : round[k];
        start = wait > start ? wait : start;
    }
    return start;
}

/* The same over the points up to round `end` only, of which *upto is the number: no search before the pass. */
LLMSCHED_VECTOR static int64_t earliest_start_until(const int64_t *restrict round, const int64_t *restrict load,
                                                    int64_t n, int64_t slack, int64_t start, int64_t end,
                                                    int64_t *restrict upto) {
    int64_t inside = 0, now = start;
    for (int64_t k = 0; k < n; k++) {
        int64_t wait = load[k] - slack;
        wait = wait < round[k] ? wait : round[k];
        wait = round[k] <= end ? wait : now;
        start = wait > start ? wait : start;
        inside += round[k] <= end;
    }
    *upto = inside;
    return start;
}

/* A request that occupies offset + r tokens in round r enters (sign 1) or leaves (-1) the points up to round `end`.
   Returns how many points lie before it. */
LLMSCHED_VECTOR static int64_t change_load_until(int64_t *restrict load, int64_t *restrict count,
                                                 const int64_t *restrict round, int64_t n, int64_t offset,
                                                 int64_t sign, int64_t end) {
    int64_t before = 0;
    for (int64_t k = 0; k < n; k++) {
        load[k] += round[k] <= end ? (sign < 0 ? -(offset + round[k]) : offset + round[k]) : 0;
        count[k] += round[k] <= end ? sign : 0;
        before += round[k] < end;
    }
    return before;
}

/* A request that occupies offset + r tokens in round r enters (sign 1) or leaves (-1) every point. */
LLMSCHED_VECTOR static void change_load(int64_t *restrict load, int64_t *restrict count, const int64_t *restrict round,
                                        int64_t n, int64_t offset, int64_t sign) {
    for (int64_t k = 0; k < n; k++) {
        load[k] += (offset + round[k]) * sign;
        count[k] += sign;
    }
}

#endif
